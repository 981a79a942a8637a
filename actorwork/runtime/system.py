"""A system: a tree of actors at a broker, as the program that runs it sees it.

    open_system    as a block; `System` is what it gives
    serve          as a task

What runs it is in engine.py, and how it ends in shutdown.py. What looks at the tree or selects a part of it is imported
by the methods that use it, since a program starts without it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncGenerator, Callable, Collection, Hashable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final, TypeVar, Unpack, cast, overload

import trio

from actorwork.actors.life.cell import Cell
from actorwork.actors.supervision.administration import SupervisorRef
from actorwork.actors.tree.walking import root_of
from actorwork.actors.wakeups import check_loop
from actorwork.durations import Duration, seconds_of
from actorwork.errors import ActorStopped, MissingExtra, NotRunning, SettingsError
from actorwork.groups import is_cancellation, leaves
from actorwork.nurseries import open_unwrapping_nursery
from actorwork.runtime.checking import check_tree
from actorwork.runtime.engine import Engine
from actorwork.runtime.options import Options, SystemOptions, refuse_unknown, source_names
from actorwork.telemetry.logs import GuardedSink, LogSink

if TYPE_CHECKING:
    from actorwork.abc import Broker, EventSink, FunctionActor
    from actorwork.actors.actor import Actor
    from actorwork.actors.refs.pool import PoolRef
    from actorwork.actors.refs.ref import ActorRef
    from actorwork.actors.supervision.supervisor import RunningSupervisor
    from actorwork.actors.tree.pool import Pool
    from actorwork.actors.tree.spec import Supervisor
    from actorwork.clients.client import Client
    from actorwork.clients.entities import EntityRef
    from actorwork.policy.limits import Rates
    from actorwork.runtime.configuration.loading import Configuration, Files
    from actorwork.runtime.options import Configured
    from actorwork.runtime.outline import Branch
    from actorwork.runtime.pages import Pages
    from actorwork.telemetry.metrics.registry import Registry
    from actorwork.telemetry.monitor import MonitorServer
    from actorwork.telemetry.resources import Resources

A = TypeVar("A", bound="Actor")

SELECTING: Final = frozenset({"only", "excluding", "sources", "solo"})
"""The options that select a part of the tree."""


class System:
    """A running tree of actors."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._shutdown = engine.shutdown
        self._members = engine.members
        self._services = engine.members.services
        self._by_title = engine.members.by_title
        self._root = engine.members.root
        self._pools: dict[RunningSupervisor, PoolRef[Any]] = {}
        self.monitor: MonitorServer | None = None
        """What serves the health of this system, if `monitor=` is given; its `url` has the real port."""
        self.web: str | None = None
        """The URL of the dashboard of this system, if `web=` is given."""

    def __repr__(self) -> str:
        return f"<system of {', '.join(self._by_title)}>"

    @property
    def node_id(self) -> str:
        """The incarnation under which this process owns deliveries; a lost lease brings a new one."""
        node = self._engine.node
        return node.incarnation if node is not None else self._services.ids.publisher

    @property
    def broker(self) -> Broker:
        """The broker in use; `open_client(system.broker)` makes a client of it."""
        return self._engine.broker

    @property
    def has_started(self) -> bool:
        """Whether all actors have started, and the node reads; it stays so to the end and after."""
        return self._engine.has_started

    @property
    def resources(self) -> Resources | None:
        """What this process used when it was looked at last, if `resources=` is given; None before that."""
        watch = self._engine.resources
        return None if watch is None else watch.latest

    @property
    def forced(self) -> bool:
        """Whether handlers had to be cancelled for the system to end."""
        return self._shutdown.forced

    # ---- its actors ----

    @overload
    def ref(self, actor: type[A], *, key: str) -> EntityRef[A]: ...
    @overload
    def ref(self, actor: type[A]) -> ActorRef[A]: ...
    @overload
    def ref(self, actor: FunctionActor[..., Any]) -> ActorRef[Any]: ...
    def ref(self, actor: Any, *, key: str | None = None) -> ActorRef[Any] | EntityRef[Any]:
        """Return the local ref of an actor of this system; raises `LookupError` for one that is not in the tree.

        With a `key` it is a ref to that key of an entity, wherever it runs, as that of a client.
        """
        if key is not None:
            if self._services.client is None:
                raise NotRunning("this system has no broker, so it has no entities")
            # The protocol is for actors; it is a client like those that programs open.
            return cast("Client", self._services.client(self._services.publish_middleware)).ref(actor, key=key)
        settings = getattr(actor, "settings", None)
        cell = self._by_title.get(settings.title) if settings is not None else None
        if cell is None:
            from actorwork.runtime.outline import local_of  # noqa: PLC0415 - see above

            cell = local_of(self._root, actor)
        if cell is None:
            titles = ", ".join(repr(title) for title in self._by_title) or "none that a broker feeds"
            title = getattr(settings, "title", "")
            elsewhere = self._members.elsewhere.get(title)
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
        """Send a message to all actors that subscribe to a topic, without waiting; return how many took it."""
        return self._services.topics.publish(topic, message)

    def supervisor(self, which: Hashable = None) -> SupervisorRef:
        """Return a supervisor of the tree: the root, or a nested one by its name, its id, or a path of ids (a tuple).

        Raises `LookupError` if there is none, or more than one: then only a path is unique.
        """
        from actorwork.runtime.outline import supervisor_of  # noqa: PLC0415 - see above

        return supervisor_of(self._root, which).handle

    @overload
    def pool(self, which: type[A]) -> PoolRef[A]: ...
    @overload
    def pool(self, which: str) -> PoolRef[Any]: ...
    def pool(self, which: str | type[Any]) -> PoolRef[Any]:
        """Return the ref of a pool of the tree, by its name or by the class of its members.

        Raises `LookupError` if there is none, or more than one.
        """
        from actorwork.actors.refs.pool import PoolRef  # noqa: PLC0415 - see above
        from actorwork.runtime.outline import pool_of  # noqa: PLC0415 - see above

        supervision = pool_of(self._root, which)
        ref = self._pools.get(supervision)
        if ref is None:
            cells = [record.member for record in supervision.records if isinstance(record.member, Cell)]
            ref = self._pools[supervision] = PoolRef(cast("Pool", supervision.spec), cells, self._services.random)
        return ref

    # ---- looking at it ----

    def tree(self) -> Branch:
        """Return the tree as it is now; `str` of it is a drawing."""
        from actorwork.runtime.outline import branch_of  # noqa: PLC0415 - see above

        return branch_of(self._root, trio.current_time())

    def outline(self) -> dict[str, Any]:
        """Return the tree as JSON, for another process to show."""
        from actorwork.runtime.outline import outline  # noqa: PLC0415 - see above

        return outline(self._root, trio.current_time())

    def statistics(self) -> Mapping[str, int]:
        """Return the node's counters: read, settled, fenced, reclaimed, released, dead_lettered.

        With processes in the tree they are the sums over all nodes, those that have ended included; the counters of a
        process arrive up to a second late.
        """
        node = self._engine.node
        counted = dict(node.statistics()) if node is not None else {}
        # Without a process the walk through the tree is spared: it may have a hundred thousand actors.
        if self._members.has_processes:
            from actorwork.runtime.outline import parts_of  # noqa: PLC0415 - see above

            for part in parts_of(self._root):
                for name, count in part.statistics().items():
                    counted[name] = counted.get(name, 0) + count
        return counted

    @property
    def metrics(self) -> Registry | None:
        """The metrics, those of all processes of the tree included; None unless the system was opened with them."""
        return None if self._engine.metering is None else self._engine.metering.registry

    # ---- ending it ----

    def stop(self, reason: str = "system.stop()", *, within: Duration | None = None) -> None:
        """Begin the staged shutdown, which may take `within` (by default its `grace`). Called again, it
        hurries: handlers are cancelled now.

        Returns at once; the end of the block (or of `serve`) is the end of the system.
        """
        self._shutdown.stop(reason, None if within is None else seconds_of("within", within))

    def drain(self, within: Duration, reason: str = "the system around it stops") -> None:
        """Begin the first three stages, which may take `within`, and stay there until `stop`: nothing is in
        flight then.

        So a system that is a part of another one waits for its turn in the order of the tree.
        """
        self._shutdown.drain(reason, seconds_of("within", within))

    def hurry(self) -> None:
        """During the shutdown: cancel the handlers now."""
        self._shutdown.hurry()

    def change_log_levels(self, level: int | str) -> bool:
        """Change the levels of the logs, in this process and in those of its tree, as `run(log_level=…)` takes them.

        Returns False, and changes nothing, where the application has set up logging itself. Raises `SettingsError` for
        a level that there is not.
        """
        from actorwork.telemetry.configuring import change_levels  # noqa: PLC0415 - rare

        if not change_levels(level):
            return False
        for process in self._engine.members.processes:
            process.change_log_levels(str(level))
        return True

    def change_rates(self, rates: Rates) -> Collection[tuple[str, str]]:
        """Change the rates of limits in this process and in those of its tree, also in those that start later.

        What is declared stays as it is: rates that are not named, or no longer, are those that were declared. Returns
        which of these limits and actors (kind and name) the tree has: `("limits", "tax")`.
        """
        members = self._engine.members
        members.services.limiters.change_rates(rates)
        return members.change_rates(rates)

    def change_paused_sources(self, names: Iterable[str]) -> Collection[str]:
        """Read nothing from these sources any more, and from all others again, in all processes of the tree.

        `actor:TITLE` is an actor's own source. This is about this system alone, like the option `paused_sources`, and
        nothing of it is at the broker: what is paused there stays paused. Messages in flight are finished. Returns the
        names that no actor of the tree reads.
        """
        return self._engine.members.change_paused_sources(source_names(names))

    async def wait_drained(self) -> None:
        """Wait until it has stopped its intake and has nothing in flight any more."""
        await self._shutdown.wait_drained()

    async def wait_stopped(self) -> None:
        """Wait until the system has ended."""
        await self._engine.wait_ended()


