"""Nodes that die, stop and freeze in the middle of their work: no message is lost, and none is settled twice."""

import json
import signal
import time
from collections.abc import Callable

import pytest
import trio

from actorwork.actors.actor import Actor
from actorwork.settings import Settings
from tests.forms import AT_REDIS, each_at_a_broker
from tests.patience import BUSY

from .conftest import MANY, Drill, Node, Place, Redis, open_place, until, until_true
from .workers import Blocker, Single, Worker

NUMBERS = range(1000)
SECONDS = 0.005
LEASE = 1.0


GATE = "gate"
"""The file for which the later messages of a drill wait: however late the test is, a node has them in flight then."""


async def send_with_gate(place: Place, drill: Drill) -> None:
    """Send `NUMBERS`: the first 300 are handled at once, the others once the gate is there."""
    await place.send_numbers("work", NUMBERS[:300], seconds=SECONDS)
    await place.send_numbers("work", NUMBERS[300:], seconds=SECONDS, gate=str(drill.folder / GATE))


def in_flight(drill: Drill, node: Node) -> set[str]:
    """Return the ids of the messages whose handlers began on this node and have not ended."""
    begun = {note.id for note in drill.ledger.notes("begun", pid=node.pid)}
    return begun - {note.id for note in drill.ledger.notes("ended", "cancelled", pid=node.pid)}


async def seconds_until_run_again(drill: Drill, node: Node, ids: set[str], since: float) -> float:
    """Wait until the node has begun all of `ids`; return the seconds since it was up, or since `since`, if later.

    The time that a busy machine takes to start a process is not measured here.
    """
    await node.wait_up()
    since = max(since, time.monotonic())

    def missing() -> set[str]:
        return ids - {note.id for note in drill.ledger.notes("begun", pid=node.pid)}

    await until(lambda: not missing(), "the messages to run again")
    return max(note.at for note in drill.ledger.notes("begun", pid=node.pid) if note.id in ids) - since


@pytest.mark.parametrize(
    "lease", [pytest.param(LEASE, id="short lease"), pytest.param(10.0, id="default", marks=pytest.mark.long)]
)
async def test_after_kill_9_a_new_start_loses_nothing_and_runs_again_what_was_in_flight(
    url: str, drill: Drill, lease: float
):
    async with open_place(url) as place:
        await send_with_gate(place, drill)
        first = drill.start("worker", url, lease=lease)
        await drill.wait_notes("ended", 200)
        await until(lambda: in_flight(drill, first), "messages in flight")
        await first.kill()
        killed = time.monotonic()
        lost = in_flight(drill, first)
        (drill.folder / GATE).touch()
        second = drill.start("worker", url, lease=lease)
        assert await seconds_until_run_again(drill, second, lost, killed + lease) < 2 + BUSY
        await place.wait_empty("work")
        await second.stop()
        receipts = await place.check_account(NUMBERS)
        assert await place.broker.dead_letters.list() == []
    # What runs again had no accepted settlement when the node died.
    settled = {receipt["number"] for receipt in receipts if receipt["pid"] == first.pid}
    assert settled
    assert settled.isdisjoint(note.facts["number"] for note in drill.ledger.notes("begun", pid=second.pid))


async def test_all_that_a_dead_node_held_is_taken_over(here: Redis, drill: Drill):
    """Not only what was in flight: also what the node had only read, by the server's list of pending entries."""
    async with open_place(here.url) as place:
        await send_with_gate(place, drill)
        first = drill.start("worker", here.url, lease=LEASE)
        await drill.wait_notes("ended", 200)
        await first.kill()
        killed = time.monotonic()
        held = [entry for entry, *_ in here("XPENDING", "work", Worker.settings.id, "-", "+", 1000)]
        ids = {dict(zip(fields[::2], fields[1::2], strict=True))[b"id"].decode() for fields in fields_of(here, held)}
        assert ids
        (drill.folder / GATE).touch()
        second = drill.start("worker", here.url, lease=60)  # It must not reclaim its own.
        assert await seconds_until_run_again(drill, second, ids, killed + LEASE) < 2 + BUSY

        def reclaimed() -> int:
            return sum(int(line.message.split()[1]) for line in second.lines("reclaimed"))

        await until(lambda: reclaimed() >= len(ids), "the log of what was reclaimed")
        assert reclaimed() == len(ids)
        await second.kill()


