"""Pages and their JSON, and what can be done from them."""

import json
import os
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, ClassVar

import attrs
import httpx
import pytest
import trio

from actorwork.actors.actor import Actor
from actorwork.actors.handlers.table import receive
from actorwork.clients.identity import whoami
from actorwork.clients.opening import open_client
from actorwork.clients.runs import Run
from actorwork.errors import MessageFailed
from actorwork.inspection.words import moment
from actorwork.message import Envelope, Unique
from actorwork.policy.minutes import ALL, MinuteCounts
from actorwork.policy.reports import HoldUp, PartReport, StallReport
from actorwork.policy.runs.values import Plan, StepPlan
from actorwork.records import TriggerDefinition
from actorwork.runtime.system import System, open_system
from actorwork.settings import Settings, default_source, identity
from actorwork.web import rendering
from actorwork.web.dashboard import NAVIGATION, PAGES, app
from actorwork.web.masking import MASK, Masking
from actorwork.web.pages import flows
from actorwork.workflows import Flow, group, step

from .conftest import Visitor, bury, enter, report, visit

NIGHTLY = TriggerDefinition(
    source="worker:shop:source",
    id="0123456789abcdef",
    actor="shop",
    title="night/ly",
    schedule='{"cron": "30 2 * * *", "timezone": "Europe/Berlin"}',
    data=b'{"kind": "full"}',
    details={"description": "all of it", "priority": 2},
)


async def test_every_page_is_there_with_nothing_in_it_and_has_its_twin():
    async with visit() as guest:
        for path in PAGES:
            if path in ("/run", "/dead/letter", "/node", "/node/stacks", "/entity", "/source", "/trigger", "/actor"):
                await guest.page(path, 400)
                continue
            assert "<h1>" in await guest.page(path)
            facts = await guest.json(path)
            assert facts.keys() == (await guest.http.get(path, headers={"accept": "application/json"})).json().keys()
            assert (await guest.json(f"{path}/")).keys() == facts.keys()
        assert set(NAVIGATION) <= set(PAGES)
        index = await guest.json("")
        assert index["pages"]["/api/sources"] == "see"
        assert index["actions"]["/api/dead/drop"] == "drop"


