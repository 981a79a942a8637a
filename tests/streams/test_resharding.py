"""A source is moved to another number of shards: nothing is lost, doubled, or overtaken, whichever program dies."""

import json
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from actorwork.brokers import open_broker
from actorwork.errors import BrokerError
from actorwork.events import Event
from actorwork.message import RESULT_TTL, Envelope, MessageIds, Priority, Status, Unique
from actorwork.policy.settlement import Ack, Fail, Retry
from actorwork.policy.shards import Layout
from actorwork.records import MessageInfo
from actorwork.streams import dividing
from actorwork.streams.broker import RedisBroker
from actorwork.testing.conformance import open_consumer, until
from actorwork.testing.conformance.fake_consumer import FAILURE, FakeConsumer, true_of
from actorwork.testing.redis_cluster import RedisCluster

KEYS = 5
KEYED = range(30)
PLAIN = range(100, 130)
URGENT = range(200, 206)
LATER = range(300, 310)
BEHIND = range(400, 404)
UNIQUE = 500
DEAD = 600
SHARED = range(700, 706)
TRACKED = range(800, 805)
OVER = 810
ALL = {*KEYED, *PLAIN, *URGENT, *LATER, *BEHIND, UNIQUE, *SHARED, *TRACKED}


def ignore(_event: Event) -> None:
    pass


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[RedisBroker]:
    async with open_broker(url, emit=ignore) as broker:
        assert isinstance(broker, RedisBroker)
        yield broker


def envelope(number: int, **options: Any) -> Envelope:
    return Envelope("orders", f"message-{number}", json.dumps({"number": number}).encode(), **options)


def tracked(number: int, **options: Any) -> Envelope:
    return envelope(number, headers={RESULT_TTL: 3600}, **options)


async def life(broker: RedisBroker, number: int) -> MessageInfo:
    info = await broker.states.find("orders", f"message-{number}")
    assert info is not None, f"message {number} is not known"
    return info


def number_of(payload: object) -> int:
    assert isinstance(payload, bytes)
    return json.loads(payload)["number"]


async def handle(consumer: FakeConsumer, count: int) -> list[tuple[str | None, int, int]]:
    """Settle so many deliveries, one after the other; return the key, the number and the attempt of each."""
    found: list[tuple[str | None, int, int]] = []
    for _ in range(count):
        delivery = await consumer.take_one()
        found.append((delivery.key, number_of(delivery.payload), delivery.attempt))
        await consumer.settle(delivery)
    return found


async def fill(broker: RedisBroker) -> None:
    """Leave messages of every kind in the source, for two groups, the second of which has had some of them."""
    async with (
        open_consumer(broker, "orders", group="first") as first,
        open_consumer(broker, "orders", group="second") as second,
    ):
        await broker.publish([envelope(DEAD), envelope(BEHIND[0], key="behind"), tracked(OVER)])
        for _ in range(3):
            await second.settle(await second.take_one(), Ack(b"17"))
        ends = {DEAD: Fail(FAILURE), BEHIND[0]: Retry(1.0, FAILURE), OVER: Ack(b"17")}
        for delivery in await first.take(3):
            await first.settle(delivery, ends[number_of(delivery.payload)])
        await broker.publish([envelope(number) for number in SHARED])
        for _ in SHARED:
            await second.settle(await second.take_one())
        await first.release_deliveries(*await first.take(len(SHARED)))
    await broker.pauses.pause("source", "orders")
    await broker.publish([envelope(number, key="behind") for number in BEHIND[1:]])
    await broker.publish([envelope(number, key=f"key-{number % KEYS}") for number in KEYED])
    await broker.publish([envelope(number) for number in PLAIN])
    await broker.publish([envelope(number, priority=Priority.HIGH) for number in URGENT])
    await broker.publish([envelope(number, at=time.time() + 1.0, key=f"later-{number % 3}") for number in LATER])
    await broker.publish_unique(envelope(UNIQUE, unique=Unique("one", ttl=3600, on_conflict="first")))
    await broker.publish([tracked(TRACKED[0]), tracked(TRACKED[1], delay=0.5), tracked(TRACKED[2], key="key-0")])
    await broker.publish([tracked(number, priority=Priority.HIGH) for number in TRACKED[3:]])


