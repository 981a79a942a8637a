"""The broker at Redis, from publish to settlement.

What every broker promises, the conformance suite asks; this is what is Redis' own: its keys, its fence, its lost
replies, its foreign producers.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from itertools import count
from typing import Any, cast

import attrs
import pytest
import trio

from actorwork.abc import Subscription
from actorwork.errors import BrokerError
from actorwork.events import (
    BrokerAdvice,
    BrokerTrouble,
    Fenced,
    GroupRestored,
    LeaseLost,
    MessageLost,
    Reclaimed,
    Released,
    Settled,
)
from actorwork.message import ATTEMPT, FLOW, REPLY_TO, RESULT_TTL, Delivery, Envelope, Json, Outcome
from actorwork.policy.settlement import Ack, Fail, Reject, Retry
from actorwork.settings import DeadLetterSettings
from actorwork.streams import reader
from actorwork.streams.broker import open_broker
from actorwork.streams.transport.commands import MayHaveExecuted
from actorwork.streams.transport.redis_py import ConnectionError as BrokenConnection
from actorwork.testing.proxy import open_proxy
from actorwork.testing.redis_server import open_redis_server
from tests.patience import BUSY, PATIENCE, best_of
from tests.streams.bench_of_actors import WHY, Scene, ack_all, inbox, open_scene, subscription
from tests.streams.conftest import wait_until


def fields_of(delivery: Delivery) -> Mapping[bytes, bytes]:
    assert not isinstance(delivery.payload, bytes)
    return delivery.payload


def history_of(delivery: Delivery) -> list[Any]:
    return cast("list[Any]", delivery.headers["actorwork-history"])


# -------------------------------------------------------------------------------------------------------------- publish


@pytest.mark.parametrize(
    "message_id", ["00112233aabbccdd-0", "00112233aabbccdd-1ffff", "order 7", "00112233aabbccdd-0f"]
)
async def test_an_id_is_kept_once_in_its_source(redis_url: str, message_id: str):
    async with open_scene(redis_url) as scene:
        first, other = Envelope("orders", message_id, b"1"), Envelope("letters", message_id, b"1")
        assert await scene.broker.publish([first]) == 1
        assert await scene.broker.publish([first, other]) == 1
        assert await scene.length("orders") == await scene.length("letters") == 1


async def test_ids_that_look_alike_are_two(redis_url: str):
    async with open_scene(redis_url) as scene:
        ids = ["00112233aabbccdd-1", "00112233aabbccdd-01", "00112233AABBCCDD-1", "00112233aabbccdd-10001"]
        assert await scene.broker.publish([Envelope("orders", name, b"1") for name in ids]) == 4


async def test_marks_of_published_ids_are_forgotten_after_a_day(redis_url: str):
    async with open_scene(redis_url) as scene:
        await scene.broker.publish([Envelope("orders", "00112233aabbccdd-3", b"1"), Envelope("orders", "mine", b"1")])
        for mark in ("00112233aabbccdd:0", "mine"):
            assert 86_000 < await scene.call("TTL", f"actorwork:{{orders}}:seen:{mark}") <= 86_400


async def test_order_is_kept_within_a_source_and_over_many_scripts(redis_url: str):
    async with open_scene(redis_url) as scene:
        sent = [Envelope(f"s{i % 3}", next(scene.ids), b"%d" % i) for i in range(5000)]
        assert await scene.broker.publish(sent) == 5000
        for source in range(3):
            assert [row[b"data"] for row in await scene.fields(f"s{source}")] == [
                b"%d" % i for i in range(source, 5000, 3)
            ]


async def test_a_source_that_is_no_stream_refuses_and_does_not_remember_the_id(redis_url: str):
    async with open_scene(redis_url) as scene:
        await scene.call("SET", "orders", "a text")
        for envelope in (Envelope("orders", "mine", b"1"), Envelope("orders", next(scene.ids), b"1")):
            with pytest.raises(BrokerError, match=r"cannot publish to orders: .*WRONGTYPE|wrong kind"):
                await scene.broker.publish([envelope])
            await scene.call("DEL", "orders")
            assert await scene.broker.publish([envelope]) == 1
            await scene.call("DEL", "orders")
            await scene.call("SET", "orders", "a text")


async def test_a_publish_whose_reply_is_lost_is_kept_once(redis_url: str):
    async with open_proxy(redis_url) as proxy, open_scene(proxy.url) as scene:
        envelope = Envelope("orders", next(scene.ids), b"1")
        proxy.cut_after(0)
        assert await scene.broker.publish([envelope]) == 0
        assert await scene.length("orders") == 1


async def _publish_first(scene: Scene) -> None:
    """Publish a message, so that the next one with a new id is sent as a transaction."""
    await scene.broker.publish_new(Envelope("orders", next(scene.ids), b"0"))


@pytest.mark.parametrize("fault", ["cut before the reply", "cut in mid reply", "cut before the request"])
async def test_a_new_message_whose_reply_is_lost_is_kept_once(redis_url: str, fault: str):
    async with open_proxy(redis_url) as proxy, open_scene(proxy.url) as scene:
        await _publish_first(scene)
        if fault == "cut before the reply":
            proxy.cut_after_request(1)
        elif fault == "cut in mid reply":
            proxy.cut_after(7)
        else:
            proxy.cut()
        await scene.broker.publish_new(Envelope("orders", next(scene.ids), b"1"))
        assert [row[b"data"] for row in await scene.fields("orders")] == [b"0", b"1"]


async def test_a_new_message_that_is_still_on_its_way_when_it_is_sent_again_is_kept_once(redis_url: str):
    """As after a partition, which a connection that was given up here may outlive in the network."""
    async with open_scene(redis_url) as scene:
        await _publish_first(scene)
        client = scene.broker.client
        async with client.open_exclusive() as old:  # Its bytes arrive late: after the script, when it is written to.
            lost = MayHaveExecuted("lost", client_id=old.client_id)
            transact = client.transact

            async def lose(*_commands: Any) -> list[Any]:
                raise lost

            message_id = next(scene.ids)
            client.transact = lose  # type: ignore[method-assign]
            await scene.broker.publish_new(Envelope("orders", message_id, b"1"))
            client.transact = transact  # type: ignore[method-assign]
            with pytest.raises(BrokenConnection):
                await old.call("XADD", "orders", "*", "id", message_id, "data", b"1")
        assert [row[b"data"] for row in await scene.fields("orders")] == [b"0", b"1"]


async def test_a_user_who_may_not_close_connections_publishes_by_the_script(redis_url: str):
    async with open_scene(redis_url) as scene:
        for denied in (("-client", "+client|setname", "+client|unblock"), ("-multi",)):
            await scene.call("ACL", "SETUSER", "ann", "reset", "on", ">secret", "~*", "&*", "+@all", *denied)
            async with open_scene(redis_url.replace("://", "://ann:secret@")) as other:
                await _publish_first(other)
                await _publish_first(other)
                assert await scene.length("orders") == 2
            await scene.call("FLUSHALL")


async def test_a_user_who_loses_the_right_to_transactions_goes_on_publishing(redis_url: str):
    async with open_scene(redis_url) as scene:
        await scene.call("ACL", "SETUSER", "ann", "reset", "on", ">secret", "~*", "&*", "+@all")
        async with open_scene(redis_url.replace("://", "://ann:secret@")) as other:
            await _publish_first(other)
            await scene.call("ACL", "SETUSER", "ann", "-multi")
            await _publish_first(other)
            await _publish_first(other)
        assert await scene.length("orders") == 3


async def test_a_new_message_for_a_source_that_is_no_stream_is_refused(redis_url: str):
    async with open_scene(redis_url) as scene:
        await _publish_first(scene)
        await scene.call("DEL", "orders")
        await scene.call("SET", "orders", "a text")
        with pytest.raises(BrokerError, match=r"cannot publish to orders: .*WRONGTYPE|wrong kind"):
            await _publish_first(scene)


async def test_a_new_message_that_the_server_has_no_memory_for_is_refused(redis_url: str):
    async with open_scene(redis_url) as scene:
        await _publish_first(scene)
        await scene.call("CONFIG", "SET", "maxmemory", "1")
        try:
            with pytest.raises(BrokerError, match=r"OOM|memory") as caught:
                await _publish_first(scene)
            assert caught.value.may_pass
        finally:
            await scene.call("CONFIG", "SET", "maxmemory", "0")
        assert await scene.length("orders") == 1


async def test_scripts_that_the_server_forgot_are_taught_again(redis_url: str):
    async with open_scene(redis_url) as scene:
        await scene.call("SCRIPT", "FLUSH")
        await scene.send("orders", b"1")
        await scene.call("SCRIPT", "FLUSH")
        assert await scene.broker.publish([Envelope("a", "x", b"1"), Envelope("b", "x", b"1")]) == 2


async def test_what_is_held_back_comes_when_it_is_due_by_the_servers_clock(redis_url: str):
    async def trial() -> float:
        orders = subscription()
        async with open_scene(redis_url) as scene:
            await scene.call("FLUSHALL")
            async with scene.node(orders):
                seconds, _ = await scene.call("TIME")
                began = trio.current_time()
                await scene.send("orders", b"past", at=int(seconds) - 5)
                await scene.send("orders", b"later", delay=0.3)
                await scene.send("orders", b"tomorrow", delay=86_400)
                assert (await inbox(orders).take_one()).payload == b"past"
                assert (await inbox(orders).take_one()).payload == b"later"
                took = trio.current_time() - began
                assert took > 0.29
                assert await scene.call("ZCARD", "actorwork:{orders}:delayed") == 1
                assert await scene.call("HLEN", "actorwork:{orders}:delayed:messages") == 1
        return took

    assert await best_of(trial, below=0.45) < 0.45


async def test_a_short_delay_is_kept_by_nodes_that_hear_of_it_from_others(redis_url: str):
    orders = subscription()
    ids = count()
    async with open_scene(redis_url) as scene, open_scene(redis_url) as client, scene.node(orders) as node:
        await scene.send("orders", b"first")
        first = await inbox(orders).take_one()

        async def trial(send: Callable[[list[Envelope]], Awaitable[object]]) -> float:
            began = trio.current_time()
            await send([Envelope("orders", f"later {next(ids)}", b"x", delay=0.15)])
            assert (await inbox(orders).take_one()).payload == b"x"
            took = trio.current_time() - began
            assert took > 0.13
            return took

        for send in (client.broker.publish, partial(node.publish_fenced, orders, first)):
            assert await best_of(partial(trial, send), below=0.3) < 0.3


# ----------------------------------------------------------------------------------------------------------------- read


async def test_a_foreign_entry_is_its_fields(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        entry = await scene.call("XADD", "orders", "*", "x", "1", "id", "17", "group", "vip", "headers", "none")
        delivery = await inbox(orders).take_one()
        fields = {b"x": b"1", b"id": b"17", b"group": b"vip", b"headers": b"none"}
        assert (delivery.id, delivery.payload) == (entry.decode(), fields)
        node.settle(orders, delivery, Retry(0, WHY))
        again = await inbox(orders).take_one()
        assert (again.id, again.payload, again.attempt) == (delivery.id, fields, 2)
        node.settle(orders, again, Ack())
        await node.wait_settled()
        assert await scene.length("orders") == 0


async def test_entries_that_pose_as_steps_of_a_run_are_settled_like_any_others(redis_url: str):
    orders = subscription(capacity=100)
    numbers = ("0", "1", "007", "\u0661", "-1", "1.5", "99999999999999999999", "")
    flows = [*(f"orders/r/{one}" for one in numbers), "orders/no run/1", "a/b/c/1", "a/1", "/1", 'orders/"/1']
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        run = "actorwork:{orders}:flow:r"
        await scene.call("HSET", run, "status", "STARTED", "secret", "s", "open", 2, "total", 2, "ttl", 1000)
        await scene.call("HSET", f"{run}:state", "s0", 1, "s1", 1)
        for flow in flows:
            headers = json.dumps({FLOW: flow}, ensure_ascii=False)
            message_id = flow.partition("/")[2] or flow
            entry = ("id", message_id, "data", "1", "headers", headers, "claim", "guessed", "type", "T")
            await scene.call("XADD", "orders", "*", *entry)
        for delivery in [await inbox(orders).take_one() for _ in flows]:
            node.settle(orders, delivery, Ack(b"7"))
        await node.wait_settled()
        assert await scene.length("orders") == await scene.pending("orders", "group-a") == 0
        assert await scene.call("HGETALL", f"{run}:state") == {b"s0": b"1", b"s1": b"1"}
        assert await scene.call("KEYS", "actorwork:{orders}:state:*") == []


async def test_entries_from_before_the_first_start_are_all_read(redis_url: str):
    orders = subscription(capacity=100)
    async with open_scene(redis_url) as scene:
        await scene.broker.client.call_many([("XADD", "orders", "*", "x", i) for i in range(2500)])
        async with scene.node(orders) as node:
            got: list[object] = []
            while len(got) < 2500:
                some = await inbox(orders).take(min(50, 2500 - len(got)))
                got += [int(fields_of(delivery)[b"x"]) for delivery in some]
                ack_all(node, orders, some)
                node.resume(orders)
            await node.wait_settled()
        assert got == list(range(2500))
        assert max(inbox(orders).offers) <= 100
        assert await scene.length("orders") == await scene.pending("orders", "group-a") == 0


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        (b"{", "Expecting property name"),
        (b"[1]", "wanted a JSON object, got b'[1]'"),
        (b"\xff", "codec can't decode"),
        (b'{"x": NaN}', "NaN is not JSON"),
        (b'{"x": [-Infinity]}', "-Infinity is not JSON"),
        (b'{"x": 1e999}', "1e999' is too large for a number"),
        (b'{"actorwork-attempt": 0}', "wants a whole number from 1 on, got 0"),
        (b'{"actorwork-attempt": true}', "wants a whole number"),
        (b'{"actorwork-reply-to": 1}', "wants a str, got 1"),
        (b'{"actorwork-result-ttl": "1"}', "wants seconds greater than 0"),
    ],
)
async def test_headers_nobody_can_read_make_a_dead_letter(redis_url: str, headers: bytes, why: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders):
        await scene.call("XADD", "orders", "*", "data", "1", "id", "m1", "headers", headers)
        await scene.call("XADD", "orders", "*", "data", "2", "id", "m2")
        assert (await inbox(orders).take_one()).id == "m2"
        with trio.fail_after(PATIENCE):
            while not (letters := await scene.broker.dead_letters.list("orders")):  # noqa: ASYNC110
                await trio.sleep(0.001)
        (letter,) = letters
        assert (letter.id, letter.payload, letter.failure.type) == ("m1", b"1", "CodecError")
        assert "`headers`" in letter.failure.reason
        assert why in letter.failure.reason


async def test_a_dead_letter_whose_headers_cannot_be_read_is_replayed_without_them(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        await scene.call("XADD", "orders", "*", "data", "1", "id", "m1", "headers", b'{"x": NaN}')
        await wait_until(lambda: scene.told(Settled))
        await node.wait_settled()
        (letter,) = await scene.broker.dead_letters.list("orders")
        assert await scene.broker.dead_letters.replay("orders", [letter.entry]) == 1
        again = await inbox(orders).take_one()
        assert (again.id, again.payload, again.headers) == ("m1", b"1", {})


async def test_a_retry_that_cannot_be_written_is_a_dead_letter(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        await scene.send("orders", b"1", b"2", headers={"x": 1})
        broken, sound = await inbox(orders).take(2)
        node.settle(orders, attrs.evolve(broken, headers={"x": float("nan")}), Retry(0, WHY))
        node.settle(orders, sound, Retry(0, WHY))
        assert (await inbox(orders).take_one()).payload == b"2"
        await node.wait_settled()
        (letter,) = await scene.broker.dead_letters.list("orders")
        assert (letter.payload, letter.headers) == (b"1", {"x": 1})
        assert "cannot be written" in letter.failure.reason
        assert "it becomes a dead letter" in [event.next for event in scene.told(BrokerTrouble)]


async def test_two_groups_each_get_every_message_and_the_last_ack_deletes_it(redis_url: str):
    one, two = subscription(group="one"), subscription(group="two")
    async with open_scene(redis_url) as scene, scene.node(one, two) as node:
        await scene.send("orders", *[b"%d" % i for i in range(20)])
        ack_all(node, one, await inbox(one).take(20))
        await node.wait_settled()
        assert await scene.length("orders") == 20
        ack_all(node, two, await inbox(two).take(20))
        await node.wait_settled()
        assert await scene.length("orders") == 0


async def test_a_retry_comes_to_its_own_group_alone(redis_url: str):
    one, two = subscription(group="one"), subscription(group="two")
    async with open_scene(redis_url) as scene, scene.node(one, two) as node:
        await scene.send("orders", b"x", type="Order", headers={"trace": "t", ATTEMPT: 3})
        first = await inbox(one).take_one()
        node.settle(two, await inbox(two).take_one(), Ack())
        node.settle(one, first, Retry(0, WHY))
        again = await inbox(one).take_one()
        assert (again.id, again.payload, again.type, again.attempt) == (first.id, b"x", "Order", 4)
        assert again.headers["trace"] == "t"
        (entry,) = history_of(again)
        assert (entry["attempt"], entry["error"], entry["reason"]) == (3, "ValueError", "no such table")
        node.settle(one, again, Ack())
        with trio.fail_after(PATIENCE):
            while await scene.length("orders"):  # noqa: ASYNC110 - the other group's reader acks it away
                await trio.sleep(0.001)
        assert inbox(two).waiting == []


async def test_two_groups_may_hold_back_the_same_message(redis_url: str):
    one, two = subscription(group="one"), subscription(group="two")
    async with open_scene(redis_url) as scene, scene.node(one, two) as node:
        await scene.send("orders", b"x")
        for each in (one, two):
            node.settle(each, await inbox(each).take_one(), Retry(0.1, WHY))
        for each in (one, two):
            assert (await inbox(each).take_one()).attempt == 2


async def test_the_history_of_attempts_keeps_the_last_ten(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        await scene.send("orders", b"x")
        for _ in range(12):
            node.settle(orders, await inbox(orders).take_one(), Retry(0, WHY))
        last = await inbox(orders).take_one()
        assert [entry["attempt"] for entry in history_of(last)] == list(range(3, 13))


async def test_a_busy_source_does_not_starve_another(redis_url: str):
    orders = subscription("busy", "quiet", capacity=10)
    async with open_scene(redis_url) as scene:
        await scene.send("busy", *[b"b"] * 500)
        await scene.send("quiet", *[b"q"] * 5)
        async with scene.node(orders) as node:
            first = await inbox(orders).take(10)
            assert [delivery.source for delivery in first].count("quiet") == 5
            ack_all(node, orders, first)


async def test_no_more_is_read_than_there_is_room_for(redis_url: str):
    sources = [f"s{i}" for i in range(30)]
    orders = subscription(*sources, capacity=4)
    async with open_scene(redis_url) as scene:
        await scene.broker.publish([Envelope(source, next(scene.ids), b"1") for source in sources for _ in range(3)])
        async with scene.node(orders) as node:
            seen: list[str] = []
            while len(seen) < 90:
                some = await inbox(orders).take(1)
                assert len(inbox(orders).waiting) < 4
                seen += [delivery.source for delivery in some]
                ack_all(node, orders, some)
                node.resume(orders)
            assert sorted(seen) == sorted(sources * 3)


async def test_a_hundred_sources_are_read_by_two_readers(redis_url: str):
    sources = [f"s{i}" for i in range(100)]
    orders = subscription(*sources)
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        await scene.broker.publish([Envelope(source, next(scene.ids), b"1") for source in sources])
        got = await inbox(orders).take(100)
        assert sorted(delivery.source for delivery in got) == sorted(sources)
        ack_all(node, orders, got)
        clients: bytes = await scene.call("CLIENT", "LIST")
        assert clients.count(b"name=actorwork-reader") == 2


# --------------------------------------------------------------------------------------------------------------- settle


async def test_an_outcome_is_kept_and_published_for_who_asked(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node, scene.broker.open_replies() as replies:
        headers = {RESULT_TTL: 60, REPLY_TO: replies.address}
        waiting = [replies.expect("orders", f"m{i}") for i in range(3)]
        await scene.broker.publish([Envelope("orders", f"m{i}", b"1", headers=headers) for i in range(3)])
        for delivery, settlement in zip(
            await inbox(orders).take(3), (Ack(b'{"a": [1, "\\""]}'), Reject(WHY), Fail(WHY)), strict=True
        ):
            node.settle(orders, delivery, settlement)
        with trio.fail_after(PATIENCE):
            outcomes = [await each.outcome() for each in waiting]
        assert outcomes == [
            Outcome("done", b'{"a": [1, "\\""]}'),
            Outcome("rejected", failure=WHY),
            Outcome("failed", failure=WHY),
        ]
        assert [await scene.broker.find_outcome("orders", f"m{i}") for i in range(3)] == outcomes
        assert 30 < await scene.call("TTL", "actorwork:{orders}:result:m0") <= 60
        assert await scene.broker.find_outcome("orders", "m9") is None


async def test_a_reply_that_the_channel_lost_is_found_after_the_reconnect(redis_url: str):
    orders = subscription()
    async with (
        open_scene(redis_url) as scene,
        scene.node(orders) as node,
        open_proxy(redis_url) as proxy,
        open_scene(proxy.url) as asker,
        asker.broker.open_replies() as replies,
    ):
        waiting = replies.expect("orders", "m1")
        headers = {RESULT_TTL: 60, REPLY_TO: replies.address}
        await asker.broker.publish([Envelope("orders", "m1", b"1", headers=headers)])
        proxy.refuse()
        proxy.cut()
        node.settle(orders, await inbox(orders).take_one(), Ack(b"7"))
        await node.wait_settled()
        proxy.accept()
        with trio.fail_after(PATIENCE):
            assert (await waiting.outcome()).value == b"7"


async def test_a_taken_over_delivery_cannot_be_settled_and_publishes_nothing(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        await scene.send("orders", b"a", b"b")
        mine, lost = await inbox(orders).take(2)
        await scene.call("XCLAIM", "orders", "group-a", "another", 0, lost.token[0])
        for delivery in (mine, lost):
            node.settle(orders, delivery, Ack(b"1"), [Envelope("letters", f"for {delivery.id}", b"1")])
        await node.wait_settled()
        (refused,) = scene.told(Fenced)
        assert refused.delivery is lost
        assert node.statistics()["fenced"] == 1
        assert [row[b"id"] for row in await scene.fields("letters")] == [f"for {mine.id}".encode()]
        assert await scene.length("orders") == 1


async def test_the_same_consumer_under_another_delivery_count_is_fenced_too(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        await scene.send("orders", b"a")
        delivery = await inbox(orders).take_one()
        await scene.call("XCLAIM", "orders", "group-a", node.incarnation, 0, delivery.token[0])
        node.settle(orders, delivery, Ack())
        await node.wait_settled()
        assert len(scene.told(Fenced)) == 1


async def test_settling_twice_counts_once(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        await scene.send("orders", b"a", b"b")
        for delivery in await inbox(orders).take(2):
            node.settle(orders, delivery, Fail(WHY))
            node.settle(orders, delivery, Fail(WHY))
            node.settle(orders, delivery, Ack())
        await node.wait_settled()
        assert len(scene.told(Fenced)) == 4
        assert node.statistics()["settled"] == 2
        assert await scene.length("orders") == 0


async def test_settling_far_apart_entries_finds_each_of_them(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        await scene.send("orders", *[b"%d" % i for i in range(500)])
        got = await inbox(orders).take(500)
        ack_all(node, orders, got[::37])
        await node.wait_settled()
        assert await scene.length("orders") == 500 - len(got[::37])
        rest = [delivery for i, delivery in enumerate(got) if i % 37]
        ack_all(node, orders, rest[::-1])
        await node.wait_settled()
        assert (await scene.length("orders"), node.statistics()["fenced"]) == (0, 0)


async def test_a_settlement_whose_reply_is_lost_is_applied_once_and_not_fenced(redis_url: str):
    orders = subscription()
    async with open_proxy(redis_url) as proxy, open_scene(proxy.url) as scene, scene.node(orders) as node:
        await scene.send("orders", b"a", b"b", b"c")
        got = await inbox(orders).take(3)
        await trio.sleep(0.05)  # The first look at the source is over; nothing else is on its way.
        proxy.cut_after(0)
        node.settle(orders, got[0], Ack(), [Envelope("letters", "once", b"1")])
        node.settle(orders, got[1], Fail(WHY))
        node.settle(orders, got[2], Retry(60, WHY))
        await node.wait_settled()
        assert (node.statistics()["settled"], scene.told(Fenced)) == (3, [])
        assert await scene.length("letters") == await scene.length("actorwork:{orders}:dead") == 1
        assert await scene.call("ZCARD", "actorwork:{orders}:delayed") == 1
        assert await scene.length("orders") == 0


async def test_messages_for_what_is_no_stream_turn_the_settlement_into_a_dead_letter(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        await scene.call("SET", "letters", "a text")
        await scene.send("orders", b"a")
        published = [Envelope("fine", "f", b"1"), Envelope("letters", "l", b"1")]
        node.settle(orders, await inbox(orders).take_one(), Ack(), published)
        await node.wait_settled()
        (letter,) = await scene.broker.dead_letters.list()
        assert "letters is no stream" in letter.failure.reason
        assert await scene.length("fine") == 0
        assert "dead letter" in scene.told(BrokerTrouble)[-1].next


async def test_messages_of_a_batch_for_what_is_no_stream_turn_all_its_settlements_into_dead_letters(redis_url: str):
    both = subscription("orders", "bills")
    async with open_scene(redis_url) as scene, scene.node(both) as node:
        await scene.call("SET", "letters", "a text")
        await scene.send("orders", b"a", b"b")
        await scene.send("bills", b"c")
        taken = await inbox(both).take(3)
        node.settle_together(
            both, [(one, Ack()) for one in taken], [Envelope("fine", "f", b"1"), Envelope("letters", "l", b"1")]
        )
        await node.wait_settled()
        await node.wait_settled()  # Now they are queued anew, as failures.
        letters = await scene.broker.dead_letters.list()
        assert ["letters is no stream" in letter.failure.reason for letter in letters] == [True] * 3
        assert [await scene.length(name) for name in ("fine", "orders", "bills")] == [0, 0, 0]
        assert "3 messages that were handled with it become dead letters" in scene.told(BrokerTrouble)[-1].next


async def test_a_batch_whose_reply_is_lost_is_settled_once_with_what_it_published(redis_url: str):
    both = subscription("orders", "bills")
    async with open_proxy(redis_url) as proxy, open_scene(proxy.url) as scene, scene.node(both) as node:
        await scene.send("orders", b"a")
        await scene.send("bills", b"b")
        taken = await inbox(both).take(2)
        await trio.sleep(0.05)  # The first look at the sources is over; nothing else is on its way.
        proxy.cut_after(0)
        node.settle_together(both, [(one, Ack()) for one in taken], [Envelope("letters", "once", b"1")])
        await node.wait_settled()
        assert (node.statistics()["settled"], scene.told(Fenced)) == (2, [])
        assert [await scene.length(name) for name in ("letters", "orders", "bills")] == [1, 0, 0]


@pytest.mark.parametrize(
    "frame",
    [
        b"%1\r\n$6\r\norders\r\n_\r\n",
        b"%1\r\n$6\r\norders\r\n*1\r\n*2\r\n$3\r\n1-1\r\n_\r\n",
        b"%1\r\n$6\r\nothers\r\n*0\r\n",
        b"%1\r\n*0\r\n_\r\n",
        b"*1\r\n:1\r\n",
    ],
)
async def test_a_read_that_gets_what_redis_never_sends_loses_its_connection_and_no_message(
    redis_url: str, frame: bytes
):
    orders = subscription()
    async with open_proxy(redis_url) as proxy, open_scene(proxy.url) as scene, scene.node(orders):
        await scene.send("orders", b"a")
        assert (await inbox(orders).take_one()).payload == b"a"
        await proxy.insert(frame)
        await scene.send("orders", b"b")
        assert (await inbox(orders).take_one()).payload == b"b"


async def test_readers_that_get_no_connection_read_over_the_shared_one_and_say_so_once(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(reader, "_PATIENCE", 0.0)
    monkeypatch.setattr(reader, "_SHARED_EVERY", 0.01)
    monkeypatch.setattr(reader, "_SHARED_FOR", 0.05)
    with open_redis_server() as server:
        subscriptions = [subscription(f"s{number}", group=f"group-{number}") for number in range(5)]
        async with open_scene(server.url) as scene:
            await scene.call("CONFIG", "SET", "maxclients", 2)  # The shared connection, and that of the lease.
            async with scene.node(*subscriptions) as node:
                for number, one in enumerate(subscriptions):
                    await scene.send(f"s{number}", b"1", b"2", b"3")
                    ack_all(node, one, await inbox(one).take(3))
                (trouble,) = scene.told(BrokerTrouble)
                assert trouble.doing.startswith("opening a connection to read s")
                assert "max number of clients reached" in trouble.error
                await scene.call("CONFIG", "SET", "maxclients", 100)
                await wait_until(lambda: all(one.reader._exclusive for one in node._intake.parts))  # pyright: ignore[reportPrivateUsage]
                await scene.send("s0", b"4")
                ack_all(node, subscriptions[0], await inbox(subscriptions[0]).take(1))
                await node.wait_settled()
                assert node.statistics()["settled"] == 16


async def test_publishing_for_a_delivery_that_goes_on_is_fenced(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        await scene.send("orders", b"a")
        delivery = await inbox(orders).take_one()
        letter = Envelope("letters", "l", b"1")
        assert await node.publish_fenced(orders, delivery, [letter])
        assert await node.publish_fenced(orders, delivery, [letter])
        assert await scene.length("letters") == 1
        await scene.call("XCLAIM", "orders", "group-a", "another", 0, delivery.token[0])
        assert not await node.publish_fenced(orders, delivery, [Envelope("letters", "m", b"1")])
        assert await scene.length("letters") == 1
        await scene.call("SET", "text", "")
        await scene.call("XCLAIM", "orders", "group-a", node.incarnation, 0, delivery.token[0], "RETRYCOUNT", 1)
        with pytest.raises(BrokerError, match="text is no stream"):
            await node.publish_fenced(orders, delivery, [Envelope("text", "m", b"1")])


async def test_a_server_without_memory_still_settles(redis_url: str):
    with open_redis_server() as server:
        orders = subscription()
        async with open_scene(server.url) as scene, scene.node(orders) as node:
            await scene.send("orders", b"a", b"b")
            got = await inbox(orders).take(2)
            await scene.call("CONFIG", "SET", "maxmemory", "1")
            with pytest.raises(BrokerError, match="memory"):
                await scene.send("orders", b"c")
            node.settle(orders, got[0], Ack())
            node.settle(orders, got[1], Fail(WHY))
            await node.wait_settled()
            assert node.statistics()["settled"] == 2


# ------------------------------------------------------------------------------------------------- hand back, take over


async def test_what_is_handed_back_keeps_its_place_and_is_not_counted(redis_url: str):
    one, two = subscription(), subscription()
    async with open_scene(redis_url) as scene:
        async with scene.node(one) as first:
            await scene.send("orders", b"a", b"b", b"c")
            got = await inbox(one).take(3)
            await first.stop_intake()
            await first.release_deliveries(one, got[:2])
            assert scene.told(Released)[0].count == 2
            async with scene.node(two) as second:
                with trio.fail_after(1 + BUSY):
                    taken = await inbox(two).take(2)
                assert [(each.payload, each.attempt, each.crashes) for each in taken] == [(b"a", 1, 0), (b"b", 1, 0)]
                assert scene.told(Reclaimed)[-1].previous == "released"
                first.settle(one, got[0], Ack())
                await first.wait_settled()
                assert len(scene.told(Fenced)) == 1
                ack_all(second, two, taken)
                await second.wait_settled()
            ack_all(first, one, got[2:])
            await first.wait_settled()
        assert await scene.length("orders") == 0


async def test_a_running_node_takes_what_another_hands_back_at_once(redis_url: str):
    one, two = subscription(), subscription()
    async with open_scene(redis_url) as scene, scene.node(one) as first:
        await scene.send("orders", b"a")
        got = await inbox(one).take(1)
        await first.stop_intake()
        async with scene.node(two):
            await trio.sleep(0.1)
            await first.release_deliveries(one, got)
            await inbox(two).take_one()


async def test_the_work_of_a_dead_node_is_taken_over_and_its_consumer_removed(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene:
        await scene.send("orders", b"a", b"b")
        dead = await scene.die_with(orders, 2)
        async with scene.node(orders) as node:
            got = await inbox(orders).take(2)
            assert [each.crashes for each in got] == [1, 1]
            assert [(each.previous, each.count) for each in scene.told(Reclaimed)] == [(dead, 2)]
            ack_all(node, orders, got)
            with trio.fail_after(2.5 + BUSY):
                while True:
                    consumers = await scene.call("XINFO", "CONSUMERS", "orders", "group-a")
                    if [consumer[b"name"] for consumer in consumers] == [node.incarnation.encode()]:
                        break
                    await trio.sleep(0.05)


async def test_the_work_of_a_living_node_is_left_alone(redis_url: str):
    one, two = subscription(), subscription()
    async with open_scene(redis_url) as scene, scene.node(one, lease=5), scene.node(two, lease=5):
        await scene.send("orders", b"a")
        await trio.sleep(5.6)
        assert len(inbox(one).waiting) + len(inbox(two).waiting) == 1


async def test_a_node_that_closes_without_settling_leaves_its_work_to_the_next_at_once(redis_url: str):
    one, two = subscription(), subscription()
    async with open_scene(redis_url) as scene:
        async with scene.node(one):
            await scene.send("orders", b"a")
            await inbox(one).take(1)
        async with scene.node(two):
            await inbox(two).take_one()


async def test_a_message_that_takes_down_too_many_processes_is_buried(redis_url: str):
    orders = subscription(max_crashes=3)
    async with open_scene(redis_url) as scene, scene.broker.open_replies() as replies:
        waiting = replies.expect("orders", "poison")
        headers = {RESULT_TTL: 60, REPLY_TO: replies.address}
        await scene.broker.publish([Envelope("orders", "poison", b"1", headers=headers)])
        dead = await scene.die_with(orders, 1)
        crashes: list[int] = []
        for _ in range(2):
            async with scene.node(orders):
                crashes.append((await inbox(orders).take_one()).crashes)
        assert crashes == [1, 2]
        async with scene.node(orders) as node:
            with trio.fail_after(PATIENCE):
                outcome = await waiting.outcome()
            assert outcome.failure is not None
            assert (outcome.status, outcome.failure.type) == ("failed", "Crashed")
            (letter,) = await scene.broker.dead_letters.list("orders")
            assert (letter.id, letter.failure.reason) == ("poison", "3 processes died while they handled this message")
            assert letter.actor == orders.actor
            await wait_until(lambda: node.statistics()["dead_lettered"] == 1)
        assert inbox(orders).waiting == []
        assert await scene.length("orders") == 0
        assert dead


async def is_offered_more(scene: Scene, of: Subscription) -> bool:
    """Wait until a delivery is offered, or none is left."""
    with trio.fail_after(PATIENCE):
        while not inbox(of).waiting:
            if await scene.length("orders") == 0:
                return False
            await trio.sleep(0.01)
    return True


async def test_bystanders_of_a_crash_are_run_alone_and_not_buried(redis_url: str):
    """A message that kills its process lies among others; each crash counts for them all, but only one is guilty."""
    orders = subscription(max_crashes=3)
    handled: set[bytes] = set()
    async with open_scene(redis_url) as scene:
        await scene.send("orders", *[b"%d" % i for i in range(10)])
        for _ in range(30):
            inbox(orders).waiting.clear()
            async with scene.node(orders) as node:
                while await is_offered_more(scene, orders):
                    delivery = await inbox(orders).take_one()
                    payload = delivery.payload
                    assert isinstance(payload, bytes)
                    if payload == b"4":
                        break  # The process dies here, with all that is in its mailbox.
                    handled.add(payload)
                    node.settle(orders, delivery, Ack())
                    await node.wait_settled()
            if await scene.length("orders") == 0:
                break
        assert handled == {b"%d" % i for i in range(10)} - {b"4"}
        (letter,) = await scene.broker.dead_letters.list()
        assert letter.payload == b"4"


async def test_entries_deleted_by_somebody_are_acked_away(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene:
        await scene.send("orders", b"a", b"b")
        await scene.die_with(orders, 2)
        (first, _), _ = await scene.call("XRANGE", "orders", "-", "+")
        await scene.call("XDEL", "orders", first)
        async with scene.node(orders) as node:
            assert (await inbox(orders).take_one()).payload == b"b"
            await wait_until(lambda: scene.told(MessageLost))
            assert [event.message_id for event in scene.told(MessageLost)] == [f"of the entry {first.decode()}"]
            assert await scene.pending("orders", "group-a") == 1
            assert node.statistics()["reclaimed"] == 1


async def test_an_entry_that_crashed_often_and_was_deleted_is_reported(redis_url: str):
    orders = subscription(max_crashes=1)
    async with open_scene(redis_url) as scene:
        await scene.send("orders", b"a")
        await scene.die_with(orders, 1)
        ((first, _),) = await scene.call("XRANGE", "orders", "-", "+")
        await scene.call("XDEL", "orders", first)
        async with scene.node(orders) as node:
            await wait_until(lambda: scene.told(MessageLost))
            assert await scene.pending("orders", "group-a") == node.statistics()["dead_lettered"] == 0


@pytest.mark.parametrize("delay", [0, 60])
async def test_a_retry_whose_entry_was_deleted_is_lost_and_its_sender_learns_that(redis_url: str, delay: float):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node, scene.broker.open_replies() as replies:
        waiting = replies.expect("orders", "m")
        headers = {RESULT_TTL: 60, REPLY_TO: replies.address}
        await scene.broker.publish([Envelope("orders", "m", b"1", headers=headers, key="k")])
        await scene.send("orders", b"2", key="k")
        delivery = await inbox(orders).take_one()
        await scene.call("XDEL", "orders", delivery.token[0])
        node.settle(orders, delivery, Retry(delay, WHY))
        with trio.fail_after(PATIENCE):
            outcome = await waiting.outcome()
        assert outcome.failure is not None
        assert (outcome.status, outcome.failure.type) == ("rejected", "Lost")
        assert await scene.broker.find_outcome("orders", "m") == outcome
        assert [event.message_id for event in scene.told(MessageLost)] == ["m"]
        assert (await inbox(orders).take_one()).payload == b"2"  # Its key is free.
        assert await scene.call("ZCARD", "actorwork:{orders}:delayed") == 0


async def test_taking_over_waits_for_room(redis_url: str):
    orders = subscription(capacity=3)
    async with open_scene(redis_url) as scene:
        await scene.send("orders", *[b"%d" % i for i in range(10)])
        await scene.die_with(orders, 8)
        async with scene.node(orders) as node:
            got: list[object] = []
            with trio.fail_after(PATIENCE):
                while len(got) < 10:
                    delivery = await inbox(orders).take_one()
                    assert len(inbox(orders).waiting) <= 3
                    got.append(delivery.payload)
                    node.settle(orders, delivery, Ack())
                    node.resume(orders)
            assert got == [b"%d" % i for i in range(10)]


async def test_a_lost_lease_revokes_everything_and_the_node_goes_on_under_a_new_name(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders, lease=1.5) as node:
        await scene.send("orders", b"a")
        delivery = await inbox(orders).take_one()
        before = node.incarnation
        await scene.kill(node)
        await wait_until(lambda: scene.told(LeaseLost))
        assert (scene.told(LeaseLost)[0].incarnation, inbox(orders).revoked) == (before, 1)
        assert node.incarnation == scene.told(LeaseLost)[0].successor != before
        node.settle(orders, delivery, Ack())
        assert len(scene.told(Fenced)) == 1
        again = await inbox(orders).take_one()
        assert (again.payload, again.crashes) == (b"a", 1)
        await scene.send("orders", b"b")
        got = [again, await inbox(orders).take_one()]
        ack_all(node, orders, got)
        await node.wait_settled()
        assert await scene.length("orders") == 0
        assert await scene.call("EXISTS", f"actorwork:node:{node.incarnation}") == 1
    assert node.statistics()["settled"] == 2


async def test_the_lease_is_renewed_while_the_loop_is_blocked_and_gone_after_the_end(redis_url: str):
    import time

    async with open_scene(redis_url) as scene:
        async with scene.node(subscription(), lease=5) as node:
            key = f"actorwork:node:{node.incarnation}"
            time.sleep(5.6)  # noqa: ASYNC251 - a handler that blocks
            assert await scene.call("PTTL", key) > 0
        assert await scene.call("EXISTS", key) == 0
        assert scene.told(LeaseLost) == []


# -------------------------------------------------------------------------------------------------------------- healing


async def test_groups_are_made_again_wherever_they_went(redis_url: str):
    orders = subscription("orders", "letters")
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        await scene.send("orders", b"a")
        ack_all(node, orders, await inbox(orders).take(1))
        for loss in (("XGROUP", "DESTROY", "orders", "group-a"), ("DEL", "letters"), ("DEL", "orders"), ("FLUSHALL",)):
            await node.wait_settled()
            before = len(scene.told(GroupRestored))
            await scene.call(*loss)
            await scene.broker.publish(
                [Envelope("orders", f"after {loss}", b"x"), Envelope("letters", f"{loss}", b"x")]
            )
            got = await inbox(orders).take(2, within=PATIENCE)
            assert len(scene.told(GroupRestored)) > before
            ack_all(node, orders, got)
            with trio.fail_after(PATIENCE):
                while await scene.length("orders") + await scene.length("letters"):
                    # A lease that went with FLUSHALL makes them come once more.
                    ack_all(node, orders, await inbox(orders).take(1)) if inbox(orders).waiting else None
                    await trio.sleep(0.01)


async def test_what_is_in_hand_while_its_group_is_made_again_runs_once(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        await scene.send("orders", b"a")
        delivery = await inbox(orders).take_one()
        await scene.call("XGROUP", "DESTROY", "orders", "group-a")
        await wait_until(lambda: scene.told(GroupRestored))
        await scene.send("orders", b"b")
        other = await inbox(orders).take_one()
        assert other.payload == b"b"
        ack_all(node, orders, [delivery, other])
        await node.wait_settled()
        assert (node.statistics()["settled"], await scene.length("orders")) == (2, 0)


async def test_an_answer_that_no_read_has_is_a_broken_connection_and_not_the_end_of_the_node(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        with pytest.raises(BrokenConnection, match="this connection cannot be trusted"):
            node._intake.parts[0].reader._deliver(b"OK")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        await scene.send("orders", b"a")
        assert (await inbox(orders).take_one()).payload == b"a"


async def test_messages_of_a_reply_that_was_cut_are_offered_on_the_next_connection(redis_url: str):
    orders = subscription()
    async with (
        open_scene(redis_url) as scene,
        open_proxy(redis_url) as proxy,
        open_scene(proxy.url) as cut,
        cut.node(orders) as node,
    ):
        await scene.send("orders", b"first")
        held = await inbox(orders).take_one()
        await trio.sleep(0.05)
        proxy.cut_after(40)
        await scene.send("orders", *[b"%d" % i for i in range(20)])
        got = await inbox(orders).take(20)
        assert [each.payload for each in got] == [b"%d" % i for i in range(20)]
        assert all(each.crashes == 0 for each in got)
        ack_all(node, orders, [held, *got])
        await node.wait_settled()
        assert (node.statistics()["settled"], await scene.length("orders")) == (21, 0)


async def test_a_server_killed_in_mid_work_and_started_again_loses_nothing():
    with open_redis_server(append_only=True) as server:
        orders = subscription(capacity=50)
        done: set[object] = set()
        async with open_scene(server.url) as scene, scene.node(orders, lease=60) as node:
            await scene.send("orders", *[b"%d" % i for i in range(2000)])

            async def work() -> None:
                while len(done) < 2000:
                    for delivery in await inbox(orders).take(1, within=PATIENCE):
                        done.add(delivery.payload)
                        node.settle(orders, delivery, Ack())
                    node.resume(orders)
                    await trio.sleep(0.0005)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(work)
                for _ in range(3):
                    await trio.sleep(0.2)
                    server.kill()
                    await trio.sleep(0.1)
                    server.start()
            await node.wait_settled()
            assert (len(done), scene.told(LeaseLost)) == (2000, [])
            assert await scene.length("orders") == await scene.pending("orders", "group-a") == 0


async def test_a_cancelled_node_settles_what_was_handled(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene:
        with trio.CancelScope() as scope:
            async with scene.node(orders) as node:
                await scene.send("orders", b"a")
                node.settle(orders, await inbox(orders).take_one(), Ack())
                scope.cancel()
                await trio.sleep_forever()
        assert await scene.length("orders") == 0


async def test_an_idle_node_stops_without_waiting_for_anything(redis_url: str):
    sources = [f"s{i}" for i in range(100)]
    async with open_scene(redis_url) as scene:

        async def trial() -> float:
            async with scene.node(subscription(*sources)):
                await trio.sleep(0.2)
                began = trio.current_time()
            return trio.current_time() - began

        assert await best_of(trial, below=0.5) < 0.5


async def test_an_error_of_the_body_leaves_the_node_unwrapped(redis_url: str):
    async with open_scene(redis_url) as scene:
        with pytest.raises(KeyError):
            async with scene.node(subscription()):
                raise KeyError
        with pytest.raises(KeyError):
            async with scene.broker.open_replies():
                raise KeyError


# --------------------------------------------------------------------------------------------------------- dead letters


async def test_dead_letters_are_listed_shown_replayed_and_dropped(redis_url: str):
    one, two = subscription(group="one"), subscription(group="two")
    letters = None
    async with open_scene(redis_url) as scene, scene.node(one, two) as node:
        letters = scene.broker.dead_letters
        headers: dict[str, Json] = {"list": [], "number": 12345678901234567890, ATTEMPT: 4}
        await scene.broker.publish([Envelope("orders", "m1", b"\xffno json", type="Order", headers=headers)])
        await scene.call("XADD", "orders", "*", "x", "1")
        mine = await inbox(one).take(2)
        ack_all(node, two, await inbox(two).take(2))
        for delivery in mine:
            node.settle(one, delivery, Fail(WHY))
        await node.wait_settled()
        assert await scene.length("orders") == 0
        ours, foreign = await letters.list()
        assert (ours.source, ours.id, ours.group, ours.actor, ours.attempt) == ("orders", "m1", "one", one.actor, 4)
        assert (ours.failure, ours.payload, ours.type, ours.headers) == (WHY, b"\xffno json", "Order", headers)
        assert (foreign.id, foreign.payload) == (mine[1].id, {b"x": b"1"})
        assert abs(ours.at - int((await scene.call("TIME"))[0])) < 5
        assert await letters.get("orders", ours.entry) == ours
        assert await letters.get("orders", "1-1") is None
        assert await letters.list("other") == []
        assert len(await letters.list(limit=1)) == 1

        assert await letters.replay("orders", [ours.entry, foreign.entry, "1-1"]) == 2
        again, foreign_again = await inbox(one).take(2)
        assert (again.id, again.payload, again.attempt, again.type) == ("m1", b"\xffno json", 1, "Order")
        assert again.headers == {"list": [], "number": 12345678901234567890}
        assert (foreign_again.id, foreign_again.payload) == (foreign.id, {b"x": b"1"})
        assert await letters.list() == []
        node.settle(one, again, Fail(WHY))
        node.settle(one, foreign_again, Ack())
        await node.wait_settled()
        (last,) = await letters.list("orders")
        assert await letters.drop("orders", [last.entry, "1-1"]) == 1
        assert await letters.drop("orders", []) == 0
        assert inbox(two).waiting == []


async def test_a_foreign_entry_is_replayed_with_another_message(redis_url: str):
    wanted = subscription(group="one")
    async with open_scene(redis_url) as scene, scene.node(wanted) as node:
        letters = scene.broker.dead_letters
        await scene.call("XADD", "orders", "*", "x", "1", "id", "theirs", "group", "none")
        (foreign,) = await inbox(wanted).take(1)
        node.settle(wanted, foreign, Fail(WHY))
        await node.wait_settled()
        (letter,) = await letters.list()
        assert await letters.replay_as("orders", letter.entry, b'{"x": 2}')
        (again,) = await inbox(wanted).take(1)
        assert (again.id, again.payload, again.headers) == (foreign.id, b'{"x": 2}', {})
        node.settle(wanted, again, Ack())
        await node.wait_settled()
        assert await scene.length("orders") == await scene.length("actorwork:{orders}:dead") == 0


async def test_messages_that_kill_processes_are_bounded_like_any_other_dead_letter(redis_url: str):
    orders = attrs.evolve(subscription(max_crashes=0), dead_letters=DeadLetterSettings(max_count=1))
    async with open_scene(redis_url) as scene:
        for number in range(3):
            await scene.send("orders", b"%d" % number)
            await scene.die_with(orders, 1)
            async with scene.node(orders):
                with trio.fail_after(PATIENCE):
                    while await scene.length("orders"):  # noqa: ASYNC110 - the server sets no event of ours
                        await trio.sleep(0.01)
        (letter,) = await scene.broker.dead_letters.list()
        assert (letter.payload, letter.failure.type) == (b"2", "Crashed")


# ------------------------------------------------------------------------------------------------------------ diagnosis


async def test_a_server_that_evicts_streams_is_refused():
    with open_redis_server(config={"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}) as server:
        with pytest.raises(BrokerError, match=r"CONFIG SET maxmemory-policy noeviction, and the same in redis\.conf$"):
            async with open_broker(server.url, emit=list[object]().append):
                pytest.fail("it must not open")
        events: list[object] = []
        async with open_broker(server.url, emit=events.append, is_unsafe_allowed=True) as broker:
            assert any(isinstance(event, BrokerAdvice) and "allkeys-lru" in event.text for event in events)
            findings = {finding.subject: finding for finding in await broker.diagnose()}
        assert findings["eviction"].level == "error"
        assert (findings["durability"].level, findings["permissions"].level) == ("warning", "ok")


async def test_states_of_entities_on_a_server_without_an_append_only_file_are_an_error():
    for append_only, expected in ((False, "error"), (True, "ok")):
        with open_redis_server(append_only=append_only) as server:
            async with open_broker(server.url, emit=list[object]().append) as broker:
                assert "entities" not in {finding.subject for finding in await broker.diagnose()}
                await broker.entities.put("orders", "first", "ann", b"1")
                found = {finding.subject: finding for finding in await broker.diagnose()}["entities"]
                assert found.level == expected
                assert found.text.startswith("1 actor keeps the states of entities here")


async def test_a_user_who_lacks_rights_is_told_which():
    rights = "ann on >secret ~* &* +@all -info -xclaim -zadd"
    with open_redis_server(users=[rights]) as server:
        url = server.url.replace("unix://", "unix://ann:secret@")
        async with open_scene(url) as scene:
            findings = await scene.broker.diagnose()
            missing = [finding for finding in findings if finding.subject == "permissions"]
            assert [finding.advice for finding in missing] == ["ACL SETUSER … +xclaim", "ACL SETUSER … +zadd"]
            assert [finding.level for finding in findings if finding.subject == "server"] == ["warning"]


async def test_a_user_without_channels_handles_and_settles_all_the_same():
    with open_redis_server(users=["ann on >secret ~* resetchannels +@all"]) as server:
        orders = subscription()
        async with open_scene(server.url.replace("unix://", "unix://ann:secret@")) as scene:
            async with scene.node(orders) as node:
                headers = {REPLY_TO: "actorwork:reply:elsewhere", RESULT_TTL: 60}
                await scene.broker.publish([Envelope("orders", "m", b"1", headers=headers, delay=0.05)])
                node.settle(orders, await inbox(orders).take_one(), Ack(b"2"))
                await node.wait_settled()
                assert await scene.broker.find_outcome("orders", "m") == Outcome("done", b"2")
            assert "may be a second late" in scene.told(BrokerTrouble)[-1].next
            findings = {finding.subject: finding for finding in await scene.broker.diagnose()}
            assert findings["permissions"].level == "error"
            async with scene.broker.pauses.watch(lambda: None) as is_told:
                assert not is_told
            await scene.broker.pauses.pause("source", "orders")
            assert len(await scene.broker.pauses.list()) == 1


async def test_a_source_that_may_not_be_written_turns_the_settlement_into_a_dead_letter():
    with open_redis_server(users=["ann on >secret ~orders ~actorwork:* &* +@all"]) as server:
        orders = subscription()
        url = server.url.replace("unix://", "unix://ann:secret@")
        async with open_scene(url) as scene, scene.node(orders) as node:
            await scene.send("orders", b"1")
            node.settle(orders, await inbox(orders).take_one(), Ack(), [Envelope("secret", "m", b"1")])
            await node.wait_settled()
            (letter,) = await scene.broker.dead_letters.list("orders")
            assert letter.failure.reason.startswith("the source secret: ")
            assert re.search("can't access|No permissions to access", letter.failure.reason), "as 7.0, or 7.2 has it"


async def test_looking_leaves_nothing_behind(redis_url: str):
    async with open_scene(redis_url) as scene:
        await scene.broker.diagnose()
        assert await scene.call("DBSIZE") == 0


async def test_looking_cuts_nobody_off(redis_url: str):
    async with open_scene(redis_url) as scene, open_scene(redis_url) as other:
        connection = await other.call("CLIENT", "ID")
        await scene.broker.diagnose()
        assert await other.call("CLIENT", "ID") == connection


async def test_a_record_of_the_outcome_is_json_for_everybody(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        await scene.broker.publish([Envelope("orders", 'a "b"', b"1", headers={RESULT_TTL: 9})])
        node.settle(orders, await inbox(orders).take_one(), Ack(b'{"x":1}'))
        await node.wait_settled()
        record = json.loads(await scene.call("GET", 'actorwork:{orders}:result:a "b"'))
        assert record == {"source": "orders", "id": 'a "b"', "status": "done", "value": {"x": 1}}


# ---------------------------------------------------------------------------------------------------------------- chaos


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.long), pytest.param(2, marks=pytest.mark.long)])
async def test_connections_that_are_cut_at_random_lose_nothing_and_run_nothing_twice(redis_url: str, seed: int):
    dice = random.Random(seed)
    orders = subscription("orders", "letters", capacity=100)
    handled: Counter[str] = Counter()
    total = 3000
    async with (
        open_proxy(redis_url) as proxy,
        open_scene(proxy.url) as scene,
        scene.node(orders, lease=60) as node,
        trio.open_nursery() as nursery,
    ):

        async def publish() -> None:
            for start in range(0, total, 50):
                ids = [next(scene.ids) for _ in range(start, start + 50)]
                await scene.broker.publish([Envelope(dice.choice(["orders", "letters"]), each, b"1") for each in ids])

        async def work() -> None:
            while handled.total() < total:
                first = await inbox(orders).take_one(within=PATIENCE)
                more = await inbox(orders).take(min(dice.randint(0, 30), len(inbox(orders).waiting)))
                for delivery in (first, *more):
                    handled[delivery.id] += 1
                    if handled[delivery.id] == 1 and dice.random() < 0.05:
                        handled[delivery.id] = 0
                        node.settle(orders, delivery, Retry(dice.choice([0, 0.05]), WHY))
                    else:
                        node.settle(orders, delivery, Ack(), [Envelope("sent", f"by {delivery.id}", b"1")])
                node.resume(orders)
                await trio.sleep(0.002)

        async def cut() -> None:
            for _ in range(15):
                await trio.sleep(dice.uniform(0.01, 0.3))
                dice.choice([proxy.cut, partial(proxy.cut_after, dice.randint(0, 20_000))])()

        nursery.start_soon(publish)
        nursery.start_soon(cut)
        await work()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await node.wait_settled()
            await trio.sleep(0.2)
            assert scene.told(LeaseLost) == scene.told(Fenced) == []
            assert (len(handled), set(handled.values())) == (total, {1})
            async with open_scene(redis_url) as behind:
                for source in ("orders", "letters"):
                    assert await behind.length(source) == await behind.pending(source, "group-a") == 0
                assert await behind.length("sent") == total