async def test_the_overview_and_a_source_show_the_last_two_hours_also_of_nodes_that_have_ended():
    async with visit() as guest:
        now, _ = await guest.broker.reports.nodes()
        minute = int(now // 60)
        # As nodes have added to them that report no longer.
        await guest.broker.minutes.add(
            minute - 1, {ALL: MinuteCounts(2, {20: 5, 40: 2}), "mails": MinuteCounts(1, {20: 5})}
        )
        await guest.broker.minutes.add(minute - 90, {ALL: MinuteCounts(0, {20: 3})})
        facts = await guest.json("/overview")
        assert (facts["minutes"]["whole"]["handled"], facts["minutes"]["whole"]["failed"]) == (10, 2)
        page = await guest.page("/overview")
        assert "10 in all, at most 7 in one; 2 failed" in page
        assert "half took" in page
        source = await guest.json("/source", name="mails")
        assert (sum(source["minutes"]["handled"]), source["backlog"], source["actors"]) == (5, 0, [])
        page = await guest.page("/source?name=mails")
        assert "5 in all, at most 5 in one; 1 failed" in page
        assert 'aria-current="page">Sources' in page
        await guest.json("/source", 400, name="no <source>")


async def test_the_overview_shows_eight_problems_at_first_and_the_last_hour():
    async with visit() as guest:
        for number in range(11):
            await guest.broker.publish([Envelope(f"s{number}", "m", b"1")])
        await enter(guest.broker, {"till": [f"s{number}" for number in range(11)]})
        facts = await guest.json("/overview")
        assert len(facts["problems"]) == 11
        assert len(facts["past"]["settled"]) == 60
        page = await guest.page("/overview")
        assert "<summary>3 more</summary>" in page
        assert "Megabytes: 0 in the last 60 minutes" in page


async def test_a_node_whose_loop_was_blocked_says_how_often_and_where():
    async with visit() as guest:
        await report(guest.broker, 0)
        page = await guest.page(f"/node?id={0:032x}")
        assert "<dt>Loop stalls</dt><dd>0</dd>" in page
        assert "was blocked last" not in page
        stack = "a.py:1 in run\nb.py:2 in <spin>"
        await report(guest.broker, 1, stalls=StallReport(count=1200, seconds=800.0, at=1e9, last=2.5, stack=stack))
        page = await guest.page(f"/node?id={1:032x}")
        assert "<dt>Loop stalls</dt><dd>1,200 <small>13 min in all</small></dd>" in page
        assert "for 2.5 s until" in page
        assert '<pre tabindex="0">a.py:1 in run\nb.py:2 in &lt;spin&gt;</pre>' in page
        assert '<span class="note">1,200 stalls</span>' in await guest.page("/nodes")
        await report(guest.broker, 2, state="blocked", loop_lag=20.0, blocked=stack)
        page = await guest.page(f"/node?id={2:032x}")
        assert "its loop has been blocked for 20 s in b.py:2 in &lt;spin&gt;" in page
        assert "Where its loop is blocked" in page
        facts = await guest.json("/node", id=f"{1:032x}")
        assert facts["report"]["stalls"] == {"count": 1200, "seconds": 800, "at": 1e9, "last": 2.5, "stack": stack}


async def test_a_hundred_lost_nodes_leave_room_for_the_other_problems():
    async with visit() as guest:
        for number in range(120):
            await report(guest.broker, number, state="blocked", blocked="at rest")
        await bury(guest.broker, "orders", {"a": 1})
        await enter(guest.broker, {"till": ["orders"]})
        facts = await guest.json("/overview")
        assert len(facts["problems"]) == 100
        assert [one["kind"] for one in facts["problems"] if one["is_first"]] == [*["node"] * 7, "dead letters"]
        page = await guest.page("/overview")
        assert "<summary>92 more</summary>" in page
        assert page.index("1 dead letter") < page.index("92 more")
        # Whatever there is: problems and rows are bounded.
        assert len(page.encode()) < 300_000


async def test_a_page_is_drawn_as_the_whole_and_again_as_its_middle():
    async with visit() as guest:
        assert "<h1>Overview</h1>" in await guest.page("/")
        page = await guest.page("/pauses")
        assert page.startswith("<!doctype html>")
        assert 'data-follow="/pauses"' in page
        assert 'aria-current="page">Pauses' in page
        assert "style=" not in page
        assert "onclick" not in page


async def test_sources_are_shown_with_why_nothing_happens_in_them():
    async with visit() as guest:
        own = default_source(identity("till"))
        await enter(guest.broker, {"till": ["orders", own], "clerk": ["orders", "letters"]})
        await guest.broker.publish([Envelope("letters", "1", b"1"), Envelope("orders", "2", b"1", delay=60)])
        await guest.broker.pauses.pause("source", "orders", reason="stocktaking", by="ben")
        facts = await guest.json("/sources")
        found = {one["name"]: one for one in facts["sources"]}
        # What needs a person comes first.
        assert set(list(found)[:2]) == {"letters", "orders"}
        assert (found["letters"]["backlog"], found["letters"]["why"]["code"]) == (1, "no reader")
        assert (found["orders"]["delayed"], found["orders"]["why"]["code"]) == (1, "paused")
        assert found[own]["label"] == "actor:till"
        assert (facts["backlog"], facts["paused"]) == (1, 1)
        page = await guest.page("/sources")
        assert "stocktaking" in page
        assert "actor:till" in page


class Clerk(Actor):
    settings = Settings(title="clerk", sources={"letters"})

    @receive
    async def write(self, *, to: str) -> None:
        if to == "nobody":
            await trio.sleep_forever()


@asynccontextmanager
async def visit_with_a_node(role: str = "admin") -> AsyncGenerator[tuple[Visitor, System]]:
    async with visit(role) as guest, open_system(Clerk, broker=guest.broker, grace=1) as system:
        while not (await guest.json("/nodes"))["nodes"]:  # noqa: ASYNC110 - a report makes no event
            await trio.sleep(0.01)
        yield guest, system


async def test_a_node_is_shown_with_its_tree_its_messages_and_its_stacks():
    async with visit_with_a_node() as (guest, system):
        await guest.broker.publish([Envelope("letters", "stuck", b'{"to": "nobody"}')])
        (node,) = (await guest.json("/nodes"))["nodes"]
        assert node["id"] == system.node_id
        assert node["name"] in await guest.page("/nodes")

        def handled(facts: dict[str, Any]) -> list[str]:
            return [held["what"] for part in facts["parts"] for held in part["in_hand"]]

        while handled(facts := await guest.json(f"/nodes/{node['id']}")) != ["stuck"]:  # noqa: ASYNC110 - as above
            await trio.sleep(0.05)
        assert [part["title"] for part in facts["parts"] if part["kind"] == "actor"] == ["clerk"]
        page = await guest.page(f"/node?id={node['id']}")
        assert "/message?id=stuck" in page
        (program,) = (await guest.json("/actors"))["programs"]
        assert program["node"] == node["id"]
        assert "clerk" in await guest.page("/actors")
        overview = await guest.json("/overview")
        assert (overview["handling"], len(overview["nodes"])) == (1, 1)
        message = await guest.json("/messages/stuck", source="letters")
        assert (message["holder"]["actor"], message["why"]["code"]) == ("clerk", "working")
        assert 'Running in <a href="/actor?title=clerk">clerk</a>' in await guest.page(
            "/message?id=stuck&source=letters"
        )
        stacks = await guest.json(f"/nodes/{node['id']}/stacks")
        assert any("sleep_forever" in line for stack in stacks["stacks"] for line in stack["lines"])
        assert "sleep_forever" in await guest.page(f"/node/stacks?id={node['id']}")
        first, *others = (await guest.json("/node/stacks", id=node["id"], actor="clerk"))["stacks"]
        assert (first["is_open"], any("sleep_forever" in line for line in first["lines"])) == (True, True)
        assert not others[-1]["is_open"]
        assert f"/node/stacks?id={node['id']}&amp;actor=clerk" in await guest.page("/message?id=stuck&source=letters")
        await guest.do("/nodes/cancel", node=node["id"], source="letters", message="stuck")
        while handled(await guest.json(f"/nodes/{node['id']}")):  # noqa: ASYNC110 - as above
            await trio.sleep(0.05)


async def test_an_actor_is_shown_on_all_nodes_with_what_it_handles():
    async with visit_with_a_node() as (guest, _):
        await guest.broker.publish([Envelope("letters", "stuck", b'{"to": "nobody"}')])
        with trio.fail_after(60):
            while not (await guest.json("/actor", title="clerk"))["in_hand"]:  # noqa: ASYNC110 - as above
                await trio.sleep(0.01)
        facts = await guest.json("/actor", title="clerk")
        (held,) = facts["in_hand"]
        assert (held["message"]["what"], facts["handling"], facts["states"]) == ("stuck", 1, {"running": 1})
        page = await guest.page("/actor?title=clerk")
        assert "/message?id=stuck&amp;source=letters" in page
        assert 'aria-label="Cancel stuck"' in page
        (node,) = facts["named"]
        assert f'href="/node?id={node["id"]}">{node["name"]}</a>' in page.partition("Runs on")[2]
        assert (node["id"], node["name"]) == (held["node"], held["name"])
        assert 'aria-current="page">Actors' in page
        assert '<a href="/actor?title=clerk">clerk</a>' in await guest.page("/actors")
        assert '<a href="/actor?title=clerk">clerk</a>' in await guest.page("/overview")
        await guest.do("/nodes/cancel", node=held["node"], source=held["message"]["source"], message="stuck")
        await guest.do("/pauses/pause", kind="actor", name="clerk")
        page = await guest.page("/actor?title=clerk")
        assert "<b>Paused</b>" in page
        assert 'aria-label="Resume clerk"' in page
        await bury(guest.broker, "letters", {"a": 1})
        assert (await guest.json("/actor", title="clerk"))["dead"] == 1
        assert "no actor 'clrek' runs" in (await guest.json("/actor", 404, title="clrek"))["error"]
    async with visit() as guest:
        await enter(guest.broker, {"till": ["orders"]})
        page = await guest.page("/actor?title=till")
        assert "No node that reports runs it." in page
        assert "None of its messages runs now." in page


async def test_a_node_is_stopped():
    async with visit_with_a_node() as (guest, system):
        asked = await guest.do("/nodes/stop", id=system.node_id, dry_run=True)
        assert "What it handles may finish" in asked["question"]
        await guest.do("/nodes/stop", id=system.node_id, reason="update")
        await system.wait_stopped()
        assert [(one.who, one.action) for one in await guest.broker.audit.list()] == [("ann", "stop node")]
        await guest.do("/nodes/stop", 404, id="no such node")
        await guest.json("/node", 404, id="no such node")
        await guest.json("/nodes/nothing/stacks", 404)


async def test_a_node_is_paused_and_resumed_from_its_page():
    async with visit_with_a_node("operator") as (guest, system):
        page = f"/node?id={system.node_id}"
        name = (await guest.json("/node", id=system.node_id))["name"]
        assert 'action="/pauses/pause"' in await guest.page(page)
        await guest.do("/pauses/pause", kind="node", name=name)
        assert (await guest.json("/node", id=system.node_id))["pause"] == {"kind": "node", "name": name}
        assert 'action="/pauses/resume"' in await guest.page(page)
        await guest.do("/pauses/resume", kind="node", name=name)
        # All nodes of a host are paused together, and each page ends that.
        await guest.do("/pauses/pause", kind="node", name=name.rpartition(":")[0])
        assert (await guest.json("/node", id=system.node_id))["pause"]["name"] == name.rpartition(":")[0]


async def test_an_operator_takes_no_stacks():
    async with visit_with_a_node("operator") as (guest, system):
        await guest.json(f"/nodes/{system.node_id}/stacks", 403)
        await guest.page(f"/node/stacks?id={system.node_id}", 403)
        assert "/node/stacks" not in await guest.page(f"/node?id={system.node_id}")
        assert (await guest.http.get("/live", params={"page": "/node/stacks?id=1"})).status_code == 404


async def test_a_source_is_paused_and_resumed_and_the_record_says_by_whom():
    async with visit() as guest:
        asked = await guest.do("/pauses/pause", kind="source", name="orders", dry_run=True)
        assert asked["question"] == "Pause source 'orders'?"
        assert not await guest.broker.pauses.list()
        await guest.do("/pauses/pause", kind="source", name="orders", reason="stocktaking")
        (pause,) = await guest.broker.pauses.list()
        assert (pause.by, pause.reason) == ("ann", "stocktaking")
        await guest.do("/pauses/resume", kind="source", name="orders")
        refused = await guest.do("/pauses/resume", 409, kind="source", name="orders")
        assert refused["error"] == "source 'orders' was not paused"
        last, resumed, paused = await guest.broker.audit.list()
        assert (paused.who, paused.role, paused.action, paused.what) == ("ann", "admin", "pause", "source 'orders'")
        assert (paused.reason, paused.ip, paused.outcome) == ("stocktaking", "127.0.0.1", "done")
        assert resumed.outcome == "done"
        assert last.outcome == "failed: source 'orders' was not paused"
        assert "stocktaking" in await guest.page("/audit")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"kind": "all"},
        {"kind": "everything", "name": "x"},
        {"kind": "source"},
        {"kind": "source", "name": "no source"},
    ],
)
async def test_a_pause_that_means_nothing_is_refused(fields: dict[str, Any]):
    async with visit() as guest:
        await guest.do("/pauses/pause", 400, **fields)
        assert not await guest.broker.audit.list()


