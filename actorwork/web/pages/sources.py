"""Sources: what waits where, since when, who reads it, and what is paused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import anyio

from actorwork.abc import Broker
from actorwork.message import Pause
from actorwork.policy.pauses import withheld
from actorwork.settings import default_source, identity
from actorwork.state.known_actors import known_actors
from actorwork.web.pages.pausing import pause_in_json
from actorwork.web.request import Page, Sight

MOST: Final = 2000
"""So many sources are asked for; of the others, the page tells the number."""
AT_ONCE: Final = 200


async def gather(calls: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Make many calls, some at a time."""
    waiting = iter(list(calls))

    async def work() -> None:
        for call in waiting:
            await call()

    async with anyio.create_task_group() as group:
        for _ in range(AT_ONCE):
            group.start_soon(work)


async def look(broker: Broker) -> tuple[list[dict[str, Any]], int]:
    """Return the sources of all actors that have run, those with the oldest messages first, and how many there are."""
    known = await known_actors(broker.values)
    readers: dict[str, list[str]] = {}
    for actor, sources in known.items():
        for source in sources:
            readers.setdefault(source, []).append(actor)
    dead = set(await broker.dead_letters.sources())
    for source in dead:
        readers.setdefault(source, [])
    pauses = await broker.pauses.list()
    rows: list[dict[str, Any]] = []

    async def row(source: str) -> None:
        rows.append(
            {
                "name": source,
                "label": label_of(source, readers[source]),
                "backlog": await broker.backlog(source),
                "oldest": await broker.oldest(source),
                "actors": sorted(readers[source]),
                "has_dead": source in dead,
                "pause": _pause_of(pauses, source, readers[source]),
            }
        )

    await gather(lambda source=source: row(source) for source in sorted(readers)[:MOST])
    rows.sort(key=lambda one: (-(one["oldest"] or 0), -one["backlog"], one["name"]))
    return rows, len(readers)


def label_of(source: str, actors: Iterable[str]) -> str:
    """Return the name of a source for people: of an actor's own source, `actor:TITLE`, as commands take it."""
    return next((f"actor:{actor}" for actor in actors if source == default_source(identity(actor))), source)


def _pause_of(pauses: Iterable[Pause], source: str, actors: Iterable[str]) -> dict[str, Any] | None:
    """Return the pause that holds a source back for every actor that reads it."""
    of_source = [one for one in pauses if one.kind in ("everything", "source") and one.name in ("", source)]
    if of_source:
        return pause_in_json(of_source[0])
    readers = list(actors)
    if readers and all(withheld(pauses, actor=actor, sources=[source]) for actor in readers):
        return next(pause_in_json(one) for one in pauses if one.kind == "actor" and one.name in readers)
    return None


async def view(sight: Sight) -> dict[str, Any]:
    """Show sources."""
    rows, total = await look(sight.broker)
    return {"sources": rows, "total": total, "limit": MOST}


PAGES = (Page("/sources", "Sources", "sources.html", view),)
