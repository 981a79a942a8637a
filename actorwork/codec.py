"""Between messages and bytes: JSON outside, attrs classes, dataclasses, Pydantic models and JSON values inside.

    encode(message)              the JSON and the wire name of its type
    decode_value(data, type)     the value of the JSON, as that type
    MessageDecoder               converts the payload of a delivery into the argument of a handler
    KeywordDecoder               converts it into keyword arguments

JSON is never coerced. A number is an int only if it is one; missing and unknown fields are errors; every error names
the path to the field. Only the fields of a foreign stream entry, which are all strings, are parsed as the type that the
handler declares ("1" as the int 1, "true" as a bool, JSON for the rest). How strict a Pydantic model is, its own
configuration says.

JSON only, never pickle: any client that reaches the broker may have written the data.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import types
from collections import deque
from collections.abc import (
    Callable,
    Iterable,
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
from typing import TYPE_CHECKING, Any, Final, TypeAlias, Union, cast, get_args, get_origin, get_type_hints
from uuid import UUID

import attrs
import cattrs
from cattrs.errors import ForbiddenExtraKeysError, IterableValidationNote

from actorwork.errors import CodecError, ResultTooLarge
from actorwork.shown import Value

if TYPE_CHECKING:
    from actorwork.message import Json

Payload: TypeAlias = bytes | Mapping[bytes, bytes]

_SHOWN_PROBLEMS: Final = 20


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_decoder: Final = json.JSONDecoder(parse_constant=_refuse_constant)
_scan: Final[Callable[[str, int], tuple[Json, int]]] = cast("Any", _decoder).scan_once
_encoder: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_encode_str: Final[Callable[[str], str]] = cast("Any", json.encoder).encode_basestring


def _make_encode() -> Callable[[Json, int], Iterable[str]]:
    """Return the function that writes JSON in pieces: the C encoder if it is available."""
    make = cast("Any", json.encoder).c_make_encoder
    if make is None:
        return lambda value, _: _encoder.iterencode(value)
    # The first argument, None, disables the search for cycles; the encoder's recursion limit finds them.
    encode = make(None, _encoder.default, _encode_str, None, ":", ",", False, False, False)  # noqa: FBT003 - its signature
    return cast("Callable[[Json, int], Iterable[str]]", encode)


_encode: Final = _make_encode()


def wire_name(cls: type) -> str | None:
    """Return the name of a message's type in a stream: `__wire_name__` (None: none), or the name of the class."""
    name: str | None = getattr(cls, "__wire_name__", cls.__name__)
    return name


def is_record(cls: object) -> bool:
    """Whether a class is an attrs class or a dataclass."""
    return isinstance(cls, type) and (attrs.has(cls) or dataclasses.is_dataclass(cls))


def is_model(cls: object) -> bool:
    """Whether a class is a Pydantic model. Pydantic is never imported here: a program with a model has done so."""
    model = getattr(sys.modules.get("pydantic"), "BaseModel", None)
    return model is not None and isinstance(cls, type) and issubclass(cls, model)


def is_message_class(cls: object) -> bool:
    """Whether the instances of a class have a type on the wire: an attrs class, a dataclass or a Pydantic model."""
    return is_record(cls) or is_model(cls)


# ---- JSON ----


def loads(data: bytes) -> Json:
    """Parse JSON; raise `CodecError`. NaN, infinities and trailing text are refused."""
    try:
        text = str(data, "utf-8")
        try:
            value, end = _scan(text, 0)
        except StopIteration:  # leading white space, or not JSON at all
            return _decoder.decode(text)
        return value if end == len(text) else _decoder.decode(text)
    except UnicodeDecodeError as error:
        raise CodecError(f"the payload is not UTF-8: {error}") from error
    except RecursionError as error:
        raise CodecError("the payload cannot be read as JSON: it is nested too deeply") from error
    except ValueError as error:
        raise CodecError(f"the payload is not JSON: {error}; it begins with {_shown(data)}") from error


def dumps(value: Json) -> bytes:
    """Write JSON; raise `CodecError` for a value that JSON cannot express."""
    try:
        # `JSONEncoder.encode` makes a new C encoder for every call; one is enough.
        return (_encode_str(value) if type(value) is str else "".join(_encode(value, 0))).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise CodecError(f"cannot be written as JSON: {error}; got {_shown(value)}") from error


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - what cannot be shown is still wrong
        return f"a {type(value).__qualname__} that cannot be shown"
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"


# ---- values ----


