"""One incarnation of a process at the embedded broker, as the Trio thread sees it.

The writer never reads ahead of the actors: for every sink it has a limit (`allowed`) to the number of deliveries it
may send in all, and counts what it has sent. If local calls have taken the room in the meantime, the deliveries that do
not fit are released, and keep their places.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs
import trio

from actorwork import events
from actorwork.abc import EventSink, LeaseState, Subscription, meter_of
from actorwork.embedded.cursors import Batch, Cursor
from actorwork.embedded.notes import Note, Notes
from actorwork.embedded.orders import Answer, Writer
from actorwork.embedded.own_leases import Lease
from actorwork.embedded.rows import EnvelopeRow, GroupChannel, SettleOrder, Token, is_plain, row_of
from actorwork.embedded.states import CancelledMessage
from actorwork.embedded.store import Store
from actorwork.embedded.transaction import Stale
from actorwork.embedded.turns import Order, Turns
from actorwork.errors import BrokerError, StateConflict
from actorwork.message import Delivery, Envelope, Priority, Status, is_tracked
from actorwork.nurseries import open_unwrapping_nursery
from actorwork.policy.settlement import Ack, Settlement

if TYPE_CHECKING:
    from actorwork.embedded.entities import EmbeddedEntities
    from actorwork.policy.entities import FoundState, StateChange
    from actorwork.records import Progress

LAST_SETTLEMENTS: float = 1.0
"""Seconds for which a node that closes waits for queued settlements."""


@attrs.define(eq=False)
class _Intake:
    """One subscription as this thread counts it."""

    subscription: Subscription
    cursor: Cursor
    allowed: int = 0
    allowed_urgent: int = 0
    asks_urgent: bool = False
    """Whether an urgent message has ever waited for credit: only then the sink is asked for its reserve."""
    received: int = 0

    def fitting(self, deliveries: Sequence[Delivery]) -> tuple[Sequence[Delivery], Sequence[Delivery]]:
        """Divide deliveries into those that the sink has room for, and the surplus."""
        sink = self.subscription.sink
        room = max(0, sink.credit())
        if len(deliveries) <= room:
            return deliveries, ()
        urgent_room = sink.credit(urgent=True) if self.asks_urgent else 0
        fitting: list[Delivery] = []
        surplus: list[Delivery] = []
        for delivery in deliveries:
            most = max(room, urgent_room) if delivery.priority < Priority.NORMAL else room
            (fitting if len(fitting) < most else surplus).append(delivery)
        return fitting, surplus


class EmbeddedNode:
    """Implements `actorwork.abc.Node`; made by `open_node`."""

    def __init__(self, writer: Writer, subscriptions: Sequence[Subscription], lease: float, emit: EventSink) -> None:
        self._writer = writer
        self._emit = emit
        self._lease = Lease(_new_incarnation(), lease, self._lost, meter=meter_of(emit))
        self._incarnation = self._lease.incarnation
        self._intakes: dict[Subscription, _Intake] = {}
        for subscription in subscriptions:
            channels = [
                GroupChannel(
                    source,
                    subscription.group,
                    subscription.actor,
                    subscription.max_crashes,
                    priority,
                    bounds=subscription.dead_letters,
                    is_told_failures=subscription.is_told_failures,
                )
                for priority in (Priority.NORMAL, Priority.CRITICAL, Priority.HIGH, Priority.LOW)
                for source in subscription.sources
            ]
            cursor = Cursor(channels, self._lease, self._offer, self._crowded, self._cancel)
            intake = _Intake(subscription, cursor)
            self._intakes[subscription] = intake
        self._by_cursor = {id(intake.cursor): intake for intake in self._intakes.values()}
        self._suspects: set[Token] = set()
        """The deliveries in flight that processes died with."""
        self._notes = Notes(self._write_notes)
        self._stopping = False
        self._closed = False
        self._unsettled = 0
        self._idle: trio.Event | None = None
        self._counts = dict.fromkeys(("read", "settled", "fenced", "reclaimed", "released", "dead_lettered"), 0)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "stopping" if self._stopping else "reading"
        return f"<EmbeddedNode {self._incarnation} {state} at {self._writer.location}, {self._unsettled} to settle>"

    @property
    def incarnation(self) -> str:
        return self._incarnation

    def lease_state(self) -> LeaseState:
        return self._lease.state() if self._intakes else LeaseState(math.inf)

    def statistics(self) -> Mapping[str, int]:
        return {**self._counts, "unsettled": self._unsettled}

    # ------------------------------------------------------------------------------------------------- its life

    async def open(self) -> None:
        if not self._intakes:
            # It will own nothing, so it needs no lease: a store that nothing else uses is not opened for this node.
            await trio.lowlevel.checkpoint()
            return
        cursors = [intake.cursor for intake in self._intakes.values()]

        def enter(store: Store) -> int:
            for cursor in cursors:
                for channel in cursor.channels:
                    store.reading.open_channel(channel)
            return store.leases.take(self._incarnation, store.now + self._lease.length)

        self._lease.number = await self._writer.ask(enter)
        for intake in self._intakes.values():
            intake.allowed = intake.cursor.allowed = max(0, intake.subscription.sink.credit())
        self._writer.tell(lambda turns: turns.add(self._lease, cursors, self._writer.now()))

    async def close(self) -> None:
        """Stop, settle for a second at most, and release the lease."""
        if not self._intakes:
            self._closed = True
            return
        with trio.move_on_after(LAST_SETTLEMENTS, shield=True):
            await self.stop_intake()
            await self.wait_settled()
        self._closed = True
        lease = self._lease
        self._writer.tell(lambda turns: turns.leases.remove(lease))
        with trio.move_on_after(LAST_SETTLEMENTS, shield=True):
            try:
                # The number is read inside the order: the lease may have been lost, and replaced, a moment ago.
                await self._writer.ask(lambda store: store.leases.end(lease.number))
            except BrokerError as error:
                what_next = f"it ends by itself in {lease.length} s"
                self._emit(events.BrokerTrouble("releasing the lease", str(error), what_next))

    def now(self) -> float:
        return self._writer.wall()

    def ready_at(self, delivery: Delivery) -> float | None:
        return delivery.token.ready or None

    async def stop_intake(self) -> None:
        if self._closed or not self._intakes:
            return
        self._stopping = True
        cursors = [intake.cursor for intake in self._intakes.values()]
        self._writer.tell(lambda turns: turns.cursors.remove(cursors))
        # Its answer arrives after everything that was read before.
        await self._writer.pass_through()

    async def wait_settled(self) -> None:
        while self._unsettled:
            if self._idle is None:
                self._idle = trio.Event()
            await self._idle.wait()
        await trio.lowlevel.checkpoint()

    # ---------------------------------------------------------------------------------------------- what comes in

    def _offer(self, cursor: Cursor, batches: Sequence[Batch]) -> None:
        intake = self._by_cursor[id(cursor)]
        subscription = intake.subscription
        deliveries: Sequence[Delivery] = []
        for channel, taken, reclaimed in batches:
            deliveries += taken.deliveries
            if reclaimed:
                self._suspects_begun(taken.deliveries)
            for previous, count in reclaimed:
                self._counts["reclaimed"] += count
                self._emit(events.Reclaimed(channel.name, channel.group, previous, count))
            for message_id, crashes in taken.dead_lettered:
                self._counts["dead_lettered"] += 1
                self._emit(events.DeadLettered(channel.name, channel.group, message_id, crashes))
            if taken.restored:
                self._emit(events.GroupRestored(channel.name, channel.group))
        intake.received += len(deliveries)
        self._counts["read"] += len(deliveries)
        if not self._stopping:
            fitting, surplus = intake.fitting(deliveries)
            if surplus:
                self._order_release(subscription, surplus)
            deliveries = fitting
        if deliveries:
            subscription.sink.offer(deliveries)
        self.resume(subscription)

    def _suspects_begun(self, deliveries: Sequence[Delivery]) -> None:
        found = {delivery.token for delivery in deliveries if delivery.crashes}
        if found and not self._suspects:
            self._emit(events.SuspectsInFlight(present=True))
        self._suspects |= found

    def _suspects_ended(self, deliveries: Sequence[Delivery]) -> None:
        """Called only while there are suspects."""
        self._suspects.difference_update(delivery.token for delivery in deliveries)
        if not self._suspects:
            self._emit(events.SuspectsInFlight(present=False))

    def _crowded(self, cursor: Cursor) -> None:
        intake = self._by_cursor[id(cursor)]
        intake.asks_urgent = True
        self.resume(intake.subscription)

    def _cancel(self, cursor: Cursor, messages: Sequence[CancelledMessage]) -> None:
        subscription = self._by_cursor[id(cursor)].subscription
        for one in messages:
            if one.source in subscription.sources:
                subscription.sink.cancel(one.source, one.id, one.reason, force=one.force)

    def resume(self, subscription: Subscription) -> None:
        intake = self._intakes.get(subscription)
        if intake is None or self._stopping:
            return
        sink, received, cursor = subscription.sink, intake.received, intake.cursor
        allowed = received + max(0, sink.credit())
        urgent = received + max(0, sink.credit(urgent=True)) if intake.asks_urgent else 0
        if allowed > intake.allowed or urgent > intake.allowed_urgent:
            allowed = intake.allowed = max(allowed, intake.allowed)
            urgent = intake.allowed_urgent = max(urgent, intake.allowed_urgent)

            def allow(_: Turns) -> None:
                cursor.allowed, cursor.allowed_urgent = allowed, urgent

            self._writer.tell(allow)

    def pause_sources(self, subscription: Subscription, sources: Collection[str]) -> None:
        intake = self._intakes.get(subscription)
        if intake is None or self._stopping:
            return
        channels, paused = intake.cursor.channels, frozenset(sources)

        def pause_sources(_: Turns) -> None:
            for channel in channels:
                channel.is_paused = channel.name in paused

        self._writer.tell(pause_sources)

    def _lost(self, incarnation: str, successor: str, reason: str) -> None:
        self._incarnation = successor
        self._notes.clear()
        self._emit(events.LeaseLost(incarnation, successor, reason))
        if self._suspects:
            self._suspects.clear()
            self._suspects_ended(())
        for subscription in self._intakes:
            subscription.sink.revoke()
            self.resume(subscription)

    # --------------------------------------------------------------------------------------------- what goes out

    def note(
        self, subscription: Subscription, delivery: Delivery, status: Status, progress: Progress | None = None
    ) -> None:
        if status is Status.STARTED and is_tracked(delivery.headers) and not self._closed:
            self._notes.add(delivery, self.now(), progress)

    async def keep_notes(self) -> None:
        """Write what is noted, until cancelled."""
        await self._notes.run()

    def _write_notes(self, notes: Sequence[Note]) -> None:
        def write(store: Store) -> None:
            for note in notes:
                store.note(note.delivery, note.started, note.progress)

        # If it fails, the next note or the end has all that counts.
        self._writer.order(Order(write, _ignore, _ignore, len(notes)))

    def settle(
        self,
        subscription: Subscription,
        delivery: Delivery,
        settlement: Settlement,
        published: Sequence[Envelope] = (),
    ) -> None:
        if self._closed:
            self._counts["fenced"] += 1
            self._emit(events.Fenced(delivery, subscription.group, settlement))
            return
        self._unsettled += 1
        if self._suspects:
            self._suspects_ended([delivery])
        note = self._notes.take(delivery) if delivery.headers else None
        self._writer.settle(
            SettleOrder(
                delivery,
                subscription.group,
                subscription.actor,
                settlement,
                [row_of(envelope) for envelope in published],
                self,
                is_plain(delivery, settlement, published),
                subscription.dead_letters,
                None if note is None else note.started,
                None if note is None else note.progress,
                is_told_failures=subscription.is_told_failures,
            )
        )

    def settle_together(
        self, subscription: Subscription, settled: Sequence[tuple[Delivery, Settlement]], published: Sequence[Envelope]
    ) -> None:
        if self._closed:
            for delivery, settlement in settled:
                self.settle(subscription, delivery, settlement)
            return
        if self._suspects:
            self._suspects_ended([delivery for delivery, _ in settled])
        group, actor, bounds = subscription.group, subscription.actor, subscription.dead_letters
        *others, last = (
            SettleOrder(
                delivery,
                group,
                actor,
                settlement,
                (),
                self,
                bounds=bounds,
                started=None if (note := self._notes.take(delivery)) is None else note.started,
            )
            for delivery, settlement in settled
        )
        self._unsettled += len(settled)
        self._writer.settle(attrs.evolve(last, published=[row_of(one) for one in published], together=others))

    def applied(self, count: int, refused: Sequence[SettleOrder]) -> None:
        """Called by the writer when `count` settlements have been carried out, of which some were refused."""
        self._unsettled -= count
        self._counts["settled"] += count - len(refused)
        for order in refused:
            self._counts["fenced" if order.found is None else "released"] += 1
            self._emit(_refusal(order))
        if not self._unsettled and self._idle is not None:
            self._idle.set()
            self._idle = None

    async def keep_ahead(self, delivery: Delivery, ack: Ack) -> Ack | None:
        return await _kept_ahead(self._writer, delivery, ack)

    async def publish_fenced(
        self,
        subscription: Subscription,
        delivery: Delivery,
        published: Sequence[Envelope],
        *,
        state: StateChange | None = None,
    ) -> bool:
        rows, group = [row_of(envelope) for envelope in published], subscription.group
        answer = await self._writer.ask(lambda store: _publish(store, delivery, group, rows, state), rows=len(rows))
        if isinstance(answer, StateConflict):
            raise answer
        return answer

    async def load_states(
        self, subscription: Subscription, wanted: Sequence[tuple[Delivery, str]]
    ) -> Sequence[FoundState]:
        known = [(delivery.key or "", stamp) for delivery, stamp in wanted]
        return await _states(self._writer).load(wanted[0][0].source, subscription.group, known)

    async def release_deliveries(
        self, subscription: Subscription, deliveries: Sequence[Delivery], *, aside: float = 0.0
    ) -> None:
        answer = Answer()
        if aside > 0:
            cursor, until = self._intakes[subscription].cursor, self._writer.now() + aside
            # The orders of this thread are carried out in turn, so this precedes the release.
            self._writer.tell(lambda turns: turns.cursors.set_aside(cursor, deliveries, until))
        self._order_release(subscription, deliveries, answer.done, answer.failed)
        await answer.wait()

    def _order_release(
        self,
        subscription: Subscription,
        deliveries: Sequence[Delivery],
        done: Callable[[None], object] | None = None,
        failed: Callable[[BrokerError], None] | None = None,
    ) -> None:
        if self._suspects:
            self._suspects_ended(deliveries)
        for delivery in deliveries:
            self._notes.take(delivery)

        def tell(given: Mapping[str, int]) -> None:
            for source, count in given.items():
                self._counts["released"] += count
                self._emit(events.Released(source, subscription.group, count))
            if done is not None:
                done(None)

        def fail(error: BrokerError) -> None:
            self._emit(
                events.BrokerTrouble("releasing deliveries", str(error), "this node keeps them until its lease ends")
            )

        self._writer.order(Order(lambda store: _release(store, deliveries), tell, failed or fail, len(deliveries)))


@asynccontextmanager
async def open_node(
    writer: Writer, subscriptions: Sequence[Subscription], *, lease: float, emit: EventSink
) -> AsyncGenerator[EmbeddedNode]:
    node = EmbeddedNode(writer, subscriptions, lease, emit)
    async with open_unwrapping_nursery() as nursery:
        try:
            await node.open()
            nursery.start_soon(node.keep_notes)
            yield node
        finally:
            await node.close()
            nursery.cancel_scope.cancel()


def _release(store: Store, deliveries: Sequence[Delivery]) -> Mapping[str, int]:
    """Release those of the deliveries that are still ours; return how many of each source these are."""
    given: dict[str, int] = {}
    for delivery in deliveries:
        if store.release(delivery):
            given[delivery.source] = given.get(delivery.source, 0) + 1
    return given


def _states(writer: Writer) -> EmbeddedEntities:
    from actorwork.embedded.entities import EmbeddedEntities  # noqa: PLC0415 - most nodes have no entities

    return EmbeddedEntities(writer)


def _refusal(order: SettleOrder) -> events.Fenced | events.StaleState:
    """Return the event of a settlement that was refused."""
    change = order.settlement.state if isinstance(order.settlement, Ack) else None
    if order.found is None or change is None:
        return events.Fenced(order.delivery, order.group, order.settlement)
    return events.StaleState(order.delivery, order.group, change.version, order.found)


async def _kept_ahead(writer: Writer, delivery: Delivery, ack: Ack) -> Ack | None:
    from actorwork.embedded.kept_ahead import kept_ahead  # noqa: PLC0415 - most programs have no workflows

    return await kept_ahead(writer, delivery.token, ack)


def _publish(
    store: Store, delivery: Delivery, group: str, rows: Sequence[EnvelopeRow], state: StateChange | None
) -> bool | StateConflict:
    """Publish for a delivery if it is still ours; a conflict is returned: raised, it would fail others' orders."""
    if not store.settlements.owns(delivery.token):
        return False
    if state is not None:
        try:
            store.entities.settle(delivery, group, state)
        except Stale as refusal:
            from actorwork.policy.entities import stale  # noqa: PLC0415 - rare

            return stale(delivery.key, refusal.found)
    replacing = {key for row in rows if (key := _replaced(row, delivery.source)) is not None}
    if replacing:
        store.settlements.hand_over(delivery, replacing)
    store.publish(rows)
    return True


def _replaced(row: EnvelopeRow, source: str) -> str | None:
    """Return the unique key of a message that is to replace whatever has it at a source."""
    unique = None if row.optional is None else row.optional.unique
    return unique.key if unique is not None and unique.on_conflict == "replace" and row.source == source else None


def _ignore(_: object) -> None:
    pass


def _new_incarnation() -> str:
    return uuid.uuid4().hex
