"""How long an overview of a large system takes: 1,000 nodes, each with a report, and 10,000 sources.

    python benchmarks/overview.py [URL] [NODES] [SOURCES]

The reports are made up, and written to a broker of their own: a private Redis by default. Prints the best of three
looks, in seconds and in CPU time (which other load disturbs less), how many commands it took at the broker, and the
size of the page.
"""

from __future__ import annotations

import sys
import time

import httpx
import trio

from actorwork.abc import Broker
from actorwork.brokers import open_broker
from actorwork.inspection import Inspection
from actorwork.message import Envelope
from actorwork.policy import history
from actorwork.policy.reports import HeldMessage, NodeReport, PartReport, written
from actorwork.testing.redis_server import open_redis_server
from actorwork.web import Access, app

PARTS = 10
"""Actors of each node."""
PAST = history.Past(
    minute=29_000_000,
    settled=(1234,) * history.MINUTES,
    dead=(0, 1) * (history.MINUTES // 2),
    cpu=(45,) * history.MINUTES,
    memory=(50,) * history.MINUTES,
)
"""The last hour of each node."""


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
        history=history.written(PAST),
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


async def size_of_page(broker: Broker) -> int:
    """Return the bytes of the overview as the dashboard draws it."""
    dashboard = app(broker, access=lambda _: Access("ann", "admin"))
    transport = httpx.ASGITransport(app=dashboard)
    async with dashboard.open(), httpx.AsyncClient(transport=transport, base_url="http://localhost") as browser:
        answer = await browser.get("/overview", timeout=60)
        answer.raise_for_status()
        return len(answer.content)


async def measure(url: str, nodes: int, sources: int) -> float:
    """Print and return the best time of three looks, in seconds."""
    async with open_broker(url) as broker:
        size = await fill(broker, nodes, sources)
        look = Inspection(broker)
        overview, best, least = await look.overview(), float("inf"), float("inf")
        for _ in range(3):
            began, cpu = time.perf_counter(), time.process_time()
            overview = await look.overview()
            best, least = min(best, time.perf_counter() - began), min(least, time.process_time() - cpu)
        page = await size_of_page(broker)
        print(
            f"{nodes:,} nodes ({size / 1e6:.1f} MB), {sources:,} sources: {best:.2f} s, {least:.2f} s of CPU,"
            f" {overview.commands} commands; a page of {page / 1000:.0f} kB;"
            f" backlog {overview.backlog:,}, {overview.handling:,} running"
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