def open_system(tree: object, **options: Unpack[SystemOptions]) -> AbstractAsyncContextManager[System]:
    """Start a tree of actors, and end it in order when the block is left.

    `tree` is an actor class, a `Child`, a `Supervisor`, a `DynamicSupervisor`, a `Pool`, a `Process`, or a list of
    these. The options are those of `SystemOptions`, all by name:

        broker                            a URL, an open broker, or None for the embedded one
        lease, grace, loop_stall          10, 25 and 0.5 seconds: a node's lease, the whole staged shutdown, and how
                                          long the loop may be blocked before that is reported
        monitor, hang_timeout             where the system's health is served by HTTP ("127.0.0.1:9464"; by default
                                          nowhere), and after how long a blocked loop counts as dead there (60 s)
        resources                         True, or `ResourceBounds`: watches memory and disks (extra `monitor`)
        web                               where its dashboard is served ("127.0.0.1:8080"; by default nowhere)
        intensity                         how many restarts the root supervisor allows
        emit                              takes the events; by default they become logs
        middleware, publish_middleware    wrap the deliveries of all actors, and what they publish
        telemetry                         observes the system, in each of its processes
        only, excluding                   names of the parts of the tree to start, or to leave out
        sources, solo                     only what reads these sources; all of the tree in this process
        paused_sources                    sources of which nothing is read, until that is changed
        config                            files with settings, or what `load_configuration` returned
        cron_schedule                     reads the cron expressions of triggers in another way

    Entering waits until all actors have started and the node reads. Leaving means that everything has ended. Raises
    `SettingsError`, `StartError`, `BrokerError` at the start; a tree that cannot be kept alive cancels the block and
    raises one `MaxRestartsExceeded` out of it, its cause chain down to the error of the actor. Cancelled: the staged
    shutdown runs, shielded, within `grace` seconds; then the cancellation continues.
    """
    # Here and not in the generator, so that a mistyped option is an error of this call.
    refuse_unknown("open_system", options)
    return open_announced(tree, options, lambda _: None)


