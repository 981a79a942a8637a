"""Going through dead letters page by page: there may be more of them than anybody wants in memory at once.

    pages     those that a selection means, in pages, each source oldest first
    edges     what was there at the beginning: how many, and where they end in each source

What is sent again may fail again, and comes back at the end: whoever replays stops at the edges, or never.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing
from typing import Final

import attrs

from actorwork.abc import DeadLetters
from actorwork.message import DeadLetter
from actorwork.policy.dead_letters import ALL, Selection

PAGE: Final = 500

Step = Callable[[], AbstractContextManager[object]]
"""Makes a scope around one wait for the broker."""


@attrs.frozen
class Snapshot:
    """How many letters a selection meant when it was looked, by source, and the last one of each."""

    counts: Mapping[str, int]
    last: Mapping[str, DeadLetter]

    @property
    def count(self) -> int:
        return sum(self.counts.values())


async def pages(
    letters: DeadLetters,
    selection: Selection = ALL,
    *,
    until: Snapshot | None = None,
    step: Step = contextlib.nullcontext[None],
) -> AsyncGenerator[Sequence[DeadLetter]]:
    """Yield what a selection means, in pages that are not empty; nothing that came after `until`.

    What is dropped or replayed between two pages does not matter. Close it (`aclosing`) if it is left early.
    """
    if until is not None:
        sources: Sequence[str] = sorted(until.last)
    elif selection.source is not None:
        sources = [selection.source]
    else:
        with step():
            sources = await letters.sources()
    for source in sources:
        last = None if until is None else until.last[source]
        after: str | None = None
        while True:
            with step():
                page = await letters.list(source, limit=PAGE, after=after)
            if not page:
                break
            after = page[-1].entry
            is_over = False
            if last is not None:
                known = [letter for letter in page if letter.at <= last.at]
                is_over = len(known) < len(page) or any(letter.entry == last.entry for letter in known)
                page = _up_to(last, known)
            found = [letter for letter in page if selection.has(letter)]
            if found:
                yield found
            if is_over:
                break


def _up_to(last: DeadLetter, page: Sequence[DeadLetter]) -> Sequence[DeadLetter]:
    for number, letter in enumerate(page, 1):
        if letter.entry == last.entry:
            return page[:number]
    return page


async def edges(
    letters: DeadLetters, selection: Selection = ALL, *, step: Step = contextlib.nullcontext[None]
) -> Snapshot:
    """Look how many letters a selection means now."""
    counts: dict[str, int] = {}
    last: dict[str, DeadLetter] = {}
    async with aclosing(pages(letters, selection, step=step)) as found:
        async for page in found:
            source = page[-1].source
            counts[source] = counts.get(source, 0) + len(page)
            last[source] = page[-1]
    return Snapshot(counts, last)
