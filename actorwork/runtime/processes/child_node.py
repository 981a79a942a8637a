"""What runs in a process that a tree has started: a system of its own, and the line to its parent.

    the loop    runs the system; says that it turns; obeys drain, hurry and stop
    the line    a thread that a blocked loop cannot stop: it beats, says where every thread stands, and ends the process
                when the parent is gone. (For code that keeps Python's own lock there is a timer that needs none: it
                writes to standard error where every thread stands.)

A signal that was sent to the whole process group does nothing here, since only the root decides. When the parent is
gone the process ends at once, without ado: its lease runs out, and its work is done elsewhere.
"""

from __future__ import annotations

import faulthandler
import math
import os
import pickle
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from actorwork import events
from actorwork.actors.execution.workplace import interrupts
from actorwork.groups import is_cancellation, only_leaf
from actorwork.runtime.options import Options
from actorwork.runtime.processes.control import Frame, Frames, RemoteFailure, packed
from actorwork.runtime.system import System, open_system
from actorwork.stacks import all_stacks
from actorwork.telemetry.logs import LogSink, configure

if TYPE_CHECKING:
    from actorwork.actors.tree.spec import Spec

NOT_OURS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What only the root obeys."""
EXIT_FAILED: Final = 1
EXIT_FORCED: Final = 3
EXIT_ORPHANED: Final = 4
ANSWER: Final = 2.0
"""Seconds in which a process says where its threads stand, before it is killed for a loop that does not turn."""

_PR_SET_PDEATHSIG: Final = 1
_LAST_WORD: Final = 1.0
"""Seconds for the parent to take the last frame."""


@attrs.frozen
class NodeConfig:
    """What a process is to be; pickled on its way."""

    title: str
    children: tuple[Spec, ...]
    broker: str
    options: Options
    beat: float
    """Seconds between two beats."""
    hang_timeout: float | None
    """Seconds after its deadline at which a handler that does not end is the end of the process."""
    log_level: int
    log_format: str | None
    """How this program configured its logs; None if it left that to the application."""


class ParentChannel:
    """The line to the parent, and the thread that watches it."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._frames = Frames()
        self._lock = threading.Lock()
        self._backlog = bytearray()
        self._beat_every = 1.0
        self._token: trio.lowlevel.TrioToken | None = None
        self._obey: Callable[[Frame], None] | None = None
        self._heard_early: list[Frame] = []
        """What was said before there was somebody to obey."""
        self._turned: float | None = None
        """When the loop has turned last, by the clock of time.monotonic."""

    def __repr__(self) -> str:
        return f"<line to the parent: {len(self._backlog)} bytes wait>"

    def read_orders(self) -> bytes:
        """Read the orders, which come first; whoever gives none is gone."""
        self._end.settimeout(None)
        (length,) = struct.unpack(">Q", self._read(8))
        orders = self._read(length)
        self._end.settimeout(0)
        return orders

    def _read(self, size: int) -> bytes:
        read = bytearray()
        while len(read) < size:
            portion = self._end.recv(min(size - len(read), 1 << 20))
            if not portion:
                os._exit(EXIT_ORPHANED)
            read += portion
        return bytes(read)

    def watch(self) -> None:
        """Begin to watch it."""
        threading.Thread(target=self._watch, name="actorwork line", daemon=True).start()

    def serve(self, beat_every: float, obey: Callable[[Frame], None]) -> None:
        """Say who obeys, in the loop, and how often to beat."""
        self._beat_every = beat_every
        with self._lock:
            self._obey = obey
            self._token = trio.lowlevel.current_trio_token()
        for frame in self._heard_early:
            obey(frame)
        self.turned()

    def turned(self) -> None:
        """The loop has turned."""
        self._turned = time.monotonic()

    def say(self, word: str, /, **facts: Any) -> None:
        """Say something, in the order of calls. Never waits: what is not taken at once is sent later."""
        with self._lock:
            self._backlog += packed(word, **facts)
            self._flush()

    def say_unless_behind(self, word: str, /, **facts: Any) -> None:
        """Say what is no use later on."""
        if not self._backlog:
            self.say(word, **facts)

    def _flush(self) -> None:
        try:
            del self._backlog[: self._end.send(self._backlog)]
        except BlockingIOError:
            pass
        except OSError:
            self._backlog.clear()  # The parent is gone, as the thread will see.

    def finish(self) -> None:
        """Give the parent a moment to take what was said last."""
        until = time.monotonic() + _LAST_WORD
        while self._backlog and time.monotonic() < until:
            with self._lock:
                self._flush()
            time.sleep(0.01)

    # ---- the thread ----

    def _watch(self) -> None:
        poll = select.poll()
        due = time.monotonic()
        while True:
            poll.register(self._end, select.POLLIN | (select.POLLOUT if self._backlog else 0))
            happened = poll.poll(max(0.0, due - time.monotonic()) * 1000)
            if self._backlog:
                with self._lock:
                    self._flush()
            if any(what & ~select.POLLOUT for _, what in happened):
                self._hear()
            if time.monotonic() >= due:
                due = time.monotonic() + self._beat_every
                self.say_unless_behind("beat", age=self._age)

    @property
    def _age(self) -> float | None:
        return None if self._turned is None else time.monotonic() - self._turned

    def _hear(self) -> None:
        try:
            data = self._end.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            os._exit(EXIT_ORPHANED)
        for frame in self._frames.feed(data):
            if frame.get("is") == "stacks":
                self.say("stacks", text=all_stacks(), age=self._age)
            else:
                self._pass_on(frame)

    def _pass_on(self, frame: Frame) -> None:
        with self._lock:
            if self._token is None or self._obey is None:
                self._heard_early.append(frame)
                return
        with suppress(trio.RunFinishedError):  # It is about to end already.
            self._token.run_sync_soon(self._obey, frame)


