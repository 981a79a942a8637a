"""The rules that one connection under many tasks must obey, whatever is cancelled and whatever is cut."""

import math
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from actorwork.streams.transport.address import Address
from actorwork.streams.transport.client import ConnectionEvent, ConnectionLost, open_client
from actorwork.streams.transport.connection import connect
from actorwork.streams.transport.multiplexer import Multiplexer
from actorwork.streams.transport.redis_py import ConnectionError, InvalidResponse  # noqa: A004
from actorwork.streams.transport.wire import pack
from actorwork.testing.proxy import open_proxy
from actorwork.testing.redis_server import open_redis_server
from tests.patience import PATIENCE
from tests.streams.conftest import HELLO, PONG, open_scripted_server, wait_until


def ignore(_value: object) -> None:
    pass


@asynccontextmanager
async def open_link(url: str, *, silence: float = 10.0, pushes: list[Any] | None = None) -> AsyncGenerator[Multiplexer]:
    connection = await connect(Address.parse(url), "test", trio.CapacityLimiter(1))
    on_push = ignore if pushes is None else pushes.append
    link = Multiplexer(connection, on_push=on_push, on_lost=ignore, silence=silence)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        yield link
        nursery.cancel_scope.cancel()


async def ask(link: Multiplexer, *command: Any) -> Any:
    slot = await link.request(pack(command))
    if slot.error is not None:
        raise slot.error
    return slot.replies[0]


async def test_ten_thousand_echoes_with_random_cancels_give_nobody_anothers_reply(redis_url: str):
    chosen = random.Random(7)
    answered = 0
    cancelled = 0

    async def echo(link: Multiplexer, first: int) -> None:
        nonlocal answered, cancelled
        for number in range(first, first + 100):
            with trio.CancelScope() as scope:
                if chosen.random() < 0.7:
                    scope.deadline = trio.current_time() + chosen.random() * 0.004
                assert await ask(link, "ECHO", number) == str(number).encode()
                answered += 1
            cancelled += scope.cancelled_caught

    async with open_link(redis_url) as link:
        async with trio.open_nursery() as nursery:
            for first in range(0, 10_000, 100):
                nursery.start_soon(echo, link, first)
        assert await ask(link, "ECHO", "last") == b"last"
        await wait_until(lambda: link.in_flight == 0)
    assert answered + cancelled == 10_000
    assert answered > 500
    assert cancelled > 500


async def test_a_cancelled_waiter_leaves_its_slot_and_harms_nobody(redis_url: str):
    async with open_proxy(redis_url) as proxy, open_link(proxy.url) as link:
        proxy.black_hole()
        with trio.move_on_after(0.01):
            await ask(link, "SET", "key", "it has executed")
        assert link.in_flight == 1
        proxy.flow()
        assert await ask(link, "GET", "key") == b"it has executed"
        assert link.error is None


