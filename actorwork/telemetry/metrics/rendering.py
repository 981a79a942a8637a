"""The metrics as text: the format of Prometheus (0.0.4) and OpenMetrics (1.0.0), as the `Accept` of a request wants.

They differ in little: OpenMetrics names a counter without `_total` in its header, writes the bounds of buckets as
floats, has a place for exemplars, and ends with `# EOF`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from actorwork.telemetry.metrics.registry import Reading
from actorwork.telemetry.metrics.table import Metric

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_UNITS: Final = {"s": "seconds", "By": "bytes"}


def rendered(readings: Iterable[Reading], accept: str = "") -> tuple[str, bytes]:
    """Return the content type and the text of some readings; `accept` is the header of the request."""
    is_open = wants_open_metrics(accept)
    lines: list[str] = []
    last: Metric | None = None
    for reading in readings:
        if reading.metric is not last:
            last = reading.metric
            lines += _header(last, is_open=is_open)
        lines += _samples(reading, is_open=is_open)
    if is_open:
        lines.append("# EOF")
    text = "".join(f"{line}\n" for line in lines)
    return OPEN_METRICS if is_open else TEXT, text.encode("utf-8", "backslashreplace")


def wants_open_metrics(accept: str) -> bool:
    """Whether a request prefers OpenMetrics to the format of Prometheus."""
    weights = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for offer in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in offer.split(";"))
        if kind in weights:
            weights[kind] = max(weights[kind], _weight(parameters))
    return weights["application/openmetrics-text"] > 0 and (
        weights["application/openmetrics-text"] >= weights["text/plain"]
    )


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def _header(metric: Metric, *, is_open: bool) -> Iterator[str]:
    name = metric.name.removesuffix("_total") if is_open and metric.kind == "counter" else metric.name
    yield f"# HELP {name} {_escaped(metric.help, quotes=is_open)}"
    yield f"# TYPE {name} {metric.kind}"
    unit = _UNITS.get(metric.unit)
    if is_open and unit is not None and name.endswith(f"_{unit}"):
        yield f"# UNIT {name} {unit}"


def _samples(reading: Reading, *, is_open: bool) -> Iterator[str]:
    name, labels = reading.name, reading.labels
    if reading.kind != "histogram":
        yield f"{name}{_labels(labels)} {_number(reading.value)}"
        return
    below = 0
    for number, (bound, count) in enumerate(zip((*reading.bounds, math.inf), reading.buckets, strict=True)):
        below += count
        exemplar = reading.exemplars.get(number) if is_open else None
        shown = (
            ""
            if exemplar is None
            else f' # {{trace_id="{exemplar.trace_id}"}} {_number(exemplar.value)} {exemplar.at:.3f}'
        )
        yield f"{name}_bucket{_labels({**labels, 'le': _bound(bound)})} {below}{shown}"
    yield f"{name}_sum{_labels(labels)} {_number(reading.sum)}"
    yield f"{name}_count{_labels(labels)} {below}"


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value, quotes=True)}"' for name, value in labels.items()) + "}"


def _escaped(text: str, *, quotes: bool) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text


def _bound(bound: float) -> str:
    return "+Inf" if math.isinf(bound) else repr(float(bound))


def _number(value: float) -> str:
    if isinstance(value, int) or value.is_integer():
        return str(int(value))
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
