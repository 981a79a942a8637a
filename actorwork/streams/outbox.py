"""Forwards for a node, in the background, what its scripts have left to do in other slots (forwarding.py)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import trio

from actorwork.abc import EventSink
from actorwork.events import BrokerTrouble
from actorwork.streams.formats import Formats
from actorwork.streams.forwarding import forward
from actorwork.streams.transport.client import RedisClient
from actorwork.streams.transport.redis_py import RedisError
from actorwork.streams.transport.slots import key_slot

_AGAIN_AFTER: Final = 1.0


class Outbox:
    """Forwards for one node. `spawn` starts a task in the node's nursery, and does not wait."""

    def __init__(self, client: RedisClient, spawn: Callable[..., object], emit: EventSink) -> None:
        self._client = client
        self._spawn = spawn
        self._emit = emit
        self._wanted: set[str] = set()
        self._running: set[str] = set()
        self._waiters = trio.lowlevel.ParkingLot()
        self._complain_at: dict[str, float] = {}
        self.formats = Formats(client)

    def __repr__(self) -> str:
        return f"<Outbox, {len(self._running)} being forwarded>"

    def is_elsewhere(self, own: str, source: str) -> bool:
        """Whether a source is in another slot than the one whose delivery is settled."""
        return own != source and key_slot(own) != key_slot(source)

    def forward_soon(self, source: str) -> None:
        """Forward what is in the outbox of a source. Never waits."""
        self._wanted.add(source)
        if source not in self._running:
            self._running.add(source)
            self._spawn(self._forward_all, source)

    async def wait_forwarded(self) -> None:
        """Wait until no forwarding is under way."""
        while self._running:
            await self._waiters.park()

    async def _forward_all(self, source: str) -> None:
        try:
            while source in self._wanted:
                self._wanted.discard(source)
                try:
                    following = await forward(self._client, source, partial(self.trouble, source))
                except RedisError as error:
                    self.trouble(source, source, error)
                    continue
                for target in following:
                    self.forward_soon(target)
        finally:
            self._running.discard(source)
            self._waiters.unpark_all()

    def trouble(self, source: str, target: str, error: RedisError) -> None:
        """Report, once a second for each target, that something cannot be forwarded to it."""
        now = trio.current_time()
        if now >= self._complain_at.get(target, 0.0):
            self._complain_at[target] = now + _AGAIN_AFTER
            doing = f"forwarding what was sent from {source} to {target}"
            self._emit(BrokerTrouble(doing, str(error), "again within a second; it is kept in the outbox"))