async def test_without_the_script_an_action_asks_on_a_page_of_its_own():
    async with visit() as guest:
        asked = await guest.submit("/pauses/pause", kind="source", name="orders", reason="stock")
        assert "Pause source &#39;orders&#39;?" in asked
        assert '<input type="hidden" name="name" value="orders">' in asked
        assert not await guest.broker.pauses.list()
        done = await guest.submit("/pauses/pause", kind="source", name="orders", reason="stock", confirm="yes")
        assert "Paused source &#39;orders&#39;" in done
        assert len(await guest.broker.pauses.list()) == 1


async def test_a_reason_may_be_wanted():
    async with visit(reason_required=True) as guest:
        assert (await guest.do("/pauses/pause", kind="everything", dry_run=True))["reason_required"]
        assert "wants a reason" in (await guest.do("/pauses/pause", 400, kind="everything", reason=" "))["error"]
        await guest.do("/pauses/pause", kind="everything", reason="fire")


async def test_dead_letters_are_grouped_replayed_and_dropped():
    async with visit() as guest:
        await bury(guest.broker, "orders", {f"a{n}": n for n in range(5)}, reason="no stock")
        await bury(guest.broker, "letters", {"b": 1}, reason="no paper", group="clerk")
        found = await guest.json("/dead")
        assert [(cause["count"], cause["example"]["actor"]) for cause in found["causes"]] == [
            (5, "actor till"),
            (1, "actor clerk"),
        ]
        cause = found["causes"][0]["fingerprint"]
        assert (await guest.json("/dead/letters", fingerprint=cause))["total"] == 5
        assert (await guest.json("/dead/letters", text="no paper"))["total"] == 1
        assert "no stock" in await guest.page("/dead")
        asked = await guest.do("/dead/replay", fingerprint=cause, dry_run=True)
        assert (asked["question"], asked["how_many"]) == ("Replay 5 dead letters?", 5)
        assert await guest.broker.backlog("orders") == 0
        done = await guest.do("/dead/replay", fingerprint=cause)
        assert (done["done"], done["how_many"]) == ("replayed 5 dead letters", 5)
        assert await guest.broker.backlog("orders") == 5
        (letter,) = (await guest.json("/dead/letters"))["letters"]
        assert (await guest.do("/dead/drop", source="letters", entry=letter["entry"], dry_run=True))["is_grave"]
        await guest.do("/dead/drop", source="letters", entry=[letter["entry"]])
        assert not await guest.broker.dead_letters.sources()
        await guest.do("/dead/drop", 404, all="yes")
        await guest.do("/dead/drop", 400)
        dropped, replayed = await guest.broker.audit.list()
        assert (replayed.how_many, dropped.how_many) == (5, 1)


async def test_an_action_that_takes_a_while_says_to_its_user_how_far_it_is(monkeypatch: pytest.MonkeyPatch):
    async with visit() as guest:
        await bury(guest.broker, "letters", {"a": 1, "b": 2})
        await bury(guest.broker, "orders", {"c": 3})
        drop, may_go_on = guest.broker.dead_letters.drop, trio.Event()

        async def drop_slowly(source: str, entries: Sequence[str]) -> int:
            if source == "orders":
                await may_go_on.wait()
            return await drop(source, entries)

        monkeypatch.setattr(guest.broker.dead_letters, "drop", drop_slowly)

        async def so_far(id: str) -> int | None:
            return (await guest.json("/under-way", id=id))["so_far"]

        assert await so_far("mine") is None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(guest.do, "/dead/drop", all="yes", under_way="mine"))
            with trio.fail_after(60):
                while await so_far("mine") != 2:  # noqa: ASYNC110 - that it is asked for is the point
                    await trio.sleep(0.01)
            assert await so_far("yours") is None
            may_go_on.set()
        assert await so_far("mine") is None
        assert (await guest.broker.audit.list())[0].how_many == 3


