"""The metrics of a broker: what waits in its sources, for how long, and how many nodes read them.

They are the same whichever program asks, so one program exports them: `actorwork metrics --broker URL --listen …`, or
the monitor of one node, under /metrics/broker.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import trio

from actorwork.inspection.gathering import gather
from actorwork.inspection.routes import FreshRoute
from actorwork.settings import identity
from actorwork.telemetry.metrics.registry import MOST_OF_ANY, Registry
from actorwork.telemetry.metrics.rendering import rendered
from actorwork.telemetry.metrics.table import BROKER_TABLE
from actorwork.telemetry.monitor import Answer, Request

if TYPE_CHECKING:
    from actorwork.abc import Broker
    from actorwork.inspection.gathering import Gathered
    from actorwork.policy.reports import Counts


async def broker_metrics(broker: Broker) -> Registry:
    """Read the metrics of a broker. Raises `BrokerError`.

    Costs a few commands, and one for each actor of each source, at most a thousand; two where actors share a source.
    """
    gathered = await gather(broker)
    registry = Registry(BROKER_TABLE)
    alive = {node.id for node in gathered.nodes if not node.has_lost_lease}
    registry.family("actorwork_nodes").set((), len(alive))
    counts = {one.source: one for one in await broker.reports.count(gathered.sources)}
    async with trio.open_nursery() as nursery:
        for source, title in _pairs(gathered)[:MOST_OF_ANY]:
            nursery.start_soon(_read_pair, broker, registry, gathered, counts[source], title)
    for source, actors in gathered.readers.items():
        # A message that is delayed, or dead, is not known to belong to one of several actors.
        actor = actors[0] if len(actors) == 1 else ""
        messages = registry.family("actorwork_source_messages")
        messages.set((source, actor, "delayed"), counts[source].delayed)
        messages.set((source, actor, "dead"), counts[source].dead)
    readers = Counter[tuple[str, str]]()
    for source, title in _pairs(gathered):
        nodes = {place.node for place in gathered.by_source.get(source, ()) if place.part.title == title}
        readers[source, title] = len(nodes & alive)
    registry.family("actorwork_source_readers").replace(readers)
    return registry


async def _read_pair(broker: Broker, registry: Registry, gathered: Gathered, counts: Counts, title: str) -> None:
    source, group = counts.source, identity(title)
    is_shared = len(gathered.readers[source]) > 1
    backlog = await broker.backlog(source, group) if is_shared else counts.backlog
    oldest = await broker.oldest(source, group)
    held = gathered.held(place for place in gathered.by_source.get(source, ()) if place.part.title == title)
    in_hand = min(backlog, sum(holder.message.source == source for holder in held))
    messages = registry.family("actorwork_source_messages")
    messages.set((source, title, "ready"), backlog - in_hand)
    messages.set((source, title, "in_hand"), in_hand)
    registry.family("actorwork_source_oldest_seconds").set((source, title), oldest or 0.0)


def _pairs(gathered: Gathered) -> list[tuple[str, str]]:
    return [(source, title) for source, titles in gathered.readers.items() for title in titles]


class BrokerRoute(FreshRoute[Registry]):
    """Answers requests for the metrics of a broker, in the threads of a monitor."""

    async def read(self, broker: Broker) -> Registry:
        return await broker_metrics(broker)

    def answer(self, found: Registry, request: Request) -> Answer:
        content_type, text = rendered(found.read(), request.headers.get("accept", ""))
        return Answer(text, content_type=content_type)
