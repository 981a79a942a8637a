"""A flow is a value: what is wrong with it is an error while it is built, before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest

from actorwork import Message, MessageRefused, Priority
from actorwork.policy.runs.values import RESULT as LAST, Gather, Need, StepPlan, read_step_header
from actorwork.workflows import (
    Done,
    Failed,
    Flow,
    NotYetKnown,
    Step,
    chain,
    chord,
    chunks,
    group,
    nap,
    signal,
    step,
    together,
)
from tests.workflows.shop import Calculator, Clerk, Look, Note, Square, Sum, Text


def plan_of(flow: Any) -> Any:
    return (flow if isinstance(flow, Flow) else Flow(flow)).plan("run")


def test_steps_are_named_after_their_actors_and_numbered_where_there_are_several() -> None:
    named = step(Calculator, Square(3), name="third")
    last = step(Clerk, Note(group([step(Calculator, Square(1)), step(Calculator, Square(2)), named]).results))
    assert [one.name for one in plan_of(last).steps] == ["third", "calculator 1", "calculator 2", "clerk"]


def test_two_steps_of_one_name_are_refused() -> None:
    twins = [step(Calculator, Square(1), name="twin") for _ in range(2)]
    with pytest.raises(ValueError, match="want to be different, got 'twin' for 2"):
        plan_of(group(twins))


def test_a_step_carries_the_options_of_its_message_and_of_its_actor() -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)
    made = step(Clerk, Note("x"), at=at, expires=60, key="k", priority=Priority.HIGH, headers={"a": 1}, group="g")
    (plan,) = plan_of(made).steps
    assert plan == StepPlan(
        name="clerk",
        source=Clerk.settings.default_source,
        actor="clerk",
        type="Note",
        template=('{"text":"x"}',),
        group="g",
        key="k",
        priority=Priority.HIGH,
        at=at.timestamp(),
        lifetime=60.0,
        headers={"a": 1},
    )


@pytest.mark.parametrize("name", ["id", "unique"])
def test_a_step_has_no_id_and_no_unique_key(name: str) -> None:
    with pytest.raises(TypeError, match=r"a step has no id=… or unique=…"):
        step(Clerk, Note("x"), **{name: "y"})  # type: ignore[arg-type]


def test_a_message_that_the_actor_does_not_take_is_refused() -> None:
    with pytest.raises(MessageRefused, match="Clerk takes"):
        step(Clerk, Square(1))  # type: ignore[call-overload]


@pytest.mark.parametrize("actor", [int, "", None])
def test_a_step_wants_an_actor(actor: Any) -> None:
    with pytest.raises(TypeError, match=r"wants the class of (its|an) actor"):
        step(actor, Square(1))


def test_an_actor_of_another_program_is_named_by_its_title() -> None:
    (plan,) = plan_of(step("clerk", {"text": "x"})).steps
    assert (plan.source, plan.actor, plan.template) == (Clerk.settings.default_source, "clerk", ('{"text":"x"}',))


# ---- what is not there yet ----

NOTHING: list[Step[int]] = []
EMPTY: Any = group(NOTHING)

USES: dict[str, Callable[[Any], object]] = {
    "truth": bool,
    "comparison": lambda hole: hole == 1,
    "order": lambda hole: hole < 1,
    "length": len,
    "number": int,
    "sum": lambda hole: hole + 1,
    "text": str,
    "formatting": lambda hole: f"{hole}",
    "element": lambda hole: hole[0],
    "iteration": list,
    "containment": lambda hole: 1 in hole,
    "attribute": lambda hole: hole.upper,
    "call": lambda hole: hole(),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_a_result_can_only_be_passed_on(use: Any) -> None:
    first = step(Calculator, Square(1), name="first")
    with pytest.raises(NotYetKnown, match="the result of step 'first' is known when the step has ended: pass it on"):
        use(first.result)


def test_a_result_that_is_not_there_yet_can_be_looked_at() -> None:
    first = step(Calculator, Square(1), name="first")
    assert repr(first.result) == "<the result of step 'first'>"
    assert repr(group([first]).outcomes) == "<the outcome of the group of 1>"
    assert repr(first) == "<step 'first'>"


def test_a_result_goes_into_a_field_or_into_a_list_in_a_field() -> None:
    first, second = step(Calculator, Square(1)), step(Calculator, Square(2))
    last = step(Calculator, Sum([first.result, 7, second.result]))
    assert plan_of(last).steps[2].template == (
        '{"numbers":[',
        Need(0, "result"),
        ",7,",
        Need(1, "result"),
        "]}",
    )
    whole = step(Calculator, Text(first.outcome))
    assert plan_of(whole).steps[1].template == ('{"value":', Need(0, "outcome"), "}")


def test_a_group_is_a_list_of_the_same_shape() -> None:
    inner, empty = group([step(Calculator, Square(1))]), group(NOTHING)
    last = step(Calculator, Text(group([inner, empty]).results))
    (gathered,) = [one for one in plan_of(last).steps[-1].template if isinstance(one, Gather)]
    assert gathered.parts == (Gather(1, (Need(0, "result"),)), Gather(2, ()))


def test_a_result_that_is_deeper_in_a_message_is_refused() -> None:
    first = step(Calculator, Square(1))
    with pytest.raises(
        TypeError, match=r"Text\.value: the result of a step belongs into a field of the message itself"
    ):
        step(Calculator, Text({"deep": {"deeper": first.result}}))


@attrs.frozen
class Checked(Message["Calculator", int]):
    number: int = attrs.field(validator=attrs.validators.gt(0))


def test_a_field_that_looks_at_its_value_cannot_take_a_result() -> None:
    first = step(Calculator, Square(1), name="first")
    with pytest.raises(NotYetKnown, match="'first'"):
        Checked(first.result)


def test_a_result_of_another_type_than_its_field_is_refused() -> None:
    note = step(Clerk, Note("x"), name="note")
    with pytest.raises(TypeError, match=r"Square\.number wants int, but step 'note' returns str"):
        step(Calculator, Square(note.result))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Sum\.numbers wants list\[int\], but the group of 1 returns list\[str\]"):
        step(Calculator, Sum(group([note]).results))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Sum\.numbers\[0\] wants int, but step 'note' returns str"):
        step(Calculator, Sum([note.result]))  # type: ignore[list-item]


def test_an_outcome_where_a_result_is_wanted_is_refused() -> None:
    first: Any = step(Calculator, Square(1), name="first")
    both: Any = group([first])
    with pytest.raises(TypeError, match=r"Square\.number wants int, but an outcome of step 'first' is Done or Failed"):
        step(Calculator, Square(first.outcome))
    with pytest.raises(TypeError, match=r"Sum\.numbers wants list\[int\], but an outcome of the group of 1 is Done or"):
        step(Calculator, Sum(both.outcomes))
    assert step(Calculator, Look(both.outcomes))


def test_a_message_is_what_it_was_when_its_step_was_built() -> None:
    message = {"number": 1}
    built = step("calculator", message)
    message["number"] = 2
    assert plan_of(built).steps[0].template == ('{"number":1}',)


# ---- order ----


def test_steps_that_wait_for_each_other_are_refused() -> None:
    one, two = step(Clerk, Note("1"), name="one"), step(Clerk, Note("2"), name="two")
    chain(one, two)
    chain(two, one)
    with pytest.raises(ValueError, match="these steps wait for each other and would never begin: one, two"):
        plan_of(one)


def test_everything_that_the_last_step_needs_belongs_to_the_flow() -> None:
    first, side = step(Clerk, Note("first")), step(Clerk, Note("side"))
    last = step(Calculator, Square(2), after=[first, group([side])])
    plan = plan_of(last)
    assert [one.after for one in plan.steps] == [(), (), (Need(0), Gather(0, (Need(1),)))]
    waiting = {number: [(one.step, one.wants) for one in found] for number, found in plan.dependents().items()}
    assert waiting == {0: [(2, "result")], 1: [(2, "result")], 2: [(LAST, "result")]}


def test_after_an_outcome_a_step_begins_in_any_case() -> None:
    first = step(Clerk, Note("first"))
    plan = plan_of(step(Calculator, Square(2), after=[first.outcome]))
    assert plan.steps[1].after == (Need(0, "outcome"),)


def test_the_home_of_a_run_is_the_source_of_most_of_its_steps() -> None:
    plan = plan_of(step(Clerk, Note(group([step(Calculator, Square(1)), step(Calculator, Square(2))]).results)))
    assert plan.home == Calculator.settings.default_source


def test_a_long_chain_is_laid_out_without_recursion() -> None:
    last: Step[Any] = step(Calculator, Square(1))
    for _ in range(3000):
        last = last.then(Calculator, Text)
    assert len(plan_of(last).steps) == 3001


# ---- bad input ----


def chain_of_nothing() -> None:
    chain(EMPTY, EMPTY)


NUMBER: Any = 1
RESULT: Any = step(Clerk, Note(1)).result

WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "a flow of nothing": (lambda: Flow(3), TypeError, "a flow wants its last step, or a group"),  # type: ignore[call-overload]
    "a flow without messages": (lambda: plan_of(nap(1)), ValueError, "at least one step with a message"),
    "a group of numbers": (lambda: group([1]), TypeError, "a group wants steps"),  # type: ignore[list-item]
    "a flow of a message": (lambda: Flow(Note(1)), TypeError, r"; step\(ACTOR, Note\(…\)\) makes a step of a message"),  # type: ignore[call-overload]
    "a flow of a list": (lambda: Flow([step(Clerk, Note(1))]), TypeError, r"; group\(\[…\]\) makes one of a list"),  # type: ignore[call-overload]
    "a flow of a function": (lambda: Flow(chain_of_nothing), TypeError, "; call it, and give what it returns"),  # type: ignore[call-overload]
    "a flow of a result": (lambda: Flow(RESULT), TypeError, r"; give the step itself, without \.result"),
    "also one step": (lambda: Flow(nap(1), also=nap(2)), TypeError, r"write also=\[…\] around <step 'nap'>"),  # type: ignore[call-overload]
    "also a number": (lambda: Flow(nap(1), also=[2]), TypeError, "also wants steps, or groups of them, got 2"),  # type: ignore[call-overload, list-item]
    "a step as on_error": (lambda: Flow(nap(1), on_error=nap(2)), TypeError, "such as lambda failures: .*got <step"),  # type: ignore[call-overload]
    "a group of one step": (lambda: group(nap(1)), TypeError, r"write group\(\[…\]\) around <step 'nap'>"),  # type: ignore[call-overload]
    "after one step": (lambda: nap(1, after=nap(2)), TypeError, r"write after=\[…\] around <step 'nap'>"),  # type: ignore[arg-type]
    "a group of messages": (lambda: group([Note(1)]), TypeError, r"; step\(ACTOR, Note\(…\)\) makes a step"),  # type: ignore[list-item]
    "a chain of numbers": (lambda: chain(1), TypeError, "a chain wants steps"),  # type: ignore[call-overload]
    "a chain that ends in a group": (chain_of_nothing, TypeError, "wants to be a step, got a group"),
    "after just a number": (lambda: nap(1, after=NUMBER), TypeError, "after wants a list of steps, .*outcomes, got 1"),
    "a step as undo": (
        lambda: step(Clerk, Note(1), undo=step(Clerk, Note(2))),  # type: ignore[call-overload, arg-type]
        TypeError,
        "undo wants a function that takes the result and returns a step, .*got <step",
    ),
    "after a number": (lambda: nap(1, after=[1]), TypeError, "after wants steps, groups or outcomes, got 1"),
    "a nap of -1": (lambda: nap(-1), ValueError, "a nap wants seconds"),
    "a signal without a name": (lambda: signal("", int), ValueError, "the name of a signal"),
    "a deadline of 0": (lambda: Flow(nap(1), deadline=0), ValueError, "deadline wants more than 0 seconds"),
    "chunks of 0": (lambda: chunks([1], 0), ValueError, "chunks wants a size"),
    "undo of nothing": (lambda: step(Clerk, Note(1), undo=lambda _: None), TypeError, "undo wants a function"),  # type: ignore[call-overload, arg-type, return-value]
    "on_error of nothing": (lambda: Flow(nap(1), on_error=lambda _: None), TypeError, "on_error wants a function"),  # type: ignore[call-overload, arg-type, return-value]
    "a run id with a slash": (lambda: Flow(step(Clerk, Note(1))).plan("a/b"), ValueError, "none of them a slash"),
    "a run id with a quote": (lambda: Flow(step(Clerk, Note(1))).plan('a"b'), ValueError, "none of them a slash"),
    "an empty run id": (lambda: Flow(step(Clerk, Note(1))).plan(""), ValueError, "the id of a run wants 1 to"),
}


@pytest.mark.parametrize(("build", "error", "text"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_said(build: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        build()


def test_what_undoes_a_step_is_given_its_own_result_only() -> None:
    other = step(Clerk, Note("other"))
    with pytest.raises(ValueError, match="can be given its own result"):
        step(Clerk, Note("x"), undo=lambda _: step(Clerk, Note(other.result)))
    with pytest.raises(ValueError, match="can be given the failures"):
        Flow(other, on_error=lambda _: step(Clerk, Note(other.result)))


def test_times_are_seconds_or_a_timedelta() -> None:
    flow = Flow(step(Clerk, Note(1)), deadline=timedelta(minutes=1), results_ttl=timedelta(hours=1))
    assert (flow.deadline, flow.results_ttl) == (60.0, 3600.0)
    assert plan_of(Flow(group([nap(timedelta(seconds=2)), step(Clerk, Note(1))]))).steps[0].seconds == 2.0


def test_values_are_cut_into_lists_of_a_size() -> None:
    assert chunks(range(5), 2) == [[0, 1], [2, 3], [4]]
    assert chunks([], 2) == []


def test_the_type_of_a_whole_is_known() -> None:
    assert Flow(group([step(Calculator, Square(1))])).reply == list[int]
    assert Flow(together(step(Calculator, Square(1)), step(Clerk, Note("x")))).reply == tuple[int, str]
    assert Flow(chord([step(Calculator, Square(1))], Calculator, Sum)).reply is int


def test_how_a_step_ended_is_a_value() -> None:
    assert Done(3).value == 3
    assert Failed("a", "lost", "Lost", "").kind == "lost"


@pytest.mark.parametrize("header", [None, 3, "", "a/b", "a/b/c", "a/b/1/2", "a/b/-1"])
def test_a_header_that_names_no_step_is_none(header: object) -> None:
    assert read_step_header(header) is None
