"""Shared values and locks at Redis, when a reply is lost: what may be sent again is, and of the rest it is said."""

from functools import partial

import pytest
import trio

from actorwork import BrokerError, Held, LockLost, open_client
from actorwork.events import Event
from actorwork.streams.broker import open_broker
from actorwork.streams.keys import shared
from actorwork.testing.proxy import open_proxy
from tests.patience import PATIENCE


def ignore(_: Event) -> None: ...


async def test_what_may_be_done_twice_is_sent_again(redis_url: str):
    async with open_proxy(redis_url) as proxy, open_broker(proxy.url, emit=ignore) as broker:
        values = broker.values
        with trio.fail_after(PATIENCE):
            proxy.cut_after(0)
            assert await values.set("rate", b"1") is not None
            proxy.cut_after(0)
            kept = await values.get("rate")
            assert kept is not None
            assert kept.data == b"1"
            # Whoever has taken a lock and was not told has it, under the same token.
            proxy.cut_after(0)
            token = await values.take_lock("door", "ann", 60)
            assert await values.take_lock("door", "ann", 60) == token
            proxy.cut_after(0)
            assert await values.keep_lock("door", "ann", 60)


async def test_who_cannot_know_is_told_so(redis_url: str):
    async with open_proxy(redis_url) as proxy, open_client(proxy.url) as client:
        hits = client.shared("hits", int, default=0)
        await hits.set(5)
        with trio.fail_after(PATIENCE):
            proxy.cut_after(0)
            with pytest.raises(BrokerError, match="'hits' was lost, and it may have taken effect: read the value"):
                await hits.increment()
            assert await hits.get() == 6


async def test_a_lock_is_lost_when_the_server_cannot_be_reached_for_its_ttl(redis_url: str):
    async with open_proxy(redis_url) as proxy, open_client(proxy.url) as client:
        held: Held | None = None
        with trio.fail_after(PATIENCE):
            with pytest.raises(LockLost):
                async with client.lock("door", ttl=1) as held:
                    proxy.black_hole()
                    await trio.sleep_forever()
            assert held is not None
            assert held.lost
            proxy.flow()
            async with open_client(redis_url) as other, other.lock("door").acquire(timeout=PATIENCE) as now:
                assert now.token > held.token


async def test_a_server_that_forgot_everything_gives_no_token_twice(redis_url: str):
    async with open_broker(redis_url, emit=ignore) as broker:
        first = await broker.values.take_lock("door", "ann", 60)
        version = await broker.values.set("rate", b"1", fence=first)
        await broker.client.call("FLUSHDB")
        second = await broker.values.take_lock("door", "ben", 60)
        assert first is not None
        assert second is not None
        assert second > first
        again = await broker.values.set("rate", b"1", fence=second)
        assert version is not None
        assert again is not None
        assert again > version


async def test_a_key_of_another_kind_is_an_error_that_names_the_value(redis_url: str):
    async with open_broker(redis_url, emit=ignore) as broker:
        await broker.client.call("SET", shared("rate"), "1")
        for attempt in (partial(broker.values.get, "rate"), partial(broker.values.set, "rate", b"1")):
            with pytest.raises(BrokerError, match=r"the shared value .rate.: .*(WRONGTYPE|wrong kind)"):
                await attempt()
