"""One node of the broker in memory, which a test can pause, wake and kill."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import attrs
import trio

from actorwork import events
from actorwork.abc import EventSink, Subscription
from actorwork.message import Delivery, Envelope, Priority
from actorwork.policy.settlement import Settlement
from actorwork.policy.turns import FairPriority
from actorwork.testing.faults import Loss
from actorwork.testing.memory.entries import Group, Place

if TYPE_CHECKING:
    from actorwork.testing.memory.broker import MemoryBroker

RELEASED: Final = "released"


@attrs.define(eq=False)
class _Intake:
    """What one subscription reads."""

    every_group: list[Group]
    turns: FairPriority = attrs.field(factory=lambda: FairPriority(len(Priority)))
    turn: int = 0

    withheld: frozenset[str] = frozenset()
    """Sources from which nothing is taken."""

    @property
    def groups(self) -> list[Group]:
        """What may be read now."""
        if not self.withheld:
            return self.every_group
        return [group for group in self.every_group if group.source not in self.withheld]

    def levels(self) -> list[int]:
        """Return the priorities of which something is ready, the most urgent first."""
        groups = self.groups
        return [level for level in Priority if any(group.ready[level] for group in groups)]

    def next_group(self, level: int) -> Group:
        """Return a group that has something ready: each in its turn, so that a busy source does not starve others."""
        self.turn += 1
        groups = self.groups
        start = self.turn % len(groups)
        return next(group for group in (*groups[start:], *groups[:start]) if group.ready[level])


class MemoryNode:
    """Implements `actorwork.abc.Node`."""

    def __init__(
        self,
        broker: MemoryBroker,
        subscriptions: Sequence[Subscription],
        lease: float,
        emit: EventSink,
        incarnation: str,
    ) -> None:
        self._broker = broker
        self._lease = lease
        self._emit = emit
        self._incarnation = incarnation
        self._intakes = {
            subscription: _Intake([broker.source(name).group(subscription.group) for name in subscription.sources])
            for subscription in subscriptions
        }
        self._reading = True
        self._closed = False
        self._paused = False
        self._lost = False
        self._counts: dict[str, int] = dict.fromkeys(
            ("read", "settled", "fenced", "reclaimed", "released", "dead_lettered"), 0
        )
        self.lease_ends = math.inf
        """When the lease runs out (Trio's time); infinite while it is renewed."""
        self.is_dead = False

    def __repr__(self) -> str:
        state = "dead" if self.is_dead else "paused" if self._paused else "reading" if self._reading else "stopped"
        return f"<MemoryNode {self._incarnation} {state}>"

    @property
    def incarnation(self) -> str:
        return self._incarnation

    def now(self) -> float:
        return self._broker.now

    def statistics(self) -> Mapping[str, int]:
        return dict(self._counts)

    # ---- for tests ----

    def die(self) -> None:
        """Be as a process that was killed: nothing it does from now on counts, and its lease runs out."""
        self.is_dead = True
        self.pause()

    def pause(self) -> None:
        """Be as a process that was stopped: it reads nothing, and its lease runs out."""
        self._paused = True
        self.lease_ends = trio.current_time() + self._lease
        self._broker.lease_will_end()

    def go_on(self) -> None:
        """Be as a process that goes on: if its lease is gone, it begins a new incarnation."""
        self._paused = False
        self.lease_ends = math.inf
        if self._lost:
            self._begin_anew("it was not renewed in time")
        self._broker.pump()

    def lose_lease(self) -> None:
        """Lose the lease now, and begin anew: what is in hand here is for others, its crash counted."""
        self._broker.abandon(self._incarnation)
        self._begin_anew("somebody ended it")
        self._broker.pump()

    def lease_lost(self) -> None:
        """Called by the broker when the lease has run out. A process that is stopped learns of it when it goes on."""
        self._lost = True
        self.lease_ends = math.inf

    def _begin_anew(self, reason: str) -> None:
        before, self._incarnation = self._incarnation, self._broker.new_name("node")
        self._lost = False
        self._emit(events.LeaseLost(before, self._incarnation, reason))
        for subscription in self._intakes:
            subscription.sink.revoke()

    # ---- reading ----

    def read(self) -> None:
        for subscription in self._intakes:
            self.resume(subscription)

    def resume(self, subscription: Subscription) -> None:
        intake = self._intakes.get(subscription)
        if intake is None:
            return
        while self._reading and not self._paused and intake.levels():
            taken = self._take(subscription, intake)
            if not taken:
                return
            deliveries = [place.delivery for place in taken if place.claim is not None]
            for place in taken:
                if place.claim is None:
                    self._counts["dead_lettered"] += 1
                    self._broker.condemn(subscription, place)
                    self._emit(
                        events.DeadLettered(place.entry.source, subscription.group, place.entry.id, place.crashes)
                    )
            self._tell_reclaimed(subscription, [place for place in taken if place.claim is not None and place.previous])
            self._counts["read"] += len(deliveries)
            if deliveries:
                subscription.sink.offer(deliveries)

    def pause_sources(self, subscription: Subscription, sources: Collection[str]) -> None:
        intake = self._intakes.get(subscription)
        if intake is not None:
            intake.withheld = frozenset(sources)
            self.resume(subscription)

    def _take(self, subscription: Subscription, intake: _Intake) -> list[Place]:
        """Take as much as there is room for; what is not claimed by then is to be buried."""
        sink, taken = subscription.sink, list[Place]()
        room, claimed = sink.credit(), 0
        urgent: int | None = None
        while levels := intake.levels():
            if claimed >= room:
                # What is urgent has some room of its own; nobody asks for it while nothing is.
                levels = [level for level in levels if level < Priority.NORMAL]
                if levels and urgent is None:
                    urgent = sink.credit(urgent=True)
                if not levels or claimed >= (urgent or 0):
                    break
            level = intake.turns.next(levels)
            place = self._broker.take(intake.next_group(level), level, self._incarnation, subscription.max_crashes)
            taken.append(place)
            claimed += place.claim is not None
        return taken

    def _tell_reclaimed(self, subscription: Subscription, places: Sequence[Place]) -> None:
        counts = Counter((place.entry.source, place.previous) for place in places)
        for (source, previous), count in counts.items():
            self._counts["reclaimed"] += count
            self._emit(events.Reclaimed(source, subscription.group, previous, count))

    # ---- settling ----

    def settle(
        self,
        subscription: Subscription,
        delivery: Delivery,
        settlement: Settlement,
        published: Sequence[Envelope] = (),
    ) -> None:
        broker = self._broker
        loss = None
        if self._is_ours(delivery):
            loss = broker.faults.next_loss(subscription.group)
            if loss is not Loss.ORDER:
                broker.apply(subscription, delivery, settlement, published)
            if loss is None:
                self._counts["settled"] += 1
                return
        self._counts["fenced"] += 1
        self._emit(events.Fenced(delivery, subscription.group, settlement))
        if loss is Loss.ORDER:
            broker.lose(subscription, delivery)
            broker.pump()

    def _is_ours(self, delivery: Delivery) -> bool:
        return not (self._closed or self.is_dead) and self._broker.owns(delivery)

    async def publish_fenced(
        self, subscription: Subscription, delivery: Delivery, published: Sequence[Envelope]
    ) -> bool:
        await trio.lowlevel.checkpoint()
        if not self._is_ours(delivery):
            return False
        await self._broker.publish(published)
        return True

    async def release_deliveries(self, subscription: Subscription, deliveries: Sequence[Delivery]) -> None:
        await trio.lowlevel.checkpoint()
        given: dict[str, int] = {}
        for delivery in deliveries:
            if self._is_ours(delivery):
                place: Place = delivery.token.place
                place.previous = RELEASED
                self._broker.released.append(delivery)
                self._broker.source(delivery.source).group(subscription.group).free(place)
                given[delivery.source] = given.get(delivery.source, 0) + 1
        for source, count in given.items():
            self._counts["released"] += count
            self._emit(events.Released(source, subscription.group, count))
        self._broker.pump()

    async def stop_intake(self) -> None:
        self._reading = False
        await trio.lowlevel.checkpoint()

    async def wait_settled(self) -> None:
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Read and settle nothing any more."""
        self._reading = False
        self._closed = True
