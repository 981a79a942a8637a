"""Compiles a generated test, and runs it with pytest: in a process of its own, with limits, in an empty directory.

This contains accidents (loops, memory, files that grow), not malice: a test may do what the user may do. Give untrusted
packages a container.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

import trio

from .generation import Candidate

LIMITED: Final = Path(__file__).with_name("limited.py")
OPTIONS: Final = ("-q", "--no-header", "--tb=line", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir=.")
TIME_IS_UP: Final = {signal.SIGXCPU, signal.SIGALRM}

Judgement: TypeAlias = Literal["passed", "failed", "too slow", "crashed"]


@dataclass(frozen=True)
class Verdict:
    """What became of a generated test; `detail` is the last line that pytest printed, `worker` who ran it."""

    name: str
    judgement: Judgement
    seconds: float = 0.0
    detail: str = ""
    worker: int = 0


async def judge(candidate: Candidate, *, seconds: float, memory: int) -> Verdict:
    """Run a test. If cancelled, its process and all that it has started are killed."""
    began = time.perf_counter()
    try:
        compile(candidate.source, candidate.name, "exec")
    except (SyntaxError, ValueError) as error:
        return Verdict(candidate.name, "failed", detail=str(error), worker=os.getpid())
    with tempfile.TemporaryDirectory(prefix="testgen-") as directory:
        file = Path(directory) / f"{candidate.name[:100]}.py"
        file.write_text(candidate.source, encoding="utf-8")
        command = [sys.executable, str(LIMITED), str(seconds), str(memory), *OPTIONS, file.name]
        ended = await trio.run_process(
            command,
            cwd=directory,
            env={**os.environ, "HOME": directory, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            check=False,
            start_new_session=True,
            deliver_cancel=_kill,
        )
    judgement: Judgement = "passed" if ended.returncode == 0 else "failed"
    if ended.returncode < 0:
        judgement = "too slow" if -ended.returncode in TIME_IS_UP else "crashed"
    lines = ended.stdout.decode(errors="replace").strip().splitlines() or [""]
    return Verdict(candidate.name, judgement, time.perf_counter() - began, lines[-1][:300], os.getpid())


async def _kill(process: trio.Process) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
