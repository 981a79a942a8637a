"""Flows and messages run eagerly: by the same rules, through the codec, in virtual time, with nothing opened."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio.testing

from actorwork import (
    Actor,
    AskTimeout,
    CodecError,
    Entity,
    MessageFailed,
    MessageRefused,
    Retry,
    RetryPolicy,
    Settings,
    receive,
)
from actorwork.policy.backoffs import Fixed
from actorwork.testing import run_eagerly
from actorwork.workflows import Flow, Step, chain, chord, group, nap, signal, step
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
    Wait,
)

NOTHING: list[Step[int]] = []
ALL = [Calculator, Clerk]


async def test_a_chord_is_run_to_its_end(mock_clock: trio.testing.MockClock) -> None:
    assert await run_eagerly(chord([step(Calculator, Square(n)) for n in (1, 2)], Calculator, Sum), ALL) == 5
    assert await run_eagerly(group([step(Calculator, Square(3))]), ALL) == [9]
    assert await run_eagerly(group([group(NOTHING), group([step(Calculator, Square(3))])]), ALL) == [[], [9]]


async def test_one_message_is_run_by_the_actor_that_takes_it(mock_clock: trio.testing.MockClock) -> None:
    assert await run_eagerly(Square(4), ALL) == 16
    assert await run_eagerly(SumOfSquares([1, 2]), ALL) == 5
    with pytest.raises(MessageRefused, match=r"none of Clerk takes Square\(number=1\)"):
        await run_eagerly(Square(1), [Clerk])


@attrs.frozen
class Coin:
    worth: int


class Till(Entity[list[int]]):
    settings = Settings(title="till")

    @receive
    async def put(self, message: Coin) -> int:
        self.state.append(message.worth)
        return sum(self.state)


async def test_steps_to_one_key_of_an_entity_find_its_state(mock_clock: trio.testing.MockClock) -> None:
    steps = [step(Till, Coin(worth), key=key) for worth, key in ((1, "a"), (2, "a"), (3, "b"))]
    assert await run_eagerly(group(steps), [Till]) == [1, 3, 3]
    with pytest.raises(MessageRefused, match=r"the entity Till needs a key: run_eagerly\(step\(Till, Coin\(worth=1\)"):
        await run_eagerly(Coin(1), [Till])


async def test_what_would_wait_for_ever_is_refused(mock_clock: trio.testing.MockClock) -> None:
    note = step(Clerk, Note("never"), name="the note")
    with pytest.raises(MessageRefused, match=r"'the note' goes to 'clerk', which is none of .* \(Calculator\): add it"):
        await run_eagerly(note, [Calculator])
    approved = signal("approval", int)
    with pytest.raises(ValueError, match="nobody gives the signal 'approval' in an eager run: give it a limit"):
        await run_eagerly(approved.then(Calculator, Square), ALL)
    with pytest.raises(AskTimeout, match=r"is held \('b' failed\) until run\.retry\(\), which nobody calls"):
        await run_eagerly(Flow(group(failing()), hold_on_failure=True), ALL)
    with pytest.raises(TypeError, match=r"wants a list of actors: write \[Calculator\]"):
        await run_eagerly(Square(1), Calculator)  # type: ignore[call-overload]


async def test_what_ends_by_its_time_is_waited_for(mock_clock: trio.testing.MockClock) -> None:
    with pytest.raises(MessageFailed, match="no signal 'approval'"):
        await run_eagerly(signal("approval", int, within=3600).then(Calculator, Square), ALL)
    with pytest.raises(MessageFailed, match="deadline"):
        await run_eagerly(Flow(signal("approval", int).then(Calculator, Square), deadline=3600), ALL)
    with pytest.raises(MessageFailed, match="deadline"):
        await run_eagerly(Flow(group(failing()), hold_on_failure=True, deadline=3600), ALL)


async def test_a_deadline_of_a_held_run_tells_on_error_what_has_failed(mock_clock: trio.testing.MockClock) -> None:
    Clerk.book.clear()
    held = Flow(
        group(failing()), hold_on_failure=True, deadline=3600, on_error=lambda failures: step(Clerk, Alarm(failures))
    )
    with pytest.raises(MessageFailed, match="deadline"):
        await run_eagerly(held, ALL)
    (told,) = Clerk.book
    assert isinstance(told, Alarm)
    assert [one.step for one in told.failures] == ["b"]


async def test_failures_are_those_of_a_client(mock_clock: trio.testing.MockClock) -> None:
    with pytest.raises(MessageFailed, match="ValueError: 3 is odd"):
        await run_eagerly(Flow(step(Calculator, Flaky(3))), ALL)
    outcomes = group([step(Calculator, Flaky(3, "reject"), name="a"), step(Calculator, Square(2))]).outcomes
    assert await run_eagerly(step(Calculator, Look(outcomes)), ALL) == "rejected a: not wanted, done 4"


async def test_a_rejected_step_ends_its_chain(mock_clock: trio.testing.MockClock) -> None:
    Clerk.book.clear()
    with pytest.raises(MessageFailed, match="was rejected"):
        await run_eagerly(chain(step(Calculator, Flaky(3, "reject")), step(Clerk, Note("never"))), ALL)
    assert Clerk.book == []


async def test_what_json_cannot_hold_fails_as_on_the_way_to_a_broker(mock_clock: trio.testing.MockClock) -> None:
    with pytest.raises(CodecError, match="cannot be written as JSON"):
        await run_eagerly(step(Calculator, Text(object())), ALL)


class Patient(Actor):
    settings = Settings(title="patient", retry=RetryPolicy(attempts=3, backoff=Fixed(seconds=60)))

    @receive
    async def work(self, *, number: int) -> int:
        if self.context.delivery.attempt < 3:
            raise ValueError("not yet")
        return self.context.delivery.attempt


async def test_backoffs_and_naps_take_no_real_time(mock_clock: trio.testing.MockClock) -> None:
    began = trio.current_time()
    assert await run_eagerly(chain(nap(3600), step("patient", {"number": 1})), [Patient]) == 3
    assert trio.current_time() - began >= 3720


class Nesting(Actor):
    settings = Settings(title="nesting")

    @receive
    async def work(self, *, text: str) -> int:
        self.context.start(step(Clerk, Note(f"{text}, attempt {self.context.delivery.attempt}")))
        squares = group([step(Calculator, Square(n)) for n in (1, 2)])
        inner = await run_eagerly(step(Calculator, Sum(squares.results)), ALL)
        if self.context.delivery.attempt == 1:
            raise Retry(60)
        return inner


async def test_an_eager_run_within_another_ends_and_an_attempt_that_failed_has_started_nothing(
    mock_clock: trio.testing.MockClock,
) -> None:
    Clerk.book.clear()
    assert await run_eagerly(step("nesting", {"text": "noted"}), [Nesting, Clerk]) == 5
    assert Clerk.book == ["noted, attempt 2"]


def failing(*, how: str = "fail") -> list[Step[int]]:
    return [step(Calculator, Square(1)), step(Calculator, Flaky(7, how), name="b"), step(Calculator, Square(2))]


def text_of(value: Any) -> Step[str]:
    return step(Calculator, Text(value))


def squares(*numbers: int) -> list[Step[int]]:
    return [step(Calculator, Square(number)) for number in numbers]


FLOWS: dict[str, Callable[[], Any]] = {
    "a chord without members": lambda: chord(NOTHING, Calculator, Text),
    "a chord of one": lambda: chord(squares(4), Calculator, Text),
    "members that end in another order": lambda: chord(
        [step(Calculator, Wait(0.03)), *squares(2, 3)], Calculator, Text
    ),
    "a result that is missing": lambda: chord(failing(), Calculator, Sum),
    "outcomes": lambda: step(Calculator, Look(group([*failing(), *failing(how="reject")[2:]]).outcomes)),
    "a rejected member": lambda: chord(failing(how="reject"), Calculator, Sum),
    "a chain": lambda: squares(2)[0].then(Calculator, Square).then(Calculator, Text),
    "a chain with an empty group": lambda: chain(squares(1)[0], group(NOTHING), text_of),
    "a chain with a group of one": lambda: chain(squares(1)[0], group(squares(2)), text_of),
    "a chain whose second step is rejected": lambda: chain(*failing(how="reject")),
    "groups within groups": lambda: group([group(squares(1, 2)), group(squares(3)), group(NOTHING)]),
    "chords within chords": lambda: chord(
        [chord([chord(squares(n, 1), Calculator, Sum)], Calculator, Sum) for n in (1, 2)], Calculator, Text
    ),
}


async def ended(result: Callable[[], Awaitable[Any]]) -> object:
    """Return a result, or what is raised in its place, but for the id of the run."""
    try:
        return await result()
    except MessageFailed as error:
        return (error.type, error.reason, re.sub("run '[^']+'", "run", str(error)))


async def test_flows_end_eagerly_as_they_do_at_each_broker(open_stage: OpenStage) -> None:
    async with open_stage() as stage, stage.open_system():
        for title, build in FLOWS.items():
            run = await stage.client.start(build())
            there = await ended(run.result)
            eager = await ended(lambda build=build: run_eagerly(build(), ALL))
            assert eager == there, title


async def test_a_run_that_a_handler_starts_is_run_too(mock_clock: trio.testing.MockClock) -> None:
    assert await run_eagerly(chain(step(Calculator, Begin("inner")), step(Calculator, Square(2))), ALL) == 4


def open_files() -> Counter[str]:
    return Counter(str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink())


async def test_no_socket_thread_or_file_is_opened(mock_clock: trio.testing.MockClock) -> None:
    await run_eagerly(Square(4), ALL)
    files, threads = open_files(), set(threading.enumerate())
    await run_eagerly(chord([step(Calculator, Square(1))], Calculator, Sum), ALL)
    # What other tests have left may end meanwhile.
    assert not open_files() - files
    assert not set(threading.enumerate()) - threads
