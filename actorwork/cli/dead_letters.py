"""`actorwork dead`: the messages nobody could handle, to look at, to send again, to drop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from actorwork.cli.brokers import Step, broker_option, speak, timeout_option
from actorwork.cli.output import as_json, many, one_line, print_json, print_table, printable

if TYPE_CHECKING:
    from actorwork.abc import Broker, DeadLetters
    from actorwork.message import DeadLetter

EVERY: Final = 1_000_000
"""More than anybody looks through; `--all` and the search for a message's id stop there."""

BATCH: Final = 500


@click.group(short_help="Look at dead letters, replay them, drop them.")
def dead() -> None:
    """Look at dead letters, send them again, drop them.

    A dead letter is a message that nobody could handle, kept with its error. ENTRY is the name it has among those
    of its source, as `dead ls` shows it, or the message's id, as logs show it.
    """


@dead.command("ls", short_help="List dead letters.")
@click.argument("source", required=False)
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Show at most so many.")
@broker_option
@timeout_option
@as_json
def list_them(source: str | None, *, limit: int, broker: str | None, timeout: float, json_output: bool) -> None:
    """List the dead letters of a source, or of all, oldest first."""

    async def talk(opened: Broker, step: Step) -> Sequence[DeadLetter]:
        with step():
            return await opened.dead_letters.list(source, limit=limit)

    letters = speak(broker, timeout, talk)
    if json_output:
        print_json([in_json(letter) for letter in letters])
    elif not letters:
        click.echo(f"no dead letters{f' of {source!r}' if source else ''}")
    else:
        print_table(
            ("SOURCE", "ENTRY", "MESSAGE", "ACTOR", "ATTEMPT", "FAILED", "ERROR"),
            [
                (letter.source, letter.entry, letter.id, letter.actor, str(letter.attempt), when(letter), error(letter))
                for letter in letters
            ],
        )
        if len(letters) == limit:
            click.echo(f"(the first {limit:,}; --limit shows more)", err=True)


@dead.command(short_help="Show one dead letter in full.")
@click.argument("source")
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
            ("source", letter.source),
            ("entry", letter.entry),
            ("message", letter.id),
            ("actor", f"{letter.actor} ({letter.group})"),
            ("attempt", str(letter.attempt)),
            ("failed", when(letter)),
            ("error", error(letter)),
            *([("type", letter.type)] if letter.type else []),
            *((f"header {name}", str(value)) for name, value in letter.headers.items()),
        ]
        for name, value in facts:
            click.echo(f"{one_line(name)}: {one_line(value, 2000)}")
        click.echo(f"\n{printable(payload_text(letter))}\n")
        if letter.failure.traceback:
            click.echo(printable(letter.failure.traceback))


def _many_of_them(name: str, help: str) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a command that does something with entries, or with --all."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        for decorator in (
            as_json,
            timeout_option,
            broker_option,
            click.option("--yes", is_flag=True, help="Do not ask.", allow_from_autoenv=False),
            click.option(
                "--all", "every", is_flag=True, help="All of SOURCE, or of all sources.", allow_from_autoenv=False
            ),
            click.argument("entries", nargs=-1, metavar="[ENTRY]..."),
            click.argument("source", required=False),
        ):
            function = decorator(function)
        return dead.command(name, short_help=help)(function)

    return decorate


@_many_of_them("replay", "Send dead letters again.")
def replay(
    source: str | None,
    entries: tuple[str, ...],
    *,
    every: bool,
    yes: bool,
    broker: str | None,
    timeout: float,
    json_output: bool,
) -> None:
    """Send dead letters again, as first attempts, each to the actor that failed alone.

    With --all, those that are there when the command begins; it asks first.
    """
    _do(
        "replay", "replayed", lambda letters, source, names: letters.replay(source, names),
        source, entries, every=every, ask=every and not yes, broker=broker, timeout=timeout, json_output=json_output,
    )  # fmt: skip


@_many_of_them("drop", "Delete dead letters.")
def drop(
    source: str | None,
    entries: tuple[str, ...],
    *,
    every: bool,
    yes: bool,
    broker: str | None,
    timeout: float,
    json_output: bool,
) -> None:
    """Delete dead letters for good; it asks first."""
    _do(
        "drop", "dropped", lambda letters, source, names: letters.drop(source, names),
        source, entries, every=every, ask=not yes, broker=broker, timeout=timeout, json_output=json_output,
    )  # fmt: skip


