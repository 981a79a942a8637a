"""What a message declares by `Message[Actor, Reply]`, compared with the handler that takes it.

Type checkers compare the message with the ref to which it is sent, and the reply with what its sender does with it;
they do not see that the handler returns something else. So this is checked when the actor's class is made. What cannot
be decided (a type variable, a name that only type checkers know, a protocol) is accepted.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Final, ForwardRef, Literal, TypeVar, Union, cast, get_args, get_origin

from actorwork.actors.handlers import rules
from actorwork.actors.handlers.annotations import functions_of, hints_of, resolved
from actorwork.errors import SettingsError
from actorwork.message import Message

STANDS_FOR: Final = "__actorwork_stands_for__"
"""The attribute of a class that takes the messages of another actor in its place: that actor."""
_words: Final = re.compile(r"[^\W\d]\w*").findall


def check_declared(cls: type) -> None:
    """Raise `SettingsError` for a handler of a message that names another actor, or another type of reply.

    Handlers whose annotations cannot be read yet are checked again when the actor starts.
    """
    hook = vars(cls).get("failed")
    if hook is not None and (not inspect.iscoroutinefunction(hook) or hasattr(hook, rules.HANDLER)):
        raise SettingsError(
            f"{cls.__qualname__}.failed is the hook for failed messages, async def failed(self, message, failure), and"
            " no handler: give a handler, or a method that is not async, another name"
        )
    for function in functions_of(cls):
        try:
            hints = hints_of(function, cls)
        except Exception:  # noqa: BLE001, S112 - an annotation is any expression, and its module may not be complete yet
            continue
        check_handler(cls, function, hints)


def check_handler(cls: type, function: Callable[..., Any], hints: dict[str, Any]) -> None:
    """Raise `SettingsError` if a handler does not take or answer its messages as they declare."""
    where = f"handler {cls.__qualname__}.{function.__name__}"
    owner: type = getattr(cls, STANDS_FOR, cls)
    is_batch = rules.batching_of(function) is not None
    returned = hints.get("return", Any)
    for name, hint in hints.items():
        if name == "return":
            continue
        if is_batch and get_origin(hint) is list:
            (hint,) = get_args(hint)  # noqa: PLW2901 - a batch is a list of messages
        for message in _options(hint):
            declared = _declared_by(message)
            if declared is None:
                continue
            actor, reply = declared
            module = message.__module__
            if not _is_for(owner, actor, module):
                raise SettingsError(
                    f"{where} takes {message.__qualname__}, which is declared for another actor: it is a"
                    f" Message[{_shown(actor)}, {_shown(reply)}]. Name {owner.__qualname__!r} there, or 'Actor' for any"
                )
            wanted = resolved(reply, module, cls) if isinstance(reply, (ForwardRef, str)) else reply
            replies = _replies_of(returned) if is_batch else [returned]
            if not all(may_be(one, wanted) for one in replies):
                raise SettingsError(
                    f"{where} returns {_shown(returned)}, but its message {message.__qualname__} declares the reply"
                    f" {_shown(reply)}: it is a Message[{_shown(actor)}, {_shown(reply)}]"
                )


def may_be(value: Any, wanted: Any) -> bool:
    """Whether a value of one type may be one of another; true wherever that is not certain."""
    if value == wanted:  # First, since an alias may contain itself.
        return True
    value, wanted = _plain(value), _plain(wanted)
    if Any in (value, wanted) or wanted is object or value in (typing.NoReturn, typing.Never):
        return True
    if _is_union(value):
        return all(may_be(option, wanted) for option in get_args(value))
    if get_origin(value) is Literal:
        return all(may_be(type(constant), wanted) for constant in get_args(value))
    if get_origin(wanted) is Literal:
        return any(may_be(value, type(constant)) for constant in get_args(wanted))
    if _is_union(wanted):
        return any(may_be(value, option) for option in get_args(wanted))
    outer, wanted_outer = get_origin(value) or value, get_origin(wanted) or wanted
    if (
        not isinstance(outer, type)
        or not isinstance(wanted_outer, type)
        or getattr(wanted_outer, "_is_protocol", False)
    ):
        return True
    if not _is_subclass(outer, wanted_outer):
        return outer is int and wanted_outer in (float, complex)
    arguments, wanted_arguments = get_args(value), get_args(wanted)
    if outer is not wanted_outer or len(arguments) != len(wanted_arguments):
        return True
    return all(map(may_be, arguments, wanted_arguments))


def _plain(hint: Any) -> Any:
    """Return a type without what does not count: aliases, new types, annotations; what is not known as `Any`."""
    while True:
        if hint is None:
            return type(None)
        if isinstance(hint, (str, ForwardRef, TypeVar)):
            return Any
        if get_origin(hint) is Annotated:
            hint = get_args(hint)[0]
        elif hasattr(hint, "__supertype__"):
            hint = hint.__supertype__
        elif hasattr(hint, "__value__"):
            hint = hint.__value__
        else:
            return hint


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)


def _is_subclass(cls: type, base: type) -> bool:
    try:
        return issubclass(cls, base)
    except TypeError:  # Some classes, such as a TypedDict, cannot be asked.
        return True


def _is_protocol(cls: type) -> bool:
    return getattr(cls, "_is_protocol", False)


def _options(hint: Any) -> Iterator[type]:
    """Yield the message classes of an annotation."""
    for option in get_args(hint) if _is_union(hint) else (hint,):
        if isinstance(option, type) and issubclass(option, Message):
            yield option


def _declared_by(message: type) -> tuple[Any, Any] | None:
    """Return the arguments of `Message[…]` among the bases of a message class, or None."""
    for base in message.__mro__:
        for written in vars(base).get("__orig_bases__", ()):
            if get_origin(written) is Message:
                return cast("tuple[Any, Any]", get_args(written))
    return None


def _is_for(owner: type, actor: Any, module: str) -> bool:
    """Whether a message that names `actor` (a class, a union, or a name) is for `owner` or a base of it."""
    if isinstance(actor, (ForwardRef, str)):
        text = actor.__forward_arg__ if isinstance(actor, ForwardRef) else actor
        # By name first: while a class is made, its module does not have it yet, or still has an older one.
        words = set(_words(text))
        if words & {base.__name__ for base in owner.__mro__}:
            return True
        known = resolved(actor, module, owner)
        # A name that only type checkers know may be an alias or a protocol, unless some actor has it.
        return _is_for(owner, known, module) if known is not None else not words & _names_of_actors(owner)
    if _is_union(actor):
        return any(_is_for(owner, option, module) for option in get_args(actor))
    actor = get_origin(actor) or actor
    if actor is Any or not isinstance(actor, type) or _is_protocol(actor):
        return True
    return _is_subclass(owner, actor)


def _names_of_actors(one: type) -> set[str]:
    """Return the names of all actor classes there are, given one of them."""
    # The base class of actors is defined above this room; it is what brings in the context.
    classes = [base for base in one.__mro__ if "context" in vars(base)]
    for base in classes:
        classes += base.__subclasses__()
    return {cls.__name__ for cls in classes}


def _replies_of(returned: Any) -> list[Any]:
    """Return what a batch handler answers single messages with; errors, which it may return too, are no replies."""
    if get_origin(returned) is not list:
        return []
    (hint,) = get_args(returned)
    options = get_args(hint) if _is_union(hint) else (hint,)
    return [one for one in options if not (isinstance(one, type) and issubclass(one, BaseException))]


def _shown(hint: Any) -> str:
    if isinstance(hint, ForwardRef):
        return repr(hint.__forward_arg__)
    return hint.__qualname__ if isinstance(hint, type) and get_origin(hint) is None else str(hint)
