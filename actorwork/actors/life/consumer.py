"""Where an actor meets the broker: an `abc.DeliverySink` for its deliveries, and the way back for what became of them.

Only the actors of the declared tree have one; those that are started later are local. A delivery that will not be
handled here (unread, or its handler was ended by a shutdown) is kept until `release_deliveries`. Once the intake is
over, nothing more is begun, whatever a reader still brings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from actorwork import events
from actorwork.abc import Node, Subscription
from actorwork.errors import BrokerError

if TYPE_CHECKING:
    from actorwork.actors.life.cell import Cell
    from actorwork.message import Delivery, Envelope
    from actorwork.policy.settlement import Settlement


class Consumer:
    """One actor's deliveries."""

    __slots__ = ("_cell", "_given_up", "_node", "_withheld", "intake_over", "subscription")

    def __init__(self, cell: Cell) -> None:
        settings = cell.settings
        self._cell = cell
        self._node: Node | None = None
        self._given_up: list[Delivery] = []
        self._withheld: frozenset[str] = frozenset()
        self.intake_over = False
        self.subscription = Subscription(
            group=settings.id,
            actor=cell.title,
            sources=settings.all_sources,
            sink=self,
            max_crashes=settings.max_crashes,
            dead_letters=settings.dead_letters,
        )

    def __repr__(self) -> str:
        return f"<feed of {self._cell.title!r}: {len(self._given_up)} given up>"

    def attach(self, node: Node | None) -> None:
        """Say where deliveries are settled; None: nowhere any more."""
        self._node = node
        if node is not None and self._withheld:
            node.pause_sources(self.subscription, self._withheld)

    # ---- the reader's side ----

    def credit(self, *, urgent: bool = False) -> int:
        cell = self._cell
        if self.intake_over or cell.over or len(self._withheld) == len(self.subscription.sources):
            return 0
        room = cell.mailbox.credit(urgent=urgent)
        return room if cell.admission is None else cell.admission.credit(room, urgent=urgent)

    def offer(self, deliveries: Sequence[Delivery]) -> None:
        if self.intake_over:
            self._given_up += deliveries
            return
        if self._withheld:
            # Read before the reader knew.
            late = [delivery for delivery in deliveries if delivery.source in self._withheld]
            if late:
                self._given_up += late
                self._cell.services.start_soon(self._release_given_up)
                deliveries = [delivery for delivery in deliveries if delivery.source not in self._withheld]
        self._cell.mailbox.offer(deliveries)

    def revoke(self) -> None:
        """Forget the deliveries that wait, cancel those in hand: they belong to others now."""
        self.take_given_up()
        self._cell.revoke_in_hand()

    def resume(self) -> None:
        """Say that the mailbox has room again."""
        if self._node is not None and not self.intake_over:
            self._node.resume(self.subscription)

    # ---- pauses ----

    def pause_sources(self, sources: frozenset[str]) -> None:
        """Begin nothing from these sources until it is called again with others; give back what has come from them.

        What is in hand, or was set aside by the actor, goes on.
        """
        before, self._withheld = self._withheld, sources
        if self._node is not None and not self.intake_over:
            self._node.pause_sources(self.subscription, sources)
            if sources - before:
                admission, mailbox = self._cell.admission, self._cell.mailbox
                gathered = self._cell.take_gathered_deliveries(sources)
                waiting = [
                    *gathered,
                    *(() if admission is None else admission.take_all()),
                    *mailbox.remove_deliveries(),
                ]
                self.offer(waiting)
            self.resume()

    async def _release_given_up(self) -> None:
        deliveries, self._given_up = self._given_up, []
        await self._give_back(deliveries)

    # ---- the executors' side ----

    def settle(self, delivery: Delivery, settlement: Settlement, published: Sequence[Envelope] = ()) -> None:
        if self._node is not None:
            self._node.settle(self.subscription, delivery, settlement, published)

    async def publish_fenced(self, delivery: Delivery, published: Sequence[Envelope]) -> bool:
        return self._node is not None and await self._node.publish_fenced(self.subscription, delivery, published)

    def now(self) -> float:
        """Return the broker's clock, in seconds since the epoch; before the beginning of time without a node."""
        return -math.inf if self._node is None else self._node.now()

    def interrupted(self, delivery: Delivery) -> None:
        """Take a delivery back from an executor that was ended while it had it in hand."""
        cell = self._cell
        if cell.stopping or self.intake_over or cell.mailbox.paused:
            self._given_up.append(delivery)
            cell.mailbox.delivery_ended(0.0)
        else:
            cell.mailbox.put_back(delivery)

    # ---- giving back ----

    def end_intake(self) -> None:
        """Take no further delivery in hand: what waits, and what a reader still brings, is for `release_deliveries`."""
        self.intake_over = True
        self._given_up += self._cell.mailbox.remove_deliveries() + self._cell.take_waiting_deliveries()

    def take_given_up(self) -> list[Delivery]:
        """Return the deliveries that will not be handled here, also those that were set aside."""
        found = self._given_up + self._cell.mailbox.remove_deliveries() + self._cell.take_waiting_deliveries()
        self._given_up = []
        return found

    async def release_deliveries(self) -> int:
        """Give back what will not be handled here; return how many that were.

        If the broker fails, or this is cancelled, they stay ours until the lease is released or runs out.
        """
        deliveries = self.take_given_up()
        await self._give_back(deliveries)
        return len(deliveries)

    async def _give_back(self, deliveries: Sequence[Delivery]) -> None:
        if deliveries and self._node is not None:
            try:
                await self._node.release_deliveries(self.subscription, deliveries)
            except BrokerError as error:
                what_next = "they are run elsewhere after this node's end"
                self._cell.services.emit(events.BrokerTrouble("handing back", str(error), what_next))
