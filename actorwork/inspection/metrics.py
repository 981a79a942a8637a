"""The metrics of a broker: what waits in its sources, for how long, and how many nodes read them.

They are the same whichever program asks, so one program exports them: `actorwork metrics --broker URL --listen …`, or
the monitor of one node, under /metrics/broker. What was read counts for `FRESH` seconds, however many ask.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio

from actorwork.inspection.gathering import gather
from actorwork.settings import identity
from actorwork.telemetry.metrics.registry import MOST_OF_ANY, Registry
from actorwork.telemetry.metrics.rendering import rendered
from actorwork.telemetry.metrics.table import BROKER_TABLE
from actorwork.telemetry.monitor import Answer, Request

if TYPE_CHECKING:
    from actorwork.abc import Broker
    from actorwork.inspection.gathering import Gathered
    from actorwork.policy.reports import Counts

FRESH: Final = 5.0
PATIENCE: Final = 5.0
"""Seconds that the broker may take."""
_TEXT: Final = "text/plain; charset=utf-8"


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
    for source, actors in _readers(gathered).items():
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
    is_shared = len(_readers(gathered)[source]) > 1
    backlog = await broker.backlog(source, group) if is_shared else counts.backlog
    oldest = await broker.oldest(source, group)
    held = gathered.held(place for place in gathered.by_source.get(source, ()) if place.part.title == title)
    in_hand = min(backlog, sum(holder.message.source == source for holder in held))
    messages = registry.family("actorwork_source_messages")
    messages.set((source, title, "ready"), backlog - in_hand)
    messages.set((source, title, "in_hand"), in_hand)
    registry.family("actorwork_source_oldest_seconds").set((source, title), oldest or 0.0)


def _readers(gathered: Gathered) -> dict[str, list[str]]:
    """Return the titles of the actors that read each source, or have read it."""
    found: dict[str, set[str]] = {source: set() for source in gathered.sources}
    for title, sources in gathered.known.items():
        for source in sources:
            found[source].add(title)
    for source, places in gathered.by_source.items():
        found[source] |= {place.part.title for place in places}
    return {source: sorted(titles) for source, titles in found.items()}


def _pairs(gathered: Gathered) -> list[tuple[str, str]]:
    return [(source, title) for source, titles in _readers(gathered).items() for title in titles]


class BrokerRoute:
    """Answers requests for the metrics of a broker, in the threads of a monitor; the loop that made it asks the broker.

    `broker` returns it, and may raise while there is none.
    """

    def __init__(self, broker: Callable[[], Broker], clock: Callable[[], float] = time.monotonic) -> None:
        self._broker = broker
        self._clock = clock
        self._token = trio.lowlevel.current_trio_token()
        self._lock = threading.Lock()
        """Held by the one thread that asks: the loop may be blocked, and more of them would only pile up."""
        self._read_at = 0.0
        self._registry: Registry | None = None

    def __repr__(self) -> str:
        return f"<route to the metrics of a broker, {'' if self._registry else 'not '}read>"

    def __call__(self, request: Request) -> Answer:
        if self._registry is None or self._clock() - self._read_at >= FRESH:
            if not self._lock.acquire(blocking=False):
                return Answer(b"the broker is being asked\n", 503, _TEXT)
            try:
                self._registry = trio.from_thread.run(self._ask, trio_token=self._token)
                self._read_at = self._clock()
            except Exception as error:  # noqa: BLE001 - whatever it is, the answer is that there are no metrics now
                return Answer(f"{type(error).__name__}: {error}\n".encode(errors="replace"), 503, _TEXT)
            finally:
                self._lock.release()
        content_type, text = rendered(self._registry.read(), request.headers.get("accept", ""))
        return Answer(text, content_type=content_type)

    async def _ask(self) -> Registry:
        with trio.fail_after(PATIENCE):
            return await broker_metrics(self._broker())
