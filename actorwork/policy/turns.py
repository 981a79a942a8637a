"""Which priority is next while messages of several priorities wait.

The most urgent level goes first. So that the others do not starve, a level that was chosen `FAVOURS` times in a row
while less urgent messages waited lets one of those go first; the same rule decides which.

    CRITICAL, HIGH and LOW always waiting:    8 × CRITICAL, HIGH, 8 × CRITICAL, HIGH, …, and after 8 × HIGH one LOW

The count of a level restarts when a less urgent one is chosen while it has nothing waiting: a rare urgent message goes
first at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

FAVOURS: Final = 8
"""How many messages of one level go first in a row while less urgent ones wait."""


class FairPriority:
    """Counts how often each level was chosen in a row. Not frozen, since it is called for every message."""

    __slots__ = ("_favoured",)

    def __init__(self, levels: int) -> None:
        self._favoured = [0] * levels

    def next(self, waiting: Sequence[int]) -> int:
        """Return the next level. `waiting` are the levels in which messages wait, the most urgent first."""
        favoured = self._favoured
        chosen = waiting[0]
        if len(waiting) > 1:
            for level in waiting:
                chosen = level
                if favoured[level] < FAVOURS and level != waiting[-1]:
                    favoured[level] += 1
                    break
        for level in range(chosen):
            favoured[level] = 0
        return chosen
