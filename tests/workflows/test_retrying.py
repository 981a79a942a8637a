"""A retry of some steps of a run: those that are named, and what was cancelled because of them."""

from __future__ import annotations

from typing import Any

import pytest

from actorwork import MessageFailed
from actorwork.clients.runs import Run
from actorwork.workflows import Flow, Status, Step, group, signal, step
from tests.workflows.conftest import OpenStage, Stage
from tests.workflows.shop import Calculator, Clerk, Note, Square, Text
from tests.workflows.test_adversity import Broken
from tests.workflows.test_runs import until


def note(name: str) -> Step[str]:
    return step(Clerk, Note(name), name=name)


async def failed(stage: Stage, flow: Flow[Any]) -> Run[Any]:
    """Return a run of which all notes have failed."""
    run = await stage.client.start(flow)
    async with stage.open_system((Calculator, Broken)):
        with pytest.raises(MessageFailed, match="no paper"):
            await run.result()
    return run


async def statuses(run: Run[Any]) -> dict[str, Status]:
    return {one.name: one.status for one in await run.steps()}


async def test_only_the_named_step_and_what_was_cancelled_because_of_it_run_again(open_stage: OpenStage) -> None:
    async with open_stage() as stage:
        one, two = note("one"), note("two")
        after = [step(Calculator, Text(needed.result), name=f"after {needed.name}") for needed in (one, two)]
        run = await failed(stage, Flow(group(after)))
        assert await run.retry(steps=["one"])
        async with stage.open_system():
            with pytest.raises(MessageFailed, match="'two' failed"):
                await run.result()
            assert await statuses(run) == {
                "one": Status.SUCCESS,
                "after one": Status.SUCCESS,
                "two": Status.FAILURE,
                "after two": Status.CANCELLED,
            }
            assert Clerk.book == ["one"]
            assert await run.retry(steps=["two"])
            assert len(await run.result()) == 2
        assert Clerk.book == ["one", "two"]


async def test_what_also_needs_the_result_of_a_step_that_is_not_named_stays_cancelled(open_stage: OpenStage) -> None:
    async with open_stage() as stage:
        both = step(Calculator, Text(group([note("one"), note("two")]).results), name="both")
        run = await failed(stage, Flow(both))
        assert await run.retry(steps=["two"])
        async with stage.open_system():
            with pytest.raises(MessageFailed, match="'one' failed"):
                await run.result()
            expected = {"one": Status.FAILURE, "two": Status.SUCCESS, "both": Status.CANCELLED}
            assert await statuses(run) == expected
            assert await run.retry(steps=[0])
            await run.result()
        assert Clerk.book == ["two", "one"]


async def test_a_run_stays_held_by_the_steps_that_are_not_named(open_stage: OpenStage) -> None:
    async with open_stage() as stage:
        run = await stage.client.start(Flow(group([note("one"), note("two")]), hold_on_failure=True))
        async with stage.open_system((Calculator, Broken)):

            async def have_failed() -> bool:
                return len((await run.info()).failures) == 2

            await until(have_failed)
        first = (await run.steps())[0].message
        assert await run.retry(steps=[first])
        info = await run.info()
        assert (info.status, info.reason) == (Status.HELD, "'two' failed")
        async with stage.open_system():

            async def is_noted() -> bool:
                return (await run.info()).done == 1

            await until(is_noted)
            assert await run.status() is Status.HELD
            assert await run.retry(steps=["two"])
            assert await run.result() == ["noted one", "noted two"]


async def test_a_step_that_does_not_exist_or_has_not_failed_is_refused_and_nothing_runs(open_stage: OpenStage) -> None:
    async with open_stage() as stage:
        one = note("one")
        body = step(Calculator, Text(one.result), name="body", after=[step(Calculator, Square(3), name="square")])
        run = await failed(stage, Flow(body))
        with pytest.raises(LookupError, match=r"has no step 'won'; it has .*'one'"):
            await run.retry(steps=["one", "won"])
        with pytest.raises(LookupError, match="has no step 17"):
            await run.retry(steps=[17])
        with pytest.raises(ValueError, match=r"'square' has not failed \(SUCCESS\)"):
            await run.retry(steps=["one", "square"])
        with pytest.raises(ValueError, match=r"'body' was cancelled .*; name 'one'"):
            await run.retry(steps=["body"])
        with pytest.raises(ValueError, match="steps= is empty"):
            await run.retry(steps=[])
        with pytest.raises(TypeError, match="expected the name of a step"):
            await run.retry(steps=[None])  # pyright: ignore[reportArgumentType]
        assert await run.status() is Status.FAILURE
        assert await run.retry(steps=["one"])
        with pytest.raises(ValueError, match="'one' has not failed"):
            await run.retry(steps=["one"])
        async with stage.open_system():
            await run.result()


async def test_a_step_whose_need_was_cancelled_with_it_is_refused_until_both_are_named(open_stage: OpenStage) -> None:
    async with open_stage() as stage:
        flow = Flow(step(Calculator, Text(signal("go", str).result), name="body"), deadline=0.2)
        run = await stage.client.start(flow)
        async with stage.open_system():
            with pytest.raises(MessageFailed, match="deadline"):
                await run.result()
            with pytest.raises(ValueError, match="needs the result of one that has not succeeded"):
                await run.retry(steps=["body"])
            assert await run.retry(steps=["body", "go"])
            assert await run.signal("go", "now")
            assert await run.result() == "now"
