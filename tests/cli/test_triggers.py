"""`actorwork triggers`, `pause`, `resume` and `paused`."""

import re
from typing import Any

import attrs
import pytest

from actorwork.abc import Broker
from actorwork.policy.reports import NodeReport, PartReport, written
from actorwork.records import TriggerDefinition
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
    assert known("triggers", "ls", "shp").stderr == "of those that have some, did you mean 'shop'?\n"


def test_why_a_trigger_does_not_fire_is_said_in_one_line(known: Shell):
    over = attrs.evolve(REGULAR, id="00000000000000bb", title="summer", details={"lifetime": 0})

    async def register(broker: Broker) -> None:
        await broker.triggers.register(NIGHTLY.source, [NIGHTLY, REGULAR, over])

    known.at_broker(register)
    known("triggers", "pause", "shop", "nightly", "--reason", "holidays")
    lines = [line.rstrip() for line in known("triggers", "ls").stdout.splitlines()]
    assert lines[0].split()[-1] == "WHY"
    assert "vanished" in lines[1]
    assert lines[1].endswith("'shop' has started without it: its code no longer declares it")
    assert "is paused by" in lines[2]
    assert lines[2].endswith("(holidays)")
    assert "  no node  " in lines[3]
    assert lines[3].endswith("no node runs 'shop': nothing fires it until one does")
    assert "why: no node runs 'shop'" in known("triggers", "show", "shop", "regular").stdout
    known("triggers", "change", "shop", "regular", "--off")
    _, _, regular, _ = known.json("triggers", "ls")
    assert (regular["state"], regular["has_node"], regular["why"]) == ("off", False, "it is turned off")

    async def run_and_resume(broker: Broker) -> None:
        now, _ = await broker.reports.nodes()
        tree = PartReport(title="root", kind="one_for_one", children=(PartReport(title="shop"),))
        report = NodeReport(name="h:1", host="h", pid=1, version="1", started=now, at=now, tree=tree)
        await broker.reports.write("1" * 32, written(report), now=now, ttl=600)
        await broker.pauses.resume("trigger", "shop/nightly")

    known.at_broker(run_and_resume)
    _, nightly, _, summer = known.json("triggers", "ls")
    assert (nightly["has_node"], nightly["why"], summer["why"]) == (True, "", "its lifetime is over")


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
    known("triggers", "run", "shop", "monthly", code=1)
    assert known.recorded() == [
        ("run trigger", "trigger shop/nightly", None, "done"),
        ("run trigger", "trigger shop/monthly", None, "failed"),
    ]


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
    assert [(action, outcome) for action, _, _, outcome in known.recorded()] == [
        ("pause", "done"),
        ("pause", "done"),
        ("resume", "done"),
        ("resume", "done"),
        ("resume", "failed"),
    ]
    assert known.json("audit")[-1]["reason"] == "holidays"
    assert {one["state"] for one in known.json("triggers", "ls")} == {"on"}


def test_a_vanished_trigger_is_marked_and_can_be_forgotten(known: Shell):
    async def register(broker: Broker) -> None:
        await broker.triggers.register(NIGHTLY.source, [NIGHTLY])

    known.at_broker(register)
    assert [one["state"] for one in known.json("triggers", "ls")] == ["vanished", "on", "vanished"]
    known("triggers", "forget", "shop", "regular")
    assert [one["title"] for one in known.json("triggers", "ls")] == ["by the moon", "nightly"]
    assert known.recorded() == [("forget trigger", "trigger shop/regular", None, "done")]


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


def test_nodes_and_processes_are_paused_by_names_that_outlast_them(shell: Shell):
    paused = shell("pause", "--node", "web1")
    assert paused.stdout == "paused node 'web1'\n"
    assert "no node that reports itself now is meant" in paused.stderr
    shell("pause", "--process", "pool 2", "--reason", "leaks")
    assert [(one["kind"], one["name"]) for one in shell.json("paused")] == [("node", "web1"), ("process", "pool 2")]
    assert shell("resume", "--process", "pool 2").stdout == "resumed process 'pool 2'\n"
    shell("resume", "--node", "web1")
    assert "wants a name" in shell("pause", "--node", "", code=2).stderr


@pytest.mark.parametrize("options", [[], ["--all", "--actor", "x"], ["--actor", "x", "--node", "y"]])
def test_a_pause_needs_exactly_one_target(shell: Shell, options: list[str]):
    assert (
        "choose one of --actor TITLE, --source NAME, --node NAME, --process TITLE and --all"
        in shell("pause", *options, code=2).stderr
    )


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


