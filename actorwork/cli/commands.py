"""The command `actorwork` and its commands. Each imports what it needs when it runs, so that `--help` is quick."""

from __future__ import annotations

import click

from actorwork.cli.audit import audit
from actorwork.cli.configuring import config
from actorwork.cli.copying import export, import_
from actorwork.cli.dead_letters import dead
from actorwork.cli.doctor import doctor
from actorwork.cli.entities import entities
from actorwork.cli.failing import FailingGroup
from actorwork.cli.health import health
from actorwork.cli.inspecting import inspect
from actorwork.cli.messages import messages
from actorwork.cli.metrics import metrics
from actorwork.cli.pausing import pause, paused, resume
from actorwork.cli.purging import purge
from actorwork.cli.running import run
from actorwork.cli.runs import runs
from actorwork.cli.sending import send
from actorwork.cli.sources import sources
from actorwork.cli.spool import spool
from actorwork.cli.stopping import stop
from actorwork.cli.submitted import cancel, result
from actorwork.cli.top import top
from actorwork.cli.trigger_changes import triggers as triggers
from actorwork.cli.web import web


@click.group(cls=FailingGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="actorwork", message="actorwork %(version)s")
def actorwork() -> None:
    """Actors on Trio, fed by a broker: a Redis server or, without one, a file of this machine.

    \b
      actorwork run shop.workers:tree             run actors
      actorwork send orders '{"number": 1}'       send a message
      actorwork runs ls                           the workflows that run, or have run
      actorwork dead groups                       what could not be handled, by cause
      actorwork inspect                           what runs where, and why nothing is happening
      actorwork web                               the dashboard, in a browser
      actorwork doctor                            is the broker set up well?

    \b
    --broker or ACTORWORK_BROKER names the broker: the same one for the program that runs and for all commands.

    \b
    Durations are written 250ms, 30s, 5m, 1h30m. Every option can be set by the environment: ACTORWORK_BROKER and
    the others that --help shows, and ACTORWORK_COMMAND_OPTION for the rest.

    \b
    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 stopped by force.
    """  # noqa: D301 - click wants the character itself, to leave the lines below it as they are


for command in (
    run,
    send,
    result,
    cancel,
    runs,
    dead,
    spool,
    triggers,
    inspect,
    top,
    stop,
    pause,
    resume,
    paused,
    messages,
    entities,
    purge,
    sources,
    export,
    import_,
    audit,
    web,
    health,
    metrics,
    doctor,
    config,
):
    actorwork.add_command(command)
