"""Blocking reads: cancelled at once, and without losing what the server was handing out."""

import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from actorwork.streams.transport import exclusive as exclusive_module
from actorwork.streams.transport.client import RedisClient, open_client
from actorwork.streams.transport.exclusive import Exclusive
from actorwork.streams.transport.redis_py import ConnectionError, ResponseError, TimeoutError  # noqa: A004
from actorwork.testing.proxy import open_proxy
from actorwork.testing.redis_server import open_redis_server
from tests.patience import BUSY, PATIENCE
from tests.streams.conftest import wait_until


@asynccontextmanager
async def open_reader(url: str) -> AsyncGenerator[tuple[RedisClient, Exclusive]]:
    async with open_client(url) as client, client.open_exclusive("reader") as exclusive:
        await client.call("XGROUP", "CREATE", "source", "group", "0", "MKSTREAM")
        yield client, exclusive


async def read(exclusive: Exclusive, deliver: Callable[[Any], object] | None = None, block: float = 60) -> Any:
    command = ("XREADGROUP", "GROUP", "group", "node", "BLOCK", int(block * 1000), "STREAMS", "source", ">")
    return await exclusive.read(*command, block=block, deliver=deliver)


def entries(reply: Any) -> list[bytes]:
    return [entry for entry, _ in reply[b"source"]]


async def is_blocked(client: RedisClient) -> bool:
    return b"blocked_clients:1" in await client.call("INFO", "clients")


async def wait_blocked(client: RedisClient) -> None:
    while not await is_blocked(client):
        pass


async def test_messages_go_through_deliver_and_are_returned(redis_url: str):
    async with open_reader(redis_url) as (client, exclusive):
        delivered: list[Any] = []
        entry = await client.call("XADD", "source", "*", "f", "v")
        reply = await read(exclusive, delivered.append)
        assert entries(reply) == [entry]
        assert delivered == [reply]


async def test_a_read_that_finds_nothing_returns_none_and_delivers_nothing(redis_url: str):
    async with open_reader(redis_url) as (_client, exclusive):
        delivered: list[Any] = []
        assert await read(exclusive, delivered.append, block=0.01) is None
        assert delivered == []


async def test_a_cancelled_read_ends_at_once_and_its_connection_goes_on(redis_url: str):
    async with open_reader(redis_url) as (client, exclusive):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, exclusive)
            await wait_blocked(client)
            began = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - began < BUSY
        entry = await client.call("XADD", "source", "*", "f", "v")
        assert entries(await read(exclusive)) == [entry]


async def test_no_message_is_lost_when_reads_are_cancelled_while_messages_come(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
):
    # A machine that stands still for a second has not lost its server.
    monkeypatch.setattr("actorwork.streams.transport.exclusive._DRAIN_LIMIT", PATIENCE)
    chosen = random.Random(11)
    delivered: list[bytes] = []
    async with open_reader(redis_url) as (client, exclusive):

        async def write() -> None:
            for number in range(400):
                await client.call("XADD", "source", "*", "n", number)
                await trio.sleep(chosen.random() * 0.001)

        cancelled = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            while len(delivered) < 400:
                with trio.move_on_after(chosen.random() * 0.001) as scope:
                    await read(exclusive, lambda reply: delivered.extend(entries(reply)))
                cancelled += scope.cancelled_caught
        assert not exclusive.is_closed
        pending = await client.call("XPENDING", "source", "group")
        assert pending[0] == 400
        assert len(set(delivered)) == 400
        assert cancelled > 20


async def test_what_is_drained_under_cancellation_is_delivered_before_cancelled_goes_on(redis_url: str):
    """There is no checkpoint between parsing a reply and delivering it: the reply is there when `Cancelled` is."""
    async with open_proxy(redis_url) as proxy, open_client(redis_url) as client, open_client(proxy.url) as distant:
        await client.call("XGROUP", "CREATE", "source", "group", "0", "MKSTREAM")
        async with distant.open_exclusive() as exclusive:
            delivered: list[Any] = []
            seen_at_cancel: list[int] = []

            async def read_and_see() -> None:
                try:
                    await read(exclusive, delivered.append)
                except trio.Cancelled:
                    seen_at_cancel.append(len(delivered))
                    raise

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_and_see)
                await wait_blocked(client)
                proxy.black_hole()  # The server answers, and the answer is on its way when the read is cancelled.
                await client.call("XADD", "source", "*", "f", "v")
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    await trio.testing.wait_all_tasks_blocked(0.01)
                proxy.flow()
            assert seen_at_cancel == [1]


async def test_the_shared_connection_outlives_the_cancellation_that_needs_it(redis_url: str):
    """One scope around the client and its readers: what unblocks the readers must not be cancelled with them."""
    began = trio.current_time()
    with trio.move_on_after(0.05):
        async with open_reader(redis_url) as (_client, exclusive):
            await read(exclusive)
    assert trio.current_time() - began < BUSY


