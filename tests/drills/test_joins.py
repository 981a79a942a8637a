"""Joins of workflows while nodes die, freeze, and are given the same message twice.

Each body runs once, as its one accepted settlement shows, and with the values of all its members in their order.
"""

from __future__ import annotations

import json
import signal
import sqlite3
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, closing
from random import Random
from typing import Any

import pytest
import trio

from actorwork import Client, MessageFailed, open_client
from actorwork.clients.runs import Run
from actorwork.message import Envelope
from actorwork.policy.settlement import Ack
from actorwork.streams.plans import MOST_JOINED
from actorwork.streams.transport.slots import key_slot
from actorwork.testing.conformance.fake_consumer import open_consumer
from actorwork.testing.proxy import open_proxy
from actorwork.testing.redis_cluster import RedisCluster
from actorwork.workflows import Flow, Status, Step, group, step
from tests.forms import forms

from .conftest import MANY, PATIENCE, Drill, Node, Place, Redis, open_place, until
from .workers import RECEIPTS, Double, Join, Joiner, Member, Parent, Spread

LEASE = 0.5
MEMBERS = Member.settings.default_source
JOINS = Joiner.settings.default_source


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[tuple[Place, Client]]:
    async with open_place(url) as place, open_client(place.broker) as client:
        yield place, client


def joined(name: str, members: Sequence[Step[int]]) -> Step[int]:
    return step(Joiner, Join(name, group(members).results), name=name)


def doubles(*numbers: int) -> list[Step[int]]:
    return [step(Member, Double(number), name=f"double {number}") for number in numbers]


async def check_joins(place: Place, bodies: dict[str, list[int]], members: Sequence[int] = ()) -> None:
    """Check that each body has one accepted settlement, and was given these values; so has each member."""
    receipts = await place.receipts()
    found = sorted(one["number"] for one in receipts if one["actor"] == "Joiner")
    assert found == sorted([name, *values] for name, values in bodies.items())
    assert sorted(one["number"] for one in receipts if one["actor"] == "Member") == sorted(members)


# ------------------------------------------------------------------------------------------------------------- deaths

AT_REDIS = ["settle.before", "settle.after:3"]
EMBEDDED = ["commit.before:3", "commit.after:6"]
MORE = [
    *(f"settle.before:{turn}" for turn in (2, 3, 5, 7, 9, 11)),
    *(f"settle.after:{turn}" for turn in (1, 2, 4, 6, 8, 10)),
    *(f"wire.sent:{turn}" for turn in (4, 6, 8, 9, 11)),
]
MORE_EMBEDDED = [
    *(f"commit.before:{turn}" for turn in (1, 2, 4, 6, 8, 10, 12, 15)),
    *(f"commit.after:{turn}" for turn in (1, 2, 3, 5, 7, 9, 11, 14)),
]
MORE_BETWEEN_SLOTS = [
    *(f"outbox.{point}:{turn}" for point in ("before", "sent", "after") for turn in (2, 3, 7, 13)),
    *(f"settle.{point}:{turn}" for point in ("before", "after") for turn in (1, 3)),
]


async def die_while_joining(drill: Drill, url: str, crash_at: str) -> None:
    async with opened(url) as (place, client):
        inner = [joined("left", doubles(1, 2)), joined("right", doubles(3))]
        run = await client.start(joined("all", [*inner, *doubles(4)]))
        node = drill.start("joins", url, lease=LEASE, crash_at=crash_at)
        await until(lambda: node.process.poll() is not None or len(drill.ledger.notes("ended")) >= 7, "its death")
        if node.process.poll() is None:  # All was done in fewer turns than this: the test is about another one.
            await node.kill()
        second = await drill.start_up("joins", url, lease=LEASE)
        assert await run.result(timeout=PATIENCE) == 20
        await place.wait_empty(MEMBERS, JOINS)
        await second.stop()
        await check_joins(place, {"left": [2, 4], "right": [6], "all": [6, 6, 8]}, [1, 2, 3, 4])
        assert (await run.info()).done == 7


