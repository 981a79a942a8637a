"""Where outcomes arrive: on one channel at Redis, with a look at stored outcomes every few seconds and after each
reconnect; at the embedded broker by looking into the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from actorwork.errors import BrokerError
from actorwork.message import Outcome
from actorwork.streams import entries, keys
from actorwork.streams.transport.redis_py import RedisError, cannot

if TYPE_CHECKING:
    from actorwork.abc import PendingOutcome
    from actorwork.asynchronous.cluster import AsyncioCluster
    from actorwork.asynchronous.redis import AsyncioRedis
    from actorwork.embedded.rows import ReplyAddress

LOOK_EVERY: Final = 3.0
FIRST_LOOK: Final = 0.001
LONGEST_PAUSE: Final = 0.02


class AsyncioReplies:
    """Implements `actorwork.abc.Replies`; a task looks for what has not arrived."""

    def __init__(self, address: str, place: object) -> None:
        self.address = address
        self._place = place
        self._waiting: dict[tuple[str, str], list[_Awaited]] = {}
        self._wanted = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._newest = 0.0
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<AsyncioReplies {self.address}, {len(self._waiting)} awaited>"

    def expect(self, source: str, message_id: str, *, look_from: float = 0.0) -> PendingOutcome:
        waiting = _Awaited(self, (source, message_id))
        self._waiting.setdefault(waiting.key, []).append(waiting)
        self._newest = self._loop.time()
        self._wanted.set()
        return waiting

    def arrived(self, source: str, message_id: str, outcome: Outcome) -> None:
        for waiting in self._waiting.pop((source, message_id), ()):
            if not waiting.come.done():
                waiting.come.set_result(outcome)

    def forget(self, waiting: _Awaited) -> None:
        others = [other for other in self._waiting.get(waiting.key, ()) if other is not waiting]
        if others:
            self._waiting[waiting.key] = others
        else:
            self._waiting.pop(waiting.key, None)

    @property
    def awaited(self) -> list[tuple[str, str]]:
        return list(self._waiting)

    def start(self, look: Callable[[float], Awaitable[None]]) -> None:
        """Run `look(waited)` again and again while something is awaited, the newest for `waited` seconds."""
        self._task = self._loop.create_task(self._keep_looking(look))

    async def _keep_looking(self, look: Callable[[float], Awaitable[None]]) -> None:
        while True:
            if not self._waiting:
                self._wanted.clear()
                await self._wanted.wait()
            await look(self._loop.time() - self._newest)

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for some in self._waiting.values():
            for waiting in some:
                if not waiting.come.done():
                    waiting.come.set_exception(BrokerError(f"this client of {self._place} is closed"))


class _Awaited:
    """Implements `actorwork.abc.PendingOutcome`."""

    def __init__(self, replies: AsyncioReplies, key: tuple[str, str]) -> None:
        self.key = key
        self.come: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._replies = replies

    async def outcome(self) -> Outcome:
        return await self.come

    def close(self) -> None:
        self._replies.forget(self)
        if self.come.done() and not self.come.cancelled():
            self.come.exception()  # Looked at here as well: the message may not have been sent when the client ended.


class RedisReplies(AsyncioReplies):
    """At Redis; on a cluster, outcomes of a source that is asked come from its primary alone (streams/replies.py)."""

    def __init__(self, commands: AsyncioRedis | AsyncioCluster) -> None:
        kind = keys.NEAR if commands.is_of_cluster else keys.REPLIES
        super().__init__(kind + os.urandom(16).hex(), commands.address.url)
        self._commands = commands
        self._look_now = asyncio.Event()
        self._coming: dict[str, asyncio.Task[None]] = {}
        """Those that subscribe at the primaries of sources that are asked. One that was refused stays."""

    def expect(self, source: str, message_id: str, *, look_from: float = 0.0) -> PendingOutcome:
        commands = self._commands
        if commands.is_of_cluster and source not in self._coming:
            channel = keys.near_replies(source, self.address).encode()
            if not commands.is_near(channel):
                self._coming[source] = self._loop.create_task(self._come_near(source, channel))
        return super().expect(source, message_id, look_from=look_from)

    async def _come_near(self, source: str, channel: bytes) -> None:
        with contextlib.suppress(RedisError, BrokerError):
            await self._commands.subscribe_near(channel)
            del self._coming[source]

    async def aclose(self) -> None:
        for task in self._coming.values():
            task.cancel()
        await super().aclose()

    async def open(self) -> None:
        commands = self._commands
        with cannot("wait for replies"):
            await commands.subscribe(self.address)

        async def look(_: float) -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY):
                    await self._look_now.wait()
            self._look_now.clear()
            awaited = self.awaited
            wanted = [("GET", keys.SourceKeys.of(source).result(message_id)) for source, message_id in awaited]
            with contextlib.suppress(RedisError):
                for record in await commands.call_many(wanted, idempotent=True):
                    if isinstance(record, bytes):
                        self.take(record)

        self.start(look)

    def look_now(self) -> None:
        """Look for all that is awaited: the channel may have lost messages."""
        self._look_now.set()

    def take(self, record: bytes) -> None:
        """Take a message of the channel. Any client may publish there, so it may be anything."""
        with contextlib.suppress(ValueError, KeyError, TypeError):
            source, message_id, outcome = entries.outcome_from(record)
            self.arrived(source, message_id, outcome)


def arrivals_of(replies: AsyncioReplies) -> Callable[[ReplyAddress], None]:
    """Return what the embedded broker calls with each reply."""

    def arrived(reply: ReplyAddress) -> None:
        _, source, message_id, outcome = reply
        replies.arrived(source, message_id, outcome)

    return arrived
