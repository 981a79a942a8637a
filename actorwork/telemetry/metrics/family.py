"""The series of one metric: a number, or the list of a distribution, for each combination of labels."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from actorwork.telemetry.metrics.table import Metric

T = TypeVar("T")
Labels: TypeAlias = tuple[str, ...]


class Family:
    """The series of one metric."""

    __slots__ = ("_bounded", "_bounds", "metric", "series")

    def __init__(self, metric: Metric, bounded: Callable[[Sequence[str], Labels], Labels]) -> None:
        self.metric = metric
        self.series: dict[Labels, Any] = {}
        self._bounds = metric.bounds
        self._bounded = bounded

    def __repr__(self) -> str:
        return f"<family {self.metric.name}: {len(self.series)} series>"

    def add(self, labels: Labels, by: float = 1) -> None:
        """Add to a counter."""
        try:
            self.series[labels] += by
        except KeyError:
            labels = self._bounded(self.metric.labels, labels)
            self.series[labels] = self.series.get(labels, 0) + by

    def set(self, labels: Labels, value: float) -> None:
        """Set a gauge."""
        if labels not in self.series:
            labels = self._bounded(self.metric.labels, labels)
        self.series[labels] = value

    def drop(self, labels: Labels) -> None:
        """Forget a series of a gauge."""
        self.series.pop(labels, None)

    def replace(self, values: Mapping[Labels, float]) -> None:
        """Set all series of a gauge at once; forget those that have no value now."""
        sums: dict[Labels, float] = {}
        for labels, value in values.items():
            kept = self._bounded(self.metric.labels, labels)
            sums[kept] = sums.get(kept, 0) + value
        self.series = sums

    def distribution(self, labels: Labels) -> list[Any]:
        """Return the list of a series of a histogram: the count of each bucket, that beyond the bounds, and the sum."""
        found = self.series.get(labels)
        if found is None:
            labels = self._bounded(self.metric.labels, labels)
            found = self.series.setdefault(labels, [0] * (len(self._bounds) + 1) + [0.0])
        return found

    def observe(self, labels: Labels, value: float) -> None:
        """Add a value to a histogram."""
        found = self.series.get(labels) or self.distribution(labels)
        found[bisect_left(self._bounds, value)] += 1
        found[-1] += value


def copied(things: Iterable[T]) -> list[T]:
    """Return what is in a collection that another thread may change meanwhile."""
    while True:
        try:
            return list(things)
        except RuntimeError:  # It has changed meanwhile.
            continue
