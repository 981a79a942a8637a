"""Maintains the sources of a set: promotes due messages, takes over released entries and those of dead nodes.

One script (lua/maintain.lua) does all of it, once a second and at the moment at which the next message is due. No
decision depends on idle times: an entry is taken over when it was released, or when the lease of its owner is gone.

    each node of the group ──look, once a second──▶ another one has maintained: wait ──▶ (again)
                                └── none has, or a message is due ──▶ maintain

So of all nodes that have a source in common one maintains it, and the others ask whether one has: lua/look.lua, which
costs a fraction. No node leads: the first that asks when it is time maintains. What a node itself is asked for
(`maintain_within`) it does whatever others have done.

On a cluster each node may read hundreds of shards, as many as there are primaries, and so may hundreds of nodes. If
each of them looked at each shard every second, a primary would get more looks the more primaries there are. So of all
nodes that have room, 16 look at a shard in each second on average, and each of them at four of its shards at least. If
most nodes end at once, the others therefore soon meet a shard that none has maintained, and then look at all of them.
While a message of a shard is in flight here, the node looks at that shard every second: the message may be cancelled.

Entries that are taken over reach the sink as those that are read. The script call is shielded for two seconds: if the
task stopped waiting for the reply, the entries would be pending under our name without our knowledge. If the reply is
lost all the same, `recover` looks for them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from random import SystemRandom
from typing import TYPE_CHECKING, Any, Final, NoReturn

import trio

from actorwork import events
from actorwork.failpoints import failpoint
from actorwork.message import Priority
from actorwork.policy.crashes import LEFT_TO_OTHERS, alone_from, limit_of
from actorwork.streams import keys, scripts
from actorwork.streams.entries import bounds_of
from actorwork.streams.in_flight import InFlightEntries
from actorwork.streams.keys import RELEASED
from actorwork.streams.source_set import SourceSet
from actorwork.streams.transport.client import RedisClient
from actorwork.streams.transport.redis_py import InvalidResponse, RedisError, ResponseError, is_wrong_type
from actorwork.streams.transport.wire import is_list_of

if TYPE_CHECKING:
    from actorwork.streams.survey import Survey

_chance: Final = SystemRandom()
_EVERY: Final = 1.0
_SPREAD: Final = 0.1
"""Part of a second by which looks come earlier, at random, so that those of many nodes do not come together.

