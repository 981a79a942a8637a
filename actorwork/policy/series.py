"""The minutes of two hours as series that a chart draws: handled, failed, and the percentiles of durations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

import attrs

from actorwork.policy.minutes import BOUNDS, GROWTH, KEPT, MinuteCounts
from actorwork.shown import Value


def added(some: Iterable[MinuteCounts]) -> MinuteCounts:
    """Return the sum of counts."""
    failed, buckets = 0, Counter[int]()
    for one in some:
        failed += one.failed
        buckets.update(one.buckets)
    return MinuteCounts(failed, dict(buckets))


def percentile(buckets: Mapping[int, int], share: float) -> float | None:
    """Return how many seconds this share of the attempts took at most; None if there were none."""
    total = sum(buckets.values())
    if not total:
        return None
    rank, below = share * total, 0
    for bucket in sorted(buckets):
        count = buckets[bucket]
        if below + count >= rank:
            if bucket >= len(BOUNDS):
                return BOUNDS[-1]
            # Within a bucket as if durations were spread evenly by their logarithm.
            return BOUNDS[bucket] * GROWTH ** ((rank - below) / count - 1)
        below += count
    return None


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Series(Value):
    """The minutes up to `minute` (since the epoch, by the broker's clock), oldest first; the last one is not over.

    `handled` and `failed` count attempts; the percentiles are seconds, None of a minute without any. `whole` has the
    same of all these minutes together.
    """

    minute: int
    handled: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()
    p50: tuple[float | None, ...] = ()
    p95: tuple[float | None, ...] = ()
    p99: tuple[float | None, ...] = ()
    whole: Totals


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Totals(Value):
    """What was handled in a length of time, and the percentiles of its durations in seconds."""

    handled: int = 0
    failed: int = 0
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


def series_of(counts: Mapping[int, MinuteCounts], now: float, minutes: int = KEPT) -> Series:
    """Return the series of the minutes up to `now`; a minute that has no counts is one in which nothing ended."""
    end = int(now // 60)
    each = [counts.get(minute, _NONE) for minute in range(end - minutes + 1, end + 1)]
    whole = added(each)
    p50, p95, p99 = (tuple(_rounded(percentile(one.buckets, share)) for one in each) for share in _SHARES)
    most = [_rounded(percentile(whole.buckets, share)) for share in _SHARES]
    return Series(
        minute=end,
        handled=tuple(one.handled for one in each),
        failed=tuple(one.failed for one in each),
        p50=p50,
        p95=p95,
        p99=p99,
        whole=Totals(handled=whole.handled, failed=whole.failed, p50=most[0], p95=most[1], p99=most[2]),
    )


_NONE: Final = MinuteCounts()
_SHARES: Final = (0.5, 0.95, 0.99)


def _rounded(seconds: float | None) -> float | None:
    """Return a number with three digits: more of them would say more than is known."""
    return None if seconds is None else float(f"{seconds:.3g}")
