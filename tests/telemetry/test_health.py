"""Whether a node is live, ready, started: a table of facts."""

import pytest

from actorwork.abc import LeaseState
from actorwork.telemetry.health import Facts, Verdict, live, ready, started

HELD = LeaseState(6.5)
WELL = Facts("9a3c", has_started=True, lease=HELD)


def answers(facts: Facts) -> dict[str, tuple[str, ...]]:
    return {check.check: check.problems for check in (live(facts, 60.0), ready(facts, 60.0), started(facts))}


@pytest.mark.parametrize(
    ("facts", "problems"),
    [
        (WELL, {}),
        (Facts("9a3c", has_started=True), {}),
        (
            Facts("", has_started=False),
            {"ready": "it has not started yet", "started": "it has not started yet"},
        ),
        (
            Facts("9a3c", has_started=True, lease=HELD, stopping="SIGTERM"),
            {"ready": "it stops: SIGTERM"},
        ),
        (Facts("9a3c", has_started=True, lease=HELD, blocked=2.0), {}),
        (
            Facts("9a3c", has_started=True, lease=HELD, blocked=20.0, where="shop.py:3 in spin"),
            {"ready": "the loop has been blocked for 20.0 s by shop.py:3 in spin"},
        ),
        (
            Facts("9a3c", has_started=True, lease=HELD, blocked=61.0),
            {
                "live": "the loop has been blocked for 61.0 s, longer than the hang_timeout of 60 s",
                "ready": "the loop has been blocked for 61.0 s",
            },
        ),
        (
            Facts("9a3c", has_started=True, lease=LeaseState(3.0, "Connection refused")),
            {"ready": "the broker cannot be reached: Connection refused"},
        ),
        # A restart would not bring the broker back.
        (
            Facts("9a3c", has_started=True, lease=LeaseState(-300.0, "Connection refused")),
            {"ready": "the broker cannot be reached: Connection refused"},
        ),
        # Of a cluster, only the primary is away that has the lease: the node works for the others.
        (Facts("9a3c", has_started=True, lease=LeaseState(3.0, "Connection refused"), servers=3, away=1), {}),
        (
            Facts("9a3c", has_started=True, lease=LeaseState(-4.0, "Connection refused"), servers=3, away=1),
            {"ready": "the lease ran out 4.0 s ago, and the server that has it cannot be reached: Connection refused"},
        ),
        (
            Facts("9a3c", has_started=True, lease=LeaseState(3.0, "Connection refused"), servers=3, away=3),
            {"ready": "the broker cannot be reached: Connection refused"},
        ),
        (Facts("9a3c", has_started=True, lease=HELD, servers=3, away=1), {}),
        (
            Facts("9a3c", has_started=True, lease=LeaseState(-4.0)),
            {
                "live": "the lease ran out 4.0 s ago, and nothing renews it",
                "ready": "the lease ran out 4.0 s ago",
            },
        ),
    ],
)
def test_each_question_is_answered_from_the_facts(facts: Facts, problems: dict[str, str]):
    found = {check: "; ".join(said) for check, said in answers(facts).items() if said}
    assert found == problems


def test_a_short_hang_timeout_holds_for_readiness_too():
    facts = Facts("9a3c", has_started=True, blocked=2.0)
    assert not live(facts, 1.0).is_well
    assert not ready(facts, 1.0).is_well


def test_the_answer_names_what_is_known():
    assert ready(WELL, 60.0).as_json(WELL) == {
        "status": "pass",
        "check": "ready",
        "node": "9a3c",
        "problems": [],
        "started": True,
        "stopping": None,
        "loop": {"blocked_seconds": 0.0, "at": ""},
        "lease": {"left_seconds": 6.5, "trouble": ""},
        "broker": {"servers": 1, "away": 0},
    }
    assert Verdict("live", ("it hangs",)).as_json(WELL)["status"] == "fail"


def test_a_node_that_needs_no_lease_shows_none():
    facts = Facts("9a3c", has_started=True, lease=LeaseState(float("inf")))
    assert ready(facts, 60.0).as_json(facts)["lease"] is None
    assert ready(facts, 60.0).is_well
