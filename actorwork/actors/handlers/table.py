"""Which handler takes a message.

A handler is a method marked with `receive`. It is chosen by the type of the message:

    async def greet(self, message: Greet)             takes `Greet`, from a stream by its wire name
    async def both(self, message: Greet | Leave)      takes either
    async def any(self, message: dict[str, object])   takes JSON values (`object` and `Any` take all of them)
    async def clean(self, *, kind: str = "light")     takes JSON objects, as keyword arguments; of several such
                                                      handlers, the one that the field `type` names
    async def save(self, batch: list[Row])            with `receive(batch=100)`: takes `Row`, several at once

Beside either, `time_point: datetime` and `trigger_id: str` are given to a handler that declares them as keyword-only
parameters, for messages that a trigger has sent.

`async def` runs on the loop; a plain `def` runs in a worker thread. The table is made once for each class, before its
first actor starts, so a handler that cannot work is an error at the start, not at the first message.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, Union, cast, get_args, get_origin, overload

import attrs

from actorwork.actors.handlers import rules
from actorwork.actors.handlers.annotations import functions_of, hints_of
from actorwork.actors.handlers.declared import check_handler
from actorwork.codec import (
    KeywordDecoder,
    MessageDecoder,
    Parameter,
    check_type,
    is_message_class,
    loads,
    structure,
    wire_name,
)
from actorwork.durations import Duration
from actorwork.errors import CodecError, MessageRefused, SettingsError
from actorwork.message import TIME_POINT, TRIGGER_ID, Delivery
from actorwork.policy.retry import RetryPolicy
from actorwork.settings import EVENT_LOOPS, EventLoop, Settings
from actorwork.shown import Shown, Value

if TYPE_CHECKING:
    from actorwork.policy.batches import Batching
    from actorwork.policy.limits import Limit

P = ParamSpec("P")
T = TypeVar("T")

GIVEN: Final[Mapping[str, tuple[str, type]]] = {"time_point": (TIME_POINT, datetime), "trigger_id": (TRIGGER_ID, str)}
"""Keyword parameters that the runtime fills in for messages that a trigger sent: from which header, as what."""

_JSON_TYPES: Final[Mapping[type, type]] = {
    dict: dict, list: list, str: str, int: int, float: float, bool: bool, type(None): type(None), tuple: list,
}  # fmt: skip


@overload
def receive(function: Callable[P, T], /) -> Callable[P, T]: ...
@overload
def receive(
    *, batch: int, within: Duration = 0.5, loop: EventLoop | None = None
) -> Callable[[Callable[P, T]], Callable[P, T]]: ...
@overload
def receive(*, loop: EventLoop) -> Callable[[Callable[P, T]], Callable[P, T]]: ...
def receive(
    function: Any = None, /, *, batch: int | None = None, within: Duration = 0.5, loop: EventLoop | None = None
) -> Any:
    """Mark a method of an actor as the handler of the messages it is annotated with.

    `@receive(batch=100, within=0.5)` marks a handler of lists: of up to 100 messages from the broker, as soon as there
    are 100, or half a second after the first has come. It returns None, or a list with the outcome of each message, in
    their order: its reply, or the exception (a verdict, or an error) by which it ends. A local message is handled at
    once, as a batch of its own.

    `loop` is where an async handler runs, "trio" or "asyncio", instead of where `Settings.loop` has all of them.
    """
    marked: Batching | bool = True
    if batch is not None:
        from actorwork.policy.batches import Batching  # noqa: PLC0415 - few handlers take batches

        marked = Batching(batch, within)
    if loop not in (None, *EVENT_LOOPS):
        raise SettingsError(f"@receive(loop=…) wants 'trio' or 'asyncio', got {loop!r}")

    def mark(function: Any) -> Any:
        if function is None:
            raise SettingsError(
                "write @receive or @receive(batch=…): without a batch it takes nothing, and no within=… either"
            )
        if not inspect.isfunction(function):
            raise SettingsError(
                f"@receive goes on a method, got {function!r}; write @receive or @receive(batch=…), nothing else"
            )
        method = rules.unwrapped(function)
        setattr(method, rules.HANDLER, marked)
        if loop is not None:
            setattr(method, rules.LOOP, loop)
        return method

    return mark if function is None and (batch is not None or loop is not None) else mark(function)


@attrs.frozen(eq=False, repr=False)
class Given(Value):
    """A parameter that the runtime fills in from the headers of a trigger's message."""

    name: str
    header: str
    annotation: Any
    has_default: bool

    @property
    def takes_none(self) -> bool:
        return type(None) in get_args(self.annotation)

    @classmethod
    def of(cls, parameter: inspect.Parameter, hints: Mapping[str, Any]) -> Given:
        header, usual = GIVEN[parameter.name]
        annotation = hints.get(parameter.name, Any)
        has_default = parameter.default is not parameter.empty
        return cls(parameter.name, header, usual if annotation in (Any, object) else annotation, has_default)


