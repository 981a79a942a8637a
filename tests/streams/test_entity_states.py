"""What users do to the states of entities at Redis: by the commands for it, and by hand."""

import math
import time
from collections.abc import Generator
from contextlib import nullcontext
from typing import Any, Final

import attrs
import pytest
import redis
import trio

from actorwork import BrokerError, CodecError, Entities, Entity, Settings, open_client, open_system, receive
from actorwork.events import EntityStalled, Event
from actorwork.streams import keys
from actorwork.streams.broker import open_broker
from actorwork.testing.conformance import open_consumer, until
from actorwork.testing.redis_server import RedisServer
from tests.patience import PATIENCE

KEY = "ann"


@attrs.define
class Balance:
    amount: int = 0


class Account(Entity[Balance]):
    settings = Settings(title="account", concurrency=8, entities=Entities(idle=1, history=5))

    @receive
    async def deposit(self, amount: int) -> int:
        self.state.amount += amount
        return self.state.amount


@pytest.fixture
def server(redis_server: RedisServer, redis_url: str) -> Generator[Any]:
    with redis.Redis(unix_socket_path=str(redis_server.socket_path)) as connection:
        yield connection


async def test_a_state_that_is_put_is_kept_for_as_long_as_before_unless_its_user_says_more(
    server: Any, redis_url: str
) -> None:
    async with open_broker(redis_url, emit=lambda _: None) as broker:
        entities = broker.entities

        def left(name: str) -> int:
            return round(server.pttl(name) / 3_600_000)

        state, past = keys.entity("orders", "group", KEY), keys.past("orders", "group", KEY)
        await entities.put("orders", "group", KEY, b"1")
        assert server.pttl(state) == -1, "there was none before"
        await entities.put("orders", "group", KEY, b"2", ttl=36_000, history=None)
        await entities.put("orders", "group", KEY, b"3", history=None)
        assert (left(state), left(past)) == (10, 10)
        server.pexpire(state, 7_200_000)
        await entities.put("orders", "group", KEY, b"4", history=None)
        assert left(state) == 10, "it is kept as long after this change as after the last one"
        await entities.put("orders", "group", KEY, b"5", ttl=math.inf, history=None)
        assert (server.pttl(state), server.pttl(past)) == (-1, -1)
        await entities.put("orders", "group", KEY, b"6", history=None)
        assert (server.pttl(state), server.pttl(past)) == (-1, -1)


async def test_states_that_expire_leave_the_list_without_any_further_message(server: Any, redis_url: str) -> None:
    async with open_broker(redis_url, emit=lambda _: None) as broker:
        entities = broker.entities
        listed, expiring = keys.entities("orders", "first"), keys.expiring("orders", "first")

        async def put(name: str, **more: Any) -> None:
            await entities.put("orders", "first", name, b"1", **more)

        for number in range(250):  # More than leave at once.
            await put(f"gone {number}", ttl=0.001)
        await put("stays", ttl=3600)
        await put("for ever", ttl=3600)
        await put("for ever", ttl=math.inf)
        await put("forgotten", ttl=3600)
        assert await entities.forget("orders", "first", "forgotten")
        await put("longer", ttl=0.001)
        server.set(keys.entity("orders", "first", "longer"), "by hand", ex=3600)
        await put("kept", ttl=0.001)
        server.set(keys.entity("orders", "first", "kept"), "by hand")
        assert server.zcard(listed) == 254
        assert server.zrange(keys.expiring("orders", "another"), 0, -1) == []
        async with open_consumer(broker, "orders"):

            async def are_gone() -> bool:
                return bool(server.zcard(listed) == 4 and server.zcard(expiring) == 2)

            await until(are_gone, "the tender to sweep")
            assert set(server.zrange(listed, 0, -1)) == {b"stays", b"for ever", b"longer", b"kept"}
            assert set(server.zrange(expiring, 0, -1)) == {b"stays", b"longer"}
            for score in server.zmscore(expiring, ["stays", "longer"]):
                assert score > time.time() * 1000 + 1_800_000


