"""From the payload of a delivery to the arguments of its handler."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias, Union, get_args, get_origin

import attrs

from actorwork.codec.kinds import field_types
from actorwork.codec.text import loads, sentence, shown
from actorwork.codec.values import hook_of
from actorwork.errors import CodecError
from actorwork.shown import Value

if TYPE_CHECKING:
    from actorwork.message import Json

Payload: TypeAlias = bytes | Mapping[bytes, bytes]


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
        self._hook = hook_of(annotation)

    def __call__(self, payload: Payload) -> Any:
        value = loads(payload) if isinstance(payload, bytes) else fields_as_json(payload, field_types(self._annotation))
        try:
            return self._hook(value, self._annotation)
        except Exception as error:
            raise _error_of(error, self._annotation) from error


class KeywordDecoder:
    """Reads the payload of a delivery as keyword arguments; unknown names go to `**rest` or are refused.

    A field `type` that is the name of the handler is no argument, unless the handler has a parameter for it.
    """

    __slots__ = ("_called", "_hooks", "_parameters", "_required", "_takes_rest", "_types")

    def __init__(self, parameters: Sequence[Parameter], *, takes_rest: bool, called: str = "") -> None:
        self._called = called
        self._parameters = {parameter.name: parameter for parameter in parameters}
        self._hooks = {p.name: (hook_of(p.annotation), p.annotation) for p in parameters}
        self._required = [p.name for p in parameters if p.required]
        self._types = {p.name: p.annotation for p in parameters}
        self._takes_rest = takes_rest

    def __call__(self, payload: Payload, given: Mapping[str, object] = types.MappingProxyType({})) -> dict[str, Any]:
        """Return the arguments; `given` are those from outside the payload."""
        value = loads(payload) if isinstance(payload, bytes) else fields_as_json(payload, self._types)
        if type(value) is not dict:
            raise CodecError(
                f"the payload wants a JSON object with the handler's keyword arguments, got {shown(value)}"
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
                problems.extend(_problems_of(error, name))
        problems.extend(
            f"missing argument {name!r}" for name in self._required if name not in value and name not in given
        )
        if problems:
            raise CodecError(sentence(problems), problems)
        return arguments

    def without_name(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return arguments without a field `type` for which the handler has no parameter."""
        is_taken = "type" in self._hooks or self._takes_rest
        return {name: value for name, value in arguments.items() if is_taken or name != "type"}


def fields_as_json(fields: Mapping[bytes, bytes], wanted: Mapping[str, Any]) -> dict[str, Json]:
    """Parse stream fields, which are all strings, as the JSON values that the wanted types consist of."""
    values: dict[str, Json] = {}
    problems: list[str] = []
    for raw_name, raw in fields.items():
        try:
            name, text = raw_name.decode(), raw.decode()
        except UnicodeDecodeError:
            problems.append(f"field {shown(raw_name)} is not UTF-8")
            continue
        values[name] = _read_text(text, wanted.get(name, str))
    if problems:
        raise CodecError(sentence(problems), problems)
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
    from actorwork.codec.conversion import fits

    return fits(value, annotation)


# The module that converts puts its errors into words; a handler that converts nothing never imports it.


def _error_of(error: BaseException, annotation: Any) -> CodecError:
    from actorwork.codec.conversion import error_of

    return error_of(error, annotation)


def _problems_of(error: BaseException, path: str) -> list[str]:
    from actorwork.codec.conversion import problems_of

    return problems_of(error, path)


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(repr(name) for name in names) or "none"
