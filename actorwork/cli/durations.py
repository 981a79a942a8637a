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
            bound = f"at least {self.least:g}s" if self.most == math.inf else f"{self.least:g}s to {self.most:g}s"
            self.fail(f"{value} is out of bounds: {bound}", param, ctx)
        return found
