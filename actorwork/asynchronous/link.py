"""One open connection: commands of any number of tasks, replies matched in their order.

The socket is opened by blocking calls in a thread (`transport.address.open_socket`), and then watched by the loop. What
tasks send within one turn of the loop leaves in one write, at its end; `flush` sends what there is before that.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

import attrs

from actorwork.streams.transport.address import why_closed
from actorwork.streams.transport.redis_py import ConnectionError, RedisPyConnection  # noqa: A004
from actorwork.streams.transport.wire import NOT_ENOUGH, Push, new_reader, pack

_READ_SIZE: Final = 65536
SILENCE: Final = 10.0
"""Seconds without a byte after which a connection that owes replies is given up, as on Trio."""
_PING: Final = pack(("PING",))


class Outgoing(Protocol):
    """Commands on their way, and those who wait for their replies."""

    count: int
    """How many replies there will be."""
    idempotent: bool
    is_sent: bool
    replies: list[Any]

    @property
    def is_over(self) -> bool:
        """Whether nothing waits for the replies any more."""
        ...

    def seal(self) -> bytes:
        """Return the commands as they are sent now; empty if there is nothing to send any more."""
        ...

    def answer(self) -> None:
        """Pass on the replies: all have come."""
        ...

    def refuse(self, error: Exception) -> None:
        """Pass on that there will be no replies."""
        ...


@attrs.define(eq=False)
class Request:
    """Implements `Outgoing` for commands that are complete, and one task."""

    data: bytes
    count: int
    idempotent: bool
    done: asyncio.Future[list[Any]]
    replies: list[Any] = attrs.field(factory=list[Any])
    is_sent: bool = False

    @property
    def is_over(self) -> bool:
        return self.done.done()

    def seal(self) -> bytes:
        return self.data

    def answer(self) -> None:
        if not self.done.done():  # else its task was cancelled
            self.done.set_result(self.replies)

    def refuse(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)
            self.done.exception()  # Looked at here as well: no task waits for what is subscribed to again.


class Link:
    """Calls `lost` once, with the requests that have no replies.

    It ends if a reply is owed and nothing comes for `SILENCE` seconds: a peer behind a dead network sends no reset. If
    nothing is owed, it sends a PING after that time.
    """

    def __init__(
        self,
        opened: RedisPyConnection,
        loop: asyncio.AbstractEventLoop,
        on_push: Callable[[list[Any]], None],
        lost: Callable[[Exception, list[Outgoing]], None],
    ) -> None:
        self._opened = opened
        self._socket: Any = opened._sock  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - as the transport does
        self._socket.setblocking(False)  # noqa: FBT003
        self._fileno: int = self._socket.fileno()
        self._is_tls = isinstance(self._socket, ssl.SSLSocket)
        self._loop = loop
        self._on_push = on_push
        self._lost = lost
        self._reader = new_reader()
        self._waiting: deque[Outgoing] = deque()
        """Those that have been sent, in the order in which their replies will come."""
        self._unsent: list[Outgoing] = []
        self._rest: memoryview | None = None
        self._is_flushing = False
        self.is_closed = False
        self.client_id: int = opened.handshake_metadata[b"id"]
        self._is_alive = True
        """Bytes have passed since the last look."""
        self._has_owed = False
        """Replies were owed at the last look."""
        loop.add_reader(self._fileno, self._readable)
        self._next_look = loop.call_later(SILENCE, self._look)

    def __repr__(self) -> str:
        waiting = len(self._waiting) + len(self._unsent)
        return f"<Link {self.client_id}, {waiting} waiting{', closed' if self.is_closed else ''}>"

    def send(self, request: Outgoing) -> None:
        """Send a request with the others of this turn of the loop."""
        self._unsent.append(request)
        if not self._is_flushing:
            self._is_flushing = True
            self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._is_flushing = False
        self.flush()

    def flush(self) -> None:
        """Send what there is, unless the socket takes no more at present: then it leaves as soon as it does."""
        if self.is_closed or self._rest is not None or not self._unsent:
            return
        unsent, self._unsent = self._unsent, []
        pieces: list[bytes] = []
        for request in unsent:
            if piece := request.seal():
                request.is_sent = True
                self._waiting.append(request)
                pieces.append(piece)
        self._write(memoryview(b"".join(pieces)))

    def _write(self, data: memoryview) -> None:
        try:
            while data:
                sent = self._socket.send(data)
                data = data[sent:]
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            if self._rest is None:
                self._loop.add_writer(self._fileno, self._writable)
            self._rest = data
        except OSError as error:
            self.fail(ConnectionError(str(error)))

    def _writable(self) -> None:
        self._is_alive = True
        rest, self._rest = self._rest, None
        self._loop.remove_writer(self._fileno)
        if rest is not None:
            self._write(rest)
        if self._rest is None:
            self.flush()

    def _readable(self) -> None:
        try:
            data = self._socket.recv(_READ_SIZE)
            while self._is_tls and (decrypted := self._socket.pending()):
                data += self._socket.recv(decrypted)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError as error:
            self.fail(ConnectionError(str(error)))
            return
        if not data:
            self.fail(ConnectionError(why_closed(self._opened)))
            return
        self._is_alive = True
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not NOT_ENOUGH:
                if type(reply) is Push:
                    self._take(reply)
                else:
                    self._reply(reply)
        except Exception as error:  # noqa: BLE001 - bytes that are not RESP3, or replies that nothing asked for
            self.fail(ConnectionError(f"cannot read what the server sent: {error}"))

    def _take(self, push: list[Any]) -> None:
        if self._waiting and push[0] in (b"subscribe", b"unsubscribe", b"ssubscribe"):
            self._reply(push)
        elif push[0] == b"smessage":
            self._on_push([b"message", *push[1:]])
        else:
            self._on_push(push)

    def _reply(self, reply: Any) -> None:
        request = self._waiting[0]
        replies = request.replies
        replies.append(reply)
        if len(replies) == request.count:
            self._waiting.popleft()
            request.answer()

    def _look(self) -> None:
        if not self._is_alive:
            self._readable()  # What has come while the loop stood still.
        if self.is_closed:
            return
        if not self._is_alive:
            if self._has_owed:
                self.fail(ConnectionError(f"it owes replies, and was silent for {SILENCE:g} s"))
                return
            if not self._waiting:
                ping = Request(_PING, 1, True, self._loop.create_future())  # noqa: FBT003
                ping.done.cancel()  # No task waits for it: it is not sent again over the next connection.
                self.send(ping)
                self.flush()
                if self.is_closed:
                    return
        self._is_alive = False
        self._has_owed = bool(self._waiting)
        self._next_look = self._loop.call_later(SILENCE, self._look)

    def fail(self, error: Exception) -> None:
        """Close the connection, and hand over the requests that wait, with the error."""
        if self.is_closed:
            return
        self.close()
        waiting = [*self._waiting, *self._unsent]
        self._waiting.clear()
        self._unsent.clear()
        self._lost(error, waiting)

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self._next_look.cancel()
            self._loop.remove_reader(self._fileno)
            if self._rest is not None:
                self._loop.remove_writer(self._fileno)
            self._opened.disconnect()
