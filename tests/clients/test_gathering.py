"""What many tasks of an asyncio program publish at the same time: it leaves together, and each message counts alone."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import pytest
import redis
import trio

from actorwork import BrokerError, Durability, Envelope, NotRunning, Unique, aio
from actorwork.clients import Client
from actorwork.message import MessageIds
from actorwork.testing.proxy import FaultProxy, open_proxy
from actorwork.testing.redis_server import open_redis_server
from tests.clients.programs import run_asyncio

PUBLISHER = "00112233aabbccdd"


class Scene:
    """A client that has sent one message to "orders", so that the next ones may leave together."""

    def __init__(self, client: Client, server: Any) -> None:
        self.client = client
        self.server = server

    async def send(self, *numbers: int, to: str = "orders") -> list[Any]:
        """Send numbers from as many tasks; return what each got: an id, or an error."""
        return await asyncio.gather(*[self.client.publish(to, n) for n in numbers], return_exceptions=True)

    def kept(self, source: str = "orders") -> list[int]:
        return [int(fields[b"data"]) for _, fields in self.server.xrange(source)]

    def calls(self, command: str) -> int:
        """Return how often the server was asked since `Scene.forget`."""
        return int(self.server.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"])

    def forget(self) -> None:
        self.server.config_resetstat()


@asynccontextmanager
async def open_scene(url: str, server_url: str | None = None) -> AsyncGenerator[Scene]:
    server: Any = cast("Any", redis.Redis).from_url(server_url or url)
    try:
        async with aio.open_client(url) as client:
            scene = Scene(client, server)
            await client.publish("orders", 0)
            scene.forget()
            yield scene
    finally:
        server.close()


def in_scene(url: str, test: Callable[[Scene], Awaitable[None]], server_url: str | None = None) -> None:
    async def main() -> None:
        async with open_scene(url, server_url) as scene:
            await test(scene)

    run_asyncio(main)


def in_scene_of_ann(url: str, test: Callable[[Scene], Awaitable[None]], server: Any) -> None:
    """Run a test whose client is the user `ann`, who may do everything; then close this connection to the server."""
    server.execute_command("ACL", "SETUSER", "ann", "reset", "on", ">secret", "~*", "&*", "+@all")
    try:
        in_scene(url.replace("://", "://ann:secret@"), test, url)
    finally:
        server.execute_command("ACL", "DELUSER", "ann")
        server.close()


async def until_lost(scene: Scene) -> None:
    """Wait until a client knows that its connection has ended."""
    commands = commands_of(scene)
    while commands.is_connected:  # noqa: ASYNC110 - it sets no event
        await asyncio.sleep(0.001)


def commands_of(scene: Scene) -> Any:
    return cast("Any", scene.client.broker)._commands


def test_messages_that_tasks_send_at_once_are_kept_in_order_by_a_few_transactions(redis_url: str) -> None:
    async def test(scene: Scene) -> None:
        ids = await scene.send(*range(1, 101))
        assert len(set(ids)) == 100
        assert scene.kept() == list(range(101))
        assert scene.calls("exec") == 4
        assert scene.calls("bitfield") == 4
        assert scene.calls("evalsha") == 0

    in_scene(redis_url, test)


def test_a_message_that_is_alone_is_sent_by_a_transaction(redis_url: str) -> None:
    async def test(scene: Scene) -> None:
        for number in (1, 2, 3):
            await scene.client.publish("orders", number)
        assert scene.kept() == [0, 1, 2, 3]
        assert scene.calls("multi") == 3
        assert scene.calls("evalsha") == 0

    in_scene(redis_url, test)


def test_messages_to_several_sources_leave_together_for_each(redis_url: str) -> None:
    async def test(scene: Scene) -> None:
        await scene.client.publish("letters", 0)
        scene.forget()
        sources = itertools.cycle(["orders", "letters"])
        await asyncio.gather(*[scene.client.publish(next(sources), n) for n in range(1, 21)])
        assert scene.kept("orders") == [0, *range(1, 21, 2)]
        assert scene.kept("letters") == [0, *range(2, 21, 2)]
        assert scene.calls("exec") == 2

    in_scene(redis_url, test)


def test_the_first_messages_to_a_source_are_kept_as_well(redis_url: str) -> None:
    async def test(scene: Scene) -> None:
        await scene.send(*range(10), to="new")
        assert scene.kept("new") == list(range(10))

    in_scene(redis_url, test)


def test_what_is_sent_in_another_way_keeps_its_place_among_them(redis_url: str) -> None:
    async def test(scene: Scene) -> None:
        publish = scene.client.publish
        ref = scene.client.ref("orders")
        source = ref.source
        # So that the server knows the scripts: what it has to be sent again with its script loses its place.
        await ref.submit(0)
        await publish(source, 0, id="first")
        await publish(source, 0, unique=Unique("first"))
        scene.server.delete(source)
        await publish(source, 0)
        await asyncio.gather(
            publish(source, 1),
            publish(source, 2),
            ref.tell_many([3, 4]),
            publish(source, 5),
            publish(source, 6, id="chosen"),
            publish(source, 7),
            publish(source, 8, unique=Unique("one")),
            publish(source, 9),
            ref.submit(10),
            publish(source, 11),
        )
        assert scene.kept(source) == list(range(12))

    in_scene(redis_url, test)


def test_a_task_that_is_cancelled_before_its_message_leaves_takes_it_along(redis_url: str) -> None:
    async def test(scene: Scene) -> None:
        tasks = [asyncio.create_task(scene.client.publish("orders", number)) for number in (1, 2, 3)]
        # Runs after the three, and before what they sent leaves: that is at the end of this turn of the loop.
        asyncio.get_running_loop().call_soon(tasks[1].cancel)
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(done[1], asyncio.CancelledError)
        assert scene.kept() == [0, 1, 3]
        alone = asyncio.create_task(scene.client.publish("orders", 4))
        asyncio.get_running_loop().call_soon(alone.cancel)
        with pytest.raises(asyncio.CancelledError):
            await alone
        await scene.client.publish("orders", 5)
        assert scene.kept() == [0, 1, 3, 5]

    in_scene(redis_url, test)


def test_the_others_of_a_task_that_is_cancelled_later_are_kept(redis_url: str) -> None:
    async def test(scene: Scene) -> None:
        tasks = [asyncio.create_task(scene.client.publish("orders", number)) for number in range(1, 41)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # They have left: no reply has been read yet.
        tasks[7].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert [number for number, one in enumerate(done, 1) if isinstance(one, BaseException)] == [8]
        assert scene.kept() == list(range(41))

    in_scene(redis_url, test)


def test_each_task_gets_its_own_error(redis_url: str) -> None:
    async def test(scene: Scene) -> None:
        for source in ("letters", "orders"):
            await scene.client.publish(source, 0)
        scene.server.delete("orders")
        scene.server.set("orders", "a text")
        sent = [scene.client.publish(("letters", "orders")[n % 2], n) for n in range(10)]
        done = await asyncio.gather(*sent, return_exceptions=True)
        assert [isinstance(one, BrokerError) for one in done] == [False, True] * 5
        assert len({id(one) for one in done}) == 10
        assert "WRONGTYPE" in str(done[1])
        assert scene.kept("letters") == [0, 0, 2, 4, 6, 8]
        scene.server.delete("orders")
        await scene.send(11, 12)
        assert scene.kept() == [11, 12]

    in_scene(redis_url, test)


def test_what_cannot_be_sent_is_an_error_of_its_own_sender(redis_url: str) -> None:
    async def test(scene: Scene) -> None:
        ids = MessageIds(PUBLISHER)
        publish = scene.client.broker.publish_new
        wrong = Envelope("orders", next(ids), b"1", type=cast("str", object()))
        await publish(Envelope("orders", next(ids), b"1"))
        done = await asyncio.gather(
            publish(Envelope("orders", next(ids), b"2")),
            publish(wrong),
            publish(Envelope("orders", next(ids), b"3")),
            return_exceptions=True,
        )
        assert [type(one) for one in done] == [type(None), TypeError, type(None)]
        assert scene.kept() == [0, 1, 2, 3]

    in_scene(redis_url, test)


@pytest.fixture
def url_without_transactions(redis_url: str) -> Iterator[str]:
    server: Any = cast("Any", redis.Redis).from_url(redis_url)
    server.execute_command("ACL", "SETUSER", "ann", "reset", "on", ">secret", "~*", "&*", "+@all", "-multi")
    yield redis_url.replace("://", "://ann:secret@")
    server.execute_command("ACL", "DELUSER", "ann")
    server.close()


def test_a_user_without_transactions_sends_messages_together_by_a_script(
    redis_url: str, url_without_transactions: str
) -> None:
    async def test(scene: Scene) -> None:
        await scene.send(*range(1, 11))
        await scene.client.publish("orders", 11)
        assert scene.kept() == list(range(12))
        assert scene.calls("evalsha") == 2

    in_scene(url_without_transactions, test, redis_url)


def test_a_server_that_has_forgotten_the_script_keeps_the_messages(
    redis_url: str, url_without_transactions: str
) -> None:
    async def test(scene: Scene) -> None:
        scene.server.script_flush()
        await scene.send(*range(1, 41))
        assert sorted(scene.kept()) == list(range(41))
        scene.forget()
        await scene.send(41, 42, 43)
        assert scene.kept()[-3:] == [41, 42, 43]
        assert scene.calls("evalsha") == 1, "it knows it again"

    in_scene(url_without_transactions, test, redis_url)


def test_a_user_who_loses_the_right_to_transactions_goes_on_sending_messages_together(redis_url: str) -> None:
    async def test(scene: Scene) -> None:
        scene.server.execute_command("ACL", "SETUSER", "ann", "-multi")
        await scene.send(*range(1, 41))
        assert sorted(scene.kept()) == list(range(41))
        scene.forget()
        await scene.send(41, 42, 43)
        assert scene.kept()[-3:] == [41, 42, 43]
        assert scene.calls("evalsha") == 1

    server: Any = cast("Any", redis.Redis).from_url(redis_url)
    in_scene_of_ann(redis_url, test, server)


def test_a_server_without_memory_refuses_each_message_to_its_own_task(redis_url: str) -> None:
    async def test(scene: Scene) -> None:
        scene.server.config_set("maxmemory", 1)
        try:
            done = await scene.send(*range(1, 41))
        finally:
            scene.server.config_set("maxmemory", 0)
        assert {type(one) for one in done} == {BrokerError}
        assert len({id(one) for one in done}) == 40
        assert all(one.may_pass for one in done)
        await scene.send(41, 42)
        assert scene.kept() == [0, 41, 42]

    in_scene(redis_url, test)


def test_marks_of_messages_that_left_together_are_forgotten_after_a_day(redis_url: str) -> None:
    async def test(scene: Scene) -> None:
        await scene.send(*range(1, 11))
        [mark] = scene.server.keys("actorwork:{orders}:seen:*")
        assert 86_000 < scene.server.ttl(mark) <= 86_400
        assert scene.server.bitcount(mark) == 11

    in_scene(redis_url, test)


def test_a_large_message_leaves_at_once_with_those_before_it(redis_url: str) -> None:
    async def test(scene: Scene) -> None:
        large = "x" * 300_000
        await asyncio.gather(*[scene.client.publish("orders", one) for one in (1, large, 2)])
        assert [fields[b"data"][:4] for _, fields in scene.server.xrange("orders")] == [b"0", b"1", b'"xxx', b"2"]

    in_scene(redis_url, test)


def test_confirmed_messages_go_over_their_own_connection(redis_url: str) -> None:
    async def test(scene: Scene) -> None:
        durable = Durability("replicated", 1, within=0.001)
        sent = [scene.client.publish("orders", n, durability=durable if n == 2 else None) for n in (1, 2, 3)]
        done = await asyncio.gather(*sent, return_exceptions=True)
        assert type(done[1]).__name__ == "Unconfirmed"
        assert sorted(scene.kept()) == [0, 1, 2, 3]

    in_scene(redis_url, test)


def test_a_client_of_another_loop_takes_nothing_along(redis_url: str) -> None:
    async def test(scene: Scene) -> None:
        def elsewhere() -> None:
            with pytest.raises(NotRunning):
                asyncio.run(scene.client.publish("orders", 2))

        sending = asyncio.create_task(scene.client.publish("orders", 1))
        await asyncio.to_thread(elsewhere)
        await sending
        assert scene.kept() == [0, 1]

    in_scene(redis_url, test)


@pytest.mark.parametrize("count", [1, 2, 40])
@pytest.mark.parametrize("fault", ["cut before the reply", "cut in mid reply", "cut before the request"])
async def test_messages_whose_reply_is_lost_are_kept_once(redis_url: str, fault: str, count: int) -> None:
    def cut(proxy: FaultProxy) -> None:
        if fault == "cut before the reply":
            proxy.cut_after_request(1)
        elif fault == "cut in mid reply":
            proxy.cut_after(2)
        else:
            proxy.cut()

    async def test(proxy: FaultProxy, scene: Scene) -> None:
        trio.from_thread.run_sync(cut, proxy)
        ids = await scene.send(*range(1, count + 1))
        assert {type(one) for one in ids} == {str}
        assert sorted(scene.kept()) == list(range(count + 1))

    async with open_proxy(redis_url) as proxy:
        await trio.to_thread.run_sync(in_scene, proxy.url, partial(test, proxy), redis_url)


async def test_of_messages_that_wait_for_a_connection_those_of_cancelled_tasks_are_never_sent(redis_url: str) -> None:
    async def test(proxy: FaultProxy, scene: Scene) -> None:
        trio.from_thread.run_sync(proxy.refuse)
        trio.from_thread.run_sync(proxy.cut)
        await until_lost(scene)
        tasks = [asyncio.create_task(scene.client.publish("orders", number)) for number in range(1, 6)]
        alone = asyncio.create_task(scene.client.publish("letters", 1))
        await asyncio.sleep(0)
        for task in (tasks[1], tasks[3], alone):
            task.cancel()
        trio.from_thread.run_sync(proxy.accept)
        done = await asyncio.gather(*tasks, alone, return_exceptions=True)
        assert [isinstance(one, str) for one in done] == [True, False, True, False, True, False]
        assert sorted(scene.kept()) == [0, 1, 3, 5]
        assert scene.kept("letters") == []

    async with open_proxy(redis_url) as proxy:
        await trio.to_thread.run_sync(in_scene, proxy.url, partial(test, proxy), redis_url)


def test_a_server_that_has_lost_everything_keeps_what_is_sent_from_then_on_with_its_marks() -> None:
    async def main() -> None:
        async with open_scene(server.url) as scene:
            server.kill()
            server.start()
            await scene.send(*range(1, 41))
            assert sorted(scene.kept()) == list(range(1, 41))
            [mark] = scene.server.keys("actorwork:{orders}:seen:*")
            assert 0 < scene.server.ttl(mark) <= 86_400

    with open_redis_server() as server:
        run_asyncio(main)


def test_the_end_of_a_client_ends_the_waits_of_its_tasks(redis_url: str) -> None:
    async def main() -> None:
        async with open_scene(redis_url) as scene:
            scene.server.client_pause(60_000, all=False)
            try:
                sending = [asyncio.create_task(scene.client.publish("orders", number)) for number in range(3)]
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                await commands_of(scene).aclose()
                done = await asyncio.gather(*sending, return_exceptions=True)
                assert {type(one) for one in done} == {BrokerError}
            finally:
                scene.server.client_unpause()

    run_asyncio(main)


def test_nothing_joins_messages_that_have_been_refused(redis_url: str) -> None:
    server: Any = cast("Any", redis.Redis).from_url(redis_url)

    async def test(scene: Scene) -> None:
        server.execute_command("ACL", "SETUSER", "ann", "resetpass", ">another")
        server.execute_command("CLIENT", "KILL", "USER", "ann")
        await until_lost(scene)
        refused = await scene.send(1, 2)
        assert ["refuses these credentials" in str(one) for one in refused] == [True, True]
        server.execute_command("ACL", "SETUSER", "ann", "resetpass", ">secret")
        await scene.send(3, 4)
        assert scene.kept() == [0, 3, 4]

    in_scene_of_ann(redis_url, test, server)


def test_nothing_joins_messages_of_cancelled_tasks_that_were_dropped_with_their_connection(redis_url: str) -> None:
    async def test(scene: Scene) -> None:
        tasks = [asyncio.create_task(scene.client.publish("orders", number)) for number in (1, 2)]
        await asyncio.sleep(0)  # They leave at the end of this turn of the loop, and it is not over.
        for task in tasks:
            task.cancel()
        commands_of(scene)._link.fail(redis.ConnectionError("lost"))
        await scene.send(3, 4)
        assert scene.kept() == [0, 3, 4]

    in_scene(redis_url, test)


def test_a_client_that_was_closed_while_messages_waited_for_a_connection_takes_no_more(redis_url: str) -> None:
    async def test(scene: Scene) -> None:
        commands = commands_of(scene)
        commands._link.fail(redis.ConnectionError("lost"))
        waiting = asyncio.create_task(scene.send(1, 2))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await commands.aclose()
        assert [type(one) for one in [*await waiting, *await scene.send(3)]] == [BrokerError] * 3

    in_scene(redis_url, test)


async def test_messages_of_cancelled_tasks_do_not_pile_up_while_the_server_is_away(redis_url: str) -> None:
    async def test(proxy: FaultProxy, scene: Scene) -> None:
        trio.from_thread.run_sync(proxy.refuse)
        trio.from_thread.run_sync(proxy.cut)
        await until_lost(scene)
        for number in range(1000):
            # To a source of its own each, so that none leaves with others.
            task = asyncio.create_task(scene.client.publish(f"orders-{number}", number))
            await asyncio.sleep(0)
            task.cancel()
        waiting = asyncio.create_task(scene.client.publish("orders", 1))
        await asyncio.sleep(0)
        assert repr(commands_of(scene)._queued) in {f"<{count} requests>" for count in range(102)}
        trio.from_thread.run_sync(proxy.accept)
        await waiting
        assert scene.kept() == [0, 1]

    async with open_proxy(redis_url) as proxy:
        await trio.to_thread.run_sync(in_scene, proxy.url, partial(test, proxy), redis_url)
