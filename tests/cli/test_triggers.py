"""`actorwork triggers`, `pause`, `resume` and `paused`."""

import re
from typing import Any

import attrs
import pytest

from actorwork.abc import Broker
from actorwork.message import TriggerDefinition
from tests.cli.conftest import Shell

NIGHTLY = TriggerDefinition(
    source="worker:shop:source",
    id="0123456789abcdef",
    actor="shop",
    title="nightly",
    schedule='{"cron": "30 2 * * *", "timezone": "Europe/Berlin"}',
    data=b'{"kind": "full"}',
    details={"description": "all of it", "catchup": "one", "lifetime": None, "priority": 2},
)
REGULAR = attrs.evolve(NIGHTLY, id="fedcba9876543210", title="regular", schedule='{"every": 5400.25}')
MOON = '{"by": "Moon", "cron": "0 0 * * *", "timezone": "UTC"}'
CUSTOM = attrs.evolve(REGULAR, id="00000000000000aa", title="by the moon", schedule=MOON)


@pytest.fixture
def known(shell: Shell) -> Shell:
    async def register(broker: Broker) -> None:
        await broker.triggers.register(NIGHTLY.source, [NIGHTLY, REGULAR, CUSTOM])

    shell.at_broker(register)
    return shell


def test_triggers_are_listed_with_their_next_five_times(known: Shell):
    output = known("triggers", "ls").stdout
    assert "30 2 * * * Europe/Berlin" in output
    assert "every 1h30m250ms" in output
    assert "0 0 * * * by Moon" in output
    moon, nightly, regular = known.json("triggers", "ls", "shop")
    assert [one["title"] for one in (moon, nightly, regular)] == ["by the moon", "nightly", "regular"]
    assert (moon["next"], nightly["state"], nightly["fired"]) == ([], "on", 0)
    assert len(nightly["next"]) == len(regular["next"]) == 5
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:00\+0[12]:00", time) for time in nightly["next"])
    assert known("triggers", "ls", "nobody").stdout == "no triggers of 'nobody'\n"


def test_one_trigger_is_shown_in_full(known: Shell):
    output = known("triggers", "show", "shop", "nightly").stdout
    for part in ("description: all of it", "catchup: one", 'message: {"kind": "full"}', "next: 20"):
        assert part in output
    missing = known("triggers", "show", "shop", "nightly?", code=1).stderr
    assert "no trigger 'nightly?' of 'shop' at the broker; those of 'shop' are 'by the moon', 'nightly'" in missing
    assert "no node with triggers of it has ever started" in known("triggers", "show", "x", "y", code=1).stderr


def test_a_trigger_is_run_now(known: Shell):
    assert known("triggers", "run", "shop", "nightly").stdout.startswith("sent ")
    assert known.backlog(NIGHTLY.source) == 1


def test_a_trigger_is_paused_and_resumed(known: Shell):
    known("triggers", "pause", "shop", "nightly", "--reason", "holidays")
    assert [one["state"] for one in known.json("triggers", "ls")] == ["on", "paused", "on"]
    assert "no trigger 'nihgtly'" in known("triggers", "pause", "shop", "nihgtly", code=1).stderr
    refused = known("triggers", "pause", "sohp", code=1).stderr
    assert "no trigger of 'sohp' at the broker; did you mean 'shop'? (--force if one is to come later)" in refused
    known("triggers", "pause", "shop")
    assert {one["state"] for one in known.json("triggers", "ls")} == {"paused"}
    rows: Any = known.json("paused")
    assert [(one["kind"], one["name"], one["reason"]) for one in rows] == [
        ("trigger", "shop/nightly", "holidays"),
        ("triggers", "shop", ""),
    ]
    known("triggers", "resume", "shop")
    known("triggers", "resume", "shop", "nightly")
    assert "was not paused" in known("triggers", "resume", "shop", code=1).stderr
    assert {one["state"] for one in known.json("triggers", "ls")} == {"on"}


def test_a_vanished_trigger_is_marked_and_can_be_forgotten(known: Shell):
    async def register(broker: Broker) -> None:
        await broker.triggers.register(NIGHTLY.source, [NIGHTLY])

    known.at_broker(register)
    assert [one["state"] for one in known.json("triggers", "ls")] == ["vanished", "on", "vanished"]
    known("triggers", "forget", "shop", "regular")
    assert [one["title"] for one in known.json("triggers", "ls")] == ["by the moon", "nightly"]


def test_pauses_are_made_listed_and_ended(shell: Shell):
    shell.enter({"till": ["orders"]})
    assert shell("paused").stdout == "nothing is paused\n"
    assert shell("pause", "--actor", "till", "--reason", "stock-taking").stdout == "paused actor 'till'\n"
    assert shell("pause", "--actor", "till").stdout == "actor 'till' was paused before (stock-taking)\n"
    shell("pause", "--source", "orders")
    shell("pause", "--all")
    output = shell("paused").stdout
    assert "stock-taking" in output
    assert "@" in output
    assert [one["kind"] for one in shell.json("paused")] == ["actor", "source", "everything"]
    for what in (["--actor", "till"], ["--source", "orders"], ["--all"]):
        assert shell("resume", *what).stdout.startswith("resumed ")
    assert "everything was not paused" in shell("resume", "--all", code=1).stderr
    assert shell.json("paused") == []


@pytest.mark.parametrize(
    ("what", "complaint"),
    [
        (["--actor", "orders desk"], None),
        (
            ["--actor", "oders desk"],
            "no actor 'oders desk' has run at this broker; did you mean 'orders desk'? (--force",
        ),
        (
            ["--source", "oders"],
            "reads the source 'oders'; did you mean 'orders'? (--force if one is to read it later)",
        ),
    ],
)
def test_a_pause_of_a_name_that_no_actor_has_is_refused_unless_it_is_forced(
    shell: Shell, what: list[str], complaint: str | None
):
    shell.enter({"orders desk": ["orders"], "till": ["returns"]})
    if complaint is not None:
        assert complaint in shell("pause", *what, code=1).stderr
        assert shell.json("paused") == []
    shell("pause", *what, *([] if complaint is None else ["--force"]))
    assert len(shell.json("paused")) == 1


@pytest.mark.parametrize("options", [[], ["--all", "--actor", "x"], ["--actor", "x", "--source", "y"]])
def test_a_pause_needs_exactly_one_target(shell: Shell, options: list[str]):
    assert "choose one of --actor TITLE, --source NAME and --all" in shell("pause", *options, code=2).stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--source", "a b"],
            "a source is 1 to 300 characters out of a-z A-Z 0-9 _ - :, not beginning with 'actorwork:', got 'a b'",
        ),
        (["--actor", ""], "--actor wants the title of an actor"),
    ],
)
def test_an_invalid_name_is_not_paused(shell: Shell, options: list[str], said: str):
    assert said in shell("pause", *options, code=2).stderr