def main(end: socket.socket) -> None:
    """Run the node; called by multiprocessing, in the new process. Its exit code is that of `run`."""
    for number in NOT_OURS:
        signal.signal(number, _nothing)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, NOT_OURS)
    _end_with_parent()
    line = ParentChannel(end)
    content = line.read_orders()
    line.watch()
    try:
        orders: NodeConfig = pickle.loads(content)  # noqa: S301 - the parent's own, through a socket that nobody else has
    except Exception as error:  # noqa: BLE001 - whatever a class raises while it is imported is told to the parent
        line.say("failed", failure=attrs.asdict(RemoteFailure.of(error)))
        line.finish()
        sys.exit(EXIT_FAILED)
    if orders.log_format is not None:
        configure(orders.log_level, "json" if orders.log_format == "json" else "text", one_of_several=True)
    code = trio.run(_run, orders, line)
    line.finish()
    if code:
        sys.exit(code)


def _nothing(number: int, frame: object) -> None:
    """Take a signal, and do nothing about it."""


def _end_with_parent() -> None:
    """Ask the kernel to end this process with its parent, where it can be asked: the line needs Python's own lock."""
    if sys.platform != "linux":
        return
    with suppress(ImportError, OSError, AttributeError):
        import ctypes  # noqa: PLC0415 - not every Python has it

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


async def _run(orders: NodeConfig, line: ParentChannel) -> int:
    """Run the system until the parent says stop, or its tree cannot be kept alive; return the exit code."""
    sink = LogSink(f"{socket.gethostname()}:{os.getpid()}")

    def emit(event: events.Event) -> None:
        # Told in the same breath in which the node gets its lease: before anything is handled under it.
        match event:
            case events.NodeStarted(incarnation=incarnation) | events.LeaseLost(successor=incarnation):
                line.say("node", incarnation=incarnation)
            case events.Overdue() if event.seconds - event.timeout >= (orders.hang_timeout or math.inf):
                late = event.seconds - event.timeout
                line.say("stuck", actor=event.title, message=event.message_id, seconds=late, text=all_stacks())
            case _:
                pass
        sink(event)
        if isinstance(event, events.ChildExited) and event.exit.error is not None and interrupts(event.exit.error):
            # Nobody interrupts this process: a handler raises that, and will again wherever its message is handed to.
            # So it is not handed back; who dies with it in hand is counted.
            line.say("ended", failure=attrs.asdict(RemoteFailure.of(event.exit.error)))
            line.finish()
            os._exit(EXIT_FAILED)

    first, *others = orders.children  # A single supervisor is the root, and needs none above it.
    system: System | None = None
    try:
        async with (
            open_system(
                [first, *others] if others else first,
                broker=orders.broker,
                emit=emit,
                **attrs.asdict(orders.options, recurse=False),
            ) as system,
            trio.open_nursery() as nursery,
        ):
            line.serve(orders.beat, CommandHandler(system, line, nursery))
            nursery.start_soon(_tell, system, line, orders.beat, _last_resort(orders))
            line.say("started")
            await system.wait_stopped()
            line.say("look", tree=system.outline(), statistics=dict(system.statistics()))  # What it has counted last.
            nursery.cancel_scope.cancel()
    except BaseException as error:
        whole = only_leaf(error)
        if is_cancellation(whole):
            raise
        # What ends this system is told: whether it is the end of more, the supervisor over there decides.
        line.say("failed" if system is None else "ended", failure=attrs.asdict(RemoteFailure.of(whole)))
        return EXIT_FAILED
    line.say("ended", failure=None)
    return EXIT_FORCED if system.forced else 0


class CommandHandler:
    """Carries out what the parent says."""

    def __init__(self, system: System, line: ParentChannel, nursery: trio.Nursery) -> None:
        self._system = system
        self._line = line
        self._nursery = nursery
        self._is_draining = False

    def __call__(self, frame: Frame) -> None:
        within = float(frame.get("within") or 0.0)
        match frame.get("is"):
            case "drain":
                self._system.drain(within)
                if not self._is_draining:
                    self._is_draining = True
                    self._nursery.start_soon(self._report)
            case "hurry":
                self._system.hurry()
            case "stop":
                self._system.stop("its supervisor", within=within)
            case _:
                pass

    async def _report(self) -> None:
        await self._system.wait_drained()
        self._line.say("drained", forced=self._system.forced)


def _last_resort(orders: NodeConfig) -> float | None:
    """Return after how many seconds without a turn the stacks go to standard error: shortly before the kill."""
    if orders.hang_timeout is None or sys.stderr is None:  # pyright: ignore[reportUnnecessaryComparison]
        return None
    return orders.hang_timeout + min(ANSWER, orders.hang_timeout) / 2


async def _tell(system: System, line: ParentChannel, every: float, last_resort: float | None) -> None:
    """Say that the loop turns, and what there is to see."""
    while True:
        line.turned()
        if last_resort is not None:
            # It needs no lock of Python's: so it also speaks when a handler keeps that, and the line cannot.
            faulthandler.dump_traceback_later(last_resort)
        line.say_unless_behind("look", tree=system.outline(), statistics=dict(system.statistics()))
        await trio.sleep(every)
