"""The actors that have run at a broker, by title: so that a misspelt title is noticed where it is used.

A broker keeps messages for actors that have never started, and pauses of them, since a program may start later. A
misspelt title looks the same to it. So each node enters its actors here when it starts, in one shared value:

    {"<title>": {"sources": ["<source>", …], "seen": <seconds since the epoch>}, …}

A node whose actors are all there, as they are now, and were seen today, writes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from actorwork.abc import Values

NAME: Final = "actorwork:actors"
"""The name of the shared value."""
MOST: Final = 5000
"""Beyond this number the actors that were not seen for longest are forgotten."""
DAY: Final = 86400.0
ATTEMPTS: Final = 20

Known = Mapping[str, Sequence[str]]
"""The sources of each actor, by its title."""


async def known_actors(values: Values) -> Known:
    """Return the actors that have run at the broker, and their sources. Raises `BrokerError`."""
    entries, _ = await _read(values)
    return {title: entry["sources"] for title, entry in entries.items()}


async def enter_actors(values: Values, actors: Mapping[str, Iterable[str]], now: float) -> None:
    """Enter actors with their sources. Raises `BrokerError`."""
    wanted = {title: sorted(sources) for title, sources in actors.items()}
    for _ in range(ATTEMPTS):
        entries, version = await _read(values)
        changed = {
            title: {"sources": sources, "seen": now}
            for title, sources in wanted.items()
            if title not in entries or entries[title]["sources"] != sources or now - entries[title]["seen"] > DAY
        }
        if not changed:
            return
        newest = sorted({**entries, **changed}.items(), key=lambda item: item[1]["seen"], reverse=True)[:MOST]
        # Another node may have entered its own in the meantime.
        if await values.set(NAME, json.dumps(dict(newest)).encode(), version=version) is not None:
            return


async def _read(values: Values) -> tuple[dict[str, Any], int]:
    kept = await values.get(NAME)
    if kept is None:
        return {}, 0
    try:
        found: Any = json.loads(kept.data)
        return {
            str(title): {"sources": [str(one) for one in entry["sources"]], "seen": float(entry["seen"])}
            for title, entry in found.items()
        }, kept.version
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}, kept.version  # An application's own value of this name, or damage: it is written anew.


def unknown_actor(title: str, known: Known) -> str | None:
    """Return what is wrong with the title of an actor that has not run, or None if it has."""
    if title in known:
        return None
    if not known:
        return f"no actor {title!r} has run at this broker, nor has any other actor"
    return f"no actor {title!r} has run at this broker; {near(title, known)}"


def unknown_source(source: str, known: Known) -> str | None:
    """Return what is wrong with a source from which no actor that has run here reads, or None."""
    sources = {one for of_actor in known.values() for one in of_actor}
    if source in sources:
        return None
    if source in known:
        return f"no actor that has run here reads the source {source!r}; the actor of this title is actor:{source}"
    if not known:
        return f"no actor that reads the source {source!r} has run at this broker, nor has any other actor"
    # Those that belong to one actor alone are named by its title.
    shown = {one for one in sources if not one.startswith("worker:")}
    return f"no actor that has run at this broker reads the source {source!r}; {near(source, shown)}"


def near(name: str, known: Iterable[str]) -> str:
    """Return the names that may have been meant, as part of a sentence."""
    # Imported here: only an error's text needs it.
    from difflib import get_close_matches  # noqa: PLC0415

    names = sorted(known)
    near = get_close_matches(name, names, n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(map(repr, near))}?"
    shown = ", ".join(map(repr, names[:10])) or "none"
    return f"known are {shown}{' and others' if len(names) > 10 else ''}"
