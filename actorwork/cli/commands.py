"""The command `actorwork` and its commands. Each imports what it needs when it runs, so that `--help` is quick."""

from __future__ import annotations

import click

from actorwork.cli.dead_letters import dead
from actorwork.cli.doctor import doctor
from actorwork.cli.failing import FailingGroup
from actorwork.cli.pausing import pause, paused, resume
from actorwork.cli.running import run
from actorwork.cli.sending import send
from actorwork.cli.spool import spool
from actorwork.cli.triggers import triggers


@click.group(cls=FailingGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="actorwork", message="actorwork %(version)s")
def actorwork() -> None:
    """Actors on Trio, fed by Redis streams.

    \b
    Durations are written 250ms, 30s, 5m, 1h30m. Every option can be set by the environment: ACTORWORK_BROKER and
    the others that --help shows, and ACTORWORK_COMMAND_OPTION for the rest.

    \b
    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 stopped by force.
    """  # noqa: D301 - click wants the character itself, to leave the lines below it as they are


for command in (run, send, dead, spool, triggers, pause, resume, paused, doctor):
    actorwork.add_command(command)