def _do(
    verb: str,
    done: str,
    act: Callable[[DeadLetters, str, Sequence[str]], Awaitable[int]],
    source: str | None,
    entries: tuple[str, ...],
    *,
    every: bool,
    ask: bool,
    broker: str | None,
    timeout: float,
    json_output: bool,
) -> None:
    if every == bool(entries):
        raise click.UsageError(f"say which to {verb}: SOURCE ENTRY..., or --all")
    if entries and source is None:
        raise click.UsageError("ENTRY wants its SOURCE before it")

    async def look(opened: Broker, step: Step) -> Sequence[DeadLetter]:
        if entries:
            return await find(opened.dead_letters, step, str(source), entries)
        with step():
            return await opened.dead_letters.list(source, limit=EVERY)

    async def carry_out(opened: Broker, step: Step) -> int:
        count = 0
        for name, names in by_source(chosen).items():
            for first in range(0, len(names), BATCH):
                with step():
                    count += await act(opened.dead_letters, name, names[first : first + BATCH])
        return count

    chosen = speak(broker, timeout, look)
    if chosen and ask:
        # Asked outside of the loop: an answer may take its time.
        where = f" of {source!r}" if source else " of all sources"
        click.confirm(f"{verb} {many(len(chosen), 'dead letter')}{where}?", abort=True, err=True)
    count = speak(broker, timeout, carry_out) if chosen else 0
    if json_output:
        print_json({done: count})
    else:
        click.echo(f"{done} {many(count, 'dead letter')}")
    if count < len(chosen):
        raise click.ClickException(f"{many(len(chosen) - count, 'dead letter')} had gone meanwhile")


async def find(letters: DeadLetters, step: Step, source: str, names: Sequence[str]) -> Sequence[DeadLetter]:
    """Return the dead letters of these entries or messages' ids; ends the command if one is not there."""
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
        with step():
            listed = await letters.list(source, limit=EVERY)
        for name in others:
            of_message = [letter for letter in listed if letter.id == name]
            if not of_message:
                raise click.ClickException(
                    f"no dead letter of {source!r} has the entry or message id {name!r};"
                    f" see: actorwork dead ls {source}"
                )
            found += of_message
    return list({letter.entry: letter for letter in found}.values())


def by_source(letters: Sequence[DeadLetter]) -> dict[str, list[str]]:
    entries: dict[str, list[str]] = {}
    for letter in letters:
        entries.setdefault(letter.source, []).append(letter.entry)
    return entries


def when(letter: DeadLetter) -> str:
    return datetime.fromtimestamp(letter.at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def error(letter: DeadLetter) -> str:
    return f"{letter.failure.type}: {letter.failure.reason}" if letter.failure.reason else letter.failure.type


def payload(letter: DeadLetter) -> tuple[str, Any]:
    """Return what a payload is (`json`, `fields` or `bytes`), and it in a form that JSON has."""
    from actorwork import codec
    from actorwork.errors import CodecError

    if not isinstance(letter.payload, bytes):
        return "fields", {_text(name): _text(value) for name, value in letter.payload.items()}
    try:
        return "json", codec.loads(letter.payload)
    except CodecError:
        return "bytes", _text(letter.payload)


def payload_text(letter: DeadLetter) -> str:
    import json

    kind, value = payload(letter)
    return value if kind == "bytes" else json.dumps(value, ensure_ascii=False, indent=2)


def _text(data: bytes) -> str:
    return data.decode(errors="backslashreplace")


def in_json(letter: DeadLetter) -> dict[str, Any]:
    kind, value = payload(letter)
    return {
        "source": letter.source,
        "entry": letter.entry,
        "message_id": letter.id,
        "actor_id": letter.group,
        "actor": letter.actor,
        "attempt": letter.attempt,
        "failed_at": when(letter),
        "error": error(letter),
        "traceback": letter.failure.traceback,
        "type": letter.type,
        "headers": dict(letter.headers),
        "payload_is": kind,
        "payload": value,
    }
