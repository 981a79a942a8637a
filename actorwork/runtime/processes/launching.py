"""OS processes: how one is started, and how its end is seen.

    spawn        a fresh interpreter, which imports all modules anew
    forkserver   a fork of a process that has imported them already: faster, and the memory is shared

Both are multiprocessing's, so classes of `__main__` are found. A process gets its end of a control socket; its
configuration comes there, as bytes, so that an error in unpickling it can be reported.

From its first moment a process must not die of a signal to the whole process group: only the root process acts on
those. So it starts with these signals blocked, and unblocks them when it has handlers that do nothing. (Handlers, since
the programs that it starts would inherit SIG_IGN.)

The kernel reports an end (by a pidfd, elsewhere by the end of a pipe); no timeout guesses it.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import signal
import socket
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import forkserver, resource_tracker
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from actorwork.errors import ProcessLost, SettingsError, StartError
from actorwork.runtime.processes import child_node
from actorwork.runtime.processes.config import NOT_OURS

if TYPE_CHECKING:
    from actorwork.actors.tree.spec import Process, StartMethod

_BROKERS: Final = ("actorwork.streams.broker", "actorwork.embedded.broker")
_PORTION: Final = 65536
_EXIT_CODE: Final = 1.0
"""Seconds for the exit code of a process that has ended: a forkserver sends it a moment later."""


def refuse_what_cannot_travel(spec: Process, options: object) -> None:
    """Raise `SettingsError` for a child that cannot be pickled, and so cannot be made in another process.

    Also for a main module that starts its tree while a process of that tree imports it: each would start the next one.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SettingsError(
            "the main module starts a tree with processes while such a process imports it;"
            ' start it below `if __name__ == "__main__":`'
        )
    where = _main_that_is_no_module()
    for what, name in (*((child, repr(child.title)) for child in spec.children), (options, "an option of the system")):
        pickler = _NameFinder(io.BytesIO(), pickle.HIGHEST_PROTOCOL)
        try:
            pickler.dump(what)
        except (pickle.PicklingError, TypeError, AttributeError, ValueError) as error:
            raise SettingsError(
                f"{name} cannot be sent to the process {spec.title!r} ({error}); it is pickled on its way:"
                " use classes and functions at the top level of a module, arguments that can be pickled, and open"
                " connections and the like in startup()"
            ) from error
        if pickler.of_main and where:
            raise SettingsError(
                f"{pickler.of_main[0]!r} is defined in {where}, so the process {spec.title!r} cannot import it:"
                " write it into a module, and import it from there"
            )


class _NameFinder(ForkingPickler):
    """Pickles, and finds the classes and functions of the main module: they are pickled by their names."""

    def __init__(self, file: io.BytesIO, protocol: int) -> None:
        super().__init__(file, protocol)
        self.of_main: list[str] = []

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, (type, FunctionType)) and obj.__module__ == "__main__":
            self.of_main.append(obj.__qualname__)
        return NotImplemented


def _main_that_is_no_module() -> str:
    """Return what the main module is if a process cannot import it, by what multiprocessing goes by; "" if it can."""
    main = sys.modules["__main__"]
    name = getattr(getattr(main, "__spec__", None), "name", None)
    if name:  # python -m, or the path of a directory or an archive
        return "a __main__.py, which runs and is not imported" if name.rpartition(".")[2] == "__main__" else ""
    file = getattr(main, "__file__", None)
    if file is not None and Path(file).exists():
        return ""
    return "a session that is no file (a REPL, a notebook, standard input)"


@attrs.frozen
class ProcessExit:
    """How a process ended: its exit code; negative for a signal, None if other code in this program has read it."""

    pid: int
    code: int | None

    def __str__(self) -> str:
        match self.code:
            case None:
                return f"process {self.pid} ended; other code in this program has read its exit code"
            case code if code < 0:
                name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
                hint = " (not by its parent: an operator, or the kernel for want of memory)"
                return f"process {self.pid} was killed by {name}{hint if name == 'SIGKILL' else ''}"
            case 0:
                return f"process {self.pid} ended with exit code 0, in the middle of its work"
            case code:
                return f"process {self.pid} ended with exit code {code}"

    def error(self, why: str = "", *, had_suspects: bool = False) -> ProcessLost:
        return ProcessLost(why or str(self), pid=self.pid, code=self.code, had_suspects=had_suspects, killed_for=why)