# Protected: a KeyboardInterrupt at any line of a start or an end would leave it half done. The main task of the program
# gets it at its next checkpoint instead. The user's block and the tasks of the actors are not protected by this.
@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def open_announced(
    tree: object, given: SystemOptions, announce: Callable[[System], object]
) -> AsyncGenerator[System]:
    """Do as `open_system`, and pass the system to `announce` before it starts."""
    check_loop(
        "open_system",
        "In a program on asyncio (uvicorn, Jupyter), or without an event loop, `actorwork.SystemThread` hosts a system"
        " in a thread of its own",
    )
    given = with_config(given)
    whole, root = parts_to_start(tree, given)
    # Who looks at a system wants its figures, too.
    options = Options.of({"metrics": given.get("monitor") is not None, **given})
    check_tree(whole, root, options.cron_schedule)
    emit, instruments, metering = _sink(given.get("emit")), None, None
    if options.telemetry:
        # Imported here, as what it opens: a start without telemetry pays nothing for it.
        from actorwork.runtime.instruments import SystemInstruments  # noqa: PLC0415

        instruments = SystemInstruments.of(options.telemetry, given.get("broker"))
        emit = instruments.observing(emit)
    if options.metrics:
        from actorwork.runtime.metering import Metering  # noqa: PLC0415 - see above

        metering = Metering(emit)
        if instruments is not None:
            metering.registry.exemplars.sampled = instruments.sampled
        emit = metering.sink
    engine = Engine(root, options, emit, open_system, metering, instruments)
    if given.get("resources"):
        from actorwork.runtime.resources import ResourceWatch  # noqa: PLC0415 - see above

        engine.resources = ResourceWatch(given.get("resources"), engine.emit)
    system = System(engine)
    announce(system)
    failure: BaseException | None = None
    monitor: AbstractContextManager[MonitorServer | None] = nullcontext()
    if (address := given.get("monitor")) is not None:
        from actorwork.runtime.monitoring import monitored  # noqa: PLC0415 - see above

        monitor = monitored(engine, address)
    pages: AbstractContextManager[Pages | None] = nullcontext()
    if (place := given.get("web")) is not None:
        from actorwork.runtime.pages import listening_at  # noqa: PLC0415 - see above

        pages = listening_at(place)

    @trio.lowlevel.enable_ki_protection
    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        nonlocal failure
        try:
            await engine.run(given.get("broker"), task_status=task_status)
        except BaseException as error:
            if not engine.has_started or all(is_cancellation(leaf) for leaf in leaves(error)):
                raise
            # Kept instead of raised: beside an error of the block it would leave in a group.
            failure = error
        finally:
            # Not before the start: `nursery.start` raises the error of a start that failed, and with a cancellation of
            # this nursery beside it Trio takes the two for an internal error.
            if engine.has_started:
                nursery.cancel_scope.cancel(reason="the system has ended")

    reason = "the block was left"
    stopped: ActorStopped | None = None
    with pages as page_server, monitor as system.monitor:
        async with open_unwrapping_nursery() as nursery:
            await nursery.start(run)
            try:
                if page_server is not None:
                    system.web = await nursery.start(page_server.serve, engine)
                yield system
            except BaseException as error:
                reason = f"the block was left by {type(error).__name__}"
                if not isinstance(error, ActorStopped):
                    raise
                # The block used an actor that has ended. If it ended with the whole tree, then the failure of the tree
                # is what the caller has to know; whether it did shows only when the engine has ended.
                stopped = error
            finally:
                system.stop(reason)
    if (raised := failure or stopped) is not None:
        raise raised


