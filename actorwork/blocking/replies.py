"""Where outcomes arrive for one thread, which waits for one at a time.

At Redis a thread that asks has a connection of its own, subscribed to a channel of its own. At the embedded broker the
file is looked at: every millisecond at first, every 20 later.

On a cluster, what is published on that channel costs all primaries. So the connection is opened at the primary of the
source that is asked first, and outcomes of that one, and of others at this primary, arrive on channels of their slots
(SSUBSCRIBE). All other outcomes, and all where that is not possible, arrive as before: the script that settles sees
whether it was heard.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Final

from actorwork.blocking.redis import LOST, BlockingConnection, keep_for_ever
from actorwork.blocking.store import BlockingStore
from actorwork.message import Outcome
from actorwork.streams import entries, keys
from actorwork.streams.transport.redis_py import cannot
from actorwork.streams.transport.wire import NOT_ENOUGH, Push, pack

if TYPE_CHECKING:
    from actorwork.abc import PendingOutcome, Replies
    from actorwork.blocking.cluster import BlockingCluster
    from actorwork.blocking.redis import BlockingRedis
    from actorwork.embedded.rows import ReplyAddress

LOOK_EVERY: Final = 3.0
FIRST_LOOK: Final = 0.001
LONGEST_PAUSE: Final = 0.02


class ThreadReplies:
    """Returns the replies of the calling thread in this process."""

    def __init__(self, commands: BlockingRedis | BlockingCluster) -> None:
        self._commands = commands
        self._here = threading.local()

    def __repr__(self) -> str:
        return f"<ThreadReplies at {self._commands!r}>"

    def __call__(self) -> Replies:
        found: RedisThreadReplies | None = getattr(self._here, "replies", None)
        if found is not None and found.pid != os.getpid():
            keep_for_ever(found)
            found = None
        if found is None:
            found = self._here.replies = RedisThreadReplies(self._commands)
        return found


class RedisThreadReplies:
    """Implements `actorwork.abc.Replies` for one thread."""

    def __init__(self, commands: BlockingRedis | BlockingCluster) -> None:
        self.address = (keys.NEAR if commands.is_of_cluster else keys.REPLIES) + os.urandom(16).hex()
        self.pid = os.getpid()
        self._commands = commands
        self._connection: BlockingConnection | None = None
        self._near: set[str] = set()
        """The sources whose slots' channels this connection has tried to subscribe to."""
        self._come: dict[tuple[str, str], Outcome] = {}

    def __repr__(self) -> str:
        return f"<RedisThreadReplies {self.address}>"

    def expect(self, source: str, message_id: str, *, look_from: float = 0.0) -> PendingOutcome:
        # Subscribed before the message is sent: its reply may come at once.
        with cannot("wait for replies"):
            if self._connection is not None and self._connection.is_ended():
                # Nothing was received over it since the last message; this one's reply would be lost with it.
                self._connection.close()
                self._connection = None
            self._connected(source)
            self._come_near(source)
        self._come.clear()
        return _Awaited(self, source, message_id)

    async def wait(self, source: str, message_id: str) -> Outcome:
        with cannot("wait for replies"):
            return await self._wait(source, message_id)

    async def _wait(self, source: str, message_id: str) -> Outcome:
        wanted = (source, message_id)
        while True:
            try:
                self._receive(source, LOOK_EVERY)
            except LOST:
                self._connection = None
            # Outside `except`: an interrupt while this waits for the server is shown without what was lost.
            self._connected(source)
            if wanted in self._come:
                return self._come.pop(wanted)
            # The channel loses what comes while there is no connection; what is stored is certain.
            record = await self._commands.call("GET", keys.SourceKeys.of(source).result(message_id), idempotent=True)
            if record is not None:
                return entries.outcome_from(record)[2]

    def _connected(self, source: str) -> BlockingConnection:
        if self._connection is None:
            self._near.clear()
            self._connection = self._commands.open_subscribed(self.address, near=source)
        return self._connection

    def _come_near(self, source: str) -> None:
        """Subscribe to the channel for outcomes of a source, if this connection is to the primary that has its slot."""
        if source in self._near or not self._commands.is_of_cluster:
            return
        self._near.add(source)
        try:
            connection = self._connected(source)
            connection.send(pack(("SSUBSCRIBE", keys.near_replies(source, self.address))))
            while True:
                reply = connection.receive()
                # An error if the slot is elsewhere, or the server or the user cannot: the script publishes to all then.
                if isinstance(reply, Exception) or (type(reply) is Push and reply[0] == b"ssubscribe"):
                    return
        except LOST:
            self._connection = None
        self._connected(source)

    def _receive(self, source: str, timeout: float) -> None:
        # Out of time or interrupted, the connection stays as it is: what is half read waits in its parser.
        push = self._connected(source).receive(timeout)
        if push is NOT_ENOUGH or type(push) is not Push or push[0] not in {b"message", b"smessage"}:
            return
        try:
            source, message_id, outcome = entries.outcome_from(push[2])
        except (ValueError, KeyError, TypeError):
            return  # Any client may publish there.
        self._come[source, message_id] = outcome


