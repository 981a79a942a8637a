"""A program that uses Celery, at the private Redis."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from actorwork.testing.redis_server import RedisServer

ROOT = Path(__file__).parents[2]


def environment(url: str) -> dict[str, str]:
    # Celery uses commands that redis-py has deprecated.
    return {**os.environ, "SHOP_REDIS": url, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}


class Producer:
    """A program with Celery: sends tasks, waits for results, and stands in for a worker."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lock = trio.Lock()

    async def _do(self, do: str, *args: Any, **kwargs: Any) -> Any:
        # Not at the top: every process of a test run loads this file, also those that run none of these tests.
        dumps: Any = importlib.import_module("kombu.utils.json").dumps

        def ask() -> str:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(dumps({"do": do, "args": args, "kwargs": kwargs}) + "\n")
            self._process.stdin.flush()
            return self._process.stdout.readline()

        async with self._lock:
            return json.loads(await trio.to_thread.run_sync(ask))

    async def send(self, task: str, *args: Any, kwargs: Any = None, **options: Any) -> str:
        """Send a task; return its id."""
        return await self._do("send", task, args, kwargs or {}, options)

    async def get(self, id: str) -> dict[str, Any]:
        """Wait for a result: its value, or its error."""
        return await self._do("get", id, 45)

    def __getattr__(self, name: str) -> Any:
        return partial(self._do, name)


@pytest.fixture
def celery_url(redis_url: str, redis_server: RedisServer) -> str:
    """The url of the (empty) database, as kombu writes it."""
    return f"redis+socket://{redis_server.socket_path}?virtual_host=0"


@pytest.fixture(scope="session")
def celery_process(redis_server: RedisServer) -> Iterator[subprocess.Popen[str]]:
    url = f"redis+socket://{redis_server.socket_path}?virtual_host=0"
    command = [sys.executable, "-m", "tests.bridges.producer"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(url), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


@pytest.fixture
def celery(celery_process: subprocess.Popen[str], celery_url: str) -> Producer:
    return Producer(celery_process)
