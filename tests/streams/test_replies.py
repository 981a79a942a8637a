"""When awaited outcomes are looked up: every few seconds, but those of held back messages from their time on."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from actorwork.streams import replies
from actorwork.streams.replies import RedisReplies
from actorwork.streams.transport.client import RedisClient
from actorwork.streams.transport.redis_py import RedisError


class Server:
    """Has no outcome yet, and notes which it is asked for."""

    is_of_cluster = False

    def __init__(self) -> None:
        self.asked: list[tuple[float, list[str]]] = []
        self.fails = False

    async def call_many(self, commands: Sequence[tuple[Any, ...]], **_: object) -> Sequence[None]:
        if self.fails:
            raise RedisError("no memory")
        self.asked.append((trio.current_time(), [str(key).rpartition(":")[2] for _, key in commands]))
        return [None] * len(commands)

    def asked_for(self, message: str) -> list[float]:
        return [at for at, messages in self.asked if message in messages]


@asynccontextmanager
async def awaiting(server: Server, patch: pytest.MonkeyPatch) -> AsyncGenerator[RedisReplies]:
    """Await outcomes of this server, in virtual time, which is also that of the broker."""
    patch.setattr(replies, "time", SimpleNamespace(time=trio.current_time))
    found = RedisReplies(cast("RedisClient", server), emit=lambda _event: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(found.run)
        await trio.sleep(1)
        yield found
        nursery.cancel_scope.cancel()


async def test_an_outcome_that_is_held_back_is_looked_up_only_from_its_time_on(
    actorwork_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server()
    async with awaiting(server, monkeypatch) as found:
        began = trio.current_time()
        found.expect("orders", "held", look_from=began + 3 * 86_400)
        await trio.sleep(2 * 86_400 + 60)  # Not at a whole hour, when it wakes anyway.
        assert server.asked == []
        found.expect("orders", "soon")
        await trio.sleep(10)
        assert len(server.asked_for("soon")) == 3
        await trio.sleep(86_400)
        looks = server.asked_for("held")
        assert 3 * 86_400 <= looks[0] - began <= 3 * 86_400 + 3
        assert {later - earlier for earlier, later in pairwise(looks)} == {3.0}


async def test_after_a_lost_connection_all_are_looked_up_once_also_those_that_are_held_back(
    actorwork_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server()
    async with awaiting(server, monkeypatch) as found:
        found.expect("orders", "held", look_from=trio.current_time() + 86_400)
        server.fails = True
        found.look_now()
        await trio.sleep(10)
        server.fails = False
        await trio.sleep(3600)
        assert [messages for _, messages in server.asked] == [["held"]]
