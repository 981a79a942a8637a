"""Redis Cluster: every command where its keys are, also while these move."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import count
from typing import Any

import pytest
import trio
from redis.crc import key_slot as slot_by_redis_py

import actorwork
from actorwork import Actor, Entity, Settings, open_system, receive
from actorwork.asynchronous.opening import open_client as open_on_asyncio
from actorwork.blocking.opening import open_client as open_blocking
from actorwork.brokers import open_broker
from actorwork.errors import BrokerError, Unconfirmed
from actorwork.events import BrokerTrouble, Event
from actorwork.message import RESULT_TTL, Durability, Envelope, Status
from actorwork.policy.runs.values import Need, Plan, StepPlan
from actorwork.policy.settlement import Ack
from actorwork.streams import forwarding, keys, scripts
from actorwork.streams.broker import RedisBroker
from actorwork.streams.diagnosis import refuse_what_loses_messages
from actorwork.streams.forwarding import claimed, forward
from actorwork.streams.in_flight import Together
from actorwork.streams.joint import Batch
from actorwork.streams.outbox import Outbox
from actorwork.streams.run_ahead import RunAhead
from actorwork.streams.settle_calls import SettleCalls
from actorwork.streams.transport.address import Address
from actorwork.streams.transport.client import RedisClient, open_client
from actorwork.streams.transport.cluster import cluster_client
from actorwork.streams.transport.cluster_layout import Layout
from actorwork.streams.transport.commands import Script
from actorwork.streams.transport.redis_py import ClusterCrossSlotError, RedisError, ResponseError, is_of_moving_slot
from actorwork.streams.transport.slots import SLOTS, key_slot, keys_of
from actorwork.testing.conformance import open_consumer, until
from actorwork.testing.redis_cluster import RedisCluster, open_redis_cluster
from actorwork.testing.redis_sentinel import Member
from actorwork.testing.redis_server import open_redis_server
from actorwork.workflows import Step, step
from tests.patience import PATIENCE, confirmed
from tests.streams.bench_of_actors import inbox, open_scene, subscription
from tests.streams.test_trust import PROJECT, rules

NAMES = [f"source-{number}" for number in range(12)]
"""Some of them are at each primary."""
GET = Script("get", "return redis.call('GET', KEYS[1])")


@pytest.fixture
def cluster(redis_cluster: RedisCluster) -> RedisCluster:
    redis_cluster.flush()
    return redis_cluster


@asynccontextmanager
async def opened(cluster: RedisCluster, **options: Any) -> AsyncGenerator[RedisClient]:
    async with open_client(cluster.url, make=cluster_client(), **options) as client:
        yield client


def another(cluster: RedisCluster, member: Member) -> Member:
    return next(one for one in cluster.primaries if one is not member)


# ---------------------------------------------------------------------------------------------------- slots and layouts


@pytest.mark.parametrize("key", ["orders", "actorwork:{orders}:delayed", "a{}b{c}", "{a}{b}", "{{a}b}", "a{b", "ü"])
def test_a_key_has_the_slot_that_redis_gives_it(key: str):
    assert key_slot(key) == key_slot(key.encode()) == slot_by_redis_py(key.encode())


@pytest.mark.parametrize(
    ("command", "found"),
    [
        (("GET", "a"), ["a"]),
        (("EVALSHA", "0" * 40, 2, "a", "b", "c"), ["a", "b"]),
        (("XREADGROUP", "GROUP", "g", "c", "STREAMS", "a", "b", ">", ">"), ["a", "b"]),
        (("XGROUP", "CREATE", "a", "g", "0"), ["a"]),
        (("MGET", "a", "b"), ["a", "b"]),
        (("PUBLISH", "a", "b"), []),
        (("SCAN", 0, "MATCH", "actorwork:{*}:dead"), []),
        (("SCAN", 0, "MATCH", "actorwork:{a}:state:*"), ["actorwork:{a}:state:*"]),
    ],
)
def test_the_keys_of_a_command_are_known(command: tuple[Any, ...], found: list[str]):
    assert list(keys_of(command)) == found


def test_a_member_that_leaves_out_its_host_is_where_it_was_asked():
    layout = Layout.parse([[0, SLOTS - 1, [b"", 7000, b"id", []]]], "here")
    assert layout.primaries == (("here", 7000),)


def test_a_layout_that_lacks_slots_is_not_taken_for_one_that_has_them():
    whole = Layout.parse([[0, SLOTS - 1, [b"h", 1, b"id"]]], "h")
    part = Layout.parse([[0, 5, [b"h", 1, b"id"]]], "h")
    assert whole.covers(part)
    assert not part.covers(whole)


@pytest.mark.parametrize(
    "reply", [b"OK", [[0, 1]], [[0, 5, None]], [[0, SLOTS + 5, [b"h", 1]]], [[b"a", 1, [b"h", 1]]]]
)
def test_a_reply_that_is_no_layout_is_refused(reply: Any):
    with pytest.raises(ValueError, match="CLUSTER SLOTS"):
        Layout.parse(reply, "h")


# ------------------------------------------------------------------------------------------------------------- commands


async def test_commands_reach_the_primaries_of_their_keys(cluster: RedisCluster):
    async with opened(cluster) as client:
        assert await client.call_many([("SET", name, name) for name in NAMES]) == [b"OK"] * len(NAMES)
        replies = await client.call_in_turn(("GET", name) for name in NAMES)
        assert [reply.decode() for reply in replies] == NAMES
        assert await client.call("MGET", *NAMES) == replies
        assert {name.decode() for name in await client.names("source-*")} == set(NAMES)
        assert {cluster.owner(name).port for name in NAMES} == {member.port for member in cluster.primaries}
        assert len(await client.call_each("INFO")) == len(cluster.primaries)
        assert await client.call("DEL", *NAMES) == len(NAMES)


async def test_a_script_with_keys_of_two_slots_says_which_they_are(cluster: RedisCluster):
    async with opened(cluster) as client:
        with pytest.raises(ClusterCrossSlotError, match=r"get has keys of several slots .source-0, source-1"):
            await client.run_script(GET, NAMES[:2], ())


async def test_commands_follow_a_slot_that_has_moved(cluster: RedisCluster):
    async with opened(cluster) as client:
        await client.call("SET", "orders", "1")
        await client.run_script(GET, ["orders"], ())
        target = another(cluster, cluster.owner("orders"))
        await trio.to_thread.run_sync(cluster.move, "orders", target)
        assert await client.call("GET", "orders") == b"1"
        assert await client.run_script(GET, ["orders"], ()) == b"1"
        assert await client.call_many([("GET", "orders"), ("GET", "source-1")]) == [b"1", None]


async def test_a_slot_that_moves_is_asked_at_both_primaries_and_runs_no_script(cluster: RedisCluster):
    """The primary that the slot leaves has one key of it, and the other one another."""
    source = cluster.owner("orders")
    target = another(cluster, source)
    there = "{orders}2"
    async with opened(cluster, scripts=[GET]) as client:
        await client.call_many([("SET", "orders", "1"), ("SET", there, "2")])
        assert cluster.begin_move("orders", target) is source
        source.call("MIGRATE", "127.0.0.1", str(target.port), there, "0", "10000")
        assert await client.call_many([("GET", "orders"), ("GET", there)]) == [b"1", b"2"]
        found: list[bytes] = []

        async def run() -> None:
            found.append(await client.run_script(GET, ["orders"], ()))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            for _ in range(20):
                assert await client.call("GET", there) == b"2"
            assert not found, "the script waits for the slot"
            cluster.move("orders", target)
        assert found == [b"1"]


@pytest.mark.parametrize(
    "text",
    [
        "Script attempted to access a non local key in a cluster node script: 0f, on @user_script:2.",
        "Error running script (call to f_0f): @user_script:2: ERR Script attempted to access a non local key",
        "Attempted to access a non local key in a cluster node script: on @user_script:3.",  # Valkey 9.1
    ],
)
def test_a_script_that_finds_a_key_of_its_slot_elsewhere_is_run_again_whatever_the_server(text: str):
    assert is_of_moving_slot(ResponseError(text))


async def test_what_is_published_at_any_primary_arrives(cluster: RedisCluster):
    heard: set[bytes] = set()

    def hear(push: list[Any]) -> None:
        heard.add(push[2])

    async with opened(cluster, on_push=hear) as client:
        await client.subscribe("news")

        async def publish() -> bool:
            # Again, since a cluster promises nothing: where two members have lost their connection, it is dropped.
            for number, member in enumerate(cluster.primaries):
                if str(number).encode() not in heard:
                    member.call("PUBLISH", "news", str(number))
            await trio.sleep(0.1)
            return len(heard) == len(cluster.primaries)

        await until(publish, "all news")
        await client.unsubscribe("news")
    assert heard == {b"0", b"1", b"2"}


async def test_a_server_that_is_in_no_cluster_says_what_to_do():
    advice = r"is in no cluster .* redis:// names a single server"
    with open_redis_server(tcp=True) as server, pytest.raises(BrokerError, match=advice):
        async with open_broker(f"redis+cluster://127.0.0.1:{server.port}"):
            pass


def test_members_that_were_told_of_a_slot_have_all_their_connections(
    cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch
):
    """Without them, what is published at one member does not arrive at another one."""
    monkeypatch.setattr("actorwork.testing.redis_cluster._soon", lambda _: False)  # pyright: ignore[reportUnknownLambdaType,reportUnknownArgumentType]
    cluster.move("orders", another(cluster, cluster.owner("orders")))
    for member in cluster.primaries:
        known = member.call("CLUSTER", "NODES")
        assert b"disconnected" not in known
        assert b"handshake" not in known


# -------------------------------------------------------------------------------------------- clients of other programs


class Doubler(Actor):
    settings = Settings(title="doubler", sources={"orders"})

    @receive
    async def double(self, *, number: int) -> int:
        return 2 * number


class Redoubler(Doubler):
    settings = Settings(title="redoubler", sources={"bills"})


def ask_in_a_thread(cluster: RedisCluster) -> list[int]:
    with open_blocking(cluster.url) as client:
        ref = client.ref(Doubler)
        before = [ref.ask({"number": number}) for number in (1, 2)]
        for name in NAMES:
            client.ref(name).tell({"number": 0})
        cluster.move("orders", another(cluster, cluster.owner("orders")))
        return [*before, ref.ask({"number": 3}), ref.submit({"number": 4}).result()]


def ask_on_asyncio(cluster: RedisCluster) -> list[int]:
    async def ask() -> list[int]:
        async with open_on_asyncio(cluster.url) as client:
            ref = client.ref(Doubler)
            before = [await ref.ask({"number": number}) for number in (1, 2)]
            await asyncio.gather(*(client.ref(name).tell({"number": 0}) for name in NAMES))
            await asyncio.to_thread(cluster.move, "orders", another(cluster, cluster.owner("orders")))
            receipt = await ref.submit({"number": 4})
            return [*before, await ref.ask({"number": 3}), await receipt.result()]

    return asyncio.run(ask())


@pytest.mark.parametrize("ask", [ask_in_a_thread, ask_on_asyncio])
async def test_clients_of_all_kinds_follow_a_slot_and_get_their_answers(
    cluster: RedisCluster, ask: Callable[[RedisCluster], list[int]]
):
    async with open_system(Doubler, broker=cluster.url) as system:
        assert await trio.to_thread.run_sync(ask, cluster) == [2, 4, 6, 8]
        assert isinstance(system.broker, RedisBroker)
        assert [await system.broker.backlog(Settings(title=name).default_source) for name in NAMES] == [1] * len(NAMES)


@pytest.mark.parametrize("kind", [open_blocking, open_on_asyncio])
def test_clients_without_trio_say_that_a_server_is_in_no_cluster(kind: Callable[[str], Any]):
    async def enter(url: str) -> None:
        async with kind(url):
            pass

    with open_redis_server(tcp=True) as server, pytest.raises(BrokerError, match="is in no cluster"):
        url = f"redis+cluster://127.0.0.1:{server.port}"
        if kind is open_blocking:
            kind(url)
        else:
            asyncio.run(enter(url))


# ----------------------------------------------------------------------------------------------------------- the broker


def opener(cluster: RedisCluster, seen: list[Event] | None = None) -> Any:
    return open_broker(cluster.url, emit=(lambda _: None) if seen is None else seen.append)


async def test_a_node_reads_a_slot_where_it_is_and_where_it_goes(cluster: RedisCluster):
    seen: list[Event] = []
    async with opener(cluster, seen) as broker, open_consumer(broker, "orders", "bills") as consumer:
        await broker.publish([Envelope("orders", "1", b"1"), Envelope("bills", "2", b"1")])
        assert sorted(one.id for one in await consumer.take(2)) == ["1", "2"]
        await trio.to_thread.run_sync(cluster.move, "orders", another(cluster, cluster.owner("orders")))
        await broker.publish([Envelope("orders", "3", b"1")])
        delivery = await consumer.take_one()
        assert delivery.id == "3"
        await consumer.settle(delivery)
        assert await broker.backlog("orders") == 1
        seen += consumer.events
        assert not [event for event in seen if isinstance(event, BrokerTrouble)], "a slot that moves is no trouble"


async def test_what_cannot_be_forwarded_yet_is_kept_and_holds_up_no_other_source(cluster: RedisCluster):
    async with opener(cluster) as broker, open_consumer(broker, "orders") as consumer:
        assert isinstance(broker, RedisBroker)
        await broker.client.call("SET", "mail", "no stream")
        await broker.publish([Envelope("orders", "1", b"1")])
        sent = [Envelope("mail", "a", b"1"), Envelope("bills", "b", b"1"), Envelope("mail", "c", b"1")]
        await consumer.settle(await consumer.take_one(), Ack(), sent)
        async with open_consumer(broker, "bills") as bills:
            assert (await bills.take_one()).id == "b"
        await consumer.wait(lambda: consumer.seen(BrokerTrouble), "the trouble")
        await broker.client.call("DEL", "mail")
        async with open_consumer(broker, "mail") as mail:
            assert [one.id for one in await mail.take(2)] == ["a", "c"]

        async def is_empty() -> bool:
            return await broker.client.call("XLEN", keys.outbox("orders")) == 0

        await until(is_empty, "an empty outbox")


# ------------------------------------------------------------------------------------------- batches over several slots


async def taken_of_two_slots(broker: Any, consumer: Any) -> list[tuple[Any, Ack]]:
    headers = {RESULT_TTL: 60}
    sent = [Envelope("orders", "1", b"1", headers=headers), Envelope("bills", "2", b"1", headers=headers)]
    await broker.publish([*sent, Envelope("bills", "3", b"1", key="k"), Envelope("bills", "4", b"1", key="k")])
    return [(one, Ack(one.id.encode())) for one in await consumer.take(3)]


async def held(broker: RedisBroker) -> int:
    found = await broker.client.names("actorwork:{*}:held:*")
    return len(found)


async def test_a_batch_of_several_slots_is_settled_with_what_it_publishes(cluster: RedisCluster):
    assert len({key_slot(name) for name in ("orders", "bills", "mail")}) == 3
    async with opener(cluster) as broker, open_consumer(broker, "orders", "bills") as consumer:
        together = await taken_of_two_slots(broker, consumer)
        assert sorted(one.id for one, _ in together) == ["1", "2", "3"]
        consumer.node.settle_together(consumer.subscription, together, [Envelope("mail", "sum", b"1")])
        await consumer.node.wait_settled()
        assert not consumer.node.statistics()["fenced"]
        for source, which in (("orders", "1"), ("bills", "2")):
            outcome = await broker.find_outcome(source, which)
            assert outcome is not None
            assert (outcome.status, outcome.value) == ("done", which.encode())
        assert (await consumer.take_one()).id == "4", "the key is free"
        async with open_consumer(broker, "mail") as mail:
            assert (await mail.take_one()).id == "sum"
        assert (await broker.backlog("orders"), await broker.backlog("bills")) == (0, 1)
        assert not await held(broker)


@pytest.mark.parametrize("which", [0, 1, 2])
async def test_of_a_batch_of_several_slots_nothing_is_settled_if_one_is_not_ours_any_more(
    cluster: RedisCluster, which: int
):
    async with opener(cluster) as broker, open_consumer(broker, "orders", "bills") as consumer:
        together = sorted(await taken_of_two_slots(broker, consumer), key=lambda pair: pair[0].id)
        (lost, _) = together[which]
        entry, group = lost.token[0], lost.token[2].group
        assert await broker.client.call("XCLAIM", lost.source, group, "another", 0, entry, "JUSTID") == [entry]
        consumer.node.settle_together(consumer.subscription, together, [Envelope("mail", "sum", b"1")])
        await consumer.node.wait_settled()
        # Those that are ours are released, and come again; so does the other one, since "another" holds no lease.
        again = await consumer.take(3)
        assert sorted(one.id for one in again) == ["1", "2", "3"]
        assert await broker.backlog("mail") == 0
        assert not await held(broker)
        consumer.node.settle_together(
            consumer.subscription, [(one, Ack()) for one in again], [Envelope("mail", "sum", b"1")]
        )
        await consumer.node.wait_settled()
        assert await broker.backlog("mail") == 1


async def test_what_a_dead_node_held_for_a_batch_is_free_once_the_batch_is_dropped(cluster: RedisCluster):
    async with opener(cluster) as broker, open_consumer(broker, "orders", "bills") as consumer:
        together = await taken_of_two_slots(broker, consumer)
        bills = [one for one, _ in together if one.source == "bills"]
        in_flight = bills[0].token[2]
        batch = Batch("0" * 32, "17", "orders")
        notes = keys.held("bills", in_flight.group)
        for one in bills:
            await broker.client.call("XCLAIM", "bills", in_flight.group, batch.node, 0, one.token[0], "JUSTID")
            await broker.client.call("HSET", notes, one.token[0], str(batch))
        again = await consumer.take(2)
        assert sorted(one.id for one in again) == ["2", "3"]
        assert await broker.client.call("GET", batch.decided) == b"dropped"
        # The node goes on, since it was only suspended: it comes too late.
        home = next(one for one, _ in together if one.source == "orders")
        calls = SettleCalls(broker.client, lambda _: None)
        calls.outbox = Outbox(broker.client, lambda *_: None, lambda _: None)
        _, answer = await calls.settle_together(
            home.token[2], Together([(home, Ack())]), [Envelope("mail", "sum", b"1")], batch=(batch.decided, [])
        )
        assert answer[1] == [0]
        assert await broker.backlog("mail") == 0


async def test_a_batch_of_several_slots_that_cannot_publish_becomes_dead_letters(cluster: RedisCluster):
    async with opener(cluster) as broker, open_consumer(broker, "orders", "bills") as consumer:
        together = sorted(await taken_of_two_slots(broker, consumer), key=lambda pair: pair[0].id)
        beside = next(name for number in count() if key_slot(name := f"x{number}") == key_slot("orders"))
        await broker.client.call("SET", beside, "no stream")
        consumer.node.settle_together(consumer.subscription, together, [Envelope(beside, "sum", b"1")])
        await consumer.node.wait_settled()
        await consumer.node.wait_settled()  # Those of the dead letters.
        letters = [*await broker.dead_letters.list("orders"), *await broker.dead_letters.list("bills")]
        assert sorted(letter.id for letter in letters) == ["1", "2", "3"]
        assert "is no stream" in letters[0].failure.reason
        assert not await held(broker)


async def delayed_by_none(broker: RedisBroker) -> str:
    """Return a source in the slot of `orders` that takes no delayed messages, which is found out when one is kept."""
    beside = next(name for number in count() if key_slot(name := f"x{number}") == key_slot("orders"))
    await broker.client.call("SET", keys.SourceKeys.of(beside).delayed, "divided")
    return beside


async def test_a_batch_that_cannot_publish_takes_back_what_it_has_sent_to_other_slots(cluster: RedisCluster):
    async with opener(cluster) as broker, open_consumer(broker, "orders", "bills") as consumer:
        home = next(one for one, _ in await taken_of_two_slots(broker, consumer) if one.source == "orders")
        beside = await delayed_by_none(broker)
        batch = Batch("0" * 32, "17", "orders")
        calls = SettleCalls(broker.client, lambda _: None)
        calls.outbox = Outbox(broker.client, lambda *_: None, lambda _: None)
        sent = [Envelope(beside, "sum", b"1", delay=60)]
        ends = [("bills", ["settle", "of two"]), ("mail", ["settle", "of three"])]
        _, answer = await calls.settle_together(
            home.token[2], Together([(home, Ack())]), sent, batch=(batch.decided, ends)
        )
        fenced, (_, problem) = answer[1:3]
        assert not fenced
        assert b"nothing can be delayed" in problem
        assert await broker.client.call("XLEN", keys.outbox("orders")) == 0
        assert await broker.client.call("GET", batch.decided) is None, "it is decided later, or by another node"
        pending = await broker.client.call("XPENDING", "orders", home.token[2].group)
        assert pending[0] == 1, "the delivery is still in flight"


async def test_of_a_batch_that_fails_while_it_publishes_nothing_is_settled_in_other_slots(cluster: RedisCluster):
    async with opener(cluster) as broker, open_consumer(broker, "orders", "bills") as consumer:
        together = sorted(await taken_of_two_slots(broker, consumer), key=lambda pair: pair[0].id)
        beside = await delayed_by_none(broker)
        consumer.node.settle_together(consumer.subscription, together, [Envelope(beside, "sum", b"1", delay=60)])
        await consumer.node.wait_settled()
        await consumer.node.wait_settled()  # Those of the dead letters.
        letters = [*await broker.dead_letters.list("orders"), *await broker.dead_letters.list("bills")]
        assert sorted(letter.id for letter in letters) == ["1", "2", "3"]
        assert all("nothing can be delayed" in letter.failure.reason for letter in letters)
        assert not await held(broker)


async def test_a_batch_of_several_slots_waits_until_no_older_node_runs_that_would_not_know_what_is_held(
    cluster: RedisCluster,
):
    async with opener(cluster) as broker, open_consumer(broker, "orders", "bills") as consumer:
        together = await taken_of_two_slots(broker, consumer)
        group = together[0][0].token[2].group
        for source in ("orders", "bills"):
            await broker.client.call("XGROUP", "CREATECONSUMER", source, group, "older")
        await broker.client.call("SET", keys.lease("older"), "a.host:17")
        consumer.node.settle_together(consumer.subscription, together, [Envelope("mail", "sum", b"1")])
        await consumer.wait(lambda: consumer.seen(BrokerTrouble), "the trouble")
        (trouble, *_) = consumer.seen(BrokerTrouble)
        assert "nodes of an older version of actorwork" in trouble.error
        assert await broker.backlog("mail") == 0
        await broker.client.call("ZADD", keys.REPORTS, 4e9, "older")
        (found,) = [one for one in await broker.diagnose() if one.subject == "nodes"]
        assert "1 nodes of an older version" in found.text
        await broker.client.call("DEL", keys.lease("older"))
        await consumer.node.wait_settled()
        assert await broker.backlog("mail") == 1


# --------------------------------------------------------------------------------------------- outboxes of two versions


def ignore(_target: str, _error: RedisError) -> None:
    pass


async def leave(broker: RedisBroker, *values: object, at: str = "*") -> None:
    await broker.client.call("XADD", keys.outbox("orders"), at, *values)


def message_to(target: str, name: str) -> list[object]:
    of = keys.SourceKeys.of(target)
    return ["to", target, "mark", f"{of.prefix}seen:{name}", "bit", "", "terms", "", "id", name, "data", "1"]


async def test_an_older_node_keeps_what_a_newer_one_has_left_in_an_outbox_and_lets_nothing_overtake_it(
    cluster: RedisCluster,
):
    troubles: list[tuple[str, str]] = []
    async with opener(cluster) as broker:
        kinds = (["do", "invent", "1", ""], ["mark", "m", "terms", "", "bit", "", "id", "x"], ["page", "z", "zip", ""])
        for kind in kinds:
            await broker.client.call("DEL", keys.outbox("orders"))
            await leave(broker, *message_to("mail", f"before {kind[1]}"))
            await leave(broker, "to", "mail", *kind)
            await leave(broker, *message_to("mail", "after"))
            await leave(broker, *message_to("bills", f"beside {kind[1]}"))
            await forward(broker.client, "orders", lambda target, error: troubles.append((target, str(error))))
            assert await broker.client.call("XLEN", keys.outbox("orders")) == 2
        assert [target for target, _ in troubles] == ["mail"] * 3
        assert "of a kind that this version of actorwork does not know" in troubles[0][1]
        assert (await broker.backlog("mail"), await broker.backlog("bills")) == (3, 3)


async def test_what_runs_leave_in_an_outbox_is_done_by_newer_nodes_though_an_older_one_forwards_as_well(
    cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch
):
    """The older node knows no effects of runs: it forwards first, again and again."""
    async with opener(cluster) as broker:
        assert await broker.runs.start(plan("bills", "the run"))
        await leave(broker, "to", "bills", "do", "cancel", "bills", "run", "for the test", "")
        await leave(broker, *message_to("bills", "behind"))
        with monkeypatch.context() as older:
            older.setattr(forwarding, "_EFFECTS", frozenset[bytes]())
            for _ in range(3):
                await forward(broker.client, "orders", ignore)
        assert await broker.client.call("XLEN", keys.outbox("orders")) == 2
        assert await broker.backlog("bills") == 0
        await forward(broker.client, "orders", ignore)
        info = await broker.runs.info("run")
        assert info is not None
        assert info.status is Status.CANCELLED
        assert await broker.client.call("XLEN", keys.outbox("orders")) == 0
        assert await broker.backlog("bills") == 1


@pytest.mark.parametrize("hours", [1, 11, 13, 24 * 30])
async def test_what_was_forwarded_is_not_forwarded_again_though_no_node_came_back_before_its_mark_was_over(
    cluster: RedisCluster, hours: int
):
    async with opener(cluster) as broker:
        seconds, _ = await broker.client.call("TIME")
        then = int(seconds) * 1000 - hours * 3_600_000
        await leave(broker, *message_to("mail", "sent"), at=f"{then}-1")
        await forward(broker.client, "orders", ignore)
        assert await broker.backlog("mail") == 1
        # Its node died before it could delete it, and its mark is over if it had time for that.
        await broker.client.call("DEL", keys.outbox("orders"))
        if hours > 24:
            await broker.client.call("DEL", message_to("mail", "sent")[3])
        await leave(broker, *message_to("mail", "sent"), at=f"{then}-1")
        await leave(broker, *message_to("mail", "never sent"), at=f"{then}-2")
        await forward(broker.client, "orders", ignore)
        assert await broker.backlog("mail") == 2
        assert await broker.client.call("XLEN", keys.outbox("orders")) == 0


async def test_an_effect_that_was_forwarded_is_not_done_again_after_a_day(cluster: RedisCluster):
    async with opener(cluster) as broker:
        cancel = ("to", "bills", "do", "cancel", "bills", "run", "for the test", "")
        await leave(broker, *cancel, at="1-1")
        await forward(broker.client, "orders", ignore)
        assert await broker.runs.start(plan("bills", "a later one with the same id"))
        await broker.client.call("DEL", keys.outbox("orders"))
        await leave(broker, *cancel, at="1-1")
        await forward(broker.client, "orders", ignore)
        info = await broker.runs.info("run")
        assert info is not None
        assert info.status is Status.STARTED


# ------------------------------------------------------------------------------------------------------------ workflows


@pytest.mark.parametrize("name", [*NAMES, "orders", "actorwork:flow:17", "ü", "a"])
async def test_a_script_knows_which_sources_are_in_its_slot(cluster: RedisCluster, name: str):
    other = next(one for number in range(100) if key_slot(one := f"bills-{number}") != key_slot(name))
    script = Script("away", f"{scripts.part('away')}\nreturn away.is(ARGV[1]) and 1 or 0")
    async with opened(cluster) as client:
        assert await client.run_script(script, (f"actorwork:{{{name}}}:dead",), (name,)) == 0
        assert await client.run_script(script, (f"actorwork:{{{name}}}:dead",), (other,)) == 1
        assert await client.run_script(script, (other,), (name,)) == 1


def plan(home: str, title: str) -> Plan:
    step = StepPlan(name="only", source="orders", type="Only", template=("1",))
    return Plan(id="run", home=home, title=title, steps=(step,), result=(Need(0),))


async def test_an_id_is_that_of_one_run_whatever_slots_those_who_start_it_choose(cluster: RedisCluster):
    assert key_slot("bills") != key_slot("mail")
    async with opener(cluster) as broker:
        assert await broker.runs.start(plan("bills", "the first"))
        assert not await broker.runs.start(plan("mail", "the second"))
        assert [run.title for run in await broker.runs.list()] == ["the first"]
        assert await broker.runs.cancel("run", "over")
        assert await broker.runs.forget("run")
        assert await broker.runs.start(plan("mail", "the third"))
        assert [run.title for run in await broker.runs.list()] == ["the third"]


async def test_a_run_whose_starter_died_after_it_had_claimed_the_id_is_pending_and_may_be_started(
    cluster: RedisCluster,
):
    async with opener(cluster) as broker:
        assert isinstance(broker, RedisBroker)
        await claimed(broker.client, plan("bills", "the first"))
        info = await broker.runs.info("run")
        assert info is not None
        assert info.status is Status.PENDING
        assert await broker.runs.start(plan("mail", "the second"))
        info = await broker.runs.info("run")
        assert info is not None
        assert (info.title, info.status) == ("the second", Status.STARTED)
        assert await broker.client.call("PTTL", keys.flow("run")) == -1, "it has begun, so nobody else may claim it"


async def test_a_run_that_a_handler_starts_under_the_id_of_another_one_does_not_begin(cluster: RedisCluster):
    async with opener(cluster) as broker, open_consumer(broker, "orders", "mail") as consumer:
        assert await broker.runs.start(plan("bills", "the first"))
        assert (await consumer.take_one()).id == "run/0"
        await broker.publish([Envelope("mail", "1", b"1")])
        await consumer.settle(await consumer.take_one(), Ack(starts=(plan("mail", "the second"),)))
        await broker.publish([Envelope("orders", "2", b"1")])
        assert (await consumer.take_one()).id == "2", "no step of a second run is before it"
        assert [run.title for run in await broker.runs.list()] == ["the first"]


def run_in_a_thread(cluster: RedisCluster) -> int:
    with open_blocking(cluster.url) as client:
        return client.start(doubled_twice()).result(timeout=PATIENCE)


def run_on_asyncio(cluster: RedisCluster) -> int:
    async def ask() -> int:
        async with open_on_asyncio(cluster.url) as client:
            return await (await client.start(doubled_twice())).result(timeout=PATIENCE)

    return asyncio.run(ask())


def doubled_twice() -> Step[Any]:
    first = step(Doubler, {"number": 2})
    return step(Redoubler, {"number": first.result})


@pytest.mark.parametrize("run", [run_in_a_thread, run_on_asyncio])
async def test_clients_of_all_kinds_start_workflows_whose_steps_are_in_several_slots(
    cluster: RedisCluster, run: Callable[[RedisCluster], int]
):
    assert key_slot("orders") != key_slot("bills")
    async with open_system([Doubler, Redoubler], broker=cluster.url):
        assert await trio.to_thread.run_sync(run, cluster) == 8


# ------------------------------------------------------------------------------------------- messages to several slots


async def test_messages_that_are_sent_to_sources_of_all_primaries_in_one_call_keep_their_order(cluster: RedisCluster):
    sent = [Envelope(name, f"{number}", b"1") for number in range(30) for name in NAMES]
    async with opener(cluster) as broker:
        assert await broker.publish(sent) == len(sent)
        assert await broker.publish(sent) == 0, "they are there"
        for name in NAMES:
            async with open_consumer(broker, name, room=30) as consumer:
                assert [one.id for one in await consumer.take(30)] == [f"{number}" for number in range(30)]


@pytest.fixture(scope="module")
def replicated() -> Generator[RedisCluster]:
    with open_redis_cluster(primaries=2, replicas=1, config={"appendonly": "yes"}) as cluster:
        yield cluster


ONE = Durability("replicated", within=5)
TWO = Durability("replicated", 2, within=0.05)


def waits_at(member: Member) -> int:
    found = member.info("commandstats").get("cmdstat_wait", "calls=0")
    return int(found.partition("calls=")[2].partition(",")[0])


async def test_each_primary_waits_for_its_replica_for_the_messages_that_it_has(replicated: RedisCluster):
    here, there = (next(name for name in NAMES if replicated.owner(name) is one) for one in replicated.primaries)
    async with opener(replicated) as broker:
        before = [waits_at(member) for member in replicated.primaries]
        await confirmed(lambda: broker.publish([Envelope(here, "1", b"1", durability=ONE)]))
        after = [waits_at(member) for member in replicated.primaries]
        assert after[0] > before[0]
        assert after[1] == before[1], "it has none of the messages"
        both = [Envelope(name, "2", b"1", durability=ONE) for name in (here, there)]
        await confirmed(lambda: broker.publish(both))
        assert waits_at(replicated.primaries[1]) > before[1]
        with pytest.raises(Unconfirmed, match=r"only [01] of 2 servers have received it") as caught:
            await broker.publish([Envelope(name, "3", b"1", durability=TWO) for name in (here, there)])
        assert caught.value.wanted == 2
        assert [await broker.backlog(name) for name in (here, there)] == [3, 2], "each is there, once"


async def test_a_message_to_a_slot_that_has_moved_is_confirmed_where_it_is(replicated: RedisCluster):
    async with opener(replicated) as broker:
        await confirmed(lambda: broker.publish([Envelope("moving", "1", b"1", durability=ONE)]))
        target = another(replicated, replicated.owner("moving"))
        await trio.to_thread.run_sync(replicated.move, "moving", target)
        before = waits_at(target)
        await confirmed(lambda: broker.publish([Envelope("moving", "2", b"1", durability=ONE)]))
        assert waits_at(target) > before
        assert await broker.backlog("moving") == 2


def send_in_a_thread(cluster: RedisCluster) -> None:
    with open_blocking(cluster.url) as client:
        for name in NAMES:
            with suppress(Unconfirmed):  # The machine is busy.
                client.publish(name, {"n": 1}, durability=ONE)
            with pytest.raises(Unconfirmed):
                client.publish(name, {"n": 1}, durability=TWO)


def send_on_asyncio(cluster: RedisCluster) -> None:
    async def send() -> None:
        async with open_on_asyncio(cluster.url) as client:
            sent = (client.publish(name, {"n": 1}, durability=ONE) for name in NAMES)
            found = await asyncio.gather(*sent, return_exceptions=True)
            assert all(isinstance(one, str | Unconfirmed) for one in found)
            with pytest.raises(Unconfirmed):
                await client.publish(NAMES[0], {"n": 1}, durability=TWO)

    asyncio.run(send())


@pytest.mark.parametrize("send", [send_in_a_thread, send_on_asyncio])
def test_clients_of_all_kinds_wait_for_the_replicas_of_each_primary(
    replicated: RedisCluster, send: Callable[[RedisCluster], None]
):
    send(replicated)


async def test_disks_are_waited_for_at_the_primary_of_the_source_or_its_server_cannot_say(replicated: RedisCluster):
    fsynced = Durability("fsynced", within=5)
    async with opener(replicated) as broker:
        assert isinstance(broker, RedisBroker)
        (has_it,) = await broker.client.call("COMMAND", "INFO", "WAITAOF")
        for number, name in enumerate(NAMES):
            send = partial(broker.publish, [Envelope(name, f"disk-{number}", b"1", durability=fsynced)])
            if has_it:
                assert await confirmed(send) in {0, 1}
            else:
                with pytest.raises(BrokerError, match="needs WAITAOF, which this server does not have"):
                    await send()


async def test_each_primary_is_examined(cluster: RedisCluster):
    async with opener(cluster) as broker:
        findings = await broker.diagnose()
    assert {"cluster", "replicas", "durability"} <= {finding.subject for finding in findings}
    texts = [finding.text for finding in findings]
    assert len(texts) == len(set(texts)), "what all primaries have in common is said once"


class Replaced:
    """Asks a member that was a primary when the layout was read, and is a replica now."""

    async def call_each(self, *_: str) -> list[bytes]:
        return [b"redis_version:7.0.15\r\nrole:slave\r\ncluster_enabled:1\r\naof_enabled:1\r\n"]


async def test_a_primary_that_has_just_been_replaced_keeps_no_program_from_its_cluster():
    client: Any = Replaced()
    with pytest.raises(BrokerError, match="this is a replica"):
        await refuse_what_loses_messages(client, Address.parse("redis://h:1"), list[object]().append)
    await refuse_what_loses_messages(client, Address.parse("redis+cluster://h:1"), list[object]().append)


async def test_users_with_the_rights_for_a_cluster_send_and_settle_and_publish_to_other_slots(cluster: RedisCluster):
    more = ["+eval", "+asking", "+cluster|slots", "~*actorwork:none"]
    assert " ".join(more) in (PROJECT / "SECURITY.md").read_text()
    orders = subscription()
    try:
        for user, rule in rules().items():
            for member in cluster.primaries:
                assert member.call("ACL", "SETUSER", *rule.split(), *more, "~audit") == b"+OK\r\n", user
        client, node = (cluster.url.replace("://", f"://{user}:secret@") for user in ("client", "node"))
        async with open_scene(client) as sender, open_scene(node) as scene, scene.node(orders) as running:
            await sender.send("orders", b"1")
            running.settle(orders, await inbox(orders).take_one(), Ack(), [Envelope("audit", "receipt", b"1")])
            await running.wait_settled()

            async def is_forwarded() -> bool:
                return await scene.broker.backlog("audit") == 1

            await until(is_forwarded, "the receipt")
            assert await scene.broker.backlog("orders") == 0
            (found,) = [one for one in await scene.broker.diagnose() if one.subject == "scripts"]
            assert found.level == "ok"
    finally:
        for member in cluster.primaries:
            member.call("ACL", "DELUSER", *rules())


# ---------------------------------------------------------------------------------------------------------- run-ahead


class Total(Entity[list[int]]):
    settings = Settings(title="total")

    @receive
    async def add(self, *, number: int) -> None:
        self.state.append(number)


async def test_settlements_of_an_entity_bring_the_next_messages_of_a_key_on_a_cluster(
    cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    brought: list[int] = []
    end = RunAhead.end

    def noted(self: RunAhead, in_flight: Any, asked: int, found: Any, *, is_lost: bool) -> None:
        brought.append(len(found))
        end(self, in_flight, asked, found, is_lost=is_lost)

    monkeypatch.setattr(RunAhead, "end", noted)
    numbers = list(range(30))
    async with actorwork.open_client(cluster.url) as client:
        total = client.ref(Total, key="one")
        for number in numbers:
            await total.tell({"number": number})
        async with open_system(Total, broker=cluster.url):
            with trio.fail_after(PATIENCE):
                while (await total.state()).value != numbers:  # noqa: ASYNC110 - only the broker knows
                    await trio.sleep(0.05)
    assert any(brought)
