"""Rights that are missing, or are taken away while a node works: nothing is lost, doubled or given up for good.

What a server refuses halfway through a script stays half done, so scripts ask before they write (lua/rights.lua).
"""

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager

import pytest
import trio

from actorwork.abc import Subscription
from actorwork.errors import BrokerError
from actorwork.events import BrokerTrouble, Fenced, MessageLost
from actorwork.message import RESULT_TTL, Envelope, Status, Unique
from actorwork.policy.settlement import Ack, Fail, Retry
from actorwork.streams.diagnosis import memory_and_durability
from actorwork.testing.redis_server import RedisServer, open_redis_server
from tests.patience import PATIENCE
from tests.streams.bench_of_actors import WHY, Scene, inbox, open_scene, subscription
from tests.streams.conftest import wait_until

LAST_ID = "18446744073709551615-18446744073709551615"


@pytest.fixture
def server() -> Generator[RedisServer]:
    with open_redis_server(users=["ann on >secret ~* &* +@all"]) as server:
        yield server


@asynccontextmanager
async def open_scene_of_ann(server: RedisServer) -> AsyncGenerator[tuple[Scene, Scene]]:
    """Yield the scene of a user whose rights change, and that of the administrator who changes them."""
    url = server.url.replace("unix://", "unix://ann:secret@")
    async with open_scene(server.url) as admin, open_scene(url) as scene:
        yield scene, admin


async def can_ask(scene: Scene) -> bool:
    """Whether scripts of this server can ask for rights in advance (Redis 7.0)."""
    return bool(await scene.call("EVAL", "return redis.acl_check_cmd and 1 or 0", 0))


# ----------------------------------------------------------------------------------------- messages of a settlement


