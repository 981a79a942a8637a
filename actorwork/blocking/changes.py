"""Where one thread hears of changes of messages and runs, one wait at a time.

At Redis a thread that watches has a connection of its own, subscribed to the channels of what it watches. At the
embedded broker the file is looked at: every millisecond at first, every 20 later.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from actorwork.blocking.redis import LOST, BlockingConnection, keep_for_ever
from actorwork.blocking.store import BlockingStore
from actorwork.streams.transport.redis_py import RedisError, ResponseError, cannot
from actorwork.streams.transport.wire import Push, pack
from actorwork.streams.watches import LOOK_EVERY, NOTED_EVERY, channel_of, note_of

if TYPE_CHECKING:
    from actorwork.abc import Changes
    from actorwork.blocking.cluster import BlockingCluster
    from actorwork.blocking.redis import BlockingRedis
    from actorwork.embedded.watched import Topic

FIRST_LOOK: Final = 0.001
LONGEST_PAUSE: Final = 0.02
REFUSED_PAUSE: Final = 0.5
"""Seconds between two looks of a user who may not subscribe."""


class ThreadChanges:
    """Returns the place of the calling thread in this process."""

    def __init__(self, commands: BlockingRedis | BlockingCluster) -> None:
        self._commands = commands
        self._here = threading.local()

    def __repr__(self) -> str:
        return f"<ThreadChanges at {self._commands!r}>"

    def __call__(self) -> Changes:
        found: RedisThreadChanges | None = getattr(self._here, "changes", None)
        if found is not None and found.pid != os.getpid():
            keep_for_ever(found)
            found = None
        if found is None:
            found = self._here.changes = RedisThreadChanges(self._commands)
        return found


class RedisThreadChanges:
    """Implements `actorwork.abc.Changes` for one thread."""

    def __init__(self, commands: BlockingRedis | BlockingCluster) -> None:
        self.pid = os.getpid()
        self._commands = commands
        self._connection: BlockingConnection | None = None
        self._watched: dict[bytes, int] = {}
        """How many watch each channel."""
        self._told: set[bytes] = set()
        self._notes: dict[bytes, Sequence[Any]] = {}
        self._noted_at: dict[bytes, float] = {}
        self._may_subscribe = True

    def __repr__(self) -> str:
        return f"<RedisThreadChanges of {len(self._watched)} channels>"

    async def watch(self, source: str, id: str) -> RedisThreadWatch:
        channel = channel_of(source, id)
        with cannot(f"watch message {id}"):
            try:
                self._subscribe(channel)
            except ResponseError:
                self._may_subscribe = False  # It looks now and then instead.
        self._watched[channel] = self._watched.get(channel, 0) + 1
        if self._commands.is_of_cluster and (note := note_of(source, id)) is not None:
            self._notes[channel] = note
            await self.note(channel)
        return RedisThreadWatch(channel, self)

    async def note(self, channel: bytes) -> None:
        """Keep the note that a message is watched, if it has one (streams/watches.py)."""
        note = self._notes.get(channel)
        if note is not None and time.monotonic() >= self._noted_at.get(channel, -math.inf) + NOTED_EVERY:
            self._noted_at[channel] = time.monotonic()
            with suppress(RedisError):  # It is written again, and a watch looks now and then.
                await self._commands.call(*note, idempotent=True)

    def _subscribe(self, channel: bytes) -> None:
        if not self._may_subscribe or (channel in self._watched and self._connection is not None):
            return
        if self._connection is not None:
            try:
                self._send("SUBSCRIBE", channel)
            except LOST:
                self._connection = None
        if self._connection is None:
            self._connect(channel)

    def _connect(self, channel: bytes) -> None:
        """Open a connection that is subscribed to a channel, and to all that are watched: any may have changed."""
        self._connection = self._commands.open_subscribed(channel)
        for other in self._watched:
            if other != channel:
                self._send("SUBSCRIBE", other)
        self._told.update(self._watched)

    def _send(self, command: str, channel: bytes) -> None:
        connection = self._connection
        assert connection is not None  # noqa: S101 - the caller has looked
        connection.send(pack((command, channel)))
        while True:
            push = connection.receive()
            if isinstance(push, Exception):
                raise push
            if type(push) is Push and push[0] == command.lower().encode():
                return
            self._take(push)

    def _take(self, push: object) -> None:
        if type(push) is Push and push[0] == b"message":
            self._told.add(push[1])

    def wait(self, channel: bytes) -> None:
        """Wait until a channel was told of, or for some seconds: it loses what comes while there is no connection."""
        if not self._may_subscribe:
            pause = min(REFUSED_PAUSE, self._commands.deadlines.left())
            time.sleep(pause)
            return
        with cannot("watch a message"):
            connection = self._connection
            try:
                until = time.monotonic() + LOOK_EVERY
                # Out of time or interrupted, the connection stays as it is: what is half read waits in its parser.
                while connection is not None and channel not in self._told and (left := until - time.monotonic()) > 0:
                    self._take(connection.receive(left))
            except LOST:
                connection = self._connection = None
            # Outside `except`: an interrupt while this waits for the server is shown without what was lost.
            if connection is None:
                self._connect(channel)
        self._told.discard(channel)

    def end(self, channel: bytes) -> None:
        left = self._watched.pop(channel, 1) - 1
        if left > 0:
            self._watched[channel] = left
            return
        self._told.discard(channel)
        self._notes.pop(channel, None)
        self._noted_at.pop(channel, None)
        if self._connection is None or self.pid != os.getpid():
            return
        try:
            self._connection.send(pack(("UNSUBSCRIBE", channel)))  # Its confirmation is passed over later.
        except BaseException:  # noqa: BLE001 - lost, or out of time: the next watch opens another one
            self._connection.close()
            self._connection = None


class RedisThreadWatch:
    """Implements `actorwork.abc.Watch`."""

    def __init__(self, channel: bytes, changes: RedisThreadChanges) -> None:
        self._channel = channel
        self._changes = changes

    def __repr__(self) -> str:
        return f"<RedisThreadWatch of {self._channel.decode()}>"

    async def changed(self) -> None:
        await self._changes.note(self._channel)
        self._changes.wait(self._channel)

    async def aclose(self) -> None:
        self._changes.end(self._channel)


class StoreChanges:
    """Implements `actorwork.abc.Changes` at the embedded broker, for all threads of a process."""

    def __init__(self, store: BlockingStore) -> None:
        self._store = store

    def __repr__(self) -> str:
        return f"<StoreChanges at {self._store!r}>"

    def __call__(self) -> Changes:
        return self

    async def watch(self, source: str, id: str) -> StoreWatch:
        return StoreWatch((source, id), self._store)


class StoreWatch:
    """Implements `actorwork.abc.Watch` at the embedded broker."""

    def __init__(self, topic: Topic, store: BlockingStore) -> None:
        self._topic = topic
        self._store = store
        self._told = False
        self._tell: Callable[[], None] = self._has_changed
        self._watched = store.turns.watched
        self._watched.add(topic, self._tell)

    def __repr__(self) -> str:
        return f"<StoreWatch of {self._topic}>"

    def _has_changed(self) -> None:
        self._told = True

    async def changed(self) -> None:
        began = time.monotonic()
        while not self._told:
            self._store.look()
            if self._told:
                break
            pause = min(LONGEST_PAUSE, max(FIRST_LOOK, (time.monotonic() - began) / 4))
            time.sleep(min(pause, self._store.deadlines.left()))  # noqa: ASYNC251 - to block is what it is for
        self._told = False

    async def aclose(self) -> None:
        self._watched.remove(self._topic, self._tell)
