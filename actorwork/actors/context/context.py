"""What the runtime offers to an actor, on the one attribute `self.context`.

Some of it belongs to the actor (`ref`, `timers`, `watch`), some to the incarnation (`nursery`, `spawn`), some to the
message in flight (`delivery`, `publish`, `defer`). Which message that is, is known by the task (`in_flight`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar, Unpack, cast, overload

from actorwork.actors.context.in_flight import InFlight, Stop, in_flight
from actorwork.actors.context.logger import ContextLogger
from actorwork.actors.context.publishing import PublishBuffer, check_declared
from actorwork.actors.mailbox.calls import CallState, LocalCall
from actorwork.actors.refs.watching import Watch
from actorwork.actors.tree.hooks import Hooks
from actorwork.actors.wakeups import check_thread, on_loop
from actorwork.durations import Duration
from actorwork.errors import NotRunning
from actorwork.settings import Source

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from random import Random

    import trio

    from actorwork.abc import PublishMiddleware, Values
    from actorwork.actors.context.in_flight import ReportTaker
    from actorwork.actors.context.nursery import ActorNursery
    from actorwork.actors.context.runs import StartedRuns
    from actorwork.actors.context.sending import SendingClient, StartedRun
    from actorwork.actors.context.timers import Timers
    from actorwork.actors.handlers.behaviour import Behaviour
    from actorwork.actors.refs.links import Links
    from actorwork.actors.refs.ref import ActorRef
    from actorwork.actors.refs.registry import Registry
    from actorwork.actors.refs.topics import Topics
    from actorwork.actors.supervision.administration import SupervisorRef
    from actorwork.actors.tree.spec import Child
    from actorwork.actors.wakeups import Looping, Reply
    from actorwork.message import Delivery, MessageIds
    from actorwork.policy.sending import SendOptions
    from actorwork.settings import Settings
    from actorwork.state.lock import Lock, LockUse
    from actorwork.state.shared import Shared
    from actorwork.workflows.flow import Flow
    from actorwork.workflows.steps import Step

R = TypeVar("R")
A = TypeVar("A", bound=Hooks)
T = TypeVar("T")


if TYPE_CHECKING:

    class ContextServices(Protocol):
        """What a context uses of its system."""

        @property
        def registry(self) -> Registry: ...
        @property
        def topics(self) -> Topics: ...
        @property
        def random(self) -> Random: ...
        @property
        def values(self) -> Callable[[], Values] | None: ...
        @property
        def lock_uses(self) -> dict[LockUse, None]: ...
        @property
        def publish_middleware(self) -> tuple[PublishMiddleware, ...]: ...
        @property
        def ids(self) -> MessageIds: ...
        @property
        def shards(self) -> Mapping[str, int]: ...
        @property
        def client(self) -> Callable[[tuple[PublishMiddleware, ...]], SendingClient] | None: ...

    class BoundedStash(Protocol):
        """Where `stash` sets messages aside."""

        def reserve(self, current: InFlight | LocalCall) -> None: ...

    class ContextActor(Protocol):
        """What a context uses of its actor."""

        title: str
        settings: Settings
        ref: ActorRef[Any]
        behaviour: Behaviour
        supervisor: SupervisorRef | None

        @property
        def consumer(self) -> ReportTaker | None: ...
        @property
        def label(self) -> str: ...
        @property
        def services(self) -> ContextServices: ...
        @property
        def stash(self) -> BoundedStash: ...
        @property
        def links(self) -> Links: ...
        @property
        def timers(self) -> Timers: ...
        def unstash(self) -> None: ...

    class DeferredReplies(Protocol):
        """The replies that the incarnation owes."""

        def defer(self, reply: Reply) -> None: ...

    class ContextIncarnation(Protocol):
        """What a context uses of its incarnation."""

        @property
        def nursery(self) -> ActorNursery: ...
        @property
        def replies(self) -> DeferredReplies: ...
        @property
        def asyncio_loop(self) -> Looping: ...
        def pipe(
            self,
            function: Callable[..., Awaitable[object]],
            args: tuple[object, ...],
            to: Callable[[Any], object] | None,
        ) -> None: ...
        async def enter(self, block: AbstractAsyncContextManager[T]) -> T: ...
        async def spawn(self, child: object, name: str | None) -> ActorRef[Any]: ...


class Neighbours:
    """The part of a context that is about other actors: spawned, watched, linked, named, reached by topics."""

    __slots__ = ("_actor", "_incarnation")

    def __init__(self, actor: ContextActor, incarnation: ContextIncarnation) -> None:
        self._actor = actor
        self._incarnation = incarnation

    async def spawn(self, child: Child[A] | type[A] | Callable[[], A], *, name: str | None = None) -> ActorRef[A]:
        """Start an actor below this one and return its ref, once its `startup` has returned.

        It is local: it does not read from the broker. It ends with this incarnation, before `shutdown`. Restarted as
        its `Child` says; beyond three restarts in five seconds this actor crashes. Raises `StartError`,
        `AlreadyRegistered`.
        """
        return await self._incarnation.spawn(child, name)

    def watch(self, ref: ActorRef[Any], *, restarts: bool = False, message: object = None) -> None:
        """Receive `Terminated` (or `message`) once when an actor ends for good; with `restarts`, `Restarted` too.

        For an actor that has ended already, at once. Kept over restarts of this actor, except for the actors that it
        has spawned, which end with its incarnation; another `watch` of the same actor replaces this one. Without a
        handler for the signal this actor crashes (`DeathPact`).
        """
        ref.cell.links.add_watcher(self._actor, Watch(restarts=restarts, message=message))

    def unwatch(self, ref: ActorRef[Any]) -> None:
        """Undo `watch`, and drop its signals that have not been handled yet."""
        ref.cell.links.remove_watcher(self._actor)

    def link(self, ref: ActorRef[Any]) -> None:
        """Link two actors: the abnormal end of one, for good, crashes the other.

        Kept over restarts of both. The crash comes after the message in flight, whatever handlers there are.
        """
        self._actor.links.link(ref.cell)

    def unlink(self, ref: ActorRef[Any]) -> None:
        """Undo `link`, for both; from now on the end of the other one does nothing to this actor."""
        self._actor.links.unlink(ref.cell)

    def register(self, name: str) -> None:
        """Take a name within the system, kept over restarts; raises `AlreadyRegistered`."""
        self._actor.links.register(name)

    def unregister(self, name: str) -> None:
        """Free a name; do nothing if it is not this actor's."""
        self._actor.links.unregister(name)

    def whereis(self, name: str) -> ActorRef[Any] | None:
        """Return the ref of the actor with a name, or None."""
        return self._actor.services.registry.whereis(name)

    def subscribe(self, topic: str) -> None:
        """Receive every message that is broadcast to a topic, until this incarnation ends."""
        self._actor.links.subscribe(topic)

    def unsubscribe(self, topic: str) -> None:
        self._actor.links.unsubscribe(topic)

    def broadcast(self, topic: str, message: object) -> int:
        """Send a message to all subscribers of a topic, without waiting; return how many accepted it."""
        return self._actor.services.topics.publish(topic, message)


