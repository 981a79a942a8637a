"""`actorwork run`: a tree of actors, until a signal ends it."""

from __future__ import annotations

from typing import Literal

import click

from actorwork.cli.brokers import broker_option
from actorwork.cli.durations import Duration
from actorwork.cli.imports import load_tree


@click.command(short_help="Run a tree of actors.")
@click.argument("tree", metavar="MODULE:TREE")
@broker_option
@click.option(
    "--lease",
    type=Duration(least=0.2, most=3600),
    default="10s",
    show_default=True,
    envvar="ACTORWORK_LEASE",
    show_envvar=True,
    help="How long this node owns its messages without renewing its lease.",
)
@click.option(
    "--grace",
    type=Duration(),
    default="25s",
    show_default=True,
    envvar="ACTORWORK_GRACE",
    show_envvar=True,
    help="How long a stop may take; 'inf' waits for every handler.",
)
@click.option(
    "--monitor",
    metavar="HOST:PORT",
    envvar="ACTORWORK_MONITOR",
    show_envvar=True,
    help="Serve this node's health by HTTP, at this address alone: 127.0.0.1:9464.",
)
@click.option(
    "--hang-timeout",
    type=Duration(least=0.1, most=86400),
    default="60s",
    show_default=True,
    envvar="ACTORWORK_HANG_TIMEOUT",
    show_envvar=True,
    help="How long the loop may be blocked until the monitor calls the node dead.",
)
@click.option(
    "--resources",
    is_flag=True,
    envvar="ACTORWORK_RESOURCES",
    show_envvar=True,
    help="Watch memory and disks, and warn when little is left (extra 'monitor').",
)
@click.option(
    "--only",
    metavar="NAME",
    multiple=True,
    help="Start this part of the tree alone: an actor by its title or class, or a supervisor. May be given again.",
)
@click.option(
    "--except", "excluding", metavar="NAME", multiple=True, help="Skip this part of the tree. May be given again."
)
@click.option(
    "--log-level",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
    default="INFO",
    show_default=True,
    envvar="ACTORWORK_LOG_LEVEL",
    show_envvar=True,
    help="Log what is as grave as this, or graver, to standard error.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    envvar="ACTORWORK_LOG_FORMAT",
    show_envvar=True,
    help="Lines for people, or a JSON object for each record.",
)
def run(
    tree: str,
    *,
    broker: str | None,
    lease: float,
    grace: float,
    monitor: str | None,
    hang_timeout: float,
    resources: bool,
    only: tuple[str, ...],
    excluding: tuple[str, ...],
    log_level: str,
    log_format: Literal["text", "json"],
) -> None:
    """Run a tree of actors until SIGTERM or Ctrl-C; a second signal cancels handlers.

    \b
    MODULE is looked up in the current directory first, then on the Python path. TREE in it is
      an actor class, a Child or a Supervisor,
      a list of these,
      or a function without parameters that returns one of these.

    \b
    The exit code is 0 after a clean stop, 1 if the tree failed, 3 if something had to be stopped by force.
    """  # noqa: D301 - click wants the character itself, to leave the lines below it as they are
    from actorwork.actors.tree.selection import selected
    from actorwork.actors.tree.walking import root_of
    from actorwork.errors import SettingsError
    from actorwork.runtime.main import run as run_tree
    from actorwork.telemetry.configuring import configure

    loaded = load_tree(tree)
    if only or excluding:
        root = root_of(loaded)
        try:
            loaded = selected(root, only=only, excluding=excluding)
        except SettingsError as error:
            raise click.UsageError(str(error)) from None
    configure(log_level, log_format)
    run_tree(
        loaded,
        broker=broker,
        lease=lease,
        grace=grace,
        monitor=monitor,
        hang_timeout=hang_timeout,
        resources=resources,
    )