def _exactly(cls: type, wanted: str) -> Callable[[Any, Any], Any]:
    def structure(value: Any, annotation: Any) -> Any:
        if annotation is not cls:  # cattrs finds hooks by inheritance, so this one is called for subclasses too.
            return _structure_subclass(value, annotation, cls, wanted)
        # A bool is an int to Python, but not to the producer that wrote the JSON.
        if type(value) is cls:
            return value
        raise TypeError(f"wants {wanted}, got {_shown(value)}")

    return structure


def _structure_float(value: Any, annotation: Any) -> Any:
    if type(value) is float or type(value) is int:
        return float(value) if annotation is float else _structure_subclass(float(value), annotation, float, "a number")
    raise TypeError(f"wants a number, got {_shown(value)}")


def _structure_subclass(value: Any, cls: Any, base: type, wanted: str) -> Any:
    """Make a value of a subclass of str, int or float: an enum member, or the result of the constructor."""
    if issubclass(cls, Enum):
        return _structure_enum(value, cls)
    if type(value) is not base:
        raise TypeError(f"wants {wanted}, got {_shown(value)}")
    try:
        return cls(value)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"wants {wanted} that {_name(cls)} accepts, got {_shown(value)}: {error}") from error


def _parsed(cls: Any, wanted: str) -> Callable[[Any, Any], Any]:
    def structure(value: Any, _: Any) -> Any:
        if isinstance(value, str):
            try:
                return cls(value)
            except (ValueError, ArithmeticError) as error:
                raise ValueError(f"wants {wanted}, got {_shown(value)}") from error
        raise TypeError(f"wants {wanted} as a string, got {_shown(value)}")

    return structure


def _structure_timedelta(value: Any, _: Any) -> timedelta:
    return timedelta(seconds=_structure_float(value, float))


def _structure_any(value: Any, _: Any) -> Any:
    return value


@cache
def _members(cls: type[Enum]) -> Mapping[bytes, Enum]:
    """Return an enum's members, aliases included, by the JSON of their values."""
    return {encode_value(member.value): member for member in cls.__members__.values()}


def _structure_enum(value: Any, cls: Any) -> Any:
    # By the JSON, since `1`, `1.0` and `true` are equal to Python, and a tuple is never equal to a list.
    member = _members(cls).get(dumps(value))
    if member is not None:
        return member
    if issubclass(cls, Flag) and type(value) is int and not value & ~sum({one.value for one in cls}):
        return cls(value)  # A combination of flags is not a member itself. Its bits are known, whatever the boundary.
    wanted = ", ".join(repr(one.value) for one in cls)
    raise ValueError(f"wants {'a combination' if issubclass(cls, Flag) else 'one'} of {wanted}, got {_shown(value)}")


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
    raise TypeError(f"wants {' or '.join(_PLAIN[option] for option in options)}, got {_shown(value)}")


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
                raise TypeError(f"wants a list, got {_shown(value)}")
            return inner(value, annotation)

        return structure

    def is_array(cls: Any) -> bool:
        return cls not in making and (get_origin(cls) or cls) in _ARRAYS

    converter.register_structure_hook_factory(is_array, make)


_MAPPINGS: Final = frozenset({dict, Mapping, MutableMapping})


def _read_keys_as_text(converter: cattrs.Converter) -> None:
    """Parse the names of JSON objects, which are always strings, as the keys that a mapping's annotation wants."""
    making: set[Any] = set()

    def wants_numbers(cls: Any) -> bool:
        if cls in making or get_origin(cls) not in _MAPPINGS:
            return False
        key = get_args(cls)[0]
        return isinstance(key, type) and issubclass(key, (int, float, Enum))

    def make(cls: Any) -> Callable[[Any, Any], Any]:
        making.add(cls)
        try:
            inner = converter.get_structure_hook(cls, cache_result=False)
        finally:
            making.discard(cls)
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


def encode_value(value: object) -> bytes:
    """Write any value that JSON can express, including attrs classes and dataclasses; raise `CodecError`."""
    if value is None:
        return b"null"
    try:
        plain = _converter.unstructure(value)
    except Exception as error:
        raise CodecError(f"cannot be written as JSON: {error}; got {_shown(value)}") from error
    return dumps(plain)


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
    try:
        plain = _converter.unstructure(value, unstructure_as=annotation)
    except Exception as error:
        raise CodecError(f"cannot be written as JSON: {error}; got {_shown(value)}") from error
    return dumps(plain)


