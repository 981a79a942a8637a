"""From tasks to messages: which actor handles a task, and what its arguments are called there.

    SendMail                                     an actor, by its class or its function: arguments by name and position
    "shop.mailer"                                an actor of another program, by its title: arguments by name
    CeleryTask(Mailer, message=to_message)       any actor, and a function that makes its message

The arguments of a task are those of the function, in its order; or the keyword parameters of the only handler of the
class; or the fields of the only class of messages that it takes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

import attrs

from actorwork import codec
from actorwork.abc import FunctionActor
from actorwork.actors.actor import Actor
from actorwork.actors.handlers.table import GIVEN, handlers_of
from actorwork.bridges.celery.wire import NotTaken, TaskMessage, priority_of
from actorwork.clients.titles import title_of
from actorwork.errors import SettingsError
from actorwork.message import REPLY_TO, RESULT_TTL, Envelope, Json
from actorwork.settings import Settings
from actorwork.shown import Shown

Handling: TypeAlias = "type[Actor] | FunctionActor[..., Any] | str"
"""An actor: its class, its function, or its title."""
MakeMessage: TypeAlias = "Callable[[Sequence[Any], Mapping[str, Any]], object]"
KEPT: Final = 86_400.0
"""For how many seconds results are kept, here until they are written, and there for the callers: Celery's default."""


@attrs.frozen(eq=False, repr=False)
class CeleryTask(Shown):
    """An actor (class, function or title) for a task, and the function that makes its message.

    `message` is called with the list and the dict of the task's arguments, which are JSON, and returns any message that
    the actor takes. What it raises is the task's failure.
    """

    actor: Handling
    message: MakeMessage | None = None


@attrs.frozen(eq=False, repr=False)
class CeleryQueue(Shown):
    """A queue of Celery's at a Redis `url`, and the actors for its tasks, by the names of the tasks.

    `pass_on` names the queue for all other tasks, where workers of Celery's still read; without it they are set aside,
    in the list `<name>.actorwork-refused`. Results are written to the Redis `results` (None: to `url`; "": nowhere),
    and kept for `results_ttl` seconds. At most `ahead` tasks whose results are wanted, and that are due, are with the
    actors at a time; the others stay in the queue. Raises `SettingsError` for a task whose arguments have no names.
    """

    url: str
    tasks: Mapping[str, Handling | CeleryTask]
    name: str = attrs.field(default="celery", kw_only=True)
    pass_on: str | None = attrs.field(default=None, kw_only=True)
    results: str | None = attrs.field(default=None, kw_only=True)
    results_ttl: float = attrs.field(default=KEPT, kw_only=True)
    ahead: int = attrs.field(default=1000, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if not self.tasks:
            raise SettingsError("CeleryQueue wants at least one task, such as {'shop.tasks.send_mail': SendMail}")
        if self.pass_on == self.name:
            raise SettingsError(f"pass_on wants another queue than {self.name!r} itself")
        if self.ahead < 1:
            raise SettingsError(f"ahead wants a number from 1 on, got {self.ahead!r}")
        if not 1 <= self.results_ttl <= 365 * KEPT:
            raise SettingsError(f"results_ttl wants seconds from 1 to a year, got {self.results_ttl!r}")
        for name, task in self.tasks.items():
            taker_of(name, task)  # Raises now what would be raised when the first task comes.


class Taker:
    """Makes the envelopes of one task."""

    def __init__(self, name: str, task: CeleryTask) -> None:
        actor = cast("type[Actor] | str", task.actor)  # A function is a class, too, which type checkers are not told.
        title = title_of(actor)
        self._make = task.message
        self._names: Sequence[str] = ()
        self._wire: str | None = None
        self._called = title
        self.source = Settings(title=title).default_source
        if task.message is None and not isinstance(actor, str):
            self._names, self._wire = _parameters_of(name, actor)

    def envelope(self, task: TaskMessage, reply_to: str | None, ttl: float) -> Envelope:
        """Return the message of a task; raises `NotTaken`, what JSON cannot express, and what the function raises."""
        data, wire = self._message(task)
        headers: dict[str, Json] = {
            **task.headers,
            "celery": {
                "task": task.name,
                "root_id": task.root_id,
                "parent_id": task.parent_id,
                "retries": task.retries,
            },
        }
        if reply_to is not None:
            headers |= {REPLY_TO: reply_to, RESULT_TTL: ttl}
        return Envelope(
            self.source,
            task.id,
            data,
            wire,
            headers,
            at=task.eta,
            expires=task.expires,
            priority=priority_of(task.priority),
        )

    def _message(self, task: TaskMessage) -> tuple[bytes, str | None]:
        if self._make is not None:
            return codec.encode(self._make(list(task.args), dict(task.kwargs)))
        if len(task.args) > len(self._names):
            raise NotTaken(
                f"{self._called} takes {len(self._names)} arguments by position, got {len(task.args)}"
                if self._names
                else f"{self._called} takes arguments by name, got {len(task.args)} by position"
            )
        named = dict(zip(self._names, task.args, strict=False))
        twice = named.keys() & task.kwargs.keys()
        if twice:
            raise NotTaken(f"{self._called} got {', '.join(sorted(twice))} twice")
        return codec.dumps({**named, **task.kwargs}), self._wire


def taker_of(name: str, task: Handling | CeleryTask) -> Taker:
    """Return what makes the envelopes of a task."""
    return Taker(name, task if isinstance(task, CeleryTask) else CeleryTask(task))


def _parameters_of(name: str, actor: type[Actor]) -> tuple[Sequence[str], str | None]:
    """Return the names of the parameters of an actor's only handler, and the wire name of its message."""
    shape: inspect.Signature | None = getattr(actor, "message_shape", None)
    if shape is not None:  # A function.
        return list(shape.parameters), None
    table = handlers_of(actor)
    handlers = list(table)
    if len(handlers) != 1:
        raise SettingsError(
            f"the task {name!r} goes to {actor.__qualname__}, which has {len(handlers)} handlers: write CeleryTask("
            f"{actor.__qualname__}, message=…) with a function that makes the message"
        )
    if handlers[0].keyword_decoder is not None:
        parameters = inspect.signature(handlers[0].function).parameters.values()
        return [one.name for one in parameters if one.kind is one.KEYWORD_ONLY and one.name not in GIVEN], None
    (cls,) = table.by_class or (dict,)
    return list(codec.field_types(cls)), codec.wire_name(cls) if codec.is_message_class(cls) else None
