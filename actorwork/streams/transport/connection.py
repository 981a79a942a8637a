"""One socket to Redis: a blocking connection opens it, Trio carries its bytes.

`DirectConnection` knows how to get in (DNS, HELLO, AUTH, SELECT, CLIENT SETNAME, keepalive); for TLS and for rarer
options it is redis-py's connection. Its `connect()` runs in a worker thread, once per connection, half a millisecond.
From then on the socket is non-blocking and ours, and the object that opened it is kept only because it owns the
socket. `_sock` is the one private name of redis-py that is touched.

A connection does not know which task waits for which reply. `Multiplexer` does (many tasks, replies matched in order),
and `Exclusive` (one task, blocking reads).
"""

import ssl
from typing import Any, Final

import trio

from actorwork.failpoints import failpoint
from actorwork.streams.transport.address import Address, open_socket, why_closed
from actorwork.streams.transport.redis_py import ConnectionError, RedisPyConnection  # noqa: A004
from actorwork.streams.transport.wire import new_reader

_READ_SIZE: Final = 65536
_SENT: Final = failpoint("wire.sent")


class Connection:
    """An open socket whose handshake is done, and the parser of what arrives on it."""

    def __init__(self, opened: RedisPyConnection, address: Address) -> None:
        greeting = opened.handshake_metadata
        if not isinstance(greeting, dict) or not isinstance(greeting.get(b"id"), int):
            raise ConnectionError(f"{address.url} answers HELLO with {greeting!r:.100}, which is not Redis")
        # redis-py's object closes its socket when it is collected: it lives as long as this one.
        self._opened = opened
        self._socket: Any = opened._sock  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        self._socket.setblocking(False)  # noqa: FBT003
        self._fileno: int = self._socket.fileno()
        self._is_tls = isinstance(self._socket, ssl.SSLSocket)
        self._reader = new_reader()
        self.address = address
        self.client_id: int = greeting[b"id"]
        self.is_closed = False
        self.bytes_sent = 0
        self.bytes_received = 0
        self.next_reply = self._reader.gets
        """The next reply that has arrived whole, or `NOT_ENOUGH`."""

    def __repr__(self) -> str:
        return f"<Connection {self.client_id} to {self.address.url}{' (closed)' if self.is_closed else ''}>"

    def fileno(self) -> int:
        return self._fileno

    def send(self, data: bytes | memoryview) -> int:
        """Send as many bytes as the socket takes now, and return how many. Raises `OSError` if the connection is
        gone.
        """
        try:
            sent: int = self._socket.send(data)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return 0
        self.bytes_sent += sent
        if _SENT is not None:
            _SENT()
        return sent

    async def wait_writable(self) -> None:
        await trio.lowlevel.wait_writable(self._fileno)

    async def wait_readable(self) -> None:
        """Wait until `receive_nowait` may find bytes. Raises `trio.ClosedResourceError` after `interrupt_wait`."""
        await trio.lowlevel.wait_readable(self._fileno)

    def interrupt_wait(self) -> None:
        """Make the task that waits for the socket stop, so that another one can wait. The socket stays open."""
        trio.lowlevel.notify_closing(self._fileno)

    async def receive(self) -> None:
        """Wait for bytes and feed them to the parser. Cancelled: nothing was taken from the socket.

        Raises `ConnectionError` or an `OSError` when the connection is gone.
        """
        await trio.lowlevel.wait_readable(self._fileno)
        while not self.receive_nowait():
            await trio.lowlevel.wait_readable(self._fileno)

    def receive_nowait(self) -> bool:
        try:
            data: bytes = self._socket.recv(_READ_SIZE)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False  # For TLS, what arrived need not have been data.
        if not data:
            raise ConnectionError(f"{self.address.url}: {why_closed(self._opened)}")
        # Bytes that a TLS socket has decrypted already are not in the kernel any more: no wait would end for them.
        while self._is_tls and (decrypted := self._socket.pending()):
            data += self._socket.recv(decrypted)
        self._reader.feed(data)
        self.bytes_received += len(data)
        return True

    def close(self) -> None:
        """Wake the tasks that wait for the socket, then close it."""
        if self.is_closed:
            return
        self.is_closed = True
        trio.lowlevel.notify_closing(self._fileno)
        self._opened.disconnect()


async def connect(address: Address, name: str, threads: trio.CapacityLimiter) -> Connection:
    """Open one connection and prove that the server answers on it.

    Raises `ConnectionError` or `TimeoutError` for errors that may pass (no server listens, it is loading its data), and
    `BrokerError` for those that will not: credentials, rights, database, certificate. Cancelled: the thread is left to
    its own finite timeouts, and a connection that it still opens is closed when it is collected.
    """
    opened = await trio.to_thread.run_sync(open_socket, address, name, abandon_on_cancel=True, limiter=threads)
    return Connection(opened, address)
