"""Publishes: each message once, in order within its source.

    due now, id drawn for it just now     a transaction, without a script (`publish_new`)
    due now, numbered id                  `publish_now`: runs of messages whose ids share a mark
    the same, a result to be kept         `submit`
    delayed, numbered id                  `publish_later`: the same
    with a key, a priority, a lifetime,   `publish_batch`: looks at each message by itself
    a unique key, an id of its own, or
    delayed with a result to be kept

What remembers an id is its mark (lua/marks.lua). A mark and its message are written together, so a publish whose reply
was lost can be sent again.

Nothing is collected here. The connection sends publishes of several tasks in one tick of the scheduler in one write,
and does not delay a single one. On asyncio they are one transaction (`asynchronous/gathering`).

A mark is kept for a day. Setting its expiry each time would cost as much as setting the mark, so it is set with the
first message, after each new connection, and once a minute. A server that forgets keys in between forgets the marks,
too.

What publishing one by one costs (as `benchmarks.bench --cases enqueue` does it, Redis 7.0, loopback, two idle cores): a
bare XADD loop on Trio takes 47 µs per message, this 61. Of the difference, 6 µs are Python's before the message leaves
(encode, check against the handlers, envelope, pack), 3 the server's (the mark, a longer entry), and the rest is
matching four replies and one turn of the reader task. The script in place of the transaction takes 15 µs more.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import Any, Final

from actorwork.errors import BrokerError
from actorwork.message import Envelope
from actorwork.streams import scripts
from actorwork.streams.entries import (
    Marks,
    due_of,
    fields_of,
    has_terms,
    is_ordered,
    is_result_kept,
    kept_for,
    mark_of,
    pieces_of,
    terms_of,
)
from actorwork.streams.keys import OURS, SourceKeys, publisher as publisher_key, submitted
from actorwork.streams.transport.commands import Commands, MayHaveExecuted, Script
from actorwork.streams.transport.redis_py import NoScriptError, RedisError, may_pass

_AT_ONCE: Final = 200
_BYTES_AT_ONCE: Final = 8 * 1024 * 1024
_SHARE: Final = _BYTES_AT_ONCE // _AT_ONCE
"""What a message counts beside its own length: at most `_AT_ONCE` per script, and fewer if they are large."""
MARK_SECONDS: Final = 86_400
_CLAIM_SECONDS: Final = 40 * 86_400
"""As in lua/publish.lua."""
_SUBMITTER_SECONDS: Final = _CLAIM_SECONDS + 7200
_SUBMITTER_EVERY: Final = 3600.0
_REFRESH_EVERY: Final = 60.0
_REMEMBERED: Final = 10_000
"""How many sources and marks are cached: names that senders generate must not pile up here."""

Call = tuple[Script, list[Any], list[Any]]


class Publisher:
    """Safe to use from any number of tasks."""

    def __init__(self, client: Commands) -> None:
        self._client = client
        self._keys: dict[str, SourceKeys] = {}
        self._marks: dict[str, Marks] = {}
        self._may_transact = False
        self._refresh_at: dict[str, float] = {}
        self._generation = 0
        self._unnoted: list[tuple[Envelope, bool]] = []
        """Messages of the publish at hand whose lives are kept, and whether their ids are numbered."""

    def __repr__(self) -> str:
        return f"<Publisher to {self._client!r}>"

    async def publish(self, envelopes: Sequence[Envelope]) -> int:
        """Keep messages; return how many were new. A publish whose reply was lost is sent again, and may return 0 then.

        Cancelled: any part of it may have been kept.
        """
        calls = self._calls(envelopes)
        try:
            if self._unnoted:
                await self._note_submitters()
            if len(calls) != 1:
                return await self._run_many(calls)
            script, keys, args = calls[0]
            try:
                # As `run_script` does, with one coroutine less: for a single message latency is all that counts.
                return await self._client.call("EVALSHA", script.sha, len(keys), *keys, *args, idempotent=True)
            except NoScriptError:
                return await self._client.run_script(script, keys, args, idempotent=True)
        except RedisError as error:
            raise _refused(envelopes, error) from error

    async def publish_new(self, envelope: Envelope) -> None:
        """Keep a message whose id has never been sent before.

        A transaction that sets the mark and adds the entry costs the server half of what the script costs that first
        looks at the mark: no sender can have set it. If its reply is lost, the transaction is not repeated. The server
        is made to close the old connection, so that it cannot execute later, and the script then finds the mark if it
        has executed. Cancelled: the message may have been kept.
        """
        if self._generation != self._client.generation:
            await self.publish([envelope])
            self._may_transact = await self._client.may_transact()
            return
        mark, bit = self._place_of_new(envelope)
        if bit == "" or not self._may_transact or time.monotonic() >= self._refresh_at.get(mark, 0.0):
            await self.publish([envelope])
            return
        try:
            replies = await self._client.transact(
                ("SETBIT", mark, bit, 1), ("XADD", envelope.source, "*", *fields_of(envelope))
            )
        except MayHaveExecuted as error:
            lost = error
        except RedisError as error:
            raise _refused([envelope], error) from error
        else:
            if not self._is_kept(envelope, replies):
                await self.publish([envelope])
            return
        # Outside `except`: an interrupt while this waits for the server is shown without what was lost.
        await self._publish_after(lost, envelope)

    def gather(self, envelope: Envelope) -> Awaitable[Any] | None:
        """Let a message whose id has never been sent before leave with others; None if it is to leave by itself.

        What is awaited returns the number of messages that are kept, or something for `conclude`. Cancelled: the
        message may have been kept.
        """
        return None

    async def conclude(self, envelope: Envelope, answer: Any) -> None:
        """Do what is left to do for a message that left with others.

        `answer` has the replies to its transaction, the error that came in their place, or None, if it is to be
        published again, which is harmless.
        """
        if isinstance(answer, MayHaveExecuted):
            await self._publish_after(answer, envelope)
        elif isinstance(answer, Exception):
            raise _refused([envelope], answer) from answer
        elif answer is None or not self._is_kept(envelope, answer):
            await self.publish([envelope])

    def _place_of_new(self, envelope: Envelope) -> tuple[str, int | str]:
        """Return the mark of a message that may go without a look at it, and the bit in it; else `""` as the bit."""
        marks = self._marks.get(envelope.source)
        if marks is None or envelope.delay or envelope.at is not None or has_terms(envelope):
            return "", ""
        return marks.of(envelope.id)

    def _is_kept(self, envelope: Envelope, replies: list[Any]) -> bool:
        """Return whether the transaction of a new message was executed, by its replies; raises `BrokerError`."""
        multi, *_, queued, executed = replies
        added: Any
        if type(executed) is list:
            added = executed[-1]  # pyright: ignore[reportUnknownVariableType] - a reply as it came
        elif isinstance(multi, Exception):
            # This user may not begin a transaction any more (an ACL was changed): each command was run by itself.
            self._may_transact = False
            added = queued
        else:
            # Discarded, because a command was refused when it was queued (no memory, no permission, a replica). Nothing
            # was executed, and the script meets the same refusal and reports it.
            return False
        if isinstance(added, Exception):
            # The mark stays without its message. That is harmless: this id was not used before, and is not used again.
            raise _refused([envelope], added) from added
        return True

    async def _publish_after(self, lost: MayHaveExecuted, envelope: Envelope) -> None:
        """Keep a message whose transaction may have executed, may still do so, or may never."""
        try:
            try:
                await self._client.disconnect(lost.client_id)
            except RedisError as error:
                raise _refused([envelope], error) from error
            await self.publish([envelope])
        except BrokerError as error:
            if not error.may_pass:  # The transaction was refused, too.
                raise
            text = f"{error}; {envelope.source} may have message {envelope.id}: to send it again with this id is safe"
            raise BrokerError(text, may_pass=True) from error

    async def publish_unique(self, envelope: Envelope) -> str:
        """Keep a message that has a unique key; return the id of the message that has the key now.

        A publish whose reply was lost is sent again, and returns the same. Cancelled: it may have been kept.
        """
        of = self._keys_of(envelope.source)
        mark, bit = mark_of(of.prefix, envelope.id)
        if is_result_kept(envelope):
            self._unnoted.append((envelope, bit != ""))
            with suppress(RedisError):  # Its publish meets the same error.
                await self._note_submitters()
        args = [of.prefix, bit, terms_of(envelope), *fields_of(envelope)]
        try:
            holder: bytes = await self._client.run_script(
                scripts.PUBLISH_UNIQUE, (envelope.source, mark), args, idempotent=True
            )
        except RedisError as error:
            raise _refused([envelope], error) from error
        return holder.decode()

    async def _run_many(self, calls: Sequence[Call]) -> int:
        commands = (("EVALSHA", script.sha, len(keys), *keys, *args) for script, keys, args in calls)
        new = 0
        # In order, and each as soon as it is packed: the server runs one while the next is packed here.
        for call, reply in zip(calls, await self._client.call_in_turn(commands), strict=True):
            if isinstance(reply, NoScriptError):
                new += await self._client.run_script(*call, idempotent=True)
            elif isinstance(reply, Exception):
                raise reply
            else:
                new += reply
        return new

    def _calls(self, envelopes: Sequence[Envelope]) -> list[Call]:
        """Cut envelopes into runs of scripts."""
        if self._generation != self._client.generation:
            self._generation = self._client.generation
            self._refresh_at.clear()
        calls: list[Call] = []
        if len(envelopes) == 1:
            envelope = envelopes[0]
            of = self._keys.get(envelope.source)
            if of is not None and not envelope.delay and envelope.at is None and not is_ordered(envelope):
                mark, bit = mark_of(of.prefix, envelope.id)
                if bit != "":
                    fields = fields_of(envelope)
                    if is_result_kept(envelope):
                        self._unnoted.append((envelope, True))
                        args = [of.prefix, self._seconds_for(mark), bit, kept_for(envelope), len(fields), *fields]
                        return [(scripts.SUBMIT, [envelope.source, mark], args)]
                    args = [self._seconds_for(mark), 4, "SET", "u1", bit, 1, len(fields), *fields]
                    return [(scripts.PUBLISH_NOW, [envelope.source, mark], args)]
            self._add_calls(calls, envelope.source, envelopes)
            return calls
        by_source: dict[str, list[Envelope]] = {}
        for envelope in envelopes:
            some = by_source.get(envelope.source)
            if some is None:
                by_source[envelope.source] = [envelope]
            else:
                some.append(envelope)
        for source, some in by_source.items():
            self._add_calls(calls, source, some)
        return calls

    def _add_calls(self, calls: list[Call], source: str, envelopes: Sequence[Envelope]) -> None:
        of = self._keys_of(source)
        marks = Marks(of.prefix)
        run = self._new_run(scripts.PUBLISH, of, None)
        for envelope in envelopes:
            mark, bit = marks.of(envelope.id)
            is_delayed = envelope.delay or envelope.at is not None
            if bit == "" or is_ordered(envelope):
                script = scripts.PUBLISH
            elif is_result_kept(envelope):
                script = scripts.PUBLISH if is_delayed else scripts.SUBMIT
            elif is_delayed:
                script = scripts.PUBLISH_LATER
            else:
                script = scripts.PUBLISH_NOW
            if is_result_kept(envelope):
                self._unnoted.append((envelope, bit != ""))
            fields = fields_of(envelope)
            shared = None if script is scripts.PUBLISH else mark
            if run.script is not script or run.mark != shared or run.room <= 0:
                run.end(calls)
                run = self._new_run(script, of, shared)
            if shared is None:
                run.keys.append(mark)
                run.messages += (len(run.keys), bit, terms_of(envelope), len(fields), *fields)
            elif script is scripts.SUBMIT:
                run.messages += (bit, kept_for(envelope), len(fields), *fields)
            else:
                run.bits.append(bit)
                if script is scripts.PUBLISH_LATER:
                    run.messages.append(due_of(envelope))
                run.messages += (len(fields), *fields)
            run.room -= _SHARE + len(envelope.data)
        run.end(calls)

    def _new_run(self, script: Script, of: SourceKeys, mark: str | None) -> _Run:
        if mark is None:
            return _Run(script, [of.stream, of.delayed, of.delayed_messages], [of.prefix], None)
        keys = [of.stream, mark]
        if script is scripts.SUBMIT:
            return _Run(script, keys, [of.prefix, self._seconds_for(mark)], mark)
        if script is scripts.PUBLISH_LATER:
            keys += (of.delayed, of.delayed_messages)
        return _Run(script, keys, [self._seconds_for(mark)], mark)

    async def _note_submitters(self) -> None:
        """Note where messages are whose lives are kept, so that they are found by their ids alone.

        Once an hour for each source and publisher of ids; for an id that a user has chosen, each time.
        """
        commands: list[tuple[Any, ...]] = []
        unnoted, self._unnoted = self._unnoted, []
        for envelope, is_numbered in unnoted:
            if not is_numbered:
                later = max(envelope.delay, 0 if envelope.at is None else envelope.at - time.time())
                seconds = _CLAIM_SECONDS + max(0, round(later))
                commands.append(("SET", submitted(envelope.id), envelope.source, "EX", seconds))
                continue
            publisher = envelope.id.partition("-")[0]
            noted = f"{publisher} {envelope.source}"
            now = time.monotonic()
            if now >= self._refresh_at.get(noted, 0.0):
                self._refresh_at[noted] = now + _SUBMITTER_EVERY
                key = publisher_key(publisher)
                commands += (("SADD", key, envelope.source), ("EXPIRE", key, _SUBMITTER_SECONDS))
        if commands:
            # A user without these rights may submit all the same; then the source must be known to find the message.
            await self._client.call_many(commands, idempotent=True)

    def _keys_of(self, source: str) -> SourceKeys:
        of = self._keys.get(source)
        if of is None:
            if len(self._keys) >= _REMEMBERED:
                self._keys.clear()
                self._marks.clear()
            if source.startswith(OURS):
                raise BrokerError(
                    f"cannot publish to {source}: names that begin with {OURS!r} are those of our own keys"
                )
            of = self._keys[source] = SourceKeys.of(source)
            self._marks[source] = Marks(of.prefix)
        return of

    def _seconds_for(self, mark: str) -> int | str:
        now = time.monotonic()
        if now < self._refresh_at.get(mark, 0):
            return ""
        if len(self._refresh_at) >= _REMEMBERED:
            self._refresh_at.clear()
        self._refresh_at[mark] = now + _REFRESH_EVERY
        return MARK_SECONDS


def _refused(envelopes: Sequence[Envelope], error: Exception) -> BrokerError:
    sources = sorted({envelope.source for envelope in envelopes})
    passes = isinstance(error, RedisError) and may_pass(error)
    return BrokerError(f"cannot publish to {', '.join(sources[:3])}: {error}", may_pass=passes)


class _Run:
    """Messages that one call of a script keeps."""

    __slots__ = ("bits", "first", "keys", "mark", "messages", "room", "script")

    def __init__(self, script: Script, keys: list[Any], first: list[Any], mark: str | None) -> None:
        self.script = script
        self.keys = keys
        self.first = first
        self.mark = mark
        self.messages: list[Any] = []
        self.bits: list[Any] = []
        self.room = _BYTES_AT_ONCE

    def end(self, calls: list[Call]) -> None:
        if not self.messages:
            return
        args = self.first
        if self.bits:
            pieces = pieces_of(self.bits)
            args += (len(pieces), *pieces)
        args += self.messages
        calls.append((self.script, self.keys, args))
