"""The parts of a flow: steps, groups, signals and pauses, and the shapes that are made of them.

    step(Fetcher, Fetch(url))                        a message to an actor; `.result` is its reply, once it has ended
    step(Counter, Count(text.result))                runs after `text`, and needs it to succeed
    group(steps).results                             the list of their results, in their order
    together(a, b).result                            a tuple of results of several types
    signal("approval", bool).result                  a value from outside: `run.signal("approval", True)`
    nap(60, after=[a])                               a minute's pause
    chain(a, b, c), chord(steps, Summer, Sum)        the names from Celery

`.outcome` and `.outcomes` in the place of `.result` and `.results` take `Done` or `Failed`: the step that has them runs
in either case.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Generic, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, cast, overload

import attrs

from actorwork.abc import FunctionActor
from actorwork.durations import IN_WORDS, Duration, as_seconds
from actorwork.errors import SettingsError
from actorwork.message import Json, Message, Priority, Untyped, declared_reply
from actorwork.policy.bounds import check_name, is_number
from actorwork.policy.sending import Sending
from actorwork.settings import Settings
from actorwork.workflows.holes import Hole
from actorwork.workflows.outcomes import Done, Failed
from actorwork.workflows.templates import Draft, draft_of

A = TypeVar("A")
B = TypeVar("B")
P = ParamSpec("P")
R = TypeVar("R")
R1 = TypeVar("R1")
R2 = TypeVar("R2")
R3 = TypeVar("R3")
R4 = TypeVar("R4")
R5 = TypeVar("R5")
R6 = TypeVar("R6")
R_co = TypeVar("R_co", covariant=True)

_serials = itertools.count()
DAY: Final = 86_400.0


class StepOptions(TypedDict, total=False):
    """The options of a step: those of `SendOptions` but `id`, `unique` and `durability`; its name, order and addressee.

    `after` are steps, groups or outcomes that must have ended before, though none of their results is passed on. Of
    several actors that share the source, only `group` (an actor's id) receives the message.
    """

    delay: float
    at: datetime | float | None
    expires: datetime | float | None
    priority: Priority | None
    key: str | None
    headers: Mapping[str, Json] | None
    name: str
    after: Sequence[object]
    group: str | None


@attrs.frozen(eq=False)
class MessagePart:
    """What a step sends, and where: `draft` is its message, `type` the wire name of that."""

    draft: Draft
    type: str | None
    source: str
    actor: str
    priority: Priority
    sending: Sending
    group: str | None


@attrs.frozen(eq=False)
class SignalPart:
    """A step that waits for a value from outside."""

    within: float | None


@attrs.frozen(eq=False)
class NapPart:
    """A step that waits for some seconds."""

    seconds: float


class Step(Generic[R_co]):
    """One step of a flow; made by `step`, `signal`, `nap` and `together`. It is a value: nothing is sent yet."""

    def __init__(
        self,
        part: MessagePart | SignalPart | NapPart | Group[Any],
        name: str,
        reply: Any,
        after: Sequence[object] = (),
        *,
        is_named: bool = False,
    ) -> None:
        self.part = part
        self.name = name
        self.is_named = is_named
        self.reply = reply
        if isinstance(after, (Step, Group, Hole)):
            raise TypeError(f"after wants a list of steps, groups or outcomes: write after=[…] around {after!r}")
        if isinstance(after, str) or not isinstance(after, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"after wants a list of steps, groups or outcomes, got {after!r}")
        self.after: list[Step[Any] | Group[Any] | Hole] = [_ordered(one) for one in after]
        self.undo: Step[Any] | None = None
        self.serial = next(_serials)

    def __repr__(self) -> str:
        return f"<{self.label}>"

    @property
    def label(self) -> str:
        """How errors name it."""
        return f"step {self.name!r}"

    @property
    def result(self) -> R_co:
        """What the step returns, to be passed to another step, which then needs this one to succeed."""
        return cast("R_co", Hole(self, "result"))

    @property
    def outcome(self) -> Done[R_co] | Failed:
        """How the step ends, to be passed to another step, which then runs in either case."""
        return cast("Any", Hole(self, "outcome"))

    @property
    def outcome_type(self) -> Any:
        return Any if isinstance(self.part, Group) else Done

    def then(
        self, actor: type[B], message: Callable[[R_co], Message[B, R2]], **options: Unpack[StepOptions]
    ) -> Step[R2]:
        """Return the next step: `first.then(Counter, Count)` is `step(Counter, Count(first.result))`."""
        return step(actor, message(self.result), **options)

    def holes(self) -> Iterable[Hole]:
        """Return everything that it needs."""
        if isinstance(self.part, MessagePart):
            yield from (piece for piece in self.part.draft if isinstance(piece, Hole))
        for one in self.after:
            yield one if isinstance(one, Hole) else Hole(one, "result")


class Group(Generic[R_co]):
    """Steps that run side by side; made by `group`. A group in a group gives a list in the list."""

    def __init__(self, members: Iterable[Step[Any] | Group[Any]]) -> None:
        if isinstance(members, (Step, Group)):
            raise TypeError(f"a group wants a list of steps, or of groups of them: write group([…]) around {members!r}")
        self.members = tuple(members)
        for member in self.members:
            if not isinstance(member, (Step, Group)):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"a group wants steps, or groups of them, got {member!r}{instead(member)}")
        self.serial = next(_serials)

    def __repr__(self) -> str:
        return f"<{self.label}>"

    @property
    def label(self) -> str:
        return f"the group of {len(self.members)}"

    @property
    def reply(self) -> Any:
        """The type of the list of results."""
        replies = [member.reply for member in self.members]
        return list[replies[0]] if replies and all(one == replies[0] for one in replies) else list

    @property
    def outcome_type(self) -> Any:
        return (
            list if any(isinstance(one, Group) or one.outcome_type is Any for one in self.members) else list[Done[Any]]
        )

    @property
    def results(self) -> list[R_co]:
        """What the steps return, in their order: a step that takes it needs all of them to succeed."""
        return cast("Any", Hole(self, "result"))

    @property
    def outcomes(self) -> list[Done[R_co] | Failed]:
        """How the steps end, in their order: the step that takes it runs in any case."""
        return cast("Any", Hole(self, "outcome"))

    def steps(self) -> Iterable[Step[Any]]:
        """Yield all steps, those of inner groups included."""
        for member in self.members:
            if isinstance(member, Group):
                yield from member.steps()
            else:
                yield member


@overload
def step(
    actor: type[A],
    message: Message[A, R],
    /,
    *,
    undo: Callable[[R], Step[Any]] | None = None,
    **options: Unpack[StepOptions],
) -> Step[R]: ...
@overload
def step(
    actor: type[Any] | str,
    message: Untyped,
    /,
    *,
    undo: Callable[[Any], Step[Any]] | None = None,
    **options: Unpack[StepOptions],
) -> Step[Any]: ...
@overload
def step(
    actor: FunctionActor[..., Any],
    message: Message[Any, R],
    /,
    *,
    undo: Callable[[R], Step[Any]] | None = None,
    **options: Unpack[StepOptions],
) -> Step[R]: ...
@overload
def step(actor: FunctionActor[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Step[R]: ...
def step(actor: Any, /, *args: Any, **options: Any) -> Step[Any]:
    """Return a step: a message for an actor, named by its class, or by its title if the class is in another program.

        step(Fetcher, Fetch(url))
        step(send_mail, to=user.result)              a function that `@actor` made an actor, with its arguments
        step(send_mail, send_mail.message(to="ann"), after=[user])

    With a class, the message is checked against the actor's handlers, and the results of other steps in it against the
    types of their fields. `undo` is called now, with a stand-in for the
    step's result, and returns the step that is sent if the run fails or is cancelled after this one is done. Raises
    `MessageRefused`, `CodecError` for a value that JSON cannot express, and `TypeError` or `ValueError` for results and
    options that do not fit.
    """
    function: Any = getattr(actor, "__function__", None)
    if function is not None and not (len(args) == 1 and isinstance(args[0], actor.message_class)):
        return _step(actor, actor.message(*args, **options))
    return _step(actor, *args, **options)


def _step(
    actor: type[Any] | str,
    message: Any,
    *,
    undo: Callable[[Any], Step[Any]] | None = None,
    **options: Unpack[StepOptions],
) -> Step[Any]:
    settings, reply = _addressed(actor, message)
    name = options.pop("name", None)
    after = options.pop("after", ())
    group = options.pop("group", None)
    if "id" in options or "unique" in options:
        raise TypeError("a step has no id=… or unique=…: the run gives it an id, and a step that is dropped never ends")
    if name is not None:
        check_name("name", name)
    if "durability" in options:
        raise TypeError(
            "a step has no durability=…: the run sends it when its turn comes, and no caller waits for that"
        )
    sending = Sending.of(cast("Any", options))
    priority = settings.priority if sending.priority is None else sending.priority
    draft, wire = draft_of(message)
    part = MessagePart(draft, wire, settings.default_source, settings.title, priority, sending, group)
    made: Step[Any] = Step(part, name or settings.title, reply, after, is_named=name is not None)
    if undo is not None:
        if not callable(undo):
            raise TypeError(
                "undo wants a function that takes the result and returns a step, such as lambda result: step(ACTOR,"
                f" …); got {undo!r}"
            )
        made.undo = undoing = undo(made.result)
        if not isinstance(undoing, Step) or not isinstance(undoing.part, MessagePart):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"undo wants a function that returns a step with a message, got {undoing!r}")
        if any(hole.origin is not made for hole in undoing.holes()):
            raise ValueError(f"what undoes {made.label} can be given its own result, not that of another step")
    return made


@overload
def group(steps: Iterable[Group[R]]) -> Group[list[R]]: ...
@overload
def group(steps: Iterable[Step[R]]) -> Group[R]: ...
@overload
def group(steps: Iterable[Step[Any] | Group[Any]]) -> Group[Any]: ...
def group(steps: Iterable[Any]) -> Group[Any]:
    """Return steps that run side by side, as one."""
    return Group(steps)


@overload
def together(a: Step[R1], b: Step[R2], /) -> Step[tuple[R1, R2]]: ...
@overload
def together(a: Step[R1], b: Step[R2], c: Step[R3], /) -> Step[tuple[R1, R2, R3]]: ...
@overload
def together(a: Step[R1], b: Step[R2], c: Step[R3], d: Step[R4], /) -> Step[tuple[R1, R2, R3, R4]]: ...
@overload
def together(a: Step[R1], b: Step[R2], c: Step[R3], d: Step[R4], e: Step[R5], /) -> Step[tuple[R1, R2, R3, R4, R5]]: ...
@overload
def together(
    a: Step[R1], b: Step[R2], c: Step[R3], d: Step[R4], e: Step[R5], f: Step[R6], /
) -> Step[tuple[R1, R2, R3, R4, R5, R6]]: ...
def together(*steps: Step[Any]) -> Step[Any]:
    """Return steps of several types as one, whose result is the tuple of theirs."""
    members: Group[Any] = Group(steps)
    replies = tuple(one.reply for one in steps)
    return Step(members, "together", tuple[replies] if replies else tuple)


def signal(name: str, type: type[R], *, within: Duration | None = None) -> Step[R]:
    """Return a step that waits for `run.signal(name, value)`; without one `within` that time it ends as expired."""
    check_name("the name of a signal", name)
    return Step(SignalPart(None if within is None else seconds_of("within", within)), name, type, is_named=True)


def nap(seconds: Duration, *, after: Sequence[object] = ()) -> Step[None]:
    """Return a step that ends some seconds after its turn has come."""
    return Step(NapPart(seconds_of("a nap", seconds)), "nap", None, after)


@overload
def chain(first: Step[Any] | Group[Any], /, *others: Step[R]) -> Step[R]: ...
@overload
def chain(first: Step[Any] | Group[Any], /, *others: Any) -> Step[Any]: ...
def chain(first: Any, /, *others: Any) -> Step[Any]:
    """Return the last of some steps, each of which begins when the one before has succeeded.

    An element is a step, a group, or a function that is given the result of the element before and returns a step.
    """
    before: list[Step[Any] | Group[Any]] = []
    last: Step[Any] | Group[Any] | None = None
    for element in (first, *others):
        current: Any = element
        if callable(element) and last is not None:
            current = element(last.results if isinstance(last, Group) else last.result)
        if not isinstance(current, (Step, Group)):
            raise TypeError(
                f"a chain wants steps, groups, or functions that return them, got {current!r}{instead(current)}"
            )
        last = cast("Step[Any] | Group[Any]", current)
        steps = list(last.steps()) if isinstance(last, Group) else [last]
        for one in steps:
            one.after.extend(before)
        if steps:  # What follows an empty group begins after what was before that.
            before = [last]
    if not isinstance(last, Step):
        raise TypeError("the last element of a chain wants to be a step, got a group; give its results to a step")
    return last


def chord(steps: Iterable[Step[R]], actor: type[B], body: Callable[[list[R]], Message[B, R2]]) -> Step[R2]:
    """Return the step that gets the results of all others: `chord(steps, Summer, Sum)`."""
    return step(actor, body(group(steps).results))


def chunks(values: Iterable[R], size: int) -> list[list[R]]:
    """Return values in lists of `size`, the last one shorter: for a step each."""
    if size < 1:
        raise ValueError(f"chunks wants a size of at least 1, got {size!r}")
    every = list(values)
    return [every[start : start + size] for start in range(0, len(every), size)]


class Addressee(Protocol):
    """What a step needs of an actor class."""

    settings: Settings

    @classmethod
    def __reply_type__(cls, message: object) -> Any: ...


def _addressed(actor: type[Any] | str, message: object) -> tuple[Settings, Any]:
    """Return the settings of an actor, and the type of its reply; raise what says that it does not take the message."""
    if isinstance(actor, str):
        if not actor:
            raise TypeError("a step wants the class of its actor or its title, got an empty str")
        return Settings(title=actor), declared_reply(type(message))
    settings = getattr(actor, "settings", None)
    if not isinstance(settings, Settings) or not settings.title:
        raise TypeError(f"a step wants the class of an actor, or its title, got {actor!r}")
    if isinstance(message, Hole):
        return settings, Any
    return settings, cast("Addressee", actor).__reply_type__(message)


def _ordered(one: object) -> Step[Any] | Group[Any] | Hole:
    if isinstance(one, (Step, Group, Hole)):
        return cast("Any", one)
    raise TypeError(f"after wants steps, groups or outcomes, got {one!r}{instead(one)}")


def instead(value: object) -> str:
    """Return what an error about a value that is no step says further: how a step is made of it."""
    if isinstance(value, Hole):
        return "; give the step itself, without .result or .outcome"
    if attrs.has(type(value)):
        return f"; step(ACTOR, {type(value).__name__}(…)) makes a step of a message"
    if isinstance(value, (list, tuple)):
        return "; group([…]) makes one of a list of steps"
    if callable(value):
        return "; call it, and give what it returns"
    return ""


def seconds_of(what: str, value: Duration, *, above_zero: bool = False) -> float:
    """Return a duration of a century at most in seconds; raises `SettingsError`, which names `what`."""
    seconds = as_seconds(value)
    if not is_number(seconds) or not 0 <= seconds <= 100 * 365 * DAY or (above_zero and seconds == 0):
        wanted = "more than 0 seconds" if above_zero else "seconds, at least 0"
        raise SettingsError(f"{what} wants {wanted}, a timedelta, or {IN_WORDS}, got {value!r}")
    return float(seconds)