class _Awaited:
    """Implements `actorwork.abc.PendingOutcome`."""

    def __init__(self, replies: RedisThreadReplies, source: str, message_id: str) -> None:
        self._replies = replies
        self._source = source
        self._id = message_id

    async def outcome(self) -> Outcome:
        return await self._replies.wait(self._source, self._id)

    def close(self) -> None:
        pass


class ProcessReplies:
    """Returns the replies of this process at the embedded broker."""

    def __init__(self, store: BlockingStore) -> None:
        self._store = store
        self._here: StoreReplies | None = None

    def __repr__(self) -> str:
        return f"<ProcessReplies at {self._store!r}>"

    def __call__(self) -> Replies:
        found = self._here
        if found is None or found.pid != os.getpid():
            # After a fork two threads may come here at once: both places work, and one of them is used from then on.
            found = self._here = StoreReplies(self._store)
        return found


class StoreReplies:
    """The same at the embedded broker, for all threads of a process."""

    def __init__(self, store: BlockingStore) -> None:
        self.address = os.urandom(16).hex()
        self.pid = os.getpid()
        self._store = store
        self._come: dict[tuple[str, str], Outcome] = {}
        self._awaited: set[tuple[str, str]] = set()
        store.turns.addresses[self.address] = self._arrived

    def __repr__(self) -> str:
        return f"<StoreReplies {self.address}, {len(self._awaited)} awaited>"

    def _arrived(self, reply: ReplyAddress) -> None:
        _, source, message_id, outcome = reply
        if (source, message_id) in self._awaited:
            self._come[source, message_id] = outcome

    def expect(self, source: str, message_id: str, *, look_from: float = 0.0) -> PendingOutcome:
        self._awaited.add((source, message_id))
        return _AwaitedInStore(self, source, message_id)

    async def wait(self, source: str, message_id: str) -> Outcome:
        wanted = (source, message_id)
        began = time.monotonic()
        while True:
            self._store.look()
            outcome = self._come.pop(wanted, None)
            if outcome is not None:
                return outcome
            pause = min(LONGEST_PAUSE, max(FIRST_LOOK, (time.monotonic() - began) / 4))
            time.sleep(min(pause, self._store.deadlines.left()))  # noqa: ASYNC251 - to block is what it is for

    def forget(self, source: str, message_id: str) -> None:
        self._awaited.discard((source, message_id))
        self._come.pop((source, message_id), None)


class _AwaitedInStore:
    """Implements `actorwork.abc.PendingOutcome`."""

    def __init__(self, replies: StoreReplies, source: str, message_id: str) -> None:
        self._replies = replies
        self._source = source
        self._id = message_id

    async def outcome(self) -> Outcome:
        return await self._replies.wait(self._source, self._id)

    def close(self) -> None:
        self._replies.forget(self._source, self._id)
