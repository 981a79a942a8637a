# pyright: basic, reportMissingImports=false, reportMissingTypeStubs=false
"""xoscar, with all actors in one process."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import xoscar

from benchmarks.actors.measuring import Cases, Figures, Stopwatch, main, memory, resident


class Counter(xoscar.Actor):
    def __init__(self) -> None:
        self.n = 0

    async def count(self, i: int) -> None:
        self.n += 1

    async def get(self) -> int:
        return self.n


async def tell(n: int, address: str) -> Figures:
    ref = await xoscar.create_actor(Counter, address=address, uid=b"counter")
    watch = Stopwatch()
    for i in range(n):
        await ref.count.tell(i)
    while await ref.get() < n:  # noqa: ASYNC110 - a tell says nothing of its end
        await asyncio.sleep(0)
    return watch.rate(n)


async def ask(n: int, address: str) -> Figures:
    ref = await xoscar.create_actor(Counter, address=address, uid=b"counter")
    watch = Stopwatch()
    for _ in range(n):
        await ref.get()
    return watch.rate(n)


async def spawn_stop(n: int, address: str) -> Figures:
    watch = Stopwatch()
    for i in range(n):
        ref = await xoscar.create_actor(Counter, address=address, uid=b"counter %d" % i)
        await xoscar.destroy_actor(ref)
    return watch.rate(n)


async def idle(n: int, address: str) -> Figures:
    before = resident()
    refs = [await xoscar.create_actor(Counter, address=address, uid=b"counter %d" % i) for i in range(n)]
    return memory(len(refs), before)


def _in_pool(measure: Callable[[int, str], Awaitable[Figures]]) -> Callable[[int], Figures]:
    async def run(n: int) -> Figures:
        pool: Any = await xoscar.create_actor_pool("127.0.0.1", n_process=0)
        async with pool:
            return await measure(n, pool.external_address)

    return lambda n: asyncio.run(run(n))


CASES: Cases = {
    "tell": (10_000, _in_pool(tell)),
    "ask": (10_000, _in_pool(ask)),
    "spawn_stop": (1_000, _in_pool(spawn_stop)),
    "memory": (5_000, _in_pool(idle)),
}

if __name__ == "__main__":
    main("xoscar", CASES)
    sys.stdout.flush()
    os._exit(0)  # Its pool leaves threads behind.
