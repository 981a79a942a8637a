"""How many replicas: within the bounds, at rest under a constant load, quick when it jumps, slow when it falls."""

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from actorwork import SettingsError
from actorwork.policy.scaling import Load, Scale, wanted

TICK = 2.0


def scale_of(low: int, more: int, backlog: float, wait: float | None, cooldown: float) -> Scale:
    return Scale(min=low, max=low + more, target_backlog=backlog, target_wait=wait, cooldown=cooldown)


scales = st.builds(
    scale_of,
    st.integers(1, 5),
    st.integers(0, 20),
    st.floats(1, 1000),
    st.none() | st.floats(0.1, 100),
    st.floats(1, 300),
)
loads = st.builds(Load, st.integers(0, 10**6), st.none() | st.floats(0, 10**5), st.floats(0, 1))


class Simulation:
    """Decides again and again, as the runtime does."""

    def __init__(self, scale: Scale, replicas: int | None = None) -> None:
        self.scale = scale
        self.replicas = scale.min if replicas is None else replicas
        self.now = 0.0
        self.changed = 0.0
        self.changes: list[int] = []

    def tick(self, load: Load) -> int:
        self.now += TICK
        target = wanted(self.scale, load, self.replicas, quiet=self.now - self.changed).replicas
        if target != self.replicas:
            self.replicas, self.changed = target, self.now
            self.changes.append(target)
        return target


@given(scales, loads, st.integers(0, 40), st.floats(0, 1000))
def test_never_outside_of_the_bounds(scale: Scale, load: Load, replicas: int, quiet: float):
    decision = wanted(scale, load, replicas, quiet=quiet)
    assert scale.min <= decision.replicas <= scale.max
    assert bool(decision.reason) is (decision.replicas != replicas)


@given(scales, loads, st.data())
def test_it_shrinks_by_one_and_only_after_the_cooldown(scale: Scale, load: Load, data: st.DataObject):
    replicas = data.draw(st.integers(scale.min, scale.max))
    quiet = data.draw(st.floats(0, 1000))
    decision = wanted(scale, load, replicas, quiet=quiet).replicas
    assert decision >= replicas - 1
    if quiet < scale.cooldown:
        assert decision >= replicas


@settings(deadline=None, max_examples=40)
@given(scales, loads, st.data())
def test_what_is_measured_over_and_over_brings_it_to_rest(scale: Scale, load: Load, data: st.DataObject):
    """The same figures, whatever it does about them."""
    simulation = Simulation(scale, data.draw(st.integers(scale.min, scale.max)))
    for _ in range(int((scale.max + 1) * (scale.cooldown / TICK + 2))):
        simulation.tick(load)
    directions = {after > before for before, after in pairwise(simulation.changes)}
    assert len(directions) <= 1
    before = list(simulation.changes)
    for _ in range(int(3 * scale.cooldown / TICK + 3)):
        simulation.tick(load)
    assert simulation.changes == before


@settings(deadline=None, max_examples=40)
@given(scales, st.floats(0, 30), st.data())
def test_a_constant_demand_does_not_make_it_flap(scale: Scale, demand: float, data: st.DataObject):
    """So much work for so many replicas: those that are there share it; what they cannot do piles up."""
    simulation = Simulation(scale, data.draw(st.integers(scale.min, scale.max)))
    waiting = oldest = 0.0
    for _ in range(int((scale.max + 1) * (scale.cooldown / TICK + 2))):
        replicas = simulation.replicas
        waiting = max(0.0, waiting + (demand - replicas) * TICK)
        oldest = oldest + TICK if waiting else 0.0
        simulation.tick(Load(int(waiting + min(demand, replicas)), oldest or None, min(1.0, demand / replicas)))
    turns = sum(
        (after > before) is not (before > earlier)
        for earlier, before, after in zip(
            simulation.changes, simulation.changes[1:], simulation.changes[2:], strict=False
        )
    )
    # It may go down, up as the backlog comes, and down as that is done; then it stays.
    assert turns <= 2


@given(scales, st.data())
def test_a_jump_of_the_backlog_is_answered_at_once(scale: Scale, data: st.DataObject):
    assert scale.target_backlog is not None
    replicas = data.draw(st.integers(scale.min, scale.max))
    needed = data.draw(st.integers(replicas, 2 * scale.max))
    backlog = math.floor(scale.target_backlog * needed)
    decision = wanted(scale, Load(backlog, None, 1.0), replicas, quiet=0).replicas
    assert decision == min(scale.max, max(replicas, math.ceil(backlog / scale.target_backlog)))


def test_messages_that_wait_too_long_are_answered_step_by_step():
    simulation = Simulation(Scale(max=20, target_backlog=None, target_wait=5, cooldown=60))
    seen = [simulation.tick(Load(3, 6.0, 1.0)) for _ in range(30)]
    assert simulation.changes == [2, 3, 4, 6, 9, 13, 19, 20]
    assert seen[2] == 2
    assert "has waited 6.0 s, the target is 5 s" in wanted(simulation.scale, Load(3, 6.0, 1.0), 2, quiet=9).reason


def test_it_goes_down_slowly_and_stays_where_those_who_are_left_would_be_busy():
    simulation = Simulation(Scale(max=8, cooldown=60), replicas=8)
    busy = 2.0
    for _ in range(600):
        simulation.tick(Load(2, None, busy / simulation.replicas))
    assert simulation.changes == [7, 6, 5, 4, 3]
    assert simulation.now > 300


def test_while_messages_wait_nobody_goes():
    scale = Scale(max=8, target_backlog=100, target_wait=10)
    assert wanted(scale, Load(0, 6.0, 0.0), 4, quiet=1000).replicas == 4
    assert wanted(scale, Load(0, 4.0, 0.0), 4, quiet=1000).replicas == 3
    assert wanted(scale, Load(151, None, 0.0), 4, quiet=1000).replicas == 4
    assert wanted(scale, Load(150, None, 0.0), 4, quiet=1000).replicas == 3


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"min": 0}, "Scale.min wants a whole number from 1"),
        ({"min": True}, "Scale.min wants"),
        ({"max": 2.5}, "Scale.max wants a whole number"),
        ({"min": 3, "max": 2}, "Scale.max wants at least min=3, got 2"),
        ({"target_backlog": 0}, "Scale.target_backlog wants a finite number > 0"),
        ({"target_wait": math.inf}, "Scale.target_wait wants"),
        ({"cooldown": -1}, "Scale.cooldown wants"),
        ({"cooldown": None}, "Scale.cooldown wants"),
        ({"target_backlog": None, "target_wait": None}, "it would never grow"),
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, Any], complaint: str):
    with pytest.raises(SettingsError, match=complaint):
        Scale(**wrong)
