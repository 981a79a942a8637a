"""How many deliveries an actor may hold beyond those in flight.

What lies in one node's mailbox cannot run on another node, so an actor holds no more than it will have handled within
`AHEAD` seconds, and never less than it can run at once. For a handler that takes 10 µs, the reader fills the whole
mailbox, which makes reading in large batches possible; for a handler that takes five seconds, it brings only the
delivery in flight.

Urgent deliveries (a priority above NORMAL) have a few places more: the reader brings them even if there is no room for
others, and they overtake those in the mailbox.
"""

from __future__ import annotations

from typing import Final

AHEAD: Final = 0.1
"""Seconds of work that may wait in a mailbox fed by a broker."""
FIRST_GUESS: Final = 0.05
"""Seconds that a delivery is assumed to take before one has been measured: without it the first read would hoard."""
URGENT: Final = 8
"""For how many urgent deliveries there is room at least, when there is none for others."""


def prefetch(*, seconds_each: float, concurrency: int, capacity: int) -> int:
    """Return how many deliveries to hold, in flight and waiting, if each takes `seconds_each`."""
    if seconds_each < 1e-9:
        return max(concurrency, capacity)
    ahead = int(AHEAD * concurrency / seconds_each)
    return max(concurrency, min(capacity, ahead + concurrency))


def urgent_room(concurrency: int) -> int:
    """Return how many urgent deliveries to hold beyond the others."""
    return max(concurrency, URGENT)


def smoothed(average: float, sample: float, *, weight: float = 0.05) -> float:
    """Return the moving average after one more sample; a sample far above it counts at once.

    When handlers become slow, hoarding must stop quickly; when they become fast, it may grow back gradually.
    """
    if sample > average * 8:
        return sample
    return average + (sample - average) * weight