@pytest.mark.parametrize("crash_at", forms(*AT_REDIS, more=MORE))
async def test_a_node_that_dies_as_it_settles_a_member_at_redis_lets_the_body_run_once(
    here: Redis, drill: Drill, crash_at: str
):
    await die_while_joining(drill, here.url, crash_at)


@pytest.mark.parametrize("crash_at", forms("inputs.fetched", more=[f"handler.begun:{MOST_JOINED + 2}"]))
async def test_a_node_that_dies_with_the_inputs_of_a_body_lets_the_body_run_once(
    here: Redis, drill: Drill, crash_at: str
):
    numbers = range(MOST_JOINED + 1)
    async with opened(here.url) as (place, client):
        run = await client.start(joined("all", doubles(*numbers)))
        node = drill.start("joins", here.url, lease=LEASE, crash_at=crash_at)
        await node.wait_killed()
        second = await drill.start_up("joins", here.url, lease=LEASE)
        assert await run.result(timeout=PATIENCE) == sum(2 * number for number in numbers)
        await place.wait_empty(MEMBERS, JOINS)
        await second.stop()
        await check_joins(place, {"all": [2 * number for number in numbers]}, numbers)


@pytest.mark.parametrize("crash_at", forms(*EMBEDDED, more=MORE_EMBEDDED))
async def test_a_node_that_dies_as_it_commits_a_member_lets_the_body_run_once(drill: Drill, crash_at: str):
    await die_while_joining(drill, f"sqlite:///{drill.folder}/messages.db", crash_at)


@pytest.mark.parametrize("crash_at", forms("outbox.before:3", "outbox.sent", "outbox.after:2", more=MORE_BETWEEN_SLOTS))
async def test_a_node_that_dies_between_the_slots_of_a_member_and_its_body_lets_the_body_run_once(
    drill: Drill, redis_cluster: RedisCluster, crash_at: str
):
    """The run is in the slot of its members; the bodies are in another one, and the receipts in a third."""
    assert len({key_slot(source) for source in (MEMBERS, JOINS, RECEIPTS)}) == 3
    redis_cluster.flush()
    await die_while_joining(drill, redis_cluster.url, crash_at)


@pytest.mark.parametrize("crash_at", forms("page.kept:2", more=["page.kept"]))
async def test_a_node_that_dies_between_the_pages_of_a_run_that_it_starts_lets_another_one_start_it_once(
    url: str, drill: Drill, crash_at: str
):
    async with opened(url) as (place, client):
        receipt = await client.ref(Parent).submit(Spread("all", [1, 2, 3, 4, 5]))
        if url.startswith("sqlite"):
            crash_at = crash_at.replace("page.kept", "rows.kept")
        node = drill.start("spreading", url, lease=LEASE, crash_at=crash_at)
        await node.wait_killed()
        assert not await client.runs()
        second = await drill.start_up("spreading", url, lease=LEASE)
        assert await receipt.result(timeout=PATIENCE) == 30
        await place.wait_empty(MEMBERS, JOINS)
        await second.stop()
        await check_joins(place, {"all": [2, 4, 6, 8, 10]}, [1, 2, 3, 4, 5])


async def test_a_settlement_of_a_member_whose_reply_is_lost_joins_once(here: Redis, drill: Drill):
    async with opened(here.url) as (place, client), open_proxy(here.url) as proxy:
        node = await drill.start_up("joins", proxy.url, lease=2)
        gate = drill.folder / "gate"
        for turn in range(5):
            run = await client.start(
                joined(f"all {turn}", [step(Member, Double(turn, str(gate))), *doubles(1)]), id=f"run {turn}"
            )
            await drill.wait_notes("begun", 3 * turn + 2)
            proxy.cut_after_request(1)
            gate.touch()
            assert await run.result(timeout=PATIENCE) == 2 * turn + 2
            gate.unlink()
        await node.stop()
        await check_joins(place, {f"all {turn}": [2 * turn, 2] for turn in range(5)}, [*range(5), 1, 1, 1, 1, 1])


