"""Where changes of messages and runs are heard of, on asyncio's loop.

At Redis on a channel for each that is watched: all look again after a reconnect, and some every few seconds, in turn.
At the embedded broker the file is looked at while something is watched.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from actorwork.errors import BrokerError
from actorwork.streams.transport.redis_py import RedisError
from actorwork.streams.watches import LOOK_EVERY, NOTED_EVERY, Watches, channel_of, note_of

if TYPE_CHECKING:
    from actorwork.asynchronous.cluster import AsyncioCluster
    from actorwork.asynchronous.redis import AsyncioRedis
    from actorwork.asynchronous.store import AsyncioStore
    from actorwork.embedded.watched import Topic

FIRST_LOOK: Final = 0.001
LONGEST_PAUSE: Final = 0.02
LONGEST_END: Final = 0.5
"""Seconds within which the end of a watch gives up on the server: it ends a wait that has a time of its own."""


class _Task:
    """A task that ends with its client."""

    def __init__(self, place: object) -> None:
        self.is_closed = False
        self._place = place
        self._task: asyncio.Task[None] | None = None

    def start(self, task: asyncio.Task[None]) -> None:
        self._task = task

    def check_open(self) -> None:
        """Raise `BrokerError` once the client has ended: nothing more is heard of."""
        if self.is_closed:
            raise BrokerError(f"this client of {self._place} is closed")

    async def aclose(self) -> None:
        self.is_closed = True
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task


class RedisChanges(_Task):
    """Implements `actorwork.abc.Changes`."""

    def __init__(self, commands: AsyncioRedis | AsyncioCluster) -> None:
        super().__init__(commands.address.url)
        self._commands = commands
        self.watches: Watches[RedisWatch] = Watches()
        self.start(asyncio.get_running_loop().create_task(self._look_again()))

    def __repr__(self) -> str:
        return f"<RedisChanges: {self.watches!r}>"

    async def _look_again(self) -> None:
        loop = asyncio.get_running_loop()
        noted = loop.time()
        while True:
            await asyncio.sleep(LOOK_EVERY)
            self.watches.tell_some()
            if loop.time() >= noted + NOTED_EVERY:
                noted = loop.time()
                with contextlib.suppress(RedisError):  # They are written again, and all look now and then.
                    await self._commands.call_many(self.watches.notes(), idempotent=True)

    async def watch(self, source: str, id: str) -> RedisWatch:
        watch = RedisWatch(channel_of(source, id), self)
        self.watches.add(watch)
        try:
            # Also if others watch it: their subscription may not be confirmed yet.
            await self._commands.subscribe(watch.channel)
            if self._commands.is_of_cluster and (note := note_of(source, id)) is not None:
                self.watches.keep_note(watch.channel, note)
                await self._commands.call(*note, idempotent=True)
        except RedisError:
            pass  # A user who may not subscribe looks every few seconds.
        except BaseException:
            await self.end(watch)
            raise
        return watch

    async def aclose(self) -> None:
        await super().aclose()
        self.watches.tell_all()

    async def end(self, watch: RedisWatch) -> None:
        """End a watch; takes half a second at most, though the server be away or silent."""
        if self.watches.remove(watch):
            with contextlib.suppress(RedisError, TimeoutError):
                async with asyncio.timeout(LONGEST_END):
                    await self._commands.unsubscribe(watch.channel)


class RedisWatch:
    """Implements `actorwork.abc.Watch`."""

    def __init__(self, channel: bytes, changes: RedisChanges) -> None:
        self.channel = channel
        self._changes = changes
        self._told = asyncio.Event()

    def __repr__(self) -> str:
        return f"<RedisWatch of {self.channel.decode()}>"

    def tell(self) -> None:
        self._told.set()

    async def changed(self) -> None:
        await self._told.wait()
        self._changes.check_open()
        self._told.clear()

    async def aclose(self) -> None:
        await self._changes.end(self)


class StoreChanges(_Task):
    """Implements `actorwork.abc.Changes` at the embedded broker."""

    def __init__(self, store: AsyncioStore) -> None:
        super().__init__(store.location)
        self.watches: set[StoreWatch] = set()
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._watched = asyncio.Event()
        self._newest = 0.0
        self.start(self._loop.create_task(self._look()))

    def __repr__(self) -> str:
        return f"<StoreChanges at {self._store!r}>"

    async def _look(self) -> None:
        while True:
            if not self._store.turns.watched:
                self._watched.clear()
                await self._watched.wait()
            waited = self._loop.time() - self._newest
            await asyncio.sleep(min(LONGEST_PAUSE, max(FIRST_LOOK, waited / 4)))
            await self._store.look()

    async def watch(self, source: str, id: str) -> StoreWatch:
        watch = StoreWatch((source, id), self._store, self)
        self.watches.add(watch)
        self._newest = self._loop.time()
        self._watched.set()
        return watch

    async def aclose(self) -> None:
        await super().aclose()
        for watch in self.watches:
            watch.tell()


class StoreWatch:
    """Implements `actorwork.abc.Watch` at the embedded broker."""

    def __init__(self, topic: Topic, store: AsyncioStore, changes: StoreChanges) -> None:
        self._topic = topic
        self._store = store
        self._changes = changes
        self._loop = asyncio.get_running_loop()
        self._told = asyncio.Event()
        self._tell: Callable[[], None] = self._pass_on
        store.turns.watched.add(topic, self._tell)

    def __repr__(self) -> str:
        return f"<StoreWatch of {self._topic}>"

    def _pass_on(self) -> None:
        # Called in the thread of the store.
        self._loop.call_soon_threadsafe(self.tell)

    def tell(self) -> None:
        self._told.set()

    async def changed(self) -> None:
        await self._told.wait()
        self._changes.check_open()
        self._told.clear()

    async def aclose(self) -> None:
        self._changes.watches.discard(self)
        self._store.turns.watched.remove(self._topic, self._tell)
