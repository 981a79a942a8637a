"""`actorwork inspect`, `top` and `stop`: what they print of reports, of garbage, and of a node that runs."""

import io
import re
import time
from functools import partial
from typing import Any

import pytest
from rich.console import Console

from actorwork.abc import Broker
from actorwork.cli import output, top
from actorwork.inspection import inspecting
from actorwork.message import Envelope
from actorwork.policy.minutes import ALL, MinuteCounts
from actorwork.policy.reports import (
    EntityReport,
    HeldMessage,
    HotKey,
    LockReport,
    NodeReport,
    PartReport,
    StallReport,
    written,
)
from actorwork.settings import default_source, identity
from tests.cli.conftest import Shell


async def report(broker: Broker, *, node: str = "0123abcd", **facts: Any) -> None:
    now, _ = await broker.reports.nodes()
    held = HeldMessage(what="m1", since=now - 90, source="orders", attempt=2)
    till = PartReport(
        title="till", sources=("orders",), handling=1, in_hand=(held,), waiting=3, restarts=2, state="running"
    )
    pool = PartReport(title="pool", kind="process", pid=77, children=())
    found = NodeReport(
        **{"name": "h:\x1b[2J7", "host": "h", "pid": 7, "version": "1.0", "started": now - 3725, "at": now, **facts},
        lease=10,
        interval=300,
        memory=50_000_000,
        cpu=0.25,
        threads=3,
        tree=PartReport(title="root", kind="one_for_one", children=(till, pool)),
    )
    await broker.reports.write(node, written(found), now=now, ttl=60)


async def garbage(broker: Broker) -> None:
    await broker.reports.write("bad", b"\xff{", now=(await broker.reports.nodes())[0], ttl=60)


def test_an_overview_shows_what_runs_and_what_needs_a_person(shell: Shell):
    shell.at_broker(report)
    shell.at_broker(garbage)
    shell.at_broker(lambda broker: broker.publish([Envelope("orders", "1", b"{}")]))
    shell("pause", "--source", "orders", "--reason", "full", "--force")
    shown = shell("inspect").stdout
    assert "2 nodes; 1 message ready or in flight" in shown
    assert "unreadable" in shown
    assert "h:\\x1b[2J7" in shown, "foreign text is printable"
    assert "1h2m" in shown
    assert "source 'orders' is paused by" in shown
    found = shell.json("inspect")
    assert [node["state"] for node in found["nodes"]] == ["running", "unreadable"]
    (source,) = found["sources"]
    assert (source["name"], source["why"]["code"]) == ("orders", "paused")
    assert found["problems"][0]["kind"] == "node"


def test_a_node_shows_which_locks_its_actors_hold_and_wait_for(shell: Shell):
    async def with_locks(broker: Broker) -> None:
        now, _ = await broker.reports.nodes()
        held = LockReport(name="led\x1bger", actor="till", message="m1", since=now - 90, is_held=True)
        await report(broker, locks=(held, LockReport(name="door", actor="till", since=now - 3700)))

    shell.at_broker(with_locks)
    shown = shell("inspect", "node", "0123").stdout
    assert "till of m1 holds the lock 'led\\x1bger' for 1m" in shown
    assert "till waits for the lock 'door' for 1h1m" in shown


def test_locks_are_listed_with_who_holds_them_and_how_many_wait(shell: Shell):
    assert shell("inspect", "locks").stdout == "no lock is held or waited for\n"

    async def hold(broker: Broker) -> None:
        now, _ = await broker.reports.nodes()
        held = LockReport(name="led\x1bger", actor="till", message="m1", since=now - 90, is_held=True)
        waits = [LockReport(name=name, actor="till", since=now - 30) for name in ("door", "door", "gate")]
        await report(broker, locks=(held, *waits))
        for name, owner in (("led\x1bger", "ab the actor 'till'"), ("door", "cd ann@desk, pid 7"), ("shed", "ef")):
            assert await broker.values.take_lock(name, owner, 60)
        assert await broker.values.take_lock("free", "gh", 60)
        assert await broker.values.free_lock("free", "gh")

    shell.at_broker(hold)
    _, door, gate, ledger, shed = shell("inspect", "locks").stdout.splitlines()
    assert door.split("  ")[0] == "door"
    assert "ann@desk, pid 7" in door
    assert "  2  " in door
    assert gate.split()[:2] == ["gate", "-"]
    assert ledger.startswith("led\\x1bger  till of m1 on h:\\x1b[2J7  ")
    assert "a program" in shed
    first = shell.json("inspect", "locks")[0]
    assert (first["name"], first["owner"]["who"], first["waiting"]) == ("door", "ann@desk, pid 7", 2)