def encode(message: object) -> tuple[bytes, str | None]:
    """Return a message's JSON and the wire name of its type (None for a JSON value); raise `CodecError`."""
    cls = type(message)
    if cls is dict or not is_message_class(cls):
        return dumps(message), None  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    return encode_value(message), wire_name(cls)


def decode_value(data: bytes, annotation: Any) -> Any:
    """Parse JSON as a value of the annotated type; raise `CodecError` with the path to each defect."""
    return structure(loads(data), annotation)


def structure(value: Json, annotation: Any) -> Any:
    """Convert a JSON value to the annotated type; raise `CodecError` with the path to each defect."""
    if annotation is None or annotation is type(None):
        if value is not None:
            raise CodecError(f"wants null, got {_shown(value)}")
        return None
    try:
        return _converter.structure(value, annotation)
    except Exception as error:
        raise _codec_error(error, annotation) from error


def check_type(annotation: Any) -> None:
    """Raise `CodecError` if no value of that type can be read from JSON."""
    try:
        _converter.get_structure_hook(annotation)
    except Exception as error:
        raise CodecError(f"{_name(annotation)} cannot be read from JSON: {error}") from error


# ---- payloads of deliveries ----


@attrs.frozen(eq=False, repr=False)
class Parameter(Value):
    """A keyword-only parameter of a handler."""

    name: str
    annotation: Any
    required: bool


class MessageDecoder:
    """Reads the payload of a delivery as one message, for the first parameter of a handler."""

    __slots__ = ("_annotation", "_hook")

    def __init__(self, annotation: Any) -> None:
        self._annotation = annotation
        self._hook = _converter.get_structure_hook(annotation)

    def __call__(self, payload: Payload) -> Any:
        value = loads(payload) if isinstance(payload, bytes) else fields_as_json(payload, field_types(self._annotation))
        try:
            return self._hook(value, self._annotation)
        except Exception as error:
            raise _codec_error(error, self._annotation) from error