def fields_of(here: Redis, entries: list[bytes]) -> list[list[bytes]]:
    found: list[list[bytes]] = []
    for entry in entries:
        ((_, fields),) = here("XRANGE", "work", entry, entry)
        found.append(fields)
    return found


async def test_what_a_node_leaves_when_it_stops_cleanly_is_taken_by_another_within_a_second(url: str, drill: Drill):
    """With a lease of a minute: the node releases it, and no other node waits for it to expire."""
    async with open_place(url) as place:
        first, second = [await drill.start_up("worker", url, lease=60) for _ in range(2)]
        numbers = NUMBERS[:500]
        await place.send_numbers("work", numbers, seconds=SECONDS, gate=str(drill.folder / GATE))
        await drill.wait_notes("begun", 4, pid=second.pid)
        await drill.wait_notes("begun", 4, pid=first.pid)
        first.signal(signal.SIGTERM)
        await first.wait_line("released ")
        (drill.folder / GATE).touch()
        assert await first.wait_ended() == 0
        taken = await second.wait_line("that a node had released")
        assert taken.at - first.lines("released ")[0].at < 1 + BUSY
        await place.wait_empty("work")
        await second.stop()
        await place.check_account(numbers)
    assert in_flight(drill, first) == in_flight(drill, second) == set()
    assert drill.ledger.count("ended") == len(numbers)


async def test_a_lease_released_without_its_deliveries_is_noticed_within_a_second_too(here: Redis, drill: Drill):
    """Only the lease is gone, as when a parent that saw its child die releases it."""
    async with open_place(here.url) as place:
        first = await drill.start_up("single", here.url, lease=60)
        await place.send_numbers("singles", range(1), seconds=60)
        await drill.wait_notes("begun", 1)
        second = await drill.start_up("single", here.url, lease=60)
        await first.kill()
        (lease,) = [key for key in here("KEYS", "actorwork:node:*") if b":%d " % first.pid in here("GET", key)]
        here("DEL", lease)
        released = time.monotonic()
        await drill.wait_notes("begun", 1, pid=second.pid)
        assert drill.ledger.notes("begun", pid=second.pid)[0].at - released < 1 + BUSY


# -------------------------------------------------------------------------------------------------------------- zombies


@each_at_a_broker("actor", Blocker, Worker, ids=("blocks the loop", "waits"))
async def test_a_node_that_froze_for_three_leases_changes_nothing_any_more(url: str, drill: Drill, actor: type[Actor]):
    settings: Settings = actor.settings
    tree, (source,) = settings.title, settings.sources
    lease, seconds = 0.6, 0.02
    ids: dict[int, str] = {}
    async with open_place(url) as place:
        zombie, other = [await drill.start_up(tree, url, lease=lease) for _ in range(2)]

        async def go_on() -> None:
            """Let some time pass, in which the nodes have something to do."""
            if not await place.broker.backlog(source):
                ids.update(await place.send_numbers(source, range(len(ids), len(ids) + 40), seconds=seconds))
            await trio.sleep(0.003)

        while min(drill.ledger.count("ended", pid=node.pid) for node in (zombie, other)) < 10:
            await go_on()
        held: set[str] = set()
        while not held:  # It is frozen in the middle of a handler.
            await go_on()
            await zombie.freeze(url)
            held = in_flight(drill, zombie)
            if not held:
                zombie.signal(signal.SIGCONT)
        numbers = list(ids)
        frozen = time.monotonic()
        await place.wait_empty(source)
        await trio.sleep(max(0, frozen + 3 * lease - time.monotonic()))
        zombie.signal(signal.SIGCONT)
        await zombie.wait_line("the lease of")
        if actor is Blocker:
            await zombie.wait_line("was refused, because the delivery belongs to another node")

            def are_refused() -> bool:
                return {line.fields["message_id"] for line in zombie.lines("was refused")} >= held

            await until(are_refused, "all that was in flight to be refused")
        # The zombie goes on as a new incarnation, alone.
        await other.stop()
        later = range(10_000, 10_050)
        ids |= await place.send_numbers(source, later, seconds=seconds)
        await place.wait_empty(source)
        await zombie.stop()
        receipts = await place.check_account([*numbers, *later])
        by_number = {one["number"]: one["pid"] for one in receipts}
        assert {by_number[number] for number, name in ids.items() if name in held} == {other.pid}
        assert {by_number[number] for number in later} == {zombie.pid}
        for number, name in ids.items():
            outcome = await place.broker.find_outcome(source, name)
            assert outcome is not None
            assert json.loads(outcome.value) == by_number[number]
        assert await place.broker.dead_letters.list() == []


