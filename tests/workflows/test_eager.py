"""Flows and messages run eagerly: by the same rules, through the codec, in virtual time, with nothing opened."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import trio.testing

from actorwork import Actor, CodecError, MessageFailed, MessageRefused, RetryPolicy, Settings, receive
from actorwork.policy.retry import Fixed
from actorwork.testing import run_eagerly
from actorwork.workflows import Flow, Step, chain, chord, group, nap, step
from tests.workflows.shop import Begin, Calculator, Clerk, Flaky, Look, Note, Square, Sum, SumOfSquares, Text

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


async def test_a_run_that_a_handler_starts_is_run_too(mock_clock: trio.testing.MockClock) -> None:
    assert await run_eagerly(chain(step(Calculator, Begin("inner")), step(Calculator, Square(2))), ALL) == 4


def open_files() -> list[str]:
    return sorted(str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink())


async def test_no_socket_thread_or_file_is_opened(mock_clock: trio.testing.MockClock) -> None:
    await run_eagerly(Square(4), ALL)
    files, threads = open_files(), threading.active_count()
    await run_eagerly(chord([step(Calculator, Square(1))], Calculator, Sum), ALL)
    assert open_files() == files
    assert threading.active_count() == threads
