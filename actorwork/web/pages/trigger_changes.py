"""Triggers by hand: put one, change parts of one, reset it to what its code declares, delete one that no code declares.

A form has every part of a trigger, filled in as it is; only what differs from that is changed, so that the other parts
follow the code. A program may send just the fields that it means.

    every, cron, timezone                 when: every 5m, or a cron expression in a time zone, else in UTC
    message, type                         what: keyword arguments as JSON, or a message of a type
    catchup, catchup_window, overlap,     as `Trigger` has them; durations as text, and an empty `lifetime` has no end
    jitter, lifetime, description
    is_on                                 yes or no
    seen                                  the trigger that the form was filled in with; another one is not changed
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any, Final

from actorwork import codec
from actorwork.clients import triggers as by_hand
from actorwork.durations import parsed
from actorwork.errors import CodecError, SettingsError
from actorwork.inspection.words import duration
from actorwork.message import Priority
from actorwork.policy.schedule import Cron, Interval, next_times
from actorwork.policy.trigger import Trigger
from actorwork.records import TriggerChanges, TriggerRecord
from actorwork.settings import Settings
from actorwork.state.known_actors import known_actors, unknown_actor
from actorwork.triggers.declared import details_of, find_trigger, schedule_of, schedule_text_of
from actorwork.web.request import Action, Done, Form, Plan, Refused, Sight, json_of, not_found

_TEXTS: Final = ("description", "catchup", "overlap")
_DURATIONS: Final = ("catchup_window", "jitter", "lifetime")


async def find(sight: Sight, actor: str, title: str) -> TriggerRecord:
    """Return a trigger by its titles; refuses the request if the broker has none."""
    try:
        return find_trigger(await sight.broker.triggers.list(), actor, title)
    except LookupError as error:
        raise not_found(str(error)) from None


def details(record: TriggerRecord) -> dict[str, Any]:
    """Return what there is to a trigger beside its schedule and its message, in seconds where it is a duration."""
    plain = details_of(Trigger(title="plain", schedule=Interval(seconds=1)), Priority.NORMAL)
    return {name: record.definition.details.get(name, plain[name]) for name in by_hand.DETAILS}


def fields(record: TriggerRecord) -> dict[str, str]:
    """Return the parts of a trigger as the fields of a form, without its message."""
    found = {"every": "", "cron": "", "timezone": "", "is_on": "yes" if record.is_on else "no"}
    match schedule_of(record):
        case Cron() as cron:
            found |= {"cron": cron.expression, "timezone": cron.timezone}
        case Interval() as interval:
            found["every"] = _length(interval.total_seconds)
        case None:
            pass
    for name, value in details(record).items():
        found[name] = "" if value is None else _length(value) if name in _DURATIONS else value
    return found


def stamp_of(record: TriggerRecord) -> str:
    """Return a short text that stands for a trigger as it is: a form that was made of another one has another stamp."""
    parts = [record.definition.data.decode(errors="backslashreplace"), record.definition.type, fields(record)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _length(seconds: float) -> str:
    text = duration(seconds)
    try:
        return text if parsed(text) == seconds else f"{seconds}s"
    except ValueError:
        return f"{seconds}s"


def message_in_json(sight: Sight, data: bytes) -> Any:
    """Return the message of a trigger for its user to see, with its secrets masked; None if they may not see it."""
    return sight.masking.masked(_loaded(data)) if sight.access.may("see_payloads") else None


def _loaded(data: bytes) -> Any:
    try:
        return codec.loads(data)
    except CodecError:
        return data.decode(errors="replace")


# ---- what a form says ----


def _schedule(form: Form) -> Cron | Interval | None:
    every, cron, zone = (form.text(name).strip() for name in ("every", "cron", "timezone"))
    if every and cron:
        raise Refused("choose one of every and cron, and leave the other one empty")
    if zone and not cron:
        raise Refused("a time zone is for a cron expression: leave it empty, or give a cron expression")
    try:
        if cron:
            return Cron(cron, zone or "UTC")
        return Interval(seconds=parsed(every)) if every else None
    except ValueError as error:
        raise Refused(f"the schedule: {error}") from None


def _details(form: Form) -> dict[str, Any]:
    found: dict[str, Any] = {name: form.text(name).strip() for name in _TEXTS if name in form.fields}
    for name in _DURATIONS:
        text = form.text(name).strip()
        try:
            if text:
                found[name] = parsed(text)
            elif name == "lifetime" and name in form.fields:
                found[name] = None
        except ValueError as error:
            raise Refused(f"{name}: {error}") from None
    return {name: value for name, value in found.items() if value != "" or name == "description"}


def _message(sight: Sight, form: Form, before: bytes | None) -> tuple[bytes, str | None] | None:
    text, wire = form.text("message").strip(), form.text("type").strip() or None
    if not text:
        if wire is not None:
            raise Refused("a type is for a message: give the message as JSON")
        return None
    sight.want("see_payloads")
    value = json_of(text, "the message")
    if not isinstance(value, dict) and wire is None:
        raise Refused("the message wants an object of keyword arguments, or the type of what it is")
    return codec.dumps(sight.masking.unmasked(value, None if before is None else _loaded(before))), wire


def _is_on(form: Form) -> bool | None:
    text = form.fields.get("is_on", "")
    return None if text in ("", None) else form.flag("is_on")


def _next(schedule: Cron | Interval | None) -> str:
    """Say when a cron expression fires next, so that a mistaken one is noticed; an interval says it itself."""
    if not isinstance(schedule, Cron):
        return ""
    now = datetime.now(UTC)
    times = next_times(schedule, now, 2, anchor=now)
    return f" It fires next at {' and '.join(one.isoformat(' ', 'seconds') for one in times)}." if times else ""


def _told(schedule: Cron | Interval) -> str:
    if isinstance(schedule, Cron):
        return f"at {schedule.expression!r} in {schedule.timezone}"
    return f"every {_length(schedule.total_seconds)}"


# ---- actions ----


async def plan_put(sight: Sight, form: Form) -> Plan:
    """Plan to put a trigger of an actor that has run, in the place of one of its title."""
    actor, title = form.needed("actor").strip(), form.needed("title").strip()
    schedule = _schedule(form)
    if schedule is None:
        raise Refused("a trigger wants a schedule: every, such as 5m, or cron, such as 30 2 * * *")
    problem = unknown_actor(actor, await known_actors(sight.broker.values))
    if problem is not None:
        raise not_found(problem)
    data, wire = _message(sight, form, None) or (b"{}", None)
    try:
        trigger = Trigger(title=title, schedule=schedule, **_details(form))
        definition = by_hand.definition_of(Settings(title=actor), trigger, data, wire)
    except SettingsError as error:
        raise Refused(str(error)) from None
    is_on = _is_on(form) is not False
    changes = by_hand.changes_of(definition, is_on=is_on, by=sight.access.who, reason=form.text("reason"))
    known = await sight.broker.triggers.list()
    is_there = any((one.definition.actor, one.definition.title) == (actor, title) for one in known)

    async def do() -> Done:
        await by_hand.put(sight.broker, definition, changes)
        return Done(f"put {title!r} of {actor!r}, {_told(schedule)}{'' if is_on else ', off'}", 1)

    there = " It replaces the trigger of this title." if is_there else ""
    return Plan(
        question=f"Put the trigger {title!r} of {actor!r}, {_told(schedule)}?{_next(schedule)}{there}",
        what=by_hand.told(definition, changes),
        do=do,
        how_many=1,
        is_grave=is_there,
        back="/triggers",
    )


async def plan_change(sight: Sight, form: Form) -> Plan:
    """Plan to change those parts of a trigger that a form has otherwise than they are."""
    record = await find(sight, form.needed("actor"), form.needed("title"))
    before = record.definition
    if form.text("seen") not in ("", stamp_of(record)):
        # The fields that its user has left alone would undo what another one has changed meanwhile.
        raise Refused(f"the trigger {before.title!r} was changed since this form was filled in; reload it", 409)
    schedule, message, is_on = _schedule(form), _message(sight, form, before.data), _is_on(form)
    new = None if schedule is None else schedule_text_of(schedule)
    if new == before.schedule:
        schedule = new = None
    if message is not None and (_loaded(message[0]), message[1]) == (_loaded(before.data), before.type):
        message = None
    now = details(record)
    wanted = TriggerChanges(
        schedule=new,
        data=None if message is None else message[0],
        type=None if message is None else message[1],
        details={name: value for name, value in _details(form).items() if value != now[name]},
        is_on=None if is_on == record.is_on else is_on,
        by=sight.access.who,
        reason=form.text("reason"),
    )
    if not wanted.parts:
        raise Refused("nothing is changed: the trigger is as this says already")
    try:
        changes = by_hand.checked(record, wanted)
    except SettingsError as error:
        raise Refused(str(error)) from None

    async def do() -> Done:
        await by_hand.change(sight.broker, before.actor, before.title, changes)
        return Done(f"changed {before.title!r} of {before.actor!r}: {_parts(changes)}", 1)

    stays = " It stays so until it is reset, also if new code declares it otherwise." if record.is_declared else ""
    which = f"{_parts(changes)} of the trigger {before.title!r} of {before.actor!r}"
    return Plan(
        question=f"Change {which}?{_next(schedule)}{stays}",
        what=by_hand.told(before, changes),
        do=do,
        how_many=1,
        back="/triggers",
    )


def _parts(changes: TriggerChanges) -> str:
    words = {"is_on": "on or off" if changes.is_on is None else f"to {'on' if changes.is_on else 'off'}"}
    return ", ".join(words.get(one, one.replace("_", " ")) for one in changes.parts)


async def plan_reset(sight: Sight, form: Form) -> Plan:
    """Plan to drop what users have changed of a trigger that code declares."""
    record = await find(sight, form.needed("actor"), form.needed("title"))
    before = record.definition
    try:
        by_hand.resettable(record)
    except ValueError as error:
        raise Refused(str(error), 409) from None

    async def do() -> Done:
        await by_hand.reset(sight.broker, before.actor, before.title)
        return Done(f"reset {before.title!r} of {before.actor!r} to what its code declares", 1)

    return Plan(
        question=f"Reset the trigger {before.title!r} of {before.actor!r} to what its code declares?",
        what=by_hand.told(before),
        do=do,
        how_many=1,
        back="/triggers",
    )


async def plan_delete(sight: Sight, form: Form) -> Plan:
    """Plan to delete a trigger that no code declares."""
    record = await find(sight, form.needed("actor"), form.needed("title"))
    before = record.definition
    try:
        by_hand.deletable(record)
    except ValueError as error:
        raise Refused(str(error), 409) from None

    async def do() -> Done:
        await sight.broker.triggers.forget(before.source, before.id)
        return Done(f"deleted {before.title!r} of {before.actor!r}", 1)

    return Plan(
        question=f"Delete the trigger {before.title!r} of {before.actor!r}? No code declares it.",
        what=by_hand.told(before),
        do=do,
        how_many=1,
        is_grave=True,
        back="/triggers",
    )


def pretty_message(message: Any) -> str:
    """Write the message of a trigger for a form."""
    return "" if message is None else json.dumps(message, ensure_ascii=False, indent=2)


PAGES = ()
ACTIONS = (
    Action("/triggers/put", "put_trigger", "edit", plan_put),
    Action("/triggers/change", "change_trigger", "edit", plan_change),
    Action("/triggers/reset", "reset_trigger", "edit", plan_reset),
    Action("/triggers/delete", "delete_trigger", "drop", plan_delete),
)
