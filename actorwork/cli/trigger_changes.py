"""`actorwork triggers put`, `change`, `reset` and `delete`: triggers that users change at the broker."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import click

from actorwork.cli.brokers import Step, broker_option, force_option, speak, timeout_option
from actorwork.cli.durations import Duration
from actorwork.cli.output import printable
from actorwork.cli.selecting import title_of_actor
from actorwork.cli.triggers import triggers
from actorwork.inspection.schedules import Known, coming, schedule_text

if TYPE_CHECKING:
    from actorwork.abc import Broker
    from actorwork.policy.schedule import Cron, Interval
    from actorwork.records import TriggerChanges, TriggerRecord


class Lifetime(Duration):
    """A duration, or `forever`."""

    name = "duration|forever"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        return math.inf if value == "forever" else super().convert(value, param, ctx)


def _parts(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say what a trigger is."""
    for option in (
        click.option("--reason", default="", help="The reason, which `audit` and `triggers show` print."),
        click.option(
            "--lifetime", type=Lifetime(least=0.001), help="End the trigger this long after it was first registered."
        ),
        click.option("--jitter", type=Duration(most=86_400), help="Delay each time by up to this long."),
        click.option(
            "--overlap",
            type=click.Choice(["allow", "skip"]),
            help="Whether to fire while an earlier message is not over.",
        ),
        click.option("--catchup-window", type=Duration(), help="How old a missed time may be that still fires."),
        click.option("--catchup", type=click.Choice(["all", "one", "skip"]), help="Which missed times fire."),
        click.option("--description", help="What the trigger is for."),
        click.option("--type", "wire", metavar="NAME", help="The type of --message, unless that is keyword arguments."),
        click.option("--message", metavar="JSON", help="What it sends: keyword arguments as an object, or a message."),
        click.option("--timezone", metavar="ZONE", help="The time zone of --cron; without it, UTC."),
        click.option("--cron", metavar="EXPRESSION", help='Five fields, or six: "30 2 * * *".'),
        click.option("--every", type=Duration(least=0.001), help="Fire at intervals, such as 5m or 1h30m."),
    ):
        function = option(function)
    return function


@triggers.command(short_help="Add a trigger by hand.")
@click.argument("actor")
@click.argument("title")
@_parts
@click.option(
    "--off", is_flag=True, help="Add it switched off, until `triggers change --on`.", allow_from_autoenv=False
)
@force_option("Accept an actor that has not run at this broker.")
@broker_option
@timeout_option
def put(
    actor: str,
    title: str,
    *,
    off: bool,
    force: bool,
    reason: str,
    broker: str | None,
    timeout: float,
    **parts: Any,
) -> None:
    """Put a trigger of an actor at the broker, in the place of one of this TITLE.

    Every node that hosts the actor fires it within a second or two, and after restarts. Where code declares a trigger
    of this title, this one stays in force until `triggers reset`.

    \b
      actorwork triggers put cleaner nightly --cron "30 2 * * *" --timezone Europe/Berlin --message '{"kind": "full"}'
    """  # noqa: D301 - as in `commands`
    from actorwork.clients import triggers as by_hand
    from actorwork.clients.auditing import audited
    from actorwork.clients.identity import whoami
    from actorwork.policy.trigger import Trigger
    from actorwork.settings import Settings

    schedule = _schedule(parts)
    if schedule is None:
        raise click.UsageError("a trigger needs --every DURATION or --cron EXPRESSION")
    trigger = Trigger(title=title, schedule=schedule, **_details(parts))
    data, wire = _message(parts) or (b"{}", None)
    definition = by_hand.definition_of(Settings(title=actor), trigger, data, wire)
    changes = by_hand.changes_of(definition, is_on=not off, by=whoami(), reason=reason)

    async def talk(opened: Broker, step: Step) -> TriggerRecord:
        with step():
            if not force:
                await by_hand.refuse_unknown(opened, actor)
        with step():
            async with audited(opened.audit, "put_trigger", by_hand.told(definition, changes), reason=reason):
                return await by_hand.put(opened, definition, changes)

    _tell("put", _speak(broker, timeout, talk, creates=force))


