"""Logging, set up for a program that has not done it."""

from __future__ import annotations

import logging
import sys
from typing import Final, Literal, TextIO, TypeAlias, get_args

from actorwork.errors import SettingsError
from actorwork.telemetry.formatting import JsonFormatter, TextFormatter

LOGGER: Final = "actorwork"

LogFormat: TypeAlias = Literal["text", "json"]
LOG_FORMATS: Final[tuple[LogFormat, ...]] = get_args(LogFormat)

_configured: list[tuple[int, LogFormat]] = []
"""The level and format that `configure` set, for the processes that this one starts. A program has one configuration of
logging, so there is one here.
"""


def configured() -> tuple[int, LogFormat | None]:
    """Return the level of the logs and the format that `configure` set; None if the application set up logging."""
    level = logging.getLogger(LOGGER).getEffectiveLevel()
    return level, _configured[-1][1] if _configured else None


def configure(
    level: int | str = "INFO",
    format: LogFormat = "text",
    stream: TextIO | None = None,
    *,
    one_of_several: bool = False,
) -> bool:
    """Send all logs to `stream` (default: standard error); return whether this was done.

    If the root logger has a handler already, the application has set up logging, and nothing is done. With
    `one_of_several`, lines of text name their process; lines of JSON name their node anyway. Raises `SettingsError` for
    a level or a format that does not exist.
    """
    wanted = level.upper() if isinstance(level, str) else level
    known = logging.getLevelNamesMapping()
    if isinstance(wanted, bool) or not (isinstance(wanted, int) or wanted in known):
        raise SettingsError(f"log_level wants one of {', '.join(known)}, or a number, got {level!r}")
    if format not in LOG_FORMATS:
        raise SettingsError(f"log_format wants 'text' or 'json', got {format!r}")
    root = logging.getLogger()
    if root.handlers:
        return False
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter(one_of_several=one_of_several))
    root.addHandler(handler)
    root.setLevel(wanted)
    _configured.append((root.level, format))
    return True
