"""One incarnation of an actor: what does not survive a restart.

It lives in one task of its supervisor:

    construct ── startup ── started ──▶ executors take items ──▶ (stop | crash)
                                                                     └── spawned actors end ── shutdown ── helpers end

`shutdown` is called once for every incarnation that started, also after a crash, and is always bounded. Helper tasks
and spawned actors live in the incarnation's nursery and end with it; an error in one is the actor's crash.

Both hooks are bounded by one cancel scope, which is entered before `startup` and left after `shutdown`. `startup` may
open nurseries and other blocks that `shutdown` closes, and Trio wants them nested: a scope around one hook alone would
be closed within, or around, a block that is still open, which ends the whole process.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from contextvars import Context as ContextVars, copy_context
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import trio

from actorwork import events
from actorwork.actors.context.context import Context, ContextActor
from actorwork.actors.context.in_flight import Stop, inside
from actorwork.actors.context.nursery import ActorNursery
from actorwork.actors.crash import without_crash
from actorwork.actors.execution.executor import Executor
from actorwork.actors.execution.workplace import ExecutorActor
from actorwork.actors.life.leftovers import close_leftovers
from actorwork.actors.life.open_replies import OpenReplies
from actorwork.actors.life.spawned import SpawnedChildren
from actorwork.actors.mailbox.calls import Queue, SystemCall
from actorwork.actors.tree.hooks import Hooks
from actorwork.actors.tree.spec import DynamicSupervisor
from actorwork.errors import NotRunning
from actorwork.groups import is_cancellation, leaves, only_leaf
from actorwork.message import Delivery
from actorwork.policy.exits import Exit, exit_of, is_fatal
from actorwork.policy.settlement import EndReason, decisive

if TYPE_CHECKING:
    from actorwork.actors.life.services import Services
    from actorwork.actors.life.stash import Stash
    from actorwork.actors.mailbox.calls import Item
    from actorwork.actors.refs.ref import ActorRef
    from actorwork.actors.supervision.supervisor import RunningSupervisor
    from actorwork.actors.tree.spec import Child

_NO_SCOPE: Final = nullcontext()
"""For an actor without hooks: most are, and a scope would double what an idle one takes."""


class Body(ContextActor, ExecutorActor, Protocol):
    """What an incarnation uses of its actor, which outlives it."""

    child: Child
    last_exit: Exit

    @property
    def services(self) -> Services: ...
    @property
    def stash(self) -> Stash: ...
    def incarnation_started(self) -> None: ...
    def incarnation_ended(self) -> None: ...


class Incarnation:
    """An instance of the actor's class, and the tasks that run on its behalf."""

    __slots__ = (
        "_deadline",
        "_executor_nursery",
        "_helper_error",
        "_helpers",
        "_hook",
        "_is_expected",
        "_replies",
        "_scope",
        "_spawned",
        "_variables",
        "actor",
        "executors",
        "failure",
        "instance",
        "number",
        "stopping",
    )

    def __init__(self, actor: Body, number: int, instance: Any) -> None:
        self.actor = actor
        self.number = number
        self.instance = instance
        """That of the incarnation before, until this one has its own."""
        self.stopping = False
        """Nothing more is begun; it ends when what is in flight has ended."""
        self.executors: tuple[Executor, ...] = ()
        self.failure: BaseException | None = None
        """The crash that an executor has raised: those beside it are cut off because of it."""
        self._is_expected = False
        """Its supervisor wants it to end."""
        self._deadline = math.inf
        """By when spawned actors and `shutdown` have to end (Trio's clock)."""
        self._scope: trio.CancelScope | None = None
        """Around both hooks and all between them, if the actor has hooks."""
        self._hook: Literal["startup", "shutdown"] | None = None
        """The hook that runs, bounded by the scope."""
        # All of this is made on demand: most actors have none of it.
        self._helpers: ActorNursery | None = None
        self._helper_error: BaseException | None = None
        self._spawned: SpawnedChildren | None = None
        self._replies: OpenReplies | None = None
        self._executor_nursery: trio.Nursery | None = None
        self._variables: ContextVars | None = None

    def __repr__(self) -> str:
        return f"<incarnation {self.number} of {self.actor.title!r}>"

    async def run(self, started: Callable[[], None]) -> None:
        """Live to the end; call `started` once `startup` has returned.

        Returns when it was stopped. Raises the error of its crash, out of the groups that wrapped it. If cancelled,
        `shutdown` is still called, bounded by the child's shutdown timeout.
        """
        inside.set(True)
        actor = self.actor
        failure: BaseException | None = None
        try:
            self.instance = actor.child.factory()
            self.instance.context = Context(actor, self)
            if self._has_hook("startup") or self._has_hook("shutdown"):
                self._scope = trio.CancelScope()
            with self._scope or _NO_SCOPE:
                try:
                    await self._start_up()
                    started()
                    del started  # This frame lives as long as the actor: an idle one keeps nothing it will not use.
                    actor.incarnation_started()
                    try:
                        first = Executor(self)
                        self.executors = (first,)
                        if actor.settings.concurrency == 1:
                            await first.run()
                        else:
                            await self._run_with_more(first)
                    finally:
                        # No executor any more, so from here on an error in a helper task is reported and no crash.
                        self.executors = ()
                        # Before `shutdown`, which may close what the spawned actors use.
                        if self._spawned is not None:
                            await self._spawned.end(self._deadline)
                        await self._shut_down()
                finally:
                    # After `shutdown`, which may want its helpers' work done. Also when `startup` failed: it may have
                    # started some.
                    if self._helpers is not None:
                        await self._helpers.end()
                    if self._scope is not None:
                        await self._close_leftovers()
            if self._scope is not None and self._scope.cancelled_caught:
                raise self._why_cancelled()
        except BaseExceptionGroup as group:
            failure = only_leaf(group)
            self._note_exit(failure)
        except BaseException as error:
            self._note_exit(error)
            raise
        else:
            self._note_exit(None)
        finally:
            if self._spawned is not None:
                # All of them have ended by now. The next incarnation never knew them, and would not know what to do
                # with the news, or would crash because of a link to one.
                actor.mailbox.drop_if(Queue.SYSTEM, self._spawned.sent)
                self._spawned = None
            if self._replies is not None:
                self._replies.incarnation_ended(actor.last_exit, expected=self._is_expected)
            actor.incarnation_ended()
            self.failure = None  # Its traceback leads to this object: a reference cycle for each crash.
        # Raised out here: within the handler above it would get the group as its context, or lose its own cause.
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # As above: its traceback leads to this frame.

    def _note_exit(self, error: BaseException | None) -> None:
        """Store how it ended on the actor, for watchers that want to know it with the next incarnation."""
        cancelled = error is not None and not isinstance(error, Exception)
        self.actor.last_exit = without_crash(
            exit_of(error, cancelled=cancelled, incarnation=self.number, expected=self._is_expected)
        )

    # ---- starting and ending ----

    async def _start_up(self) -> None:
        """Call `startup`, within its bound; an error in a helper that it started ends it."""
        if self._scope is None or not self._has_hook("startup"):
            return
        self._hook = "startup"
        self._scope.deadline = trio.current_time() + self.actor.child.startup_timeout
        try:
            await self.instance.startup()
        except Exception as error:
            if not isinstance(decisive(error), Stop):  # In a group, if a nursery has wrapped it.
                raise
            self.finish()
        self._scope.deadline = math.inf  # Before the next line, which looks at the clock too.
        if self._scope.cancel_called:
            # It has swallowed the cancellation: the scope stays cancelled, so nothing could run in it.
            raise self._why_cancelled()
        self._hook = None

    def _why_cancelled(self) -> BaseException:
        """Return the error of an incarnation that its own scope has ended."""
        if self._hook != "startup":
            return RuntimeError("a nursery or cancel scope that startup had opened was cancelled")
        # First: a helper's error cancels the scope, and must not be reported as a timeout.
        if self._helper_error is not None:
            return self._helper_error
        return trio.TooSlowError(f"startup took longer than {self.actor.child.startup_timeout:g} s")

    async def _shut_down(self) -> None:
        timeout = self.actor.child.shutdown
        scope = self._scope
        if timeout == "brutal_kill" or scope is None or not self._has_hook("shutdown"):
            return
        self._hook = "shutdown"
        # Shielded, because a cancellation is the usual reason to get here. With a deadline that has passed already,
        # what needs no checkpoint is still done.
        scope.deadline = min(trio.current_time() + timeout, self._deadline)
        scope.shield = True
        try:
            await self.instance.shutdown()
        except BaseException as error:
            if is_fatal(error):
                raise
            # An actor that has ended cannot crash any more: whatever it is, it is reported. A cancellation ends here
            # although the scope is left later: it must not take the place of what has ended the actor.
            cause = decisive(error)
            if all(is_cancellation(leaf) for leaf in leaves(cause)):
                cause = trio.TooSlowError(
                    f"took longer than {timeout:g} s, or than its supervisor would wait; it was cancelled"
                    if scope.cancel_called
                    else "was cancelled by a nursery or cancel scope that startup had opened"
                )
            self._report("shutdown", cause)
        finally:
            self._hook = None
            scope.deadline = math.inf
            # Otherwise the scope, if it is cancelled, would keep a cancellation from outside to itself.
            scope.shield = False

    async def _close_leftovers(self) -> None:
        """Close the nurseries that the hooks have opened and left open."""
        left_open = await close_leftovers()
        # No fault of an actor that was not given the time to close them.
        had_time = self._hook is None and self.actor.child.shutdown != "brutal_kill"
        if left_open and had_time and not (self._scope is not None and self._scope.cancel_called):
            self._report("shutdown", left_open)

    def _has_hook(self, name: str) -> bool:
        """Whether the actor's class has a hook of its own: one that does nothing is not worth a scope."""
        return getattr(self.actor.child.actor, name) is not getattr(Hooks, name)

    def _report(self, what: str, error: BaseException) -> None:
        self.actor.services.emit(events.ActorTrouble(self.actor.settings.id, self.actor.label, what, error))

    def on_undelivered(self, messages: list[object]) -> None:
        """Pass on messages that will not be handled, since the actor has ended for good."""
        if messages and self.instance is not None:
            try:
                self.instance.on_undelivered(messages)
            except Exception as error:  # noqa: BLE001 - an actor that has ended cannot crash any more; it is reported
                self._report("on_undelivered", error)

    def stop(self, deadline: float) -> None:
        """End as the supervisor wants it to, by the deadline, once what is in flight has ended."""
        self._is_expected, self._deadline = True, deadline
        self.finish()

    def finish(self) -> None:
        """End as the actor itself wants it to, once what is in flight has ended."""
        self.stopping = True
        self.actor.mailbox.wake()

    def kill(self) -> None:
        """Cancel what runs under shields: the spawned actors, and `shutdown`; the supervisor cancels the rest."""
        self._deadline = -math.inf
        if self._spawned is not None:
            self._spawned.supervision.kill()
        if self._scope is not None and self._hook == "shutdown":
            self._scope.cancel(reason="killed by its supervisor")

    # ---- executors ----

    async def _run_with_more(self, first: Executor) -> None:
        """Let executors take items: the first one in this task, others in a nursery as they are needed."""
        self._variables = copy_context()
        try:
            async with trio.open_nursery() as self._executor_nursery:
                await first.run()
        finally:
            self._executor_nursery = None

    @property
    def wants_executor(self) -> bool:
        """Whether one more executor would find something to do."""
        actor = self.actor
        return (
            len(self.executors) < actor.settings.concurrency
            and len(actor.mailbox) > 0
            and not actor.mailbox.paused
            and self._executor_nursery is not None
        )

    def add_executor(self) -> None:
        """Start one more executor."""
        if self._executor_nursery is None or self._variables is None:
            raise NotRunning(f"{self.actor.title!r} does not run")
        executor = Executor(self)
        self.executors = (*self.executors, executor)
        # In the incarnation's context: this may be called within the handler, or by the sender, of any message.
        name = f"{self.actor.title} executor {len(self.executors)}"
        self._variables.run(self._executor_nursery.start_soon, executor.run, name=name)

    def executor_ended(self) -> None:
        """Start no more executors: the first one that ends does so because the incarnation ends."""
        self._executor_nursery = None

    @property
    def in_flight(self) -> int:
        """How many executors handle something."""
        return len([executor for executor in self.executors if executor.item is not None])

    def handles(self, item: Item | None) -> bool:
        """Whether an executor handles an item now."""
        return any(executor.item is item for executor in self.executors)

    def in_flight_since(self) -> list[tuple[Item, float]]:
        """Return what is in flight, each with when it began (Trio's clock)."""
        # A local message that the watchdog has not looked at yet has only just begun.
        return [(e.item, e.began or trio.current_time()) for e in self.executors if e.item is not None]

    def end_in_flight(self, why: EndReason, *, deliveries_only: bool = False) -> None:
        """Cancel what is in flight."""
        for executor in self.executors:
            if not deliveries_only or isinstance(executor.item, Delivery):
                executor.end(why)

    # ---- helper tasks and spawned actors ----

    @property
    def nursery(self) -> ActorNursery:
        """For helper tasks."""
        if self._helpers is None:
            self._helpers = ActorNursery(self.actor.title, self.actor.services.start_soon, self._helper_failed)
        return self._helpers

    def _helper_failed(self, error: BaseException) -> None:
        """Crash, because a helper task did."""
        if isinstance(error, Stop):
            self.finish()
            return
        self._helper_error = error
        if self._scope is not None and self._hook == "startup":
            self._scope.cancel(reason="a helper task failed")
        elif self.executors:
            for executor in self.executors:
                executor.crash(error)
        else:
            self._report("helper task", error)

    def pipe(
        self,
        function: Callable[..., Awaitable[object]],
        args: tuple[object, ...],
        to: Callable[[Any], object] | None,
    ) -> None:
        """Run a function as a helper task and send its result to the actor itself."""

        async def run() -> None:
            value = await function(*args)
            message = value if to is None else to(value)
            self.actor.behaviour.check(message)
            self.actor.mailbox.put(SystemCall(message, None, None, queue=Queue.SELF))

        self.nursery.start_soon(run, name=f"{self.actor.title} pipe")

    async def spawn(self, child: object, name: str | None) -> ActorRef[Any]:
        """Start an actor below this one."""
        if self._spawned is None:
            new_supervision, title = self.actor.services.new_supervision, self.actor.title
            if new_supervision is None:
                raise NotRunning(f"{title!r} runs outside of a system and cannot spawn")
            supervision = new_supervision(DynamicSupervisor(name=f"children of {title}"))
            self._spawned = SpawnedChildren(title, supervision, self.nursery)
        return await self._spawned.spawn(child, name)

    @property
    def children(self) -> RunningSupervisor | None:
        """The supervisor of the spawned actors, if there are any."""
        return None if self._spawned is None else self._spawned.supervision

    # ---- replies that it owes ----

    @property
    def replies(self) -> OpenReplies:
        """The replies that askers still wait for when it ends."""
        if self._replies is None:
            self._replies = OpenReplies(self.actor.title)
        return self._replies

    def fail_held_replies(self, *, over: bool) -> None:
        """Answer askers that its end has cut off, now that it is known whether the actor is over."""
        if self._replies is not None:
            self._replies.fail_held(over=over)