async def test_a_letter_is_edited_and_replayed_and_masked_secrets_stay_as_they_were():
    async with visit() as guest:
        (letter,) = await bury(guest.broker, "orders", {"m": {"n": 1, "db": {"password": "geheim"}, "tokens": ["t"]}})
        where: dict[str, Any] = {"source": "orders", "entry": letter.entry}
        shown = await guest.json("/dead/letter", **where)
        assert shown["payload"] == {"n": 1, "db": {"password": MASK}, "tokens": MASK}
        assert shown["headers"]["X-Api-Key"] == MASK
        page = await guest.page(f"/dead/letter?source=orders&entry={letter.entry}")
        assert "geheim" not in page
        assert MASK in page
        await guest.do("/dead/edit", 400, **where, payload="{no json")
        changed = shown["payload"] | {"n": 2}
        await guest.do("/dead/edit", **where, payload=json.dumps(changed))
        delayed = await guest.broker.backlog("orders")
        assert delayed == 1
        await guest.do("/dead/edit", 404, **where, payload="1")
        (again,) = await bury_what_waits(guest.broker)
        assert json.loads(again) == {"n": 2, "db": {"password": "geheim"}, "tokens": ["t"]}


async def bury_what_waits(broker: object) -> list[bytes]:
    from actorwork.testing.conformance.fake_consumer import open_consumer

    async with open_consumer(broker, "orders", group="till") as consumer:  # type: ignore[arg-type]
        delivery = await consumer.take_one()
        assert isinstance(delivery.payload, bytes)
        return [delivery.payload]


async def test_a_viewer_sees_no_payload_anywhere():
    async with visit("viewer") as guest:
        (letter,) = await bury(guest.broker, "orders", {"m": {"n": "needle"}})
        await guest.broker.publish([Envelope("orders", "later", b'{"n": "needle"}', delay=3600)])
        await guest.broker.triggers.register(NIGHTLY.source, [NIGHTLY])
        for path in ("/dead", "/dead/letters", f"/dead/letter?source=orders&entry={letter.entry}", "/message?id=m"):
            assert "needle" not in await guest.page(path)
            assert "needle" not in (await guest.http.get(f"/api{path}")).text
        assert "needle" not in await guest.page("/delayed")
        assert (await guest.json("/triggers"))["triggers"][0]["message"] is None
        # Not even by asking whether there is one.
        assert "see_payloads" in (await guest.json("/dead", 403, text="needle"))["error"]
        assert "<button" not in (await guest.page("/pauses")).partition("<main")[2].partition("</main>")[0]


async def test_letters_of_several_sources_are_chosen_from_one_list():
    async with visit() as guest:
        orders = await bury(guest.broker, "orders", {"a": 1, "b": 2})
        (letter,) = await bury(guest.broker, "letters", {"c": 3}, group="clerk")
        page = await guest.page("/dead/letters")
        chosen = [f"{orders[0].entry} orders", f"{letter.entry} letters"]
        assert all(f'name="letter" value="{one}"' in page for one in chosen)
        asked = await guest.do("/dead/drop", chosen="yes", letter=chosen, dry_run=True)
        assert asked["question"] == "Drop 2 dead letters?"
        done = await guest.do("/dead/drop", chosen="yes", letter=chosen)
        assert done["how_many"] == 2
        assert [one["message_id"] for one in (await guest.json("/dead/letters"))["letters"]] == ["b"]
        assert "an entry and a source" in (await guest.do("/dead/drop", 400, letter="orders"))["error"]


async def test_a_list_in_which_nothing_is_chosen_does_not_stand_for_all_of_it():
    async with visit() as guest:
        await bury(guest.broker, "orders", {"a": 1})
        assert 'name="chosen" value="yes"' in await guest.page("/dead/letters?source=orders")
        refused = await guest.do("/dead/drop", 400, chosen="yes", source="orders")
        assert refused["error"] == "no letter is chosen: tick those that are meant"
        assert len(await guest.broker.dead_letters.list("orders")) == 1


async def test_a_pause_of_what_has_never_run_is_doubted_before_it_is_confirmed():
    async with visit() as guest:
        await enter(guest.broker, {"mailer": ["mails"]})
        asked = await guest.do("/pauses/pause", kind="actor", name="mialer", dry_run=True)
        assert asked["question"] == (
            "Pause actor 'mialer'? No actor 'mialer' has run at this broker; did you mean 'mailer'?"
        )
        asked = await guest.do("/pauses/pause", kind="source", name="mails", dry_run=True)
        assert asked["question"] == "Pause source 'mails'?"
        assert (await guest.json("/pauses"))["sources"] == ["mails"]


async def test_triggers_are_shown_run_and_paused():
    async with visit() as guest:
        await guest.broker.triggers.register(NIGHTLY.source, [NIGHTLY])
        (one,) = (await guest.json("/triggers"))["triggers"]
        assert (one["state"], len(one["next"])) == ("on", 5)
        await guest.do("/triggers/run", actor="shop", title="night/ly")
        assert await guest.broker.backlog(NIGHTLY.source) == 1
        await guest.do("/triggers/run", 404, actor="shop", title="daily")
        await guest.do("/pauses/pause", kind="trigger", name=one["pause_name"])
        (one,) = (await guest.json("/triggers"))["triggers"]
        assert (one["state"], one["next"]) == ("paused", [])
        assert "Resume night/ly" in await guest.page("/triggers")
        await guest.do("/triggers/forget", actor="shop", title="night/ly")
        assert not (await guest.json("/triggers"))["triggers"]


async def test_a_run_is_shown_with_its_graph_and_cancelled():
    async with visit() as guest:
        steps = (
            StepPlan(name="first <b>", source="a", template=("1",)),
            StepPlan(name="then", kind="signal", type='"bool"'),
        )
        await guest.broker.runs.start(Plan(id="r1", home="h", steps=steps, result=("1",), title="words"))
        (run,) = (await guest.json("/runs"))["runs"]
        assert (run["title"], run["status"]) == ("words", "STARTED")
        page = await guest.page("/run?id=r1")
        assert "<svg" in page
        assert "<style" not in page
        assert "first &lt;b&gt;" in page
        assert "first <b>" not in page
        facts = await guest.json("/run", id="r1")
        assert (facts["steps_total"], facts["waits"]) == (2, ["the signal 'then'", "a node that reads 'a': none does"])
        await guest.do("/runs/signal", 400, id="r1", name="then", value="{")
        await guest.do("/runs/signal", 400, id="r1", name="then", value="3")
        await guest.do("/runs/signal", id="r1", name="then", value="true")
        await guest.do("/runs/signal", 409, id="r1", name="then", value="true")
        await guest.do("/runs/cancel", id="r1", reason="wrong words")
        assert (await guest.json("/run", id="r1"))["reason"] == "wrong words"
        await guest.do("/runs/cancel", 409, id="r1")
        await guest.do("/runs/forget", id="r1")
        await guest.json("/run", 404, id="r1")
        await guest.json("/runs", 400, status="LOST")


