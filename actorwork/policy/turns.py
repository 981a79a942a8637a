"""Whose turn it is, where messages of several priorities wait.

The most urgent level goes first. So that the others do not starve, a level that was favoured `FAVOURS` times in a row,
while something less urgent waited, lets one of those go before it; which one, is decided among them by the same rule.

    CRITICAL, HIGH and LOW always waiting:    8 × CRITICAL, HIGH, 8 × CRITICAL, HIGH, …, and after 8 × HIGH one LOW

A level that has nothing waiting when another one has its turn begins anew: who comes rarely goes first at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

FAVOURS: Final = 8
"""How many messages of one level go before less urgent ones in a row."""


class FairPriority:
    """Remembers who was favoured. Not frozen, since it is asked for every message."""

    __slots__ = ("_favoured",)

    def __init__(self, levels: int) -> None:
        self._favoured = [0] * levels

    def next(self, waiting: Sequence[int]) -> int:
        """Return whose turn it is among the levels in which something waits, given the most urgent first."""
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
