"""Each node enters its actors at the broker, so that a misspelt title is noticed."""

import json
import logging

import pytest
import trio

from actorwork import Actor, Settings, open_client, open_system, receive
from actorwork.brokers import open_broker
from actorwork.state.known_actors import NAME, enter_actors, known_actors, unknown_actor, unknown_source
from actorwork.testing.memory import MemoryBroker
from tests.patience import PATIENCE


class Till(Actor):
    settings = Settings(title="till", sources={"orders"})

    @receive
    async def take(self, *, number: int) -> None: ...


@pytest.mark.parametrize("kind", ["embedded", "redis"])
async def test_a_node_enters_its_actors_and_their_sources(kind: str, request: pytest.FixtureRequest):
    url = ":memory:" if kind == "embedded" else request.getfixturevalue("redis_url")
    async with open_broker(url) as broker:
        async with open_system([Till], broker=broker):
            with trio.fail_after(PATIENCE):
                while not (known := await known_actors(broker.values)):  # noqa: ASYNC110 - no event says it
                    await trio.sleep(0.01)
        assert known == {"till": sorted(["orders", Till.settings.default_source])}
        assert await known_actors(broker.values) == known, "it is known after it has ended"


async def test_what_is_known_is_written_once_a_day_and_two_writers_lose_nothing():
    values = MemoryBroker().values
    await enter_actors(values, {"till": ["orders"]}, 1000.0)
    before = await values.get(NAME)
    await enter_actors(values, {"till": ["orders"]}, 1000.0 + 86_000)
    assert await values.get(NAME) == before
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(enter_actors, values, {f"desk {number}": ["orders"]}, 2000.0)
    assert len(await known_actors(values)) == 21
    await enter_actors(values, {"till": ["orders", "returns"]}, 3000.0)
    assert (await known_actors(values))["till"] == ["orders", "returns"]


@pytest.mark.parametrize("kept", [b"7", b"[1]", b'{"till": 1}', json.dumps({"till": {"sources": 1}}).encode()])
async def test_a_value_that_is_not_ours_is_written_anew(kept: bytes):
    values = MemoryBroker().values
    await values.set(NAME, kept)
    assert await known_actors(values) == {}
    await enter_actors(values, {"till": ["orders"]}, 1000.0)
    assert await known_actors(values) == {"till": ["orders"]}


def test_names_like_it_are_offered_and_else_those_that_there_are():
    known = {"orders desk": ["orders", "worker:1:source"], "till": ["returns"]}
    assert unknown_actor("till", known) is None
    assert unknown_actor("oders desk", known) == (
        "no actor 'oders desk' has run at this broker; did you mean 'orders desk'?"
    )
    assert (unknown_actor("x", known) or "").endswith("known are 'orders desk', 'till'")
    assert unknown_source("orders", known) is None
    assert (unknown_source("x", known) or "").endswith("known are 'orders', 'returns'")


async def test_a_client_pauses_what_has_never_run_and_says_so(caplog: pytest.LogCaptureFixture):
    broker = MemoryBroker()
    await enter_actors(broker.values, {"till": ["orders"]}, 1000.0)
    caplog.set_level(logging.WARNING)
    async with open_client(broker) as client:
        await client.pause(actor="till")
        await client.pause(source="orders")
        await client.pause()
        assert caplog.records == []
        await client.pause(actor="tlil")
        await client.pause(source="oders")
        assert len(await client.paused()) == 5
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        "paused all the same: no actor 'tlil' has run at this broker",
        "paused all the same: no actor that has run at this broker reads the source 'oders'",
    ]
