"""What a broker stores of a run.

    Plan        a flow, laid out: numbered steps, what each needs, and the template of the run's result
    Expansion   steps that the handler of a step adds to its group
    StepPlan    one step: the message that is sent once its needs have ended, a signal, or a pause of some seconds
    Template    the JSON of a message, cut where the results of other steps belong
    End         how a step ended
    RunInfo     a run as an operator sees it

A result travels as the JSON that was settled: templates join pieces of JSON and never decode a value.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, cast

import attrs

from actorwork.message import NO_HEADERS, Failure, Json, Outcome, Priority, Status as Status
from actorwork.records import Progress

RESULT: Final = 1_000_000_000
"""The number of a run's result, which waits for steps as they do, but is never sent.

It is behind all steps that there may ever be, since steps are added to open runs. The message that undoes step n has
the number RESULT + 1 + n.
"""
ON_ERROR: Final = 2 * RESULT + 1
"""The number of the message that is sent when the run has failed."""
FIXED: Final = -1
"""The number of a list to which nothing can be added."""
MOST_OF_EXPANSION: Final = 1000
"""How many steps, and lists of steps, one handler may add to the group of its step: one script adds them."""
MOST_FAILURES: Final = 100
"""How many failures a `RunInfo` has: callers that wait for a run look at it again and again."""
LONGEST_RUN_ID: Final = 200
"""Characters: the id of a step's message is that of its run, a slash and the number."""

Wants: TypeAlias = Literal["result", "outcome"]
Kind: TypeAlias = Literal["done", "failed", "rejected", "cancelled", "expired", "lost"]
KINDS: Final[tuple[Kind, ...]] = ("done", "failed", "rejected", "cancelled", "expired", "lost")


STATUS_OF_KIND: Final[Mapping[Kind, Status]] = {
    "done": Status.SUCCESS,
    "failed": Status.FAILURE,
    "rejected": Status.REJECTED,
    "cancelled": Status.CANCELLED,
    "expired": Status.EXPIRED,
    "lost": Status.FAILURE,
}


# ---- templates ----


@attrs.frozen
class Need:
    """The place of what another step returned (`result`), or of how it ended (`outcome`)."""

    step: int
    wants: Wants = "result"


@attrs.frozen
class Gather:
    """A JSON list of such places: the members of a group. `context.expand` appends to it, by the group's number."""

    group: int
    parts: tuple[Piece, ...]
    wants: Wants = "result"
    """What is taken of the members that are appended."""


@attrs.frozen
class Failures:
    """The place of the failures of the run, as a list: in the message that is sent when the run has failed."""


Piece: TypeAlias = "str | Need | Gather | Failures"
Template: TypeAlias = tuple[Piece, ...]


def needs_of(template: Iterable[Piece]) -> Iterator[Need]:
    """Yield every need in a template, from left to right."""
    for piece in template:
        if isinstance(piece, Need):
            yield piece
        elif isinstance(piece, Gather):
            yield from needs_of(piece.parts)


def groups_in(template: Iterable[Piece]) -> Iterator[int]:
    """Yield the numbers of all groups in a template to which members can be added."""
    for piece in template:
        if isinstance(piece, Gather):
            if piece.group != FIXED:
                yield piece.group
            yield from groups_in(piece.parts)


def grown(template: Template, added: Mapping[int, Sequence[int]]) -> Template:
    """Return a template whose groups have the members that were added to them."""
    return tuple(
        attrs.evolve(
            piece,
            parts=(*grown(piece.parts, added), *(Need(step, piece.wants) for step in added.get(piece.group, ()))),
        )
        if isinstance(piece, Gather)
        else piece
        for piece in template
    )


def _same(number: int) -> Json:
    return number


def _undo(number: int) -> Json:
    return RESULT + 1 + number


@attrs.frozen
class Numbering:
    """How steps, the messages that undo them, and groups are numbered in what is stored of a plan."""

    step: Callable[[int], Json] = _same
    undo: Callable[[int], Json] = _undo
    group: Callable[[int], Json] = _same