async def test_interrupt_makes_a_read_return_early_without_cancelling_anything(redis_url: str):
    async with open_reader(redis_url) as (client, exclusive):
        results: list[Any] = []

        async def keep_reading() -> None:
            for _ in range(2):
                results.append(await read(exclusive))  # noqa: PERF401  (one after the other is what is tested)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_reading)
            await wait_blocked(client)
            exclusive.interrupt()
            exclusive.interrupt()
            await wait_until(lambda: results)
            entry = await client.call("XADD", "source", "*", "f", "v")
        assert results[0] is None
        assert entries(results[1]) == [entry]


async def test_interrupt_without_a_read_changes_nothing(redis_url: str):
    async with open_reader(redis_url) as (client, exclusive):
        exclusive.interrupt()
        entry = await client.call("XADD", "source", "*", "f", "v")
        assert entries(await read(exclusive)) == [entry]


async def test_interrupts_at_any_moment_lose_nothing(redis_url: str):
    chosen = random.Random(5)
    delivered: list[bytes] = []
    async with open_reader(redis_url) as (client, exclusive), trio.open_nursery() as nursery:

        async def write() -> None:
            for number in range(200):
                await client.call("XADD", "source", "*", "n", number)

        async def disturb() -> None:
            while True:
                await trio.sleep(chosen.random() * 0.002)
                exclusive.interrupt()

        nursery.start_soon(write)
        nursery.start_soon(disturb)
        while len(delivered) < 200:
            await read(exclusive, lambda reply: delivered.extend(entries(reply)))
        nursery.cancel_scope.cancel()
    assert len(set(delivered)) == 200


async def test_who_may_not_unblock_closes_the_connection_and_the_messages_stay_pending():
    with open_redis_server(
        users=["ann on nopass ~* &* +@all -client +client|setname", "bob on nopass ~* &* +@all"]
    ) as server:
        async with (
            open_client(server.url.replace("unix://", "unix://bob:x@")) as bob,
            open_reader(server.url.replace("unix://", "unix://ann:x@")) as (_, exclusive),
        ):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, exclusive)
                await wait_blocked(bob)
                began = trio.current_time()
                nursery.cancel_scope.cancel()
            assert exclusive.is_closed
            assert trio.current_time() - began < BUSY
            with pytest.raises(ConnectionError, match="open another"):
                await read(exclusive)


async def test_a_cancelled_read_gives_up_a_silent_server_after_a_second(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(exclusive_module, "_DRAIN_LIMIT", 0.1)
    with open_redis_server() as server:
        async with open_reader(server.url) as (client, exclusive):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, exclusive)
                await wait_blocked(client)
                server.pause()
                nursery.cancel_scope.cancel()
            assert exclusive.is_closed
            server.resume()


async def test_a_request_cancelled_in_the_middle_closes_its_connection(redis_url: str):
    async with open_proxy(redis_url) as proxy, open_client(proxy.url) as client, client.open_exclusive() as exclusive:
        proxy.black_hole()
        with trio.move_on_after(0.01):
            await exclusive.call("PING")
        assert exclusive.is_closed
        proxy.flow()
        with pytest.raises(ConnectionError, match="open another"):
            await exclusive.call("PING")
        assert await client.call("PING") == b"PONG"


async def test_a_read_is_bounded_by_its_block_and_a_grace(monkeypatch: pytest.MonkeyPatch, redis_url: str):
    monkeypatch.setattr(exclusive_module, "GRACE", 0.05)
    async with open_proxy(redis_url) as proxy, open_reader(proxy.url) as (_client, exclusive):
        proxy.black_hole()
        with pytest.raises(TimeoutError, match="did not answer"):
            await read(exclusive, block=0.01)
        assert exclusive.is_closed
        proxy.flow()


@pytest.mark.parametrize("block", [0, -1, float("inf"), float("nan")])
async def test_a_read_without_a_finite_block_is_refused(redis_url: str, block: float):
    async with open_reader(redis_url) as (_client, exclusive):
        with pytest.raises(ValueError, match="finite time"):
            await exclusive.read("XREAD", "BLOCK", 0, "STREAMS", "source", "$", block=block)


async def test_a_read_that_is_cancelled_already_sends_nothing(redis_url: str):
    async with open_reader(redis_url) as (client, exclusive):
        entry = await client.call("XADD", "source", "*", "f", "v")
        with trio.CancelScope() as scope:
            scope.cancel()
            await read(exclusive)
        assert scope.cancelled_caught
        assert entries(await read(exclusive)) == [entry]


