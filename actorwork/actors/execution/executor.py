"""An executor takes items from the mailbox and has them handled, one after another.

    executor       the loop, the cancel scope, and the watchdog's view of what is in flight
    deliveries     one delivery: arguments, middleware, handler, settlement
    local_calls    one local call: handler, reply or crash
    guarded        deliveries of an actor with limits, batches, or handlers with a retry policy of their own

It works in one long cancel scope and takes item after item, without a checkpoint between those that do not wait, up to
`BURST` of them: then other tasks have a turn. A scope for each message would cost more than most handlers do.
"""

from __future__ import annotations

from contextvars import copy_context
from typing import TYPE_CHECKING, Final

import trio

from actorwork import events
from actorwork.actors.context.in_flight import in_flight
from actorwork.actors.crash import Crash, cause_of
from actorwork.actors.execution import local_calls
from actorwork.actors.execution.deliveries import Deliveries
from actorwork.actors.execution.variables import Variables
from actorwork.actors.execution.watchdog import UNKNOWN, of_handler
from actorwork.actors.mailbox.calls import Item, LocalCall
from actorwork.actors.wakeups import working
from actorwork.errors import ActorCrashed, ActorStopped, Shutdown
from actorwork.groups import is_cancellation
from actorwork.message import Delivery
from actorwork.policy.exits import is_fatal
from actorwork.policy.settlement import EndReason, decisive
from actorwork.stacks import REPORT_EVERY, stack_of_task

if TYPE_CHECKING:
    from actorwork.actors.execution.guarded import GuardedDeliveries
    from actorwork.actors.execution.workplace import Workplace

BURST: Final = 64
"""Items handled in a row before other tasks have a turn."""


