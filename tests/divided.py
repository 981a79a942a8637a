"""A broker whose sources are divided before they are first used: as if each program declared a number of shards."""

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from actorwork.abc import EventSink, Subscription
from actorwork.events import Event
from actorwork.message import Envelope
from actorwork.policy.shards import Layout
from actorwork.state.shards import change_layout
from actorwork.streams import keys, scripts
from actorwork.streams.broker import RedisBroker, open_broker
from actorwork.streams.node import RedisNode


def ignore(_: Event) -> None: ...


class DividedBroker:
    """All that the broker of Redis has; what it is asked to send to or to read is divided before.

    Into one shard, so that messages keep their order. It has another name than its source, as all shards have.
    """

    def __init__(self, broker: RedisBroker) -> None:
        self._broker = broker

    def __repr__(self) -> str:
        return f"<DividedBroker at {self._broker!r}>"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    async def publish(self, envelopes: Sequence[Envelope]) -> int:
        await self._divide(one.source for one in envelopes)
        return await self._broker.publish(envelopes)

    async def publish_new(self, envelope: Envelope) -> None:
        await self._divide([envelope.source])
        await self._broker.publish_new(envelope)

    async def publish_unique(self, envelope: Envelope) -> str:
        await self._divide([envelope.source])
        return await self._broker.publish_unique(envelope)

    @asynccontextmanager
    async def open_node(
        self, subscriptions: Sequence[Subscription], *, lease: float, emit: EventSink
    ) -> AsyncGenerator[RedisNode]:
        await self._divide(source for one in subscriptions for source in one.sources)
        async with self._broker.open_node(subscriptions, lease=lease, emit=emit) as node:
            yield node

    async def _divide(self, sources: Iterable[str]) -> None:
        """Divide sources, but for those that hold something: a handler has published it before they were used."""
        layouts = self._broker.layouts
        for source in set(sources).difference(layouts.known):
            new = Layout(source, 1, 1)
            args = (keys.prefix(source), 0, 1)
            _, _, _, is_replaced = await self._broker.client.run_script(scripts.DRAIN, (source,), args, idempotent=True)
            if is_replaced:
                await change_layout(layouts.values, source, lambda known, new=new: known or new)
                await layouts.refresh()


@asynccontextmanager
async def open_divided(url: str) -> AsyncGenerator[Any]:
    async with open_broker(url, emit=ignore) as broker:
        yield DividedBroker(broker)
