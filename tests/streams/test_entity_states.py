"""What a user puts as the state of an entity at Redis."""

import math
from collections.abc import Generator
from typing import Any

import pytest
import redis

from actorwork.streams import keys
from actorwork.streams.broker import open_broker
from actorwork.testing.redis_server import RedisServer

KEY = "ann"


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
