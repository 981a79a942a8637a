"""The base of all groups of tests: how a broker is opened, and how messages are made."""

from __future__ import annotations

import uuid
from contextlib import AbstractAsyncContextManager
from typing import Any

import trio

from actorwork.abc import Broker
from actorwork.message import Envelope, MessageIds
from actorwork.testing.conformance.fake_consumer import (
    Opener,
    RemoteConsumer,
    open_remote_consumer,
)


class ContractTests:
    """Helpers that every group of tests uses."""

    short_lease: float = 0.6
    """Seconds of a lease that is meant to expire."""

    def opener(self) -> Opener:
        """Return a picklable function that opens a broker on the store of this test."""
        raise NotImplementedError("define how the broker is opened")

    def open_broker(self) -> AbstractAsyncContextManager[Broker]:
        return self.opener()()

    def open_remote_consumer(
        self, *sources: str, group: str = "first", room: int = 100, max_crashes: int = 3, lease: float = 5.0
    ) -> AbstractAsyncContextManager[RemoteConsumer]:
        """Open a consumer in another process.

        A broker that exists in one process only overrides this with a consumer that is merely declared dead.
        """
        return open_remote_consumer(
            self.opener(), *sources, group=group, room=room, max_crashes=max_crashes, lease=lease
        )

    async def stop_outside_of_writing(self, consumer: RemoteConsumer, broker: Broker) -> None:
        """Stop a process, but outside of a transaction: if the broker is a file, no other process could write."""
        while True:
            consumer.stop()
            with trio.move_on_after(1):
                await broker.publish(self.envelopes("is-a-transaction-open", 1))
                return
            consumer.resume()
            await trio.sleep(0.05)

    def envelopes(self, source: str, count: int, **more: Any) -> list[Envelope]:
        """Make messages with ids like a client's; their data is their number."""
        ids = MessageIds(uuid.uuid4().hex[:16])
        return [Envelope(source, next(ids), str(number).encode(), **more) for number in range(count)]