class Context(Neighbours):
    """What an actor may use while it runs; made anew for every incarnation."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<context of {self.ref!r}>"

    @property
    def ref(self) -> ActorRef[Any]:
        """The actor's own ref."""
        return self._actor.ref

    @property
    def nursery(self) -> ActorNursery:
        """For helper tasks of this incarnation: they are cancelled when it ends, and an error in one is its crash."""
        return self._incarnation.nursery

    async def enter(self, block: AbstractAsyncContextManager[T]) -> T:
        """Enter a block in `startup`, and leave it after `shutdown`; return what it yields.

            self.client = await self.context.enter(open_client(url))

        Blocks are left in the reverse order, whatever ends the actor, also when `startup` fails later on; all together
        within the bound of `shutdown`, after which they are cancelled. Raises `NotRunning` outside of `startup`.
        """
        return await self._incarnation.enter(block)

    async def on_asyncio(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """Run an async function of asyncio's on this actor's asyncio loop, and wait for it: its value, or its error.

            rows = await self.context.on_asyncio(self.pool.fetch, "select 1")

        The loop runs in a thread of its own; an actor with `Settings(loop="asyncio")` runs everything there. Cancelled:
        the function is cancelled and waited for.
        """
        if on_loop.get() is not None:
            return await function(*args)
        return await self._incarnation.asyncio_loop.run(function, *args)

    @overload
    async def on_trio(self, function: Callable[..., Awaitable[T]], *args: object) -> T: ...
    @overload
    async def on_trio(self, function: Callable[..., T], *args: object) -> T: ...
    async def on_trio(self, function: Callable[..., Any], *args: object) -> Any:
        """In a handler on asyncio, call a function on Trio, and wait for it: its value, or its error.

            answer = await self.context.on_trio(other.ask, Question())

        Cancelled: the function is cancelled and waited for. Raises `NotRunning` where no handler waits on Trio.
        """
        call = on_loop.get()
        if call is None:
            raise NotRunning("context.on_trio belongs to a handler that runs on asyncio; on Trio, call the function")
        return await call.on_trio(function, *args)

    @property
    def log(self) -> ContextLogger:
        """A logger that names the actor and the message in flight."""
        extra = {"actor_id": self._actor.settings.id, "actor": self._actor.label}
        return ContextLogger(logging.getLogger("actorwork.actor"), extra)

    # ---- the delivery in flight ----

    @property
    def delivery(self) -> Delivery:
        """The delivery in flight: id, source, attempt, headers.

        Raises `NotRunning` outside of a handler, and in one that handles a local message.
        """
        return self._in_flight("delivery")[1]

    @property
    def deliveries(self) -> tuple[Delivery, ...]:
        """The deliveries in flight, in the order of the messages that the handler of a batch has.

        Outside of a batch there is one. Raises `NotRunning` as `delivery` does.
        """
        current, delivery = self._in_flight("deliveries")
        return current.deliveries or (delivery,)

    def publish(self, target: str | object, message: object, **options: Unpack[SendOptions]) -> None:
        """Keep a message to be sent atomically with the settlement of the delivery in flight.

        `target` is the name of a source, an actor class, or a durable ref; the options are those of `SendOptions`. Sent
        only if the delivery ends as handled and is still ours then; dropped if its `unique` key is taken then. Raises
        `CodecError` for what is no message, and `SettingsError` for a `Source` with a number of shards that no actor
        of this process declares: this does not wait, so it asks no broker.
        """
        current, _ = self._in_flight("publish")
        if isinstance(target, Source) and target.shards is not None:
            check_declared(target, self._actor.services.shards)
        outgoing = current.outgoing
        if outgoing is None:
            outgoing = current.outgoing = PublishBuffer(self._actor.settings.event_settings, self._publish_layers)
        outgoing.add(target, message, options)

    def progress(
        self, done: float = 0, total: float | None = None, note: str = "", *, state: str = "PROGRESS", **meta: object
    ) -> None:
        """Report how far the handler is, to those who watch the message; also from the thread of a handler.

            self.context.progress(3, 10, "loading")
            self.context.progress(state="VALIDATING", step="imports", found=["a", "b"])

        Never waits: of several reports within 50 ms only the newest is sent, and the last one goes with the settlement
        at the latest. Dropped for a message that cannot be watched (it was not submitted, and is no step of a run), and
        once the delivery has ended or belongs to another node. Raises `TypeError`, `ValueError` or `CodecError` for
        what is no report: `meta` has at most 16 kB of JSON, `state` 100 characters.
        """
        # Imported here: few handlers report, and a node starts faster without.
        from actorwork.actors.context.progress import Reports, progress_of  # noqa: PLC0415

        current, consumer = in_flight.get(), self._actor.consumer
        report = progress_of(done, total, note, state, meta)
        if current is None:
            raise NotRunning("context.progress belongs to a message; there is none in flight here")
        if isinstance(current, LocalCall) or consumer is None or current.ended:
            return
        if current.reports is None:
            current.reports = Reports(consumer, current)
        current.reports.give(report)

    # ---- limits ----

    def soft_limit(self) -> trio.CancelScope:
        """Return a cancel scope that ends `soft_timeout` seconds after the handler began; without one, never.

            with self.context.soft_limit() as scope:
                async for part in download(message.url):
                    parts.append(part)
            if scope.cancelled_caught:
                ...  # There is time left until `execution_timeout` to keep what is there.

        The seconds count from the beginning of the handler, not of the block. Raises `NotRunning` outside of a
        handler, and in a handler without `async`: its thread cannot be cancelled, so ask `soft_time_left` in its loops.
        """
        from actorwork.actors.context import soft_limits  # noqa: PLC0415 - few handlers have one

        return soft_limits.scope(self._actor.settings.soft_timeout)

    def soft_time_left(self) -> float:
        """Return how many seconds are left until `soft_timeout`: less than 0 after it, infinity without one.

        Usable in handlers without `async` too.
        """
        from actorwork.actors.context import soft_limits  # noqa: PLC0415 - few handlers have one

        return soft_limits.time_left(self._actor.settings.soft_timeout)

    # ---- workflows ----

    def start(self, flow: Flow[R] | Step[R], *, id: str | None = None) -> StartedRun[R]:
        """Start a workflow atomically with the settlement of the delivery in flight; return its run.

        It starts only if the delivery ends as handled and is still ours then. With the `id` of a run that exists
        nothing is started. Raises `TypeError`, `ValueError` or `CodecError` for a flow that cannot work, and
        `NotRunning` outside of a delivery and in a batch.
        """
        runs = self._runs("start")
        chosen = next(self._actor.services.ids) if id is None else id
        runs.start(flow, chosen)
        return cast("StartedRun[R]", self.client.run(chosen))

    def continue_with(self, flow: Flow[R] | Step[R]) -> R:
        """Return this from a handler: the message then ends as the workflow ends, with its result.

        The workflow starts with the settlement of the delivery. A sender that waits for the reply, and the run of which
        the message is a step, continue to wait. Raises as `start` does.
        """
        runs = self._runs("continue_with")
        return cast("R", runs.continue_with(flow, next(self._actor.services.ids)))

    def expand(self, steps: Sequence[Step[Any]]) -> None:
        """Add steps to the group of which the message in flight is a member, atomically with its settlement.

        Steps that wait for the group wait for these members too, and get their results at the end of the list. What the
        members need is added as well: 1,000 steps at most. Nothing is added if the delivery does not end as handled.
        Raises `NotRunning` for a message that is no member of a group, and `TypeError`, `ValueError` or `CodecError`
        for steps that cannot be added; one whose result is of another type than the group's fails the delivery.
        """
        runs = self._runs("expand")
        runs.expand(steps, self.delivery)

    def _runs(self, name: str) -> StartedRuns:
        current, _ = self._in_flight(name)
        if current.deliveries:
            raise NotRunning(f"context.{name} belongs to one message; a batch has no settlement of its own")
        if current.runs is None:
            # Imported here: few actors start workflows, and a node starts faster without.
            from actorwork.actors.context.runs import StartedRuns  # noqa: PLC0415

            current.runs = StartedRuns(self._publish_layers)
        return current.runs

    @property
    def client(self) -> SendingClient:
        """A client of the system's broker, to send at once: `await self.context.client.ref(Mailer).ask(…)`.

        Unlike `publish`, it neither waits for the settlement of the delivery in flight nor depends on it; a message
        that is run again sends again. Usable in hooks and helper tasks too; but in `startup` do not ask an actor of the
        same system, which reads nothing before its whole tree is up. Raises `NotRunning` without a system.
        """
        if self._actor.services.client is None:
            raise NotRunning("context.client sends through the broker, and this actor runs without one")
        client, call = self._actor.services.client(self._publish_layers), on_loop.get()
        return client if call is None else cast("SendingClient", call.proxy(client))

    @property
    def _publish_layers(self) -> tuple[PublishMiddleware, ...]:
        return self._actor.services.publish_middleware + self._actor.settings.publish_middleware

    def _in_flight(self, name: str) -> tuple[InFlight, Delivery]:
        current = in_flight.get()
        if current is None:
            raise NotRunning(f"context.{name} belongs to a delivery; there is none in flight here")
        if current.ended:
            raise NotRunning(f"context.{name}: the delivery that this task was started for is settled")
        if isinstance(current, LocalCall):
            raise NotRunning(
                f"context.{name} belongs to a delivery from a broker; this handler handles a local message"
            )
        return current, current.delivery

    # ---- the message in flight ----

    def stash(self) -> None:
        """Set the message in flight aside until `unstash`; it is neither settled nor answered meanwhile.

        Raises `MailboxFull` when `settings.mailbox.stash` messages are stashed. They survive a restart, in the mailbox.
        """
        current = self._current("stash")
        if isinstance(current, InFlight) and current.deliveries:
            raise NotRunning("context.stash sets one message aside; a batch ends as a whole, message by message")
        self._actor.stash.reserve(current)

    def unstash(self) -> None:
        """Put all stashed messages before those that wait, in their order."""
        check_thread("context.unstash")
        self._actor.unstash()

    def become(self, *handlers: Callable[..., Any]) -> None:
        """From the next message on, handle with these methods alone, until `unbecome` or a restart.

        A method need not be marked with `receive`; its annotation is enough. A message that none of them takes is
        refused, as by an actor without a handler for it.
        """
        self._actor.behaviour = self._actor.behaviour.become(self._actor.title, handlers)

    def unbecome(self) -> None:
        """Handle with the class's own handlers again."""
        self._actor.behaviour = self._actor.behaviour.unbecome()

    def defer(self) -> Reply:
        """Return the reply of the local message in flight, to `give` or `fail` it later.

        What the handler returns is dropped. Only the first answer counts; if the incarnation ends without one, the
        ask raises `ActorCrashed` or `ActorStopped`.
        Raises `NotRunning` for a delivery from a broker, and for a message whose sender did not ask.
        """
        current = self._current("defer")
        if current.call is None or current.call.reply is None:
            raise NotRunning("context.defer: no sender in this process waits for a reply to the message in flight")
        current.state = CallState.DEFERRED
        self._incarnation.replies.defer(current.call.reply)
        return current.call.reply

    def forward(self, ref: ActorRef[Any]) -> None:
        """Pass the local message in flight on to another actor, which answers the asker.

        Raises `MailboxFull`, `ActorStopped`, `MessageRefused` as `tell_nowait` does, and `NotRunning` for a delivery.
        """
        current = self._current("forward")
        if current.call is None:
            raise NotRunning("context.forward passes on local messages; publish a message that came from a broker")
        ref.forward(current.call)
        current.state = CallState.DEFERRED

    def pipe(
        self, function: Callable[..., Awaitable[object]], *args: object, to: Callable[[Any], object] | None = None
    ) -> None:
        """Run `function(*args)` as a helper task, and send its result to this actor, as `to(result)` if given.

        The actor continues meanwhile. An error in the function is the actor's crash; the end of the incarnation cancels
        it.
        """
        self._incarnation.pipe(function, args, to)

    # ---- shared by all nodes ----

    @overload
    def shared(self, name: str, type: type[T], *, default: T, ttl: Duration | None = None) -> Shared[T]: ...
    @overload
    def shared(self, name: str, type: type[T], *, ttl: Duration | None = None) -> Shared[T | None]: ...
    def shared(self, name: str, type: Any, *, default: Any = None, ttl: Duration | None = None) -> Shared[Any]:
        """Return a value that all nodes share, by its name; `default` where there is none.

        With `ttl` it is forgotten `ttl` seconds after its last write.
        """
        from actorwork.state.shared import Shared  # noqa: PLC0415 - as above

        return Shared(self._values("shared"), name, type, default=default, ttl=ttl)

    def lock(self, name: str, *, ttl: Duration = 10.0) -> Lock:
        """Return a lock among all nodes, for `async with`; that of a process that dies is free after `ttl` seconds."""
        from actorwork.state.lock import Lock, LockUser  # noqa: PLC0415 - most actors use none
        from actorwork.state.on_trio import TrioWaiting  # noqa: PLC0415 - see above

        values, services, current = self._values("lock"), self._actor.services, in_flight.get()
        message = current.delivery.id if isinstance(current, InFlight) else ""
        user = LockUser(self._actor.title, message, services.lock_uses)
        who = f"the actor {self._actor.title!r}"
        return Lock(values, name, ttl=ttl, random=services.random, waiting=TrioWaiting(), user=user, who=who)

    def _values(self, name: str) -> Values:
        if self._actor.services.values is None:
            raise NotRunning(f"context.{name} is kept at the broker, and this actor runs without one")
        return self._actor.services.values()

    # ---- the actor itself ----

    @property
    def timers(self) -> Timers:
        """Messages to the actor itself later, by key; cancelled when the incarnation ends."""
        return self._actor.timers

    @property
    def supervisor(self) -> SupervisorRef:
        """The actor's own supervisor: its siblings can be looked at, started and stopped.

        An actor that waits here for its own end is in a deadlock until the shutdown timeout: use `stop()` for that.
        """
        if self._actor.supervisor is None:
            raise NotRunning(f"{self._actor.title!r} has no supervisor: it does not run in a system")
        return self._actor.supervisor

    def stop(self) -> NoReturn:
        """End this actor: the message in flight ends as if its handler had returned; a permanent child starts again.

        In a helper task or `startup`, too: the message in flight ends first.
        """
        raise Stop

    def _current(self, name: str) -> InFlight | LocalCall:
        current = in_flight.get()
        if current is None:
            raise NotRunning(f"context.{name} belongs to a message; there is none in flight here")
        if current.ended:
            raise NotRunning(f"context.{name}: the message that this task was started for has ended")
        return current