@attrs.frozen(eq=False, repr=False)
class Handler(Shown):
    """One handler of an actor class, ready to be called."""

    name: str
    function: Callable[..., Any]
    is_async: bool
    returns: Any
    message_decoder: MessageDecoder | None = None
    keyword_decoder: KeywordDecoder | None = None
    given: tuple[Given, ...] = ()
    """Its parameters that come from the trigger's headers."""
    local_only: str = ""
    """Why its message cannot come from a broker, if it cannot."""
    limits: tuple[Limit, ...] = ()
    """Limits of its own, besides those of the actor."""
    retry: RetryPolicy | None = None
    """Its own policy, instead of the actor's."""
    batch: Batching | None = None
    """How many messages it takes at once, if several; `function` then takes a single one."""

    @property
    def takes_many(self) -> Callable[..., Any]:
        """The method that takes a batch, as a list."""
        return self.function.__wrapped__  # type: ignore[no-any-return] # pyright: ignore[reportFunctionMemberAccess]

    @property
    def wants_trigger(self) -> str:
        """Its required parameters that only a trigger's message has; empty if there are none."""
        return " and ".join(one.name for one in self.given if not one.has_default) if self.message_decoder else ""

    @property
    def has_rules(self) -> bool:
        """Whether it has a limit, a retry policy or a batch size of its own."""
        return bool(self.limits or self.retry or self.batch)

    def arguments_of(self, delivery: Delivery) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Read a delivery's payload as this handler's arguments; raises `CodecError`."""
        if self.message_decoder is not None:
            message = self.message_decoder(delivery.payload)
            return (message,), self._given_of(delivery, requires=True) if self.given else {}
        if self.keyword_decoder is None:
            raise CodecError(f"this message can only be told within a process: {self.local_only}")
        if self.given:
            return (), self.keyword_decoder(delivery.payload, self._given_of(delivery, requires=False))
        return (), self.keyword_decoder(delivery.payload)

    def _given_of(self, delivery: Delivery, *, requires: bool) -> dict[str, Any]:
        """Return the arguments from the trigger's headers; for other messages, None where the annotation allows it."""
        told: dict[str, Any] = {}
        for one in self.given:
            text = delivery.headers.get(one.header)
            if text is not None:
                told[one.name] = structure(text, one.annotation)
            elif not one.has_default and one.takes_none:
                told[one.name] = None
            elif not one.has_default and requires:
                raise CodecError(f"missing argument {one.name!r}, which a message has only if a trigger has sent it")
        return told


def _ruled(handler: Handler) -> Handler:
    """Return a handler with what decorators have noted on it; of two retry policies the outer one counts."""
    noted = rules.rules_of(handler.function)
    batching = rules.batching_of(handler.function)
    if batching is not None:
        handler = attrs.evolve(handler, batch=batching)
    if not noted:
        return handler
    policies = [rule for rule in noted if isinstance(rule, RetryPolicy)]
    limits = tuple(rule for rule in noted if not isinstance(rule, RetryPolicy))
    return attrs.evolve(handler, limits=limits, retry=policies[-1] if policies else None)


