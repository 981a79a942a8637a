"""PID 1 of a container reaps orphans, and leaves other dead children alone."""

import subprocess
import sys
import textwrap

import pytest

PROGRAM = """
import ctypes, os, subprocess, sys, time
from pathlib import Path
import trio
from actorwork.runtime.orphans import reap_orphans

def state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"

async def until(condition):
    with trio.fail_after(20):
        while not condition():
            await trio.sleep(0.01)

async def main():
    # As PID 1 is to everybody in its container: the kernel gives it the orphans of those below it.
    assert ctypes.CDLL(None).prctl(36, 1) == 0
    python = [sys.executable, "-c"]
    forks = "import os, time\\nif os.fork() == 0:\\n print(os.getpid(), flush=True)\\n time.sleep(0.2)\\n os._exit(3)"
    orphan = int((await trio.run_process([*python, forks], capture_stdout=True)).stdout)
    own = subprocess.Popen([*python, "raise SystemExit(5)"])
    await until(lambda: (state(orphan), state(own.pid)) == ("Z", "Z"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reap_orphans, 1.0, 0.05)
        await trio.sleep(0.3)
        print("both wait:", state(orphan), state(own.pid))
        print("the code of its own:", own.wait())
        await until(lambda: state(orphan) == "gone")
        print("the orphan:", state(orphan))
        nursery.cancel_scope.cancel()

trio.run(main)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are given to PID 1 in the way of Linux")
def test_an_orphan_is_reaped_and_an_own_child_keeps_its_exit_code():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout.splitlines() == ["both wait: Z Z", "the code of its own: 5", "the orphan: gone"], done.stderr
