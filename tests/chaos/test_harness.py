"""A minute of the harness (`just chaos-harness` runs more), and what makes its verdict worth something."""

from collections.abc import Callable, Generator
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest

from . import chords
from .effects import Effects, audit
from .harness import CARRY_OUT, WEIGHTS, faults, main, most_at_once


def test_a_seed_is_a_plan_in_which_every_fault_has_its_turn():
    first, again, other = (list(islice(faults(seed), 3000)) for seed in (7, 7, 8))
    assert first == again != other
    assert {fault.name for fault in first} == WEIGHTS.keys() == CARRY_OUT.keys()


def send(effects: Effects, number: int, kind: str = "plain", *, key: str | None = None) -> None:
    effects.sending(number, kind, "client", key)
    effects.accepted(number)


def handle(effects: Effects, stage: str, number: int, *, delivery: str = "") -> None:
    for what in ("begun", "ended"):
        effects.note(stage, what, number, delivery or f"{stage}-{number}", 1)


@pytest.fixture
def effects(tmp_path: Path) -> Generator[Effects]:
    """The ledger of three messages of one key that went through the chain, and of a bad one."""
    with closing(Effects(tmp_path / "effects.sqlite3")) as made:
        for number in (1, 2, 3):
            send(made, number, key="k")
            for stage in ("first", "second", "third"):
                handle(made, stage, number)
        send(made, 4, "bad")
        made.note("first", "begun", 4, "first-4", 1)
        made.note("second", "written", 1, "second-1", 1, value=10)
        made.note("second", "written", 2, "second-2", 1, value=11)
        yield made


def test_a_chain_without_a_fault_is_clean(effects: Effects):
    handle(effects, "first", 2)  # Its node died before the settlement: run again, with one effect.
    effects.sending(5, "plain", "redis-py")  # Its producer does not know whether it was accepted.
    found = audit(effects, [1, 2, 3], {4: "ValueError"})
    assert found.is_clean
    assert (found.handled, found.again, dict(found.dead), dict(found.innocent)) == (3, 1, {"bad": 1}, {})
    assert found.routes == {"client": (4, 4), "redis-py": (1, 0)}


def overtake(effects: Effects) -> None:
    """Let a message begin between the begin and the end of the one before it."""
    for number in (7, 8):
        send(effects, number, key="other")
    effects.note("first", "begun", 7, "first-7", 1)
    effects.note("first", "begun", 8, "first-8", 2)
    effects.note("first", "ended", 7, "first-7", 1)
    effects.note("first", "ended", 8, "first-8", 2)


def leave(_: Effects) -> None:
    """Spoil nothing in the ledger: what is wrong is among the receipts and the dead letters."""


SPOILS: dict[str, tuple[Callable[[Effects], object], list[int], list[int], object]] = {
    "lost": (leave, [1, 3], [4], [2]),
    "doubled": (lambda effects: handle(effects, "third", 2, delivery="another"), [1, 2, 3], [4], [2]),
    "doubled at the end": (leave, [1, 2, 2, 3], [4], [2]),
    "disordered": (overtake, [1, 2, 3, 7, 8], [4], [("other", 7, 8)]),
    "contradictory": (leave, [1, 2, 3], [3, 4], [3]),
    "contradictory: never sent": (leave, [1, 2, 3, 9], [4], [9]),
    "overwritten": (
        lambda effects: effects.note("second", "written", 3, "second-3", 2, value=11),
        [1, 2, 3],
        [4],
        [11],
    ),
}


@pytest.mark.parametrize("name", SPOILS)
def test_each_broken_promise_is_found_and_only_that(effects: Effects, name: str):
    spoil, receipts, dead, wrong = SPOILS[name]
    spoil(effects)
    found = audit(effects, receipts, dict.fromkeys(dead, "ValueError"))
    assert not found.is_clean
    broken = {"lost", "doubled", "disordered", "contradictory", "overwritten"}
    field = next(one for one in broken if name.startswith(one))
    assert getattr(found, field) == wrong
    assert all(not getattr(found, other) for other in broken - {field})