AS_PLANNED: Final = Numbering()


def template_row(template: Iterable[Piece], numbering: Numbering = AS_PLANNED) -> list[Json]:
    """Return a template as JSON: a str is text, `[n, "r"]` and `[n, "o"]` are needs, `["g", n, […], "r"]` is a list."""
    return [_piece_row(piece, numbering) for piece in template]


def _piece_row(piece: Piece, numbering: Numbering) -> Json:
    match piece:
        case str():
            return piece
        case Need(step=step, wants=wants):
            return [numbering.step(step), wants[0]]
        case Gather(group=group, parts=parts, wants=wants):
            number = FIXED if group == FIXED else numbering.group(group)
            return ["g", number, template_row(parts, numbering), wants[0]]
        case Failures():
            return ["f"]


def template_from(row: Sequence[Json]) -> Template:
    return tuple(_piece_from(piece) for piece in row)


def _piece_from(row: Json) -> Piece:
    if isinstance(row, str):
        return row
    parts = cast("list[Any]", row)
    if parts[0] == "g":
        return Gather(parts[1], template_from(parts[2]), _wanted(parts[3]))
    if parts[0] == "f":
        return Failures()
    return Need(parts[0], _wanted(parts[1]))


def _wanted(letter: str) -> Wants:
    return "result" if letter == "r" else "outcome"


# ---- ends ----


@attrs.frozen
class End:
    """How a step ended: `value` is JSON, if it is done; else `failure` is the reason."""

    kind: Kind
    value: str = "null"
    failure: Failure | None = None
    is_caused: bool = False
    """Whether another step's end has cancelled it: its own failure is then no failure of the run."""

    @classmethod
    def of(cls, outcome: Outcome) -> End:
        """Return the end of a step whose message had an outcome."""
        if outcome.status == "done":
            return cls("done", outcome.value.decode())
        kind: Kind = "failed" if outcome.status == "failed" else "rejected"
        if outcome.failure is not None and kind == "rejected":
            kind = _KIND_OF_FAILURE.get(outcome.failure.type, kind)
        return cls(kind, failure=outcome.failure)

    @classmethod
    def cancelled(cls, reason: str, *, is_caused: bool = False) -> End:
        return cls("cancelled", failure=Failure("Cancelled", reason), is_caused=is_caused)

    def as_result(self) -> str:
        return self.value

    def as_outcome(self, step: str) -> str:
        """Return the JSON of `Done` or `Failed`, as the receiver of an outcome reads it."""
        if self.kind == "done":
            return f'{{"value":{self.value}}}'
        return self.as_failed(step)

    def as_failed(self, step: str) -> str:
        failure = self.failure or Failure(self.kind, "")
        return json.dumps(
            {"step": step, "kind": self.kind, "error": failure.type, "reason": failure.reason},
            ensure_ascii=False,
            separators=(",", ":"),
        )


def filled(
    template: Template, ends: Mapping[int, tuple[str, End]], failures: Callable[[], Iterable[tuple[str, End]]]
) -> Iterator[str]:
    """Yield the JSON of a template with the ends of its needs in their places; each end has the name of its step."""
    for piece in template:
        match piece:
            case str():
                yield piece
            case Need(step=step, wants="result"):
                yield ends[step][1].as_result()
            case Need(step=step):
                name, end = ends[step]
                yield end.as_outcome(name)
            case Gather(parts=parts):
                yield "[" + ",".join(filled(parts, ends, failures)) + "]"
            case Failures():
                yield "[" + ",".join(end.as_failed(name) for name, end in failures()) + "]"


_KIND_OF_FAILURE: Final[Mapping[str, Kind]] = {"Expired": "expired", "Cancelled": "cancelled", "Lost": "lost"}


# ---- plans ----

StepKind: TypeAlias = Literal["message", "signal", "nap"]


