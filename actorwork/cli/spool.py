"""`actorwork spool`: list the messages that wait in a local file for their broker, send them now, drop them."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from actorwork.cli.brokers import Step, broker_option, confirm, speak, timeout_option
from actorwork.cli.output import as_json, many, one_line, print_json, print_table
from actorwork.inspection.words import moment

if TYPE_CHECKING:
    from actorwork.abc import Broker
    from actorwork.embedded.spool import Spooled, SpoolFile, SpoolStatus

T = TypeVar("T")

_KINDS = ("redis", "rediss", "unix", "sqlite", "valkey", "valkeys")


@click.group(short_help="Look at messages that wait for their broker, send them, drop them.")
def spool() -> None:
    """Look at the messages that a client's spool holds while its broker is away, send them now, or drop them.

    Clients send them by themselves: this command is for a file whose program has ended, and for messages that the
    broker refused.
    """


def spool_option(function: Any) -> Any:
    return click.option(
        "--spool",
        "path",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="The spool's file; without it, the default one of the broker that --broker names.",
    )(function)


@spool.command("ls", short_help="List the messages in a spool.")
@click.argument("source", required=False)
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", default=100, show_default=True, help="Show at most this many."
)
@spool_option
@broker_option
@as_json
def list_them(source: str | None, *, limit: int, path: Path | None, broker: str | None, json_output: bool) -> None:
    """List the messages in a spool, oldest first; those that the broker refused have its reason.

    The command does not connect to the broker: --broker only selects its default file.
    """
    path = file_of(path, broker)

    def look(file: SpoolFile) -> tuple[SpoolStatus, Sequence[Spooled]]:
        return file.status(), file.list(source, limit=limit)

    status, found = with_file(path, look) if path.exists() else (None, ())
    if json_output:
        print_json(
            {
                "file": str(path),
                "messages": status.messages if status else 0,
                "bytes": status.bytes if status else 0,
                "set_aside": status.refused if status else 0,
                "age": age(status),
                "listed": [in_json(one) for one in found],
            }
        )
        return
    if found:
        print_table(
            ("SOURCE", "MESSAGE", "TOLD", "BYTES", "SET ASIDE"),
            [(one.source, one.id, moment(one.born), str(len(one.data)), one.refused or "") for one in found],
        )
    if status is None or not status.messages:
        click.echo(f"no messages wait in {path}")
        return
    click.echo(
        f"{many(status.messages, 'message')} of {many(status.bytes, 'byte')} in {path}, the oldest"
        f" {age(status):.0f} s old; {status.refused:,} of them set aside",
        err=True,
    )


@spool.command(short_help="Send the messages in a spool now.")
@spool_option
@broker_option
@timeout_option
@as_json
def flush(*, path: Path | None, broker: str | None, timeout: float, json_output: bool) -> None:
    """Send all messages in a spool to the broker, including those set aside, each under its own id.

    If the broker refuses some again, they stay set aside, and the exit code is 1.
    """
    path = file_of(path, broker)
    if not path.exists():
        raise click.ClickException(f"there is no spool {path}; --spool names another file")
    before = with_file(path, lambda file: (file.take_up_again(), file.status())[1])
    left = (
        speak(broker, timeout, lambda opened, step: replay(opened, step, path), creates=True)
        if before.messages
        else before
    )
    # A running program may have added some meanwhile.
    sent = max(0, before.messages - left.messages)
    if json_output:
        print_json({"file": str(path), "sent": sent, "set_aside": left.refused})
    else:
        click.echo(f"sent {many(sent, 'message')} of {path}")
    if left.refused:
        raise click.ClickException(f"the broker refused {many(left.refused, 'message')}: see: {_listing(path)}")


async def replay(broker: Broker, step: Step, path: Path) -> SpoolStatus:
    """Replay a spool until no message waits, and return its status then."""
    import trio

    from actorwork.brokers import ignore
    from actorwork.clients.lazy_broker import LazyBroker
    from actorwork.clients.spool import Spool, open_spooler

    late = LazyBroker(broker.url)
    late.arrived(broker)
    async with open_spooler(Spool(path=path), path, late, ignore) as spooler, trio.open_nursery() as nursery:
        nursery.start_soon(spooler.run)
        while spooler.waiting:
            with step():
                await spooler.wait_progress()
        nursery.cancel_scope.cancel()
    return with_file(path, lambda file: file.status())


@spool.command(short_help="Delete messages from a spool.")
@click.argument("messages", nargs=-1, metavar="[MESSAGE]...")
@click.option("--set-aside", is_flag=True, help="All messages that the broker refused.", allow_from_autoenv=False)
@click.option("--yes", is_flag=True, help="Do not ask.", allow_from_autoenv=False)
@spool_option
@broker_option
@as_json
def drop(
    messages: tuple[str, ...], *, set_aside: bool, yes: bool, path: Path | None, broker: str | None, json_output: bool
) -> None:
    """Delete messages, by their ids, from a spool: they will never be sent. The command asks first."""
    if set_aside == bool(messages):
        raise click.UsageError("choose which to drop: MESSAGE..., or --set-aside")
    path = file_of(path, broker)
    if not path.exists():
        raise click.ClickException(f"there is no spool {path}; --spool names another file")

    def look(file: SpoolFile) -> Sequence[Spooled]:
        if set_aside:
            return [one for one in file.list(limit=-1) if one.refused is not None]
        return [one for message in messages for one in file.find(message)]

    chosen = with_file(path, look)
    for name in set(messages) - {one.id for one in chosen}:
        raise click.ClickException(f"no message in {path} has the id {name!r}; see: {_listing(path)}")
    if chosen and not yes:
        confirm(f"drop {many(len(chosen), 'message')} of {path}?")
    dropped = with_file(path, lambda file: file.remove(one.seq for one in chosen))
    if json_output:
        print_json({"dropped": dropped})
    else:
        click.echo(f"dropped {many(dropped, 'message')}")


def _listing(path: Path) -> str:
    return shlex.join(["actorwork", "spool", "ls", "--spool", str(path)])


def file_of(path: Path | None, broker: str | None) -> Path:
    from actorwork.clients.lazy_broker import place_of
    from actorwork.clients.spool import Spool, file_for

    # It names a file only, so nothing else would notice that it is misspelt.
    if path is None and broker is not None and broker.partition(":")[0] not in _KINDS:
        raise click.UsageError(f"--broker wants a URL that begins with one of {', '.join(_KINDS)}")
    return file_for(Spool(path=path), place_of(broker))


def with_file(path: Path, work: Callable[[SpoolFile], T]) -> T:
    """Open a spool, work on it and close it; an error of the file ends the command with one sentence."""
    from actorwork.embedded.spool import SpoolFile
    from actorwork.errors import SpoolError

    try:
        file = SpoolFile(path)
        try:
            return work(file)
        finally:
            file.close()
    except SpoolError as error:
        raise click.ClickException(one_line(str(error), 1000)) from error


def age(status: SpoolStatus | None) -> float:
    return 0.0 if status is None or status.oldest is None else round(max(0.0, time.time() - status.oldest), 1)


def in_json(one: Spooled) -> dict[str, Any]:
    import json

    from actorwork.inspection.letters import json_or_text

    _, payload = json_or_text(one.data)
    return {
        "source": one.source,
        "message_id": one.id,
        "told_at": moment(one.born),
        "set_aside": one.refused,
        "sent_with": json.loads(one.fields),
        "payload": payload,
    }
