"""The windows in which a process can die or freeze, each opened on purpose by a failpoint.

    at work             one node dies there, another one finishes
    at its shutdown     a node that is stopped dies while it releases its deliveries
    elsewhere           while it reclaims, publishes, or renews its lease
    on a cluster        while it forwards what it has sent to another slot
    the same points     where the process freezes instead, and resumes after others have taken its work
    states              where it dies or freezes while it changes the states of entities

After each of them the account is made up: every message was handled once, became a dead letter, or was rejected, as its
number requires, and its one visible result agrees.
"""

import json
import os
import signal
import time
from collections.abc import Callable

import pytest
import trio

from actorwork.message import RESULT_TTL, Envelope, MessageIds
from actorwork.policy.entities import mark_of
from actorwork.streams.transport.slots import key_slot
from actorwork.testing.ledger import Account
from actorwork.testing.proxy import FaultProxy, open_proxy
from actorwork.testing.redis_cluster import RedisCluster
from tests.forms import each_at_a_broker, forms

from .conftest import MANY, PATIENCE, Drill, Node, Place, Redis, open_place, until, until_true
from .workers import RECEIPTS, TICK, Listing

NUMBERS = range(30)
LEASE = 0.5


async def send(place: Place) -> dict[int, str]:
    return await place.send_numbers("varied", NUMBERS)


async def settle_accounts(place: Place, ids: dict[int, str]) -> None:
    """Wait until all messages have ended, and check that each has ended once, as its number requires."""
    outcomes: dict[int, str] = {}

    async def are_ended() -> bool:
        for number in ids.keys() - outcomes.keys():
            outcome = await place.broker.find_outcome("varied", ids[number])
            if outcome is not None:
                outcomes[number] = outcome.status
        return len(outcomes) == len(ids)

    limit = time.monotonic() + PATIENCE
    while not await are_ended():
        assert time.monotonic() < limit, f"no end of {sorted(ids.keys() - outcomes.keys())}"
        await trio.sleep(0.02)
    await place.wait_empty("varied")
    letters = await place.broker.dead_letters.list(limit=1000)
    dead = [json.loads(letter.payload)["number"] for letter in letters if isinstance(letter.payload, bytes)]
    rejected = [number for number, status in outcomes.items() if status == "rejected"]
    receipts = await place.receipts()
    Account(sent=ids, handled=[*(one["number"] for one in receipts), *rejected], dead=dead).check()
    assert sorted(dead) == [number for number in ids if number % 5 == 2]
    assert sorted(rejected) == [number for number in ids if number % 5 == 3]
    for receipt in receipts:
        outcome = await place.broker.find_outcome("varied", ids[receipt["number"]])
        assert outcome is not None
        assert json.loads(outcome.value) == receipt["pid"]


async def finish(drill: Drill, url: str, place: Place, ids: dict[int, str]) -> Node:
    """Let another node handle the rest, and make up the account."""
    node = await drill.start_up("varied", url, lease=LEASE)
    await settle_accounts(place, ids)
    await node.stop()
    return node


async def die_at_work(drill: Drill, url: str, crash_at: str) -> None:
    async with open_place(url) as place:
        ids = await send(place)
        node = drill.start("varied", url, lease=LEASE, crash_at=crash_at)
        await node.wait_killed()
        await finish(drill, url, place, ids)


AT_REDIS = forms(
    "read.replied",
    "settle.before",
    "settle.after:3",
    "take_over.before",
    "take_over.after",
    "lease.renew:2",
    "wire.sent:5",
    more=["wire.sent:20", "settle.before:3", "settle.after", "lease.renew", "wire.sent:1", "wire.sent:10"],
)
EMBEDDED = forms(
    *(f"{point}:{turn}" for point in ("commit.before", "commit.after") for turn in (1, 5)),
    more=[f"{point}:{turn}" for point in ("commit.before", "commit.after") for turn in (3, 8)],
)


@each_at_a_broker("crash_at", "handler.begun:7", "handler.returned")
async def test_a_node_that_dies_around_the_handler_loses_nothing_and_settles_nothing_twice(
    url: str, drill: Drill, crash_at: str
):
    await die_at_work(drill, url, crash_at)


@pytest.mark.parametrize("crash_at", AT_REDIS)
async def test_a_node_that_dies_on_the_way_to_or_from_redis_loses_nothing_and_settles_nothing_twice(
    here: Redis, drill: Drill, crash_at: str
):
    await die_at_work(drill, here.url, crash_at)


