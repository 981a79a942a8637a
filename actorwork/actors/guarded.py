"""An executor for an actor with limits: what is held back goes to the gate, and the gate learns how the rest ended.

An actor without limits has a plain `Executor`, and pays nothing for this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import trio

from actorwork.actors.context import Handling
from actorwork.actors.execution import Executor
from actorwork.actors.watchdog import UNKNOWN
from actorwork.errors import CodecError
from actorwork.policy.settlement import Ack, Fail, Settlement, decisive, failure_of, settlement_for

if TYPE_CHECKING:
    from actorwork.actors.cell import Cell
    from actorwork.actors.gate import Gate, Ticket
    from actorwork.message import Delivery, Envelope


class GuardedExecutor(Executor):
    """Handles what the gate lets through."""

    __slots__ = ("_gate", "_ticket")

    def __init__(self, cell: Cell, instance: Any, gate: Gate) -> None:
        super().__init__(cell, instance)
        self._gate = gate
        self._ticket: Ticket | None = None

    async def _handle_delivery(self, delivery: Delivery) -> None:
        try:
            ticket = self._ticket = self._gate.enter(delivery)
        except Exception as error:  # noqa: BLE001 - what divides a limit may be a function of the user's
            self.began = trio.current_time()
            self._settle(Handling(delivery), delivery, Fail(failure_of(error)))
            return
        if ticket is None:
            self._item = None
            self.began = UNKNOWN
            return
        try:
            await super()._handle_delivery(delivery)
        finally:
            self._gate.leave(ticket)

    def _settlement_for(self, error: BaseException, delivery: Delivery) -> Settlement | None:
        if self._ticket is not None and self._gate.leave(self._ticket, decisive(error)):
            return None
        try:
            handler = (self._cell.behaviour or self._cell.handlers).for_delivery(delivery)
        except CodecError:  # It was there when the handler began, and has been changed since (`become`).
            return super()._settlement_for(error, delivery)
        retry = handler.retry or self._cell.settings.retry
        return settlement_for(error, attempt=delivery.attempt, retry=retry, dice=self._services.dice)

    def _settle(
        self, current: Handling, delivery: Delivery, settlement: Settlement, published: Sequence[Envelope] = ()
    ) -> None:
        if self._ticket is not None and type(settlement) is Ack:
            self._gate.leave(self._ticket, done=True)
        super()._settle(current, delivery, settlement, published)
