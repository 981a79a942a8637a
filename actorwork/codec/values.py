"""Values to JSON text and back.

A value that JSON itself has is written and read without `conversion`, and so without importing cattrs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final

from actorwork.codec.kinds import is_message_class, wire_name
from actorwork.codec.text import dumps, dumps_object, loads, shown
from actorwork.errors import CodecError, ResultTooLarge

if TYPE_CHECKING:
    from actorwork.codec.text import KeepsText
    from actorwork.message import Json

_SCALARS: Final = frozenset({str, int, float, bool})
_SHORT: Final = 10**18


@cache
def _unstructure() -> Callable[[object, Any], Json]:
    from actorwork.codec.conversion import unstructure

    return unstructure


def encode_value(value: object) -> bytes:
    """Write any value that JSON can express, including attrs classes and dataclasses; raise `CodecError`."""
    if value is None:
        return b"null"
    if type(value) is int and -_SHORT < value < _SHORT:
        return b"%d" % value  # As members of groups return; the encoder takes six times as long.
    if type(value) in _SCALARS:
        return dumps(value)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    return dumps(_unstructure()(value, None))


def encode_result(value: object, limit: int) -> bytes:
    """Write what a handler returned, in at most `limit` bytes; raise `CodecError`, or `ResultTooLarge`."""
    data = encode_value(value)
    if len(data) > limit:
        raise ResultTooLarge(
            f"the handler returned {len(data)} bytes as JSON, and max_result_bytes of its actor is {limit}: return a"
            " reference to what is kept elsewhere, or raise that limit",
            len(data),
        )
    return data


def encode_as(value: object, annotation: Any) -> bytes:
    """Write a value as a field of that type would be written; raise `CodecError`."""
    return dumps(_unstructure()(value, annotation))


def encoder_of(annotation: Any) -> Callable[..., bytes]:
    """Return what `encode_as` is for one type; how that is written is looked up once."""
    from actorwork.codec.conversion import unstructure_hook_of

    to_json = unstructure_hook_of(annotation)

    def encoded(value: object, known: KeepsText | None = None) -> bytes:
        written = to_json(value)
        return dumps_object(written, known) if type(written) is dict else dumps(written)

    return encoded


def encode(message: object) -> tuple[bytes, str | None]:
    """Return a message's JSON and the wire name of its type (None for a JSON value); raise `CodecError`."""
    cls = type(message)
    to_json = None if cls is dict else _of_message_class(cls)
    if to_json is None:
        return dumps(message), None  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    return dumps(to_json(message)), wire_name(cls)


@lru_cache(1000)  # Classes may be made at run time.
def _of_message_class(cls: type) -> Callable[[Any], Json] | None:
    """Return what makes JSON values of messages of a class; None for a class without a type on the wire."""
    if not is_message_class(cls):
        return None
    from actorwork.codec.conversion import unstructure_hook_of

    return unstructure_hook_of(cls)


def decode_value(data: bytes, annotation: Any) -> Any:
    """Parse JSON as a value of the annotated type; raise `CodecError` with the path to each defect."""
    return structure(loads(data), annotation)


def structure(value: Json, annotation: Any) -> Any:
    """Convert a JSON value to the annotated type; raise `CodecError` with the path to each defect."""
    if is_json(annotation):
        return value
    if annotation is None or annotation is type(None):
        if value is not None:
            raise CodecError(f"wants null, got {shown(value)}")
        return None
    from actorwork.codec.conversion import structure as convert

    return convert(value, annotation)


def check_type(annotation: Any) -> None:
    """Raise `CodecError` if no value of that type can be read from JSON."""
    if not is_json(annotation):
        from actorwork.codec.conversion import check_type as check

        check(annotation)


def hook_of(annotation: Any) -> Callable[[Any, Any], Any]:
    """Return the function that makes a value of that type from a JSON value and the type, and may raise anything.

    `conversion.problems_of` tells what it raised.
    """
    if is_json(annotation):
        return _as_it_is
    from actorwork.codec.conversion import hook_of as find

    return find(annotation)


def is_json(annotation: Any) -> bool:
    """Whether an annotation admits every JSON value as it is."""
    return annotation is Any or annotation is object


def _as_it_is(value: Any, _: Any) -> Any:
    return value
