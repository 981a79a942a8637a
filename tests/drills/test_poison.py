"""Messages that crash their process, and processes that are killed while idle."""

import json
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from tests.forms import AT_A_FILE, AT_REDIS

from . import poisoned
from .conftest import Drill, Node, Place, Redis, open_place, until

POISONS = {
    "exits": "os._exit(1)",
    "exits well": "os._exit(0), which looks like a clean end",
    "is killed": "SIGKILL, as by the kernel when memory runs out",
    "breaks": "a segmentation fault",
}
BYSTANDERS = range(100, 160)
LEASE = 60.0
"""No drill waits for it to expire: the parent releases the lease of a child that it saw die."""
PATIENCE = 100.0
"""Seconds for the starts of several processes on a busy machine."""


async def start(drill: Drill, url: str) -> Node:
    node = drill.start("replicas", url, program=poisoned, lease=LEASE)
    await node.wait_line("is up: process", count=2, within=PATIENCE)
    return node


def children_of(node: Node) -> list[int]:
    """Return the running child processes of a node that are nodes themselves."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # It has just ended.
            state, parent = (path / "stat").read_text().rpartition(") ")[2].split()[:2]
            is_node = b"resource_tracker" not in (path / "cmdline").read_bytes()
            if int(parent) == node.pid and state != "Z" and is_node:
                found.append(int(path.name))
    return sorted(found)


async def send(place: Place, messages: dict[int, str]) -> None:
    await place.send("meals", [{"number": number, "kind": kind} for number, kind in messages.items()])


async def numbers_of_the_dead(place: Place) -> dict[int, str]:
    letters = await place.broker.dead_letters.list()
    return {
        json.loads(letter.payload)["number"]: letter.failure.type
        for letter in letters
        if isinstance(letter.payload, bytes)
    }


@pytest.mark.parametrize("kinds", [["exits well", "breaks"], pytest.param([*POISONS], marks=pytest.mark.long)])
@AT_A_FILE
async def test_poison_of_any_kind_is_a_dead_letter_after_max_crashes_and_everything_else_goes_on(
    url: str, drill: Drill, kinds: list[str]
):
    poison = dict(enumerate(kinds))
    async with open_place(url) as place:
        await send(place, poison | dict.fromkeys(BYSTANDERS, ""))
        node = await start(drill, url)
        await place.wait_empty("meals", within=PATIENCE)
        await drill.wait_notes("ended", len(BYSTANDERS), within=PATIENCE)
        assert await numbers_of_the_dead(place) == dict.fromkeys(poison, "Crashed")
        for number in poison:
            runs = [note for note in drill.ledger.notes("begun") if note.facts["number"] == number]
            # A death caused by the message beside it counts, too.
            assert 1 <= len(runs) <= poisoned.Taster.settings.max_crashes
        await node.stop()
        await place.check_account(BYSTANDERS)


@AT_REDIS
async def test_a_handler_that_takes_all_memory_fails_its_message_and_the_process_lives(url: str, drill: Drill):
    async with open_place(url) as place:
        node = await start(drill, url)
        before = children_of(node)
        await send(place, {0: "hoards"} | dict.fromkeys(BYSTANDERS, ""))
        await place.wait_empty("meals", within=PATIENCE)
        assert await numbers_of_the_dead(place) == {0: "MemoryError"}
        assert children_of(node) == before
        await node.stop()
        await place.check_account(BYSTANDERS)


@AT_A_FILE
async def test_idle_replicas_that_are_killed_are_replaced_at_once(url: str, drill: Drill):
    """So are their successors; nothing waits for a lease."""
    async with open_place(url) as place:
        node = await start(drill, url)
        for turn in range(2):
            before = children_of(node)
            for pid in before:
                os.kill(pid, signal.SIGKILL)

            def are_replaced(before: list[int] = before) -> bool:
                return len(set(children_of(node)) - set(before)) == 2

            await until(are_replaced, "two others", within=PATIENCE)
            await send(place, dict.fromkeys(range(10 * turn, 10 * turn + 5), ""))
            await place.wait_empty("meals", within=PATIENCE)
        await node.stop()
        await place.check_account([*range(5), *range(10, 15)])


async def test_a_flushed_server_and_one_that_was_restarted_are_worked_on_by_all_replicas(here: Redis, drill: Drill):
    async with open_place(here.url) as place:
        node = await start(drill, here.url)
        sent = 0
        for command in [("FLUSHALL",), ("CLIENT", "KILL", "TYPE", "normal"), ("FLUSHALL",)]:
            known = drill.ledger.count("ended")
            here(*command)
            at_work: set[int] = set()
            with trio.fail_after(PATIENCE):
                while at_work < set(children_of(node)):
                    await send(place, dict.fromkeys(range(sent, sent + 50), ""))
                    sent += 50
                    await place.wait_empty("meals", within=PATIENCE)
                    at_work = {note.pid for note in drill.ledger.notes("ended")[known:]}
            assert at_work == set(children_of(node))
        await node.stop()