None comes later: a message is announced if it is due within 1.1 s, and all others must be found by then.
"""
_FEW: Final = 16
"""While there are no more nodes than this, each of them looks when a message is due or maintenance is asked for. With
more, this many look on average: each decides by chance, without asking the others. The probability that none looks is
1 in 9 million.
"""
_IDLE_EVERY: Final = 2.0
"""Seconds between the looks of a node that has nothing in flight, if there are more than a few nodes: there is always
another one that looks sooner.
"""
_FURTHEST: Final = 10.0
"""The same at most, if it looks at several others of its source sets in each second."""
_FAR_SPREAD: Final = 0.5
"""Part of that by which looks come earlier if they are rarer. With less, nodes look in waves, and the number of looks
in a second does not tell how many nodes there are.
"""
_PER_SECOND: Final = _FEW * (1 - _FAR_SPREAD / 2)
"""Nodes for each second between the looks of one: then as many as are few look in a second."""
_LOOKS: Final = 4
"""How many looks in a second that are."""
_STALE: Final = 1.0
"""Seconds after which some node should have maintained, for long enough that those which look may have ended."""
_OWN_LOOKED_FOR: Final = 100
"""Entries that each look counts; a node with more in flight counts them less often."""
_SPACING: Final = 0.01
"""Seconds between two calls of the script, at least: messages that become due in between are promoted together."""
_PATIENCE: Final = 2.0
_LARGEST_CLAIM: Final = 500
_REPORTED: Final = 15
"""How many values lua/maintain.lua returns for each stream."""
_BEFORE: Final = failpoint("take_over.before")
_AFTER: Final = failpoint("take_over.after")


class _Times:
    """When a node looks at the sources of a set, and when it maintains them whatever other nodes have done."""

    def __init__(self, dice: Callable[[], float]) -> None:
        self.dice = dice
        self.nodes = 1
        """How many nodes of the group there were when this one looked last."""
        self.roomy = 1
        """How many of them had room."""
        self.furthest = _IDLE_EVERY
        self.looked_at = -math.inf
        self._careful_until = -math.inf
        self._look_at = -math.inf
        self._is_far = False
        """The next look is too far away for what is in flight."""
        self._glance_at = math.inf
        """When to look if something is in flight then."""
        self._asked_at = math.inf
        self._due_at = math.inf
        """When a message is due, as this node found when it maintained, if that was its last look."""
        self._pause: trio.CancelScope | None = None

    def begin_look(self, *, is_maintenance: bool) -> float:
        """Return how many seconds ago the last look was."""
        now = trio.current_time()
        since, self.looked_at = now - self.looked_at, now
        self.look_every(_EVERY)
        self._glance_at = math.inf
        self._due_at = math.inf
        if is_maintenance:
            self._asked_at = math.inf
        return since

    def must_maintain(self) -> bool:
        return trio.current_time() >= min(self._asked_at, self._due_at)

    def is_chosen(self) -> bool:
        """Return whether this node does what few nodes are to do."""
        return self.nodes <= _FEW or self.dice() * self.nodes < _FEW

    def ask(self, seconds: float) -> None:
        self._asked_at = min(self._asked_at, self._wake_within(seconds))

    def note_due(self, seconds: float) -> None:
        self._due_at = min(self._due_at, self._wake_within(seconds))

    def look_within(self, seconds: float) -> None:
        self._look_at = min(self._look_at, self._wake_within(seconds))

    def look_soon(self) -> None:
        """Look within a second, and not rarely for a while."""
        self._careful_until = trio.current_time() + _FURTHEST
        self.look_within(self.dice() * _EVERY)

    def glance_soon(self) -> None:
        """Look in a second, if something is in flight then. Called for each read."""
        if self._is_far and self._glance_at == math.inf:
            self._glance_at = self._wake_within(_EVERY * (1 - _SPREAD * self.dice()))

    def is_glance(self) -> bool:
        return trio.current_time() < min(self._asked_at, self._due_at, self._look_at)

    def end_glance(self) -> None:
        self._glance_at = math.inf

    def every(self) -> float:
        """Return how many seconds pass between two looks of a node that has nothing in flight."""
        if self.nodes <= _FEW:
            return _EVERY
        if trio.current_time() < self._careful_until:
            return _IDLE_EVERY
        return max(_IDLE_EVERY, min(self.furthest, min(self.nodes, self.roomy) / _PER_SECOND))

    def look_every(self, seconds: float) -> None:
        self._is_far = seconds > _EVERY
        spread = _SPREAD if seconds <= _IDLE_EVERY else _FAR_SPREAD
        self._look_at = self.looked_at + seconds * (1 - spread * self.dice())

    def look_after(self, seconds: float, *, is_last: bool) -> None:
        """Look when another node should have maintained, in case that it has ended; some look last."""
        self._look_at = self.looked_at + seconds + _SPREAD * (0.5 + (self.dice() + is_last) / 4)

    def _wake_within(self, seconds: float) -> float:
        at = max(trio.current_time() + seconds, self.looked_at + _SPACING)
        if self._pause is not None:
            self._pause.deadline = min(self._pause.deadline, at)
        return at

    def _next_at(self) -> float:
        return min(self._asked_at, self._due_at, self._look_at, self._glance_at)

    async def sleep(self) -> None:
        with trio.CancelScope(deadline=self._next_at()) as self._pause:
            await trio.sleep_forever()
        self._pause = None


class Reclaimer:
    """Maintains one source set until cancelled. Cancelled: a run in progress is finished, within two seconds.

    `fellows` are the reclaimers of all source sets of the subscription, with this one.
    """

    def __init__(
        self,
        client: RedisClient,
        sources: SourceSet,
        *,
        on_no_lease: Callable[[], None],
        on_lost: Callable[[InFlightEntries, Iterable[tuple[bytes, bytes]]], None],
        fellows: Callable[[], Collection[Reclaimer]],
        survey: Survey | None = None,
        dice: Callable[[], float] = _chance.random,
    ) -> None:
        self._client = client
        self._sources = sources
        self._on_lost = on_lost
        self._on_no_lease = on_no_lease
        self._times = _Times(dice)
        self._heal_at = 0.0
        self._turn = 0
        self._dead_from = limit_of(sources.subscription.max_crashes)
        self._alone_from = alone_from(sources.subscription.max_crashes)
        self._held_since: float | None = None
        """Since when suspects wait that this node may not take."""
        self._survey = survey
        self._fellows = fellows
        self._keepers: set[tuple[str, str]] = set()
        """Foreign groups that were reported, with their sources."""
        sources.reclaimer = self
        self.look_soon = self._times.look_soon
        self.look_while_in_flight = self._times.glance_soon

    def __repr__(self) -> str:
        return f"<Reclaimer of {self._sources!r}>"

    @property
    def is_looking(self) -> bool:
        return bool(self._sources.streams)

    def maintain_within(self, seconds: float) -> None:
        """Request maintenance of all sources of this set within `seconds`. Never waits."""
        self._times.ask(seconds)

    def notify(self, source: str | None) -> None:
        """Do what was asked of all nodes for a source, or for all sources: maintain, or leave that to others.

        Of many nodes only some maintain. The others look, if a message that was cancelled may be in flight here.
        """
        if source is not None and source not in self._sources.names:
            return
        if self._times.is_chosen():
            self._times.ask(0)
        elif _has_in_flight(self._sources):
            self._times.look_within(self._times.dice() * _SPREAD)

    async def run(self) -> NoReturn:
        """Look whenever it is time: first of all, unless `maintain` has been called before."""
        while True:
            await self._times.sleep()
            if self._times.is_glance() and not _has_in_flight(self._sources):
                self._times.end_glance()
                continue
            try:
                await self.look()
            except RedisError as error:
                _tell_of_trouble(self._sources, error)

    async def look(self) -> None:
        """Maintain all sources, unless it is too early for that since another node did, and nothing was asked here."""
        sources, times = self._sources, self._times
        isolation = sources.isolation
        isolation.open_in_time()
        is_isolating = isolation.is_watching or isolation.is_closed or self._held_since is not None
        if is_isolating or times.nodes == 1 or times.must_maintain() or not sources.streams:
            await self.maintain()
            return
        await self._client.wait_connected()
        since = times.begin_look(is_maintenance=False)
        self._turn += 1
        in_flights = [sources.by_stream[stream.encode()] for stream in sources.streams_in_turn(0)]
        wanted = [_wanted(in_flight, self._turn) for in_flight in in_flights]
        levels = Counter(in_flight.source for in_flight in sources.by_stream.values())
        if times.nodes > _FEW:
            times.furthest = min(_FURTHEST, sum(fellow.is_looking for fellow in self._fellows()) / _LOOKS)
        every = times.every()
        counted = every if times.nodes <= _FEW else min(every, since)
        args: list[Any] = [sources.group, sources.incarnation, round(counted * 1000)]
        for in_flight, count in zip(in_flights, wanted, strict=True):
            args += (in_flight.keys.prefix, count, levels[in_flight.source] - 1)
        has_room = sources.room_at(Priority.NORMAL) > 0
        args.append(int(not has_room))
        streams = [in_flight.stream for in_flight in in_flights]
        keys_of_all = (keys.lease(sources.incarnation) if self._survey is None else streams[0], *streams)
        try:
            report = await self._client.run_script(scripts.LOOK, keys_of_all, args, idempotent=True)
        except RedisError:
            # Whatever it is, maintenance meets it too, and reports it, or it is a right that only a look needs.
            await self.maintain()
            return
        if report is None:
            self._on_no_lease()
            return
        if not is_list_of(5, [report]) or not is_list_of(3, report[3]) or len(report[3]) != len(in_flights):
            raise InvalidResponse(f"a look got {report!r:.100} as its reply")
        if in_flights[0].is_over:
            self.maintain_within(0)
            return
        come, due, times.nodes, found, times.roomy = report
        self._accept_own(in_flights, found, wanted)
        if come < -_STALE * 1000 and every > _IDLE_EVERY:
            for fellow in self._fellows():
                fellow.look_soon()
        if come <= 0:
            await self.maintain()
            return
        if times.nodes > _FEW:
            times.look_every(times.every())
            if _has_in_flight(sources):
                times.glance_soon()
        else:
            # Those without room come last, since they could take nothing over.
            times.look_after(come / 1000, is_last=not has_room)
        if any(in_flight.short for in_flight in in_flights):
            times.look_within(_EVERY)
        if due >= 0 and times.is_chosen():
            times.look_within(due / 1000)

    def _accept_own(self, in_flights: Sequence[InFlightEntries], found: Sequence[Any], wanted: Sequence[int]) -> None:
        """Accept what a look found that concerns this node alone."""
        is_short = False
        learned: dict[str, Sequence[bytes]] = {}
        for in_flight, (ours, levels, cancelled), is_counted in zip(in_flights, found, wanted, strict=True):
            _cancel(self._sources, in_flight.name, cancelled)
            if levels:
                learned[in_flight.source] = levels
            if is_counted and in_flight.is_short(ours):
                is_short = True
        if learned:
            self._sources.learn(learned)
        if is_short:
            self._ask_for_recovery()

    async def maintain(self) -> None:
        """Run the script once for all sources, and note when the next message is due."""
        sources = self._sources
        async with sources.lock:
            await self._client.wait_connected()
            incarnation = sources.incarnation
            self._times.begin_look(is_maintenance=True)
            now = self._times.looked_at
            self._turn += 1
            streams = sources.streams_in_turn(self._turn)
            isolation = sources.isolation
            if not streams:
                isolation.open(self)
                return  # All of them are paused.
            lease, leases = keys.lease(incarnation), keys.LEASES
            if self._survey is not None:
                dead = await self._survey.dead(sources.group, incarnation, sources.names, streams)
                if dead is None:
                    self._on_no_lease()
                    return
                lease, leases = streams[0], dead
                if any(stream.encode() not in sources.by_stream for stream in streams):
                    self.maintain_within(0)  # The set has changed meanwhile: its shards were moved.
                    return
            in_flights = [sources.by_stream[stream.encode()] for stream in streams]
            room = min(_LARGEST_CLAIM, sources.room_at(Priority.NORMAL))
            urgent_room = min(_LARGEST_CLAIM, sources.room_at(Priority.CRITICAL)) if sources.urgent else room
            isolation.open_in_time()
            suspects = int(isolation.may_take(self))
            if suspects and room <= 0:
                # Not while something is in flight here: that may be all there is room for.
                suspects = 0
                isolation.open(self)
            if isolation.is_closed:
                room = urgent_room = 0
            is_healing = now >= self._heal_at
            if is_healing:
                self._heal_at = now + _EVERY - 2 * _SPREAD
            args: list[Any] = [sources.group, incarnation, leases, RELEASED, room, urgent_room]
            args += (self._dead_from, self._alone_from, sources.subscription.actor, suspects)
            for in_flight in in_flights:
                args += (in_flight.keys.prefix, in_flight.cursor if is_healing else b"")
            args += (*bounds_of(sources.subscription.dead_letters), int(sources.subscription.is_told_failures))
            report: Sequence[Any] | None = None
            has_answer = False
            if _BEFORE is not None:
                _BEFORE()
            isolation.begin_reading()
            try:
                with trio.move_on_after(_PATIENCE, shield=True):
                    try:
                        report = await self._client.run_script(scripts.MAINTAIN, (lease, *streams), args)
                        has_answer = True
                    except ResponseError:
                        raise
                    except RedisError:
                        pass  # The reply was lost: the script may have run.
                if _AFTER is not None:
                    _AFTER()
                if self._survey is not None:
                    self._survey.forward(streams[0])
                if not has_answer:
                    self._ask_for_recovery()
                elif report is None:
                    self._on_no_lease()
                elif in_flights[0].is_over:
                    # The lease was lost meanwhile. The next run finds what was taken over under the old name.
                    self.maintain_within(0)
                else:
                    if not is_list_of(_REPORTED, report) or len(report) != len(in_flights):
                        raise InvalidResponse(f"maintenance got {report!r:.100} as its reply")
                    self._accept(in_flights, report)
            finally:
                isolation.end_reading()

    def _accept(self, in_flights: Sequence[InFlightEntries], report: Sequence[Any]) -> None:
        sources = self._sources
        due_in = math.inf
        self._times.nodes = 1
        sources.has_more = False
        is_short = are_held = is_taken = False
        levels: dict[str, Sequence[bytes]] = {}
        for in_flight, (
            due,
            more,
            is_missing,
            taken,
            dead_lettered,
            pending,
            used,
            cursor,
            trouble,
            held,
            given_back,
            keepers,
            lost,
            cancelled,
            nodes,
        ) in zip(in_flights, report, strict=True):
            self._times.nodes = max(self._times.nodes, nodes)
            if given_back:
                _tell_of_taken(sources, in_flight.source, given_back)
            if keepers:
                _tell_of_keepers(sources, in_flight.source, keepers, self._keepers)
            if lost:
                self._on_lost(in_flight, zip(lost[::2], lost[1::2], strict=True))
            _cancel(self._sources, in_flight.name, cancelled)
            if used:
                levels[in_flight.source] = used
            if cursor:
                in_flight.cursor = cursor
            if trouble:
                doing = f"maintaining {in_flight.source}"
                sources.emit(events.BrokerTrouble(doing, trouble.decode(errors="replace"), f"again in {_EVERY:g} s"))
            if due >= 0:
                due_in = min(due_in, due / 1000)
            if more:
                sources.has_more = True
            if held:
                are_held = True
            if is_missing:
                sources.interrupt_reader()  # Its next read finds the group missing, and creates it.
            previous: Counter[bytes] = Counter()
            for entry, count, owner, fields in taken:
                crashes = count - 1
                if crashes >= self._alone_from:
                    is_taken = True
                sources.offer(in_flight, ((entry, fields),), count=count, crashes=crashes)
                previous[owner] += 1
            for owner, count in previous.items():
                sources.counters.reclaimed += count
                sources.emit(events.Reclaimed(in_flight.name, sources.group, owner.decode(), count))
            for message_id, crashes in dead_lettered:
                sources.counters.dead_lettered += 1
                sources.emit(
                    events.DeadLettered(in_flight.name, sources.group, message_id.decode(errors="replace"), crashes)
                )
            if in_flight.is_short(pending):
                is_short = True
        if levels:
            sources.learn(levels)
        if is_short:
            self._ask_for_recovery()
        self._isolate(is_taken=is_taken, are_held=are_held)
        if due_in < math.inf:
            self._times.note_due(due_in)

    def _isolate(self, *, is_taken: bool, are_held: bool) -> None:
        """Close the node for the suspects that wait, and open it when there are none."""
        isolation, now = self._sources.isolation, trio.current_time()
        if is_taken:
            isolation.has_taken()
        elif not are_held and not isolation.is_running:
            isolation.open(self)
        if not are_held:
            self._held_since = None
        elif not isolation.is_closed_for(self):
            self._held_since = now if self._held_since is None else self._held_since
            # A node that is busy leaves them for a moment to one that is not.
            if isolation.is_idle or now - self._held_since >= LEFT_TO_OTHERS:
                isolation.close(self)

    def _ask_for_recovery(self) -> None:
        self._sources.must_recover = True
        self._sources.interrupt_reader()
        self._sources.isolation.wake()

    async def recover(self) -> None:
        """Offer entries that are pending under our name and never arrived here.

        Only the reader may call this, while it does not read: it would take entries of a reply on its way for lost
        ones.
        """
        sources = self._sources
        async with sources.lock:
            await self._client.wait_connected()
            sources.must_recover = False
            for in_flight in tuple(sources.by_stream.values()):
                room = sources.room_at(in_flight.level)
                args = (sources.group, in_flight.incarnation, room, *in_flight.deliveries)
                has_answer = False
                with trio.move_on_after(_PATIENCE, shield=True):
                    try:
                        more, found, lost = await self._client.run_script(scripts.RECOVER, (in_flight.stream,), args)
                        has_answer = True
                        if lost:
                            self._on_lost(in_flight, [(entry, in_flight.incarnation.encode()) for entry in lost])
                        if in_flight.is_over:
                            return
                        for entry, count, fields in found:
                            if count - 1 >= self._alone_from and sources.isolation.is_closed_for(self):
                                sources.isolation.has_taken()
                            sources.offer(in_flight, ((entry, fields),), count=count, crashes=count - 1)
                        if more:
                            sources.must_recover = True
                    except ResponseError:
                        sources.must_recover = True
                        raise
                    except RedisError:
                        pass
                if not has_answer:
                    sources.must_recover = True
                    return


def _has_in_flight(sources: SourceSet) -> bool:
    return any(in_flight.deliveries for in_flight in sources.by_stream.values())


def _cancel(sources: SourceSet, source: str, cancelled: Sequence[bytes]) -> None:
    for message_id, note in zip(cancelled[::2], cancelled[1::2], strict=True):
        reason, is_forced = note[1:].decode(errors="replace"), note[:1] == b"1"
        sources.cancel(source, message_id.decode(errors="replace"), reason, force=is_forced)


def _tell_of_trouble(sources: SourceSet, error: RedisError) -> None:
    if is_wrong_type(error):
        # A source may have been divided: the reader finds out, which the server may have left parked.
        sources.interrupt_reader()
    doing = f"maintaining {', '.join(sources.names[:3])}"
    sources.emit(events.BrokerTrouble(doing, str(error), f"again in {_EVERY:g} s"))


def _tell_of_taken(sources: SourceSet, source: str, given_back: int) -> None:
    reason = (
        f"{given_back} messages of the group {sources.group} were taken from it unsettled: by hand, with XGROUP "
        "DELCONSUMER, XACK or XGROUP SETID"
    )
    sources.emit(events.BrokerTrouble(f"keeping {source}", reason, "they are delivered again"))


def _tell_of_keepers(sources: SourceSet, source: str, keepers: Sequence[bytes], told: set[tuple[str, str]]) -> None:
    for name in {keeper.decode(errors="replace") for keeper in keepers}:
        if (source, name) not in told:
            told.add((source, name))
            text = f"the group {name!r} of {source!r} is no actor's, and keeps entries that all actors have settled"
            advice = f"let it acknowledge them, or, if it is not used any more, XGROUP DESTROY {source} {name}"
            sources.emit(events.BrokerAdvice(text, advice, "groups"))


def _wanted(in_flight: InFlightEntries, turn: int) -> int:
    """Return how many entries pending under our name a look counts: one more than are in flight, or none for now.

    A reply that was lost is found within seconds; with many entries in flight, each look would cost more.
    """
    count = len(in_flight.deliveries)
    return count + 1 if turn % (count // _OWN_LOOKED_FOR + 1) == 0 else 0
