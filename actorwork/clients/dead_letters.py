"""Reading dead letters page by page: there may be too many of them for memory.

    pages       the letters of a selection, in pages, each source oldest first
    snapshot    how many letters there are now, and which is the last in each source
    act_on      replay or drop the letters of a page

A replayed message may fail again and come back at the end: a replay must stop at its snapshot, or it may never end.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing
from typing import Final

import attrs

from actorwork.abc import DeadLetters
from actorwork.errors import BrokerError
from actorwork.policy.dead_letters import ALL, Selection
from actorwork.records import DeadLetter

PAGE: Final = 500

Step = Callable[[], AbstractContextManager[object]]
"""Makes a context manager around one wait for the broker."""


@attrs.frozen
class Snapshot:
    """How many letters a selection had at one moment, by source, and the last one of each source."""

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
    """Yield the letters of a selection in pages that are not empty; none that came after `until`.

    Letters may be dropped or replayed between two pages. If the loop is left early, close the generator (`aclosing`).
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


async def take_snapshot(
    letters: DeadLetters, selection: Selection = ALL, *, step: Step = contextlib.nullcontext[None]
) -> Snapshot:
    """Count the letters of a selection now."""
    counts: dict[str, int] = {}
    last: dict[str, DeadLetter] = {}
    async with aclosing(pages(letters, selection, step=step)) as found:
        async for page in found:
            source = page[-1].source
            counts[source] = counts.get(source, 0) + len(page)
            last[source] = page[-1]
    return Snapshot(counts, last)


async def act_on(
    letters: DeadLetters,
    page: Sequence[DeadLetter],
    act: Callable[[DeadLetters, str, Sequence[str]], Awaitable[int]],
    problems: list[str],
    *,
    step: Step = contextlib.nullcontext[None],
) -> int:
    """Replay or drop the letters of a page, all of one source, in portions; return how many still existed.

    A refusal of one of them is added to `problems`, and keeps none of the others. Raises `BrokerError` for trouble that
    may pass.
    """
    count = 0
    for first in range(0, len(page), PAGE):
        source, names = page[0].source, [letter.entry for letter in page[first : first + PAGE]]
        try:
            with step():
                count += await act(letters, source, names)
        except BrokerError as error:
            if error.may_pass:
                raise
            for name in names:
                try:
                    with step():
                        count += await act(letters, source, [name])
                except BrokerError as refusal:
                    if refusal.may_pass:
                        raise
                    problems.append(str(refusal))
    return count