@triggers.command(short_help="Change parts of a trigger by hand.")
@click.argument("actor")
@click.argument("title")
@_parts
@click.option("--on/--off", "is_on", default=None, help="Whether it fires.", allow_from_autoenv=False)
@broker_option
@timeout_option
def change(
    actor: str,
    title: str,
    *,
    is_on: bool | None,
    reason: str,
    broker: str | None,
    timeout: float,
    **parts: Any,
) -> None:
    """Change parts of a trigger: its schedule, its message, its rules, whether it fires.

    What is changed stays so, even if a new version of the code declares it otherwise, until `triggers reset`; the other
    parts follow the code. Times that have passed do not fire by a new schedule, or after the trigger was off.
    """
    from actorwork.clients import triggers as by_hand
    from actorwork.clients.auditing import audited
    from actorwork.clients.identity import whoami
    from actorwork.records import TriggerChanges
    from actorwork.triggers.declared import find_trigger, schedule_text_of

    schedule, message = _schedule(parts), _message(parts)
    wanted = TriggerChanges(
        schedule=None if schedule is None else schedule_text_of(schedule),
        data=None if message is None else message[0],
        type=None if message is None else message[1],
        details=_details(parts),
        is_on=is_on,
        by=whoami(),
        reason=reason,
    )
    if not wanted.parts:
        raise click.UsageError("nothing to change: name a part, such as --every 5m or --off")

    async def talk(opened: Broker, step: Step) -> TriggerRecord:
        with step():
            before = find_trigger(await opened.triggers.list(), actor, title)
        changes: TriggerChanges = by_hand.checked(before, wanted)
        with step():
            async with audited(opened.audit, "change_trigger", by_hand.told(before.definition, changes), reason=reason):
                return await by_hand.change(opened, actor, title, changes)

    _tell("changed", _speak(broker, timeout, talk))


@triggers.command(short_help="Undo what was changed by hand in a trigger.")
@click.argument("actor", callback=title_of_actor)
@click.argument("title")
@click.option("--reason", default="", help="The reason, which `audit` prints.")
@broker_option
@timeout_option
def reset(actor: str, title: str, *, reason: str, broker: str | None, timeout: float) -> None:
    """Drop what users have changed of a trigger: it fires as the code declares it."""
    from actorwork.clients.opening import open_client

    async def talk(opened: Broker, step: Step) -> TriggerRecord:
        async with open_client(opened) as client:
            with step():
                return await client.triggers.reset(actor, title, reason=reason)

    _tell("reset", _speak(broker, timeout, talk))


@triggers.command(short_help="Delete a trigger that was added by hand.")
@click.argument("actor", callback=title_of_actor)
@click.argument("title")
@click.option("--reason", default="", help="The reason, which `audit` prints.")
@broker_option
@timeout_option
def delete(actor: str, title: str, *, reason: str, broker: str | None, timeout: float) -> None:
    """Delete a trigger that no code declares. One that code declares would come back: turn it off, or reset it."""
    from actorwork.clients.opening import open_client

    async def talk(opened: Broker, step: Step) -> None:
        async with open_client(opened) as client:
            with step():
                await client.triggers.delete(actor, title, reason=reason)

    _speak(broker, timeout, talk)
    click.echo(f"deleted {title!r} of {actor!r}")


def _speak(
    broker: str | None, timeout: float, talk: Callable[[Broker, Step], Awaitable[Any]], *, creates: bool = False
) -> Any:
    async def talking(opened: Broker, step: Step) -> Any:
        try:
            return await talk(opened, step)
        except LookupError as error:
            text = str(error).replace("force=True is for", "--force is for")
            raise click.ClickException(printable(text)) from error

    return speak(broker, timeout, talking, creates=creates)


def _schedule(parts: Any) -> Interval | Cron | None:
    from actorwork.policy.schedule import Cron, Interval

    every, cron, timezone = parts["every"], parts["cron"], parts["timezone"]
    if every is not None and cron is not None:
        raise click.UsageError("choose one of --every DURATION and --cron EXPRESSION")
    if cron is not None:
        return Cron(cron, timezone or "UTC")
    if timezone is not None:
        raise click.UsageError("--timezone is for --cron EXPRESSION")
    return None if every is None else Interval(seconds=every)


def _message(parts: Any) -> tuple[bytes, str | None] | None:
    from actorwork.codec import loads
    from actorwork.errors import CodecError

    message: str | None = parts["message"]
    if message is None:
        if parts["wire"] is not None:
            raise click.UsageError("--type is for --message JSON")
        return None
    try:
        found = loads(message.encode())
    except CodecError as error:
        raise click.UsageError(f"--message wants JSON: {error}") from error
    if not isinstance(found, dict) and parts["wire"] is None:
        raise click.UsageError("--message wants an object of keyword arguments, or --type NAME of what it is")
    return message.encode(), parts["wire"]


def _details(parts: Any) -> dict[str, Any]:
    names = ("description", "catchup", "catchup_window", "overlap", "jitter", "lifetime")
    return {name: None if parts[name] == math.inf else parts[name] for name in names if parts[name] is not None}


def _tell(did: str, record: TriggerRecord) -> None:
    definition = record.definition
    times = coming(Known(record))
    when = f"next at {times[0]}" if times else "it does not fire" if not record.is_on else "no next time"
    click.echo(f"{did} {definition.title!r} of {definition.actor!r}: {schedule_text(record)}, {when}")
