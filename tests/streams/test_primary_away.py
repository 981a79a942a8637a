"""One of three primaries is away: what is at the others goes on, and it is known which one it is."""

import asyncio
import signal
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
import trio

from actorwork import Spool, open_client
from actorwork.asynchronous.opening import open_client as open_on_asyncio
from actorwork.blocking.opening import open_client as open_blocking
from actorwork.brokers import open_broker
from actorwork.events import BrokerAdvice, BrokerBack, BrokerLost, Event
from actorwork.message import Envelope
from actorwork.policy.settlement import Ack
from actorwork.policy.shards import NAME
from actorwork.streams import keys, lease
from actorwork.streams.broker import RedisBroker
from actorwork.streams.transport.client import RedisClient, open_client as open_transport
from actorwork.streams.transport.cluster import cluster_client
from actorwork.streams.transport.routing import Routing
from actorwork.testing.conformance import open_consumer, until as until_true
from actorwork.testing.redis_cluster import RedisCluster, open_redis_cluster
from actorwork.testing.redis_sentinel import Member, wait_for
from tests.patience import PATIENCE


def ignore(_event: Event) -> None:
    pass


T = TypeVar("T", BrokerBack, BrokerLost)
LAYOUTS = keys.shared(NAME)
"""How sources are divided: all look there."""


@pytest.fixture(scope="module")
def cluster() -> Generator[RedisCluster]:
    # Without it, all primaries refuse everything while the slots of one have none that lives.
    with open_redis_cluster(config={"cluster-require-full-coverage": "no"}) as cluster:
        yield cluster


def names_at(cluster: RedisCluster, member: Member, stem: str) -> Iterator[str]:
    return (name for number in count() if cluster.owner(name := f"{stem}{number}") is member)


@pytest.fixture
def victim(cluster: RedisCluster) -> Member:
    """The primary that will be away: not the one that tells nodes how sources are divided."""
    cluster.flush()
    return next(one for one in cluster.primaries if one is not cluster.owner(LAYOUTS))


@pytest.fixture
def there(cluster: RedisCluster, victim: Member) -> str:
    """A source at another primary."""
    return next(names_at(cluster, cluster.owner(LAYOUTS), "there"))


@pytest.fixture
def away(cluster: RedisCluster, victim: Member) -> str:
    """A source at the one that will be away."""
    return next(names_at(cluster, victim, "away"))


@asynccontextmanager
async def without(cluster: RedisCluster, victim: Member) -> AsyncGenerator[None]:
    """Let a primary be dead for the duration of a block; wait until all members have it back."""
    victim.kill()
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(bring_back, cluster, victim)


def bring_back(cluster: RedisCluster, victim: Member) -> None:
    victim.start()
    for member in cluster.members:
        wait_for(lambda member=member: knows_all(member), f"{member!r} to know that all are there")


def knows_all(member: Member) -> bool:
    known = member.call("CLUSTER", "NODES")
    return b"fail" not in known and b"disconnected" not in known


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - no event says so
            await trio.sleep(0.01)


async def test_it_is_known_which_one_is_away_and_that_the_others_are_not(
    cluster: RedisCluster, victim: Member, there: str
):
    seen: list[Event] = []
    async with open_broker(cluster.url, emit=seen.append) as broker:
        assert isinstance(broker, RedisBroker)
        await until(lambda: broker.servers() == (3, 0))
        async with without(cluster, victim):
            name = f"redis://127.0.0.1:{victim.port}"
            await until(lambda: broker.servers() == (3, 1) and told(seen, BrokerLost, name))
            lost = told(seen, BrokerLost, name)[-1]
            assert (lost.away < lost.servers, lost.servers) == (True, 3)
            await broker.publish([Envelope(there, "1", b"1")])
            assert await broker.backlog(there) == 1
        await until(lambda: broker.servers() == (3, 0))
        after = seen[seen.index(lost) :]
        assert told(after, BrokerBack, name)[-1].away < 3


def told(seen: Sequence[Event], kind: type[T], broker: str) -> Sequence[T]:
    """Return the events of a kind that are about one server."""
    return [event for event in seen if isinstance(event, kind) and event.broker == broker]


async def test_sources_at_one_primary_fail_together_and_apart_from_others(
    cluster: RedisCluster, victim: Member, there: str, away: str
):
    async with open_broker(cluster.url, emit=ignore) as broker:
        assert isinstance(broker, RedisBroker)
        second = list(zip(range(2), names_at(cluster, victim, "away"), strict=False))[1][1]
        assert broker.servers_of(away) == broker.servers_of(second) != broker.servers_of(there)


