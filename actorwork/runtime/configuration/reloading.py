"""SIGHUP: the files are read again, and what may change while the program runs is put in force.

That is `log_level`. Every other change waits for the next start, and a line of the log says so, since half of a
configuration in force would be one that nobody has written. A configuration with an error changes nothing.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Collection
from typing import Final

import trio

from actorwork.errors import ConfigurationError, MissingExtra
from actorwork.runtime.configuration.loading import Configuration

LEVEL: Final = "log_level"
USUAL: Final = "INFO"

log = logging.getLogger("actorwork.run")


async def reload_on_hangup(configuration: Configuration, given: Collection[str], change: Callable[[str], bool]) -> None:
    """Read the configuration again at each SIGHUP, until cancelled.

    `given` are the options that the call or a flag sets, which precede it. `change` changes the levels of the logs, in
    all processes of the tree; it returns False where the application has set up logging.
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
                _put_in_force(found, in_force, given, change)


def _put_in_force(
    found: Configuration, in_force: dict[str, object], given: Collection[str], change: Callable[[str], bool]
) -> None:
    now = {setting.name: setting.value for setting in found.settings}
    changed = [name for name in {**in_force, **now} if in_force.get(name) != now.get(name)]
    if not changed:
        log.info("SIGHUP: no setting has changed")
    for name in changed:
        if name.partition(".")[0] in given:
            log.warning("SIGHUP: %s stays as it is: the call or a flag sets it", name)
        elif name != LEVEL:
            log.warning("SIGHUP: %s has changed, which takes effect at the next start", name)
        elif change(str(now.get(LEVEL, USUAL))):
            in_force[LEVEL] = now.get(LEVEL)
            log.info("SIGHUP: %s is %s now, in all processes of the tree", LEVEL, now.get(LEVEL, USUAL))
        else:
            log.warning("SIGHUP: %s stays as it is: this program has configured logging itself", LEVEL)
