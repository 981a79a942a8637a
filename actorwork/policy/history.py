"""What a node has done in each minute of the last hour, as a report carries it.

    Past        the minutes as values: what was settled, what became a dead letter, the load, the memory
    Recorder    makes them of sums that grow, whenever its owner passes these
    written     as text: of a thousand reports, JSON numbers would cost a third of the time to read them
    summed      those of many nodes, minute by minute

So a chart needs no other program and no command at the broker beside the reports. What a node knows ends with it: of
an hour in which nodes came and went, what the dead ones did is missing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

import attrs

from actorwork.shown import Value

MINUTES: Final = 60
LONGEST: Final = 2000
"""Characters of the text, at most."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Past(Value):
    """The minutes up to `minute` (since the epoch, by the broker's clock), oldest first; the last one is not over.

    `settled` and `dead` count messages; `cpu` is in hundredths of a core, and `memory` in megabytes, as it was last.
    """

    minute: int
    settled: tuple[int, ...] = ()
    dead: tuple[int, ...] = ()
    cpu: tuple[int, ...] = ()
    memory: tuple[int, ...] = ()


@attrs.define(eq=False)
class _Minute:
    number: int
    settled: int = 0
    dead: int = 0
    cpu: float = 0.0
    memory: int = 0


class Recorder:
    """Puts what is new in growing sums to the minute in which its owner passes them."""

    def __init__(self) -> None:
        self._minutes: deque[_Minute] = deque(maxlen=MINUTES)
        self._last: tuple[int, int, float] | None = None

    def __repr__(self) -> str:
        return f"<recorder of {len(self._minutes)} minutes>"

    def note(self, at: float, *, settled: int, dead: int, cpu: float, memory: int) -> Past:
        """Take the sums so far (`cpu` in seconds of a core) and the memory in bytes; return the past up to now."""
        number = int(at // 60)
        if not self._minutes or number > self._minutes[-1].number:
            # Of a node that was not asked for a while, the minutes between have nothing.
            first = number if not self._minutes else max(self._minutes[-1].number + 1, number - MINUTES + 1)
            self._minutes.extend(_Minute(one) for one in range(first, number + 1))
        latest = self._minutes[-1]
        before = self._last or (0, 0, 0.0)
        # A sum that is less than before has begun anew.
        latest.settled += settled - before[0] if settled >= before[0] else settled
        latest.dead += dead - before[1] if dead >= before[1] else dead
        latest.cpu += max(0.0, cpu - before[2])
        latest.memory = memory
        self._last = settled, dead, cpu
        return Past(
            minute=latest.number,
            settled=tuple(one.settled for one in self._minutes),
            dead=tuple(one.dead for one in self._minutes),
            cpu=tuple(round(one.cpu / 0.6) for one in self._minutes),
            memory=tuple(round(one.memory / 1e6) for one in self._minutes),
        )


def written(past: Past) -> str:
    """Return a past as text."""
    series = (past.settled, past.dead, past.cpu, past.memory)
    while True:
        text = ";".join((str(past.minute), *(",".join(map(str, one)) for one in series)))
        if len(text) <= LONGEST:
            return text
        # No program has numbers this large, but a report has its bound.
        series = tuple(one[-(len(one) // 2) :] if len(one) > 1 else () for one in series)


def read(text: str) -> Past | None:
    """Return the past that a text says; None for one that says none, as any program may have written it."""
    try:
        minute, *series = text.split(";")
        settled, dead, cpu, memory = (tuple(map(int, one.split(",")[-MINUTES:])) if one else () for one in series[:4])
        found = Past(minute=int(minute), settled=settled, dead=dead, cpu=cpu, memory=memory)
    except ValueError:
        return None
    return found if all(number >= 0 for one in (settled, dead, cpu, memory) for number in one) else None


def summed(pasts: Iterable[Past], now: float) -> Past:
    """Return the sums of many nodes for the hour up to `now`; the memory too, which each has at the same time."""
    end = int(now // 60)
    sums = {name: [0] * MINUTES for name in ("settled", "dead", "cpu", "memory")}
    for past in pasts:
        for name, total in sums.items():
            values: tuple[int, ...] = getattr(past, name)
            # The place of its last minute in the hour; what is later than now, or older than the hour, has none.
            last = MINUTES - 1 - (end - past.minute)
            for back, value in enumerate(reversed(values)):
                if 0 <= last - back < MINUTES:
                    total[last - back] += value
    return Past(minute=end, **{name: tuple(total) for name, total in sums.items()})
