"""Triggers: all of them, one of them, when they fire next; run now, forget."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from actorwork.inspection.schedules import MISSED, Known, actors_without_node, in_json, known_triggers, missed
from actorwork.policy.pauses import trigger_name
from actorwork.policy.schedule import milliseconds
from actorwork.state.known_actors import known_actors
from actorwork.triggers.declared import message_now
from actorwork.web.pages.pausing import MOST_NAMES, pause_in_json
from actorwork.web.pages.trigger_changes import details, fields, find, message_in_json, pretty_message, stamp_of
from actorwork.web.request import Action, Done, Form, Page, Plan, Sight

MOST: Final = 3000
SHOWN: Final = 200
"""Triggers on a page that does not ask for more: a page that follows is sent again each second."""


async def view(sight: Sight) -> dict[str, Any]:
    """Show all triggers, or those of an actor."""
    records, pauses = await sight.broker.triggers.list(), await sight.broker.pauses.list()
    actor = sight.text("actor")
    chosen = [one for one in records if not actor or one.definition.actor == actor]
    limit = sight.number("limit", SHOWN, most=MOST)
    shown = chosen[:limit]
    without_node = await actors_without_node(sight.broker, shown)
    found = [_facts(sight, one) for one in known_triggers(shown, pauses, without_node)]
    known = sorted(await known_actors(sight.broker.values))[:MOST_NAMES]
    return {"triggers": found, "total": len(chosen), "limit": limit, "actor": actor, "actors": known}


async def view_one(sight: Sight) -> dict[str, Any]:
    """Show one trigger in full, with the fields of a form that changes it."""
    record = await find(sight, sight.needed("actor"), sight.needed("title"))
    pauses = await sight.broker.pauses.list()
    (one,) = known_triggers([record], pauses, await actors_without_node(sight.broker, [record]))
    facts = _facts(sight, one)
    text = pretty_message(facts["message"])
    late = missed(one, datetime.now(UTC))
    facts |= {"missed": len(late), "missed_since": late[0] if late else None, "is_missed_cut": len(late) == MISSED}
    return {**facts, "fields": fields(record), "message_text": text, "seen": stamp_of(record)}


def _facts(sight: Sight, one: Known) -> dict[str, Any]:
    record = one.record
    facts = in_json(one) | details(record)
    facts["pause_name"] = trigger_name(facts["actor"], facts["title"])
    facts["pause"] = None if one.pause is None else pause_in_json(one.pause)
    facts["is_declared"], facts["is_put"], facts["is_on"] = record.is_declared, record.is_put, record.is_on
    facts["message"] = message_in_json(sight, record.definition.data)
    if "code" in facts:
        facts["code"]["message"] = message_in_json(sight, record.stored.data)
    return facts


async def plan_run(sight: Sight, form: Form) -> Plan:
    """Plan to send the message of a trigger now, whatever its schedule says."""
    record = await find(sight, form.needed("actor"), form.needed("title"))
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
    definition = (await find(sight, form.needed("actor"), form.needed("title"))).definition

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


PAGES = (
    Page("/triggers", "Triggers", "triggers.html", view),
    Page("/trigger", "Trigger", "trigger.html", view_one),
)
ACTIONS = (
    Action("/triggers/run", "run trigger", "run_trigger", plan_run),
    Action("/triggers/forget", "forget trigger", "drop", plan_forget),
)
