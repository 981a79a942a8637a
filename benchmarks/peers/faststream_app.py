# pyright: basic, reportMissingImports=false, reportRedeclaration=false
# ruff: noqa: ANN001, ANN003, ANN201 - some peers read annotations, and would validate by them
"""FastStream on Redis streams with a consumer group.

Variants: faststream (max_workers=N, XACK per message), faststream-batch (batch=True: the handler gets a
list of up to 100 messages, one XACK for all; no per-message retry).
"""

import asyncio
import contextlib
import os
import sys
from importlib.metadata import version

from faststream import FastStream
from faststream.redis import RedisBroker, StreamSub
from faststream.redis.parser import BinaryMessageFormatV1  # noqa: F401  (the 0.7 default)

from benchmarks.benchkit import env, recorder

VARIANT = env.PEER or "faststream"
BATCH = VARIANT.endswith("batch")
CONC = env.conc(default=100, io=500, crash=4)
ME = f"c{os.getpid()}"
GROUP = "bench"
broker = RedisBroker(env.URL, logger=None, apply_types=True)
app = FastStream(broker, logger=None)


def sub(name, **kw):
    return StreamSub(name, group=GROUP, consumer=ME, max_records=100, polling_interval=1000, **kw)


if BATCH:

    @broker.subscriber(stream=sub("noop", batch=True))
    async def noop(p: list[dict]):
        for x in p:
            recorder.hit(x["i"], x["ts"])
else:

    @broker.subscriber(stream=sub("noop"), max_workers=CONC)
    async def noop(p: dict):
        recorder.hit(p["i"], p["ts"])


async def io(p: dict):
    recorder.begin(p["i"], p["ts"])
    await asyncio.sleep(env.IO_SLEEP)
    recorder.end(p["i"])


async def crash(p: dict):
    recorder.begin(p["i"], p["ts"])
    await asyncio.sleep(env.CRASH_SLEEP)
    recorder.end(p["i"])


async def echo(p: dict):
    return p["i"]


# one read loop a stream: only declare what the case uses
if env.CASE == "io":
    broker.subscriber(stream=sub("io"), max_workers=CONC)(io)
if env.CASE == "rpc":
    broker.subscriber(stream=sub("echo"), max_workers=CONC)(echo)
if env.CASE == "crash":
    broker.subscriber(stream=sub("crash"), max_workers=CONC)(crash)
    # recovery is the user's own second subscriber, as the docs show (XAUTOCLAIM COUNT 1 a call)
    broker.subscriber(
        stream=StreamSub("crash", group=GROUP, consumer=ME + "-claim", min_idle_time=5000, polling_interval=200)
    )(crash)


def describe():
    return {
        "name": VARIANT,
        "cmds": [
            [
                sys.executable,
                "-m",
                "faststream",
                "run",
                "benchmarks.peers.faststream_app:app",
                "--log-level",
                "warning",
                *(["--workers", str(env.PROCS)] if env.PROCS > 1 else []),
            ]
        ],
        "cases": ["drain", "drain2"]
        if BATCH
        else ["enqueue", "drain", "drain2", "latency", "io", "rpc", "cold", "crash"],
        "conc": 1 if BATCH else CONC,
        "n": {},
        "settings": ("batch=True max_records 100" if BATCH else f"max_workers {CONC}, max_records 100")
        + ", group, polling_interval 1000 ms, uvloop, logger off"
        + (", second subscriber min_idle_time 5 s" if env.CASE == "crash" else ""),
        "versions": {k: version(k) for k in ("faststream", "redis", "pydantic", "fast-depends")},
    }


def run_client(start):
    import uvloop

    return uvloop.run(start())


class Client:
    async def open(self):
        await broker.connect()
        import redis.asyncio as r

        self.r = r.Redis.from_url(env.URL)
        for s in ("noop", "io", "crash", "echo"):
            with contextlib.suppress(r.ResponseError):
                await self.r.xgroup_create(s, GROUP, id="0", mkstream=True)

    async def enqueue(self, task, p):
        await broker.publish(p, stream=task)

    async def enqueue_many(self, task, ps):
        async with self.r.pipeline(transaction=False) as pipe:
            for p in ps:
                await broker.publish(p, stream=task, pipeline=pipe)
            await pipe.execute()

    async def rpc(self, p):
        m = await broker.request(p, stream="echo", timeout=30)
        return await m.decode()

    async def close(self):
        await broker.stop()
        await self.r.aclose()
