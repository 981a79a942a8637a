"""Up to 64 sources of one subscription: what a reader and a tender share.

A read over many sources costs the server a little for each (12 µs over one, 69 over a hundred), and a connection costs
the server memory: 64 is where both are small.

The custodies are exchanged as a whole when the node begins a new incarnation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import trio

from actorwork.abc import EventSink, Subscription
from actorwork.events import GroupRestored, Settled
from actorwork.message import Delivery, Priority
from actorwork.policy.settlement import Fail
from actorwork.streams import entries
from actorwork.streams.in_flight import Counters, InFlightEntries
from actorwork.streams.keys import SourceKeys
from actorwork.streams.settler import Settler
from actorwork.streams.transport.client import RedisClient
from actorwork.streams.transport.redis_py import ResponseError

SOURCES: Final = 64


class SourceSet:
    """The custodies of some sources, and how their entries become deliveries in the inlet."""

    def __init__(
        self,
        subscription: Subscription,
        sources: Sequence[str],
        incarnation: str,
        *,
        client: RedisClient,
        settler: Settler,
        emit: EventSink,
        counters: Counters,
    ) -> None:
        self.subscription = subscription
        self.group = subscription.group
        self.sink = subscription.sink
        self.sources = tuple(sources)
        self.streams: dict[Priority, tuple[str, ...]] = {Priority.NORMAL: self.sources}
        """The streams that are read, by priority, the most urgent first: those that are known to have been used."""
        self._every_stream = self.streams
        """The same, with those of sources that are withheld."""
        self._withheld: frozenset[str] = frozenset()
        self.urgent: tuple[str, ...] = ()
        """Those above normal."""
        self.counters = counters
        self.emit = emit
        self.incarnation = incarnation
        self.custodies: dict[bytes, InFlightEntries] = {}
        self.lock = trio.Lock()
        """Held while entries are claimed: what is on its way to us is not to be looked for."""
        self.must_recover = False
        """The pending list may hold entries of ours that we have never seen."""
        self.has_more = False
        """There was no room for all that could have been taken over."""
        self.reads_urgent_only = False
        """The reader waits for what is urgent, and for room for the rest."""
        self.maintain_within: Callable[[float], None] = _nothing_to_maintain
        self.interrupt_reader: Callable[[], None] = _nobody_reads
        self._keys = {source: SourceKeys.of(source) for source in sources}
        self._client = client
        self._settler = settler
        self._room = trio.Event()
        self.begin(incarnation)

    def __repr__(self) -> str:
        return f"<Shard of {len(self.sources)} sources for {self.subscription.actor}>"

    def begin(self, incarnation: str) -> None:
        """Start with nothing in hand, under a new name."""
        self.give_up()
        self.incarnation = incarnation
        self.has_more = self.must_recover = False
        known = [(in_flight.source, in_flight.level) for in_flight in self.custodies.values()]
        known = known or [(source, Priority.NORMAL) for source in self.sources]
        made = (self._new_custody(source, level) for source, level in known)
        self.custodies = {in_flight.stream.encode(): in_flight for in_flight in made}

    def learn(self, found: Mapping[str, Iterable[bytes]]) -> None:
        """Take up the levels of priority that sources are found to have: the reader is to read them, too."""
        new = False
        for source, names in found.items():
            for name in names:
                level = entries.PRIORITIES.get(name)
                if level is None:
                    continue
                stream = self._keys[source].at(level)
                if stream.encode() not in self.custodies:
                    self.custodies[stream.encode()] = self._new_custody(source, level)
                    self._every_stream[level] = (*self._every_stream.get(level, ()), stream)
                    new = True
        if new:
            self._choose_streams()

    def pause_sources(self, sources: Collection[str]) -> None:
        """Leave these sources alone until it is called again with others: they are neither read nor tended."""
        withheld = frozenset(sources)
        if withheld != self._withheld:
            self._withheld = withheld
            self._choose_streams()
            self.maintain_within(0)

    def _choose_streams(self) -> None:
        chosen: dict[Priority, tuple[str, ...]] = {}
        for level, streams in sorted(self._every_stream.items()):
            read = tuple(name for name in streams if self.custodies[name.encode()].source not in self._withheld)
            if read:
                chosen[level] = read
        self.streams = chosen
        self.urgent = chosen.get(Priority.CRITICAL, ()) + chosen.get(Priority.HIGH, ())
        self._room.set()
        self.interrupt_reader()

    def streams_in_turn(self, turn: int) -> tuple[str, ...]:
        """Return all streams, the urgent ones first; within a level another one is the first each turn."""
        return tuple(stream for streams in self.levels_in_turn(turn) for stream in streams)

    def levels_in_turn(self, turn: int) -> list[tuple[str, ...]]:
        """The same, each level for itself."""
        turned: list[tuple[str, ...]] = []
        for streams in self.streams.values():
            first = turn % len(streams)
            turned.append(streams[first:] + streams[:first])
        return turned

    def room_at(self, level: Priority) -> int:
        """Return how many deliveries of a priority may be offered now."""
        return max(0, self.sink.credit(urgent=True) if level < Priority.NORMAL else self.sink.credit())

    def _new_custody(self, source: str, level: Priority) -> InFlightEntries:
        return InFlightEntries(
            self.subscription, self._keys[source], level, self.incarnation, self._attend, self._unreadable
        )

    def give_up(self) -> None:
        """Refuse whatever is still to be settled: the node ends."""
        for in_flight in self.custodies.values():
            self._settler.give_up(in_flight)

    def _attend(self, seconds: float) -> None:
        self.maintain_within(seconds)

    def _unreadable(self, delivery: Delivery, fail: Fail) -> None:
        self.emit(Settled(self.group, self.subscription.actor, delivery, fail, 0.0))

    def resume(self) -> None:
        self._room.set()
        if self.reads_urgent_only:
            self.interrupt_reader()
        if self.has_more:
            self.maintain_within(0)

    async def wait_room(self) -> None:
        """Wait until the inlet may have room."""
        if self.streams and self.sink.credit() > 0:
            return
        self._room = trio.Event()
        await self._room.wait()

    def offer(
        self, in_flight: InFlightEntries, found: Sequence[Any], *, count: int = 1, crashes: int = 0
    ) -> list[Delivery]:
        """Take entries in hand and put them into the inlet. There is no checkpoint in here, and must not be one."""
        deliveries = in_flight.take(found, count=count, crashes=crashes)
        self.counters.read += len(deliveries)
        if deliveries:
            self.sink.offer(deliveries)
        if in_flight.plain or in_flight.others:
            self._settler.start(in_flight)
        return deliveries

    async def make_groups(self, *, are_restored: bool = True) -> None:
        """Make the groups that are missing, at the beginning of their streams.

        At the beginning and never at `$`: what was written before the first start is wanted too.
        """
        used = [("SMEMBERS", keys.priorities) for keys in self._keys.values()]
        levels = await self._client.call_many(used, idempotent=True)
        self.learn(
            {
                source: reply
                for source, reply in zip(self._keys, levels, strict=True)
                if not isinstance(reply, Exception)
            }
        )
        custodies = tuple(self.custodies.values())
        commands = [("XGROUP", "CREATE", in_flight.stream, self.group, "0", "MKSTREAM") for in_flight in custodies]
        for in_flight, reply in zip(custodies, await self._client.call_many(commands, idempotent=True), strict=True):
            if isinstance(reply, ResponseError) and "BUSYGROUP" in str(reply):
                continue
            if isinstance(reply, Exception):
                raise reply
            if are_restored:
                self.emit(GroupRestored(in_flight.source, self.group))


def _nobody_reads() -> None:
    pass


def _nothing_to_maintain(_seconds: float) -> None:
    pass
