"""The proxy breaks connections, but never what they say: bytes arrive whole, once and in order, or not at all."""

import gc
import socket
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.testing
from trio import socket as trio_socket

from actorwork.testing import proxy as proxy_module
from actorwork.testing.proxy import FaultProxy, open_proxy

REPLY = bytes(range(256)) * 1000


@asynccontextmanager
async def open_link() -> AsyncGenerator[tuple[FaultProxy, trio_socket.SocketType, trio_socket.SocketType]]:
    """Open a proxy, a client's end before it, and the server's end behind it."""
    with tempfile.TemporaryDirectory() as directory, trio_socket.socket(socket.AF_UNIX) as listener:
        path = str(Path(directory) / "server.sock")
        await listener.bind(path)
        listener.listen(1)
        async with open_proxy(f"unix://{path}") as proxy:
            with trio_socket.socket(socket.AF_UNIX) as client:
                await client.connect(proxy.url.removeprefix("unix://"))
                server, _ = await listener.accept()
                with server:
                    yield proxy, client, server


async def received(client: trio_socket.SocketType, least: int) -> bytes:
    """Return what arrives, until there is so much or the connection has broken."""
    found = b""
    with suppress(OSError):
        while len(found) < least and (data := await client.recv(65536)):
            found += data
    return found


async def sent(server: trio_socket.SocketType, data: bytes) -> None:
    with suppress(OSError):
        rest = memoryview(data)
        while rest:
            rest = rest[await server.send(rest) :]


async def test_a_reply_in_pieces_stays_whole_when_it_is_healed_in_the_middle():
    async with open_link() as (proxy, client, server), trio.open_nursery() as nursery:
        proxy.split(3)
        nursery.start_soon(sent, server, REPLY)
        begun = await received(client, 1000)
        proxy.heal()
        assert begun + await received(client, len(REPLY) - len(begun)) == REPLY


async def test_what_comes_in_one_piece_stays_whole_when_it_is_split_in_the_middle():
    async with open_link() as (proxy, client, server), trio.open_nursery() as nursery:
        proxy.delay(0.01)
        nursery.start_soon(sent, server, REPLY)
        begun = await received(client, 1)
        proxy.split(500)
        proxy.delay(0)
        assert begun + await received(client, len(REPLY) - len(begun)) == REPLY


def stands_still_after_sending(monkeypatch: pytest.MonkeyPatch) -> trio.Event:
    """Have a task of the proxy that has sent bytes continue only after the event."""
    send, gate = proxy_module._send_all, trio.Event()

    async def send_and_stand_still(receiver: trio_socket.SocketType, data: bytes) -> None:
        await send(receiver, data)
        await gate.wait()

    monkeypatch.setattr(proxy_module, "_send_all", send_and_stand_still)
    return gate


async def test_a_cut_is_about_what_comes_after_it_was_set(monkeypatch: pytest.MonkeyPatch):
    """Also where the proxy's own task has not continued since it sent what came before."""
    gate = stands_still_after_sending(monkeypatch)
    async with open_link() as (proxy, client, server):
        await sent(client, b"asked")
        assert await received(server, 5) == b"asked"
        await sent(server, b"answered")
        assert await received(client, 8) == b"answered"
        proxy.cut_after(0)
        gate.set()
        await trio.testing.wait_all_tasks_blocked(0.01)
        await sent(client, b"again")
        assert await received(server, 5) == b"again"
        await sent(server, b"lost")
        assert await received(client, 1) == b""


async def test_a_cut_after_a_request_counts_later_requests_only(monkeypatch: pytest.MonkeyPatch):
    gate = stands_still_after_sending(monkeypatch)
    async with open_link() as (proxy, client, server):
        await sent(client, b"asked")
        assert await received(server, 5) == b"asked"
        proxy.cut_after_request(3)
        gate.set()
        await trio.testing.wait_all_tasks_blocked(0.01)
        await sent(client, b"ag")
        assert await received(server, 2) == b"ag"
        await sent(client, b"ain")
        assert await received(client, 1) == b""


async def test_a_connection_whose_replies_were_kept_back_is_not_healed_but_cut():
    async with open_link() as (proxy, client, server):
        proxy.cut_after_request(1000)
        await server.send(b"lost")
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(0.05)
        proxy.heal()
        with suppress(OSError):
            await server.send(b"kept")
        assert await received(client, 1) == b""


async def test_a_server_that_is_away_ends_the_connection_and_leaves_no_socket_open():
    with tempfile.TemporaryDirectory() as directory:
        async with open_proxy(f"unix://{directory}/away.sock") as proxy:
            with trio_socket.socket(socket.AF_UNIX) as client:
                await client.connect(proxy.url.removeprefix("unix://"))
                assert await received(client, 1) == b""
    gc.collect()  # A socket that is left open is a ResourceWarning now, which fails this test.


async def test_a_redirected_proxy_resets_its_connections_and_forwards_new_ones_to_the_other_server():
    with tempfile.TemporaryDirectory() as directory, trio_socket.socket(socket.AF_UNIX) as other:
        path = str(Path(directory) / "other.sock")
        await other.bind(path)
        other.listen(1)
        async with open_link() as (proxy, client, _):
            proxy.redirect(f"unix://{path}")
            assert await received(client, 1) == b""
            with trio_socket.socket(socket.AF_UNIX) as again:
                await again.connect(proxy.url.removeprefix("unix://"))
                server, _ = await other.accept()
                with server:
                    await sent(server, b"here")
                    assert await received(again, 4) == b"here"
