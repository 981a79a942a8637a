# pyright: basic, reportMissingImports=false, reportRedeclaration=false
# ruff: noqa: ANN001, ANN201 - some peers read annotations, and would validate by them
"""streaQ (Redis streams, anyio + coredis). Variants: streaq (asyncio + uvloop), streaq-trio (Trio), streaq-json."""

import json
import sys
from importlib.metadata import version

import anyio
from streaq import Worker

from benchmarks.benchkit import env, recorder

VARIANT = env.PEER or "streaq"
TRIO = VARIANT.endswith("trio")
CONC = env.conc(default=100, io=500, crash=4)
worker = Worker(
    redis_url=env.URL,
    concurrency=CONC,
    queue_name="bench",
    anyio_backend="trio" if TRIO else "asyncio",
    anyio_kwargs={} if TRIO else {"use_uvloop": True},
    serializer=json.dumps,
    deserializer=json.loads,
    idle_timeout=5 if env.CASE == "crash" else 60,
)
TTL = 60 if env.CASE in ("rpc", "group", "chord") else 0


@worker.task(silent=True, ttl=TTL)
async def noop(p):
    recorder.hit(p["i"], p["ts"])


@worker.task(silent=True, ttl=TTL)
async def io(p):
    recorder.begin(p["i"], p["ts"])
    await anyio.sleep(env.IO_SLEEP)
    recorder.end(p["i"])


@worker.task(silent=True, ttl=TTL)
async def crash(p):
    recorder.begin(p["i"], p["ts"])
    await anyio.sleep(env.CRASH_SLEEP)
    recorder.end(p["i"])


@worker.task(silent=True, ttl=TTL)
async def echo(p):
    return p["i"]


@worker.task(silent=True, ttl=TTL)
async def member(p):
    recorder.hit(p["i"], p["ts"])
    return p["i"]


@worker.task(silent=True, ttl=TTL)
async def total(p):
    recorder.hit(p["i"], p["ts"])


def describe():
    return {
        "name": VARIANT,
        "cmds": [
            [sys.executable, "-m", "streaq", "run", "benchmarks.peers.streaq_app:worker", "--workers", str(env.PROCS)]
        ],
        "cases": ["enqueue", "drain", "drain2", "latency", "io", "rpc", "group", "chord", "cold", "crash"],
        "conc": CONC,
        "n": {},
        "settings": f"concurrency {CONC} (prefetch 2x), {'Trio' if TRIO else 'asyncio + uvloop'}, json, silent, "
        + ("ttl 60" if TTL else "ttl 0")
        + (", a task after all others: it gets no results" if env.CASE == "chord" else "")
        + (", idle_timeout 5 s (default 60)" if env.CASE == "crash" else ""),
        "versions": {k: version(k) for k in ("streaq", "coredis", "anyio", "trio")},
    }


TASKS = {"noop": noop, "io": io, "crash": crash}


def run_client(start):
    if TRIO:
        return anyio.run(start, backend="trio")
    return anyio.run(start, backend="asyncio", backend_options={"use_uvloop": True})


class Client:
    async def open(self):
        self.cm = worker.__asynccontextmanager__()
        await self.cm.__aenter__()
        # streaq's worker makes the group; make it here so that preloaded jobs are visible at once
        from streaq.types import Streaq

        await Streaq(worker.redis).create_groups(worker.stream_key, "workers", *worker.priorities)

    async def enqueue(self, task, p):
        await TASKS[task].enqueue(p)

    async def enqueue_many(self, task, ps):
        await worker.enqueue_many([TASKS[task].enqueue(p) for p in ps])

    async def rpc(self, p):
        t = await echo.enqueue(p)
        return (await t.result(timeout=30)).result

    async def group(self, ps):
        tasks = [member.enqueue(p) for p in ps]
        await worker.enqueue_many(tasks)
        results = {}

        async def wait(i, task) -> None:
            results[i] = (await task.result(timeout=100)).result

        for first in range(0, len(tasks), 10):  # a wait needs a connection: 100 exhaust the pool
            async with anyio.create_task_group() as waits:
                for i in range(first, min(first + 10, len(tasks))):
                    waits.start_soon(wait, i, tasks[i])
        return [results[i] for i in range(len(tasks))]

    async def chord(self, ps, body):
        tasks = [member.enqueue(p) for p in ps]
        await worker.enqueue_many([*tasks, total.enqueue(body).start(after=[task.id for task in tasks])])

    async def close(self):
        await self.cm.__aexit__(None, None, None)