async def test_a_frozen_node_that_returns_late_with_a_member_does_not_join_it_again(url: str, drill: Drill):
    async with opened(url) as (place, client):
        gate = drill.folder / "gate"
        zombie = await drill.start_up("joins", url, lease=LEASE)
        run = await client.start(joined("all", [step(Member, Double(1, str(gate))), *doubles(2)]))
        await drill.wait_notes("begun", 2)
        await zombie.freeze(url)
        gate.touch()
        other = await drill.start_up("joins", url, lease=LEASE)
        assert await run.result(timeout=PATIENCE) == 6
        zombie.signal(signal.SIGCONT)
        await zombie.wait_line("the lease of")
        await place.wait_empty(MEMBERS, JOINS)
        await zombie.stop()
        await other.stop()
        await check_joins(place, {"all": [2, 4]}, [1, 2])


async def kill_with_each(drill: Drill, place: Place, url: str) -> None:
    """Kill as many nodes as a message may take down, each while it handles the number 1."""
    for _ in range(Member.settings.max_crashes):
        node = drill.start("joins", url, lease=60)

        def is_at_it(node: Node = node) -> bool:
            return any(note.facts["number"] == 1 for note in drill.ledger.notes("begun", pid=node.pid))

        await until(is_at_it, "the deadly message to begin")
        if len(drill.nodes) == 1:
            await drill.wait_notes("ended", 1)
            await trio.sleep(0.1)  # The other member settles meanwhile; if not, it runs again, which is no matter.
        await place.kill(node)


async def test_a_member_that_takes_its_process_down_decides_its_chord_when_it_is_buried(url: str, drill: Drill):
    async with opened(url) as (place, client):
        deadly = step(Member, Double(1, str(drill.folder / "never")), name="deadly")
        body = joined("all", [deadly, *doubles(2)])
        after = step(Joiner, Join("after", []))
        flow = Flow(body, on_error=lambda _: after)
        run = await client.start(flow)
        await kill_with_each(drill, place, url)
        survivor = await drill.start_up("joins", url, lease=LEASE)
        with pytest.raises(MessageFailed, match="'deadly' failed: Crashed"):
            await run.result(timeout=PATIENCE)
        await drill.wait_notes("ended", 2)
        await place.wait_empty(MEMBERS, JOINS)
        await survivor.stop()
        assert {one.name: one.status for one in await run.steps()} == {
            "deadly": Status.FAILURE,
            "double 2": Status.SUCCESS,
            "all": Status.CANCELLED,
        }
        await check_joins(place, {"after": []}, [2])


# ------------------------------------------------------------------------------------------------------------ doubles


def deliver_again(url: str, here: Redis | None, source: str) -> int:
    """Write everything that is in a source a second time, as it is; return how much that was."""
    if here is not None:
        entries: Any = here("XRANGE", source, "-", "+")
        here.pipeline([("XADD", source, "*", *fields) for _, fields in entries])
        return len(entries)
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as store, store:
        done = store.execute(
            "insert into entries (source, id, type, data, headers, born, addressee)"
            " select source, id, type, data, headers, born, addressee from entries"
            " where source = (select source from sources where name = ?) order by seq",
            (source,),
        )
        return done.rowcount


@pytest.mark.parametrize("depth", [1, pytest.param(3, marks=pytest.mark.long)])
@pytest.mark.parametrize("url", ["redis", "embedded"], indirect=True)
async def test_chords_within_chords_send_each_body_once_though_each_message_is_delivered_twice(
    request: pytest.FixtureRequest, url: str, drill: Drill, depth: int
):
    here: Redis | None = None if url.startswith("sqlite") else request.getfixturevalue("here")

    def nested(depth: int, name: str) -> Step[int]:
        if depth < 0:
            return step(Member, Double(1), name=f"double {name}")
        return joined(name, [nested(depth - 1, f"{name}{one}") for one in "ab"])

    async def work(source: str, count: int) -> None:
        """Let a node handle what is there, each message twice; the run is paused, so nothing follows meanwhile."""
        assert await run.pause()
        assert deliver_again(url, here, source) == count
        before = drill.ledger.count("ended")
        node = await drill.start_up("joins", url, lease=60)
        await drill.wait_notes("ended", before + 2 * count)
        await place.wait_empty(MEMBERS, JOINS)
        await node.stop()
        assert drill.ledger.count("ended") == before + 2 * count
        await run.resume()

    async with opened(url) as (place, client):
        run = await client.start(joined("last", [nested(depth, "x")]))
        await work(MEMBERS, 2 ** (depth + 1))
        for level in range(depth, -1, -1):
            await work(JOINS, 2**level)
        await work(JOINS, 1)
        assert await run.result(timeout=PATIENCE) == 2 ** (depth + 2)
        info = await run.info()
        assert info.done == info.total


