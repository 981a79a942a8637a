"""What others do to the groups of a stream: foreign ones beside ours, and operators who change ours by hand."""

from collections.abc import Callable

import pytest
import trio

from actorwork.abc import Subscription
from actorwork.events import BrokerAdvice, BrokerTrouble, Fenced, GroupRestored, LeaseLost
from actorwork.message import Envelope, Priority, Unique
from actorwork.policy.settlement import Ack
from actorwork.streams.node import RedisNode
from actorwork.testing.redis_server import open_redis_server
from tests.patience import PATIENCE
from tests.streams.bench_of_actors import Scene, ack_all, inbox, open_scene, subscription
from tests.streams.conftest import wait_until

MONITOR = "monitor"
ACKED = "actorwork:{orders}:acked:group-a"


async def sweep(scene: Scene, node: RedisNode) -> None:
    """Look after the entries of all groups now; otherwise one node does so every five seconds."""
    for key in await scene.call("KEYS", "*swept:*"):
        await scene.call("DEL", key)
    for reclaimer in [part.reclaimer for part in node._intake.parts]:  # pyright: ignore[reportPrivateUsage]
        await reclaimer.maintain()


async def handle(node: RedisNode, of: Subscription, count: int) -> list[bytes]:
    taken = await inbox(of).take(count)
    ack_all(node, of, taken)
    await node.wait_settled()
    return [bytes(delivery.payload) for delivery in taken if isinstance(delivery.payload, bytes)]


# ------------------------------------------------------------------------------------------------------- foreign groups


