"""Processes under a supervisor: each is an OS process, which this side starts, watches and ends.

    launched ── configured ──▶ "started" ──▶ up ──▶ asked to stop ──▶ ended in order
                     └ "failed"              ├── it ends by itself          its exit code tells how
                                             └── its loop is blocked        its stacks are logged, then SIGKILL

An end that was not asked for is an ordinary crash, for the supervisor to judge; first the lease of the dead node is
released, so that other nodes handle its deliveries at once. A process that was asked to stop and does not is killed
when its time is over.

A process that has reached its limit (`max_messages`, `max_memory`) is replaced without a gap: its successor is started
first, then it is asked to stop, and ends beside that. To its supervisor all of it is one incarnation. So is one with a
handler that cannot be cancelled and was to be, by force: that one hands back what else it has in flight, and ends.
"""

from __future__ import annotations

import math
import pickle
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Final

import attrs
import trio

from actorwork import events
from actorwork.errors import ActorworkError, BrokerError
from actorwork.nurseries import open_unwrapping_nursery
from actorwork.policy.exits import Exit
from actorwork.runtime.processes.config import ANSWER, NodeConfig, OpenSystem
from actorwork.runtime.processes.exit_codes import EXIT_FORCED
from actorwork.runtime.processes.launching import ProcessExit, launch, refuse_what_cannot_travel
from actorwork.runtime.processes.recycling import memory_of, reason_to_replace
from actorwork.runtime.processes.worker_process import WorkerProcess
from actorwork.telemetry.configuring import configured

if TYPE_CHECKING:
    from actorwork.abc import Broker, EventSink
    from actorwork.actors.tree.spec import Process
    from actorwork.policy.limits import Rates
    from actorwork.runtime.options import Options
    from actorwork.runtime.outline import Branch
    from actorwork.telemetry.metrics.registry import Registry

HEARTBEAT: Final = 1.0
"""Seconds between two heartbeats, at most."""
_HEARTBEATS_IN_HANG: Final = 4
_LEAST_LIFE: Final = 5.0
"""Seconds that a process lives before it is replaced for its memory: each may be above so low a limit at once."""
_LAST_MESSAGES: Final = 5.0
"""Seconds for a process to handle what waits in it, after it has taken the last message that it may handle."""
_BY_FORCE: Final = 5.0
"""Seconds for a process to end, at most, once its successor is up, for a handler that cannot be cancelled."""
_TRY_AGAIN_SPENT: Final = 5.0
"""The same as `_TRY_AGAIN`, for a process that may handle no further message."""
_TRY_AGAIN: Final = 30.0
"""Seconds until a successor is started again, when the last one did not start."""


@attrs.frozen(eq=False)
class ProcessServices:
    """What all processes of a system share."""

    emit: EventSink
    forwards_events: bool
    """Whether `emit` also takes the events of the processes."""
    options: Options
    open: OpenSystem
    """Opens the system in a process; a function of a module, since it is pickled by its name."""
    broker: Callable[[], Broker]
    is_ending: Callable[[], bool]
    """Whether the system has begun to stop: nothing is started then."""
    forced: Callable[[], None]
    """Notes that force was needed."""
    metrics: Registry | None = None
    """Where the metrics of the processes are added up, if any are counted."""
    running: dict[ProcessChild, None] = attrs.field(factory=dict)
    rates: Callable[[], Rates | None] = lambda: None
    """Returns the rates that were changed while the system runs."""
    paused_sources: Callable[[], Collection[str]] = tuple
    """Returns the sources that are paused by the configuration now."""


