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

_configured: list[tuple[tuple[str, ...], LogFormat]] = []
"""The loggers whose levels `configure` has set, and its format, for the processes that this one starts. A program has
one configuration of logging, so there is one here.
"""


def configured() -> tuple[int | str, LogFormat | None]:
    """Return the levels of the logs, as `configure` takes them, and its format, which is None if the application has
    set up logging.
    """
    if not _configured:
        return logging.getLogger(LOGGER).getEffectiveLevel(), None
    names, form = _configured[-1]
    levels = [str(logging.getLogger().level), *(f"{name}={logging.getLogger(name).level}" for name in names)]
    return ",".join(levels), form


def levels_of(level: object) -> tuple[int, dict[str, int]]:
    """Return the level of all loggers, and those of loggers that have one of their own.

    `level` is a number, a name ("INFO"), or several of them for loggers: "WARNING,actorwork.streams=DEBUG". Without one
    for all, that is INFO. Raises `SettingsError` for a level that does not exist.
    """
    whole, own = logging.INFO, dict[str, int]()
    if not isinstance(level, str):
        return _number(level, level), own
    for part in level.split(","):
        name, equals, wanted = part.strip().rpartition("=")
        number = _number(int(wanted) if wanted.strip().isdecimal() else wanted, level)
        if not equals:
            whole = number
        elif name.strip():
            own[name.strip()] = number
        else:
            raise _wrong(level)
    return whole, own


def _number(value: object, given: object) -> int:
    if isinstance(value, str):
        value = logging.getLevelNamesMapping().get(value.strip().upper())
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _wrong(given)
    return value


def _wrong(given: object) -> SettingsError:
    known = ", ".join(logging.getLevelNamesMapping())
    return SettingsError(
        f"log_level wants one of {known}, or a number, perhaps with levels of loggers beside it"
        f" ('INFO,actorwork.streams=DEBUG'), got {given!r}"
    )


def configure(
    level: int | str = "INFO",
    format: LogFormat = "text",
    stream: TextIO | None = None,
    *,
    one_of_several: bool = False,
) -> bool:
    """Send all logs to `stream` (default: standard error); return whether this was done.

    `level` may name levels of loggers, too: see `levels_of`. If the root logger has a handler already, the application
    has set up logging, and nothing is done. With `one_of_several`, lines of text name their process; lines of JSON name
    their node anyway. Raises `SettingsError` for a level or a format that does not exist.
    """
    wanted, own = levels_of(level)
    if format not in LOG_FORMATS:
        raise SettingsError(f"log_format wants 'text' or 'json', got {format!r}")
    root = logging.getLogger()
    if root.handlers:
        return False
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter(one_of_several=one_of_several))
    root.addHandler(handler)
    root.setLevel(wanted)
    for name, number in own.items():
        logging.getLogger(name).setLevel(number)
    _configured.append((tuple(own), format))
    return True


def change_levels(level: int | str) -> bool:
    """Change the levels of the logs while the program runs; return whether this was done.

    It is not where the application has set up logging. Raises `SettingsError`, as `configure` does.
    """
    if not _configured:
        return False
    whole, own = levels_of(level)
    former, form = _configured[-1]
    for name in former:
        logging.getLogger(name).setLevel(logging.NOTSET)
    logging.getLogger().setLevel(whole)
    for name, number in own.items():
        logging.getLogger(name).setLevel(number)
    _configured[-1] = (tuple(own), form)
    return True
