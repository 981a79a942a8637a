"""Starts programs without the cost of their imports.

    tests ──start──▶ one process that has imported everything ──fork──▶ a node of a drill
                                                              ──fork──▶ `python -m actorwork …`
                                                              ──fork──▶ a process of a tree

A new interpreter that imports the package costs 0.3 s of a core, and the tests start some five hundred programs. The
process that forks has one thread, has never run an event loop and holds no connection, so a child is as good as a new
interpreter: it returns from `serve`, runs its program, and ends as any program does, but for the destruction of what
it has imported. What a signal does before the imports are done cannot be seen this way; tests of that start an
interpreter of their own.

A child becomes a child of the tests: the fork between it and the server ends at once, and while it does so the tests
adopt what it leaves. So `subprocess.Popen` and multiprocessing wait for it, and signal it, as for any other.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import importlib.util
import json
import multiprocessing.process
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from fcntl import F_DUPFD, fcntl
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, AnyStr, Final

from actorwork import failpoints

ROOT = Path(__file__).parents[1]
MESSAGE: Final = 1 << 18
"""Bytes of a request at most: more than any environment has."""
MOST_FILES: Final = 32
FREE_NUMBERS: Final = 500
"""Descriptors from here on are those of no program."""
ADOPT: Final = 36
"""PR_SET_CHILD_SUBREAPER of `prctl`."""
ALL_POINTS = ",".join(f"{point}:{10**9}" for point in sorted(failpoints.POINTS))
"""A module asks for its failpoints when it is imported, but a child knows only later which of them are set."""
SELDOM: Final = ("actorwork.__main__", *(f"actorwork.{name}" for name in ("bridges", "integrations", "testing", "web")))
"""What few programs import: half of the time and the memory of all there is."""
HAS_FORKS: Final = sys.platform == "linux"


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _adopt(*, orphans: bool) -> None:
    """Become the parent of processes below that lose theirs, or be so no longer."""
    if _libc().prctl(ADOPT, int(orphans), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


class ForkServer:
    """The process that forks, seen from the tests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                env={**os.environ, "PYTHONPATH": str(ROOT), failpoints.VARIABLE: ALL_POINTS},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def fork(
        self,
        program: Sequence[str],
        *,
        files: Mapping[int, int],
        environment: Mapping[str, str],
        folder: str | None = None,
        has_session: bool = False,
    ) -> int:
        """Run a program in a new process, and return its id.

        `program` is what follows `python`: a file, or `-m` and a module, or `-c` and a text, each with its arguments;
        or it is `call`, a module whose `main` is to be called, and its arguments. `files` has descriptors here by their
        numbers there; there are no others.
        """
        request = {
            "program": [*program],
            "numbers": [*files],
            "environment": {**environment},
            "folder": folder or str(Path.cwd()),
            "has_session": has_session,
            "blocked": [*map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))],
        }
        with self._lock:
            _adopt(orphans=True)
            try:
                socket.send_fds(self._socket, [json.dumps(request).encode()], [*files.values()])
                reply = self._socket.recv(MESSAGE)
            finally:
                _adopt(orphans=False)
        assert reply, f"the fork server has ended: {self._process.poll()}"
        return int(reply)

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


_shared: list[ForkServer] = []


def shared() -> ForkServer:
    """Return the server of this process of tests, started when the first test needs it."""
    if not _shared:
        _shared.append(ForkServer())
    return _shared[0]


def close_shared() -> None:
    while _shared:
        _shared.pop().close()


class ForkedPopen(subprocess.Popen[AnyStr]):
    """`subprocess.Popen` of a Python program, which is forked: `[sys.executable, …]` without flags.

    The first argument may also be `call`: see `ForkServer.fork`.
    """

    def _execute_child(  # It replaces what forks and executes, and leaves the pipes to the class above.
        self, args: Any, executable: Any, preexec_fn: Any, close_fds: Any, pass_fds: Any, cwd: Any, env: Any,
        startupinfo: Any, creationflags: Any, shell: Any, p2cread: int, p2cwrite: int, c2pread: int, c2pwrite: int,
        errread: int, errwrite: int, restore_signals: Any, gid: Any, gids: Any, uid: Any, umask: Any,
        start_new_session: bool, *more: Any,
    ) -> None:  # fmt: skip
        if not HAS_FORKS:
            execute: Any = getattr(super(), "_execute_child")  # noqa: B009 - (as below)
            execute(
                args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell, p2cread,
                p2cwrite, c2pread, c2pwrite, errread, errwrite, restore_signals, gid, gids, uid, umask,
                start_new_session, *more,
            )  # fmt: skip
            return
        program: list[str] = [os.fspath(one) for one in args]
        files = {number: number if fd == -1 else fd for number, fd in enumerate((p2cread, c2pwrite, errwrite))}
        try:
            self.pid = shared().fork(
                program[1:] if program[0] == sys.executable else program,
                files=files,
                environment=os.environ if env is None else env,
                folder=None if cwd is None else str(cwd),
                has_session=start_new_session,
            )
            self._child_created = True
        finally:
            close: Any = getattr(self, "_close_pipe_fds")  # noqa: B009 - a private part of the class above
            close(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)


