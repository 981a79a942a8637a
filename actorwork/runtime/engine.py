"""The engine: one task that runs a system from its start to its end, in this order.

    broker ─▶ tree ─▶ pauses ─▶ node ─▶ triggers ─▶ (runs) ─▶ stages 1 to 3 ─▶ node ends ─▶ stage 4: the tree ends

It runs under a cancel scope of its own. While it starts, a cancellation from outside reaches it as it would any task.
Once it runs it is shielded, so that whatever ends the system (a signal, `system.stop()`, the cancellation of the
application around it, an actor that cannot be kept alive) takes the same staged way out (shutdown.py).

The lease is released between stages 3 and 4: nothing is in flight any more then, so other nodes take over at once,
while `shutdown()` of the actors here may still take its time.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, Final

import trio

from actorwork import events
from actorwork.abc import HasServers, meter_of
from actorwork.brokers import open_broker
from actorwork.errors import ActorStopped, BrokerError, MaxRestartsExceeded, NotRunning, Shutdown
from actorwork.groups import is_cancellation, leaves, only_leaf
from actorwork.nurseries import open_unwrapping_nursery
from actorwork.policy.exits import Exit, Kind, is_fatal
from actorwork.runtime.building import Members, refuse_what_is_not_shared
from actorwork.runtime.firing import fire_triggers
from actorwork.runtime.forks import forks_ended
from actorwork.runtime.options import SHORTEST_END
from actorwork.runtime.pausing import Pausing
from actorwork.runtime.shutdown import StagedShutdown
from actorwork.runtime.stalls import watch_stalls
from actorwork.state.known_actors import enter_actors
from actorwork.telemetry.logs import LogSink

if TYPE_CHECKING:
    from actorwork.abc import Broker, EventSink, Node, PublishMiddleware
    from actorwork.actors.context.sending import SendingClient
    from actorwork.actors.tree.spec import Supervisor
    from actorwork.runtime.instruments import SystemInstruments
    from actorwork.runtime.metering import Metering
    from actorwork.runtime.options import Options
    from actorwork.runtime.processes.config import OpenSystem
    from actorwork.runtime.resources import ResourceWatch
    from actorwork.runtime.stalls import During

REPORT_AFTER: Final = 1.0
"""Seconds until a node reports itself for the first time."""


class Engine:
    """Runs one system. Implements `building.Host`."""

    def __init__(
        self,
        root: Supervisor,
        options: Options,
        emit: EventSink,
        open_system: OpenSystem,
        metering: Metering | None = None,
        instruments: SystemInstruments | None = None,
    ) -> None:
        self.options = options
        self.instruments = instruments
        self.emit = emit
        self.metering = metering
        """What counts the metrics of the system, if it counts any; `emit` is its sink then."""
        self.open_system = open_system
        """For the processes of the tree: each opens a system of its own with it."""
        self.members = Members(root, self)
        if metering is not None:
            metering.watch(self.members)
        self.shutdown = StagedShutdown(options, emit, self.members)
        self.node: Node | None = None
        self.resources: ResourceWatch | None = None
        """What watches the memory and the disks, if anything does."""
        self.has_started = False
        self._broker: Broker | None = None
        self._nursery: trio.Nursery | None = None
        self._clients: dict[tuple[int, ...], SendingClient] = {}
        self._scope = trio.CancelScope()
        self._firing = trio.CancelScope()
        self._during_stall: During | None = None
        """What stands in for the loop while it is blocked."""
        self._supervisor_ended = trio.Event()
        self._ended = trio.Event()
        self._failure: BaseException | None = None
        """The reason why the tree could not be kept alive."""

    def __repr__(self) -> str:
        return f"<engine of {self.members!r}>"

    # ---- for its members ----

    @property
    def broker(self) -> Broker:
        if self._broker is None:
            raise ActorStopped("the system has not started, or has ended")
        return self._broker

    def servers(self) -> tuple[int, int]:
        """Return how many servers the broker has, and how many of them are away. Any thread may ask."""
        broker = self._broker
        return broker.servers() if isinstance(broker, HasServers) else (1, 0)

    @property
    def is_ending(self) -> bool:
        return self.shutdown.has_begun

    def client(self, layers: tuple[PublishMiddleware, ...]) -> SendingClient:
        """Return the client of the broker for actors whose messages pass these layers; it ends with the system."""
        if self._broker is None or self._nursery is None:
            raise NotRunning("the system has not started, or has ended")
        key = tuple(map(id, layers))  # the client keeps them, so no other can get one of these ids
        if key not in self._clients:
            # Imported here: few actors need one, and a node starts faster without.
            from actorwork.clients.opening import client_of  # noqa: PLC0415

            self._clients[key] = client_of(self._broker, self._nursery, layers, meter_of(self.emit))
        return self._clients[key]

    def note_force(self) -> None:
        self.shutdown.note_force()

    def start_soon(self, function: Callable[..., Awaitable[object]], *args: object) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(function, *args)

    async def wait_ended(self) -> None:
        await self._ended.wait()

    # ---- from start to end ----

    async def run(
        self, broker: str | Broker | None, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Start, serve until asked to stop, end in order. Raises what the root supervisor raises, and `BrokerError`."""
        try:
            with self._scope, forks_ended():
                # A tree of local actors may never need the default file; then none is made.
                only_local = not self.members.by_title
                async with open_broker(broker, emit=self.emit, at_first_use=only_local) as self._broker:
                    refuse_what_is_not_shared(self._broker, self.members.root.spec)
                    await self._run_tree(self._broker, task_status)
        except BaseExceptionGroup as group:
            # Of the nurseries within: a broker may open its own. It goes before the failure of the tree, of which it is
            # the cause more often than a consequence.
            self._failure = only_leaf(group)
        finally:
            self._broker = None
            self._nursery = None
            # Whatever happened: those who still wait for an actor of the tree are answered.
            self.members.root.end(Exit(Kind.SHUTDOWN), "the system has ended")
            if self.instruments is not None:
                await self.instruments.close(self._time_left)
            self._ended.set()
        if self._failure is not None:
            raise self._failure

    @property
    def _time_left(self) -> float:
        """Seconds for the last step of the shutdown; as for each step, whatever the others have left of the grace."""
        left = self.shutdown.began + self.options.grace - trio.current_time()
        return min(self.options.ending, max(SHORTEST_END, left))

    async def _run_tree(self, broker: Broker, task_status: trio.TaskStatus[None]) -> None:
        members = self.members
        until = math.inf
        async with open_unwrapping_nursery() as nursery:
            self._nursery = nursery
            self._start_services(nursery)
            if self.metering is not None:
                nursery.start_soon(self.metering.describe, broker)
            await nursery.start(self._supervise)
            try:
                pausing: Pausing | None = None
                if members.by_title:
                    # What is paused is known before anything is read.
                    pausing = Pausing(
                        broker.pauses,
                        members.consumers,
                        self.emit,
                        self._status_check_interval,
                        node=f"{socket.gethostname()}:{os.getpid()}",
                        process=str(getattr(self.emit, "process", "")),
                        own=members.paused_sources,
                    )
                    members.pause_own = pausing.pause_own
                    await nursery.start(pausing.run)
                metering = self.metering
                if metering is None:
                    subscriptions = [consumer.subscription for consumer in members.consumers]
                else:
                    subscriptions = [metering.subscription(consumer) for consumer in members.consumers]
                for subscription in subscriptions:
                    for source, shards in subscription.shards.items():
                        await broker.shards.declare(source, shards)
                        members.services.shards[source] = shards
                emit = self._node_sink()
                async with broker.open_node(subscriptions, lease=self.options.lease, emit=emit) as opened:
                    node = opened if metering is None else metering.node(opened)
                    self._attach(node)
                    self.emit(events.NodeStarted(node.incarnation, broker.url, tuple(members.by_title)))
                    if pausing is not None:
                        nursery.start_soon(self._fire_triggers, broker, node, pausing)
                        nursery.start_soon(self._enter_actors, broker, node)
                    if members.by_title or members.has_processes:
                        nursery.start_soon(self._report, broker, node, pausing)
                    for group in members.scaled:
                        nursery.start_soon(members.keep_scaled, group)
                    # The supervisor has seen a cancellation that came until now, and ends its children; behind the
                    # shield this task would never see it, and `started` does nothing then: it would wait for ever. So
                    # nothing may come between the two that could cancel, such as the user's `emit`.
                    await trio.lowlevel.checkpoint_if_cancelled()
                    self._scope.shield = True
                    self.has_started = True
                    task_status.started()
                    await self.shutdown.wait_asked()
                    self._firing.cancel(reason="the system stops")
                    until = await self.shutdown.end_work(node)
                    # A handler that did not end even by force may still settle its delivery: not under this lease,
                    # which the end of this block releases.
                    self._attach(None)
                self.shutdown.enter("shutdown")
            finally:
                members.root.stop(until)
                self._attach(None)
            # Shielded, also where the start failed or was cancelled; bounded by the supervisor, which has `until`.
            with trio.CancelScope(shield=True):
                await self._supervisor_ended.wait()
            nursery.cancel_scope.cancel(reason="the system has ended")
        self.emit(events.NodeStopped(trio.current_time() - self.shutdown.began, self.shutdown.forced))

    def _start_services(self, nursery: trio.Nursery) -> None:
        services = self.members.services
        if not math.isinf(self.options.loop_stall):
            # `emit` is for the loop, which may never run again: a stall that lasts is logged from a thread.
            logs = LogSink(f"{socket.gethostname()}:{os.getpid()}")
            nursery.start_soon(watch_stalls, self.options.loop_stall, self._has_stalled, logs, self._during)
        if self.resources is not None:
            nursery.start_soon(self.resources.run, self.broker)
        if self.metering is not None:
            nursery.start_soon(self.metering.run)
        nursery.start_soon(services.watchdog.run)
        nursery.start_soon(services.timers.run)
        nursery.start_soon(services.expiries.run)

    def _has_stalled(self, event: events.LoopStalled) -> None:
        self.members.stalls.note(event)
        self.emit(event)

    def _during(self, since: float) -> AbstractContextManager[None]:
        return nullcontext() if self._during_stall is None else self._during_stall(since)

    async def _report(self, broker: Broker, node: Node, pausing: Pausing | None) -> None:
        """Report this node, from a second after its start on: a program that ends before needs none of it."""
        if broker.shared_url is not None:
            await trio.sleep(REPORT_AFTER)
        from actorwork.runtime.reporting.reporter import Reporter  # noqa: PLC0415 - see above

        reporter = Reporter(
            self.members,
            self.shutdown,
            broker,
            node,
            lease=self.options.lease,
            emit=self.emit,
            pauses=lambda: () if pausing is None else pausing.known,
        )
        self._during_stall = reporter.stand_in()
        self.start_soon(reporter.count)
        await reporter.run()

    def _node_sink(self) -> EventSink:
        """Return the sink of the node: where there are entities, it counts their conflicts."""
        cells = [cell for cell in self.members.by_title.values() if cell.handlers.is_entity]
        entities = {cell.settings.id: cell.consumer for cell in cells if cell.consumer is not None}
        if not entities:
            return self.emit
        from actorwork.actors.entities.counts import ConflictSink  # noqa: PLC0415 - most systems have none

        return ConflictSink(self.emit, entities)

    def _attach(self, node: Node | None) -> None:
        if node is not None:
            self.node = node  # Kept to the end and after: its counters are.
        for consumer in self.members.consumers:
            consumer.attach(node)

    @property
    def _status_check_interval(self) -> float:
        cells = self.members.by_title.values()
        return min((cell.settings.status_check_interval for cell in cells), default=math.inf)

    async def _fire_triggers(self, broker: Broker, node: Node, pausing: Pausing) -> None:
        with self._firing:
            await fire_triggers(
                broker,
                node,
                [cell.settings for cell in self.members.by_title.values()],
                pausing=pausing,
                emit=self.emit,
                cron_schedule=self.options.cron_schedule,
            )

    async def _enter_actors(self, broker: Broker, node: Node) -> None:
        """Enter the actors of this node at the broker; without it, commands cannot tell a misspelt title."""
        subscriptions = [consumer.subscription for consumer in self.members.consumers]
        with suppress(BrokerError):
            await enter_actors(broker.values, {one.actor: one.sources for one in subscriptions}, node.now())

    @trio.lowlevel.enable_ki_protection  # As `run` is, which `open_system` calls under its protection.
    async def _supervise(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Run the root supervisor; when it gives up, the system stops, and raises that at its end."""
        try:
            await self.members.root.live(task_status.started)
        except Shutdown as ended:
            self.shutdown.stop(f"the root supervisor ended: {ended.term}", None)
        except BaseException as error:
            # Also a `KeyboardInterrupt` that a handler raised: it is a shutdown too, and is raised at its end.
            whole = _decisive(error)
            # Until the shield is up there is nothing to end in stages: the error ends the start.
            if not self._scope.shield or is_cancellation(whole):
                raise
            self._failure = whole
            self.shutdown.stop(f"{type(whole).__name__}: {whole}", None)
        finally:
            self._supervisor_ended.set()


def _decisive(error: BaseException) -> BaseException:
    """Return what ended the root supervisor. If a hook raised a `KeyboardInterrupt`, or the like, while the supervisor
    gave up, that goes first: no `except KeyboardInterrupt` would find it in the group of both. A group in which a
    child itself has raised it is left as it is.
    """
    whole = only_leaf(error)
    gave_up = next((leaf for leaf in leaves(whole) if isinstance(leaf, MaxRestartsExceeded)), None)
    fatal = next((leaf for leaf in leaves(whole) if is_fatal(leaf)), None)
    if gave_up is None or fatal is None:
        return whole
    fatal.__cause__ = gave_up
    return fatal
