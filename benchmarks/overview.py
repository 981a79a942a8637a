"""How long an overview of a large system takes: 1,000 nodes, each with a report, and 10,000 sources.

    python benchmarks/overview.py [URL] [NODES] [SOURCES]

The reports are made up, and written to a broker of their own: a private Redis by default. Prints the best of three
looks, and how many commands it took at the broker.
"""

from __future__ import annotations

import sys
import time

import trio

from actorwork.abc import Broker
from actorwork.brokers import open_broker
from actorwork.inspection import Inspection
from actorwork.message import Envelope
from actorwork.policy.reports import HeldMessage, NodeReport, PartReport, written
from actorwork.testing.redis_server import open_redis_server

PARTS = 10
"""Actors of each node."""


def report_of(number: int, sources: int, now: float) -> NodeReport:
    """Make up the report of a node that reads its share of the sources."""
    held = HeldMessage(what=f"{number:016x}", source="s0", since=now - number % 60)
    actors = tuple(
        PartReport(
            title=f"actor {actor}",
            sources=tuple(f"s{source}" for source in range((number * PARTS + actor) % sources, sources, 1000 * PARTS)),
            waiting=actor,
            capacity=64,
            handling=1,
            in_hand=(held,),
        )
        for actor in range(PARTS)
    )
    return NodeReport(
        name=f"host{number}:{number}",
        host=f"host{number}",
        pid=number,
        version="1.0",
        started=now - 1000,
        at=now,
        lease=10,
        memory=50_000_000,
        tree=PartReport(title="root", kind="one_for_one", children=actors),
    )


async def fill(broker: Broker, nodes: int, sources: int) -> int:
    """Write the reports and a message into each source; return the bytes of all reports."""
    now, _ = await broker.reports.nodes()
    size = 0
    for number in range(nodes):
        data = written(report_of(number, sources, now))
        size += len(data)
        await broker.reports.write(f"{number:032x}", data, now=now, ttl=600)
    for start in range(0, sources, 1000):
        some = range(start, min(sources, start + 1000))
        await broker.publish([Envelope(f"s{number}", f"m{number}", b"{}") for number in some])
    return size


async def measure(url: str, nodes: int, sources: int) -> float:
    """Print and return the best time of three looks, in seconds."""
    async with open_broker(url) as broker:
        size = await fill(broker, nodes, sources)
        look = Inspection(broker)
        overview, best = await look.overview(), float("inf")
        for _ in range(3):
            began = time.perf_counter()
            overview = await look.overview()
            best = min(best, time.perf_counter() - began)
        print(
            f"{nodes:,} nodes ({size / 1e6:.1f} MB), {sources:,} sources: {best:.2f} s, {overview.commands} commands;"
            f" backlog {overview.backlog:,}, {overview.handling:,} in hand"
        )
    return best


def main() -> None:
    url, nodes, sources = [*sys.argv[1:], "", "", ""][:3]
    size = int(nodes or 1000), int(sources or 10_000)
    if url:
        trio.run(measure, url, *size)
        return
    with open_redis_server() as server:
        trio.run(measure, server.url, *size)


if __name__ == "__main__":
    main()
