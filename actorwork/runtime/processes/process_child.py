"""Processes under a supervisor: each is an OS process, which this side starts, watches and ends.

    launched ── orders ──▶ "started" ──▶ up ──▶ told to stop ──▶ ended in order
                  └ "failed"             ├── it ends by itself          what that was says its exit code
                                         └── its loop does not turn     its stacks are logged, then SIGKILL

An end that nobody asked for is an ordinary crash, for the supervisor to judge; first the lease of the node that died is
released, so that what it had in hand runs elsewhere at once. A process that is told to stop, and does not, is killed
when its time is over.

A process whose loop is blocked still beats, from a thread, and says how long ago its loop has turned. One that was
stopped, or is held up in code that keeps Python's own lock, does not beat. Either is seen here by one figure: how long
ago the loop was last known to turn. Before that ends a process it is asked once more: this side may have been the one
that did not look.

A process that has done its share (`max_messages`, `max_memory`) is replaced without a gap: its successor is started
first, then it is told to stop, and ends beside that. To its supervisor all of it is one incarnation.
"""

from __future__ import annotations

import pickle
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Final

import attrs
import trio

from actorwork import events
from actorwork.errors import ActorworkError, BrokerError
from actorwork.policy.exits import Exit
from actorwork.runtime.outline import Branch, branch_from
from actorwork.runtime.processes.child_node import ANSWER, EXIT_FORCED, NodeConfig
from actorwork.runtime.processes.control import Frame, Frames, RemoteFailure, packed
from actorwork.runtime.processes.launching import ProcessExit, ProcessHandle, launch, refuse_what_cannot_travel
from actorwork.runtime.processes.recycling import memory_of, reason_to_replace
from actorwork.telemetry.logs import configured

if TYPE_CHECKING:
    from actorwork.abc import Broker, EventSink
    from actorwork.actors.tree.spec import Process
    from actorwork.runtime.options import Options

BEAT: Final = 1.0
"""Seconds between two beats, at most."""
_BEATS_IN_HANG: Final = 4
_LAST: Final = 5.0
"""Seconds that a process which was killed may take to be gone: it may be in the middle of a read from a bad disk."""
_RELEASE: Final = 2.0
"""Seconds for releasing the lease of a node that died: then it runs out by itself."""
_LEAST_LIFE: Final = 5.0
"""Seconds that a process lives before it is replaced for what it has done: a limit may be too low for any."""
_TRY_AGAIN: Final = 30.0
"""Seconds until a successor is started again, when the last one did not start."""
_MARGIN: Final = 0.1
"""The part of its time that a process leaves to its own end, at most a second: force is for those that hang."""


@attrs.frozen(eq=False)
class ProcessServices:
    """What all processes of a system share."""

    emit: EventSink
    options: Options
    broker: Callable[[], Broker]
    is_ending: Callable[[], bool]
    """Whether the system has begun to stop: nothing is started then."""
    forced: Callable[[], None]
    """Says that force was needed."""
    members: dict[ProcessChild, None] = attrs.field(factory=dict)
    """Those that run."""


