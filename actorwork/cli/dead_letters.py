"""`actorwork dead`: list dead letters, send them again (also changed), drop, export and import them.

Commands on many letters read them page by page, so that a million of them fit into memory.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from actorwork.cli.brokers import Step, broker_option, confirm, speak, timeout_option
from actorwork.cli.letters import envelopes, exported, with_changes
from actorwork.cli.output import as_json, many, one_line, print_json, print_table, printable
from actorwork.cli.selecting import find, named_source, require_choice, selecting, unknown_of
from actorwork.inspection.letters import (
    cause_in_json,
    error,
    fingerprint,
    in_json,
    payload,
    payload_text,
    shown_source,
)
from actorwork.inspection.words import moment
from actorwork.telemetry.formatting import indented

if TYPE_CHECKING:
    from actorwork.abc import Broker, DeadLetters
    from actorwork.clients.dead_letters import Snapshot
    from actorwork.policy.dead_letters import Cause, Selection
    from actorwork.records import DeadLetter

BATCH: Final = 500


@click.group(short_help="Look at dead letters, replay them, drop them.")
def dead() -> None:
    """Look at dead letters, send them again, drop them.

    A dead letter is a message that no actor could handle, stored with its error. ENTRY is its name among the dead
    letters of its source, as `dead ls` shows it, or the message's id, as logs show it. Letters with the same cause have
    the same fingerprint, which `dead groups` shows; its first characters are enough to name it.
    """


@dead.command("ls", short_help="List dead letters.")
@click.argument("source", required=False, callback=named_source)
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", default=100, show_default=True, help="Show at most this many."
)
@selecting
@broker_option
@timeout_option
@as_json
def list_them(*, selection: Selection, limit: int, broker: str | None, timeout: float, json_output: bool) -> None:
    """List the dead letters of a source, or of all, oldest first."""

    async def talk(opened: Broker, step: Step) -> Sequence[DeadLetter]:
        from actorwork.clients.dead_letters import pages

        found: list[DeadLetter] = []
        async with aclosing(pages(opened.dead_letters, selection, step=step)) as all_pages:
            async for page in all_pages:
                found += page[: limit - len(found)]
                if len(found) == limit:
                    break
        return found

    letters = speak(broker, timeout, talk)
    if json_output:
        print_json([in_json(letter) for letter in letters])
    elif not letters:
        _print_none(selection)
    else:
        print_table(
            ("SOURCE", "ENTRY", "MESSAGE", "ACTOR", "ATTEMPT", "FAILED", "ERROR"),
            [
                (
                    shown_source(letter),
                    letter.entry,
                    letter.id,
                    letter.actor,
                    str(letter.attempt),
                    moment(letter.at),
                    error(letter),
                )
                for letter in letters
            ],
        )
        if len(letters) == limit:
            click.echo(f"(the first {limit:,}; --limit shows more)", err=True)


def _print_none(selection: Selection) -> None:
    click.echo(f"no {'' if selection.is_all else 'such '}dead letters{_of(selection)}")


def _in_words(selection: Selection, entries: Sequence[str]) -> str:
    """Return for the record which letters were chosen."""
    import attrs

    conditions = [f"{name} {value}" for name, value in attrs.asdict(selection).items() if value is not None]
    named = f"{' '.join(entries[:10])}{' …' if len(entries) > 10 else ''}"
    return ", ".join(filter(None, [*conditions, named])) or "all"


def _of(selection: Selection) -> str:
    return f" of {selection.source!r}" if selection.source else ""


@dead.command(short_help="Show the causes of dead letters.")
@click.argument("source", required=False, callback=named_source)
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", default=50, show_default=True, help="Show at most this many."
)
@selecting
@broker_option
@timeout_option
@as_json
def groups(*, selection: Selection, limit: int, broker: str | None, timeout: float, json_output: bool) -> None:
    """Group the dead letters of a source, or of all, by cause; the largest group first."""

    async def talk(opened: Broker, step: Step) -> Sequence[Cause]:
        from actorwork.clients.dead_letters import pages
        from actorwork.policy.dead_letters import by_cause

        found: list[Cause] = []
        async with aclosing(pages(opened.dead_letters, selection, step=step)) as all_pages:
            async for page in all_pages:
                found = by_cause(page, found)
        return found

    found = speak(broker, timeout, talk)
    if json_output:
        print_json([cause_in_json(cause) for cause in found[:limit]])
    elif not found:
        _print_none(selection)
    else:
        print_table(
            ("FINGERPRINT", "LETTERS", "ACTOR", "FIRST", "LAST", "LATEST", "ERROR"),
            [
                (
                    cause.fingerprint,
                    f"{cause.count:,}",
                    cause.example.actor,
                    moment(cause.first),
                    moment(cause.last),
                    f"{shown_source(cause.example)} {cause.example.entry}",
                    error(cause.example),
                )
                for cause in found[:limit]
            ],
        )
        if len(found) > limit:
            click.echo(f"(the largest {limit:,} of {len(found):,}; --limit shows more)", err=True)


@dead.command(short_help="Show one dead letter in full.")
@click.argument("source", callback=named_source)
@click.argument("entry")
@broker_option
@timeout_option
@as_json
def show(source: str, entry: str, *, broker: str | None, timeout: float, json_output: bool) -> None:
    """Show a dead letter: its message, its error and its traceback."""

    async def talk(opened: Broker, step: Step) -> Sequence[DeadLetter]:
        return await find(opened.dead_letters, step, source, [entry])

    # One message may have failed at two actors.
    letters = speak(broker, timeout, talk)
    if json_output:
        print_json(in_json(letters[0]) if len(letters) == 1 else [in_json(letter) for letter in letters])
        return
    for letter in letters:
        facts = [
            ("source", shown_source(letter)),
            ("entry", letter.entry),
            ("message", letter.id),
            ("actor", f"{letter.actor} ({letter.group})"),
            ("attempt", str(letter.attempt)),
            ("failed", moment(letter.at)),
            ("error", error(letter)),
            ("fingerprint", fingerprint(letter)),
            *([("type", letter.type)] if letter.type else []),
            *((f"header {name}", str(value)) for name, value in letter.headers.items()),
        ]
        for name, value in facts:
            click.echo(f"{one_line(name)}: {one_line(value, 2000)}")
        is_json = payload(letter)[0] != "bytes"
        # Lines of JSON hold no line break of the message; those of anything else could be taken for lines of ours.
        click.echo(f"\n{printable(payload_text(letter)) if is_json else indented(payload_text(letter))}\n")
        if letter.failure.traceback:
            click.echo(indented(letter.failure.traceback))


def _many_of_them(name: str, help: str) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a command on some entries, or with --all on everything that the options select."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        for decorator in (
            as_json,
            timeout_option,
            broker_option,
            selecting,
            click.option("--yes", is_flag=True, help="Do not ask.", allow_from_autoenv=False),
            click.option(
                "--all",
                "every",
                is_flag=True,
                help="All letters of SOURCE, or of all sources, that the options below select.",
                allow_from_autoenv=False,
            ),
            click.argument("entries", nargs=-1, metavar="[ENTRY]..."),
            click.argument("source", required=False, callback=named_source),
        ):
            function = decorator(function)
        return dead.command(name, short_help=help)(function)

    return decorate


def _editing(function: Any) -> Any:
    for option in (
        click.option("--data", metavar="JSON", help="Send this message instead, under the same id."),
        click.option(
            "--set",
            "changes",
            metavar="FIELD=VALUE",
            multiple=True,
            help="Change a field of the message: VALUE is JSON, otherwise a string; a.b is the field b of a.",
        ),
        click.option("--edit", is_flag=True, help="Change the message in $EDITOR first.", allow_from_autoenv=False),
    ):
        function = option(function)
    return function


@_many_of_them("replay", "Send dead letters again.")
@_editing
def replay(
    entries: tuple[str, ...],
    *,
    selection: Selection,
    every: bool,
    yes: bool,
    edit: bool,
    changes: tuple[str, ...],
    data: str | None,
    broker: str | None,
    timeout: float,
    json_output: bool,
) -> None:
    """Send dead letters again, as first attempts, each only to the actor that failed.

    With --all, the command asks first, and sends the letters that exist when it begins. A single letter can be changed
    first, by --edit, --set or --data.
    """
    require_choice("replay", entries, selection, every=every)
    if edit or changes or data is not None:
        if len(entries) != 1:
            raise click.UsageError("--edit, --set and --data want one ENTRY")
        if sum((edit, bool(changes), data is not None)) > 1:
            raise click.UsageError("choose one of --edit, --set and --data")
        _replay_changed(
            str(selection.source), entries[0], edit=edit, changes=changes, data=data, broker=broker, timeout=timeout,
            json_output=json_output,
        )  # fmt: skip
        return
    _do(
        "replay", "replayed", lambda letters, source, names: letters.replay(source, names),
        entries, selection, ask=every and not yes, broker=broker, timeout=timeout, json_output=json_output,
    )  # fmt: skip


@_many_of_them("drop", "Delete dead letters.")
def drop(
    entries: tuple[str, ...],
    *,
    selection: Selection,
    every: bool,
    yes: bool,
    broker: str | None,
    timeout: float,
    json_output: bool,
) -> None:
    """Delete dead letters permanently; the command asks first."""
    require_choice("drop", entries, selection, every=every)
    _do(
        "drop", "dropped", lambda letters, source, names: letters.drop(source, names),
        entries, selection, ask=not yes, broker=broker, timeout=timeout, json_output=json_output,
    )  # fmt: skip


def _do(
    verb: str,
    done: str,
    act: Callable[[DeadLetters, str, Sequence[str]], Awaitable[int]],
    entries: tuple[str, ...],
    selection: Selection,
    *,
    ask: bool,
    broker: str | None,
    timeout: float,
    json_output: bool,
) -> None:
    from actorwork.clients.auditing import audited
    from actorwork.clients.dead_letters import act_on, pages, take_snapshot

    async def look(opened: Broker, step: Step) -> Sequence[DeadLetter] | Snapshot:
        if entries:
            return await find(opened.dead_letters, step, str(selection.source), entries)
        return await take_snapshot(opened.dead_letters, selection, step=step)

    async def look_again(opened: Broker, step: Step) -> str | None:
        return await unknown_of(opened, step, selection)

    async def carry_out(opened: Broker, step: Step) -> int:
        letters = opened.dead_letters
        async with audited(opened.audit, verb, f"dead letters: {_in_words(selection, entries)}", step=step) as action:
            action.how_many = 0
            if isinstance(chosen, Sequence):
                action.how_many = await act_on(letters, chosen, act, problems, step=step)
            else:
                async with aclosing(pages(letters, selection, until=chosen, step=step)) as all_pages:
                    async for page in all_pages:
                        action.how_many += await act_on(letters, page, act, problems, step=step)
            if problems:
                action.outcome = f"not all: {problems[0]}"
        return action.how_many

    problems: list[str] = []
    chosen = speak(broker, timeout, look)
    wanted = len(chosen) if isinstance(chosen, Sequence) else chosen.count
    if wanted and ask:
        # Outside the event loop: the user may take any time to answer.
        where = f" of {selection.source!r}" if selection.source else " of all sources"
        confirm(f"{verb} {many(wanted, 'dead letter')}{where}?")
    count = speak(broker, timeout, carry_out) if wanted else 0
    if json_output:
        print_json({done: count})
    else:
        click.echo(f"{done} {many(count, 'dead letter')}")
        if not wanted and (unknown := speak(broker, timeout, look_again)) is not None:
            click.echo(unknown, err=True)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise click.ClickException(f"not {done}: {problems[0]}{more}")
    if count < wanted:
        raise click.ClickException(f"{many(wanted - count, 'dead letter')} no longer existed")


def _replay_changed(
    source: str,
    entry: str,
    *,
    edit: bool,
    changes: Sequence[str],
    data: str | None,
    broker: str | None,
    timeout: float,
    json_output: bool,
) -> None:
    from actorwork import codec
    from actorwork.clients.auditing import audited
    from actorwork.errors import CodecError

    async def look(opened: Broker, step: Step) -> Sequence[DeadLetter]:
        return await find(opened.dead_letters, step, source, [entry])

    found = speak(broker, timeout, look)
    if len(found) > 1:
        raise click.ClickException(
            f"message {entry} has {len(found)} dead letters: name one by its entry,"
            f" {' or '.join(letter.entry for letter in found)}"
        )
    (letter,) = found
    if edit:
        data = click.edit(payload_text(letter), extension=".json", require_save=True)
        if data is None:
            click.echo("nothing was changed, nothing was sent", err=True)
            raise click.Abort
    if data is None:
        kind, value = payload(letter)
        if kind == "bytes":
            raise click.ClickException("the message is not JSON, so --set cannot change it: use --data")
        changed = codec.dumps(with_changes(value, changes))
    else:
        try:
            changed = codec.dumps(codec.loads(data.encode(errors="surrogateescape")))
        except CodecError as error:
            raise click.ClickException(f"{printable(str(error))}; nothing was sent") from None

    async def send(opened: Broker, step: Step) -> None:
        async with audited(opened.audit, "edit and replay", f"dead letter {letter.entry} of {source}", step=step):
            with step():
                if await opened.dead_letters.replay_as(
                    letter.source, letter.entry, changed, type=letter.type, headers=letter.headers
                ):
                    return
            raise click.ClickException("the dead letter no longer exists; nothing was sent")

    speak(broker, timeout, send)
    if json_output:
        print_json({"replayed": 1, "payload": codec.loads(changed)})
    else:
        click.echo(f"replayed message {one_line(letter.id)} as {one_line(changed.decode(errors='backslashreplace'))}")


@dead.command(short_help="Write dead letters as JSON lines.")
@click.argument("source", required=False, callback=named_source)
@click.option(
    "--to",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write to this file instead of standard output.",
)
@selecting
@broker_option
@timeout_option
def export(*, selection: Selection, file: Path | None, broker: str | None, timeout: float) -> None:
    """Write the dead letters of a source, or of all, as JSON lines, which `dead import` reads. Nothing is deleted."""

    async def talk(opened: Broker, step: Step) -> int:
        from actorwork.clients.dead_letters import pages

        count = 0
        async with aclosing(pages(opened.dead_letters, selection, step=step)) as all_pages:
            async for page in all_pages:
                out.writelines(f"{exported(letter)}\n" for letter in page)
                count += len(page)
        out.flush()  # A reader of the pipe that has gone is noticed here, and not when Python ends.
        return count

    if file is None:
        out = sys.stdout
        count = speak(broker, timeout, talk)
    else:
        try:
            out = file.open("w", encoding="utf-8")
        except OSError as error:
            raise click.ClickException(f"cannot write {file}: {error.strerror}") from error
        with out:
            count = speak(broker, timeout, talk)
    click.echo(f"exported {many(count, 'dead letter')}{_of(selection)}", err=True)


@dead.command("import", short_help="Send exported dead letters again.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@broker_option
@timeout_option
@as_json
def import_them(file: str, *, broker: str | None, timeout: float, json_output: bool) -> None:
    """Send the messages of exported dead letters again, each only to the actor that failed; - is standard input.

    The ids are derived from those of message and letter, so importing a file twice within a day sends nothing twice.
    Drop the letters themselves if they still exist.
    """
    with click.open_file(file, encoding="utf-8") as lines:
        try:
            messages = list(envelopes(lines))
        except UnicodeDecodeError as error:
            raise click.ClickException(
                f"{file} is no file of exported dead letters: {error}; nothing was sent"
            ) from error

    async def talk(opened: Broker, step: Step) -> int:
        new = 0
        for first in range(0, len(messages), BATCH):
            with step():
                new += await opened.publish(messages[first : first + BATCH])
        return new

    new = speak(broker, timeout, talk, creates=True) if messages else 0
    if json_output:
        print_json({"read": len(messages), "new": new})
    else:
        known = len(messages) - new
        click.echo(f"sent {many(new, 'message')}" + (f"; {known:,} were there before" if known else ""))