async def check(broker: RedisBroker, shards: int) -> None:
    """Handle all that is in the source; each must come once for each group that has not had it, in order."""
    assert await broker.shards.list() == {"orders": shards}
    assert await broker.publish([envelope(number) for number in PLAIN]) == 0
    unique = envelope(UNIQUE + 1, unique=Unique("one", on_conflict="first"))
    assert await broker.publish_unique(unique) == f"message-{UNIQUE}"
    letters = await broker.dead_letters.list("orders")
    assert [number_of(letter.payload) for letter in letters] == [DEAD]
    assert {(await life(broker, number)).status for number in TRACKED} == {Status.PENDING}
    assert (await life(broker, OVER)).status is Status.SUCCESS
    outcome = await broker.find_outcome("orders", f"message-{OVER}")
    assert outcome is not None
    assert outcome.value == b"17"
    await broker.pauses.resume("source", "orders")
    async with (
        open_consumer(broker, "orders", group="first") as first,
        open_consumer(broker, "orders", group="second") as second,
    ):
        found: dict[str, list[tuple[str | None, int, int]]] = {}

        async def of(name: str, consumer: FakeConsumer, count: int) -> None:
            found[name] = await handle(consumer, count)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(of, "first", first, len(ALL))
            nursery.start_soon(of, "second", second, len(ALL) - len(SHARED) - 1)
        await broker.publish([envelope(900)])
        for consumer in (first, second):
            await consumer.expect_only("message-900")
    assert {(await life(broker, number)).status for number in TRACKED} == {Status.SUCCESS}
    numbers = {name: [number for _, number, _ in some] for name, some in found.items()}
    assert sorted(numbers["first"]) == sorted(ALL)
    assert sorted(numbers["second"]) == sorted(ALL - {*SHARED, BEHIND[0]})
    for some in found.values():
        by_key: dict[str | None, list[int]] = {}
        for key, number, _ in some:
            by_key.setdefault(key, []).append(number)
        del by_key[None]
        assert all(of_key == sorted(of_key) for of_key in by_key.values()), by_key
    assert ("behind", BEHIND[0], 2) in found["first"]


@pytest.mark.parametrize(("before", "after"), [(4, 3), (1, 4)])
async def test_all_that_a_source_holds_is_moved(url: str, before: int, after: int):
    async with opened(url) as broker:
        await broker.shards.declare("orders", before)
        await fill(broker)
        counts: list[int] = []
        moved = await broker.shards.reshard("orders", after, progress=counts.append)
        assert moved == counts[-1] == len(ALL) + 1
        assert await broker.shards.reshard("orders", after) == 0
        await check(broker, after)