async def test_a_trigger_that_does_not_fire_says_why_and_a_pause_of_all_triggers_is_ended_from_each():
    async with visit() as guest:
        await guest.broker.triggers.register(NIGHTLY.source, [NIGHTLY])
        this = "/trigger?actor=shop&title=night/ly"
        assert not (await guest.json("/triggers"))["triggers"][0]["has_node"]
        assert "none runs shop: nothing fires it" in await guest.page("/triggers")
        assert "No node runs shop: nothing fires this trigger until one does" in await guest.page(this)
        await guest.do("/pauses/pause", kind="triggers", name="shop", reason="stocktaking")
        (one,) = (await guest.json("/triggers"))["triggers"]
        assert (one["state"], one["paused_by"], one["paused_because"]) == ("paused", "ann", "stocktaking")
        page = await guest.page(this)
        assert "Paused with all triggers of shop by ann since" in page
        assert "Stocktaking." in page
        resume = page.partition('action="/pauses/resume"')[2].partition("</form>")[0]
        assert (
            '<input type="hidden" name="kind" value="triggers"><input type="hidden" name="name" value="shop">' in resume
        )
        await guest.do("/pauses/resume", kind="triggers", name="shop")
        assert (await guest.json("/trigger", actor="shop", title="night/ly"))["state"] == "on"


class Ledger(Actor):
    settings = Settings(title="ledger", concurrency=2)

    @receive
    async def book(self, *, amount: int) -> None:
        async with self.context.lock("<books>"):
            await trio.sleep_forever()


async def test_a_lock_is_listed_with_its_owner_and_those_that_wait_for_it():
    async with (
        visit() as guest,
        open_system(Ledger, broker=guest.broker, grace=0.1) as system,
        open_client(guest.broker) as client,
    ):
        assert "None is held now" in await guest.page("/pauses")
        for name in ("one", "two"):
            await client.ref(Ledger).submit({"amount": 1}, id=name)
        found: list[Any] = []
        with trio.fail_after(60):
            while not any(one["owner"] and one["waiting"] == 1 for one in found):
                found = (await guest.json("/pauses"))["locks"]
                await trio.sleep(0.01)
        (lock,) = found
        owner = lock["owner"]
        assert (lock["name"], owner["actor"], owner["node"]) == ("<books>", "ledger", system.node_id)
        assert owner["message"] in ("one", "two")
        assert lock["waiting_since"]
        page = await guest.page("/pauses")
        assert "&lt;books&gt;" in page
        assert f"/message?id={owner['message']}" in page


async def test_a_lock_of_a_program_that_is_no_node_is_listed_with_that_program():
    async with visit() as guest, open_client(guest.broker) as client, client.lock("<door>"):
        (lock,) = (await guest.json("/pauses"))["locks"]
        assert (lock["name"], lock["waiting"], lock["owner"]["who"]) == ("<door>", 0, f"{whoami()}, pid {os.getpid()}")
        assert lock["owner"]["since"] <= lock["owner"]["until"]
        page = await guest.page("/pauses")
        assert "&lt;door&gt;" in page
        assert f"{whoami()}, pid {os.getpid()}" in page
    async with visit() as guest:
        assert (await guest.json("/pauses"))["locks"] == []


async def test_a_trigger_of_an_actor_that_runs_is_on():
    async with visit_with_a_node() as (guest, _):
        await guest.broker.triggers.register("letters", [attrs.evolve(NIGHTLY, source="letters", actor="clerk")])
        (one,) = (await guest.json("/triggers"))["triggers"]
        assert (one["state"], one["has_node"]) == ("on", True)
        assert "no node" not in await guest.page("/triggers")


async def test_what_limits_and_open_circuits_hold_back_is_listed_together_over_all_nodes():
    async with visit() as guest:
        assert "None holds messages back now" in await guest.page("/pauses")
        now, _ = await guest.broker.reports.nodes()
        for number, (waiting, until) in enumerate([(3, now + 60), (4, now + 30)]):
            circuit = HoldUp(kind="circuit", name="<smtp>", waiting=1, until=now + 90)
            rate = HoldUp(kind="rate", name="mails", waiting=waiting, until=until)
            held = (rate, circuit) if number == 0 else (rate,)
            await report(guest.broker, number, tree=PartReport(title="mailer", hold_ups=held))
        first, second = (await guest.json("/pauses"))["limits"]
        assert (first["actor"], first["kind"], first["name"], first["waiting"], first["nodes"]) == (
            "mailer", "rate", "mails", 7, 2,
        )  # fmt: skip
        assert first["until"] == moment(now + 30)
        assert (second["kind"], second["waiting"]) == ("circuit", 1)
        page = await guest.page("/pauses")
        assert "open circuit" in page
        assert "&lt;smtp&gt;" in page


class Printer(Actor):
    settings = Settings(title="printer")
    has_paper_for: ClassVar[set[str]] = set()

    @receive
    async def print(self, *, page: str) -> str:
        if page not in self.has_paper_for:
            raise LookupError(f"no paper for {page}")
        return page


@asynccontextmanager
async def visit_with_a_failed_run(role: str = "admin") -> AsyncGenerator[tuple[Visitor, Run[Any]]]:
    """Open a dashboard of a run of which two of three steps have failed, each of them with one that comes after it."""
    Printer.has_paper_for = {"third", "after first", "after second"}
    async with (
        visit(role) as guest,
        open_system(Printer, broker=guest.broker, grace=1),
        open_client(guest.broker) as client,
    ):
        first, second, third = (step(Printer, {"page": name}, name=name) for name in ("first", "second", "third"))
        after = [
            step(Printer, {"page": f"after {one.name}"}, name=f"after {one.name}", after=[one])
            for one in (first, second)
        ]
        run = await client.start(Flow(group([third, *after])), id="pages")
        with trio.fail_after(60), pytest.raises(MessageFailed):
            await run.result()
        yield guest, run


async def statuses(guest: Visitor) -> dict[str, str]:
    return {one["name"]: one["status"] for one in (await guest.json("/run", id="pages"))["steps"]}


