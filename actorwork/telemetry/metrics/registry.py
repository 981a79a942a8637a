"""The registry: what was counted, in plain dicts and lists.

A counter or a gauge is a number for each combination of labels, a histogram a list: how many values fell into each
bucket, how many were beyond the last bound, and their sum. To count costs a fraction of a microsecond, and never waits.
Each series is written by one thread; any thread may read.

Labels are bounded: beyond `MOST` values of a label (50 classes of errors for each actor) the rest is counted as
`_other`, so that neither this process nor the store of the metrics runs full.

The processes of a tree report snapshots of their registries. Their counters and histograms are added to these here;
their gauges, and their CPU time, stay apart, under the label `process`. What a process had counted when it ended stays
in the sums, so no counter ever goes down.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeAlias, cast

import attrs

from actorwork.shown import Value
from actorwork.telemetry.metrics import exemplars
from actorwork.telemetry.metrics.exemplars import MARK, Exemplar, Exemplars
from actorwork.telemetry.metrics.family import Family, Labels, copied
from actorwork.telemetry.metrics.measuring import Measurements
from actorwork.telemetry.metrics.table import METRICS, TABLE, Kind, Metric

OTHER: Final = "_other"
MOST: Final[Mapping[str, int]] = {"error": 50, "command": 60}
"""How many values of a label are counted separately: of `error`, for each actor."""
MOST_OF_ANY: Final = 1000
LONGEST: Final = 300
"""Characters of a label's value, at most."""

Snapshot: TypeAlias = Sequence[Sequence[Any]]
"""The series of a process as JSON: `[name, process, [label, …], number or [count, …, sum]]`."""


@attrs.frozen(eq=False, repr=False)
class Reading(Value):
    """One series as it is now: a `value` for a counter or a gauge, `buckets` and `sum` for a histogram.

    `buckets` holds how many values fell into each bucket alone: first those up to each of `bounds`, last those beyond.
    """

    metric: Metric
    labels: Mapping[str, str]
    value: float = 0.0
    buckets: tuple[int, ...] = ()
    sum: float = 0.0
    exemplars: Mapping[int, Exemplar] = attrs.field(factory=dict[int, Exemplar])
    """Of a histogram: traces whose values fell into its buckets, by the number of the bucket."""

    @property
    def name(self) -> str:
        """The metric's name in Prometheus; `metric.otel_name` is that in OpenTelemetry."""
        return self.metric.name

    @property
    def kind(self) -> Kind:
        return self.metric.kind

    @property
    def unit(self) -> str:
        return self.metric.unit

    @property
    def bounds(self) -> tuple[float, ...]:
        return self.metric.bounds

    @property
    def count(self) -> int:
        """How many values a histogram has."""
        return sum(self.buckets)