class ProcessHandle:
    """An OS process, and this side's end of its control socket."""

    def __init__(self, process: Any, control: socket.socket, *, is_child: bool) -> None:
        self._control = control
        self._process = process
        self._is_child = is_child
        self.pid: int = process.pid
        self._ended: ProcessExit | None = None
        self._pidfd = -1
        if hasattr(os, "pidfd_open"):
            with suppress(OSError):  # This kernel has none, or the process is gone already: then the pipe is used.
                self._pidfd = os.pidfd_open(self.pid)

    def __repr__(self) -> str:
        return f"<process {self.pid}{'' if self._ended is None else ', ended'}>"

    async def wait_ended(self) -> ProcessExit:
        """Wait for its end. Cancelled: the process is left as it is."""
        while self._ended is None:
            # A forkserver's children are not this process's own: their exit codes come through the pipe alone.
            of_pipe = self._pidfd < 0 or not self._is_child
            await trio.lowlevel.wait_readable(self._process.sentinel if of_pipe else self._pidfd)
            code = self._process.exitcode
            with trio.move_on_after(_EXIT_CODE, shield=True):
                while code is None:
                    await trio.sleep(0.005)  # The code comes a moment after the end, and there is nothing to wait for.
                    code = self._process.exitcode
            self._ended = self._ended or ProcessExit(self.pid, code)
        return self._ended

    def kill(self) -> None:
        """Kill it. Never waits."""
        if self._ended is not None:
            return
        try:
            if self._pidfd >= 0:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)  # Cannot hit a new process with the same pid.
            else:
                os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # It has just ended.

    async def send_all(self, data: bytes) -> None:
        """Send more than a frame, and wait until the socket has taken it. Cancelled: it has taken a part."""
        rest = memoryview(data)
        while rest:
            await trio.lowlevel.wait_writable(self._control)
            try:
                rest = rest[self._control.send(rest) :]
            except BlockingIOError:
                pass
            except OSError:
                return  # The process has ended, which `wait_ended` reports.

    def send(self, frame: bytes) -> None:
        """Send a frame. Never waits: a full socket drops it."""
        # Its reader is a thread that nothing but a held lock stops. A process that reads no commands is killed in the
        # end, by the hang timeout or at the end of its time to stop.
        with suppress(OSError):
            self._control.send(frame)

    async def receive(self) -> bytes:
        """Return the next bytes from it; none once it has closed its end."""
        await trio.lowlevel.wait_readable(self._control)
        return self.receive_nowait()

    def receive_nowait(self) -> bytes:
        """Return the bytes that have arrived."""
        try:
            return self._control.recv(_PORTION)
        except OSError:
            return b""

    def close(self) -> None:
        """Close the socket and the pidfd."""
        self._control.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        with suppress(ValueError):  # It still runs: multiprocessing keeps its pipe until it has ended.
            self._process.close()


async def launch(start_method: StartMethod, name: str, *, preload: Sequence[str]) -> ProcessHandle:
    """Start a process, which waits for its configuration; `preload` are modules that a forkserver is to import.

    Cancelled: it is not started, or it ends since its control socket is closed.
    """
    context: Any = multiprocessing.get_context(start_method)
    ours, theirs = socket.socketpair()
    ours.settimeout(0)
    try:
        process = context.Process(target=child_node.main, args=(theirs,), name=name, daemon=False)
        if start_method == "spawn":
            # In this thread and not a worker thread: the kernel ends the child with the thread that started it.
            _start(process)
        else:
            # What the server has imported, its forks need not: without `preload`, which names the module of the system,
            # each process would import nearly the whole package anew.
            used = [module for module in _BROKERS if module in sys.modules]
            context.set_forkserver_preload(["__main__", child_node.__name__, *preload, *used])
            # In a thread, since the server may have to start first, and import all that.
            await trio.to_thread.run_sync(partial(_start, process, forkserver.ensure_running))
    except EOFError as error:
        ours.close()
        raise StartError(
            "the forkserver has ended; standard error has the import that failed", child_id=name
        ) from error
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return ProcessHandle(process, ours, is_child=start_method == "spawn")


def _start(process: Any, prepare: Callable[[], None] | None = None) -> None:
    """Start a process that has the signals blocked which only the root process acts on: it inherits the mask."""
    resource_tracker.ensure_running()  # Before they are blocked, since it unblocks them when it starts.
    with _blocked(), _only_streams_that_can_be_flushed():
        if prepare is not None:
            prepare()
        process.start()


@contextmanager
def _only_streams_that_can_be_flushed() -> Generator[None]:
    """Hide a standard stream whose reader has gone: multiprocessing flushes them first, and would fail."""
    hidden: dict[str, object] = {}
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            hidden[name] = stream
            setattr(sys, name, None)
    try:
        yield
    finally:
        for name, stream in hidden.items():
            setattr(sys, name, stream)


@contextmanager
def _blocked() -> Generator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, NOT_OURS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