@pytest.mark.parametrize("crash_at", EMBEDDED)
async def test_a_node_that_dies_around_a_commit_loses_nothing_and_settles_nothing_twice(drill: Drill, crash_at: str):
    await die_at_work(drill, f"sqlite:///{drill.folder}/messages.db", crash_at)


# ------------------------------------------------------------------------------------------------ reclaim, release


async def wait_no_lease(here: Redis) -> None:
    await until(lambda: not here("KEYS", "actorwork:node:*"), "the end of all leases")


@pytest.mark.parametrize("crash_at", ["take_over.before", "take_over.after"])
async def test_a_node_that_dies_while_it_reclaims_leaves_everything_to_the_next(
    here: Redis, drill: Drill, crash_at: str
):
    async with open_place(here.url) as place:
        ids = await send(place)
        first = drill.start("varied", here.url, lease=LEASE, crash_at="handler.begun:4")
        await first.wait_killed()
        assert here.pending("varied")
        await wait_no_lease(here)
        second = drill.start("varied", here.url, lease=LEASE, crash_at=crash_at)
        await second.wait_killed()
        assert not drill.ledger.count("begun", pid=second.pid)
        await finish(drill, here.url, place, ids)


@pytest.mark.parametrize("crash_at", ["release.before", "release.after"])
async def test_a_node_that_dies_while_it_releases_leaves_everything_to_the_next(
    here: Redis, drill: Drill, crash_at: str
):
    async with open_place(here.url) as place:
        await place.send_numbers("singles", range(1), gate=str(drill.folder / "gate"))
        await place.send_numbers("singles", range(1, 3))
        first = await drill.start_up("single", here.url, lease=LEASE, crash_at=crash_at)
        await drill.wait_notes("begun", 1)
        await until(lambda: here.pending("singles") == 3, "all of them in the mailbox")
        first.signal(signal.SIGTERM)
        await first.wait_killed()
        (drill.folder / "gate").touch()
        second = await drill.start_up("single", here.url, lease=LEASE)
        await place.wait_empty("singles")
        await second.stop()
        await place.check_account(range(3))
        assert await place.broker.dead_letters.list() == []


async def test_a_node_of_the_embedded_broker_that_dies_at_any_commit_of_its_shutdown_loses_nothing(drill: Drill):
    url = f"sqlite:///{drill.folder}/messages.db"
    sent: list[int] = []
    async with open_place(url) as place:
        for turn in range(4, 8):
            numbers = range(10 * turn, 10 * turn + 3)
            gate = drill.folder / f"gate{turn}"
            await place.send_numbers("singles", numbers[:1], gate=str(gate))
            await place.send_numbers("singles", numbers[1:])
            sent += numbers
            known = drill.ledger.count("begun")
            node = drill.start("single", url, lease=LEASE, crash_at=f"commit.after:{turn}")
            await until(
                lambda node=node, known=known: node.process.poll() is not None or drill.ledger.count("begun") > known,
                "the first handler, or the end",
            )
            node.signal(signal.SIGTERM)
            gate.touch()
            await node.wait_ended()
            last = await drill.start_up("single", url, lease=LEASE)
            await place.wait_empty("singles")
            await last.stop()
        assert -signal.SIGKILL in [node.process.returncode for node in drill.nodes]
        await place.check_account(sent)
        assert await place.broker.dead_letters.list() == []


# ------------------------------------------------------------------------------------------------------------- zombies

STOPS = [
    ("redis", "handler.returned:5:stop"),
    pytest.param("redis", "settle.before:2:stop", marks=pytest.mark.long),
    ("redis", "settle.after:2:stop"),
    ("redis", "read.replied:1:stop"),
    ("redis", "lease.renew:2:stop"),
    pytest.param("embedded", "handler.begun:5:stop", marks=pytest.mark.long),
    ("embedded", "handler.returned:5:stop"),
    ("embedded", "commit.after:4:stop"),
]


