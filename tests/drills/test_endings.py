"""How a node ends: in order, in time, and with an exit code that says how."""

import signal
import time
from typing import Any

import pytest
import trio

from actorwork import Settings
from tests.forms import AT_A_FILE, AT_REDIS, each_at_a_broker
from tests.patience import BUSY, PATIENCE

from .conftest import Drill, Node, Redis, open_place, until, until_true
from .test_deaths import in_flight, seconds_until_run_again
from .workers import Single

ORDERS = each_at_a_broker("order", signal.SIGTERM, signal.SIGINT, ids=("term", "int"))
SINGLE: Settings = Single.settings


@ORDERS
async def test_the_first_signal_lets_the_handler_finish_and_gives_the_unread_to_another_node(
    url: str, drill: Drill, order: signal.Signals
):
    async with open_place(url) as place:
        gate = drill.folder / "gate"
        await place.send_numbers("singles", [0], gate=str(gate))
        await place.send_numbers("singles", range(1, 3))
        first = await drill.start_up("single", url, lease=60)
        await drill.wait_notes("begun", 1)
        second = await drill.start_up("single", url, lease=60)
        # What is in the first node's mailbox belongs to it until it stops.
        assert await place.broker.backlog("singles") == 3
        asked = time.monotonic()
        first.signal(order)
        await drill.wait_notes("ended", 2, pid=second.pid)
        taken = drill.ledger.notes("ended", pid=second.pid)
        assert {note.facts["number"] for note in taken} == {1, 2}
        assert max(note.at for note in taken) - asked < 1 + BUSY
        assert first.process.poll() is None
        gate.touch()
        assert await first.wait_ended() == 0
        assert first.lines("the node stopped cleanly")
        await place.wait_empty("singles")
        await second.stop()
        await place.check_account(range(3))
    assert drill.ledger.count("cancelled") == 0
    assert [note.facts["number"] for note in drill.ledger.notes("ended", pid=first.pid)] == [0]


async def stop_twice(node: Node, order: signal.Signals = signal.SIGTERM) -> None:
    node.signal(order)
    # The kernel merges two signals of one kind that arrive together.
    await node.wait_line("messages in flight may finish")
    node.signal(order)
    assert await node.wait_ended() == 3


@ORDERS
async def test_the_second_signal_cancels_the_handler_and_its_message_is_released(
    url: str, drill: Drill, order: signal.Signals
):
    async with open_place(url) as place:
        ids = await place.send_numbers("singles", [0], seconds=60)
        node = await drill.start_up("single", url, lease=60)
        await drill.wait_notes("begun", 1)
        await stop_twice(node, order)
        assert node.lines("the node was stopped by force")
        assert [note.id for note in drill.ledger.notes("cancelled")] == [ids[0]]
        assert await place.broker.dead_letters.list() == []
        assert await place.broker.backlog("singles") == 1
        # It has not failed, and its attempt is not counted: another node takes it within a second.
        other = await drill.start_up("single", url, lease=60)
        up = time.monotonic()
        await drill.wait_notes("begun", 1, pid=other.pid)
        assert drill.ledger.notes("begun", pid=other.pid)[0].at - up < 1 + BUSY
        assert (await other.wait_line("that a node had released")).level == "INFO"
        await other.kill()


async def test_many_messages_are_released_when_handlers_are_cancelled(url: str, drill: Drill):
    async with open_place(url) as place:
        await place.send_numbers("work", range(50), seconds=60)
        node = await drill.start_up("worker", url, lease=60)
        await drill.wait_notes("begun", 4)
        other = await drill.start_up("worker", url, lease=60)
        await stop_twice(node)
        await drill.wait_notes("begun", 4, pid=other.pid)
        assert drill.ledger.count("cancelled", pid=node.pid) == 4
        assert await place.broker.backlog("work") == 50
        await stop_twice(other)
        assert not in_flight(drill, node)
        assert not in_flight(drill, other)
        assert await place.broker.backlog("work") == 50
        assert await place.broker.dead_letters.list() == []


async def test_a_signal_in_mid_work_leaves_the_rest_in_the_stream(url: str, drill: Drill):
    """Afterwards nothing is in flight, nothing was run twice, and the next start goes on."""
    numbers = range(400)
    async with open_place(url) as place:
        await place.send_numbers("work", numbers)
        for share in (0.2, 0.5, 0.8):
            node = await drill.start_up("worker", url, lease=60)
            await drill.wait_notes("ended", int(share * len(numbers)))
            await node.stop()
            assert await place.broker.backlog("work") == len(numbers) - drill.ledger.count("ended")
            assert not in_flight(drill, node)
        node = drill.start("worker", url, lease=60)
        await place.wait_empty("work")
        await node.stop()
        assert drill.ledger.count("begun") == drill.ledger.count("ended") == len(numbers)
        await place.check_account(numbers)


@ORDERS
async def test_an_idle_node_stops_without_waiting_for_anything(url: str, drill: Drill, order: signal.Signals):
    """Within less than any interval at which something looks; the best of some tries, since the machine may be busy."""
    best = 60.0
    for _ in range(12):
        node = await drill.start_up("worker", url)
        await trio.sleep(0.3)
        asked = time.time()
        node.signal(order)
        assert await node.wait_ended() == 0
        (line,) = node.lines("the node stopped cleanly")
        best = min(best, line.at - asked)
        if best < 0.5:
            break
    assert best < 0.5


