"""Whether a state can be read again, told from the types of its parts, before its JSON is committed.

Python does not hold a program to its annotations: after `self.state.amount /= 2` an `amount: int` is 2.5. The instance
goes on with that, and its JSON can be written; but who is to read it finds no int, and the key is held up. So the
message that has done it must fail.

`quick_look` makes a function that looks at types alone, since it does so at every commit. It is True where everything
is as annotated; anything else has to be found out by reading the JSON.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, Final, TypeAlias, Union, cast, get_args, get_origin
from uuid import UUID

from actorwork.codec import field_types, is_record
from actorwork.codec.kinds import fields_of

Look: TypeAlias = "Callable[[Any], bool]"

_PLAIN: Final[Mapping[Any, frozenset[type]]] = {
    **{cls: frozenset({cls}) for cls in (str, int, bool, datetime, date, time, timedelta, Decimal, UUID)},
    float: frozenset({float, int}),
    None: frozenset({types.NoneType}),
    types.NoneType: frozenset({types.NoneType}),
}
"""The types of the values of an annotation that has no parts."""
_LISTS: Final = (list, tuple, set, frozenset, Sequence)
_OBJECTS: Final = (dict, Mapping)
_NAMES: Final = (str, int)
"""What the names in an object are, if they can be read from text in any case."""


def quick_look(annotation: Any) -> Look:
    """Return a function that is True of values which are as this type says in all of their parts."""
    return _look_at(annotation, {})


def _look_at(annotation: Any, known: dict[Any, Look]) -> Look:
    """`known` are the functions for the classes within which this annotation stands: they may contain themselves."""
    kinds = _kinds_of(annotation)
    if kinds is not None:
        return lambda value: type(value) in kinds
    origin: Any = get_origin(annotation) or annotation
    arguments = get_args(annotation)
    if annotation is Any or annotation is object or (origin in (*_LISTS, *_OBJECTS) and not arguments):
        return _anything
    if isinstance(origin, type) and issubclass(cast("type[Any]", origin), (Enum, PurePath)):
        return lambda value: isinstance(value, origin)
    if origin in (Union, types.UnionType):
        looks = [_look_at(one, known) for one in arguments]
        return lambda value: any(look(value) for look in looks)
    if origin in _LISTS and (origin is not tuple or arguments[1:] == (...,)):
        return _look_at_items(origin, arguments[0], known)
    if origin in _OBJECTS and len(arguments) == 2 and arguments[0] in _NAMES:
        return _look_at_object(arguments[0], arguments[1], known)
    cls: Any = annotation
    if is_record(cls):
        return known.get(cls) or _look_at_record(cls, known)
    return _nothing


def _kinds_of(annotation: Any) -> frozenset[type] | None:
    """Return the types of an annotation's values, if these have no parts."""
    if get_origin(annotation) in (Union, types.UnionType):
        of_each = [_kinds_of(one) for one in get_args(annotation)]
        found = [one for one in of_each if one is not None]
        return frozenset[type]().union(*found) if len(found) == len(of_each) else None
    return _PLAIN.get(annotation) if annotation is None or isinstance(annotation, type) else None


def _look_at_items(origin: Any, of: Any, known: dict[Any, Look]) -> Look:
    cls = (list, tuple) if origin is Sequence else origin
    kinds = _kinds_of(of)
    if kinds is not None:
        return lambda value: isinstance(value, cls) and kinds.issuperset(map(type, value))
    look = _look_at(of, known)
    return lambda value: isinstance(value, cls) and all(map(look, value))


def _look_at_object(name: type, of: Any, known: dict[Any, Look]) -> Look:
    names = frozenset({name})
    look = _look_at_items(list, of, known)

    def look_at(value: Any) -> bool:
        return (
            isinstance(value, Mapping) and names.issuperset(map(type, cast("Any", value))) and look([*value.values()])
        )

    return look_at


def _look_at_record(cls: type, known: dict[Any, Look]) -> Look:
    plain: list[tuple[str, frozenset[type]]] = []
    others: list[tuple[str, Look]] = []

    def look(value: Any) -> bool:
        if type(value) is not cls:
            return False
        for name, kinds in plain:
            if type(getattr(value, name)) not in kinds:
                return False
        for name, look_at in others:  # noqa: SIM110 - a generator costs as much as the rest
            if not look_at(getattr(value, name)):
                return False
        return True

    known[cls] = look
    types_of = field_types(cls)
    for field in fields_of(cls):
        kinds = _kinds_of(types_of[field.name])
        if not field.init:
            continue
        if kinds is not None:
            plain.append((field.name, kinds))
        else:
            others.append((field.name, _look_at(types_of[field.name], known)))
    return look


def _anything(_: object) -> bool:
    return True


def _nothing(_: object) -> bool:
    return False
