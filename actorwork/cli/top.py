"""`actorwork top`: the overview, again every two seconds, in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from actorwork.cli.brokers import Step, broker_option, speak, timeout_option
from actorwork.cli.durations import Duration
from actorwork.cli.inspecting import head_of, print_overview, tables_of
from actorwork.cli.output import as_json, blocks, console, fits, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from actorwork.abc import Broker
    from actorwork.inspection import Overview

ROWS = 12
"""Rows of each table on the screen: what needs a person stands in front."""


@click.command(short_help="Show what runs, live.")
@click.option(
    "--every", type=Duration(least=0.2), default="2s", show_default=True, help="How often to look, in a terminal."
)
@broker_option
@timeout_option
@as_json
def top(*, every: float, broker: str | None, timeout: float, json_output: bool) -> None:
    """Show what runs where, live, until Ctrl-C; where the output is no terminal, once."""
    out = console()
    if json_output or not out.is_terminal:
        print_overview(broker, timeout, json_output=json_output, rows=ROWS)
        return

    import trio
    from rich.live import Live

    from actorwork.inspection import Inspection

    async def talk(opened: Broker, step: Step) -> None:
        look = Inspection(opened)
        with Live(console=out, screen=True, auto_refresh=False) as live:
            while True:
                with step():
                    overview = await look.overview()
                live.update(screen_of(overview, out.width), refresh=True)
                await trio.sleep(every)

    try:
        speak(broker, timeout, talk)
    except KeyboardInterrupt:
        return


def screen_of(overview: Overview, width: int = 1000) -> RenderableType:
    """Return an overview as a screen of this width shows it."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(head_of(overview), style="bold")]
    for title, headings, rows in tables_of(overview):
        if fits(headings, rows[:ROWS], width):
            parts.append(_table(title, headings, rows[:ROWS]))
        else:
            parts += [Text(f"\n{title}", style="italic"), blocks(headings, rows[:ROWS], width)]
        if len(rows) > ROWS:
            parts.append(Text(f"{len(rows) - ROWS:,} more", style="dim"))
    return Group(*parts)


def _table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="ellipsis", no_wrap=heading not in ("WHY", "PROBLEM"))
    for row in rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))
    return table
