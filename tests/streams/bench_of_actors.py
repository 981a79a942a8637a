"""Stands in for actors in the tests of the broker: sinks that keep the deliveries they are offered, and a scene."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from actorwork.abc import Subscription
from actorwork.events import Event
from actorwork.message import Delivery, Envelope, Failure, MessageIds
from actorwork.policy.settlement import Ack
from actorwork.streams.broker import RedisBroker, open_broker
from actorwork.streams.node import RedisNode
from tests.patience import PATIENCE

WHY = Failure("ValueError", "no such table", "Traceback …")


class Inbox:
    """A sink whose owner takes deliveries when it wants to."""

    def __init__(self, capacity: int = 1000) -> None:
        self.capacity = capacity
        self.reserve = 0
        """How much more may be urgent."""
        self.waiting: list[Delivery] = []
        self.offers: list[int] = []
        self.cancelled: list[str] = []
        self.revoked = 0
        self._offered = trio.Event()

    def credit(self, *, urgent: bool = False) -> int:
        return self.capacity + (self.reserve if urgent else 0) - len(self.waiting)

    def offer(self, deliveries: Sequence[Delivery]) -> None:
        self.waiting += deliveries
        self.offers.append(len(deliveries))
        self._offered.set()

    def cancel(self, source: str, message_id: str, reason: str, *, force: bool = False) -> None:
        self.cancelled.append(message_id)

    def revoke(self) -> None:
        self.waiting.clear()
        self.revoked += 1

    async def take(self, count: int = 1, *, within: float = PATIENCE) -> list[Delivery]:
        """Take the next `count` deliveries, all of them at once."""
        with trio.fail_after(within):
            while len(self.waiting) < count:
                self._offered = trio.Event()
                await self._offered.wait()
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        return taken

    async def take_one(self, *, within: float = PATIENCE) -> Delivery:
        return (await self.take(within=within))[0]


class Scene:
    """A broker, what it told, and redis-py's commands to look behind it."""

    def __init__(self, broker: RedisBroker, events: list[Event]) -> None:
        self.broker = broker
        self.events = events
        self.ids = MessageIds("00112233aabbccdd")

    async def call(self, *args: Any) -> Any:
        return await self.broker.client.call(*args)

    async def send(self, source: str, *data: bytes, **more: Any) -> list[Envelope]:
        envelopes = [Envelope(source, next(self.ids), some, **more) for some in data]
        await self.broker.publish(envelopes)
        return envelopes

    async def length(self, source: str) -> int:
        return await self.call("XLEN", source)

    async def pending(self, source: str, group: str) -> int:
        return (await self.call("XPENDING", source, group))[0]

    async def fields(self, key: str) -> list[dict[bytes, bytes]]:
        found = await self.call("XRANGE", key, "-", "+")
        return [dict(zip(flat[::2], flat[1::2], strict=True)) for _, flat in found]

    def told(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @asynccontextmanager
    async def node(self, *subscriptions: Subscription, lease: float = 5) -> AsyncGenerator[RedisNode]:
        async with self.broker.open_node(subscriptions, lease=lease, emit=self.events.append) as node:
            yield node

    async def kill(self, node: RedisNode) -> None:
        """Let the lease of a node be gone, as after a kill -9."""
        await self.call("DEL", f"actorwork:node:{node.incarnation}")

    async def die_with(self, subscription: Subscription, count: int) -> str:
        """Read as a process that is killed with so many messages in flight; return its consumer's name."""
        for source in subscription.sources:
            await self.broker.client.call_many([("XGROUP", "CREATE", source, subscription.group, "0", "MKSTREAM")])
        name = f"dead-{next(self.ids)}"
        await self.call(
            "XREADGROUP", "GROUP", subscription.group, name, "COUNT", count, "STREAMS", subscription.sources[0], ">"
        )
        return name


def subscription(*sources: str, group: str = "group-a", capacity: int = 1000, max_crashes: int = 3) -> Subscription:
    return Subscription(group, f"actor of {group}", sources or ("orders",), Inbox(capacity), max_crashes)


def inbox(of: Subscription) -> Inbox:
    assert isinstance(of.sink, Inbox)
    return of.sink


@asynccontextmanager
async def open_scene(url: str) -> AsyncGenerator[Scene]:
    events: list[Event] = []
    async with open_broker(url, emit=events.append) as broker:
        yield Scene(broker, events)


def ack_all(node: RedisNode, of: Subscription, deliveries: Sequence[Delivery]) -> None:
    for delivery in deliveries:
        node.settle(of, delivery, Ack())
