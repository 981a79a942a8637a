"""The decisions, against naive models of themselves."""

import math
import random
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio
from hypothesis import given, strategies as st

from actorwork import (
    Cron,
    Exponential,
    Fixed,
    Intensity,
    Interval,
    Linear,
    RetryPolicy,
    Settings,
    SettingsError,
    Uniform,
    errors,
)
from actorwork.errors import ProcessLost
from actorwork.policy.exits import Exit, Kind, is_counted
from actorwork.policy.intake import AHEAD, prefetch, smoothed
from actorwork.policy.restart import Window
from actorwork.policy.retry import VERDICT_ATTEMPTS, BackoffFunction
from actorwork.policy.settlement import (
    LONGEST_DELAY,
    Ack,
    Fail,
    Reject,
    Retry,
    Settlement,
    decisive,
    failure_of,
    settlement_for,
)


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


def test_an_error_of_many_words_keeps_its_beginning_and_its_end():
    failure = failure_of(ValueError("first" + "x" * 100_000 + "last"))
    assert failure.reason.startswith("firstx")
    assert failure.reason.endswith("xlast")
    assert "(96009 characters left out)" in failure.reason
    assert len(failure.reason) < 4_100


def test_an_error_that_was_never_raised_has_no_traceback():
    assert failure_of(ValueError("x")).traceback == ""


def test_an_ack_is_equal_to_another():
    assert Ack() == Ack()


# ---- backoff ----

seconds = st.floats(0, 1e6)
BACKOFFS: st.SearchStrategy[BackoffFunction] = st.one_of(
    st.builds(Fixed, seconds=seconds),
    st.builds(Linear, step=seconds, cap=seconds),
    st.builds(Exponential, base=seconds, factor=st.floats(1, 100), cap=seconds, jitter=st.floats(0, 1)),
    st.tuples(seconds, seconds).map(lambda pair: Uniform(low=min(pair), high=max(pair))),
)


@given(BACKOFFS, st.integers(1, 10**6), st.floats(0, 1, exclude_max=True))
def test_a_delay_is_finite_and_never_beyond_its_cap(backoff: BackoffFunction, failures: int, dice: float):
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


def test_a_restart_that_is_forgiven_leaves_room_for_another_one():
    intensity, window = Intensity(restarts=1, period=5), Window()
    window.forgive()
    for now in range(10):
        assert window.allows(intensity, now)
        window.forgive()


@pytest.mark.parametrize(
    ("exit", "counted"),
    [
        (Exit(Kind.CRASHED, ProcessLost("killed", pid=1, code=-9)), True),
        (Exit(Kind.CRASHED, ProcessLost("killed", pid=1, code=-9, had_suspects=True)), False),
        (Exit(Kind.INIT_FAILED, ProcessLost("killed", pid=1, code=-9)), True),
        (Exit(Kind.CRASHED, OSError("disk")), True),
        (Exit(Kind.NORMAL), True),
    ],
)
def test_only_the_death_of_a_process_by_a_suspect_is_not_counted(exit: Exit, counted: bool):
    assert is_counted(exit) is counted


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


# ---- retry rules ----


class Slow(TimeoutError):
    pass


class Throttled(Exception):
    def __init__(self, retry_after: object) -> None:
        super().__init__("slow down")
        self.retry_after = retry_after


