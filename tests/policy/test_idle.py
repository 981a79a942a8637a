"""Why nothing happens, as a table: the first reason that applies is the one that is named."""

from typing import Any

import attrs
import pytest

from actorwork.policy import idle
from actorwork.policy.idle import Place
from actorwork.policy.reports import Counts, HeldMessage, HoldUp, PartReport
from actorwork.records import Pause

AT = 1_700_000_000.0
MOMENT = "2023-11-14T22:13:20Z"
SOME = Counts("mails", backlog=3, oldest=9.0)
HELD = HeldMessage(what="m1", since=AT, source="mails", key="ann")


def place(state: str = "running", **facts: Any) -> Place:
    part = PartReport(title="mail", sources=("mails",), **facts)
    return Place(node="n1", name="h:1", state=state, part=part, blocked_for=20.4)


BUSY = place(handling=1, concurrency=1, in_hand=(HELD,))
RATE = HoldUp(kind="rate", name="smtp", waiting=2, until=AT)
CIRCUIT = HoldUp(kind="circuit", name="smtp", until=AT)


@pytest.mark.parametrize(
    ("counts", "pauses", "places", "code", "text"),
    [
        (SOME, [Pause("everything", by="ann", at=AT)], [], "paused", f"everything is paused by ann since {MOMENT}"),
        (SOME, [Pause("source", "mails", "full")], [BUSY], "paused", "source 'mails' is paused (full)"),
        (SOME, [Pause("actor", "mail")], [BUSY], "paused", "actor 'mail' is paused"),
        (SOME, [Pause("source", "other"), Pause("trigger", "mail/x")], [place()], "ready", "the next reader takes it"),
        (Counts("mails"), [], [], "nothing", "nothing waits"),
        (
            Counts("mails", delayed=2, due=AT),
            [],
            [place()],
            "delayed",
            f"nothing is ready; the first of 2 messages that are delayed is due {MOMENT}",
        ),
        (SOME, [], [], "no reader", "no node reads it: 3 messages in 'mails'"),
        (SOME, [], [place("lease lost")], "lease lost", "the lease of h:1 is lost"),
        (SOME, [], [place("late")], "lease lost", "h:1 has not reported in time"),
        (SOME, [], [place("blocked")], "blocked", "the loop of h:1 has been blocked for 20 s"),
        (SOME, [], [place("blocked"), place()], "ready", "the next reader takes it"),
        (SOME, [], [place(state="stopped")], "ready", "x"),
        (SOME, [], [place(hold_ups=(CIRCUIT,))], "circuit", f"the circuit 'smtp' is open on h:1 until {MOMENT}"),
        (
            SOME,
            [],
            [place(hold_ups=(RATE,))],
            "limit",
            f"the rate limit 'smtp' holds 2 messages back on h:1 until {MOMENT}",
        ),
        (
            SOME,
            [],
            [place(hold_ups=(attrs.evolve(RATE, kind="bulkhead", waiting=1, until=None),))],
            "limit",
            "the bulkhead limit 'smtp' holds 1 message back on h:1 until another message ends",
        ),
        (SOME, [], [BUSY], "full", f"all places are taken: 1 message running, the oldest since {MOMENT} on h:1"),
        (SOME, [], [BUSY, place()], "working", f"1 message running, the oldest since {MOMENT} on h:1"),
        (SOME, [], [place()], "ready", "the next reader takes it: 3 messages in 'mails'"),
    ],
)
def test_the_reason_of_a_source(counts: Counts, pauses: list[Pause], places: list[Place], code: str, text: str):
    if text == "x":
        places = [attrs.evolve(places[0], state="running", part=attrs.evolve(places[0].part, state="restarting"))]
        code, text = "stopped", "'mail' is restarting on h:1"
    found = idle.of_source(counts, pauses, places)
    assert (found.code, found.text[: len(text)]) == (code, text)
    assert found.is_fine is (code in idle.FINE)


def test_where_all_readers_are_on_paused_nodes_that_is_the_reason():
    there, elsewhere = place(), attrs.evolve(place(), name="other:2", process="pool 1")
    assert idle.of_source(SOME, [Pause("node", "h")], [there]).text == "node 'h' is paused"
    assert idle.of_source(SOME, [Pause("node", "h")], [there, elsewhere]).code == "ready"
    assert idle.of_source(SOME, [Pause("node", "h"), Pause("process", "pool")], [there, elsewhere]).code == "paused"


def test_where_reports_do_not_show_everything_a_reader_may_be_hidden():
    found = idle.of_source(SOME, [], [], is_whole=False)
    assert (found.code, "not all reports show all actors" in found.text) == ("no reader", True)


@pytest.mark.parametrize(
    ("pauses", "places", "counts", "code"),
    [
        ([Pause("actor", "mail", by="ann")], [place()], [SOME], "paused"),
        ([Pause("source", "mails")], [place()], [SOME, Counts("more")], "paused"),
        ([Pause("source", "more")], [place()], [SOME, Counts("more")], "ready"),
        ([Pause("source", "mails")], [BUSY], [SOME, Counts("more")], "full"),
        ([Pause("source", "mails")], [BUSY], [SOME], "paused"),
        ([], [], [SOME], "no reader"),
        ([], [], [], "no reader"),
        ([], [place()], [Counts("mails")], "nothing"),
        ([], [BUSY], [Counts("mails")], "full"),
        ([], [place("lease lost", waiting=2)], [Counts("mails")], "lease lost"),
        ([], [place("lease lost")], [Counts("mails")], "lease lost"),
    ],
)
def test_the_reason_of_an_actor(pauses: list[Pause], places: list[Place], counts: list[Counts], code: str):
    assert idle.of_actor("mail", counts, pauses, places).code == code


def test_the_reason_of_a_message():
    assert str(idle.of_held(BUSY, HELD)) == f"running in 'mail' on h:1 since {MOMENT}"
    assert str(idle.of_held(BUSY, attrs.evolve(HELD, attempt=3))).endswith(", attempt 3")
    assert idle.of_held(attrs.evolve(BUSY, state="lease lost"), HELD).code == "lease lost"
    assert idle.of_received(None, "n9").text == "node n9, which has it, is gone: another node takes it over"
    assert idle.of_received(BUSY, "n1").code == "full"
    assert idle.of_received(place(hold_ups=(RATE,)), "n1").code == "limit"
    assert idle.of_received(place("blocked"), "n1").code == "blocked"
    assert idle.of_received(place(waiting=1), "n1").text == "it waits in the mailbox of 'mail' on h:1"
    assert idle.of_delayed(AT).text == f"delayed until {MOMENT}"
    key = idle.of_key("ann", BUSY, HELD)
    assert (key.subject, key.node, key.since) == ("ann", "n1", AT)
    assert key.text == (
        f"it waits behind another message with the key 'ann': message m1 is running in 'mail' on h:1 since {MOMENT}"
    )
    assert idle.of_key("ann", None, None).text == "it waits behind another message with the key 'ann'"


def test_a_time_that_no_calendar_has_is_shown_as_a_number():
    assert idle.at(1e30) == "1e+30"