@pytest.mark.parametrize(("kind", "crash_at"), STOPS)
async def test_a_node_frozen_until_others_have_done_its_work_changes_nothing_when_it_resumes(
    request: pytest.FixtureRequest, drill: Drill, kind: str, crash_at: str
):
    here: Redis | None = request.getfixturevalue("here") if kind == "redis" else None
    url = f"sqlite:///{drill.folder}/messages.db" if here is None else here.url
    async with open_place(url) as place:
        ids = await send(place)
        zombie = drill.start("varied", url, lease=LEASE, crash_at=crash_at)
        await zombie.wait_stopped()
        await zombie.freeze(url)
        stopped = time.monotonic()
        other = await drill.start_up("varied", url, lease=LEASE)
        for number in ids:
            await wait_outcome(place, ids[number])
        # If it had nothing in flight, the other node did not have to wait until its lease expired.
        await trio.sleep(max(0, stopped + 2 * LEASE - time.monotonic()))
        zombie.signal(signal.SIGCONT)
        await zombie.wait_line("the lease of")
        await zombie.stop()
        await other.stop()
        await settle_accounts(place, ids)


async def wait_outcome(place: Place, id: str) -> None:
    limit = time.monotonic() + PATIENCE
    while await place.broker.find_outcome("varied", id) is None:
        assert time.monotonic() < limit, f"no outcome of {id}"
        await trio.sleep(0.02)


# -------------------------------------------------------------------------------------------------------------- states

KEYS = 4


async def send_to_keys(place: Place, numbers: range) -> dict[int, str]:
    """Send each number to the entity of its key."""
    source = Listing.settings.default_source
    ids = MessageIds(os.urandom(8).hex())
    envelopes = [
        Envelope(source, next(ids), json.dumps({"number": number}).encode(), headers={}, key=f"key {number % KEYS}")
        for number in numbers
    ]
    await place.broker.publish(envelopes)
    return {number: envelope.id for number, envelope in zip(numbers, envelopes, strict=True)}


async def check_states(place: Place, ids: dict[int, str]) -> None:
    """See that each state lists all numbers of its key, once and in their order, and that its versions count them."""
    source, group = Listing.settings.default_source, Listing.settings.id
    await place.wait_empty(source)
    assert await place.broker.dead_letters.list() == []
    for key in range(KEYS):
        of_key = [number for number in ids if number % KEYS == key]
        state = await place.broker.entities.get(source, group, f"key {key}")
        assert state is not None
        assert json.loads(state.data) == of_key
        assert (state.version, state.by) == (len(of_key), ids[of_key[-1]])
        assert state.marks == b"".join(mark_of(ids[number]) for number in of_key)


@each_at_a_broker("crash_at", "state.before:2", "state.after:3")
async def test_a_node_that_dies_while_it_changes_states_leaves_each_change_done_once_or_not_at_all(
    url: str, drill: Drill, crash_at: str
):
    async with open_place(url) as place:
        ids = await send_to_keys(place, NUMBERS)
        node = drill.start("listing", url, lease=LEASE, crash_at=crash_at)
        await node.wait_killed()
        other = await drill.start_up("listing", url, lease=LEASE)
        await check_states(place, ids)
        await other.stop()
        await place.check_account(list(ids))


@pytest.mark.parametrize(
    "crash_at", forms("state.before:2:stop", more=["state.after:2:stop", "handler.returned:5:stop"])
)
async def test_a_node_frozen_while_it_changes_states_changes_none_when_it_resumes(
    url: str, drill: Drill, crash_at: str
):
    async with open_place(url) as place:
        ids = await send_to_keys(place, NUMBERS)
        zombie = drill.start("listing", url, lease=LEASE, crash_at=crash_at)
        await zombie.wait_stopped()
        await zombie.freeze(url)
        stopped = time.monotonic()
        other = await drill.start_up("listing", url, lease=LEASE)
        await check_states(place, ids)
        await trio.sleep(max(0, stopped + 2 * LEASE - time.monotonic()))
        zombie.signal(signal.SIGCONT)
        await zombie.wait_line("the lease of")
        ids |= await send_to_keys(place, range(len(NUMBERS), 2 * len(NUMBERS)))
        await place.wait_empty(Listing.settings.default_source)
        await zombie.stop()
        await other.stop()
        await check_states(place, ids)
        await place.check_account(list(ids))


# ----------------------------------------------------------------------------------------------------------- producers


@pytest.mark.parametrize("crash_at", ["publish.before:5", "publish.after:5", "wire.sent:8"])
async def test_a_producer_that_dies_and_sends_the_same_again_has_sent_each_message_once(
    here: Redis, drill: Drill, crash_at: str
):
    await die_while_sending(drill, here.url, crash_at)


