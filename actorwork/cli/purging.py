"""`actorwork purge`: drop what no node has been given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from actorwork.cli.brokers import Step, broker_option, confirm, speak, timeout_option, unknown_source_of
from actorwork.cli.output import as_json, many, print_json
from actorwork.cli.sending import source_named

if TYPE_CHECKING:
    from actorwork.abc import Broker
    from actorwork.clients.purging import Purge
    from actorwork.records import Purgeable


@click.command(short_help="Drop the messages of a source that no node has been given.")
@click.argument("source", metavar="SOURCE")
@click.option("--dry-run", is_flag=True, help="Only count them.", allow_from_autoenv=False)
@click.option("--yes", is_flag=True, help="Do not ask.", allow_from_autoenv=False)
@click.option("--reason", default="", help="The reason, which receipts, `audit` and the logs show.")
@broker_option
@timeout_option
@as_json
def purge(
    source: str, *, dry_run: bool, yes: bool, reason: str, broker: str | None, timeout: float, json_output: bool
) -> None:
    """Drop the messages of SOURCE that are ready or delayed, or wait behind others with their key.

    SOURCE is the name of a source, or actor:TITLE for the own source of an actor. Each message ends as one that is
    cancelled, and runs whose steps they are draw their conclusions. What a node has been given stays. As many are
    dropped as there are at the beginning; they cannot be brought back.
    """
    from actorwork.clients import purging

    name = source_named(source)

    async def count(opened: Broker, step: Step) -> tuple[Purgeable, str | None]:
        with step():
            found = await opened.purging.count(name)
        return found, None if found.total or name != source else await unknown_source_of(opened, step, name)

    async def drop(opened: Broker, step: Step) -> Purge:
        return await purging.purge(opened, name, reason=reason, step=step)

    found, problem = speak(broker, timeout, count)
    if problem is not None:
        click.echo(f"note: {problem}", err=True)
    if dry_run or found.total == 0:
        _tell(purging.Purge(name, found), "would drop" if dry_run else "dropped", as_json=json_output)
        return
    if not yes:
        confirm(f"Drop {_in_words(found)} of {source!r}?")
    _tell(speak(broker, timeout, drop), "dropped", as_json=json_output)


def _tell(done: Purge, did: str, *, as_json: bool) -> None:
    if as_json:
        print_json(_in_json(done))
    elif did == "would drop":
        click.echo(f"would drop {_in_words(done.found)} of {done.source!r}")
    else:
        click.echo(f"dropped {many(done.dropped, 'message')} of {done.source!r}")


def _in_words(found: Purgeable) -> str:
    counts = {"ready": found.ready, "delayed": found.delayed, "behind others with their key": found.behind}
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
    steps = f"; steps of runs: {found.steps:,}" if found.steps else ""
    return f"{many(found.total, 'message')}{f' ({kinds}{steps})' if kinds else ''}"


def _in_json(done: Purge) -> dict[str, Any]:
    found = done.found
    return {
        "source": done.source,
        "ready": found.ready,
        "delayed": found.delayed,
        "behind": found.behind,
        "steps_of_runs": found.steps,
        "dropped": done.dropped,
    }