def with_config(given: SystemOptions) -> SystemOptions:
    """Return the options of a call with those below them that its `config` sets, which is loaded then.

    Raises `ConfigurationError`, and `MissingExtra` without what reads it.
    """
    config = given.get("config")
    if config is None:
        return given
    is_loaded = hasattr(config, "applied_to")
    loaded = cast("Configured", config) if is_loaded else load_configuration(cast("Files", config))
    known = SystemOptions.__optional_keys__
    below = {name: value for name, value in loaded.options.items() if name in known}
    return cast("SystemOptions", {**below, **given, "config": loaded})


def load_configuration(files: Files = (), *, environment: Mapping[str, str] | None = None) -> Configuration:
    """Read what an operator has set, from files and from the environment, which precedes them.

    The name of a file ends in .toml, .json, or .yaml (with the extra `yaml`); later files precede earlier ones.
    `environment` are the variables, by default those of this process. `run`, `open_system` and `serve` take the result
    as `config=`, or the files themselves. Raises `ConfigurationError`, with all that is wrong, and `MissingExtra`
    without the extra `config`.
    """
    try:
        from actorwork.runtime.configuration.loading import load  # noqa: PLC0415 - see above
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "typed_settings":
            raise
        raise MissingExtra(
            "a configuration needs typed-settings, from the extra 'config': pip install \"actorwork[config]\""
        ) from None
    return load(files, environment=environment)


def parts_to_start(tree: object, given: SystemOptions) -> tuple[Supervisor, Supervisor]:
    """Return the whole tree, with what a loaded `config` changes in it, and the part of it that the options select."""
    whole = root_of(tree, given.get("intensity"))
    config = given.get("config")
    if config is not None:
        whole = cast("Configured", config).applied_to(whole)
    paused, process = given.get("paused_sources", ()), getattr(given.get("emit"), "process", "")
    if paused and not process:  # A process of the tree has a part of it.
        from actorwork.actors.tree.selection import refuse_unread  # noqa: PLC0415 - see above

        refuse_unread(whole, source_names(paused))
    if not SELECTING & given.keys():
        return whole, whole
    from actorwork.actors.tree.selection import reading, selected, solo  # noqa: PLC0415 - see above

    root = selected(whole, only=given.get("only", ()), excluding=given.get("excluding", ()))
    if "sources" in given:
        root = reading(root, given["sources"])
    if given.get("solo"):
        whole, root = solo(whole), solo(root)
    return whole, root


def _sink(emit: EventSink | None) -> EventSink:
    """Return the sink of the events: by default the logger `actorwork`."""
    if emit is None:
        return LogSink(f"{socket.gethostname()}:{os.getpid()}")
    if not callable(emit):
        raise SettingsError(f"emit wants a callable that takes events, got {emit!r}")
    if hasattr(emit, "wants_process_events"):
        return emit  # One of ours, which says more about its process than events (`NodeSink`), and raises nothing.
    return GuardedSink(emit)


async def serve(
    tree: object,
    *,
    task_status: trio.TaskStatus[System] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[SystemOptions],
) -> None:
    """Run a tree as a task of your own nursery: `system = await nursery.start(serve, tree)`.

    The options are those of `open_system`. Runs until the system ends: `system.stop()`, a tree that cannot be kept
    alive (which raises as in `open_system`), or cancellation, which runs the staged shutdown first.
    """
    refuse_unknown("serve", options)
    async with open_system(tree, **options) as system:
        task_status.started(system)
        await system.wait_stopped()
