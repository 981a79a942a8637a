"""Durations on the command line; a number without a unit is refused."""

from __future__ import annotations

import math

import click

from actorwork.durations import parsed


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
            found = parsed(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if not self.least <= found <= self.most:
            most = "" if self.most == math.inf else f", at most {duration(self.most)}"
            self.fail(f"{value} is out of bounds: at least {duration(self.least)}{most}", param, ctx)
        return found
