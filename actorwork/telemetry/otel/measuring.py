"""The metrics of a system as instruments: read by callback when a reader of the SDK collects.

A counter and a gauge are observable. OpenTelemetry knows no observable histogram: what has fallen into the buckets
since the last collection is recorded then, in the thread of the reader and value by value, as the API wants it (7 us
each); no message waits for that. Each value is recorded within its bucket, and all of them have the right sum. At most
`RECORDED` values are recorded at once: of more, an equal part of each bucket, so that shares and percentiles stay. How
many values there were and their sum are therefore counters, too: `.count` and `.sum`.

A metric under a name of the conventions has the attributes that they require, beside its labels (`conventions`).
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Observation, get_meter

from actorwork.telemetry.metrics.registry import Reading, Registry
from actorwork.telemetry.otel.conventions import (
    SCHEMA_URL,
    SCOPE,
    attributes_of_broker,
    attributes_of_metric,
    is_measured,
    own_version,
)

if TYPE_CHECKING:
    from opentelemetry.metrics import Histogram, MeterProvider
    from opentelemetry.util.types import AttributeValue

RECORDED: Final = 100_000
"""Values that are recorded in one collection, at most: that takes 0.7 s of a core."""
_FRESH: Final = 0.5
"""Seconds for which a reading serves all instruments: they are collected one after another."""


_NO_CONTEXT: Final = Context()
"""Values of many messages are in no trace."""
NO_BROKER: Final[Mapping[str, AttributeValue]] = attributes_of_broker("")


def export_metrics(
    registry: Registry, *, broker: str | None = None, meter_provider: MeterProvider | None = None
) -> None:
    """Make the metrics of a system (`System.metrics`) instruments of a meter provider, the global one by default.

    Call it once for each system, in the program that starts it: the registry has the sums of the processes of the tree.
    `broker` is its URL, for the attributes `server.address` and `server.port`.
    """
    meter = get_meter(SCOPE, own_version(), meter_provider, SCHEMA_URL)
    shared = None if broker is None else attributes_of_broker(broker)
    readings = _Readings(registry, recorder := _Recorder(), shared)
    for family in registry.families.values():
        metric = family.metric
        name, unit, text = metric.otel_name, metric.unit, metric.help
        observe = partial(_observed, readings, metric.name)
        if metric.kind == "gauge":
            meter.create_observable_gauge(name, [partial(observe, _value)], unit, text)
        elif metric.kind == "counter":
            meter.create_observable_counter(name, [partial(observe, _value)], unit, text)
        else:
            recorder.instruments[metric.name] = meter.create_histogram(
                name, unit, text, explicit_bucket_boundaries_advisory=metric.bounds
            )
            meter.create_observable_counter(f"{name}.count", [partial(observe, _count)], "1", text)
            meter.create_observable_counter(f"{name}.sum", [partial(observe, _sum)], unit, text)


class _Recorder:
    """Records what is new in histograms."""

    def __init__(self) -> None:
        self.instruments: dict[str, Histogram] = {}
        """By the name of the metric."""
        self._before: dict[tuple[str, tuple[tuple[str, str], ...]], tuple[Sequence[int], float]] = {}

    def record(self, readings: Iterable[Reading], shared: Mapping[str, AttributeValue] = NO_BROKER) -> None:
        """Record the values that have come since the last time; `shared` are the attributes of the broker."""
        new: list[tuple[Reading, Sequence[int], Sequence[float]]] = []
        for reading in readings:
            series = reading.name, tuple(reading.labels.items())
            counts, total = self._before.get(series, ((), 0.0))
            self._before[series] = reading.buckets, reading.sum
            if len(counts) != len(reading.buckets) or any(
                now < before for now, before in zip(reading.buckets, counts, strict=True)
            ):
                counts, total = (0,) * len(reading.buckets), 0.0  # It is new, or has begun anew.
            came = [now - before for now, before in zip(reading.buckets, counts, strict=True)]
            if any(came):
                new.append((reading, came, values_within(reading.bounds, came, reading.sum - total)))
        share = min(1.0, RECORDED / max(1, sum(sum(came) for _, came, _ in new)))
        for reading, came, values in new:
            record = self.instruments[reading.name].record
            attributes = attributes_of_metric(reading.name, reading.labels, shared)
            for count, value in zip(came, values, strict=True):
                for _ in range(math.ceil(count * share)):
                    record(value, attributes, _NO_CONTEXT)


def values_within(bounds: Sequence[float], counts: Sequence[int], total: float) -> Sequence[float]:
    """Return a value for each bucket, such that `counts` of these values have the sum `total`, if that is possible.

    All are at the same place within their bucket; those beyond the last bound have what is left of the sum.
    """
    lower = [0.0, *bounds]
    within = list(zip(lower, bounds, counts, strict=False))
    least = sum(count * low for low, _, count in within)
    room = sum(count * (high - low) for low, high, count in within)
    beyond = counts[-1]
    if beyond:
        # Not known apart: those within their buckets are taken to be in the middle.
        place = 0.5
        last = max(bounds[-1] * 1.000001, (total - least - room * place) / beyond)
    else:
        place, last = min(1.0, max(0.0, (total - least) / room)) if room else 0.5, bounds[-1]
    return [low + (high - low) * (place or 1e-6) for low, high in zip(lower, bounds, strict=False)] + [last]


class _Readings:
    """What the registry said last, by name."""

    def __init__(
        self, registry: Registry, recorder: _Recorder, shared: Mapping[str, AttributeValue] | None = None
    ) -> None:
        self._registry = registry
        self._recorder = recorder
        self._given = shared
        self.shared = shared or NO_BROKER
        """The attributes of the broker."""
        self._lock = threading.Lock()
        self._read_at = -1.0
        self._by_name: Mapping[str, Sequence[Reading]] = {}

    def of(self, name: str) -> Sequence[Reading]:
        with self._lock:
            now = time.monotonic()
            if self._read_at < 0 or now - self._read_at > _FRESH:
                found: dict[str, list[Reading]] = {}
                for reading in self._registry.read():
                    found.setdefault(reading.name, []).append(reading)
                self._by_name, self._read_at = found, now
                if self._given is None:
                    kinds = {one.labels["broker"] for one in found.get("actorwork_info", ())}
                    self.shared = attributes_of_broker("redis:" if kinds & {"redis", "valkey"} else "")
                new = (one for name in self._recorder.instruments for one in found.get(name, ()))
                self._recorder.record(new, self.shared)
            return self._by_name.get(name, ())


def _observed(
    readings: _Readings, name: str, figure: Callable[[Reading], float], _: CallbackOptions
) -> Iterable[Observation]:
    found = readings.of(name)
    return [
        Observation(figure(reading), attributes_of_metric(name, reading.labels, readings.shared))
        for reading in found
        if is_measured(name, reading.labels)
    ]


def _value(reading: Reading) -> float:
    return reading.value


def _count(reading: Reading) -> float:
    return reading.count


def _sum(reading: Reading) -> float:
    return reading.sum