def test_a_trigger_is_put_changed_and_deleted_by_hand(known: Shell):
    known.enter({"shop": []})
    refused = known("triggers", "put", "sohp", "hourly", "--every", "1h", code=1).stderr
    assert "no actor 'sohp' has run at this broker; did you mean 'shop'?; --force is for one that is to run" in refused
    message = '{"kind": "put"}'
    what = known("triggers", "put", "shop", "hourly", "--every", "1h", "--message", message, "--reason", "a test")
    assert what.stdout.startswith("put 'hourly' of 'shop': every 1h, next at 20")
    (put,) = [one for one in known.json("triggers", "ls") if one["title"] == "hourly"]
    assert (put["state"], put["by_hand"], put["message"], put["source"]) == ("on", "put", message, put["source"])
    assert (put["changed_because"], "code" in put) == ("a test", False)
    off = known("triggers", "change", "shop", "hourly", "--off", "--jitter", "5s").stdout
    assert off == "changed 'hourly' of 'shop': every 1h, it does not fire\n"
    assert known.json("triggers", "show", "shop", "hourly")["state"] == "off"
    assert "no code declares it: delete it instead" in known("triggers", "reset", "shop", "hourly", code=1).stderr
    assert known("triggers", "delete", "shop", "hourly").stdout == "deleted 'hourly' of 'shop'\n"
    assert [one["title"] for one in known.json("triggers", "ls")] == ["by the moon", "nightly", "regular"]
    audit = known.json("audit")
    assert [one["action"] for one in audit] == ["delete_trigger", "change_trigger", "put_trigger"]
    assert audit[1]["what"] == "shop/hourly: off, jitter 5.0"


def test_a_declared_trigger_says_that_it_was_changed_and_is_reset(known: Shell):
    zone = ["--timezone", "America/New_York"]
    done = known("triggers", "change", "shop", "nightly", "--cron", "0 4 * * *", *zone, "--lifetime", "forever")
    assert done.stdout.startswith("changed 'nightly' of 'shop': 0 4 * * * America/New_York, next at 20")
    assert "changed: schedule, lifetime" in known("triggers", "ls").stdout
    nightly = known.json("triggers", "show", "shop", "nightly")
    assert (nightly["schedule"], nightly["code"]["schedule"]) == (
        "0 4 * * * America/New_York",
        "30 2 * * * Europe/Berlin",
    )
    assert "@" in nightly["changed_by"]
    assert "code: {" in known("triggers", "show", "shop", "nightly").stdout
    known("triggers", "change", "shop", "by the moon", "--off")
    assert "declared by the code of its actor" in known("triggers", "delete", "shop", "nightly", code=1).stderr
    reset = known("triggers", "reset", "shop", "nightly", "--reason", "as it was").stdout
    assert reset.startswith("reset 'nightly' of 'shop': 30 2 * * * Europe/Berlin, next at 20")
    states = {one["title"]: (one["state"], one["by_hand"]) for one in known.json("triggers", "ls")}
    assert states == {"by the moon": ("off", "changed: is_on"), "nightly": ("on", ""), "regular": ("on", "")}


@pytest.mark.parametrize(
    ("options", "code", "complaint"),
    [
        (["--cron", "30 25 * * *"], 1, "Cron.expression '30 25 * * *': the hour wants 0-23, got '25'"),
        (["--cron", "0 3 * * *", "--timezone", "Mars"], 1, "Cron.timezone wants an IANA name such as"),
        (["--every", "5"], 2, "Invalid value for '--every'"),
        (["--every", "5m", "--cron", "0 3 * * *"], 2, "choose one of --every DURATION and --cron EXPRESSION"),
        (["--timezone", "UTC"], 2, "--timezone is for --cron EXPRESSION"),
        (["--every", "5m", "--message", "{"], 2, "--message wants JSON"),
        (["--every", "5m", "--message", "3"], 2, "--message wants an object of keyword arguments, or --type NAME"),
        (["--every", "5m", "--type", "Order"], 2, "--type is for --message JSON"),
        (["--every", "5m", "--catchup-window", "400d"], 1, "Trigger.catchup_window wants"),
        ([], 2, ""),
    ],
)
def test_what_cannot_fire_is_refused_with_a_reason(known: Shell, options: list[str], code: int, complaint: str):
    known.enter({"shop": []})
    put = known("triggers", "put", "shop", "new", *options, code=code).stderr
    changed = known("triggers", "change", "shop", "nightly", *options, code=code).stderr
    assert complaint in put
    assert complaint in changed
    if not options:
        assert "a trigger needs --every DURATION or --cron EXPRESSION" in put
        assert "nothing to change: name a part, such as --every 5m or --off" in changed
    assert known.json("audit") == []
