"""What was handled in each minute, and how long it took, so that minutes of many nodes add up.

    Tally           a node's counts since they were last taken: for each source the ends, by how long a handler took
    MinuteCounts    counts as values: how many have failed, and how many fall into each bucket of durations

The buckets grow by a quarter each, from a tenth of a millisecond to a day. Sums of buckets are buckets again, so a
percentile of many nodes and minutes is computed as that of one, and is off by an eighth at most.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs

from actorwork.policy.settlement import CANCELLED, EXPIRED, Ack, Settlement
from actorwork.shown import Value

ALL: Final = ""
"""The name under which all sources are counted together; no source has it."""
KEPT: Final = 120
"""Minutes."""
MOST_SOURCES: Final = 1000
"""Sources that a node counts by themselves at once: the busiest. Those beyond are counted among all."""
TOGETHER: Final = 100
"""Ends that are counted together."""
GROWTH: Final = 1.25
BOUNDS: Final = tuple(1e-4 * GROWTH**number for number in range(93))
"""The upper bounds of the buckets, in seconds; what took longer than all of them is in one more."""


@attrs.frozen(eq=False, repr=False)
class MinuteCounts(Value):
    """What was handled in a minute, or in a part of it.

    `failed` counts the attempts that failed, and `buckets` all attempts, by the number of the bucket of their duration.
    """

    failed: int = 0
    buckets: Mapping[int, int] = attrs.field(factory=dict[int, int])

    def __hash__(self) -> int:
        return hash((self.failed, self.handled))

    @property
    def handled(self) -> int:
        return sum(self.buckets.values())


class Tally:
    """Counts the ends of deliveries, by source. `ended` is what is not counted yet: the seconds of each."""

    def __init__(self) -> None:
        self.ended: defaultdict[str, list[float]] = defaultdict(list)
        self._buckets: defaultdict[str, Counter[int]] = defaultdict(Counter)
        self._failed: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<tally of {len(self.ended)} sources>"

    def note(self, source: str, settlement: Settlement, seconds: float) -> None:
        """Note an end that is not a plain `ACK`; what was cancelled or too old was not handled, and does not count."""
        if not isinstance(settlement, Ack):
            if settlement.failure.type in (CANCELLED, EXPIRED):
                return
            self._failed[source] += 1
        ended = self.ended[source]
        ended.append(seconds)
        if len(ended) >= TOGETHER:
            self.count(source)

    def count(self, source: str) -> None:
        """Count what has ended."""
        values = self.ended[source]
        if not values:
            return
        values.sort()
        buckets, done = self._buckets[source], 0
        while done < len(values):
            bucket = bisect_left(BOUNDS, values[done])
            upto = len(values) if bucket == len(BOUNDS) else bisect_right(values, BOUNDS[bucket], done)
            buckets[bucket] += upto - done
            done = upto
        values.clear()

    def take(self) -> Mapping[str, MinuteCounts]:
        """Return what was counted since it was last taken, of each source and of all; nothing if nothing was."""
        for source in self.ended:
            self.count(source)
        buckets, failed = self._buckets, self._failed
        if not buckets:
            return {}
        # The lists go, too: of sources that come and go, none is kept for ever. Nothing else has hold of them.
        self.ended.clear()
        self._buckets, self._failed = defaultdict(Counter), Counter()
        busiest = sorted(buckets, key=lambda source: -sum(buckets[source].values()))[:MOST_SOURCES]
        found = {source: MinuteCounts(failed[source], dict(buckets[source])) for source in busiest}
        every = Counter[int]()
        for one in buckets.values():
            every.update(one)
        return {ALL: MinuteCounts(sum(failed.values()), dict(every)), **found}


# ---- as a broker stores them ----

_FAILED: Final = "failed"


def fields_of(counts: MinuteCounts) -> Sequence[tuple[str, int]]:
    """Return counts as the fields of a hash."""
    fields = [(str(bucket), count) for bucket, count in counts.buckets.items()]
    return [*fields, (_FAILED, counts.failed)] if counts.failed else fields


def from_fields(fields: Iterable[tuple[str, int]]) -> MinuteCounts:
    """Return the counts that fields say. Those that another version has written, and this one does not know, are left
    out.
    """
    failed, buckets = 0, dict[int, int]()
    for name, count in fields:
        if name == _FAILED:
            failed = max(0, count)
        elif name.isascii() and name.isdecimal() and int(name) <= len(BOUNDS) and count > 0:
            buckets[int(name)] = count
    return MinuteCounts(failed, buckets)
