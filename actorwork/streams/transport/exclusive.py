"""A connection for one task, for blocking reads that can be cancelled without losing a message.

A blocking XREADGROUP that is cancelled has two sides: here a task that must continue at once, there a server that may
be handing out messages at this very moment. Closing the connection would leave them in the pending list of a node that
never saw them (18 of 184 in a sharp race). So the server is asked to stop: CLIENT UNBLOCK over the shared connection,
again every 50 ms because it can overtake the read itself, until the one reply that is owed has come, with messages or
without. All of this is shielded, for a second at most; then the connection is closed, and entries that the server
handed out stay pending.

Messages are passed to `deliver` in the same step in which they are parsed: there is no checkpoint in between at which
they could be lost, also when the task is being cancelled.

A command may be sent along with a read, in one write: the server runs it once the read has ended, and both replies
arrive together.

Any other request that is cancelled before its reply has come closes the connection: otherwise its reply would be taken
for that of the next request.
"""

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import trio

from actorwork.streams.transport.connection import Connection
from actorwork.streams.transport.multiplexer import PendingRequest
from actorwork.streams.transport.redis_py import (
    OUTAGES,
    ConnectionError,  # noqa: A004
    NoReplicasError,
    RedisError,
    TimeoutError,  # noqa: A004
)
from actorwork.streams.transport.wire import NOT_ENOUGH, Push, pack

GRACE: Final = 5.0
"""Seconds beyond its own BLOCK after which a read without an answer means that the server is gone."""

_DRAIN_LIMIT: Final = 1.0
_UNBLOCK_EVERY: Final = 0.05


class Exclusive:
    """One task's connection. After a `ConnectionError` or `TimeoutError` it is closed: open another one."""

    def __init__(self, connection: Connection, unblock: Callable[[int], PendingRequest | None]) -> None:
        self._connection = connection
        self._unblock = unblock
        self._is_busy = False
        self._blocking: trio.CancelScope | None = None
        self._is_interrupted = False

    def __repr__(self) -> str:
        return f"<Exclusive on {self._connection!r}>"

    @property
    def client_id(self) -> int:
        return self._connection.client_id

    @property
    def is_closed(self) -> bool:
        return self._connection.is_closed

    async def call(self, *args: Any) -> Any:
        """Send one command that does not block, and return its reply. Cancelled: the connection is closed."""
        await trio.lowlevel.checkpoint_if_cancelled()
        with self._alone():
            try:
                await self._send(pack(args))
                reply = await self._receive()
            except trio.Cancelled:
                self._connection.close()
                raise
        return self._checked(reply)

    async def read(
        self, *args: Any, block: float, deliver: Callable[..., object] | None = None, then: Sequence[Any] = ()
    ) -> Any:
        """Send one blocking command, whose own BLOCK is `block` seconds, and return its reply: None when nothing came.

        Every reply but None and errors is passed to `deliver`, synchronously, before it is returned. Cancelled: the
        server is asked to stop, a reply that it still sends is passed to `deliver`, and `Cancelled` is raised after a
        second at the latest. (Without `deliver` such a reply is dropped, and its entries stay pending.) It may return
        None early.

        `then` is a command that does not block, which the server runs right after this one; its reply is passed to
        `deliver` as a second argument. That may be an error, or None if it did not arrive while this was cancelled.

        Raises `TimeoutError` when the server does not answer within `block` and a grace. If the connection is lost,
        entries that the server had handed out stay in the pending list of this consumer.
        """
        if not 0 < block < math.inf:
            raise ValueError(f"a blocking read needs a finite time greater than 0, not block={block!r}")
        await trio.lowlevel.checkpoint_if_cancelled()
        deliver = deliver or _drop
        with self._alone():
            replies: list[Any] = []
            owed = 2 if then else 1
            self._is_interrupted = False
            try:
                with trio.CancelScope(deadline=trio.current_time() + block + GRACE) as self._blocking:
                    await self._send(pack(args) + pack(tuple(then)) if then else pack(args))
                    await self._receive_all(replies, owed)
            except trio.Cancelled:
                await self._drain(replies, owed)
                if replies and replies[0] is not None and not isinstance(replies[0], Exception):
                    deliver(*replies, *(None,) * (owed - len(replies)))
                raise
            finally:
                self._blocking = None
            if len(replies) < owed and self._is_interrupted:
                await self._drain(replies, owed)
            if len(replies) < owed:
                self._connection.close()
                raise TimeoutError(
                    f"{self._connection.address.url} did not answer a read of {block} s; it is closed now"
                )
            if self._checked(replies[0]) is not None:
                deliver(*replies)
        return replies[0]

    def interrupt(self) -> None:
        """Make a `read` in progress return early: with messages if there were some, else None. Nothing is cancelled.

        Without a read in progress nothing happens, and the next one is not affected.
        """
        if self._blocking is not None:
            self._is_interrupted = True
            self._blocking.cancel()

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def _alone(self) -> Generator[None]:
        if self._is_busy:
            raise trio.BusyResourceError("another task is using this exclusive connection")
        if self._connection.is_closed:
            raise ConnectionError(f"this connection to {self._connection.address.url} is closed: open another one")
        self._is_busy = True
        try:
            yield
        finally:
            self._is_busy = False

    def _checked(self, reply: Any) -> Any:
        if type(reply) in OUTAGES and type(reply) is not NoReplicasError:
            self._connection.close()
            raise ConnectionError(f"{self._connection.address.url} takes no commands now ({reply})") from reply
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def _send(self, data: bytes) -> None:
        rest: bytes | memoryview = data
        try:
            while (sent := self._connection.send(rest)) < len(rest):
                rest = memoryview(rest)[sent:]
                await self._connection.wait_writable()
        except OSError as error:
            raise self._lost(error) from error
        except trio.Cancelled:
            self._connection.close()  # Half a command: the server would read the next one as the rest of it.
            raise

    async def _receive(self) -> Any:
        connection = self._connection
        try:
            while True:
                reply = connection.next_reply()
                if reply is NOT_ENOUGH:
                    await connection.receive()
                elif type(reply) is not Push:
                    return reply
        except (OSError, RedisError, TypeError) as error:  # TypeError: a map or set of what cannot be hashed.
            raise self._lost(error) from error

    async def _receive_all(self, replies: list[Any], owed: int) -> None:
        """Receive until there are as many replies as are owed. Cancelled: those that have come are in the list."""
        while len(replies) < owed:
            replies.append(await self._receive())

    def _lost(self, error: Exception) -> ConnectionError:
        self._connection.close()
        return ConnectionError(
            f"lost a connection to {self._connection.address.url} ({error}); what it read stays pending"
        )

    async def _drain(self, replies: list[Any], owed: int) -> None:
        """Make the server end the read, and add its replies; closed when they do not come in time."""
        with trio.CancelScope(deadline=trio.current_time() + _DRAIN_LIMIT, shield=True):
            while not self._connection.is_closed:
                asked = self._unblock(self.client_id)
                with trio.move_on_after(_UNBLOCK_EVERY):
                    try:
                        await self._receive_all(replies, owed)
                    except ConnectionError:
                        break
                    return
                if asked is not None and any(isinstance(reply, Exception) for reply in asked.replies):
                    break  # Not allowed to (NOPERM): waiting would only delay the task.
        self._connection.close()


def _drop(*_replies: object) -> None:
    pass
