"""One socket to Redis: a blocking connection opens it, Trio carries its bytes.

`DirectConnection` knows how to get in (DNS, HELLO, AUTH, SELECT, CLIENT SETNAME, keepalive); for TLS and for rarer
options it is redis-py's connection. Its `connect()` runs in a worker thread, once per connection, half a millisecond.
From then on the socket is non-blocking and ours, and the object that opened it is kept only because it owns the
socket. `_sock` is the one private name of redis-py that is touched.

A connection does not know which task waits for which reply. `Multiplexer` does (many tasks, replies matched in order),
and `Exclusive` (one task, blocking reads).
"""

import contextlib
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

import attrs
import trio

from actorwork.errors import BrokerError
from actorwork.failpoints import failpoint
from actorwork.streams.transport.direct import DirectConnection, direct_options
from actorwork.streams.transport.redis_py import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,  # noqa: A004
    MasterDownError,
    NoPermissionError,
    RedisError,
    RedisPyConnection,
    TimeoutError,  # noqa: A004
    connection_options,
)
from actorwork.streams.transport.wire import new_reader

HANDSHAKE_TIMEOUT: Final = 5.0
"""Seconds for each step of getting in, unless the url says `socket_timeout` or `socket_connect_timeout`."""

_READ_SIZE: Final = 65536
_SENT: Final = failpoint("wire.sent")


@attrs.frozen
class Address:
    """Where a server is and how to get in. `url` is safe to show: its password is not in it."""

    url: str
    connection_class: Callable[..., RedisPyConnection] = attrs.field(repr=False)
    options: Mapping[str, Any] = attrs.field(repr=False)

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Parse a `redis://`, `rediss://` or `unix://` url, with all options of redis-py."""
        options: dict[str, Any]
        if (direct := direct_options(url)) is not None:
            connection_class: Callable[..., RedisPyConnection] = DirectConnection
            options = {**direct}
        else:
            try:
                options = connection_options(url)
            except ValueError as error:
                raise BrokerError(f"cannot use {without_password(url)!r} as a Redis url: {error}") from error
            connection_class = options.pop("connection_class")
            options.pop("max_connections", None)  # An option of pools; there is none.
            # Only the sender can judge what a half-sent command may have done: redis-py must not repeat anything.
            options.update(protocol=3, legacy_responses=False, decode_responses=False, retry=None, retry_on_error=[])
            options["driver_info"] = None
            options.pop("retry_on_timeout", None)
        options.setdefault("socket_timeout", HANDSHAKE_TIMEOUT)
        options.setdefault("socket_connect_timeout", HANDSHAKE_TIMEOUT)
        return cls(without_password(url), connection_class, options)


def without_password(url: str) -> str:
    """Return the url as it may be logged."""
    parts = urlsplit(url)
    secrets = {"password", "ssl_password"}
    if parts.password is None and not any(name in secrets for name, _ in parse_qsl(parts.query)):
        return url
    netloc = parts.netloc
    if parts.password is not None:
        netloc = f"{parts.username or ''}:***@{netloc.rpartition('@')[2]}"
    query = urlencode(
        [(name, "***" if name in secrets else value) for name, value in parse_qsl(parts.query)], safe="*/"
    )
    # By hand: urlunsplit would write unix:/path, which is no Redis url.
    return f"{parts.scheme}://{netloc}{parts.path}{'?' if query else ''}{query}"


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
            raise ConnectionError(f"{self.address.url} closed the connection")
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
    opened = await trio.to_thread.run_sync(_open, address, name, abandon_on_cancel=True, limiter=threads)
    return Connection(opened, address)


def _open(address: Address, name: str) -> RedisPyConnection:
    opened = address.connection_class(**{"client_name": name, **address.options})
    try:
        opened.connect()
        # A server that loads its data accepts connections already, and refuses every command: it is not ready yet.
        opened.send_command("PING")
        with contextlib.suppress(NoPermissionError):
            opened.read_response()
    except RedisError as error:
        opened.disconnect()
        raise _explained(error, address) from error
    except BaseException:
        opened.disconnect()
        raise
    return opened


def _explained(error: RedisError, address: Address) -> Exception:
    said = f"{getattr(error, 'status_code', None) or ''} {error}".strip()
    if isinstance(error, AuthenticationError):
        return BrokerError(
            f"{address.url} refuses these credentials ({said}): check the user and the password in the url "
            "(redis://user:password@host, percent-encoded), and the user's rights with ACL GETUSER"
        )
    if isinstance(error.__context__, ssl.SSLCertVerificationError):
        return BrokerError(
            f"the certificate of {address.url} is not trusted ({error.__context__.verify_message}): name the "
            "authority's file in the url (?ssl_ca_certs=/path/ca.pem)"
        )
    if isinstance(error, BusyLoadingError | MasterDownError):
        return ConnectionError(f"{address.url} is not ready ({said})")
    if isinstance(error, ConnectionError | TimeoutError):
        return type(error)(f"cannot connect to {address.url}: {said}")
    if isinstance(error, NoPermissionError):
        return BrokerError(
            f"the user of {address.url} lacks rights that a connection needs ({said}): grant +@connection"
        )
    return BrokerError(f"{address.url} refuses the connection ({said})")