async def test_a_spool_keeps_only_what_is_for_the_one_that_is_away(
    cluster: RedisCluster, victim: Member, there: str, away: str, tmp_path: Path
):
    spool = Spool(path=tmp_path / "spool.sqlite3", patience=1.0)
    async with open_client(cluster.url, spool=spool) as client:
        await client.publish(there, 1)
        async with without(cluster, victim):
            await client.publish(away, 2)
            for number in range(3, 6):
                await client.publish(there, number)
            # What goes through the file all the same, since the machine is busy, does not wait behind the other one.
            await until(lambda: client.statistics()["spool_messages"] == 1)
            assert await client.broker.backlog(there) == 4
        with trio.fail_after(PATIENCE):
            await client.wait_replayed()
        assert await client.broker.backlog(away) == 1


def tell_in_a_thread(url: str, source: str) -> None:
    with open_blocking(url) as client:
        client.publish(source, 1)


def tell_on_asyncio(url: str, source: str) -> None:
    async def tell() -> None:
        async with open_on_asyncio(url) as client:
            await client.publish(source, 1)

    asyncio.run(tell())


def tell_on_trio(url: str, source: str) -> None:
    async def tell() -> None:
        async with open_client(url) as client:
            await client.publish(source, 1)

    trio.run(tell)


@pytest.mark.parametrize("tell", [tell_in_a_thread, tell_on_asyncio, tell_on_trio])
async def test_clients_of_all_kinds_are_opened_and_send_while_one_is_away(
    cluster: RedisCluster, tell: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Routing, "choose", min)
    cluster.flush()
    first = first_of(cluster)
    there = next(names_at(cluster, next(one for one in cluster.primaries if one is not first), "there"))
    async with without(cluster, first):
        await trio.to_thread.run_sync(tell, cluster.url, there)
    async with open_broker(cluster.url, emit=ignore) as broker:
        assert await broker.backlog(there) == 1


def first_of(cluster: RedisCluster) -> Member:
    """Return the primary that a client chooses, if it chooses the first: for subscriptions, and what has no key."""
    return min(cluster.primaries, key=lambda member: member.place)


async def test_subscriptions_move_on_from_one_that_is_away(cluster: RedisCluster):
    seen: list[Any] = []
    async with open_transport(cluster.url, make=cluster_client(), on_push=seen.append) as client:
        await client.subscribe("news")
        await until(lambda: client.servers() == (3, 0))
        first = home_of(client, cluster)
        async with without(cluster, first):
            other = next(one for one in cluster.primaries if one is not first)
            await until(lambda: other.call("PUBLISH", "news", "1") and [b"message", b"news", b"1"] in seen)
            with trio.fail_after(PATIENCE):
                await client.subscribe("more")
                assert await client.call("PING", idempotent=True) == b"PONG"
        await until(lambda: client.servers() == (3, 0))
        # Its connections to the others may not be there yet, and then nothing that is published at it arrives.
        await until(lambda: first.call("PUBLISH", "more", "2") and [b"message", b"more", b"2"] in seen)
        for text in ("once", "last"):
            first.call("PUBLISH", "more", text)
        await until(lambda: [b"message", b"more", b"last"] in seen)
        assert seen.count([b"message", b"more", b"once"]) == 1


async def test_a_command_without_a_key_is_answered_by_another_primary_when_its_own_is_lost(cluster: RedisCluster):
    answers: list[Any] = []
    async with open_transport(cluster.url, make=cluster_client()) as client, trio.open_nursery() as nursery:
        await until(lambda: client.servers() == (3, 0))

        async def ask(*command: str) -> None:
            answers.append(await client.call(*command, idempotent=True))

        async def ask_many() -> None:
            answers.extend(await client.call_many([("PING",), ("TIME",)], idempotent=True))

        home = home_of(client, cluster)
        home.send_signal(signal.SIGSTOP)
        nursery.start_soon(ask, "PING")
        nursery.start_soon(ask_many)
        await until(lambda: client.statistics().in_flight >= 2)
        async with without(cluster, home):
            await until(lambda: len(answers) == 3)
    assert answers.count(b"PONG") == 2