@AT_REDIS
async def test_a_handler_that_blocks_for_longer_than_its_lease_keeps_its_message(url: str, drill: Drill):
    """A thread renews the lease, so a blocked loop does not make a message run twice."""
    async with open_place(url) as place:
        await place.send_numbers("blocks", range(1), seconds=5.0)
        first = await drill.start_up("blocker", url, lease=2.0)
        await drill.wait_notes("begun", 1)
        second = await drill.start_up("blocker", url, lease=2.0)
        await place.wait_empty("blocks")
        for node in (first, second):
            await node.stop()
        await place.check_account(range(1))
        assert drill.ledger.count("begun") == 1
        assert not first.lines("the lease of")


@AT_REDIS
async def test_a_message_that_takes_its_process_down_becomes_a_dead_letter(url: str, drill: Drill):
    """And only that one: the messages beside it are handled."""
    bystanders = range(1, 20)
    async with open_place(url) as place:
        await place.send_numbers("singles", [0], seconds=60)
        await place.send_numbers("singles", bystanders)
        for _ in range(Single.settings.max_crashes + 1):
            node = drill.start("single", url, lease=60)
            known = drill.ledger.count("begun")

            def is_at_it(known: int = known) -> bool:
                notes = drill.ledger.notes("begun")[known:]
                return any(note.facts["number"] == 0 for note in notes)

            async def is_decided(is_at_it: Callable[[], bool] = is_at_it) -> bool:
                return is_at_it() or bool(await place.broker.dead_letters.list())

            await until_true(is_decided, "the message to be in flight, or dead")
            if not is_at_it():
                break
            await place.kill(node)
        await place.wait_empty("singles")
        (letter,) = await place.broker.dead_letters.list()
        assert letter.failure.type == "Crashed"
        assert len(drill.nodes) == Single.settings.max_crashes + 1
        await drill.nodes[-1].stop()
        await place.check_account(bystanders)


async def test_two_nodes_that_are_killed_again_and_again_lose_nothing(url: str, drill: Drill):
    numbers = range(600)
    async with open_place(url) as place:
        await place.send_numbers("work", numbers, seconds=SECONDS)
        nodes = [drill.start("worker", url, lease=0.5, max_crashes=MANY) for _ in range(2)]
        for turn in range(4):
            victim = nodes[turn % 2]
            known = drill.ledger.count("ended", pid=victim.pid)

            def has_worked(victim: Node = victim, known: int = known) -> bool:
                return drill.ledger.count("ended", pid=victim.pid) > known + 20 or is_done(drill, numbers)

            await until(has_worked, "work")
            await victim.kill()
            nodes[turn % 2] = drill.start("worker", url, lease=0.5, max_crashes=MANY)
        await place.wait_empty("work")
        for node in nodes:
            await node.wait_up()
            await node.stop()
        letters = await place.broker.dead_letters.list()
        assert letters == [], letters
        await place.check_account(numbers)


def is_done(drill: Drill, numbers: range) -> bool:
    return {note.facts["number"] for note in drill.ledger.notes("ended")} >= set(numbers)
