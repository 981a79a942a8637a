"""Publishes: each message once, in order within its source.

    due now, numbered id      `publish_now`: runs of messages whose ids share a mark
    anything else             `publish_batch`

Nothing is collected here. Publishes of several tasks in one tick of the scheduler leave in one write (the
connection's doing), and a lone one is never held up.

A mark is kept for a day. To say so each time would cost as much as remembering the id, so it is said at first, after
each new connection, and once a minute: what the server forgets in between takes its marks along.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import trio

from actorwork.errors import BrokerError
from actorwork.message import Envelope
from actorwork.streams import scripts
from actorwork.streams.client import Client, Script
from actorwork.streams.entries import due_of, fields_of, mark_of
from actorwork.streams.keys import SourceKeys
from actorwork.streams.redis_py import NoScriptError, RedisError, may_pass

_AT_ONCE: Final = 200
_BYTES_AT_ONCE: Final = 8 * 1024 * 1024
_MARK_SECONDS: Final = 86_400
_REFRESH_EVERY: Final = 60.0
_REMEMBERED: Final = 10_000
"""Sources and marks that are made up on the way must not pile up here."""

_Call = tuple[Script, list[Any], list[Any]]


class Publisher:
    """Safe to use from any number of tasks."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._keys: dict[str, SourceKeys] = {}
        self._refresh_at: dict[str, float] = {}
        self._generation = 0

    def __repr__(self) -> str:
        return f"<Publisher to {self._client!r}>"

    async def publish(self, envelopes: Sequence[Envelope]) -> int:
        """Keep messages; return how many were new. A publish whose reply was lost is sent again, and then counts 0.

        Cancelled: any part of it may have been kept.
        """
        calls = self._calls(envelopes)
        try:
            if len(calls) != 1:
                return await self._run_many(calls)
            script, keys, args = calls[0]
            try:
                # As `run_script` does, without the call in between: a lone message is all about latency.
                return await self._client.call("EVALSHA", script.sha, len(keys), *keys, *args, idempotent=True)
            except NoScriptError:
                return await self._client.run_script(script, keys, args, idempotent=True)
        except RedisError as error:
            sources = sorted({envelope.source for envelope in envelopes})
            raise BrokerError(
                f"cannot publish to {', '.join(sources[:3])}: {error}", may_pass=may_pass(error)
            ) from error

    async def _run_many(self, calls: Sequence[_Call]) -> int:
        commands = (("EVALSHA", script.sha, len(keys), *keys, *args) for script, keys, args in calls)
        new = 0
        # In order, and each as soon as it is packed: the server keeps one while the next is made.
        for call, reply in zip(calls, await self._client.call_in_turn(commands), strict=True):
            if isinstance(reply, NoScriptError):
                new += await self._client.run_script(*call, idempotent=True)
            elif isinstance(reply, Exception):
                raise reply
            else:
                new += reply
        return new

    def _calls(self, envelopes: Sequence[Envelope]) -> list[_Call]:
        """Cut envelopes into runs of scripts."""
        if self._generation != self._client.generation:
            self._generation = self._client.generation
            self._refresh_at.clear()
        calls: list[_Call] = []
        if len(envelopes) == 1:
            envelope = envelopes[0]
            of = self._keys.get(envelope.source)
            if of is not None and not envelope.delay and envelope.at is None:
                mark, bit = mark_of(of.prefix, envelope.id)
                if bit != "":
                    fields = fields_of(envelope)
                    args = [self._seconds_for(mark), bit, len(fields), *fields]
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

    def _add_calls(self, calls: list[_Call], source: str, envelopes: Sequence[Envelope]) -> None:
        of = self._keys.get(source)
        if of is None:
            if len(self._keys) >= _REMEMBERED:
                self._keys.clear()
            of = self._keys[source] = SourceKeys.of(source)
        prefix = of.prefix
        mark_now: str | None = None
        """The mark of the run of messages that are due now, while there is one."""
        keys: list[Any] = []
        args: list[Any] = []
        count = size = 0
        for envelope in envelopes:
            mark, bit = mark_of(prefix, envelope.id)
            is_now = bit != "" and not envelope.delay and envelope.at is None
            if not keys or (mark != mark_now if is_now else mark_now is not None) or count >= _AT_ONCE:
                count = size = 0
                if is_now:
                    mark_now = mark
                    keys, args = [source, mark], [self._seconds_for(mark)]
                    calls.append((scripts.PUBLISH_NOW, keys, args))
                else:
                    mark_now = None
                    keys, args = [source, of.delayed, of.delayed_messages], [prefix]
                    calls.append((scripts.PUBLISH, keys, args))
            fields = fields_of(envelope)
            if is_now:
                args += (bit, len(fields))
            else:
                keys.append(mark)
                args += (len(keys), bit, due_of(envelope), len(fields))
            args += fields
            count += 1
            size += len(envelope.data)
            if size >= _BYTES_AT_ONCE:
                count = _AT_ONCE

    def _seconds_for(self, mark: str) -> int | str:
        now = trio.current_time()
        if now < self._refresh_at.get(mark, 0):
            return ""
        if len(self._refresh_at) >= _REMEMBERED:
            self._refresh_at.clear()
        self._refresh_at[mark] = now + _REFRESH_EVERY
        return _MARK_SECONDS
