"""`actorwork sources`: into how many shards sources are divided, and moving one to another number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from actorwork.cli.brokers import Step, broker_option, confirm, speak, timeout_option, unknown_source_of
from actorwork.cli.output import as_json, many, print_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from actorwork.abc import Broker
    from actorwork.policy.reports import Counts

_TOLD_EVERY: Final = 10_000
"""Messages between two lines that say how far it is."""


@click.group(short_help="Into how many shards sources are divided.")
def sources() -> None:
    """Look at the shards of sources, and move a source to another number of them."""


@sources.command(name="ls", short_help="List the sources whose number of shards is known.")
@broker_option
@timeout_option
@as_json
def list_(*, broker: str | None, timeout: float, json_output: bool) -> None:
    """List the sources that a program has declared with a number of shards, with that number."""

    async def ask(opened: Broker, step: Step) -> Mapping[str, int]:
        with step():
            return await opened.shards.list()

    found = speak(broker, timeout, ask)
    if json_output:
        print_json([{"source": name, "shards": shards} for name, shards in found.items()])
        return
    for name, shards in found.items():
        click.echo(f"{name}  {many(shards, 'shard')}")
    if not found:
        click.echo("no source is divided")


@sources.command(short_help="Move a source to another number of shards, while it is paused.")
@click.argument("name", metavar="NAME")
@click.option(
    "--shards", type=click.IntRange(1, 256), required=True, help="The new number of shards.", allow_from_autoenv=False
)
@click.option("--dry-run", is_flag=True, help="Only say what would be moved.", allow_from_autoenv=False)
@click.option("--yes", is_flag=True, help="Do not ask.", allow_from_autoenv=False)
@click.option("--reason", default="", help="The reason, which `audit` shows.")
@broker_option
@timeout_option
def reshard(
    name: str, *, shards: int, dry_run: bool, yes: bool, reason: str, broker: str | None, timeout: float
) -> None:
    """Move all that the source NAME holds to another number of shards.

    The source must be paused (`actorwork pause --source NAME`), and is to be resumed afterwards; what is in flight is
    waited for. Ready and delayed messages, those that wait for their key, in their order, and dead letters are moved.
    Senders go on, and wait in the last moments. If the command is stopped, or its machine dies, start it again: it
    continues. Programs that declare the old number are refused when they start.
    """
    from actorwork.clients.auditing import audited
    from actorwork.settings import Source
    from actorwork.state.shards import check_paused

    Source(name, shards=shards)

    async def look(opened: Broker, step: Step) -> tuple[int, Counts, str | None]:
        with step():
            known = (await opened.shards.list()).get(name, 1)
            (counts,) = await opened.reports.count([name])
            if not dry_run:
                await check_paused(opened.pauses, name)
        is_empty = not (counts.backlog or counts.delayed or counts.dead)
        return known, counts, await unknown_source_of(opened, step, name) if is_empty else None

    async def move(opened: Broker, step: Step) -> int:
        async with audited(opened.audit, "reshard", name, reason=reason, step=step) as action:
            action.how_many = await opened.shards.reshard(name, shards, progress=_Teller())
            return action.how_many

    before, counts, problem = speak(broker, timeout, look)
    if problem is not None:
        click.echo(f"note: {problem}", err=True)
    what = f"{many(counts.backlog + counts.delayed, 'message')} and {many(counts.dead, 'dead letter')} of {name!r}"
    change = f"from {many(before, 'shard')} to {shards}"
    if dry_run:
        click.echo(f"would move {what} {change}")
        return
    if not yes:
        confirm(f"Move {what} {change}?")
    moved = speak(broker, timeout, move)
    click.echo(f"{name!r} has {many(shards, 'shard')}; moved {many(moved, 'message')}")
    click.echo(f"resume it when the programs declare {shards}: actorwork resume --source {name}", err=True)


class _Teller:
    """Says now and then how many messages have been moved."""

    def __init__(self) -> None:
        self._next = _TOLD_EVERY

    def __call__(self, moved: int) -> None:
        if moved >= self._next:
            click.echo(f"moved {moved:,}", err=True)
            self._next = moved + _TOLD_EVERY
