"""Entities beside plain actors with keys: the same messages, in turns, on one private Redis.

    python -m benchmarks.entities [--keys 10000] [--each 3] [--size 1024] [--asks 2000] [--rounds 3]

    drain      `each` messages for each of `keys`, all in the source already; the entity has a state of `size` bytes
    ask        one ask after another to one key, warm
    hot        a message of one key after another, all in the source already; also the median time from one to the next

Rounds take turns, so that a machine which is busy with something else is so for both. Seconds of CPU are those of this
process and of the server; of wall-clock figures the best round counts. Prints one JSON object, with the ratios of the
entity to the plain actor.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import attrs
import trio

from actorwork import Actor, Entities, Entity, Settings, open_client, open_system, receive
from actorwork.brokers import open_broker
from actorwork.message import Envelope, MessageIds
from actorwork.testing.redis_server import RedisServer, open_redis_server

CONCURRENCY = 64
MESSAGE = b'{"amount": 1}'
done: list[Callable[[], None]] = []
"""Called for each message that is handled."""


@attrs.define
class Kept:
    amount: int = 0
    pad: str = ""


class Plain(Actor):
    settings = Settings(title="plain bench", concurrency=CONCURRENCY)

    @receive
    async def add(self, *, amount: int) -> int:
        done[-1]()
        return amount


SIZE = [1024]


class Stateful(Entity[Kept]):
    settings = Settings(title="entity bench", concurrency=CONCURRENCY, entities=Entities(most=20_000))

    @receive
    async def add(self, *, amount: int) -> int:
        self.state.amount += amount
        self.state.pad = self.state.pad or "x" * SIZE[0]
        done[-1]()
        return self.state.amount


ACTORS: dict[str, Any] = {"plain": Plain, "entity": Stateful}


def server_cpu(server: RedisServer) -> float:
    import redis

    connection: Any = redis.Redis(unix_socket_path=str(server.socket_path))
    with connection:
        info = connection.info("cpu")
    return info["used_cpu_user"] + info["used_cpu_sys"]


async def drain(server: RedisServer, actor: Any, keys: list[str]) -> dict[str, float]:
    """Send a message for each of these keys, then handle all."""
    ids, source = MessageIds(os.urandom(8).hex()), actor.settings.default_source
    async with open_broker(server.url) as broker:
        for start in range(0, len(keys), 1000):
            some = keys[start : start + 1000]
            await broker.publish([Envelope(source, next(ids), MESSAGE, headers={}, key=key) for key in some])
    ended = trio.Event()
    left = [len(keys)]
    times: list[float] = []

    def one() -> None:
        left[0] -= 1
        times.append(time.perf_counter())
        if not left[0]:
            ended.set()

    done.append(one)
    here, there, began = time.process_time(), server_cpu(server), time.perf_counter()
    async with open_system(actor, broker=server.url):
        with trio.fail_after(600):
            await ended.wait()
    figures = {
        "rate": len(keys) / (time.perf_counter() - began),
        "client_us": (time.process_time() - here) / len(keys) * 1e6,
        "server_us": (server_cpu(server) - there) / len(keys) * 1e6,
    }
    if len(set(keys)) == 1:
        figures["gap_us"] = statistics.median(later - earlier for earlier, later in pairwise(times)) * 1e6
    done.pop()
    return figures


async def ask(server: RedisServer, actor: Any, count: int) -> dict[str, float]:
    took: list[float] = []
    done.append(lambda: None)
    async with open_system(actor, broker=server.url), open_client(server.url) as client:
        plain, entity = client.ref(Plain), client.ref(Stateful, key="one")
        for number in range(count + 50):
            began = time.perf_counter()
            if actor is Plain:
                await plain.ask({"amount": 1}, timeout=60, key="one")
            else:
                await entity.ask({"amount": 1}, timeout=60)
            if number >= 50:
                took.append(time.perf_counter() - began)
    done.pop()
    return {"p50_us": statistics.median(took) * 1e6}


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    SIZE[0] = options.size
    spread = [f"key {number}" for _ in range(options.each) for number in range(options.keys)]
    cases: dict[str, Callable[[RedisServer, Any], Any]] = {
        "drain": lambda server, actor: drain(server, actor, spread),
        "ask": lambda server, actor: ask(server, actor, options.asks),
        "hot": lambda server, actor: drain(server, actor, ["one"] * options.asks),
    }
    found: dict[str, Any] = {}
    for case, run in cases.items():
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in ACTORS}
        for _ in range(options.rounds):
            for name, actor in ACTORS.items():
                with open_redis_server() as server:
                    rounds[name].append(await run(server, actor))
        best = {
            name: {figure: (max if figure == "rate" else min)(one[figure] for one in of) for figure in of[0]}
            for name, of in rounds.items()
        }
        ratios = {figure: round(best["entity"][figure] / best["plain"][figure], 2) for figure in best["plain"]}
        found[case] = {name: {k: round(v, 1) for k, v in one.items()} for name, one in best.items()} | {"ratio": ratios}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Entities beside plain actors with keys.")
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--each", type=int, default=3)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--asks", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    print(json.dumps(trio.run(measure, parser.parse_args()), indent=2))


if __name__ == "__main__":
    main()