async def test_lone_requests_with_random_cancels_and_pushes_in_between_get_their_own_replies(redis_url: str):
    """A lone caller reads for itself, and hands the reading over at any point: done, cancelled, or joined by others."""
    chosen = random.Random(11)
    pushes: list[Any] = []
    cancelled = 0
    async with open_link(redis_url) as sender, open_link(redis_url, pushes=pushes) as link:
        await link.request(pack(("SUBSCRIBE", "news")), is_subscription=True)
        for number in range(1500):
            with trio.CancelScope() as scope:
                if chosen.random() < 0.2:
                    scope.cancel()  # It is sent all the same, and its reply is left to the next reader.
                elif chosen.random() < 0.4:
                    scope.deadline = trio.current_time() + chosen.random() * 0.0005
                if chosen.random() < 0.3:
                    link.request_nowait(pack(("ECHO", "beside")))
                assert await ask(link, "ECHO", number) == str(number).encode()
            cancelled += scope.cancelled_caught
            if number % 10 == 0:
                await ask(sender, "PUBLISH", "news", number)
            if number % 50 == 0:
                # Nobody asks for anything here: what comes is read all the same.
                await wait_until(lambda: len(pushes) == number // 10 + 1)  # noqa: B023 - awaited at once
        assert await ask(link, "ECHO", "last") == b"last"
        assert link.in_flight == 0
        await wait_until(lambda: len(pushes) == 150)
    assert 50 < cancelled < 1450


async def test_a_caller_that_reads_for_itself_learns_that_the_connection_ends(redis_url: str):
    async with open_proxy(redis_url) as proxy, open_link(proxy.url) as link, trio.open_nursery() as nursery:
        await ask(link, "PING")
        proxy.black_hole()

        async def end() -> None:
            await trio.testing.wait_all_tasks_blocked(0.01)
            link.fail(ConnectionError("ended in a test"))

        nursery.start_soon(end)
        with trio.fail_after(PATIENCE), pytest.raises(ConnectionError, match="ended in a test"):
            await ask(link, "PING")


async def test_commands_of_one_tick_leave_in_one_write(redis_url: str, monkeypatch: pytest.MonkeyPatch):
    async with open_link(redis_url) as link:
        await ask(link, "PING")
        writes: list[int] = []
        send = link.connection.send

        def counted(data: bytes | memoryview) -> int:
            writes.append(len(data))
            return send(data)

        monkeypatch.setattr(link.connection, "send", counted)
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(ask, link, "ECHO", f"{number:03}")
        size = len(pack(("ECHO", "000")))
        assert sum(writes) == 100 * size
        assert len(writes) <= 3


async def test_a_batch_is_contiguous_among_many_tasks(redis_url: str):
    async def count(link: Multiplexer) -> None:
        for _ in range(20):
            commands = [("MULTI",), ("INCR", "a"), ("INCR", "b"), ("EXEC",)]
            slot = await link.request(b"".join(pack(command) for command in commands), len(commands))
            assert slot.replies[:3] == [b"OK", b"QUEUED", b"QUEUED"]
            first, second = slot.replies[3]
            assert first == second
            await ask(link, "ECHO", "in between")

    async with open_link(redis_url) as link, trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(count, link)


async def test_more_bytes_than_the_socket_takes_are_sent_by_the_writer(redis_url: str):
    large = bytes(8_000_000)
    async with open_link(redis_url) as link, trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(ask, link, "SET", number, large)
        await trio.testing.wait_all_tasks_blocked()
        for number in range(20):
            nursery.start_soon(ask, link, "ECHO", number)


async def test_replies_in_single_bytes_are_replies(redis_url: str):
    async with open_proxy(redis_url) as proxy, open_link(proxy.url) as link:
        proxy.split()
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(ask, link, "ECHO", number)


async def test_pushes_come_beside_ordinary_replies_and_do_not_shift_them(redis_url: str):
    pushes: list[Any] = []
    async with open_link(redis_url, pushes=pushes) as link:

        async def subscribe(channel: str) -> None:
            slot = await link.request(pack(("SUBSCRIBE", channel)), is_subscription=True)
            assert slot.replies[0][:2] == [b"subscribe", channel.encode()]

        async def talk(number: int) -> None:
            assert await ask(link, "ECHO", number) == str(number).encode()
            await ask(link, "PUBLISH", "news", number)
            assert await ask(link, "ECHO", -number) == str(-number).encode()

        await subscribe("news")
        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(talk, number)
                if number % 20 == 0:
                    nursery.start_soon(subscribe, f"other-{number}")
    assert sorted(int(data) for kind, channel, data in pushes if (kind, channel) == (b"message", b"news")) == list(
        range(200)
    )
    assert len(pushes) == 200


async def test_when_the_connection_fails_every_waiter_learns_it_and_the_rest_ends(redis_url: str):
    async with open_proxy(redis_url) as proxy, open_link(proxy.url) as link:
        proxy.black_hole()
        failures: list[Exception] = []

        async def fail() -> None:
            with pytest.raises((ConnectionError, OSError)) as caught:
                await ask(link, "PING")
            failures.append(caught.value)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(fail)
            await trio.testing.wait_all_tasks_blocked(0.01)
            proxy.cut()
        assert len(failures) == 10
        assert link.in_flight == 0
        await wait_until(lambda: link.connection.is_closed)


async def test_a_connection_cut_in_mid_reply_never_gives_half_of_it(redis_url: str):
    async with open_proxy(redis_url) as proxy, open_link(proxy.url) as link:
        proxy.cut_after(len(b"$1\r\n0\r\n") + 6)
        replies: list[bytes] = []
        failures: list[Exception] = []

        async def one(number: int) -> None:
            try:
                replies.append(await ask(link, "ECHO", number))
            except (ConnectionError, OSError) as error:
                failures.append(error)

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(one, number)
        assert len(replies) == 1
        assert replies[0] in {b"0", b"1", b"2"}
        assert len(failures) == 2


async def test_what_never_left_is_told_from_what_may_have_executed(redis_url: str):
    async with open_link(redis_url) as link:
        first, second = link.request_nowait(pack(("PING",))), link.request_nowait(pack(("PING",)))
        link.fail(ConnectionError("cut"))
        late = await link.request(pack(("PING",)))
    assert [slot.unsent for slot in (first, second, late)] == [False, True, True]
    assert all(slot.error is not None for slot in (first, second, late))


@pytest.fixture
def hand_clock() -> trio.testing.MockClock:
    """A clock that a test moves by hand."""
    return trio.testing.MockClock()


async def test_a_peer_that_falls_silent_is_given_up(hand_clock: trio.testing.MockClock):
    async def let_pass(times: float) -> None:
        while times > 0:
            await trio.testing.wait_all_tasks_blocked()
            hand_clock.jump(10)
            times -= 1

    with open_redis_server() as server:
        async with open_link(server.url, silence=10) as link, trio.open_nursery() as nursery:
            before = link.connection.bytes_received
            for _ in range(6):
                await let_pass(1)
                await trio.testing.wait_all_tasks_blocked()
                while link.in_flight:
                    await trio.lowlevel.checkpoint()
            assert link.error is None, "an idle connection is asked for a sign of life, and gives it"
            assert link.connection.bytes_received > before
            server.pause()
            nursery.start_soon(let_pass, math.inf)
            try:
                with pytest.raises(ConnectionError, match="silent for 10 s"):
                    await ask(link, "PING")
            finally:
                server.resume()
                nursery.cancel_scope.cancel()


async def test_a_reply_that_nobody_asked_for_ends_the_connection():
    async with (
        open_scripted_server([HELLO, b"+OK\r\n", PONG, b"+1\r\n+2\r\n"]) as server,
        open_link(server.url, silence=0.01) as link,
    ):
        await wait_until(lambda: link.error is not None)
        assert isinstance(link.error, InvalidResponse)


@pytest.mark.parametrize(
    "frame",
    [
        b">0\r\n",
        b">1\r\n*0\r\n",
        b">1\r\n$7\r\nmessage\r\n",
        b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n:1\r\n",
        b"%1\r\n*0\r\n_\r\n",
    ],
)
async def test_a_frame_that_redis_never_sends_ends_the_connection_and_nothing_else(redis_url: str, frame: bytes):
    def take(push: list[Any]) -> None:
        assert push[2]

    events: list[ConnectionEvent] = []
    async with (
        open_proxy(redis_url) as proxy,
        open_client(proxy.url, on_push=take, on_event=events.append) as client,
    ):
        await proxy.insert(frame)
        await wait_until(lambda: client.generation == 2)
        assert await client.call("ECHO", "alive") == b"alive"
        lost = [event.error for event in events if isinstance(event, ConnectionLost)]
        assert [type(error) for error in lost] == [InvalidResponse]


async def test_what_is_no_resp3_ends_the_connection():
    async with (
        open_scripted_server([HELLO, b"+OK\r\n", PONG, b"<html>\r\n"]) as server,
        open_link(server.url, silence=0.01) as link,
    ):
        await wait_until(lambda: link.error is not None)
        assert isinstance(link.error, InvalidResponse)
