"""The client comes back, says what a lost connection means, and repeats nothing it was not told to."""

import itertools
import random
import subprocess
import sys
from typing import Any

import pytest
import trio
import trio.testing

from actorwork.errors import BrokerError
from actorwork.streams.transport import client as client_module
from actorwork.streams.transport.client import (
    Connected,
    ConnectionEvent,
    ConnectionLost,
    RedisClient,
    RedisClientClosed,
    open_client,
)
from actorwork.streams.transport.commands import Script
from actorwork.streams.transport.redis_py import (
    ConnectionError,  # noqa: A004
    NoScriptError,
    ReadOnlyError,
    ResponseError,
)
from actorwork.testing.proxy import open_proxy
from actorwork.testing.redis_server import open_redis_server
from tests.patience import PATIENCE
from tests.streams.conftest import HELLO, PONG, open_scripted_server, wait_until

ADD = Script("add", "return redis.call('INCRBY', KEYS[1], ARGV[1])")


async def wait_lost(client: RedisClient) -> None:
    await wait_until(lambda: not client.statistics().is_connected)


# ------------------------------------------------------------------------------------------------------------ commands


async def test_replies_come_as_they_are_and_errors_are_raised(redis_url: str):
    async with open_client(redis_url) as client:
        assert await client.call("HSET", "h", "f", 1.5) == 1
        assert await client.call("HGETALL", "h") == {b"f": b"1.5"}
        with pytest.raises(ResponseError, match="wrong number"):
            await client.call("HSET")


async def test_replies_of_many_commands_come_in_order_with_errors_in_place(redis_url: str):
    async with open_client(redis_url) as client:
        replies = await client.call_many([("SET", "a", 1), ("INCR", "a"), ("LPUSH", "a", "x"), ("GET", "a")])
        assert replies[0::3] == [b"OK", b"2"]
        assert replies[1] == 2
        assert isinstance(replies[2], ResponseError)
        assert await client.call_many([]) == []


async def test_a_task_that_is_cancelled_already_sends_nothing(redis_url: str):
    async with open_client(redis_url) as client:
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.call("SET", "key", "x")
        assert scope.cancelled_caught
        assert await client.call("EXISTS", "key") == 0


async def test_a_script_is_loaded_with_the_connection(redis_url: str):
    async with open_client(redis_url, scripts=[ADD]) as client:
        assert await client.call("EVALSHA", ADD.sha, 1, "sum", 2) == 2


async def test_scripts_that_the_server_knows_are_not_sent_again(redis_url: str):
    long = Script("long", f"-- {'x' * 10_000}\nreturn 1")
    async with open_client(redis_url) as client:
        await client.call("SCRIPT", "FLUSH")  # Another test may have loaded them.
    async with open_client(redis_url, scripts=[ADD, long]) as client:
        assert client.statistics().bytes_sent > 10_000
    async with open_client(redis_url, scripts=[ADD, long]) as client:
        assert await client.call_many([("EVALSHA", long.sha, 0), ("EVALSHA", ADD.sha, 1, "sum", 2)]) == [1, 2]
        assert client.statistics().bytes_sent < 1_000


async def test_a_user_who_may_load_scripts_but_not_ask_for_them_gets_them_all():
    with open_redis_server(users=["ann on nopass ~* &* +@all -script +script|load"]) as server:
        async with open_client(server.url.replace("unix://", "unix://ann:x@"), scripts=[ADD]) as client:
            assert await client.call("EVALSHA", ADD.sha, 1, "sum", 2) == 2


async def test_a_script_the_server_has_forgotten_is_loaded_again_and_runs_once(redis_url: str):
    async with open_client(redis_url) as client:
        assert await client.run_script(ADD, ["sum"], [2]) == 2
        assert await client.run_script(ADD, ["sum"], [2]) == 4
        await client.call("SCRIPT", "FLUSH")
        assert await client.run_script(ADD, ["sum"], [2]) == 6


async def test_an_error_inside_a_script_is_raised(redis_url: str):
    async with open_client(redis_url) as client:
        await client.call("SET", "sum", "no number")
        with pytest.raises(ResponseError, match="not an integer"):
            await client.run_script(ADD, ["sum"], [1])
        broken = Script("broken", "this is no Lua")
        with pytest.raises(ResponseError, match="compiling"):
            await client.run_script(broken, [], [])


