"""What a program does not know of a state's JSON: fields that a newer version of it has written.

    split   JSON ──▶ what the program's classes have, and the rest
    join    the JSON that the program has made of it ──▶ that with the rest in its places

The rest is kept where its object stands: under the same names, under the same key of an object; in a list with the item
that is as it was, or else, if the list has as many items as before, at its place. What is gone takes its rest along.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final, Union, cast, get_args, get_origin

import attrs

from actorwork.codec import field_types, is_record
from actorwork.message import Json

_LISTS: Final = frozenset({list, tuple, Sequence})
_OBJECTS: Final = frozenset({dict, Mapping})


@attrs.frozen(eq=False)
class Rest:
    """What is not known of an object or of a list, and of its parts, by their names or places."""

    fields: Mapping[str, Json]
    parts: Mapping[str | int, Rest]
    items: Sequence[Json] = ()
    """Of a list, what is known of its items."""


@cache
def _fields(record: Any) -> Mapping[str, Any]:
    return field_types(record)


@cache
def _kind(annotation: Any) -> tuple[str, Any]:
    """Return what a type is, as far as it may have fields: a record, a list or an object, and of what."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        # Of several records it is not known which one the JSON is.
        some = [one for one in arguments if one is not type(None)]
        return _kind(some[0]) if len(some) == 1 else ("", None)
    if is_record(annotation):
        return "record", _fields(annotation)
    if origin in _LISTS and arguments and (origin is not tuple or arguments[1:] == (Ellipsis,)):
        return ("list", arguments[0]) if _kind(arguments[0])[0] else ("", None)
    if origin in _OBJECTS and len(arguments) == 2:
        return ("object", arguments[1]) if _kind(arguments[1])[0] else ("", None)
    return "", None


def split(value: Json, annotation: Any) -> tuple[Json, Rest | None]:
    """Return what a type knows of a JSON value, and the rest, if there is any."""
    kind, of = _kind(annotation)
    match kind, value:
        case "record", dict():
            known = {name: one for name, one in value.items() if name in of}
            fields = {name: one for name, one in value.items() if name not in of}
            parts = _split_parts(known, of)
        case "object", dict():
            known, fields = dict(value), {}
            parts = _split_parts(known, dict.fromkeys(known, of))
        case "list", list():
            items = dict(enumerate(value))
            of_items = _split_parts(items, dict.fromkeys(items, of))
            if not of_items:
                return value, None
            return list(items.values()), Rest({}, of_items, list(items.values()))
        case _:
            return value, None
    if not fields and not parts:
        return value, None
    return known, Rest(fields, parts)


def _split_parts(known: dict[Any, Json], of: Mapping[Any, Any]) -> dict[Any, Rest]:
    """Split the parts of a value in place; return what is not known of them."""
    parts: dict[Any, Rest] = {}
    for name, part in known.items():
        if isinstance(part, (dict, list)):
            known[name], rest = split(part, of[name])
            if rest is not None:
                parts[name] = rest
    return parts


def join(value: Json, rest: Rest | None) -> Json:
    """Return a JSON value with what was not known of an earlier one."""
    if rest is None:
        return value
    if isinstance(value, dict):
        joined = {name: join(one, rest.parts.get(name)) for name, one in value.items()}
        return {**rest.fields, **joined}
    if isinstance(value, list):
        items = list(value)
        for place, part in _places(cast("Mapping[int, Rest]", rest.parts), rest.items, value):
            items[place] = join(items[place], part)
        return items
    return value


def _places(parts: Mapping[int, Rest], before: Sequence[Json], now: Sequence[Json]) -> Iterator[tuple[int, Rest]]:
    """Yield where the items of a list are now that have a rest, with that."""
    free = dict.fromkeys(range(len(now)))
    changed: list[int] = []
    for place, part in parts.items():
        # Where it was, if it is still there: equal items may have different rests.
        there = (
            [place]
            if place in free and now[place] == before[place]
            else [at for at in free if now[at] == before[place]]
        )
        if there:
            del free[there[0]]
            yield there[0], part
        else:
            changed.append(place)
    if len(before) == len(now):
        yield from ((place, parts[place]) for place in changed if place in free)
