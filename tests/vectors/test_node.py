"""Two programs for Node.js, written from the chapter on the protocol alone, send to actors and stand in for one."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest
import trio

from actorwork import Actor, Message, Settings, open_client, open_system, receive
from actorwork.testing.conformance.fake_consumer import true_of, until
from actorwork.testing.redis_server import RedisServer
from tests.patience import PATIENCE
from tests.streams.bench_of_actors import open_scene

HERE = Path(__file__).parent
CHAPTER = HERE.parents[1] / "docs" / "protocol.md"
NODE = shutil.which("node")

pytestmark = pytest.mark.skipif(NODE is None, reason="there is no Node.js")


@attrs.frozen
class Paid(Message["Till", str]):
    order: str


class Till(Actor):
    settings = Settings(title="shop.till")
    handled: ClassVar[list[Any]] = []

    @receive
    async def pay(self, message: Paid) -> str:
        delivery = self.context.delivery
        assert delivery is not None
        self.handled.append((message.order, delivery.id, delivery.key, delivery.priority.name))
        return f"paid {message.order} {delivery.headers.get('tenant', '')}".strip()

    @receive
    async def write(self, *, note: str, count: int) -> None:
        self.handled.append((note, count))


@asynccontextmanager
async def open_program(name: str, *args: str | Path) -> AsyncGenerator[trio.Process]:
    """Run one of the programs for as long as the block runs."""
    command = [str(NODE), str(HERE / "node" / name), *map(str, args)]

    async def run(task_status: trio.TaskStatus[trio.Process]) -> None:
        await trio.run_process(command, capture_stdout=False, stdout=subprocess.PIPE, task_status=task_status)

    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(run)
        yield process
        nursery.cancel_scope.cancel()


async def lines_of(process: trio.Process) -> AsyncGenerator[Any]:
    assert process.stdout is not None
    rest = b""
    async for chunk in process.stdout:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield json.loads(line)


async def test_a_producer_that_was_written_from_the_chapter_alone_sends_in_every_way_and_gets_reply_and_result(
    redis_url: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    (command,) = re.findall(r'^\$ python -c "(.*)" > publish.lua$', CHAPTER.read_text(encoding="utf-8"), re.MULTILINE)
    script = tmp_path / "publish.lua"
    with script.open("wb") as file:
        await trio.run_process([sys.executable, "-c", command], stdout=file)

    Till.handled.clear()
    async with open_client(redis_url) as client, open_system(Till, broker=redis_url):
        async with open_program("producer.mjs", redis_server.socket_path, script) as process:
            told = [line async for line in lines_of(process)]
        (said,) = told
        assert said["once"] == [1, 0]
        assert said["held"] == [1, 0]
        assert said["answer"] == {
            "source": client.ref(Till).source, "id": said["asked"], "status": "done", "value": "paid asked blue",
        }  # fmt: skip
        assert (said["status"], said["result"]["value"]) == ("SUCCESS", "paid submitted")
        assert await client.receipt(said["submitted"]).result(timeout=PATIENCE) == "paid submitted"

        def are_handled() -> bool:
            return len(Till.handled) == 10

        await until(true_of(are_handled), "all that was sent")
        assert [held.id for held in await client.broker.delayed.list()] == ["holder"]
    handled = {one[0]: one[1:] for one in Till.handled}
    assert set(handled) == {
        "added", "fields alone", "once", "first of the key", "second of the key", "urgent", "later", "in time", "asked",
        "submitted",
    }  # fmt: skip
    assert handled["fields alone"] == (3,)
    assert handled["once"] == ("once", None, "NORMAL")
    assert handled["first of the key"] == ("first of the key", "Ann", "NORMAL")
    assert handled["urgent"] == ("urgent", None, "CRITICAL")
    orders = [one[0] for one in Till.handled]
    assert orders.index("first of the key") < orders.index("second of the key")


async def test_a_consumer_that_was_written_from_the_chapter_alone_stands_in_for_an_actor(
    redis_url: str, redis_server: RedisServer
) -> None:
    async with open_scene(redis_url) as scene, open_client(scene.broker) as client:
        loud = client.ref("shop.loud")
        await loud.tell({"text": "before it began"})
        await scene.call("XADD", loud.source, "*", "data", '{"text":"too late"}', "expires", "1000")
        async with open_program("consumer.mjs", redis_server.socket_path, loud.source, "shop-loud") as process:
            assert await loud.ask({"text": "hello"}, timeout=PATIENCE) == "HELLO"
            await loud.tell({"text": "the end"})
            handled = [line["message"]["text"] async for line in lines_of(process)]
        assert handled == ["before it began", "hello", "the end"]
        assert await scene.length(loud.source) == 0


async def test_a_consumer_beside_an_actor_gets_what_the_actor_gets_and_takes_nothing_from_it(
    redis_url: str, redis_server: RedisServer
) -> None:
    Till.handled.clear()
    async with (
        open_scene(redis_url) as scene,
        open_client(scene.broker) as client,
        open_system(Till, broker=scene.broker),
    ):
        till = client.ref(Till)
        assert await till.ask(Paid("first"), timeout=PATIENCE) == "paid first"

        async def has_joined() -> bool:
            return len(await scene.call("XINFO", "GROUPS", till.source)) == 2

        async with open_program("consumer.mjs", redis_server.socket_path, till.source, "monitor") as process:
            await until(has_joined, "the group of the consumer")
            seen = lines_of(process)
            await till.tell(Paid("second"))
            assert (await anext(seen))["message"] == {"order": "second"}
            await until(true_of(lambda: len(Till.handled) == 2), "the actor's own")
            await client.publish(till.source, {"text": "the end"})
            assert (await anext(seen))["message"] == {"text": "the end"}
            assert [one async for one in seen] == []