async def test_a_script_that_may_not_be_loaded_is_sent_whole():
    with open_redis_server(users=["ann on nopass ~* &* +@all -script"]) as server:
        async with open_client(server.url.replace("unix://", "unix://ann:x@"), scripts=[ADD]) as client:
            with pytest.raises(NoScriptError):
                await client.call("EVALSHA", ADD.sha, 1, "sum", 1)
            assert await client.run_script(ADD, ["sum"], [1]) == 1
            assert await client.run_script(ADD, ["sum"], [1]) == 2


async def test_a_script_that_may_neither_be_loaded_nor_sent_whole_does_not_loop():
    with open_redis_server(users=["ann on nopass ~* &* +@all -script -eval"]) as server:
        async with open_client(server.url.replace("unix://", "unix://ann:x@"), scripts=[ADD]) as client:
            with pytest.raises(ResponseError, match="eval"):
                await client.run_script(ADD, ["sum"], [1])


# ------------------------------------------------------------------------------------------------- lost, and back again


async def test_a_killed_server_is_back_within_two_seconds_of_its_return():
    events: list[ConnectionEvent] = []
    with open_redis_server() as server:
        async with open_client(server.url, scripts=[ADD], on_event=events.append) as client:
            assert await client.run_script(ADD, ["sum"], [1]) == 1
            server.kill()
            await wait_lost(client)
            with trio.move_on_after(0.05) as waiting:
                await client.call("PING")
            assert waiting.cancelled_caught, "a command waits for a connection, for as long as its caller lets it"
            server.start()
            with trio.fail_after(PATIENCE):
                assert await client.run_script(ADD, ["sum"], [1]) == 1
            assert client.generation == 2
    assert [event.generation for event in events if isinstance(event, Connected)] == [1, 2]
    lost = [event for event in events if isinstance(event, ConnectionLost)]
    assert lost
    assert all(0 <= event.retry_in <= 1 for event in lost)


async def test_a_client_can_be_opened_before_its_server():
    with open_redis_server() as server:
        server.kill()
        async with open_client(server.url) as client:
            assert not client.statistics().is_connected
            assert isinstance(client.statistics().last_error, ConnectionError)
            server.start()
            await client.wait_connected()
            assert await client.call("PING") == b"PONG"


async def test_a_command_whose_reply_is_lost_may_have_executed_and_is_not_repeated(redis_url: str):
    async with open_proxy(redis_url) as proxy, open_client(proxy.url) as client:
        proxy.cut_after_request(1)
        with pytest.raises(ConnectionError, match="may have executed"):
            await client.call("INCR", "n")
        assert await client.call("GET", "n") == b"1"


async def test_an_idempotent_command_whose_reply_is_lost_is_sent_again(redis_url: str):
    async with open_proxy(redis_url) as proxy, open_client(proxy.url) as client:
        proxy.cut_after_request(1)
        assert await client.call("INCR", "n", idempotent=True) == 2
        assert client.generation == 2


async def test_a_command_that_never_left_is_sent_on_the_next_connection(redis_url: str):
    async with open_proxy(redis_url) as proxy, open_client(proxy.url) as client:
        results: list[int] = []

        async def fill() -> None:
            with pytest.raises(ConnectionError, match="may have executed"):
                await client.call("SET", "large", bytes(20_000_000))

        async def increase() -> None:
            results.append(await client.call("INCR", "n"))

        async with trio.open_nursery() as nursery:
            proxy.black_hole()
            nursery.start_soon(fill)
            await wait_until(lambda: client.statistics().in_flight == 1)
            nursery.start_soon(increase)
            await wait_until(lambda: client.statistics().in_flight == 2)
            proxy.cut()
            proxy.flow()
        assert results == [1]


