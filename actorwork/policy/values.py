"""How shared values and locks count: the rules that every broker keeps.

    version    of a value: grows with every write, also over a deletion, or a compare-and-set could take a new value
               for the one it has read
    token      of a lock: grows with every owner, also after the lock was forgotten

Both are made from the broker's clock in microseconds, and are never less than one more than the last: so they grow even
where nothing of the past is left (a value that ran out, a server that was emptied).
"""

from __future__ import annotations

import json
from typing import Final

from actorwork.errors import LockLost

FENCE_KEPT: Final = 86_400.0
"""For how many seconds the last token of what is gone is remembered."""
LARGEST: Final = 2**53 - 1
"""Whole numbers beyond it are not told apart by everybody who reads JSON, so nobody counts so far."""


def number_after(last: int, now: float) -> int:
    """Return the version or token that follows on `last`; `now` is in seconds."""
    return max(last + 1, int(now * 1_000_000))


def check_fence(name: str, fence: int | None, newest: int) -> int:
    """Return the newest token that a value has seen, this write's included; raises `LockLost` for an older one."""
    if fence is None:
        return newest
    if fence < newest:
        raise stale(name, fence, newest)
    return fence


def stale(name: str, fence: int, newest: int) -> LockLost:
    return LockLost(
        f"the shared value {name!r} was written under the token {newest} since, so a write under {fence} is refused:"
        " the lock belongs to somebody else by now",
        name=name,
    )


def sum_of(data: bytes, by: float) -> bytes | None:
    """Return the JSON of a number that is `by` more than the one in `data`; None where there is no such number."""
    try:
        number = json.loads(data)
    except ValueError:
        return None
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        return None
    total = number + by
    return json.dumps(total).encode() if -LARGEST <= total <= LARGEST else None
