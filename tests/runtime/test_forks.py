"""A fork of a program that runs actors is no second node, and its messages are its own."""

import os
import subprocess
import sys
from pathlib import Path

from actorwork.message import MessageIds
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]

PROGRAM = """
import os, sys, trio
from actorwork import *

class Forking(Actor):
    settings = Settings(title="forking")

    @receive
    async def fork(self, *, ends: bool) -> int:
        child = os.fork()
        if child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if ends:
            os._exit(7)
        await trio.lowlevel.checkpoint()
        print("it runs on", flush=True)
        os._exit(8)

async def main():
    async with open_system(Forking, broker=":memory:") as system, open_client(system.broker) as client:
        for ends in (True, False):
            print(await client.ref(Forking).ask({"ends": ends}), flush=True)
        print(await system.ref(Forking).ask({"ends": False}), flush=True)

trio.run(main)
"""


def test_a_forked_child_that_returns_into_the_loop_ends_and_one_that_ends_by_itself_does_so():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n") == ["7", "1", "1", ""]
    assert done.stderr.count("returned into its event loop: it ends now") == 2


def test_ids_made_after_a_fork_differ_from_those_of_the_parent():
    ids = MessageIds("0" * 16)
    assert next(ids) == f"{'0' * 16}-0"
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(write, next(ids).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(read, 100).decode()
    for end in (read, write):
        os.close(end)
    publisher, _, number = theirs.partition("-")
    assert len(publisher) == 16
    assert publisher != "0" * 16
    assert number == "0"
    assert next(ids) == f"{'0' * 16}-1"
