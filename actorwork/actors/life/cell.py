"""A cell: what of an actor survives its restarts: identity, mailbox, ref, and its place at the broker.

One incarnation lives like this, in one task of its supervisor:

    construct ── startup ── started ──▶ executors take items ──▶ (told to stop | crash) ── shutdown ── helpers cancelled

`shutdown` is called once for every incarnation that started, also after a crash, always bounded. Helper tasks live in
the incarnation's nursery and end with it; an error in one is the actor's crash.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextvars import Context as ContextVars, copy_context
from random import Random
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

import attrs
import trio

from actorwork import events
from actorwork.abc import EventSink, LimitStore, Middleware, PublishMiddleware, Values
from actorwork.actors.actor import Actor
from actorwork.actors.context.context import Context
from actorwork.actors.context.in_flight import Stop, inside
from actorwork.actors.context.nursery import ActorNursery
from actorwork.actors.context.publishing import PublishBuffer
from actorwork.actors.context.timers import Expiries, Timer, Timers, TimerWheel
from actorwork.actors.crash import without_crash
from actorwork.actors.execution.batches import Batches, BatchItem
from actorwork.actors.execution.executor import EndReason, Executor
from actorwork.actors.execution.guarded import GuardedExecutor
from actorwork.actors.handlers.table import HandlerTable, handlers_of, local_keywords
from actorwork.actors.life.consumer import Consumer
from actorwork.actors.life.spawned import SpawnedChildren
from actorwork.actors.limits.admission import AdmissionQueue
from actorwork.actors.limits.limiters import LimiterRegistry
from actorwork.actors.mailbox.calls import Item, LocalCall, Queue, SystemCall
from actorwork.actors.mailbox.mailbox import Mailbox
from actorwork.actors.refs.links import Links
from actorwork.actors.refs.ref import ActorRef
from actorwork.actors.refs.registry import Registry
from actorwork.actors.refs.topics import Topics
from actorwork.actors.refs.watching import LinkBroken, Watch
from actorwork.actors.supervision.supervisor import RunningSupervisor
from actorwork.actors.tree.spec import Child, DynamicSupervisor
from actorwork.actors.wakeups import Reply
from actorwork.errors import ActorCrashed, ActorStopped, MailboxFull, MessageRefused, NotRunning, SettingsError
from actorwork.groups import only_leaf
from actorwork.message import Delivery
from actorwork.policy.exits import Exit, Kind, exit_of

if TYPE_CHECKING:
    from actorwork.actors.execution.watchdog import Watchdog
    from actorwork.actors.supervision.administration import SupervisorRef
    from actorwork.message import MessageIds


def _no_limit_store() -> NoReturn:
    raise NotRunning("limits over all nodes are counted by the broker of a running system")


@attrs.frozen(eq=False)
class Services:
    """What all actors of a system share."""

    emit: EventSink
    watchdog: Watchdog
    ids: MessageIds
    random: Random = attrs.field(factory=Random)
    threads: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(math.inf))
    start_soon: Callable[..., None] = lambda *_: None
    """Starts a task of the system's own; a no-op once it ends."""
    new_supervision: Callable[[DynamicSupervisor], RunningSupervisor] | None = None
    """Makes the supervisor of the actors that an actor spawns."""
    cells: dict[Cell, None] = attrs.field(factory=dict)
    """All cells that have not ended."""
    registry: Registry = attrs.field(factory=Registry)
    topics: Topics = attrs.field(factory=Topics)
    timers: TimerWheel = attrs.field(factory=TimerWheel)
    expiries: Expiries = attrs.field(factory=Expiries)
    values: Callable[[], Values] | None = None
    """Returns the broker's shared values and locks."""
    middleware: tuple[Middleware, ...] = ()
    """Wraps every delivery, outside of the actor's own."""
    publish_middleware: tuple[PublishMiddleware, ...] = ()
    limit_store: Callable[[], LimitStore] = _no_limit_store
    """Returns what counts for all nodes."""
    limiters: LimiterRegistry = attrs.field(
        default=attrs.Factory(lambda self: LimiterRegistry(self, self.ids.publisher), takes_self=True)
    )

    @property
    def dice(self) -> Callable[[], float]:
        return self.random.random


_NEVER_RAN: Final = Exit(Kind.NORMAL)