@attrs.frozen(kw_only=True)
class StepPlan:
    """One step of a run.

    A `message` is sent to `source` once everything that its template and `after` need has ended; a `signal` waits for a
    value from outside, for `seconds` if given; a `nap` waits `seconds`. `type` is the wire name of a message's type, or
    the shape that the value of a signal wants (codec/shapes.py). `undo` is sent if the run fails or is cancelled after
    this step is done; the only step that its template needs is this one. `groups` are those of which it is a member.
    `delay`, `at`, `lifetime` and `expires` are as in an `Envelope`.
    """

    name: str
    kind: StepKind = "message"
    source: str = ""
    actor: str = ""
    type: str | None = None
    template: Template = ()
    after: tuple[Need | Gather, ...] = ()
    groups: tuple[int, ...] = ()
    seconds: float | None = None
    group: str | None = None
    key: str | None = None
    priority: Priority = Priority.NORMAL
    delay: float = 0.0
    at: float | None = None
    lifetime: float | None = None
    expires: float | None = None
    headers: Mapping[str, Json] = NO_HEADERS
    undo: StepPlan | None = None

    @property
    def needs(self) -> Mapping[int, Wants]:
        """What it waits for; `result` goes before `outcome` if it wants both of one step."""
        found: dict[int, Wants] = {}
        for need in needs_of((*self.template, *self.after)):
            if found.get(need.step) != "result":
                found[need.step] = need.wants
        return found


@attrs.frozen(kw_only=True)
class Heir:
    """For whom a run stands in: the message whose handler returned `context.become(…)`."""

    source: str
    id: str
    headers: Mapping[str, Json] = NO_HEADERS


@attrs.frozen(kw_only=True)
class Plan:
    """A flow with an id, as a broker stores it. `deadline` and `results_ttl` are in seconds."""

    id: str
    home: str
    steps: tuple[StepPlan, ...]
    result: Template
    title: str = ""
    results_ttl: float = 86_400.0
    deadline: float | None = None
    holds: bool = False
    on_error: StepPlan | None = None
    heir: Heir | None = None
    ahead: str | None = None
    """The name under which a broker has kept its steps already (`abc.Node.keep_ahead`)."""

    @property
    def needs_of_result(self) -> Mapping[int, Wants]:
        return StepPlan(name="", template=self.result).needs

    def dependents(self) -> Mapping[int, Sequence[Dependent]]:
        """Return for every step which others wait for it, and for what; `RESULT` is among them."""
        return _dependents((*enumerate(self.steps), (RESULT, StepPlan(name="", template=self.result))), self.steps)


@attrs.frozen(kw_only=True)
class Expansion:
    """Steps that the handler of step `step` adds to the run: numbered from 0, as are their groups.

    `members` are those that join the groups of which `step` is a member; the others are what these need.
    """

    home: str
    run: str
    step: int
    steps: tuple[StepPlan, ...]
    members: tuple[int, ...]

    def dependents(self) -> Mapping[int, Sequence[Dependent]]:
        """Return which of the new steps wait for which others."""
        return _dependents(tuple(enumerate(self.steps)), self.steps)


@attrs.frozen
class Dependent:
    """A step that waits for another one; `is_gathering`, as a member of a group: then for all that are added to it."""

    step: int
    wants: Wants
    is_gathering: bool = False


def _dependents(
    waiting: Sequence[tuple[int, StepPlan]], steps: Sequence[StepPlan]
) -> Mapping[int, Sequence[Dependent]]:
    found: dict[int, list[Dependent]] = {}
    for number, plan in waiting:
        gathered = frozenset(groups_in((*plan.template, *plan.after)))
        for step, wants in plan.needs.items():
            dependent = Dependent(number, wants, not gathered.isdisjoint(steps[step].groups))
            found.setdefault(step, []).append(dependent)
    return found


def number_of_group(first: int, group: int) -> int:
    """Return the number in a run of a group that came with an expansion whose first step has the number `first`."""
    return RESULT + first * MOST_OF_EXPANSION + group


