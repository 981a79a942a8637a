"""The decisions, against naive models of themselves."""

import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
from hypothesis import given, strategies as st

from actorwork import Cron, Exponential, Fixed, Intensity, Interval, Linear, RetryPolicy, SettingsError, Uniform, errors
from actorwork.policy.intake import AHEAD, prefetch, smoothed
from actorwork.policy.restart import Window
from actorwork.policy.retry import Backoff
from actorwork.policy.settlement import Ack, Fail, Reject, Retry, Settlement, decisive, failure_of, settlement_for


def cancelled() -> trio.Cancelled:
    return trio.Cancelled._create(source="unknown")  # type: ignore[call-arg]


class Own(BaseException):
    pass


LEAF: dict[str, Callable[[], BaseException]] = {
    "retry": lambda: errors.Retry(7, "r"),
    "reject": lambda: errors.Reject("r"),
    "fail": lambda: errors.Fail("r"),
    "error": lambda: ValueError("r"),
    "exit": lambda: SystemExit(1),
    "own": lambda: Own("r"),
    "cancelled": cancelled,
}


def wrapped(draw: Any, found: list[BaseException]) -> BaseException:
    """Put errors into groups within groups, as nurseries do."""
    while len(found) > 1 or draw(st.booleans()):
        count = draw(st.integers(1, len(found)))
        found = [BaseExceptionGroup("", found[:count]), *found[count:]]
        if draw(st.integers(0, 3)) == 0 and len(found) == 1:
            break
    return found[0]


@given(st.data(), st.lists(st.sampled_from(sorted(LEAF)), min_size=1, max_size=5), st.integers(1, 4), st.integers(1, 4))
def test_a_settlement_is_the_gravest_verdict_wherever_it_was_raised(
    data: st.DataObject, kinds: list[str], attempt: int, attempts: int
):
    error = wrapped(data.draw, [LEAF[kind]() for kind in kinds])
    retry = RetryPolicy(attempts=attempts, backoff=Fixed(seconds=3))
    got = settlement_for(error, attempt=attempt, retry=retry, dice=lambda: 0.0)

    counted = [kind for kind in kinds if kind != "cancelled"]
    left = attempt < attempts
    expected: type[Settlement]
    if "fail" in counted:
        expected = Fail
    elif "reject" in counted:
        expected = Reject
    elif "retry" in counted or (counted and all(kind == "error" for kind in counted)):
        expected = Retry if left else Fail
    else:
        expected = Fail
    assert type(got) is expected
    if isinstance(got, Retry):
        assert got.delay == (7 if "retry" in counted else 3)


def test_what_decides_is_the_only_leaf_or_the_group():
    one, two = ValueError("1"), KeyError("2")
    assert decisive(one) is one
    assert decisive(ExceptionGroup("", [ExceptionGroup("", [one])])) is one
    assert decisive(BaseExceptionGroup("", [cancelled(), one])) is one
    group = ExceptionGroup("", [one, two])
    assert decisive(group) is group


def test_errors_among_cancellations_are_retried_as_without_them():
    group = BaseExceptionGroup("", [ValueError(), ExceptionGroup("", [KeyError()]), cancelled()])
    assert not isinstance(group, Exception)
    retry = RetryPolicy(attempts=2, backoff=Fixed(seconds=3))
    assert isinstance(settlement_for(group, attempt=1, retry=retry, dice=lambda: 0.0), Retry)


def test_the_traceback_is_that_of_the_group_the_error_came_in():
    try:
        raise ExceptionGroup("outer", [ValueError("inner")])
    except ExceptionGroup as group:
        failure = failure_of(group.exceptions[0], within=group)
    assert (failure.type, failure.reason) == ("ValueError", "inner")
    assert "outer (1 sub-exception)" in failure.traceback


def test_an_error_that_was_never_raised_has_no_traceback():
    assert failure_of(ValueError("x")).traceback == ""


def test_an_ack_is_equal_to_another():
    assert Ack() == Ack()


# ---- backoff ----

seconds = st.floats(0, 1e6)
BACKOFFS: st.SearchStrategy[Backoff] = st.one_of(
    st.builds(Fixed, seconds=seconds),
    st.builds(Linear, step=seconds, cap=seconds),
    st.builds(Exponential, base=seconds, factor=st.floats(1, 100), cap=seconds, jitter=st.floats(0, 1)),
    st.tuples(seconds, seconds).map(lambda pair: Uniform(low=min(pair), high=max(pair))),
)


@given(BACKOFFS, st.integers(1, 10**6), st.floats(0, 1, exclude_max=True))
def test_a_delay_is_finite_and_never_beyond_its_cap(backoff: Backoff, failures: int, dice: float):
    delay = backoff.delay(failures, lambda: dice)
    cap = getattr(backoff, "cap", getattr(backoff, "high", getattr(backoff, "seconds", None)))
    assert cap is not None
    assert 0 <= delay <= cap * (1 + 1e-9)


