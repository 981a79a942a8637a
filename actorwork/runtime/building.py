"""What a running system is made of: it makes the member for each description in a tree, and knows those it has made.

Child with an actor    a cell; one of the declared tree is fed by the broker, one that is started later is local
Child with a task      a task
Supervisor, Pool …     a supervisor
Process                a process, or with replicas a supervisor of several
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from actorwork.actors.execution.watchdog import Watchdog
from actorwork.actors.life.cell import Cell
from actorwork.actors.life.services import Services
from actorwork.actors.supervision.supervisor import RunningSupervisor, SupervisionEnvironment
from actorwork.actors.supervision.tasks import TaskMember
from actorwork.actors.tree.spec import Child, Process, Replicas, Spec, Supervisor
from actorwork.actors.tree.walking import actors_of, processes_of
from actorwork.errors import BrokerError
from actorwork.message import MessageIds
from actorwork.runtime.checking import local_actors_of, refuse_idle_triggers
from actorwork.runtime.stalls import StallCounts

if TYPE_CHECKING:
    from collections.abc import Callable

    from actorwork.abc import Broker, EventSink, PublishMiddleware
    from actorwork.actors.context.sending import SendingClient
    from actorwork.actors.life.consumer import Consumer
    from actorwork.actors.life.services import Resident
    from actorwork.actors.supervision.child_table import Member
    from actorwork.policy.limits import Rates
    from actorwork.runtime.instruments import SystemInstruments
    from actorwork.runtime.options import Options
    from actorwork.runtime.processes.config import OpenSystem
    from actorwork.runtime.processes.process_child import ProcessChild, ProcessServices


if TYPE_CHECKING:

    class Host(Protocol):
        """What the members use of the engine that runs them."""

        @property
        def emit(self) -> EventSink: ...
        @property
        def options(self) -> Options: ...
        @property
        def instruments(self) -> SystemInstruments | None: ...
        @property
        def broker(self) -> Broker: ...
        @property
        def is_ending(self) -> bool: ...
        @property
        def open_system(self) -> OpenSystem: ...
        def client(self, layers: tuple[PublishMiddleware, ...]) -> SendingClient: ...
        def note_force(self) -> None: ...
        def start_soon(self, function: Callable[..., Any], *args: object) -> None: ...


class Members:
    """The members of one system, and what they share. Implements `shutdown.Parts`."""

    def __init__(self, root: Supervisor, host: Host) -> None:
        self._host = host
        instruments = host.instruments
        self.services = Services(
            emit=host.emit,
            watchdog=Watchdog(getattr(host.emit, "hang_timeout", math.inf)),
            ids=MessageIds(os.urandom(8).hex()),
            start_soon=host.start_soon,
            new_supervision=lambda spec: RunningSupervisor(spec, self._environment),
            values=lambda: host.broker.values,
            client=host.client,
            limit_store=lambda: host.broker.limit_store,
            middleware=host.options.middleware,
            publish_middleware=(instruments.publish_middleware if instruments else ())
            + host.options.publish_middleware,
            instruments=instruments.opened if instruments else (),
            quota=getattr(host.emit, "quota", None),
        )
        self.stalls = StallCounts()
        self._environment = SupervisionEnvironment(emit=host.emit, dice=self.services.dice, build=self._build)
        self._declared = {child.title: child for child in actors_of(root)}
        self._titles = {child.title for child in local_actors_of(root)} | self._declared.keys()
        """The actors of the tree, whose triggers have been checked."""
        self.by_title: dict[str, Cell] = {}
        """The actors that the broker feeds."""
        self.elsewhere = {
            child.title: spec.title for spec in processes_of(root) for child in actors_of(spec, everywhere=True)
        }
        """The process of each actor that is in another one."""
        self._rates: Rates | None = None
        self.paused_sources: Collection[str] = host.options.paused_sources
        """Those of which nothing is read, by the node's own configuration."""
        self.pause_own: Callable[[Collection[str]], object] | None = None
        """Pauses them in this process, once it reads any."""
        self.scaled: list[RunningSupervisor] = []
        """The groups of replicas whose number changes."""
        self._process_services: ProcessServices | None = None
        self.root = RunningSupervisor(root, self._environment)

    def __repr__(self) -> str:
        return f"<members: {', '.join(self.by_title)}>"

    @property
    def residents(self) -> Iterable[Resident]:
        """The actors that have not ended, those that were started later included."""
        return self.services.cells

    @property
    def consumers(self) -> list[Consumer]:
        return [cell.consumer for cell in self.by_title.values() if cell.consumer is not None]

    @property
    def processes(self) -> Iterable[ProcessChild]:
        """The processes that run."""
        return () if self._process_services is None else self._process_services.running

    def change_rates(self, rates: Rates) -> Collection[tuple[str, str]]:
        """Change the rates of limits in the processes, also in those that start later; see `System.change_rates`."""
        self._rates = rates
        if self._process_services is not None:
            for process in self._process_services.running:
                process.change_rates(rates)
        return {
            ("limits", limit.name) if limit.name else ("actors", child.title)
            for child in actors_of(self.root.spec, everywhere=True)
            for limit in child.settings.limits
            if rates.of(limit, child.title)
        }

    def change_paused_sources(self, names: Collection[str]) -> Collection[str]:
        """Change which sources are paused here and in the processes; see `System.change_paused_sources`."""
        self.paused_sources = names
        if self.pause_own is not None:
            self.pause_own(names)
        if self._process_services is not None:
            for process in self._process_services.running:
                process.change_paused_sources(names)
        from actorwork.actors.tree.selection import unread  # noqa: PLC0415 - rare

        return unread(self.root.spec, names)

    @property
    def has_processes(self) -> bool:
        """Whether this system has started a process."""
        return self._process_services is not None

    def _build(self, spec: Spec, parent: RunningSupervisor | None) -> Member:
        if isinstance(spec, Process):
            if not spec.is_group:
                return self._build_process(spec)
            group = RunningSupervisor(Replicas.of(spec), self._environment, parent)
            if spec.scale.max > spec.scale.min:
                self.scaled.append(group)
            return group
        if not isinstance(spec, Child):
            return RunningSupervisor(spec, self._environment, parent)
        if spec.actor is None:
            return TaskMember(spec)
        # By identity: a child that is started later has no subscription at the node, also under the title of one that
        # has.
        is_fed = self._declared.get(spec.title) is spec
        if not is_fed and spec.title not in self._titles:
            refuse_idle_triggers(spec, ())
        cell = Cell(spec, self.services, fed=is_fed)
        cell.supervisor = None if parent is None else parent.handle
        if is_fed:
            self.by_title[cell.title] = cell
        return cell

    def _build_process(self, spec: Process) -> ProcessChild:
        # Imported here: a tree without processes starts faster without multiprocessing.
        from actorwork.runtime.processes.process_child import ProcessChild, ProcessServices  # noqa: PLC0415

        host = self._host
        if self._process_services is None:
            self._process_services = ProcessServices(
                emit=host.emit,
                forwards_events=getattr(host.emit, "wants_process_events", True),
                options=host.options,
                open=host.open_system,
                broker=lambda: host.broker,
                is_ending=lambda: host.is_ending,
                forced=host.note_force,
                metrics=getattr(host.emit, "registry", None),
                rates=lambda: self._rates,
                paused_sources=lambda: self.paused_sources,
            )
        return ProcessChild(spec, self._process_services)

    async def keep_scaled(self, group: RunningSupervisor) -> None:
        """Keep as many replicas of a group as its `Scale` wants, until the system ends."""
        from actorwork.runtime.processes.scaling import Scaler  # noqa: PLC0415 - as above

        host = self._host
        await Scaler(group, lambda: host.broker, host.emit, lambda: host.is_ending).run()


def refuse_what_is_not_shared(broker: Broker, root: Spec) -> None:
    """Raise `BrokerError` for a broker that lives in this process, where the tree has others."""
    for process in processes_of(root):
        if broker.shared_url is None:
            from actorwork.runtime.processes.process_child import what_is_not_shared  # noqa: PLC0415 - as above

            raise BrokerError(what_is_not_shared(process, broker))