async def test_a_node_can_be_stopped_while_it_starts(url: str, drill: Drill):
    for pause in (0.2, 0.3, 0.4):
        node = drill.start("worker", url, fresh=True)
        await trio.sleep(pause)
        node.signal(signal.SIGTERM)
        # Until the signal handler is installed, SIGTERM kills the process.
        assert await node.wait_ended() in (0, -signal.SIGTERM)
        assert "Traceback" not in node.output


async def test_a_node_that_waits_for_its_server_can_be_stopped(drill: Drill):
    node = drill.start("worker", f"unix://{drill.folder}/nobody-listens-here")
    await node.wait_line("no connection to the broker")
    node.signal(signal.SIGTERM)
    assert await node.wait_ended() == 0
    assert "Traceback" not in node.output


# ----------------------------------------------------------------------------------------------------------- exit codes


@AT_A_FILE
async def test_a_constructor_that_raises_is_a_failed_start(url: str, drill: Drill):
    node = drill.start("broken", url, fresh=True)
    assert await node.wait_ended() == 1
    assert "StartError: 'broken' did not start: OSError: the shop is closed" in node.lines("StartError")[0].message
    assert [line.fields["actor"] for line in node.lines("has ended")] == ["worker"]


@AT_REDIS
async def test_a_tree_that_cannot_be_kept_alive_is_a_failure(url: str, drill: Drill):
    async with open_place(url) as place:
        await place.send_numbers("crashes", range(10))
        node = drill.start("crashing", url, fresh=True)
        assert await node.wait_ended() == 1
        assert "gave up on 'crashing'" in node.lines("MaxRestartsExceeded: ")[-1].message
        # The fourth crash exceeds the intensity; messages that were not begun are left.
        letters = await place.broker.dead_letters.list()
        assert [letter.failure.type for letter in letters] == ["ValueError"] * 4
        assert await place.broker.backlog("crashes") == 6


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("gopher://localhost", "no broker of the kind 'gopher://localhost'"),
        ("sqlite:////proc/nowhere/messages.db", "/proc/nowhere"),
    ],
)
async def test_a_broker_that_cannot_be_used_is_a_failure(drill: Drill, bad: str, why: str):
    node = drill.start("worker", bad)
    assert await node.wait_ended() == 1
    (line,) = node.lines("BrokerError")
    assert why in line.message


async def test_a_server_that_evicts_messages_is_a_failure(here: Redis, drill: Drill):
    here("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        node = drill.start("worker", here.url)
        assert await node.wait_ended() == 1
        (line,) = node.lines("BrokerError")
        assert "allkeys-lru" in line.message
    finally:
        here("CONFIG", "SET", "maxmemory-policy", "noeviction")


async def test_a_handler_that_cannot_be_cancelled_is_ended_by_the_third_signal(url: str, drill: Drill):
    async with open_place(url) as place:
        await place.send_numbers("stubborn", [0])
        node = await drill.start_up("stubborn", url, lease=1, fresh=True)
        await drill.wait_notes("begun", 1)
        node.signal(signal.SIGTERM)
        await node.wait_line("messages in flight may finish")
        node.signal(signal.SIGTERM)
        await node.wait_line("messages in flight are cancelled")
        node.signal(signal.SIGTERM)
        assert await node.wait_ended(within=PATIENCE) == 3
        assert "ending now" in node.output
        assert await place.broker.backlog("stubborn") == 1


@AT_A_FILE
@pytest.mark.parametrize("tree", ["stubborn", "blocker"])
async def test_the_grace_bounds_all_of_it(url: str, drill: Drill, tree: str):
    """A handler that shields itself, and one that blocks the loop itself."""
    source = {"stubborn": "stubborn", "blocker": "blocks"}[tree]
    async with open_place(url) as place:
        more: dict[str, Any] = {} if tree == "stubborn" else {"seconds": 60}
        await place.send_numbers(source, [0], **more)
        node = await drill.start_up(tree, url, lease=1, grace=1)
        await drill.wait_notes("begun", 1)
        asked = time.monotonic()
        node.signal(signal.SIGTERM)
        assert await node.wait_ended() == 3
        assert 0.7 < time.monotonic() - asked < 1 + BUSY
        assert await place.broker.backlog(source) == 1


@AT_REDIS
async def test_a_message_that_was_in_flight_when_force_was_needed_is_run_again(url: str, drill: Drill):
    async with open_place(url) as place:
        await place.send_numbers("blocks", [0], seconds=60)
        node = await drill.start_up("blocker", url, lease=0.5, grace=0.5)
        await drill.wait_notes("begun", 1)
        node.signal(signal.SIGTERM)
        assert await node.wait_ended() == 3
        ended = time.monotonic()
        other = drill.start("blocker", url, lease=0.5)
        (held,) = in_flight(drill, node)
        assert await seconds_until_run_again(drill, other, {held}, ended + 0.5) < 2 + BUSY

        async def is_there() -> bool:
            return await place.broker.backlog("blocks") == 1

        await until_true(is_there, "the message")
        await until(lambda: drill.ledger.count("begun") == 2, "the second run")
