"""What a program does to a system is recorded with its outcome."""

import attrs
import pytest
import trio

from actorwork.clients.auditing import audited
from actorwork.clients.identity import whoami
from actorwork.embedded.audit import EmbeddedAudit
from actorwork.embedded.broker import open_broker as open_embedded
from actorwork.errors import BrokerError
from actorwork.events import Event
from actorwork.streams.audit import PAGE, RedisAudit
from actorwork.streams.broker import open_broker as open_redis
from actorwork.testing.memory import MemoryBroker
from actorwork.testing.proxy import open_proxy


def ignore(_: Event) -> None: ...


async def test_an_action_is_recorded_with_what_it_changed():
    broker = MemoryBroker()
    async with audited(broker.audit, "purge", "orders", reason="a test") as action:
        (begun,) = await broker.audit.list()
        assert (begun.who, begun.action, begun.what, begun.outcome) == (whoami(), "purge", "orders", "")
        action.how_many = 3
    assert await broker.audit.list() == [attrs.evolve(begun, outcome="done", how_many=3)]


async def test_an_action_that_fails_is_recorded_with_its_error():
    broker = MemoryBroker()
    with pytest.raises(LookupError):
        async with audited(broker.audit, "purge", "orders", who="ann", role="admin", ip="192.0.2.7"):
            raise LookupError("no such source")
    (found,) = await broker.audit.list()
    assert (found.who, found.role, found.ip) == ("ann", "admin", "192.0.2.7")
    assert found.outcome == "failed: no such source"


async def test_an_action_that_is_cancelled_has_no_outcome():
    broker = MemoryBroker()
    with trio.CancelScope() as scope:
        async with audited(broker.audit, "purge", "orders"):
            scope.cancel()
            await trio.sleep_forever()
    assert [one.outcome for one in await broker.audit.list()] == [""]


async def test_an_action_that_is_done_does_not_fail_because_its_end_is_not_recorded():
    class Unwilling(EmbeddedAudit):
        async def complete(self, entry: str, outcome: str, how_many: int | None = None) -> None:
            raise BrokerError("gone")

    broker = MemoryBroker()
    async with audited(Unwilling(broker._writer), "purge", "orders"):  # pyright: ignore[reportPrivateUsage]
        pass
    assert [one.outcome for one in await broker.audit.list()] == [""]


async def test_the_newest_actions_are_kept(redis_url: str):
    async with open_redis(redis_url, emit=ignore) as redis, open_embedded(":memory:", emit=ignore) as embedded:
        few = (
            RedisAudit(redis.client, most=4),
            EmbeddedAudit(embedded._writer, most=4),  # pyright: ignore[reportPrivateUsage]
        )
        for audit in few:
            for number in range(10):
                await audit.complete(await audit.append("purge", f"source {number}", who="ann"), "done")
            assert [one.what for one in await audit.list()] == [f"source {number}" for number in (9, 8, 7, 6)]


async def test_more_than_one_page_is_read_where_there_is_more(redis_url: str):
    async with open_redis(redis_url, emit=ignore) as broker:
        first = await broker.audit.append("purge", "first", who="ann")
        command = ("XADD", "actorwork:audit", "*", "ends", "1-1", "outcome", "done", "how_many", "")
        await broker.client.call_many([command] * PAGE, idempotent=True)
        await broker.audit.append("purge", "second", who="ann")
        await broker.audit.complete(first, "done", 1)
        assert [(one.what, one.how_many) for one in await broker.audit.list()] == [("second", None), ("first", 1)]


async def test_an_action_is_recorded_once_though_the_reply_is_lost(redis_url: str):
    async with open_proxy(redis_url) as proxy, open_redis(proxy.url, emit=ignore) as broker:
        proxy.cut_after(0)
        entry = await broker.audit.append("purge", "orders", who="ann")
        await broker.audit.complete(entry, "done")
        assert [one.outcome for one in await broker.audit.list()] == ["done"]
        assert await broker.client.call("XLEN", "actorwork:audit") == 3
