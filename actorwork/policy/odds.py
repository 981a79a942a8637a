"""Which of many nodes tries to fire a trigger at once, at a nominal time that all of them know.

The broker decides which node fires; the others cost it a script each, all in the same millisecond. So a node tries at
once with the odds that its own history suggests, and otherwise about a second later, spread over a second: then it
finds out, as a rule, that the time is decided.

    it has fired               it tries at once, each time
    another one was faster     after `PATIENCE` times in a row a fifth less often, each time, down to `LEAST`

So those try at once that have fired lately, a dozen at most, and of many others one in 128; no node counts the others.
If all that try have died, a time fires up to a second and a half late, once: the node that fires it then tries at once
from there on.
"""

from __future__ import annotations

from typing import Final

LEAST: Final = 1 / 128
PATIENCE: Final = 8
"""How often in a row another node may be faster without an effect."""
FEWER: Final = 0.8
LATER: Final = 1000
"""Milliseconds by which a try is put off, give or take half."""


class Odds:
    """The odds of one trigger at one node."""

    def __init__(self) -> None:
        self.odds = 1.0
        self._lost = 0

    def __repr__(self) -> str:
        return f"<Odds {self.odds:.3f}>"

    def has_turn(self, chance: float) -> bool:
        """Return whether to try now; `chance` is a random number, at least 0 and less than 1."""
        return chance < self.odds

    def later(self, chance: float) -> int:
        """Return in how many milliseconds to try, if not now; `chance` as above."""
        return round(LATER * (0.5 + chance))

    def won(self) -> None:
        """Note that this node has fired."""
        self.odds = 1.0
        self._lost = 0

    def lost(self) -> None:
        """Note that another node was faster."""
        self._lost += 1
        if self._lost > PATIENCE:
            self.odds = max(LEAST, FEWER * self.odds)
