"""How many deliveries an actor may hold ahead of the one in hand.

What lies in one node's mailbox cannot run on another node, so an actor holds no more than it will have handled
within `AHEAD` seconds, and never less than it can run at once. A handler of 10 µs is given the whole mailbox,
which is what makes reading in large batches possible; a handler of five seconds is given the one it works on.

Urgent deliveries (a priority above NORMAL) have a few places more: they are brought though there is no room for others,
and go before them in the mailbox.
"""

from __future__ import annotations

from typing import Final

AHEAD: Final = 0.1
"""Seconds of work that may wait in a mailbox fed by a broker."""
FIRST_GUESS: Final = 0.05
"""Seconds that a delivery takes, before the first one has shown it: or else the first read would hoard."""
URGENT: Final = 8
"""How many urgent deliveries find room at least, where others find none."""


def prefetch(*, seconds_each: float, concurrency: int, capacity: int) -> int:
    """Return how many deliveries to hold, in hand and waiting, when one takes `seconds_each`."""
    if seconds_each < 1e-9:
        return max(concurrency, capacity)
    ahead = int(AHEAD * concurrency / seconds_each)
    return max(concurrency, min(capacity, ahead + concurrency))


def urgent_room(concurrency: int) -> int:
    """Return how many urgent deliveries to hold beyond what is held of all."""
    return max(concurrency, URGENT)


def smoothed(average: float, sample: float, *, weight: float = 0.05) -> float:
    """Return the moving average after one more sample; a sample far above it counts at once.

    Handlers that turn slow must stop the hoarding quickly, those that turn fast may earn it back gradually.
    """
    if sample > average * 8:
        return sample
    return average + (sample - average) * weight