@pytest.mark.parametrize("crash_at", ["commit.before:5", "commit.after:5"])
async def test_a_producer_of_the_embedded_broker_that_dies_and_sends_the_same_again_has_sent_each_message_once(
    drill: Drill, crash_at: str
):
    await die_while_sending(drill, f"sqlite:///{drill.folder}/messages.db", crash_at)


async def die_while_sending(drill: Drill, url: str, crash_at: str) -> None:
    producer = drill.start("producer", url, count=20, crash_at=crash_at)
    await producer.wait_killed()
    known = drill.ledger.count("sent")
    assert known < 20
    async with open_place(url) as place:
        kept = await place.broker.backlog("work")
        # What the producer knows to be accepted is stored; one more message may be.
        assert known <= kept <= known + 1
        again = drill.start("producer", url, count=20)
        assert await again.wait_ended() == 0
        assert await place.broker.backlog("work") == 20
        assert sum(note.facts["new"] for note in drill.ledger.notes("sent", pid=again.pid)) == 20 - kept
        node = await drill.start_up("worker", url, lease=LEASE)
        await place.wait_empty("work")
        await node.stop()
        await place.check_account(range(20))


async def test_a_publish_whose_reply_is_lost_is_sent_again_and_stored_once(here: Redis, drill: Drill):
    async with open_proxy(here.url) as proxy, open_place(proxy.url) as place:
        for number in range(5):
            proxy.cut_after_request(1)
            await place.send_numbers("work", [number])
        assert proxy.accepted > 5
        assert here("XLEN", "work") == 5
        node = await drill.start_up("worker", here.url, lease=LEASE)
        await until(lambda: here("XLEN", "work") == 0, "an empty source")
        await node.stop()
        assert here("XLEN", RECEIPTS) == 5


# --------------------------------------------------------------------------------------------------------- settlements

