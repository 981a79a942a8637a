"""A proxy with faults: it sits between a client and its server, and does to the bytes what networks do.

    async with open_proxy(server.url) as proxy:
        async with open_client(proxy.url) as client:
            proxy.cut_after(10)          # ten more bytes of replies, then the connection is reset
            proxy.black_hole()           # bytes vanish in silence, until flow()
            await proxy.insert(b"?")    # bytes that the server has never sent
            proxy.refuse()               # new connections are closed, until accept()

All switches are plain methods: a test calls them between two awaits, and they apply to existing and to new connections.
"""

import socket
import struct
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

import trio
from trio import socket as trio_socket

_CHUNK: Final = 65536
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class FaultProxy:
    """Made by `open_proxy`. `url` is the server's URL with the proxy's address in it."""

    def __init__(self, url: str, listen_url: str) -> None:
        self.url = listen_url
        self.accepted = 0
        """How many connections were forwarded so far."""
        self._target = url
        self._links: set[_Link] = set()
        self._is_refusing = False
        self._flowing = trio.Event()
        self._flowing.set()
        self._delay = 0.0
        self._chunk = _CHUNK
        self._reply_budget: int | None = None
        self._request_budget: int | None = None

    def __repr__(self) -> str:
        return f"<FaultProxy {self.url} to {self._target}, {len(self._links)} connections>"

    def cut(self) -> None:
        """Reset every connection now."""
        for link in tuple(self._links):
            link.reset()

    def cut_after(self, reply_bytes: int) -> None:
        """Forward `reply_bytes` more bytes of replies, then reset every connection and end this fault."""
        self._reply_budget = reply_bytes

    def cut_after_request(self, request_bytes: int) -> None:
        """Forward `request_bytes` more bytes of requests; the server receives them, but the connections are reset
        before any reply. Until then no replies are forwarded at all.
        """
        self._request_budget = request_bytes

    def half_close(self) -> None:
        """End the replies (FIN) while requests still go through."""
        for link in tuple(self._links):
            link.half_close()

    async def insert(self, data: bytes) -> None:
        """Send bytes to the client of every connection, as if they were the server's."""
        for link in tuple(self._links):
            with suppress(OSError, trio.ClosedResourceError):
                await _send_all(link.client, data)

    def black_hole(self) -> None:
        """Forward nothing, close nothing."""
        self._flowing = trio.Event()

    def flow(self) -> None:
        """Forward again, also what was held back."""
        self._flowing.set()

    def refuse(self) -> None:
        """Close new connections at once."""
        self._is_refusing = True

    def accept(self) -> None:
        self._is_refusing = False

    def delay(self, seconds: float) -> None:
        """Hold each piece of a reply back for `seconds`."""
        self._delay = seconds

    def split(self, size: int = 1) -> None:
        """Forward replies in pieces of `size` bytes."""
        self._chunk = size

    def redirect(self, url: str) -> None:
        """Forward to another server, on the same kind of socket or another, and reset every connection."""
        self._target = url
        self.cut()

    def heal(self) -> None:
        """End all faults, including cuts that have not happened yet."""
        self._delay = 0.0
        self._chunk = _CHUNK
        self._reply_budget = self._request_budget = None
        # A connection may break, but the bytes that arrive on it must have no gaps.
        for link in tuple(self._links):
            if link.has_dropped:
                link.reset()
        self.accept()
        self.flow()

    async def serve(self, listener: trio_socket.SocketType) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                client, _ = await listener.accept()
                nursery.start_soon(self.take, client)

    async def take(self, client: trio_socket.SocketType) -> None:
        """Forward a connection that was accepted elsewhere, until it ends."""
        if self._is_refusing:
            client.close()
        else:
            await self._forward(client)

    async def _forward(self, client: trio_socket.SocketType) -> None:
        target = self._target
        try:
            server = await _connect(target)
        except BaseException as error:
            client.close()
            if isinstance(error, OSError):
                return  # The server is away: the client sees what it would see without a proxy.
            raise
        link = _Link(client, server)
        if target != self._target:
            # It was redirected in the meantime, so this connection is one of those to be reset.
            link.reset()
            return
        self._links.add(link)
        self.accepted += 1
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._requests, link)
                nursery.start_soon(self._replies, link)
        finally:
            self._links.discard(link)
            client.close()
            server.close()

    async def _requests(self, link: "_Link") -> None:
        with suppress(OSError, trio.ClosedResourceError):
            while data := await link.client.recv(_CHUNK):
                await self._flowing.wait()
                # A test may set the fault as soon as these bytes are out, which is before this task continues: it is
                # then about later ones.
                counts = self._request_budget is not None
                await _send_all(link.server, data)
                if counts and self._request_budget is not None:
                    self._request_budget -= len(data)
                    if self._request_budget <= 0:
                        self._request_budget = None
                        self.cut()
            link.server.shutdown(socket.SHUT_WR)

    async def _replies(self, link: "_Link") -> None:
        with suppress(OSError, trio.ClosedResourceError):
            while data := await link.server.recv(_CHUNK):
                # Fixed here, so that these bytes arrive whole and once even if `split` is called meanwhile.
                size = self._chunk
                for start in range(0, len(data), size):
                    piece = data[start : start + size]
                    await self._flowing.wait()
                    if self._delay:
                        await trio.sleep(self._delay)
                    if self._request_budget is not None or link.has_dropped:
                        link.has_dropped = True
                        continue  # No reply to a request that is about to be cut.
                    is_last = False
                    if self._reply_budget is not None:
                        piece = piece[: self._reply_budget]
                        self._reply_budget -= len(piece)
                        is_last = self._reply_budget == 0
                    if not link.is_half_closed:
                        await _send_all(link.client, piece)
                    if is_last and self._reply_budget == 0:
                        self._reply_budget = None
                        # Lets the forwarded bytes arrive before the reset, which would overtake them.
                        await trio.sleep(0.005)
                        self.cut()
                        return
            link.half_close()


