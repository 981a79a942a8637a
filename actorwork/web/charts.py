"""The last two hours as SVG: how many messages were handled and failed in each minute, and how long that took.

A drawing is stretched to the width that there is, so it has no letters: the template writes these beside it. Series
differ in colour, and in how their lines are broken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from markupsafe import Markup

STEP: Final = 4
HEIGHT: Final = 100
LEAST: Final = 2.0
"""How high a bar is whose value is small beside the others: it must not look like none."""
PERCENTILES: Final = {"p50": "half", "p95": "95 %", "p99": "99 %"}


def rate_chart(series: Mapping[str, Any]) -> Markup:
    """Draw what was handled in each minute, and how much of it failed, the latest at the right."""
    handled: Sequence[int] = series["handled"]
    failed: Sequence[int] = series["failed"]
    most = max(handled, default=0)
    words = (
        f"Handled in each of the last {len(handled)} minutes: {sum(handled):,} in all, at most {most:,} in one;"
        f" {sum(failed):,} failed"
    )
    drawn = Markup('<path class="area" d="{}"/><path class="line" d="{}"/>').format(
        _area(handled, most), _line([_up(value, most) if most else HEIGHT for value in handled])
    )
    if any(failed):
        drawn += Markup('<path class="failed" d="{}"/>').format(_area(failed, most))
    return _chart(words, len(handled), drawn)


def duration_chart(series: Mapping[str, Any]) -> Markup:
    """Draw the percentiles of each minute, on a logarithmic scale: see `scale_of`."""
    low, high = scale_of(series)
    whole: Mapping[str, float | None] = series["whole"]
    told = [
        f"{words} took {short(whole[name])} at most" for name, words in PERCENTILES.items() if whole[name] is not None
    ]
    minutes = len(series["handled"])
    words = f"How long handlers took in the last {minutes} minutes: {', '.join(told) or 'none ran'}"
    drawn = Markup("").join(
        Markup('<path class="line {}" d="{}"/>').format(name, _line([_at(value, low, high) for value in series[name]]))
        for name in reversed(PERCENTILES)
    )
    return _chart(words, minutes, drawn)


def scale_of(series: Mapping[str, Any]) -> tuple[float, float]:
    """Return the least and the most seconds of the scale of durations: numbers like 0.001, 0.002 and 0.005."""
    values = [value for name in PERCENTILES for value in series[name] if value]
    if not values:
        return 0.001, 1.0
    low, high = _round(min(values), up=False), _round(max(values), up=True)
    return (low, high) if high > low else (low, 10 * low)


def short(seconds: float | None) -> str:
    """Write a duration with two digits: `400 µs`, `12 ms`, `3.1 s`, `4 min`, `2.5 h`; a dash for None."""
    if seconds is None:
        return "–"
    for bound, unit, name in _UNITS:
        if seconds < bound:
            value = seconds / unit
            return f"{value:.0f} {name}" if value >= 9.95 else f"{value:.1f}".removesuffix(".0") + f" {name}"
    raise AssertionError(seconds)


_UNITS: Final = (
    (0.000995, 0.000_001, "µs"),
    (0.9995, 0.001, "ms"),
    (119.5, 1.0, "s"),
    (7170.0, 60.0, "min"),
    (math.inf, 3600.0, "h"),
)


def _chart(words: str, minutes: int, drawn: Markup) -> Markup:
    width = max(1, minutes) * STEP
    grid = "".join(f"M0 {y}H{width}" for y in (25, 50, 75))
    # Each half hour before now.
    grid += "".join(f"M{width - back * STEP} 0V{HEIGHT}" for back in range(30, minutes, 30))
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">'
        '<path class="grid" d="{}"/>{}<path class="floor" d="M0 {}H{}"/></svg>'
    ).format(width, HEIGHT, words, grid, drawn, HEIGHT, width)


def _up(value: float, most: float) -> float:
    return HEIGHT - min(HEIGHT, max(LEAST if value > 0 else 0.0, HEIGHT * value / most if most else HEIGHT))


def _area(values: Sequence[int], most: int) -> str:
    """Return a path around bars that touch each other."""
    parts: list[str] = []
    for place, value in enumerate(values):
        if value <= 0:
            continue
        top = _up(value, most)
        if place and values[place - 1] > 0:
            parts.append(f"V{top:.1f}H{(place + 1) * STEP}")
        else:
            parts.append(f"M{place * STEP} {HEIGHT}V{top:.1f}H{(place + 1) * STEP}")
        if place + 1 == len(values) or values[place + 1] <= 0:
            parts.append(f"V{HEIGHT}Z")
    return "".join(parts)


def _line(heights: Sequence[float | None]) -> str:
    """Return a path in steps; where there is no value it has a gap."""
    parts: list[str] = []
    for place, (before, height) in enumerate(pairwise([None, *heights])):
        if height is None:
            continue
        parts.append(f"V{height:.1f}" if before is not None else f"M{place * STEP} {height:.1f}")
        parts.append(f"H{(place + 1) * STEP}")
    return "".join(parts)


def _at(value: float | None, low: float, high: float) -> float | None:
    if value is None:
        return None
    share = math.log(max(value, low) / low) / math.log(high / low)
    return HEIGHT - 1 - (HEIGHT - 2) * min(1.0, share)


def _round(value: float, *, up: bool) -> float:
    """Return the next 1, 2 or 5 times a power of ten."""
    ten = 10.0 ** math.floor(math.log10(value))
    steps = [float(f"{step * ten:.3g}") for step in (1, 2, 5, 10)]
    if up:
        return next(step for step in steps if step >= value * 0.9999)
    return next(step for step in reversed(steps) if step <= value * 1.0001)
