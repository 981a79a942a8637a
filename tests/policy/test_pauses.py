"""What a pause concerns."""

from collections.abc import Collection

import pytest
from hypothesis import example, given, strategies as st

from actorwork.policy.pauses import is_off, trigger_name, withheld
from actorwork.records import Pause, PauseKind

TITLES = st.text("a/\\", min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("everything", "", {"orders", "mail"}),
        ("actor", "shop", {"orders", "mail"}),
        ("actor", "orders", set[str]()),
        ("source", "orders", {"orders"}),
        ("source", "shop", set[str]()),
        ("triggers", "shop", set[str]()),
        ("trigger", "shop/nightly", set[str]()),
    ],
)
def test_an_actor_reads_nothing_of_what_is_paused(kind: PauseKind, name: str, expected: Collection[str]):
    assert withheld([Pause(kind, name)], actor="shop", sources={"orders", "mail"}) == expected


@pytest.mark.parametrize(
    ("kind", "name", "is_paused"),
    [
        ("node", "web1", True),
        ("node", "web1:7", True),
        ("node", "web1:8", False),
        ("node", "web", False),
        ("node", "pool", False),
        ("process", "pool", True),
        ("process", "pool 2", True),
        ("process", "pool 1", False),
        ("process", "web1", False),
    ],
)
def test_a_node_reads_nothing_while_it_or_its_process_is_paused(kind: PauseKind, name: str, is_paused: bool):
    found = withheld([Pause(kind, name)], actor="shop", sources={"orders"}, node="web1:7", process="pool 2")
    assert found == ({"orders"} if is_paused else set())
    assert withheld([Pause(kind, name)], actor="shop", sources={"orders"}) == set()


def test_several_pauses_come_together():
    pauses = [Pause("source", "orders"), Pause("source", "elsewhere"), Pause("source", "mail")]
    assert withheld(pauses, actor="shop", sources={"orders", "mail", "news"}) == {"orders", "mail"}


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("everything", "", False),
        ("actor", "shop", False),
        ("triggers", "shop", True),
        ("triggers", "other", False),
        ("trigger", trigger_name("shop", "nightly"), True),
        ("trigger", trigger_name("shop", "hourly"), False),
        ("trigger", trigger_name("other", "nightly"), False),
    ],
)
def test_triggers_fire_unless_they_are_paused_themselves(kind: PauseKind, name: str, expected: bool):
    assert is_off([Pause(kind, name)], actor="shop", trigger="nightly") is expected


@given(TITLES, TITLES, TITLES, TITLES)
@example("a/b", "c", "a", "b/c")
@example("a\\", "b/c", "a\\/b", "c")
@example("a", "/b", "a/", "b")
def test_no_two_triggers_have_one_name(actor: str, trigger: str, other: str, others: str):
    assert (trigger_name(actor, trigger) == trigger_name(other, others)) is ((actor, trigger) == (other, others))