async def test_of_a_failed_run_those_steps_are_retried_that_the_user_chooses():
    async with visit_with_a_failed_run() as (guest, run):
        facts = await guest.json("/run", id="pages")
        number = {one["name"]: str(one["number"]) for one in facts["steps"]}
        assert {one["name"] for one in facts["steps"] if one["can_retry"]} == {"first", "second"}
        assert facts["steps_to_retry"] == 2
        page = await guest.page("/run?id=pages")
        assert "Retry all 2" in page
        boxes = [f'name="number" value="{number[name]}"' in page for name in ("first", "second", "third")]
        assert boxes == [True, True, False]
        asked = await guest.do("/runs/retry", id="pages", chosen="yes", number=number["second"], dry_run=True)
        assert asked["how_many"] == 1
        assert asked["question"] == (
            "Retry 'second' of run 'pages'? What was cancelled because of it runs again as well. The other steps that"
            " failed stay as they are."
        )
        Printer.has_paper_for |= {"first", "second"}
        done = await guest.do("/runs/retry", id="pages", chosen="yes", number=number["second"], reason="a new ream")
        assert (done["done"], done["how_many"]) == ("retrying 'second' of run 'pages'", 1)
        with trio.fail_after(60), pytest.raises(MessageFailed):
            await run.result()
        assert await statuses(guest) == {
            "first": "FAILURE",
            "after first": "CANCELLED",
            "second": "SUCCESS",
            "after second": "SUCCESS",
            "third": "SUCCESS",
        }
        (entry,) = await guest.broker.audit.list()
        assert (entry.action, entry.what, entry.reason) == ("retry run", "run pages: 'second'", "a new ream")
        assert 'name="number"' not in await guest.page("/run?id=pages"), "there is nothing to choose among one"
        await guest.do("/runs/retry", id="pages")
        with trio.fail_after(60):
            await run.result()
        assert set((await statuses(guest)).values()) == {"SUCCESS"}
        assert (await guest.broker.audit.list())[0].what == "run pages"
        await guest.do("/runs/retry", 409, id="pages")


@pytest.mark.parametrize(
    ("fields", "code", "problem"),
    [
        ({"chosen": "yes"}, 400, "no step is chosen"),
        ({"step": "forth"}, 409, "has no step 'forth'"),
        ({"step": ["first", "third"]}, 409, "'third' has not failed (SUCCESS)"),
        ({"step": "after first"}, 409, "name 'first'"),
        ({"number": "two"}, 400, "wants the number of a step"),
        ({"number": "17"}, 409, "has no step 17"),
    ],
)
async def test_a_choice_of_steps_that_cannot_be_retried_is_refused_before_it_is_confirmed(
    fields: dict[str, Any], code: int, problem: str
):
    async with visit_with_a_failed_run() as (guest, _):
        refused = await guest.do("/runs/retry", code, id="pages", dry_run=True, **fields)
        assert problem in refused["error"]
        assert not await guest.broker.audit.list()


async def test_a_viewer_has_no_steps_to_choose():
    async with visit_with_a_failed_run("viewer") as (guest, _):
        page = await guest.page("/run?id=pages")
        assert 'name="number"' not in page
        await guest.do("/runs/retry", 403, id="pages", step="first")


