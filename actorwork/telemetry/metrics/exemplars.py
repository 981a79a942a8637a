"""Exemplars: for each bucket of a histogram, a sampled trace whose value fell into it last.

The trace is that of the span in which the message was handled, where one is made and known (`sampled`); otherwise it is
read from the header that the message carries, for which nothing of OpenTelemetry is needed. Only OpenMetrics has a
place for them.
"""

from __future__ import annotations

import re
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from actorwork.message import Delivery
    from actorwork.telemetry.metrics.family import Labels

TRACEPARENT: Final = "traceparent"
_FORMAT: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f][13579bdf]")
"""With the flag of a sampled trace."""
MARK: Final = "exemplars"
"""In the place of a metric's name, in the snapshot of a process."""


class Exemplar(NamedTuple):
    trace_id: str
    value: float
    at: float
    """Seconds since the epoch."""


class Exemplars:
    """The exemplars of one registry, by the name and the labels of a series and the number of a bucket."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._found: dict[tuple[str, Labels], dict[int, Exemplar]] = {}
        self.sampled: Mapping[int, tuple[Delivery, str]] = {}
        """The latest deliveries that were handled in a sampled span, with the ids of their traces; by identity."""

    def __repr__(self) -> str:
        return f"<exemplars of {len(self._found)} series>"

    def note(
        self,
        name: str,
        labels: Labels,
        bounds: Sequence[float],
        values: Sequence[float],
        deliveries: Sequence[Delivery],
    ) -> None:
        """Keep the last of these deliveries that is in a sampled trace; `values` are theirs."""
        if not self.sampled:
            # Of messages without headers this loop is all: it is passed by every message.
            for delivery in deliveries:
                if delivery.headers:
                    break
            else:
                return
        # From the end, and no further than one.
        for place in range(len(deliveries) - 1, -1, -1):
            trace = self._trace_of(deliveries[place])
            if trace is not None:
                value = values[place]
                bucket = bisect_left(bounds, value)
                self._found.setdefault((name, labels), {})[bucket] = Exemplar(trace, value, self._clock())
                return

    def _trace_of(self, delivery: Delivery) -> str | None:
        if self.sampled:
            known, trace = self.sampled.get(id(delivery), (None, ""))
            if known is delivery:
                return trace
        headers = delivery.headers
        if not headers:
            return None
        made = headers.get(TRACEPARENT)
        found = _FORMAT.fullmatch(made) if isinstance(made, str) else None
        return None if found is None else found[1]

    def of(self, name: str, labels: Labels) -> Mapping[int, Exemplar]:
        return dict(self._found.get((name, labels), ()))

    def snapshot(self) -> Iterable[Sequence[Any]]:
        """Yield them as JSON, for the process above."""
        for (name, labels), buckets in list(self._found.items()):
            yield MARK, name, labels, [[bucket, *one] for bucket, one in list(buckets.items())]


def latest(several: Iterable[Mapping[int, Exemplar]]) -> Mapping[int, Exemplar]:
    """Return for each bucket the exemplar that is the latest."""
    found: dict[int, Exemplar] = {}
    for one in several:
        for bucket, exemplar in one.items():
            if bucket not in found or found[bucket].at < exemplar.at:
                found[bucket] = exemplar
    return found


def read(rows: Sequence[Sequence[Any]]) -> Mapping[int, Exemplar]:
    """Return the exemplars of a series in a snapshot."""
    return {int(bucket): Exemplar(str(trace), float(value), float(at)) for bucket, trace, value, at in rows}
