"""Triggers by hand on the dashboard: put, change, reset and delete, each asked for first and recorded."""

import json
import time
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest

from actorwork.inspection.schedules import Known, missed
from actorwork.records import TriggerDefinition, TriggerRecord
from actorwork.web.rendering import renderer

from .conftest import enter, visit

NIGHTLY = TriggerDefinition(
    source="worker:shop:source",
    id="0123456789abcdef",
    actor="shop",
    title="nightly",
    schedule='{"cron": "30 2 * * *", "timezone": "Europe/Berlin"}',
    data=b'{"kind": "full", "api_key": "geheim"}',
    details={"description": "all of it", "priority": 2},
)
FRAME: dict[str, Any] = {"base": "", "path": "/trigger", "role": "admin", "may": ()}
THIS = {"actor": "shop", "title": "nightly"}


async def test_a_trigger_is_put_listed_and_deleted():
    async with visit() as guest:
        await enter(guest.broker, {"shop": ["orders"]})
        wanted: dict[str, str] = {**THIS, "cron": "30 2 * * *", "timezone": "Europe/Berlin", "jitter": "30s"}
        wanted |= {"message": '{"kind": "full"}', "every": "", "lifetime": ""}
        asked = await guest.do("/triggers/put", **wanted, dry_run=True)
        assert asked["question"].startswith("Put the trigger 'nightly' of 'shop', at '30 2 * * *' in Europe/Berlin?")
        assert "It fires next at" in asked["question"]
        assert not (await guest.json("/triggers"))["triggers"]
        done = await guest.do("/triggers/put", **wanted, reason="a quiet hour")
        assert done["done"] == "put 'nightly' of 'shop', at '30 2 * * *' in Europe/Berlin"
        (one,) = (await guest.json("/triggers"))["triggers"]
        assert (one["schedule"], one["jitter"], one["lifetime"]) == ("30 2 * * * Europe/Berlin", 30, None)
        assert (one["message"], one["by_hand"], one["changed_by"]) == ({"kind": "full"}, "put", "ann")
        assert (await guest.do("/triggers/put", **wanted, dry_run=True))["is_grave"]
        (entry,) = await guest.broker.audit.list()
        assert (entry.who, entry.action, entry.reason, entry.outcome) == ("ann", "put_trigger", "a quiet hour", "done")
        assert "put by hand by ann" in await guest.page("/triggers")
        assert "No code declares it" in await guest.page("/trigger?actor=shop&title=nightly")
        assert "delete it instead" in (await guest.do("/triggers/reset", 409, **THIS))["error"]
        await guest.do("/triggers/delete", **THIS)
        assert not (await guest.json("/triggers"))["triggers"]


async def test_a_declared_trigger_is_changed_in_the_parts_that_differ_and_reset():
    async with visit() as guest:
        await guest.broker.triggers.register(NIGHTLY.source, [NIGHTLY])
        one = await guest.json("/trigger", **THIS)
        form: dict[str, Any] = {**THIS, **one["fields"], "message": one["message_text"], "type": ""}
        assert one["message"] == {"kind": "full", "api_key": "••••••"}
        assert "nothing is changed" in (await guest.do("/triggers/change", 400, **form))["error"]
        form |= {"every": "90m", "cron": "", "timezone": "", "overlap": "skip"}
        form["message"] = json.dumps({"kind": "half", "api_key": "••••••"})
        asked = await guest.do("/triggers/change", **form, dry_run=True)
        assert asked["question"].startswith("Change schedule, message, overlap of the trigger 'nightly' of 'shop'?")
        await guest.do("/triggers/change", **form)
        one = await guest.json("/trigger", **THIS)
        assert (one["schedule"], one["overlap"], one["state"]) == ("every 1h30m", "skip", "on")
        assert one["by_hand"] == "changed: schedule, message, overlap"
        (record,) = await guest.broker.triggers.list()
        assert json.loads(record.definition.data) == {"kind": "half", "api_key": "geheim"}
        page = await guest.page("/trigger?actor=shop&title=nightly")
        assert "Its code declares <code>30 2 * * * Europe/Berlin</code>" in page
        assert "would come back" in (await guest.do("/triggers/delete", 409, **THIS))["error"]
        await guest.do("/triggers/reset", **THIS)
        one = await guest.json("/trigger", **THIS)
        assert (one["schedule"], one["by_hand"]) == ("30 2 * * * Europe/Berlin", "")
        assert "nothing to reset" in (await guest.do("/triggers/reset", 409, **THIS))["error"]


