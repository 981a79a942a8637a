"""A minute of chaos (`just chaos` runs more), and what makes a run repeatable."""

from itertools import islice

import pytest

from .__main__ import main
from .environment import CARRY_OUT
from .plan import CRASH_AT_REDIS, CRASH_EMBEDDED, PROCESSES, WEIGHTS, WIPES, faults


def test_a_seed_is_a_plan():
    first, again, other = (list(islice(faults(seed, act="kept"), 200)) for seed in (7, 7, 8))
    assert first == again != other


def test_whatever_is_planned_can_be_carried_out_and_is_planned_some_day():
    planned = {
        act: {fault.name for fault in islice(faults(1, act=act), 5000)} for act in ("kept", "forgetful", "embedded")
    }
    assert planned == {"kept": WEIGHTS.keys() - WIPES, "forgetful": WEIGHTS.keys(), "embedded": PROCESSES}
    assert CARRY_OUT.keys() == WEIGHTS.keys()


def test_each_crash_point_of_a_node_is_in_some_plan():
    points = {
        fault.point.partition(":")[0] for act in ("kept", "embedded") for fault in islice(faults(1, act=act), 500)
    }
    assert points == {*CRASH_AT_REDIS, *CRASH_EMBEDDED}


@pytest.mark.chaos
def test_a_minute_of_chaos():
    assert main(["--seconds", "60", "--seed", "1"]) == 0