async def test_two_tasks_cannot_use_one_exclusive_connection(redis_url: str):
    async with open_reader(redis_url) as (client, exclusive), trio.open_nursery() as nursery:
        nursery.start_soon(read, exclusive)
        await wait_blocked(client)
        with pytest.raises(trio.BusyResourceError, match="another task"):
            await exclusive.call("PING")
        nursery.cancel_scope.cancel()


async def test_error_replies_are_raised_and_the_connection_goes_on(redis_url: str):
    async with open_reader(redis_url) as (client, exclusive):
        await client.call("XGROUP", "DESTROY", "source", "group")
        with pytest.raises(ResponseError, match="NOGROUP"):
            await read(exclusive)
        with pytest.raises(ResponseError):
            await exclusive.call("NO SUCH COMMAND")
        assert await exclusive.call("PING") == b"PONG"


async def test_a_server_that_dies_under_a_read_is_a_connection_error():
    with open_redis_server() as server:
        async with open_reader(server.url) as (client, exclusive), trio.open_nursery() as nursery:

            async def read_until_lost() -> None:
                with pytest.raises(ConnectionError, match="stays pending"):
                    await read(exclusive)

            nursery.start_soon(read_until_lost)
            await wait_blocked(client)
            server.kill()


async def test_an_exclusive_connection_waits_for_a_server_that_is_not_there():
    with open_redis_server() as server:
        async with open_client(server.url) as client:
            server.kill()
            await wait_until(lambda: not client.statistics().is_connected)

            async def use() -> None:
                async with client.open_exclusive("late") as exclusive:
                    assert await exclusive.call("CLIENT", "GETNAME") == b"late"

            async with trio.open_nursery() as nursery:
                nursery.start_soon(use)
                await trio.testing.wait_all_tasks_blocked(0.01)
                server.start()


THEN = ("ECHO", "then")
"""A command that is sent along with a read."""


async def read_then(exclusive: Exclusive, deliver: Callable[..., object] | None = None, block: float = 60) -> Any:
    command = ("XREADGROUP", "GROUP", "group", "node", "BLOCK", int(block * 1000), "STREAMS", "source", ">")
    return await exclusive.read(*command, block=block, deliver=deliver, then=THEN)


def noting() -> tuple[list[tuple[Any, ...]], Callable[..., None]]:
    """Return what was delivered, and what delivers it."""
    delivered: list[tuple[Any, ...]] = []

    def note(*replies: Any) -> None:
        delivered.append(replies)

    return delivered, note


async def test_what_is_sent_along_with_a_read_is_run_once_that_has_ended(redis_url: str):
    async with open_reader(redis_url) as (client, exclusive):
        delivered, note = noting()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_then, exclusive, note)
            await wait_blocked(client)
            entry = await client.call("XADD", "source", "*", "f", "v")
        ((reply, then),) = delivered
        assert entries(reply) == [entry]
        assert then == b"then"
        assert await exclusive.call("PING") == b"PONG"


async def test_its_reply_is_no_other_ones_after_a_read_that_found_nothing_or_failed(redis_url: str):
    async with open_reader(redis_url) as (client, exclusive):
        delivered: list[Any] = []
        assert await read_then(exclusive, delivered.append, block=0.01) is None
        assert await exclusive.call("PING") == b"PONG"
        await client.call("DEL", "source")
        with pytest.raises(ResponseError, match="NOGROUP"):
            await read_then(exclusive, delivered.append)
        assert await exclusive.call("PING") == b"PONG"
        assert delivered == []


@pytest.mark.parametrize("ends", ["cancelled", "interrupted"])
async def test_both_replies_are_taken_when_such_a_read_is_ended(redis_url: str, ends: str):
    async with open_reader(redis_url) as (client, exclusive):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_then, exclusive)
            await wait_blocked(client)
            if ends == "cancelled":
                nursery.cancel_scope.cancel()
            else:
                exclusive.interrupt()
        entry = await client.call("XADD", "source", "*", "f", "v")
        delivered, note = noting()
        assert entries(await read_then(exclusive, note)) == [entry]
        assert [then for _, then in delivered] == [b"then"]


async def test_what_was_read_is_delivered_also_where_the_second_reply_does_not_come(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("actorwork.streams.transport.exclusive._DRAIN_LIMIT", 0.1)
    async with open_reader(redis_url) as (client, exclusive):
        entry = await client.call("XADD", "source", "*", "f", "v")
        delivered, note = noting()
        has_come = trio.Event()
        receive = exclusive._receive

        async def receive_one() -> Any:
            if has_come.is_set():
                await trio.sleep_forever()
            reply = await receive()
            has_come.set()
            return reply

        monkeypatch.setattr(exclusive, "_receive", receive_one)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_then, exclusive, note)
            await has_come.wait()
            nursery.cancel_scope.cancel()
        ((reply, then),) = delivered
        assert entries(reply) == [entry]
        assert then is None
        assert exclusive.is_closed, "the reply that is owed would be taken for that of the next request"
