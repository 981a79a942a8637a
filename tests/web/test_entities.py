"""The pages of entities: their keys, the latest changes first, one state with its history, put and forget."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from actorwork.abc import Broker
from actorwork.actors.entities.entity import Entity
from actorwork.actors.handlers.table import receive
from actorwork.clients.client import Client
from actorwork.clients.opening import open_client
from actorwork.runtime.system import open_system
from actorwork.settings import Entities, Settings, default_source, identity
from actorwork.web.access import Access
from actorwork.web.masking import MASK, Masking
from actorwork.web.pages.entities import view_one
from actorwork.web.request import Sight

from .conftest import ODD, Visitor, enter, visit


class Account(Entity[dict[str, Any]]):
    settings = Settings(title="account", entities=Entities(history=5, ttl="90d"))
    door = trio.Event()
    """What is late waits before it."""

    @receive
    async def add(self, *, n: int, wait: float = 0, is_late: bool = False) -> None:
        self.state["n"] = self.state.get("n", 0) + n
        self.state.setdefault("api_token", "geheim")
        await trio.sleep(wait)
        if is_late:
            await self.door.wait()


PLACE = Account.settings.default_source, Account.settings.id


async def put(broker: Broker, actor: str, key: str, value: object, **facts: Any) -> None:
    group = identity(actor)
    await broker.entities.put(default_source(group), group, key, json.dumps(value).encode(), **facts)


@asynccontextmanager
async def bank(role: str = "admin") -> AsyncGenerator[Visitor]:
    """Open a dashboard over a bank with one account: of ann, who has 7."""
    async with visit(role) as guest, open_system(Account, broker=guest.broker), open_client(guest.broker) as client:
        await client.ref(Account, key="ann").ask({"n": 3})
        await client.ref(Account, key="ann").ask({"n": 4})
        yield guest


async def test_what_runs_as_an_entity_is_listed_and_what_left_states_behind():
    async with bank() as guest:
        await enter(guest.broker, {"former": ["x"], "no entity": ["y"]})
        await put(guest.broker, "former", "k", 1)
        facts = await guest.json("/entities")
        assert [(one["title"], one["nodes"]) for one in facts["actors"]] == [("account", 1), ("former", 0)]
        assert facts["actors"][0]["entities"]["commits"] == 2
        page = await guest.page("/entities")
        assert "/entities?actor=account" in page
        assert "no entity" not in page


async def test_keys_are_listed_the_latest_change_first_a_page_after_another():
    async with visit() as guest:
        for n in range(7):
            # Those of one millisecond are in the order of their keys, backwards.
            await put(guest.broker, "account", f"key {n}", n, by="ann")
        first = await guest.json("/entities", actor="account", limit="3")
        assert [one["key"] for one in first["keys"]] == ["key 6", "key 5", "key 4"]
        second = await guest.json("/entities", actor="account", limit="3", after=first["next"])
        assert [one["key"] for one in second["keys"]] == ["key 3", "key 2", "key 1"]
        third = await guest.json("/entities", actor="account", limit="3", after=second["next"])
        assert ([one["key"] for one in third["keys"]], third["next"]) == (["key 0"], "")
        page = await guest.page("/entities?actor=account&limit=3")
        assert "Earlier changes" in page
        assert "No node runs this actor now" in page


@pytest.mark.parametrize("query", ["since=soon", "since=inf", "after=nan k", "after=1e9 k", "limit=0", "after=key"])
async def test_a_page_of_keys_that_means_nothing_is_refused(query: str):
    async with visit() as guest:
        await guest.page(f"/entities?actor=account&{query}", 400)


async def test_a_window_leaves_out_what_changed_before_it():
    async with visit() as guest:
        await put(guest.broker, "account", "ann", 1)
        assert len((await guest.json("/entities", actor="account", since="10m"))["keys"]) == 1
        await put(guest.broker, "other", "ann", 1)
        assert (await guest.json("/entities", actor="nothing", since="10m"))["keys"] == []


async def test_a_state_is_shown_masked_with_who_made_it_and_what_it_was():
    async with bank() as guest:
        facts = await guest.json("/entity", actor="account", key="ann")
        assert facts["state"]["state"] == {"n": 7, "api_token": MASK}
        assert (facts["state"]["version"], facts["kept_for"]) == (2, 90 * 86_400)
        assert [(one["version"], one["state"]["n"]) for one in facts["history"]] == [(2, 7), (1, 3)]
        page = await guest.page("/entity?actor=account&key=ann")
        assert "geheim" not in page
        assert "&#34;n&#34;: 7" in page
        assert f"/message?id={facts['state']['by']}" in page


async def test_a_viewer_sees_keys_and_versions_and_no_state():
    async with bank("viewer") as guest:
        page = await guest.page("/entity?actor=account&key=ann")
        assert "Hidden" in page
        assert "api_token" not in page
        assert "<button" not in page.partition("<main")[2].partition("</main>")[0]
        facts = await guest.json("/entity", actor="account", key="ann")
        assert (facts["state"]["version"], facts["state"]["state"], facts["text"]) == (2, None, "")
        assert all(one["state"] is None for one in facts["history"])
        await guest.do("/entities/put", 403, actor="account", key="ann", state="{}")
        await guest.do("/entities/forget", 403, actor="account", key="ann")


async def test_an_operator_looks_and_does_not_change():
    async with bank("operator") as guest:
        assert "&#34;n&#34;: 7" in await guest.page("/entity?actor=account&key=ann")
        await guest.do("/entities/put", 403, actor="account", key="ann", state="{}")


async def test_a_state_is_replaced_with_its_masked_secrets_and_the_record_says_by_whom():
    async with bank() as guest:
        seen = await guest.json("/entity", actor="account", key="ann")
        changed = json.dumps(seen["state"]["state"] | {"n": 8})
        asked = {"actor": "account", "key": "ann", "state": changed, "version": "2"}
        plan = await guest.do("/entities/put", **asked, dry_run=True)
        assert plan["question"] == "Replace the state of 'ann' of 'account', which has the version 2?"
        assert plan["is_grave"]
        assert not [one for one in await guest.broker.audit.list() if one.action == "put-state"]
        assert "version 3" in (await guest.do("/entities/put", **asked, reason="a refund"))["done"]
        found = await guest.broker.entities.get(*PLACE, "ann")
        assert found is not None
        assert json.loads(found.data) == {"n": 8, "api_token": "geheim"}
        assert (found.version, found.by) == (3, "ann")
        # With the ttl and the history that the running actor declares.
        assert len(await guest.broker.entities.history(*PLACE, "ann")) == 3
        (entry,) = [one for one in await guest.broker.audit.list() if one.action == "put-state"]
        assert (entry.what, entry.who, entry.reason, entry.outcome) == ("state account/ann", "ann", "a refund", "done")


async def test_a_state_that_has_changed_since_it_was_looked_at_is_not_replaced():
    async with bank() as guest:
        refused = await guest.do("/entities/put", 409, actor="account", key="ann", state="{}", version="1")
        assert "has the version 2, not 1" in refused["error"]
        refused = await guest.do("/entities/forget", 409, actor="account", key="ann", version="1")
        assert "has the version 2, not 1" in refused["error"]
        (first, _) = [one for one in await guest.broker.audit.list() if one.action.endswith("-state")]
        assert first.outcome.startswith("failed:")


async def test_while_a_message_is_in_hand_only_force_replaces_a_state():
    async with bank() as guest, open_client(guest.broker) as client:
        await client.ref(Account, key="ann").submit({"n": 1, "wait": 3600}, id="long")
        with trio.fail_after(60):
            while not (await guest.json("/entity", actor="account", key="ann"))["holder"]:  # noqa: ASYNC110 - no event
                await trio.sleep(0.01)
        assert "Running on" in await guest.page("/entity?actor=account&key=ann")
        refused = await guest.do("/entities/put", 409, actor="account", key="ann", state="{}")
        assert "is handling a message of this key" in refused["error"]
        await guest.do("/entities/put", actor="account", key="ann", state="{}", force="yes")
        await client.broker.cancel_message(PLACE[0], "long", force=True)


async def test_a_state_of_a_later_schema_is_replaced_by_one_of_this_program():
    async with bank() as guest, open_client(guest.broker) as client:
        await stall(guest, client, "ben")
        assert 'href="/entities?actor=account"' in await guest.page("/overview")
        page = await guest.page("/entity?actor=account&key=ben")
        assert "The programs that run write states of the schema version 1" in page
        await guest.do("/entities/put", actor="account", key="ben", state='{"n": 1}', schema="1", force=True)
        with trio.fail_after(60):
            while (await client.ref(Account, key="ben").state()).version < 3:  # noqa: ASYNC110 - as above
                await trio.sleep(0.01)
        assert (await client.ref(Account, key="ben").state()).value["n"] == 2


async def stall(guest: Visitor, client: Client, key: str) -> None:
    """Have a message of a key wait for a state that no node can read."""
    await put(guest.broker, "account", key, {"lines": []}, schema=9)
    await client.ref(Account, key=key).tell({"n": 1})
    with trio.fail_after(60):
        while not (await guest.json("/entity", actor="account", key=key))["is_stalled"]:  # noqa: ASYNC110 - as above
            await trio.sleep(0.01)


async def test_a_stalled_key_is_forgotten_by_force_and_its_message_begins_with_a_first_state():
    async with bank() as guest, open_client(guest.broker) as client:
        await stall(guest, client, "ben")
        asked = {"actor": "account", "key": "ben", "version": "1"}
        # Its message is in the node, which tries again and again.
        refused = await guest.do("/entities/forget", 409, **asked)
        assert "is handling a message of this key" in refused["error"]
        assert (await guest.json("/entity", actor="account", key="ben"))["has_state"]
        assert 'name="force" value="yes"' in forget_form(await guest.page("/entity?actor=account&key=ben"))
        plan = await guest.do("/entities/forget", **asked, force="yes", dry_run=True)
        assert "A message of this key that runs is handled again" in plan["question"]
        assert (await guest.do("/entities/forget", **asked, force="yes", reason="a test"))["how_many"] == 1
        with trio.fail_after(60):
            while not (found := await guest.json("/entity", actor="account", key="ben"))["has_state"]:  # noqa: ASYNC110 - as above
                await trio.sleep(0.01)
        assert (found["state"]["version"], found["state"]["state"]["n"]) == (1, 1)
        with trio.fail_after(60):
            while (await guest.json("/entity", actor="account", key="ben"))["is_stalled"]:  # noqa: ASYNC110 - as above
                await trio.sleep(0.01)
        entry = (await guest.broker.audit.list())[0]
        assert (entry.action, entry.what, entry.reason) == ("forget-state", "state account/ben", "a test")


async def test_while_a_message_runs_a_state_is_forgotten_by_force_and_the_message_runs_again():
    async with bank() as guest, open_client(guest.broker) as client:
        assert "force" not in forget_form(await guest.page("/entity?actor=account&key=ann"))
        Account.door = trio.Event()
        receipt = await client.ref(Account, key="ann").submit({"n": 1, "is_late": True}, id="late")
        with trio.fail_after(60):
            while not (await guest.json("/entity", actor="account", key="ann"))["holder"]:  # noqa: ASYNC110 - as above
                await trio.sleep(0.01)
        assert 'name="force" value="yes"' in forget_form(await guest.page("/entity?actor=account&key=ann"))
        await guest.do("/entities/forget", 409, actor="account", key="ann")
        await guest.do("/entities/forget", actor="account", key="ann", force="yes")
        assert not (await guest.json("/entity", actor="account", key="ann"))["has_state"]
        Account.door.set()
        await receipt.result(timeout=60)
        found = await guest.json("/entity", actor="account", key="ann")
        # On a first state, not on the 7 that it had begun with.
        assert (found["state"]["version"], found["state"]["state"]["n"]) == (1, 1)


def forget_form(page: str) -> str:
    """Return the form of the button that forgets a state."""
    return page.partition('action="/entities/forget"')[2].partition("</form>")[0]


async def test_a_page_that_follows_reads_a_history_only_after_a_change():
    async with bank() as guest:
        sight = Sight(
            broker=guest.broker,
            access=Access("ann", "admin"),
            masking=Masking(),
            query={"actor": "account", "key": "ann"},
        )
        first = await view_one(sight)
        # As if it were another one: it is read no second time.
        sight.remembered["history"] = sight.remembered["history"][:1]
        assert len((await view_one(sight))["history"]) == 1
        assert [one["text"] for one in first["history"]][:1] == [one["text"] for one in sight.remembered["history"]]
        await put(guest.broker, "account", "ann", {"n": 8}, history=5)
        assert [one["version"] for one in (await view_one(sight))["history"]] == [3, 2, 1]


async def test_a_key_without_a_state_may_be_given_one():
    async with visit() as guest:
        page = await guest.page("/entity?actor=account&key=new")
        assert "No state" in page
        assert 'name="version" value="0"' in page
        plan = await guest.do("/entities/put", actor="account", key="new", state="1", version="0", dry_run=True)
        assert "No node runs this entity" in plan["question"]
        await guest.do("/entities/put", actor="account", key="new", state="1", version="0")
        assert (await guest.json("/entity", actor="account", key="new"))["text"] == "1"


async def test_a_state_is_forgotten_also_without_the_script():
    async with bank() as guest:
        asked = {"actor": "account", "key": "ann", "version": "2"}
        assert "and its history" in await guest.submit("/entities/forget", **asked)
        assert "Forgot the state" in await guest.submit("/entities/forget", **asked, confirm="yes")
        assert not (await guest.json("/entity", actor="account", key="ann"))["has_state"]
        await guest.do("/entities/forget", 404, actor="account", key="ann")


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"state": "{"}, "the state is not JSON"),
        ({"state": "1", "version": "-1"}, "version wants a number"),
        ({"state": "1", "schema": "x"}, "schema wants a number"),
        ({}, "wants the field 'state'"),
        ({"state": 3}, "state wants a text"),
    ],
)
async def test_a_state_that_cannot_be_one_is_refused(fields: dict[str, Any], problem: str):
    async with visit() as guest:
        refused = await guest.do("/entities/put", 400, actor="account", key="ann", **fields)
        assert problem in refused["error"]


async def test_a_state_that_is_no_json_is_shown_as_it_is_and_not_edited():
    async with visit() as guest:
        group = identity("account")
        await guest.broker.entities.put(default_source(group), group, "ann", b"\xff<b>")
        page = await guest.page("/entity?actor=account&key=ann")
        assert "\ufffd&lt;b&gt;" in page
        assert "<textarea" not in page


async def test_no_name_in_a_state_breaks_out_of_its_page():
    async with visit() as guest:
        await enter(guest.broker, {ODD: ["x"]})
        await put(guest.broker, ODD, ODD[:200], {ODD: ODD, "n": 2**60}, by=ODD, history=3)
        for path, query in (
            ("/entities", {}),
            ("/entities", {"actor": ODD}),
            ("/entity", {"actor": ODD, "key": ODD[:200]}),
            ("/entity", {"actor": ODD, "key": ODD}),
        ):
            text = (await guest.http.get(path, params=query)).text
            assert "<script>alert" not in text
            assert "&lt;script&gt;alert" in text, (path, query)
        assert str(2**60) in (await guest.http.get("/entity", params={"actor": ODD, "key": ODD[:200]})).text
