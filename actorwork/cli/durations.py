"""Durations as people write them: `250ms`, `30s`, `5m`, `1h30m`, `inf`. A number without a unit is refused."""

from __future__ import annotations

import math
import re
from typing import Final

import click

UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_WHOLE: Final = re.compile(rf"(?:{_PART.pattern})+")


def seconds(text: str) -> float:
    """Return a duration in seconds; raises `ValueError`."""
    text = text.strip()
    if text == "inf":
        return math.inf
    if _WHOLE.fullmatch(text):
        return math.fsum(float(number) * UNITS[unit] for number, unit in _PART.findall(text))
    hint = f"; did you mean {text}s?" if re.fullmatch(r"\d+(\.\d+)?", text) else ""
    raise ValueError(f"{text!r} is not a duration such as 250ms, 30s, 5m or 1h30m{hint}")


def duration(length: float) -> str:
    """Write a duration in the largest units that make it up: `1d12h`, `90ms`."""
    left, parts = round(length * 1000), list[str]()
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


class Duration(click.ParamType[float]):
    """An option's value, in seconds."""

    name = "duration"

    def __init__(self, *, least: float = 0.0, most: float = math.inf) -> None:
        self.least = least
        self.most = most

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, (int, float)):
            return float(value)
        try:
            found = seconds(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if not self.least <= found <= self.most:
            most = "" if self.most == math.inf else f", at most {duration(self.most)}"
            self.fail(f"{value} is out of bounds: at least {duration(self.least)}{most}", param, ctx)
        return found
