"""Durations as people write them: 30, `timedelta(seconds=30)`, or text such as "250ms", "30s", "5m", "1h30m", "inf".

Every public function, setting and option that takes seconds takes each of these. Text without a unit is refused, since
it does not show that its writer thought of one.
"""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Any, Final, TypeAlias, overload

Duration: TypeAlias = "float | timedelta | str"
"""A length of time: a number of seconds, a `timedelta`, or text such as "30s", "5m" or "1h30m"."""

UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
IN_WORDS: Final = 'text such as "250ms", "30s" or "1h30m"'
# Compiled when they are first used, as few programs write durations as text.
_PART: Final = r"(\d+(?:\.\d+)?)(ms|s|m|h|d)"
_WHOLE: Final = rf"(?:{_PART})+"


def parsed(text: str) -> float:
    """Return the seconds of a text; raises `ValueError`."""
    text = text.strip()
    if text == "inf":
        return math.inf
    if re.fullmatch(_WHOLE, text):
        return math.fsum(float(number) * UNITS[unit] for number, unit in re.findall(_PART, text))
    hint = f"; did you mean {text}s?" if re.fullmatch(r"\d+(\.\d+)?", text) else ""
    raise ValueError(f"{text!r} is not a duration such as 250ms, 30s, 5m or 1h30m{hint}")


@overload
def as_seconds(value: Duration) -> float: ...
@overload
def as_seconds(value: None) -> None: ...
def as_seconds(value: Any) -> Any:
    """Convert a duration to seconds; return anything that is none unchanged, for a validator to refuse."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, str):
        try:
            return parsed(value)
        except ValueError:
            return value
    return value


def seconds_of(what: str, value: Duration) -> float:
    """Convert an argument to seconds; `what` is its name. Raises `TypeError` or `ValueError`."""
    if type(value) is float or type(value) is int:  # The usual case: this runs for every local ask.
        return value
    try:
        found = parsed(value) if isinstance(value, str) else as_seconds(value)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
    if isinstance(found, bool) or not isinstance(found, (int, float)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"{what} wants seconds, a timedelta, or {IN_WORDS}, got {value!r}")
    return found


def timeout_of(value: Duration) -> float:
    """Convert the `timeout` of a wait to seconds, 0 or more; raises `TypeError` or `ValueError`."""
    seconds = value if type(value) is float or type(value) is int else seconds_of("timeout", value)
    if seconds >= 0:
        return seconds
    raise ValueError(f"timeout wants 0 seconds or more, got {value!r}")  # NaN too: a wait until NaN would never end.