async def test_a_reply_cut_in_half_is_not_a_reply(redis_url: str):
    async with open_proxy(redis_url) as proxy, open_client(proxy.url) as client:
        await client.call("SET", "key", "x" * 1000)
        for kept in (1, 5, 7, 500, 1008):
            proxy.cut_after(kept)
            with pytest.raises(ConnectionError, match="may have executed"):
                await client.call("GET", "key")
            assert await client.call("GET", "key") == b"x" * 1000
        proxy.cut_after(300)
        assert await client.call("GET", "key", idempotent=True) == b"x" * 1000


async def test_cuts_at_random_moments_mix_up_no_replies(redis_url: str):
    chosen = random.Random(3)
    async with open_proxy(redis_url) as proxy, open_client(proxy.url) as client:

        async def echo(first: int) -> None:
            for number in itertools.count(first):
                assert await client.call("ECHO", number, idempotent=True) == str(number).encode()

        async def cut() -> None:
            for _ in range(7):
                proxy.cut_after(chosen.randrange(1, 2000))
                generation = client.generation
                await wait_until(lambda before=generation: client.generation > before)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cut)
            for first in range(0, 1000, 50):
                nursery.start_soon(echo, first)
        assert client.generation > 7


async def test_a_half_closed_connection_is_a_lost_one(redis_url: str):
    async with open_proxy(redis_url) as proxy, open_client(proxy.url) as client:
        proxy.half_close()
        assert await client.call("ECHO", "x", idempotent=True) == b"x"
        assert client.generation == 2


async def test_a_network_that_swallows_everything_is_noticed(redis_url: str):
    async with open_proxy(redis_url) as proxy, open_client(proxy.url, silence=0.05) as client:
        proxy.black_hole()
        with pytest.raises(ConnectionError, match="silent"):
            await client.call("PING")
        proxy.flow()
        assert await client.call("PING") == b"PONG"


async def test_a_server_turned_read_only_is_left_for_the_next_connection():
    readonly = b"-READONLY You can't write against a read only replica.\r\n"
    greeting = [HELLO, b"+OK\r\n", PONG]
    async with (
        open_scripted_server([*greeting, readonly], [*greeting, readonly], [*greeting, b":1\r\n"]) as server,
        open_client(server.url) as client,
    ):
        with pytest.raises(ReadOnlyError):
            await client.call("INCR", "n")
        assert await client.call("INCR", "n", idempotent=True) == 1
        assert client.generation == 3


async def test_a_server_that_loads_its_data_is_waited_for():
    loading = [HELLO, b"+OK\r\n", b"-LOADING Redis is loading the dataset in memory\r\n"]
    async with (
        open_scripted_server(loading, loading, [HELLO, b"+OK\r\n", PONG, b"+there\r\n"]) as server,
        open_client(server.url) as client,
    ):
        assert await client.call("GET", "x") == b"there"
        assert server.connections == 3


async def test_data_that_was_appended_to_disk_is_there_after_a_kill():
    with open_redis_server(append_only=True) as server:
        async with open_client(server.url) as client:
            await client.call("SET", "key", "kept")
            server.kill()
            server.start()
            assert await client.call("GET", "key", idempotent=True) == b"kept"


def test_the_backoff_grows_to_a_second_and_no_further(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client_module._chance, "uniform", max)
    assert [client_module._backoff(failures) for failures in (0, 1, 6, 7, 100_000)] == [0.01, 0.02, 0.64, 1, 1]


# -------------------------------------------------------------------------------------------------------------- pushes


async def test_messages_of_a_channel_come_through_on_push_beside_replies(redis_url: str):
    pushes: list[Any] = []
    async with open_client(redis_url, on_push=pushes.append) as client:
        await client.subscribe("news")
        assert await client.call("PUBLISH", "news", "hello") == 1
        await wait_until(lambda: pushes)
        await client.unsubscribe("news")
        assert await client.call("PUBLISH", "news", "nobody listens") == 0
    assert pushes == [[b"message", b"news", b"hello"]]


async def test_channels_are_subscribed_again_before_anybody_hears_of_the_new_connection():
    pushes: list[Any] = []
    with open_redis_server() as server:
        async with open_client(server.url, on_push=pushes.append) as client:
            await client.subscribe("news")
            await client.subscribe("weather")
            await client.unsubscribe("weather")
            server.kill()
            server.start()
            assert await client.call("PUBLISH", "news", "again", idempotent=True) == 1
            assert await client.call("PUBLISH", "weather", "rain") == 0
            await wait_until(lambda: pushes)
    assert pushes == [[b"message", b"news", b"again"]]


