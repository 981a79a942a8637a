"""A system: a tree of actors at a broker, from its start to its staged stop.

Everything runs in one task, the engine, under a cancel scope of its own. While it starts, a cancellation from outside
reaches it as it would any task. Once it runs it is shielded, so that whatever ends the system (a signal,
`system.stop()`, the cancellation of the app around it, an actor that cannot be kept alive) takes the same ordered way
out:

    1 intake    readers stop; messages from outside the actors are refused
    2 drain     what is in hand may finish, local messages are handled; unread deliveries are handed back at once
    3 cancel    at the second signal, or when the budget of stage 2 is spent: Cancelled in the handlers,
                whose deliveries are handed back
    4 shutdown  `shutdown()` of the actors in reverse start order, each within its bound
      force     what is still there when the whole `grace` is over is left behind (`run` ends the process)

The lease is released between 3 and 4, when nothing is in hand any more, so other nodes go on at once.
"""

from __future__ import annotations

import math
import os
import secrets
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

import attrs
import trio

from actorwork import events
from actorwork.actors.execution.watchdog import Watchdog
from actorwork.actors.life.cell import Cell
from actorwork.actors.life.consumer import Consumer
from actorwork.actors.life.services import Services
from actorwork.actors.refs.pool import PoolRef
from actorwork.actors.supervision.administration import SupervisorRef
from actorwork.actors.supervision.child_table import Member
from actorwork.actors.supervision.supervisor import RunningSupervisor, SupervisionEnvironment
from actorwork.actors.supervision.tasks import TaskMember
from actorwork.actors.tree.pool import Pool
from actorwork.actors.tree.selection import selected
from actorwork.actors.tree.spec import Child, Process, Replicas, Spec, Supervisor
from actorwork.actors.tree.walking import actors_of, processes_of, root_of
from actorwork.brokers import open_broker
from actorwork.errors import ActorStopped, BrokerError, SettingsError, Shutdown
from actorwork.groups import is_cancellation, only_leaf
from actorwork.message import MessageIds
from actorwork.policy.exits import Exit, Kind
from actorwork.policy.restart import Intensity
from actorwork.runtime.firing import check_triggers, fire_triggers
from actorwork.runtime.options import Options
from actorwork.runtime.outline import Branch, branch_of, outline, parts_of, pool_of, supervisor_of
from actorwork.runtime.pausing import Pausing
from actorwork.runtime.stalls import watch_stalls
from actorwork.telemetry.logs import LogSink

if TYPE_CHECKING:
    from actorwork.abc import AbstractCronSchedule, Broker, EventSink, Middleware, Node, PublishMiddleware
    from actorwork.actors.actor import Actor
    from actorwork.actors.refs.ref import ActorRef
    from actorwork.runtime.processes.process_child import ProcessChild, ProcessServices

A = TypeVar("A", bound="Actor")


