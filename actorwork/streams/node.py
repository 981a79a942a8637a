"""A node at Redis: a lease, readers and reclaimers for its subscriptions, and a settler.

    lease ──▶ groups ──▶ maintain once ──▶ read, maintain, settle ──▶ stop intake ──▶ settle the rest ──▶ give up
                                                                                                       the lease

There are two nurseries: the intake (readers and reclaimers), which ends first, and the settling, which is shielded
until the node is closed, so that deliveries handled before a cancellation are settled after it.

When the lease is lost, other nodes take over everything in flight here: the sinks are revoked, and the node continues
under a new name, with new in-flight entries. Reads in progress under the old name are interrupted, and their replies
are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from actorwork import events
from actorwork.abc import EventSink, LeaseState, Node, Subscription, meter_of
from actorwork.errors import BrokerError, StateConflict
from actorwork.failpoints import failpoint
from actorwork.message import Delivery, Envelope, Status
from actorwork.policy.settlement import Ack, Settlement
from actorwork.streams import entries, scripts
from actorwork.streams.in_flight import Counters, InFlightEntries, PublishOnly
from actorwork.streams.intake import Intake, Part
from actorwork.streams.isolation import Isolation
from actorwork.streams.keys import RELEASED
from actorwork.streams.lease import Lease
from actorwork.streams.notes import Notes
from actorwork.streams.reader import Reader
from actorwork.streams.reclaimer import Reclaimer
from actorwork.streams.settler import Settler
from actorwork.streams.shards import Layouts
from actorwork.streams.source_set import Fetching, SharedRoom, SourceSet
from actorwork.streams.transport.address import Address
from actorwork.streams.transport.client import RedisClient
from actorwork.streams.transport.redis_py import RedisError

if TYPE_CHECKING:
    from actorwork.policy.entities import FoundState, StateChange
    from actorwork.records import Progress
    from actorwork.streams.entities import RedisEntities
    from actorwork.streams.lost import LostEntries
    from actorwork.streams.reader_connections import ReaderConnections
    from actorwork.streams.survey import Survey

_LAST_READS: Final = 2.0
_LAST_SETTLEMENTS: Final = 1.0
_COMPLAIN_EVERY: Final = 60.0
_RELEASED_AT_ONCE: Final = 1000
_BEFORE_RELEASE: Final = failpoint("release.before")
_AFTER_RELEASE: Final = failpoint("release.after")


class RedisNode(Node):
    """Made and ended by `RedisBroker.open_node`."""

    def __init__(
        self,
        client: RedisClient,
        address: Address,
        subscriptions: Sequence[Subscription],
        *,
        lease: float,
        emit: EventSink,
        begin_settling: trio.Nursery,
        layouts: Layouts,
    ) -> None:
        self._client = client
        self._subscriptions = tuple(subscriptions)
        self._emit = emit
        self._settling = begin_settling
        self._counters = Counters()
        meter = meter_of(emit)
        self._lease = Lease(
            address,
            lease,
            on_lost=self._lease_lost,
            on_trouble=self._lease_troubled,
            on_renewed=None if meter is None else meter.lease_renewed,
        )
        self._may_move = address.sentinels is not None or address.cluster is not None
        self._incarnation = self._lease.incarnation
        self._intake_scope = trio.CancelScope()
        self._intake_ended = trio.Event()
        self._is_intake_begun = False
        self._isolation = Isolation(emit)
        self._lost: LostEntries | None = None
        self._entities: RedisEntities | None = None
        notes = Notes(client, begin_settling.start_soon, self._lease.now)
        self._settler = Settler(client, self._spawn, self._release_soon, emit, self._counters, self._isolation, notes)
        if address.cluster is not None:
            from actorwork.streams.outbox import Outbox  # noqa: PLC0415 - only on a cluster

            self._settler.calls.outbox = Outbox(client, begin_settling.start_soon, emit)
        self._settler.calls.layouts = layouts
        self._fetching = Fetching(client, begin_settling, self._settler, self._release_all, self.resume, emit)
        self._complain_at = -math.inf
        self._connections: ReaderConnections | None = None
        if address.reader_connections is not None:
            from actorwork.streams.reader_connections import ReaderConnections  # noqa: PLC0415 - few urls limit them

            self._connections = ReaderConnections(address.reader_connections)
        self._intake = Intake(client, layouts, self._subscriptions, self._new_part)

    def __repr__(self) -> str:
        return f"<RedisNode {self._incarnation} for {len(self._subscriptions)} actors>"

    def _new_part(self, subscription: Subscription, sources: Sequence[str], room: SharedRoom) -> Part:
        source_set = SourceSet(
            subscription,
            sources,
            self._incarnation,
            client=self._client,
            fetching=self._fetching,
            emit=self._emit,
            counters=self._counters,
        )
        if subscription.states_known is not None and len(sources) == 1:
            from actorwork.streams.run_ahead import RunAhead  # noqa: PLC0415 - most nodes have no entities

            ahead = self._settler.ahead[subscription, sources[0]] = RunAhead(source_set, room)
            ahead.is_allowed = self._is_intake_begun
        survey: Survey | None = None
        if (outbox := self._settler.calls.outbox) is not None:
            from actorwork.streams.survey import Survey  # noqa: PLC0415 - only on a cluster

            survey = Survey(self._client, outbox)
        reclaimer = Reclaimer(
            self._client,
            source_set,
            on_no_lease=self._lease.check,
            on_lost=self._on_lost,
            fellows=lambda: self._intake.reclaimers(subscription),
            survey=survey,
        )
        reader = Reader(
            self._client,
            source_set,
            reclaimer,
            on_no_connection=self._no_connection,
            on_no_stream=partial(self._replace, subscription, source_set),
            room=room,
            connections=self._connections,
        )
        source_set.interrupt_reader = reader.interrupt
        self._isolation.add(source_set)
        return Part(subscription, source_set, reader, reclaimer)

    async def _replace(self, subscription: Subscription, source_set: SourceSet) -> bool:
        return await self._intake.replace(subscription, source_set)

    @property
    def incarnation(self) -> str:
        return self._incarnation

    def check_lease(self) -> None:
        """See now whether the lease is still there: the server may have restarted, or another one be the primary.

        Look at the sources, too: no notice has arrived while the connection was lost.
        """
        self._intake.look_soon()
        if self._may_move:
            self._lease.check()

    def lease_state(self) -> LeaseState:
        return self._lease.state()

    def statistics(self) -> Mapping[str, int]:
        return attrs.asdict(self._counters)

    # --------------------------------------------------------------------------------------------------- begin and end

    async def begin(self) -> None:
        """Take the lease and make all groups, before anything is read."""
        await self._lease.take()
        try:
            for source_set in self._intake.source_sets:
                await source_set.make_groups(are_restored=False)
        except RedisError as error:
            raise BrokerError(f"cannot make the groups at {self._client!r}: {error}") from error

    async def run_intake(self) -> None:
        """Maintain all sources once, then read and maintain them until `stop_intake`."""
        self._is_intake_begun = True
        self._allow_reading(is_allowed=True)
        try:
            with self._intake_scope:
                async with trio.open_nursery() as nursery:
                    self._intake_tasks = nursery
                    self._intake.run(nursery)
                    await trio.sleep_forever()
        finally:
            self._intake_ended.set()

    async def stop_intake(self) -> None:
        self._intake_scope.cancel()
        self._allow_reading(is_allowed=False)
        if self._is_intake_begun:
            await self._intake_ended.wait()
        await self._fetching.stop()
        for ahead in self._settler.ahead.values():
            await ahead.wait_none_asked()

    def _allow_reading(self, *, is_allowed: bool) -> None:
        for ahead in self._settler.ahead.values():
            ahead.is_allowed = is_allowed

    async def end(self) -> None:
        """Stop reading, apply queued settlements, and release the lease. Shielded, for three seconds at most."""
        with trio.move_on_after(_LAST_READS, shield=True):
            await self.stop_intake()
        with trio.move_on_after(_LAST_SETTLEMENTS, shield=True):
            await self._settler.wait_settled()
            if (outbox := self._settler.calls.outbox) is not None:
                await outbox.wait_forwarded()
        await self._lease.release()
        for source_set in self._intake.source_sets:
            source_set.give_up()

    # ----------------------------------------------------------------------------------------------------- settlements

    def settle(
        self,
        subscription: Subscription,
        delivery: Delivery,
        settlement: Settlement,
        published: Sequence[Envelope] = (),
    ) -> None:
        self._settler.settle(delivery, settlement, published)

    def settle_together(
        self, subscription: Subscription, settled: Sequence[tuple[Delivery, Settlement]], published: Sequence[Envelope]
    ) -> None:
        self._settler.settle_together(settled, published)

    async def keep_ahead(self, delivery: Delivery, ack: Ack) -> Ack | None:
        from actorwork.streams.kept_ahead import kept_ahead  # noqa: PLC0415 - few handlers start runs

        return await kept_ahead(self._settler.calls, delivery, ack)

    async def load_states(
        self, subscription: Subscription, wanted: Sequence[tuple[Delivery, str]]
    ) -> Sequence[FoundState]:
        known = [(delivery.key or "", stamp) for delivery, stamp in wanted]
        return await self._states().load(wanted[0][0].source, subscription.group, known)

    def _states(self) -> RedisEntities:
        if self._entities is None:
            from actorwork.streams.entities import RedisEntities  # noqa: PLC0415 - most nodes have no entities

            self._entities = RedisEntities(self._client)
        return self._entities

    async def publish_fenced(
        self,
        subscription: Subscription,
        delivery: Delivery,
        published: Sequence[Envelope],
        *,
        state: StateChange | None = None,
    ) -> bool:
        """Publish in the order of the settlements. Cancelled: the messages may have been published."""
        is_answered = trio.Event()
        answers: list[bool | Exception] = []

        def report(answer: bool | Exception) -> None:  # noqa: FBT001 - the answer is its only argument
            answers.append(answer)
            is_answered.set()

        self._settler.settle(delivery, PublishOnly(report, state), published)
        await is_answered.wait()
        answer = answers[0]
        if isinstance(answer, StateConflict):
            raise answer
        if isinstance(answer, Exception):
            raise BrokerError(f"cannot publish for {delivery.id}: {answer}") from answer
        return answer

    async def wait_settled(self) -> None:
        await self._settler.wait_settled()

    async def release_deliveries(
        self, subscription: Subscription, deliveries: Sequence[Delivery], *, aside: float = 0.0
    ) -> None:
        """Cancelled: any part may have been released; other nodes take over the rest when the lease is released.

        `aside` is not needed: all nodes look for what was released equally often, each at moments of its own.
        """
        await self._release_all(deliveries)

    async def _release_all(self, deliveries: Sequence[Delivery]) -> None:
        by_stream: dict[InFlightEntries, list[Delivery]] = {}
        for delivery in deliveries:
            in_flight: InFlightEntries = delivery.token[2]
            if not in_flight.is_over:
                by_stream.setdefault(in_flight, []).append(delivery)
        for in_flight, some in by_stream.items():
            for start in range(0, len(some), _RELEASED_AT_ONCE):
                await self._release(in_flight, some[start : start + _RELEASED_AT_ONCE])

    async def _release(self, in_flight: InFlightEntries, deliveries: Sequence[Delivery]) -> None:
        first, last = entries.bounds(delivery.token[0] for delivery in deliveries)
        args: list[Any] = [in_flight.group, in_flight.incarnation, RELEASED, first, last]
        args += (len(deliveries), in_flight.source)
        for delivery in deliveries:
            args += delivery.token[:2]
        if _BEFORE_RELEASE is not None:
            _BEFORE_RELEASE()
        try:
            await self._client.run_script(scripts.RELEASE, (in_flight.stream,), args, idempotent=True)
        except RedisError as error:
            doing = f"releasing {len(deliveries)} of {in_flight.source}"
            next_step = "they stay pending, and are taken over when this node has ended"
            self._emit(events.BrokerTrouble(doing, str(error), next_step))
            return
        if _AFTER_RELEASE is not None:
            _AFTER_RELEASE()
        for delivery in deliveries:
            in_flight.release(delivery)
        # Entries that other nodes had taken over already are counted as well: they are not in flight here any more.
        self._counters.released += len(deliveries)
        self._emit(events.Released(in_flight.name, in_flight.group, len(deliveries)))

    def note(
        self, subscription: Subscription, delivery: Delivery, status: Status, progress: Progress | None = None
    ) -> None:
        self._settler.notes.note(delivery, status, progress)

    def resume(self, subscription: Subscription) -> None:
        for source_set in self._intake.of(subscription):
            source_set.resume()

    def pause_sources(self, subscription: Subscription, sources: Collection[str]) -> None:
        self._intake.pause_sources(subscription, sources)

    def now(self) -> float:
        return self._lease.now()

    def ready_at(self, delivery: Delivery) -> float | None:
        """Return since when the message of a delivery was ready, in seconds since the epoch, by the server's clock."""
        return self._intake.added.of_entry(delivery.token[0])

    def ready_of(self, deliveries: Sequence[Delivery]) -> Sequence[float]:
        """Return the same of several: what counts metrics asks for all that is handled."""
        return self._intake.added.of_entries([delivery.token[0] for delivery in deliveries])

    def notify(self, source: str | None) -> None:
        """Maintain a source, if this node reads it, now, or leave that to other nodes; None means all sources."""
        for part in self._intake.parts:
            part.reclaimer.notify(source)

    def learn(self, source: str, level: str) -> None:
        """Read a priority level of a source, if this node reads the source, from now on."""
        for source_set in self._intake.source_sets:
            if source in source_set.names:
                source_set.learn({source: (level.encode(),)})

    # ----------------------------------------------------------------------------------------------------------- lease

    def _lease_lost(self, lost: str, successor: str, reason: str) -> None:
        self._incarnation = successor
        for source_set in self._intake.source_sets:
            source_set.begin(successor)
            source_set.must_recover = False
        self._isolation.reset()
        for subscription in self._subscriptions:
            subscription.sink.revoke()
        self._emit(events.LeaseLost(lost, successor, reason))
        for part in self._intake.parts:
            part.reader.interrupt()
            part.reclaimer.maintain_within(0)

    def _on_lost(self, in_flight: InFlightEntries, lost: Iterable[tuple[bytes, bytes]]) -> None:
        """Have the messages of entries told that were deleted by hand; called by the tasks of the intake."""
        if self._lost is None:
            from actorwork.streams.lost import LostEntries  # noqa: PLC0415 - most nodes never need it

            self._lost = LostEntries(self._client, self._emit)
            self._intake_tasks.start_soon(self._lost.run)
        self._lost.report(in_flight, lost)

    def _lease_troubled(self, error: str, next_step: str) -> None:
        self._emit(events.BrokerTrouble("renewing the lease", error, next_step))

    def _no_connection(self, source_set: SourceSet, error: Exception) -> None:
        """Report that readers get no connection: once a minute for all of them."""
        now = trio.current_time()
        if now >= self._complain_at:
            self._complain_at = now + _COMPLAIN_EVERY
            doing = f"opening a connection to read {', '.join(source_set.names[:3])}"
            next_step = (
                "sources without one are read over the shared connection, every half second; their readers try again "
                "every 5 s"
            )
            self._emit(events.BrokerTrouble(doing, str(error), next_step))

    def _spawn(self, flush: Callable[..., Any], in_flight: InFlightEntries) -> None:
        self._settling.start_soon(flush, in_flight)

    def _release_soon(self, deliveries: Sequence[Delivery]) -> None:
        self._settling.start_soon(self._release_all, deliveries)
