"""What a message costs the servers: one server, a cluster of three primaries, and a way from slot to slot.

    python -m benchmarks.clusters [--messages 20000] [--repeat 3]

    drain      one source on each primary (or three on one server): sent in batches, read, handled by nothing, settled
    forward    each handler publishes a message, with its settlement, to a source that nobody reads: in another slot, of
               another primary; on one server, simply to another source

CPU is that of the servers alone (INFO cpu, all of them together), so the figures hold on a machine that is busy. What a
cluster costs without messages (its members talk to each other) is measured before, and subtracted. Each row is the
median of the repeats, which take turns. Prints a table.
"""

import argparse
import json
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import TypeAlias

import redis
import trio

from actorwork import Actor, Child, Settings, open_system, receive
from actorwork.abc import Broker
from actorwork.brokers import open_broker
from actorwork.message import Envelope, MessageIds
from actorwork.streams.transport.slots import SLOTS, key_slot
from actorwork.testing.redis_cluster import open_redis_cluster
from actorwork.testing.redis_server import open_redis_server

PRIMARIES = 3
AT_ONCE = 500

Cpu: TypeAlias = Callable[[], float]
"""Returns the seconds of CPU that all servers of a place have used."""


def names_of_each(stem: str) -> list[str]:
    """Return a source for each primary, by the range of slots that it has in a new cluster."""
    found: dict[int, str] = {}
    for number in count():
        name = f"{stem}-{number}"
        found.setdefault(key_slot(name) * PRIMARIES // SLOTS, name)
        if len(found) == PRIMARIES:
            return [found[primary] for primary in range(PRIMARIES)]
    raise AssertionError


SOURCES = names_of_each("work")
BEYOND = names_of_each("beyond")


def used(server: "redis.Redis") -> float:
    facts = server.info("cpu")  # pyright: ignore[reportUnknownMemberType]
    return float(facts["used_cpu_user"]) + float(facts["used_cpu_sys"])


@contextmanager
def one_server() -> Generator[tuple[str, Cpu]]:
    with open_redis_server(tcp=True) as server, redis.Redis(port=server.port) as asked:
        yield server.tcp_url, lambda: used(asked)


@contextmanager
def cluster() -> Generator[tuple[str, Cpu]]:
    with open_redis_cluster(primaries=PRIMARIES) as fleet:
        asked = [redis.Redis(host=member.place[0], port=member.port) for member in fleet.primaries]
        try:
            yield fleet.url, lambda: sum(map(used, asked))
        finally:
            for one in asked:
                one.close()


class Counting(Actor):
    """Ends the benchmark when it has handled all messages; publishes one for each, if it is told where to."""

    settings = Settings(title="counting", sources=SOURCES, concurrency=64)

    def __init__(self, expected: int, done: trio.Event, beyond: dict[str, str]) -> None:
        self.left, self.done, self.beyond = expected, done, beyond

    @receive
    async def take(self, *, i: int) -> None:
        if self.beyond:
            self.context.publish(self.beyond[self.context.delivery.source], {"i": i})
        self.left -= 1
        if not self.left:
            self.done.set()


async def send(broker: Broker, messages: int) -> None:
    ids = MessageIds(os.urandom(8).hex())
    for first in range(0, messages, AT_ONCE):
        source = SOURCES[first // AT_ONCE % PRIMARIES]
        numbers = range(first, min(first + AT_ONCE, messages))
        await broker.publish([Envelope(source, next(ids), json.dumps({"i": i}).encode()) for i in numbers])


async def wait_backlog(broker: Broker, sources: list[str], wanted: int) -> None:
    while sum([await broker.backlog(source) for source in sources]) != wanted:  # noqa: ASYNC110 - servers set no events
        await trio.sleep(0.02)


async def measure(url: str, cpu: Cpu, messages: int, *, forwards: bool) -> dict[str, float]:
    """Return the microseconds of the servers' CPU for each message: to send it, and to read, settle and forward it."""
    beyond = dict(zip(SOURCES, BEYOND[1:] + BEYOND[:1], strict=True)) if forwards else {}
    began, before = time.monotonic(), cpu()
    await trio.sleep(2)
    idle = (cpu() - before) / (time.monotonic() - began)

    async def cost(work: Callable[[], Awaitable[None]]) -> float:
        began, before = time.monotonic(), cpu()
        await work()
        return (cpu() - before - idle * (time.monotonic() - began)) / messages * 1e6

    async def handle() -> None:
        done = trio.Event()
        async with open_system(Child(partial(Counting, messages, done, beyond)), broker=url) as system:
            await done.wait()
            await wait_backlog(system.broker, SOURCES, 0)
            if forwards:
                await wait_backlog(system.broker, BEYOND, messages)

    async with open_broker(url) as broker:
        sending = await cost(lambda: send(broker, messages))
    return {"send": sending, "forward" if forwards else "drain": await cost(handle)}


def main() -> None:
    parser = argparse.ArgumentParser(description="What a message costs the servers, on one server and on a cluster.")
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    figures: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(args.repeat):
        for name, opened in (("one server", one_server), ("cluster", cluster)):
            for forwards in (False, True):
                with opened() as (url, cpu):
                    for what, cost in trio.run(measure_at, url, cpu, args.messages, forwards).items():
                        figures[what, name].append(cost)
    print("| of each message, µs of the servers' CPU | one server | three primaries | ratio |\n|---|---|---|---|")
    for what in ("send", "drain", "forward"):
        one, three = (statistics.median(figures[what, name]) for name in ("one server", "cluster"))
        print(f"| {what} | {one:.1f} | {three:.1f} | {three / one:.2f} |")
    plain, forwarded = (statistics.median(figures[what, "cluster"]) for what in ("drain", "forward"))
    print(
        f"\nOn the cluster, a message that sends one to another slot costs {forwarded / plain:.2f} × one that does not."
    )


async def measure_at(url: str, cpu: Cpu, messages: int, forwards: bool) -> dict[str, float]:  # noqa: FBT001 - of trio.run
    return await measure(url, cpu, messages, forwards=forwards)


if __name__ == "__main__":
    main()
