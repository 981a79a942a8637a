# pyright: basic, reportMissingImports=false
# ruff: noqa: ANN001, ANN201 - some peers read annotations, and would validate by them
"""pydocket (Redis streams, asyncio). Variants: docket (tuned), docket-default (its defaults but for the log).

A worker whose slots are all taken sleeps for `minimum_check_interval`, 0.25 s by default, so that it handles at most
concurrency x 4 jobs/s: here it is 5 ms. An `execution_ttl` of zero is its own fire-and-forget mode, without results.
redis-py 8 caps a pool at 100 connections; past that its tasks fail, so the pool is larger.
"""

import asyncio
import os
import sys
from datetime import timedelta
from importlib.metadata import version

import uvloop
from docket import Docket, Worker

from benchmarks.benchkit import env, recorder

VARIANT = env.PEER or "docket"
DEFAULT = VARIANT.endswith("default")
CONC = 10 if DEFAULT else env.conc(default=100, io=500, crash=4)
CHECK = timedelta(milliseconds=250 if DEFAULT else 5)
RESULTS = env.CASE == "rpc"
RECLAIM = timedelta(seconds=5) if env.CASE == "crash" else timedelta(minutes=5)


async def noop(p):
    recorder.hit(p["i"], p["ts"])


async def io(p):
    recorder.begin(p["i"], p["ts"])
    await asyncio.sleep(env.IO_SLEEP)
    recorder.end(p["i"])


async def crash(p):
    recorder.begin(p["i"], p["ts"])
    await asyncio.sleep(env.CRASH_SLEEP)
    recorder.end(p["i"])


async def echo(p):
    return p["i"]


TASKS = {"noop": noop, "io": io, "crash": crash, "echo": echo}


def open_docket():
    return Docket(
        name="bench",
        url=env.URL + "?max_connections=2000",
        execution_ttl=timedelta(minutes=1) if RESULTS else timedelta(0),
    )


def describe():
    return {
        "name": VARIANT,
        "cmds": [[sys.executable, "-m", "benchmarks.peers.docket_app"]] * env.PROCS,
        "cases": ["drain", "latency", "rpc"]
        if DEFAULT
        else ["enqueue", "drain", "drain2", "latency", "io", "rpc", "cold", "crash"],
        "conc": CONC,
        "n": {"drain": 1000} if DEFAULT else {},
        "settings": f"concurrency {CONC}, minimum_check_interval {CHECK.microseconds / 1e6} s (default 0.25), uvloop, "
        f"execution_ttl {'60 s' if RESULTS else '0'}, no per-task log"
        + (", redelivery_timeout 5 s (default 300 s)" if env.CASE == "crash" else ""),
        "versions": {k: version(k) for k in ("pydocket", "redis")},
    }


def run_client(start):
    return uvloop.run(start())


class Client:
    async def open(self):
        self.docket = open_docket()
        await self.docket.__aenter__()
        for task in TASKS.values():
            self.docket.register(task)

    async def enqueue(self, task, p):
        await self.docket.add(TASKS[task])(p)

    async def enqueue_many(self, task, ps):
        await self.docket.add_many([self.docket.call(TASKS[task])(p) for p in ps])

    async def rpc(self, p):
        execution = await self.docket.add(echo)(p)
        return await execution.get_result(timeout=timedelta(seconds=30))

    async def close(self):
        await self.docket.__aexit__(None, None, None)


async def work():
    async with open_docket() as docket:
        for task in TASKS.values():
            docket.register(task)
        worker = Worker(
            docket,
            name=f"w{os.getpid()}",
            concurrency=CONC,
            minimum_check_interval=CHECK,
            redelivery_timeout=RECLAIM,
        )
        async with worker:
            await worker.run_forever()


if __name__ == "__main__":
    uvloop.run(work())
