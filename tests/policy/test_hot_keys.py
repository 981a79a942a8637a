"""Hot keys are found with a bounded number of counters, which are never too high."""

from collections import Counter

import hypothesis
from hypothesis import strategies

from actorwork.policy.hot_keys import COUNTERS, WINDOW, HotKeys


def of(keys: list[str], now: float = 0.0) -> HotKeys:
    found = HotKeys()
    for key in keys:
        found.note(key, now)
    return found


def test_the_hottest_keys_are_first():
    keys = ["ann"] * 30 + ["ben"] * 50 + [f"key {n}" for n in range(20)]
    assert of(keys).hottest(5, 1.0) == [("ben", 50), ("ann", 30)]


def test_where_every_key_is_alike_none_is_hot():
    assert of([f"key {n % 500}" for n in range(5000)]).hottest(5, 1.0) == []


def test_a_few_messages_make_no_key_hot():
    assert of(["ann", "ann"]).hottest(5, 1.0) == []


@hypothesis.given(strategies.lists(strategies.integers(0, 150).map(str), max_size=600))
def test_a_key_is_never_counted_too_high_and_a_frequent_one_is_never_missed(keys: list[str]):
    found = dict(of(keys).hottest(1000, 1.0))
    for key, count in Counter(keys).items():
        told = found.get(key, 0)
        assert told <= count
        # What is called hot at all has at least a hundredth, and three messages.
        if count - len(keys) / (COUNTERS + 1) >= max(3, len(keys) / 100):
            assert told >= count - len(keys) / (COUNTERS + 1)


def test_what_was_hot_in_the_window_before_the_last_is_forgotten():
    hot = of(["ann"] * 10, now=5.0)
    for _ in range(10):
        hot.note("ben", 5.0 + WINDOW)
    assert hot.hottest(5, 6.0 + WINDOW) == [("ann", 10), ("ben", 10)]
    assert hot.hottest(5, 5.0 + 2 * WINDOW) == [("ben", 10)]


def test_after_a_long_silence_nothing_is_hot():
    hot = of(["ann"] * 10)
    assert hot.hottest(5, 2 * WINDOW) == []
    hot.note("ben", 9 * WINDOW)
    assert hot.hottest(5, 9 * WINDOW) == []
