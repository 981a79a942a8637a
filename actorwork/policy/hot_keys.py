"""Which keys have the most messages, by a bounded number of counters (Misra and Gries).

A key that is not counted yet gets a free counter. Where none is free, every counter goes down by one, and those at zero
become free. So of N messages a key is counted too low by N / (`COUNTERS` + 1) at most, and never too high: a key with a
larger share than that is always among those that are counted. On average a message costs one step.

Messages are counted in windows of `WINDOW` seconds, so that a key which was hot an hour ago is not called so now. Where
no key has more than one message in a hundred, nothing is hot.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

COUNTERS: Final = 64
WINDOW: Final = 60.0
"""Seconds. A report covers the last one to two of these."""
SHARE: Final = 0.01
"""The part of all messages that a key has at least, to be hot."""
LEAST: Final = 3
"""Messages that a hot key has at least."""


class HotKeys:
    """Counts messages by their keys, in the last one to two windows. Times are of any clock that is monotonic."""

    __slots__ = ("_before", "_before_total", "_counts", "_total", "_until")

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._total = 0
        self._before: dict[str, int] = {}
        self._before_total = 0
        self._until = -math.inf

    def __repr__(self) -> str:
        return f"<HotKeys: {len(self._counts)} of {self._total} messages>"

    def note(self, key: str, now: float) -> None:
        """Count a message."""
        if now >= self._until:
            self._turn(now)
        self._total += 1
        counts = self._counts
        if key in counts:
            counts[key] += 1
        elif len(counts) < COUNTERS:
            counts[key] = 1
        else:
            self._counts = {one: count - 1 for one, count in counts.items() if count > 1}

    def hottest(self, most: int, now: float) -> Sequence[tuple[str, int]]:
        """Return the hot keys, each with how many messages it had at least, the hottest first."""
        if now >= self._until:
            self._turn(now)
        total = self._total + self._before_total
        sums = dict(self._before)
        for key, count in self._counts.items():
            sums[key] = sums.get(key, 0) + count
        least = max(LEAST, SHARE * total)
        found = [(key, count) for key, count in sums.items() if count >= least]
        found.sort(key=lambda one: (-one[1], one[0]))
        return found[:most]

    def _turn(self, now: float) -> None:
        """Begin a window; forget the last one if nothing was counted for longer than that."""
        is_next = now < self._until + WINDOW
        self._before, self._before_total = (self._counts, self._total) if is_next else ({}, 0)
        self._counts, self._total = {}, 0
        self._until = now + WINDOW