class Registry:
    """The metrics of one process, and of the processes below it.

    `collectors` are called before each reading, in the thread that reads: they bring gauges up to date.
    """

    def __init__(self, table: Iterable[Metric] = TABLE) -> None:
        self.families: dict[str, Family] = {metric.name: Family(metric, self._bounded) for metric in table}
        self.meter = Measurements(self.family)
        self.exemplars = Exemplars()
        """Takes what is measured and is no event."""
        self.collectors: list[Callable[[], object]] = []
        if "actorwork_lease_margin_seconds" in self.families:
            self.collectors.append(self.meter.collect)
        self._values: dict[Labels, set[str]] = {}
        """The values of each label that are counted separately."""
        self._children: tuple[Mapping[tuple[str, int], Snapshot], Snapshot] = ({}, ())
        """The last snapshots of the processes that run, and the sums of those that have ended: exchanged together, so
        that no reader sees a process in both or in neither.
        """

    def __repr__(self) -> str:
        return f"<registry of {sum(len(family.series) for family in self.families.values())} series>"

    @contextmanager
    def collected(self, collect: Callable[[], object]) -> Generator[None]:
        """Call this before each reading, within the block."""
        self.collectors.append(collect)
        try:
            yield
        finally:
            self.collectors.remove(collect)

    def family(self, name: str) -> Family:
        """Return a metric's series, to be written."""
        return self.families[name]

    def _bounded(self, names: Sequence[str], labels: Labels) -> Labels:
        kept: list[str] = []
        for name, given in zip(names, labels, strict=True):
            value = given if len(given) <= LONGEST else f"{given[: LONGEST - 1]}…"
            known = self._values.setdefault((name, *kept) if name == "error" else (name,), set())
            if value not in known:
                if len(known) < MOST.get(name, MOST_OF_ANY):
                    known.add(value)
                else:
                    value = OTHER
            kept.append(value)
        return tuple(kept)

    # ---- reading ----

    def read(self) -> Iterator[Reading]:
        """Yield every series as it is now, those of processes below this one included; callable from any thread.

        Series of one metric follow each other, in the order of the table. Nothing is reset, so any number of readers
        see the same. Costs about a microsecond a series.
        """
        whole: dict[str, dict[tuple[str, Labels], Any]] = {name: {} for name in self.families}
        for name, process, labels, value in self._everything():
            series = whole.get(name)
            if series is None:
                continue  # Of a process of another version.
            key = process, tuple(labels)
            series[key] = _added(series[key], value) if key in series else value
        below = self._exemplars_below()
        for name, series in whole.items():
            metric = self.families[name].metric
            for (process, labels), value in sorted(series.items(), key=_by_labels):
                found = _reading(metric, process, labels, value)
                if metric.kind == "histogram":
                    several = [self.exemplars.of(name, labels), *below.get((name, labels), ())]
                    if any(several):
                        found = attrs.evolve(found, exemplars=exemplars.latest(several))
                yield found

    def snapshot(self) -> list[Sequence[Any]]:
        """Return every series for `absorb` in the process above, as JSON."""
        below = (row for snapshot in self._children[0].values() for row in snapshot if row[0] == MARK)
        return [*self._everything(), *self.exemplars.snapshot(), *below]

    def _exemplars_below(self) -> Mapping[tuple[str, Labels], Sequence[Mapping[int, Exemplar]]]:
        found: dict[tuple[str, Labels], list[Mapping[int, Exemplar]]] = {}
        for snapshot in self._children[0].values():
            for mark, name, labels, rows in snapshot:
                if mark == MARK:
                    found.setdefault((name, tuple(labels)), []).append(exemplars.read(rows))
        return found

    def _everything(self) -> Iterator[Sequence[Any]]:
        for collect in tuple(self.collectors):
            collect()
        for family in self.families.values():
            for labels, value in copied(family.series.items()):
                yield family.metric.name, "", labels, _copy(value)
        running, ended = self._children
        yield from ended
        for (process, _), snapshot in running.items():
            for name, where, labels, value in snapshot:
                if name in self.families:
                    is_apart = self.families[name].metric.is_apart
                    yield name, (where or process_label(process)) if is_apart else "", labels, value

    # ---- the processes below ----

    def absorb(self, process: str, pid: int, snapshot: Snapshot) -> None:
        """Take the newest snapshot of a process, in the place of its last one."""
        running, ended = self._children
        self._children = {**running, (process, pid): snapshot}, ended

    def retire(self, process: str, pid: int) -> None:
        """Keep the sums of a process that has ended, and forget its gauges."""
        running, ended = self._children
        last = running.get((process, pid))
        if last is None:
            return
        sums: dict[tuple[str, str, Labels], Any] = {
            (name, where, tuple(labels)): value for name, where, labels, value in ended
        }
        for name, where, labels, value in last:
            metric = METRICS.get(name)
            if metric is not None and metric.kind != "gauge":
                key = name, (where or process_label(process)) if metric.is_apart else "", tuple(labels)
                sums[key] = _added(sums[key], value) if key in sums else value
        self._children = (
            {key: snapshot for key, snapshot in running.items() if key != (process, pid)},
            [(name, where, labels, value) for (name, where, labels), value in sums.items()],
        )


def process_label(title: str) -> str:
    """Return how a process is named by labels: `worker/2` for the second replica of `worker`."""
    name, _, number = title.rpartition(" ")
    return f"{name}/{number}" if name and number.isdecimal() else title


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, list) else value  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def _added(one: Any, other: Any) -> Any:
    if isinstance(one, list):
        return [a + b for a, b in zip(cast("list[float]", one), cast("list[float]", other), strict=True)]
    return one + other


def _by_labels(item: tuple[tuple[str, Labels], Any]) -> tuple[str, Labels]:
    return item[0]


def _reading(metric: Metric, process: str, labels: Labels, value: Any) -> Reading:
    named = dict(zip(metric.labels, labels, strict=True))
    if process:
        # A metric that has such a label itself names a process of the one that reports it.
        named["process" if "process" not in named else "reported_by"] = process
    if metric.kind == "histogram":
        return Reading(metric, named, buckets=tuple(value[:-1]), sum=value[-1])
    return Reading(metric, named, value)
