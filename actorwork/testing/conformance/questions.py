"""What all questions have in common: how a broker is opened, and its messages are made."""

from __future__ import annotations

import uuid
from contextlib import AbstractAsyncContextManager
from typing import Any

import trio

from actorwork.abc import Broker
from actorwork.message import Envelope, MessageIds
from actorwork.testing.conformance.fake_consumer import (
    Opener,
    RemoteDesk,
    open_remote_desk,
)


class Questions:
    """What every group of questions asks with."""

    short_lease: float = 0.3
    """Seconds of a lease that is meant to run out."""

    def opener(self) -> Opener:
        """Return what opens a broker at the store of this test."""
        raise NotImplementedError("say how the broker is opened")

    def open_broker(self) -> AbstractAsyncContextManager[Broker]:
        return self.opener()()

    def open_remote_desk(
        self, *sources: str, group: str = "first", room: int = 100, max_crashes: int = 3, lease: float = 5.0
    ) -> AbstractAsyncContextManager[RemoteDesk]:
        """Open a desk in another process. A broker that lives within one process overrides this with one that is only
        taken for dead.
        """
        return open_remote_desk(self.opener(), *sources, group=group, room=room, max_crashes=max_crashes, lease=lease)

    async def stop_outside_of_writing(self, desk: RemoteDesk, broker: Broker) -> None:
        """Stop a process, but not in the middle of a transaction: where the broker is a file, nobody else could
        write.
        """
        while True:
            desk.stop()
            with trio.move_on_after(1):
                await broker.publish(self.envelopes("is-anybody-writing", 1))
                return
            desk.go_on()
            await trio.sleep(0.05)

    def envelopes(self, source: str, count: int, **more: Any) -> list[Envelope]:
        """Make messages under the ids that a client would give them; their data is their number."""
        ids = MessageIds(uuid.uuid4().hex[:16])
        return [Envelope(source, next(ids), str(number).encode(), **more) for number in range(count)]