def step_row(step: StepPlan, numbering: Numbering = AS_PLANNED) -> dict[str, Json]:
    """Return a step as JSON, without defaults."""
    row: dict[str, Any] = {"name": step.name}
    for field in attrs.fields(StepPlan):
        value = getattr(step, field.name)
        if field.name != "name" and value != field.default:
            row[field.name] = value
    if step.template:
        row["template"] = template_row(step.template, numbering)
    if step.after:
        row["after"] = template_row(step.after, numbering)
    if step.groups:
        row["groups"] = [numbering.group(group) for group in step.groups]
    if step.headers:
        row["headers"] = dict(step.headers)
    if step.undo is not None:
        row["undo"] = step_row(step.undo, numbering)
    if "priority" in row:
        row["priority"] = int(step.priority)
    return row


def step_from(row: Mapping[str, Any]) -> StepPlan:
    values = dict(row)
    values["template"] = template_from(values.get("template", ()))
    values["after"] = template_from(values.get("after", ()))
    values["groups"] = tuple(values.get("groups", ()))
    if "priority" in values:
        values["priority"] = Priority(values["priority"])
    if "undo" in values:
        values["undo"] = step_from(values["undo"])
    return StepPlan(**values)


def step_header(home: str, run: str, number: Json) -> str:
    """Return the value of the header `FLOW`."""
    return f"{home}/{run}/{number}"


def read_step_header(value: object) -> tuple[str, str, int] | None:
    """Return home, run and number of the step that a message says it is; None if it says nothing readable."""
    if not isinstance(value, str):
        return None
    parts = value.split("/")
    if len(parts) != 3 or not parts[2].isdecimal():
        return None
    return parts[0], parts[1], int(parts[2])


def message_id(run: str, number: int, attempt: int = 0) -> str:
    """Return the id of a step's message; a step that `retry` sends again gets another one each time."""
    return f"{run}/{number}.{attempt}" if attempt else f"{run}/{number}"


# ---- what is read back ----


@attrs.frozen(kw_only=True)
class StepInfo:
    """One step of a run as it is now."""

    number: int
    name: str
    kind: StepKind
    status: Status
    needs: tuple[int, ...] = ()
    actor: str = ""
    source: str = ""
    message: str = ""
    """The id of its message, once it is sent."""
    end: End | None = None
    progress: Progress | None = None
    """How far its handler is, as it has reported."""

    @property
    def is_on_its_way(self) -> bool:
        """Whether its message is sent and has not ended."""
        return bool(self.message) and self.end is None


def lived(steps: Iterable[StepInfo], lives: Mapping[str, tuple[str, str | None]]) -> list[StepInfo]:
    """Return steps with the status and the progress of their messages, given as JSON by the messages' ids."""
    found: list[StepInfo] = []
    for step in steps:
        life = lives.get(step.message) if step.is_on_its_way else None
        if life is not None:
            progress = Progress(**json.loads(life[1])) if life[1] else None
            step = attrs.evolve(step, status=Status(life[0]), progress=progress)  # noqa: PLW2901 - the same step
        found.append(step)
    return found


@attrs.frozen(kw_only=True)
class RunInfo:
    """A run as it is now; times in seconds since the epoch, by the broker's clock."""

    id: str
    title: str = ""
    status: Status = Status.UNKNOWN
    reason: str = ""
    done: int = 0
    total: int = 0
    waits_for: tuple[str, ...] = ()
    """The signals that it waits for."""
    started: float = 0.0
    finished: float | None = None
    result: str | None = None
    """The JSON of its result, if it has succeeded."""
    failures: tuple[tuple[str, End], ...] = ()
    """The steps that have failed, with their ends: the first hundred. `run.steps()` has all."""
    late_ends: int = 0
    """How many ends changed nothing, since their step, or the run, had ended before: of a handler that returns although
    its run was cancelled, for example. That a message was cancelled is not counted."""
