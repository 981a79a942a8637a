"""The base class of entities: actors with one instance, and a durable state, for every key.

    class Account(Entity[Balance]):
        settings = Settings(title="account", concurrency=64, entities=Entities(idle=300))

        @receive
        async def deposit(self, message: Deposit) -> int:
            self.state.amount += message.amount
            return self.state.amount

What a handler makes of `self.state` is committed in the step that settles its message, or not at all.
"""

from __future__ import annotations

import hashlib
import typing
from typing import Any, Final, Generic, TypeVar, get_args, get_origin

from actorwork.actors.actor import Actor
from actorwork.actors.entities.activation import Activation
from actorwork.actors.entities.schema import Nothing
from actorwork.actors.handlers.annotations import functions_of, resolved
from actorwork.actors.handlers.rules import batching_of
from actorwork.durations import Duration, seconds_of
from actorwork.errors import NotRunning, SettingsError
from actorwork.message import Unique
from actorwork.settings import Settings

State = TypeVar("State")

LONGEST_REMINDER: Final = 365 * 86_400.0
_GRACE: Final = 30 * 86_400.0
"""Seconds for which a reminder can still be replaced after it was due."""


class Entity(Actor, Generic[State]):
    """An actor with one instance for every key, whose state is durable: `Entity[Balance]` has a `Balance`.

    Wherever it runs, the messages of a key are handled one after another, each on the state that the one before has
    committed. The state is an attrs class, a dataclass, a model or a JSON value; a key without a state begins with what
    the class returns without arguments. Messages to it need a key, and come through the broker only.

    The hook `failed` runs beside the messages of the key, on an instance of its own: `self.key` is that of the message
    that has failed ("" if it had none), `self.state` a copy of what is committed. What is done to it is lost; to change
    the state, publish a message to the key.
    """

    __actorwork_entity__ = True

    key: str
    """The key of this instance."""
    state: State
    """Its state. What a handler changes is committed with its message, if that is handled; else it is undone."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        settings = vars(cls).get("settings")
        if isinstance(settings, Settings):
            check_settings(cls, settings)
        for function in functions_of(cls):
            if batching_of(function) is not None:
                raise SettingsError(
                    f"{cls.__qualname__}.{function.__name__} takes batches; an entity handles one message at a time"
                )

    async def startup(self) -> None:
        """Acquire what this instance needs; `self.key` and `self.state` are there. Called at each activation.

        It belongs to the message that has activated the instance: an error here is an error of its handler.
        """

    async def shutdown(self) -> None:
        """Release what `startup` has acquired; what is done to the state here is lost. Called at each passivation."""

    async def commit(self) -> None:
        """Commit the state in the middle of a handler, together with what it has published so far; go on then.

        If the handler fails or its process dies later, the message is handled again, on the state as committed here.
        Raises `StateConflict` if the state has changed meanwhile: the message is then handed back, however the handler
        ends, and runs again. Cancelled: it may have been committed.
        """
        activation = self._activation("commit")
        await activation.host.commit(activation)

    def remind(self, name: str, message: object, *, after: Duration) -> None:
        """Have a message sent to this key, `after` from now; a reminder of the same name is replaced.

        It is set with the settlement of the message in flight, as what is published is, and is durable. `after` is at
        most a year. In a program that handles the reminder it is a message like any other.
        """
        seconds = seconds_of("after", after)
        if not 0 <= seconds <= LONGEST_REMINDER:
            raise ValueError(f"remind: after wants seconds from 0 to {LONGEST_REMINDER:.10g} (a year), got {after!r}")
        self._activation("remind")
        self.context.publish(type(self), message, key=self.key, delay=seconds, unique=self._reminder(name, seconds))

    def forget_reminder(self, name: str) -> None:
        """Forget the reminder of this name, with the settlement of the message in flight; there may be none."""
        self._activation("forget_reminder")
        source = type(self).settings.default_source
        self.context.publish(source, Nothing(), key=self.key, unique=self._reminder(name, 0))

    def _reminder(self, name: str, seconds: float) -> Unique:
        # A digest, since keys and names may be as long as a unique key may be.
        digest = hashlib.sha256(f"{self.key}\0{name}".encode()).hexdigest()[:32]
        return Unique(f"reminder:{digest}", ttl=min(seconds + _GRACE, LONGEST_REMINDER), on_conflict="replace")

    def _activation(self, name: str) -> Activation:
        activation: Activation | None = vars(self).get(ACTIVATION)
        if activation is None or activation.current is None:
            raise NotRunning(f"{type(self).__qualname__}.{name} belongs to a handler that runs in a system")
        return activation


ACTIVATION: Final = "__actorwork_activation__"
"""The attribute of an instance that leads to its activation."""


def check_settings(cls: type, settings: Settings) -> None:
    """Raise `SettingsError` for settings that an entity cannot have."""
    if settings.sources:
        raise SettingsError(
            f"{cls.__qualname__}: an entity reads its own source alone, since the order and the state of a key belong"
            f" to one source; got sources={sorted(settings.sources)}"
        )
    if settings.triggers:
        raise SettingsError(
            f"{cls.__qualname__}: the messages of triggers have no key; let a trigger of another actor send to it"
        )


def state_type_of(cls: type) -> Any:
    """Return the type of the state of an entity class; raises `SettingsError` if it names none."""
    for base in cls.__mro__:
        for written in vars(base).get("__orig_bases__", ()):
            origin = get_origin(written)
            if isinstance(origin, type) and issubclass(origin, Entity):
                (found,) = get_args(written)
                if isinstance(found, (str, typing.ForwardRef)):
                    known = resolved(found, base.__module__, base)
                    if known is None:
                        raise SettingsError(f"{cls.__qualname__}: the type of its state is not known: {found!r}")
                    return known
                if not isinstance(found, TypeVar):
                    return found
    raise SettingsError(f"{cls.__qualname__} wants the type of its state: class {cls.__name__}(Entity[Balance])")
