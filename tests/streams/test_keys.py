"""The order of keys at Redis: only the first message of a key is in a stream, and the next enters when it is gone."""

import json
import random
from collections import defaultdict
from collections.abc import Sequence

import pytest
import trio

from actorwork.abc import Subscription
from actorwork.events import LeaseLost, Reclaimed
from actorwork.message import Delivery, Envelope, Failure, Priority, Unique
from actorwork.policy.settlement import Ack, Fail, Reject, Retry, Settlement
from actorwork.streams.node import RedisNode
from tests.patience import PATIENCE
from tests.streams.bench_of_actors import WHY, Scene, inbox, open_scene, subscription
from tests.streams.conftest import wait_until

KEYS = "actorwork:{orders}:keys"


async def send(scene: Scene, *data: bytes, key: str = "k", **more: object) -> list[Envelope]:
    return await scene.send("orders", *data, key=key, **more)


async def settled(node: RedisNode, of: Subscription, delivery: Delivery, settlement: Settlement | None = None) -> None:
    node.settle(of, delivery, settlement or Ack())
    await node.wait_settled()


async def payloads(of: Subscription, node: RedisNode, count: int) -> list[bytes]:
    """Take and acknowledge so many, one after the other."""
    found: list[bytes] = []
    for _ in range(count):
        delivery = await inbox(of).take_one()
        assert isinstance(delivery.payload, bytes)
        found.append(delivery.payload)
        await settled(node, of, delivery)
        node.resume(of)
    return found


async def left_over(scene: Scene) -> set[bytes]:
    """Return the keys of `orders` but those that remember."""
    found = set(await scene.call("KEYS", "actorwork:{orders}:*"))
    remembers = (b":seen:", b":settled:", b":result:", b":groups", b":swept:", b":tended:")
    return {name for name in found if not any(part in name for part in remembers)}


async def test_only_the_first_of_a_key_is_in_the_stream(redis_url: str):
    async with open_scene(redis_url) as scene:
        await send(scene, b"1", b"2", b"3")
        await send(scene, b"4", key="other")
        await scene.send("orders", b"5")
        assert [row[b"data"] for row in await scene.fields("orders")] == [b"1", b"4", b"5"]
        assert await scene.broker.backlog("orders") == 5
        orders = subscription()
        async with scene.node(orders) as node:
            assert sorted(await payloads(orders, node, 5)) == [b"1", b"2", b"3", b"4", b"5"]
        assert await scene.broker.backlog("orders") == 0
        assert await left_over(scene) == set()


