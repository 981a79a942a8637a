"""Triggers: when they fire next, run now, forget."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from actorwork.inspection.schedules import in_json, known_triggers
from actorwork.policy.pauses import trigger_name
from actorwork.policy.schedule import milliseconds
from actorwork.records import TriggerRecord
from actorwork.triggers.declared import find_trigger, message_now
from actorwork.web.request import Action, Done, Form, Page, Plan, Sight, not_found

MOST = 2000
"""The most triggers that a page shows."""


async def view(sight: Sight) -> dict[str, Any]:
    """Show all triggers, or those of an actor."""
    records, pauses = await sight.broker.triggers.list(), await sight.broker.pauses.list()
    actor = sight.text("actor")
    chosen = [one for one in records if not actor or one.definition.actor == actor]
    found: list[dict[str, Any]] = []
    for one in known_triggers(chosen[:MOST], pauses):
        facts = {"description": "", **in_json(one)}
        facts["pause_name"] = trigger_name(facts["actor"], facts["title"])
        if not sight.access.may("see_payloads"):
            facts["message"] = None
        found.append(facts)
    return {"triggers": found, "total": len(chosen), "shown": len(found), "actor": actor}


async def _find(sight: Sight, form: Form) -> TriggerRecord:
    try:
        return find_trigger(await sight.broker.triggers.list(), form.needed("actor"), form.needed("title"))
    except LookupError as error:
        raise not_found(str(error)) from None


async def plan_run(sight: Sight, form: Form) -> Plan:
    """Plan to send the message of a trigger now, whatever its schedule says."""
    record = await _find(sight, form)
    definition = record.definition

    async def do() -> Done:
        envelope = message_now(record, sight.sending, milliseconds(datetime.now(UTC)))
        await sight.broker.publish([envelope])
        return Done(f"sent {envelope.id}", 1)

    return Plan(
        question=f"Send the message of {definition.title!r} of {definition.actor!r} now?",
        what=f"trigger {definition.actor}/{definition.title}",
        do=do,
        back="/triggers",
    )


async def plan_forget(sight: Sight, form: Form) -> Plan:
    """Plan to delete a trigger from the broker; a node that declares it registers it again."""
    definition = (await _find(sight, form)).definition

    async def do() -> Done:
        await sight.broker.triggers.forget(definition.source, definition.id)
        return Done(f"forgot {definition.title!r} of {definition.actor!r}", 1)

    return Plan(
        question=f"Forget the trigger {definition.title!r} of {definition.actor!r}?"
        " A node that still declares it registers it again.",
        what=f"trigger {definition.actor}/{definition.title}",
        do=do,
        is_grave=True,
        back="/triggers",
    )


PAGES = (Page("/triggers", "Triggers", "triggers.html", view),)
ACTIONS = (
    Action("/triggers/run", "run trigger", "run_trigger", plan_run),
    Action("/triggers/forget", "forget trigger", "drop", plan_forget),
)
