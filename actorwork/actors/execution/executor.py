"""How an item of the mailbox is handled: decode, middleware, handler, settlement.

    a delivery     its error fails the message, and the actor lives (unless `on_failure` says otherwise)
    a local call   its error crashes the actor, and the asker is told at once (unless `on_failure` says otherwise)

This is the one place that catches everything: whatever a handler raises becomes a settlement or a crash here. The order
of the checks matters. A cancelled scope of our own comes first: whatever came out of the handler then, it was ended
(too long, lease lost, shutdown). Next `KeyboardInterrupt` and a cancellation from outside, which are nobody's result:
the delivery goes back to the mailbox. Only then the error itself is looked at.

An executor takes item after item within one cancel scope, without a checkpoint between those that do not wait, up to
`BURST` of them: then everybody else has a turn.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from actorwork import events
from actorwork.actors.context.in_flight import InFlight, Stop, in_flight
from actorwork.actors.crash import Crash
from actorwork.actors.execution.threads import HandlerThread
from actorwork.actors.execution.watchdog import UNKNOWN
from actorwork.actors.handlers.table import local_keywords
from actorwork.actors.mailbox.calls import PENDING, CallState, Item, LocalCall, Queue
from actorwork.actors.refs.watching import LinkBroken
from actorwork.codec import encode_value
from actorwork.errors import (
    ActorCrashed,
    ActorStopped,
    DeathPact,
    ExecutionTimeout,
    MessageFailed,
    MessageRefused,
    Shutdown,
    Verdict,
)
from actorwork.failpoints import failpoint
from actorwork.groups import leaves
from actorwork.message import REPLY_TO, RESULT_TTL, Delivery
from actorwork.policy.exits import is_fatal, is_plain
from actorwork.policy.settlement import Ack, Fail, Retry, Settlement, decisive, expired, failure_of, settlement_for
from actorwork.stacks import REPORT_EVERY, stack_of_task

if TYPE_CHECKING:
    from actorwork.actors.context.publishing import PublishBuffer
    from actorwork.actors.handlers.table import Handler
    from actorwork.actors.life.cell import Cell
    from actorwork.message import Envelope

BURST: Final = 64
"""Items handled in a row before other tasks have a turn."""

ACK: Final = Ack()
"""Handled, and nobody asked for the result."""
_BEGUN: Final = failpoint("handler.begun")
_RETURNED: Final = failpoint("handler.returned")


class EndReason(enum.Enum):
    """Why we cancelled a handler."""

    TIMEOUT = "timeout"
    REVOKED = "revoked"
    SHUTDOWN = "shutdown"
    CRASHED = "crashed"


class _Refused(Exception):
    """Nobody handles a message, as its turn has shown; `__cause__` is the `MessageRefused`."""


class Executor:
    """Handles the items of one mailbox, one after another."""

    __slots__ = (
        "_cell",
        "_consumer",
        "_crash",
        "_ended",
        "_instance",
        "_item",
        "_reported",
        "_scope",
        "_services",
        "_task",
        "began",
        "timeout",
    )

    def __init__(self, cell: Cell, instance: Any) -> None:
        self._cell = cell
        self._instance = instance
        self._services = cell.services
        self._consumer = cell.consumer
        self._scope = trio.CancelScope()  # for the items until one is ended; then the next ones have another
        self._ended: EndReason | None = None
        self._item: Item | None = None
        self._reported = 0.0
        self._crash: BaseException | None = None
        self._task: trio.lowlevel.Task | None = None
        self.began: float | None = None
        self.timeout = cell.settings.execution_timeout

    def __repr__(self) -> str:
        return f"<executor of {self._cell.title!r}: {self._item!r}>"

    @property
    def item(self) -> Item | None:
        """What is in hand."""
        return self._item

    async def run(self) -> None:
        """Handle items until the cell stops. Raises `Crash` when the actor is to end.

        Cancelled from outside: the delivery in hand goes back to the mailbox.
        """
        self._task = trio.lowlevel.current_task()
        watchdog = self._services.watchdog
        try:
            while not self._cell.stopping:
                with self._scope:
                    await self._drain()
                if self._crash is not None:
                    raise self._crash
                if self._ended is not None:
                    self._scope, self._ended = trio.CancelScope(), None
        finally:
            self._cell.executor_ended()
            watchdog.forget(self)
            self._give_up_item()

    async def _drain(self) -> None:
        """Handle items until the scope is cancelled or the cell stops."""
        cell, mailbox, instance = self._cell, self._cell.mailbox, self._instance
        watchdog = self._services.watchdog
        may_grow = cell.settings.concurrency > 1
        left = BURST
        while not cell.stopping:
            item = mailbox.take_nowait()
            if item is None:
                watchdog.forget(self)
                self.began = None
                cell.idle()
                await mailbox.wait_item()
                left = BURST
                continue
            if self.began is None:
                watchdog.watch(self)
                self.began = UNKNOWN
            self._item = item
            if may_grow and cell.wants_executor:
                cell.add_executor()
            if isinstance(item, Delivery):
                await self._handle_delivery(item)
            else:
                in_flight.set(item)
                try:
                    # What is plain is done here and now: each function between is a part of what a message costs.
                    handler = item.handler
                    if handler is not None and handler.is_async and item.keywords is None and cell.behaviour is None:
                        value = await handler.function(instance, item.message)
                    else:
                        value = await self._begin(item)
                except BaseException as error:  # noqa: BLE001 - becomes a reply or a crash in `_local_raised`
                    self._local_raised(item, error)
                else:
                    self._local_returned(item, value)
            if self._ended is not None:
                return
            left -= 1
            if not left:
                left = BURST
                await trio.lowlevel.checkpoint()
                self.began = UNKNOWN

    # ---- deliveries ----

    async def _handle_delivery(self, delivery: Delivery) -> None:
        cell = self._cell
        if self.began == UNKNOWN:
            self.began = trio.current_time()
        if delivery.expires is not None and self._consumer is not None and self._consumer.now() >= delivery.expires:
            self._settle(InFlight(delivery), delivery, expired(delivery.expires))
            return
        current = InFlight(delivery)
        in_flight.set(current)
        crash: Exception | None = None
        published: Sequence[Envelope] = ()
        blamed: BaseException | None = None
        try:
            handler = (cell.behaviour or cell.handlers).for_delivery(delivery)
            args, kwargs = handler.arguments_of(delivery)
        except Exception as error:  # noqa: BLE001 - a converter of the user's may raise anything
            self._settle(current, delivery, Fail(failure_of(error)))
            return
        if _BEGUN is not None:
            _BEGUN()
        try:
            try:
                if cell.layers:
                    value = await self._through_layers(handler, delivery, args, kwargs)
                elif handler.is_async:
                    value = await handler.function(self._instance, *args, **kwargs)
                else:
                    value = await self._in_thread(handler.function, args, kwargs)
            except Exception as error:
                if not isinstance(decisive(error), Stop) or self._ended is not None:
                    raise
                cell.finish()
                value = None
            if _RETURNED is not None:
                _RETURNED()
            if self._ended is not None:
                settlement, blamed = None, self._ended_error(None)
            elif current.state is not PENDING:
                mark = current.state
                current.end()
                self._keep(delivery, mark)
                return
            else:
                wanted = delivery.headers and (REPLY_TO in delivery.headers or RESULT_TTL in delivery.headers)
                settlement = Ack(encode_value(value)) if wanted else ACK
                if current.outgoing is not None:
                    rest = await self._send_ahead(current.outgoing, delivery)
                    if rest is None:  # It belongs to another node by now.
                        self._item = None
                        self._conclude(current)
                        return
                    published = rest
        except BaseException as error:
            settlement = None
            if self._ended is not None and not interrupts(error):
                # Our own scope, which `run` leaves next: nobody else misses this cancellation.
                blamed = self._ended_error(error)
            elif is_nobodys(error):
                current.end()
                raise
            else:
                blamed = error
        if blamed is not None:
            settlement = self._settlement_for(blamed, delivery)
            cause = decisive(blamed)
            if isinstance(cause, Shutdown):
                crash = cause
            elif isinstance(settlement, (Fail, Retry)) and not isinstance(cause, Verdict):
                crash = self._crash_of(blamed)
        if settlement is None:
            current.end()
            self._give_up_item()
            return
        self._settle(current, delivery, settlement, published)
        if crash is not None:
            raise crash

    def _settlement_for(self, error: BaseException, delivery: Delivery) -> Settlement | None:
        """Decide how a delivery ends whose handler raised; None: it has not ended, and goes back to the mailbox."""
        return settlement_for(
            error, attempt=delivery.attempt, retry=self._cell.settings.retry, dice=self._services.dice
        )

    def _ended_error(self, error: BaseException | None) -> ExecutionTimeout | None:
        """Return what is to blame for the end of a handler that we cancelled; None where it is not its own doing."""
        if self._ended is not EndReason.TIMEOUT:
            return None
        timeout = ExecutionTimeout(f"the handler ran past its execution_timeout of {self.timeout:g} s")
        timeout.__cause__ = None if isinstance(error, trio.Cancelled) else error
        return timeout

    def _crash_of(self, error: BaseException) -> Crash | None:
        """Return the crash that a failed delivery brings about, by `on_failure`; by default there is none."""
        match self._cell.settings.on_failure:
            case "restart" | "stop" | "escalate" as verdict:
                crash = Crash(stop=verdict == "stop", escalate=verdict == "escalate")
                crash.__cause__ = error
                return crash
            case _:
                return None

    async def _through_layers(
        self, handler: Handler, delivery: Delivery, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> object:
        async def handle() -> object:
            if handler.is_async:
                return await handler.function(self._instance, *args, **kwargs)
            return await self._in_thread(handler.function, args, kwargs)

        proceed: Callable[[], Awaitable[object]] = handle
        for layer in reversed(self._cell.layers):
            proceed = partial(layer, delivery, proceed)
        return await proceed()

    async def _in_thread(
        self, function: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> object:
        # A thread cannot be ended. Past its deadline it is left to itself and reported, and the delivery is settled.
        return await self._in_watched_thread(
            partial(function, self._instance, *args, **kwargs),
        )

    async def _in_watched_thread(self, function: Callable[[], object]) -> object:
        item, cell = self._item, self._cell
        what = item.id if isinstance(item, Delivery) else "several" if item is None else type(item.message).__name__
        thread = HandlerThread(function, (cell.settings.id, cell.title), what, self._services.emit)
        began = trio.current_time()
        try:
            return await trio.to_thread.run_sync(thread, abandon_on_cancel=True, limiter=self._services.threads)
        except trio.Cancelled:
            thread.leave(self._services.watchdog, began, self.timeout)
            raise

    async def _send_ahead(self, outgoing: PublishBuffer, delivery: Delivery) -> Sequence[Envelope] | None:
        """Send what is too much for one script; return the rest, or None if the delivery is no longer ours."""
        if outgoing.fits_one_script:
            return outgoing.batch(self._services.ids)
        last: Sequence[Envelope] = ()
        for batch in outgoing.batches(delivery, self._cell.settings.id):
            if last and not (self._consumer and await self._consumer.publish_fenced(delivery, last)):
                return None
            last = batch
        return last

    def _settle(
        self, current: InFlight, delivery: Delivery, settlement: Settlement, published: Sequence[Envelope] = ()
    ) -> None:
        """Hand the settlement on. Never waits."""
        cell = self._cell
        if self._consumer is not None:
            self._consumer.settle(delivery, settlement, published if type(settlement) is Ack else ())
        self._item = None
        seconds = self._conclude(current)
        self._services.emit(events.Settled(cell.settings.id, cell.title, delivery, settlement, seconds))

    def _conclude(self, current: InFlight) -> float:
        """Close the delivery in hand; return how long it was, in seconds. The next one begins now."""
        current.end()
        now = trio.current_time()
        began = self.began
        seconds = now - began if began is not None else 0.0
        self.began = now
        self._cell.mailbox.delivery_ended(seconds)
        return seconds

    # ---- local calls ----

    def _begin(self, call: LocalCall) -> Awaitable[object]:
        """Begin to handle a local message; raises `Crash` for a signal that nobody handles, and `_Refused`."""
        handler, message, keywords = call.handler, call.message, call.keywords
        if handler is None or self._cell.behaviour is not None:
            handler, keywords = self._handler_now(call)
        if not handler.is_async:
            return self._in_thread(handler.function, () if keywords is not None else (message,), keywords or {})
        if keywords is None:
            awaitable: Awaitable[object] = handler.function(self._instance, message)
        else:
            awaitable = handler.function(self._instance, **keywords)
        return awaitable

    def _handler_now(self, call: LocalCall) -> tuple[Handler, dict[str, Any] | None]:
        """Return the handler of a message whose turn shows who handles it, by what the actor has become."""
        message = call.message
        if isinstance(message, LinkBroken):
            raise self._death_pact(f"is linked to {message.ref!r}, which has ended: {message.exit}")
        try:
            handler = (self._cell.behaviour or self._cell.handlers).for_message(message)
            return handler, local_keywords(handler, message)
        except MessageRefused as error:
            refusal = error
        if call.queue is Queue.SYSTEM:
            raise self._death_pact(f"watches an actor, and has no handler for what came of it: {message}")
        raise _Refused from refusal

    def _death_pact(self, why: str) -> Crash:
        policy = self._cell.settings.on_failure
        crash = Crash(stop=policy == "stop", escalate=policy == "escalate")
        crash.__cause__ = DeathPact(f"{self._cell.title!r} {why}")
        return crash

    def _local_returned(self, call: LocalCall, value: object) -> None:
        if self._ended is not None:
            self._end_local(call, None)
            return
        self._item = None
        self.began = UNKNOWN
        if call.state is not PENDING:
            self._keep(call, call.state)
            return
        call.state = CallState.ENDED
        if call.reply is not None:
            call.reply.give(value)

    def _local_raised(self, call: LocalCall, error: BaseException) -> None:
        """Make what came out of a handler into a reply or a crash; raises what is nobody's result."""
        mark, call.state = call.state, CallState.ENDED
        if self._ended is not None and not interrupts(error):
            self._end_local(call, error)
        elif isinstance(error, Crash):
            self._item = None
            raise error
        elif is_nobodys(error):
            raise error
        elif isinstance(decisive(error), Stop):
            self._cell.finish()
            call.state = mark
            self._local_returned(call, None)
        elif isinstance(error, _Refused):
            refusal = error.__cause__ or error
            self._item = None
            self.began = UNKNOWN
            self._answer(call, refusal, refusal)
        else:
            self._local_failed(call, error)

    def _keep(self, item: Item, mark: CallState) -> None:
        """Let go of an item that was set aside, passed on or is answered later: it has not ended with its handler."""
        self._item = None
        self.began = UNKNOWN
        if mark is CallState.STASHED:
            self._cell.set_aside(item)

    def _end_local(self, call: LocalCall, error: BaseException | None) -> None:
        """Tell the asker of a call that we cancelled; past its timeout that is the actor's crash."""
        blamed = self._ended_error(error)
        if blamed is None:
            self._give_up_item()
        else:
            self._local_failed(call, blamed)

    def _local_failed(self, call: LocalCall, error: BaseException) -> None:
        """Tell the asker, and crash the actor unless the error is a verdict or `on_failure` lets it live."""
        self._item = None
        cause = decisive(error)
        if isinstance(cause, Shutdown):
            ended = ActorStopped(f"{self._cell.title!r} ended while it handled {type(call.message).__name__}")
            self._answer(call, ended, cause)
            raise cause
        policy = self._cell.settings.on_failure
        if isinstance(cause, Verdict):
            failed = MessageFailed(
                f"{self._cell.title!r} answered {type(cause).__name__}: {cause.reason}",
                type=type(cause).__name__,
                reason=cause.reason,
            )
            self._answer(call, failed, cause)
            return
        resumes = policy == "resume"
        if call.reply is None or (resumes and isinstance(cause, Exception)):
            self._answer(call, cause, cause)
        else:
            what = f"{type(call.message).__name__}: {type(cause).__name__}: {cause}"
            self._answer(call, ActorCrashed(f"{self._cell.title!r} crashed while it handled {what}"), cause)
        if resumes:
            return
        if policy is None and is_fatal(error):
            # Nobody has said what is to become of it, and it asks for the end of the program.
            raise error
        crash = Crash(stop=policy == "stop", escalate=policy == "escalate")
        raise crash from cause

    def _answer(self, call: LocalCall, error: BaseException, cause: BaseException) -> None:
        if call.reply is not None:
            if error is not cause:
                error.__cause__ = cause
            call.reply.fail(error)
        else:
            self._services.emit(events.Undelivered(self._cell.settings.id, self._cell.title, call.message))

    # ---- being ended ----

    def end(self, why: EndReason) -> None:
        """Cancel what is in hand."""
        if self._item is not None and self._ended is None:
            self._ended = why
            self._scope.cancel(reason=why.value)

    def crash(self, error: BaseException) -> None:
        """End, raising an error that a helper task ended of; what is in hand is let go."""
        self._crash = error
        self._ended = EndReason.CRASHED
        self._scope.cancel(reason="a helper task failed")

    def overdue(self, now: float) -> None:
        """End the handler in hand, since it is past its timeout, or report that it does not end."""
        item = self._item
        if item is None or self.began is None:
            return
        if self.began == UNKNOWN:
            # Local messages do not look at the clock: the first look at one in hand counts as its beginning.
            self.began = now
        elif now - self.began < self.timeout:
            return
        elif self._ended is None:
            self._reported = now
            self.end(EndReason.TIMEOUT)
        elif now - self._reported >= REPORT_EVERY:
            self._reported = now
            message_id = item.id if isinstance(item, Delivery) else type(item.message).__name__
            cell, seconds, where = self._cell, now - self.began, stack_of_task(self._task)
            self._services.emit(events.Overdue(cell.settings.id, cell.title, message_id, seconds, where, self.timeout))

    def _give_up_item(self) -> None:
        """Let go of what was in hand when the executor itself is ended."""
        item, self._item = self._item, None
        if item is None:
            return
        if isinstance(item, Delivery):
            if self._ended is EndReason.REVOKED:
                self._cell.mailbox.delivery_ended(0.0)
            elif self._consumer is not None:
                self._consumer.interrupted(item)
        else:
            stopped = ActorStopped(f"{self._cell.title!r} was stopped while it handled {type(item.message).__name__}")
            self._answer(item, stopped, stopped)


def interrupts(error: BaseException) -> bool:
    """Say whether a `KeyboardInterrupt` is in it."""
    return any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves(error))


def is_nobodys(error: BaseException) -> bool:
    """Say whether an error is no result of the handler: an interrupt, or a cancellation that came from outside."""
    if is_plain(error):
        return False
    if interrupts(error):
        return True
    # A `Cancelled` that was carried here from some other scope cancels nothing: it is an error like any other.
    cancelled = trio.current_effective_deadline() == -math.inf
    return cancelled and all(isinstance(leaf, trio.Cancelled) for leaf in leaves(error))
