"""SIGHUP: the files are read again, and what may change while the program runs is put in force.

That is `log_level`, `paused_sources`, and of limits `rate`, `per` and `burst`. Every other change needs a restart, and
a line of the log says so for each. A configuration with an error changes nothing.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Collection, Sequence
from typing import Final, Protocol, cast

import trio

from actorwork.errors import ConfigurationError, MissingExtra
from actorwork.policy.limits import RATES, Rates
from actorwork.runtime.configuration.loading import Configuration

LEVEL: Final = "log_level"
USUAL: Final = "INFO"
PAUSED: Final = "paused_sources"

log = logging.getLogger("actorwork.run")


class Running(Protocol):
    """What changes while it runs, in all processes of its tree."""

    def change_log_levels(self, level: str) -> bool:
        """Change the levels of the logs; return False where the application has set up logging."""
        ...

    def change_rates(self, rates: Rates) -> Collection[tuple[str, str]]:
        """Change the rates of limits; return those of the limits and actors (kind and name) that are there."""
        ...

    def change_paused_sources(self, names: Collection[str]) -> Collection[str]:
        """Pause these sources, and resume the others; return those that no actor reads."""
        ...


async def reload_on_hangup(configuration: Configuration, given: Collection[str], running: Running) -> None:
    """Read the configuration again at each SIGHUP, until cancelled.

    `given` are the options that the call or a flag sets, which precede it.
    """
    read_again = configuration.read_again
    if read_again is None:
        return
    in_force = {setting.name: setting.value for setting in configuration.settings}
    with trio.open_signal_receiver(signal.SIGHUP) as signals:
        async for _ in signals:
            try:
                found = await trio.to_thread.run_sync(read_again)
            except (ConfigurationError, MissingExtra) as error:
                log.error("SIGHUP: the configuration stays as it was: %s", error)  # noqa: TRY400 - the sentence has it all
            else:
                _put_in_force(found, in_force, given, running)


def _put_in_force(found: Configuration, in_force: dict[str, object], given: Collection[str], running: Running) -> None:
    now = {setting.name: setting for setting in found.settings}
    values = {name: setting.value for name, setting in now.items()}
    changed = [name for name in {**in_force, **values} if in_force.get(name) != values.get(name)]
    if not changed:
        log.info("SIGHUP: no setting has changed")
    paths = {name: path for name in changed if name in now and (path := _rate_of(now[name].path)) is not None}
    known: Collection[tuple[str, str]] = running.change_rates(rates_of(found)) if paths else ()
    for name in changed:
        if name.partition(".")[0] in given:
            log.warning("SIGHUP: %s stays as it is: the call or a flag sets it", name)
        elif paths.get(name) in known:
            in_force[name] = values[name]
            log.info("SIGHUP: %s is %s now, in all processes of the tree", name, values[name])
        elif name == PAUSED:
            in_force[name] = paused = cast("Collection[str]", values.get(name) or ())
            unread = running.change_paused_sources(paused)
            log.info("SIGHUP: %s is %s now, in all processes of the tree", name, ", ".join(paused) or "empty")
            for source in unread:
                log.warning("SIGHUP: no actor of the tree reads %r, which %s names", source, name)
        elif name != LEVEL:
            log.warning("SIGHUP: %s has changed, and needs a restart to take effect", name)
        elif running.change_log_levels(str(values.get(LEVEL, USUAL))):
            in_force[LEVEL] = values.get(LEVEL)
            log.info("SIGHUP: %s is %s now, in all processes of the tree", LEVEL, values.get(LEVEL, USUAL))
        else:
            log.warning("SIGHUP: %s stays as it is: this program has configured logging itself", LEVEL)


def _rate_of(path: Sequence[str]) -> tuple[str, str] | None:
    """Return the limit or the actor whose rate a setting is, if it is one."""
    match tuple(path):
        case ("limits", name, field) if field in RATES:
            return "limits", name
        case ("actors", title, "rate_limit", field) if field in RATES:
            return "actors", title
        case _:
            return None


def rates_of(configuration: Configuration) -> Rates:
    """Return all rates that a configuration sets."""
    found: dict[str, dict[str, dict[str, float]]] = {"limits": {}, "actors": {}}
    for setting in configuration.settings:
        place = _rate_of(setting.path)
        if place is not None:
            kind, name = place
            found[kind].setdefault(name, {})[setting.path[-1]] = cast("float", setting.value)
    return Rates(found["limits"], found["actors"])
