"""Conversion between JSON values and typed ones, by cattrs.

It is imported when the first value needs it: a handler that takes the JSON as it is, and returns nothing, does not.
"""

from __future__ import annotations

import re
import types
from collections import deque
from collections.abc import (
    Callable,
    Mapping,
    MutableMapping,
    MutableSequence,
    MutableSet,
    Sequence,
    Set as AbstractSet,
)
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag
from functools import cache
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final, Union, cast, get_args, get_origin, get_type_hints
from uuid import UUID

import cattrs
from cattrs.cols import is_namedtuple
from cattrs.errors import ForbiddenExtraKeysError, IterableValidationNote
from cattrs.gen import mapping_structure_factory  # pyright: ignore[reportUnknownVariableType]

from actorwork.codec.kinds import field_types, is_model, name_of
from actorwork.codec.text import dumps, loads, sentence, shown
from actorwork.errors import CodecError

if TYPE_CHECKING:
    from actorwork.message import Json


def _exactly(cls: type, wanted: str) -> Callable[[Any, Any], Any]:
    def structure(value: Any, annotation: Any) -> Any:
        if annotation is not cls:  # cattrs finds hooks by inheritance, so this one is called for subclasses too.
            return _structure_subclass(value, annotation, cls, wanted)
        # A bool is an int to Python, but not to the producer that wrote the JSON.
        if type(value) is cls:
            return value
        raise TypeError(f"wants {wanted}, got {shown(value)}")

    return structure


def _structure_float(value: Any, annotation: Any) -> Any:
    if type(value) is float or type(value) is int:
        return float(value) if annotation is float else _structure_subclass(float(value), annotation, float, "a number")
    raise TypeError(f"wants a number, got {shown(value)}")


def _structure_subclass(value: Any, cls: Any, base: type, wanted: str) -> Any:
    """Make a value of a subclass of str, int or float: an enum member, or the result of the constructor."""
    if issubclass(cls, Enum):
        return _structure_enum(value, cls)
    if type(value) is not base:
        raise TypeError(f"wants {wanted}, got {shown(value)}")
    try:
        return cls(value)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"wants {wanted} that {name_of(cls)} accepts, got {shown(value)}: {error}") from error


def _parsed(cls: Any, wanted: str) -> Callable[[Any, Any], Any]:
    def structure(value: Any, _: Any) -> Any:
        if isinstance(value, str):
            try:
                return cls(value)
            except (ValueError, ArithmeticError) as error:
                raise ValueError(f"wants {wanted}, got {shown(value)}") from error
        raise TypeError(f"wants {wanted} as a string, got {shown(value)}")

    return structure


def _structure_timedelta(value: Any, _: Any) -> timedelta:
    return timedelta(seconds=_structure_float(value, float))


def _structure_any(value: Any, _: Any) -> Any:
    return value


@cache
def _members(cls: type[Enum]) -> Mapping[bytes, Enum]:
    """Return an enum's members, aliases included, by the JSON of their values."""
    return {dumps(unstructure(member.value)): member for member in cls.__members__.values()}


def _structure_enum(value: Any, cls: Any) -> Any:
    # By the JSON, since `1`, `1.0` and `true` are equal to Python, and a tuple is never equal to a list.
    member = _members(cls).get(dumps(value))
    if member is not None:
        return member
    if issubclass(cls, Flag) and type(value) is int and not value & ~sum({one.value for one in cls}):
        return cls(value)  # A combination of flags is not a member itself. Its bits are known, whatever the boundary.
    wanted = ", ".join(repr(one.value) for one in cls)
    raise ValueError(f"wants {'a combination' if issubclass(cls, Flag) else 'one'} of {wanted}, got {shown(value)}")


def _structure_model(value: Any, cls: Any) -> Any:
    # From JSON, so that the model reads times and the like from their JSON, however strict it is.
    return cls.model_validate_json(dumps(value))


def _unstructure_model(value: Any) -> Any:
    return value.model_dump(mode="json", by_alias=True, round_trip=True)


_PLAIN: Final[Mapping[Any, str]] = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    types.NoneType: "null",
}


def _is_plain_union(cls: Any) -> bool:
    return get_origin(cls) in (Union, types.UnionType) and all(option in _PLAIN for option in get_args(cls))


def _structure_plain_union(value: Any, cls: Any) -> Any:
    options = get_args(cls)
    if type(value) in options:
        return value
    if type(value) is int and float in options:
        return float(value)
    raise TypeError(f"wants {' or '.join(_PLAIN[option] for option in options)}, got {shown(value)}")


_ARRAYS: Final = frozenset({list, tuple, set, frozenset, Sequence, MutableSequence, AbstractSet, MutableSet, deque})