class Cell:
    """An actor's identity, mailbox and ref. Small: there may be a hundred thousand."""

    __slots__ = (
        "_batches",
        "_context",
        "_deadline",
        "_ending",
        "_executors",
        "_exit",
        "_helper_error",
        "_helpers",
        "_instance",
        "_is_guarded",
        "_last_exit",
        "_last_instance",
        "_links",
        "_nursery",
        "_owed",
        "_quiet",
        "_refuses",
        "_spawned",
        "_starting",
        "_stashed",
        "_timers",
        "_told_to_stop",
        "admission",
        "behaviour",
        "child",
        "consumer",
        "handlers",
        "incarnation",
        "layers",
        "mailbox",
        "over",
        "ref",
        "services",
        "settings",
        "stopping",
        "supervisor",
        "title",
    )

    def __init__(self, child: Child, services: Services, *, fed: bool = False) -> None:
        settings = child.settings
        self.child = child
        self.services = services
        self.settings = settings
        self.title = settings.title
        self.handlers = handlers_of(cast("type", child.actor))
        self.layers: Sequence[Middleware] = services.middleware + settings.middleware
        self.mailbox = Mailbox(
            name=settings.title,
            settings=settings.mailbox,
            concurrency=settings.concurrency,
            on=self,
            usual=settings.priority,
            batch=self.handlers.largest_batch if fed else 1,
        )
        self.behaviour: HandlerTable | None = None
        """What `become` put in the place of the class's handlers."""
        self.ref: ActorRef[Any] = ActorRef(self)
        self.consumer: Consumer | None = Consumer(self) if fed else None
        """Its place at the broker; a local actor has none."""
        self.admission: AdmissionQueue | None = None
        """Where deliveries wait for limits, if there are any."""
        if fed and (settings.limits or any(handler.limits for handler in self.handlers)):
            self.admission = AdmissionQueue(self, services.limiters, services.start_soon)
        self._is_guarded = fed and (self.admission is not None or self.handlers.has_rules)
        self._batches: Batches | None = None
        self.supervisor: SupervisorRef | None = None
        """Whose child it is."""
        self.incarnation = 0
        self.stopping = False
        """The incarnation takes no further item."""
        self.over = False
        """It has ended for good."""
        self._refuses: str | None = None
        self._last_exit = _NEVER_RAN
        self._exit: Exit | None = None
        """How it ended for good, if it has."""
        self._told_to_stop = False
        self._deadline = math.inf
        # All of this is made on demand: most actors are idle, and have none of it.
        self._links: Links | None = None
        self._timers: Timers | None = None
        self._stashed: list[Item] | None = None
        self._spawned: SpawnedChildren | None = None
        self._owed: set[Reply] | None = None
        self._helpers: ActorNursery | None = None
        self._helper_error: BaseException | None = None
        self._executors: tuple[Executor, ...] = ()
        self._nursery: trio.Nursery | None = None
        self._context: ContextVars | None = None
        self._instance: Any = None
        self._last_instance: Any = None
        self._starting: trio.CancelScope | None = None
        self._ending: trio.CancelScope | None = None
        self._quiet: trio.Event | None = None
        if child.name is not None:
            self.links.register(child.name)  # first, since it may raise `AlreadyRegistered`
        services.cells[self] = None

    def __repr__(self) -> str:
        return f"<cell of {self.title!r}, incarnation {self.incarnation}: {self.mailbox!r}>"

    # ---- the mailbox's needs ----

    def room_made(self) -> None:
        """A reader that found no room may read again."""
        if self.consumer is not None:
            self.consumer.resume()

    def crowded(self) -> None:
        """Items come, and no executor waits for them."""
        if self.wants_executor:
            self.add_executor()

    def dropped(self, call: LocalCall) -> None:
        """A local message was dropped for want of room."""
        self.undelivered([call.message])
        if call.reply is not None:
            call.reply.fail(MailboxFull(f"the mailbox of {self.title!r} was full, and dropped this message"))

    def revoke_in_hand(self) -> None:
        """Cancel the handlers of deliveries: they belong to others now."""
        for executor in self._executors:
            if isinstance(executor.item, Delivery):
                executor.end(EndReason.REVOKED)

    # ---- local senders ----

    def refuse(self, reason: str) -> None:
        """Refuse messages from outside the actors of this system: they may still tell each other."""
        self._refuses = reason

    def admit(self) -> Mailbox:
        """Return the mailbox for a local sender; raises `ActorStopped` while the system shuts down."""
        if self._refuses is not None and not inside.get():
            raise ActorStopped(self._refuses)
        return self.mailbox

    # ---- the life of an incarnation ----

    async def live(self, started: Callable[[], None]) -> None:
        """Run one incarnation to its end; calls `started` once `startup` has returned.

        Returns when it was told to stop. Raises the error it crashed of, out of the groups that wrapped it.
        Cancelled: `shutdown` is still called, bounded by the child's shutdown timeout.
        """
        inside.set(True)
        self.incarnation += 1
        self.stopping = False
        self._told_to_stop, self._deadline = False, math.inf
        self._helper_error = None
        failure: BaseException | None = None
        try:
            instance = self.child.factory()
            instance.context = Context(self)
            self._last_instance = instance
            try:
                await self._start_up(instance)
                started()
                del started  # An idle actor keeps nothing that it will not use again.
                self.services.emit(events.ActorStarted(self.settings.id, self.title, self.incarnation))
                if self._links is not None and self.incarnation > 1:
                    self._links.restarted(self.incarnation, self._last_exit)
                try:
                    first = self._new_executor(instance)
                    self._executors = (first,)
                    if self.settings.concurrency == 1:
                        await first.run()
                    else:
                        await self._run_with_more(first, instance)
                finally:
                    self._executors = ()  # From here on nothing can crash it; what helpers raise is reported.
                    if self._spawned is not None:
                        await self._spawned.end(self._deadline)
                    await self._shut_down(instance)
            finally:
                if self._helpers is not None:
                    await self._helpers.end()
        except BaseExceptionGroup as group:
            failure = only_leaf(group)
            self._note_exit(failure)
        except BaseException as error:
            self._note_exit(error)
            raise
        else:
            self._note_exit(None)
        finally:
            self._forget_incarnation()
        # Raised out here: within the handler above it would get the group as its context, or lose its own cause.
        if failure is not None:
            raise failure

    def _note_exit(self, error: BaseException | None) -> None:
        """Remember how the incarnation ended, for those who are told of the next one."""
        self._last_exit = without_crash(
            exit_of(error, cancelled=error is not None, incarnation=self.incarnation, expected=self._told_to_stop)
        )

    async def _start_up(self, instance: Any) -> None:
        """Call `startup`, within its bound; an error of a helper that it started ends it."""
        if not self._has_hook("startup"):
            return
        with trio.move_on_after(self.child.startup_timeout) as self._starting:
            try:
                await instance.startup()
            except Stop:
                self.finish()
        caught, self._starting = self._starting.cancelled_caught, None
        if self._helper_error is not None:
            raise self._helper_error
        if caught:
            raise trio.TooSlowError(f"startup took longer than {self.child.startup_timeout:g} s")

    def _has_hook(self, name: str) -> bool:
        """Whether the actor's class has a hook of its own: one that does nothing is not worth a scope."""
        return getattr(self.child.actor, name) is not getattr(Actor, name)

    @property
    def helpers(self) -> ActorNursery:
        """The incarnation's helper tasks."""
        if self._helpers is None:
            self._helpers = ActorNursery(self)
        return self._helpers

    def helper_failed(self, error: BaseException) -> None:
        """Crash, since a helper task did."""
        if isinstance(error, Stop):
            self.finish()
            return
        self._helper_error = error
        if self._starting is not None:
            self._starting.cancel(reason="a helper task failed")
        elif self._executors:
            for executor in self._executors:
                executor.crash(error)
        else:
            self.services.emit(events.ActorTrouble(self.settings.id, self.title, "helper task", error))

    def _forget_incarnation(self) -> None:
        """Drop what belonged to the incarnation; what it had set aside waits for the next one."""
        self._executors = ()
        self.behaviour = None
        self._helpers = None
        self._spawned = None
        if self._owed is not None:
            self._fail_owed()
        if self._timers is not None:
            self._timers.cancel_all()
        if self._links is not None:
            self._links.incarnation_ended()
        if self._stashed is not None:
            self.unstash()

    async def _run_with_more(self, first: Executor, instance: Any) -> None:
        """Let executors take items: the first one in this task, more of them in a nursery."""
        self._instance = instance
        self._context = copy_context()
        try:
            async with trio.open_nursery() as self._nursery:
                await first.run()
        finally:
            self._nursery = None
            self._instance = None

    def _new_executor(self, instance: Any) -> Executor:
        return GuardedExecutor(self, instance) if self._is_guarded else Executor(self, instance)

    @property
    def wants_executor(self) -> bool:
        """Whether one more executor would find something to do."""
        return (
            len(self._executors) < self.settings.concurrency
            and len(self.mailbox) > 0
            and not self.mailbox.paused
            and self._nursery is not None
        )

    def add_executor(self) -> None:
        """Start one more executor, in the incarnation's nursery."""
        if self._nursery is None or self._context is None:
            raise NotRunning(f"{self.title!r} does not run")
        executor = self._new_executor(self._instance)
        self._executors = (*self._executors, executor)
        # In the incarnation's context, whoever's message it was that made one more executor necessary.
        name = f"{self.title} executor {len(self._executors)}"
        self._context.run(self._nursery.start_soon, executor.run, name=name)

    def executor_ended(self) -> None:
        """Start no more executors: the first one that ends does so with the incarnation."""
        self._nursery = None

    async def _shut_down(self, instance: Any) -> None:
        timeout = self.child.shutdown
        if timeout == "brutal_kill" or not self._has_hook("shutdown"):
            return
        deadline = min(trio.current_time() + timeout, self._deadline)
        try:
            # When it is too late already, what needs no waiting is still done.
            with trio.CancelScope(deadline=deadline, shield=True) as self._ending:
                await instance.shutdown()
            if self._ending.cancelled_caught:
                raise trio.TooSlowError(
                    f"took longer than {timeout:g} s, or than its supervisor would wait; it was cancelled"
                )
        except Exception as error:  # noqa: BLE001 - an actor that has ended cannot crash any more; it is reported
            self.services.emit(events.ActorTrouble(self.settings.id, self.title, "shutdown", error))
        finally:
            self._ending = None

    # ---- what an actor does with others, through its context ----

    @property
    def batches(self) -> Batches:
        """Where deliveries gather for handlers that take several at once."""
        if self._batches is None:
            self._batches = Batches(self)
        return self._batches

    @property
    def links(self) -> Links:
        if self._links is None:
            self._links = Links(self, self.services.registry, self.services.topics, self._exit)
        return self._links

    @property
    def timers(self) -> Timers:
        if self._timers is None:
            self._timers = Timers(self, self.services.timers)
        return self._timers

    @property
    def expiries(self) -> Expiries:
        return self.services.expiries

    def new_outgoing(self) -> PublishBuffer:
        layers = self.services.publish_middleware + self.settings.publish_middleware
        return PublishBuffer(self.settings.event_settings, layers)

    def watch(self, other: Cell, watch: Watch) -> None:
        other.links.add_watcher(self, watch)

    def unwatch(self, other: Cell) -> None:
        other.links.remove_watcher(self)
        self.forget_signals(other.ref)

    def forget_signals(self, ref: ActorRef[Any]) -> None:
        """Drop what waits here that a watch of another actor has brought."""
        self.mailbox.drop(Queue.SYSTEM, ref)

    def unlink(self, other: Cell) -> None:
        self.links.unlink(other)
        self.mailbox.drop(Queue.SYSTEM, ("link", other.ref))

    def signal(self, message: object, origin: object) -> None:
        """Say something on behalf of the system, before whatever users say; its turn will show who handles it."""
        if not self.over:
            self.mailbox.put(SystemCall(message, None, None, queue=Queue.SYSTEM, origin=origin))

    def link_broken(self, ref: ActorRef[Any], exit: Exit) -> None:
        """End this actor, since one that it is linked to has ended."""
        self.signal(LinkBroken(ref, exit), ("link", ref))

    def check(self, message: object) -> None:
        """Raise `MessageRefused` if neither the actor's class nor what it has become takes a message."""
        try:
            local_keywords(self.handlers.for_message(message), message)
        except MessageRefused:
            if self.behaviour is None:
                raise
            local_keywords(self.behaviour.for_message(message), message)

    def timer_fired(self, timer: Timer) -> None:
        """Tell the actor what a timer says, unless what that timer said before still waits."""
        if timer.is_waiting and all(executor.item is not timer.sent for executor in self._executors):
            return
        timer.sent = SystemCall(timer.message, None, None, queue=Queue.SELF, origin=timer)
        self.mailbox.put(timer.sent)

    def pipe(
        self,
        function: Callable[..., Awaitable[object]],
        args: tuple[object, ...],
        to: Callable[[Any], object] | None,
    ) -> None:
        async def run() -> None:
            value = await function(*args)
            message = value if to is None else to(value)
            self.check(message)
            self.mailbox.put(SystemCall(message, None, None, queue=Queue.SELF))

        self.helpers.start_soon(run, name=f"{self.title} pipe")

    def check_stash(self) -> None:
        """Raise `MailboxFull` if nothing more can be set aside."""
        bound = self.settings.mailbox.stash
        count = len(self._stashed or ())
        if count >= bound:
            raise MailboxFull(f"{self.title!r} has set {count} of {bound} messages aside; unstash some first")

    def set_aside(self, item: Item) -> None:
        if self._stashed is None:
            self._stashed = []
        self._stashed.append(item)
        if isinstance(item, Delivery):
            self.mailbox.delivery_set_aside()

    def unstash(self) -> None:
        if self.consumer is not None and self.consumer.intake_over:
            self.consumer.offer(self.take_stashed_deliveries())  # which keeps them to be handed back
        stashed, self._stashed = self._stashed, None
        if stashed:
            self.mailbox.put_first(stashed)

    def take_waiting_deliveries(self) -> list[Delivery]:
        """Take out the deliveries that wait elsewhere than in the mailbox: they will not be handled here."""
        found = self.admission.take_all() if self.admission is not None else []
        if self._batches is not None:
            found += self._given_up(self._batches.take_all())
        return found + self.take_stashed_deliveries()

    def take_gathered_deliveries(self, sources: Collection[str]) -> list[Delivery]:
        """Take out the deliveries from these sources that gather for a batch."""
        return [] if self._batches is None else self._given_up(self._batches.take_from(sources))

    def _given_up(self, members: Sequence[BatchItem]) -> list[Delivery]:
        for member in members:
            if self.admission is not None and member.permit is not None:
                self.admission.leave(member.permit)
            self.mailbox.delivery_set_aside()
        return [member.delivery for member in members]

    def take_stashed_deliveries(self) -> list[Delivery]:
        """Take out the deliveries that were set aside: they will not be handled here."""
        stashed = self._stashed or ()
        self._stashed = [item for item in stashed if not isinstance(item, Delivery)]
        return [item for item in stashed if isinstance(item, Delivery)]

    def owe(self, reply: Reply) -> None:
        """Remember a reply that the actor will give later."""
        if self._owed is None:
            self._owed = set()
        reply.deferred_in = self._owed
        self._owed.add(reply)

    def _fail_owed(self) -> None:
        """Tell the askers whom this incarnation owes a reply that it will not come."""
        owed, self._owed = self._owed, None
        for reply in list(owed or ()):
            error = self._last_exit.error
            kind = ActorStopped if error is None else ActorCrashed
            failure = kind(f"{self.title!r} ended before it gave the reply that it had deferred: {self._last_exit}")
            failure.__cause__ = error
            reply.fail(failure)

    def become(self, handlers: Sequence[Callable[..., Any]]) -> None:
        if not handlers:
            raise SettingsError("become wants at least one method; unbecome goes back to the class's handlers")
        table = HandlerTable(f"{self.title} as {', '.join(handler.__name__ for handler in handlers)}")
        for handler in handlers:
            table.add(getattr(handler, "__func__", handler))
        unknown = {handler.name for handler in table if handler.has_rules}
        unknown -= {handler.name for handler in self.handlers}
        if unknown:
            raise SettingsError(
                f"become: {', '.join(sorted(unknown))} has a limit or a retry policy of its own: mark it with @receive"
            )
        self.behaviour = table

    def unbecome(self) -> None:
        self.behaviour = None

    async def spawn(self, child: object, name: str | None) -> ActorRef[Any]:
        """Start an actor below this one."""
        if self._spawned is None:
            self._spawned = SpawnedChildren(self)
        return await self._spawned.spawn(child, name)

    def undelivered(self, messages: Sequence[object]) -> None:
        """Report messages that nobody will handle."""
        for message in messages:
            self.services.emit(events.Undelivered(self.settings.id, self.title, message))

    # ---- stopping ----

    @property
    def handle(self) -> ActorRef[Any]:
        return self.ref

    def stop(self, deadline: float) -> None:
        """Take no further item; the incarnation ends when what is in hand has ended."""
        self._told_to_stop, self._deadline = True, deadline
        self.finish()

    def finish(self) -> None:
        """End this incarnation, since the actor wants to, once what is in hand has ended."""
        self.stopping = True
        self.mailbox.wake()

    def end_in_hand(self) -> None:
        """Cancel what is in hand and begin nothing more; deliveries wait for `release_deliveries`."""
        self.mailbox.pause()
        for executor in self._executors:
            executor.end(EndReason.SHUTDOWN)

    @property
    def children(self) -> RunningSupervisor | None:
        """The supervisor of what this actor has spawned, if it has."""
        return None if self._spawned is None else self._spawned.supervision

    def in_hand_since(self) -> list[tuple[Item, float]]:
        """Return what is in hand, each with when it began (Trio's time)."""
        # A local message that the watchdog has not looked at yet has just begun.
        return [(e.item, e.began or trio.current_time()) for e in self._executors if e.item is not None]

    @property
    def free(self) -> int:
        """How many messages could be begun now."""
        return self.settings.concurrency - sum(executor.item is not None for executor in self._executors)

    @property
    def in_hand(self) -> bool:
        """Whether a handler runs."""
        return any(executor.item is not None for executor in self._executors)

    @property
    def waiting(self) -> int:
        """How many messages wait, also for limits."""
        return len(self.mailbox) + len(self.admission or ()) + len(self._batches or ())

    @property
    def load(self) -> int:
        """How many messages wait or are in hand."""
        return self.waiting + sum(executor.item is not None for executor in self._executors)

    @property
    def busy(self) -> bool:
        """Whether something is in hand, or a local message waits."""
        return self.mailbox.local > 0 or self.in_hand

    async def wait_quiet(self) -> None:
        """Wait until nothing is in hand and no local message waits."""
        while self.busy:
            self._quiet = trio.Event()
            await self._quiet.wait()

    def idle(self) -> None:
        """Called by an executor that finds nothing to do."""
        if self.admission is not None and self.admission.queues:
            self.admission.wake()
        if self._quiet is not None:
            self._quiet.set()

    def kill(self) -> None:
        """Cancel what runs under shields: the actors that it has spawned, and `shutdown`."""
        self._deadline = -math.inf
        if self._spawned is not None:
            self._spawned.supervision.kill()
        if self._ending is not None:
            self._ending.cancel(reason="killed by its supervisor")

    def reopen(self) -> None:
        """Take messages again, after an end that was not the last one."""
        if self.over:
            if self.child.name is not None:
                self.links.register(self.child.name)  # first, since it may raise `AlreadyRegistered`
            self.over, self._exit = False, None
            self.services.cells[self] = None
            self.mailbox.reopen()
            if self._links is not None:
                self._links.reopened()
            self.room_made()

    def end(self, exit: Exit, reason: str) -> None:
        """End the cell for good: refuse senders, tell the askers whose messages will not be handled, hand back the
        rest.
        """
        if self.over:
            return
        self.over, self._exit = True, exit
        self.services.cells.pop(self, None)
        self._refuses = None  # the mailbox does, with the last word
        self.mailbox.close(reason)
        told: list[object] = []
        for call in self.mailbox.remove_local():
            if call.reply is not None:
                call.reply.fail(ActorStopped(reason))
            elif call.queue is not Queue.SYSTEM:
                told.append(call.message)
        self._leave_undelivered(told)
        if self._links is not None:
            self._links.ended(exit)
        if self.consumer is not None and (self.mailbox.held or self.admission):
            self.services.start_soon(self.consumer.release_deliveries)
        self.idle()

    def _leave_undelivered(self, told: list[object]) -> None:
        """Give messages that nobody will handle to the last incarnation's `on_undelivered`, then report them."""
        instance, self._last_instance = self._last_instance, None
        if not told:
            return
        if instance is not None:
            try:
                instance.on_undelivered(told)
            except Exception as error:  # noqa: BLE001 - an actor that has ended cannot crash any more; it is reported
                self.services.emit(events.ActorTrouble(self.settings.id, self.title, "on_undelivered", error))
        self.undelivered(told)
