"""Publishes of many tasks together.

    client.ref(Greeter).tell(…)  ─┐
    client.ref(Greeter).tell(…)  ─┼─▶ one transaction, when the turn of the loop ends ─▶ a reply for each
    client.ref(Greeter).tell(…)  ─┘

New messages of one source that tasks send within one turn of the loop leave together: all marks are set by one command.
With a hundred in flight that takes a fifth less of this program's time than a transaction for each, and delays none:
the connection waits for the end of the turn in any case. Where the marks are to be given their time, and for users who
may not send transactions, one call of publish_now.lua does it, which costs the server twice as much.

Each task meets its own error, and if the replies are lost, it publishes its own message again by itself, as
`Publisher.publish_new` does. A task that is cancelled before its message leaves takes it along.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, TypeAlias, cast

from actorwork.asynchronous.driver import check_loop
from actorwork.asynchronous.redis import AsyncioRedis
from actorwork.message import Envelope
from actorwork.streams import scripts
from actorwork.streams.entries import fields_of, pieces_of
from actorwork.streams.publisher import MARK_SECONDS, Call, Publisher
from actorwork.streams.transport.commands import MayHaveExecuted
from actorwork.streams.transport.wire import EXEC, MULTI, pack, pack_parts, parts_of

_MOST: Final = 32
"""How many messages leave together. The server works on them while the next ones are packed here."""
_LARGE: Final = 256 * 1024
"""Bytes after which no further message leaves with others."""


# A message among others: its bit in the mark, its packed fields and their number, and what its task waits for. A tuple,
# since collections of garbage pass over the fewer objects: hundreds of messages may be under way.
_Member: TypeAlias = "tuple[int, bytes, int, asyncio.Future[Any]]"


class _Gathered:
    """Implements `link.Outgoing` for new messages of one source whose ids share a mark."""

    __slots__ = ("_mark", "_members", "_publisher", "_size", "_source", "count", "idempotent", "is_sent", "replies")

    def __init__(self, publisher: GatheringPublisher, source: str, mark: str) -> None:
        self.count = 1
        self.idempotent = False
        self.is_sent = False
        self.replies: list[Any] = []
        self._publisher = publisher
        self._source = source
        self._mark = mark
        self._members: list[_Member] = []
        self._size = 0

    def __repr__(self) -> str:
        return f"<{len(self._members)} messages to {self._source}>"

    def add(self, bit: int, fields: Sequence[str | bytes], kept: asyncio.Future[Any]) -> bool:
        """Take a message along; return whether there is no room for another. `kept` gets what `conclude` asks for.

        Raises `TypeError` for a field that cannot be sent.
        """
        packed = parts_of(pack(tuple(fields)))
        self._members.append((bit, packed, len(fields), kept))
        self._size += len(packed)
        return self._size >= _LARGE or len(self._members) >= _MOST

    @property
    def takes_more(self) -> bool:
        """Whether a message may still join; not where the first one waits no more, as all may have been given up then.

        Those that are refused, or that all their tasks have left before there was a connection, are never sent.
        """
        return not self._members[0][3].done()

    @property
    def is_over(self) -> bool:
        return all(member[3].done() for member in self._members)

    def seal(self) -> bytes:
        members = self._members = [member for member in self._members if not member[3].done()]
        self._publisher.close()
        if not members:
            return b""
        seconds, may_transact = self._publisher.terms_for(self._mark)
        bits = [member[0] for member in members]
        if may_transact and seconds == "":
            self.count = 3 + len(members)
            is_alone = len(members) == 1
            mark = ("SETBIT", self._mark, bits[0], 1) if is_alone else ("BITFIELD", self._mark, *pieces_of(bits))
            commands = [MULTI, pack(mark)]
            for _, fields, count, _ in members:
                commands += (_adding_to(self._source, count), fields)
            commands.append(EXEC)
            return b"".join(commands)
        pieces = pieces_of(bits)
        call = ("EVALSHA", scripts.PUBLISH_NOW.sha, 2, self._source, self._mark, seconds, len(pieces), *pieces)
        parts = [parts_of(pack(call))]
        number = len(call)
        for _, fields, count, _ in members:
            parts += (b"$%d\r\n%d\r\n" % (1 if count < 10 else 2, count), fields)
            number += 1 + count
        return pack_parts(number, parts)

    def answer(self) -> None:
        if self.count == 1:
            self._tell(self.replies[0] if type(self.replies[0]) is int else None)
            return
        multi, marked, *queued, executed = self.replies
        if type(executed) is not list:
            for which, (_, _, _, kept) in enumerate(self._members):
                if not kept.done():
                    kept.set_result([multi, marked, queued[which], executed])
            return
        added = cast("list[Any]", executed)
        for which, (_, _, _, kept) in enumerate(self._members, 1):
            if not kept.done():  # else its task was cancelled
                # An entry's id, or an error of this message alone.
                kept.set_result(1 if type(added[which]) is bytes else [multi, marked, b"QUEUED", [added[which]]])

    def refuse(self, error: Exception) -> None:
        # The script may be run again. A transaction must not, before it is certain that it never will.
        self._tell(None if self.count == 1 and isinstance(error, MayHaveExecuted) else error)

    def _tell(self, answer: Any) -> None:
        for _, _, _, kept in self._members:
            if not kept.done():  # else its task was cancelled
                kept.set_result(answer)


@lru_cache(1000)
def _adding_to(source: str, count: int) -> bytes:
    """Return the beginning of a packed command that adds an entry of so many fields and values to a source."""
    return pack_parts(3 + count, (parts_of(pack(("XADD", source, "*"))),))


class GatheringPublisher(Publisher):
    """Safe to use from any number of tasks of its loop."""

    def __init__(self, redis: AsyncioRedis) -> None:
        super().__init__(redis)
        self._redis = redis
        self._loop = asyncio.get_running_loop()
        self._open: dict[str, _Gathered] = {}
        """What takes further messages, by mark."""

    def gather(self, envelope: Envelope) -> asyncio.Future[Any] | None:
        mark, bit = self._place_of_new(envelope)
        if type(bit) is not int or self._generation != self._redis.generation:
            return None
        check_loop(self._loop)
        kept = self._loop.create_future()
        gathered = self._open.get(mark)
        if gathered is None or not gathered.takes_more:
            gathered = _Gathered(self, envelope.source, mark)
            is_full = gathered.add(bit, fields_of(envelope), kept)
            self._redis.issue(gathered)
            self._open[mark] = gathered
        else:
            is_full = gathered.add(bit, fields_of(envelope), kept)
        if is_full:
            self._open.pop(mark, None)
            self._redis.flush()
        return kept

    async def publish_unique(self, envelope: Envelope) -> str:
        self.close()
        return await super().publish_unique(envelope)

    def _calls(self, envelopes: Sequence[Envelope]) -> list[Call]:
        self.close()
        return super()._calls(envelopes)

    def close(self) -> None:
        """Let nothing further join what has been gathered: it leaves now, or what follows must not overtake others."""
        self._open.clear()

    def terms_for(self, mark: str) -> tuple[int | str, bool]:
        """Return for how many seconds a mark is kept from now on, and whether messages may be sent by a transaction.

        `""`: the time of the mark stays as it is.
        """
        if self._generation != self._redis.generation:
            return MARK_SECONDS, False
        return self._seconds_for(mark), self._may_transact
