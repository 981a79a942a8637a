"""`actorwork triggers`: list triggers and their next times; run, pause, resume and forget them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from actorwork.cli.brokers import Step, broker_option, force_option, speak, timeout_option
from actorwork.cli.output import as_json, one_line, print_json, print_table, printable
from actorwork.cli.pausing import pause_at, resume_at
from actorwork.cli.selecting import title_of_actor
from actorwork.inspection.schedules import (
    Known,
    actors_without_node,
    coming,
    in_json,
    known_triggers,
    schedule_text,
)
from actorwork.inspection.words import moment

if TYPE_CHECKING:
    from actorwork.abc import Broker
    from actorwork.records import PauseKind


@click.group(short_help="Look at triggers, run, pause and change them.")
def triggers() -> None:
    """Look at triggers: when they fire next and how often they have fired; run one now, pause it, forget it.

    ACTOR is an actor's title, TITLE that of its trigger, as `triggers ls` shows them. The broker knows a trigger since
    a node that declares it started for the first time. A trigger that no program declares any more is `vanished`. Users
    put and change triggers by hand, too; BY HAND says what they have changed.
    """


@triggers.command("ls", short_help="List triggers, and when they fire next.")
@click.argument("actor", required=False)
@broker_option
@timeout_option
@as_json
def list_them(actor: str | None, *, broker: str | None, timeout: float, json_output: bool) -> None:
    """List the triggers of an actor, or of all, with the next five times of each.

    WHY says in one line why one does not fire: it is paused or off, its code no longer declares it, or no node runs its
    actor.
    """
    known = _known(broker, timeout)
    found = [one for one in known if actor in (None, one.record.definition.actor)]
    if json_output:
        print_json([in_json(one) for one in found])
    elif not found:
        click.echo(f"no triggers{f' of {printable(repr(actor))}' if actor else ''}")
        if known:
            from actorwork.state.known_actors import near

            actors = {one.record.definition.actor for one in known}
            click.echo(f"of those that have some, {printable(near(actor or '', actors))}", err=True)
    else:
        is_silent = any(one.why for one in found)
        print_table(
            ("ACTOR", "TITLE", "SCHEDULE", "STATE", "BY HAND", "FIRED", "LAST", "NEXT", *["WHY"] * is_silent),
            [
                (
                    one.record.definition.actor,
                    one.record.definition.title,
                    schedule_text(one.record),
                    one.state if one.has_node or one.state != "on" else "no node",
                    one.by_hand,
                    str(one.record.fired),
                    moment(one.record.last / 1000) if one.record.last > one.record.registered else "",
                    ", ".join(coming(one)),
                    *[one.why] * is_silent,
                )
                for one in found
            ],
        )


@triggers.command(short_help="Show one trigger in full.")
@click.argument("actor")
@click.argument("title")
@broker_option
@timeout_option
@as_json
def show(actor: str, title: str, *, broker: str | None, timeout: float, json_output: bool) -> None:
    """Show a trigger: its schedule, its rules, its message, its next times."""
    one = _one(_known(broker, timeout), actor, title)
    if json_output:
        print_json(in_json(one))
        return
    for name, value in in_json(one).items():
        if name == "next":
            for number, time in enumerate(value):
                click.echo(f"{'next' if number == 0 else '    '}: {time}")
        elif value not in (None, ""):
            click.echo(f"{name}: {one_line(printable(str(value)), 2000)}")


@triggers.command(short_help="Send a trigger's message now.")
@click.argument("actor", callback=title_of_actor)
@click.argument("title")
@broker_option
@timeout_option
def run(actor: str, title: str, *, broker: str | None, timeout: float) -> None:
    """Send the message of a trigger now, whatever its schedule says, and also while it is paused."""
    from actorwork.clients.auditing import audited
    from actorwork.clients.opening import open_client

    async def talk(opened: Broker, step: Step) -> str:
        async with (
            open_client(opened) as client,
            audited(opened.audit, "run trigger", f"trigger {actor}/{title}", step=step),
        ):
            with step():
                try:
                    return await client.run_trigger(actor, title)
                except LookupError as error:
                    raise click.ClickException(str(error)) from error

    click.echo(f"sent {speak(broker, timeout, talk)}")


@triggers.command(short_help="Stop a trigger from firing.")
@click.argument("actor")
@click.argument("title", required=False)
@click.option("--reason", default="", help="The reason, which `paused` and the logs show.")
@force_option("Pause also the triggers of an actor that has not run so far.")
@broker_option
@timeout_option
def pause(actor: str, title: str | None, *, reason: str, force: bool, broker: str | None, timeout: float) -> None:
    """Pause a trigger of an actor or, without TITLE, all of them. All nodes obey within a second."""
    kind, name = _pause_of(actor, title)
    if not force:
        _expect(_known(broker, timeout), actor, title)
    click.echo(f"paused {pause_at(broker, timeout, kind, name, reason)}")


@triggers.command(short_help="Let a trigger fire again.")
@click.argument("actor")
@click.argument("title", required=False)
@broker_option
@timeout_option
def resume(actor: str, title: str | None, *, broker: str | None, timeout: float) -> None:
    """End the pause of a trigger or, without TITLE, of all of an actor. Times that passed meanwhile do not fire."""
    kind, name = _pause_of(actor, title)
    resume_at(broker, timeout, kind, name)


@triggers.command(short_help="Delete a trigger that has vanished.")
@click.argument("actor")
@click.argument("title")
@broker_option
@timeout_option
def forget(actor: str, title: str, *, broker: str | None, timeout: float) -> None:
    """Delete a trigger from the broker. A node that still declares it registers it again, as a new one."""
    from actorwork.clients.auditing import audited

    async def talk(opened: Broker, step: Step) -> None:
        with step():
            one = _one([Known(record) for record in await opened.triggers.list()], actor, title)
        async with audited(opened.audit, "forget trigger", f"trigger {actor}/{title}", step=step):
            with step():
                await opened.triggers.forget(one.record.definition.source, one.record.definition.id)

    speak(broker, timeout, talk)
    click.echo(f"forgot {title!r} of {actor!r}")


def _pause_of(actor: str, title: str | None) -> tuple[PauseKind, str]:
    from actorwork.policy.pauses import trigger_name

    return ("triggers", actor) if title is None else ("trigger", trigger_name(actor, title))


def _known(broker: str | None, timeout: float) -> Sequence[Known]:
    async def talk(opened: Broker, step: Step) -> Sequence[Known]:
        with step():
            records, pauses = await opened.triggers.list(), await opened.pauses.list()
        with step():
            return known_triggers(records, pauses, await actors_without_node(opened, records))

    return speak(broker, timeout, talk)


def _expect(found: Sequence[Known], actor: str, title: str | None) -> None:
    """End the command if there is no such trigger, or none of the actor: a misspelt title would pause nothing."""
    from actorwork.state.known_actors import near

    actors = {one.record.definition.actor for one in found}
    if title is not None and actor in actors:
        _one(found, actor, title)
    elif actor not in actors:
        others = near(actor, actors) if actors else "there are no triggers"
        raise click.ClickException(f"no trigger of {actor!r} at the broker; {others} (--force if one is to come later)")


def _one(found: Sequence[Known], actor: str, title: str) -> Known:
    from actorwork.triggers.declared import find_trigger

    try:
        record = find_trigger([one.record for one in found], actor, title)
    except LookupError as error:
        raise click.ClickException(str(error)) from error
    return next(one for one in found if one.record is record)