class ProcessChild:
    """A `Process` under its supervisor; its own handle. It outlives the OS processes, one for each incarnation."""

    def __init__(self, spec: Process, services: ProcessServices) -> None:
        refuse_what_cannot_travel(spec, services.options)
        self.spec = spec
        self._services = services
        self._process: WorkerProcess | None = None
        """The current one; the others of `_alive` are starting, or on their way out."""
        self._alive: dict[WorkerProcess, None] = {}
        self._succession = trio.CancelScope()
        self._stopped = trio.Event()
        self._past: Counter[str] = Counter()
        """The counters of the processes that have ended."""

    def __repr__(self) -> str:
        return f"<process {self.spec.title!r}{'' if self._process is None else f', {self._process.pid}'}>"

    # ---- as a member of its supervisor ----

    @property
    def handle(self) -> ProcessChild:
        return self

    @property
    def label(self) -> str:
        return self.spec.title

    async def live(self, started: Callable[[], None]) -> None:
        """Run one OS process, and its successors. Raises `ProcessLost` for an end that was not in order, and the error
        of a start that failed.

        Cancelled: it is killed.
        """
        if self._services.is_ending():
            # A restart during the shutdown: it idles until the supervisor stops it. To raise would be a crash.
            started()
            await self._stopped.wait()
            return
        process: WorkerProcess | None = None
        failure: BaseException | None = None
        self._services.running[self] = None
        try:
            async with open_unwrapping_nursery() as nursery:
                self._process = process = await self._start(nursery)
                if process.is_up:
                    started()
                    process = await self._serve(nursery, process)
                if not process.is_in_order:
                    # One that is starting or on its way out is not waited for: the supervisor has to restart this.
                    nursery.cancel_scope.cancel(reason="the process is lost")
        finally:
            self._process = None
            del self._services.running[self]
            if process is not None:
                # After the nursery: only now has `_keep` cleaned up, so that the exit code is known. And when
                # cancelled, too: this also notes whether force was needed.
                failure = self._judged(process)
        if failure is not None:
            raise failure

    async def _start(self, nursery: trio.Nursery) -> WorkerProcess:
        """Start an OS process; return it once it is up, or has ended. Cancelled: it is killed."""
        config = self._pickled_config()
        handle = await launch(self.spec.start_method, self.spec.title, preload=[self._services.open.__module__])
        process = WorkerProcess(handle, self.spec, self._services)
        self._alive[process] = None
        # No checkpoint since the launch: from here on `_keep` cleans up after it, whatever happens.
        nursery.start_soon(self._keep, process, config)
        try:
            with trio.move_on_after(self.spec.startup_timeout) as limit:
                while not (process.is_up or process.is_over):
                    await process.wait_change()
            if limit.cancelled_caught:
                process.stacks = await process.ask_stacks(ANSWER)
                process.kill(f"it took longer than {self.spec.startup_timeout:g} s to start")
                await process.wait_over()
        except trio.Cancelled:
            process.kill()
            raise
        if process.is_up:
            self._services.emit(events.ProcessStarted(self.spec.title, process.pid, process.incarnation or ""))
            self._catch_up(process)
        return process

    async def _keep(self, process: WorkerProcess, config: bytes) -> None:
        """Run an OS process to its end, and clean up after it. Cancelled: it is killed."""
        try:
            await process.run(config)
        finally:
            with trio.CancelScope(shield=True):  # bounded: each of its steps has a limit of its own
                await process.clean_up()
            self._past += process.statistics
            if self._services.metrics is not None:
                self._services.metrics.retire(self.spec.title, process.pid)
            del self._alive[process]

    async def _serve(self, nursery: trio.Nursery, process: WorkerProcess) -> WorkerProcess:
        """Replace the process whenever it has reached its limit; return the last one, when it has ended."""
        not_before, again = trio.current_time() + _LEAST_LIFE, -math.inf
        while why := await self._wait_due(process, not_before, again):
            successor = await self._succeed(nursery, process, why)
            if successor is not None:
                process = successor
            not_before = trio.current_time() + _LEAST_LIFE
            again = trio.current_time() + _pause_for(process) if successor is None else -math.inf
        return process

    async def _wait_due(self, process: WorkerProcess, not_before: float, again: float) -> str:
        """Wait until a process is to be replaced, and return why; return an empty str when it has ended.

        Not before `again`; because of its memory, not before `not_before`.
        """
        if self.spec.max_messages is None and self.spec.max_memory is None:
            while not (process.is_over or process.unwanted):
                await process.wait_change()
        while not process.is_over:
            now = trio.current_time()
            if now >= again and not self._is_ending:
                if process.unwanted:
                    return process.unwanted
                handled = 0 if process.quota == "open" else self.spec.max_messages or 0
                why = reason_to_replace(self.spec, handled, memory_of(process.pid) if now >= not_before else None)
                if why:
                    return why
            with trio.move_on_after(HEARTBEAT):
                await process.wait_change()
        return ""

    async def _succeed(self, nursery: trio.Nursery, process: WorkerProcess, why: str) -> WorkerProcess | None:
        """Start a successor, and have the process end beside it; return None if the process has to continue."""
        successor: WorkerProcess | None = None
        error: BaseException | None = None
        with trio.CancelScope() as self._succession:  # `stop` cancels it: what is stopping starts nothing.
            try:
                successor = await self._start(nursery)
            except (ActorworkError, OSError) as failure:
                error = failure
        if successor is not None and not successor.is_up:
            error = self._judged(successor)
        if error is not None:
            pause = _pause_for(process)
            self._services.emit(events.ReplacementFailed(self.spec.title, process.pid, why, error, pause))
        if successor is None or not successor.is_up:
            return None
        if self._is_ending or process.is_over:
            # The process ended, or was asked to, while its successor started: two would end as one, or a crash would
            # be hidden. The successor goes again.
            successor.stop(self.spec.shutdown_timeout)
            return None
        # First the successor is the current one, then the old one is asked to stop: a `stop` of the supervisor in
        # between would otherwise reach the wrong one.
        self._process = successor
        reason = "hung" if process.unwanted else "memory" if process.quota == "open" else "recycled"
        self._services.emit(events.ProcessReplaced(self.spec.title, process.pid, successor.pid, why, reason))
        nursery.start_soon(self._see_off, process)
        return successor

    async def _see_off(self, process: WorkerProcess) -> None:
        """Ask a process to stop, and kill it if it is still there when its time is over."""
        if process.quota == "taken" and not process.unwanted:
            # What waits in it counts as taken. It is a moment's work, and would be handed back by a stop.
            with trio.move_on_after(_LAST_MESSAGES):
                while process.quota == "taken" and not (process.is_over or process.is_ending):
                    await process.wait_change()
        within = self.spec.shutdown_timeout
        if process.unwanted:
            within = min(within, _BY_FORCE)
        process.stop(within)
        if process.unwanted:
            process.hurry()
        with trio.move_on_after(within):
            await process.wait_over()
        process.kill()

    @property
    def _is_ending(self) -> bool:
        return self._stopped.is_set() or self._services.is_ending()

    def _catch_up(self, process: WorkerProcess) -> None:
        """Send a process that has just come up the command that all others were sent while it started."""
        if self._services.is_ending() and not process.is_ending:
            process.drain(0.0)

    def _judged(self, process: WorkerProcess) -> BaseException | None:
        """Return the end of a process as an error; None for one in order."""
        ended = process.ended or ProcessExit(process.pid, None)
        if (process.has_finished and ended.code == EXIT_FORCED) or (self._is_ending and not process.is_in_order):
            self._services.forced()
        if process.is_in_order and (process.is_up or process.failure is None) and not process.killed_for:
            return None
        reported = None if process.failure is None else process.failure.error(self.spec.child_id)
        if not process.is_up and reported is not None and not process.killed_for:
            return reported
        error = ended.error(process.killed_for, had_suspects=process.has_suspects)
        if process.stacks:
            error.add_note(f"In that process:\n{process.stacks}")
        error.__cause__ = reported
        return error

    def stop(self, deadline: float) -> None:
        self._stopped.set()
        self._succession.cancel(reason="it is asked to stop")
        within = max(0.0, deadline - trio.current_time())
        for process in self._alive:
            if process is self._process:
                process.stop(within)
            else:  # It was asked to stop already, and a second `stop` would make it hurry.
                process.drain(within)

    def kill(self) -> None:
        for process in self._alive:
            if process.is_up and not (process.is_over or process.killed_for):
                self._services.emit(events.ProcessKilled(self.spec.title, process.pid))
            process.kill("it did not end in its time, and was killed")

    def end(self, exit: Exit, reason: str) -> None: ...

    def reopen(self) -> None:
        self._stopped = trio.Event()

    # ---- as a part of its system ----

    @property
    def busy(self) -> bool:
        """Whether it may still have something in flight, after it was asked to drain."""
        return any(process.is_busy for process in self._alive)

    async def wait_quiet(self) -> None:
        """Wait for the next change that may mean that it is not busy any more."""
        for process in list(self._alive):
            if process.is_busy:
                await process.wait_change()
                return

    def drain(self, within: float) -> None:
        """Have it stop its intake, and finish what is in flight."""
        for process in self._alive:
            process.drain(within)

    def hurry(self) -> None:
        """Have it cancel what is in flight."""
        for process in self._alive:
            process.hurry()

    def change_log_levels(self, level: str) -> None:
        """Have it change the levels of its logs; one that starts later takes them over from this process."""
        for process in self._alive:
            process.change_log_levels(level)

    def change_rates(self, rates: Rates) -> None:
        """Have it change the rates of limits; one that starts later gets them with its configuration."""
        for process in self._alive:
            process.change_rates(rates)

    def change_paused_sources(self, names: Collection[str]) -> None:
        """Have it pause these sources; one that starts later gets them with its configuration."""
        for process in self._alive:
            process.change_paused_sources(names)

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def node(self) -> str:
        """The name under which the current process owns deliveries; empty until it is up."""
        return "" if self._process is None else self._process.incarnation or ""

    def branches(self) -> tuple[Branch, ...]:
        """Return the tree in it, as its last status showed it."""
        return () if self._process is None or self._process.tree is None else self._process.tree.children

    def statistics(self) -> Mapping[str, int]:
        """Return the counters of all its processes so far."""
        return sum((process.statistics for process in self._alive), self._past)

    def _pickled_config(self) -> bytes:
        broker = self._services.broker()
        url = broker.shared_url
        if url is None:
            raise BrokerError(what_is_not_shared(self.spec, broker))
        log_level, log_format = configured()
        hang = self.spec.hang_timeout
        config = NodeConfig(
            title=self.spec.title,
            children=self.spec.children,
            broker=url,
            options=attrs.evolve(self._services.options, paused_sources=self._services.paused_sources()),
            open=self._services.open,
            heartbeat_interval=HEARTBEAT if hang is None else min(HEARTBEAT, hang / _HEARTBEATS_IN_HANG),
            hang_timeout=hang,
            max_messages=self.spec.max_messages,
            forwards_events=self._services.forwards_events,
            log_level=log_level,
            log_format=log_format,
            rates=self._services.rates(),
        )
        return bytes(ForkingPickler.dumps(config, pickle.HIGHEST_PROTOCOL))


def _pause_for(process: WorkerProcess) -> float:
    """Return how long to wait after a successor of a process did not start."""
    return _TRY_AGAIN if process.quota == "open" else _TRY_AGAIN_SPENT


def what_is_not_shared(spec: Process, broker: Broker) -> str:
    """Return why processes cannot use a broker."""
    return (
        f"{spec.title!r} is to run in another process, and the broker {broker.url!r} lives in this one alone;"
        " name a broker that both can reach, such as sqlite:///path/to/file or redis://host:port/db"
    )