def _on_asyncio(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a handler that runs another one on its actor's asyncio loop."""

    @functools.wraps(function)
    async def bridged(self: Any, /, *args: object, **kwargs: object) -> object:
        return await self.context.on_asyncio(functools.partial(function, self, *args, **kwargs))

    return bridged


def _on_activation(function: Callable[..., Any], *, is_async: bool) -> Callable[..., Any]:
    """Return a handler that runs another one on the activation of the key; it is called on what hosts these."""

    @functools.wraps(function)
    def activated(self: Any, /, *args: object, **kwargs: object) -> Awaitable[object]:
        handled: Awaitable[object] = self.handle(function, args, kwargs, is_async=is_async)
        return handled

    return activated


async def _forget(host: Any, _: object) -> bool:
    """Delete the state of a key."""
    forgotten: bool = await host.forget()
    return forgotten


async def _nothing(host: object, _: object) -> None:
    """Handle the message that takes the place of a reminder that was forgotten."""


def _one_by_one(function: Callable[..., Any], *, is_async: bool) -> Callable[..., Any]:
    """Return a handler of one message that passes it to a handler of batches, as a list."""
    if is_async:

        @functools.wraps(function)
        async def take(self: object, message: object) -> object:
            return _only(await function(self, [message]))

        return take

    @functools.wraps(function)
    def take_in_thread(self: object, message: object) -> object:
        return _only(function(self, [message]))

    return take_in_thread


def _only(answer: object) -> object:
    from actorwork.policy.batches import outcomes_of  # noqa: PLC0415 - as above

    (outcome,) = outcomes_of(answer, 1)
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


class HandlerTable:
    """All handlers of one actor class, by the type of the message and by its name on the wire."""

    def __init__(self, owner: str, cls: type | None = None) -> None:
        self._owner = owner
        self.cls = cls
        """The actor class whose methods these are, if it is one."""
        self.by_class: dict[type, Handler] = {}
        """The handlers of local messages, by exact class. Refs look here first, for every message."""
        self._of_triggers: dict[type, Handler] = {}
        """The same, for handlers that need a trigger's headers: no local message has those."""
        self._by_wire: dict[str, Handler] = {}
        self._any: Handler | None = None
        self._keywords: dict[str, Handler] = {}
        """The handlers of keyword arguments, by their names."""
        self._shapes: dict[str, str] = {}
        """The parameters of these, for error messages."""
        self._only: Handler | None = None
        self._accepts: list[str] = []
        self.has_rules = False
        """Whether a handler is retried or limited in another way than the actor, or takes batches."""
        self.largest_batch = 1
        """How many messages a handler takes at once, at most."""
        self.is_entity: bool = getattr(cls, "__actorwork_entity__", False)
        """Whether the class is an entity: its messages need a key."""
        if self.is_entity:
            for name, function in (("actorwork:forget", _forget), ("actorwork:nothing", _nothing)):
                self._by_wire[name] = Handler(name, function, True, bool, MessageDecoder(Any))  # noqa: FBT003 - as below

    def __repr__(self) -> str:
        return f"<handlers of {self._owner}: {self.accepts}>"

    def __iter__(self) -> Iterator[Handler]:
        """Yield every handler once."""
        found = [*self._typed.values(), *filter(None, [self._any]), *self._keywords.values()]
        return iter({handler.name: handler for handler in found}.values())

    @property
    def _typed(self) -> Mapping[type, Handler]:
        return {**self.by_class, **self._of_triggers}

    @property
    def accepts(self) -> str:
        """What the actor takes, for error messages."""
        is_named = len(self._shapes) > 1
        objects = [
            f"a JSON object of the type {name!r} {shape}" if is_named else f"a JSON object {shape}"
            for name, shape in self._shapes.items()
        ]
        return ", ".join(self._accepts + objects) or "nothing: it has no method marked with @receive"

    def add(self, function: Callable[..., Any]) -> None:
        """Add a method; raises `SettingsError` where it cannot be a handler."""
        where = f"handler {self._owner}.{function.__name__}"
        parameters = list(inspect.signature(function).parameters.values())[1:]
        try:
            hints = hints_of(function, self.cls)
        except (NameError, AttributeError) as error:
            raise SettingsError(
                f"{where}: its annotations cannot be read ({error}); define its message classes in the module of the"
                " actor, in the actor, or before it in the function that defines both"
            ) from error
        if self.cls is not None:
            check_handler(self.cls, function, hints)
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
        rest = any(p.kind is p.VAR_KEYWORD for p in parameters)
        if any(p.kind is p.VAR_POSITIONAL for p in parameters):
            raise SettingsError(f"{where} wants one message, or keyword-only parameters after a *, got *args")
        returns = hints.get("return", Any)
        is_async = inspect.iscoroutinefunction(function)
        if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
            raise SettingsError(f"{where} is a generator; a handler returns its reply")
        if is_async and self._loop_of(function) == "asyncio":
            function = _on_asyncio(function)
        if self.is_entity:
            function, is_async = _on_activation(function, is_async=is_async), True
        batching = rules.batching_of(function)
        given = tuple(Given.of(p, hints) for p in keywords if p.name in GIVEN)
        if len(positional) == 1 and len(keywords) == len(given) and not rest and not (given and batching is not None):
            name, annotation = positional[0].name, hints.get(positional[0].name)
            if annotation is None and name not in hints:
                raise SettingsError(
                    f"{where}: {name!r} needs an annotation, since a handler is chosen by the type of its message"
                )
            if batching is not None:
                annotation = _element_of(annotation, f"{where}: {name!r}")
                returns = get_args(returns)[0] if get_origin(returns) is list else Any
                function = _one_by_one(function, is_async=is_async)
            self._add_typed(where, function, annotation, returns, given, is_async=is_async)
        elif batching is not None:
            raise SettingsError(f"{where} takes batches, so it wants one parameter, such as (self, batch: list[Row])")
        elif not positional:
            self._add_keywords(where, function, keywords, hints, returns, given, rest=rest, is_async=is_async)
        else:
            raise SettingsError(
                f"{where} wants either one message (self, message: Type) or keyword-only parameters"
                f" (self, *, name: Type), got ({', '.join(str(p) for p in parameters)})"
            )

    def _loop_of(self, function: Callable[..., Any]) -> EventLoop:
        own: EventLoop | None = getattr(function, rules.LOOP, None)
        settings = getattr(self.cls, "settings", None)
        return own or (settings.loop if isinstance(settings, Settings) else "trio")

    def _add_typed(
        self,
        where: str,
        function: Callable[..., Any],
        annotation: Any,
        returns: Any,
        given: tuple[Given, ...],
        *,
        is_async: bool,
    ) -> None:
        options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
        for option in options:
            handler = _ruled(self._typed_handler(where, function, option, returns, is_async=is_async))
            if given:
                handler = attrs.evolve(handler, given=given)
            self._note_rules(handler)
            if option is Any or option is object:
                self._put_any(where, handler)
                continue
            if option is None:
                option = type(None)  # noqa: PLW2901 - None is how types write it
            cls = get_origin(option) or option
            if not isinstance(cls, type) or not (is_message_class(cls) or cls in _JSON_TYPES):
                raise SettingsError(
                    f"{where}: a message is an attrs class, a dataclass, a Pydantic model or a JSON value,"
                    f" got {option!r}"
                )
            known = self.by_class.get(cls) or self._of_triggers.get(cls)
            if known is not None:
                raise SettingsError(f"{where}: {cls.__qualname__} is handled by {known.name} already")
            (self._of_triggers if handler.wants_trigger else self.by_class)[cls] = handler
            if is_message_class(cls):
                name = wire_name(cls)
                if name in self._by_wire:
                    raise SettingsError(
                        f"{where}: two messages are called {name!r} on the wire; give one a __wire_name__"
                    )
                if name is not None:
                    self._by_wire[name] = handler
            self._accepts.append(
                getattr(option, "__qualname__", str(option)) if get_origin(option) is None else str(option)
            )
        self._choose_only()

    @staticmethod
    def _typed_handler(
        where: str, function: Callable[..., Any], option: Any, returns: Any, *, is_async: bool
    ) -> Handler:
        try:
            check_type(option)
        except CodecError as error:
            if is_message_class(option):
                # It holds what JSON cannot, such as a ref: it may still be told within the process.
                return Handler(function.__name__, function, is_async, returns, local_only=str(error))
            raise SettingsError(f"{where}: {error}") from error
        return Handler(function.__name__, function, is_async, returns, MessageDecoder(option))

    def _put_any(self, where: str, handler: Handler) -> None:
        if self._any is not None:
            raise SettingsError(f"{where}: any message is handled by {self._any.name} already")
        self._any = handler
        self._accepts.append("any JSON value")

    def _add_keywords(
        self,
        where: str,
        function: Callable[..., Any],
        keywords: list[inspect.Parameter],
        hints: Mapping[str, Any],
        returns: Any,
        given: tuple[Given, ...],
        *,
        rest: bool,
        is_async: bool,
    ) -> None:
        parameters = [Parameter(p.name, hints.get(p.name, Any), p.default is p.empty) for p in keywords]
        for parameter in parameters:
            try:
                check_type(parameter.annotation)
            except CodecError as error:
                raise SettingsError(f"{where}: parameter {parameter.name!r}: {error}") from error
        called = function.__name__
        decoder = KeywordDecoder(parameters, takes_rest=rest, called=called)
        handler = _ruled(Handler(called, function, is_async, returns, keyword_decoder=decoder, given=given))
        self._keywords[called] = handler
        self._note_rules(handler)
        shown = ", ".join([p.name if p.required else f"{p.name}=…" for p in parameters] + (["…"] if rest else []))
        self._shapes[called] = f"({shown})"
        self._choose_only()

    def _note_rules(self, handler: Handler) -> None:
        # Noted once, and not looked up: every start and restart of an actor asks for it.
        self.has_rules |= handler.has_rules
        if handler.batch is not None:
            self.largest_batch = max(self.largest_batch, handler.batch.size)

    def _choose_only(self) -> None:
        """Choose the handler of messages without a type: the only one with keywords, or the only one there is."""
        handlers = {id(handler.function): handler for handler in [*self._typed.values(), *filter(None, [self._any])]}
        if len(self._keywords) > 1:
            self._only = None
            return
        self._only = (
            next(iter(self._keywords.values()), None)
            or self._any
            or (next(iter(handlers.values())) if len(handlers) == len(self._typed) == 1 else None)
        )

    def for_delivery(self, delivery: Delivery) -> Handler:
        """Return the handler of a message from a stream; raises `CodecError` where there is none."""
        name = delivery.type
        if name is None:
            handler = self._only or self._named_by(delivery) or self._any or self._for_kind_of(delivery)
            if handler is None:
                if self._keywords:
                    raise CodecError(f"{self._which_is_missing} {self.accepts}")
                raise CodecError(f"the message has no type, and {self._owner} takes several: {self.accepts}")
            return handler
        handler = self._by_wire.get(name) or self._keywords.get(name)
        if handler is None:
            handler = self._any
            if handler is None:
                raise CodecError(f"unknown type {name!r}; {self._owner} takes {self.accepts}")
        return handler

    def _named_by(self, delivery: Delivery) -> Handler | None:
        """Return the keyword handler that the field `type` of a payload names."""
        payload = delivery.payload
        if not self._keywords:
            return None
        if isinstance(payload, bytes):
            value = loads(payload)
            return self._named(value.get("type")) if isinstance(value, dict) else None
        return self._named(payload.get(b"type", b"").decode(errors="replace"))

    def _named(self, name: object) -> Handler | None:
        return self._keywords.get(name) if isinstance(name, str) else None

    @property
    def _which_is_missing(self) -> str:
        return f"the message wants a field 'type' that names one of several handlers; {self._owner} takes"

    def _for_kind_of(self, delivery: Delivery) -> Handler | None:
        """Return the handler of a message without a type, by its kind of JSON: string, number, list, …"""
        kinds = {_JSON_TYPES[cls]: handler for cls, handler in self._typed.items() if cls in _JSON_TYPES}
        if not kinds:
            return None
        return kinds.get(type(loads(delivery.payload)) if isinstance(delivery.payload, bytes) else dict)

    def for_message(self, message: object) -> Handler:
        """Return the handler of a local message; raises `MessageRefused` where there is none."""
        cls = type(message)
        handler = self.by_class.get(cls)
        if handler is None:
            if cls in self._of_triggers:
                handler = self._of_triggers[cls]
                raise MessageRefused(
                    f"{handler.name} wants {handler.wants_trigger}, which only a message that a trigger has sent has"
                )
            for known, candidate in self.by_class.items():
                if is_message_class(known) and issubclass(cls, known):
                    return candidate
            if cls is dict and self._keywords:
                if len(self._keywords) == 1:
                    return next(iter(self._keywords.values()))
                handler = self._named(cast("dict[str, Any]", message).get("type"))
                if handler is not None:
                    return handler
                if self._any is None:
                    raise MessageRefused(f"{self._which_is_missing} {self.accepts}; got {message!r}")
            if self._any is None:
                raise MessageRefused(f"{self._owner} takes {self.accepts}; got {cls.__qualname__}")
            handler = self._any
        return handler

    def find(self, message: object) -> Handler | None:
        """Return the handler of a local message, or None."""
        try:
            return self.for_message(message)
        except MessageRefused:
            return None

    def check(self, message: object) -> None:
        """Raise `MessageRefused` if no handler takes the message."""
        self.for_message(message)

    def reply_type(self, message: object) -> Any:
        """Return the type of the reply to a message, as its handler declares it (`Any` where it does not)."""
        return self.for_message(message).returns


def local_keywords(handler: Handler, message: Any) -> dict[str, Any] | None:
    """Return the items of a local message as keyword arguments, or None where the handler takes the message itself.

    Raises `MessageRefused` where a keyword is missing or unknown, at the sender.
    """
    if handler.keyword_decoder is None:
        return None
    if message.get("type") == handler.name:
        message = handler.keyword_decoder.without_name(message)
    try:
        inspect.signature(handler.function).bind(None, **message)
    except TypeError as error:
        raise MessageRefused(f"{handler.name}: {error}; got {list(message)}") from error
    return dict(message)


def table_of(cls: type) -> HandlerTable:
    """Make the table of a class's handlers; those of its bases are its own too, overriding included."""
    table = HandlerTable(cls.__qualname__, cls)
    for function in functions_of(cls):
        table.add(function)
    return table


def handlers_of(cls: type) -> HandlerTable:
    """Return the handlers of an actor class, made when first asked for."""
    table: HandlerTable | None = cls.__dict__.get("__actorwork_handlers__")
    if table is None:
        table = table_of(cls)
        cls.__actorwork_handlers__ = table  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]
    return table


def _element_of(annotation: object, where: str) -> Any:
    """Return what a batch is a list of."""
    if get_origin(annotation) is not list:
        raise SettingsError(f"{where} is a batch, so its annotation is a list, such as list[Row]; got {annotation!r}")
    return get_args(annotation)[0]