FAULTS: dict[str, Callable[[FaultProxy], None]] = {
    "cut after the request": lambda proxy: proxy.cut_after_request(1),
    "cut in mid reply": lambda proxy: proxy.cut_after(3),
    "half-closed": lambda proxy: proxy.half_close(),
    "in pieces of one byte": lambda proxy: proxy.split(1),
    "late": lambda proxy: proxy.delay(0.05),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_settlements_whose_replies_come_late_in_pieces_or_never_are_applied_once(
    here: Redis, drill: Drill, fault: str
):
    async with open_place(here.url) as place, open_proxy(here.url) as proxy:
        node = await drill.start_up("varied", proxy.url, lease=2)
        ids: dict[int, str] = {}
        for turn in range(5):
            FAULTS[fault](proxy)
            ids |= await place.send_numbers("varied", range(100 * turn, 100 * turn + 10))
            await drill.wait_notes("begun", 10 * turn + 10)
        await settle_accounts(place, ids)
        await node.stop()


@pytest.mark.parametrize(
    "point", forms("reshard.arrived:2", more=["reshard.drained", "reshard.moved", "reshard.replaced", "reshard.stored"])
)
async def test_when_a_program_that_divides_a_source_anew_dies_the_next_one_goes_on(
    here: Redis, drill: Drill, point: str
):
    async with open_place(here.url) as place:
        await place.broker.shards.declare("work", 4)
        sent = await place.send_numbers("work", range(30))
        await place.broker.pauses.pause("source", "work")
        dying = drill.start("resharder", here.url, shards=3, crash_at=point)
        await dying.wait_killed()
        assert await drill.start("resharder", here.url, shards=3).wait_ended() == 0
        assert await place.broker.shards.list() == {"work": 3}
        assert await place.broker.backlog("work") == 30
        await place.broker.pauses.resume("source", "work")
        node = await drill.start_up("worker", here.url, lease=LEASE)
        await place.wait_empty("work")
        await node.stop()
        await place.check_account(list(sent))


# ------------------------------------------------------------------------------------------------------------- triggers


@each_at_a_broker("crash_at", "fire.before:3", "fire.after:3")
async def test_a_node_that_dies_as_it_fires_a_trigger_loses_no_time_and_fires_none_twice(
    url: str, drill: Drill, crash_at: str
):
    async with open_place(url) as place:
        first = drill.start("clock", url, lease=LEASE, crash_at=crash_at)
        await first.wait_killed()
        (record,) = await place.broker.triggers.list()
        # One call fires what is due, which after a moment without the processor may be more than one time.
        assert record.fired >= (2 if crash_at.startswith("fire.before") else 3)
        before = record.fired
        second = await drill.start_up("clock", url, lease=LEASE)

        async def goes_on() -> bool:
            return (await place.broker.triggers.list())[0].fired >= before + 3

        await until_true(goes_on, "the clock to go on")
        await second.stop()
        (record,) = await place.broker.triggers.list()
        assert record.fired * round(TICK * 1000) == record.last - record.registered


# ------------------------------------------------------------------------------------------------- two versions at once


async def test_what_a_later_version_adds_to_a_message_is_kept_through_retries_and_dead_letters(
    here: Redis, drill: Drill
):
    """Fields and headers that this version does not know: the next node to handle the message may know them."""
    later = {"later": "a field", "headers": json.dumps({RESULT_TTL: 60, "actorwork-later": {"a": "header"}})}
    later["claim"] = "c"  # A later version notes it, too: a producer that cannot do so gets no result.
    async with open_place(here.url) as place:
        for number in (0, 1, 2):
            fields = {"id": f"number {number}", "data": json.dumps({"number": number}), **later}
            here("SET", f"actorwork:{{varied}}:claim:number {number}", "c")
            here("XADD", "varied", "*", *(part for pair in fields.items() for part in pair))
        node = await drill.start_up("varied", here.url, lease=LEASE)
        await settle_accounts(place, {number: f"number {number}" for number in (0, 1, 2)})
        await node.stop()
        (letter,) = await place.broker.dead_letters.list()
        assert letter.headers["actorwork-later"] == {"a": "header"}
        assert await place.broker.dead_letters.replay("varied", [letter.entry]) == 1
        ((_, flat),) = here("XRANGE", "varied", "-", "+")
        found = dict(zip(flat[::2], flat[1::2], strict=True))
        assert found[b"later"] == b"a field"
        assert json.loads(found[b"headers"])["actorwork-later"] == {"a": "header"}


# ---------------------------------------------------------------------------------------------------------- the outbox


@pytest.mark.parametrize("point", forms("outbox.sent", more=["outbox.before", "outbox.after", "settle.after"]))
async def test_what_a_node_that_died_has_sent_to_another_slot_arrives_once(
    drill: Drill, redis_cluster: RedisCluster, point: str
):
    redis_cluster.flush()
    async with open_place(redis_cluster.url) as place:
        dying = await drill.start_up("worker", redis_cluster.url, lease=60, max_crashes=MANY, crash_at=f"{point}:2")
        sent = await place.send_numbers("work", range(20))
        await dying.wait_killed()
        heir = await drill.start_up("worker", redis_cluster.url, lease=2, max_crashes=MANY)
        assert await place.broker.release_lease(dying.incarnation)
        await place.wait_empty("work")
        await until_true(lambda: place.is_forwarded("work"), "an empty outbox")
        await heir.stop()
        await place.check_account(list(sent))


@pytest.mark.parametrize(
    "point",
    forms(
        "settle.after:2",
        more=["settle.before", "settle.after", "settle.before:2", "outbox.before", "outbox.sent", "outbox.after"],
    ),
)
async def test_a_batch_over_two_slots_is_summed_once_whenever_its_node_dies(
    drill: Drill, redis_cluster: RedisCluster, point: str
):
    """What each batch publishes has the numbers of its messages: no number is in two of them, and none is missing."""
    redis_cluster.flush()
    assert len({key_slot(name) for name in ("left", "right", RECEIPTS)}) == 3
    async with open_place(redis_cluster.url) as place:
        sent = await place.send_numbers("left", range(4)) | await place.send_numbers("right", range(4, 8))
        dying = await drill.start_up("summing", redis_cluster.url, lease=60, max_crashes=MANY, crash_at=point)
        sent |= await place.send_numbers("left", range(8, 30)) | await place.send_numbers("right", range(30, 50))
        await dying.wait_killed()
        heir = await drill.start_up("summing", redis_cluster.url, lease=2, max_crashes=MANY)
        assert await place.broker.release_lease(dying.incarnation)
        await place.wait_empty("left", "right")
        for home in ("left", "right"):
            await until_true(lambda home=home: place.is_forwarded(home), "an empty outbox")
        await heir.stop()
        summed = [number for receipt in await place.receipts() for number in receipt["number"]]
        assert sorted(summed) == sorted(sent)
