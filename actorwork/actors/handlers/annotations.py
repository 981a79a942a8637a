"""Reads the annotations of handlers, also those that name classes which only a function knows.

With `from __future__ import annotations` an annotation is a string, and the locals of the function in which a class was
defined are gone when the string is read. So the names that the annotations of an actor class mention are kept when the
class is made; whatever else is in that frame is not, since it would live as long as the class.
"""

from __future__ import annotations

import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, cast, get_args, get_origin

import attrs

from actorwork.actors.handlers import rules
from actorwork.codec.kinds import fields_of, is_record

if TYPE_CHECKING:
    from types import FrameType

_KEPT: Final = "__actorwork_names__"
"""The attribute of a class that holds the local classes which its annotations name."""
_words: Final = re.compile(r"[^\W\d]\w*").findall


def functions_of(cls: type) -> Iterator[Callable[..., Any]]:
    """Yield the handlers of a class, those of its bases and mixins included, by the names that any of them marks."""
    names = {
        name: None
        for base in reversed(cls.__mro__)
        for name, value in vars(base).items()
        if getattr(value, rules.HANDLER, None)
    }
    for name in names:
        function = getattr(cls, name)
        if callable(function):
            yield function


def keep_local_names(cls: type, frame: FrameType | None) -> None:
    """Keep what the handlers of a class name, and the messages that they take, out of the frames that define it."""
    scopes = list(_scopes(frame))
    if not scopes:
        return
    kept = _Names(scopes)
    functions = list(functions_of(cls))
    for function in functions:
        kept.add_all(_annotations_of(function))
    # What is kept already comes first: attrs makes a class with slots anew, out of the frames of its own functions.
    setattr(cls, _KEPT, {**kept.found, **vars(cls).get(_KEPT, {})})
    for function in functions:
        try:
            hints = hints_of(function, cls)
        except Exception:  # noqa: BLE001, S112 - reported when the actor starts: what it names may be defined by then
            continue
        for hint in hints.values():
            _resolve_records(hint, scopes)


def keep_names(cls: type, functions: Iterable[Callable[..., Any]], frame: FrameType | None) -> None:
    """Keep what functions name that a class stands for, out of the frame in which they are decorated."""
    scopes = list(_scopes(frame))
    kept = _Names(scopes)
    for function in functions:
        kept.add_all(_annotations_of(function))
    setattr(cls, _KEPT, {**kept.found, **vars(cls).get(_KEPT, {}), "__function_class__": cls})


def hints_of(function: Callable[..., Any], cls: type | None) -> dict[str, Any]:
    """Return the annotations of a handler as types; raises `NameError`."""
    names: dict[str, Any] = {}
    for base in reversed(() if cls is None else cls.__mro__):
        names |= vars(base).get(_KEPT, {})
        # Classes that are nested in the actor. A method may be called like a type: so types alone.
        names |= {name: value for name, value in vars(base).items() if isinstance(value, type)}
    return typing.get_type_hints(function, localns={**inspect.unwrap(function).__globals__, **names} if names else None)


def resolved(reference: object, module: str, cls: type) -> Any:
    """Return what a forward reference in a module means, or None where that cannot be found out."""
    names = {key: value for base in reversed(cls.__mro__) for key, value in vars(base).get(_KEPT, {}).items()}
    holder = cast("Any", types.SimpleNamespace(__annotations__={"it": reference}))
    try:
        return typing.get_type_hints(holder, vars(sys.modules[module]), names)["it"]
    except Exception:  # noqa: BLE001 - a reference is any expression, and a class that only type checkers know is usual
        return None


class _Names:
    """The values of the names that annotations mention, out of the scopes that enclose a class."""

    def __init__(self, scopes: list[Mapping[str, Any]]) -> None:
        self._scopes = scopes
        self.found: dict[str, Any] = {}

    def add_all(self, annotations: Mapping[str, object]) -> None:
        for annotation in annotations.values():
            for word in _words(annotation) if isinstance(annotation, str) else ():
                for scope in self._scopes:
                    if word in scope:
                        self.found.setdefault(word, scope[word])
                        break


def _annotations_of(thing: object) -> Mapping[str, object]:
    try:
        return inspect.get_annotations(inspect.unwrap(cast("Any", thing)))
    except NameError:  # Python 3.14 evaluates them now; what they name is defined later.
        return {}


def _scopes(frame: FrameType | None) -> Iterator[Mapping[str, Any]]:
    """Yield the locals of the functions and class bodies around a class statement, innermost first."""
    at = frame
    while at is not None and at.f_code.co_name == "__init_subclass__":
        at = at.f_back
    if at is None or at.f_locals is at.f_globals:
        return  # A class of a module, the usual case.
    inside = at.f_code
    yield at.f_locals
    while (at := at.f_back) is not None:
        code = at.f_code
        if code.co_filename == inside.co_filename and inside.co_qualname.startswith(f"{code.co_qualname}."):
            inside = code
            yield at.f_locals


def _resolve_records(hint: Any, scopes: list[Mapping[str, Any]]) -> None:
    """Turn the annotations of the local message classes in an annotation into types."""
    for option in (hint, *get_args(hint)):
        if option is not hint:
            _resolve_records(option, scopes)
        elif isinstance(get_origin(option) or option, type):
            _resolve_record(cast("type", get_origin(option) or option), scopes)


def _resolve_record(cls: type, scopes: list[Mapping[str, Any]]) -> None:
    if "<locals>" not in cls.__qualname__ or not is_record(cls):
        return
    fields = fields_of(cls)
    if not any(isinstance(field.type, str) for field in fields):
        return
    names = _Names(scopes)
    names.add_all({key: value for base in cls.__mro__ for key, value in _annotations_of(base).items()})
    try:
        hints = typing.get_type_hints(cls, localns=names.found, include_extras=True)
    except NameError:
        return  # Reported when the actor starts.
    if attrs.has(cls):
        attrs.resolve_types(cls, localns=names.found)
    else:
        # As `attrs.resolve_types` does.
        for field in fields:
            field.type = hints.get(field.name, field.type)
        cls.__annotations__ = {name: hints[name] for name in inspect.get_annotations(cls)}
    for hint in hints.values():
        _resolve_records(hint, scopes)
