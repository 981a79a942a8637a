"""How deliveries are handled of an actor with limits, batches, or handlers with a retry policy of their own.

    limits     what may not begin waits in the admission queue, which learns how the rest has ended
    batches    what is admitted gathers, and is handled together: one call of the handler, one settlement each
    retry      a handler's own policy takes the place of the actor's

An actor without any of these does not have this object, and pays nothing for it.

Each message of a batch goes through the middleware by itself, in a task of its own; `proceed` leads to the one call of
the handler, for all messages that have come so far. A message whose middleware does not proceed is not in that call.
What is published while a batch is handled may come from all of its messages (a sum, say), so it belongs to all that
were handled: these are settled together with it, or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import CoroutineType
from typing import TYPE_CHECKING, Any

import trio

from actorwork.actors.context.in_flight import InFlight, Stop, in_flight
from actorwork.actors.execution import local_calls
from actorwork.actors.execution.batches import Batch, BatchItem, BatchTimeout
from actorwork.actors.execution.deliveries import Deliveries, crash_for
from actorwork.actors.execution.watchdog import UNKNOWN
from actorwork.actors.execution.workplace import interrupts, is_from_outside
from actorwork.actors.limits.admission import EMPTY_PERMIT
from actorwork.codec import encode_result
from actorwork.errors import CodecError
from actorwork.message import FAILED, Status, is_result_wanted, is_tracked
from actorwork.policy.batches import outcomes_of
from actorwork.policy.settlement import ACK, Ack, Ending, Settlement, decisive, to_blame

if TYPE_CHECKING:
    from actorwork.actors.execution.workplace import Worker, Workplace
    from actorwork.actors.handlers.table import Handler
    from actorwork.actors.limits.admission import Permit
    from actorwork.actors.mailbox.calls import LocalCall
    from actorwork.message import Delivery, Envelope
    from actorwork.policy.retry import RetryPolicy


class GuardedDeliveries:
    """What comes before and after `Deliveries`: admission, batches, and the end of permits."""

    __slots__ = ("_actor", "_admission", "_batch", "_deliveries", "_may_batch", "_workplace")

    def __init__(self, workplace: Workplace, deliveries: Deliveries) -> None:
        self._workplace = workplace
        self._actor = workplace.actor
        self._deliveries = deliveries
        self._admission = workplace.actor.admission
        self._may_batch = any(handler.batch for handler in workplace.actor.handlers)
        self._batch: Sequence[BatchItem] = ()
        """The batch in flight, if one is."""
        deliveries.guard = self

    # ---- before ----

    def handle(self, worker: Worker, delivery: Delivery) -> CoroutineType[Any, Any, None]:
        """Admit a delivery, then handle it or let it join a batch."""
        # Not `async def`: where no permit is to be returned, the coroutine of `Deliveries.handle` is all there is to
        # run, and one around it would be a measurable part of the price of a rate limit.
        permit: Permit | None = None
        if delivery.headers and FAILED in delivery.headers:
            return self._deliveries.handle(worker, delivery)
        if self._admission is not None:
            try:
                permit = self._admission.enter(delivery)
            except Exception as error:  # noqa: BLE001 - what divides a limit may be a function of the user's
                self._deliveries.fail(worker, delivery, error)
                return _nothing()
            if permit is None:
                _let_go(worker)
                return _nothing()
        if self._may_batch:
            handler = self._handler_of(delivery)
            if handler is not None and handler.batch is not None:
                return self._gather(worker, delivery, handler, permit)
        if permit is None or not permit.grants:
            return self._deliveries.handle(worker, delivery, permit)
        return self._handle_and_leave(worker, delivery, permit)

    async def _handle_and_leave(self, worker: Worker, delivery: Delivery, permit: Permit) -> None:
        try:
            await self._deliveries.handle(worker, delivery, permit)
        finally:
            # Whatever has ended it, a cancellation from outside included: a permit that is kept would block its limit
            # for good. Where it was returned already, this does nothing.
            self._leave(permit)
            self._admit_waiting()

    async def handle_call(self, worker: Worker, call: LocalCall) -> None:
        """Handle a local call, or the batch whose time is over."""
        if isinstance(call, BatchTimeout):
            batch = self._actor.batches.take(call.batch)
            if batch is not None:
                await self._handle_batch(worker, batch)
            _let_go(worker)
        else:
            await local_calls.handle(worker, call)
        self._admit_waiting()

    def _handler_of(self, delivery: Delivery) -> Handler | None:
        try:
            return self._actor.behaviour.for_delivery(delivery)
        except CodecError:
            return None  # `Deliveries.handle` finds out, too, and settles it.

    # ---- after ----

    def _leave(self, permit: Permit | None, error: BaseException | None = None, *, done: bool = False) -> bool:
        if self._admission is None or permit is None or not permit.grants:
            return False
        return self._admission.leave(permit, error, done=done)

    def _admit_waiting(self) -> None:
        """Admit deliveries that wait, before this executor takes something else: it is free to begin one."""
        if self._admission is not None and self._admission.queues:
            self._admission.admit_waiting()
            # While no executor was free, the queue's own task could not know when to look again.
            self._admission.wake()

    def waits_again(self, permit: Permit | None, error: BaseException) -> bool:
        return self._leave(permit, error)

    def handled(self, permit: Permit | None) -> None:
        if permit is not EMPTY_PERMIT:
            self._leave(permit, done=True)

    def settled(self) -> None:
        self._admit_waiting()

    def retry_of(self, delivery: Delivery) -> RetryPolicy:
        handler = self._handler_of(delivery)
        return (None if handler is None else handler.retry) or self._actor.settings.retry

    # ---- batches ----

    @property
    def has_batch(self) -> bool:
        """Whether a batch is in flight."""
        return bool(self._batch)

    async def _gather(self, worker: Worker, delivery: Delivery, handler: Handler, permit: Permit | None) -> None:
        """Let a delivery wait for others, or handle it together with those that did."""
        assert handler.batch is not None  # noqa: S101 - for type checkers: the caller has looked
        if self._deliveries.is_cancelled(worker, delivery):
            self._leave(permit)
            return
        try:
            (message,), _ = handler.arguments_of(delivery)
        except Exception as error:  # noqa: BLE001 - a converter of the user's may raise anything
            self._deliveries.fail(worker, delivery, error)
            self._leave(permit)
            return
        size, within = handler.batch.size, handler.batch.within
        full = self._actor.batches.join(handler, size, within, BatchItem(delivery, message, permit))
        if full is None:
            _let_go(worker)
        else:
            await self._handle_batch(worker, full)

    async def _handle_batch(self, worker: Worker, batch: Batch) -> None:
        """Handle a batch to the settlement of each of its messages; the checks are those of `Deliveries.handle`."""
        items = [item for item in batch.items if not self._is_cancelled(worker, item)]
        if not items:
            _let_go(worker)
            return
        # From here until they are settled, all items are this executor's, and `give_up` finds them here.
        self._batch = items
        worker.item = items[0].delivery
        worker.began = trio.current_time()
        current = InFlight(items[0].delivery, tuple(item.delivery for item in items))
        in_flight.set(current)
        outcomes: list[Any] = []
        try:
            try:
                outcomes = await self._outcomes(worker, batch.handler, items)
            except Exception as error:
                if not isinstance(decisive(error), Stop) or worker.ended is not None:
                    raise
                self._workplace.finish()
                outcomes = [None] * len(items)
            blamed = None
            if worker.ended is not None:
                blamed = to_blame(None, ended=worker.ended, timeout=worker.timeout)
        except BaseException as error:
            if worker.ended is not None and not interrupts(error):
                blamed = to_blame(error, ended=worker.ended, timeout=worker.timeout)
            elif is_from_outside(error):
                current.end()
                raise
            else:
                blamed = error
        if worker.ended is not None and blamed is None:
            current.end()
            worker.give_up()
            return
        if blamed is not None:
            outcomes = [blamed] * len(items)
        self._settle_batch(worker, current, items, outcomes)

    def _is_cancelled(self, worker: Worker, item: BatchItem) -> bool:
        if not self._deliveries.is_cancelled(worker, item.delivery):
            return False
        self._leave(item.permit)
        return True

    async def _outcomes(self, worker: Worker, handler: Handler, items: Sequence[BatchItem]) -> list[Any]:
        if self._deliveries.has_middleware:
            return await self._through_layers_together(worker, handler, items)
        return await self._call(worker, handler, items)

    async def _call(self, worker: Worker, handler: Handler, items: Sequence[BatchItem]) -> list[Any]:
        messages = [item.message for item in items]
        consumer = self._actor.consumer
        for item in items:
            if consumer is not None and is_tracked(item.delivery.headers):
                consumer.note(item.delivery, Status.STARTED)

        async def call() -> list[Any]:
            if handler.is_async:
                answer = await handler.takes_many(self._workplace.instance, messages)
            else:
                answer = await self._deliveries.in_thread(worker, handler.takes_many, (messages,), {})
            return outcomes_of(answer, len(items))

        return await self._deliveries.in_instruments(worker, [item.delivery for item in items], call)()

    async def _through_layers_together(self, worker: Worker, handler: Handler, items: Sequence[BatchItem]) -> list[Any]:
        """Take each message through the middleware; call the handler once, when no more can come to it.

        A message has come when its middleware proceeds, or has ended without that.
        """
        outcomes: list[Any] = [None] * len(items)
        found: dict[int, Any] = {}
        coming = set(range(len(items)))
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

            try:
                outcomes[number] = await self._deliveries.in_middleware(worker, items[number].delivery, proceed)()
            except Exception as error:  # noqa: BLE001 - the error of a message is its outcome
                outcomes[number] = error
            has_come(number)

        async with trio.open_nursery() as nursery:
            for number in range(len(items)):
                nursery.start_soon(through, number)
            await all_came.wait()
            came.sort()
            if came:
                try:
                    answers = await self._call(worker, handler, [items[number] for number in came])
                except Exception as error:  # noqa: BLE001 - it goes to each of them, through its middleware
                    answers = [error] * len(came)
                found.update(zip(came, answers, strict=True))
            handled.set()
        return outcomes

    def _settle_batch(
        self, worker: Worker, current: InFlight, items: Sequence[BatchItem], outcomes: Sequence[Any]
    ) -> None:
        """Settle each message by its outcome; raises the first crash that one of them brings about."""
        deliveries, consumer = self._deliveries, self._actor.consumer
        published: Sequence[Envelope] = ()
        if current.outgoing is not None:
            try:
                published = current.outgoing.of_batch(self._actor.services.ids)
            except ValueError as error:
                outcomes = [error] * len(items)
        endings = [self._ending_of(item, outcome) for item, outcome in zip(items, outcomes, strict=True)]
        together: list[tuple[Delivery, Settlement]] = []
        if published:
            for item, ending in zip(items, endings, strict=True):
                if isinstance(ending.settlement, Ack):
                    self.handled(item.permit)
                    together.append((item.delivery, ending.settlement))
        if together and consumer is not None:
            consumer.settle_together(together, published)
        self._batch = ()
        share = (trio.current_time() - (worker.began or trio.current_time())) / len(items)
        crash: BaseException | None = None
        for item, ending in zip(items, endings, strict=True):
            if ending.settlement is None:
                if consumer is not None:
                    consumer.interrupted(item.delivery)
                continue
            # The time of a batch is divided among its messages: it is what the next ones are expected to take.
            worker.began = trio.current_time() - share
            if together and isinstance(ending.settlement, Ack):
                deliveries.settled(worker, current, item.delivery, ending.settlement)
            else:
                deliveries.settle(worker, current, item.delivery, ending.settlement, (), item.permit)
            crash = crash or crash_for(ending)
        current.end()
        _let_go(worker)
        if crash is not None:
            raise crash

    def _ending_of(self, item: BatchItem, outcome: Any) -> Ending:
        """Decide how one message of a batch ends."""
        delivery = item.delivery
        try:
            if not isinstance(outcome, BaseException):
                wanted = delivery.headers and is_result_wanted(delivery.headers)
                return Ending(Ack(encode_result(outcome, self._actor.settings.max_result_bytes)) if wanted else ACK)
        except CodecError as error:
            outcome = error
        ending = self._deliveries.ending(outcome, delivery, item.permit)
        self._leave(item.permit)
        return ending

    def give_up(self, worker: Worker) -> bool:
        """Let go of the batch in flight; return whether there was one."""
        batch, self._batch = self._batch, ()
        for item in reversed(batch):  # each to the front of the mailbox, so that they are in their order again
            self._leave(item.permit)
            self._deliveries.give_up(worker, item.delivery)
        return bool(batch)


def _let_go(worker: Worker) -> None:
    """Have nothing in flight: the delivery waits elsewhere."""
    worker.item = None
    worker.began = UNKNOWN


async def _nothing() -> None:
    """What is left to do for a delivery that waits elsewhere, or is settled."""
