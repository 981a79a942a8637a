"""`actorwork messages`: submitted messages and the steps of runs, by state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from actorwork.cli.brokers import Step, broker_option, speak, timeout_option, unknown_source_of
from actorwork.cli.output import as_json, many, one_line, print_json, print_table, printable
from actorwork.cli.selecting import named_source, valid_source
from actorwork.cli.waiting import life_in_json
from actorwork.inspection.words import duration, moment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from actorwork.abc import Broker
    from actorwork.clients.messages import Messages
    from actorwork.records import TrackedMessage


def _named(_context: click.Context, _option: click.Parameter, given: Sequence[str]) -> Mapping[str, str]:
    """Read `NAME=VALUE`."""
    for one in given:
        if not one.partition("=")[0] or "=" not in one:
            raise click.BadParameter(f"{one!r} is not NAME=VALUE, such as tenant=acme")
    return {name: value for name, _, value in (one.partition("=") for one in given)}


@click.command(short_help="List submitted messages by state.")
@click.option("--actor", metavar="TITLE", help="Of this actor.", allow_from_autoenv=False)
@click.option(
    "--source",
    metavar="NAME",
    callback=named_source,
    help="Of this source; actor:TITLE is an actor's own.",
    allow_from_autoenv=False,
)
@click.option("--state", "states", multiple=True, metavar="STATE", help="In this state; may be repeated.")
@click.option(
    "--text", metavar="TEXT", default="", help="With this in the id or the message.", allow_from_autoenv=False
)
@click.option("--key", metavar="KEY", default="", help="With this key.", allow_from_autoenv=False)
@click.option("--unique", metavar="KEY", default="", help="With this unique key.", allow_from_autoenv=False)
@click.option(
    "--header",
    "headers",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_named,
    help="With this header; may be repeated.",
    allow_from_autoenv=False,
)
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="How many, at most.")
@click.option(
    "--search",
    type=click.IntRange(1, 10_000),
    default=1000,
    show_default=True,
    help="How many of the newest messages of each source to look at.",
)
@broker_option
@timeout_option
@as_json
def messages(
    actor: str | None,
    source: str | None,
    *,
    states: tuple[Any, ...],
    text: str,
    key: str,
    unique: str,
    headers: Mapping[str, str],
    limit: int,
    search: int,
    broker: str | None,
    timeout: float,
    json_output: bool,
) -> None:
    """List tracked messages, latest first: those that were submitted, and the steps of runs.

    A STATE is waiting, delayed, running, succeeded, failed, rejected, cancelled or expired. Messages that are over are
    listed as long as their results are kept; their arguments, keys and headers are known while they are open, or dead
    letters. Messages sent with `tell` are not tracked.
    """
    from actorwork.clients.messages import find

    if actor is not None and source is not None:
        raise click.UsageError("choose one of --actor TITLE and --source NAME")
    if source is not None:
        valid_source(source)

    async def talk(opened: Broker, step: Step) -> tuple[Messages, str | None]:
        with step():
            try:
                found = await find(
                    opened,
                    states=states,
                    actor=actor,
                    source=source,
                    text=text,
                    key=key,
                    unique=unique,
                    headers=headers,
                    limit=limit,
                    search=search,
                )
            except LookupError as error:
                raise click.ClickException(printable(str(error))) from error
        is_unknown = source is not None and not found.searched
        return found, await unknown_source_of(opened, step, source or "") if is_unknown else None

    answer, problem = speak(broker, timeout, talk)
    if json_output:
        print_json(
            {
                "searched": answer.searched,
                "complete": answer.is_complete,
                "counts": answer.counts,
                "messages": [_in_json(one) for one in answer.found],
            }
        )
        return
    if answer.found:
        print_table(
            ("SENT", "ID", "ACTOR", "STATE", "ATTEMPT", "DURATION", "MESSAGE", "WHY"),
            [_row(one) for one in answer.found],
        )
    counts = ", ".join(f"{count:,} {state}" for state, count in answer.counts.items() if count)
    which = "all" if answer.is_complete else "the newest"
    click.echo(f"{which} {many(answer.searched, 'message')} searched{f': {counts}' if counts else ''}", err=True)
    if problem is not None:
        click.echo(one_line(problem, 1000), err=True)


def _row(one: TrackedMessage) -> tuple[str, ...]:
    info = one.info
    return (
        "" if info.sent is None else moment(info.sent),
        info.id,
        info.actor or info.source,
        one.state,
        str(info.attempt or ""),
        "" if one.duration is None else duration(round(one.duration, 3)),
        "" if one.payload is None else one_line(one.payload.decode(errors="replace"), 60),
        "" if not info.reason else one_line(info.reason, 80),
    )


def _in_json(one: TrackedMessage) -> dict[str, Any]:
    payload = None if one.payload is None else one.payload.decode("utf-8", "backslashreplace")
    return {
        "id": one.info.id,
        "source": one.info.source,
        **life_in_json(one.info),
        "state": one.state,
        "duration": one.duration,
        "type": one.type,
        "key": one.key,
        "unique": one.unique,
        "headers": dict(one.headers),
        "message": payload,
    }