async def test_a_message_of_a_source_that_was_moved_is_found_by_its_id_and_goes_on_with_its_life(url: str):
    ids = MessageIds("0123456789abcdef")
    done, failed, retried, later, waiting = (next(ids) for _ in range(5))

    def sent(id: str, **options: Any) -> Envelope:
        return Envelope("orders", id, b"1", headers={RESULT_TTL: 3600}, **options)

    async with opened(url) as broker:
        await broker.shards.declare("orders", 4)
        async with open_consumer(broker, "orders") as consumer:
            await broker.publish([sent(done), sent(failed), sent(retried)])
            ends = {done: Ack(b"7"), failed: Fail(FAILURE), retried: Retry(1.0, FAILURE)}
            for delivery in await consumer.take(3):
                await consumer.settle(delivery, ends[delivery.id])
        await broker.pauses.pause("source", "orders")
        await broker.publish([sent(later, delay=3600), sent(waiting)])
        await broker.shards.reshard("orders", 3)

        async def states() -> dict[str, Status]:
            found = [await broker.states.find("orders", one) for one in (done, failed, retried, later, waiting)]
            return {info.id: info.status for info in found if info is not None}

        ended = {done: Status.SUCCESS, failed: Status.FAILURE}
        assert await states() == {**ended, retried: Status.RETRY, later: Status.PENDING, waiting: Status.PENDING}
        assert {await broker.states.locate(one) for one in ended} == {"orders"}
        assert await broker.states.locate(waiting) == "orders"
        listed = await broker.states.newest("orders", limit=10)
        assert {one.info.id for one in listed} == {done, failed, retried, later, waiting}
        assert await broker.states.forget("orders", done)
        assert await broker.find_outcome("orders", done) is None
        assert await broker.cancel_message("orders", later, reason="too late")
        (letter,) = await broker.dead_letters.list("orders")
        assert await broker.dead_letters.replay("orders", [letter.entry]) == 1
        await broker.pauses.resume("source", "orders")
        async with open_consumer(broker, "orders") as consumer:
            for _ in range(3):
                delivery = await consumer.take_one()
                await consumer.settle(delivery, Ack(delivery.id[-1:].encode()))
        now = dict.fromkeys((failed, retried, waiting), Status.SUCCESS)
        assert await states() == {**now, later: Status.CANCELLED}
        outcomes = [await broker.find_outcome("orders", one) for one in now]
        assert [one.value for one in outcomes if one is not None] == [one[-1:].encode() for one in now]


async def test_a_message_that_is_on_its_way_is_known_and_cancelled_once_it_is_there(
    url: str, monkeypatch: pytest.MonkeyPatch
):
    async with opened(url) as broker, opened(url) as other:
        await broker.pauses.pause("source", "orders")
        await broker.publish([tracked(1), tracked(2, key="k"), envelope(3)])
        with monkeypatch.context() as patch:
            patch.setattr(dividing, "_DRAINED", die)
            with pytest.raises(Died):
                await broker.shards.reshard("orders", 4)
        assert {(await life(broker, number)).status for number in (1, 2)} == {Status.PENDING}
        answers: list[bool] = []
        pauses: list[float] = []

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)
            await trio.sleep(seconds)

        async def cancel(message_id: str) -> None:
            answers.append(await other.cancel_message("orders", message_id, reason="not wanted"))

        other.layouts.sleep = sleep
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel, "message-1")
            nursery.start_soon(cancel, "message-2")
            await until(true_of(lambda: len(pauses) >= 2), "both to wait")
            assert answers == []
            await broker.shards.reshard("orders", 4)
        assert answers == [True, True]
        assert {(await life(broker, number)).status for number in (1, 2)} == {Status.CANCELLED}
        await broker.pauses.resume("source", "orders")
        async with open_consumer(broker, "orders") as consumer:
            await consumer.expect_only("message-3")


class Died(BaseException):
    """Stands for the death of the process: what it has done is at the server, and it does no more."""


def die() -> None:
    raise Died


POINTS = {"_DRAINED": (1, 9), "_ARRIVED": (1, 2, 17), "_MOVED": (1, 9), "_REPLACED": (1, 4), "_STORED": (1,)}


@pytest.mark.parametrize(
    ("point", "turn"),
    [
        *((point, turns[-1]) for point, turns in POINTS.items()),
        *(pytest.param(point, turn, marks=pytest.mark.long) for point, turns in POINTS.items() for turn in turns[:-1]),
    ],
)
async def test_when_the_program_dies_the_next_one_moves_the_rest(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, point: str, turn: int
):
    await die_and_go_on(redis_url, monkeypatch, {point: turn})


@pytest.mark.parametrize("point", ["_ARRIVED", "_REPLACED"])
async def test_when_the_program_dies_on_a_cluster_the_next_one_moves_the_rest(
    redis_cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch, point: str
):
    redis_cluster.flush()
    await die_and_go_on(redis_cluster.url, monkeypatch, {point: 2})