def _refuse_other_than_arrays(converter: cattrs.Converter) -> None:
    """Accept only JSON arrays for lists and the like, not the characters of a str or the names of an object."""
    making: set[Any] = set()

    def make(cls: Any) -> Callable[[Any, Any], Any]:
        making.add(cls)
        try:
            inner = converter.get_structure_hook(cls, cache_result=False)
        finally:
            making.discard(cls)

        def structure(value: Any, annotation: Any) -> Any:
            if type(value) is not list:
                raise TypeError(f"wants a list, got {shown(value)}")
            return inner(value, annotation)

        return structure

    def is_array(cls: Any) -> bool:
        return cls not in making and (get_origin(cls) or cls) in _ARRAYS

    converter.register_structure_hook_factory(is_array, make)


# cattrs takes the annotations of a named tuple as they stand, and they are strings below `from __future__ import
# annotations`: these two resolve them.


def _parts_of(cls: Any) -> Any:
    """Return the type of the plain tuple that a named tuple is in JSON."""
    return types.GenericAlias(tuple, tuple(get_type_hints(cls, include_extras=True).values()))


def _structure_named_tuple_of(cls: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    parts = _parts_of(cls)
    try:
        inner = converter.get_structure_hook(parts)
    except RecursionError:  # It contains itself: what its parts want is looked up when there are some.
        inner = converter.structure
    return lambda value, _: cls(*inner(value, parts))


def _unstructure_named_tuple_of(cls: Any, converter: cattrs.Converter) -> Callable[[Any], Any]:
    parts = _parts_of(cls)
    try:
        return converter.get_unstructure_hook(parts)
    except RecursionError:
        return lambda value: converter.unstructure(value, unstructure_as=parts)


_MAPPINGS: Final = frozenset({dict, Mapping, MutableMapping})


def _read_keys_as_text(converter: cattrs.Converter) -> None:
    """Parse the names of JSON objects, which are always strings, as the keys that a mapping's annotation wants."""

    def wants_numbers(cls: Any) -> bool:
        if get_origin(cls) not in _MAPPINGS:
            return False
        key = get_args(cls)[0]
        return isinstance(key, type) and issubclass(key, (int, float, Enum))

    def make(cls: Any) -> Callable[[Any, Any], Any]:
        # Not by way of the converter, which would note this hook as that of the type, in the place of the one below.
        inner = mapping_structure_factory(cls, converter, dict, detailed_validation=converter.detailed_validation)
        key = get_args(cls)[0]

        def structure(value: Any, annotation: Any) -> Any:
            if type(value) is dict:
                value = {_key_from(name, key): part for name, part in cast("dict[Any, Any]", value).items()}
            return inner(value, annotation)

        return structure

    converter.register_structure_hook_factory(wants_numbers, make)


def _key_from(name: str, key: type) -> Json:
    """Return the number or constant that an object's name denotes, or else the name, which the key's hook checks."""
    if issubclass(key, Enum) and name.encode() not in {dumps(one.value) for one in key if type(one.value) is not str}:
        return name
    try:
        value = loads(name.encode())
    except CodecError:
        return name
    return value if isinstance(value, (int, float)) else name


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    for cls, hook in {
        str: _exactly(str, "a string"),
        int: _exactly(int, "a whole number"),
        bool: _exactly(bool, "true or false"),
        types.NoneType: _exactly(types.NoneType, "null"),
        float: _structure_float,
        datetime: _parsed(datetime.fromisoformat, "a date and time (ISO 8601)"),
        date: _parsed(date.fromisoformat, "a date (ISO 8601)"),
        time: _parsed(time.fromisoformat, "a time of day (ISO 8601)"),
        timedelta: _structure_timedelta,
        UUID: _parsed(UUID, "a UUID"),
        Decimal: _parsed(Decimal, "a decimal number"),
    }.items():
        converter.register_structure_hook(cls, hook)
    converter.register_structure_hook_func(_is_plain_union, _structure_plain_union)
    converter.register_structure_hook_func(lambda cls: cls is Any or cls is object, _structure_any)
    converter.register_structure_hook_func(lambda cls: isinstance(cls, type) and issubclass(cls, Enum), _structure_enum)
    converter.register_structure_hook_func(is_model, _structure_model)
    converter.register_unstructure_hook_func(is_model, _unstructure_model)
    converter.register_structure_hook_factory(is_namedtuple, _structure_named_tuple_of)
    converter.register_unstructure_hook_factory(is_namedtuple, _unstructure_named_tuple_of)
    _refuse_other_than_arrays(converter)
    _read_keys_as_text(converter)
    for cls in (datetime, date, time):
        converter.register_unstructure_hook(cls, lambda value: value.isoformat())
    for cls in (UUID, Decimal, PurePath):
        converter.register_unstructure_hook(cls, str)
    converter.register_unstructure_hook(timedelta, lambda value: value.total_seconds())
    for cls in (set, frozenset):
        converter.register_unstructure_hook_func(
            lambda annotation, cls=cls: (get_origin(annotation) or annotation) is cls,
            lambda value: [converter.unstructure(element) for element in value],
        )
    return converter


_converter: Final = _make_converter()


def unstructure(value: object, annotation: Any = None) -> Json:
    """Return the JSON value of any value, as a field of that type would have it; raise `CodecError`."""
    try:
        return cast("Json", _converter.unstructure(value, unstructure_as=annotation))
    except Exception as error:
        raise CodecError(f"cannot be written as JSON: {error}; got {shown(value)}") from error


def unstructure_hook_of(annotation: Any) -> Callable[[Any], Json]:
    """Return what `unstructure` is for one type."""
    if annotation is None:
        return unstructure
    hook = cast("Callable[[Any], Json]", _converter.get_unstructure_hook(annotation))

    def to_json(value: object) -> Json:
        try:
            return hook(value)
        except Exception as error:
            raise CodecError(f"cannot be written as JSON: {error}; got {shown(value)}") from error

    return to_json


def hook_of(annotation: Any) -> Callable[[Any, Any], Any]:
    """Return the function that makes a value of that type from a JSON value and the type; cattrs raises what it may."""
    return _converter.get_structure_hook(annotation)


def structure(value: Json, annotation: Any) -> Any:
    """Convert a JSON value to the annotated type; raise `CodecError` with the path to each defect."""
    try:
        return _converter.structure(value, annotation)
    except Exception as error:
        raise error_of(error, annotation) from error


def check_type(annotation: Any) -> None:
    """Raise `CodecError` if no value of that type can be read from JSON."""
    try:
        _converter.get_structure_hook(annotation)
    except Exception as error:
        raise CodecError(f"{name_of(annotation)} cannot be read from JSON: {error}") from error


def fits(value: Json, annotation: Any) -> bool:
    """Whether a JSON value is one of that type."""
    try:
        _converter.structure(value, annotation)
    except Exception:  # noqa: BLE001 - the question is only whether it does
        return False
    return True


# ---- errors ----


def error_of(error: BaseException, annotation: Any) -> CodecError:
    """Return what tells an error of a conversion, in a sentence for each defect."""
    problems = problems_of(error, "")
    name = name_of(annotation)
    article = "an" if name[:1].lower() in set("aeiou") else "a"
    return CodecError(f"not {article} {name}: {sentence(problems)}", problems)


def problems_of(error: BaseException, path: str) -> list[str]:
    """Turn a structuring error into sentences, each with the path to the defect."""
    if isinstance(error, ExceptionGroup):
        found: list[str] = []
        for inner in error.exceptions:  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
            found.extend(problems_of(inner, path + _step(inner)))  # pyright: ignore[reportUnknownArgumentType]
        return found
    if type(error).__module__.startswith("pydantic") and hasattr(error, "errors"):
        return [_problem_of_model(problem, path) for problem in cast("Any", error).errors(include_url=False)]
    at = f"at {path.lstrip('.')}: " if path else ""
    if isinstance(error, ForbiddenExtraKeysError):
        extra = ", ".join(repr(name) for name in sorted(error.extra_fields))
        known = ", ".join(repr(name) for name in field_types(error.cl))
        return [f"{at}unknown field {extra}; {name_of(error.cl)} has {known}"]
    if isinstance(error, KeyError):
        return [f"at {path.lstrip('.')}: missing" if path else f"missing field {error.args[0]!r}"]
    if isinstance(error, (TypeError, AttributeError)) and "wants" not in str(error):
        if (got := _instead_of_object(error)) is not None:
            return [f"{at}wants a JSON object, got {got}"]
        return [f"{at}wants a JSON object or list of the right shape ({error})"]
    return [f"{at}{error}"]


_IN_WORDS: Final = {"list": "a list", "str": "a string", "NoneType": "null", "bool": "true or false"} | dict.fromkeys(
    ("int", "float"), "a number"
)
_NO_OBJECT: Final = r"argument of type '(\w+)' is not (?:a container or )?iterable|expected a mapping, not (\w+)"


def _instead_of_object(error: TypeError | AttributeError) -> str | None:
    """Return what was given where an object is wanted, by what Python says when its names are asked for; else None."""
    if isinstance(error, AttributeError):
        return shown(error.obj) if error.name in {"keys", "items"} else None
    found = re.fullmatch(_NO_OBJECT, str(error))
    return None if found is None else _IN_WORDS.get(found[1] or found[2])


def _problem_of_model(problem: Mapping[str, Any], path: str) -> str:
    """Turn one entry of a Pydantic `ValidationError` into a sentence."""
    place = path + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in problem["loc"])
    at = f"at {place.lstrip('.')}: " if place else ""
    if problem["type"] == "missing":
        return f"{at}missing"
    return f"{at}{problem['msg']}, got {shown(problem['input'])}"


def _step(error: BaseException) -> str:
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, IterableValidationNote):
            return f"[{note.index!r}]"
        name = getattr(note, "name", None)
        if name is not None:
            return f".{name}"
    return ""
