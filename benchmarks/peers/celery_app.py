# pyright: basic, reportMissingImports=false, reportRedeclaration=false
# ruff: noqa: ANN001, ANN201 - some peers read annotations, and would validate by them
"""Celery on the Redis broker. Variants: celery (prefork), celery-solo, celery-threads, celery-gevent."""

import sys
import time

import celery as _celery
import kombu
import redis
from celery import Celery, chord, group

from benchmarks.benchkit import env, recorder

VARIANT = env.PEER or "celery"
POOL = VARIANT.partition("-")[2] or "prefork"
RESULTS = env.CASE in ("rpc", "group", "chord")
CONC = {
    "prefork": env.conc(default=1, crash=4),
    "solo": 1,
    "threads": env.conc(default=4, io=500, crash=4),
    "gevent": env.conc(default=100, io=500, crash=4),
}[POOL]
if POOL == "prefork" and env.CASE == "drain2":
    CONC = 2
# docs "Optimizing": high multiplier for short tasks; 1 with acks_late for reliable ones
MULT = 1 if env.CASE in ("crash", "latency", "rpc", "group", "chord") else (128 if CONC < 10 else 4)

app = Celery("bench", broker=env.URL, backend=env.URL if RESULTS else None)
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=not RESULTS,
    worker_prefetch_multiplier=MULT,
    task_serializer="json",
    accept_content=["json"],
    worker_hijack_root_logger=True,
    broker_connection_retry_on_startup=True,
    # by default kombu looks for lost messages only every interval 10 s x throttle 10 = 100 s
    broker_transport_options={"visibility_timeout": 5, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}
    # kombu caps its pool at 10 connections; past that gevent workers fail to ack (and only log it)
    if env.CASE == "crash"
    else {"max_connections": 2000}
    if POOL == "gevent"
    else {},
)


@app.task(name="noop")
def noop(p):
    recorder.hit(p["i"], p["ts"])


@app.task(name="io")
def io(p):
    recorder.begin(p["i"], p["ts"])
    time.sleep(env.IO_SLEEP)  # gevent patches it
    recorder.end(p["i"])


@app.task(name="crash")
def crash(p):
    recorder.begin(p["i"], p["ts"])
    time.sleep(env.CRASH_SLEEP)
    recorder.end(p["i"])


@app.task(name="echo")
def echo(p):
    return p["i"]


@app.task(name="member")
def member(p):
    recorder.hit(p["i"], p["ts"])
    return p["i"]


@app.task(name="total")
def total(numbers, p):
    if numbers == list(range(len(numbers))):
        recorder.hit(p["i"], p["ts"])


def describe():
    # prefork: one parent with CONC children; the other pools: PROCS separate workers
    n = 1 if POOL == "prefork" else env.PROCS
    cmds = [
        [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "benchmarks.peers.celery_app",
            "worker",
            "-P",
            POOL,
            "-c",
            str(CONC),
            "-l",
            "WARNING",
            "-n",
            f"w{k}@bench",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
        ]
        for k in range(n)
    ]
    cases = {
        "prefork": ["enqueue", "drain", "drain2", "latency", "rpc", "group", "chord", "cold", "crash"],
        "solo": ["drain", "drain2"],
        "threads": ["drain", "io"],
        "gevent": ["drain", "io"],
    }[POOL]
    return {
        "name": VARIANT,
        "cmds": cmds,
        "cases": cases,
        "conc": CONC,
        "n": {},
        "settings": f"-P {POOL} -c {CONC}, acks_late, prefetch_multiplier {MULT}, json, "
        f"{'results on' if RESULTS else 'ignore_result'}, no gossip/mingle/heartbeat"
        + (
            ", reject_on_worker_lost, visibility_timeout 5 s, restore sweep every 1 s (defaults: 3600 s, 100 s)"
            if env.CASE == "crash"
            else ""
        ),
        "versions": {"celery": _celery.__version__, "kombu": kombu.__version__, "redis": redis.__version__},
    }


TASKS = {"noop": noop, "io": io, "crash": crash}


class Client:
    def open(self):
        pass

    def enqueue(self, task, p):
        TASKS[task].delay(p)

    # celery has no batch publish: group() publishes one message after another (kept out of the table)

    def rpc(self, p):
        return echo.delay(p).get(timeout=30)

    def group(self, ps):
        return group([member.s(p) for p in ps]).apply_async().get(timeout=100)

    def chord(self, ps, body):
        chord([member.s(p) for p in ps])(total.s(body))

    def close(self):
        pass