async def test_a_channel_one_may_not_hear_is_refused_and_forgotten():
    with open_redis_server(users=["ann on nopass ~* resetchannels &allowed +@all"]) as server:
        async with open_client(server.url.replace("unix://", "unix://ann:x@")) as client:
            await client.subscribe("allowed")
            with pytest.raises(ResponseError, match="channel"):
                await client.subscribe("forbidden")
            assert client.statistics().subscriptions == 1
            assert await client.call("ECHO", "in order") == b"in order"


async def test_an_on_push_that_raises_ends_the_client_loudly(redis_url: str):
    def refuse(_push: list[Any]) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(ExceptionGroup) as caught:
        async with open_client(redis_url, on_push=refuse) as client:
            await client.subscribe("news")
            await client.call("PUBLISH", "news", "x")
            await trio.sleep_forever()
    assert caught.group_contains(RuntimeError, match="a bug")


# ------------------------------------------------------------------------------------------------------ the life of it


async def test_an_error_in_the_block_comes_out_as_it_is(redis_url: str):
    with pytest.raises(KeyError):
        async with open_client(redis_url):
            raise KeyError("mine")


async def test_an_error_in_the_block_is_not_lost_to_a_cancellation(redis_url: str):
    with pytest.raises(KeyError), trio.CancelScope() as scope:
        async with open_client(redis_url):
            scope.cancel()
            raise KeyError("mine")


async def test_a_closed_client_says_so_to_whoever_still_waits():
    with open_redis_server() as server:
        async with trio.open_nursery() as nursery, open_client(server.url) as client:
            server.kill()
            await wait_lost(client)

            async def wait() -> None:
                with pytest.raises(RedisClientClosed, match="is closed"):
                    await client.call("PING")

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked(0.01)
        with pytest.raises(RedisClientClosed):
            await client.call("PING")
        assert repr(client) == f"<RedisClient of {server.url}, closed, generation 1>"


async def test_credentials_that_stop_being_right_later_are_retried():
    events: list[ConnectionEvent] = []
    with open_redis_server(users=["ann on >right ~* &* +@all"]) as server:
        async with (
            open_client(server.url) as admin,
            open_client(server.url.replace("unix://", "unix://ann:right@"), on_event=events.append) as client,
        ):
            await admin.call("ACL", "SETUSER", "ann", "resetpass", ">other")
            await admin.call("CLIENT", "KILL", "USER", "ann")
            await wait_until(
                lambda: any(isinstance(e, ConnectionLost) and isinstance(e.error, BrokerError) for e in events)
            )
            await admin.call("ACL", "SETUSER", "ann", ">right")
            assert await client.call("PING") == b"PONG"


async def test_statistics_add_up_over_connections(redis_url: str):
    async with open_proxy(redis_url) as proxy, open_client(proxy.url) as client:
        await client.call("ECHO", "x" * 1000)
        proxy.cut()
        await client.call("PING", idempotent=True)
        figures = client.statistics()
        assert figures.generation == 2
        assert figures.bytes_sent > 1000
        assert figures.bytes_received > 1000
        assert figures.in_flight == 0


# What importing costs, and whom it concerns.


OTHERS = """
import os, sys, actorwork.streams.transport.client

assert "redis.client" not in sys.modules
failed = []
for statement in (
    "import redis; redis.Redis; redis.asyncio.Redis; redis.connection.Connection; redis.__version__",
    "import redis.client; redis.client.Redis",
    "from redis import *; Redis",
    "from redis.asyncio.cluster import RedisCluster",
    "import importlib, redis; importlib.reload(redis); redis.Redis",
    "import redis; assert not hasattr(redis, 'nope')",
):
    child = os.fork()  # Each needs a process that has not imported redis-py, but not a whole new one.
    if not child:
        exec(statement)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(statement)
sys.exit(bool(failed) and str(failed))
"""


def test_redis_py_is_as_it_always_is_for_everybody_else():
    ended = subprocess.run([sys.executable, "-c", OTHERS], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