def test_an_earlier_message_of_a_key_that_is_a_dead_letter_keeps_none_waiting(effects: Effects):
    overtake(effects)
    found = audit(effects, [1, 2, 3, 8], {4: "ValueError", 7: "Crashed"})
    assert found.is_clean
    assert dict(found.innocent) == {"Crashed": 1}


def test_what_ran_at_once_is_counted(effects: Effects):
    assert most_at_once(effects) == 1
    overtake(effects)
    assert most_at_once(effects) == 2


OWN = {number: chords.values_of(number) for number in (1, 2, 3)}


def audited(
    *, again: list[tuple[int, list[int]]], receipts: list[tuple[int, list[int]]], ends: dict[int, int | str]
) -> chords.Audit:
    """Audit three chords; `again` is what bodies were given in further runs."""
    given = {number: [values, *(more for one, more in again if one == number)] for number, values in OWN.items()}
    return chords.audit(OWN, given=given, receipts=receipts, ends=ends)


SUMS: dict[int, int | str] = {number: sum(values) for number, values in OWN.items()}
RUN = list(OWN.items())


def test_chords_whose_bodies_ran_once_with_their_own_values_are_clean():
    found = audited(again=[(2, OWN[2])], receipts=RUN, ends=SUMS)  # Its node died before the settlement.
    assert found.complaints() == []
    assert found.again == 1


@pytest.mark.parametrize(
    ("again", "receipts", "ends", "complaint"),
    [
        pytest.param(
            [(2, OWN[2])],
            [*RUN, (2, OWN[2])],
            SUMS,
            "chords whose body ran to an accepted end more than once: 2 (2 times)",
            id="a body that ran twice",
        ),
        pytest.param(
            [],
            [RUN[0], (2, [*OWN[2][:-1], 17]), RUN[2]],
            SUMS,
            "chords whose body was given other values than its own: 2 got [22, 29, 26, 23, 20, 27, 24, 21, 28, 17],"
            " wanted [22, 29, 26, 23, 20, 27, 24, 21, 28, 25]",
            id="a body with the value of another chord",
        ),
        pytest.param(
            [(3, sorted(OWN[3]))],
            RUN,
            SUMS,
            "chords whose body was given other values than its own: 3 got [30, 31, 32, 33, 34, 35, 36, 37, 38, 39],"
            " wanted [33, 30, 37, 34, 31, 38, 35, 32, 39, 36]",
            id="a body with its values in other places, in a run that was not accepted",
        ),
        pytest.param(
            [],
            [(1, OWN[1][1:]), *RUN[1:]],
            SUMS,
            "chords whose body was given other values than its own: 1 got [18, 15, 12, 19, 16, 13, 10, 17, 14],"
            " wanted [11, 18, 15, 12, 19, 16, 13, 10, 17, 14]",
            id="a body without one of its values",
        ),
        pytest.param(
            [], RUN[:2], SUMS, "chords whose body has not run to an accepted end: 3", id="a body that is missing"
        ),
        pytest.param(
            [],
            [*RUN, (4, chords.values_of(4))],
            SUMS,
            "bodies of chords that were never started: 4",
            id="a body of no chord",
        ),
        pytest.param(
            [],
            RUN,
            SUMS | {2: "AskTimeout: it waits"},
            "runs that are no success with the sum of their values: 2 (it ended as 'AskTimeout: it waits')",
            id="a run that has not ended",
        ),
        pytest.param(
            [],
            RUN,
            SUMS | {2: 244},
            "runs that are no success with the sum of their values: 2 (it ended as 244)",
            id="a run with another result",
        ),
        pytest.param(
            [],
            RUN,
            {1: SUMS[1], 3: SUMS[3]},
            "runs that are no success with the sum of their values: 2 (its end is unknown)",
            id="a run that is lost",
        ),
    ],
)
def test_each_broken_promise_to_a_chord_is_found_and_only_that(
    again: list[tuple[int, list[int]]],
    receipts: list[tuple[int, list[int]]],
    ends: dict[int, int | str],
    complaint: str,
):
    assert audited(again=again, receipts=receipts, ends=ends).complaints() == [complaint]


@pytest.mark.chaos
def test_half_a_minute_of_the_harness():
    assert main(["--minutes", "0.5", "--seed", "1"]) == 0
