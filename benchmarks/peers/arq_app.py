# pyright: basic, reportMissingImports=false, reportRedeclaration=false
# ruff: noqa: ANN001, ANN201, ARG001 - some peers read annotations, and would validate by them
"""arq (asyncio; a sorted set as the queue, polled). Variants: arq (tuned poll_delay), arq-default (poll_delay 0.5)."""

import asyncio
import logging
import sys

import arq
import redis
from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker, func

from benchmarks.benchkit import env, recorder

VARIANT = env.PEER or "arq"
DEFAULT = VARIANT.endswith("default")
CONC = 10 if DEFAULT else env.conc(default=100, io=500, crash=4)
POLL = 0.5 if DEFAULT else 0.01
SETTINGS = RedisSettings(host="127.0.0.1", port=env.PORT)


async def noop(ctx, p):
    recorder.hit(p["i"], p["ts"])


async def io(ctx, p):
    recorder.begin(p["i"], p["ts"])
    await asyncio.sleep(env.IO_SLEEP)
    recorder.end(p["i"])


async def crash(ctx, p):
    recorder.begin(p["i"], p["ts"])
    await asyncio.sleep(env.CRASH_SLEEP)
    recorder.end(p["i"])


async def echo(ctx, p):
    return p["i"]


def describe():
    return {
        "name": VARIANT,
        "cmds": [[sys.executable, "-m", "benchmarks.peers.arq_app"]] * env.PROCS,
        "cases": ["drain", "latency", "rpc"]
        if DEFAULT
        else ["enqueue", "drain", "drain2", "latency", "io", "rpc", "cold", "crash"],
        "conc": CONC,
        "n": {"drain": 2000, "rpc": 100} if DEFAULT else {},
        "settings": f"max_jobs {CONC}, poll_delay {POLL} s (default 0.5), uvloop, "
        f"{'keep_result 60' if env.CASE == 'rpc' else 'keep_result 0'}, no per-job log"
        + (", job_timeout 1 s (so the in-progress lock lasts 11 s)" if env.CASE == "crash" else ""),
        "versions": {"arq": arq.VERSION, "redis": redis.__version__},
    }


class Client:
    async def open(self):
        self.r = await create_pool(SETTINGS)

    async def enqueue(self, task, p):
        await self.r.enqueue_job(task, p)

    async def rpc(self, p):
        j = await self.r.enqueue_job("echo", p)
        return await j.result(timeout=30, poll_delay=0.5 if DEFAULT else 0.002)

    async def close(self):
        await self.r.aclose()


if __name__ == "__main__":
    import uvloop

    logging.basicConfig(level=logging.WARNING)
    asyncio.set_event_loop(uvloop.new_event_loop())
    Worker(
        functions=[func(f, name=f.__name__) for f in (noop, io, crash, echo)],
        redis_settings=SETTINGS,
        max_jobs=CONC,
        poll_delay=POLL,
        keep_result=60 if env.CASE == "rpc" else 0,
        job_timeout=1 if env.CASE == "crash" else 300,
    ).run()
