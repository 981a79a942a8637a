"""`actorwork run`: a tree of actors, until a signal ends it.

A flag precedes a variable, a variable the files of `--config`, and these what the program declares. Click reads flags
and their variables; what else the environment sets, and the files, `runtime/configuration` reads, if there is any.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import click

from actorwork.cli.brokers import BROKER, broker_option
from actorwork.cli.durations import Duration
from actorwork.cli.failing import TRACEBACK
from actorwork.cli.imports import load_tree
from actorwork.cli.log_levels import LogLevel

if TYPE_CHECKING:
    from actorwork.runtime.configuration.loading import Configuration

PREFIX: Final = "ACTORWORK_"
ELSEWHERE: Final = frozenset(
    {
        BROKER,
        f"{BROKER}_FILE",
        TRACEBACK,
        *(f"{PREFIX}{name}" for name in ("CONFIG", "HOME", "TIMEOUT", "WEB_TOKEN", "WEB_PASSWORDS")),
    }
)
"""The variables that are no settings of a configuration, beside those of the options."""


def _joined(_context: click.Context, _option: click.Parameter, levels: Sequence[str]) -> str:
    return ",".join(levels)


def _listening(_context: click.Context, _option: click.Parameter, address: str | None) -> str | None:
    """Refuse an address that does not name host and port, before anything of the program is imported."""
    if address is not None:
        from actorwork.errors import SettingsError
        from actorwork.telemetry.monitor import listening_at

        try:
            listening_at(address)
        except SettingsError as error:
            hint = f"; for this machine alone: 127.0.0.1:{address}" if address.isdecimal() else ""
            raise click.BadParameter(f"{error}{hint}") from error
    return address


def config_option(function: Any) -> Any:
    """Give a command the option `--config`."""
    return click.option(
        "--config",
        "files",
        type=click.Path(dir_okay=False, path_type=Path),
        multiple=True,
        metavar="FILE",
        envvar=f"{PREFIX}CONFIG",
        show_envvar=True,
        help="Read settings from this file: .toml, .json or .yaml. May be given again; later ones come first.",
    )(function)


@click.command(short_help="Run a tree of actors.")
@click.argument("tree", metavar="MODULE:TREE")
@broker_option
@config_option
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
    callback=_listening,
    envvar="ACTORWORK_MONITOR",
    show_envvar=True,
    help="Serve this node's health by HTTP, at this address alone: 127.0.0.1:9464.",
)
@click.option(
    "--web",
    metavar="HOST:PORT",
    envvar="ACTORWORK_WEB",
    show_envvar=True,
    help="Serve the dashboard from this node: 127.0.0.1:8080. Users are those of `actorwork web`, by environment.",
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
    "--sources",
    metavar="NAME,…",
    multiple=True,
    help="Start only the actors that read one of these sources, and those that read none; actor:TITLE is"
    " an actor's own.",
)
@click.option(
    "--concurrency",
    metavar="TITLE=N",
    multiple=True,
    help="How many messages this actor handles at once in each process. May be given again.",
)
@click.option("--solo", is_flag=True, help="Run everything in this process, whatever processes the tree has.")
@click.option(
    "--log-level",
    type=LogLevel(),
    multiple=True,
    callback=_joined,
    default=("INFO",),
    show_default=True,
    envvar="ACTORWORK_LOG_LEVEL",
    show_envvar=True,
    help="The lowest level to log, to standard error: DEBUG, INFO, WARNING or ERROR. May be given again"
    " for a logger: actorwork.streams=DEBUG.",
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
@click.pass_context
def run(
    context: click.Context, tree: str, *, files: Sequence[Path], concurrency: Sequence[str], **options: Any
) -> None:
    """Run a tree of actors until SIGTERM or Ctrl-C; a second signal cancels handlers.

    \b
    MODULE is looked up in the current directory first, then on the Python path. TREE in it is
      an actor class, a Child or a Supervisor,
      a list of these,
      or a function without parameters that returns one of these.

    \b
    A flag precedes a variable, a variable the files of --config, and these what the program declares.

    \b
    The exit code is 0 after a clean stop, 1 if the tree failed, 3 if something had to be stopped by force.
    """  # noqa: D301 - click wants the character itself, to leave the lines below it as they are
    from actorwork.errors import ConfigurationError, SettingsError
    from actorwork.runtime.main import run as run_tree
    from actorwork.runtime.system import parts_to_start

    loaded = load_tree(tree)
    configuration = configuration_of(files, concurrency)
    set_below: dict[str, Any] = dict(configuration.options) if configuration is not None else {}
    by_default = click.core.ParameterSource.DEFAULT
    given: dict[str, Any] = {
        name: value for name, value in options.items() if context.get_parameter_source(name) is not by_default
    }
    # A file may say more of what a flag switches on, such as the bounds of `--resources`.
    given = {name: value for name, value in given.items() if not (value is True and set_below.get(name))}
    if "sources" in given:
        given["sources"] = [name.strip() for names in given["sources"] for name in names.split(",") if name.strip()]
    given["config"] = configuration
    try:
        parts_to_start(loaded, cast("Any", {**set_below, **given}))
    except ConfigurationError:
        raise
    except SettingsError as error:
        raise click.UsageError(str(error)) from None
    run_tree(loaded, **given)


def configuration_of(files: Sequence[Path], concurrency: Sequence[str] = ()) -> Configuration | None:
    """Return what files, variables and `--concurrency` set; None, without loading anything, if that is nothing."""
    flags = [(one, *_title_and_number(one)) for one in concurrency]
    of_options = {option.envvar for option in click.get_current_context().command.params}
    others = [name for name in os.environ if name.startswith(PREFIX) and name not in ELSEWHERE | of_options]
    if not (files or flags or others):
        return None
    from actorwork.runtime.configuration.loading import load
    from actorwork.runtime.configuration.sources import of_flag

    layers = [
        of_flag(f"--concurrency {written}", "concurrency", number, table="actors", name=title)
        for written, title, number in flags
    ]
    return load(files, flags=layers)


def _title_and_number(written: str) -> tuple[str, str]:
    title, equals, number = written.rpartition("=")
    if not equals or not title:
        raise click.UsageError(f"--concurrency wants TITLE=N, such as email=8, got {written!r}")
    return title, number
