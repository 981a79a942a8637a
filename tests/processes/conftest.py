"""Fixtures for tests with processes: a broker that all of them reach, and what the actors wrote."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from tests.fork_server import ForkedPopen
from tests.patience import PATIENCE

from . import workers

ROOT = Path(__file__).parents[2]
WORKERS = Path(__file__).parent / "workers.py"


async def until(condition: Callable[[], object], what: str) -> None:
    """Poll until a condition holds: other processes set no events of this one."""
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit, f"waited {PATIENCE:g} s for {what}"
        await trio.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


class Said:
    """The lines that the actors have written, in all processes."""

    def __init__(self, file: Path) -> None:
        self.file = file

    @property
    def lines(self) -> list[tuple[int, str]]:
        text = self.file.read_text() if self.file.exists() else ""
        return [(int(line.partition(" ")[0]), line.partition(" ")[2]) for line in text.splitlines()]

    def pids(self, text: str) -> list[int]:
        """Return the pids that wrote a text, in order."""
        return [pid for pid, said in self.lines if said == text]

    async def wait(self, text: str, times: int = 1) -> list[int]:
        await until(lambda: len(self.pids(text)) >= times, f"{text!r} {times} times; said: {self.lines}")
        return self.pids(text)


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Said:
    file = tmp_path / "said.txt"
    monkeypatch.setenv("WORKERS_LEDGER", str(file))
    monkeypatch.setattr(workers, "LEDGER", str(file))
    return Said(file)


@pytest.fixture(params=["embedded", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "redis":
        return request.getfixturevalue("redis_url")
    return f"sqlite:///{tmp_path / 'messages.sqlite3'}"


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    """A broker for tests that are not about brokers."""
    return f"sqlite:///{tmp_path / 'messages.sqlite3'}"


class Program:
    """A program in a process group of its own: the workers, or another one."""

    def __init__(
        self, log: Path, *arguments: str, program: Path = WORKERS, environment: Mapping[str, str] = os.environ
    ) -> None:
        self.log = log
        with log.open("wb") as output:
            self.process: subprocess.Popen[bytes] = ForkedPopen(
                [sys.executable, str(program), *arguments],
                stdout=output,
                stderr=output,
                env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
                start_new_session=True,
            )

    def signal(self, number: signal.Signals, *, group: bool = False) -> None:
        if group:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    async def wait_nodes(self, count: int) -> None:
        """Wait until `count` nodes are up; the root comes last, and then everything has started."""

        def are_up() -> bool:
            assert self.process.poll() is None, f"it has ended: {self.output}"
            return self.output.count(" is up at ") >= count

        await until(are_up, f"{count} nodes")

    async def end(self) -> int:
        """Wait for its end, and return the exit code."""
        await until(lambda: self.process.poll() is not None, f"its end; it said {self.output}")
        return self.process.returncode

    @property
    def output(self) -> str:
        return self.log.read_text()

    def clear(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def start(tmp_path: Path, said: Said) -> Generator[Callable[..., Program]]:
    programs: list[Program] = []

    def start(*arguments: str) -> Program:
        programs.append(Program(tmp_path / f"log {len(programs)}", *arguments))
        return programs[-1]

    yield start
    for program in programs:
        program.clear()
