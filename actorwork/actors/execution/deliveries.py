"""How a delivery is handled: expired? ─▶ arguments ─▶ middleware, handler ─▶ ending ─▶ settlement.

Its error fails the message, and the actor lives, unless `on_failure` says otherwise. Here everything is caught:
whatever comes out of a handler becomes a settlement or a crash. The order of the checks matters. If we have cancelled
the handler (too long, lease lost, shutdown), that is what ended it, whatever came out. Next are `KeyboardInterrupt` and
a cancellation from outside, which are no results of the handler: the delivery goes back to the mailbox. Only then
`ending_of` looks at the error itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import attrs
import trio

from actorwork import events
from actorwork.abc import ack_notes_of, acks_of, meter_of
from actorwork.actors.context.in_flight import InFlight, Stop, in_flight
from actorwork.actors.crash import Crash
from actorwork.actors.execution.threads import run_in_thread
from actorwork.actors.execution.watchdog import UNKNOWN
from actorwork.actors.execution.workplace import explained, interrupts, is_from_outside
from actorwork.actors.mailbox.calls import PENDING, CallState
from actorwork.codec import encode_result
from actorwork.failpoints import failpoint
from actorwork.message import FAILED, FLOW, MARKS, RESULT_TTL, Json, Status
from actorwork.policy.minutes import TOGETHER
from actorwork.policy.settlement import (
    ACK,
    Ack,
    Ending,
    EndReason,
    Fail,
    Reject,
    Retry,
    Settlement,
    cancelled,
    decisive,
    ending_of,
    expired,
    failure_of,
    to_blame,
    with_state,
)

if TYPE_CHECKING:
    from actorwork.abc import Meter
    from actorwork.actors.context.publishing import PublishBuffer
    from actorwork.actors.execution.workplace import Worker, Workplace
    from actorwork.actors.handlers.table import Handler
    from actorwork.actors.limits.admission import Permit
    from actorwork.message import Delivery, Envelope
    from actorwork.policy.retry import RetryPolicy

BACK_TO_MAILBOX: Final = Ending(None)
STALL: Final = 1.0
"""Seconds after which a delivery is released that no node may be able to handle now."""
_BEGUN: Final = failpoint("handler.begun")
_RETURNED: Final = failpoint("handler.returned")


if TYPE_CHECKING:

    class Guard(Protocol):
        """What limits and handlers' own policies change about the end of a delivery."""

        def waits_again(self, permit: Permit | None, error: BaseException) -> bool:
            """Give the permit back, since the handler has failed; return whether the delivery has to wait again."""
            ...

        def handled(self, permit: Permit | None) -> None:
            """Give the permit back, since the handler has succeeded."""
            ...

        def settled(self) -> None:
            """Admit waiting deliveries, since an executor is free now."""
            ...

        def retry_of(self, delivery: Delivery) -> RetryPolicy: ...