def test_a_node_shows_how_often_its_loop_was_blocked_and_where(shell: Shell):
    stalls = StallReport(
        count=3, seconds=65.0, at=1_700_000_000.0, last=1.25, stack="a.py:1 in run\nb.py:2 in sp\x1bin"
    )
    shell.at_broker(partial(report, stalls=stalls))
    shown = shell("inspect", "node", "0123").stdout
    assert (
        "its loop was blocked 3 times, for 1m5s in all; last for 1.2s until 2023-11-14T22:13:20Z, in:\n"
        "    a.py:1 in run\n    b.py:2 in sp\\x1bin\n"
    ) in shown
    assert shell.json("inspect", "node", "0123")["report"]["stalls"]["count"] == 3


def test_each_part_can_be_looked_at(shell: Shell):
    shell.at_broker(report)
    tree = shell("inspect", "tree").stdout
    assert "├─ till  running, 2 restarts, 3 waiting, m1 for 1m" in tree
    assert "└─ pool  process, running, pid 77" in tree
    assert shell.json("inspect", "tree", "7")[0]["root"]["children"][0]["title"] == "till"
    assert "25%" in shell("inspect", "node", "0123").stdout
    assert shell.json("inspect", "node", "7")["report"]["pid"] == 7
    assert "all places are taken" in shell("inspect", "actor", "till").stdout
    assert shell.json("inspect", "actor", "till")["in_hand"][0]["message"]["what"] == "m1"
    assert "nothing waits" in shell("inspect", "source", "orders").stdout
    assert shell.json("inspect", "source", "orders")["actors"] == ["till"]
    assert "m1 in orders: running in 'till'" in shell("inspect", "message", "m1").stdout
    assert shell.json("inspect", "message", "m1")["why"]["code"] == "working"


def test_a_source_is_shown_with_its_last_two_hours(shell: Shell):
    async def handled(broker: Broker) -> None:
        now, _ = await broker.reports.nodes()
        counts = MinuteCounts(1, {10: 90, 30: 9, 60: 1})
        await broker.minutes.add(int(now // 60) - 3, {ALL: counts, "orders": counts})

    shell.at_broker(handled)
    hours = "last two hours: 100 handled, 1 failed; p50 0.843ms, p95 73.2ms, p99 80.8ms"
    assert hours in shell("inspect", "source", "orders").stdout
    assert hours in shell("inspect").stdout
    assert shell.json("inspect", "source", "orders")["minutes"]["whole"]["handled"] == 100


def test_the_own_source_of_an_actor_is_named_as_commands_take_it(shell: Shell):
    own = default_source(identity("till"))

    async def reader(broker: Broker) -> None:
        now, _ = await broker.reports.nodes()
        till = PartReport(title="till", sources=("orders", own), state="running")
        tree = PartReport(title="root", kind="one_for_one", children=(till,))
        found = NodeReport(name="h:7", host="h", pid=7, version="1", started=now, at=now, interval=300, tree=tree)
        await broker.reports.write("0123", written(found), now=now, ttl=60)
        await broker.publish([Envelope(own, "m1", b"{}")])

    shell.at_broker(reader)
    assert "actor:till" in shell("inspect").stdout
    assert "1 message in actor:till" in shell("inspect").stdout
    assert own not in shell("inspect").stdout
    ghost = default_source(identity("ghost"))
    shell.enter({"ghost": [ghost]})
    assert "actor:ghost" in shell("inspect").stdout, "no node runs it now"
    assert ghost not in shell("inspect").stdout
    assert "reads orders, actor:till" in shell("inspect", "actor", "till").stdout
    assert "actor:till" in shell("inspect", "source", own).stdout
    assert {source["name"] for source in shell.json("inspect")["sources"]} == {"orders", own, ghost}


def test_what_was_sent_to_a_misspelt_actor_is_found_with_the_reason_why_it_waits(shell: Shell):
    assert shell("send", "actor:tlil", "{}", "--id", "m-7", "--force").stdout
    source = shell("inspect", "source", "actor:tlil").stdout
    assert "no node reads it: 1 message" in source
    assert "read by no actor" in source
    assert "no node reads it" in shell("inspect", "message", "m-7", "--source", "actor:tlil").stdout
    assert "no actor 'tlil' runs at this broker, or has run" in shell("inspect", "actor", "tlil", code=1).stderr


def test_an_entity_is_shown_with_its_hot_and_its_stalled_keys(shell: Shell):
    async def entity(broker: Broker) -> None:
        now, _ = await broker.reports.nodes()
        facts = EntityReport(
            kept=2,
            activations=1200,
            commits=31,
            conflicts=1,
            refused=4,
            stalled=1,
            stalled_keys=("o\x1bld",),
            hot=(HotKey(key="ann", count=70),),
        )
        tree = PartReport(title="root", kind="one_for_one", children=(PartReport(title="account", entities=facts),))
        found = NodeReport(name="h:7", host="h", pid=7, version="1", started=now, at=now, interval=300, tree=tree)
        await broker.reports.write("0123", written(found), now=now, ttl=60)

    shell.at_broker(entity)
    shown = shell("inspect", "actor", "account").stdout
    assert "2 instances in memory; 1,200 activations, 31 commits, 1 conflict, 4 refused" in shown
    assert "hot keys: ann (70)" in shown
    assert "1 key stalled, since a node cannot read the state: o\\x1bld" in shown
    assert shell.json("inspect", "actor", "account")["entities"]["hot"] == [{"key": "ann", "count": 70}]
    assert "account  running, 2 instances in memory, 1 key stalled" in shell("inspect", "tree").stdout
    assert shell.json("inspect")["problems"][0]["name"] == "account"


def test_options_before_the_name_of_a_part_hold_for_it(shell: Shell, tmp_path: Any):
    shell.at_broker(report)
    other = f"sqlite:///{tmp_path}/other.db"
    assert "none does" in shell("inspect", "--broker", other, "node", "7", code=1).stderr
    assert '"pid": 7' in shell("inspect", "--json", "node", "7").stdout


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (("node", "x"), "no node 'x' reports itself; none does"),
        (("tree", "x"), "no node 'x' reports itself; none does"),
        (("actor", "x"), "no actor 'x' runs at this broker, or has run; none does"),
        (("message", "x"), "name the source to look in"),
        (("stacks", "x"), "no node 'x' reports itself; none does"),
    ],
)
def test_what_is_not_there_ends_a_command_with_one_sentence(shell: Shell, command: tuple[str, ...], text: str):
    shell.at_broker(lambda broker: broker.publish([]))
    failed = shell("inspect", *command, code=1)
    assert text in failed.stderr
    assert failed.stdout == ""


