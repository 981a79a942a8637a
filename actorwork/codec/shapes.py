"""What JSON a type wants, as JSON itself: so that a program that does not have the type can check a value.

    shape                               wants
    null                                any value
    "bool", "int", "date", ...          a value of that name: see `_WORDS`
    ["list", shape]                     a list of such values
    ["dict", shape]                     an object of such values
    ["one", [value, ...]]               one of these values
    ["or", [shape, ...]]                what one of these wants
    ["record", name, {field: shape}, [field, ...]]   an object with these fields, of which the last named may be missing

A shape refuses nothing that the type accepts. Of what cannot be said so (a class with hooks of its own, a type deep
within others) it accepts every value: the handler that is given the value checks it as always.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence, Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag
from typing import TYPE_CHECKING, Any, Final, Literal, Union, cast, get_args, get_origin
from uuid import UUID

import attrs

from actorwork.codec.kinds import field_types, fields_of, is_record, name_of
from actorwork.codec.text import dumps, sentence, shown

if TYPE_CHECKING:
    from actorwork.message import Json

_DEEPEST: Final = 6
_LONGEST: Final = 8000
"""Bytes of a shape that is kept with a run."""


def _reads(read: Callable[[str], object]) -> Callable[[Json], bool]:
    def fits(value: Json) -> bool:
        if not isinstance(value, str):
            return False
        try:
            read(value)
        except (ValueError, ArithmeticError):
            return False
        return True

    return fits


_WORDS: Final[Mapping[str, tuple[type, Callable[[Any], bool], str]]] = {
    "str": (str, lambda value: type(value) is str, "a string"),
    "int": (int, lambda value: type(value) is int, "a whole number"),
    "float": (float, lambda value: type(value) in (int, float), "a number"),
    "bool": (bool, lambda value: type(value) is bool, "true or false"),
    "null": (types.NoneType, lambda value: value is None, "null"),
    "datetime": (datetime, _reads(datetime.fromisoformat), "a date and time (ISO 8601) as a string"),
    "date": (date, _reads(date.fromisoformat), "a date (ISO 8601) as a string"),
    "time": (time, _reads(time.fromisoformat), "a time of day (ISO 8601) as a string"),
    "timedelta": (timedelta, lambda value: type(value) in (int, float), "a number of seconds"),
    "uuid": (UUID, _reads(UUID), "a UUID as a string"),
    "decimal": (Decimal, _reads(Decimal), "a decimal number as a string"),
}
"""By the word in a shape: the type, whether a value is one, and what an error says of it."""
_WORD_OF: Final[Mapping[Any, str]] = {cls: word for word, (cls, _, _) in _WORDS.items()} | {None: "null"}
_LISTS: Final = frozenset({list, set, frozenset, Sequence, AbstractSet})


def shape_of(annotation: Any) -> bytes | None:
    """Return the JSON of the shape of a type's values; None if every value fits, or if it would be too long."""
    try:
        found = _shape(annotation, _DEEPEST)
    except Exception:  # noqa: BLE001 - a type that cannot be looked into is checked where its value is read
        return None
    if found is None:
        return None
    text = dumps(found)
    return text if len(text) <= _LONGEST else None


def misfit(value: Json, shape: Json) -> str:
    """Return what is wrong with a JSON value, with the path to each defect; nothing if it fits."""
    return sentence(_problems(value, shape, ""))


def _shape(annotation: Any, depth: int) -> Json:
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return None if issubclass(annotation, Flag) else _one_of([member.value for member in annotation])
    if (annotation is None or isinstance(annotation, type)) and annotation in _WORD_OF:
        return _WORD_OF[annotation]
    origin, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if depth == 0:
        return None
    if origin is Literal:
        return _one_of(arguments)
    if origin in (Union, types.UnionType):
        options = [_shape(one, depth - 1) for one in arguments]
        return None if None in options else ["or", options]
    if origin in _LISTS or (origin is tuple and arguments[1:] == (...,)):
        return ["list", _shape(arguments[0], depth - 1) if arguments else None]
    if origin is tuple:
        return ["list", None]
    if (origin is dict or origin is Mapping) and arguments:
        return ["dict", _shape(arguments[1], depth - 1)]
    if annotation is not origin or not is_record(annotation):
        return None
    parts = {name: _shape(field, depth - 1) for name, field in field_types(annotation).items()}
    fields = [one for one in fields_of(annotation) if one.init]
    parts = {one.name: parts[one.name] for one in fields}
    return ["record", name_of(annotation), cast("Json", parts), [one.name for one in fields if _has_default(one)]]


def _one_of(values: Sequence[Any]) -> Json:
    plain = all(type(value) in (str, int, bool, types.NoneType) for value in values)
    return ["one", list(values)] if plain else None


def _has_default(field: Any) -> bool:
    if isinstance(field, attrs.Attribute):
        return cast("Any", field).default is not attrs.NOTHING
    from dataclasses import MISSING

    return field.default is not MISSING or field.default_factory is not MISSING


def _problems(value: Json, shape: Any, path: str) -> list[str]:
    at = f"at {path.lstrip('.')}: " if path else ""
    if isinstance(shape, str) and shape in _WORDS:
        _, fits, wanted = _WORDS[shape]
        return [] if fits(value) else [f"{at}wants {wanted}, got {shown(value)}"]
    match shape:
        case ["list", part]:
            if not isinstance(value, list):
                return [f"{at}wants a list, got {shown(value)}"]
            return [one for n, each in enumerate(value) for one in _problems(each, part, f"{path}[{n}]")]
        case ["dict", part]:
            if not isinstance(value, dict):
                return [f"{at}wants an object, got {shown(value)}"]
            return [one for name, each in value.items() for one in _problems(each, part, f"{path}[{name!r}]")]
        case ["one", options]:
            if any(type(value) is type(option) and value == option for option in options):
                return []
            return [f"{at}wants one of {', '.join(map(repr, options))}, got {shown(value)}"]
        case ["or", options]:
            found = [_problems(value, option, path) for option in options]
            if not all(found):
                return []
            return [f"{at}wants {' or '.join(map(_wanted, options))}, got {shown(value)}"]
        case ["record", name, fields, optional]:
            if not isinstance(value, dict):
                return [f"{at}wants an object with the fields of {name}, got {shown(value)}"]
            found = [f"{at}unknown field {one!r}; {name} has {', '.join(fields)}" for one in value if one not in fields]
            found += [f"{at}missing field {one!r}" for one in fields if one not in value and one not in optional]
            for key in fields:
                if key in value:
                    found += _problems(value[key], fields[key], f"{path}.{key}")
            return found
        case _:
            return []


def _wanted(shape: Any) -> str:
    match shape:
        case str():
            return _WORDS[shape][2]
        case ["one", options]:
            return f"one of {', '.join(map(repr, options))}"
        case ["record", name, *_]:
            return f"an object with the fields of {name}"
        case [kind, *_]:
            return {"list": "a list", "dict": "an object", "or": "one of several types"}[kind]
        case _:
            return "any value"
