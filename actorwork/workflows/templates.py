"""Messages with holes, as JSON that is cut where the results of other steps belong."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final, TypeAlias, Union, cast, get_args, get_origin

import attrs

from actorwork import codec
from actorwork.errors import CodecError
from actorwork.policy.runs.values import Piece, Template
from actorwork.workflows.holes import Hole

Filler: TypeAlias = Callable[[Hole], Piece]
"""Returns the piece that stands for a hole."""

Draft: TypeAlias = tuple[str | Hole, ...]
"""A message as JSON, cut at its holes; what stands for these is known once the flow is laid out."""


def draft_of(message: object) -> tuple[Draft, str | None]:
    """Return the draft of a message and the wire name of its type.

    Raises `CodecError` for values that JSON cannot express, and `TypeError` for a hole that is too deep in the message
    or whose type is not that of its field.
    """
    if isinstance(message, Hole):
        return (message,), None
    cls = type(message)
    if codec.is_record(cls):
        return _joined(_record(message)), codec.wire_name(cls)
    if isinstance(message, dict):
        return _joined(_object(cast("dict[str, object]", message))), None
    if isinstance(message, list):
        return _joined(_list(cast("list[object]", message), "the message")), None
    data, wire = codec.encode(message)
    return (data.decode(),), wire


def filled(draft: Draft, fill: Filler) -> Template:
    """Return the template of a draft."""
    return tuple(fill(piece) if isinstance(piece, Hole) else piece for piece in draft)


def _record(message: object) -> Iterator[str | Hole]:
    comma = ""
    yield "{"
    for name, annotation in _fields(type(message)):
        value = getattr(message, name)
        where = f"{type(message).__qualname__}.{name}"
        yield f"{comma}{codec.dumps(name).decode()}:"
        comma = ","
        if isinstance(value, Hole):
            check_fits(value, annotation, where)
            yield value
        elif _has_holes(value):
            yield from _list(cast("Sequence[object]", value), where, _element_of(annotation))
        else:
            yield _text(value, annotation, where)
    yield "}"


def _object(message: Mapping[str, object]) -> Iterator[str | Hole]:
    comma = ""
    yield "{"
    for name, value in message.items():
        yield f"{comma}{codec.dumps(name).decode()}:"
        comma = ","
        if isinstance(value, Hole):
            yield value
        elif _has_holes(value):
            yield from _list(cast("Sequence[object]", value), repr(name))
        else:
            yield _text(value, Any, repr(name))
    yield "}"


def _list(values: Sequence[object], where: str, annotation: Any = Any) -> Iterator[str | Hole]:
    comma = ""
    yield "["
    for number, value in enumerate(values):
        yield comma
        comma = ","
        if isinstance(value, Hole):
            check_fits(value, annotation, f"{where}[{number}]")
            yield value
        else:
            yield _text(value, annotation, f"{where}[{number}]")
    yield "]"


def _text(value: object, annotation: Any, where: str) -> str:
    try:
        data = codec.encode_value(value) if annotation is Any else codec.encode_as(value, annotation)
    except CodecError as error:
        if "<the " in str(error):
            raise TypeError(
                f"{where}: the result of a step belongs into a field of the message itself, or into a list in one;"
                f" here it is deeper: {value!r:.200}"
            ) from error
        raise
    return data.decode()


def _joined(pieces: Iterator[str | Hole]) -> Draft:
    """Join pieces of text that follow each other."""
    found: list[str | Hole] = []
    for piece in pieces:
        last = found[-1] if found else None
        if isinstance(piece, str) and isinstance(last, str):
            found[-1] = last + piece
        elif isinstance(piece, Hole) or piece != "":
            found.append(piece)
    return tuple(found)


def _has_holes(value: object) -> bool:
    return isinstance(value, (list, tuple)) and any(isinstance(one, Hole) for one in cast("Sequence[object]", value))


def _fields(cls: type) -> Sequence[tuple[str, Any]]:
    try:
        return _annotated(cls)
    except NameError:  # a class within a function, or one whose annotations are defined further down in its module
        return [(name, Any) for name in _names(cls)]


@cache
def _annotated(cls: type) -> Sequence[tuple[str, Any]]:
    hints = typing.get_type_hints(cls)
    return [(name, hints.get(name, Any)) for name in _names(cls)]


@cache
def _names(cls: type) -> Sequence[str]:
    if attrs.has(cls):
        return [field.name for field in attrs.fields(cls)]
    return [field.name for field in dataclasses.fields(cast("Any", cls))]


# ---- types ----

_LISTS: Final = (list, Sequence)


def check_fits(hole: Hole, annotation: Any, where: str) -> None:
    """Raise `TypeError` if a result can never be what a field wants. Types that cannot be compared pass."""
    if hole.origin is None:
        return
    if hole.wants == "outcome":
        if not may_fit(hole.origin.outcome_type, annotation):
            raise TypeError(
                f"{where} wants {type_name(annotation)}, but an outcome of {hole.origin.label} is Done or Failed; take"
                " its result in place of the outcome, or change the annotation"
            )
        return
    reply = hole.origin.reply
    if not may_fit(reply, annotation):
        raise TypeError(
            f"{where} wants {type_name(annotation)}, but {hole.origin.label} returns {type_name(reply)};"
            " pass the result of another step, or change one of the two annotations"
        )


def may_fit(reply: Any, wanted: Any) -> bool:
    """Whether a value of one type may be what another type wants; True where the two cannot be compared."""
    if reply in (Any, object) or wanted in (Any, object) or reply == wanted:
        return True
    for union in (reply, wanted):
        if get_origin(union) in (Union, types.UnionType):
            return True
    if reply is None or reply is type(None):
        return wanted is None or wanted is type(None)
    given, want = get_origin(reply) or reply, get_origin(wanted) or wanted
    if not isinstance(given, type) or not isinstance(want, type):
        return True
    if given is int and want is float:
        return True
    if want in _LISTS and given in (list, tuple):
        ours, theirs = get_args(reply), get_args(wanted)
        return not ours or not theirs or all(may_fit(one, theirs[0]) for one in ours if one is not ...)
    return issubclass(given, want) or issubclass(want, given)


def _element_of(annotation: Any) -> Any:
    arguments = get_args(annotation)
    return arguments[0] if len(arguments) == 1 and get_origin(annotation) in _LISTS else Any


def type_name(annotation: Any) -> str:
    """Return a type as errors name it."""
    return annotation.__qualname__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)
