"""The limit of the clients for other programs: a loop of XADD with redis-py (redis-py), or redis.asyncio."""

import json
from typing import Any

import redis
import redis.asyncio

from benchmarks.benchkit import env

VARIANT = env.PEER or "redis-py"
ASYNCIO = VARIANT == "redis-asyncio"
KEY = "raw:q"


def describe() -> dict[str, Any]:
    return {
        "name": VARIANT,
        "cmds": [],
        "cases": ["enqueue"],
        "conc": 1,
        "n": {},
        "settings": f"a loop of XADD by {'redis.asyncio' if ASYNCIO else 'redis.Redis'}, with hiredis",
        "versions": {"redis": redis.__version__},
    }


class AsyncioClient:
    async def open(self) -> None:
        self.redis = redis.asyncio.Redis.from_url(env.URL)

    async def enqueue(self, _task: str, p: dict[str, Any]) -> None:
        await self.redis.xadd(KEY, {"d": json.dumps(p)})

    async def close(self) -> None:
        await self.redis.aclose()


class SyncClient:
    def open(self) -> None:
        self.redis = redis.Redis.from_url(env.URL)

    def enqueue(self, _task: str, p: dict[str, Any]) -> None:
        self.redis.xadd(KEY, {"d": json.dumps(p)})

    def close(self) -> None:
        self.redis.close()


Client = AsyncioClient if ASYNCIO else SyncClient
