# pyright: basic, reportMissingImports=false, reportRedeclaration=false
# ruff: noqa: ANN001, ANN201 - some peers read annotations, and would validate by them
"""Dramatiq on RedisBroker. Variants: dramatiq (defaults: 8 threads, prefetch 16), dramatiq-prefetch (prefetch 1000,
by the documented dramatiq_queue_prefetch variable), dramatiq-async (AsyncIO middleware, async actors)."""

import asyncio
import sys
import time

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import AsyncIO, GroupCallbacks
from dramatiq.rate_limits.backends import RedisBackend as LimiterBackend
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.benchkit import env, recorder

VARIANT = env.PEER or "dramatiq"
ASYNC = VARIANT.endswith("async")
PREFETCH = VARIANT.endswith("prefetch")
CONC = env.conc(default=8, io=500, crash=4)
crash_opts = {"heartbeat_timeout": 5000, "maintenance_chance": 1_000_000} if env.CASE == "crash" else {}
broker = RedisBroker(url=env.URL + "?max_connections=2000", **crash_opts)
# keep the default middleware but Prometheus (it starts an exporter)
broker.middleware = [m for m in broker.middleware if type(m).__name__ != "Prometheus"]
if ASYNC:
    broker.add_middleware(AsyncIO())
if env.CASE in ("rpc", "group"):
    broker.add_middleware(Results(backend=RedisBackend(url=env.URL)))
if env.CASE == "chord":
    broker.add_middleware(GroupCallbacks(LimiterBackend(url=env.URL)))
dramatiq.set_broker(broker)
rpc_opts = {"store_results": True} if env.CASE in ("rpc", "group") else {}

if ASYNC:

    @dramatiq.actor
    async def noop(p):
        recorder.hit(p["i"], p["ts"])

    @dramatiq.actor
    async def io(p):
        recorder.begin(p["i"], p["ts"])
        await asyncio.sleep(env.IO_SLEEP)
        recorder.end(p["i"])
else:

    @dramatiq.actor
    def noop(p):
        recorder.hit(p["i"], p["ts"])

    @dramatiq.actor
    def io(p):
        recorder.begin(p["i"], p["ts"])
        time.sleep(env.IO_SLEEP)
        recorder.end(p["i"])


@dramatiq.actor
def crash(p):
    recorder.begin(p["i"], p["ts"])
    time.sleep(env.CRASH_SLEEP)
    recorder.end(p["i"])


@dramatiq.actor(**rpc_opts)
def echo(p):
    return p["i"]


@dramatiq.actor(**rpc_opts)
def member(p):
    recorder.hit(p["i"], p["ts"])
    return p["i"]


@dramatiq.actor
def total(p):
    recorder.hit(p["i"], p["ts"])


def describe():
    return {
        "name": VARIANT,
        "cmds": [
            [
                sys.executable,
                "-m",
                "dramatiq",
                "benchmarks.peers.dramatiq_app",
                "--processes",
                str(env.PROCS),
                "--threads",
                str(CONC),
                "--skip-logging",
            ]
        ],
        "env": {"dramatiq_queue_prefetch": "1000"} if PREFETCH else {},
        "cases": ["io"]
        if ASYNC
        else ["drain", "drain2"]
        if PREFETCH
        else ["enqueue", "drain", "drain2", "latency", "io", "rpc", "group", "chord", "cold", "crash"],
        "conc": CONC,
        "n": {},
        "settings": f"--processes {env.PROCS} --threads {CONC}, prefetch {1000 if PREFETCH else 'threads x2'}, "
        "default middleware less Prometheus"
        + (", the callback of a group gets no results" if env.CASE == "chord" else "")
        + (", heartbeat_timeout 5 s, maintenance_chance 100% (defaults: 60 s, 0.1%)" if env.CASE == "crash" else ""),
        "versions": {"dramatiq": dramatiq.__version__, "redis": redis.__version__},
    }


TASKS = {"noop": noop, "io": io, "crash": crash}


class Client:
    def open(self):
        pass

    def enqueue(self, task, p):
        TASKS[task].send(p)

    def rpc(self, p):
        return echo.send(p).get_result(block=True, timeout=30000)

    def group(self, ps):
        started = dramatiq.group([member.message(p) for p in ps]).run()
        return list(started.get_results(block=True, timeout=100000))

    def chord(self, ps, body):
        members = dramatiq.group([member.message(p) for p in ps])
        members.add_completion_callback(total.message(body))
        members.run()

    def close(self):
        pass
