"""Triggers on many nodes, some of which are killed or frozen: each nominal time fires once, and none is lost.

The account: the fires that the broker has counted, and those that handlers have noted, are the nominal times from the
first registration to the last decision, without a gap.
"""

import signal

import trio

from actorwork.abc import Broker
from actorwork.records import TriggerRecord
from tests.forms import AT_A_FILE, AT_REDIS
from tests.patience import BUSY

from .conftest import PATIENCE, Drill, Node, open_place, until_true
from .workers import TICK, Clock

LEASE = 0.5
EVERY = round(TICK * 1000)


async def record_of(broker: Broker) -> TriggerRecord:
    (record,) = await broker.triggers.list()
    return record


async def wait_fired(broker: Broker, count: int) -> None:
    async def has_fired() -> bool:
        records = await broker.triggers.list()
        return bool(records) and records[0].fired >= count

    await until_true(has_fired, f"{count} fires", within=PATIENCE)


async def settle_accounts(drill: Drill, broker: Broker, nodes: list[Node]) -> None:
    """Stop the clock, wait until what has fired is handled, and check that it is each nominal time."""
    await broker.pauses.pause("triggers", "clock")
    # Once all nodes know of the pause, none decides anything.
    last = -1

    async def is_quiet() -> bool:
        nonlocal last
        before, last = last, (await record_of(broker)).last
        await trio.sleep(0.3)
        return before == last

    for node in nodes:
        await node.wait_line("paused triggers 'clock'")
    await until_true(is_quiet, "the clock to stop")

    async def is_empty() -> bool:
        return await broker.backlog(Clock.settings.default_source) == 0

    await until_true(is_empty, "all that has fired to be handled")
    for node in nodes:
        await node.stop()
    record = await record_of(broker)
    expected = range(record.registered + EVERY, record.last + 1, EVERY)
    assert record.fired == len(expected)
    assert {note.facts["number"] for note in drill.ledger.notes("ended")} == set(expected)
    assert await broker.dead_letters.list() == []


@AT_REDIS
async def test_five_schedulers_of_which_one_is_frozen_past_its_lease_fire_each_time_once(url: str, drill: Drill):
    async with open_place(url) as place:
        nodes = [drill.start("clock", url, lease=LEASE) for _ in range(5)]
        for node in nodes:
            await node.wait_up()
        await wait_fired(place.broker, 3)
        # A node that is frozen in a transaction holds the lock of the file: then another one is frozen instead.
        for still in nodes:
            still.signal(signal.SIGSTOP)
            before = (await record_of(place.broker)).fired
            with trio.move_on_after(5) as waiting:
                await wait_fired(place.broker, before + 8)
            still.signal(signal.SIGCONT)
            if not waiting.cancelled_caught:
                break
        before = (await record_of(place.broker)).fired
        await wait_fired(place.broker, before + 5)
        await settle_accounts(drill, place.broker, nodes)


@AT_A_FILE
async def test_nodes_that_are_killed_again_and_again_lose_no_time(url: str, drill: Drill):
    async with open_place(url) as place:
        for turn in range(1, 4):
            node = await drill.start_up("clock", url, lease=LEASE)
            await wait_fired(place.broker, 3 * turn)
            await node.kill()
        node = await drill.start_up("clock", url, lease=LEASE)
        await settle_accounts(drill, place.broker, [node])


async def test_a_pause_reaches_the_nodes_of_other_processes_within_a_second(url: str, drill: Drill):
    async with open_place(url) as place:
        node = await drill.start_up("worker", url, lease=2)
        await place.send_numbers("work", range(5))
        await drill.wait_notes("ended", 5)
        await place.broker.pauses.pause("source", "work")
        await node.wait_line("paused source 'work'", within=1 + BUSY)
        await place.send_numbers("work", range(5, 10))
        await trio.sleep(0.3)
        assert drill.ledger.count("begun") == 5
        await place.broker.pauses.resume("source", "work")
        await node.wait_line("resumed source 'work'", within=1 + BUSY)
        await drill.wait_notes("ended", 10)
        await place.wait_empty("work")
        await node.stop()
        assert len(await place.check_account(range(10))) == 10