async def test_a_foreign_group_that_reads_nothing_is_no_backlog_and_holds_up_no_key(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        await scene.call("XGROUP", "CREATE", "orders", MONITOR, "0")
        unique = Unique("one", 600)
        for number in range(3):
            await scene.broker.publish([Envelope("orders", next(scene.ids), b"%d" % number, key="k")])
        await scene.broker.publish_unique(Envelope("orders", next(scene.ids), b"u", unique=unique))
        handled = [payload for _ in range(4) for payload in await handle(node, orders, 1)]
        assert sorted(handled) == [b"0", b"1", b"2", b"u"]
        assert (await scene.length("orders"), await scene.broker.backlog("orders")) == (4, 0)
        assert await scene.broker.oldest("orders") is None
        again = next(scene.ids)
        assert await scene.broker.publish_unique(Envelope("orders", again, b"u", unique=unique)) == again


async def test_what_a_foreign_group_needed_is_deleted_when_it_has_had_it(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        await scene.call("XGROUP", "CREATE", "orders", MONITOR, "0")
        await scene.send("orders", *(b"%d" % number for number in range(500)))
        await handle(node, orders, 500)
        await sweep(scene, node)
        assert await scene.length("orders") == 500, "the monitor has not had them"
        found = await scene.call("XREADGROUP", "GROUP", MONITOR, "m", "COUNT", 400, "STREAMS", "orders", ">")
        entries = [entry for entry, _ in found[b"orders"]]
        await scene.call("XACK", "orders", MONITOR, *entries[:300])
        for _ in range(4):
            await sweep(scene, node)
        assert await scene.length("orders") == await scene.call("SCARD", ACKED) == 200
        assert await scene.broker.backlog("orders") == 0
        await scene.call("XGROUP", "DESTROY", "orders", MONITOR)
        for _ in range(2):
            await sweep(scene, node)
        assert await scene.length("orders") == await scene.call("EXISTS", ACKED, "actorwork:{orders}:kept") == 0


async def test_a_foreign_group_is_not_made_in_the_streams_of_priorities(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        await scene.call("XGROUP", "CREATE", "orders", MONITOR, "0")
        await scene.broker.publish([Envelope("orders", next(scene.ids), b"1", priority=Priority.HIGH)])
        await handle(node, orders, 1)
        assert await scene.length("actorwork:{orders}:priority:high") == 0


async def test_a_foreign_group_that_keeps_entries_for_long_is_named_once_and_by_the_doctor(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        await scene.call("XADD", "orders", "1-1", "id", "old", "data", "1")
        await scene.call("XGROUP", "CREATE", "orders", MONITOR, "0")
        await scene.call("XGROUP", "CREATE", "orders", "in time", "$")
        await handle(node, orders, 1)
        for _ in range(2):
            await sweep(scene, node)
        (advice,) = [event for event in scene.told(BrokerAdvice) if "group" in event.text]
        assert "the group 'monitor' of 'orders' is no actor's" in advice.text
        assert "XGROUP DESTROY orders monitor" in advice.advice
        findings = [finding for finding in await scene.broker.diagnose() if finding.subject == "groups"]
        assert [finding.level for finding in findings] == ["ok", "warning"]
        assert (
            "'monitor' of 'orders' is no actor's (0 pending, some unread): such groups keep 1 entry" in findings[1].text
        )


# ----------------------------------------------------------------------------------------------------- destroyed groups


@pytest.mark.parametrize("level", [Priority.NORMAL, Priority.HIGH])
async def test_what_only_a_destroyed_group_had_not_settled_goes_with_it(redis_url: str, level: Priority):
    orders, gone = subscription(), subscription(group="of-an-actor-that-was-renamed")
    stream = "orders" if level is Priority.NORMAL else "actorwork:{orders}:priority:high"
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        async with scene.node(gone):
            pass
        unique = Unique("one", 600)
        await scene.broker.publish_unique(Envelope("orders", next(scene.ids), b"u", unique=unique, priority=level))
        await scene.broker.publish([Envelope("orders", next(scene.ids), b"1", priority=level) for _ in range(300)])
        await handle(node, orders, 301)
        assert [await scene.broker.backlog("orders", group) for group in (orders.group, gone.group)] == [0, 301]
        await scene.call("XGROUP", "DESTROY", stream, gone.group)
        for _ in range(2):
            await sweep(scene, node)
        assert (await scene.length(stream), await scene.broker.backlog("orders")) == (0, 0)
        again = next(scene.ids)
        assert await scene.broker.publish_unique(Envelope("orders", again, b"u", unique=unique)) == again


async def test_the_sweep_comes_by_itself(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        await scene.call("XGROUP", "CREATE", "orders", MONITOR, "0")
        await scene.send("orders", b"1")
        await handle(node, orders, 1)
        await scene.call("XGROUP", "DESTROY", "orders", MONITOR)
        await scene.call("SET", "actorwork:{orders}:swept:group-a", "0 -")  # Five seconds are over.
        with trio.fail_after(PATIENCE):
            while await scene.length("orders"):
                await node._intake.parts[0].reclaimer.maintain()  # pyright: ignore[reportPrivateUsage]


# ------------------------------------------------------------------------------------------------------ changed by hand

BY_HAND: dict[str, Callable[[bytes], tuple[object, ...]]] = {
    "XGROUP DELCONSUMER": lambda node: ("XGROUP", "DELCONSUMER", "orders", "group-a", node),
    "XACK": lambda _: ("XACK", "orders", "group-a", "1-1", "1-2"),
}


@pytest.mark.parametrize("how", BY_HAND)
@pytest.mark.parametrize("has_others", [False, True])
async def test_messages_taken_from_a_group_by_hand_are_delivered_again(redis_url: str, how: str, has_others: bool):
    orders, other = subscription(), subscription(group="group-b")
    async with open_scene(redis_url) as scene, scene.node(other) as beside:
        async with scene.node(orders) as node:
            for number in (b"1", b"2"):
                await scene.call("XADD", "orders", b"1-" + number, "id", b"n" + number, "data", number)
            lost = await inbox(orders).take(2)
            await scene.call(*BY_HAND[how](node.incarnation.encode()))
            if has_others:
                # Settled by all who have them pending: yet our group has not had them.
                assert await handle(beside, other, 2) == [b"1", b"2"]
            await sweep(scene, node)
            await node.wait_settled()
            assert scene.told(BrokerTrouble)[-1].error.startswith("2 messages of the group group-a were taken from it")
            assert lost[0].id == "n1"
        async with scene.node(orders) as node:
            assert await handle(node, orders, 2) == [b"1", b"2"]
        if not has_others:
            await handle(beside, other, 2)
        assert await scene.length("orders") == 0


async def test_a_group_set_past_its_messages_gets_them_all_the_same(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene:
        async with scene.node(orders):
            pass
        await scene.send("orders", b"1", b"2")
        await scene.call("XGROUP", "SETID", "orders", "group-a", "$")
        async with scene.node(orders) as node:
            await sweep(scene, node)
            assert await handle(node, orders, 2) == [b"1", b"2"]


async def test_messages_in_hand_that_are_given_back_run_once_here(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        await scene.send("orders", b"1")
        delivery = await inbox(orders).take_one()
        await scene.call("XGROUP", "DELCONSUMER", "orders", "group-a", node.incarnation)
        await sweep(scene, node)
        await sweep(scene, node)
        ack_all(node, orders, [delivery])
        await node.wait_settled()
        assert (node.statistics()["settled"], await scene.length("orders"), inbox(orders).waiting) == (1, 0, [])


@pytest.mark.parametrize("how", ["XDEL", "XTRIM"])
async def test_the_backlog_is_right_again_after_settled_entries_were_deleted_by_hand(redis_url: str, how: str):
    orders, other = subscription(), subscription(group="group-b")
    async with open_scene(redis_url) as scene, scene.node(orders) as node, scene.node(other):
        await scene.send("orders", *(b"%d" % number for number in range(50)))
        await handle(node, orders, 50)
        if how == "XTRIM":
            await scene.call("XTRIM", "orders", "MAXLEN", "0")
        else:
            await scene.call("XDEL", "orders", *(entry for entry, _ in await scene.call("XRANGE", "orders", "-", "+")))
        for _ in range(20):
            await sweep(scene, node)
        assert await scene.call("EXISTS", ACKED) == 0
        await scene.send("orders", b"new")
        assert await scene.broker.backlog("orders", "group-a") == 1


async def test_what_was_not_settled_is_handled_after_a_source_was_renamed_and_renamed_back(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders, lease=2) as node:
        await scene.send("orders", b"1")
        in_hand = await inbox(orders).take_one()
        await scene.call("RENAME", "orders", "aside")
        await scene.call("XADD", "aside", "*", "id", "unread", "data", "2")
        await wait_until(lambda: scene.told(GroupRestored))
        ack_all(node, orders, [in_hand])
        await node.wait_settled()
        assert [event.delivery.id for event in scene.told(Fenced)] == [in_hand.id]
        await scene.call("RENAME", "aside", "orders")
        assert await handle(node, orders, 1) == [b"2"]
        assert await handle(node, orders, 1) == [b"1"]
        assert await scene.length("orders") == 0


async def test_what_was_in_hand_is_delivered_again_after_databases_were_swapped_and_swapped_back():
    with open_redis_server() as server:
        orders = subscription()
        async with open_scene(server.url) as scene, scene.node(orders, lease=2) as node:
            await scene.send("orders", b"1")
            in_hand = await inbox(orders).take_one()
            await scene.call("SWAPDB", 0, 1)
            await wait_until(lambda: scene.told(LeaseLost))
            ack_all(node, orders, [in_hand])
            await scene.send("orders", b"in the other one")
            assert await handle(node, orders, 1) == [b"in the other one"]
            await scene.call("SWAPDB", 0, 1)
            assert await handle(node, orders, 1) == [b"1"]
            assert await scene.length("orders") == 0


async def test_a_message_in_hand_that_is_deleted_by_hand_takes_effect_all_the_same(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        await scene.send("orders", b"1")
        delivery = await inbox(orders).take_one()
        await scene.call("XTRIM", "orders", "MAXLEN", "0")
        node.settle(orders, delivery, Ack(), [Envelope("letters", "l", b"1")])
        await node.wait_settled()
        assert (node.statistics()["settled"], await scene.length("letters")) == (1, 1)