class KeywordDecoder:
    """Reads the payload of a delivery as keyword arguments; unknown names go to `**rest` or are refused.

    A field `type` that is the name of the handler is no argument, unless the handler has a parameter for it.
    """

    __slots__ = ("_called", "_hooks", "_parameters", "_required", "_takes_rest", "_types")

    def __init__(self, parameters: Sequence[Parameter], *, takes_rest: bool, called: str = "") -> None:
        self._called = called
        self._parameters = {parameter.name: parameter for parameter in parameters}
        self._hooks = {p.name: (_converter.get_structure_hook(p.annotation), p.annotation) for p in parameters}
        self._required = [p.name for p in parameters if p.required]
        self._types = {p.name: p.annotation for p in parameters}
        self._takes_rest = takes_rest

    def __call__(self, payload: Payload, given: Mapping[str, object] = types.MappingProxyType({})) -> dict[str, Any]:
        """Return the arguments; `given` are those from outside the payload."""
        value = loads(payload) if isinstance(payload, bytes) else fields_as_json(payload, self._types)
        if type(value) is not dict:
            raise CodecError(
                f"the payload wants a JSON object with the handler's keyword arguments, got {_shown(value)}"
            )
        arguments: dict[str, Any] = dict(given)
        problems: list[str] = []
        hooks = self._hooks
        for name, part in value.items():
            found = hooks.get(name)
            if found is None:
                if self._takes_rest:
                    arguments[name] = part
                elif name != "type" or part != self._called:
                    problems.append(f"unknown argument {name!r}; the handler takes {_listed(hooks)}")
                continue
            hook, annotation = found
            try:
                arguments[name] = hook(part, annotation)
            except Exception as error:  # noqa: BLE001 - a user's converter may raise anything; it is reported with its path
                problems.extend(_problems(error, name))
        problems.extend(
            f"missing argument {name!r}" for name in self._required if name not in value and name not in given
        )
        if problems:
            raise CodecError(_sentence(problems), problems)
        return arguments

    def without_name(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return arguments without a field `type` for which the handler has no parameter."""
        is_taken = "type" in self._hooks or self._takes_rest
        return {name: value for name, value in arguments.items() if is_taken or name != "type"}


@cache
def field_types(cls: Any) -> Mapping[str, Any]:
    """Return the types of a record's or model's fields, by name; for anything else an empty mapping."""
    if is_model(cls):
        return {field.alias or name: field.annotation for name, field in cls.model_fields.items()}
    if not is_record(cls):
        return {}
    if attrs.has(cls):
        return {field.name: field.type for field in attrs.fields(attrs.resolve_types(cls))}
    hints = get_type_hints(cls)
    return {field.name: hints.get(field.name, field.type) for field in dataclasses.fields(cls)}


def fields_as_json(fields: Mapping[bytes, bytes], wanted: Mapping[str, Any]) -> dict[str, Json]:
    """Parse stream fields, which are all strings, as the JSON values that the wanted types consist of."""
    values: dict[str, Json] = {}
    problems: list[str] = []
    for raw_name, raw in fields.items():
        try:
            name, text = raw_name.decode(), raw.decode()
        except UnicodeDecodeError:
            problems.append(f"field {_shown(raw_name)} is not UTF-8")
            continue
        values[name] = _read_text(text, wanted.get(name, str))
    if problems:
        raise CodecError(_sentence(problems), problems)
    return values


_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_FALSE: Final = frozenset({"false", "0", "no", "off"})


def _read_text(text: str, annotation: Any) -> Json:
    """Return the JSON value that `text` denotes for `annotation`, or the text itself."""
    if annotation is str or annotation is Any:
        return text
    if annotation is bool:
        lowered = text.lower()
        return True if lowered in _TRUE else False if lowered in _FALSE else text
    if annotation is int or annotation is float:
        try:
            return annotation(text)  # type: ignore[no-any-return]
        except ValueError:
            return text
    if get_origin(annotation) in (Union, types.UnionType):
        options = get_args(annotation)
        if type(None) in options and text in ("", "null"):
            return None
        for option in options:
            value = _read_text(text, option)
            if _fits(value, option):
                return value
        return text
    if _fits(text, annotation):
        return text
    try:
        return loads(text.encode())
    except CodecError:
        return text


def _fits(value: Json, annotation: Any) -> bool:
    try:
        _converter.structure(value, annotation)
    except Exception:  # noqa: BLE001 - the question is only whether it does
        return False
    return True


# ---- errors ----


def _name(annotation: Any) -> str:
    return getattr(annotation, "__qualname__", None) or str(annotation)


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(repr(name) for name in names) or "none"


def _codec_error(error: BaseException, annotation: Any) -> CodecError:
    problems = _problems(error, "")
    name = _name(annotation)
    article = "an" if name[:1].lower() in set("aeiou") else "a"
    return CodecError(f"not {article} {name}: {_sentence(problems)}", problems)


def _sentence(problems: Sequence[str]) -> str:
    """Join the problems, up to a readable length: the sender decides how many there are."""
    shown = "; ".join(problems[:_SHOWN_PROBLEMS])
    more = len(problems) - _SHOWN_PROBLEMS
    return f"{shown}; and {more} more" if more > 0 else shown


def _problems(error: BaseException, path: str) -> list[str]:
    """Turn a structuring error into sentences, each with the path to the defect."""
    if isinstance(error, ExceptionGroup):
        found: list[str] = []
        for inner in error.exceptions:  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
            found.extend(_problems(inner, path + _step(inner)))  # pyright: ignore[reportUnknownArgumentType]
        return found
    if type(error).__module__.startswith("pydantic") and hasattr(error, "errors"):
        return [_problem_of_model(problem, path) for problem in cast("Any", error).errors(include_url=False)]
    at = f"at {path.lstrip('.')}: " if path else ""
    if isinstance(error, ForbiddenExtraKeysError):
        extra = ", ".join(repr(name) for name in sorted(error.extra_fields))
        known = ", ".join(repr(name) for name in field_types(error.cl))
        return [f"{at}unknown field {extra}; {_name(error.cl)} has {known}"]
    if isinstance(error, KeyError):
        return [f"at {path.lstrip('.')}: missing" if path else f"missing field {error.args[0]!r}"]
    if isinstance(error, (TypeError, AttributeError)) and "wants" not in str(error):
        return [f"{at}wants a JSON object or list of the right shape ({error})"]
    return [f"{at}{error}"]


def _problem_of_model(problem: Mapping[str, Any], path: str) -> str:
    """Turn one entry of a Pydantic `ValidationError` into a sentence."""
    place = path + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in problem["loc"])
    at = f"at {place.lstrip('.')}: " if place else ""
    if problem["type"] == "missing":
        return f"{at}missing"
    return f"{at}{problem['msg']}, got {_shown(problem['input'])}"


def _step(error: BaseException) -> str:
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, IterableValidationNote):
            return f"[{note.index!r}]"
        name = getattr(note, "name", None)
        if name is not None:
            return f".{name}"
    return ""
