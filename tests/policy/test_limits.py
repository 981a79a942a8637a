"""Limits, against naive models of themselves."""

import math
from typing import Any

import pytest
from hypothesis import given, strategies as st

from actorwork import Reject, SettingsError
from actorwork.policy.limits import (
    SLICES,
    Bulkhead,
    CircuitBreaker,
    CircuitState,
    Closed,
    ConcurrencyLimit,
    HalfOpen,
    Open,
    RateLimit,
    admitted,
    after_outcome,
    reserved,
)

GAPS = st.lists(st.integers(0, 400), max_size=80)
"""Hundredths of a second from one to the next: as whole numbers, so that sums of them are exact."""


@given(GAPS, st.integers(1, 20), st.integers(1, 8))
def test_a_bucket_of_tokens_lets_the_same_ones_through(gaps: list[int], rate: int, burst: int):
    limit = RateLimit(rate, per=rate * 0.5, burst=burst)  # One every half second.
    tat = -math.inf
    tokens, filled = float(burst), 0.0
    now = 0.0
    for gap in gaps:
        now += gap / 100
        tokens, filled = min(float(burst), tokens + (now - filled) / 0.5), now
        moved, wait = reserved(tat, now, interval=limit.interval, burst=burst)
        if abs(tokens - 1) > 1e-6:
            assert (wait < 1e-9) == (tokens >= 1)
        if wait < 1e-9:
            tat = moved
            tokens -= 1
        else:
            assert wait == pytest.approx((1 - tokens) * 0.5)


@given(GAPS, st.integers(1, 5), st.integers(1, 9))
def test_in_no_window_begin_more_than_the_rate_and_its_burst(gaps: list[int], burst: int, batch: int):
    """Who takes tokens in advance, in batches, and waits as told, keeps the rate as well."""
    tat, now = -math.inf, 0.0
    starts: list[float] = []
    for gap in gaps:
        now += gap / 100
        tat, wait = reserved(tat, now, interval=0.5, burst=burst, cost=batch)
        starts += [now + wait] * batch
    for position, start in enumerate(starts):
        within = [one for one in starts[position:] if one < start + 5 - 1e-9]
        assert len(within) <= 10 + max(burst, batch)


@given(st.integers(1, 100), st.integers(1, 100))
def test_under_load_the_rate_is_reached(rate: int, burst: int):
    tat, now = -math.inf, 0.0
    for _ in range(300):
        tat, wait = reserved(tat, now, interval=1 / rate, burst=burst)
        now += wait
    assert now == pytest.approx(max(0, 300 - burst) / rate)


OUTCOMES = st.lists(st.tuples(st.integers(0, 300), st.sampled_from([True, True, False, None])), max_size=80)


@given(OUTCOMES, st.integers(1, 4), st.sampled_from([0.0, 0.4, 0.5, 1.0]))
def test_a_circuit_is_what_a_list_of_all_outcomes_says(
    outcomes: list[tuple[int, bool | None]], failures: int, share: float
):
    rule = CircuitBreaker(failures=failures, within=10, reset=5, share=share)
    state: CircuitState = Closed()
    said: list[tuple[int, bool]] = []
    open_until = -math.inf
    half_open = False
    now = 0.0
    for gap, failed in outcomes:
        now += gap / 100
        state, may = admitted(state, now)
        assert may == (now >= open_until)
        if not may:
            continue
        probe = half_open or open_until > -math.inf
        assert isinstance(state, HalfOpen) == probe
        state = after_outcome(state, rule, now, failed=failed, probe=probe)
        if failed is None:
            assert isinstance(state, HalfOpen if probe else Closed)
            half_open = probe
            continue
        if probe:
            open_until, half_open, said = (now + 5 if failed else -math.inf), False, []
        else:
            said.append((int(now // (10 / SLICES)), failed))
            recent = [bad for number, bad in said if number > int(now // (10 / SLICES)) - SLICES]
            if failed and sum(recent) >= failures and sum(recent) >= share * len(recent):
                open_until, said = now + 5, []
        assert isinstance(state, Open) == (open_until > now)


def test_one_probe_at_a_time():
    state, may = admitted(Open(5.0), 5.0)
    assert (state, may) == (HalfOpen(probing=True), True)
    assert admitted(state, 6.0) == (state, False)


def test_what_began_before_the_circuit_opened_says_nothing_any_more():
    rule = CircuitBreaker(failures=1)
    for state in (Open(9.0), HalfOpen(), HalfOpen(probing=True)):
        for failed in (True, False, None):
            assert after_outcome(state, rule, 1.0, failed=failed, probe=False) == state


def test_a_probe_that_ends_after_somebody_closed_the_circuit_changes_nothing():
    assert after_outcome(Closed(), CircuitBreaker(), 1.0, failed=True, probe=True) == Closed()


@pytest.mark.parametrize(
    ("rate", "per", "at_once", "batch", "ahead"),
    [(100, 1, 10, 5, 10), (1, 3600, 1, 1, 1), (10_000, 1, 1000, 500, 1000)],
)
def test_what_follows_from_a_rate(rate: float, per: float, at_once: int, batch: int, ahead: int):
    limit = RateLimit(rate, per)
    assert (limit.at_once, limit.batch, limit.ahead) == (at_once, batch, ahead)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: RateLimit(0), "RateLimit.rate wants a number above 0"),
        (lambda: RateLimit(-1), "RateLimit.rate wants a number above 0"),
        (lambda: RateLimit(math.nan), "RateLimit.rate wants"),
        (lambda: RateLimit(True), "RateLimit.rate wants"),
        (lambda: RateLimit(1, per=0), "RateLimit.per wants seconds above 0"),
        (lambda: RateLimit(1, burst=0), "RateLimit.burst wants a whole number from 1"),
        (lambda: RateLimit(1, by=any_of("tenant")), "RateLimit.by wants 'key', a function"),
        (lambda: RateLimit(1, scope=any_of("everywhere")), "RateLimit.scope wants 'node' or 'global'"),
        (lambda: ConcurrencyLimit(0), "ConcurrencyLimit.limit wants a whole number from 1"),
        (lambda: ConcurrencyLimit(1, name=""), "ConcurrencyLimit.name wants a str"),
        (lambda: Bulkhead("", 3), "Bulkhead.name wants a str"),
        (lambda: Bulkhead("db", any_of(1.5)), "Bulkhead.limit wants"),
        (lambda: CircuitBreaker(failures=0), "CircuitBreaker.failures wants"),
        (lambda: CircuitBreaker(share=2), "CircuitBreaker.share wants a fraction from 0 to 1"),
        (lambda: CircuitBreaker(reset=math.inf), "CircuitBreaker.reset wants seconds above 0"),
        (lambda: CircuitBreaker(on=any_of([])), "CircuitBreaker.on wants exception classes"),
        (lambda: CircuitBreaker(on=(OSError, Reject)), "CircuitBreaker.on wants errors; a verdict does not show"),
        (lambda: CircuitBreaker(on=any_of("ValueError")), "CircuitBreaker.on wants exception classes"),
        (lambda: CircuitBreaker(on=any_of(KeyboardInterrupt)), "CircuitBreaker.on wants exception classes"),
    ],
)
def test_a_limit_that_cannot_be_is_refused(make: Any, said: str):
    with pytest.raises(SettingsError) as caught:
        make()
    assert str(caught.value).startswith(said)


def any_of(value: Any) -> Any:
    return value


def test_one_class_of_errors_is_enough():
    assert CircuitBreaker(on=any_of(OSError)).on == (OSError,)
    assert CircuitBreaker(on=any_of([OSError, ValueError])).on == (OSError, ValueError)
