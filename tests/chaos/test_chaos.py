"""A minute of chaos, a thousand chords and entities (`just chaos` runs more), and what makes a run repeatable."""

from itertools import islice

import pytest

from . import cluster_act, entities
from .__main__ import main
from .entities import Listed
from .environment import CARRY_OUT
from .plan import (
    CRASH_AT_REDIS,
    CRASH_BETWEEN_SLOTS,
    CRASH_EMBEDDED,
    CRASH_WITH_STATES,
    KINDS,
    MEMBERS,
    NODES,
    OF_CHAOS,
    PROCESSES,
    WEIGHTS,
    WIPES,
    faults,
)


def test_a_seed_is_a_plan():
    first, again, other = (list(islice(faults(seed, act="kept"), 200)) for seed in (7, 7, 8))
    assert first == again != other


def test_whatever_is_planned_can_be_carried_out_and_is_planned_some_day():
    planned = {act: {fault.name for fault in islice(faults(1, act=act), 5000)} for act in KINDS}
    assert planned == {
        "kept": WEIGHTS.keys() - WIPES - MEMBERS,
        "forgetful": WEIGHTS.keys() - MEMBERS,
        "embedded": PROCESSES,
        "cluster": WEIGHTS.keys() - WIPES,
        "chords": NODES,
        "embedded chords": NODES,
        "cluster chords": WEIGHTS.keys() - WIPES - OF_CHAOS,
        "entities": NODES,
        "embedded entities": NODES,
        "cluster entities": WEIGHTS.keys() - WIPES - OF_CHAOS,
    }
    assert cluster_act.CARRY_OUT.keys() == WEIGHTS.keys()
    assert CARRY_OUT.keys() == WEIGHTS.keys() - MEMBERS


def test_each_crash_point_of_a_node_is_in_some_plan():
    def points(act: str) -> set[str]:
        return {fault.point.partition(":")[0] for fault in islice(faults(1, act=act), 500)}

    assert points("kept") == points("chords") == {*CRASH_AT_REDIS}
    assert points("cluster") == points("cluster chords") == {*CRASH_AT_REDIS, *CRASH_BETWEEN_SLOTS}
    assert points("cluster entities") == {*CRASH_AT_REDIS, *CRASH_BETWEEN_SLOTS, *CRASH_WITH_STATES}
    assert points("embedded") == points("embedded chords") == {*CRASH_EMBEDDED}
    assert points("entities") == {*CRASH_AT_REDIS, *CRASH_WITH_STATES}
    assert points("embedded entities") == {*CRASH_EMBEDDED, *CRASH_WITH_STATES}


OWN: dict[str, list[int]] = {"a": [1, 3, 5], "b": [2, 29, 4]}
RIGHT: dict[str, list[int]] = {"a": [1, 3, 5], "b": [2, 4]}


def complaints(**states: list[int]) -> list[str]:
    lists = RIGHT | states
    receipts = sorted({number for numbers in lists.values() for number in numbers})
    given = {key: (len(numbers), Listed(numbers, commits=len(numbers))) for key, numbers in lists.items() if numbers}
    return entities.audit(OWN, given, receipts).complaints()


def test_states_that_list_their_own_numbers_in_order_are_right():
    assert complaints() == []


@pytest.mark.parametrize(
    ("listed", "what"),
    [
        ([1, 5], "lost: 3"),
        ([], "lost: 1, 3, 5"),
        ([1, 3, 3, 5], "more than once: 3"),
        ([1, 5, 3], "another order"),
        ([1, 3, 5, 2], "not its own: 2"),
        ([1, 3, 5, 29], "not its own: 29"),
    ],
)
def test_states_that_are_wrong_are_found(listed: list[int], what: str):
    assert any("the state of a " in one and what in one for one in complaints(a=listed))


def test_versions_and_receipts_that_do_not_agree_with_the_states_are_found():
    states = {"a": (4, Listed([1, 3, 5], commits=3)), "b": (2, Listed([2, 4], commits=2))}
    found = entities.audit(OWN, states, [1, 2, 3, 4, 4]).complaints()
    assert found == [
        "the state of a has the version 4 after 3 commits",
        "states and receipts that were not settled together: 4, 5",
    ]


@pytest.mark.chaos
@pytest.mark.parametrize(("broker", "seconds"), [("redis", 15), ("sqlite", 15), ("cluster", 15)])
def test_states_of_two_hundred_keys_while_their_nodes_are_killed_and_frozen(broker: str, seconds: int):
    assert main(["--entities", str(seconds), "--seed", "1", "--broker", broker]) == 0


@pytest.mark.chaos
@pytest.mark.parametrize(
    "arguments",
    [["--acts", "kept,forgetful,embedded", "--seconds", "45"], ["--cluster", "--seconds", "15"]],
    ids=["of one server", "of a cluster"],
)
def test_a_minute_of_chaos(arguments: list[str]):
    assert main([*arguments, "--seed", "1"]) == 0


@pytest.mark.chaos
@pytest.mark.parametrize(("broker", "count"), [("redis", 1000), ("sqlite", 300), ("cluster", 100)])
def test_hundreds_of_chords_while_their_nodes_are_killed_and_frozen(broker: str, count: int):
    assert main(["--chords", str(count), "--seed", "1", "--broker", broker]) == 0
