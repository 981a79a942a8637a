"""What a message costs the servers: one server, a cluster of three primaries, and a way from slot to slot.

    python -m benchmarks.clusters [--messages 10000] [--repeat 15]

    send       in batches, to one source on each primary (or to three on one server)
    drain      the same, read, handled by nothing, settled
    forward    each handler publishes a message, with its settlement, to a source that nobody reads: in another slot, of
               another primary; on one server, simply to another source

CPU is that of the servers alone (INFO cpu, all of them together), so the figures hold on a machine that is busy. Two
things that a program pays once, however many messages it has, are kept out of them: what a server does for its first
messages (three servers compile the scripts three times, and grow three heaps) comes in a round that is not counted, and
what servers do without messages (members of a cluster talk to each other) is measured after that, and subtracted. Both
places are open all the time and take turns, and each begins every second round. Prints a table: the median of each,
with the least and the most, and how many scripts and reads the clients called for a thousand messages.

What else the machine does makes caches cold and so adds to a round, by a fifth and more. Two ratios bear that: that of
the least of each place, and the median of the ratios of single rounds, whose halves follow each other.
"""

import argparse
import json
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from typing import Any

import attrs
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
FIRST = 5000
IDLE = 3.0


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


@attrs.frozen
class Place:
    """One server, or a cluster, and a connection to each of its members."""

    name: str
    url: str
    members: Sequence["redis.Redis"]

    def cpu(self) -> float:
        """Return the seconds of CPU that all servers have used."""
        return sum(float(facts["used_cpu_user"]) + float(facts["used_cpu_sys"]) for facts in self._ask("cpu"))

    def calls(self) -> int:
        """Return how many scripts and reads clients have called."""
        counted = ("cmdstat_evalsha", "cmdstat_eval", "cmdstat_xreadgroup")
        return sum(
            int(facts.get(name, {"calls": 0})["calls"]) for facts in self._ask("commandstats") for name in counted
        )

    def forget(self) -> None:
        for member in self.members:
            member.flushall()  # pyright: ignore[reportUnknownMemberType]

    def _ask(self, section: str) -> list[dict[str, Any]]:
        return [member.info(section) for member in self.members]  # pyright: ignore[reportUnknownMemberType]


@contextmanager
def one_server() -> Generator[Place]:
    with open_redis_server(tcp=True) as server, redis.Redis(port=server.port) as asked:
        yield Place("one server", server.tcp_url, [asked])


@contextmanager
def cluster() -> Generator[Place]:
    with open_redis_cluster(primaries=PRIMARIES) as fleet, ExitStack() as stack:
        members = [redis.Redis(host=member.place[0], port=member.port) for member in fleet.primaries]
        yield Place("cluster", fleet.url, [stack.enter_context(member) for member in members])


class Counting(Actor):
    """Ends the benchmark when it has handled all messages; publishes one for each, if it is told where to."""

    settings = Settings(title="counting", sources=SOURCES, concurrency=64)

    def __init__(self, expected: int, done: trio.Event, beyond: Mapping[str, str]) -> None:
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


async def idle_cpu(place: Place) -> float:
    """Return the seconds of CPU that the servers of a place use in a second without messages."""
    began, before = time.monotonic(), place.cpu()
    await trio.sleep(IDLE)
    return (place.cpu() - before) / (time.monotonic() - began)


async def measure(place: Place, messages: int, idle: float) -> dict[str, tuple[float, float]]:
    """Return, of sending, draining and forwarding, microseconds of the servers' CPU and calls for each message."""
    figures: dict[str, tuple[float, float]] = {}

    async def cost(what: str, work: Callable[[], Awaitable[None]]) -> None:
        calls, began, before = place.calls(), time.monotonic(), place.cpu()
        await work()
        cpu = place.cpu() - before - idle * (time.monotonic() - began)
        figures[what] = cpu / messages * 1e6, (place.calls() - calls) / messages

    async def handle(beyond: Mapping[str, str]) -> None:
        done = trio.Event()
        async with open_system(Child(partial(Counting, messages, done, beyond)), broker=place.url) as system:
            await done.wait()
            await wait_backlog(system.broker, SOURCES, 0)
            if beyond:
                await wait_backlog(system.broker, BEYOND, messages)

    async with open_broker(place.url) as broker:
        await cost("send", lambda: send(broker, messages))
        await cost("drain", lambda: handle({}))
        await send(broker, messages)
        await cost("forward", lambda: handle(dict(zip(SOURCES, BEYOND[1:] + BEYOND[:1], strict=True))))
    place.forget()
    return figures


async def compare(messages: int, repeat: int) -> None:
    cpu: dict[tuple[str, str], list[float]] = defaultdict(list)
    calls: dict[tuple[str, str], list[float]] = defaultdict(list)
    with one_server() as server, cluster() as fleet:
        idle: dict[str, float] = {}
        for place in (server, fleet):
            await measure(place, FIRST, 0)
            idle[place.name] = await idle_cpu(place)
        for number in range(repeat):
            for place in (server, fleet) if number % 2 else (fleet, server):
                for what, (cost, called) in (await measure(place, messages, idle[place.name])).items():
                    cpu[what, place.name].append(cost)
                    calls[what, place.name].append(called)
    print(
        "| of each message, µs of the servers' CPU | one server | three primaries | ratio of the least | of a round |"
        " calls for 1,000 |"
    )
    print("|---|---|---|---|---|---|")
    for what in ("send", "drain", "forward"):
        one, three = (cpu[what, name] for name in ("one server", "cluster"))
        ratio, paired = min(three) / min(one), statistics.median(b / a for a, b in zip(one, three, strict=True))
        called = " and ".join(
            f"{1000 * statistics.median(calls[what, name]):.1f}" for name in ("one server", "cluster")
        )
        print(f"| {what} | {shown(one)} | {shown(three)} | {ratio:.2f} | {paired:.2f} | {called} |")
    plain, forwarded = (min(cpu[what, "cluster"]) for what in ("drain", "forward"))
    print(f"\nIdle, the servers use {idle['one server'] * 1e3:.1f} and {idle['cluster'] * 1e3:.1f} ms of CPU a second.")
    print(
        f"On the cluster, a message that sends one to another slot costs {forwarded / plain:.2f} × one that does not."
    )


def shown(figures: Sequence[float]) -> str:
    return f"{statistics.median(figures):.1f} ({min(figures):.1f} to {max(figures):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description="What a message costs the servers, on one server and on a cluster.")
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=15)
    args = parser.parse_args()
    trio.run(compare, args.messages, args.repeat)


if __name__ == "__main__":
    main()
