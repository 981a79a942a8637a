"""What is held back at Redis: kept beside the stream, promoted by any node, listed and cancelled."""

import json
import math

import pytest
import trio

from actorwork.errors import BrokerError
from actorwork.message import REPLY_TO, RESULT_TTL, Envelope, Unique
from actorwork.policy.settlement import Ack, Fail, Retry
from actorwork.testing.proxy import open_proxy
from tests.patience import PATIENCE, best_of
from tests.streams.bench_of_actors import WHY, inbox, open_scene, subscription


@pytest.mark.parametrize("numbered", [True, False])
async def test_what_is_held_back_is_kept_once(redis_url: str, numbered: bool):
    async with open_scene(redis_url) as scene:
        ids = scene.ids if numbered else (f"mine {number}" for number in range(1000))
        sent = [Envelope("orders", next(ids), b"%d" % number, delay=600) for number in range(450)]
        assert await scene.broker.publish(sent[:100]) == 100
        assert await scene.broker.publish([*sent[50:], *sent]) == 350
        assert await scene.broker.publish(sent) == 0
        assert await scene.call("ZCARD", "actorwork:{orders}:delayed") == 450
        assert await scene.call("HLEN", "actorwork:{orders}:delayed:messages") == 450
        assert await scene.length("orders") == 0


async def test_a_delayed_publish_whose_reply_is_lost_is_kept_once(redis_url: str):
    async with open_proxy(redis_url) as proxy, open_scene(proxy.url) as scene:
        envelope = Envelope("orders", next(scene.ids), b"1", delay=600)
        proxy.cut_after(0)
        assert await scene.broker.publish([envelope]) == 0
        assert await scene.call("ZCARD", "actorwork:{orders}:delayed") == 1


async def test_a_run_of_ids_with_gaps_and_repetitions_is_kept_once_each(redis_url: str):
    """Marks are set a run at a time; whatever is in a run, each id counts for itself."""
    async with open_scene(redis_url) as scene:
        all_ids = [next(scene.ids) for _ in range(300)]
        for chosen in (all_ids[10:13], all_ids[::7], all_ids[100:], all_ids, all_ids):
            await scene.broker.publish([Envelope("orders", name, b"1") for name in (*chosen, *chosen[:2])])
        rows = await scene.fields("orders")
        assert sorted(row[b"id"].decode() for row in rows) == sorted(all_ids)


async def test_a_run_at_a_source_that_is_no_stream_leaves_no_marks(redis_url: str):
    async with open_scene(redis_url) as scene:
        before = await scene.send("orders", b"1", b"2")
        rest = [Envelope("orders", next(scene.ids), b"1") for _ in range(120)]
        await scene.call("DEL", "orders")
        await scene.call("SET", "orders", "a text")
        with pytest.raises(BrokerError):
            await scene.broker.publish([*before, *rest])
        await scene.call("DEL", "orders")
        assert await scene.broker.publish([*before, *rest]) == 120


async def test_held_back_messages_are_listed_in_the_order_in_which_they_are_due(redis_url: str):
    async with open_scene(redis_url) as scene:
        seconds, _ = await scene.call("TIME")
        headers = {"who": "Ann"}
        await scene.broker.publish([
            Envelope("b", "late", b"1", "Kind", headers, at=int(seconds) + 900),
            Envelope("b", "soon", b"2", delay=600),
            Envelope("a", "other", b"3", delay=700),
        ])  # fmt: skip
        listed = await scene.broker.delayed.list()
        assert [(one.source, one.id, one.payload) for one in listed] == [
            ("a", "other", b"3"),
            ("b", "soon", b"2"),
            ("b", "late", b"1"),
        ]
        assert (listed[2].type, dict(listed[2].headers)) == ("Kind", headers)
        assert listed[2].due == int(seconds) + 900
        assert 590 < listed[1].due - int(seconds) < 610
        assert [one.id for one in await scene.broker.delayed.list("b", limit=1)] == ["soon"]
        assert await scene.broker.delayed.list("none") == []


