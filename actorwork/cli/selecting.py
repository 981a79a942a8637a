"""Select the dead letters for a command: by options, or by entries and message ids."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click

from actorwork.cli.brokers import Step, pasted, unknown_actor_of, unknown_source_of
from actorwork.durations import parsed

if TYPE_CHECKING:
    from actorwork.abc import Broker, DeadLetters
    from actorwork.policy.dead_letters import Selection
    from actorwork.records import DeadLetter


class Moment(click.ParamType[float]):
    """A time: `2h` means two hours ago; or a date with or without a time, by default in the local timezone."""

    name = "moment"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value)
        try:
            return time.time() - parsed(text)
        except ValueError:
            pass
        try:
            return datetime.fromisoformat(text).astimezone().timestamp()
        except ValueError:
            self.fail(f"{text!r} is not a time such as 2h (ago) or 2026-01-31T12:00:00+00:00", param, ctx)


_TITLE: Final = "actorwork.title"
"""In a command's context: the title of the actor whose own source its argument names."""


def named_source(ctx: click.Context, _: click.Parameter, name: str | None) -> str | None:
    """Return the source that an argument names; `actor:TITLE` is the actor's own one."""
    if name is None or not name.startswith("actor:"):
        return name
    from actorwork.settings import default_source, identity

    ctx.meta[_TITLE] = title = name.removeprefix("actor:")
    return default_source(identity(title))


def title_of_actor(_: click.Context, __: click.Parameter, name: str) -> str:
    """Return the title of an actor that an argument names; an empty one is wrong usage."""
    if not name:
        raise click.BadParameter("the title of an actor is wanted, got ''")
    return name


def valid_source(name: str) -> str:
    """Return the name of a source; a name that none may have ends the command."""
    from actorwork.settings import SOURCE, SOURCE_IN_WORDS

    if not SOURCE.fullmatch(name):
        raise click.UsageError(f"a source is {SOURCE_IN_WORDS}, got {name!r}")
    return name


_SELECTING: Final = ("actor", "error", "since", "until", "fingerprint", "text")


def selecting(function: Any) -> Any:
    """Give a command the options that select letters; with the SOURCE they become one argument, `selection`."""
    from functools import wraps

    @wraps(function)
    def command(*args: Any, source: str | None, **options: Any) -> Any:
        from actorwork.policy.dead_letters import Selection

        conditions = {name: options.pop(name) for name in _SELECTING}
        return function(*args, selection=Selection(source=source, **conditions), **options)

    for option in (
        click.option("--text", help="Those with this text: in the message, its headers, the error or the traceback."),
        click.option("--fingerprint", help="Those with the same cause, which `dead groups` shows."),
        click.option("--until", type=Moment(), help="Those before a time."),
        click.option("--since", type=Moment(), help="Those since a time, such as 2h (ago), or 2026-01-31T12:00."),
        click.option("--error", help="Those of an error's type, such as ValueError."),
        click.option("--actor", help="Those of an actor, by its title or id."),
    ):
        command = option(command)
    return command


def require_choice(verb: str, entries: tuple[str, ...], selection: Selection, *, every: bool) -> None:
    """End the command unless it is clear which letters to use."""
    if every == bool(entries):
        raise click.UsageError(f"choose which to {verb}: SOURCE ENTRY..., or --all")
    if entries and selection.source is None:
        raise click.UsageError("ENTRY wants its SOURCE before it")
    if entries and not selection.is_all:
        raise click.UsageError("entries are named one by one; --actor, --error and the like go with --all")


async def unknown_of(broker: Broker, step: Step, selection: Selection) -> str | None:
    """Return what to tell about an actor, or a source, by which no letter was found and which never was there."""
    from actorwork.settings import identity

    named = [click.get_current_context().meta.get(_TITLE), selection.actor]
    for title in filter(None, named):
        if (problem := await unknown_actor_of(broker, step, title, ids=identity)) is not None:
            return problem
    if selection.source is None or named[0] is not None:
        return None
    return await unknown_source_of(broker, step, selection.source)


async def find(letters: DeadLetters, step: Step, source: str, names: Sequence[str]) -> Sequence[DeadLetter]:
    """Return the dead letters with these entries or message ids; ends the command if one is missing."""
    found: list[DeadLetter] = []
    others: list[str] = []
    for name in names:
        with step():
            letter = await letters.get(source, name)
        if letter is None:
            others.append(name)
        else:
            found.append(letter)
    if others:
        from actorwork.clients.dead_letters import pages
        from actorwork.policy.dead_letters import Selection

        of_message: dict[str, list[DeadLetter]] = {name: [] for name in others}
        async with aclosing(pages(letters, Selection(source=source), step=step)) as all_pages:
            async for page in all_pages:
                for letter in page:
                    if letter.id in of_message:
                        of_message[letter.id].append(letter)
        for name, of_it in of_message.items():
            if not of_it:
                raise click.ClickException(
                    f"no dead letter of {source!r} has the entry or message id {name!r};"
                    f" see: {pasted('dead', 'ls', source)}"
                )
            found += of_it
    return list({letter.entry: letter for letter in found}.values())