@given(st.integers(1, 50))
def test_without_dice_delays_grow(failures: int):
    for backoff in (Linear(step=2, cap=20), Exponential(base=1, factor=3, cap=500)):
        none: Callable[[], float] = lambda: 0.0  # noqa: E731
        assert backoff.delay(failures, none) <= backoff.delay(failures + 1, none)


def test_exponential_is_what_it_says():
    backoff = Exponential(base=1, factor=2, cap=10, jitter=0.5)
    assert [backoff.delay(n, lambda: 0.0) for n in range(1, 7)] == [1, 2, 4, 8, 10, 10]
    assert [backoff.delay(n, lambda: 0.5) for n in range(1, 7)] == [0.75, 1.5, 3, 6, 7.5, 7.5]


def test_a_crowd_spreads():
    backoff = Exponential(cap=100, jitter=0.5)
    dice = random.Random(1).random
    delays = sorted(backoff.delay(30, dice) for _ in range(1000))
    assert 50 <= delays[0] < 53
    assert 97 < delays[-1] <= 100


# ---- restarts ----


@given(
    st.lists(st.floats(0, 10), max_size=30),
    st.integers(0, 5),
    st.floats(0.1, 20),
)
def test_the_window_allows_what_a_naive_count_allows(gaps: list[float], restarts: int, period: float):
    intensity = Intensity(restarts=restarts, period=period)
    window, now, history = Window(), 0.0, list[float]()
    for gap in gaps:
        now += gap
        history.append(now)
        allowed = window.allows(intensity, now)
        assert allowed == (len([moment for moment in history if moment >= now - period]) <= restarts)
        assert len(window) <= len(history)


def test_the_boundary_of_the_window_counts():
    intensity = Intensity(restarts=1, period=5)
    for later, allowed in ((5.0, False), (5.001, True)):
        window = Window()
        assert window.allows(intensity, 0.0)
        assert window.allows(intensity, later) is allowed


# ---- intake ----


@given(st.floats(0, 1e5), st.integers(1, 10_000), st.integers(1, 1_000_000))
def test_an_actor_holds_what_it_can_run_and_a_moment_of_work(each: float, concurrency: int, capacity: int):
    held = prefetch(seconds_each=each, concurrency=concurrency, capacity=capacity)
    assert concurrency <= held <= max(concurrency, capacity)
    assert (held - concurrency) * each <= AHEAD * concurrency * (1 + 1e-9)


@given(st.floats(0, 1e5), st.floats(0, 1e5))
def test_the_average_moves_towards_the_sample_and_never_past_it(average: float, sample: float):
    low, high = sorted((average, sample))
    assert low - 1e-9 <= smoothed(average, sample) <= high + 1e-9
    if sample > average * 8:
        assert smoothed(average, sample) == sample


# ---- schedules ----


@pytest.mark.parametrize(
    ("parts", "total"),
    [({"weeks": 1}, 604_800), ({"days": 1, "hours": 1}, 90_000), ({"minutes": 1.5}, 90), ({"seconds": 0.25}, 0.25)],
)
def test_an_interval_adds_its_parts(parts: dict[str, float], total: float):
    assert Interval(**parts).total_seconds == total


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({}, "Interval wants at least one part above 0, got 0 for all; for example"),
        ({"seconds": 0}, "at least one part above 0"),
        ({"hours": 1, "minutes": -1}, "Interval.minutes wants a finite number >= 0, got -1"),
        ({"days": float("inf")}, "Interval.days wants a finite number >= 0, got inf"),
        ({"days": float("nan")}, "Interval.days wants a finite number >= 0, got nan"),
        ({"weeks": "1"}, "Interval.weeks wants a finite number >= 0, got '1'"),
        ({"weeks": True}, "Interval.weeks wants a finite number >= 0, got True"),
    ],
)
def test_an_interval_that_is_none_is_refused(parts: dict[str, Any], text: str):
    with pytest.raises(SettingsError, match=text):
        Interval(**parts)


@pytest.mark.parametrize(
    "expression", ["* * * * *", "0 3 * * *", "*/5 9-17 * * mon-fri", "0 0 29 2 *", "@hourly", "0 0 1 1 * 30"]
)
def test_a_cron_expression_is_taken(expression: str):
    assert Cron(expression, "Europe/Berlin").expression == expression


@pytest.mark.parametrize(
    "expression",
    ["", "  ", "* * *", "61 * * * *", "nonsense", "* * * * * * * *", "a b c d e", None, 5, "*/0 * * * *", "0 0 31 2 *"],
)
def test_a_cron_expression_that_is_none_is_refused(expression: Any):
    with pytest.raises(SettingsError, match=r"Cron.expression"):
        Cron(expression)


@pytest.mark.parametrize(
    "timezone", ["Mars/Phobos", "", "../etc/passwd", "/etc/localtime", None, 1, datetime.now(UTC).tzinfo]
)
def test_a_timezone_that_is_none_is_refused(timezone: Any):
    with pytest.raises(SettingsError, match=r"Cron.timezone wants an IANA name such as 'Europe/Berlin', got"):
        Cron("* * * * *", timezone)
