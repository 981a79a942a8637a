"""`actorwork entities`: look at the states of entities, and change them by hand.

ls, show, history      what is read; none of them makes a store
put, forget            what is changed: never while a node is handling a message of the key, unless it is forced
"""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from actorwork.cli.brokers import (
    Step,
    broker_option,
    confirm,
    refuse_unknown_actor,
    speak,
    timeout_option,
    unknown_actor_of,
)
from actorwork.cli.durations import Duration
from actorwork.cli.output import as_json, one_line, print_json, print_table
from actorwork.inspection.words import moment

if TYPE_CHECKING:
    from actorwork.abc import Broker, EntityStore
    from actorwork.policy.entities import EntityInfo, StoredState
    from actorwork.policy.reports import EntityReport

T = TypeVar("T")

MOST: Final = 1_000_000
LONGEST: Final = 100 * 365 * 86_400.0
"""Seconds for which a state may be kept, as in `Entities.ttl`."""
FORCE = "Also while a node is handling a message of this key, which is then handled again."


@click.group(short_help="Look at the states of entities, and change them.")
def entities() -> None:
    """Look at the states of entities as they are committed, and change them by hand.

    ACTOR is the title of an entity, KEY the key of one of its states. No node is asked, and nothing is activated.
    """


@entities.command("ls", short_help="List the keys of an entity that have a state.")
@click.argument("actor", metavar="ACTOR")
@click.option(
    "--since", type=Duration(least=0), metavar="TIME", help="Only keys changed within this time, such as 1h30m."
)
@click.option(
    "--limit", type=click.IntRange(1, MOST), metavar="N", default=100, show_default=True, help="Show at most this many."
)
@broker_option
@timeout_option
@as_json
def list_them(
    actor: str, *, since: float | None, limit: int, broker: str | None, timeout: float, json_output: bool
) -> None:
    """List keys, those whose last change is longest ago first."""

    async def look(states: EntityStore) -> Sequence[EntityInfo]:
        from time import time

        # This machine's clock, since people mean theirs; the states' times are those of the broker's clock.
        changed_since = None if since is None else time() - since
        return await states.list(*_place(actor), changed_since=changed_since, limit=limit)

    found, hint, report = _ask(broker, timeout, actor, look, with_report=True)
    if json_output:
        print_json(
            [
                {
                    "key": one.key,
                    "version": one.version,
                    "at": one.at,
                    "by": one.by,
                    "bytes": one.bytes,
                    "is_stalled": _is_stalled(report, one.key),
                }
                for one in found
            ]
        )
    elif not found:
        click.echo(f"no states of {one_line(repr(actor))}{hint}")
    else:
        print_table(
            ("KEY", "VERSION", "CHANGED", "BY", "BYTES"),
            [(one.key, str(one.version), moment(one.at), one.by, f"{one.bytes:,}") for one in found],
        )
        if len(found) == limit:
            click.echo(f"(the first {limit:,}; --limit shows more)", err=True)
    if report is not None and report.stalled:
        from actorwork.inspection.states import stalled

        click.echo(one_line(stalled(report), 1000), err=True)


@entities.command(short_help="Show the state of a key.")
@click.argument("actor", metavar="ACTOR")
@click.argument("key", metavar="KEY")
@broker_option
@timeout_option
@as_json
def show(actor: str, key: str, *, broker: str | None, timeout: float, json_output: bool) -> None:
    """Show the committed state of a key, with its version, and when and by which message it was committed."""
    state, hint, report = _ask(broker, timeout, actor, lambda states: states.get(*_place(actor), key), with_report=True)
    if state is None:
        raise click.ClickException(f"{one_line(repr(actor))} has no state for the key {one_line(repr(key))}{hint}")
    if json_output:
        print_json(_in_json(state) | {"is_stalled": _is_stalled(report, key)})
        return
    facts = {
        "key": key,
        "version": str(state.version),
        "changed": moment(state.at),
        "by": state.by,
        "node": state.node,
        "schema": str(state.schema),
        "stalled": "a node cannot read it: the messages of the key wait" if _is_stalled(report, key) else "",
    }
    for name, value in facts.items():
        if value:
            click.echo(f"{name}: {one_line(value)}")
    click.echo()
    print_json(_value(state.data))


@entities.command(short_help="Show the last changes of a state.")
@click.argument("actor", metavar="ACTOR")
@click.argument("key", metavar="KEY")
@click.option(
    "--limit", type=click.IntRange(1, MOST), metavar="N", default=20, show_default=True, help="Show at most this many."
)
@broker_option
@timeout_option
@as_json
def history(actor: str, key: str, *, limit: int, broker: str | None, timeout: float, json_output: bool) -> None:
    """Show the last changes that are kept, newest first: as many as the actor's `Entities(history=…)` says."""
    found, hint, _ = _ask(broker, timeout, actor, lambda states: states.history(*_place(actor), key, limit=limit))
    if json_output:
        print_json([_in_json(state) for state in found])
    elif not found:
        click.echo(f"no changes are kept{hint}")
    else:
        print_table(
            ("VERSION", "CHANGED", "BY", "STATE"),
            [
                (str(state.version), moment(state.at), state.by, one_line(state.data.decode(errors="replace")))
                for state in found
            ],
        )