async def test_a_trigger_shows_which_times_have_passed_without_it():
    async with visit() as guest:
        hourly = attrs.evolve(NIGHTLY, schedule='{"every": 3600}')
        now = time.time()
        begun = [round(1000 * (now - age)) for age in (9000, 600)]
        records = [TriggerRecord(definition=hourly, registered=at, last=at) for at in begun]
        late, young = (missed(Known(one), datetime.fromtimestamp(now, UTC)) for one in records)
        assert (len(late), young) == (2, [])
        assert datetime.fromisoformat(late[0]).timestamp() == pytest.approx(now - 9000 + 3600, abs=1)
        limited = attrs.evolve(hourly, details={"lifetime": 4000.0})
        assert len(missed(Known(attrs.evolve(records[0], definition=limited)), datetime.fromtimestamp(now, UTC))) == 1
        await guest.broker.triggers.register(NIGHTLY.source, [hourly])
        facts = await guest.json("/trigger", **THIS)
        assert (facts["missed"], facts["missed_since"]) == (0, None)
        assert "Not fired so far" not in await guest.page("/trigger?actor=shop&title=nightly")
        facts |= {"missed": 100, "missed_since": late[0], "is_missed_cut": True}
        main = renderer().main("trigger.html", facts, FRAME)
        assert "100 times and more, since" in main


async def test_a_trigger_that_is_off_is_not_taken_for_one_that_has_vanished():
    async with visit() as guest:
        await guest.broker.triggers.register(NIGHTLY.source, [NIGHTLY])
        await guest.do("/triggers/change", **THIS, is_on="no")
        page = await guest.page("/triggers")
        assert '<span class="badge warn">off</span>' in page
        assert "vanished" not in page
        assert 'aria-label="Turn on nightly"' in page
        await guest.do("/triggers/change", **THIS, is_on="yes")
        assert '<span class="badge bad">no node</span>' in await guest.page("/triggers")


async def test_what_cannot_fire_is_refused_with_what_was_wanted():
    async with visit() as guest:
        await enter(guest.broker, {"shop": ["orders"]})

        async def refused(code: int = 400, **fields: str) -> str:
            return (await guest.do("/triggers/put", code, **{**THIS, **fields}))["error"]

        assert "wants a schedule" in await refused()
        assert "choose one of every and cron" in await refused(every="5m", cron="* * * * *")
        assert "did you mean 5s?" in await refused(every="5")
        assert "time zone is for a cron expression" in await refused(every="5m", timezone="UTC")
        assert "the schedule: " in await refused(cron="61 * * * *")
        assert "the schedule: " in await refused(cron="0 2 * * *", timezone="Europe/Nowhere")
        assert "jitter: " in await refused(every="5m", jitter="often")
        assert "Trigger.overlap" in await refused(every="5m", overlap="maybe")
        assert "not JSON" in await refused(every="5m", message="{")
        assert "keyword arguments" in await refused(every="5m", message="[1]")
        assert "a type is for a message" in await refused(every="5m", type="Mail")
        assert "did you mean 'shop'" in await refused(404, every="5m", actor="shpo")
        assert "no trigger 'nightly'" in (await guest.do("/triggers/change", 404, **THIS, every="5m"))["error"]
        await guest.page("/trigger?actor=shop&title=nightly", 404)


async def test_an_operator_sees_triggers_and_changes_none():
    async with visit("operator") as guest:
        await guest.broker.triggers.register(NIGHTLY.source, [NIGHTLY])
        page = await guest.page("/trigger?actor=shop&title=nightly")
        assert "Run now" in page
        assert "Change it" not in page
        for action in ("put", "change", "reset", "delete"):
            await guest.do(f"/triggers/{action}", 403, **THIS, every="5m")
    async with visit("viewer") as guest:
        await guest.broker.triggers.register(NIGHTLY.source, [NIGHTLY])
        assert "Hidden" in await guest.page("/trigger?actor=shop&title=nightly")
        assert (await guest.json("/trigger", **THIS))["message"] is None
