"""One incarnation of an actor: what does not survive a restart.

It lives in one task of its supervisor:

    construct ── startup ── started ──▶ executors take items ──▶ (stop | crash)
                                                                     └── spawned actors end ── shutdown ── helpers end

`shutdown` is called once for every incarnation that started, also after a crash, and is always bounded. Helper tasks
and spawned actors live in the incarnation's nursery and end with it; an error in one is the actor's crash.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from contextvars import Context as ContextVars, copy_context
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import trio

from actorwork import events
from actorwork.actors.context.context import Context
from actorwork.actors.context.in_flight import Stop, inside
from actorwork.actors.context.nursery import ActorNursery
from actorwork.actors.crash import without_crash
from actorwork.actors.execution.executor import Executor
from actorwork.actors.life.spawned import SpawnedChildren
from actorwork.actors.mailbox.calls import Queue, SystemCall
from actorwork.actors.tree.hooks import has_hooks
from actorwork.actors.tree.spec import DynamicSupervisor
from actorwork.errors import NotRunning
from actorwork.groups import only_leaf
from actorwork.message import Delivery
from actorwork.policy.exits import Exit, exit_of
from actorwork.policy.settlement import EndReason

if TYPE_CHECKING:
    from actorwork.actors.bridge import AsyncioLoop
    from actorwork.actors.context.context import ContextActor
    from actorwork.actors.context.in_flight import ReportTaker
    from actorwork.actors.execution.workplace import ExecutorActor, Settler
    from actorwork.actors.life.hook_runner import HookRunner
    from actorwork.actors.life.open_replies import OpenReplies
    from actorwork.actors.life.services import Services
    from actorwork.actors.life.stash import Stash
    from actorwork.actors.mailbox.calls import Item
    from actorwork.actors.refs.ref import ActorRef
    from actorwork.actors.supervision.supervisor import RunningSupervisor
    from actorwork.actors.tree.spec import Child

_NO_SCOPE: Final = nullcontext()
"""For an actor without hooks: most are, and a scope would double what an idle one takes."""


_LONGEST_END: Final = 5.0
"""Seconds, at most, that the end of an asyncio loop may take."""

T = TypeVar("T")


if TYPE_CHECKING:

    class BodyConsumer(Settler, ReportTaker, Protocol):
        """What an incarnation uses of the way to the broker."""

    class Body(ContextActor, ExecutorActor, Protocol):
        """What an incarnation uses of its actor, which outlives it."""

        child: Child
        last_exit: Exit

        @property
        def consumer(self) -> BodyConsumer | None: ...
        @property
        def services(self) -> Services: ...
        @property
        def stash(self) -> Stash: ...
        def incarnation_started(self) -> None: ...
        def incarnation_ended(self) -> None: ...


class Incarnation:
    """An instance of the actor's class, and the tasks that run on its behalf."""

    __slots__ = (
        "_asyncio",
        "_deadline",
        "_executor_nursery",
        "_helpers",
        "_hooks",
        "_is_expected",
        "_replies",
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
        # All of this is made on demand: most actors have none of it.
        self._hooks: HookRunner | None = None
        self._helpers: ActorNursery | None = None
        self._spawned: SpawnedChildren | None = None
        self._replies: OpenReplies | None = None
        self._executor_nursery: trio.Nursery | None = None
        self._variables: ContextVars | None = None
        self._asyncio: AsyncioLoop | None = None

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
            if getattr(actor.child.actor, "__actorwork_entity__", False):
                from actorwork.actors.entities.context import EntityContext  # noqa: PLC0415 - see below
                from actorwork.actors.entities.host import EntityHost  # noqa: PLC0415

                host = self.instance = EntityHost(actor)
                host.context = EntityContext(actor, self)
            else:
                self.instance = actor.child.make()
                self.instance.context = Context(actor, self)
            if has_hooks(actor.child.actor):
                # Imported here and below: a program without any of it starts faster.
                from actorwork.actors.life.hook_runner import HookRunner  # noqa: PLC0415

                self._hooks = HookRunner(actor.child, self._report)
            with self._hooks.scope if self._hooks is not None else _NO_SCOPE:
                try:
                    if self._hooks is not None:
                        await self._hooks.start_up(self.instance, self.finish)
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
                        if self._hooks is not None:
                            await self._hooks.shut_down(self.instance, self._deadline)
                finally:
                    # After `shutdown`, which may want its helpers' work done. Also when `startup` failed: it may have
                    # started some.
                    if self._helpers is not None:
                        await self._helpers.end()
                    if self._hooks is not None:
                        await self._hooks.close(self._deadline)
                    if self._asyncio is not None:
                        await self._end_asyncio(self._asyncio)
            if self._hooks is not None and self._hooks.scope.cancelled_caught:
                raise self._hooks.why_cancelled()
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
        if self._hooks is not None:
            self._hooks.kill()

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
    def asyncio_loop(self) -> AsyncioLoop:
        """For functions that need asyncio, made when it is first asked for."""
        if self._asyncio is None:
            from actorwork.actors.bridge import AsyncioLoop  # noqa: PLC0415 - see `run`

            self._asyncio = AsyncioLoop(self.actor.label)
        return self._asyncio

    async def _end_asyncio(self, loop: AsyncioLoop) -> None:
        bound = self.actor.child.shutdown
        seconds = 0.0 if bound == "brutal_kill" else min(bound, _LONGEST_END)
        if not await loop.aclose(seconds) and seconds:
            late = f"tasks that were left on the asyncio loop did not end within {seconds:g} s of their cancellation"
            self._report("asyncio", TimeoutError(late))

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
        if self._hooks is not None and self._hooks.fail(error):
            return
        if self.executors:
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

    async def enter(self, block: AbstractAsyncContextManager[T]) -> T:
        """Enter a block in `startup`, to be left after `shutdown`."""
        if self._hooks is None:
            raise NotRunning("context.enter belongs into startup; a handler uses `async with`")
        return await self._hooks.enter(block)

    async def spawn(self, child: object, name: str | None) -> ActorRef[Any]:
        """Start an actor below this one."""
        if self._spawned is None:
            new_supervision, title = self.actor.services.new_supervision, self.actor.label
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
            from actorwork.actors.life.open_replies import OpenReplies  # noqa: PLC0415 - as above

            self._replies = OpenReplies(self.actor.title)
        return self._replies

    def fail_held_replies(self, *, over: bool) -> None:
        """Answer askers that its end has cut off, now that it is known whether the actor is over."""
        if self._replies is not None:
            self._replies.fail_held(over=over)
