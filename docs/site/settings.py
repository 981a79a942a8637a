"""The page of what an operator may set, from the declarations that files are checked with."""

from __future__ import annotations

from actorwork.runtime.configuration.fields import TABLES, ProgramFields
from actorwork.runtime.configuration.kinds import Kind
from actorwork.runtime.configuration.sources import kind_of, options_of
from docs.site.docstrings import in_line

TITLE = "Settings of operators"
HEADINGS = {"actors": "TITLE", "processes": "NAME", "limits": "NAME"}
ABOUT = {
    "actors": "How an actor runs, by its title.",
    "processes": "How a process of the tree runs, by its name.",
    "limits": "The limits that have this name in the code, whichever actors declare them.",
}


def page() -> str:
    """Return the page as reStructuredText."""
    lines = [
        TITLE,
        "=" * len(TITLE),
        "",
        "Each is a key of a file of settings, and a variable of the environment. :doc:`/configuration` says which one",
        "applies, and how values are written.",
        "",
        "The program",
        "-----------",
        "",
        *_table(ProgramFields, ""),
    ]
    for table, fields in TABLES.items():
        heading = f"[{table}.{HEADINGS.get(table, 'NAME')}]"
        lines += [in_line(heading), "-" * (len(heading) + 8), "", in_line(ABOUT.get(table, "")), ""]
        lines += _table(fields, f"{table}.{HEADINGS.get(table, 'NAME')}.")
    return "\n".join(lines)


def _table(fields: type, prefix: str) -> list[str]:
    lines: list[str] = []
    for path, option in options_of(fields).items():
        lines += [f".. confval:: {prefix}{path}", ""]
        lines += [f"   {fact}" for fact in _facts(path, kind_of(option), is_program=not prefix)]
        lines += [""]
    return lines


def _facts(path: str, kind: Kind, *, is_program: bool) -> list[str]:
    facts = [in_line(kind.help), in_line(f"Wanted: {kind.wanted}.")]
    if kind.words and not all(word in kind.wanted for word in kind.words):
        facts.append(in_line(f"One of {', '.join(f'`{word}`' for word in kind.words)}."))
    if kind.default is not None:
        facts.append(in_line(f"Default: `{kind.shown(kind.default)}`."))
    if is_program:
        facts.append(in_line(f"Variable: `ACTORWORK_{path.upper().replace('.', '__')}`."))
    return facts
