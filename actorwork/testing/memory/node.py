"""One node of the broker in memory, which a test can pause, wake and kill, and in which faults happen."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
import trio

from actorwork import events
from actorwork.abc import EventSink, LeaseState, Subscription
from actorwork.embedded.cursors import Batch, Cursor
from actorwork.embedded.node import EmbeddedNode
from actorwork.embedded.own_leases import Lease
from actorwork.message import Delivery, Envelope
from actorwork.policy.entities import StateChange
from actorwork.policy.settlement import Fail, Reject, Settlement
from actorwork.testing.faults import Faults, Loss
from actorwork.testing.memory.store import payload_of
from actorwork.testing.memory.writer import DIGITS, InlineWriter


class MemoryNode(EmbeddedNode):
    """Implements `actorwork.abc.Node`."""

    _writer: InlineWriter

    def __init__(
        self,
        writer: InlineWriter,
        subscriptions: Sequence[Subscription],
        lease: float,
        emit: EventSink,
        faults: Faults,
    ) -> None:
        super().__init__(writer, subscriptions, lease, emit)
        self._faults = faults
        self._is_paused = False
        self.is_dead = False

    def __repr__(self) -> str:
        state = "dead" if self.is_dead else "paused" if self._is_paused else "open"
        return f"<MemoryNode {self.incarnation} {state}>"

    @property
    def lease(self) -> Lease:
        return self._lease

    def lease_state(self) -> LeaseState:
        # It lasts until a test ends it, and Trio's clock can be read in its own thread only.
        return LeaseState(-math.inf if self.is_dead else math.inf)

    # ---- for tests ----

    def die(self) -> None:
        """Be as a process that was killed: nothing it does from now on counts, and its lease runs out."""
        self.is_dead = True
        self.pause()

    def pause(self) -> None:
        """Be as a process that was stopped: it reads nothing, and its lease runs out."""
        self._is_paused = True
        # Rounded as all deadlines here are, or a clock that jumps to it would arrive a little too early, and spin.
        self._writer.leases.ends[self._lease] = round(trio.current_time() + self._lease.length, DIGITS)
        self._writer.run()

    def go_on(self) -> None:
        """Be as a process that goes on: if its lease is gone, it begins a new incarnation."""
        self._is_paused = False
        self._writer.leases.ends.pop(self._lease, None)
        self.check_lease()

    def lose_lease(self) -> None:
        """Lose the lease now, and begin anew: what is in flight here is for others, its crash counted."""
        lease = self._lease
        self._writer.change(lambda store: store.leases.end(lease.number))
        self.check_lease()

    def check_lease(self) -> None:
        """Renew the lease now, unless this node is paused; if it is lost, begin a new incarnation."""
        if not self._is_paused:
            self._writer.leases.checked.add(self._lease)
            self._writer.run()

    # ---- reading ----

    async def open(self) -> None:
        self._writer.rooms.append(self._make_room)
        await super().open()

    def _make_room(self) -> None:
        """Let the store give exactly what there is room for now, and nothing while this node is paused."""
        for intake in self._intakes.values():
            cursor, sink = intake.cursor, intake.subscription.sink
            if self._is_paused:
                cursor.allowed = cursor.allowed_urgent = 0
                continue
            cursor.allowed = intake.received + max(0, sink.credit())
            if intake.asks_urgent:
                cursor.allowed_urgent = intake.received + max(0, sink.credit(urgent=True))

    def resume(self, subscription: Subscription) -> None:
        self._writer.run()

    def _offer(self, cursor: Cursor, batches: Sequence[Batch]) -> None:
        intake = self._by_cursor[id(cursor)]
        unread: list[tuple[Delivery, Fail | Reject]] = []
        for channel, taken, _ in batches:
            given, taken.deliveries = taken.deliveries, []
            for delivery in given:
                if delivery.token.given == 1 and self._faults.next_double(channel.group):
                    self._writer.change(lambda store, one=delivery, group=channel.group: store.double(one, group))
                read = self._read(intake.subscription, delivery)
                if isinstance(read, Delivery):
                    taken.deliveries.append(read)
                else:
                    unread.append((delivery, read))
        intake.received += len(unread)
        super()._offer(cursor, batches)
        for delivery, settlement in unread:
            self.settle(intake.subscription, delivery, settlement)
            self._emit(events.Settled(intake.subscription.group, intake.subscription.actor, delivery, settlement, 0.0))

    def _read(self, subscription: Subscription, delivery: Delivery) -> Delivery | Fail | Reject:
        """Return a delivery with the fields of a foreign producer, if it has such, as the actor's hook reads them."""
        if not isinstance(delivery.payload, str):
            return delivery
        foreign = attrs.evolve(delivery, payload=payload_of(delivery.payload))
        decode = subscription.decode.get(delivery.source)
        return foreign if decode is None or isinstance(foreign.payload, bytes) else decode(foreign)

    # ---- settling ----

    def settle(
        self,
        subscription: Subscription,
        delivery: Delivery,
        settlement: Settlement,
        published: Sequence[Envelope] = (),
    ) -> None:
        loss = None
        if self._is_ours(delivery):
            loss = self._faults.next_loss(subscription.group)
        elif self.is_dead:
            loss = Loss.ORDER
        if loss is not Loss.ORDER:
            super().settle(subscription, delivery, settlement, published)
        if loss is Loss.REPLY:
            # Without the reply a node settles again, and is refused.
            super().settle(subscription, delivery, settlement, published)
        if loss is Loss.ORDER:
            self._lose(subscription, delivery, settlement)

    def settle_together(
        self,
        subscription: Subscription,
        settled: Sequence[tuple[Delivery, Settlement]],
        published: Sequence[Envelope],
    ) -> None:
        loss = None
        if self._is_ours(settled[0][0]):
            loss = self._faults.next_loss(subscription.group)
        elif self.is_dead:
            loss = Loss.ORDER
        if loss is not Loss.ORDER:
            super().settle_together(subscription, settled, published)
        if loss is Loss.REPLY:
            super().settle_together(subscription, settled, published)
        if loss is Loss.ORDER:
            for delivery, settlement in settled:
                self._lose(subscription, delivery, settlement)

    def _lose(self, subscription: Subscription, delivery: Delivery, settlement: Settlement) -> None:
        self._counts["fenced"] += 1
        self._emit(events.Fenced(delivery, subscription.group, settlement))
        if not self.is_dead:
            self._writer.change(lambda store: store.orphan(delivery.token))

    def _is_ours(self, delivery: Delivery) -> bool:
        return not self.is_dead and self._writer.store.settlements.owns(delivery.token)

    async def publish_fenced(
        self,
        subscription: Subscription,
        delivery: Delivery,
        published: Sequence[Envelope],
        *,
        state: StateChange | None = None,
    ) -> bool:
        if self.is_dead:
            await trio.lowlevel.checkpoint()
            return False
        return await super().publish_fenced(subscription, delivery, published, state=state)

    async def release_deliveries(
        self, subscription: Subscription, deliveries: Sequence[Delivery], *, aside: float = 0.0
    ) -> None:
        if self.is_dead:
            await trio.lowlevel.checkpoint()
            return
        await super().release_deliveries(subscription, deliveries, aside=aside)

    async def close(self) -> None:
        """Stop, and release the lease; a dead node leaves it to run out."""
        if self.is_dead:
            self._closed = True
            await self.stop_intake()
        else:
            await super().close()
        self._writer.rooms.remove(self._make_room)
