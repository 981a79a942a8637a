"""Numbers of shards at the embedded broker and the one in memory, which divide nothing."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from actorwork import Actor, Settings, Source, open_client, receive
from actorwork.abc import Broker
from actorwork.brokers import open_broker
from actorwork.errors import BrokerError
from actorwork.message import Envelope
from actorwork.testing import MemoryBroker, open_test_system


@asynccontextmanager
async def opened(kind: str, folder: Path) -> AsyncGenerator[Broker]:
    if kind == "memory":
        yield MemoryBroker()
        return
    async with open_broker(f"sqlite:///{folder}/messages.db" if kind == "file" else "sqlite:///:memory:") as broker:
        yield broker


BROKERS = pytest.mark.parametrize("kind", ["file", ":memory:", "memory"])


@BROKERS
async def test_the_number_at_first_use_is_kept_and_another_one_refused(kind: str, tmp_path: Path):
    async with opened(kind, tmp_path) as broker:
        await broker.shards.declare("orders", 4)
        await broker.shards.declare("orders", 4)
        with pytest.raises(
            BrokerError, match=r"has 4 shards at this broker, and .* wants 3 shards: .* sources reshard"
        ):
            await broker.shards.declare("orders", 3)
        assert await broker.shards.list() == {"orders": 4}


@BROKERS
async def test_the_number_is_changed_while_the_source_is_paused_and_nothing_is_moved(kind: str, tmp_path: Path):
    async with opened(kind, tmp_path) as broker:
        await broker.shards.declare("orders", 4)
        await broker.publish([Envelope("orders", "one", b"{}")])
        with pytest.raises(BrokerError, match="is not paused"):
            await broker.shards.reshard("orders", 3)
        await broker.pauses.pause("source", "orders")
        assert await broker.shards.reshard("orders", 3) == 0
        assert await broker.shards.list() == {"orders": 3}
        assert await broker.backlog("orders") == 1


@BROKERS
async def test_a_client_is_refused_that_declares_another_number(kind: str, tmp_path: Path):
    async with opened(kind, tmp_path) as broker:
        async with open_client(broker) as client:
            await client.publish(Source("orders", shards=4), {})
            with pytest.raises(BrokerError, match="wants 3 shards"):
                await client.publish(Source("orders", shards=3), {})
        assert await broker.backlog("orders") == 1


class Taker(Actor):
    settings = Settings(title="taker", sources={Source("orders", shards=4)})
    taken: list[Any]

    @receive
    async def take(self, *, number: int) -> None:
        self.taken.append((self.context.delivery.source, number))


async def test_an_actor_reads_a_source_that_it_declares_with_shards():
    Taker.taken = []
    async with open_test_system(Taker) as system:
        await system.client.publish("orders", {"number": 1})
        await system.drain()
    assert Taker.taken == [("orders", 1)]


class Giver(Actor):
    settings = Settings(title="giver", sources={"requests"})

    @receive
    async def give(self, *, number: int, source: str, shards: int | None) -> None:
        self.context.publish(Source(source, shards=shards), {"number": number})


async def test_a_handler_publishes_with_the_number_that_its_process_declares_or_with_none():
    Taker.taken = []
    async with open_test_system([Giver, Taker]) as system:
        for number, shards in enumerate([4, None, 3]):
            await system.client.publish("requests", {"number": number, "source": "orders", "shards": shards})
        await system.client.publish("requests", {"number": 3, "source": "letters", "shards": 4})
        await system.drain()
        reasons = [letter.failure.reason for letter in system.dead_letters]
    assert Taker.taken == [("orders", 0), ("orders", 1)]
    assert [reason.partition(", and")[0] for reason in reasons] == [
        "publish(Source('orders', shards=3), …): the actors of this process declare 4 for 'orders'",
        "publish(Source('letters', shards=4), …): the actors of this process declare no number for 'letters'",
    ]
