"""Starts the programs of the drills without the cost of their imports.

    drills ──start, poll──▶ one process that has imported everything ──fork──▶ a node
                                                                     ──fork──▶ a producer

A new interpreter costs 0.4 s of a core, and the drills start some three hundred programs. The process that forks has
one thread, has never run an event loop and holds no connection, so a child is as good as a new interpreter: it returns
from `serve`, runs its program, and ends as any program does. What a signal does before the imports are done cannot be
seen this way; drills of that start an interpreter of their own (`Drill.start(…, fresh=True)`).

The server reaps a child only when it is asked for the exit code. Until then the kernel does not reuse the process id,
so a signal cannot reach another process.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from actorwork import failpoints

ROOT = Path(__file__).parents[2]
MESSAGE = 1 << 18
"""Bytes of a request at most: more than any environment has."""
ALL_POINTS = ",".join(f"{point}:{10**9}" for point in sorted(failpoints.POINTS))
"""A module asks for its failpoints when it is imported, but a child knows only later which of them are set."""


class Process(Protocol):
    """What drills use of a process, forked or not."""

    pid: int

    @property
    def returncode(self) -> int | Any: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, sig: int, /) -> None: ...

    def kill(self) -> None: ...


class ForkedProcess:
    """A child of the fork server, with the methods of `subprocess.Popen` that drills use."""

    def __init__(self, server: ForkServer, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._server = server

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._server.ask(poll=self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        limit = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if limit is not None and time.monotonic() > limit:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            time.sleep(0.001)
        return code

    def send_signal(self, sig: int, /) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkServer:
    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                env={**os.environ, "PYTHONPATH": str(ROOT), failpoints.VARIABLE: ALL_POINTS},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def start(self, module: str, arguments: list[str], environment: Mapping[str, str], log: Path) -> ForkedProcess:
        """Run `module.main(*arguments)` in a new process, its standard error going to `log`."""
        pid = self.ask(module=module, arguments=arguments, environment=dict(environment), log=str(log))
        assert pid is not None
        return ForkedProcess(self, pid)

    def ask(self, **request: Any) -> int | None:
        self._socket.sendall(json.dumps(request).encode())
        reply = self._socket.recv(MESSAGE)
        assert reply, f"the fork server has ended: {self._process.poll()}"
        number: int | None = json.loads(reply)
        return number

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


# ---------------------------------------------------------------------------------------------------------- the server


def import_everything() -> None:
    package = importlib.import_module("actorwork")
    for module in pkgutil.walk_packages(package.__path__, "actorwork."):
        if not module.name.startswith(("actorwork.__main__", "actorwork.cli", "actorwork.testing")):
            importlib.import_module(module.name)
    importlib.import_module("trio_util")  # The package imports it when a node starts.
    for program in ("workers", "poisoned"):
        importlib.import_module(f"tests.drills.{program}")
    gc.collect()
    gc.freeze()


def set_failpoints(text: str) -> None:
    """Set failpoints of modules that are imported already: `ALL_POINTS` gave them ones that are never reached."""
    for name, wanted in failpoints.parse(text).items():
        point = failpoints._SET[name]
        point.left, point.signal = wanted.left, wanted.signal


def serve(requests: socket.socket) -> dict[str, Any] | None:
    """Fork for each request. Returns the request in each child, and None once the tests have ended."""
    while message := requests.recv(MESSAGE):
        request = json.loads(message)
        reply: int | None
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            reply = os.waitstatus_to_exitcode(status) if pid else None
        else:
            reply = os.fork()
            if reply == 0:
                return request
        requests.sendall(json.dumps(reply).encode())
    return None


def main(number: int) -> None:
    import_everything()
    with socket.socket(fileno=number) as requests:
        request = serve(requests)
    if request is None:
        return
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, sys.stderr.fileno())
    os.close(log)
    os.environ.clear()
    os.environ.update(request["environment"])
    set_failpoints(os.environ.get(failpoints.VARIABLE, ""))
    importlib.import_module(request["module"]).main(*request["arguments"])


if __name__ == "__main__":
    main(int(sys.argv[1]))