async def test_nothing_is_left_of_a_state_that_has_expired(server: Any, redis_url: str) -> None:
    """Its changes were listed before it was given a ttl, and none is when it is."""
    async with open_broker(redis_url, emit=lambda _: None) as broker, open_consumer(broker, "orders"):
        await broker.entities.put("orders", "first", KEY, b"1", history=5)
        assert server.exists(keys.past("orders", "first", KEY))
        await broker.entities.put("orders", "first", KEY, b"2", ttl=0.001)
        names = [keys.entity("orders", "first", KEY), keys.past("orders", "first", KEY)]
        names += [keys.entities("orders", "first"), keys.expiring("orders", "first")]

        async def is_gone() -> bool:
            return bool(server.exists(*names) == 0)

        await until(is_gone, "everything of the state to go")


GARBAGE: Final[dict[str, dict[str, str | bytes] | str]] = {
    "no JSON": {"data": b"\xff\x00{"},
    "no text": {"data": ""},
    "JSON of another type": {"data": "[1]"},
    "a version that is no number": {"v": "many"},
    "a version below 0": {"v": "-1"},
    "a version of many digits": {"v": "9" * 40},
    "a time that is no number": {"at": "yesterday"},
    "a schema that is no number": {"s": "two"},
    "a schema to come": {"s": "7"},
    "no hash": "a string",
}
"""What a user may have written into the hash of a state by hand, or instead of it."""
READABLE: Final = ("no JSON", "no text", "JSON of another type", "a schema to come")
"""Of these it is known which version and which schema they have."""


@pytest.mark.parametrize("name", GARBAGE)
async def test_a_state_that_others_have_spoilt_holds_up_its_key_alone_and_skips_no_message(
    name: str, server: Any, redis_url: str
) -> None:
    settings = Account.settings
    stalled = trio.Event()

    def note(event: Event) -> None:
        if isinstance(event, EntityStalled):
            assert event.key == KEY
            stalled.set()

    async with open_client(redis_url) as client:
        ann = client.ref(Account, key=KEY)
        others = [client.ref(Account, key=f"other {number}") for number in range(5)]
        for ref in (ann, *others):
            await ref.put(Balance(1))
        state = keys.entity(settings.default_source, settings.id, KEY)
        garbage = GARBAGE[name]
        if isinstance(garbage, str):
            server.set(state, garbage, keepttl=False)
        else:
            server.hset(state, mapping=garbage)
        receipts = [await ref.submit(10) for ref in (ann, *others)]
        with trio.fail_after(PATIENCE):
            async with open_system(Account, broker=redis_url, emit=note):
                await stalled.wait()
                for receipt in receipts[1:]:
                    assert await receipt.result(timeout=PATIENCE) == 11
                await ann.put(Balance(5), force=True)
                assert await receipts[0].result(timeout=PATIENCE) == 15
        assert await client.broker.dead_letters.list(settings.default_source) == []


@pytest.mark.parametrize("name", GARBAGE)
async def test_a_state_that_others_have_spoilt_is_told_of_and_listed(name: str, server: Any, redis_url: str) -> None:
    settings = Account.settings
    async with open_client(redis_url) as client:
        ann = client.ref(Account, key=KEY)
        await ann.put(Balance(1))
        state = keys.entity(settings.default_source, settings.id, KEY)
        garbage = GARBAGE[name]
        await client.ref(Account, key="ben").put(Balance(1))
        if isinstance(garbage, str):
            server.set(state, garbage)
        else:
            server.hset(state, mapping=garbage)
        server.zadd(keys.entities(settings.default_source, settings.id), {b"\xff": 1})
        with pytest.raises((CodecError, BrokerError)):
            await ann.state()
        assert [one.key async for one in client.entities(Account)] == [KEY, "ben"]
        with pytest.raises((CodecError, BrokerError)) if name not in READABLE else nullcontext():
            await client.ref("account", key=KEY).put({"amount": 2})
        version = await client.ref("account", key=KEY).put({"amount": 3}, force=True)
        assert (await client.ref("account", key=KEY).state()).value == {"amount": 3}
        assert (await client.ref("account", key=KEY).state()).version == version
        assert (await client.ref(Account, key="ben").state()).version == 1
