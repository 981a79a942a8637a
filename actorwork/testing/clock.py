"""Virtual time: a test runs on Trio's `MockClock`, and an hour passes in one line.

With `MockClock(autojump_threshold=0)` time jumps by itself as soon as every task waits; with `MockClock()` it stands
still until the test calls `advance`. A plain `def` handler runs in a thread, for which no simulated clock waits: give
it some real time with `autojump_threshold=0.01`.
"""

from __future__ import annotations

import math
from typing import Final

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actorwork.durations import Duration, seconds_of

TICK: Final = 0.01
"""Real seconds between two checks if time is not simulated."""
STEP: Final = 1e-6
"""Seconds: the least length of a jump; one that is lost in rounding would make no progress."""


async def advance(seconds: Duration) -> None:
    """Let `seconds` pass on the simulated clock; everything due meanwhile happens at its own time.

    Returns when every task waits again. Raises `RuntimeError` if time is not simulated.
    """
    clock = trio.lowlevel.current_clock()
    if not isinstance(clock, MockClock):
        wanted = "run the test on a trio.testing.MockClock"
        raise RuntimeError(f"advance wants a simulated clock: {wanted}")  # noqa: TRY004 - no argument has a wrong type
    until = trio.current_time() + seconds_of("seconds", seconds)
    await wait_all_tasks_blocked()
    while (left := until - trio.current_time()) > STEP / 2:
        clock.jump(min(left, max(STEP, _until_next_deadline())))
        await wait_all_tasks_blocked()


async def pass_time() -> None:
    """Let time pass up to the next moment at which something may happen."""
    clock = trio.lowlevel.current_clock()
    seconds = max(STEP, _until_next_deadline())
    if not isinstance(clock, MockClock):
        await trio.sleep(min(TICK, seconds))
    elif clock.autojump_threshold == math.inf:
        clock.jump(seconds)
        await wait_all_tasks_blocked()
    else:
        await trio.sleep(seconds)


async def wait_until(when: float) -> None:
    """Let time pass up to a moment of Trio's clock."""
    if isinstance(trio.lowlevel.current_clock(), MockClock):
        # By a step at least: the jumps before it may have ended a rounding error too early.
        await advance(max(STEP, when - trio.current_time()))
    else:
        await trio.sleep_until(when)


def _until_next_deadline() -> float:
    return trio.lowlevel.current_statistics().seconds_to_next_deadline
