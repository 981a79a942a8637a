"""What was handled in each minute: buckets of durations that add up, and the series that charts draw."""

import math
import random

import pytest
from hypothesis import given, strategies as st

from actorwork.policy.minutes import ALL, BOUNDS, MOST_SOURCES, TOGETHER, MinuteCounts, Tally, fields_of, from_fields
from actorwork.policy.series import added, percentile, series_of
from actorwork.policy.settlement import ACK, CANCELLED, EXPIRED, Ack, Fail, Failure, Reject, Retry

durations = st.floats(1e-4, 5000)


def tally_of(*seconds: float, source: str = "mails") -> Tally:
    tally = Tally()
    for one in seconds:
        tally.note(source, ACK, one)
    return tally


def buckets_of(*seconds: float) -> dict[int, int]:
    return dict(tally_of(*seconds).take()[ALL].buckets)


@given(st.lists(durations, min_size=1), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_percentile_is_off_by_the_width_of_a_bucket_at_most(seconds: list[float], share: float):
    exact = sorted(seconds)[max(0, math.ceil(share * len(seconds)) - 1)]
    found = percentile(buckets_of(*seconds), share)
    assert found is not None
    assert exact / 1.2500001 <= found <= exact * 1.2500001


@given(st.lists(st.lists(durations, min_size=1), min_size=1))
def test_the_buckets_of_many_nodes_and_minutes_add_up(parts: list[list[float]]):
    apart = added(MinuteCounts(0, buckets_of(*some)) for some in parts)
    assert apart.buckets == buckets_of(*(one for some in parts for one in some))


def test_the_median_of_many_equal_spread_durations_is_in_the_middle():
    dice = random.Random(7)
    buckets = buckets_of(*(dice.uniform(0.1, 0.3) for _ in range(10_000)))
    assert percentile(buckets, 0.5) == pytest.approx(0.2, rel=0.1)
    assert percentile(buckets, 0.99) == pytest.approx(0.298, rel=0.12)


def test_what_takes_no_time_or_days_has_a_bucket_too():
    assert buckets_of(0.0, 1e9) == {0: 1, len(BOUNDS): 1}
    assert percentile({len(BOUNDS): 1}, 0.5) == BOUNDS[-1]
    assert percentile({}, 0.5) is None


def test_failures_count_with_their_durations_and_what_was_not_handled_does_not():
    tally = tally_of(0.1)
    tally.note("mails", Ack(b"1"), 0.1)
    tally.note("mails", Retry(1.0, Failure("ValueError", "no")), 0.1)
    tally.note("mails", Fail(Failure("ValueError", "no")), 0.1)
    tally.note("mails", Reject(Failure("Reject", "no")), 0.1)
    tally.note("mails", Reject(Failure(EXPIRED, "too old")), 0.0)
    tally.note("mails", Reject(Failure(CANCELLED, "no more")), 0.1)
    counts = tally.take()["mails"]
    assert (counts.handled, counts.failed) == (5, 3)


def test_each_source_counts_by_itself_and_in_the_sum():
    tally = tally_of(*[0.1] * (TOGETHER + 1))
    for _ in range(2):
        tally.note("reports", ACK, 3.0)
    taken = tally.take()
    assert {source: one.handled for source, one in taken.items()} == {
        ALL: TOGETHER + 3,
        "mails": TOGETHER + 1,
        "reports": 2,
    }
    assert tally.take() == {}


def test_of_very_many_sources_the_busiest_count_by_themselves_and_all_in_the_sum():
    tally = Tally()
    for number in range(MOST_SOURCES + 10):
        for _ in range(1 if number < 10 else 2):
            tally.note(f"s{number}", ACK, 0.1)
    taken = tally.take()
    assert len(taken) == MOST_SOURCES + 1
    assert not {f"s{number}" for number in range(10)} & taken.keys()
    assert taken[ALL].handled == 2 * MOST_SOURCES + 10


def test_series_have_every_minute_also_those_without_counts():
    series = series_of(
        {100: MinuteCounts(1, {40: 3}), 98: MinuteCounts(0, {30: 1}), 90: MinuteCounts(9, {1: 9})}, 6001, 3
    )
    assert (series.minute, series.handled, series.failed) == (100, (1, 0, 3), (0, 0, 1))
    assert [one is None for one in series.p50] == [False, True, False]
    assert (series.whole.handled, series.whole.failed) == (4, 1)
    assert series.whole.p99 == pytest.approx(BOUNDS[40], rel=0.25)
    empty = series_of({}, 6001)
    assert sum(empty.handled) == 0
    assert empty.whole.p50 is None


@given(st.integers(0, 1000), st.dictionaries(st.integers(0, len(BOUNDS)), st.integers(1, 10**9)))
def test_what_is_stored_is_read_again(failed: int, buckets: dict[int, int]):
    found = from_fields(fields_of(MinuteCounts(failed, buckets)))
    assert (found.failed, found.buckets) == (failed, buckets)


def test_fields_that_are_not_known_are_left_out():
    found = from_fields([("3", 2), ("x", 1), ("-1", 1), ("9999", 1), ("4", -2), ("failed", -1), ("²", 1)])
    assert (found.failed, found.buckets) == (0, {3: 2})