async def test_a_large_run_shows_the_steps_that_failed_first(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(flows, "SHOWN_STEPS", 3)
    async with visit_with_a_failed_run() as (guest, _):
        shown = (await guest.json("/run", id="pages"))["steps"]
        assert [one["can_retry"] for one in shown] == [True, True, False]
        page = await guest.page("/run?id=pages")
        assert "3 of 5 steps are shown" in page
        assert '<a href="/run?id=pages&amp;limit=500">show all</a>' in page
        whole = (await guest.json("/run", id="pages", limit="500"))["steps"]
        assert [one["number"] for one in whole] == list(range(5))
        assert "steps are shown" not in await guest.page("/run?id=pages&limit=500")


async def test_an_error_page_shows_its_user_and_where_it_is():
    async with visit("operator") as guest:
        for path, code, page in (("/run?id=none", 404, "Runs"), ("/send", 403, "Sources"), ("/nowhere", 404, "")):
            text = await guest.page(path, code)
            assert '<p class="user"><b>ann</b> <span>operator</span></p>' in text
            assert (f'aria-current="page">{page}</a>' in text) is bool(page)
        assert "<b>ann</b>" in await guest.submit("/pauses/pause", 400, kind="nothing")
    async with visit(hosts=["ops.example.org"]) as guest:
        assert "ann" not in await guest.page("/overview", 421)


async def test_a_message_is_found_by_its_id():
    async with visit() as guest:
        await guest.broker.publish([Envelope("orders", "a/b", b"1", headers={"actorwork-result-ttl": 60})])
        await guest.broker.publish([Envelope("orders", "later", b"1", delay=3600)])
        (letter,) = await bury(guest.broker, "letters", {"dead": 1})
        found = await guest.json("/messages/a/b")
        assert (found["info"]["status"], found["info"]["source"]) == ("PENDING", "orders")
        assert found == await guest.json("/message", id="a/b")
        assert "Cancel" in await guest.page("/message?id=a/b")
        assert (await guest.json("/message", id="dead"))["dead"][0]["entry"] == letter.entry
        assert (await guest.json("/message", id="later"))["delayed"][0]["source"] == "orders"
        assert not (await guest.json("/message", id="nowhere"))["is_known"]
        await guest.do("/messages/cancel", id="a/b", reason="typo")
        assert (await guest.json("/message", id="a/b"))["info"]["status"] == "CANCELLED"
        await guest.do("/messages/cancel", 409, id="a/b")
        await guest.do("/messages/cancel", id="later", source="orders")
        assert not (await guest.json("/delayed"))["delayed"]


TRACKED = {"actorwork-result-ttl": 60}


async def listed(guest: Visitor, **filters: str) -> list[str]:
    return [one["id"] for one in (await guest.json("/messages", **filters))["messages"]]


async def test_messages_are_listed_by_state_actor_source_and_text():
    async with visit() as guest:
        await enter(guest.broker, {"till": ["orders"], "mailer": ["mails"]})
        payloads = {"a": {"name": "Zo\u00eb", "api_key": "geheim"}, "b": {"name": "Bo"}}
        for name, payload in payloads.items():
            await guest.broker.publish([Envelope("orders", name, json.dumps(payload).encode(), headers=TRACKED)])
        await guest.broker.publish([Envelope("orders", "c", b"1", headers=TRACKED, delay=3600)])
        await guest.broker.publish([Envelope("mails", "d", b"[]", headers=TRACKED)])
        await guest.do("/messages/cancel", id="b")
        everything = await guest.json("/messages")
        assert {one["id"]: one["state"] for one in everything["messages"]} == {
            "a": "waiting",
            "b": "cancelled",
            "c": "delayed",
            "d": "waiting",
        }
        assert everything["counts"] == {"waiting": 2, "delayed": 1, "cancelled": 1}
        assert (everything["searched"], everything["is_complete"], everything["is_cut"]) == (4, True, False)
        assert sorted(await listed(guest, state="waiting")) == ["a", "d"]
        assert await listed(guest, actor="mailer") == ["d"]
        assert sorted(await listed(guest, source="orders")) == ["a", "b", "c"]
        # As it is written, whatever JSON makes of it; and the ids are searched as well.
        assert await listed(guest, text="zo\u00cb") == ["a"]
        assert await listed(guest, text="D") == ["d"]
        assert await listed(guest, state="delayed", text="nothing like it") == []
        assert len((await guest.json("/messages", limit="1"))["messages"]) == 1
        page = await guest.page("/messages?state=waiting")
        assert "geheim" not in page
        assert 'aria-current="true">waiting' in page
        assert "Cancel a" in page
        assert "did you mean 'till'" in (await guest.json("/messages", actor="tilt"))["problem"]
        assert "did you mean" in await guest.page("/messages?actor=tilt")
        assert "waiting, delayed" in (await guest.json("/messages", 400, state="lost"))["error"]


async def test_a_message_shows_its_key_its_headers_its_payload_and_its_failed_attempts():
    async with visit() as guest:
        await enter(guest.broker, {"till": [default_source(identity("till"))]})
        history = [{"attempt": 1, "error": "ValueError", "reason": "no <order>", "at": 1_700_000_000.0}]
        headers: dict[str, Any] = {**TRACKED, "actorwork-history": history, "api_key": "geheim", "tenant": "acme"}
        source = default_source(identity("till"))
        data = b'{"order": 7, "password": "geheim"}'
        await guest.broker.publish([Envelope(source, "m", data, key="ann", headers=headers, delay=60)])
        found = await guest.json("/messages/m", source=source)
        assert (found["key"], found["label"], found["headers"]["tenant"]) == ("ann", "actor:till", "acme")
        assert found["attempts"] == [{"attempt": 1, "error": "ValueError: no <order>", "at": 1_700_000_000.0}]
        assert found["payload"]["order"] == 7
        page = await guest.page(f"/message?id=m&source={source}")
        assert "geheim" not in page
        assert "<b>Attempt 1</b>" in page
        assert "no &lt;order&gt;" in page
        assert "actor:till" in await guest.page("/delayed")


async def test_a_message_shows_its_trace_and_links_to_it_where_the_dashboard_knows_where():
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {**TRACKED, "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    async with visit(trace_url="https://traces.example.org/t/{trace_id}?x=1&y=2") as guest:
        await guest.broker.publish([Envelope("orders", "m", b"7", headers=headers)])
        url = f"https://traces.example.org/t/{trace}?x=1&y=2"
        assert (await guest.json("/messages/m"))["trace"] == {"id": trace, "url": url}
        assert f'href="{url.replace("&", "&amp;")}"' in await guest.page("/message?id=m")
        (letter,) = await bury(guest.broker, "letters", {"dead": 1})
        assert (await guest.json("/dead/letter", source="letters", entry=letter.entry))["trace"] is None
    async with visit() as guest:
        await guest.broker.publish([Envelope("orders", "m", b"7", headers=headers)])
        assert f'<span class="mono">{trace}</span>' in await guest.page("/message?id=m")
    for wrong in ("https://traces.example.org/", "javascript:{trace_id}"):
        with pytest.raises(ValueError, match="trace_url is an address"):
            app(trace_url=wrong)


async def test_a_viewer_sees_of_a_message_only_what_becomes_of_it():
    async with visit("viewer") as guest:
        await guest.broker.publish([Envelope("orders", "m", b"7", key="ann", headers=TRACKED, delay=60)])
        seen = await guest.json("/messages/m")
        assert seen["is_known"]
        assert not {"key", "headers", "attempts", "payload"} & seen.keys()


async def test_messages_are_filtered_by_key_unique_key_and_header():
    async with visit() as guest:
        await enter(guest.broker, {"till": ["orders"]})
        publish = guest.broker.publish
        await publish([Envelope("orders", "a", b"1", key="ann", headers={**TRACKED, "tenant": "acme", "tries": 3})])
        await publish([Envelope("orders", "b", b"2", key="bob", unique=Unique("once"), headers=TRACKED)])
        await publish([Envelope("orders", "c", b"3", headers={**TRACKED, "tenant": "other"}, delay=60)])
        assert await listed(guest, key="ann") == ["a"]
        assert await listed(guest, key="an") == []
        assert await listed(guest, unique="once") == ["b"]
        assert await listed(guest, header="tenant=acme") == ["a"]
        assert await listed(guest, header="tries=3", key="ann") == ["a"]
        assert await listed(guest, header="tenant=other", state="delayed") == ["c"]
        assert await listed(guest, header="tenant=acme", unique="once") == []
        (found,) = (await guest.json("/messages", unique="once"))["messages"]
        assert (found["key"], found["unique"]) == ("bob", "once")
        page = await guest.page("/messages?key=ann")
        assert "Keys and headers are known of messages that are open" in page
        assert "key ann" in page
        assert "NAME=VALUE" in (await guest.json("/messages", 400, header="tenant"))["error"]


async def test_a_viewer_lists_messages_without_what_is_in_them():
    async with visit("viewer") as guest:
        await guest.broker.publish([Envelope("orders", "a", b'{"n": "needle"}', headers=TRACKED)])
        await enter(guest.broker, {"till": ["orders"]})
        (one,) = (await guest.json("/messages"))["messages"]
        assert (one["id"], one["payload"]) == ("a", None)
        page = await guest.page("/messages")
        assert "needle" not in page
        assert "Cancel" not in page.partition("<main")[2].partition("</main>")[0]
        for filters in ({"text": "needle"}, {"key": "k"}, {"unique": "k"}, {"header": "tenant=acme"}):
            assert "see_payloads" in (await guest.json("/messages", 403, **filters))["error"]


async def test_a_message_is_sent():
    async with visit() as guest:
        await enter(guest.broker, {"till": ["orders"]})
        await guest.do("/messages/send", actor="till", payload='{"n": 1}')
        await guest.do("/messages/send", source="orders", payload="2")
        assert await guest.broker.backlog(default_source(identity("till"))) == 1
        assert await guest.broker.backlog("orders") == 1
        assert "did you mean" in (await guest.do("/messages/send", 404, actor="tilt", payload="1"))["error"]
        await guest.do("/messages/send", 400, actor="till", source="orders", payload="1")
        await guest.do("/messages/send", 400, actor="till", payload="no json")


async def test_the_trees_of_many_programs_are_shown_a_page_after_another():
    async with visit() as guest:
        for number in range(45):
            children = tuple(PartReport(title=f"actor {actor}") for actor in range(10))
            root = PartReport(title="root", kind="one_for_one", children=children)
            await report(guest.broker, number, tree=root)
        names: list[str] = []
        facts: dict[str, Any] = {}
        first, page = 1, ""
        while first is not None:
            facts = await guest.json("/actors", first=str(first))
            names += [program["name"] for program in facts["programs"]]
            assert len(facts["programs"]) <= 20
            page = await guest.page(f"/actors?first={first}")
            first = facts["next"]
            assert (f"/actors?first={first}" in page) is (first is not None)
        assert len(names) == len({*names}) == facts["programs_total"] == 45
        assert len(page) < 100_000
        assert "none of them is here" in await guest.page("/actors?first=1000")


async def test_a_message_may_have_a_key_and_a_delay_and_a_page_has_the_form():
    async with visit() as guest:
        await enter(guest.broker, {"till": ["orders"]})
        page = await guest.page("/send?actor=till")
        assert 'value="till"' in page
        assert '<option value="orders">' in page
        assert "/send?actor=till" in await guest.page("/actors")
        plan = await guest.do("/messages/send", source="orders", payload="1", delay="1h30m", key="ann", dry_run=True)
        assert plan["question"] == "Send this message to the source 'orders', 1h30m from now?"
        await guest.do("/messages/send", source="orders", payload="1", delay="1h30m", key="ann")
        (held,) = await guest.broker.delayed.list("orders")
        assert held.due - time.time() == pytest.approx(5400, abs=600)
        for wrong in ("soon", "inf", "-1s"):
            await guest.do("/messages/send", 400, source="orders", payload="1", delay=wrong)
    async with visit("operator") as guest:
        await guest.page("/send", 403)
        assert "/send" not in await guest.page("/actors")


async def test_a_source_is_purged_after_it_was_counted():
    async with visit() as guest:
        await enter(guest.broker, {"till": ["orders"]})
        await guest.broker.publish([Envelope("orders", f"m{n}", b"1") for n in range(3)])
        await guest.broker.publish([Envelope("orders", "later", b"1", delay=3600)])
        assert 'aria-label="Purge orders"' in await guest.page("/sources")
        plan = await guest.do("/sources/purge", source="orders", dry_run=True)
        assert plan["question"].startswith("Drop 4 messages of 'orders' for good (3 ready, 1 delayed)?")
        assert (plan["how_many"], plan["is_grave"]) == (4, True)
        assert await guest.broker.backlog("orders") == 3
        done = await guest.do("/sources/purge", source="orders", reason="a test order")
        assert done["done"] == "dropped 4 messages of 'orders'"
        assert await guest.broker.backlog("orders") == 0
        (entry,) = await guest.broker.audit.list()
        assert (entry.action, entry.what, entry.reason, entry.how_many) == (
            "purge",
            "source orders",
            "a test order",
            4,
        )
        assert "has no message to drop" in (await guest.do("/sources/purge", 404, source="orders"))["error"]
        await guest.do("/sources/purge", 400, source="no source!")
        assert "Purge orders" not in await guest.page("/sources")
    async with visit("operator") as guest:
        await guest.do("/sources/purge", 403, source="orders")


async def test_lists_are_bounded_and_say_so():
    async with visit() as guest:
        await guest.broker.publish([Envelope("orders", f"m{n}", b"1", delay=60 + n) for n in range(120)])
        page = await guest.page("/delayed")
        assert "The first 100 are shown" in page
        assert "limit=3000" in page
        assert len((await guest.json("/delayed", limit="110"))["delayed"]) == 110
        for wrong in ("0", "-1", "x", "9" * 30):
            await guest.json("/delayed", 400, limit=wrong)


@pytest.mark.parametrize(("scope_root", "own_root"), [("/ops", ""), ("", "/ops"), ("/ops", "/ops/")])
@pytest.mark.parametrize("is_stripped", [True, False])
async def test_it_works_below_a_prefix_that_a_proxy_strips_and_that_it_leaves(
    scope_root: str, own_root: str, *, is_stripped: bool
):
    async with visit(root_path=own_root) as guest:
        transport = httpx.ASGITransport(app=guest.dashboard, client=("127.0.0.1", 1), root_path=scope_root)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            prefix = "" if is_stripped else "/ops"
            for path in ("/pauses", "/pauses/", "/", ""):
                page = await http.get(f"{prefix}{path}")
                assert page.status_code == 200
                assert 'href="/ops/pauses"' in page.text
                assert 'action="/ops/' in page.text
                assert 'href="/pauses"' not in page.text
            assert (await http.get(f"{prefix}/static/style.css")).status_code == 200
            assert (await http.get(f"{prefix}/api/pauses")).json()["pauses"] == []
            assert (await http.get("/opsx/pauses")).status_code == 404


async def test_a_failure_of_ours_is_told_by_a_number_alone(monkeypatch: pytest.MonkeyPatch):
    async with visit() as guest:

        async def fail(*_: object, **__: object) -> None:
            raise ZeroDivisionError("secret of the inside")

        monkeypatch.setattr(type(guest.broker.pauses), "list", fail)
        page = await guest.page("/pauses", 500)
        assert "under the number" in page
        assert "secret of the inside" not in page
        assert "under the number" in (await guest.json("/pauses", 500))["error"]


async def test_a_broker_that_does_not_open_is_said_on_the_page(tmp_path: object):
    dashboard = app(f"sqlite:///{tmp_path}/no/such/folder/x.db")
    transport = httpx.ASGITransport(app=dashboard, client=("127.0.0.1", 1))
    async with dashboard.open(), httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        answer = await http.get("/sources")
        assert (answer.status_code, "The broker cannot be reached" in answer.text) == (503, True)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        answer = await http.get("/api/sources")
        assert "this dashboard is not open" in answer.json()["error"]


def test_masking_goes_by_the_names_of_keys():
    masking = Masking()
    for name in ("password", "db_passwd", "X-Api-Key", "accessToken", "client-secret", "Set-Cookie"):
        assert masking.is_secret(name)
    for name in ("name", "number", "passage", "author"):
        assert not masking.is_secret(name)
    value = {"a": [{"token": 1, "b": None}], "token": None, "secret": ""}
    assert masking.masked(value) == {"a": [{"token": MASK, "b": None}], "token": None, "secret": ""}
    assert Masking(["iban"]).masked({"token": 1, "IBAN": 2}) == {"token": 1, "IBAN": MASK}
    assert masking.unmasked({"token": MASK, "new": MASK}, {"token": 7}) == {"token": 7, "new": MASK}


def test_sentences_have_their_times_as_elements_and_are_escaped():
    told = rendering.told("<b> since 2026-01-31T12:00:00Z in 'worker:0123456789abcdef:source'")
    assert told == (
        '&lt;b&gt; since <time datetime="2026-01-31T12:00:00Z">2026-01-31 12:00:00 UTC</time> in its own source'
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0.2, "< 1s"), (5.7, "5s"), (250, "4m10s"), (3725, "1h2m"), (100_000, "1d3h"), (2_000_000, "23d")],
)
def test_lengths_of_time_are_as_exact_as_they_need_to_be(seconds: float | None, text: str):
    assert rendering.since(seconds) == text


def test_sizes_are_in_units_that_people_read():
    assert [rendering.size(one) for one in (None, 0, 999, 3210, 49_565_696, 10**15)] == [
        "", "0 B", "999 B", "3.2 kB", "49.6 MB", "1000 TB",
    ]  # fmt: skip
