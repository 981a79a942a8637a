"""actorwork with 500 sources in one node: five actors that read a hundred streams each.

A foreign producer spreads the jobs evenly over the streams: plain XADD, without an actorwork client.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

from actorwork import Actor, Settings, receive, run
from benchmarks.benchkit import env, recorder

ACTORS, SOURCES_EACH = 5, 100
SOURCES = [[f"bench:{k}:{m}" for m in range(SOURCES_EACH)] for k in range(ACTORS)]
FLAT = [source for sources in SOURCES for source in sources]
CONCURRENCY = env.conc(default=1)


class Reader(Actor):
    """The base of the five actors; each has settings of its own."""

    @receive
    async def noop(self, *, i: int, ts: float, pad: str) -> None:
        recorder.hit(i, ts)


READERS: list[type[Reader]] = [
    type(
        f"Reader{k}",
        (Reader,),
        {"settings": Settings(title=f"reader {k}", sources=frozenset(sources), concurrency=CONCURRENCY)},
    )
    for k, sources in enumerate(SOURCES)
]


def describe() -> dict[str, Any]:
    from benchmarks.benchkit.versions import installed

    return {
        "name": "actorwork-sources",
        "cmds": [[sys.executable, "-m", "benchmarks.peers.sources_app"]] * env.PROCS,
        "cases": ["drain", "drain2", "latency", "cold"],
        "conc": CONCURRENCY,
        "n": {"drain": 100000, "drain2": 100000},
        "settings": f"{ACTORS} actors with {SOURCES_EACH} sources each, concurrency {CONCURRENCY}, keyword handlers",
        "versions": installed("actorwork", "redis", "hiredis", "trio"),
    }


class Client:
    def open(self) -> None:
        import redis

        self.redis = redis.Redis(port=env.PORT)

    def enqueue(self, task: str, p: dict[str, Any]) -> None:
        self.enqueue_many(task, [p])

    def enqueue_many(self, _task: str, ps: Sequence[dict[str, Any]]) -> None:
        with self.redis.pipeline(transaction=False) as pipeline:
            for p in ps:
                pipeline.xadd(FLAT[p["i"] % len(FLAT)], {"data": json.dumps(p)})
            pipeline.execute()

    def close(self) -> None:
        self.redis.close()


if __name__ == "__main__":
    run(READERS, broker=env.URL)
