"""The metrics of a system as observable instruments: read by callback when a reader of the SDK collects, never pushed.

A counter and a gauge are what they are. OpenTelemetry knows no observable histogram, so one becomes two counters: how
many values there were (`.count`) and their sum (`.sum`); the buckets are in the text for Prometheus.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from opentelemetry.metrics import CallbackOptions, Observation, get_meter

from actorwork.telemetry.metrics.registry import Reading, Registry
from actorwork.telemetry.otel.conventions import SCHEMA_URL, SCOPE, own_version

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

_FRESH: Final = 0.5
"""Seconds for which a reading serves all instruments: they are collected one after another."""


def export_metrics(registry: Registry, *, meter_provider: MeterProvider | None = None) -> None:
    """Make the metrics of a system (`System.metrics`) instruments of a meter provider, the global one by default.

    Call it once for each system, in the program that starts it: the registry has the sums of the processes of the tree.
    """
    meter = get_meter(SCOPE, own_version(), meter_provider, SCHEMA_URL)
    readings = _Readings(registry)
    for family in registry.families.values():
        metric = family.metric
        name, unit, text = metric.otel_name, metric.unit, metric.help
        observe = partial(_observed, readings, metric.name)
        if metric.kind == "gauge":
            meter.create_observable_gauge(name, [partial(observe, _value)], unit, text)
        elif metric.kind == "counter":
            meter.create_observable_counter(name, [partial(observe, _value)], unit, text)
        else:
            meter.create_observable_counter(f"{name}.count", [partial(observe, _count)], "1", text)
            meter.create_observable_counter(f"{name}.sum", [partial(observe, _sum)], unit, text)


class _Readings:
    """What the registry said last, by name."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
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
            return self._by_name.get(name, ())


def _observed(
    readings: _Readings, name: str, figure: Callable[[Reading], float], _: CallbackOptions
) -> Iterable[Observation]:
    return [Observation(figure(reading), dict(reading.labels)) for reading in readings.of(name)]


def _value(reading: Reading) -> float:
    return reading.value


def _count(reading: Reading) -> float:
    return reading.count


def _sum(reading: Reading) -> float:
    return reading.sum
