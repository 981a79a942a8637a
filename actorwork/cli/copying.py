"""`actorwork export` and `actorwork import`: a source as lines of JSON, for backups and moves to another broker."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import IO, TYPE_CHECKING, cast

import click

from actorwork.cli.brokers import Step, broker_option, speak, timeout_option, unknown_source_of
from actorwork.cli.output import many
from actorwork.cli.sending import source_named

if TYPE_CHECKING:
    from actorwork.abc import Broker
    from actorwork.clients.copying import Copied


@click.command(name="export", short_help="Write all that a source holds, as lines of JSON.")
@click.argument("source", metavar="SOURCE")
@click.option(
    "--output", "-o", type=click.Path(dir_okay=False, allow_dash=True), default="-", help="A file; by default, stdout."
)
@broker_option
@timeout_option
def export(source: str, *, output: str, broker: str | None, timeout: float) -> None:
    """Write the messages and dead letters of SOURCE, one a line, for `actorwork import`.

    SOURCE is the name of a source, or actor:TITLE for the own source of an actor. Messages that are ready, in flight,
    delayed, or wait behind others with their key come with their ids, headers, keys and priorities. While the source is
    paused, the ids that it has seen come too. Nothing is changed. Steps of runs are left out.
    """
    from actorwork.clients.copying import export_source

    name = source_named(source)

    async def talk(opened: Broker, step: Step) -> tuple[Copied, str | None]:
        with _opened(output, "w") as lines:
            done = await export_source(opened, name, lambda line: lines.write(f"{line}\n"), step=step)
        problem = None if done.messages or done.dead else await unknown_source_of(opened, step, name)
        return done, problem if name == source else None

    done, problem = speak(broker, timeout, talk)
    click.echo(f"exported {many(done.messages, 'message')} and {many(done.dead, 'dead letter')} of {name!r}", err=True)
    if problem is not None:
        click.echo(f"note: {problem}", err=True)
    if done.steps:
        click.echo(f"note: {many(done.steps, 'step')} of runs stay: a run cannot be moved", err=True)
    if not done.has_marks:
        what = "without the ids that it has seen, since it was not paused"
        click.echo(f"note: {what} (actorwork pause --source {name})", err=True)


@click.command(name="import", short_help="Add what `actorwork export` has written.")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True), default="-")
@click.option("--as", "name", metavar="SOURCE", help="Another source than the one that was exported.")
@broker_option
@timeout_option
def import_(file: str, *, name: str | None, broker: str | None, timeout: float) -> None:
    """Add the messages and dead letters of FILE (by default, stdin) to their source.

    A message whose id the source has seen within a day is not added again, so the command may be repeated, and goes on
    where it was cut off.
    """
    from actorwork.clients.copying import import_source

    chosen = None if name is None else source_named(name)

    async def talk(opened: Broker, step: Step) -> Copied:
        with _opened(file, "r") as lines:
            try:
                return await import_source(opened, lines, source=chosen, step=step)
            except UnicodeDecodeError as error:
                raise click.ClickException(f"{file} is no file that `actorwork export` writes: {error}") from error

    done = speak(broker, timeout, talk, creates=True)
    new = f"{many(done.new_messages, 'message')} and {many(done.new_dead, 'dead letter')}"
    known = done.messages + done.dead - done.new_messages - done.new_dead
    click.echo(f"added {new} to {done.source!r}{f'; {known:,} were there before' if known else ''}")
    if not done.is_whole:
        raise click.ClickException(
            "the file is incomplete: its last line, which counts the others, is missing or does not match them. What it"
            " has was added; export again, and import that file, too"
        )


def _opened(path: str, mode: str) -> AbstractContextManager[IO[str]]:
    try:
        return cast("AbstractContextManager[IO[str]]", click.open_file(path, mode, encoding="utf-8"))
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror or error}") from None
