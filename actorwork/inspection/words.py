"""Times, durations and progress in the words of every command and page."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from actorwork.records import Progress


def moment(at: float) -> str:
    """Return a time, given in seconds since the epoch, as it is written everywhere: `2026-01-31T12:00:00Z`."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def duration(length: float) -> str:
    """Write a duration in the largest units that make it up: `1d12h`, `90ms`."""
    left, parts = round(length * 1000), list[str]()
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def source_in_words(source: str, actors: Iterable[str]) -> str:
    """Return the name of a source for people: of an actor's own source, `actor:TITLE`, as commands take it."""
    from actorwork.settings import default_source, identity

    return next((f"actor:{actor}" for actor in actors if source == default_source(identity(actor))), source)


def how_far(one: Progress | None) -> str:
    """Return what a handler has reported of its progress: `3/10 loading`."""
    if one is None:
        return ""
    total = "" if one.total is None else f"/{one.total:g}"
    return f"{one.done:g}{total} {one.note}".rstrip()


def progress_in_json(one: Progress) -> dict[str, Any]:
    """Return what a handler has reported of its progress as JSON."""
    return {"done": one.done, "total": one.total, "note": one.note, "state": one.state, "meta": dict(one.meta)}
