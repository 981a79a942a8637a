"""What a message and a node cost a cluster, by commands and connections, whatever the number of its primaries."""

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import trio

from actorwork import Actor, Settings, open_client, open_system, receive
from actorwork.asynchronous.opening import open_client as open_on_asyncio
from actorwork.brokers import open_broker
from actorwork.clients.receipts import Receipt
from actorwork.events import Event
from actorwork.message import Envelope, MessageIds, Status
from actorwork.streams.broker import RedisBroker
from actorwork.streams.keys import PAUSED, REPORTS, TRIGGER_CHANGES
from actorwork.sync import open_client as open_sync_client
from actorwork.testing.conformance import open_consumer
from actorwork.testing.redis_cluster import RedisCluster, open_redis_cluster
from actorwork.testing.redis_sentinel import Member
from tests.forms import forms
from tests.patience import PATIENCE

EACH = 20
AS_MANY = pytest.mark.parametrize("primaries", forms(3, more=[6, 12]))


def ignore(_event: Event) -> None:
    pass


@contextmanager
def cluster_of(primaries: int, three: RedisCluster) -> Generator[RedisCluster]:
    if primaries == len(three.primaries):
        three.flush()
        yield three
        return
    with open_redis_cluster(primaries=primaries, node_timeout=20) as cluster:
        yield cluster


def calls(member: Member) -> Counter[str]:
    text = member.call("INFO", "commandstats").decode()
    return Counter({name: int(number) for name, number in re.findall(r"cmdstat_([a-z|]+):calls=(\d+)", text)})


def connections(cluster: RedisCluster) -> list[Counter[str]]:
    """Return, of each primary, how many connections it has, by their names."""
    lists = [member.call("CLIENT", "LIST").decode() for member in cluster.primaries]
    return [Counter(re.findall(r" name=(actorwork\S*)", text)) for text in lists]


@AS_MANY
async def test_a_message_takes_as_many_commands_whatever_the_number_of_primaries_and_each_has_its_share(
    primaries: int, redis_cluster: RedisCluster
):
    ids = MessageIds("0123456789abcdef")
    with cluster_of(primaries, redis_cluster) as cluster:
        count = EACH * primaries
        async with open_broker(cluster.url, emit=ignore) as broker:
            await broker.shards.declare("orders", primaries)
            before = [calls(member) for member in cluster.primaries]
            for _ in range(count):
                await broker.publish_new(Envelope("orders", next(ids), b"1"))
            async with open_consumer(broker, "orders") as consumer:
                for delivery in await consumer.take(count):
                    await consumer.settle(delivery)
            assert await broker.backlog("orders") == 0
        each = [calls(member) - known for member, known in zip(cluster.primaries, before, strict=True)]
    total = sum(each, Counter[str]())
    added = [one["xadd"] for one in each]
    assert sum(added) == count
    # By their ids, which are always the same here.
    assert max(added) < 1.6 * EACH
    assert min(added) > 0.5 * EACH
    # What is published at one primary costs all of them.
    assert total["publish"] == 0


async def test_of_a_submitted_message_is_published_what_a_client_waits_for_and_no_more(redis_cluster: RedisCluster):
    redis_cluster.flush()

    gate = trio.Event()

    class Doubler(Actor):
        settings = Settings(title="doubler")

        @receive
        async def double(self, *, number: int) -> int:
            await gate.wait()
            return 2 * number

    def published() -> int:
        return sum(calls(member)["publish"] for member in redis_cluster.primaries)

    async with open_system(Doubler, broker=redis_cluster.url), open_client(redis_cluster.url) as client:
        ref = client.ref(Doubler)
        gate.set()
        first = await ref.submit({"number": 1})
        assert await first.result(timeout=PATIENCE) == 2
        before = published()
        receipts = [await ref.submit({"number": number}) for number in range(10)]
        with trio.fail_after(PATIENCE):
            for receipt in receipts:
                while (await receipt.status()) is not Status.SUCCESS:  # noqa: ASYNC110 - it is not to be watched
                    await trio.sleep(0.01)
        assert published() == before
        gate = trio.Event()
        waiting = [await ref.submit({"number": number}) for number in range(3)]
        results: list[int] = []

        async def wait(receipt: Receipt[int]) -> None:
            results.append(await receipt.result(timeout=PATIENCE))

        async with trio.open_nursery() as nursery:
            for receipt in waiting:
                nursery.start_soon(wait, receipt)
            await until_watched(redis_cluster, [receipt.id for receipt in waiting])
            gate.set()
        assert sorted(results) == [0, 2, 4]
        assert published() >= before + 3


async def until_watched(cluster: RedisCluster, messages: Sequence[str]) -> None:
    for one in messages:
        with trio.fail_after(PATIENCE):
            while not any(  # noqa: ASYNC110 - no event says so
                one.encode() in member.call("KEYS", f"actorwork:{{*}}:watched:{one}") for member in cluster.primaries
            ):
                await trio.sleep(0.01)


class Echo(Actor):
    settings = Settings(title="echo")

    @receive
    async def echo(self, *, number: int) -> int:
        return number


def told(cluster: RedisCluster) -> Counter[str]:
    """Return how often something was published to all primaries, and at one only."""
    found = sum((calls(member) for member in cluster.primaries), Counter[str]())
    return Counter({name: found[name] for name in ("publish", "spublish")})