async def test_messages_without_keys_leave_nothing_of_this_at_the_server(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        await scene.send("orders", b"1", b"2")
        await settled(node, orders, await inbox(orders).take_one(), Retry(0, WHY))
        await payloads(orders, node, 2)
        assert await left_over(scene) == set()


async def test_what_is_settled_for_a_group_that_was_not_meant_lets_the_next_one_enter(redis_url: str):
    one, two = subscription(group="group-a"), subscription(group="group-b")
    async with open_scene(redis_url) as scene, scene.node(one) as first, scene.node(two) as second:
        await send(scene, b"1", group="group-a")
        await send(scene, b"2")
        delivery = await inbox(one).take_one()
        await settled(first, one, delivery)
        assert await payloads(one, first, 1) == await payloads(two, second, 1) == [b"2"]
        assert await left_over(scene) == set()


async def test_the_next_one_waits_for_the_attempts_of_every_group(redis_url: str):
    one, two = subscription(group="group-a"), subscription(group="group-b")
    async with open_scene(redis_url) as scene, scene.node(one) as first, scene.node(two) as second:
        await send(scene, b"1", b"2")
        await settled(first, one, await inbox(one).take_one(), Retry(0.05, WHY))
        await settled(second, two, await inbox(two).take_one(), Retry(0, WHY))
        again = [await inbox(one).take_one(), await inbox(two).take_one()]
        assert [(delivery.payload, delivery.attempt) for delivery in again] == [(b"1", 2), (b"1", 2)]
        await settled(first, one, again[0])
        assert len(json.loads(await scene.call("HGET", KEYS, "k"))) == 1
        assert await scene.call("HLEN", "actorwork:{orders}:waiting") == 1
        await settled(second, two, again[1], Reject(WHY))
        assert await payloads(one, first, 1) == await payloads(two, second, 1) == [b"2"]
        assert await left_over(scene) == set()


@pytest.mark.parametrize("how", ["XDEL", "XTRIM", "DEL"])
async def test_a_key_whose_message_somebody_deleted_is_healed(redis_url: str, how: str):
    orders = subscription()
    async with open_scene(redis_url) as scene:
        await send(scene, b"1", b"2")
        if how == "XDEL":
            ((entry, _),) = await scene.call("XRANGE", "orders", "-", "+")
            await scene.call("XDEL", "orders", entry)
        else:
            await scene.call(*(("XTRIM", "orders", "MAXLEN", "0") if how == "XTRIM" else ("DEL", "orders")))
        async with scene.node(orders) as node:
            assert await payloads(orders, node, 1) == [b"2"]
            assert await left_over(scene) == set()


async def test_a_key_that_a_group_held_up_is_free_when_the_group_is_destroyed(redis_url: str):
    orders, gone = subscription(group="group-a"), subscription(group="of-an-actor-that-was-renamed")
    async with open_scene(redis_url) as scene:
        async with scene.node(gone):
            pass
        await send(scene, b"1", b"2", b"3")
        async with scene.node(orders) as node:
            assert await payloads(orders, node, 1) == [b"1"]
            assert await scene.broker.backlog("orders") == 3
            await scene.call("XGROUP", "DESTROY", "orders", gone.group)
            assert await payloads(orders, node, 2) == [b"2", b"3"]
            assert await scene.broker.backlog("orders") == 0
            assert await left_over(scene) == set()


async def test_a_key_whose_retry_somebody_deleted_is_healed(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        await send(scene, b"1", b"2")
        await settled(node, orders, await inbox(orders).take_one(), Retry(600, WHY))
        await scene.call("DEL", "actorwork:{orders}:delayed", "actorwork:{orders}:delayed:messages")
        assert await payloads(orders, node, 1) == [b"2"]


async def test_healing_goes_through_all_keys_a_few_at_a_time(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene:
        for number in range(600):
            await scene.broker.publish(
                [Envelope("orders", next(scene.ids), b"%d" % part, key=f"k{number}") for part in (1, 2)]
            )
        await scene.call("XTRIM", "orders", "MAXLEN", "0")
        async with scene.node(orders) as node:
            for reclaimer in [part.reclaimer for part in node._intake.parts]:  # pyright: ignore[reportPrivateUsage]
                for _ in range(40):
                    reclaimer._heal_at = 0  # pyright: ignore[reportPrivateUsage]
                    await scene.call(
                        "HDEL", f"actorwork:{{orders}}:tended:{orders.group}", "since"
                    )  # Or it would be one turn a second.
                    await reclaimer.maintain()
            assert await payloads(orders, node, 600) == [b"2"] * 600


async def test_an_entry_that_a_foreign_producer_wrote_with_a_key_is_given_at_once_and_stops_nobody(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        await send(scene, b"1", b"2")
        await inbox(orders).take_one()
        await scene.call("XADD", "orders", "*", "data", "0", "key", "k")
        await scene.call("XADD", "orders", "*", "key", "k", "unique", "u", "priority", "low")
        ours, theirs = await inbox(orders).take(2)
        assert (ours.payload, ours.key) == (b"0", "k")
        assert theirs.payload == {b"key": b"k", b"unique": b"u", b"priority": b"low"}
        assert (theirs.key, theirs.priority) == (None, Priority.NORMAL)
        for delivery in (ours, theirs):
            await settled(node, orders, delivery, Retry(0, WHY))
        for delivery in await inbox(orders).take(2):
            await settled(node, orders, delivery)
        assert inbox(orders).waiting == []


async def test_what_a_delivery_publishes_under_its_own_key_follows_it(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        await send(scene, b"1", b"2")
        first = await inbox(orders).take_one()
        node.settle(orders, first, Ack(), [Envelope("orders", "mine", b"3", key="k")])
        await node.wait_settled()
        assert await payloads(orders, node, 2) == [b"2", b"3"]


async def test_a_key_may_be_any_text(redis_url: str):
    keys = ['"', "\\", "ü€\n\0", "a b", "}", "1", "[]", "x" * 5000]
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        for key in keys:
            for data in (b"1", b"2"):
                await send(scene, data, key=key, unique=Unique(key + data.decode()))
        seen: dict[str | None, list[object]] = defaultdict(list)
        for _ in range(4 * len(keys)):
            delivery = await inbox(orders).take_one()
            seen[delivery.key].append((delivery.payload, delivery.attempt))
            await settled(node, orders, delivery, Retry(0, WHY) if delivery.attempt == 1 else Ack())
        assert seen == {key: [(b"1", 1), (b"1", 2), (b"2", 1), (b"2", 2)] for key in keys}
        assert await left_over(scene) == set()


async def test_a_key_that_is_not_used_costs_a_plain_acknowledgement_nothing(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        await scene.send("orders", b"1")
        await send(scene, b"2")
        bare, keyed = await inbox(orders).take(2)
        node.settle(orders, bare, Ack())
        node.settle(orders, keyed, Ack())
        in_flight = bare.token[2]
        assert (in_flight.plain, [item[0] for item in in_flight.others]) == ([bare], [keyed])


async def test_a_unique_key_ends_with_its_time_in_the_stream_too(redis_url: str):
    async with open_scene(redis_url) as scene:
        envelope = Envelope("orders", "1", b"1", unique=Unique("u", ttl=100))
        assert await scene.broker.publish_unique(envelope) == "1"
        assert 99_000 < await scene.call("PTTL", "actorwork:{orders}:unique:u") <= 100_000
        orders = subscription()
        async with scene.node(orders) as node:
            await settled(node, orders, await inbox(orders).take_one(), Retry(600, WHY))
            assert 90_000 < await scene.call("PTTL", "actorwork:{orders}:unique:u") <= 100_000
            assert await scene.broker.delayed.cancel("orders", "1")
            assert await left_over(scene) == set()


# --------------------------------------------------------------------------------------------------- under disturbance


class Hand:
    """Handles what one node is given, in all the ways there are, and tells of each end in the stream `done`."""

    def __init__(self, scene: Scene, chance: random.Random) -> None:
        self.scene = scene
        self.chance = chance
        self.attempts = 0

    async def work(self, node: RedisNode, of: Subscription) -> None:
        while True:
            for delivery in await inbox(of).take(1, within=PATIENCE):
                await self._handle(node, of, delivery)
            node.resume(of)

    async def _handle(self, node: RedisNode, of: Subscription, delivery: Delivery) -> None:
        self.attempts += 1
        dice = self.chance.random()
        if dice < 0.1:
            await node.release_deliveries(of, [delivery])
        elif dice < 0.2:
            node.settle(of, delivery, Retry(self.chance.choice((0, 0.01, 0.03)), WHY))
        else:
            assert isinstance(delivery.payload, bytes)
            receipt = Envelope("done", next(self.scene.ids), delivery.payload)
            ways: Sequence[Settlement] = (Ack(), Ack(), Ack(), Reject(WHY), Fail(Failure("ValueError", "x")))
            node.settle(of, delivery, self.chance.choice(ways), [receipt])
        if dice > 0.7:
            await trio.sleep(self.chance.random() * 0.005)


@pytest.mark.parametrize("seed", [1, 2])
async def test_each_key_is_kept_in_order_over_failures_and_nodes_that_are_taken_for_dead(redis_url: str, seed: int):
    chance = random.Random(seed)
    keys, each = 100, 12
    done = 0
    async with open_scene(redis_url) as scene, open_scene(redis_url) as another, trio.open_nursery() as nursery:
        another.ids = type(scene.ids)("8899aabbccddeeff")
        sent = [(key, number) for number in range(each) for key in range(keys)]
        envelopes = [
            Envelope("orders", f"{key}/{number}", json.dumps([key, number]).encode(), key=f"k{key}", delay=0.0)
            for key, number in sent
        ]
        for start in range(0, len(envelopes), 100):
            await scene.broker.publish(envelopes[start : start + 100])
        nodes: list[RedisNode] = []

        async def one(of: Scene, sink: Subscription) -> None:
            async with of.node(sink, lease=0.6) as node:
                nodes.append(node)
                await Hand(of, random.Random(chance.random())).work(node, sink)

        for which in (scene, another):
            nursery.start_soon(one, which, subscription(max_crashes=10_000, capacity=20))
        with trio.fail_after(PATIENCE):
            while done < len(sent):
                await trio.sleep(0.15)
                done = await scene.length("done")
                if nodes and chance.random() < 0.5:
                    await scene.kill(chance.choice(nodes))
        nursery.cancel_scope.cancel()
    assert scene.told(LeaseLost) or another.told(LeaseLost)
    assert scene.told(Reclaimed) or another.told(Reclaimed)
    async with open_scene(redis_url) as scene:
        by_key: dict[int, list[int]] = defaultdict(list)
        for row in await scene.fields("done"):
            key, number = json.loads(row[b"data"])
            by_key[key].append(number)
        assert by_key == {key: list(range(each)) for key in range(keys)}
        assert await scene.broker.backlog("orders") == 0
        assert {name for name in await left_over(scene) if b":dead" not in name} == set()


async def test_the_clocks_of_nodes_say_nothing_about_the_order(redis_url: str, monkeypatch: pytest.MonkeyPatch):
    """What decides is the server's: a node whose clock is a day ahead publishes and retries as any other."""
    monkeypatch.setattr("time.time", lambda: 4_000_000_000.0)
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        seconds, _ = await scene.call("TIME")
        assert abs(node.now() - int(seconds)) < 5
        await send(scene, b"1", b"2", lifetime=60)
        first = await inbox(orders).take_one()
        assert first.expires is not None
        assert 50 < first.expires - int(seconds) < 70
        await settled(node, orders, first, Retry(0.05, WHY))
        assert await payloads(orders, node, 2) == [b"1", b"2"]
        await wait_until(lambda: not inbox(orders).waiting)


async def test_an_empty_key_of_a_foreign_entry_is_none(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        for number in range(5):
            await scene.call("XADD", "orders", "*", "id", f"m{number}", "data", "1", "key", "", "unique", "")
        got = await inbox(orders).take(5)
        assert {delivery.key for delivery in got} == {None}
        for number, delivery in enumerate(got):
            node.settle(orders, delivery, Retry(0.001 * (number % 2), WHY))
        again = await inbox(orders).take(5, within=3.5)  # Healing would let one enter each second.
        assert await scene.call("HLEN", "actorwork:{orders}:waiting") == 0
        for delivery in again:
            node.settle(orders, delivery, Fail(WHY))
        await node.wait_settled()
        letters = await scene.broker.dead_letters.list("orders")
        assert await scene.broker.dead_letters.replay("orders", [letter.entry for letter in letters]) == 5
        await inbox(orders).take(5, within=3.5)
        await scene.broker.publish([Envelope("orders", f"n{number}", b"1", key="") for number in range(5)])
        await inbox(orders).take(5, within=3.5)
        assert await scene.call("KEYS", "actorwork:{orders}:key*") == []


def test_a_unique_key_is_not_empty():
    with pytest.raises(ValueError, match="at least one character"):
        Unique("")