async def die_and_go_on(url: str, monkeypatch: pytest.MonkeyPatch, points: Mapping[str, int]) -> None:
    monkeypatch.setattr(dividing, "_AT_ONCE", 7)
    async with opened(url) as broker:
        await broker.shards.declare("orders", 4)
        await fill(broker)
        with monkeypatch.context() as patch:
            for point, turn in points.items():
                left = iter(range(turn - 1, -1, -1))

                def die(left: Iterator[int] = left) -> None:
                    if next(left) == 0:
                        raise Died

                patch.setattr(dividing, point, die)
            with pytest.raises(Died):
                await broker.shards.reshard("orders", 3)
    async with opened(url) as broker:
        await broker.shards.reshard("orders", 3)
        await check(broker, 3)


async def test_two_programs_that_move_a_source_at_once_move_each_message_once(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(dividing, "_AT_ONCE", 7)
    async with opened(redis_url) as broker, opened(redis_url) as other:
        await broker.shards.declare("orders", 4)
        await fill(broker)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(broker.shards.reshard, "orders", 3)
            nursery.start_soon(other.shards.reshard, "orders", 3)
        await check(broker, 3)


async def test_who_sends_while_a_source_is_moved_loses_nothing_and_keeps_the_order_of_keys(
    url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(dividing, "_AT_ONCE", 7)
    sent = 0
    async with opened(url) as broker, opened(url) as sender:
        await broker.shards.declare("orders", 4)
        await broker.pauses.pause("source", "orders")
        await broker.publish([envelope(number, key=f"key-{number % KEYS}") for number in range(100)])

        async def send_on(*, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
            nonlocal sent
            with trio.CancelScope() as scope:
                task_status.started(scope)
                while True:
                    number = 100 + sent
                    with trio.CancelScope(shield=True):
                        assert await sender.publish([envelope(number, key=f"key-{number % KEYS}")]) == 1
                    sent += 1
                    await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            scope: trio.CancelScope = await nursery.start(send_on)
            await broker.shards.reshard("orders", 3)
            before = sent
            await until(true_of(lambda: sent > before + 3), "sending goes on")
            scope.cancel()
        await broker.pauses.resume("source", "orders")
        async with open_consumer(broker, "orders") as consumer:
            found = await handle(consumer, 100 + sent)
            await broker.publish([envelope(9000)])
            await consumer.expect_only("message-9000")
    by_key: dict[str | None, list[int]] = {}
    for key, number, _ in found:
        by_key.setdefault(key, []).append(number)
    assert by_key == {f"key-{key}": list(range(key, 100 + sent, KEYS)) for key in range(KEYS)}


async def _is_left(broker: RedisBroker, message_id: str) -> bool:
    """Whether nothing is left in the old shards but one message."""
    found = [await broker.client.call("XRANGE", name, "-", "+") for name in Layout("orders", 4).names]
    return [fields[1].decode() for entries in found for _, fields in entries] == [message_id]


async def test_what_is_in_flight_is_waited_for_and_what_a_dead_node_had_is_moved(url: str):
    async with opened(url) as broker:
        await broker.shards.declare("orders", 4)
        await broker.publish([envelope(number) for number in range(20)])
        async with (
            open_consumer(broker, "orders", lease=60) as living,
            open_consumer(broker, "orders", group="other", lease=60) as dying,
        ):
            await dying.take(20)
            first, *others = await living.take(20)
            await broker.pauses.pause("source", "orders")
            for consumer in (living, dying):
                consumer.node.pause_sources(consumer.subscription, ["orders"])
            for delivery in others:
                await living.settle(delivery)
            assert await broker.release_lease(dying.node.incarnation)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(broker.shards.reshard, "orders", 3)
                await until(lambda: _is_left(broker, first.id), "all but one are moved")
                assert await broker.shards.list() == {"orders": 4}
                await living.settle(first)
        assert await broker.shards.list() == {"orders": 3}
        await broker.pauses.resume("source", "orders")
        async with open_consumer(broker, "orders", group="other") as heir:
            done = [number for _, number, _ in await handle(heir, 20)]
        assert sorted(done) == list(range(20))


async def test_a_node_that_was_paused_goes_on_with_the_new_shards(url: str):
    async with opened(url) as broker:
        await broker.shards.declare("orders", 4)
        async with open_consumer(broker, "orders") as consumer:
            consumer.node.pause_sources(consumer.subscription, ["orders"])
            await broker.pauses.pause("source", "orders")
            await broker.publish([envelope(number) for number in range(20)])
            await broker.shards.reshard("orders", 3)
            await broker.publish([envelope(number) for number in range(20, 40)])
            assert not consumer.waiting
            consumer.node.pause_sources(consumer.subscription, [])
            assert sorted(number for _, number, _ in await handle(consumer, 40)) == list(range(40))


async def test_what_waits_in_an_outbox_for_an_old_shard_reaches_a_new_one(redis_cluster: RedisCluster):
    redis_cluster.flush()
    async with opened(redis_cluster.url) as broker:
        await broker.shards.declare("orders", 4)
        old = Layout("orders", 4)
        async with open_consumer(broker, "requests") as consumer:
            await broker.publish([Envelope("requests", "request", b"{}")])
            request = await consumer.take_one()
            await broker.pauses.pause("source", "orders")
            async with opened(redis_cluster.url) as other:
                await other.shards.reshard("orders", 3)
            assert broker.layouts.known["orders"].names == old.names
            await consumer.settle(request, Ack(), [envelope(number) for number in range(10)])
            async with open_consumer(broker, "orders") as reader:
                assert sorted(number for _, number, _ in await handle(reader, 10)) == list(range(10))


# ------------------------------------------------------------------------------------------------- what is refused


async def test_a_source_that_is_not_paused_is_not_moved(url: str):
    async with opened(url) as broker:
        await broker.shards.declare("orders", 4)
        with pytest.raises(BrokerError, match="the source 'orders' is not paused: actorwork pause --source orders"):
            await broker.shards.reshard("orders", 3)
        assert await broker.shards.list() == {"orders": 4}


async def test_an_entry_that_is_too_large_to_move_is_named_and_the_rest_moves_once_it_is_deleted(redis_url: str):
    async with opened(redis_url) as broker:
        await broker.publish([Envelope("orders", "before", b"1")])
        fields = [part for number in range(4000) for part in (f"field-{number}", "x")]
        entry = (await broker.client.call("XADD", "orders", "*", *fields)).decode()
        await broker.publish([Envelope("orders", "after", b"1")])
        await broker.pauses.pause("source", "orders")
        with pytest.raises(
            BrokerError, match=rf"{entry} of orders has 4000 fields, .* 3500: .*\(XDEL orders {entry}\)"
        ):
            await broker.shards.reshard("orders", 3)
        await broker.client.call("XDEL", "orders", entry)
        assert await broker.shards.reshard("orders", 3) == 2
        assert await broker.backlog("orders") == 2


async def test_a_move_that_was_not_finished_is_finished_with_the_same_number(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
):
    def die() -> None:
        raise Died

    async with opened(redis_url) as broker:
        await broker.shards.declare("orders", 4)
        await broker.pauses.pause("everything")
        with monkeypatch.context() as patch:
            patch.setattr(dividing, "_DRAINED", die)
            with pytest.raises(Died):
                await broker.shards.reshard("orders", 3)
        with pytest.raises(BrokerError, match="is being divided into 3 shards, which was not finished"):
            await broker.shards.reshard("orders", 5)
        await broker.shards.reshard("orders", 3)
        await broker.shards.reshard("orders", 5)
        assert await broker.shards.list() == {"orders": 5}


async def test_nothing_but_the_places_of_old_shards_is_left_of_them(url: str):
    async with opened(url) as broker:
        await broker.shards.declare("orders", 4)
        await fill(broker)
        await broker.shards.reshard("orders", 3)
        left = await broker.client.names("actorwork:{orders.1.*}:*")
        tails = {name.partition(b"}:")[2] for name in left}
        assert tails == {b"delayed", b"priority:critical", b"priority:high", b"priority:low"}
