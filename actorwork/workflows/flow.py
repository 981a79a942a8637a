"""A flow: the last step, and with it everything that it needs. It is laid out as the plan that a broker stores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar, cast, overload

from actorwork.durations import Duration
from actorwork.message import GROUP, NO_HEADERS, Json, Priority
from actorwork.policy.bounds import check_name
from actorwork.policy.runs.values import (
    FIXED,
    LONGEST_RUN_ID,
    MOST_OF_EXPANSION,
    Expansion,
    Failures,
    Gather,
    Need,
    Piece,
    Plan,
    StepPlan,
    Wants,
)
from actorwork.workflows.holes import Hole
from actorwork.workflows.outcomes import Failed
from actorwork.workflows.steps import DAY, Group, MessagePart, NapPart, SignalPart, Step, instead, seconds_of
from actorwork.workflows.templates import filled, type_name

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

NO_SOURCE: Final = "workflows"
"""The home of a run that sends no message."""
LONGEST_TYPE: Final = 200
"""Characters: a longer name of a type is not put into the header of a member."""


class Flow(Generic[R_co]):
    """A workflow, to be started by `client.start` or `context.start`; nothing is sent before.

    Everything that `last` needs belongs to it, and the steps of `also` with what they need. Its result is that of
    `last`; of a group, the list of results. Durations are seconds, a `timedelta`, or text such as "30s".

    `deadline`: after this time the run fails, and what has not ended is cancelled. `hold_on_failure`: a failed step
    does not end the run, which waits to be retried. `on_error` is called now, with a stand-in for the list of failures,
    and returns the step that is sent if the run fails. `results_ttl`: for how long results are kept after the end.
    """

    @overload
    def __init__(
        self: Flow[list[R]],
        last: Group[R],
        /,
        *,
        also: Sequence[Step[Any] | Group[Any]] = (),
        title: str = "",
        deadline: Duration | None = None,
        hold_on_failure: bool = False,
        results_ttl: Duration | None = None,
        on_error: Callable[[list[Failed]], Step[Any]] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: Flow[R],
        last: Step[R],
        /,
        *,
        also: Sequence[Step[Any] | Group[Any]] = (),
        title: str = "",
        deadline: Duration | None = None,
        hold_on_failure: bool = False,
        results_ttl: Duration | None = None,
        on_error: Callable[[list[Failed]], Step[Any]] | None = None,
    ) -> None: ...
    def __init__(
        self,
        last: Any,
        /,
        *,
        also: Sequence[Step[Any] | Group[Any]] = (),
        title: str = "",
        deadline: Duration | None = None,
        hold_on_failure: bool = False,
        results_ttl: Duration | None = None,
        on_error: Callable[[list[Failed]], Step[Any]] | None = None,
    ) -> None:
        if not isinstance(last, (Step, Group)):
            raise TypeError(f"a flow wants its last step, or a group of steps, got {last!r}{instead(last)}")
        if isinstance(also, (Step, Group)):
            raise TypeError(f"also wants a list of steps, or groups of them: write also=[…] around {also!r}")
        self.last: Step[Any] | Group[Any] = last
        self.also = tuple(also)
        for one in self.also:
            if not isinstance(one, (Step, Group)):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"also wants steps, or groups of them, got {one!r}{instead(one)}")
        self.title = title
        self.deadline = None if deadline is None else seconds_of("deadline", deadline, above_zero=True)
        self.hold_on_failure = hold_on_failure
        self.results_ttl = DAY if results_ttl is None else seconds_of("results_ttl", results_ttl, above_zero=True)
        self.on_error: Step[Any] | None = None
        if on_error is not None:
            if not callable(on_error):
                raise TypeError(
                    "on_error wants a function that takes the failures and returns a step, "
                    f"such as lambda failures: step(ACTOR, failures); got {on_error!r}"
                )
            self.on_error = failing = on_error(cast("list[Failed]", Hole(None, "result")))
            if not isinstance(failing, Step) or not isinstance(failing.part, MessagePart):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"on_error wants a function that returns a step with a message, got {failing!r}")
            if any(hole.origin is not None for hole in failing.holes()):
                raise ValueError("what on_error sends can be given the failures, not the result of a step")

    def __repr__(self) -> str:
        return f"<Flow {self.title!r} to {self.last!r}>"

    @property
    def reply(self) -> Any:
        """The type of the result."""
        return self.last.reply

    def plan(self, id: str, headers: Mapping[str, Json] = NO_HEADERS) -> Plan:
        """Lay the flow out under the id of a run; all steps get `headers`, which their own ones precede.

        Raises `ValueError` for steps that wait for each other.
        """
        check_run_id(id)
        return _plan_of(self, id, headers)


def flow_of(flow: Flow[R] | Step[R] | Group[Any]) -> Flow[Any]:
    """Return a flow; of a step or a group, the flow that ends with it."""
    return flow if isinstance(flow, Flow) else Flow(cast("Step[Any]", flow))


def check_run_id(id: str) -> None:
    """Raise `TypeError` or `ValueError` if a run cannot have this id."""
    check_name("the id of a run", id)
    if len(id) > LONGEST_RUN_ID or any(one in '/"\\' or not one.isprintable() for one in id):
        raise ValueError(
            f"the id of a run wants at most {LONGEST_RUN_ID} characters, none of them a slash, a backslash, a quotation"
            f" mark or a control character, got {id!r}"
        )


def _plan_of(flow: Flow[Any], id: str, headers: Mapping[str, Json]) -> Plan:
    layout = _Layout((flow.last, *flow.also), headers)
    steps = layout.plans(_names(layout.steps))
    sources = Counter(step.source for step in steps if step.source)
    if steps and not sources:
        raise ValueError("a flow wants at least one step with a message: nothing would look after the others")
    return Plan(
        id=id,
        home=sources.most_common(1)[0][0] if sources else NO_SOURCE,
        steps=steps,
        result=(layout.piece(flow.last, "result"),),
        title=flow.title,
        results_ttl=flow.results_ttl,
        deadline=flow.deadline,
        holds=flow.hold_on_failure,
        on_error=None if flow.on_error is None else layout.plan(flow.on_error, flow.on_error.name),
    )


def expansion_of(
    members: Sequence[Step[Any]], step: tuple[str, str, int], results: str, headers: Mapping[str, Json] = NO_HEADERS
) -> Expansion:
    """Lay steps out that are added to the group of a step, which is given as home, run and number.

    `results` is the type of the group's results, as in its members' header. Raises `TypeError` or `ValueError` for what
    cannot be added.
    """
    home, run, number = step
    for one in members:
        if not isinstance(one, Step) or not isinstance(one.part, MessagePart):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"expand wants steps with messages, as members of the group, got {one!r}{instead(one)}")
    if len({id(one) for one in members}) < len(members):
        raise ValueError("expand wants each step once")
    layout = _Layout(members, headers)
    if any(isinstance(one.part, SignalPart) for one in layout.steps):
        raise TypeError("what is added to a group cannot wait for a signal; one of the flow's own steps can")
    if max(len(layout.steps), layout.groups) > MOST_OF_EXPANSION:
        raise ValueError(
            f"expand adds at most {MOST_OF_EXPANSION:,} steps, those that the new members need included, and as many"
            f" groups; got {len(layout.steps):,}: let the new members add the others"
        )
    names = [one.name if one.is_named else f"{one.name} {number}.{n}" for n, one in enumerate(layout.steps, 1)]
    layout.join(members, results)
    numbers = tuple(layout.numbers[id(one)] for one in members)
    return Expansion(home=home, run=run, step=number, steps=layout.plans(names), members=numbers)


class _Layout:
    """Numbers the steps that some need, with their groups, and turns each into what a broker stores."""

    def __init__(self, ends: Iterable[object], headers: Mapping[str, Json]) -> None:
        ends = tuple(ends)
        self._shared = headers
        self.steps = _everything(ends)
        self.numbers = {id(step): number for number, step in enumerate(self.steps)}
        self._groups: dict[int, int] = {}
        self._member_of: dict[int, list[int]] = {}
        self._results: dict[int, set[str]] = {}
        """The types of the results of the groups of a step."""
        for end in (*ends, *(hole.origin for step in self.steps for hole in step.holes())):
            self._enter(end)

    @property
    def groups(self) -> int:
        return len(self._groups)

    def _enter(self, origin: object) -> None:
        """Number a group, and those in it, to which members can be added; what `together` makes has its length."""
        members = _members(origin)
        if members is None or id(origin) in self._groups:
            return
        if isinstance(origin, Group):
            number = self._groups[id(cast("object", origin))] = len(self._groups)
            replies = [member.reply for member in members] or [Any]
            is_known = replies[0] not in (Any, object) and all(reply == replies[0] for reply in replies)
            results = type_name(replies[0]) if is_known else ""
            for member in members:
                if _members(member) is None:
                    self._member_of.setdefault(id(member), []).append(number)
                    self.join([cast("Step[Any]", member)], results)
        for member in members:
            self._enter(member)

    def join(self, steps: Iterable[Step[Any]], results: str) -> None:
        """Note that steps are members of a group with results of this type."""
        for step in steps:
            self._results.setdefault(id(step), set()).add(results)

    def plans(self, names: Iterable[str]) -> tuple[StepPlan, ...]:
        return tuple(self.plan(step, name) for step, name in zip(self.steps, names, strict=True))

    def plan(self, step: Step[Any], name: str) -> StepPlan:
        after = tuple(self._need(one) for one in step.after)
        match step.part:
            case SignalPart(within=within):
                from actorwork.codec.shapes import shape_of  # noqa: PLC0415 - most flows ask for no signals

                shape = shape_of(step.reply)
                wants = None if shape is None else shape.decode()
                return StepPlan(name=name, kind="signal", after=after, seconds=within, type=wants)
            case NapPart(seconds=seconds):
                return StepPlan(name=name, kind="nap", after=after, seconds=seconds)
            case MessagePart() as part:
                # Its moments and its headers are checked and converted as those of a message that is sent now.
                envelope = part.sending.envelope(part.source, name, b"", part.type)
                groups = tuple(dict.fromkeys(self._member_of.get(id(step), ())))
                return StepPlan(
                    name=name,
                    source=part.source,
                    actor=part.actor,
                    type=part.type,
                    template=filled(part.draft, self._fill),
                    after=after,
                    groups=groups,
                    group=part.group,
                    key=envelope.key,
                    priority=Priority(part.priority),
                    delay=envelope.delay,
                    at=envelope.at,
                    lifetime=envelope.lifetime,
                    expires=envelope.expires,
                    headers=self._headers(step, envelope.headers),
                    undo=None if step.undo is None else self.plan(step.undo, f"undo {name}"),
                )
            case group:
                raise TypeError(f"{group!r} has no message of its own")

    def _headers(self, step: Step[Any], headers: Mapping[str, Json]) -> Mapping[str, Json]:
        """Return the headers of a step: its own, those of all steps, and in a group the type of its results."""
        if self._shared:
            headers = {**self._shared, **headers}
        results = self._results.get(id(step))
        if results is None:
            return headers
        found = next(iter(results)) if len(results) == 1 else ""
        return {**headers, GROUP: found if len(found) <= LONGEST_TYPE else ""}

    def _fill(self, hole: Hole) -> Piece:
        return Failures() if hole.origin is None else self.piece(hole.origin, hole.wants)

    def piece(self, origin: object, wants: Wants) -> Need | Gather:
        members = _members(origin)
        if members is None:
            return Need(self.numbers[id(origin)], wants)
        return Gather(
            self._groups.get(id(origin), FIXED), tuple(self.piece(member, wants) for member in members), wants
        )

    def _need(self, one: Step[Any] | Group[Any] | Hole) -> Need | Gather:
        return self.piece(one.origin, one.wants) if isinstance(one, Hole) else self.piece(one, "result")


def _members(origin: object) -> tuple[Step[Any] | Group[Any], ...] | None:
    """Return the members of a group, or of what `together` made; None for a step of its own."""
    if isinstance(origin, Step) and isinstance(origin.part, Group):
        origin = cast("Step[Any]", origin).part
    return cast("Group[Any]", origin).members if isinstance(origin, Group) else None


def _expanded(origin: object) -> Iterable[Step[Any]]:
    """Yield the steps with a message, a signal or a time that something consists of."""
    members = _members(origin)
    if members is None:
        yield cast("Step[Any]", origin)
        return
    for member in members:
        yield from _expanded(member)


def _everything(ends: Iterable[object]) -> list[Step[Any]]:
    """Return all steps that some need, in the order in which they were made; without recursion: chains are long."""
    found: dict[int, Step[Any]] = {}
    todo = [step for end in ends for step in _expanded(end)]
    while todo:
        step = todo.pop()
        if id(step) in found:
            continue
        found[id(step)] = step
        todo += _before(step)
    steps = sorted(found.values(), key=lambda step: step.serial)
    _refuse_circles(steps)
    return steps


def _before(step: Step[Any]) -> list[Step[Any]]:
    return [one for hole in step.holes() if hole.origin is not None for one in _expanded(hole.origin)]


def _refuse_circles(steps: Sequence[Step[Any]]) -> None:
    """Raise `ValueError` if steps wait for each other, which only `after` can bring about."""
    before = {id(step): {id(one) for one in _before(step)} for step in steps}
    free = [one for one, needs in before.items() if not needs]
    after: dict[int, list[int]] = {}
    for one, needs in before.items():
        for need in needs:
            after.setdefault(need, []).append(one)
    while free:
        done = free.pop()
        before.pop(done, None)
        for one in after.get(done, ()):
            before[one].discard(done)
            if not before[one]:
                free.append(one)
    if before:
        names = sorted(step.name for step in steps if id(step) in before)
        raise ValueError(f"these steps wait for each other and would never begin: {', '.join(names[:10])}")


def _names(steps: Sequence[Step[Any]]) -> list[str]:
    """Return a name for each step: its own, or that of its actor with a number if there are several."""
    given = Counter(step.name for step in steps if step.is_named)
    twice = [name for name, count in given.items() if count > 1]
    if twice:
        raise ValueError(f"the names of steps want to be different, got {twice[0]!r} for {given[twice[0]]} of them")
    alike = Counter(step.name for step in steps if not step.is_named)
    seen: Counter[str] = Counter()
    names: list[str] = []
    for step in steps:
        name = step.name
        if not step.is_named:
            seen[name] += 1
            name = f"{name} {seen[name]}" if alike[name] > 1 or name in given else name
        names.append(name)
    return names