async def test_what_a_program_on_asyncio_asks_without_a_key_is_answered_when_its_primary_is_lost(cluster: RedisCluster):
    is_open, is_stopped, sent = trio.Event(), threading.Event(), trio.Event()

    async def ask() -> Any:
        async with open_on_asyncio(cluster.url) as opened:
            client = cast("Any", opened.broker)._commands
            while not all(one.is_connected for one in client._primaries.values()):  # noqa: ASYNC110 - no event says so
                await asyncio.sleep(0.01)
            home.append(home_of(client, cluster))
            trio.from_thread.run_sync(is_open.set, trio_token=token)
            await asyncio.to_thread(is_stopped.wait)
            asking = asyncio.create_task(client.call("PING", idempotent=True))
            while not client._homing:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0)
            trio.from_thread.run_sync(sent.set, trio_token=token)
            return await asking

    token = trio.lowlevel.current_trio_token()
    home: list[Member] = []
    answers: list[Any] = []

    async def ask_in_a_thread() -> None:
        answers.append(await trio.to_thread.run_sync(asyncio.run, ask()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask_in_a_thread)
        with trio.fail_after(PATIENCE):
            await is_open.wait()
            home[0].send_signal(signal.SIGSTOP)
            is_stopped.set()
            await sent.wait()
        async with without(cluster, home[0]):
            await until(lambda: answers)
    assert answers == [b"PONG"]


def home_of(client: Any, cluster: RedisCluster) -> Member:
    """Return the primary where commands without a key go."""
    return next(one for one in cluster.primaries if one.place == client._home)


async def test_a_diagnosis_names_the_one_that_is_away(cluster: RedisCluster, victim: Member):
    seen: list[Event] = []
    async with without(cluster, victim), open_broker(cluster.url, emit=seen.append) as broker:
        (found,) = [one for one in await broker.diagnose() if f"127.0.0.1:{victim.port}" in one.text]
    assert found.level == "warning"
    assert "is away" in found.text
    assert [event for event in seen if isinstance(event, BrokerAdvice) and event.text == found.text]


async def test_what_a_handler_publishes_to_one_that_is_away_holds_up_nothing_for_others(
    cluster: RedisCluster, victim: Member, there: str, away: str
):
    third = next(one for one in cluster.primaries if one not in (victim, cluster.owner(LAYOUTS)))
    other = next(names_at(cluster, third, "other"))
    async with open_broker(cluster.url, emit=ignore) as broker, open_consumer(broker, there) as consumer:
        assert isinstance(broker, RedisBroker)
        await broker.publish([Envelope(there, "1", b"1")])
        delivery = await consumer.take_one()

        async def is_there(source: str) -> bool:
            return await broker.backlog(source) == 1

        async with without(cluster, victim):
            await until(lambda: broker.servers() == (3, 1))
            sent = [Envelope(away, "a", b"1"), Envelope(other, "b", b"1")]
            consumer.node.settle(consumer.subscription, delivery, Ack(), sent)
            await until_true(partial(is_there, other), "what is for another primary")
        await until_true(partial(is_there, away), "what is for the one that was away")


def incarnations_at(cluster: RedisCluster, member: Member) -> Iterator[str]:
    return (name for number in count() if cluster.owner(keys.lease(name := f"{number:032x}")) is member)


async def test_a_dead_node_is_found_by_its_lease_at_one_primary_while_those_of_others_cannot_be_looked_at(
    cluster: RedisCluster, victim: Member, there: str, monkeypatch: pytest.MonkeyPatch
):
    at_the_victim = incarnations_at(cluster, victim)
    monkeypatch.setattr(lease, "new_incarnation", lambda: next(at_the_victim))
    dead = next(incarnations_at(cluster, cluster.owner(LAYOUTS)))
    async with open_broker(cluster.url, emit=ignore) as broker, open_consumer(broker, there) as consumer:
        assert isinstance(broker, RedisBroker)
        async with without(cluster, victim):
            await until(lambda: broker.servers() == (3, 1))
            await take_as(broker.client, dead, consumer.subscription.group, there)
            with trio.fail_after(PATIENCE):
                delivery = await consumer.take_one()
            assert (delivery.id, delivery.crashes) == ("1", 1)


async def take_as(client: RedisClient, node: str, group: str, source: str) -> Sequence[Any]:
    """Take a message as a node does that dies then: one that nobody else can have taken first."""
    script = """\
redis.call('XADD', KEYS[1], '*', 'id', '1', 'data', '1')
return redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', 1, 'STREAMS', KEYS[1], '>')
"""
    return await client.call("EVAL", script, 1, source, group, node)