class System:
    """A running tree of actors."""

    def __init__(self, root: Supervisor, options: Options, emit: EventSink) -> None:
        self._options = options
        self._firing = trio.CancelScope()
        self._emit = emit
        self._nursery: trio.Nursery | None = None
        ids = MessageIds(secrets.token_hex(8))
        self._services = Services(
            emit=emit,
            watchdog=Watchdog(),
            ids=ids,
            start_soon=self._start_soon,
            new_supervision=lambda spec: RunningSupervisor(spec, self._around),
            values=lambda: self.broker.values,
            limit_store=lambda: self.broker.limit_store,
            middleware=options.middleware,
            publish_middleware=options.publish_middleware,
        )
        self._fed = {child.title: child for child in actors_of(root)}
        self._by_title: dict[str, Cell] = {}
        self._pools: dict[RunningSupervisor, PoolRef[Any]] = {}
        self._around = SupervisionEnvironment(emit=emit, dice=self._services.dice, build=self._build)
        self._elsewhere = {child.title: spec.title for spec in processes_of(root) for child in fed_in(spec)}
        """In which process the actors live that are not in this one."""
        self._scaled: list[RunningSupervisor] = []
        """Groups of replicas that become more and less."""
        self._process_services: ProcessServices | None = None
        self._processes: dict[ProcessChild, None] = {}
        self._root = RunningSupervisor(root, self._around)
        self._broker: Broker | None = None
        self._node: Node | None = None
        self._scope = trio.CancelScope()
        self._stop_asked = trio.Event()
        self._hurry = trio.Event()
        self._end_asked = trio.Event()
        """Set once stages 1 to 3 may be followed by the last one: at once, but for a process of a tree."""
        self._drained = trio.Event()
        self._draining = trio.CancelScope()
        self._ended = trio.Event()
        self._reason = ""
        self._forced = False
        self._failure: BaseException | None = None

    def __repr__(self) -> str:
        return f"<system of {', '.join(self._by_title)}>"

    def _build(self, spec: Spec, parent: RunningSupervisor | None) -> Member:
        """Make the member for a description: actors of the declared tree are fed by the broker, later ones are
        local.
        """
        if isinstance(spec, Process):
            if spec.is_group:
                group = RunningSupervisor(Replicas.of(spec), self._around, parent)
                if spec.scale.max > spec.scale.min:
                    self._scaled.append(group)
                return group
            return self._build_process(spec)
        if not isinstance(spec, Child):
            return RunningSupervisor(spec, self._around, parent)
        if spec.actor is None:
            return TaskMember(spec)
        fed = self._fed.get(spec.title) is spec
        cell = Cell(spec, self._services, fed=fed)
        cell.supervisor = None if parent is None else parent.handle
        if fed:
            self._by_title[cell.title] = cell
        return cell

    def _build_process(self, spec: Process) -> ProcessChild:
        # Imported here: a tree without processes starts faster without all that.
        from actorwork.runtime.processes.process_child import ProcessChild, ProcessServices  # noqa: PLC0415

        if self._process_services is None:
            self._process_services = ProcessServices(
                emit=self._emit,
                options=self._options,
                open=open_system,
                broker=lambda: self.broker,
                is_ending=self._is_ending,
                forced=self._note_force,
                running=self._processes,
            )
        return ProcessChild(spec, self._process_services)

    async def _keep_scaled(self, group: RunningSupervisor) -> None:
        from actorwork.runtime.processes.scaling import Scaler  # noqa: PLC0415 - as above

        await Scaler(group, lambda: self.broker, self._emit, self._is_ending).run()

    def _is_ending(self) -> bool:
        return self._stop_asked.is_set()

    def _note_force(self) -> None:
        self._forced = True

    @property
    def _consumers(self) -> list[Consumer]:
        return [cell.consumer for cell in self._by_title.values() if cell.consumer is not None]

    def _start_soon(self, function: Callable[..., Awaitable[object]], *args: object) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(function, *args)

    # ---- what users see ----

    @property
    def node_id(self) -> str:
        """The incarnation under which this process owns deliveries; a lost lease brings a new one."""
        return self._node.incarnation if self._node is not None else self._services.ids.publisher

    @property
    def broker(self) -> Broker:
        """The broker in use; `open_client(system.broker)` makes a client of it."""
        if self._broker is None:
            raise ActorStopped("the system has not started, or has ended")
        return self._broker

    @property
    def forced(self) -> bool:
        """Whether handlers had to be cancelled for the system to end."""
        return self._forced

    def ref(self, actor: type[A]) -> ActorRef[A]:
        """Return the local ref of an actor of this system; raises `LookupError` for one that is not in the tree."""
        settings = getattr(actor, "settings", None)
        cell = self._by_title.get(settings.title) if settings is not None else None
        if cell is None:
            titles = ", ".join(repr(title) for title in self._by_title)
            title = getattr(settings, "title", "")
            elsewhere = self._elsewhere.get(title)
            if elsewhere is not None:
                raise LookupError(
                    f"{title!r} lives in the process {elsewhere!r}: open_client(system.broker) gives a client,"
                    " whose ref of it goes through the broker"
                )
            raise LookupError(f"no actor {getattr(actor, '__qualname__', actor)!r} in this system, which has {titles}")
        return cell.ref

    def whereis(self, name: str) -> ActorRef[Any] | None:
        """Return the ref of the actor that has registered a name, or None."""
        return self._services.registry.whereis(name)

    def names(self) -> dict[str, ActorRef[Any]]:
        """Return all names that actors have registered, with their refs."""
        return self._services.registry.names()

    def broadcast(self, topic: str, message: object) -> int:
        """Tell a message to all actors that subscribe to a topic, without waiting; return how many took it."""
        return self._services.topics.publish(topic, message)

    def tree(self) -> Branch:
        """Return the tree as it is now; `str` of it is a drawing."""
        return branch_of(self._root, trio.current_time())

    def supervisor(self, which: Hashable = None) -> SupervisorRef:
        """Return a supervisor of the tree: the root, or a nested one by its name, its id, or a path of ids (a tuple).

        Raises `LookupError` if there is none, or more than one: then the path tells them apart.
        """
        return supervisor_of(self._root, which).handle

    @overload
    def pool(self, which: type[A]) -> PoolRef[A]: ...
    @overload
    def pool(self, which: str) -> PoolRef[Any]: ...
    def pool(self, which: str | type[Any]) -> PoolRef[Any]:
        """Return the ref of a pool of the tree, by its name or by the class of its members.

        Raises `LookupError` if there is none, or more than one.
        """
        supervision = pool_of(self._root, which)
        ref = self._pools.get(supervision)
        if ref is None:
            cells = [record.member for record in supervision.records if isinstance(record.member, Cell)]
            ref = self._pools[supervision] = PoolRef(cast("Pool", supervision.spec), cells, self._services.random)
        return ref

    def stop(self, reason: str = "system.stop()", *, within: float | None = None) -> None:
        """Begin the staged shutdown, `within` so many seconds (by default its `grace`). Called again, it hurries:
        handlers are cancelled now.

        Returns at once; the end of the block (or of `serve`) is the end of the system.
        """
        if self._end_asked.is_set():
            self.hurry()
        self._begin_stop(reason, within)
        self._end_asked.set()

    def drain(self, within: float, reason: str = "the system around it stops") -> None:
        """Begin the first three stages, within so many seconds, and stay there until `stop`: nothing is in hand then.

        So a system that is a part of another one waits for its turn in the order of the tree.
        """
        self._begin_stop(reason, within)

    def hurry(self) -> None:
        """Once it stops: cancel the handlers now."""
        self._hurry.set()
        for process in list(self._processes):
            process.hurry()

    async def wait_drained(self) -> None:
        """Wait until it has stopped its intake and has nothing in hand any more."""
        await self._drained.wait()

    def _begin_stop(self, reason: str, within: float | None) -> None:
        if within is not None:
            self._options = attrs.evolve(self._options, grace=within)
            self._draining.deadline = min(self._draining.deadline, trio.current_time() + self._options.drain)
        self._reason = self._reason or reason
        self._stop_asked.set()

    async def wait_stopped(self) -> None:
        """Wait until the system has ended."""
        await self._ended.wait()

    def statistics(self) -> Mapping[str, int]:
        """Return the node's counters: read, settled, fenced, reclaimed, released, dead_lettered.

        With processes in the tree they are the sums over all nodes, those that have ended included; what a process has
        counted is known a second later.
        """
        counted = dict(self._node.statistics()) if self._node is not None else {}
        for part in parts_of(self._root) if self._process_services is not None else ():
            for name, count in part.statistics().items():
                counted[name] = counted.get(name, 0) + count
        return counted

    def outline(self) -> dict[str, Any]:
        """Return the tree for another process to show."""
        return outline(self._root, trio.current_time())

    # ---- the engine ----

    async def run(
        self, broker: str | Broker | None, *, task_status: trio.TaskStatus[System] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Start, serve until told to stop, end in order. Raises what the supervisor raises, and `BrokerError`."""
        try:
            with self._scope:
                async with open_broker(broker, emit=self._emit) as self._broker:
                    refuse_what_is_not_shared(self._broker, self._root.spec)
                    await self._run_tree(task_status)
        except BaseExceptionGroup as group:
            self._failure = only_leaf(group)
        finally:
            self._broker = None
            self._nursery = None
            self._root.end(Exit(Kind.SHUTDOWN), "the system has ended")
            self._ended.set()
        if self._failure is not None:
            raise self._failure

    async def _run_tree(self, task_status: trio.TaskStatus[System]) -> None:
        until = math.inf
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            if not math.isinf(self._options.loop_stall):
                # The loop may never go on, and a thread may tell nobody but the logs.
                logs = LogSink(f"{socket.gethostname()}:{os.getpid()}")
                nursery.start_soon(watch_stalls, self._options.loop_stall, self._emit, logs)
            nursery.start_soon(self._services.watchdog.run)
            nursery.start_soon(self._services.timers.run)
            nursery.start_soon(self._services.expiries.run)
            await nursery.start(self._supervise)
            try:
                assert self._broker is not None  # noqa: S101 - for type checkers: `run` has just opened it
                # What is paused is known before anything is read.
                pausing = Pausing(self._broker.pauses, self._consumers, self._emit, self._status_check_interval)
                await nursery.start(pausing.run)
                subscriptions = [consumer.subscription for consumer in self._consumers]
                async with self._broker.open_node(subscriptions, lease=self._options.lease, emit=self._emit) as node:
                    self._node = node
                    for consumer in self._consumers:
                        consumer.attach(node)
                    # The supervisor knows already of a cancellation up to here; behind the shield this task would not.
                    await trio.lowlevel.checkpoint_if_cancelled()
                    self._scope.shield = True
                    titles = tuple(self._by_title)
                    self._emit(events.NodeStarted(node.incarnation, self._broker.url, titles))
                    nursery.start_soon(self._fire_triggers, self._broker, node, pausing)
                    for group in self._scaled:
                        nursery.start_soon(self._keep_scaled, group)
                    task_status.started(self)
                    await self._stop_asked.wait()
                    began = trio.current_time()
                    await self._end_work(node)
                    self._drained.set()
                    if not self._end_asked.is_set():
                        await self._end_asked.wait()
                        began = trio.current_time()
                    # However many actors there are to end, and however long each may take: `grace` is for all of them.
                    until = max(began + self._options.grace, trio.current_time() + self._options.ending)
                    # What a handler that would not end does from here on is not ours any more.
                    for consumer in self._consumers:
                        consumer.attach(None)
                self._stage("shutdown")
            finally:
                self._root.stop(until)
                for consumer in self._consumers:
                    consumer.attach(None)
            with trio.CancelScope(shield=True):
                await self._supervisor_ended.wait()
            nursery.cancel_scope.cancel(reason="the system has ended")
        self._emit(events.NodeStopped(trio.current_time() - began, self._forced))

    @property
    def _status_check_interval(self) -> float:
        return min((cell.settings.status_check_interval for cell in self._by_title.values()), default=math.inf)

    async def _fire_triggers(self, broker: Broker, node: Node, pausing: Pausing) -> None:
        with self._firing:
            await fire_triggers(
                broker,
                node,
                [cell.settings for cell in self._by_title.values()],
                pausing=pausing,
                emit=self._emit,
                cron_schedule=self._options.cron_schedule,
            )

    async def _supervise(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Run the supervisor; when it gives up, the system stops, and raises that at its end."""
        self._supervisor_ended = trio.Event()
        try:
            await self._root.live(task_status.started)
        except Shutdown as ended:
            self.stop(f"the root supervisor ended: {ended.term}")
        except BaseException as error:
            # A `KeyboardInterrupt` that a handler raised is a shutdown too, and is raised at its end.
            whole = only_leaf(error)
            if not self._scope.shield or is_cancellation(whole):
                raise
            self._failure = whole
            self.stop(f"{type(whole).__name__}: {whole}")
        finally:
            self._supervisor_ended.set()

    # ---- stages 1 to 3 ----

    def _stage(self, stage: str) -> None:
        self._emit(events.ShutdownStage(stage, self._reason))

    async def _end_work(self, node: Node) -> None:
        """Stop the intake, let what is in hand finish or end it, settle, hand back."""
        self._stage("intake")
        self._firing.cancel(reason="the system stops")
        for cell in list(self._services.cells):
            cell.refuse(f"{cell.title!r} takes no new messages: the system is shutting down ({self._reason})")
        for consumer in self._consumers:
            consumer.end_intake()
        for process in list(self._processes):
            process.drain(self._options.drain)
        ending = self._options.ending
        with trio.move_on_after(ending):
            await node.stop_intake()
        self._stage("drain")
        await self._release(ending)
        self._draining.deadline = min(self._draining.deadline, trio.current_time() + self._options.drain)
        with self._draining:
            await self._wait_drained_or_hurried()
        if self._busy:
            self._forced = True
            self._stage("cancel")
            for cell in list(self._services.cells):
                cell.end_in_hand()
            for process in list(self._processes):
                process.hurry()
            with trio.move_on_after(ending):
                while self._busy:  # noqa: ASYNC110 - what ends here was cancelled, and reports to nobody
                    await trio.sleep(0.01)
            if self._busy:
                self._stage("force")
        await self._release(ending)
        with trio.move_on_after(ending):
            await node.wait_settled()

    @property
    def _busy(self) -> bool:
        return any(cell.in_hand for cell in self._services.cells) or any(process.busy for process in self._processes)

    async def _release(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            for consumer in self._consumers:
                await consumer.release_deliveries()

    async def _wait_drained_or_hurried(self) -> None:
        # Imported here, since it is wanted at the end and not on the way to the first message.
        from trio_util import move_on_when  # noqa: PLC0415 # pyright: ignore[reportUnknownVariableType]

        async with move_on_when(self._hurry.wait):
            # An actor that is quiet may be told something by one that is not: so until all are quiet at once.
            while any(cell.busy for cell in self._services.cells) or any(process.busy for process in self._processes):
                for cell in list(self._services.cells):
                    await cell.wait_quiet()
                for process in list(self._processes):
                    await process.wait_quiet()


def fed_in(process: Process) -> Iterator[Child]:
    """Yield the actors in a process that a broker feeds."""
    return actors_of(process, everywhere=True)


def refuse_what_is_not_shared(broker: Broker, root: Spec) -> None:
    """Raise `BrokerError` for a broker that lives in this process, where the tree has others."""
    for process in processes_of(root):
        if broker.shared_url is None:
            from actorwork.runtime.processes.process_child import what_is_not_shared  # noqa: PLC0415 - as above

            raise BrokerError(what_is_not_shared(process, broker))


def _sink(emit: EventSink | None) -> EventSink:
    """Return who takes the events: by default the standard logger `actorwork`."""
    if emit is None:
        return LogSink(f"{socket.gethostname()}:{os.getpid()}")
    if not callable(emit):
        raise SettingsError(f"emit wants a callable that takes events, got {emit!r}")
    return emit


@asynccontextmanager
async def open_system(
    tree: object,
    *,
    broker: str | Broker | None = None,
    lease: float = 10.0,
    grace: float = 25.0,
    intensity: Intensity | None = None,
    emit: EventSink | None = None,
    loop_stall: float = 0.5,
    middleware: Iterable[Middleware] = (),
    publish_middleware: Iterable[PublishMiddleware] = (),
    cron_schedule: AbstractCronSchedule | type[AbstractCronSchedule] | None = None,
    only: Iterable[str] = (),
    excluding: Iterable[str] = (),
) -> AsyncGenerator[System]:
    """Start a tree of actors, and end it in order when the block is left.

    `tree` is an actor class, a `Child`, a `Supervisor`, a `DynamicSupervisor`, a `Pool`, a `Process`, or a list of
    these; `broker` a URL, an open broker, or None for the embedded one. `emit` takes the events; by default they become
    logs. Entering waits until all actors have started and the node reads. Leaving means that everything has ended.
    Raises `SettingsError`, `StartError`, `BrokerError` at the start; a tree that cannot be kept alive cancels the block
    and raises one `MaxRestartsExceeded` out of it, its cause chain down to the error of the actor. Cancelled: the
    staged shutdown runs, shielded, within `grace` seconds; then the cancellation goes on. A loop that stands still for
    `loop_stall` seconds is reported. `middleware` wraps the deliveries of all actors, outside of their own, the first
    one outermost; `publish_middleware` looks at what they publish; with a `Process` both are pickled.
    `only` and `excluding` name parts of the tree: these
    alone are started, or left out. `cron_schedule` reads the cron expressions of triggers in another way than ours.
    """
    root = selected(root_of(tree, intensity), only=only, excluding=excluding)
    options = Options(
        lease=lease,
        grace=grace,
        loop_stall=loop_stall,
        middleware=middleware,
        publish_middleware=publish_middleware,
        cron_schedule=cron_schedule,  # pyright: ignore[reportArgumentType] # the converter makes it one
    )
    check_triggers(actors_of(root, everywhere=True), options.cron_schedule)
    system = System(root, options, _sink(emit))
    raised: BaseException | None = None
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:

            async def engine(*, task_status: trio.TaskStatus[System]) -> None:
                try:
                    await system.run(broker, task_status=task_status)
                finally:
                    nursery.cancel_scope.cancel(reason="the system has ended")

            await nursery.start(engine)
            try:
                yield system
            except BaseException as error:
                raised = error
                raise
            finally:
                system.stop(
                    "the block was left" if raised is None else f"the block was left by {type(raised).__name__}"
                )
    except BaseExceptionGroup as group:
        # This nursery's wrapping is nobody's business: one error leaves as one error, with the causes it has. A group
        # that the block raised stays as it is.
        found: list[BaseException] = [error for error in group.exceptions if not is_cancellation(error)]
        own = [error for error in found if error is raised]
        others = [error for error in found if error is not raised]
        if len(others) == 1 and isinstance(raised, ActorStopped):
            # The block met an actor of a tree that could not be kept alive: that is what happened.
            failure = others[0]
        else:
            failure = own[0] if own else found[0] if len(found) == 1 else group
    if failure is not None:
        raise failure


async def serve(
    tree: object,
    *,
    broker: str | Broker | None = None,
    lease: float = 10.0,
    grace: float = 25.0,
    intensity: Intensity | None = None,
    emit: EventSink | None = None,
    loop_stall: float = 0.5,
    middleware: Iterable[Middleware] = (),
    publish_middleware: Iterable[PublishMiddleware] = (),
    cron_schedule: AbstractCronSchedule | type[AbstractCronSchedule] | None = None,
    only: Iterable[str] = (),
    excluding: Iterable[str] = (),
    task_status: trio.TaskStatus[System] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a tree as a task of your own nursery: `system = await nursery.start(serve, tree)`.

    Runs until the system ends: `system.stop()`, a tree that cannot be kept alive (which raises as in `open_system`), or
    cancellation, which runs the staged shutdown first.
    """
    async with open_system(
        tree,
        broker=broker,
        lease=lease,
        grace=grace,
        intensity=intensity,
        emit=emit,
        loop_stall=loop_stall,
        middleware=middleware,
        publish_middleware=publish_middleware,
        cron_schedule=cron_schedule,
        only=only,
        excluding=excluding,
    ) as system:
        task_status.started(system)
        await system.wait_stopped()
