"""A minute of chaos and a thousand chords (`just chaos` runs more), and what makes a run repeatable."""

from itertools import islice

import pytest

from .__main__ import main
from .environment import CARRY_OUT
from .plan import CRASH_AT_REDIS, CRASH_EMBEDDED, KINDS, NODES, PROCESSES, WEIGHTS, WIPES, faults


def test_a_seed_is_a_plan():
    first, again, other = (list(islice(faults(seed, act="kept"), 200)) for seed in (7, 7, 8))
    assert first == again != other


def test_whatever_is_planned_can_be_carried_out_and_is_planned_some_day():
    planned = {act: {fault.name for fault in islice(faults(1, act=act), 5000)} for act in KINDS}
    assert planned == {
        "kept": WEIGHTS.keys() - WIPES,
        "forgetful": WEIGHTS.keys(),
        "embedded": PROCESSES,
        "chords": NODES,
        "embedded chords": NODES,
    }
    assert CARRY_OUT.keys() == WEIGHTS.keys()


def test_each_crash_point_of_a_node_is_in_some_plan():
    def points(act: str) -> set[str]:
        return {fault.point.partition(":")[0] for fault in islice(faults(1, act=act), 500)}

    assert points("kept") == points("chords") == {*CRASH_AT_REDIS}
    assert points("embedded") == points("embedded chords") == {*CRASH_EMBEDDED}


@pytest.mark.chaos
def test_a_minute_of_chaos():
    assert main(["--seconds", "60", "--seed", "1"]) == 0


@pytest.mark.chaos
@pytest.mark.parametrize("broker", ["redis", "sqlite"])
def test_a_thousand_chords_while_their_nodes_are_killed_and_frozen(broker: str):
    assert main(["--chords", "1000", "--seed", "1", "--broker", broker]) == 0
