"""Of many nodes that know the same nominal time, a few try to fire it at once."""

from random import Random

import pytest

from actorwork.policy.odds import LATER, LEAST, Odds


def tries_of(nodes: list[Odds], dice: Random) -> int:
    """Let one nominal time pass; return how many nodes have tried at once. Whoever is first fires, at random."""
    trying = [one for one in nodes if one.has_turn(dice.random())]
    first = dice.choice(trying or nodes)
    for one in nodes:
        if one is first:
            one.won()
        else:
            one.lost()
    return len(trying)


@pytest.mark.parametrize("count", [1, 2, 8])
def test_a_few_nodes_all_try_or_nearly_so(count: int):
    dice, nodes = Random(1), [Odds() for _ in range(count)]
    tries = [tries_of(nodes, dice) for _ in range(500)]
    assert min(tries) >= 1
    assert sum(tries[-100:]) / 100 >= min(count, 2)


@pytest.mark.parametrize("count", [100, 1000])
def test_of_many_nodes_a_few_try(count: int):
    dice, nodes = Random(2), [Odds() for _ in range(count)]
    assert tries_of(nodes, dice) == count, "at first nobody knows of the others"
    for _ in range(40):
        tries_of(nodes, dice)
    settled = [tries_of(nodes, dice) for _ in range(100)]
    assert min(settled) >= 1
    assert max(settled) <= 40


def test_if_those_that_try_have_gone_one_late_time_mends_it():
    dice, nodes = Random(3), [Odds() for _ in range(50)]
    for one in nodes:
        one.odds = LEAST
    tries = [tries_of(nodes, dice) for _ in range(20)]
    assert tries.count(0) <= 1
    assert 0 not in tries[2:]


def test_who_is_always_slower_tries_now_and_then_and_not_at_once_less():
    odds = Odds()
    for _ in range(8):
        odds.lost()
    assert odds.odds == 1.0
    for _ in range(1000):
        odds.lost()
    assert odds.odds == LEAST


def test_a_try_that_is_put_off_is_spread_over_a_second():
    dice = Random(4)
    waits = [Odds().later(dice.random()) for _ in range(1000)]
    assert LATER * 0.5 <= min(waits) < LATER * 0.55
    assert LATER * 1.45 < max(waits) <= LATER * 1.5
