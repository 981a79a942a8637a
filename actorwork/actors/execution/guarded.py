"""An executor for an actor with limits, batches, or handlers that are retried in their own way.

    limits     what is held back goes to the admission queue, and the admission queue learns how the rest ended
    batches    what is let through gathers, and is handled together: one call of the handler, one settlement each
    retry      a handler's own policy takes the place of the actor's

An actor without any of these has a plain `Executor`, and pays nothing for them.

Each message of a batch goes through the middleware by itself, in a task of its own; `proceed` leads to the one call for
all that have come so far. Who does not proceed is not in that call. What is published while a batch is handled is sent
with the settlement of its first message that was handled.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from types import CoroutineType
from typing import TYPE_CHECKING, Any

import trio

from actorwork.actors.context.in_flight import InFlight, Stop, in_flight
from actorwork.actors.execution.batches import Batch, BatchItem, BatchTimeout
from actorwork.actors.execution.executor import ACK, EndReason, Executor, interrupts, is_nobodys
from actorwork.actors.execution.watchdog import UNKNOWN
from actorwork.actors.limits.admission import EMPTY_PERMIT
from actorwork.codec import encode_value
from actorwork.errors import CodecError, Verdict
from actorwork.message import REPLY_TO, RESULT_TTL
from actorwork.policy.batches import outcomes_of
from actorwork.policy.settlement import Ack, Fail, Retry, Settlement, decisive, failure_of, settlement_for

if TYPE_CHECKING:
    from actorwork.actors.handlers.table import Handler
    from actorwork.actors.life.cell import Cell
    from actorwork.actors.limits.admission import Permit
    from actorwork.actors.mailbox.calls import LocalCall
    from actorwork.message import Delivery, Envelope


class GuardedExecutor(Executor):
    """Handles what the admission queue lets through, alone or in batches."""

    __slots__ = ("_admission", "_batch", "_may_batch", "_permit")

    def __init__(self, cell: Cell, instance: Any) -> None:
        super().__init__(cell, instance)
        self._admission = cell.admission
        self._may_batch = any(handler.batch for handler in cell.handlers)
        self._permit: Permit | None = None
        self._batch: Sequence[BatchItem] = ()
        """What is in hand, where that is a batch."""

    def _handle_delivery(self, delivery: Delivery) -> CoroutineType[Any, Any, None]:
        # No coroutine of its own: where nothing is to be given back, the plain way is all there is to do.
        try:
            permit = self._permit = None if self._admission is None else self._admission.enter(delivery)
        except Exception as error:  # noqa: BLE001 - what divides a limit may be a function of the user's
            self._fail(delivery, error)
            return _nothing()
        if permit is None and self._admission is not None:
            self._let_go()
            return _nothing()
        if self._may_batch:
            handler = self._handler_of(delivery)
            if handler is not None and handler.batch is not None:
                return self._gather(delivery, handler, permit)
        if permit is None or not permit.grants:
            return super()._handle_delivery(delivery)
        return self._handle_and_leave(delivery, permit)

    async def _handle_and_leave(self, delivery: Delivery, permit: Permit) -> None:
        try:
            await super()._handle_delivery(delivery)
        finally:
            self._leave(permit)
            self._admit_waiting()

    def _handler_of(self, delivery: Delivery) -> Handler | None:
        try:
            return (self._cell.behaviour or self._cell.handlers).for_delivery(delivery)
        except CodecError:
            return None  # Whoever wants to handle it finds out, too, and settles it.

    def _fail(self, delivery: Delivery, error: Exception) -> None:
        self.began = trio.current_time()
        self._settle(InFlight(delivery), delivery, Fail(failure_of(error)))

    def _let_go(self) -> None:
        """Have nothing in hand: it waits elsewhere."""
        self._item = None
        self.began = UNKNOWN

    def _admit_waiting(self) -> None:
        """Call who waits, now that there is somebody to begin it: before something else is taken."""
        if self._admission is not None and self._admission.queues:
            self._admission.admit_waiting()
            self._admission.wake()  # When to look again was not known while there was nobody.

    def _leave(self, permit: Permit | None, error: BaseException | None = None, *, done: bool = False) -> bool:
        if self._admission is None or permit is None or not permit.grants:
            return False
        return self._admission.leave(permit, error, done=done)

    def _settlement_for(self, error: BaseException, delivery: Delivery) -> Settlement | None:
        if self._leave(self._permit, decisive(error)):
            return None
        handler = self._handler_of(delivery)
        retry = (None if handler is None else handler.retry) or self._cell.settings.retry
        return settlement_for(error, attempt=delivery.attempt, retry=retry, dice=self._services.dice)

    def _settle(
        self, current: InFlight, delivery: Delivery, settlement: Settlement, published: Sequence[Envelope] = ()
    ) -> None:
        if type(settlement) is Ack and self._permit is not EMPTY_PERMIT:
            self._leave(self._permit, done=True)
        super()._settle(current, delivery, settlement, published)
        self._admit_waiting()

    # ---- batches ----

    async def _gather(self, delivery: Delivery, handler: Handler, permit: Permit | None) -> None:
        """Let a delivery wait for others, or handle it together with those that did."""
        assert handler.batch is not None  # noqa: S101 - for type checkers: the caller has looked
        try:
            (message,), _ = handler.arguments_of(delivery)
        except Exception as error:  # noqa: BLE001 - a converter of the user's may raise anything
            self._fail(delivery, error)
            self._leave(permit)
            return
        size, within = handler.batch.size, handler.batch.within
        full = self._cell.batches.join(handler, size, within, BatchItem(delivery, message, permit))
        if full is None:
            self._let_go()
        else:
            await self._handle_batch(full)

    def _begin(self, call: LocalCall) -> Awaitable[object]:
        if isinstance(call.message, BatchTimeout):
            return self._handle_due(call.message)
        return super()._begin(call)

    async def _handle_due(self, due: BatchTimeout) -> None:
        gathering = self._cell.batches.take(due.gathering)
        if gathering is not None:
            await self._handle_batch(gathering)

    def _local_returned(self, call: LocalCall, value: object) -> None:
        if isinstance(call.message, BatchTimeout):
            self._let_go()  # All of it is settled, or was given up.
        else:
            super()._local_returned(call, value)
        self._admit_waiting()

    def _local_raised(self, call: LocalCall, error: BaseException) -> None:
        if isinstance(call.message, BatchTimeout):
            raise error
        super()._local_raised(call, error)

    async def _handle_batch(self, gathering: Batch) -> None:
        members = self._batch = gathering.members
        self._item = members[0].delivery
        self.began = trio.current_time()
        current = InFlight(members[0].delivery, tuple(member.delivery for member in members))
        in_flight.set(current)
        outcomes: list[Any] = []
        try:
            try:
                outcomes = await self._outcomes(gathering.handler, members)
            except Exception as error:
                if not isinstance(decisive(error), Stop) or self._ended is not None:
                    raise
                self._cell.finish()
                outcomes = [None] * len(members)
            blamed = self._ended_error(None) if self._ended is not None else None
        except BaseException as error:
            if self._ended is not None and not interrupts(error):
                blamed = self._ended_error(error)
            elif is_nobodys(error):
                current.end()
                raise
            else:
                blamed = error
        if self._ended is not None and blamed is None:
            current.end()
            self._give_up_item()
            return
        if blamed is not None:
            outcomes = [blamed] * len(members)
        await self._settle_batch(current, members, outcomes)

    async def _outcomes(self, handler: Handler, members: Sequence[BatchItem]) -> list[Any]:
        if self._cell.layers:
            return await self._through_layers_together(handler, members)
        return await self._call(handler, members)

    async def _call(self, handler: Handler, members: Sequence[BatchItem]) -> list[Any]:
        messages = [member.message for member in members]
        if handler.is_async:
            answer = await handler.takes_many(self._instance, messages)
        else:
            answer = await self._in_thread(handler.takes_many, (messages,), {})
        return outcomes_of(answer, len(members))

    async def _through_layers_together(self, handler: Handler, members: Sequence[BatchItem]) -> list[Any]:
        outcomes: list[Any] = [None] * len(members)
        found: dict[int, Any] = {}
        coming = set(range(len(members)))
        all_came, handled = trio.Event(), trio.Event()
        came: list[int] = []

        def has_come(number: int) -> None:
            coming.discard(number)
            if not coming:
                all_came.set()

        async def through(number: int) -> None:
            async def proceed() -> object:
                came.append(number)
                has_come(number)
                await handled.wait()
                if isinstance(found[number], BaseException):
                    raise found[number]
                return found[number]

            chain: Callable[[], Awaitable[object]] = proceed
            for layer in reversed(self._cell.layers):
                chain = partial(layer, members[number].delivery, chain)
            try:
                outcomes[number] = await chain()
            except Exception as error:  # noqa: BLE001 - whatever a message ends of is its outcome
                outcomes[number] = error
            has_come(number)

        async with trio.open_nursery() as nursery:
            for number in range(len(members)):
                nursery.start_soon(through, number)
            await all_came.wait()
            came.sort()
            if came:
                try:
                    answers = await self._call(handler, [members[number] for number in came])
                except Exception as error:  # noqa: BLE001 - it goes to each of them, through its middleware
                    answers = [error] * len(came)
                found.update(zip(came, answers, strict=True))
            handled.set()
        return outcomes

    async def _settle_batch(self, current: InFlight, members: Sequence[BatchItem], outcomes: Sequence[Any]) -> None:
        """Settle each message by its outcome; raises the crash that one of them brings about."""
        settlements = [self._of_member(member, outcome) for member, outcome in zip(members, outcomes, strict=True)]
        published: Sequence[Envelope] = ()
        carrier = next((n for n, settlement in enumerate(settlements) if type(settlement) is Ack), None)
        if current.outgoing is not None and carrier is not None:
            # None: they belong to another node by now, and no settlement of theirs will take effect.
            published = await self._send_ahead(current.outgoing, members[carrier].delivery) or ()
        self._batch = ()
        now = trio.current_time()
        share = (now - (self.began or now)) / len(members)
        crash: Exception | None = None
        for number, (member, settlement, outcome) in enumerate(zip(members, settlements, outcomes, strict=True)):
            if settlement is None:
                if self._consumer is not None:
                    self._consumer.interrupted(member.delivery)
                continue
            self._permit = member.permit
            self.began = trio.current_time() - share
            self._settle(current, member.delivery, settlement, published if number == carrier else ())
            if isinstance(settlement, (Fail, Retry)) and isinstance(outcome, BaseException):
                cause = decisive(outcome)
                if not isinstance(cause, Verdict):
                    crash = crash or self._crash_of(outcome)
        self._permit = None
        current.end()
        self._let_go()
        if crash is not None:
            raise crash

    def _of_member(self, member: BatchItem, outcome: Any) -> Settlement | None:
        """Decide how one message of a batch ends; None: it goes back to the mailbox."""
        self._permit, delivery = member.permit, member.delivery
        try:
            if not isinstance(outcome, BaseException):
                wanted = delivery.headers and (REPLY_TO in delivery.headers or RESULT_TTL in delivery.headers)
                return Ack(encode_value(outcome)) if wanted else ACK
        except CodecError as error:
            outcome = error
        settlement = self._settlement_for(outcome, delivery)
        self._leave(member.permit)
        return settlement

    def _give_up_item(self) -> None:
        batch, self._batch = self._batch, ()
        if not batch:
            super()._give_up_item()
            return
        self._item = None
        for member in reversed(batch):  # to the front of the mailbox, so that they are in their order again
            self._leave(member.permit)
            if self._ended is EndReason.REVOKED:
                self._cell.mailbox.delivery_ended(0.0)
            elif self._consumer is not None:
                self._consumer.interrupted(member.delivery)


async def _nothing() -> None:
    """What is left to do for a delivery that waits elsewhere, or is settled."""
