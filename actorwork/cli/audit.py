"""`actorwork audit`: who did what to the system, and when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
import click

from actorwork.cli.brokers import Step, broker_option, speak, timeout_option
from actorwork.cli.output import as_json, print_json, print_table
from actorwork.inspection.words import moment

if TYPE_CHECKING:
    from actorwork.abc import Broker
    from actorwork.records import AuditEntry


@click.command(short_help="List who did what, and when.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="How many, at most.")
@broker_option
@timeout_option
@as_json
def audit(*, limit: int, broker: str | None, timeout: float, json_output: bool) -> None:
    """List what users did to the system, newest first. The broker keeps the newest 10,000 actions.

    An action without an outcome is under way, or was interrupted: it may have taken effect.
    """

    async def talk(opened: Broker, step: Step) -> Sequence[AuditEntry]:
        with step():
            return await opened.audit.list(limit=limit)

    found = speak(broker, timeout, talk)
    if json_output:
        print_json([{**attrs.asdict(one), "at": moment(one.at)} for one in found])
    elif not found:
        click.echo("nothing was done so far")
    else:
        print_table(
            ("AT", "WHO", "ACTION", "WHAT", "COUNT", "OUTCOME", "REASON", "ROLE", "IP"),
            [
                (
                    moment(one.at),
                    one.who,
                    one.action,
                    one.what,
                    "" if one.how_many is None else f"{one.how_many:,}",
                    one.outcome,
                    one.reason,
                    one.role,
                    one.ip,
                )
                for one in found
            ],
        )