def run_forked(
    arguments: Sequence[str], *, timeout: float, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a Python program as `subprocess.run` does, and capture what it prints."""
    command = [sys.executable, *arguments]
    start: Any = ForkedPopen
    process: subprocess.Popen[str] = start(
        command, cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def spawn_by_fork(path: Any, arguments: Sequence[Any], fds: Sequence[int]) -> int:
    """Do what multiprocessing's `spawnv_passfds` does, for its processes."""
    named = [os.fsdecode(one) for one in arguments]
    if not any("spawn_main(" in one for one in named):
        return spawn(path, arguments, fds)  # The process that tracks resources.
    return shared().fork(
        named[named.index("-c") :], files={fd: fd for fd in sorted({0, 1, 2, *fds})}, environment=os.environ
    )


spawn: Any = importlib.import_module("multiprocessing.util").spawnv_passfds


# ---------------------------------------------------------------------------------------------------------- the server


def import_everything() -> None:
    package = importlib.import_module("actorwork")
    for module in pkgutil.walk_packages(package.__path__, "actorwork."):
        if not module.name.startswith(SELDOM):
            importlib.import_module(module.name)
    importlib.import_module("trio_util")  # The package imports it when a node starts.
    importlib.import_module("multiprocessing.spawn")
    importlib.import_module("actorwork.testing.conformance.fake_consumer")
    for program in ("drills.workers", "drills.poisoned"):
        importlib.import_module(f"tests.{program}")
    gc.collect()
    gc.freeze()


def set_failpoints(text: str) -> None:
    """Set failpoints of modules that are imported already: `ALL_POINTS` gave them ones that are never reached."""
    for name, wanted in failpoints.parse(text).items():
        point = failpoints._SET[name]
        point.left, point.signal = wanted.left, wanted.signal


def serve(requests: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Fork for each request. Returns the request in each child, and None once the tests have ended."""
    while True:
        message, files, _, _ = socket.recv_fds(requests, MESSAGE, MOST_FILES)
        if not message:
            return None
        read, write = os.pipe()
        between = os.fork()
        if between == 0:
            child = os.fork()
            if child == 0:
                os.close(read)
                os.close(write)
                return json.loads(message), files
            os.write(write, str(child).encode())
            os._exit(0)
        os.close(write)
        child_id = os.read(read, 32)
        os.close(read)
        os.waitpid(between, 0)  # From its end on the child is one of the tests.
        for file in files:
            os.close(file)
        requests.sendall(child_id)


def paths_of_interpreter() -> list[str]:
    """Return what `sys.path` has in a new interpreter, which may find the package in the environment, or not."""
    told = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.path[1:], sep='\\n')"],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return told.stdout.splitlines()


def become(request: Mapping[str, Any], files: Sequence[int], paths: Sequence[str]) -> None:
    """Have the files, the folder and the environment of a program that has just been started."""
    apart = [fcntl(file, F_DUPFD, FREE_NUMBERS) for file in files]
    for file in files:
        os.close(file)
    for file, number in zip(apart, request["numbers"], strict=True):
        os.dup2(file, number, inheritable=True)
        os.close(file)
    if request["has_session"]:
        os.setsid()
    os.chdir(request["folder"])
    multiprocessing.process.__dict__["ORIGINAL_DIR"] = request["folder"]
    environment: dict[str, str] = request["environment"]
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    set_failpoints(environment.get(failpoints.VARIABLE, ""))
    is_unbuffered = bool(environment.get("PYTHONUNBUFFERED"))
    sys.stdout.reconfigure(write_through=is_unbuffered)  # type: ignore[union-attr]
    named = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [*named, *(path for path in paths if path not in named)]
    signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked"])


def run(program: Sequence[str]) -> None:
    """Run a program as `python` does."""
    first, *rest = program
    if first == "call":
        module, *arguments = rest
        sys.argv = [module, *arguments]
        importlib.import_module(module).main(*arguments)
        return
    main = ModuleType("__main__")
    main.__dict__["__builtins__"] = __builtins__
    if first == "-m":
        sys.path.insert(0, str(Path.cwd()))
        spec = importlib.util.find_spec(rest[0])
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{rest[0]}.__main__")
        assert spec is not None, f"no module named {rest[0]}"
        assert spec.origin is not None
        loader: Any = spec.loader
        code = loader.get_code(spec.name)
        main.__spec__, main.__file__, main.__package__, main.__loader__ = spec, spec.origin, spec.parent, loader
        sys.argv = [spec.origin, *rest[1:]]
    elif first == "-c":
        sys.path.insert(0, "")
        code = compile(rest[0], "<string>", "exec")
        sys.argv = ["-c", *rest[1:]]
    else:
        assert not first.startswith("-"), f"a flag of Python: {first}"
        sys.path.insert(0, str(Path(first).absolute().parent))
        code = compile(Path(first).read_bytes(), first, "exec")
        main.__file__ = first
        sys.argv = [first, *rest]
    sys.modules["__main__"] = main
    exec(code, main.__dict__)


_code: list[int] = []
"""The exit code of a program that has come to its end."""


def end() -> None:
    """End at once, when all threads and what is registered with `atexit` have.

    To take all modules apart touches all their memory, of which a fork has none of its own before: 50 ms of a core.
    """
    if _code:
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, OSError, ValueError):  # The program has closed it, or nobody reads it.
                stream.flush()
        os._exit(_code[0] & 0xFF)


def main(number: int) -> None:
    atexit.register(end)  # The first that is registered is the last that is called.
    import_everything()
    paths = paths_of_interpreter()
    with socket.socket(fileno=number) as requests:
        found = serve(requests)
    if found is None:
        return
    try:
        become(*found, paths)
        run(found[0]["program"])
    except SystemExit as error:
        _code.append(error.code if isinstance(error.code, int) else int(error.code is not None))
        raise
    except Exception:
        _code.append(1)
        raise
    _code.append(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
