"""Tasks that are sent from here are handled by a real worker of Celery's, and both libraries share one queue."""

import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from actorwork import Actor, Child, MessageFailed, Settings, actor, open_client, open_system, receive
from actorwork.bridges.celery import CeleryBridge, CeleryClient, CeleryQueue, open_celery, wire
from actorwork.streams.transport.client import open_client as open_redis
from tests.bridges.conftest import ROOT, Producer, environment
from tests.patience import PATIENCE


@asynccontextmanager
async def open_process(command: list[str], url: str) -> AsyncGenerator[trio.Process]:
    """Run a program, which may be killed, for as long as the block runs."""
    async with trio.open_nursery() as nursery:

        async def run(task_status: trio.TaskStatus[trio.Process]) -> None:
            await trio.run_process(
                command,
                env=environment(url),
                cwd=ROOT,
                check=False,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                task_status=task_status,
            )

        process: trio.Process = await nursery.start(run)
        yield process
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_worker(url: str, queue: str) -> AsyncGenerator[None]:
    """Run a worker of Celery's in a process of its own."""
    options = ["--pool", "solo", "--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"]
    command = [sys.executable, "-m", "celery", "-A", "tests.bridges.worker", "worker", "-Q", queue, *options]
    async with open_process(command, url):
        yield


@pytest.mark.long
async def test_a_worker_handles_what_is_sent_from_here_and_its_results_come_back(celery_url: str) -> None:
    async with open_worker(celery_url, "celery"), open_celery(celery_url) as celery:
        added = await celery.send("shop.add", [1], {"y": 2})
        assert await added.result(timeout=PATIENCE) == 3
        assert await added.status() == "SUCCESS"
        urgent = [await celery.send("shop.add", [number], priority=number) for number in (9, 6, 3, 0)]
        assert [await one.result(timeout=PATIENCE) for one in urgent] == [9, 6, 3, 0]
        failed = await celery.send("shop.fail", ["no stock"])
        with pytest.raises(MessageFailed, match="ValueError: no stock") as told:
            await failed.result(timeout=PATIENCE)
        assert "raise ValueError(reason)" in told.value.traceback
        assert await (await celery.send("shop.flaky", [2])).result(timeout=PATIENCE) == 2
        assert await (await celery.send("shop.headers", headers={"tenant": "blue"})).result(timeout=PATIENCE) == "blue"

        at = datetime.now(UTC) + timedelta(seconds=1.5)
        later = await celery.send("shop.add", [7], at=at)
        assert await later.result(timeout=PATIENCE) == 7
        assert datetime.now(UTC) >= at
        expired = await celery.send("shop.add", [1], expires=0.000001)
        with pytest.raises(MessageFailed, match="TaskRevokedError"):
            await expired.result(timeout=PATIENCE)


@actor(title="shop.add")
async def add(x: int, y: int = 0) -> int:
    return 1000 + x + y


class Sender(Actor):
    """Sends to Celery what has not moved yet."""

    settings = Settings(title="shop.sender")
    celery: CeleryClient

    def __init__(self, url: str) -> None:
        self._url = url

    async def startup(self) -> None:
        self.celery = await self.context.enter(open_celery(self._url))

    @receive
    async def send(self, *, times: int) -> Any:
        return await (await self.celery.send("shop.flaky", [times], queue="old")).result(timeout=PATIENCE)


@pytest.mark.long
async def test_a_bridge_before_a_worker_takes_its_own_tasks_and_leaves_all_others_to_it(
    celery: Producer, celery_url: str, redis_url: str
) -> None:
    queue = CeleryQueue(celery_url, {"shop.add": add}, pass_on="old")
    tree = [add, Child(partial(Sender, celery_url)), Child(partial(CeleryBridge, queue))]
    async with open_worker(celery_url, "old"), open_system(tree, broker=redis_url), open_client(redis_url) as client:
        moved = await celery.send("shop.add", 1, 2)
        kept = await celery.send("shop.flaky", 2)
        assert (await celery.get(moved))["value"] == 1003
        assert (await celery.get(kept))["value"] == 2
        # A chain: its first task has one that follows, so the worker runs it; the second one is for the actor.
        assert (await celery.get(await celery.run_chain([1, 1], [5])))["value"] == 1007
        # A chord: each member counts down in the worker.
        assert (await celery.get(await celery.run_chord([1, 1], [2, 2])))["value"] == 6
        assert await client.ref(Sender).ask({"times": 1}, timeout=PATIENCE) == 1


@pytest.mark.long
@pytest.mark.parametrize("kind", ["redis", "embedded"])
async def test_no_task_and_no_result_is_lost_when_bridges_are_killed(
    celery: Producer, celery_url: str, redis_url: str, kind: str, tmp_path: Path
) -> None:
    broker = redis_url if kind == "redis" else f"sqlite:///{tmp_path}/broker.sqlite3"
    command = [sys.executable, "-m", "tests.bridges.moving", broker, celery_url]
    tasks = [await celery.send("shop.count", number) for number in range(150)]
    async with open_client(broker) as client, open_redis(wire.redis_url(celery_url)) as redis:

        async def counted() -> int:
            return await client.broker.backlog("counted")

        before = 0
        for _ in range(4):
            async with open_process(command, celery_url) as process:
                # Killed as soon as it has done something: with tasks in every place where they can be.
                while before < len(tasks) and await counted() == before:
                    assert process.poll() is None
                    await trio.sleep(0.001)
                process.kill()
            before = await counted()
        async with open_process(command, celery_url):
            for number, task in enumerate(tasks):
                assert (await celery.get(task)).get("value") == 2 * number
        # Each has a result, so each was counted; and none was counted twice.
        assert await counted() == len(tasks)
        assert await redis.call("EXISTS", "celery", "celery.actorwork-refused") == 0
