"""A node reads many sources over few connections, where the url of the broker says so."""

import os
from collections.abc import Callable

import pytest
import trio
import trio.testing

from actorwork import Actor, Settings, open_system, receive
from actorwork.brokers import open_broker
from actorwork.errors import BrokerError
from actorwork.events import BrokerTrouble, Event
from actorwork.message import Envelope
from actorwork.streams.broker import RedisBroker
from actorwork.streams.reader_connections import CALM_AFTER, ReaderConnections
from actorwork.streams.transport.address import Address
from actorwork.testing.redis_cluster import RedisCluster
from tests.doubles import Kept
from tests.patience import PATIENCE

SOURCES = [f"source-{number}" for number in range(6)]


def ignore(_event: Event) -> None:
    pass


def limited(url: str, most: int) -> str:
    return f"{url}{'&' if '?' in url else '?'}reader_connections={most}"


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - no event says so
            await trio.sleep(0.01)


def actors(seen: list[str]) -> list[type[Actor]]:
    def actor(source: str) -> type[Actor]:
        class Reading(Actor):
            settings = Settings(title=f"of {source}", sources={source})

            @receive
            async def take(self, *, number: int) -> None:
                seen.append(f"{source}/{number}")

        return Reading

    return [actor(source) for source in SOURCES]


async def readers(broker: RedisBroker) -> int:
    """Return how many connections of readers the servers have."""
    replies = await broker.client.call_each("CLIENT", "LIST")
    return sum(reply.count(b"name=actorwork-reader") for reply in replies)


async def until_readers(broker: RedisBroker, count: int) -> None:
    with trio.fail_after(PATIENCE):
        while await readers(broker) != count:  # noqa: ASYNC110 - no event says so
            await trio.sleep(0.01)


async def handle_with_few_connections(url: str) -> None:
    seen: list[str] = []
    async with open_broker(url, emit=ignore) as asking:
        assert isinstance(asking, RedisBroker)
        async with open_system(actors(seen), broker=limited(url, 2)) as system:
            for number in range(3):
                await system.broker.publish(
                    [Envelope(one, f"{one}-{number}", b'{"number": %d}' % number) for one in SOURCES]
                )
                await until(lambda number=number: len(seen) == len(SOURCES) * (number + 1))
                # One that was closed may be listed for a moment.
                await until_readers(asking, 2)
        assert sorted(seen) == sorted(f"{source}/{number}" for source in SOURCES for number in range(3))


async def test_readers_share_as_many_connections_as_the_url_says(redis_url: str):
    await handle_with_few_connections(redis_url)


async def test_readers_of_several_slots_share_as_many_connections_as_the_url_says(redis_cluster: RedisCluster):
    redis_cluster.flush()
    await handle_with_few_connections(redis_cluster.url)


async def test_without_a_limit_each_reader_has_a_connection(redis_url: str):
    async with open_broker(redis_url, emit=ignore) as asking, open_system(actors([]), broker=redis_url):
        assert isinstance(asking, RedisBroker)
        await until_readers(asking, len(SOURCES))


class Reader:
    def __init__(self) -> None:
        self.interruptions = 0

    def interrupt(self) -> None:
        self.interruptions += 1


async def test_readers_leave_files_for_what_else_their_process_opens(redis_url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("actorwork.streams.reader._PATIENCE", 0.01)
    # As if the first file were among the last ones that this process may open.
    monkeypatch.setattr("actorwork.streams.transport.client.SPARE_FILES", os.sysconf("SC_OPEN_MAX") - 1)
    seen, kept = list[str](), Kept()
    async with open_broker(redis_url, emit=kept) as opened, open_system(actors(seen), broker=opened, emit=kept):
        await opened.publish([Envelope(source, f"m-{source}", b'{"number":1}') for source in SOURCES])
        await until(lambda: len(seen) == len(SOURCES))
        await until(lambda: kept.of(BrokerTrouble))
    assert all("may open no more files" in trouble.error for trouble in kept.of(BrokerTrouble))


async def test_a_reader_that_finds_messages_gets_the_connection_of_the_calmest(mock_clock: trio.testing.MockClock):
    mock_clock.autojump_threshold = 0
    connections = ReaderConnections(2)
    calm, calmest, busy = Reader(), Reader(), Reader()
    assert connections.take(calm)
    assert connections.take(calmest)
    assert not connections.take(busy)
    await trio.sleep(CALM_AFTER)
    connections.note_found(calm)
    await trio.sleep(CALM_AFTER)
    connections.note_found(busy)
    assert (calm.interruptions, calmest.interruptions) == (0, 1)
    assert [connections.is_wanted(one) for one in (calm, calmest)] == [False, True]
    connections.leave(calmest)
    assert not connections.take(calmest)
    assert connections.take(busy)
    assert not any(connections.is_wanted(one) for one in (calm, busy))


async def test_a_reader_that_finds_messages_waits_until_another_one_is_calm(mock_clock: trio.testing.MockClock):
    mock_clock.autojump_threshold = 0
    connections = ReaderConnections(1)
    busy, other = Reader(), Reader()
    assert connections.take(busy)
    connections.note_found(other)
    assert not connections.is_wanted(busy)
    await trio.sleep(CALM_AFTER)
    assert connections.is_wanted(busy)
    connections.forget(other)
    assert not connections.is_wanted(busy)


@pytest.mark.parametrize(
    "url",
    [
        "redis://a/0?reader_connections=3",
        "rediss://a?ssl_cert_reqs=none&reader_connections=3",
        "unix:///a/socket?db=1&reader_connections=3",
        "redis+cluster://a,b?reader_connections=3",
        "redis+sentinel://a,b/name?reader_connections=3&sentinel_socket_timeout=2",
    ],
)
def test_every_kind_of_url_may_limit_the_connections_of_readers(url: str):
    assert Address.parse(url).reader_connections == 3


@pytest.mark.parametrize("given", ["0", "many", ""])
def test_a_limit_that_is_no_number_is_refused_with_what_to_do(given: str):
    with pytest.raises(BrokerError, match=f"1 or more, got {given!r}: leave it out, and each reader has one"):
        Address.parse(f"redis://a?reader_connections={given}")
