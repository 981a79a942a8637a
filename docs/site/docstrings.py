"""Docstrings and help texts as reStructuredText.

They are written as Markdown is: `names` between single backticks, and indented blocks, which are code, or two columns
of names and what they mean. Any text gives valid output: what is none of these shapes is a paragraph, with everything
escaped that reStructuredText would read in another way.

    two columns     a list of definitions, which a narrow screen can show
    other blocks    literal, with the colors of Python where it is Python
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Callable, Sequence
from itertools import groupby

Linked = Callable[[str], "str | None"]
"""What a name in backticks refers to: the full name of something that has an entry of its own, or None."""

_BACKTICKS = re.compile(r"(`+)(.+?)\1(?!`)", re.DOTALL)
_BULLET = re.compile(r"[-*] +\S")
_COLUMNS = re.compile(r"(\S+(?: \S+)*) {2,}(\S.*)")


def nothing(name: str) -> None:
    """Link no name."""


def as_rst(text: str, linked: Linked = nothing) -> list[str]:
    """Return the lines of a docstring as reStructuredText, each block followed by an empty line."""
    lines: list[str] = []
    for block in _blocks(text):
        lines += [*_as_rst(block, linked), ""]
    return lines


def in_line(text: str, linked: Linked = nothing) -> str:
    """Return a text without line breaks, in which only what is between backticks is marked."""
    text = " ".join(text.split())
    parts: list[str] = []
    end = 0
    for found in _BACKTICKS.finditer(text):
        parts += [_escaped(text[end : found.start()]), _literal(found[2].strip(), linked)]
        end = found.end()
    parts.append(_escaped(text[end:]))
    return "".join(parts)


def _blocks(text: str) -> list[list[str]]:
    """Return what is between empty lines; indented blocks that follow each other are one, with the lines between."""
    blocks: list[list[str]] = []
    for is_text, lines in groupby(textwrap.dedent(text).expandtabs().splitlines(), key=lambda line: bool(line.strip())):
        block = list(lines)
        if not is_text:
            continue
        if blocks and block[0].startswith("    ") and blocks[-1][0].startswith("    "):
            blocks[-1] += ["", *block]
        elif not block[0].startswith(" ") and block[-1].startswith("    "):
            # A line that introduces what is indented below it, without an empty line between.
            cut = next(at for at, line in enumerate(block) if line.startswith("    "))
            if not _BULLET.match(block[0]) and all(line.startswith("    ") for line in block[cut:]):
                blocks += [block[:cut], block[cut:]]
            else:
                blocks.append(block)
        else:
            blocks.append(block)
    return blocks


def _as_rst(block: Sequence[str], linked: Linked) -> list[str]:
    if block[0].startswith("    "):
        lines = textwrap.dedent("\n".join(block)).splitlines()
        return _columns(lines, linked) or _code(lines)
    if _BULLET.match(block[0]):
        return _bullets(block, linked)
    return _columns(block, linked) or [in_line(" ".join(block), linked)]


def _columns(lines: Sequence[str], linked: Linked) -> list[str]:
    """Return two columns as definitions; nothing if they are none."""
    rows: list[tuple[str, list[str]]] = []
    for line in lines:
        found = _COLUMNS.fullmatch(line)
        if found:
            rows.append((found[1], [found[2]]))
        elif rows and line.startswith("    "):
            rows[-1][1].append(line.strip())
        else:
            return []
    if len(rows) < 2 and len(lines) < 2:
        return []
    return [line for term, meaning in rows for line in (f"``{term}``", f"   {in_line(' '.join(meaning), linked)}", "")][
        :-1
    ]


def _bullets(block: Sequence[str], linked: Linked) -> list[str]:
    items: list[str] = []
    for line in block:
        if _BULLET.match(line):
            items.append(line[1:].strip())
        else:
            items[-1] += f" {line.strip()}"
    return [f"* {in_line(item, linked)}" for item in items]


def _code(lines: Sequence[str]) -> list[str]:
    try:
        ast.parse("async def block():\n" + textwrap.indent("\n".join(lines), " "))
    except SyntaxError:
        language = "text"
    else:
        language = "python"
    return [f".. code-block:: {language}", "", *(f"   {line}".rstrip() for line in lines)]


def _literal(text: str, linked: Linked) -> str:
    target = linked(text.removesuffix("()"))
    if target is not None:
        return f"\\ :py:obj:`{text} <{target}>`\\ "
    # Escaped spaces around it: a literal may then stand beside a letter or a sign.
    return f"\\ ``{text}``\\ " if not text.startswith("`") and not text.endswith(("`", "\\")) else _escaped(text)


def _escaped(text: str) -> str:
    return re.sub(r"([\\*`_|<>:\[\]#=~^+.@-])", r"\\\1", text)
