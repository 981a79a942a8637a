"""Which nominal times fire: what was missed, what is late, what waits for its jitter."""

import random
from itertools import pairwise
from typing import Any

import attrs
import pytest
from hypothesis import given, settings, strategies as st

from actorwork import Cron, Interval
from actorwork.policy.catchup import LATE, MOST, FiringRule, Plan, due_at, plan

MINUTE = 60_000
HOUR = 60 * MINUTE


def rule(**more: Any) -> FiringRule:
    return attrs.evolve(FiringRule(id="t", schedule=Interval(minutes=1)), **more)


def decide(rule: FiringRule, now: int, *, last: int = 0, watched_since: int = 0, registered: int = 0) -> Plan:
    return plan(rule, registered=registered, last=last, now=now, watched_since=watched_since)


@pytest.mark.parametrize("catchup", ["all", "one", "skip"])
def test_what_falls_due_while_somebody_watches_fires_whatever_the_policy(catchup: Any):
    found = decide(rule(catchup=catchup), 5 * MINUTE + 3, last=4 * MINUTE, watched_since=MINUTE)
    assert found == Plan((5 * MINUTE,), 6 * MINUTE)


@pytest.mark.parametrize(
    ("catchup", "window", "expected"),
    [
        ("all", HOUR, [n * MINUTE for n in range(1, 11)]),
        ("one", HOUR, [10 * MINUTE]),
        ("skip", HOUR, []),
        ("all", 3 * MINUTE, [8 * MINUTE, 9 * MINUTE, 10 * MINUTE]),
        ("one", 3 * MINUTE, [10 * MINUTE]),
        ("all", 10_000, []),
        ("one", 10_000, []),
        ("skip", 10_000, []),
    ],
)
def test_after_a_gap_of_ten_intervals_the_policy_and_its_window_decide(catchup: Any, window: int, expected: list[int]):
    now = 10 * MINUTE + 30_000
    found = decide(rule(catchup=catchup, window=window), now, watched_since=now)
    if expected and window == 3 * MINUTE:
        expected = [nominal for nominal in expected if now - nominal <= window]
    assert found == Plan(tuple(expected), 11 * MINUTE)


def test_skip_fires_the_newest_of_several_if_it_watched_and_is_not_late():
    assert decide(rule(catchup="skip"), 10 * MINUTE + LATE, watched_since=1).fire == (10 * MINUTE,)
    assert decide(rule(catchup="skip"), 10 * MINUTE + LATE + 1, watched_since=1).fire == ()


def test_of_many_missed_times_the_newest_fire():
    found = decide(rule(schedule=Interval(seconds=1)), 10 * HOUR, watched_since=10 * HOUR)
    assert len(found.fire) == MOST
    assert found.fire[-1] == 10 * HOUR


def test_a_lifetime_is_counted_from_the_first_registration():
    mortal = rule(lifetime=5 * MINUTE)
    assert decide(mortal, 4 * MINUTE, last=3 * MINUTE) == Plan((4 * MINUTE,), 5 * MINUTE)
    assert decide(mortal, 5 * MINUTE, last=4 * MINUTE) == Plan((5 * MINUTE,), None)
    assert decide(mortal, 9 * MINUTE, last=4 * MINUTE) == Plan((5 * MINUTE,), None)
    assert decide(mortal, 9 * MINUTE, last=5 * MINUTE) == Plan((), None)


@pytest.mark.parametrize("step", [-HOUR, HOUR])
def test_a_clock_that_is_set_back_or_forward_doubles_nothing_and_loses_nothing(step: int):
    every = rule(schedule=Interval(minutes=10))
    real, last, fired = 0, 0, list[int]()
    for _ in range(600):
        real += MINUTE
        clock = real + (step if 200 <= real // MINUTE < 300 else 0)
        found = decide(every, clock, last=last, watched_since=1)
        fired += found.fire
        last = found.fire[-1] if found.fire else last
    assert fired == [n * 10 * MINUTE for n in range(1, 61)]


schedules = st.one_of(
    st.integers(1, 500).map(lambda s: Interval(seconds=s)),
    st.sampled_from([Cron("*/7 * * * *"), Cron("* * * * * */9")]),
)


@settings(deadline=None, max_examples=50)
@given(schedules, st.sampled_from(["all", "one", "skip"]), st.integers(0, 20 * MINUTE), st.integers(0, 2**32))
def test_whoever_looks_when_told_to_fires_each_time_once_and_on_time(
    schedule: Any, catchup: Any, jitter: int, seed: int
):
    dice = random.Random(seed)
    every = rule(schedule=schedule, catchup=catchup, window=24 * HOUR)
    spread = rule(schedule=schedule, catchup="all", jitter=jitter, window=24 * HOUR)
    for one in (every, spread):
        now, last, fired = 1_000, 1_000, list[int]()
        while len(fired) < 20:
            found = decide(one, now, last=last, watched_since=1_000, registered=1_000)
            assert found.wake is not None
            assert found.wake > now
            for nominal in found.fire:
                assert nominal <= due_at(one, nominal) <= now
                assert due_at(one, nominal) < nominal + max(1, one.jitter)
            fired += found.fire
            last = found.fire[-1] if found.fire else last
            now = found.wake + dice.randrange(5)  # a little late
        expected = decide(rule(schedule=schedule), fired[-1], last=1_000, registered=1_000).fire
        assert tuple(fired) == expected
        assert all(earlier < later for earlier, later in pairwise(fired))


def test_jitter_is_the_same_on_every_node_and_differs_from_time_to_time():
    spread = rule(jitter=30_000)
    delays = [due_at(spread, n * MINUTE) - n * MINUTE for n in range(100)]
    assert delays == [due_at(rule(jitter=30_000), n * MINUTE) - n * MINUTE for n in range(100)]
    assert len(set(delays)) > 90
    assert 0 <= min(delays) < 5_000
    assert 25_000 < max(delays) < 30_000
    assert due_at(rule(id="other", jitter=30_000), MINUTE) != due_at(spread, MINUTE)
