"""Whose turn it is between priorities, against what the rule promises."""

from collections import deque
from itertools import groupby

from hypothesis import given, strategies as st

from actorwork import Priority
from actorwork.actors.mailbox.priority_deque import PriorityDeque
from actorwork.policy.turns import FAVOURS, FairPriority


class Item:
    def __init__(self, number: int, priority: Priority | None) -> None:
        self.number = number
        self.priority = priority

    def __repr__(self) -> str:
        return f"{self.priority}/{self.number}"


def runs(levels: list[int], takes: int) -> list[tuple[int, int]]:
    """Return who has a turn how often in a row, where something of all `levels` always waits."""
    turns = FairPriority(4)
    return [(level, len(list(group))) for level, group in groupby(turns.next(levels) for _ in range(takes))]


def test_after_eight_of_one_level_one_below_has_its_turn():
    assert runs([0, 2], 27) == [(0, 8), (2, 1), (0, 8), (2, 1), (0, 8), (2, 1)]


def test_the_levels_below_share_their_turns_by_the_same_rule():
    taken = [(level, count) for level, count in runs([0, 1, 3], 9 * 9) if level]
    assert taken == [(1, 1)] * 8 + [(3, 1)]


@given(st.lists(st.sets(st.integers(0, 3), min_size=1).map(sorted), max_size=800))
def test_nobody_waits_longer_than_the_rule_says(rounds: list[list[int]]):
    turns = FairPriority(4)
    waited = [0] * 4
    for waiting in rounds:
        chosen = turns.next(waiting)
        assert chosen in waiting
        for level in range(4):
            waited[level] = waited[level] + 1 if level in waiting and level != chosen else 0
            assert waited[level] < (FAVOURS + 1) ** level + 1


@given(st.lists(st.sets(st.integers(0, 3), min_size=1).map(sorted), max_size=100))
def test_who_comes_rarely_goes_first_at_once(rounds: list[list[int]]):
    turns = FairPriority(4)
    for waiting in rounds:
        turns.next(waiting)
    turns.next([2])  # nothing more urgent waits
    assert turns.next([0, 3]) == 0


PRIORITIES = st.sampled_from([None, *Priority])
STEPS = st.lists(st.one_of(PRIORITIES.map(lambda p: ("append", p)), st.just(("take", None))), max_size=60)


@given(STEPS, st.sampled_from(Priority))
def test_within_a_level_items_come_out_as_they_went_in(steps: list[tuple[str, Priority | None]], usual: Priority):
    levels: PriorityDeque[Item] = PriorityDeque(usual)
    naive: dict[Priority, deque[Item]] = {priority: deque() for priority in Priority}
    for number, (step, priority) in enumerate(steps):
        if step == "append":
            item = Item(number, priority)
            levels.append(item)
            naive[usual if priority is None else priority].append(item)
        elif levels:
            item = levels.popleft()
            assert naive[usual if item.priority is None else item.priority].popleft() is item
        waiting = [item for queue in naive.values() for item in queue]
        assert (list(levels), len(levels), bool(levels)) == (waiting, len(waiting), bool(waiting))
