"""Triggers as values and as JSON: their schedules in words, and when they fire next."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import attrs

from actorwork.errors import BrokerError
from actorwork.inspection.words import duration, moment

if TYPE_CHECKING:
    from actorwork.abc import Broker
    from actorwork.records import Pause, TriggerDefinition, TriggerRecord


NEXT: Final = 5
"""How many of the next times are shown."""
MISSED: Final = 100
"""How many missed times are counted."""
LATE: Final = 10
"""Seconds after which a time that has not fired is missed."""


@attrs.frozen
class Known:
    """A trigger, the pause that keeps it from firing, and whether a node that reports runs its actor."""

    record: TriggerRecord
    pause: Pause | None = None
    has_node: bool = True

    @property
    def state(self) -> str:
        record = self.record
        if not (record.is_declared or record.is_put):
            return "vanished"
        return "paused" if self.pause is not None else "on" if record.is_on else "off"

    @property
    def why(self) -> str:
        """Why it does not fire, in one line; "" if it does."""
        actor = self.record.definition.actor
        match self.state:
            case "vanished":
                return f"{actor!r} has started without it: its code no longer declares it"
            case "paused" if self.pause is not None:
                from actorwork.policy.idle import of_pause

                return of_pause(self.pause).text
            case "off":
                return "it is turned off"
            case _ if not self.has_node:
                return f"no node runs {actor!r}: nothing fires it until one does"
            case _:
                return "its lifetime is over" if _is_over(self.record) else ""

    @property
    def by_hand(self) -> str:
        """What users have done to it, in a word or a few; "" if nothing."""
        changes = self.record.changes
        if changes is None:
            return ""
        return "put" if self.record.is_put else f"changed: {', '.join(changes.parts)}"


def known_triggers(
    records: Sequence[TriggerRecord], pauses: Sequence[Pause], without_node: Collection[str] = ()
) -> list[Known]:
    """Return triggers, each with the pause that concerns it; `without_node` are actors that no node runs."""
    return [
        Known(record, _pause_of(record.definition, pauses), record.definition.actor not in without_node)
        for record in records
    ]


def _pause_of(definition: TriggerDefinition, pauses: Sequence[Pause]) -> Pause | None:
    from actorwork.policy.pauses import concerns

    actor, title = definition.actor, definition.title
    return next((one for one in pauses if concerns(one.kind, one.name, actor=actor, trigger=title)), None)


async def actors_without_node(broker: Broker, records: Sequence[TriggerRecord]) -> Collection[str]:
    """Return the actors of these triggers that no node runs: nothing fires them.

    Empty if the reports are not whole, or if the user may not read them.
    """
    from actorwork.inspection.gathering import gather

    try:
        gathered = await gather(broker)
    except BrokerError:
        return frozenset()
    if not gathered.is_whole:
        return frozenset()
    actors = {record.definition.actor for record in records}
    return {one for one in actors if not any(place.is_alive for place in gathered.by_title.get(one, ()))}


def schedule_text(record: TriggerRecord) -> str:
    """Return the schedule that is in force, in the notation of its declaration."""
    return _in_words(record.definition)


def _in_words(definition: TriggerDefinition) -> str:
    schedule = json.loads(definition.schedule)
    if "every" in schedule:
        return f"every {duration(schedule['every'])}"
    zone = "" if schedule["timezone"] == "UTC" else f" {schedule['timezone']}"
    by = f" by {schedule['by']}" if "by" in schedule else ""
    return f"{schedule['cron']}{zone}{by}"


def coming(one: Known) -> list[str]:
    """Return the next times of a trigger, in its timezone; none if it does not fire."""
    from actorwork.policy.schedule import moment as time_of

    if one.state != "on":
        return []
    return [_written(time) for time in _times(one.record, max(datetime.now(UTC), time_of(one.record.last)), NEXT)]


def missed(one: Known, now: datetime) -> list[str]:
    """Return the times, oldest first and `MISSED` at most, that have passed by a while and have not fired so far.

    Whether they fire later is decided by its rules, when a node runs its actor and nothing is paused.
    """
    from actorwork.policy.schedule import moment as time_of

    late = now - timedelta(seconds=LATE)
    return [_written(time) for time in _times(one.record, time_of(one.record.last), MISSED) if time <= late]


def _is_over(record: TriggerRecord) -> bool:
    """Whether the lifetime of a trigger has ended, so that it never fires again."""
    lifetime = record.definition.details.get("lifetime")
    if not isinstance(lifetime, (int, float)):
        return False
    return datetime.now(UTC).timestamp() > record.registered / 1000 + lifetime


def _times(record: TriggerRecord, after: datetime, count: int) -> list[datetime]:
    from actorwork.policy.schedule import moment as time_of, next_times
    from actorwork.triggers.declared import schedule_of

    schedule = schedule_of(record)
    if schedule is None:
        return []
    found = next_times(schedule, after, count, anchor=time_of(record.registered))
    lifetime = record.definition.details.get("lifetime")
    if isinstance(lifetime, (int, float)):
        found = [time for time in found if time.timestamp() * 1000 <= record.registered + lifetime * 1000]
    return found


def _written(time: datetime) -> str:
    return time.isoformat("T", "seconds" if time.microsecond == 0 else "milliseconds")


def in_json(one: Known) -> dict[str, Any]:
    record, definition = one.record, one.record.definition
    return {
        "actor": definition.actor,
        "title": definition.title,
        "id": definition.id,
        "source": definition.source,
        "schedule": schedule_text(record),
        "state": one.state,
        "has_node": one.has_node,
        "why": one.why,
        **_pause_in_json(one.pause),
        "by_hand": one.by_hand,
        **{name: value for name, value in definition.details.items() if name != "priority"},
        "type": definition.type,
        "message": definition.data.decode("utf-8", "backslashreplace"),
        "registered": moment(record.registered / 1000),
        "last": moment(record.last / 1000),
        "fired": record.fired,
        "next": coming(one),
        **_changes_in_json(record),
    }


def _pause_in_json(pause: Pause | None) -> dict[str, Any]:
    """Return who has paused a trigger, when and why; nothing if it is not paused."""
    if pause is None:
        return {}
    return {"paused_by": pause.by, "paused_at": moment(pause.at), "paused_because": pause.reason}


def _changes_in_json(record: TriggerRecord) -> dict[str, Any]:
    """Return who changed a trigger last, when and why, and what the code declares; nothing if no user has."""
    changes, code = record.changes, record.code
    if changes is None or code is None:
        return {}
    found: dict[str, Any] = {
        "changed_by": changes.by,
        "changed_at": moment(changes.at),
        "changed_because": changes.reason,
    }
    if record.is_declared:
        found["code"] = {
            "schedule": _in_words(code),
            **{name: value for name, value in code.details.items() if name != "priority"},
            "type": code.type,
            "message": code.data.decode("utf-8", "backslashreplace"),
        }
    return found