@pytest.mark.parametrize("url", ["redis", "embedded"], indirect=True)
async def test_of_a_member_that_is_delivered_twice_the_first_settlement_gives_the_body_its_value(
    request: pytest.FixtureRequest, url: str
):
    here: Redis | None = None if url.startswith("sqlite") else request.getfixturevalue("here")
    async with (
        opened(url) as (place, client),
        open_consumer(place.broker, JOINS, group="by hand") as bodies,
    ):
        run = await client.start(joined("all", doubles(1)))
        assert deliver_again(url, here, MEMBERS) == 1
        async with open_consumer(place.broker, MEMBERS, group="by hand") as members:
            for value, delivery in enumerate(await members.take(2), 1):
                await members.settle(delivery, Ack(b"%d" % value))
        body = await bodies.take_one()
        payload: Any = body.payload
        assert json.loads(payload) == {"name": "all", "values": [1]}
        await bodies.settle(body, Ack(b"1"))
        await place.send(JOINS, ["after"])
        assert (await bodies.take_one()).payload == b'"after"'
        info = await run.info()
        assert (info.status, info.done) == (Status.SUCCESS, 2)


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.long)])
async def test_a_member_that_is_settled_in_one_batch_with_plain_messages_joins(url: str, drill: Drill, count: int):
    async with opened(url) as (place, client):
        plain = [Envelope(MEMBERS, f"plain-{number}", b'{"number":7}', "Double") for number in range(count)]
        await place.broker.publish(plain[: count // 2])
        run = await client.start(joined("all", doubles(5)))
        await place.broker.publish(plain[count // 2 :])
        node = await drill.start_up("joins", url)
        assert await run.result(timeout=PATIENCE) == 10
        await place.wait_empty(MEMBERS, JOINS)
        await node.stop()
        await check_joins(place, {"all": [10]}, [5, *[7] * count])


# -------------------------------------------------------------------------------------------------------------- chaos


@pytest.mark.parametrize("seconds", [2, pytest.param(10, marks=pytest.mark.chaos)])
async def test_chords_run_once_with_their_values_while_nodes_are_killed_at_random(
    url: str, drill: Drill, seconds: float
):
    dice = Random(7)
    async with opened(url) as (place, client):
        nodes = [drill.start("joins", url, lease=LEASE, max_crashes=MANY) for _ in range(3)]
        runs: dict[str, Run[int]] = {}
        over = trio.current_time() + seconds
        while trio.current_time() < over:
            for _ in range(5):
                first = 10 * len(runs)
                members = [step(Member, Double(number)) for number in range(first, first + 10)]
                name = f"chord {first}"
                runs[name] = await client.start(joined(name, members), id=name)
            await trio.sleep(dice.uniform(0.1, 0.8))
            turn = dice.randrange(3)
            await nodes[turn].kill()
            nodes[turn] = drill.start("joins", url, lease=LEASE, max_crashes=MANY)
        values = {name: [2 * number for number in range(10 * i, 10 * i + 10)] for i, name in enumerate(runs)}
        for name, run in runs.items():
            assert await run.result(timeout=PATIENCE) == sum(values[name])
        await place.wait_empty(MEMBERS, JOINS)
        for node in nodes:
            await node.wait_up()
            await node.stop()
        assert await place.broker.dead_letters.list() == []
        await check_joins(place, values, range(10 * len(runs)))