async def test_a_foreign_entry_that_waits_for_its_retry_is_listed_as_its_fields(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        entry = await scene.call("XADD", "orders", "*", "x", "1", "id", "17")
        node.settle(orders, await inbox(orders).take_one(), Retry(600, WHY))
        await node.wait_settled()
        (one,) = await scene.broker.delayed.list("orders")
        assert (one.id, json.loads(one.payload)) == (entry.decode(), {"x": "1", "id": "17"})
        assert one.headers["actorwork-attempt"] == 2
        assert await scene.broker.delayed.cancel("orders", one.id)
        assert await scene.broker.delayed.list("orders") == []


async def test_cancelling_ends_the_retries_of_all_groups(redis_url: str):
    one, two = subscription(group="group-a"), subscription(group="group-b")
    async with open_scene(redis_url) as scene, scene.node(one) as first, scene.node(two) as second:
        envelope = Envelope("orders", "it", b"1", key="k", unique=Unique("u"))
        await scene.broker.publish([envelope, Envelope("orders", "next", b"2", key="k")])
        for node, of in ((first, one), (second, two)):
            node.settle(of, await inbox(of).take_one(), Retry(600, WHY))
            await node.wait_settled()
        assert len(await scene.broker.delayed.list("orders")) == 2
        assert await scene.broker.delayed.cancel("orders", "it")
        assert not await scene.broker.delayed.cancel("orders", "it")
        for of in (one, two):
            assert (await inbox(of).take_one()).id == "next"
        assert await scene.call("EXISTS", "actorwork:{orders}:unique:u") == 0


async def test_a_dead_letter_that_was_replayed_behind_others_of_its_key_is_cancelled(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        await scene.broker.publish([Envelope("orders", name, b"1", key="k") for name in ("it", "next")])
        node.settle(orders, await inbox(orders).take_one(), Fail(WHY))
        assert (await inbox(orders).take_one()).id == "next"
        (letter,) = await scene.broker.dead_letters.list("orders")
        assert await scene.broker.dead_letters.replay("orders", [letter.entry]) == 1
        assert await scene.broker.backlog("orders") == 2
        assert await scene.broker.delayed.cancel("orders", "it")
        assert await scene.broker.backlog("orders") == 1


async def test_cancelling_tells_who_asked_however_the_headers_look(redis_url: str):
    async with open_scene(redis_url) as scene, scene.broker.open_replies() as replies:
        waiting = replies.expect("orders", "it")
        headers = {RESULT_TTL: 60, REPLY_TO: replies.address}
        await scene.broker.publish([Envelope("orders", "it", b"1", None, headers, delay=600)])
        assert await scene.broker.delayed.cancel("orders", "it")
        with trio.fail_after(PATIENCE):
            outcome = await waiting.outcome()
        assert outcome.failure is not None
        assert (outcome.status, outcome.failure.type) == ("rejected", "Cancelled")
        assert await scene.broker.find_outcome("orders", "it") == outcome


async def test_many_that_are_due_together_are_promoted_in_their_order(redis_url: str):
    orders = subscription(capacity=3000)
    async with open_scene(redis_url) as scene:
        for start in (0, 1500):
            numbers = range(start, start + 1500)
            await scene.send("orders", *(b"%d" % number for number in numbers), delay=1)
        async with scene.node(orders):
            got = await inbox(orders).take(3000)
        assert [delivery.payload for delivery in got] == [b"%d" % number for number in range(3000)]


@pytest.mark.parametrize(
    ("held", "due"), [(10_000, 1000), pytest.param(97_000, 3000, marks=pytest.mark.long, id="a hundred thousand")]
)
async def test_of_many_held_back_messages_those_that_are_due_are_promoted_on_time(redis_url: str, held: int, due: int):
    """At 1,000 a second, 99 of 100 within a tenth of a second; here within half a second in the best of some trials."""
    orders = subscription(capacity=100_000)
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        later = (node.now() + 3600 + number / 1000 for number in range(held))
        await scene.broker.publish([Envelope("orders", next(scene.ids), b"1", at=at) for at in later])

        async def trial() -> float:
            """Return how late 99 of 100 are; infinity if they were due before all were sent."""
            begin = node.now() + (held + due) / 20_000
            dues = [begin + number / 1000 for number in range(due)]
            await scene.broker.publish([Envelope("orders", next(scene.ids), b"%r" % at, at=at) for at in dues])
            is_in_time = node.now() < begin
            late: list[float] = []
            with trio.fail_after(PATIENCE):
                while len(late) < len(dues):
                    for delivery in await inbox(orders).take(1, within=PATIENCE):
                        entry: bytes = delivery.token[0]
                        assert isinstance(delivery.payload, bytes)
                        late.append(int(entry.partition(b"-")[0]) / 1000 - float(delivery.payload))
                        node.settle(orders, delivery, Ack())
            late.sort()
            assert late[0] >= -0.001
            return late[len(late) * 99 // 100] if is_in_time else math.inf

        assert await best_of(trial, below=0.5) < 0.5
        assert await scene.call("ZCARD", "actorwork:{orders}:delayed") == held
