"""Functions as actors: `@actor` makes an actor class of a function with ordinary parameters.

    @actor(title="mailer", retry=RetryPolicy(attempts=3))
    async def send_mail(to: str, *, subject: str = "") -> int: ...

    await client.call(send_mail, to="ann")            sent to the actor, whose reply comes back
    await send_mail(to="ann")                         the function itself, as in a unit test

What it makes is a class, so that it can be put wherever an actor class can. It has one handler, for one class of
messages whose fields are the function's parameters: `send_mail.message(to="ann")` makes such a message, and codec,
table of handlers, refs and workflows treat it like any other. On the wire it has no type: it is a JSON object with the
arguments, which another program sends without knowing the function, and which outlives the function's name.

A function asks for its context by `current_context()`, and not by a parameter: so its parameters are exactly what its
senders give, and a type checker compares both by one ParamSpec.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, Self, TypeVar, cast, overload

import attrs

from actorwork.abc import FunctionActor
from actorwork.actors.actor import Actor
from actorwork.actors.handlers import rules
from actorwork.actors.handlers.annotations import hints_of, keep_names
from actorwork.actors.handlers.table import GIVEN, receive
from actorwork.errors import MessageRefused, SettingsError
from actorwork.message import Message
from actorwork.settings import Settings

if TYPE_CHECKING:
    from types import FrameType

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
S = ParamSpec("S")


class AsyncFunctionActor(FunctionActor[P, R_co], Protocol[P, R_co]):
    """What `@actor` makes of an `async def`."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]: ...


class BlockingFunctionActor(FunctionActor[P, R_co], Protocol[P, R_co]):
    """What `@actor` makes of a plain `def`, which runs in a thread."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


class FunctionDecorator(Protocol):
    """What `actor(title=…)` returns."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncFunctionActor[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> BlockingFunctionActor[P, R]: ...


def _with_parameters_of(settings: Callable[S, Settings]) -> Callable[S, FunctionDecorator]:
    """Return the decorator; for type checkers, its parameters are those of `Settings`, whatever these will be."""

    @functools.wraps(settings, updated=())
    def actor(*args: S.args, **kwargs: S.kwargs) -> FunctionDecorator:
        """Make an actor of a function: `@actor(title="mailer", retry=…)`, with the parameters of `Settings`.

        The result is an actor class: give it to `run`, `Child` or `client.ref`, send it messages by `client.call`,
        `client.submit`, `client.tell` and `step`, or make them by its `message(…)`. Called directly, it calls the
        function. An `async def` runs on the loop, a plain `def` in a thread. Raises `SettingsError` for a function
        whose parameters cannot come from JSON by their names (`*args`, `**kwargs`, positional-only ones).
        """
        if args:
            raise SettingsError(
                f'@actor wants brackets with settings by name, such as @actor(title="mailer"), got {args[0]!r}'
            )
        declared = settings(*args, **kwargs)

        def decorate(function: Callable[..., Any]) -> Any:
            here = inspect.currentframe()
            return _actor_of(function, declared, here and here.f_back)

        return cast("FunctionDecorator", decorate)

    actor.__name__ = actor.__qualname__ = "actor"
    return actor


class _FunctionClass(type):
    """The class of actor classes that are functions: to call one is to call its function."""

    __function__: Callable[..., Any]

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls.__function__(*args, **kwargs)

    def __repr__(cls) -> str:
        return f"<function {cls.__qualname__} as an actor>"

    def message(cls, *args: Any, **kwargs: Any) -> Message[Any, Any]:
        """Return the message that has the function called with these arguments; raise `MessageRefused`.

        Types are checked where the message is read, as those of every message.
        """
        shape = cls.message_shape
        try:
            bound = shape.bind(*args, **kwargs)
        except TypeError as error:
            bare = [one.replace(annotation=one.empty) for one in shape.parameters.values()]
            raise MessageRefused(f"{cls.__qualname__}: {error}; it takes {inspect.Signature(bare)}") from None
        made: Message[Any, Any] = cls.message_class(**bound.arguments)
        return made

    @property
    def message_shape(cls) -> inspect.Signature:
        """The parameters that come with a message: all but those that a trigger gives."""
        whole = inspect.signature(cls.__function__)
        return whole.replace(parameters=[one for name, one in whole.parameters.items() if name not in GIVEN])

    @property
    def message_class(cls) -> type[Message[Any, Any]]:
        """The class of the messages that carry the arguments.

        Made when it is first asked for: what the annotations name may be defined further down in the module.
        """
        made = cast("type[Message[Any, Any]] | None", vars(cls).get("__message_class__"))
        if made is None:
            made = cls.__message_class__ = _message_class_of(cls)
        return made

    @property
    def types(cls) -> Mapping[str, Any]:
        """The types of the parameters, and of what is returned."""
        hints = hints_of(cls.__function__, cls)
        return {name: hints.get(name, Any) for name in (*inspect.signature(cls.__function__).parameters, "return")}