@entities.command(short_help="Replace the state of a key.")
@click.argument("actor", metavar="ACTOR")
@click.argument("key", metavar="KEY")
@click.argument("state", metavar="JSON")
@click.option(
    "--version",
    "wanted",
    type=click.IntRange(min=0),
    metavar="N",
    help="Only if the state has this version; 0 means that there is none.",
)
@click.option(
    "--ttl",
    type=Duration(least=0.001, most=LONGEST),
    metavar="TIME",
    help="Keep the state this long; without it, as long as it was to be kept before.",
)
@click.option("--forever", is_flag=True, help="Keep the state forever.", allow_from_autoenv=False)
@click.option(
    "--force",
    is_flag=True,
    help=f"{FORCE} Also if no actor of this title has run so far.",
    allow_from_autoenv=False,
)
@click.option("--reason", default="", help="The reason, which `audit` prints.")
@broker_option
@timeout_option
@as_json
def put(
    actor: str,
    key: str,
    state: str,
    *,
    wanted: int | None,
    ttl: float | None,
    forever: bool,
    force: bool,
    reason: str,
    broker: str | None,
    timeout: float,
    json_output: bool,
) -> None:
    """Replace a state by JSON; its next message is handled on it.

    The JSON is that of the version of the schema that the state has now. It is not compared with the type of the
    entity's states: a state that the program cannot read holds up the messages of its key.
    """
    from actorwork.clients.auditing import audited
    from actorwork.clients.entities import replaced
    from actorwork.clients.identity import whoami
    from actorwork.codec import dumps

    if forever and ttl is not None:
        raise click.UsageError("--ttl and --forever contradict each other: give one of them")
    try:
        data = dumps(json.loads(state))
    except ValueError as error:
        raise click.UsageError(f"the state is not JSON: {error}") from None

    async def talk(opened: Broker, step: Step) -> int:
        with step():
            before = await replaced(opened, *_place(actor), key, force=force)
        if before is None and not force:
            await refuse_unknown_actor(opened, step, actor)
        async with audited(opened.audit, "put-state", f"{actor}/{key}", reason=reason) as action:
            with step():
                new = await opened.entities.put(
                    *_place(actor),
                    key,
                    data,
                    version=wanted,
                    schema=0 if before is None else before.schema,
                    ttl=math.inf if forever else ttl,
                    history=None,
                    by=whoami(),
                    force=force,
                )
            action.how_many = 1
        return new

    version = speak(broker, timeout, talk, creates=force)
    if json_output:
        print_json({"key": key, "version": version})
    else:
        click.echo(f"the state of {one_line(repr(key))} has the version {version} now")


@entities.command(short_help="Delete the state of a key.")
@click.argument("actor", metavar="ACTOR")
@click.argument("key", metavar="KEY")
@click.option(
    "--version", "wanted", type=click.IntRange(min=1), metavar="N", help="Only if the state has this version."
)
@click.option("--force", is_flag=True, help=FORCE, allow_from_autoenv=False)
@click.option("--yes", is_flag=True, help="Do not ask.", allow_from_autoenv=False)
@click.option("--reason", default="", help="The reason, which `audit` prints.")
@broker_option
@timeout_option
@as_json
def forget(
    actor: str,
    key: str,
    *,
    wanted: int | None,
    force: bool,
    yes: bool,
    reason: str,
    broker: str | None,
    timeout: float,
    json_output: bool,
) -> None:
    """Delete a state and its history: the next message of the key begins with a first state."""
    from actorwork.clients.auditing import audited

    if not yes:
        confirm(f"Delete the state of {one_line(repr(key))} of {one_line(repr(actor))}, and its history?")

    async def talk(opened: Broker, step: Step) -> tuple[bool, str]:
        async with audited(opened.audit, "forget-state", f"{actor}/{key}", reason=reason) as action:
            with step():
                was_there = await opened.entities.forget(*_place(actor), key, version=wanted, force=force)
            action.how_many = int(was_there)
        return was_there, "" if was_there else await _hint(opened, step, actor)

    was_there, hint = speak(broker, timeout, talk)
    if json_output:
        print_json({"key": key, "forgotten": was_there})
    else:
        click.echo(f"the state of {one_line(repr(key))} is deleted" if was_there else f"there was no state{hint}")


def _ask(
    broker: str | None,
    timeout: float,
    actor: str,
    look: Callable[[EntityStore], Awaitable[T]],
    *,
    with_report: bool = False,
) -> tuple[T, str, EntityReport | None]:
    """Return what was found; if it is nothing, what may be wrong with the title; and what the nodes report."""

    async def talk(opened: Broker, step: Step) -> tuple[T, str, EntityReport | None]:
        with step():
            found = await look(opened.entities)
        return (
            found,
            "" if found else await _hint(opened, step, actor),
            await _report(opened, step, actor) if with_report else None,
        )

    return speak(broker, timeout, talk)


async def _report(opened: Broker, step: Step, actor: str) -> EntityReport | None:
    """Return what the nodes that run an entity report of it; None if none does, or this user may not read it."""
    from actorwork.errors import BrokerError
    from actorwork.inspection.gathering import gather
    from actorwork.inspection.states import together

    try:
        with step():
            gathered = await gather(opened)
    except BrokerError:
        return None
    places = gathered.by_title.get(actor, ())
    return together([place.part.entities for place in places if place.part.entities is not None])


def _is_stalled(report: EntityReport | None, key: str) -> bool:
    return report is not None and key in report.stalled_keys


async def _hint(opened: Broker, step: Step, actor: str) -> str:
    problem = await unknown_actor_of(opened, step, actor)
    return "" if problem is None else f": {problem}"


def _place(actor: str) -> tuple[str, str]:
    """Return the source and the group of an entity."""
    from actorwork.settings import default_source, identity

    group = identity(actor)
    return default_source(group), group


def _value(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data.decode(errors="replace")


def _in_json(state: StoredState) -> dict[str, Any]:
    return {
        "version": state.version,
        "at": state.at,
        "by": state.by,
        "node": state.node,
        "schema": state.schema,
        "state": _value(state.data),
    }
