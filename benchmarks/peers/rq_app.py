# pyright: basic, reportMissingImports=false, reportRedeclaration=false
# ruff: noqa: ANN001, ANN201 - some peers read annotations, and would validate by them
"""RQ. Variants: rq (default Worker: a fork per job), rq-simple (SimpleWorker: no fork)."""

import sys
import time

import redis
import rq
from rq import Queue, Retry

from benchmarks.benchkit import env, recorder

VARIANT = env.PEER or "rq"
SIMPLE = VARIANT.endswith("simple")


def noop(p):
    recorder.hit(p["i"], p["ts"])


def crash(p):
    recorder.begin(p["i"], p["ts"])
    time.sleep(env.CRASH_SLEEP)
    recorder.end(p["i"])


def io(p):
    recorder.begin(p["i"], p["ts"])
    time.sleep(env.IO_SLEEP)
    recorder.end(p["i"])


def echo(p):
    return p["i"]


def describe():
    n = (
        {"drain": 1000, "drain2": 1000, "enqueue": 20000, "crash": 400}
        if not SIMPLE
        else {"drain": 5000, "drain2": 5000, "crash": 500}
    )
    return {
        "name": VARIANT,
        "cmds": [
            [
                sys.executable,
                "-c",
                "import sys; from rq.cli import main; sys.exit(main())",
                "worker",
                "--url",
                env.URL,
                "--quiet",
                *(["--maintenance-interval", "5"] if env.CASE == "crash" else []),
                *(["-w", "rq.worker.SimpleWorker"] if SIMPLE else []),
                "bench",
            ]
            for _ in range(env.PROCS)
        ],
        "cases": ["drain", "drain2", "rpc", "crash"]
        if SIMPLE
        else ["enqueue", "drain", "drain2", "latency", "rpc", "cold", "crash"],
        "conc": 1,
        "n": n,
        "settle": 120,  # a started job is only given up 60 s after its last heartbeat
        "settings": ("SimpleWorker (no fork)" if SIMPLE else "default Worker (fork per job)")
        + ", one job at a time, "
        + ("result_ttl 500" if env.CASE == "rpc" else "result_ttl 0")
        + (", job_timeout 5 s, Retry(max=3), --maintenance-interval 5 (default 600)" if env.CASE == "crash" else ""),
        "versions": {"rq": rq.__version__ if hasattr(rq, "__version__") else rq.VERSION, "redis": redis.__version__},
    }


TASKS = {"noop": noop, "io": io, "crash": crash}


class Client:
    def open(self):
        self.q = Queue("bench", connection=redis.Redis.from_url(env.URL))
        self.kw = {"job_timeout": 5, "retry": Retry(max=3)} if env.CASE == "crash" else {}

    def enqueue(self, task, p):
        self.q.enqueue(TASKS[task], p, result_ttl=0, **self.kw)

    def enqueue_many(self, task, ps):
        kw = {"timeout" if k == "job_timeout" else k: v for k, v in self.kw.items()}
        self.q.enqueue_many([Queue.prepare_data(TASKS[task], (p,), result_ttl=0, **kw) for p in ps])

    def rpc(self, p):
        j = self.q.enqueue(echo, p)
        r = j.latest_result(timeout=30)
        return r.return_value

    def close(self):
        pass