async def test_a_message_that_may_not_be_added_where_it_goes_makes_its_sender_a_dead_letter_in_the_end(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("actorwork.streams.settler.PUBLISH_PATIENCE", 0.2)
    orders = subscription()
    async with open_scene_of_ann(server) as (scene, admin), scene.node(orders) as node:
        if not await can_ask(admin):
            pytest.skip("rights to read and to write keys are the same before Redis 7.0")
        await admin.call("XADD", "audit", "*", "x", "1")
        await admin.call("ACL", "SETUSER", "ann", "resetkeys", "~orders", "~actorwork:*", "%R~audit")
        await scene.send("orders", b"1")
        published = [Envelope("orders", "first", b"1", group="other"), Envelope("audit", "second", b"1")]
        node.settle(orders, await inbox(orders).take_one(), Ack(), published)
        await node.wait_settled()
        (letter,) = await scene.broker.dead_letters.list("orders")
        assert letter.failure.reason == "the source audit: this user may not add to it (XADD)"
        assert await admin.length("audit") == 1
        assert await admin.length("orders") == 0  # The first was not sent, either.


async def test_what_a_handler_publishes_waits_for_a_right_that_is_missing_for_a_moment(server: RedisServer):
    orders = subscription()
    async with open_scene_of_ann(server) as (scene, admin), scene.node(orders) as node:
        if not await can_ask(admin):
            pytest.skip("rights to read and to write keys are the same before Redis 7.0")
        await admin.call("ACL", "SETUSER", "ann", "resetkeys", "~orders", "~actorwork:*", "%R~audit")
        await scene.send("orders", b"1")
        node.settle(orders, await inbox(orders).take_one(), Ack(), [Envelope("audit", "m", b"1")])
        await wait_until(lambda: scene.told(BrokerTrouble))
        assert scene.told(BrokerTrouble)[-1].next == "again in 2 s at the latest"
        await admin.call("ACL", "SETUSER", "ann", "~*")
        await node.wait_settled()
        assert await admin.length("audit") == 1
        assert await scene.broker.dead_letters.list("orders") == []


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("unique", [None, Unique("u")])
async def test_a_stream_that_takes_no_more_entries_loses_no_message(
    redis_url: str, key: str | None, unique: Unique | None
):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        await scene.call("XADD", "audit", LAST_ID, "x", "1")
        await scene.send("orders", b"1", key=key, unique=unique)
        node.settle(orders, await inbox(orders).take_one(), Ack(), [Envelope("audit", "m", b"1")])
        await node.wait_settled()
        (letter,) = await scene.broker.dead_letters.list("orders")
        assert letter.failure.reason.startswith("the source audit: ")
        assert "exhausted" in letter.failure.reason
        assert "the message becomes a dead letter" in scene.told(BrokerTrouble)[-1].next
        assert scene.told(Fenced) == []


async def test_a_retry_that_its_own_stream_refuses_is_a_dead_letter(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        await scene.call("XADD", "orders", LAST_ID, "x", "1")
        node.settle(orders, await inbox(orders).take_one(), Retry(0, WHY))
        await node.wait_settled()
        (letter,) = await scene.broker.dead_letters.list("orders")
        assert letter.failure.reason.startswith("the next attempt cannot be added to orders: ")


async def test_what_a_later_refusal_finds_sent_is_not_sent_again(redis_url: str):
    orders = subscription()
    async with open_scene(redis_url) as scene, scene.node(orders) as node:
        await scene.call("XADD", "audit", LAST_ID, "x", "1")
        await scene.send("orders", b"1")
        delivery = await inbox(orders).take_one()
        published = [Envelope("fine", "first", b"1"), Envelope("audit", "second", b"1")]
        with pytest.raises(BrokerError, match="exhausted"):
            await node.publish_fenced(orders, delivery, published)
        await scene.call("DEL", "audit")
        assert await node.publish_fenced(orders, delivery, published)
        assert await scene.length("fine") == await scene.length("audit") == 1


# ------------------------------------------------------------------------------------------- rights that come back


@pytest.mark.parametrize("right", ["xack", "xdel", "xadd", "evalsha", "xinfo", "zadd", "set"])
async def test_settlements_wait_for_a_right_and_each_is_applied_once(server: RedisServer, right: str):
    orders = subscription()
    async with open_scene_of_ann(server) as (scene, admin), scene.node(orders) as node:
        if right in ("xinfo", "zadd", "set") and not await can_ask(admin):
            pytest.skip("scripts cannot ask for this right before Redis 7.0")
        await scene.send("orders", b"1", b"2", b"3", b"4", headers={RESULT_TTL: 60})
        await scene.send("orders", b"5", key="k")
        await scene.send("orders", b"6", key="k")
        got = await inbox(orders).take(5)
        await admin.call("ACL", "SETUSER", "ann", f"-{right}")
        settlements = (Ack(b"1"), Retry(60, WHY), Fail(WHY), Ack(b"4"), Ack())
        for delivery, settlement in zip(got, settlements, strict=True):
            published = [Envelope("sent", f"by {delivery.id}", b"1")]
            node.settle(orders, delivery, settlement, published if settlement == Ack(b"4") else ())
        with trio.fail_after(PATIENCE):
            await wait_until(lambda: sum("settling" in each.doing for each in scene.told(BrokerTrouble)) >= 3)
        await admin.call("ACL", "SETUSER", "ann", f"+{right}")
        await node.wait_settled()
        assert (await inbox(orders).take_one()).payload == b"6"
        assert scene.told(Fenced) == []
        assert not [each for each in scene.told(BrokerTrouble) if "given up" in each.next]
        assert await admin.length("sent") == await admin.length("actorwork:{orders}:dead") == 1
        assert await admin.call("ZCARD", "actorwork:{orders}:delayed") == 1
        assert await admin.length("orders") == await admin.pending("orders", "group-a") == 1
        results = [await scene.broker.find_outcome("orders", delivery.id) for delivery in got[:4]]
        assert [result and result.status for result in results] == ["done", None, "failed", "done"]


@pytest.mark.parametrize("key", [None, "k"])
async def test_messages_of_a_settlement_wait_for_a_right_that_they_need(server: RedisServer, key: str | None):
    orders = subscription()
    async with open_scene_of_ann(server) as (scene, admin), scene.node(orders) as node:
        if not await can_ask(admin):
            pytest.skip("scripts cannot ask for this right before Redis 7.0")
        await scene.send("orders", b"1", key=key)
        delivery = await inbox(orders).take_one()
        await admin.call("ACL", "SETUSER", "ann", "-rpush")
        published = [Envelope("sent", f"m{number}", b"1", key="k") for number in range(2)]
        node.settle(orders, delivery, Ack(), published)
        with trio.fail_after(PATIENCE):
            await wait_until(lambda: scene.told(BrokerTrouble))
        assert (await admin.length("orders"), await admin.length("sent")) == (1, 0)
        await admin.call("ACL", "SETUSER", "ann", "+rpush")
        await node.wait_settled()
        assert (await admin.length("orders"), await admin.length("sent")) == (0, 1)
        assert await admin.call("HLEN", "actorwork:{sent}:waiting") == 1


@pytest.mark.parametrize("right", ["xadd", "setbit", "zadd", "hset", "rpush", "del"])
@pytest.mark.parametrize("kind", ["plain", "delayed", "with a key", "with an id of its own"])
async def test_a_message_that_was_refused_for_a_right_is_kept_when_it_is_sent_again(
    server: RedisServer, right: str, kind: str
):
    async with open_scene_of_ann(server) as (scene, admin):
        if not await can_ask(admin) and right != "xadd":
            pytest.skip("scripts cannot ask for this right before Redis 7.0")
        name = "order 1" if kind == "with an id of its own" else next(scene.ids)
        delay, key = 60.0 if kind == "delayed" else 0.0, "k" if kind == "with a key" else None
        envelope = Envelope("orders", name, b"1", delay=delay, key=key)
        await admin.call("ACL", "SETUSER", "ann", f"-{right}")
        try:
            await scene.broker.publish([envelope])
        except BrokerError as error:
            assert error.may_pass  # noqa: PT017 - not every right is needed for every message
        await admin.call("ACL", "SETUSER", "ann", f"+{right}")
        await scene.broker.publish([envelope])
        kept = [
            await admin.length("orders"),
            await admin.call("HLEN", "actorwork:{orders}:delayed:messages"),
            await admin.call("ZCARD", "actorwork:{orders}:delayed"),
        ]
        assert kept == ([0, 1, 1] if kind == "delayed" else [1, 0, 0])


@pytest.mark.parametrize("right", ["hdel", "zrem"])
async def test_a_due_message_enters_once_though_a_right_was_missing(server: RedisServer, right: str):
    orders = subscription()
    async with open_scene_of_ann(server) as (scene, admin):
        if not await can_ask(admin):
            pytest.skip("scripts cannot ask for this right before Redis 7.0")
        await scene.send("orders", b"1", delay=0.001)
        await admin.call("ACL", "SETUSER", "ann", f"-{right}")
        async with scene.node(orders) as node:
            with trio.fail_after(PATIENCE):
                await wait_until(lambda: scene.told(BrokerTrouble))
            assert right in scene.told(BrokerTrouble)[0].error.lower()
            assert inbox(orders).waiting == []
            await admin.call("ACL", "SETUSER", "ann", f"+{right}")
            node.notify(None)
            await inbox(orders).take_one()
            assert await admin.length("orders") == 1


@pytest.mark.parametrize("right", ["xack", "xdel"])
async def test_a_message_that_crashed_too_often_is_one_dead_letter_though_a_right_was_missing(
    server: RedisServer, right: str
):
    orders = subscription(max_crashes=1)
    async with open_scene_of_ann(server) as (scene, admin):
        await scene.send("orders", b"1")
        await scene.die_with(orders, 1)
        await admin.call("ACL", "SETUSER", "ann", f"-{right}")
        async with scene.node(orders) as node:
            with trio.fail_after(PATIENCE):
                await wait_until(lambda: scene.told(BrokerTrouble))
            await admin.call("ACL", "SETUSER", "ann", f"+{right}")
            node.notify(None)
            with trio.fail_after(PATIENCE):
                await wait_until(lambda: node.statistics()["dead_lettered"] == 1)
        assert await admin.length("actorwork:{orders}:dead") == 1
        assert await admin.length("orders") == 0


# ------------------------------------------------------------------------------------------------------ lost messages


async def lose(scene: Scene, of: Subscription) -> bytes:
    """Die with the only message in flight, and delete its entry; return that."""
    await scene.die_with(of, 1)
    ((entry, _),) = await scene.call("XRANGE", "orders", "-", "+")
    await scene.call("XDEL", "orders", entry)
    return entry


async def test_where_keys_may_not_be_listed_lost_entries_are_acked_and_that_is_said(server: RedisServer):
    orders = subscription()
    async with open_scene_of_ann(server) as (scene, admin):
        await admin.call("ACL", "SETUSER", "ann", "-scan")
        (sent,) = await scene.send("orders", b"1", headers={RESULT_TTL: 60})
        entry = await lose(admin, orders)
        async with scene.node(orders):
            with trio.fail_after(PATIENCE):
                await wait_until(lambda: scene.told(MessageLost))
            assert [each.message_id for each in scene.told(MessageLost)] == [f"of the entry {entry.decode()}"]
            assert await admin.pending("orders", "group-a") == 0
        (trouble,) = [each for each in scene.told(BrokerTrouble) if each.doing.startswith("searching")]
        assert trouble.doing == "searching for the lost messages of orders"
        assert "who waits for a result is not told" in trouble.next
        info = await scene.broker.states.find("orders", sent.id)
        assert info is not None
        assert not info.status.is_final


async def test_a_lost_message_whose_end_may_not_be_written_ends_when_the_right_is_given_back(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("actorwork.streams.lost._AGAIN", 0.1)
    orders = subscription()
    async with open_scene_of_ann(server) as (scene, admin):
        (sent,) = await scene.send("orders", b"1", headers={RESULT_TTL: 60})
        await lose(admin, orders)
        await admin.call("ACL", "SETUSER", "ann", "-xack")
        async with scene.node(orders):
            with trio.fail_after(PATIENCE):
                await wait_until(lambda: any("lost" in each.doing for each in scene.told(BrokerTrouble)))
            assert (await admin.pending("orders", "group-a"), scene.told(MessageLost)) == (1, [])
            await admin.call("ACL", "SETUSER", "ann", "+xack")
            with trio.fail_after(PATIENCE):
                await wait_until(lambda: scene.told(MessageLost))
            assert [each.message_id for each in scene.told(MessageLost)] == [sent.id]
            info = await scene.broker.states.find("orders", sent.id)
            assert info is not None
            assert info.status is Status.FAILURE
            assert await admin.pending("orders", "group-a") == 0


# ----------------------------------------------------------------------------------------------------- the doctor


async def test_the_doctor_says_where_settings_are_made_if_not_by_config():
    with open_redis_server(config={"rename-command": 'CONFIG ""'}) as server:
        async with open_scene(server.url) as scene:
            findings = {finding.subject: finding for finding in await scene.broker.diagnose()}
    assert findings["managed"].level == "ok"
    assert "in its console or parameter group, not by CONFIG SET" in findings["managed"].text
    assert findings["scripts"].level == "ok"


async def test_the_doctor_takes_no_server_for_a_managed_one_whose_user_has_few_rights(server: RedisServer):
    async with open_scene_of_ann(server) as (scene, admin):
        assert "managed" not in {finding.subject for finding in await scene.broker.diagnose()}
        await admin.call("ACL", "SETUSER", "ann", "-config")
        assert "managed" not in {finding.subject for finding in await scene.broker.diagnose()}


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"redis_version": "7.0.15"}, "Redis 7.0.15"),
        ({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "9.1.2"}, "Valkey 9.1.2"),
        ({"redis_version": "7.2.4", "server_name": "redict"}, "Redict 7.2.4"),
    ],
)
def test_the_doctor_names_a_server_by_its_own_name(facts: dict[str, str], text: str):
    (finding,) = [one for one in memory_and_durability(facts) if one.subject == "version"]
    assert (finding.level, finding.text) == ("ok", text)