class Answering:
    """A backoff that answers this, whatever it is."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def delay(self, failures: int, dice: Callable[[], float]) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


RULES = RetryPolicy(
    attempts=3,
    backoff=Fixed(seconds=3),
    on={OSError: RetryPolicy(attempts=5, backoff=Fixed(seconds=5)), TimeoutError: None, Slow: RetryPolicy(attempts=9)},
)


def ended(error: BaseException, attempt: int, retry: RetryPolicy = RULES) -> Settlement:
    return settlement_for(error, attempt=attempt, retry=retry, dice=lambda: 0.0)


@pytest.mark.parametrize("answer", ["5", None, True, float("nan"), float("inf"), KeyError("backoff")], ids=repr)
def test_a_backoff_that_cannot_be_waited_for_fails_the_message_with_both_errors(answer: object):
    settlement = ended(OSError("disk"), 1, RetryPolicy(attempts=3, backoff=Answering(answer)))
    assert isinstance(settlement, Fail)
    assert settlement.failure.type == ("KeyError" if isinstance(answer, Exception) else "ValueError")
    assert "OSError: disk" in settlement.failure.traceback


@pytest.mark.parametrize(("answer", "delay"), [(-5, 0.0), (3, 3.0), (1e300, LONGEST_DELAY)])
def test_a_delay_is_neither_negative_nor_longer_than_a_broker_can_count(answer: float, delay: float):
    settlement = ended(OSError(), 1, RetryPolicy(attempts=3, backoff=Answering(answer)))
    assert isinstance(settlement, Retry)
    assert settlement.delay == delay


def test_a_verdict_waits_no_longer_either():
    settlement = ended(errors.Retry(delay=1e300), 1)
    assert isinstance(settlement, Retry)
    assert settlement.delay == LONGEST_DELAY


@pytest.mark.parametrize(
    ("error", "attempts", "delay"),
    [
        (ValueError(), 3, 3.0),
        (OSError(), 5, 5.0),
        (ConnectionResetError(), 5, 5.0),  # an OSError
        (TimeoutError(), 1, None),
        (Slow(), 9, 1.0),  # a TimeoutError, with a rule of its own
        (errors.Retry(), 3, 3.0),  # a verdict goes by the policy itself
        (ExceptionGroup("", [ExceptionGroup("", [OSError()])]), 5, 5.0),
        (ExceptionGroup("", [OSError(), ValueError()]), 3, 3.0),  # the strictest
        (ExceptionGroup("", [OSError(), Slow(), TimeoutError()]), 1, None),
        (BaseExceptionGroup("", [OSError(), cancelled()]), 5, 5.0),
    ],
    ids=repr,
)
def test_the_rule_for_the_nearest_class_of_an_error_decides(error: BaseException, attempts: int, delay: float | None):
    if delay is not None:
        assert ended(error, 1) == Retry(delay, failure_of(decisive(error), within=error))
        assert isinstance(ended(error, attempts - 1), Retry)
    assert isinstance(ended(error, attempts), Fail)


@pytest.mark.parametrize(
    ("asked", "waited"),
    [
        (7, 7.0),
        (0.5, 0.5),
        (timedelta(minutes=1), 60.0),
        ("120", 120.0),
        (-3, 0.0),
        (1e9, 86_400.0),
        (math.inf, 86_400.0),
    ],
)
def test_an_error_that_says_when_to_try_again_is_heard(asked: object, waited: float):
    settlement = ended(Throttled(asked), 1)
    assert isinstance(settlement, Retry)
    assert settlement.delay == waited
    assert isinstance(ended(Throttled(asked), 3), Fail)


@pytest.mark.parametrize("asked", [None, True, math.nan, "Wed, 21 Oct 2015 07:28:00 GMT", "soon", [], object()])
def test_what_is_no_delay_is_not_heard(asked: object):
    settlement = ended(Throttled(asked), 1)
    assert isinstance(settlement, Retry)
    assert settlement.delay == 3.0


def test_of_several_delays_the_longest_is_waited_for():
    settlement = ended(ExceptionGroup("", [Throttled(7), Throttled(9), ValueError()]), 1)
    assert isinstance(settlement, Retry)
    assert settlement.delay == 9.0


def test_a_delay_that_cannot_be_read_is_none():
    class Odd(Exception):
        @property
        def retry_after(self) -> float:
            raise RuntimeError("no")

    assert isinstance(ended(Odd(), 1), Retry)


@pytest.mark.parametrize(
    ("on", "said"),
    [
        ([TimeoutError], "wants a mapping"),
        ({"TimeoutError": None}, "exception classes as keys, got 'TimeoutError'"),
        ({KeyboardInterrupt: None}, "exception classes as keys"),
        ({errors.Reject: None}, "Reject is a verdict"),
        ({TimeoutError: 3}, "on[TimeoutError] wants a RetryPolicy, or None for never, got 3"),
        ({TimeoutError: RULES}, "on[TimeoutError] has rules of its own"),
    ],
)
def test_rules_that_are_none_are_refused(on: Any, said: str):
    with pytest.raises(SettingsError, match=re.escape(said)):
        RetryPolicy(on=on)


def test_a_handler_that_asks_for_a_retry_gets_one_without_any_policy():
    unset = Settings(title="a").retry
    answers = [ended(errors.Retry(), attempt, unset) for attempt in (1, VERDICT_ATTEMPTS - 1)]
    assert [type(answer) for answer in answers] == [Retry, Retry]
    assert isinstance(ended(errors.Retry(), VERDICT_ATTEMPTS, unset), Fail)
    assert isinstance(ended(OSError(), 1, unset), Fail), "an error is not the handler's decision"


def test_a_policy_of_the_actors_own_bounds_the_retries_that_its_handlers_ask_for():
    own = Settings(title="a", retry=RetryPolicy(attempts=1)).retry
    assert isinstance(ended(errors.Retry(), 1, own), Fail)


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


def odd_syntax_error() -> SyntaxError:
    details: Any = ("file", 1, 1, 5)  # The text is a number, which `traceback` does not expect.
    return SyntaxError("bad", details)


@pytest.mark.parametrize("error", [Unspeakable(), odd_syntax_error()], ids=["its text", "its traceback"])
def test_an_error_that_cannot_be_put_into_words_still_fails_its_message(error: Exception):
    try:
        raise error
    except Exception as raised:  # noqa: BLE001 - with a traceback, as a handler's error has one
        settlement = ended(raised, 1, RetryPolicy())
    assert isinstance(settlement, Fail)
    assert settlement.failure.type == type(error).__qualname__