class WorkerProcess:
    """One OS process, from its launch to its end."""

    def __init__(self, launched: ProcessHandle, spec: Process, services: ProcessServices) -> None:
        self.pid = launched.pid
        self.incarnation: str | None = None
        """Under which name it owns deliveries."""
        self.tree: Branch | None = None
        self.statistics: Counter[str] = Counter()
        self.is_up = False
        self.is_drained = False
        self.is_told = False
        """Whether it was told to drain, or to stop."""
        self.failure: RemoteFailure | None = None
        """What it said that it ended of."""
        self.has_finished = False
        """Whether it said that its system has ended in order: an exit code can be anybody's."""
        self.ended: ProcessExit | None = None
        self.killed_for = ""
        """Why it was killed from here."""
        self.stood_at = ""
        """Where its threads were then, if that is not told elsewhere."""
        self._launched = launched
        self._spec = spec
        self._services = services
        self._frames = Frames()
        self._turned = trio.current_time()
        """When its loop was last known to turn, by our clock."""
        self._stacks: str | None = None
        self._said_early: list[bytes] | None = []
        """What was to be said before it had its orders; None once it has them."""
        self._change = trio.Event()

    def __repr__(self) -> str:
        return f"<process {self.pid} of {self._spec.title!r}>"

    @property
    def is_over(self) -> bool:
        return self.ended is not None

    @property
    def is_busy(self) -> bool:
        """Whether it may have something in hand."""
        return self.is_up and not (self.is_drained or self.is_over)

    async def run(self, orders: bytes) -> None:
        """Give it its orders and hear what it says, until it has ended."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._give_orders, orders)
                nursery.start_soon(self._listen)
                if self._spec.hang_timeout is not None:
                    nursery.start_soon(self._watch, self._spec.hang_timeout)
                ended = await self._launched.wait_ended()
                nursery.cancel_scope.cancel(reason="it has ended")
            while data := self._launched.receive_nowait():  # What it said last.
                self._hear(data)
            self.ended = ended
        finally:
            self._tell_change()

    async def _give_orders(self, orders: bytes) -> None:
        await self._launched.send_all(struct.pack(">Q", len(orders)) + orders)
        early, self._said_early = self._said_early or [], None
        for frame in early:
            self._launched.send(frame)

    def _say(self, word: str, /, **facts: float) -> None:
        """Say something, but nothing before the orders."""
        frame = packed(word, **facts)
        if self._said_early is None:
            self._launched.send(frame)
        else:
            self._said_early.append(frame)

    async def wait_change(self) -> None:
        """Wait until it is up, drained, or has ended."""
        await self._change.wait()

    async def wait_over(self) -> None:
        """Wait until it has ended."""
        while not self.is_over:
            await self.wait_change()

    def _tell_change(self) -> None:
        self._change.set()
        self._change = trio.Event()

    # ---- what is said to it ----

    def drain(self, within: float) -> None:
        self.is_told = True
        self._say("drain", within=within)

    def hurry(self) -> None:
        self._say("hurry")

    def stop(self, within: float) -> None:
        """Tell it to end within so many seconds, at the end of which it will be killed."""
        self.is_told = True
        self._say("stop", within=within - min(1.0, within * _MARGIN))

    def kill(self, why: str = "") -> None:
        self.killed_for = self.killed_for or why
        self._launched.kill()

    # ---- what it says ----

    async def _listen(self) -> None:
        while data := await self._launched.receive():
            self._hear(data)

    def _hear(self, data: bytes) -> None:
        try:
            frames = self._frames.feed(data)
        except ValueError as error:
            self.kill(f"process {self.pid} was killed: it said what nobody understands ({error})")
            return
        for frame in frames:
            self._take(frame)

    def _take(self, frame: Frame) -> None:
        match frame.get("is"):
            case "beat":
                self._turned_ago(frame.get("age"))
            case "look":
                self.tree = branch_from(frame["tree"])
                self.statistics = Counter(frame.get("statistics") or {})
            case "node":
                self.incarnation = str(frame.get("incarnation"))
            case "started":
                self.is_up = True
                self._turned_ago(0.0)
                self._tell_change()
            case "drained":
                self.is_drained = True
                if frame.get("forced"):
                    self._services.forced()
                self._tell_change()
            case "stacks":
                self._stacks = str(frame.get("text"))
                self._turned_ago(frame.get("age"))
                self._tell_change()
            case "stuck":
                self._end_stuck(frame)
            case "failed" | "ended":
                failure = frame.get("failure")
                self.has_finished = failure is None
                self.failure = None if failure is None else RemoteFailure.read(failure)
            case _:
                pass

    # ---- hanging ----

    async def ask_stacks(self, within: float) -> str:
        """Return where its threads stand; nothing if it does not say that in time."""
        self._stacks = None
        self._say("stacks")
        with trio.move_on_after(within):
            while self._stacks is None and not self.is_over:
                await self.wait_change()
        return self._stacks or ""

    def _turned_ago(self, age: float | None) -> None:
        if age is not None:
            self._turned = max(self._turned, trio.current_time() - age)

    async def _watch(self, limit: float) -> None:
        """Kill it when its loop has not turned for so long, and say where it stood."""
        while not self.is_up:
            await self.wait_change()
        while True:
            await trio.sleep_until(self._turned + limit)
            if trio.current_time() - self._turned < limit:
                continue
            stacks = await self.ask_stacks(min(ANSWER, limit))
            silent = trio.current_time() - self._turned
            if silent < limit:  # It was this side that did not look, or it has just gone on.
                continue
            self._services.emit(events.ProcessHung(self._spec.title, self.pid, silent, stacks))
            self.kill(f"process {self.pid} was killed, since its loop had not turned for {silent:.1f} s")
            return

    def _end_stuck(self, frame: Frame) -> None:
        """Kill it for a handler that does not end, though the loop turns: nothing else can end a thread."""
        actor, seconds = str(frame.get("actor")), float(frame.get("seconds") or 0.0)
        self._services.emit(
            events.HandlerHung(
                self._spec.title, self.pid, actor, str(frame.get("message")), seconds, str(frame.get("text"))
            )
        )
        late = f"a handler of {actor!r} had not ended {seconds:.1f} s after its deadline"
        self.kill(f"process {self.pid} was killed, since {late}")

    # ---- its end ----

    async def dead_letter(self, *, in_order: bool) -> None:
        """Wait until it is gone, and release its lease, unless it has done so itself. Bounded, whatever hangs."""
        if not self.is_over:
            self._launched.kill()
            with trio.move_on_after(_LAST):
                self.ended = await self._launched.wait_ended()
        self._launched.close()
        if self.incarnation is not None and not in_order:
            try:
                with trio.fail_after(_RELEASE):
                    await self._services.broker().release_lease(self.incarnation)
            except (ActorworkError, trio.TooSlowError) as error:
                what_next = f"what process {self.pid} had in hand is run elsewhere when its lease has run out"
                why = f"no answer in {_RELEASE:g} s" if isinstance(error, trio.TooSlowError) else str(error)
                self._services.emit(events.BrokerTrouble("releasing the lease of a process", why, what_next))


class ProcessChild:
    """A `Process` under its supervisor; its own handle. It outlives the OS processes, one for each incarnation."""

    def __init__(self, spec: Process, services: ProcessServices) -> None:
        refuse_what_cannot_travel(spec, services.options)
        self.spec = spec
        self._services = services
        self._process: WorkerProcess | None = None
        """The one that counts; others of those that are alive are on their way in or out."""
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

    async def live(self, started: Callable[[], None]) -> None:
        """Run one OS process, and its successors. Raises `ProcessLost` for an end that was no clean one, and what its
        start failed of.

        Cancelled: it is killed.
        """
        if self._services.is_ending():
            started()  # It rests: what is stopping begins nothing.
            await self._stopped.wait()
            return
        process: WorkerProcess | None = None
        failure: BaseException | None = None
        self._services.members[self] = None
        try:
            async with trio.open_nursery() as nursery:
                try:
                    self._process = process = await self._start(nursery)
                except (ActorworkError, OSError) as error:
                    failure = error  # Raised below, outside the nursery, which would wrap it.
                else:
                    if process.is_up:
                        started()
                        process = await self._serve(nursery, process)
                    if not _in_order(process):  # Who is on the way in or out is not waited for.
                        nursery.cancel_scope.cancel(reason="the process is lost")
        finally:
            self._process = None
            del self._services.members[self]
            if process is not None:
                failure = self._judged(process)
        if failure is not None:
            raise failure

    async def _start(self, nursery: trio.Nursery) -> WorkerProcess:
        """Start an OS process; return it once it is up, or has ended. Cancelled: it is killed."""
        orders = self._orders()
        process = WorkerProcess(await launch(self.spec.start_method, self.spec.title), self.spec, self._services)
        self._alive[process] = None
        nursery.start_soon(self._keep, process, orders)
        try:
            with trio.move_on_after(self.spec.startup_timeout) as limit:
                while not (process.is_up or process.is_over):
                    await process.wait_change()
            if limit.cancelled_caught:
                process.stood_at = await process.ask_stacks(ANSWER)
                process.kill(f"it took longer than {self.spec.startup_timeout:g} s to start")
                await process.wait_over()
        except trio.Cancelled:
            process.kill()
            raise
        if process.is_up:
            self._services.emit(events.ProcessStarted(self.spec.title, process.pid, process.incarnation or ""))
            self._catch_up(process)
        return process

    async def _keep(self, process: WorkerProcess, orders: bytes) -> None:
        """Run an OS process to its end, and clear up after it. Cancelled: it is killed."""
        try:
            await process.run(orders)
        finally:
            with trio.CancelScope(shield=True):
                await process.dead_letter(in_order=_in_order(process))
            self._past += process.statistics
            del self._alive[process]

    async def _serve(self, nursery: trio.Nursery, process: WorkerProcess) -> WorkerProcess:
        """Replace the process whenever it has done its share; return the last one, when it has ended."""
        not_before = trio.current_time() + _LEAST_LIFE
        while why := await self._wait_due(process, not_before):
            successor = await self._succeed(nursery, process, why)
            if successor is not None:
                process = successor
            not_before = trio.current_time() + (_TRY_AGAIN if successor is None else _LEAST_LIFE)
        return process

    async def _wait_due(self, process: WorkerProcess, not_before: float) -> str:
        """Wait until a process is to be replaced, and return why; return nothing when it has ended."""
        if self.spec.max_messages is None and self.spec.max_memory is None:
            await process.wait_over()
        while not process.is_over:
            with trio.move_on_at(max(not_before, trio.current_time() + BEAT)):
                await process.wait_over()
            why = reason_to_replace(self.spec, process.statistics["settled"], memory_of(process.pid))
            if why and not (process.is_over or self._is_ending):
                return why
        return ""

    async def _succeed(self, nursery: trio.Nursery, process: WorkerProcess, why: str) -> WorkerProcess | None:
        """Start a successor, and have the process end beside it; return None if it has to go on itself."""
        successor: WorkerProcess | None = None
        error: BaseException | None = None
        with trio.CancelScope() as self._succession:
            try:
                successor = await self._start(nursery)
            except (ActorworkError, OSError) as failure:
                error = failure
        if successor is not None and not successor.is_up:
            error = self._judged(successor)
        if error is not None:
            self._services.emit(events.ReplacementFailed(self.spec.title, process.pid, why, error, _TRY_AGAIN))
        if successor is None or not successor.is_up:
            return None
        if self._is_ending or process.is_over:
            successor.stop(self.spec.shutdown_timeout)
            return None
        self._process = successor
        self._services.emit(events.ProcessReplaced(self.spec.title, process.pid, successor.pid, why))
        process.stop(self.spec.shutdown_timeout)
        nursery.start_soon(self._see_off, process)
        return successor

    async def _see_off(self, process: WorkerProcess) -> None:
        """Kill a process that was told to stop, if it is still there when its time is over."""
        with trio.move_on_after(self.spec.shutdown_timeout):
            await process.wait_over()
        process.kill()

    @property
    def _is_ending(self) -> bool:
        return self._stopped.is_set() or self._services.is_ending()

    def _catch_up(self, process: WorkerProcess) -> None:
        """Tell a process that has just come up what all of them were told while it did."""
        if self._services.is_ending() and not process.is_told:
            process.drain(0.0)

    def _judged(self, process: WorkerProcess) -> BaseException | None:
        """Return what the end of a process was, as an error; None for one in order."""
        ended = process.ended or ProcessExit(process.pid, None)
        if (process.has_finished and ended.code == EXIT_FORCED) or (self._is_ending and not _in_order(process)):
            self._services.forced()
        if _in_order(process) and (process.is_up or process.failure is None) and not process.killed_for:
            return None
        told = None if process.failure is None else process.failure.error(self.spec.child_id)
        if not process.is_up and told is not None and not process.killed_for:
            return told
        error = ended.error(process.killed_for)
        if process.stood_at:
            error.add_note(f"In that process:\n{process.stood_at}")
        error.__cause__ = told
        return error

    def stop(self, deadline: float) -> None:
        self._stopped.set()
        self._succession.cancel(reason="it is told to stop")
        within = max(0.0, deadline - trio.current_time())
        for process in self._alive:
            if process is self._process:
                process.stop(within)
            else:  # It was told to stop already, and would take it for a hurry.
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
        """Whether it may still have something in hand, after it was told to drain."""
        return any(process.is_busy for process in self._alive)

    async def wait_quiet(self) -> None:
        """Wait for the next change that may mean that it is not busy any more."""
        for process in list(self._alive):
            if process.is_busy:
                await process.wait_change()
                return

    def drain(self, within: float) -> None:
        """Have it stop its intake, and finish what is in hand."""
        for process in self._alive:
            process.drain(within)

    def hurry(self) -> None:
        """Have it cancel what is in hand."""
        for process in self._alive:
            process.hurry()

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def branches(self) -> tuple[Branch, ...]:
        """Return what is known of the tree in it: as it was a moment ago."""
        return () if self._process is None or self._process.tree is None else self._process.tree.children

    def statistics(self) -> Mapping[str, int]:
        """Return the counters of all its processes so far."""
        return sum((process.statistics for process in self._alive), self._past)

    def _orders(self) -> bytes:
        broker = self._services.broker()
        url = broker.shared_url
        if url is None:
            raise BrokerError(what_is_not_shared(self.spec, broker))
        log_level, log_format = configured()
        hang = self.spec.hang_timeout
        orders = NodeConfig(
            title=self.spec.title,
            children=self.spec.children,
            broker=url,
            options=self._services.options,
            beat=BEAT if hang is None else min(BEAT, hang / _BEATS_IN_HANG),
            hang_timeout=hang,
            log_level=log_level,
            log_format=log_format,
        )
        return bytes(ForkingPickler.dumps(orders, pickle.HIGHEST_PROTOCOL))


def what_is_not_shared(spec: Process, broker: Broker) -> str:
    """Say why a broker is none for processes."""
    return (
        f"{spec.title!r} is to run in another process, and the broker {broker.url!r} lives in this one alone;"
        " name a broker that both can reach, such as sqlite:///path/to/file or redis://host:port/db"
    )


def _in_order(process: WorkerProcess) -> bool:
    return process.ended is not None and process.has_finished
