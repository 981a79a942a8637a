"""Up to 64 sources of one subscription: the state that a reader and a reclaimer share.

On a cluster, those of one slot, usually one.

A read over many sources costs the server a little for each (12 µs over one, 69 over a hundred), and a connection costs
the server memory: with 64 both are small.

All `InFlightEntries` are replaced together when the node begins a new incarnation.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import trio

from actorwork import events
from actorwork.abc import DeliverySink, EventSink, Subscription
from actorwork.message import INPUTS, Delivery, Priority
from actorwork.policy.settlement import Fail, Reject
from actorwork.streams import entries
from actorwork.streams.in_flight import Counters, InFlightEntries
from actorwork.streams.isolation import Isolation
from actorwork.streams.keys import SourceKeys
from actorwork.streams.settler import Settler
from actorwork.streams.transport.client import RedisClient
from actorwork.streams.transport.redis_py import ResponseError, checked

if TYPE_CHECKING:
    from typing import Protocol

    from actorwork.streams.inputs import Inputs

    class _Reclaimer(Protocol):
        def maintain_within(self, seconds: float) -> None: ...
        def look_while_in_flight(self) -> None:
            """Look in time, now that entries are in flight here."""
            ...


SOURCES: Final = 64
_PATIENCE: Final = 0.1
"""Seconds for which a reader waits for the read of another one, whose server may not answer."""


class SharedRoom:
    """The room of a sink, which the readers of a subscription share: on a cluster, one of each slot.

    A reader asks for its share, so all of them together ask for no more than there is room for. One that has left
    messages behind knows that it will find as many as it asks for, so it takes all the room instead, in turn: the
    servers get fewer and larger commands, and so do those that settle. After its read, a reader queues again.
    """

    def __init__(self) -> None:
        self.readers = 1
        self._turn = trio.Lock()  # It is fair.
        self._is_over = trio.Event()
        self._is_over.set()

    def __repr__(self) -> str:
        return f"<SharedRoom of {self.readers} readers>"

    def share(self, room: int) -> int:
        return max(1, room // self.readers) if room > 0 else room

    async def wait_turn(self, sources: SourceSet) -> trio.Event:
        """Wait until this reader may take all the room, of which there is some then; it sets the event when it has."""
        async with self._turn:
            with trio.move_on_after(_PATIENCE):
                await self._is_over.wait()
            self._is_over.set()  # The next reader need not have patience with the same read.
            while sources.credit() <= 0:
                await sources.wait_room()
            self._is_over = trio.Event()
            return self._is_over


class Fetching:
    """The deliveries of a node that wait for their inputs, for its source sets: most nodes never have any."""

    def __init__(
        self,
        client: RedisClient,
        nursery: trio.Nursery,
        settler: Settler,
        release: Callable[[Sequence[Delivery]], Awaitable[None]],
        resume: Callable[[Subscription], None],
        emit: EventSink,
    ) -> None:
        self.settler = settler
        self.inputs: Inputs | None = None
        self._needed = client, nursery, settler, release, resume, emit

    def __repr__(self) -> str:
        return f"<Fetching of {self.inputs!r}>"

    def take(self, in_flight: InFlightEntries, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Keep the deliveries that have no inputs yet; return the others."""
        if self.inputs is None:
            from actorwork.streams.inputs import Inputs  # noqa: PLC0415 - see above

            self.inputs = Inputs(*self._needed)
        return self.inputs.take(in_flight, deliveries)

    async def stop(self) -> None:
        """Release what waits, and what still comes."""
        if self.inputs is not None:
            await self.inputs.stop()


