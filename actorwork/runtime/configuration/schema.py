"""What may be set, as JSON Schema (draft 2020-12): editors complete and check a file with it.

A file names the schema in its first line, `#:schema actorwork.schema.json` in TOML, `$schema` as a key in JSON. What
one setting must be in view of another one, and whether a title is in the tree, only `actorwork config check` knows.
"""

from __future__ import annotations

from typing import Any, Final

from actorwork.runtime.configuration.fields import TABLES, ProgramFields
from actorwork.runtime.configuration.sources import kind_of, options_of

DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
_NAMED: Final = {
    "actors": "How actors run, by their titles.",
    "processes": "How processes of the tree run, by their names.",
    "limits": "What limits are, by their names.",
}


def schema() -> dict[str, Any]:
    """Return the schema of a configuration file."""
    whole = _table(ProgramFields)
    whole["properties"] = {"$schema": {"type": "string"}, **whole["properties"]}
    for table, fields in TABLES.items():
        whole["properties"][table] = {
            "description": _NAMED[table],
            "type": "object",
            "additionalProperties": _table(fields),
        }
    return {"$schema": DRAFT, "title": "What an operator sets of a program on actorwork", **whole}


def _table(fields: type) -> dict[str, Any]:
    table = _empty()
    for path, option in options_of(fields).items():
        *above, last = path.split(".")
        inner = table
        for part in above:
            inner = inner["properties"].setdefault(part, _empty())
        inner["properties"][last] = kind_of(option).schema
    return table


def _empty() -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": {}}
