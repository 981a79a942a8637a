"""What any producer writes to a stream reaches every actor that reads it, and leaves nothing behind."""

import os
import shutil
import subprocess
from collections import Counter

import pytest
import trio

from actorwork import Actor, Settings, open_system, receive
from tests.forms import AT_REDIS, forms

from .conftest import PATIENCE, Drill, Place, Redis, open_place, until
from .workers import Single


def add_by_hand(here: Redis, *command: str) -> None:
    """Add an entry as a person would: with redis-cli, if it is installed."""
    client = shutil.which("redis-cli")
    if client is None:
        here(*command)
    else:
        subprocess.run([client, "-s", str(here.server.socket_path), *command], check=True, stdout=subprocess.DEVNULL)


async def test_an_entry_written_by_hand_reaches_a_keyword_handler_with_its_numbers_as_numbers(here: Redis):
    taken: list[tuple[object, object]] = []
    done = trio.Event()

    class Orders(Actor):
        settings = Settings(title="orders", sources={"orders"})

        @receive
        async def take(self, *, x: int, message: str) -> None:
            taken.append((x, message))
            done.set()

    async with open_system(Orders, broker=here.url):
        await trio.to_thread.run_sync(add_by_hand, here, "XADD", "orders", "*", "x", "1", "message", "hi")
        with trio.fail_after(PATIENCE):
            await done.wait()
    assert [(type(x), x, message) for x, message in taken] == [(int, 1, "hi")]
    assert (here("XLEN", "orders"), here.pending("orders")) == (0, 0)


async def test_ten_thousand_entries_written_before_the_first_start_are_all_handled(here: Redis, drill: Drill):
    here.pipeline(("XADD", "orders", "*", "x", number, "message", f"message {number}") for number in range(10_000))
    node = drill.start("orders", here.url)
    await drill.wait_notes("ended", 10_000, within=PATIENCE)
    await node.stop()
    notes = drill.ledger.notes("ended")
    assert Counter(note.facts["x"] for note in notes) == Counter(range(10_000))
    assert all(note.facts["message"] == f"message {note.facts['x']}" for note in notes)
    assert (here("XLEN", "orders"), here.pending("orders")) == (0, 0)


NUMBERS = range(1000)


@pytest.mark.parametrize("trees", forms(("both",), ("first", "second"), more=[("both", "both")]))
@AT_REDIS
async def test_each_of_two_actors_gets_every_message_of_the_source_they_share(
    url: str, drill: Drill, trees: tuple[str, ...]
):
    nodes = [await drill.start_up(tree, url) for tree in trees]
    async with open_place(url) as place:
        await place.send_numbers("both", NUMBERS)
        await place.wait_empty("both")
        for node in nodes:
            await node.stop()
        receipts = await place.receipts()
        for actor in ("First", "Second"):
            assert Counter(one["number"] for one in receipts if one["actor"] == actor) == Counter(NUMBERS)
        assert await place.broker.backlog("both") == 0


@AT_REDIS
async def test_the_second_actor_of_a_source_may_come_later_and_still_gets_every_message(url: str, drill: Drill):
    """Both groups are known, so a message waits for the one that has no node."""
    for tree in ("first", "second"):
        await (await drill.start_up(tree, url)).stop()
    async with open_place(url) as place:
        await place.send_numbers("both", NUMBERS)
        for tree in ("first", "second"):
            node = drill.start(tree, url)
            await drill.wait_notes("ended", len(NUMBERS), pid=node.pid)
            await node.stop()
        await place.wait_empty("both")
        receipts = await place.receipts()
    assert Counter((one["actor"], one["number"]) for one in receipts) == Counter(
        (actor, number) for actor in ("First", "Second") for number in NUMBERS
    )


# ------------------------------------------------------------------------------------------------------------- fairness


async def position_of(place: Place, drill: Drill, numbers: range) -> int:
    """Return the number of messages that were begun before the last one of these."""
    begun = [note.facts["number"] for note in drill.ledger.notes("begun")]
    return max(begun.index(number) for number in numbers)


BUSY = range(2000)
QUIET = range(100_000, 100_010)


async def test_a_busy_source_does_not_starve_another_one_of_the_same_actor(url: str, drill: Drill):
    """The actor's own source is the quiet one: ten messages, sent after a thousand to the busy one."""
    busy = BUSY[:1000]
    async with open_place(url) as place:
        await place.send_numbers("singles", busy)
        await place.send_numbers(Single.settings.default_source, QUIET)
        node = drill.start("single", url)
        await drill.wait_notes("ended", len(busy) + len(QUIET))
        await node.stop()
        # Half of what is read comes from the quiet source, as long as it has messages.
        assert await position_of(place, drill, QUIET) < 200
        await place.check_account([*busy, *QUIET])


async def test_messages_for_a_quiet_source_do_not_wait_for_the_end_of_a_busy_one(url: str, drill: Drill):
    async with open_place(url) as place:
        gate = drill.folder / "gate"
        await place.send_numbers("singles", BUSY[:200])
        await place.send_numbers("singles", BUSY[200:201], gate=str(gate))
        await place.send_numbers("singles", BUSY[201:])
        node = await drill.start_up("single", url)
        await drill.wait_notes("begun", 201)
        # It is in the middle of the busy source, and stays there until the others are sent.
        await place.send_numbers(Single.settings.default_source, QUIET)
        gate.touch()

        def are_begun() -> bool:
            return {note.facts["number"] for note in drill.ledger.notes("begun")} >= set(QUIET)

        await until(are_begun, "the quiet source's messages")
        # What had been read before comes first: at most a mailbox full, and what the next read brings with them.
        assert await position_of(place, drill, QUIET) < 201 + 2 * Single.settings.mailbox.capacity
        node.process.kill()


async def test_a_busy_actor_does_not_starve_another_one():
    """The busy one has ten thousand messages waiting, and never yields to anything else."""
    busy = 0
    at: list[int] = []
    done = trio.Event()

    class Busy(Actor):
        settings = Settings(title="busy", sources={"busy"})

        @receive
        async def work(self, *, number: int) -> None:
            nonlocal busy
            busy += 1

    class Quiet(Actor):
        settings = Settings(title="quiet", sources={"quiet"})

        @receive
        async def work(self, *, number: int) -> None:
            at.append(busy)
            if len(at) == len(QUIET):
                done.set()

    async with open_place("sqlite://") as place:
        await place.send_numbers("busy", range(10_000))
        await place.send_numbers("quiet", QUIET)
        async with open_system([Busy, Quiet], broker=place.broker):
            with trio.fail_after(PATIENCE):
                await done.wait()
    assert max(at) < 5000


def test_the_ledger_is_one_file_for_all(drill: Drill):
    drill.ledger.note("begun", "7-0", number=7)
    pid = os.fork()
    if pid == 0:
        drill.ledger.note("ended", "7-0")
        os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    assert [(note.what, note.id, note.pid) for note in drill.ledger.notes()] == [
        ("begun", "7-0", os.getpid()),
        ("ended", "7-0", pid),
    ]
