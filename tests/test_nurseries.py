"""What leaves a nursery that unwraps."""

import gc
import traceback

import pytest
import trio

from actorwork.nurseries import open_unwrapping_nursery
from tests.garbage import living


class Broken(Exception):
    pass


async def fails(error: BaseException) -> None:
    raise error


async def fails_when_cancelled(error: BaseException) -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise error


async def test_a_block_that_ends_waits_for_its_tasks():
    done: list[int] = []

    async def work() -> None:
        await trio.lowlevel.checkpoint()
        done.append(1)

    async with open_unwrapping_nursery() as nursery:
        nursery.start_soon(work)
    assert done == [1]


async def test_the_error_of_the_block_leaves_as_itself():
    error, cause = Broken("block"), ValueError("cause")
    with pytest.raises(Broken) as caught:
        async with open_unwrapping_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise error from cause
    assert caught.value is error
    assert error.__cause__ is cause
    assert error.__context__ is None


async def test_the_error_of_a_task_leaves_as_itself_with_the_context_it_had():
    error = Broken("task")

    async def work() -> None:
        try:
            raise ValueError("before")
        except ValueError:
            raise error  # noqa: B904 - the implicit context is what is looked at

    with pytest.raises(Broken) as caught:
        async with open_unwrapping_nursery() as nursery:
            nursery.start_soon(work)
            await trio.sleep_forever()
    assert caught.value is error
    assert isinstance(error.__context__, ValueError), "neither the group nor the cancellation of the block"


async def test_a_group_that_the_block_raised_stays_that_group():
    own = ExceptionGroup("own", [Broken("one")])
    with pytest.raises(ExceptionGroup) as caught:
        async with open_unwrapping_nursery():
            raise own
    assert caught.value is own


async def test_a_group_that_a_task_raised_stays_that_group():
    error = Broken("one")
    with pytest.raises(ExceptionGroup, match="own") as caught:
        async with open_unwrapping_nursery() as nursery:
            nursery.start_soon(fails, ExceptionGroup("own", [error]))
    assert caught.value.exceptions == (error,)


async def test_errors_of_several_tasks_leave_in_one_group():
    with pytest.raises(ExceptionGroup) as caught:
        async with open_unwrapping_nursery() as nursery:
            nursery.start_soon(fails_when_cancelled, Broken("second"))
            nursery.start_soon(fails, Broken("first"))
            await trio.sleep_forever()
    assert sorted(str(error) for error in caught.value.exceptions) == ["first", "second"]


async def test_errors_of_the_block_and_of_a_task_leave_in_one_group():
    """Either may be the cause of the other: none may hide one."""
    with pytest.raises(ExceptionGroup) as caught:
        async with open_unwrapping_nursery() as nursery:
            nursery.start_soon(fails_when_cancelled, ValueError("late"))
            await trio.lowlevel.checkpoint()
            raise Broken("block")
    assert sorted(str(error) for error in caught.value.exceptions) == ["block", "late"]


async def test_a_cancellation_of_the_nursery_leaves_nothing():
    async with open_unwrapping_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        nursery.cancel_scope.cancel()
        await trio.sleep_forever()


async def test_a_cancellation_of_the_nursery_in_a_group_of_the_block_does_not_count():
    with pytest.raises(ExceptionGroup) as caught:
        async with open_unwrapping_nursery() as nursery:
            nursery.cancel_scope.cancel()
            async with trio.open_nursery() as inner:
                inner.start_soon(fails_when_cancelled, Broken("inner"))
                await trio.sleep_forever()
    (leaf,) = caught.value.exceptions
    assert isinstance(leaf, Broken)


async def test_a_cancellation_from_outside_goes_on():
    left = False
    with trio.CancelScope() as outer:
        async with open_unwrapping_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            outer.cancel()
            await trio.sleep_forever()
        left = True
    assert outer.cancelled_caught
    assert not left


async def test_an_error_beside_a_cancellation_from_outside_leaves_as_itself():
    error = Broken("task")
    with trio.CancelScope() as outer, pytest.raises(Broken) as caught:
        async with open_unwrapping_nursery() as nursery:
            nursery.start_soon(fails_when_cancelled, error)
            await trio.lowlevel.checkpoint()
            outer.cancel()
            await trio.sleep_forever()
    assert caught.value is error
    assert not outer.cancelled_caught


async def test_what_leaves_makes_no_garbage():
    """An error keeps its traceback, and a traceback its frames: none of these may keep the error."""

    async def breaks() -> None:
        raise Broken

    gc.collect()
    gc.disable()
    try:
        try:
            async with open_unwrapping_nursery() as nursery:
                nursery.start_soon(breaks)
                await trio.sleep_forever()
        except Broken:
            pass
        assert not living(Broken)
    finally:
        gc.enable()


async def test_the_traceback_of_an_error_of_the_block_names_the_line_that_raised():
    with pytest.raises(Broken) as caught:
        async with open_unwrapping_nursery():
            await fails(Broken("here"))
    names = [step.name for step in traceback.extract_tb(caught.value.__traceback__)]
    assert names[-1] == "fails"
    assert "__aexit__" not in names
