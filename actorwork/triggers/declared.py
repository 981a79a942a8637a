"""A declared trigger, ready to be scheduled: its rule, its definition for the broker, and the messages that it sends.

The id of a message is computed from its trigger and its nominal time, in the form that brokers remember with one bit.
So even a broker that has forgotten which times were decided stores none of them twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from actorwork import codec
from actorwork.errors import CodecError, SettingsError
from actorwork.message import TIME_POINT, TRIGGER_ID, Envelope, Json, Priority, Unique
from actorwork.policy.catchup import FiringRule
from actorwork.policy.schedule import Cron, Interval, moment, schedule_as_json, schedule_from_json
from actorwork.policy.trigger import Trigger
from actorwork.records import TriggerDefinition, TriggerRecord
from actorwork.settings import Settings
from actorwork.shown import Shown

LONGEST_OVERLAP = 86_400.0
"""Seconds after which an unfinished message no longer holds up its trigger."""


@attrs.frozen(eq=False, repr=False)
class Declared(Shown):
    """One trigger of one actor."""

    settings: Settings
    trigger: Trigger
    rule: FiringRule
    definition: TriggerDefinition

    @property
    def names(self) -> tuple[str, str]:
        """The titles of the actor and of the trigger, as pauses name them."""
        return self.settings.title, self.trigger.title

    @property
    def is_custom(self) -> bool:
        """Whether its times come from the system's `cron_schedule`."""
        return "by" in json.loads(self.definition.schedule)

    def messages(self, times: Sequence[int]) -> list[Envelope]:
        """Return the messages for some nominal times."""
        kept = self.definition
        is_coarse = not isinstance(self.trigger.schedule, Interval) or self.trigger.schedule.total_seconds >= 1
        overlap = self.trigger.overlap == "skip"
        unique = Unique(f"trigger:{kept.id}", LONGEST_OVERLAP, "first") if overlap else None
        return [
            Envelope(
                kept.source,
                f"{kept.id}-{nominal // 1000 if is_coarse else nominal:x}",
                kept.data,
                kept.type,
                headers_for(kept.id, nominal),
                priority=self.settings.priority,
                unique=unique,
            )
            for nominal in times
        ]


def headers_for(trigger_id: str, nominal: int) -> dict[str, Any]:
    """Return the headers that become a handler's `time_point` and `trigger_id`."""
    return {TIME_POINT: moment(nominal).isoformat(), TRIGGER_ID: trigger_id}


def message_now(record: TriggerRecord, id: str, nominal: int) -> Envelope:
    """Return a message for a trigger that a user runs now, regardless of its schedule."""
    kept = record.definition
    priority = kept.details.get("priority")
    return Envelope(kept.source, id, kept.data, kept.type, headers_for(kept.id, nominal), priority=Priority(priority))


def declared_by(settings: Settings, cron_schedule: object = None) -> Iterator[Declared]:
    """Yield the triggers of an actor; raise `SettingsError` for a message that JSON cannot express."""
    for trigger in settings.triggers:
        try:
            data, wire = codec.encode(_message_of(trigger))
        except CodecError as error:
            raise SettingsError(f"the trigger {trigger.title!r} of {settings.title!r}: its message {error}") from error
        schedule = schedule_as_json(trigger.schedule)
        if isinstance(trigger.schedule, Cron):
            if cron_schedule is not None:
                schedule["by"] = type(cron_schedule).__qualname__
            elif trigger.schedule.custom:
                raise SettingsError(
                    f"the trigger {trigger.title!r} of {settings.title!r}: {trigger.schedule.expression!r} is custom,"
                    " so the system wants a cron_schedule=… that reads it"
                )
        yield Declared(
            settings,
            trigger,
            _rule_of(trigger),
            TriggerDefinition(
                source=settings.default_source,
                id=trigger.id,
                actor=settings.title,
                title=trigger.title,
                schedule=json.dumps(schedule, sort_keys=True),
                data=data,
                type=wire,
                details=details_of(trigger, settings.priority),
            ),
        )


def find_trigger(records: Sequence[TriggerRecord], actor: str, trigger: str) -> TriggerRecord:
    """Return a trigger by its titles; raise `LookupError`, which lists those that exist."""
    of_actor = [record for record in records if record.definition.actor == actor]
    for record in of_actor:
        if record.definition.title == trigger:
            return record
    known = ", ".join(repr(record.definition.title) for record in of_actor)
    which = f"those of {actor!r} are {known}" if known else "no node with triggers of it has ever started"
    raise LookupError(f"no trigger {trigger!r} of {actor!r} at the broker; {which}")


def schedule_of(record: TriggerRecord) -> Cron | Interval | None:
    """Return the schedule of a trigger at its broker; None if only its program knows its times."""
    kept = json.loads(record.definition.schedule)
    return None if "by" in kept else schedule_from_json(kept)


def trigger_of(record: TriggerRecord, code: Trigger | None = None) -> Trigger:
    """Return a trigger as it is in force at its broker, without its message; `code` is how the program declares it.

    Raises `SettingsError` if it cannot fire like that.
    """
    definition = record.definition
    schedule = schedule_of(record)
    if schedule is None and code is not None and record.stored.schedule == definition.schedule:
        schedule = code.schedule
    if schedule is None:
        raise SettingsError(f"the schedule {definition.schedule} is read by its program alone")
    details: Any = definition.details
    return Trigger(
        title=definition.title,
        schedule=schedule,
        description=details.get("description", ""),
        catchup=details.get("catchup", "all"),
        catchup_window=details.get("catchup_window", 86_400.0),
        overlap=details.get("overlap", "allow"),
        jitter=details.get("jitter", 0.0),
        lifetime=details.get("lifetime"),
        status_check_interval=60.0 if code is None else code.status_check_interval,
        status_cache_ttl=5.0 if code is None else code.status_cache_ttl,
    )


def as_changed(settings: Settings, record: TriggerRecord, code: Declared | None) -> Declared:
    """Return a trigger as users want it; `code` is how the program declares it, if it does. Raises `SettingsError`."""
    if code is not None and record.changes is None:
        return code
    trigger = trigger_of(record, None if code is None else code.trigger)
    return Declared(settings, trigger, _rule_of(trigger), record.definition)


def details_of(trigger: Trigger, priority: Priority) -> dict[str, Json]:
    """Return what a definition holds of a trigger, beside its schedule and its message."""
    return {
        "description": trigger.description,
        "catchup": trigger.policy,
        "catchup_window": trigger.catchup_window,
        "overlap": trigger.overlap,
        "jitter": trigger.jitter,
        "lifetime": trigger.lifetime,
        "priority": int(priority),
    }


def schedule_text_of(schedule: Cron | Interval) -> str:
    """Return a schedule as a definition holds it: equal texts for equal schedules."""
    return json.dumps(schedule_as_json(schedule), sort_keys=True)


def _rule_of(trigger: Trigger) -> FiringRule:
    return FiringRule(
        id=trigger.id,
        schedule=trigger.schedule,
        catchup=trigger.policy,
        window=_milliseconds(trigger.catchup_window),
        jitter=_milliseconds(trigger.jitter),
        lifetime=None if trigger.lifetime is None else _milliseconds(trigger.lifetime),
    )


def _message_of(trigger: Trigger) -> object:
    if trigger.message is not None:
        return trigger.message
    kwargs: dict[str, Json] = dict(trigger.kwargs or {})
    return kwargs


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
