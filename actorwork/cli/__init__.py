"""The command line: `actorwork run | send | result | cancel | runs | dead | spool | triggers | pause | resume | paused
| messages | purge | audit | web | health | metrics | doctor | config`.

Exit codes, of every command:

    0   done, or a clean stop
    1   failed: the reason is on standard error
    2   wrong usage
    3   stopped by force (`run`): something did not end within its grace

It needs click and rich, which the extra `cli` installs; nothing outside this package imports either. Read top-down:

    commands                     the command `actorwork` and its commands
    running                      `run`
    sending                      `send`; send_options: when, how urgently, in what order, under which names
    submitted                    `result`, `cancel`: submitted messages; waiting: how far one of them is
    runs                         `runs`: the runs of workflows
    dead_letters                 `dead`; selecting: which letters; letters: a letter as JSON, in files and on screen
    spool                        `spool`
    triggers, trigger_changes    `triggers`; put, change, reset and delete them by hand
    pausing                      `pause`, `resume`, `paused`
    messages, purging, audit     `messages`; `purge`; `audit`
    web                          `web`: the dashboard
    health, doctor               `health`; `doctor`
    metrics                      `metrics`: those of the broker, the dashboard, the alert rules
    configuring                  `config`: what is set, what may be set, what is wrong with a file
    brokers                      what every command needs that uses a broker: options, the time limit, errors
    failing                      how a command fails: one sentence, and no traceback but the user's own
    imports, durations, log_levels, output   MODULE:NAME, 1h30m, LOGGER=LEVEL, tables and JSON
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Final

PREFIX: Final = "ACTORWORK"
"""Every option can be set by an environment variable with this prefix."""


def main() -> None:
    """Run the command that the arguments of the process name, and exit."""
    missing = [name for name in ("click", "rich") if find_spec(name) is None]
    if missing:
        print(
            f"The command line of actorwork needs {' and '.join(missing)}, from the extra 'cli'."
            ' Install it with:\n\n    pip install "actorwork[cli]"\n',
            file=sys.stderr,
        )
        sys.exit(2)
    from actorwork.cli.commands import actorwork

    actorwork(prog_name="actorwork", auto_envvar_prefix=PREFIX)
