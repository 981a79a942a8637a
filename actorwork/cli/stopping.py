"""`actorwork stop`: have a node end itself, in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from actorwork.cli.brokers import broker_option, timeout_option
from actorwork.cli.durations import Duration
from actorwork.cli.inspecting import looked, patience
from actorwork.cli.output import as_json, one_line, print_json, printable

if TYPE_CHECKING:
    from actorwork.inspection import Inspection, Obeyed


@click.command(short_help="Have a node stop, in order.")
@click.argument("node", metavar="NODE")
@click.option(
    "--grace",
    type=Duration(least=0.0),
    default=None,
    help="How long the whole shutdown may take; without it, what the program was started with.",
)
@broker_option
@timeout_option
@as_json
def stop(node: str, *, grace: float | None, broker: str | None, timeout: float, json_output: bool) -> None:
    """Have a node begin its staged shutdown: it takes no more, finishes what is running, and ends.

    NODE is the id of a node or the beginning of it, its name (host:pid), its host, or its pid. A process of a tree is
    started again by its supervisor: so that is how one is restarted. Exit code 1 if the node refuses, or gives no
    answer.
    """
    from actorwork.clients.auditing import audited
    from actorwork.clients.identity import whoami
    from actorwork.inspection import as_json as in_json

    async def stop_it(look: Inspection) -> Obeyed:
        async with audited(look.broker.audit, "stop node", f"node {node}") as action:
            obeyed = await look.stop(node, by=whoami(), grace=grace, within=patience(timeout))
            action.outcome = "done" if obeyed.done else f"failed: {obeyed.text}"
            return obeyed

    found = looked(broker, timeout, stop_it)
    if json_output:
        print_json(in_json(found))
    elif found.done:
        click.echo(one_line(f"{found.name}: {found.text}"))
    if not found.done:
        raise click.ClickException(printable(found.text))
