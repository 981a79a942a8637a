"""How a client is opened in an asyncio program."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, cast

from actorwork.asynchronous.driver import AsyncioDriver, check_asyncio
from actorwork.brokers import is_file, is_redis, unknown_kind, url_of
from actorwork.clients.client import Client
from actorwork.clients.driver import OpenBroker
from actorwork.clients.sender import Sender, checked_layers
from actorwork.message import Durability, as_durability
from actorwork.telemetry.logs import LogSink

if TYPE_CHECKING:
    from actorwork.abc import Broker, Changes, EventSink, PublishMiddleware, Replies
    from actorwork.asynchronous.cluster import AsyncioCluster
    from actorwork.streams.durable import DurablePublisher
    from actorwork.telemetry.metrics.registry import Registry


@asynccontextmanager
async def open_client(
    broker: str | None = None,
    *,
    middleware: Sequence[PublishMiddleware] = (),
    metrics: Registry | None = None,
    durability: Durability | Literal["replicated", "fsynced"] | None = None,
) -> AsyncGenerator[Client]:
    """Open a client of a broker, named by its URL; without one, of the embedded broker of this project.

    It belongs to the running loop, and serves any number of its tasks. While the broker is unreachable this waits, and
    so does every call: bound it with `asyncio.timeout`. A call that is cancelled may have had its effect. `middleware`
    processes every message before it is sent, in order. What is sent is counted in `metrics`, a `Registry` of this
    program's own. With a `durability`, every call that sends returns once that is confirmed, and otherwise raises
    `Unconfirmed`. Raises `BrokerError` for a broker that cannot be used, and `NotRunning` where no loop of asyncio's
    runs.
    """
    check_asyncio()
    layers, wanted = checked_layers(middleware), as_durability(durability)
    url = url_of(broker)
    emit = LogSink("client")
    async with AsyncExitStack() as stack:
        if is_redis(url):
            opened, driver = await _open_redis(url, stack, emit)
        elif is_file(url):
            opened, driver = await _open_file(url, stack)
        else:
            raise unknown_kind(url)
        meter = None if metrics is None else metrics.meter
        yield Client(Sender(OpenBroker(opened), driver, layers=layers, meter=meter, durability=wanted), emit)


async def _open_redis(url: str, stack: AsyncExitStack, emit: EventSink) -> tuple[Broker, AsyncioDriver]:
    # Imported here, as in `brokers`: the other broker's packages are not needed.
    from actorwork.asynchronous.changes import RedisChanges  # noqa: PLC0415
    from actorwork.asynchronous.gathering import GatheringPublisher  # noqa: PLC0415
    from actorwork.asynchronous.redis import AsyncioRedis  # noqa: PLC0415
    from actorwork.asynchronous.replies import RedisReplies  # noqa: PLC0415
    from actorwork.streams.diagnosis import refuse_what_loses_messages  # noqa: PLC0415
    from actorwork.streams.keys import address_of_near  # noqa: PLC0415
    from actorwork.streams.sending import RedisSending  # noqa: PLC0415
    from actorwork.streams.transport.address import Address  # noqa: PLC0415
    from actorwork.streams.transport.redis_py import cannot  # noqa: PLC0415

    places: list[RedisReplies] = []
    watched: list[RedisChanges] = []

    def on_push(push: list[Any]) -> None:
        if push[0] == b"message":
            address = address_of_near(push[1]) or push[1]
            for place in places:
                if address == place.address.encode():
                    place.take(push[2])
            for changes in watched:
                changes.watches.tell(push[1])

    def on_back() -> None:
        for place in places:
            place.look_now()
        for changes in watched:
            changes.watches.tell_all()

    address = Address.parse(url)

    async def open_another() -> AsyncioRedis | AsyncioCluster:
        another: AsyncioRedis | AsyncioCluster
        if address.cluster is None:
            another = AsyncioRedis(address, on_push, on_back, emit)
        else:
            from actorwork.asynchronous.cluster import AsyncioCluster as OnCluster  # noqa: PLC0415 - few have one

            another = OnCluster(address, on_push, on_back, emit)
        stack.push_async_callback(another.aclose)
        await another.open()
        return another

    commands = await open_another()
    with cannot(f"open {address.url}"):
        await refuse_what_loses_messages(commands, address, emit)

    async def open_replies() -> Replies:
        place = RedisReplies(commands)
        await place.open()
        places.append(place)
        stack.push_async_callback(place.aclose)
        return place

    async def open_changes() -> Changes:
        changes = RedisChanges(commands)
        watched.append(changes)
        stack.push_async_callback(changes.aclose)
        return changes

    @cache
    def durable() -> DurablePublisher:
        from actorwork.streams.durable import DurablePublisher  # noqa: PLC0415 - most programs need none

        return DurablePublisher(open_another, asyncio.Lock())

    publisher = GatheringPublisher(commands) if isinstance(commands, AsyncioRedis) else None
    sending = RedisSending(commands, address, emit, shared_url=url, sleep=asyncio.sleep, publisher=publisher)
    sending.durable = durable
    return cast("Any", sending), AsyncioDriver(open_replies, open_changes)


async def _open_file(url: str, stack: AsyncExitStack) -> tuple[Broker, AsyncioDriver]:
    from actorwork.asynchronous.changes import StoreChanges  # noqa: PLC0415
    from actorwork.asynchronous.replies import (  # noqa: PLC0415
        FIRST_LOOK,
        LONGEST_PAUSE,
        AsyncioReplies,
        arrivals_of,
    )
    from actorwork.asynchronous.store import AsyncioStore  # noqa: PLC0415
    from actorwork.embedded.location import parse  # noqa: PLC0415
    from actorwork.embedded.sending import EmbeddedSending  # noqa: PLC0415

    location = parse(url)
    store = AsyncioStore(location)
    stack.push_async_callback(store.aclose)
    await store.open()

    async def open_replies() -> Replies:
        replies = AsyncioReplies(os.urandom(16).hex(), location)
        store.listen(replies.address, arrivals_of(replies))

        async def look(waited: float) -> None:
            await asyncio.sleep(min(LONGEST_PAUSE, max(FIRST_LOOK, waited / 4)))
            await store.look()

        replies.start(look)
        stack.push_async_callback(replies.aclose)
        return replies

    async def open_changes() -> Changes:
        changes = StoreChanges(store)
        stack.push_async_callback(changes.aclose)
        return changes

    return cast("Any", EmbeddedSending(location, store)), AsyncioDriver(open_replies, open_changes)
