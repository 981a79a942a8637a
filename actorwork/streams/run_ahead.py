"""Run-ahead: the settlement of a message brings the node what it would read next, if the next of its key has entered.

    settle.lua: settled ──▶ the next message of the key enters the stream ──▶ read for this node ──▶ in the answer

A busy key so costs one round trip a message, and stays where its state is: with the entry comes the stamp of the state,
so the handler begins at once if that is the one that this node has committed.

It is a read like any other. What is read are the oldest entries that the group has not read, whichever keys they have,
so no key, node or source waits longer for it; as many as have ended at most, and only while there is room. Nothing is
brought while the reader may not read (pauses, a drain, isolation) or has to choose: between priorities, or what was
taken over or lost comes first. A node of another version asks for nothing, and gets nothing.

An entry in an answer that does not arrive is pending under this node's name. The recorded answer, which a repeated
settlement gets, says that there was one, and the reader looks for it before it reads on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import trio

from actorwork.events import BrokerTrouble
from actorwork.streams.in_flight import InFlightEntries
from actorwork.streams.source_set import SharedRoom, SourceSet
from actorwork.streams.transport.redis_py import InvalidResponse

_FEW: Final = 16


class RunAhead:
    """What settlements bring to the source set of an entity, which has a share of the room of the sink."""

    def __init__(self, sources: SourceSet, room: SharedRoom) -> None:
        self._sources = sources
        self._room = room
        self.is_allowed = False
        """Whether the reader has begun and not ended."""
        self._asked = 0
        """How many entries settlements may bring that are under way."""
        self._none_asked = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"<RunAhead of {self._sources!r}, {self._asked} asked for>"

    def ask(self, most: int) -> int:
        """Return how many entries a settlement of `most` deliveries may bring; if any, `end` has to follow.

        As many as have ended, if there is room: a read that waits has not counted on their places. Of many nothing is
        asked: a read for all of them costs less than a script that looks at each, and handlers have enough to do.
        """
        if most > _FEW:
            return 0
        sources = self._sources
        if not self.is_allowed or sources.isolation.is_closed or sources.must_recover or sources.has_more:
            return 0
        if len(sources.by_stream) > 1 or not sources.streams:
            return 0
        room = sources.credit() - self._asked
        asked = min(most, self._room.share(room)) if room > 0 else 0
        if asked:
            self._asked += asked
            sources.isolation.begin_reading()
        return asked

    def end(self, in_flight: InFlightEntries, asked: int, found: Sequence[Any], *, is_lost: bool) -> None:
        """Offer what a settlement has brought; `is_lost` if it has brought something that did not arrive.

        There must be no checkpoint in here: see `SourceSet.offer`.
        """
        sources = self._sources
        self._asked -= asked
        try:
            if not in_flight.is_over:
                if found and not is_lost:
                    is_lost = not self._offer(in_flight, found)
                if is_lost:
                    sources.must_recover = True
                    sources.interrupt_reader()
                    sources.isolation.wake()
        finally:
            sources.isolation.end_reading()
            if not self._asked:
                self._none_asked.unpark_all()

    def _offer(self, in_flight: InFlightEntries, found: Sequence[Any]) -> bool:
        """Return whether what was found are entries."""
        sources = self._sources
        try:
            stamps: dict[bytes, str] = {entry: stamp.decode() for entry, _, stamp in found}
            deliveries = in_flight.take([(entry, fields) for entry, fields, _ in found])
        except (TypeError, ValueError, AttributeError, InvalidResponse) as error:
            doing = f"reading {in_flight.source} with a settlement"
            sources.emit(BrokerTrouble(doing, str(error), "again, beginning with what is pending"))
            return False
        sources.offer_taken(in_flight, deliveries, stamps)
        return True

    async def wait_none_asked(self) -> None:
        """Wait until no settlement is under way that may bring something."""
        while self._asked:
            await self._none_asked.park()