class Executor:
    """Handles the items of one mailbox, one after another."""

    __slots__ = (
        "_crash",
        "_deliveries",
        "_guarded",
        "_reported",
        "_scope",
        "actor",
        "began",
        "concurrency",
        "ended",
        "item",
        "task",
        "timeout",
        "workplace",
    )

    def __init__(self, workplace: Workplace) -> None:
        actor = workplace.actor
        self.workplace = workplace
        self._scope = trio.CancelScope()
        self._crash: BaseException | None = None
        self.actor = actor
        self.concurrency = actor.settings.concurrency
        self.task: trio.lowlevel.Task | None = None
        self._reported = 0.0
        self.item: Item | None = None
        """What is in flight; of a batch, its first delivery."""
        self.ended: EndReason | None = None
        """Why what is in flight was cancelled, if it was."""
        self.began: float | None = None
        """When what is in flight began (Trio's clock); `UNKNOWN` until the clock is read, None while idle."""
        self.timeout = actor.settings.execution_timeout
        self._deliveries: Deliveries | None = None
        self._guarded: GuardedDeliveries | None = None
        if actor.consumer is not None:
            self._deliveries = Deliveries(workplace)
            # Only where there is something to guard: every other actor keeps the short way, and pays nothing for this.
            if actor.admission is not None or actor.handlers.has_rules:
                from actorwork.actors.execution.guarded import GuardedDeliveries  # noqa: PLC0415 - few actors need it

                self._guarded = GuardedDeliveries(workplace, self._deliveries)

    def __repr__(self) -> str:
        return f"<executor of {self.workplace.actor.title!r}: {self.item!r}>"

    @property
    def title(self) -> str:
        return self.actor.title

    async def run(self) -> None:
        """Handle items until the incarnation stops. Raises the crash that ends the actor.

        If cancelled from outside, the delivery in flight goes back to the mailbox.
        """
        self.task = trio.lowlevel.current_task()
        working.set(self)
        if self._deliveries is not None:
            self._deliveries.begin()
        try:
            while not self.workplace.stopping:
                with self._scope:
                    await self._drain()
                if self._crash is not None:
                    raise self._crash
                if self.ended is not None:
                    # A scope that was cancelled stays so: what comes next needs a new one.
                    self._scope, self.ended = trio.CancelScope(), None
        except BaseException as error:
            if _is_crash(error) and self.workplace.failure is None:
                self.workplace.failure = error
            raise
        finally:
            self.workplace.executor_ended()
            self.workplace.actor.services.watchdog.forget(self)
            self.give_up()
            self.task = None  # Its context leads back here: a cycle, for which every restart would wait.

    async def _drain(self) -> None:
        """Handle items until the scope is cancelled or the incarnation stops."""
        # The hottest loop of the package: half a million local messages a second go through it. What it needs
        # for every message is in local variables, and the commonest local call is handled here instead of in
        # `local_calls`: each function in between would be a noticeable part of what a message costs.
        workplace, guarded = self.workplace, self._guarded
        actor, instance = workplace.actor, workplace.instance
        mailbox, handlers, watchdog = actor.mailbox, actor.handlers, actor.services.watchdog
        deliveries = self._deliveries if guarded is None else guarded
        begin, returned, raised = local_calls.begin, local_calls.returned, local_calls.raised
        may_grow = actor.settings.concurrency > 1
        variables: Variables | None = None  # made for the first item: most actors are idle
        count, others = 0, False
        left = BURST
        while not workplace.stopping:
            item = mailbox.take_nowait()
            if item is None:
                # Idle: the watchdog has nothing to look at, and a shutdown that waits for quiet may proceed. Before the
                # wait and with no checkpoint since the mailbox was looked at, so that no item is missed.
                watchdog.forget(self)
                self.began = None
                actor.idle()
                await mailbox.wait_item()
                left = BURST
                continue
            if self.began is None:
                # Once for each busy stretch and not for each item: this is a set in the watchdog, and may wake it.
                watchdog.watch(self)
                self.began = UNKNOWN
            # From here until it is settled, answered, or back in the mailbox, the item is this executor's: `give_up`
            # finds it here whatever ends the loop.
            self.item = item
            if variables is None:
                variables = Variables()
                count, others = variables.count, bool(variables.values)
            if may_grow and workplace.wants_executor:
                workplace.add_executor()
            if isinstance(item, Delivery):
                assert deliveries is not None  # noqa: S101 - for type checkers: only a consumer brings deliveries
                await deliveries.handle(self, item)
            elif guarded is not None:
                await guarded.handle_call(self, item)
            else:
                in_flight.set(item)
                try:
                    handler = item.handler
                    if (
                        handler is not None
                        and handler.is_async
                        and item.keywords is None
                        and actor.behaviour.current is handlers
                    ):
                        value = await handler.function(instance, item.message)
                    else:
                        value = await begin(self, item)
                except BaseException as error:  # noqa: BLE001 - `raised` makes it a reply or a crash, or raises it
                    raised(self, item, error)
                else:
                    returned(self, item, value)
            if len(copy_context()) != count or (others and variables.is_any_replaced()):
                await variables.restore()
                left = BURST
                self.began = UNKNOWN
            if self.ended is not None:
                # Our scope is cancelled. If the handler has returned all the same, the cancellation was not delivered:
                # leaving the scope here ends it, instead of the next item.
                return
            left -= 1
            if not left:
                left = BURST
                await trio.lowlevel.checkpoint()
                # Other tasks have had their turn: the next item has not been running since the last one began.
                self.began = UNKNOWN

    # ---- being ended ----

    def end(self, why: EndReason) -> None:
        """Cancel what is in flight."""
        # Only the first reason counts: a handler past its timeout is to blame also if a shutdown comes before it ends.
        if self.item is not None and self.ended is None:
            self.ended = why
            self._scope.cancel(reason=why.value)

    def cancel(self) -> bool:
        """Cancel what is in flight, since its message was cancelled; return False for a batch, which goes on."""
        if self._guarded is not None and self._guarded.has_batch:
            return False
        self.end(EndReason.CANCELLED)
        return True

    def crash(self, error: BaseException) -> None:
        """End by raising the error of a helper task; what is in flight is given up."""
        self._crash = error
        self.ended = EndReason.CRASHED
        self._scope.cancel(reason="a helper task failed")

    def overdue(self, now: float) -> None:
        """End the handler in flight if it is past its timeout, or report that it does not end."""
        item = self.item
        if item is None or self.began is None:
            return
        if self.began == UNKNOWN:
            # Local calls do not read the clock: the watchdog's first look at one counts as its beginning.
            self.began = now
        elif now - self.began < self.timeout:
            return
        elif self.ended is None:
            self._reported = now
            self.end(EndReason.TIMEOUT)
        elif now - self._reported >= REPORT_EVERY or self.workplace.actor.services.watchdog.has_hung(
            self, self._reported, now
        ):
            self._reported = now
            message_id = item.id if isinstance(item, Delivery) else type(item.message).__name__
            actor, seconds, where = self.workplace.actor, now - self.began, of_handler(stack_of_task(self.task))
            actor.services.emit(
                events.Overdue(actor.settings.id, actor.label, message_id, seconds, where, self.timeout)
            )

    def where(self, actor_id: str, message_id: str) -> str | None:
        item, settings = self.item, self.workplace.actor.settings
        if not isinstance(item, Delivery) or (settings.id, item.id) != (actor_id, message_id):
            return None
        return of_handler(stack_of_task(self.task))

    def give_up(self) -> None:
        """Let go of what is in flight, because its handler was cancelled before it had a result."""
        item, self.item = self.item, None
        if item is None or (self._guarded is not None and self._guarded.give_up(self)):
            return
        if isinstance(item, Delivery):
            if self._deliveries is not None:
                self._deliveries.give_up(self, item)
        else:
            self._give_up_call(item)

    def _give_up_call(self, call: LocalCall) -> None:
        """Answer an ask whose handler was cut off: at once if its actor has crashed, or will not run again."""
        title, what = self.workplace.actor.title, type(call.message).__name__
        failure = self._crash or self.workplace.failure
        if failure is not None:
            cause = cause_of(failure)
            why = f"{type(cause).__name__}: {cause}"
            crashed = ActorCrashed(f"{title!r} crashed while it handled {what}, in another of its tasks: {why}")
            local_calls.answer(self, call, crashed, cause)
        elif call.reply is None or self.ended is EndReason.SHUTDOWN:
            stopped = ActorStopped(f"{title!r} was stopped while it handled {what}")
            local_calls.answer(self, call, stopped, stopped)
        else:
            # Its supervisor has ended it, and only that knows whether it will run again.
            self.workplace.replies.hold(call.reply, f"{title!r} was stopped while it handled {what}")


def _is_crash(error: BaseException) -> bool:
    """Whether an error is the actor's crash, rather than a cancellation, a `Shutdown`, or the end of the program."""
    if isinstance(error, Crash):  # The common case, and a part of what a restart costs.
        return True
    cause = decisive(error)
    return not (is_fatal(cause) or is_cancellation(cause) or isinstance(cause, Shutdown))