class Deliveries:
    """Handles the deliveries that an executor takes.

    The executor is passed to each method and not kept: that would be a reference cycle (see `local_calls`).
    """

    __slots__ = (
        "_ack_notes",
        "_acked",
        "_actor",
        "_ended",
        "_instruments",
        "_layers",
        "_meter",
        "_middleware",
        "_only",
        "_tally",
        "_workplace",
        "guard",
    )

    def __init__(self, workplace: Workplace) -> None:
        actor = workplace.actor
        self._workplace = workplace
        self._actor = actor
        opened = (instruments.of_actor(actor.settings) for instruments in actor.services.instruments)
        self._instruments = tuple(one for one in opened if one is not None)
        self._middleware = actor.services.middleware + actor.settings.middleware
        self._only = self._instruments[0] if len(self._instruments) == 1 and not self._middleware else None
        self._layers = tuple(one.handling for one in self._instruments) + self._middleware
        self._meter = meter_of(actor.services.emit)
        self._acked = acks_of(actor.services.emit)
        notes = None if actor.consumer is None else ack_notes_of(actor.services.emit, actor.settings.id, actor.title)
        self._ack_notes = notes
        self._tally = actor.services.tally
        self._ended = self._tally.ended
        self.guard: Guard | None = None
        """None for an actor without limits, batches and handlers with a policy of their own."""

    def begin(self) -> None:
        """Let the instruments prepare the calling task, which will handle deliveries."""
        for one in self._instruments:
            one.begin(_delivery_in_flight)

    async def handle(self, worker: Worker, delivery: Delivery, permit: Permit | None = None) -> None:
        """Handle a delivery to its settlement. Raises the crash that it brings about.

        If cancelled from outside, nothing is settled: the executor puts the delivery back.
        """
        actor = self._actor
        consumer, headers = actor.consumer, delivery.headers
        is_marked = bool(headers) and not MARKS.isdisjoint(headers)
        if worker.began == UNKNOWN:
            worker.began = trio.current_time()
        if is_marked and FAILED in headers:
            await self._report_failure(worker, delivery)
            return
        if consumer is not None and consumer.cancelled and self.is_cancelled(worker, delivery):
            return
        if delivery.expires is not None and consumer is not None and consumer.now() >= delivery.expires:
            self.settle(worker, InFlight(delivery), delivery, expired(delivery.expires))
            return
        current = InFlight(delivery)
        in_flight.set(current)
        try:
            handler = actor.behaviour.current.for_delivery(delivery)
            args, kwargs = handler.arguments_of(delivery)
        except Exception as error:  # noqa: BLE001 - a converter of the user's may raise anything
            # A message that cannot be read fails at once: no attempt will read it better.
            self.settle(worker, current, delivery, self._unread(delivery, error))
            return
        if is_marked and consumer is not None and (FLOW in headers or RESULT_TTL in headers):
            consumer.note(delivery, Status.STARTED)
        if _BEGUN is not None:
            _BEGUN()
        published: Sequence[Envelope] = ()
        blamed: BaseException | None = None
        try:
            try:
                if self._layers and ((only := self._only) is None or not only.is_unobserved(delivery)):
                    value = await self._through_layers(worker, handler, delivery, args, kwargs)
                elif handler.is_async:
                    value = await handler.function(self._workplace.instance, *args, **kwargs)
                else:
                    value = await self.in_thread(worker, handler.function, args, kwargs)
            except Exception as error:
                if not isinstance(decisive(error), Stop) or worker.ended is not None:
                    raise
                self._workplace.finish()
                value = None
            if _RETURNED is not None:
                _RETURNED()
            if worker.ended is not None and worker.ended is not EndReason.CANCELLED:
                # It has returned although we have cancelled it: too late in any case. For a lost lease a settlement
                # would be refused; after a timeout the promise is that of a failure.
                settlement, blamed = None, to_blame(None, ended=worker.ended, timeout=worker.timeout)
            elif current.state is not PENDING:
                # Stashed or handed back: it has not ended with its handler, and is not settled.
                how = current.state
                current.end()
                worker.item = None
                worker.began = UNKNOWN
                if how is CallState.STASHED:
                    actor.stash.add(delivery)
                elif how is CallState.LOST or consumer is None:
                    actor.mailbox.delivery_ended(0.0)
                else:
                    consumer.hand_back(delivery, after=STALL if how is CallState.STALLED else 0.0)
                return
            else:
                if current.runs is not None:
                    ack = current.runs.ack(delivery, value, handler.returns, self._actor.settings.max_result_bytes)
                    kept = ack
                    if consumer is not None and (ack.starts or ack.continues is not None):
                        kept = await consumer.keep_ahead(delivery, ack)
                    if kept is None:  # As below.
                        worker.item = None
                        self._conclude(worker, current)
                        return
                    settlement = kept
                elif is_marked:  # It reports no failure, so its result is wanted.
                    settlement = Ack(encode_result(value, self._actor.settings.max_result_bytes))
                else:
                    settlement = ACK
                if current.change is not None:
                    settlement = with_state(settlement, current.change)
                if current.outgoing is not None:
                    # Within this `try`: too large or unreadable a publish is an error of the handler's.
                    rest = await self.send_ahead(current.outgoing, delivery)
                    if rest is None:  # The fence has refused it: the delivery belongs to another node by now.
                        worker.item = None
                        self._conclude(worker, current)
                        return
                    published = rest
                    _count_sent(self._meter, rest)
        except BaseException as error:
            settlement = None
            if worker.ended is EndReason.CANCELLED and not interrupts(error):
                # Whatever came out: a handler that was cancelled is neither tried again nor a failure.
                settlement = self._cancelled(delivery)
            elif worker.ended is not None and not interrupts(error):
                # A cancellation of our own scope, which the executor leaves next: swallowing it here loses nothing.
                blamed = to_blame(error, ended=worker.ended, timeout=worker.timeout)
            elif is_from_outside(error):
                current.end()
                raise
            else:
                blamed = error
        # Outside of the handlers above, so that a crash does not get what they handled as its context.
        crash = None
        if blamed is not None:
            ending = self.ending(blamed, delivery, permit)
            settlement, crash = ending.settlement, crash_for(ending)
        if settlement is None:
            current.end()
            worker.give_up()
            return
        self.settle(worker, current, delivery, settlement, published, permit)
        if crash is not None:
            raise crash

    async def _report_failure(self, worker: Worker, delivery: Delivery) -> None:
        """Call the actor's hook for a message that has failed, and settle the delivery that asks for it."""
        from actorwork.actors.execution.failures import call_hook  # noqa: PLC0415 - rare

        actor, current = self._actor, InFlight(delivery)
        in_flight.set(current)
        try:
            published = await call_hook(worker, actor, self._workplace.instance, current)
        except BaseException:
            current.end()
            raise
        if published is None:
            current.end()
            worker.give_up()
            return
        if actor.consumer is not None:
            actor.consumer.settle(delivery, ACK, published)
            _count_sent(self._meter, published)
        worker.item = None
        self._conclude(worker, current)

    def is_cancelled(self, worker: Worker, delivery: Delivery) -> bool:
        """Whether a message was cancelled before its turn came; if so, it is settled."""
        consumer = self._actor.consumer
        if consumer is None or (found := consumer.cancelled.get((delivery.source, delivery.id))) is None:
            return False
        settlement, is_settled = found
        if is_settled:
            del consumer.cancelled[delivery.source, delivery.id]
            worker.item = None
            worker.began = UNKNOWN
            self._actor.mailbox.delivery_ended(0.0)
        else:
            self.settle(worker, InFlight(delivery), delivery, settlement)
        return True

    def _cancelled(self, delivery: Delivery) -> Reject:
        found = None
        if self._actor.consumer is not None:
            found = self._actor.consumer.cancelled.get((delivery.source, delivery.id))
        return cancelled("it was cancelled") if found is None else found[0]

    def ending(self, error: BaseException, delivery: Delivery, permit: Permit | None) -> Ending:
        """Decide how a delivery ends whose handler has failed."""
        explained(error)
        retry, guard = self._actor.settings.retry, self.guard
        if guard is not None:
            if guard.waits_again(permit, decisive(error)):
                return BACK_TO_MAILBOX
            retry = guard.retry_of(delivery)
        found = ending_of(
            error,
            attempt=delivery.attempt,
            retry=retry,
            dice=self._actor.services.dice,
            on_failure=self._actor.settings.on_failure,
        )
        return self._noted(delivery, error, found) if self._instruments else found

    def _noted(self, delivery: Delivery, error: BaseException, ending: Ending) -> Ending:
        """Let the instruments take note of a failure; return its ending with the headers that they add."""
        added: dict[str, Json] = {}
        for instrument in self._instruments:
            added.update(instrument.failed(delivery, error, ending))
        if not added or not isinstance(ending.settlement, Retry):
            return ending
        return attrs.evolve(ending, settlement=attrs.evolve(ending.settlement, headers=added))

    def _unread(self, delivery: Delivery, error: Exception) -> Fail:
        """Return the settlement of a message that cannot be read."""
        settlement = Fail(failure_of(error))
        if self._instruments:
            self._noted(delivery, error, Ending(settlement))
        return settlement

    async def _through_layers(
        self,
        worker: Worker,
        handler: Handler,
        delivery: Delivery,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> object:
        async def handle() -> object:
            if handler.is_async:
                return await handler.function(self._workplace.instance, *args, **kwargs)
            return await self.in_thread(worker, handler.function, args, kwargs)

        return await _wrapped(worker, self._layers, delivery, handle)()

    def in_middleware(
        self, worker: Worker, delivery: Delivery, innermost: Callable[[], Awaitable[object]]
    ) -> Callable[[], Awaitable[object]]:
        """Return a call with the middleware around it, the first layer outermost."""
        return _wrapped(worker, self._middleware, delivery, innermost)

    def in_instruments(
        self, worker: Worker, deliveries: Sequence[Delivery], innermost: Callable[[], Awaitable[Any]]
    ) -> Callable[[], Awaitable[Any]]:
        """Return the call of a handler for a batch with the instruments around it."""
        return _wrapped(worker, [one.handling_together for one in self._instruments], deliveries, innermost)

    @property
    def has_middleware(self) -> bool:
        return bool(self._middleware)

    def in_thread(
        self, worker: Worker, function: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Awaitable[object]:
        return run_in_thread(worker, self._actor, function, (self._workplace.instance, *args), kwargs)

    async def send_ahead(self, outgoing: PublishBuffer, delivery: Delivery) -> Sequence[Envelope] | None:
        """Send what is too much for one script; return the rest, or None if the delivery is no longer ours."""
        actor = self._actor
        if outgoing.fits_one_script:
            return outgoing.batch(actor.services.ids)
        last: Sequence[Envelope] = ()
        for batch in outgoing.batches(delivery, actor.settings.id):
            # One batch is always kept back, to be sent by the script that settles.
            if last and not (actor.consumer and await actor.consumer.publish_fenced(delivery, last)):
                return None
            last = batch
        return last

    def settle(
        self,
        worker: Worker,
        current: InFlight,
        delivery: Delivery,
        settlement: Settlement,
        published: Sequence[Envelope] = (),
        permit: Permit | None = None,
    ) -> None:
        """Pass the settlement on to the broker's node. Never waits."""
        is_handled = type(settlement) is Ack
        if self.guard is not None and is_handled:
            self.guard.handled(permit)
        if self._actor.consumer is not None:
            self._actor.consumer.settle(delivery, settlement, published if is_handled else ())
        self.settled(worker, current, delivery, settlement)

    def settled(self, worker: Worker, current: InFlight, delivery: Delivery, settlement: Settlement) -> None:
        """Do what follows once the broker's node has a settlement."""
        actor = self._actor
        worker.item = None
        seconds = self._conclude(worker, current)
        if type(settlement) is Ack:
            # For nearly every message: a number in a list.
            ended = self._ended[delivery.source]
            ended.append(seconds)
            if len(ended) >= TOGETHER:
                self._tally.count(delivery.source)
            noted = None if (notes := self._ack_notes) is None else notes.noted
            if noted is None or delivery.attempt != 1:
                self._acked(actor.settings.id, actor.title, delivery, settlement, seconds)
            else:
                # One by one: a tuple of all three would have to be made, and taken apart.
                noted.append(seconds)
                noted.append(worker.began)
                noted.append(delivery)
        else:
            self._tally.note(delivery.source, settlement, seconds)
            actor.services.emit(events.Settled(actor.settings.id, actor.title, delivery, settlement, seconds))
        if self.guard is not None:
            self.guard.settled()

    def fail(self, worker: Worker, delivery: Delivery, error: Exception) -> None:
        """Settle a delivery as failed before its handler has begun."""
        worker.began = trio.current_time()
        self.settle(worker, InFlight(delivery), delivery, self._unread(delivery, error))

    def _conclude(self, worker: Worker, current: InFlight) -> float:
        """Close the delivery in flight; return its seconds. The next one begins now, without a look at the clock."""
        current.end()
        now = trio.current_time()
        began = worker.began
        seconds = now - began if began is not None else 0.0
        worker.began = now
        self._actor.mailbox.delivery_ended(seconds)
        return seconds

    def give_up(self, worker: Worker, delivery: Delivery) -> None:
        """Let go of a delivery whose handler was cancelled."""
        if worker.ended is EndReason.REVOKED:
            # It belongs to another node: to put it back would run it twice.
            self._actor.mailbox.delivery_ended(0.0)
        elif self._actor.consumer is not None:
            self._actor.consumer.interrupted(delivery)


def _count_sent(meter: Meter | None, published: Sequence[Envelope]) -> None:
    """Count what is sent with a settlement."""
    if meter is not None:
        for envelope in published:
            meter.sent(envelope.source, "sent")


def _delivery_in_flight() -> Delivery | None:
    current = in_flight.get()
    return None if current is None else current.delivery


def _wrapped(
    worker: Worker,
    layers: Sequence[Callable[..., Awaitable[Any]]],
    what: object,
    innermost: Callable[[], Awaitable[Any]],
) -> Callable[[], Awaitable[Any]]:
    proceed = innermost
    for layer in reversed(layers):
        proceed = partial(layer, what, partial(_timed, worker, proceed))
    return proceed


async def _timed(worker: Worker, proceed: Callable[[], Awaitable[object]]) -> object:
    """Proceed; past the timeout raise `ExecutionTimeout`, whatever came out, so that middleware can tell it."""
    try:
        value = await proceed()
    except BaseException as error:
        if interrupts(error):
            raise
        late = to_blame(error, ended=worker.ended, timeout=worker.timeout)
        if late is None:
            raise
    else:
        late = to_blame(None, ended=worker.ended, timeout=worker.timeout)
        if late is None:
            return value
    # Out here, so that it does not get the cancellation as its context. Our scope remains cancelled: the middleware
    # may note what has happened, but what waits there is cancelled too.
    try:
        raise late
    finally:
        del late  # Its traceback leads to this frame: a reference cycle for each timeout.


def crash_for(ending: Ending) -> BaseException | None:
    """Return the error by which an ending takes the actor down, if it does."""
    wanted = ending.crash
    if wanted is None:
        return None
    if wanted.policy is None:
        return wanted.cause
    crash = Crash(stop=wanted.policy == "stop", escalate=wanted.policy == "escalate")
    crash.__cause__ = wanted.cause
    return crash
