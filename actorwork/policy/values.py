"""Versions of shared values and tokens of locks: the rules that every broker follows.

    version    of a value: grows with every write, also across a deletion; otherwise a compare-and-set could mistake a
               new value for the one it has read
    token      of a lock: grows with every owner, also after the lock was forgotten

Both are taken from the broker's clock in microseconds, and are at least one more than the last: so they grow even if no
record of the past is left (a value that expired, a server that was flushed).
"""

from __future__ import annotations

import json
from typing import Final

from actorwork.errors import LockLost

FENCE_KEPT: Final = 86_400.0
"""How many seconds the last token of a deleted value or a free lock is remembered."""
LARGEST: Final = 2**53 - 1
"""Many JSON readers cannot distinguish larger whole numbers, so sums may not exceed it."""


def number_after(last: int, now: float) -> int:
    """Return the version or token after `last`; `now` is in seconds."""
    return max(last + 1, int(now * 1_000_000))


def check_fence(name: str, fence: int | None, newest: int) -> int:
    """Return the newest token seen by a value, including this write's; raise `LockLost` if `fence` is older."""
    if fence is None:
        return newest
    if fence < newest:
        raise stale(name, fence, newest)
    return fence


def stale(name: str, fence: int, newest: int) -> LockLost:
    return LockLost(
        f"the shared value {name!r} was written under the token {newest} since, so a write under {fence} is refused:"
        " the lock has another owner by now",
        name=name,
    )


def sum_of(data: bytes, by: float) -> bytes | None:
    """Return the JSON of the number in `data` plus `by`; None if `data` is not a number or the sum is too large."""
    try:
        number = json.loads(data)
    except ValueError:
        return None
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        return None
    total = number + by
    return json.dumps(total).encode() if -LARGEST <= total <= LARGEST else None
