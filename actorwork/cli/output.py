"""The output of commands: tables and sentences for people, `--json` for programs, errors as one sentence.

Results go to standard output, everything else to standard error. Foreign text is made printable first:
an id or a payload may come from any sender, and a terminal obeys control characters.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from actorwork.telemetry.formatting import masked

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def as_json(function: Any) -> Any:
    """Give a command the option `--json`."""
    return click.option("--json", "json_output", is_flag=True, help="Print JSON, for programs.")(function)


def print_json(value: object) -> None:
    from actorwork.telemetry.formatting import printable_json

    click.echo(printable_json(json.dumps(value, ensure_ascii=False, indent=2, default=str)))


def printable(text: str) -> str:
    """Return a text without characters that control a terminal; line breaks stay."""
    return "".join(
        character if character.isprintable() or character == "\n" else repr(character)[1:-1] for character in text
    )


def one_line(text: str, limit: int = 200) -> str:
    """Return a text as one line, without the passwords of URLs, for people."""
    text = printable(masked(text)).replace("\n", "\\n")
    return text if len(text) <= limit else f"{text[:limit]}…"


def many(count: int, word: str, plural: str | None = None) -> str:
    """Return a count with its word: `1 message`, `1,500 messages`."""
    return f"{count:,} {word if count == 1 else plural or f'{word}s'}"


def console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    # None if it was closed before the start: then there is nowhere to print to.
    stream = (sys.stderr if stderr else sys.stdout) or io.StringIO()
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None and stream.encoding.lower() not in {"utf-8", "utf8"}:
        reconfigure(errors="replace")  # What another locale lacks is shown as "?", and ends no command.
    # A pipe has no width to wrap at: each row is one line.
    return Console(file=stream, width=None if stream.isatty() else 1000, highlight=False, soft_wrap=not stream.isatty())


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    out = console()
    if out.is_terminal and not fits(headings, rows, out.width):
        out.print(blocks(headings, rows, out.width))
        return
    table = Table(box=box.SIMPLE_HEAD if out.is_terminal else None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))
    out.print(table)


LEAST_TEXT: Final = 24
"""Columns in which a long text can be read in a table."""
_BETWEEN: Final = 2
"""Spaces between two columns of a table."""


def fits(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> bool:
    """Whether a table can be read in a terminal of this width: long texts may wrap there, and no word breaks."""
    from rich.cells import cell_len

    longest = [max(map(cell_len, cells)) for cells in zip(headings, *rows, strict=True)]
    return sum(min(one, LEAST_TEXT) + _BETWEEN for one in longest) <= width


def blocks(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> RenderableType:
    """Return a table for a narrow terminal: of each row a line with its first cell, and below it the others."""
    from rich.cells import cell_len
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    parts: list[RenderableType] = []
    for first, *others in rows:
        parts.append(Text(one_line(first), style="bold"))
        line = ""
        for heading, cell in zip(headings[1:], others, strict=True):
            pair = f"{heading.lower()} {one_line(cell)}"
            if line and cell_len(line) + cell_len(pair) + 2 * _BETWEEN > width:
                parts.append(Padding(Text(line), (0, 0, 0, _BETWEEN)))
                line = ""
            line = f"{line}  {pair}" if line else pair
        parts.append(Padding(Text(line), (0, 0, 0, _BETWEEN)))
    return Group(*parts)
