"""A server that owes a reply and says nothing: a dead network sends no reset, so the clients have to notice by time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

from actorwork import BrokerError, aio, sync
from actorwork.blocking.driver import run
from actorwork.testing.proxy import FaultProxy, open_proxy
from tests.clients.programs import run_asyncio

SOON = 0.05
"""Seconds of silence after which a server is given up, as long as it is cut off: a busy one may take longer."""
LATE = 60.0


def hasty(url: str) -> str:
    """Return a URL of which a connection that is not answered is given up soon."""
    return f"{url}{'&' if '?' in url else '?'}socket_timeout=2"


def commands_of(client: Any) -> Any:
    return client.broker._commands


@pytest.mark.parametrize("owed", [0, 1, 2])
async def test_an_asyncio_client_leaves_a_connection_that_is_dead(
    owed: int, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "actorwork.asynchronous.link.SILENCE", 0.2
    )  # It looks for the first time so long after it began.

    def program(proxy: FaultProxy) -> None:
        async def main() -> None:
            async with aio.open_client(hasty(proxy.url)) as client:
                await client.publish("orders", 0)
                trio.from_thread.run_sync(proxy.black_hole)
                sent = [asyncio.create_task(client.publish("orders", number)) for number in range(owed)]
                while commands_of(client).is_connected:  # noqa: ASYNC110 - it sets no event
                    await asyncio.sleep(0.001)
                monkeypatch.setattr("actorwork.asynchronous.link.SILENCE", LATE)
                trio.from_thread.run_sync(proxy.heal)
                await asyncio.gather(*sent)
                assert await client.broker.backlog("orders") == 1 + owed

        run_asyncio(main)

    async with open_proxy(redis_url) as proxy:
        await trio.to_thread.run_sync(program, proxy)


@asynccontextmanager
async def open_in_black_hole(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[tuple[sync.Client, FaultProxy]]:
    """Open a sync client that has sent a message; nothing reaches it any more."""
    async with open_proxy(redis_url) as proxy:
        client = await trio.to_thread.run_sync(sync.open_client, hasty(proxy.url))
        await trio.to_thread.run_sync(client.publish, "orders", 0)
        monkeypatch.setattr("actorwork.blocking.redis.SILENCE", SOON)
        proxy.black_hole()
        yield client, proxy
        client.close()


async def test_a_sync_client_gives_up_on_a_server_that_says_nothing(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_in_black_hole(redis_url, monkeypatch) as (client, _):
        commands_of(client)._patience = 0.0
        with pytest.raises(
            BrokerError, match=r"cannot connect .* orders may have message .*: to send it again with this id"
        ):
            await trio.to_thread.run_sync(client.publish, "orders", 1)
        with pytest.raises(BrokerError, match="cannot connect") as caught:
            await trio.to_thread.run_sync(client.publish, "orders", 2)
        assert "may have" not in str(caught.value), "it has not been sent"


@pytest.mark.parametrize("patience", [0.0, 0.2], ids=["at once", "when there is no other connection"])
async def test_a_sync_client_that_gives_up_says_that_what_it_has_asked_may_have_been_done(
    patience: float, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_in_black_hole(redis_url, monkeypatch) as (client, _):
        commands_of(client)._patience = patience
        with pytest.raises(BrokerError, match="so it may have been done"):
            await trio.to_thread.run_sync(client.ref("greeter").submit, 1)


async def test_a_sync_client_sends_once_what_a_dead_connection_has_swallowed(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_in_black_hole(redis_url, monkeypatch) as (client, proxy), trio.open_nursery() as nursery:
        sent = trio.Event()

        async def send() -> None:
            await trio.to_thread.run_sync(client.publish, "orders", 1)
            sent.set()

        nursery.start_soon(send)
        while not commands_of(client).is_lost:  # noqa: ASYNC110 - it sets no event
            await trio.sleep(0.001)
        monkeypatch.setattr("actorwork.blocking.redis.SILENCE", LATE)
        proxy.heal()
        await sent.wait()
        backlog = partial(client.broker.backlog, "orders")
        assert await trio.to_thread.run_sync(lambda: run(backlog())) == 2
