# pyright: basic, reportMissingImports=false, reportRedeclaration=false
# ruff: noqa: ANN001, ANN201 - some peers read annotations, and would validate by them
"""taskiq + taskiq-redis. Variants: taskiq (RedisStreamBroker), taskiq-list (ListQueueBroker: no ack)."""

import asyncio
import sys
from importlib.metadata import version

from taskiq import gather
from taskiq_pipelines import Pipeline, PipelineMiddleware
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend, RedisStreamBroker

from benchmarks.benchkit import env, recorder

VARIANT = env.PEER or "taskiq"
LIST = VARIANT.endswith("list")
CONC = env.conc(default=100, io=500, crash=4)
if LIST:
    broker = ListQueueBroker(env.URL, queue_name="bench", max_connection_pool_size=600)
else:
    broker = RedisStreamBroker(
        env.URL,
        queue_name="bench",
        consumer_id="0",
        max_connection_pool_size=600,
        xread_count=100,
        **({"idle_timeout": 5000, "unacknowledged_lock_timeout": 5.0} if env.CASE == "crash" else {}),
    )
if env.CASE in ("rpc", "group", "chord"):
    broker = broker.with_result_backend(RedisAsyncResultBackend(env.URL, result_ex_time=60))


if env.CASE == "chord":
    broker = broker.with_middlewares(PipelineMiddleware())


@broker.task(task_name="noop")
async def noop(p):
    recorder.hit(p["i"], p["ts"])


@broker.task(task_name="io")
async def io(p):
    recorder.begin(p["i"], p["ts"])
    await asyncio.sleep(env.IO_SLEEP)
    recorder.end(p["i"])


@broker.task(task_name="crash")
async def crash(p):
    recorder.begin(p["i"], p["ts"])
    await asyncio.sleep(env.CRASH_SLEEP)
    recorder.end(p["i"])


@broker.task(task_name="echo")
async def echo(p):
    return p["i"]


@broker.task(task_name="member")
async def member(p):
    recorder.hit(p["i"], p["ts"])
    return p["i"]


@broker.task(task_name="values")
async def values(ps):
    return ps


@broker.task(task_name="total")
async def total(numbers, p):
    if numbers == list(range(len(numbers))):
        recorder.hit(p["i"], p["ts"])


def describe():
    return {
        "name": VARIANT,
        "cmds": [
            [
                sys.executable,
                "-m",
                "taskiq",
                "worker",
                "benchmarks.peers.taskiq_app:broker",
                "--workers",
                str(env.PROCS),
                "--max-async-tasks",
                str(CONC),
                "--log-level",
                "WARNING",
            ]
        ],
        "cases": ["drain"]
        if LIST
        else ["enqueue", "drain", "drain2", "latency", "io", "rpc", "group", "chord", "cold", "crash"],
        "conc": CONC,
        "n": {},
        "settings": f"{'ListQueueBroker' if LIST else 'RedisStreamBroker xread_count 100'}, --workers {env.PROCS} "
        f"--max-async-tasks {CONC}, uvloop, pool 600, ack when_saved, log WARNING"
        + (", taskiq.gather every 10 ms" if env.CASE == "group" else "")
        + (", taskiq-pipelines: map (a look every 10 ms), then a call" if env.CASE == "chord" else "")
        + (", idle_timeout 5 s, lock timeout 5 s (defaults: 600 s, none)" if env.CASE == "crash" else ""),
        "versions": {k: version(k) for k in ("taskiq", "taskiq-redis", "redis")},
    }


TASKS = {"noop": noop, "io": io, "crash": crash}


def run_client(start):
    import uvloop

    return uvloop.run(start())


class Client:
    async def open(self):
        await broker.startup()

    async def enqueue(self, task, p):
        await TASKS[task].kiq(p)

    async def rpc(self, p):
        t = await echo.kiq(p)
        return (await t.wait_result(check_interval=0.002, timeout=30)).return_value

    async def group(self, ps):
        started = [await member.kiq(p) for p in ps]
        results = await gather(*started, timeout=100, periodicity=0.01)
        return [result.return_value for result in results]

    async def chord(self, ps, body):
        await Pipeline(broker, values).map(member, check_interval=0.01).call_next(total, p=body).kiq(ps)

    async def close(self):
        await broker.shutdown()
