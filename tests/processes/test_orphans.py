"""PID 1 of a container reaps orphans, and leaves other dead children alone."""

import subprocess
import sys
import textwrap

import pytest

from tests.patience import PATIENCE

PROGRAM = """
import ctypes, os, subprocess, sys, time
from pathlib import Path
import trio, trio.testing
from actorwork.runtime.orphans import EVERY, PATIENCE, reap_orphans

assert PATIENCE == 5 * EVERY

def state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"

def until(condition):
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)

async def let_pass(seconds):
    await trio.testing.wait_all_tasks_blocked()
    clock.jump(seconds)
    await trio.testing.wait_all_tasks_blocked()

async def main():
    # As PID 1 is to everybody in its container: the kernel gives it the orphans of those below it.
    assert ctypes.CDLL(None).prctl(36, 1) == 0
    python = [sys.executable, "-c"]
    forks = "import os, time\\nif os.fork() == 0:\\n print(os.getpid(), flush=True)\\n time.sleep(0.2)\\n os._exit(3)"
    orphan = int(subprocess.run([*python, forks], stdout=subprocess.PIPE, check=True).stdout)
    own = subprocess.Popen([*python, "raise SystemExit(5)"])
    until(lambda: (state(orphan), state(own.pid)) == ("Z", "Z"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reap_orphans)
        for _ in range(4):
            await let_pass(EVERY)
        print("both wait:", state(orphan), state(own.pid))
        print("the code of its own:", own.wait())
        await let_pass(EVERY)
        print("the orphan:", state(orphan))
        nursery.cancel_scope.cancel()

clock = trio.testing.MockClock()
trio.run(main, clock=clock)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are given to PID 1 in the way of Linux")
def test_an_orphan_is_reaped_and_an_own_child_keeps_its_exit_code():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.stdout.splitlines() == ["both wait: Z Z", "the code of its own: 5", "the orphan: gone"], done.stderr
