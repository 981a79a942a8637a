"""Tells of messages whose entries were deleted by hand (XDEL, XTRIM) while a group had them pending.

    taking over, recovering ──▶ an entry that does not exist ──▶ search for its message ──▶ it ends, the entry is acked

Only the entry had the id of its message. A tracked message (submitted, or a step of a run) is found by the place in its
`state`, or in that of its run; so all of these of a source are looked at, in the background: in pages, with pauses, by
one node of the group (`is_searching` in lua/maintain.lua). Whether the message is still open at that entry is checked
by the script that ends it (lua/lost.lua). An entry of no tracked message is acknowledged alone.

Until then the entry is pending. So nothing is lost with the node that searches: the next one begins again.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Any, Final, NoReturn

import attrs
import trio

from actorwork import events
from actorwork.abc import EventSink
from actorwork.streams import scripts
from actorwork.streams.in_flight import InFlightEntries
from actorwork.streams.keys import SourceKeys, flow as flow_key, home_from, run as run_key, runs_of
from actorwork.streams.transport.client import RedisClient
from actorwork.streams.transport.redis_py import NoPermissionError, RedisError, ResponseError

REASON: Final = "its entry was deleted by hand, so it cannot be delivered again"
_PAGE: Final = 500
"""How many keys of the server are looked at in one call."""
_PAUSE: Final = 0.01
_AGAIN: Final = 5.0
_STEP: Final = re.compile(rb"([^/]+)/(?:\d+\.?\d*|undo/\d+)")
"""Of `lua/run_book.lua`; the group is the run."""


@attrs.frozen
class _Lost:
    keys: SourceKeys
    stream: str
    group: str
    owner: bytes
    entry: bytes

    @property
    def place(self) -> bytes:
        """Where its message is, as in lua/order.lua."""
        level = self.stream.removeprefix(f"{self.keys.prefix}priority:")
        return self.entry if level == self.stream else level.encode() + b":" + self.entry


class LostEntries:
    """Ends the messages of lost entries, for one node."""

    def __init__(self, client: RedisClient, emit: EventSink) -> None:
        self._client = client
        self._emit = emit
        self._found: dict[_Lost, None] = {}
        self._is_found = trio.Event()

    def __repr__(self) -> str:
        return f"<LostEntries, {len(self._found)} to be told>"

    def report(self, in_flight: InFlightEntries, lost: Iterable[tuple[bytes, bytes]]) -> None:
        """Note entries that do not exist, each with the consumer that has it pending. Never waits.

        What is reported again meanwhile is passed on once. What could not be passed on has to be reported again.
        """
        for entry, owner in lost:
            self._found[_Lost(in_flight.keys, in_flight.stream, in_flight.group, owner, entry)] = None
        if self._found:
            self._is_found.set()

    async def run(self) -> NoReturn:
        """Tell of all entries that are reported. Cancelled: those that were not told stay pending."""
        while True:
            await self._is_found.wait()
            self._is_found = trio.Event()
            found, self._found = self._found, {}
            by_source: dict[str, list[_Lost]] = {}
            for one in found:
                by_source.setdefault(one.keys.stream, []).append(one)
            for source, some in by_source.items():
                try:
                    await self._tell(some[0].keys, some)
                except RedisError as error:
                    doing = f"ending the lost messages of {source}"
                    self._emit(events.BrokerTrouble(doing, str(error), f"again in {_AGAIN:g} s"))
                    await trio.sleep(_AGAIN)

    async def _tell(self, keys: SourceKeys, found: list[_Lost]) -> None:
        by_place: dict[bytes, list[_Lost]] = {}
        for one in found:
            # It may have been reported once more, and told since.
            if await self._run(one, "look") == b"lost":
                by_place.setdefault(one.place, []).append(one)
        troubles: list[RedisError] = []
        try:
            async with aclosing(self._places(keys)) as pages:
                async for page in pages:
                    await self._end_those(page, by_place, troubles)
                    if not by_place:
                        break
                    await trio.sleep(_PAUSE)
        except NoPermissionError as error:
            next_step = "their entries are acknowledged, and who waits for a result is not told"
            self._emit(events.BrokerTrouble(f"searching for the lost messages of {keys.stream}", str(error), next_step))
        for some in by_place.values():
            for one in some:
                if await self._run(one, "ack") == b"told":
                    self._emit(events.MessageLost(one.keys.stream, one.group, f"of the entry {one.entry.decode()}"))
        if troubles:
            raise troubles[0]

    async def _end_those(
        self, page: Iterable[tuple[bytes, bytes]], by_place: dict[bytes, list[_Lost]], troubles: list[RedisError]
    ) -> None:
        """End the messages of a page of places that are at lost entries, and take these out of `by_place`."""
        for place, message_id in page:
            left: list[_Lost] = []
            for one in by_place.pop(place, ()):
                try:
                    if not await self._end(one, message_id):
                        left.append(one)  # Of several groups the first has ended it.
                except ResponseError as error:
                    troubles.append(error)  # One that cannot end stays pending, and does not hold up the others.
            if left:
                by_place[place] = left

    async def _places(self, keys: SourceKeys) -> AsyncGenerator[Iterable[tuple[bytes, bytes]]]:
        """Yield pages of the places where messages of a source may be, each with an id."""
        # A step without a life of its own belongs to a run whose home is this source. Its other steps may be elsewhere.
        for run in await self._client.call("ZRANGE", runs_of(keys.stream), 0, -1, idempotent=True):
            state, cursor = f"{run_key(keys.stream, run.decode())}:state", b""
            while cursor != b"0":
                command = ("HSCAN", state, cursor or b"0", "MATCH", "p*", "COUNT", _PAGE)
                cursor, flat = await self._client.call(*command, idempotent=True)
                yield [(place, b"%b/%b" % (run, name[1:])) for name, place in zip(flat[::2], flat[1::2], strict=True)]
        cursor = b""
        while cursor != b"0":
            cursor, found = await self._look(keys, cursor or b"0")
            yield found.items()

    async def _look(self, keys: SourceKeys, cursor: bytes) -> tuple[bytes, dict[bytes, bytes]]:
        """Look at some keys of the server; return where to go on, and the places of messages with their ids."""
        begin = keys.state("")
        pattern = re.sub(r"([*?\[\]\\])", r"\\\1", begin) + "*"
        page: list[bytes]
        cursor, page = await self._client.call("SCAN", cursor, "MATCH", pattern, "COUNT", _PAGE, idempotent=True)
        replies = await self._client.call_many([("HGET", name, "place") for name in page], idempotent=True)
        found: dict[bytes, bytes] = {}
        for name, reply in zip(page, replies, strict=True):
            if isinstance(reply, bytes):
                found[reply] = name.removeprefix(begin.encode())
            elif isinstance(reply, Exception) and not _is_foreign(reply):
                raise reply
        return cursor, found

    async def _end(self, one: _Lost, message_id: bytes) -> bool:
        """End a message, if it is open at this entry; return false if it is not."""
        run = _of_run(message_id)
        home = None if run is None else await self._client.call("GET", flow_key(run.decode()), idempotent=True)
        answer = await self._run(one, "end", message_id, REASON, home_from(home or b""))
        if answer == b"told":
            self._emit(events.MessageLost(one.keys.stream, one.group, message_id.decode(errors="replace")))
        return answer != b"other"

    async def _run(self, one: _Lost, *what: Any) -> bytes:
        args = (one.keys.prefix, one.group, one.owner, one.entry, *what)
        return await self._client.run_script(scripts.LOST, (one.stream,), args, idempotent=True)


def _of_run(message_id: bytes) -> bytes | None:
    """Return the run that may have sent a message, by its id."""
    match = _STEP.fullmatch(message_id)
    return None if match is None else match[1]


def _is_foreign(error: Exception) -> bool:
    """Whether a key is of another type: it is no message's."""
    return isinstance(error, ResponseError) and not isinstance(error, NoPermissionError)
