"""What a quota of parked readers would save its server, and cost its messages: connections that read one group.

    python -m benchmarks.parked [--nodes 500] [--rate 100] [--burst 300] [--seconds 8] [--quota 16]

    all park        each node parks (XREADGROUP … BLOCK), as nodes do
    a quota, 1 s    about `quota` nodes park, by chance, and each of the others looks every second or so
    a quota, 5 s    the same, and the others look every five seconds

CPU is that of the server (INFO cpu), idle and with that many messages a second, one by one; `late` is how long a
message waits for its node, the median and the longest of all but one in a hundred. In the burst all messages come at
once, and each takes a node a second: with as many nodes as messages they could all be done after one. A node takes up
to ten, as many as it would have room for, and handles them one after the other. Figures of the nodes, unlike those of
the server, need a machine that is not busy.
"""

from __future__ import annotations

import argparse
import math
import random
import resource
import statistics
from collections.abc import Sequence
from typing import Any, Final

import attrs
import hiredis
import redis
import trio

from actorwork.streams.transport.wire import pack
from actorwork.testing.redis_server import RedisServer, open_redis_server

SOURCE: Final = "work"
GROUP: Final = "nodes"
ROOM: Final = 10
PARKED_FOR: Final = 5000
HANDLED_FOR: Final = 1.0


@attrs.frozen
class Way:
    """How nodes read: which part of them parks, and how often the others look, in seconds."""

    name: str
    part: float
    every: float = math.inf


class Node:
    """A connection that reads, handles and settles."""

    def __init__(self, number: int, way: Way, waits: list[float], handled_for: float) -> None:
        self._name = f"node-{number}"
        self._way = way
        self._waits = waits
        self._handled_for = handled_for
        self._reader = hiredis.Reader()
        self.handled = 0

    async def run(self, path: str, ended: trio.Semaphore) -> None:
        self._stream = await trio.open_unix_socket(path)
        while True:
            parked: tuple[Any, ...] = ("BLOCK", PARKED_FOR)
            if random.random() >= self._way.part:
                await trio.sleep(self._way.every * random.uniform(0.5, 1.5))
                parked = ()
            found = await self._call(
                "XREADGROUP", "GROUP", GROUP, self._name, "COUNT", ROOM, *parked, "STREAMS", SOURCE, ">"
            )
            for entry, (_, sent) in found[0][1] if found else ():
                self._waits.append(trio.current_time() - float(sent))
                if self._handled_for:
                    await trio.sleep(self._handled_for)
                await self._call("XACK", SOURCE, GROUP, entry)
                await self._call("XDEL", SOURCE, entry)
                self.handled += 1
                ended.release()

    async def _call(self, *command: Any) -> Any:
        await self._stream.send_all(pack(command))
        while (reply := self._reader.gets()) is False:
            self._reader.feed(await self._stream.receive_some())
        return reply


def used(client: Any) -> float:
    facts = client.info("cpu")
    return float(facts["used_cpu_user"] + facts["used_cpu_sys"])


@attrs.frozen
class Found:
    """What a way has cost: per cent of a core, milliseconds, and of the burst seconds and nodes."""

    idle: float
    calm: float
    late: Sequence[float]
    burst: float
    working: int


async def measure(server: RedisServer, way: Way, options: argparse.Namespace) -> Found:
    client: Any = redis.Redis(unix_socket_path=str(server.socket_path))
    path = str(server.socket_path)

    def add(count: int) -> None:
        pipeline = client.pipeline(transaction=False)
        for _ in range(count):
            pipeline.xadd(SOURCE, {"sent": trio.current_time()})
        pipeline.execute()

    def empty() -> None:
        client.flushall()
        client.xgroup_create(SOURCE, GROUP, "0", mkstream=True)

    async def opened(
        nursery: trio.Nursery, waits: list[float], handled_for: float
    ) -> tuple[list[Node], trio.Semaphore]:
        ended = trio.Semaphore(0)
        nodes = [Node(number, way, waits, handled_for) for number in range(options.nodes)]
        for node in nodes:
            nursery.start_soon(node.run, path, ended)
        await trio.sleep(min(way.every, 2) + 1)
        return nodes, ended

    waits: list[float] = []
    empty()
    async with trio.open_nursery() as nursery:
        _, ended = await opened(nursery, waits, 0)
        before, began = used(client), trio.current_time()
        await trio.sleep(options.seconds)
        idle = (used(client) - before) / (trio.current_time() - began) * 100
        before, began = used(client), trio.current_time()
        for number in range(round(options.rate * options.seconds)):
            await trio.sleep_until(began + number / options.rate)
            add(1)
        calm = (used(client) - before) / (trio.current_time() - began) * 100
        for _ in range(round(options.rate * options.seconds)):
            await ended.acquire()
        nursery.cancel_scope.cancel()
    empty()
    async with trio.open_nursery() as nursery:
        nodes, ended = await opened(nursery, [], HANDLED_FOR)
        began = trio.current_time()
        add(options.burst)
        for _ in range(options.burst):
            await ended.acquire()
        burst = trio.current_time() - began
        nursery.cancel_scope.cancel()
    late = [1000 * one for one in statistics.quantiles(waits, n=100)]
    return Found(idle, calm, (late[49], late[98]), burst, sum(node.handled > 0 for node in nodes))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=500)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--burst", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--quota", type=int, default=16)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    part = min(1.0, options.quota / options.nodes)
    ways = (Way("all park", 1.0), Way("a quota, 1 s", part, 1.0), Way("a quota, 5 s", part, 5.0))
    with open_redis_server(config={"maxclients": "20000"}) as server:
        client: Any = redis.Redis(unix_socket_path=str(server.socket_path))
        print(client.info("server")["redis_version"])
        print(
            f"\n| {options.nodes} nodes | idle | {options.rate:g} a second | late, 50 and 99 of 100 | the burst | by |"
        )
        print("|---|---|---|---|---|---|")
        for way in ways:
            found = trio.run(measure, server, way, options)
            half, most = found.late
            print(
                f"| {way.name} | {found.idle:.1f} % | {found.calm:.1f} % | {half:.0f}, {most:.0f} ms |"
                f" {found.burst:.1f} s | {found.working} nodes |",
                flush=True,
            )


if __name__ == "__main__":
    main()
