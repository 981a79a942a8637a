# pyright: basic, reportMissingImports=false, reportRedeclaration=false
# ruff: noqa: ANN001, ANN201 - some peers read annotations, and would validate by them
"""huey on RedisHuey (a list, BRPOP; at most once: a popped job dies with its worker)."""

import logging
import sys
import time
from importlib.metadata import version
from pathlib import Path

from huey import RedisHuey
from huey.api import chord, group
from redis import ConnectionPool

from benchmarks.benchkit import env, recorder

CONC = env.conc(default=4, io=500, crash=4)
# redis-py 8 caps a pool at 100 connections; beyond that huey loses popped jobs
RESULTS = env.CASE in ("rpc", "group", "chord")
huey = RedisHuey(
    "bench",
    connection_pool=ConnectionPool.from_url(env.URL, max_connections=2000),
    notify_result=RESULTS,
)
logging.getLogger("huey").setLevel(logging.WARNING)


@huey.task()
def noop(p):
    recorder.hit(p["i"], p["ts"])


@huey.task()
def io(p):
    recorder.begin(p["i"], p["ts"])
    time.sleep(env.IO_SLEEP)
    recorder.end(p["i"])


@huey.task()
def crash(p):
    recorder.begin(p["i"], p["ts"])
    time.sleep(env.CRASH_SLEEP)
    recorder.end(p["i"])


@huey.task()
def echo(p):
    return p["i"] + 1000000  # huey drops falsy-free results only for None, but keep it plain


@huey.task()
def member(p):
    recorder.hit(p["i"], p["ts"])
    return p["i"]


@huey.task()
def total(p, numbers):  # the results come last
    if list(numbers) == list(range(len(numbers))):
        recorder.hit(p["i"], p["ts"])


def describe():
    exe = str(Path(sys.executable).parent / "huey_consumer")
    kind = ["-k", "thread", "-w", str(CONC)] if env.PROCS == 1 else ["-k", "process", "-w", str(env.PROCS)]
    return {
        "name": "huey",
        "cmds": [[sys.executable, exe, "benchmarks.peers.huey_app.huey", *kind, "-n", "-q"]],
        "cases": ["enqueue", "drain", "drain2", "latency", "io", "rpc", "group", "chord", "cold", "crash"],
        "conc": CONC if env.PROCS == 1 else 1,
        "n": {},
        "settings": " ".join(kind)
        + ", blocking pop, no periodic"
        + (", notify_result" if RESULTS else "")
        + (" (no at-least-once mode exists)" if env.CASE == "crash" else ""),
        "versions": {k: version(k) for k in ("huey", "redis")},
    }


TASKS = {"noop": noop, "io": io, "crash": crash}


class Client:
    def open(self):
        pass

    def enqueue(self, task, p):
        TASKS[task](p)

    def rpc(self, p):
        return echo(p).get(blocking=True, timeout=30) - 1000000

    def group(self, ps):
        return huey.enqueue(group([member.s(p) for p in ps])).get(blocking=True, timeout=100)

    def chord(self, ps, body):
        huey.enqueue(chord([member.s(p) for p in ps], total.s(body)))

    def close(self):
        pass