class SourceSet:
    """The entries of some sources that are in flight here, and how entries become deliveries in the sink."""

    def __init__(
        self,
        subscription: Subscription,
        sources: Sequence[str],
        incarnation: str,
        *,
        client: RedisClient,
        fetching: Fetching,
        emit: EventSink,
        counters: Counters,
    ) -> None:
        self.subscription = subscription
        self.names = tuple(sources)
        self.streams: dict[Priority, tuple[str, ...]] = {Priority.NORMAL: self.names}
        """The streams that are read, by priority, the most urgent first. A level appears once it has been used."""
        self._every_stream = self.streams
        """The same, including those of paused sources."""
        self._paused: frozenset[str] = frozenset()
        self.counters = counters
        self.emit = emit
        self.incarnation = incarnation
        self.by_stream: dict[bytes, InFlightEntries] = {}
        self.lock = trio.Lock()
        """Held while entries are claimed: `recover` would take entries of a reply on its way for lost ones."""
        self.must_recover = False
        """The pending list may hold entries under our name that never arrived here."""
        self.has_more = False
        """The sink had no room for all entries that could have been taken over."""
        self.reads_urgent_only = False
        """The reader waits for urgent messages only, until there is room for others."""
        self.reclaimer: _Reclaimer = _NoReclaimer()
        self.interrupt_reader: Callable[[], None] = _no_reader
        self._keys = {source: SourceKeys.of(source) for source in sources}
        self._client = client
        self._fetching = fetching
        self._room = trio.Event()
        self._waits_for_server = False
        self.begin(incarnation)

    def __repr__(self) -> str:
        return f"<SourceSet of {len(self.names)} sources for {self.subscription.actor}>"

    @property
    def group(self) -> str:
        return self.subscription.group

    @property
    def _settler(self) -> Settler:
        return self._fetching.settler

    @property
    def isolation(self) -> Isolation:
        return self._settler.isolation

    @property
    def sink(self) -> DeliverySink:
        return self.subscription.sink

    @property
    def urgent(self) -> tuple[str, ...]:
        """The streams above normal priority."""
        return self.streams.get(Priority.CRITICAL, ()) + self.streams.get(Priority.HIGH, ())

    def begin(self, incarnation: str) -> None:
        """Start under a new name, with nothing in flight."""
        self.give_up()
        self.incarnation = incarnation
        self.has_more = self.must_recover = False
        known = [(in_flight.source, in_flight.level) for in_flight in self.by_stream.values()]
        known = known or [(source, Priority.NORMAL) for source in self.names]
        made = (self._new_in_flight(source, level) for source, level in known)
        self.by_stream = {in_flight.stream.encode(): in_flight for in_flight in made}
        self._room.set()  # The reader may wait for settlements that are refused now.

    def learn(self, found: Mapping[str, Iterable[bytes]]) -> None:
        """Read the priority levels that sources turn out to have, from now on."""
        new = False
        for source, names in found.items():
            for name in names:
                level = entries.PRIORITIES.get(name)
                if level is None:
                    continue
                stream = self._keys[source].at(level)
                if stream.encode() not in self.by_stream:
                    self.by_stream[stream.encode()] = self._new_in_flight(source, level)
                    self._every_stream[level] = (*self._every_stream.get(level, ()), stream)
                    new = True
        if new:
            self._choose_streams()

    def drop(self, names: Collection[str]) -> None:
        """Read some of the sources no longer: they are divided in another way by now."""
        if not names:
            return
        self.names = tuple(name for name in self.names if name not in names)
        for stream, in_flight in tuple(self.by_stream.items()):
            if in_flight.source in names:
                self._settler.give_up(in_flight)
                del self.by_stream[stream]
        for name in names:
            del self._keys[name]
        self._every_stream = {
            level: tuple(stream for stream in streams if stream.encode() in self.by_stream)
            for level, streams in self._every_stream.items()
        }
        self._choose_streams()

    def pause_sources(self, sources: Collection[str]) -> None:
        """Neither read nor maintain these sources, until this is called again with others."""
        paused = frozenset(sources)
        if paused != self._paused:
            self._paused = paused
            self._choose_streams()
            self.reclaimer.maintain_within(0)

    def _choose_streams(self) -> None:
        chosen: dict[Priority, tuple[str, ...]] = {}
        for level, streams in sorted(self._every_stream.items()):
            read = tuple(name for name in streams if self.by_stream[name.encode()].name not in self._paused)
            if read:
                chosen[level] = read
        self.streams = chosen
        self._room.set()
        self.interrupt_reader()

    def streams_in_turn(self, turn: int) -> tuple[str, ...]:
        """Return all streams, the urgent ones first; within a level, each turn begins with another one."""
        return tuple(stream for streams in self.levels_in_turn(turn) for stream in streams)

    def levels_in_turn(self, turn: int) -> list[tuple[str, ...]]:
        """Return the same, one tuple per level."""
        turned: list[tuple[str, ...]] = []
        for streams in self.streams.values():
            first = turn % len(streams)
            turned.append(streams[first:] + streams[:first])
        return turned

    def room_at(self, level: Priority) -> int:
        """Return how many deliveries of a priority the sink takes now."""
        return max(0, self.credit(urgent=level < Priority.NORMAL))

    def credit(self, *, urgent: bool = False) -> int:
        """Return how many more deliveries the sink takes, beside those that wait for their inputs here."""
        room, inputs = self.sink.credit(urgent=urgent), self._fetching.inputs
        return room if inputs is None else room - inputs.count(self.sink)

    def cancel(self, source: str, message_id: str, reason: str, *, force: bool) -> None:
        """End a message that was cancelled, wherever its delivery is here."""
        inputs = self._fetching.inputs
        if inputs is None or not inputs.cancel(self.sink, source, message_id, reason):
            self.sink.cancel(source, message_id, reason, force=force)

    def _new_in_flight(self, source: str, level: Priority) -> InFlightEntries:
        made = InFlightEntries(
            self.subscription,
            self._keys[source],
            level,
            self.incarnation,
            self._maintain_within,
            self._unreadable,
            self.isolation,
        )
        made.lag.on_settled = self._settled
        return made

    def _settled(self) -> None:
        if self._waits_for_server:
            self._room.set()

    def give_up(self) -> None:
        """Refuse all settlements that are still queued: this incarnation ends."""
        for in_flight in self.by_stream.values():
            self._settler.give_up(in_flight)

    def _maintain_within(self, seconds: float) -> None:
        self.reclaimer.maintain_within(seconds)

    def _unreadable(self, delivery: Delivery, settlement: Fail | Reject) -> None:
        self.emit(events.Settled(self.group, self.subscription.actor, delivery, settlement, 0.0))

    def interrupt(self) -> None:
        """End a read, or the wait for room, so that the reader checks whether it may read."""
        self._room.set()
        self.interrupt_reader()

    def resume(self) -> None:
        self._room.set()
        if self.reads_urgent_only:
            self.interrupt_reader()
        if self.has_more and not self.isolation.is_closed:
            self.reclaimer.maintain_within(0)

    def backlog(self) -> int:
        """Return how many settlements wait for the server, of the stream of which most do."""
        return max((in_flight.backlog for in_flight in self.by_stream.values()), default=0)

    async def wait_settled(self) -> None:
        """Wait until the server may have caught up with the settlements."""
        self._room = trio.Event()
        self._waits_for_server = True
        try:
            await self._room.wait()
        finally:
            self._waits_for_server = False

    async def wait_room(self) -> None:
        """Wait until the sink may have room."""
        if self.streams and self.credit() > 0:
            return
        self._room = trio.Event()
        await self._room.wait()

    def offer(
        self,
        in_flight: InFlightEntries,
        found: Sequence[Any],
        *,
        count: int = 1,
        crashes: int = 0,
        stamps: Mapping[bytes, str] | None = None,
    ) -> list[Delivery]:
        """Record entries as in flight and put them into the sink; `stamps` are those of the states they meet, if known.

        There must be no checkpoint in here: a cancellation between the two steps would lose the deliveries.
        """
        deliveries = in_flight.take(found, count=count, crashes=crashes)
        if crashes and deliveries:
            self.isolation.begun(in_flight, (delivery.token[0] for delivery in deliveries))
        self.offer_taken(in_flight, deliveries, stamps)
        return deliveries

    def offer_taken(
        self, in_flight: InFlightEntries, deliveries: Sequence[Delivery], stamps: Mapping[bytes, str] | None = None
    ) -> None:
        """Put deliveries into the sink that are in flight since this task had its last checkpoint."""
        self.counters.read += len(deliveries)
        if stamps and (tell := self.subscription.states_known) is not None:
            tell(deliveries, [stamps.get(delivery.token[0], "?") for delivery in deliveries])
        if deliveries:
            self.reclaimer.look_while_in_flight()
            self._settler.notes.received(in_flight, deliveries)
            if any(one.headers and INPUTS in one.headers for one in deliveries):
                deliveries = self._fetching.take(in_flight, deliveries)
            if deliveries:
                self.sink.offer(deliveries)
        if in_flight.plain or in_flight.others:
            self._settler.start(in_flight)

    async def make_groups(self, *, are_restored: bool = True) -> None:
        """Create missing groups at the beginning of their streams, never at `$`: messages sent before the first start
        are wanted too.
        """
        noted = [("SADD", keys.groups, self.group) for keys in self._keys.values()]
        checked(await self._client.call_many(noted, idempotent=True))
        used = [("SMEMBERS", keys.priorities) for keys in self._keys.values()]
        levels = await self._client.call_many(used, idempotent=True)
        self.learn(
            {
                source: reply
                for source, reply in zip(self._keys, levels, strict=True)
                if not isinstance(reply, Exception)
            }
        )
        in_flights = tuple(self.by_stream.values())
        commands = [("XGROUP", "CREATE", in_flight.stream, self.group, "0", "MKSTREAM") for in_flight in in_flights]
        for in_flight, reply in zip(in_flights, await self._client.call_many(commands, idempotent=True), strict=True):
            if isinstance(reply, ResponseError) and "BUSYGROUP" in str(reply):
                continue
            if isinstance(reply, Exception):
                raise reply
            # What this group had settled is delivered to it once more.
            await self._client.call("DEL", in_flight.keys.acked(in_flight.level, self.group), idempotent=True)
            if are_restored:
                self.emit(events.GroupRestored(in_flight.name, self.group))


def _no_reader() -> None:
    pass


class _NoReclaimer:
    def maintain_within(self, seconds: float) -> None: ...

    def look_while_in_flight(self) -> None: ...