class _FunctionAsActor(Actor, metaclass=_FunctionClass):
    """The base class of what `@actor` makes."""

    @classmethod
    def __make__(cls) -> Self:
        """Make an instance; to call the class would call the function."""
        made: Self = type.__call__(cls)
        return made


def _actor_of(function: Callable[..., Any], settings: Settings, frame: FrameType | None) -> type[Actor]:
    if not inspect.isfunction(function):
        raise SettingsError(f"@actor goes on a function, got {function!r}; a class derives from Actor")
    # Without @retry and the like, which become rules of the handler.
    plain = rules.unwrapped(function)
    _check_parameters(plain)
    made = _FunctionClass(
        function.__name__,
        (_FunctionAsActor,),
        {
            "__module__": function.__module__,
            "__qualname__": function.__qualname__,
            "__doc__": function.__doc__,
            "__signature__": inspect.signature(plain),
            "__function__": staticmethod(plain),
            "settings": settings,
            "handle": _handler_of(plain),
        },
    )
    keep_names(made, [plain], frame)
    return cast("type[Actor]", made)


def _check_parameters(function: Callable[..., Any]) -> None:
    where = f"@actor on {function.__qualname__}"
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise SettingsError(f"{where}: a generator cannot be an actor, which returns its reply")
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise SettingsError(
                f"{where}: the arguments of a message have names, so {parameter.replace(annotation=parameter.empty)}"
                " cannot be a parameter;"
                " write a list or a dict with a name of its own, or nothing before a '/'"
            )
        if name == "self":
            raise SettingsError(f"{where}: 'self' is a parameter of methods; a class derives from Actor, with @receive")


def _handler_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the method that handles a message: it calls the function with the message's fields."""
    given = [one for name, one in inspect.signature(function).parameters.items() if name in GIVEN]
    names = [name for name in inspect.signature(function).parameters if name not in GIVEN]
    handle: Any
    if inspect.iscoroutinefunction(function):

        async def call(_: object, message: object, **given: object) -> object:
            return await function(**{name: getattr(message, name) for name in names}, **given)

        handle = call
    else:

        def call_in_thread(_: object, message: object, **given: object) -> object:
            return function(**{name: getattr(message, name) for name in names}, **given)

        handle = call_in_thread
    handle.__name__, handle.__qualname__ = function.__name__, f"{function.__qualname__}.handle"
    handle.__module__ = function.__module__
    # Expressions that are evaluated by the table of handlers, when the actor starts or a first message is sent.
    annotations = {"message": f"{_ITSELF}.message_class", "return": f"{_ITSELF}.types['return']"}
    annotations |= {one.name: f"{_ITSELF}.types[{one.name!r}]" for one in given if one.annotation is not one.empty}
    handle.__annotations__ = annotations
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    handle.__signature__ = inspect.Signature(
        [
            inspect.Parameter("self", kind),
            inspect.Parameter("message", kind),
            *(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in given),
        ]
    )
    for rule in rules.rules_of(function):
        rules.note(handle, rule)
    return receive(handle)


_ITSELF = "__function_class__"
"""The name of the class in the annotations of its handler."""


def _message_class_of(cls: _FunctionClass) -> type[Message[Any, Any]]:
    types = cls.types
    fields = {
        # Without its alias, attrs would give a parameter `_x` the name `x`.
        name: attrs.field(default=attrs.NOTHING if one.default is one.empty else one.default, alias=name)
        for name, one in cls.message_shape.parameters.items()
    }
    made: type[Message[Any, Any]] = attrs.make_class(
        cls.__name__,
        fields,
        bases=(Message,),
        class_body={
            "__module__": cls.__module__,
            "__qualname__": cls.__qualname__,  # so its errors and its `repr` look like a call
            "__annotations__": {name: types[name] for name in fields},
            "__wire_name__": None,
        },
        frozen=True,
        slots=True,
        kw_only=True,
    )
    # attrs keeps none for a class that it makes; workflows compare the types of results with them.
    made.__annotations__ = {name: types[name] for name in fields}
    return made


actor = _with_parameters_of(Settings)