def test_an_unanswered_command_is_an_error_and_no_empty_result(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(inspecting, "ANSWER_WITHIN", 0.05)
    shell.at_broker(report)
    for command in (("inspect", "stacks"), ("stop",)):
        failed = shell(*command, "7", code=1)
        assert "no answer from h:" in failed.stderr
        assert failed.stdout == ""
        found = shell.json(*command, "7", code=1)
        assert "no answer" in (found.get("no_answer") or found.get("text"))


def test_without_a_terminal_top_prints_once(shell: Shell):
    shell.at_broker(report)
    assert "till" in shell("top").stdout
    assert shell.json("top")["nodes"][0]["report"]["pid"] == 7


def test_in_a_terminal_top_looks_again_until_it_is_interrupted(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    shell.at_broker(report)
    screens: list[Any] = []
    show = top.screen_of

    def screen_of(overview: Any, width: int) -> Any:
        screens.append(show(overview, width))
        if len(screens) == 3:
            raise KeyboardInterrupt
        return screens[-1]

    terminal = Console(force_terminal=True, width=160, height=50, file=(shell.folder / "out").open("w"))
    monkeypatch.setattr(top, "console", lambda: terminal)
    monkeypatch.setattr(top, "screen_of", screen_of)
    shell("top", "--every", "200ms")
    terminal.file.close()
    assert "all places are taken" in (shell.folder / "out").read_text()


def printed(width: int, thing: Any) -> str:
    out = io.StringIO()
    Console(force_terminal=True, width=width, height=50, file=out, no_color=True).print(thing)
    return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())


def test_in_a_narrow_terminal_each_row_of_a_table_is_a_block(monkeypatch: pytest.MonkeyPatch):
    headings = ("SOURCE", "BACKLOG", "READERS", "WHY")
    rows = [("actor:thumbnailer", "117", "2", "all places are taken: 4 messages running, the oldest since 02:41")]
    assert output.fits(headings, rows, 80)
    assert not output.fits(headings, rows, 50)
    lines = [line.rstrip() for line in printed(50, output.blocks(headings, rows, 50)).splitlines()]
    assert lines == [
        "actor:thumbnailer",
        "  backlog 117  readers 2",
        "  why all places are taken: 4 messages running,",
        "  the oldest since 02:41",
    ]
    out = io.StringIO()
    terminal = Console(force_terminal=True, width=50, file=out, no_color=True)
    monkeypatch.setattr(output, "console", lambda: terminal)
    output.print_table(headings, rows)
    assert "actor:thumbnailer\n" in re.sub(r"\x1b\[[0-9;]*m| +(?=\n)", "", out.getvalue())


def test_a_source_is_inspected_by_a_name_that_sources_may_have(shell: Shell):
    assert "a source is" in shell("inspect", "source", "bad name!", code=2).stderr


def test_a_node_that_runs_is_looked_at_and_stopped(shell: Shell):
    ran = shell.start("run", "shop:shop")
    try:
        until = time.monotonic() + 60
        while not (nodes := shell.json("inspect")["nodes"]):
            assert ran.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
        (node,) = nodes
        assert node["report"]["pid"] == ran.pid
        ask = partial(shell, "inspect", "stacks", str(ran.pid))
        assert "task " in ask().stdout
        assert "till" in shell("inspect", "tree").stdout
        stopped = shell("stop", node["id"]).stdout
        assert "begins its staged shutdown" in stopped
        assert ran.wait(60) == 0
        assert shell.recorded() == [("stop node", f"node {node['id']}", None, "done")]
    finally:
        ran.kill()
        ran.communicate()
