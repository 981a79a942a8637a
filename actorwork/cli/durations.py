"""Durations on the command line; a number without a unit is refused."""

from __future__ import annotations

import math

import click

from actorwork.durations import parsed
from actorwork.inspection.words import duration


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
