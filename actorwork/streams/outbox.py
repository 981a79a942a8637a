"""Forwards for a node, in the background, what its scripts have left to do in other slots (forwarding.py)."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Final

import trio

from actorwork.abc import EventSink
from actorwork.events import BrokerTrouble
from actorwork.streams.formats import FORMAT_OF_JOINT_BATCHES, Formats
from actorwork.streams.forwarding import forward
from actorwork.streams.transport.client import RedisClient
from actorwork.streams.transport.redis_py import ConnectionError, RedisError  # noqa: A004
from actorwork.streams.transport.slots import key_slot

_AGAIN_AFTER: Final = 1.0
_AGAIN_SOON: Final = 0.1
_TRIES: Final = 20
_PATIENCE: Final = 2.0
"""Seconds after which forwarding to one source is given up, while a primary is away: it may be the one that is needed.
"""


class Outbox:
    """Forwards for one node. `spawn` starts a task in the node's nursery, and does not wait."""

    def __init__(self, client: RedisClient, spawn: Callable[..., object], emit: EventSink) -> None:
        self._client = client
        self._spawn = spawn
        self._emit = emit
        self._wanted: set[str] = set()
        self._running: set[str] = set()
        self._under_way: dict[str, tuple[float, trio.CancelScope]] = {}
        """Since when something of an outbox is on its way to one source, which may be given up."""
        self._waiters = trio.lowlevel.ParkingLot()
        self._complain_at: dict[str, float] = {}
        self.formats = Formats(client, FORMAT_OF_JOINT_BATCHES)

    def __repr__(self) -> str:
        return f"<Outbox, {len(self._running)} being forwarded>"

    def is_elsewhere(self, own: str, source: str) -> bool:
        """Whether a source is in another slot than the one whose delivery is settled."""
        return own != source and key_slot(own) != key_slot(source)

    def forward_soon(self, source: str) -> None:
        """Forward what is in the outbox of a source. Never waits."""
        self._wanted.add(source)
        began, scope = self._under_way.get(source, (math.inf, None))
        if scope is not None and trio.current_time() - began >= _PATIENCE and self._client.servers()[1]:
            scope.cancel()  # It may wait for a primary that is away, and is tried again behind all others.
        if source not in self._running:
            self._running.add(source)
            self._spawn(self._forward_all, source)

    async def wait_forwarded(self) -> None:
        """Wait until no forwarding is under way."""
        while self._running:
            await self._waiters.park()

    async def _forward_all(self, source: str) -> None:
        tries = 0
        try:
            while source in self._wanted:
                self._wanted.discard(source)
                away: list[str] = []
                try:
                    following = await forward(
                        self._client,
                        source,
                        partial(self._left, source, away),
                        partial(self._until_given_up, source),
                    )
                except RedisError as error:
                    self.trouble(source, source, error)
                    continue
                for target in following:
                    self.forward_soon(target)
                if away and tries < _TRIES:
                    # Most are back in a moment. Later on, who maintains the source tries again, once a second.
                    tries += 1
                    self._wanted.add(source)
                    await trio.sleep(_AGAIN_SOON)
        finally:
            self._running.discard(source)
            self._waiters.unpark_all()

    @contextmanager
    def _until_given_up(self, source: str) -> Generator[None]:
        with trio.CancelScope() as scope:
            self._under_way[source] = trio.current_time(), scope
            try:
                yield
            finally:
                del self._under_way[source]

    def _left(self, source: str, away: list[str], target: str, error: RedisError) -> None:
        """Take note that something is left in the outbox; that a primary is away is reported elsewhere."""
        if isinstance(error, ConnectionError):
            away.append(target)
        else:
            self.trouble(source, target, error)

    def trouble(self, source: str, target: str, error: RedisError) -> None:
        """Report, once a second for each target, that something cannot be forwarded to it."""
        now = trio.current_time()
        if now >= self._complain_at.get(target, 0.0):
            self._complain_at[target] = now + _AGAIN_AFTER
            doing = f"forwarding what was sent from {source} to {target}"
            self._emit(BrokerTrouble(doing, str(error), "again within a second; it is kept in the outbox"))
