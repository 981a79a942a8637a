"""Runs of workflows at every broker: each step once, joins once, and every kind of end counts."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from actorwork import AskTimeout, Delivery, MessageFailed
from actorwork.clients.runs import Run
from actorwork.errors import CodecError
from actorwork.message import FLOW, Envelope
from actorwork.workflows import (
    Flow,
    RunInfo,
    Status,
    Step,
    chain,
    chord,
    group,
    nap,
    signal,
    step,
    together,
)
from tests.patience import PATIENCE
from tests.workflows.conftest import OpenStage
from tests.workflows.shop import (
    Alarm,
    Begin,
    Calculator,
    Clerk,
    Flaky,
    Look,
    Note,
    Square,
    Sum,
    SumOfSquares,
    Text,
    Undo,
    Wait,
)


def squares(*numbers: int) -> list[Any]:
    return [step(Calculator, Square(number)) for number in numbers]


def text_of(value: Any) -> Step[str]:
    return step(Calculator, Text(value))


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    with trio.fail_after(PATIENCE):
        while not await condition():  # noqa: ASYNC110 - the broker is another process, perhaps
            await trio.sleep(0.01)


# ---- shapes ----


async def test_a_chord_without_members_sends_its_body_an_empty_list(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():
        run = await stage.client.start(chord([], Calculator, Sum))
        assert await run.result() == 0
        assert await run.status() is Status.SUCCESS


async def test_a_chord_of_one_member_gives_a_list_of_one(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():
        run = await stage.client.start(step(Calculator, Text(group(squares(4)).results)))
        assert await run.result() == [16]


async def test_results_come_in_the_order_in_which_members_were_named(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():
        members = [step(Calculator, Wait(0.1)), *squares(2, 3)]
        run = await stage.client.start(step(Calculator, Text(group(members).results)))
        assert await run.result() == [1, 4, 9]


async def test_groups_within_groups_keep_their_shape(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():
        run = await stage.client.start(group([group(squares(1, 2)), group(squares(3)), group([])]))
        assert await run.result() == [[1, 4], [9], []]


async def test_an_empty_group_as_a_whole_flow_is_an_empty_list(open_stage: OpenStage) -> None:
    async with open_stage() as stage:
        run = await stage.client.start(Flow(group(squares()), also=squares(1)))
        async with stage.open_system():
            assert await run.result() == []


async def test_a_chain_goes_on_behind_an_empty_group(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():
        first = step(Clerk, Note("first"))
        last = chain(first, group(squares()), text_of)
        run = await stage.client.start(last)
        assert await run.result() == []
        assert [info.status for info in await run.steps()] == [Status.SUCCESS, Status.SUCCESS]
        assert Clerk.book == ["first"]


async def test_each_step_of_a_chain_gets_the_result_before_it(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():
        first = step(Calculator, Square(2), name="square")
        second = first.then(Calculator, Square, name="square of square")
        run = await stage.client.start(second.then(Calculator, Text, name="last"))
        assert await run.result() == 16
        assert [(one.name, one.end and one.end.value) for one in await run.steps()] == [
            ("square", "4"),
            ("square of square", "16"),
            ("last", "16"),
        ]


async def test_steps_of_several_types_come_together_as_a_tuple(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():
        both = together(step(Calculator, Square(3)), step(Clerk, Note("a")))
        run = await stage.client.start(both)
        assert await run.result() == (9, "noted a")


async def test_a_chord_of_chords_three_deep_runs_each_body_once(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():

        def nested(depth: int) -> Any:
            inner = [nested(depth - 1) for _ in range(2)] if depth else squares(2)
            return chord(inner, Calculator, Sum)

        noted = step(Clerk, Note(nested(3).result))
        run = await stage.client.start(noted)
        assert await run.result() == "noted 32"
        assert Clerk.book == [32]


VALUES: list[Any] = [None, [], {}, 1.0, 2**63, -0.0, "\u2028", {"": 1}, 'a/b\\"c', [[]], {"a": {}}, 1e300, "é"]


async def test_values_pass_through_a_chord_as_they_are(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():
        run = await stage.client.start(
            step(Calculator, Text(group(step(Calculator, Text(value)) for value in VALUES).results))
        )
        result: list[Any] = await run.result()  # type: ignore[assignment]
        assert result == VALUES
        assert [type(value) for value in result] == [type(value) for value in VALUES]
        assert math.copysign(1, result[5]) == -1


async def test_a_chord_of_a_thousand_members_is_joined_in_order(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():
        run = await stage.client.start(step(Calculator, Text(group(squares(*range(1000))).results)))
        assert await run.result() == [number**2 for number in range(1000)]
        info = await run.info()
        assert (info.done, info.total) == (1001, 1001)


async def test_a_message_of_a_large_run_is_no_larger_than_of_a_small_one(open_stage: OpenStage) -> None:
    async with open_stage() as stage:
        await stage.client.start(step(Calculator, Text(group(squares(*range(300))).results)), id="large")
        sizes: list[int] = []

        async def measure(delivery: Delivery, proceed: Callable[[], Awaitable[object]]) -> object:
            sizes.append(len(json.dumps(dict(delivery.headers))) + len(delivery.id))
            return await proceed()

        async with stage.open_system(middleware=[measure]):
            assert len(await stage.client.run("large").result()) == 300
        assert len(sizes) == 301
        assert max(sizes) < 150


# ---- failures ----


async def test_a_body_that_needs_a_failed_member_is_cancelled_and_the_run_fails(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():
        members = [*squares(1), step(Calculator, Flaky(7), name="flaky"), *squares(2)]
        run = await stage.client.start(chord(members, Calculator, Sum))
        with pytest.raises(MessageFailed, match=r"'flaky' failed: ValueError: 7 is odd") as caught:
            await run.result()
        assert (caught.value.type, caught.value.reason) == ("ValueError", "7 is odd")
        ends = {one.name: one for one in await run.steps()}
        assert [one.status for one in ends.values()] == ["SUCCESS", "FAILURE", "SUCCESS", "CANCELLED"]
        body = ends["calculator 3"].end
        assert body is not None
        assert body.failure is not None
        assert body.failure.reason == "needs 'flaky', which failed"


async def test_a_body_that_takes_outcomes_runs_in_any_case(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():
        members = [
            *squares(1),
            step(Calculator, Flaky(3), name="b"),
            *squares(2),
            step(Calculator, Flaky(5, "reject"), name="d"),
        ]
        run = await stage.client.start(step(Calculator, Look(group(members).outcomes)))
        assert await run.result() == "done 1, failed b: 3 is odd, done 4, rejected d: not wanted"
        assert await run.status() is Status.SUCCESS


async def test_on_error_is_sent_once_with_all_failures(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():
        members = [step(Calculator, Flaky(1), name="a"), *squares(2), step(Calculator, Flaky(3), name="c")]
        flow = Flow(chord(members, Calculator, Sum), on_error=lambda failures: step(Clerk, Alarm(failures)))
        run = await stage.client.start(flow)
        with pytest.raises(MessageFailed):
            await run.result()

        async def rang() -> bool:
            return bool(Clerk.book)

        await until(rang)
        await trio.sleep(0.05)
        (alarm,) = Clerk.book
        assert isinstance(alarm, Alarm)
        assert [(one.step, one.kind, one.error, one.reason) for one in alarm.failures] == [
            ("a", "failed", "ValueError", "1 is odd"),
            ("c", "failed", "ValueError", "3 is odd"),
        ]


async def test_on_error_is_not_sent_for_a_run_that_succeeds_or_is_cancelled(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():
        one = Flow(step(Calculator, Square(2)), on_error=lambda failures: step(Clerk, Alarm(failures)))
        await (await stage.client.start(one)).result()
        two = Flow(signal("never", int), also=squares(1), on_error=lambda failures: step(Clerk, Alarm(failures)))
        assert await (await stage.client.start(two)).cancel("enough")
        await trio.sleep(0.1)
        assert Clerk.book == []


async def test_a_step_that_is_retried_ends_once(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():
        retried = step(Calculator, Flaky(1, "retry", times=2))
        run = await stage.client.start(chord([retried, *squares(2)], Calculator, Text))
        assert await run.result() == [13, 4]
        assert (await run.info()).done == 3


async def test_what_was_done_is_undone_in_reverse_order(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():
        first = step(Clerk, Note("one"), name="first", undo=lambda text: step(Clerk, Undo(text)))
        second = step(Clerk, Note("two"), name="second", after=[first], undo=lambda text: step(Clerk, Undo(text)))
        third = step(Calculator, Flaky(3), after=[second], undo=lambda value: step(Clerk, Undo(value)))
        run = await stage.client.start(third)
        with pytest.raises(MessageFailed):
            await run.result()

        async def undone() -> bool:
            return len(Clerk.book) == 4

        await until(undone)
        assert Clerk.book == ["one", "two", ("undo", "noted two"), ("undo", "noted one")]


async def test_nothing_is_undone_after_a_success(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():
        run = await stage.client.start(step(Clerk, Note("one"), undo=lambda text: step(Clerk, Undo(text))))
        assert await run.result() == "noted one"
        await trio.sleep(0.05)
        assert Clerk.book == ["one"]


async def test_a_held_run_is_retried_where_it_failed(open_stage: OpenStage) -> None:
    async with open_stage() as stage:
        flow = Flow(chord([*squares(3), step(Clerk, Note("x"), name="note")], Calculator, Text), hold_on_failure=True)

        class Broken(Clerk):
            settings = Clerk.settings

            async def note(self, message: Note) -> str:
                raise OSError("no paper")

        run = await stage.client.start(flow)
        async with stage.open_system((Calculator, Broken)):

            async def is_held() -> bool:
                return await run.status() is Status.HELD

            await until(is_held)
            info = await run.info()
            assert info.reason == "'note' failed"
            assert [(name, end.kind) for name, end in info.failures] == [("note", "failed")]
        assert await run.retry()
        assert not await run.retry()
        async with stage.open_system():
            assert await run.result() == [9, "noted x"]
            assert (await run.info()).failures == ()


async def test_to_cancel_a_held_run_leaves_the_end_of_the_step_that_has_failed(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():
        failing = step(Calculator, Flaky(7), name="flaky")
        run = await stage.client.start(Flow(step(Calculator, Text(failing.result)), hold_on_failure=True))

        async def is_held() -> bool:
            return await run.status() is Status.HELD

        await until(is_held)
        assert await run.cancel("enough")
        failed, waiting = await run.steps()
        assert (failed.status, waiting.status) == (Status.FAILURE, Status.CANCELLED)
        assert [(name, end.kind) for name, end in (await run.info()).failures] == [("flaky", "failed")]
        assert (await run.status(), await run.retry()) == (Status.CANCELLED, False)


async def test_a_failed_run_is_retried_and_keeps_what_was_done(open_stage: OpenStage) -> None:
    async with open_stage() as stage:

        class Broken(Clerk):
            settings = Clerk.settings

            async def note(self, message: Note) -> str:
                raise OSError("no paper")

        first = step(Calculator, Square(3), name="square")
        note = step(Clerk, Note("x"), name="note", after=[first])
        run = await stage.client.start(chord([first, note], Calculator, Text))
        async with stage.open_system((Calculator, Broken)):
            with pytest.raises(MessageFailed, match="no paper"):
                await run.result()
        assert await run.retry()
        async with stage.open_system((Clerk,)):

            async def noted() -> bool:
                return Clerk.book == ["x"]

            await until(noted)
        async with stage.open_system():
            assert await run.result() == [9, "noted x"]
        messages = [info.message for info in await run.steps()]
        assert [text.partition("/")[2] for text in messages] == ["0", "1.1", "2.1"]


# ---- cancelling, waiting, time ----


async def test_a_cancelled_run_never_runs_what_has_not_begun(open_stage: OpenStage) -> None:
    async with open_stage() as stage:
        notes = [step(Clerk, Note(number)) for number in range(3)]
        late = step(Clerk, Note("delayed"), delay=0.1)
        keyed = [step(Clerk, Note(f"key {number}"), key="k") for number in range(2)]
        run = await stage.client.start(step(Calculator, Text(group([*notes, late, *keyed]).results)))
        assert await run.cancel("too late")
        assert not await run.cancel("again")
        info = await run.info()
        assert (info.status, info.reason) == (Status.CANCELLED, "too late")
        assert {one.status for one in await run.steps()} == {Status.CANCELLED}
        async with stage.open_system():
            await stage.client.ref(Clerk).ask(Note("after"))
            await trio.sleep(0.2)
            assert Clerk.book == ["after"]
        with pytest.raises(MessageFailed, match=r"was cancelled \(too late\)"):
            await run.result()


async def test_a_run_that_is_over_is_not_cancelled(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():
        run = await stage.client.start(step(Calculator, Square(2)))
        assert await run.result() == 4
        assert not await run.cancel("late")
        assert await run.status() is Status.SUCCESS


async def test_a_member_that_is_cancelled_by_itself_ends_the_run(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():
        member = step(Clerk, Note("later"), delay=60, name="later")
        run = await stage.client.start(chord([*squares(1), member], Calculator, Text))
        (info,) = [one for one in await run.steps() if one.name == "later"]
        assert await stage.client.ref(Clerk).receipt(info.message).cancel()
        with pytest.raises(MessageFailed, match="'later' was cancelled"):
            await run.result()


async def test_a_member_that_expires_ends_the_run(open_stage: OpenStage) -> None:
    async with open_stage() as stage:
        run = await stage.client.start(step(Clerk, Note("x"), expires=0.01, name="short"))
        await trio.sleep(0.05)
        async with stage.open_system():
            with pytest.raises(MessageFailed, match="'short' expired"):
                await run.result()
        assert Clerk.book == []


async def test_a_signal_gives_a_step_its_value(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():
        approval = signal("approval", bool)
        run = await stage.client.start(step(Calculator, Text(approval.result), after=squares(1)))

        async def waits() -> bool:
            return (await run.info()).waits_for == ("approval",)

        await until(waits)
        assert not await run.signal("other", 1)
        assert await run.signal("approval", True)
        assert not await run.signal("approval", False)
        assert await run.result() is True
        assert not await run.signal("approval", False)


@pytest.mark.parametrize("value", ["yes", 1, None, [True]])
async def test_a_signal_of_another_type_is_refused_wherever_it_is_sent_from(open_stage: OpenStage, value: Any) -> None:
    async with open_stage() as stage, stage.open_system():
        approval = signal("approval", bool)
        run = await stage.client.start(step(Calculator, Text(approval.result)), id="r")
        known_by_its_id = stage.client.run("r")
        for one in (run, known_by_its_id):
            with pytest.raises(CodecError) as caught:
                await one.signal("approval", value)
            assert str(caught.value) == (
                f"the value of signal 'approval' of run 'r': wants true or false, got {value!r};"
                " the run was not given it"
            )
        assert await known_by_its_id.signal("approval", False)
        assert await run.result() is False


async def test_a_signal_of_a_class_takes_what_can_be_read_as_one(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():
        order = signal("order", Square)
        run = await stage.client.start(Flow(order, also=[step(Calculator, Square(1), after=[order])]), id="r")
        with pytest.raises(CodecError, match=r"at number: wants a whole number, got '3'; the run was not given it"):
            await stage.client.run("r").signal("order", {"number": "3"})
        assert await run.signal("order", Square(3))
        assert await run.result() == Square(3)


async def test_a_signal_may_come_before_its_step(open_stage: OpenStage) -> None:
    async with open_stage() as stage:
        late = chain(step(Calculator, Square(1)), signal("go", str), text_of)
        run = await stage.client.start(late)
        assert await run.signal("go", "early")
        assert not await run.signal("go", "twice")
        async with stage.open_system():
            assert await run.result() == "early"


async def test_a_signal_that_does_not_come_in_time_ends_as_expired(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():
        run = await stage.client.start(step(Calculator, Text(signal("go", str, within=0.05).result)))
        with pytest.raises(MessageFailed, match="'go' expired"):
            await run.result()


async def why_not(run: Run[Any]) -> str:
    """Wait in vain for a result, longer if a busy broker has not answered at all; return what the error says."""
    for timeout in (0.05, 0.5, 5):
        with pytest.raises(AskTimeout) as caught:
            await run.result(timeout=timeout)
        if "did not say" not in str(caught.value):
            break
    return str(caught.value)


async def test_a_wait_for_a_result_that_takes_too_long_says_what_the_run_waits_for(open_stage: OpenStage) -> None:
    async with open_stage() as stage:
        run = await stage.client.start(squares(1)[0])
        assert "it continues, and 0 of its 1 steps have ended. Does a node run" in await why_not(run)
        assert await run.pause()
        assert "it is paused until run.resume(), and 0 of its 1 steps have ended" in await why_not(run)
        asked = await stage.client.start(text_of(signal("approval", bool).result))
        assert "it waits for the signal 'approval', and 0 of its 2 steps have ended" in await why_not(asked)
        async with stage.open_system():
            failing = Flow(text_of(step(Calculator, Flaky(7), name="flaky").result), hold_on_failure=True)
            held = await stage.client.start(failing)
            async with held.watch() as updates:
                async for info in updates:
                    if info.status is Status.HELD:
                        break
            assert "it is held until run.retry() ('flaky' failed" in await why_not(held)


async def test_a_nap_delays_what_comes_after_it(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():
        run = await stage.client.start(chain(nap(0.2), step(Calculator, Square(5))))
        assert await run.result() == 25
        info = await run.info()
        assert info.finished is not None
        assert info.finished - info.started >= 0.19


async def test_a_deadline_ends_the_run_and_all_its_steps(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():
        slow = step(Calculator, Wait(60), name="slow")
        flow = Flow(slow.then(Calculator, Text), also=[step(Clerk, Note("x"), delay=60)], deadline=0.2)
        run = await stage.client.start(flow)
        with pytest.raises(MessageFailed, match=r"failed \(deadline\)"):
            await run.result()
        assert {one.status for one in await run.steps()} == {Status.CANCELLED}


async def test_a_paused_run_sends_nothing_until_it_is_resumed(open_stage: OpenStage) -> None:
    async with open_stage() as stage:
        run = await stage.client.start(chain(step(Calculator, Square(1)), step(Clerk, Note("x"))))
        assert await run.pause()
        assert not await run.pause()
        async with stage.open_system():

            async def first_is_done() -> bool:
                return (await run.info()).done == 1

            await until(first_is_done)
            await trio.sleep(0.05)
            assert Clerk.book == []
            assert await run.status() is Status.PAUSED
            assert await run.resume()
            assert not await run.resume()
            assert await run.result() == "noted x"


# ---- identity, and what is kept ----


async def test_the_same_id_is_the_same_run(open_stage: OpenStage) -> None:
    async with open_stage() as stage:
        await stage.client.start(step(Clerk, Note("x")), id="one")
        again = await stage.client.start(step(Clerk, Note("y")), id="one")
        async with stage.open_system():
            assert await again.result() == "noted x"
            await stage.client.ref(Clerk).ask(Note("after"))
        assert Clerk.book == ["x", "after"]


async def test_a_run_is_found_by_its_id_and_forgotten_on_request(open_stage: OpenStage) -> None:
    async with open_stage() as stage:
        run = await stage.client.start(Flow(step(Calculator, Square(2)), title="squares"), id="two")
        assert not await run.forget()
        async with stage.open_system():
            assert await stage.client.run("two").result() == 4
        assert [(one.id, one.title, one.status) for one in await stage.client.runs()] == [
            ("two", "squares", Status.SUCCESS)
        ]
        assert await stage.client.runs(Status.FAILURE) == []
        assert await run.forget()
        assert await run.status() is Status.UNKNOWN
        assert await stage.client.runs() == []
        with pytest.raises(LookupError, match="no run 'two'"):
            await run.result()
        with pytest.raises(LookupError):
            await run.steps()


async def test_runs_of_a_status_are_found_behind_any_number_of_later_ones(open_stage: OpenStage) -> None:
    async with open_stage() as stage:
        run = await stage.client.start(squares(1)[0], id="first")
        await run.cancel()
        for number in range(202):
            await stage.client.start(squares(number)[0], id=f"later {number}")
        assert [one.id for one in await stage.client.runs(Status.CANCELLED, limit=5)] == ["first"]
        assert len(await stage.client.runs(Status.STARTED, Status.CANCELLED, limit=203)) == 203
        assert len(await stage.client.runs(Status.STARTED, limit=7)) == 7


async def test_a_run_that_was_never_started_is_unknown_at_once(open_stage: OpenStage) -> None:
    async with open_stage() as stage:
        run = stage.client.run("none")
        assert await run.info() == RunInfo(id="none")
        with trio.fail_after(PATIENCE), pytest.raises(LookupError):
            await run.result(timeout=2 * PATIENCE)
        assert not await run.cancel()
        assert not await run.signal("x")


async def test_a_watcher_sees_the_present_each_step_and_the_end(open_stage: OpenStage) -> None:
    async with open_stage() as stage:
        run = await stage.client.start(chain(step(Calculator, Wait(0.05)), step(Calculator, Wait(0.05))))
        async with run.watch() as updates:
            first = await anext(updates)
            async with stage.open_system():
                seen = [(info.status, info.done) async for info in updates]
        assert (first.status, first.done, first.total) == ("STARTED", 0, 2)
        assert seen[-1] == ("SUCCESS", 2)
        assert [done for _, done in seen] == sorted(done for _, done in seen)


async def test_the_header_of_a_step_counts_only_in_the_message_that_the_run_has_sent(open_stage: OpenStage) -> None:
    async with open_stage() as stage:
        run = await stage.client.start(step(Calculator, Square(2)), id="mine")
        home = Calculator.settings.default_source
        forged = {FLOW: f"{home}/mine/0"}
        await stage.broker.publish([Envelope(home, "forged", b'{"number":7}', "Square", forged)])
        await stage.broker.publish([Envelope(home, "odd", b'{"number":7}', "Square", {FLOW: "a/b"})])
        await stage.broker.publish([Envelope(home, "odder", b'{"number":7}', "Square", {FLOW: 'a"/b/1'})])
        await stage.broker.publish(
            [Envelope(home, "mine/\u0660", b'{"number":7}', "Square", {FLOW: f"{home}/mine/\u0660"})]
        )
        await stage.broker.publish([Envelope(home, "mine/00", b'{"number":7}', "Square", {FLOW: f"{home}/mine/00"})])
        await stage.broker.publish([Envelope(home, "b/c/1", b'{"number":7}', "Square", {FLOW: "a/b/c/1"})])
        async with stage.open_system():
            assert await run.result() == 4
            assert (await run.info()).done == 1


async def test_an_end_that_comes_after_the_end_changes_nothing(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():
        run = await stage.client.start(step(Calculator, Wait(60)))
        await trio.sleep(0.05)
        assert await run.cancel("now")
        await trio.sleep(0.2)
        assert (await run.info()).reason == "now"
        assert [one.status for one in await run.steps()] == [Status.CANCELLED]


# ---- from handlers ----


async def test_a_message_continues_with_a_workflow_and_its_sender_gets_the_result(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():
        assert await stage.client.ref(Calculator).ask(SumOfSquares([1, 2, 3])) == 14
        receipt = await stage.client.ref(Calculator).submit(SumOfSquares([4]))
        assert await receipt.result() == 16


async def test_a_step_continues_with_a_workflow_and_its_run_waits_for_that(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():
        members = [step(Calculator, SumOfSquares([1, 2])), step(Calculator, SumOfSquares([3]))]
        run = await stage.client.start(chord(members, Calculator, Sum))
        assert await run.result() == 14
        assert (await run.info()).total == 3


async def test_a_run_is_started_with_the_settlement_or_not_at_all(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():
        assert await stage.client.ref(Calculator).ask(Begin("started")) == "started"
        assert await stage.client.run("started").result() == 81
        with pytest.raises(MessageFailed):
            await stage.client.ref(Calculator).ask(Begin("lost", fails=True))
        assert await stage.client.run("lost").status() is Status.UNKNOWN
