"""Where an actor meets the broker: it receives the deliveries, and settles or releases them.

    reader ──offer──▶ mailbox (and stash, batches, admission queue) ──▶ executor ──settle──▶ the broker's node
                          └── will not be handled here ──▶ given up ──release──▶ the broker, for another node

Only the actors of the declared tree have a consumer; those that are started later are local. A delivery that will not
be handled here (it has not begun, or a shutdown has ended its handler) is kept as given up until
`release_deliveries`. Once the intake is over nothing more is begun, whatever a reader still brings.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Protocol

import trio

from actorwork import events
from actorwork.abc import Node, Subscription
from actorwork.actors.tree.hooks import has_hook
from actorwork.errors import BrokerError, NotRunning
from actorwork.message import Delivery
from actorwork.policy.settlement import ACK, Fail, cancelled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from actorwork.abc import EventSink
    from actorwork.actors.entities.counts import EntityCounts
    from actorwork.actors.life.cancelling import CancellableIncarnation, HandlersAtWork
    from actorwork.actors.life.services import Quota
    from actorwork.actors.limits.admission import AdmissionQueue
    from actorwork.actors.mailbox.calls import Item
    from actorwork.actors.mailbox.mailbox import Mailbox
    from actorwork.actors.tree.spec import Child
    from actorwork.message import Envelope, Status
    from actorwork.policy.entities import FoundState, StateChange
    from actorwork.policy.settlement import Ack, Reject, Settlement
    from actorwork.records import Progress
    from actorwork.settings import Settings


if TYPE_CHECKING:

    class Holding(Protocol):
        """Where deliveries wait: the mailbox, the admission queue, batches, the stash."""

        def __iter__(self) -> Iterator[Item]:
            """Yield what waits."""
            ...

        def take_deliveries(self, sources: Collection[str] | None = None) -> list[Delivery]:
            """Remove and return the deliveries that wait.

            With `sources`, those that a pause of these sources takes back. Deliveries of other sources may come along:
            they are offered again.
            """
            ...

    class ConsumerServices(Protocol):
        """What a consumer uses of what all actors share."""

        @property
        def emit(self) -> EventSink: ...
        @property
        def start_soon(self) -> Callable[..., None]: ...
        @property
        def quota(self) -> Quota | None: ...
        @property
        def watchdog(self) -> HandlersAtWork: ...

    class ConsumerOwner(Protocol):
        """The actor that a consumer works for."""

        title: str
        settings: Settings
        child: Child
        mailbox: Mailbox
        admission: AdmissionQueue | None

        @property
        def current(self) -> CancellableIncarnation | None: ...
        @property
        def over(self) -> bool: ...
        @property
        def stopping(self) -> bool:
            """Whether its incarnation begins nothing more."""
            ...

        def holdings(self) -> Iterable[Holding]: ...
        def revoke_in_flight(self) -> None: ...


class Consumer:
    """One actor's deliveries: an `abc.DeliverySink` for readers, and the way back for executors."""

    __slots__ = (
        "_emit",
        "_forced",
        "_given_up",
        "_node",
        "_owner",
        "_paused",
        "_quota",
        "_start_soon",
        "_watchdog",
        "cancelled",
        "entity_counts",
        "failed",
        "hold_known",
        "intake_over",
        "load_ahead",
        "subscription",
        "token",
    )

    def __init__(self, owner: ConsumerOwner, services: ConsumerServices) -> None:
        settings = owner.settings
        self._owner = owner
        self._emit = services.emit
        self.failed = 0
        """How many messages have failed for good."""
        self._start_soon = services.start_soon
        self._quota = services.quota
        self._watchdog = services.watchdog
        self._forced: set[tuple[str, str]] = set()
        """Those of `cancelled` that were cancelled with force while they were in flight, and a few that are over."""
        self._node: Node | None = None
        self._given_up: list[Delivery] = []
        self._paused: frozenset[str] = frozenset()
        self.intake_over = False
        self.token: trio.lowlevel.TrioToken | None = None
        """For what comes from the threads of handlers."""
        self.cancelled: dict[tuple[str, str], tuple[Reject, bool]] = {}
        """The messages here that were cancelled, by source and id: how each ends, and whether that is settled."""
        self.entity_counts: EntityCounts | None = None
        """What an entity has done so far, all of its incarnations together; the first of them sets it."""
        self.load_ahead: Callable[[Sequence[Delivery]], None] | None = None
        """Begins to load the states of deliveries that have come; of an entity, its incarnation sets it."""
        self.hold_known: Callable[[Sequence[Delivery], Sequence[str]], None] | None = None
        """Notes the stamps of states that the broker has told with the deliveries; set likewise."""
        self.subscription = Subscription(
            group=settings.id,
            actor=owner.title,
            sources=settings.all_sources,
            sink=self,
            max_crashes=settings.max_crashes,
            dead_letters=settings.dead_letters,
            decode=settings.decoders,
            shards=settings.shards,
            is_told_failures=has_hook(owner.child.actor, "failed"),
            states_known=self._states_known if getattr(owner.child.actor, "__actorwork_entity__", False) else None,
        )

    def __repr__(self) -> str:
        return f"<consumer of {self._owner.title!r}: {len(self._given_up)} given up>"

    def attach(self, node: Node | None) -> None:
        """Set the node that settles deliveries; None: there is none any more."""
        self._node = node
        self.token = None if node is None else trio.lowlevel.current_trio_token()
        if node is not None and self._paused:
            node.pause_sources(self.subscription, self._paused)

    # ---- the reader's side ----

    def credit(self, *, urgent: bool = False) -> int:
        owner = self._owner
        if self.intake_over or owner.over or len(self._paused) == len(self.subscription.sources):
            return 0
        room = owner.mailbox.credit(urgent=urgent)
        if self._quota is not None:
            room = min(room, self._quota.left)
        return room if owner.admission is None else owner.admission.credit(room, urgent=urgent)

    def offer(self, deliveries: Sequence[Delivery]) -> None:
        too_many = 0 if self._quota is None else self._quota.take(len(deliveries))
        if self.intake_over:
            self._given_up += deliveries
            return
        if too_many:
            # Several readers had room for them, each by itself.
            self._given_up += deliveries[-too_many:]
            self._start_soon(self._release_given_up)
            deliveries = deliveries[:-too_many]
        if self._paused:
            # A reader's request may have been under way when the pause came, so what it brings is late.
            late = [delivery for delivery in deliveries if delivery.source in self._paused]
            if late:
                self._given_up += late
                self._start_soon(self._release_given_up)
                deliveries = [delivery for delivery in deliveries if delivery.source not in self._paused]
        if self.load_ahead is not None:
            self.load_ahead(deliveries)
        self._owner.mailbox.offer(deliveries)

    def cancel(self, source: str, message_id: str, reason: str, *, force: bool = False) -> None:
        # Imported here: most programs cancel nothing, and a node starts faster without.
        from actorwork.actors.life.cancelling import cancel_in_flight, report_if_ignored, waiting_in  # noqa: PLC0415

        key, settlement = (source, message_id), cancelled(reason)
        known = self.cancelled.get(key)
        if known is None:
            self._forced.discard(key)
            if cancel_in_flight(self._owner.current, source, message_id) is not None:
                known = self.cancelled[key] = settlement, False
        if known is not None:
            _, is_settled = known
            if force and not is_settled and key not in self._forced:
                self._forced.add(key)
                self._start_soon(report_if_ignored, self._watchdog, self._emit, self._owner, message_id)
            return
        waiting = waiting_in(self._owner.holdings(), source, message_id)
        if waiting is not None:
            self.settle(waiting, settlement)
            self.cancelled[key] = settlement, True
            self._emit(events.Settled(self._owner.settings.id, self._owner.title, waiting, settlement, 0.0))

    def revoke(self) -> None:
        """Drop the deliveries that wait and cancel those in flight: they belong to other nodes now."""
        dropped = self.take_given_up()
        self.cancelled.clear()
        self._forced.clear()
        if self._quota is not None:
            self._quota.give_back(len(dropped))
        self._owner.revoke_in_flight()

    def resume(self) -> None:
        """Report to the node that there is credit again."""
        if self._node is not None and not self.intake_over:
            self._node.resume(self.subscription)

    # ---- pauses ----

    def pause_sources(self, sources: frozenset[str]) -> None:
        """Begin nothing from these sources until it is called again with others; release what has come from them.

        What is in flight continues, and what the actor has stashed stays.
        """
        before, self._paused = self._paused, sources
        if self._node is not None and not self.intake_over:
            self._node.pause_sources(self.subscription, sources)
            if sources - before:
                taken = self._taken(sources)
                if self._quota is not None:
                    self._quota.give_back(len(taken))  # They come once more.
                self.offer(taken)  # which keeps those of paused sources apart
            self.resume()

    def _taken(self, sources: Collection[str] | None = None) -> list[Delivery]:
        return [delivery for holding in self._owner.holdings() for delivery in holding.take_deliveries(sources)]

    async def _release_given_up(self) -> None:
        deliveries, self._given_up = self._given_up, []
        await self._release(deliveries)

    # ---- the executors' side ----

    def settle(self, delivery: Delivery, settlement: Settlement, published: Sequence[Envelope] = ()) -> None:
        if settlement is not ACK and type(settlement) is Fail:
            self.failed += 1
        if self._node is not None:
            self._node.settle(self.subscription, delivery, settlement, published)
        if self.cancelled:
            self.cancelled.pop((delivery.source, delivery.id), None)
        if self._quota is not None:
            self._quota.ended(1)

    def settle_together(self, settled: Sequence[tuple[Delivery, Settlement]], published: Sequence[Envelope]) -> None:
        self.failed += sum(type(settlement) is Fail for _, settlement in settled)
        if self._node is not None:
            self._node.settle_together(self.subscription, settled, published)
        if self._quota is not None:
            self._quota.ended(len(settled))

    async def publish_fenced(self, delivery: Delivery, published: Sequence[Envelope]) -> bool:
        return self._node is not None and await self._node.publish_fenced(self.subscription, delivery, published)

    async def keep_ahead(self, delivery: Delivery, ack: Ack) -> Ack | None:
        """Keep large runs that an ack starts; return the ack that starts them, or None if the delivery is not ours."""
        return None if self._node is None else await self._node.keep_ahead(delivery, ack)

    def note(self, delivery: Delivery, status: Status, progress: Progress | None = None) -> None:
        """Note where a tracked delivery is in its life, and how far its handler is. Never waits."""
        if self._node is not None:
            self._node.note(self.subscription, delivery, status, progress)

    def now(self) -> float:
        """Return the broker's clock, in seconds since the epoch; without a node, minus infinity."""
        return -math.inf if self._node is None else self._node.now()

    def interrupted(self, delivery: Delivery) -> None:
        """Take back a delivery whose handler was cancelled before it had ended."""
        owner = self._owner
        # Back to the front of the mailbox only if an incarnation will take it there soon. During a shutdown, a delivery
        # in the mailbox would stay leased until the node's end, although another node could run it at once.
        if owner.stopping or self.intake_over or owner.mailbox.paused:
            self._given_up.append(delivery)
            owner.mailbox.delivery_ended(0.0)
        else:
            owner.mailbox.put_back(delivery)

    def hand_back(self, delivery: Delivery, *, after: float) -> None:
        """Release a delivery that cannot be handled here now, in `after` seconds at the latest, without counting it.

        For as long again it is left to other nodes.
        """
        self._given_up.append(delivery)
        self._owner.mailbox.delivery_ended(0.0)
        self._start_soon(self._release_later, after)

    async def _release_later(self, after: float) -> None:
        await trio.sleep(after)
        deliveries, self._given_up = self._given_up, []
        await self._release(deliveries, aside=after)

    # ---- the states of entities ----

    async def load_states(self, wanted: Sequence[tuple[Delivery, str]]) -> Sequence[FoundState]:
        """Return the committed states of the keys of deliveries, each True if it still has the stamp given with it."""
        if self._node is None:
            raise NotRunning("there is no broker any more")
        return await self._node.load_states(self.subscription, wanted)

    def _states_known(self, deliveries: Sequence[Delivery], stamps: Sequence[str]) -> None:
        if self.hold_known is not None:
            self.hold_known(deliveries, stamps)

    async def commit_state(self, delivery: Delivery, change: StateChange | None, published: Sequence[Envelope]) -> bool:
        """Change the state of the key of a delivery that goes on, and publish; return whether it is still ours.

        Raises `StateConflict` if the state has another version.
        """
        if self._node is None:
            return False
        return await self._node.publish_fenced(self.subscription, delivery, published, state=change)

    # ---- releasing ----

    def end_intake(self) -> None:
        """Begin no further delivery: what waits, and what a reader still brings, is for `release_deliveries`."""
        self.intake_over = True
        self._given_up += self._taken()

    def take_given_up(self) -> list[Delivery]:
        """Return the deliveries that will not be handled here, stashed ones included."""
        found = self._given_up + self._taken()
        self._given_up = []
        if self.cancelled:
            settled = {key for key, (_, is_settled) in self.cancelled.items() if is_settled}
            found = [delivery for delivery in found if (delivery.source, delivery.id) not in settled]
            # Those whose handlers still run are in flight, and not among these.
            for delivery in found:
                self.cancelled.pop((delivery.source, delivery.id), None)
        return found

    async def release_deliveries(self) -> int:
        """Release what will not be handled here; return how many deliveries those are.

        If the broker fails, or this is cancelled, they stay ours until the lease is released or runs out.
        """
        deliveries = self.take_given_up()
        await self._release(deliveries)
        return len(deliveries)

    async def _release(self, deliveries: Sequence[Delivery], *, aside: float = 0.0) -> None:
        if self._quota is not None:
            self._quota.give_back(len(deliveries))
        if deliveries and self._node is not None:
            try:
                await self._node.release_deliveries(self.subscription, deliveries, aside=aside)
            except BrokerError as error:
                what_next = "they are run elsewhere after this node's end"
                self._emit(events.BrokerTrouble("handing back", str(error), what_next))
