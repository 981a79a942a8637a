"""Exports a source of a broker as lines, and imports such lines, at another broker or the same.

Reading goes from where messages come from to where they go: those behind others with their key, then the streams, then
what is held back, so that a message that moves meanwhile is read at least once. They are written in the order in which
they can be sent: a message that has the turn of its key before those that wait for it.

The marks of ids are read before all messages, and written after them. A message that is sent meanwhile then has no mark
in the export, and a later one brings it. Marks are only sound while nothing but producers touches the source, so they
are left out unless it is paused, at the beginning and at the end.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Final, cast

import attrs

from actorwork.abc import Broker, Where
from actorwork.errors import BrokerError
from actorwork.message import FLOW, Envelope
from actorwork.policy.copying import (
    VERSION,
    is_retry_with_key,
    letter_line,
    letter_of,
    line_of,
    message_line,
    message_of,
    parts_of,
)
from actorwork.records import DeadLetter, SeenIds
from actorwork.shown import Value

PAGE: Final = 200
_IN_MEMORY: Final = 8 * 1024 * 1024

Step = Callable[[], AbstractContextManager[object]]
"""Makes a context manager around one wait for the broker."""


@attrs.frozen(eq=False, repr=False)
class Copied(Value):
    """What was written or read: messages, dead letters and marks in all, and how many of the former two were new.

    `steps` of runs are left out: a run is not copied with them. `has_marks` is whether the source was paused all along,
    so that the ids that it has seen are in the file. `is_whole` is whether the file had its end.
    """

    source: str
    messages: int = 0
    dead: int = 0
    seen: int = 0
    new_messages: int = 0
    new_dead: int = 0
    steps: int = 0
    has_marks: bool = False
    is_whole: bool = True


async def export_source(
    broker: Broker, source: str, write: Callable[[str], object], *, step: Step = contextlib.nullcontext
) -> Copied:
    """Write all that a source holds, as lines; return how much that was. If cancelled, the last line is missing."""
    counts = Counter[str]()
    write(json.dumps({"actorwork": VERSION, "source": source}))
    with step():
        was_paused = await _is_paused(broker, source)
        seen = await broker.copies.seen(source) if was_paused else ()

    def put(target: Callable[[str], object], envelope: Envelope) -> None:
        if FLOW in envelope.headers:
            counts["steps"] += 1
            return
        counts["messages"] += 1
        target(message_line(envelope))

    with _lines() as behind, _lines() as later:
        async for envelope in _messages(broker, source, "behind", step):
            put(_to(behind), envelope)
        async for envelope in _messages(broker, source, "ready", step):
            put(write, envelope)
        async for envelope in _messages(broker, source, "delayed", step):
            if is_retry_with_key(envelope):
                # At once: held back it would not have the turn of its key there, and those behind it would overtake it.
                put(write, attrs.evolve(envelope, at=None))
            else:
                put(_to(later), envelope)
        for file in (behind, later):
            file.seek(0)
            for line in file:
                write(line.rstrip("\n"))
    async for letter in _letters(broker, source, step):
        counts["dead"] += 1
        write(letter_line(letter))
    with step():
        has_marks = was_paused and await _is_paused(broker, source)
    for one in seen if has_marks else ():
        counts["seen"] += 1
        write(line_of("seen", {"stem": one.stem, "ranges": one.ranges or None}))
    write(json.dumps({"end": {name: counts[name] for name in ("messages", "dead", "seen")}}))
    return Copied(
        source, counts["messages"], counts["dead"], counts["seen"], steps=counts["steps"], has_marks=has_marks
    )


async def import_source(
    broker: Broker, lines: Iterable[str], *, source: str | None = None, step: Step = contextlib.nullcontext
) -> Copied:
    """Add what lines describe, under the name that they have, or under another; return how much that was.

    What the source has seen within a day is not added again, so an import that was cut off may be repeated. Raises
    `BrokerError` for lines that are not those of an export, and names the first of them; what came before is added.
    """
    counts = Counter[str]()
    pages: dict[str, list[Any]] = {"message": [], "dead": [], "seen": []}
    name, end = source, cast("Mapping[str, int] | None", None)

    async def flush(kind: str) -> None:
        page, pages[kind] = pages[kind], []
        if not page or name is None:
            return
        with step():
            if kind == "message":
                counts["new_messages"] += await broker.publish(page)
            elif kind == "dead":
                counts["new_dead"] += await broker.copies.add_letters(name, page)
            else:
                await broker.copies.add_seen(name, page)

    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        kind, facts = parts_of(number, line)
        if number == 1:
            if kind != "actorwork" or facts["actorwork"] != VERSION:
                raise BrokerError(f"line 1 wants the beginning of an export of version {VERSION}, got {line[:80]!r}")
            name = name or str(facts.get("source", ""))
            continue
        if kind == "end":
            end = facts
            continue
        if kind not in pages:
            continue  # Of a later version.
        try:
            pages[kind].append(_read(kind, name or "", facts))
        except (KeyError, TypeError, ValueError) as error:
            raise BrokerError(f"line {number} is no {kind} ({type(error).__name__}: {error}): {line[:80]!r}") from error
        counts[kind] += 1
        # In the order of the lines: a mark that came before its message would refuse it.
        for other, page in tuple(pages.items()):
            if len(page) >= (PAGE if other == kind else 1):
                await flush(other)
    for kind in pages:
        await flush(kind)
    found = {"messages": counts["message"], "dead": counts["dead"], "seen": counts["seen"]}
    return Copied(
        name or "",
        counts["message"],
        counts["dead"],
        counts["seen"],
        new_messages=counts["new_messages"],
        new_dead=counts["new_dead"],
        has_marks=bool(counts["seen"]),
        is_whole=end is not None and all(end.get(kind) == count for kind, count in found.items()),
    )


def _read(kind: str, source: str, facts: Mapping[str, Any]) -> object:
    if kind == "message":
        return message_of(source, facts)
    if kind == "dead":
        return letter_of(source, facts)
    ranges = tuple((int(first), int(count)) for first, count in facts.get("ranges", ()))
    return SeenIds(str(facts["stem"]), ranges)


async def _is_paused(broker: Broker, source: str) -> bool:
    return any(
        one.kind == "everything" or (one.kind == "source" and one.name == source) for one in await broker.pauses.list()
    )


async def _messages(broker: Broker, source: str, where: Where, step: Step) -> AsyncIterator[Envelope]:
    after: str | None = ""
    while after is not None:
        with step():
            page, after = await broker.copies.messages(source, where, after)
        for envelope in page:
            yield envelope


async def _letters(broker: Broker, source: str, step: Step) -> AsyncIterator[DeadLetter]:
    after: str | None = None
    while True:
        with step():
            page = await broker.dead_letters.list(source, limit=PAGE, after=after)
        for letter in page:
            yield letter
        if len(page) < PAGE:
            return
        after = page[-1].entry


def _lines() -> SpooledTemporaryFile[str]:
    return SpooledTemporaryFile(_IN_MEMORY, mode="w+", encoding="utf-8")


def _to(file: IO[str] | SpooledTemporaryFile[str]) -> Callable[[str], object]:
    return lambda line: file.write(f"{line}\n")