class _Link:
    def __init__(self, client: trio_socket.SocketType, server: trio_socket.SocketType) -> None:
        self.client = client
        self.server = server
        self.is_half_closed = False
        self.has_dropped = False
        """Whether replies were dropped, so that the connection can no longer be used."""

    def reset(self) -> None:
        for end in (self.client, self.server):
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            end.close()

    def half_close(self) -> None:
        if not self.is_half_closed:
            self.is_half_closed = True
            with suppress(OSError):
                self.client.shutdown(socket.SHUT_WR)


@asynccontextmanager
async def open_proxy(url: str) -> AsyncGenerator[FaultProxy]:
    """Open a proxy for the server at `url` (`redis://`, `rediss://`, `unix://`), on the same kind of socket."""
    parts = urlsplit(url)
    with tempfile.TemporaryDirectory(prefix="actorwork-proxy-") as directory:
        if parts.scheme == "unix":
            path = str(Path(directory) / "proxy.sock")
            listener = trio_socket.socket(socket.AF_UNIX)
            await listener.bind(path)
            user, at, _ = parts.netloc.rpartition("@")
            listen_url = f"unix://{user}{at}{path}{'?' if parts.query else ''}{parts.query}"
        else:
            listener = trio_socket.socket(socket.AF_INET)
            await listener.bind(("127.0.0.1", 0))
            user, at, _ = parts.netloc.rpartition("@")
            listen_url = urlunsplit(parts._replace(netloc=f"{user}{at}localhost:{listener.getsockname()[1]}"))
        listener.listen(64)
        proxy = FaultProxy(url, listen_url)
        with listener:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(proxy.serve, listener)
                try:
                    yield proxy
                finally:
                    nursery.cancel_scope.cancel()


async def _connect(url: str) -> trio_socket.SocketType:
    parts = urlsplit(url)
    address: str | tuple[str, int]
    if parts.scheme == "unix":
        server = trio_socket.socket(socket.AF_UNIX)
        address = f"{unquote(parts.netloc.rpartition('@')[2])}{unquote(parts.path)}"
    else:
        server = trio_socket.socket(socket.AF_INET)
        address = (parts.hostname or "localhost", parts.port or 6379)
    try:
        await server.connect(address)
    except BaseException:
        server.close()
        raise
    return server


async def _send_all(receiver: trio_socket.SocketType, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[await receiver.send(rest) :]
