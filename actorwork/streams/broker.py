"""The broker at Redis: messages in streams under the users' own names, settled by scripts.

One server, a primary with replicas, which Sentinel may replace, or a cluster. There a source and its keys share a slot,
and a node reads the sources of each slot by themselves. A script reaches no other slot, so dead nodes are looked up
before it runs (`survey.py`), and messages for other slots are forwarded afterwards (`outbox.py`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import trio

from actorwork import events
from actorwork.abc import Broker, EventSink, Subscription, meter_of
from actorwork.nurseries import open_unwrapping_nursery
from actorwork.streams import diagnosis, keys, scripts
from actorwork.streams.node import RedisNode
from actorwork.streams.sending import RedisSending
from actorwork.streams.transport.address import Address
from actorwork.streams.transport.client import (
    ConnectionEvent,
    ConnectionLost,
    RedisClient,
    RedisClientClosed,
    open_client,
)
from actorwork.streams.transport.redis_py import RedisError, cannot
from actorwork.streams.transport.urls import is_of_cluster
from actorwork.streams.watches import subscribed

if TYPE_CHECKING:
    from actorwork.streams.changes import RedisChanges
    from actorwork.streams.durable import DurablePublisher
    from actorwork.streams.replies import RedisReplies

_ATTEND = keys.ATTEND.encode()
_PAUSES = keys.PAUSES.encode()
_ASKS = keys.ASKS.encode()


@asynccontextmanager
async def open_broker(url: str, *, emit: EventSink, is_unsafe_allowed: bool = False) -> AsyncGenerator[RedisBroker]:
    """Connect to Redis and check that it keeps messages. Waits for a server that cannot be reached.

    Raises `BrokerError` for a server that loses messages: one that evicts streams, is too old, or is a replica
    (`is_unsafe_allowed` is for examining it: it reports this as advice).
    """
    replies: dict[bytes, RedisReplies] = {}
    nodes: list[RedisNode] = []
    changes: list[RedisChanges] = []
    pauses: list[Callable[[], None]] = []
    asks: list[Callable[[bytes], None]] = []

    def on_push(message: list[Any]) -> None:
        if message[0] != b"message":
            return
        if (place := replies.get(message[1])) is not None:
            place.take(message[2])
        elif message[1] == _PAUSES:
            for tell in pauses:
                tell()
        elif message[1] == _ASKS:
            for tell_node in asks:
                tell_node(message[2])
        elif message[1] == _ATTEND:
            name = message[2].decode(errors="replace") or None
            used = None if name is None else keys.source_and_level(name)
            for node in nodes:
                if used is None:
                    node.notify(name)
                else:
                    node.learn(*used)
        elif (address := keys.address_of_near(message[1])) is not None:
            if (place := replies.get(address)) is not None:
                place.take(message[2])
        else:
            for one in changes:
                one.watches.tell(message[1])

    def on_event(event: ConnectionEvent) -> None:
        if isinstance(event, ConnectionLost):
            emit(events.BrokerLost(str(event.error), event.retry_in, event.url, event.away, event.servers))
            return
        emit(events.BrokerBack(event.url, event.away, event.servers))
        for node in nodes:
            node.check_lease()
        for place in replies.values():
            place.look_now()
        for one in changes:
            one.watches.tell_all()
        for tell in pauses:
            tell()
        for tell_node in asks:
            tell_node(b"")

    make = None
    meter = meter_of(emit)
    if meter is not None:
        from actorwork.streams.transport.timed import timed  # noqa: PLC0415 - without metrics it is not needed

        make = timed(meter.command)
    if is_of_cluster(url):
        from actorwork.streams.transport.cluster import cluster_client  # noqa: PLC0415 - few programs have one

        make = cluster_client() if make is None else cluster_client(make)
    async with (
        open_unwrapping_nursery() as nursery,
        open_client(
            url, name="actorwork", scripts=scripts.ALL, on_push=on_push, on_event=on_event, make=make
        ) as client,
    ):
        await client.wait_connected()
        await diagnosis.refuse_what_loses_messages(client, client.address, emit, is_unsafe_allowed=is_unsafe_allowed)
        broker = RedisBroker(client, client.address, replies, changes, nodes, emit, shared_url=url)
        broker.durable = cache(partial(_durable_publisher, nursery, url))
        pauses.append(broker.pauses.tell)
        asks.append(broker.tell_asked)
        yield broker
        nursery.cancel_scope.cancel()


def _durable_publisher(nursery: trio.Nursery, url: str) -> DurablePublisher:
    # Imported here: most programs wait for no replicas.
    from actorwork.streams.durable import DurablePublisher  # noqa: PLC0415

    return DurablePublisher(partial(nursery.start, _keep_durable, url), trio.Lock())


async def _keep_durable(url: str, task_status: trio.TaskStatus[RedisClient]) -> None:
    """Hold the connection that waits for replicas, until the broker is closed."""
    make = None
    if is_of_cluster(url):
        from actorwork.streams.transport.cluster import cluster_client  # noqa: PLC0415 - few programs have one

        make = cluster_client()
    async with open_client(url, name="actorwork", scripts=scripts.ALL, make=make) as client:
        await client.wait_connected()
        task_status.started(client)
        await trio.sleep_forever()


class RedisBroker(RedisSending, Broker):
    """Made by `open_broker`."""

    def __init__(
        self,
        client: RedisClient,
        address: Address,
        replies: dict[bytes, RedisReplies],
        changes: list[RedisChanges],
        nodes: list[RedisNode],
        emit: EventSink,
        *,
        shared_url: str,
    ) -> None:
        super().__init__(client, address, emit, shared_url=shared_url, sleep=trio.sleep, subscriptions=client)
        self._client = client
        self._replies = replies
        self._changes = changes
        self._nodes = nodes

    @property
    def client(self) -> RedisClient:
        """The connection, for commands that this class does not offer."""
        return self._client

    def tell_asked(self, node: bytes) -> None:
        """Have a node that listens here look for commands; with no name, each."""
        if self._node_commands is not None:
            self._node_commands.tell(node)

    async def describe_server(self) -> tuple[str, str]:
        """Return what the server is, `redis` or `valkey`, and its version; empty if this user may not ask."""
        try:
            text: bytes = await self._client.call("INFO", "server", idempotent=True)
        except RedisError:
            return "redis", ""
        facts = dict(line.split(":", 1) for line in text.decode(errors="replace").split("\r\n") if ":" in line)
        if "valkey_version" in facts:
            return "valkey", facts["valkey_version"]
        return "redis", facts.get("redis_version", "")

    def servers(self) -> tuple[int, int]:
        """Return how many servers there are, and how many of them have no connection. Any thread may ask."""
        return self._client.servers()

    def servers_of(self, source: str) -> frozenset[object]:
        """Return the primaries that have the shards of a source, or the one server there is."""
        return frozenset(self._client.server_of(name) for name in self.layouts.names(source))

    def statistics(self) -> dict[str, int]:
        statistics = self._client.statistics()
        return {
            "connections": statistics.generation,
            "in_flight": statistics.in_flight,
            "bytes_sent": statistics.bytes_sent,
            "bytes_received": statistics.bytes_received,
        }

    @asynccontextmanager
    async def open_node(
        self, subscriptions: Sequence[Subscription], *, lease: float, emit: EventSink
    ) -> AsyncGenerator[RedisNode]:
        await self.layouts.refresh()
        async with open_unwrapping_nursery() as nursery:
            settling: trio.Nursery = await nursery.start(_keep_settling)
            node = RedisNode(
                self._client,
                self._address,
                subscriptions,
                lease=lease,
                emit=emit,
                begin_settling=settling,
                layouts=self.layouts,
            )
            try:
                await node.begin()
                await self._listen(emit)
                nursery.start_soon(node.run_intake)
                self._nodes.append(node)
                yield node
            finally:
                if node in self._nodes:
                    self._nodes.remove(node)
                await node.end()
                settling.cancel_scope.cancel()

    async def _listen(self, emit: EventSink) -> None:
        """Subscribe to requests for maintenance; without them, nodes maintain their sources once a second."""
        otherwise = "short delays and released messages may be a second late"
        await subscribed(self._client, keys.ATTEND, emit, otherwise=otherwise)

    @asynccontextmanager
    async def open_replies(self) -> AsyncGenerator[RedisReplies]:
        # Imported here, as the changes below: few nodes wait for replies.
        from actorwork.streams.replies import RedisReplies  # noqa: PLC0415

        place = RedisReplies(self._client, self._emit)
        channel = place.address.encode()
        self._replies[channel] = place
        try:
            async with open_unwrapping_nursery() as nursery:
                with cannot("wait for replies"):
                    await self._client.subscribe(channel)
                nursery.start_soon(place.run)
                if self._client.is_of_cluster:
                    nursery.start_soon(place.come_near)
                yield place
                nursery.cancel_scope.cancel()
        finally:
            del self._replies[channel]
            with trio.move_on_after(0.5, shield=True):
                # If this fails, the subscription ends with the connection; nothing is published there any more.
                with suppress(RedisError, RedisClientClosed):
                    await self._client.unsubscribe(channel)

    @asynccontextmanager
    async def open_changes(self) -> AsyncGenerator[RedisChanges]:
        from actorwork.streams.changes import RedisChanges  # noqa: PLC0415

        place = RedisChanges(self._client, self._emit)
        self._changes.append(place)
        try:
            async with open_unwrapping_nursery() as nursery:
                nursery.start_soon(place.run)
                yield place
                nursery.cancel_scope.cancel()
        finally:
            self._changes.remove(place)


async def _keep_settling(task_status: trio.TaskStatus[trio.Nursery]) -> None:
    # Before the shield, and with no checkpoint between this and `started`: under a scope that is cancelled already,
    # `started` does nothing, and `nursery.start` would wait for ever for a task that its cancellation does not reach.
    await trio.lowlevel.checkpoint_if_cancelled()
    # Shielded: deliveries handled before a cancellation are settled after it. `open_node` ends it, after a second at
    # most.
    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as nursery:
            task_status.started(nursery)
            await trio.sleep_forever()
