"""Examples as a user starts them: processes, asked by HTTP, on ports that the system chooses."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import httpx

from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]

T = TypeVar("T")


class Program:
    """A process, and what it has written to a file."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    def wrote(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def wait_for(self, text: str) -> re.Match[str]:
        """Wait until it has written something that a regular expression matches."""

        def find() -> re.Match[str] | None:
            found = re.search(text, self.wrote())
            if found is None and self.process.poll() is not None:
                raise AssertionError(f"the program ended ({self.process.returncode}):\n{self.wrote()}")
            return found

        return until(find, f"{text!r} in:\n{{}}", self.wrote)

    def kill(self) -> None:
        """End it as the kernel does for want of memory."""
        self.process.kill()
        self.process.wait()


@contextmanager
def running(log: Path, *command: str, env: Mapping[str, object]) -> Generator[Program]:
    """Run `python -m command` until the end of the block, where it has to stop cleanly by an interrupt."""
    # Else what a program prints to a file comes only when there is much of it.
    names = {"PYTHONUNBUFFERED": "1"} | {name: str(value) for name, value in env.items()}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=ROOT, stdout=output, stderr=output, env={**os.environ, **names}
        )
    program = Program(process, log)
    try:
        yield program
        if process.poll() is None:
            process.send_signal(2)
            assert process.wait(PATIENCE) == 0, program.wrote()
    finally:
        process.kill()
        process.wait()


@contextmanager
def api_of(program: Program) -> Generator[httpx.Client]:
    """Return a client of the API, once it serves."""
    program.wait_for("Application startup complete")
    url = program.wait_for(r"running on (http://[\d.:]+)")[1]
    with httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False) as client:
        yield client


def until(look: Callable[[], T | None], wanted: str, *shown: Callable[[], object]) -> T:
    """Look until something is there, and return it."""
    limit = time.monotonic() + PATIENCE
    while (found := look()) is None:
        if time.monotonic() > limit:
            raise AssertionError("waited in vain for " + wanted.format(*(one() for one in shown)))
        time.sleep(0.01)
    return found
