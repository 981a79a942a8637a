"""One timed run of one case of one peer, on a fresh Redis, with a fresh recorder file.

The runner starts the peer's worker as its own process group, sends through `client.py` in the peer's environment, and
watches the recorder. Leaving the block ends everything that the trial started.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.benchkit import procfs
from benchmarks.benchkit.recorder import Recorder
from benchmarks.benchkit.registry import JOBS, LIMIT, PEERS
from benchmarks.benchkit.server import RedisServer

CHECKOUT = Path(__file__).resolve().parents[2]


class MissingPeerError(Exception):
    """The environment of a peer, or the peer in it, is not installed."""


@dataclass(frozen=True)
class Options:
    """What the command line says about every trial."""

    redis: str
    port: int = 6399
    jobs: int = 0
    concurrency: int = 0
    pythons: dict[str, str] = field(default_factory=lambda: {"project": sys.executable})
    wrap: tuple[str, ...] = ()
    """Words put before the worker's command, such as a profiler's."""
    force: bool = False


class Trial:
    """Everything a case needs: the peer's description, its workers, its client, the server, the recorder."""

    recorder: Recorder
    redis: RedisServer

    def __init__(self, options: Options, variant: str, case: str) -> None:
        self.options, self.variant, self.case = options, variant, case
        self.module, environment = PEERS[variant]
        if environment not in options.pythons:
            raise MissingPeerError(f"{variant} needs the environment {environment!r}: --python {environment}=PATH")
        self.python = options.pythons[environment]
        scratch = Path(tempfile.gettempdir())
        self.recorder_path = scratch / f"bench-{os.getpid()}.rec"
        self.log_path = scratch / f"bench-worker-{variant}.log"
        search = [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environment = os.environ | {
            "BENCH_PORT": str(options.port),
            "BENCH_PEER": variant,
            "BENCH_CASE": case,
            "BENCH_PROCS": "2" if case == "drain2" else "1",
            "BENCH_CONC": str(options.concurrency),
            "BENCH_REC": str(self.recorder_path),
            "PYTHONPATH": os.pathsep.join(search),
            "PYTHONDONTWRITEBYTECODE": "",
        }
        self.workers: list[subprocess.Popen[bytes]] = []
        self.description = self.client("describe")
        self.n: int = options.jobs or self.description["n"].get(case) or JOBS[case]

    @property
    def conc(self) -> int:
        return self.description["conc"]

    def __enter__(self) -> Self:
        self.recorder = Recorder(self.recorder_path, create=self.n + 8)
        self.redis = RedisServer(self.options.port, self.options.redis)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.workers:
            self.end_workers()
        self.redis.close()
        self.recorder_path.unlink()

    def client(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """Run one operation of the peer's client to its end, in a process of its own."""
        command = [self.python, "-m", "benchmarks.benchkit.client", self.module, operation, json.dumps(arguments)]
        ended = subprocess.run(
            command,
            cwd=CHECKOUT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=LIMIT[self.case],
            check=False,
        )
        if ended.returncode:
            kind = (
                MissingPeerError if operation == "describe" and "ModuleNotFoundError" in ended.stderr else RuntimeError
            )
            raise kind(f"client {operation}: {ended.stderr.strip()[-1400:]}")
        return json.loads(ended.stdout.strip().splitlines()[-1])

    def start_workers(self) -> float:
        """Start them and return the moment they were started at."""
        with self.log_path.open("ab") as log:
            begin = time.time()
            self.workers = [
                subprocess.Popen(
                    [*self.options.wrap, *command],
                    cwd=CHECKOUT,
                    env=self.environment | self.description.get("env", {}),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
                for command in self.description["cmds"]
            ]
        return begin

    def worker_pids(self) -> list[int]:
        return [worker.pid for worker in self.workers]

    def end_workers(self, signum: signal.Signals = signal.SIGTERM, patience: float = 5) -> None:
        """Send a signal, SIGKILL to the whole tree and others to its roots; kill whatever of our own tree is left."""
        roots = self.worker_pids()
        pids = procfs.tree(roots)
        for pid in pids if signum == signal.SIGKILL else roots:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)
        deadline = time.time() + patience
        for worker in self.workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.wait(max(0.1, deadline - time.time()))
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for worker in self.workers:
            worker.wait(5)
        self.workers = []

    def undone(self, low: int = 0, high: int | None = None) -> int:
        return bytes(self.recorder.done[low : self.n if high is None else high]).count(0)

    def wait_done(self, low: int, high: int, limit: float) -> bool:
        deadline = time.time() + limit
        while time.time() < deadline:
            if not self.undone(low, high):
                return True
            if all(worker.poll() is not None for worker in self.workers):
                raise RuntimeError(f"the worker ended early: see {self.log_path}")
            time.sleep(0.01)
        return False

    def warm_up(self) -> None:
        """Start a worker, let it handle one job (in the slot behind the last), and give it half a second of rest."""
        self.start_workers()
        self.client("enqueue", n=1, start=self.n)
        if not self.wait_done(self.n, self.n + 1, 30):
            raise RuntimeError("the worker did not handle the warm-up job in 30 s")
        time.sleep(0.5)