def knows_slots_channels(cluster: RedisCluster) -> bool:
    """Return whether channels may be those of a slot: from Redis 7.0 on."""
    return int(cluster.primaries[0].info("server")["redis_version"].partition(".")[0]) >= 7


def expected(cluster: RedisCluster) -> list[int]:
    return [10, 10] if knows_slots_channels(cluster) else [0, 0]


async def ask_near(cluster: RedisCluster, client: Any, sleep: Callable[[float], Awaitable[object]]) -> list[int]:
    """Ask until the reply comes from one primary alone, and ten times more; return how many of these did."""
    source = Echo.settings.default_source
    counts: list[int] = []
    for _ in range(2):
        before = told(cluster)
        while knows_slots_channels(cluster) and not (told(cluster) - before)["spublish"]:
            before = told(cluster)
            assert await client.ref(Echo).ask({"number": 1}, timeout=PATIENCE) == 1
            await sleep(0.01)
        before = told(cluster)
        for number in range(10):
            assert await client.ref(Echo).ask({"number": number}, timeout=PATIENCE) == number
        counts.append((told(cluster) - before)["spublish"])
        # Its slot moves, and the subscription ends with it.
        owner = cluster.owner(source)
        cluster.move(source, next(one for one in cluster.primaries if one is not owner))
    return counts


async def test_a_reply_comes_from_the_primary_of_the_source_alone_wherever_it_is(redis_cluster: RedisCluster):
    redis_cluster.flush()
    async with open_system(Echo, broker=redis_cluster.url), open_client(redis_cluster.url) as client:
        assert await ask_near(redis_cluster, client, trio.sleep) == expected(redis_cluster)


async def test_a_program_on_asyncio_gets_replies_from_the_primary_of_the_source_alone(redis_cluster: RedisCluster):
    async def ask() -> list[int]:
        async with open_on_asyncio(redis_cluster.url) as client:
            return await ask_near(redis_cluster, client, asyncio.sleep)

    redis_cluster.flush()
    async with open_system(Echo, broker=redis_cluster.url):
        assert await trio.to_thread.run_sync(asyncio.run, ask()) == expected(redis_cluster)


@AS_MANY
async def test_a_node_has_one_connection_to_each_primary_one_for_each_shard_and_one_for_its_lease(
    primaries: int, redis_cluster: RedisCluster
):
    with cluster_of(primaries, redis_cluster) as cluster:
        async with open_broker(cluster.url, emit=ignore) as broker:
            assert isinstance(broker, RedisBroker)
            await broker.shards.declare("orders", primaries)
            async with open_consumer(broker, "orders"):
                with trio.fail_after(PATIENCE):
                    while sum(one["actorwork-reader"] for one in connections(cluster)) < primaries:  # noqa: ASYNC110
                        await trio.sleep(0.01)
                found = connections(cluster)
    assert [one["actorwork"] for one in found] == [1] * primaries
    assert [one["actorwork-reader"] for one in found] == [1] * primaries
    assert sum(one["actorwork-lease"] for one in found) == 1


OF_A_NODE = {"set", "time", "exists", "lpop"}
"""What a node sends wherever its own keys are: it renews its lease, and then looks for commands to it."""
OF_THE_TEST = ("client", "cluster", "config", "hello", "info", "ping")


async def test_an_idle_node_asks_nothing_of_a_primary_that_has_none_of_its_sources(
    redis_cluster: RedisCluster,
):
    redis_cluster.flush()
    source = Echo.settings.default_source
    there = redis_cluster.owner(source)
    asked = {there, redis_cluster.owner(PAUSED), redis_cluster.owner(REPORTS), redis_cluster.owner(TRIGGER_CHANGES)}

    def maintained(known: Counter[str]) -> int:
        return (calls(there) - known)["hscan"]

    async with open_system(Echo, broker=redis_cluster.url):
        with trio.fail_after(PATIENCE):
            while True:
                begun = calls(there)
                others = {member: calls(member) for member in redis_cluster.primaries if member not in asked}
                while maintained(begun) < 2:  # noqa: ASYNC110 - no event says so
                    await trio.sleep(0.02)
                sent = {name for member, known in others.items() for name in calls(member) - known}
                if all(name in OF_A_NODE or name.startswith(OF_THE_TEST) for name in sent):
                    break  # Else it has begun only now.
    assert others


async def test_a_program_that_blocks_gets_replies_from_the_primary_of_the_source_alone_until_its_slot_moves(
    redis_cluster: RedisCluster,
):
    def ask() -> None:
        with open_sync_client(redis_cluster.url) as client:
            ref = client.ref(Echo)
            counts: list[Counter[str]] = []
            for _ in range(2):
                before = told(redis_cluster)
                assert [ref.ask({"number": number}, timeout=PATIENCE) for number in range(10)] == list(range(10))
                counts.append(told(redis_cluster) - before)
                owner = redis_cluster.owner(Echo.settings.default_source)
                other = next(one for one in redis_cluster.primaries if one is not owner)
                redis_cluster.move(Echo.settings.default_source, other)
            assert counts[0]["publish"] == (0 if knows_slots_channels(redis_cluster) else 10)
            # It stays at the primary at which it listens, and hears there what is published to all.
            assert counts[1].total() >= 10

    redis_cluster.flush()
    async with open_system(Echo, broker=redis_cluster.url):
        await trio.to_thread.run_sync(ask)
