"""What users change of triggers by hand, beside what the code declares.

    code     declares a trigger; each start of a node stores the declaration of its version
    changes  what a user has changed of it: some of its parts

In force is what the code declares, with the changed parts in the place of those of the code. So a new version of the
code changes the other parts, and never those that a user has set, until the user resets the trigger.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import attrs

from actorwork.records import TriggerChanges, TriggerDefinition, TriggerRecord

NEVER: Final = 0
"""The revision of a trigger of which nothing was ever changed by hand."""


def in_force(code: TriggerDefinition, changes: TriggerChanges | None) -> TriggerDefinition:
    """Return a trigger as it fires."""
    if changes is None:
        return code
    more: dict[str, Any] = {} if changes.schedule is None else {"schedule": changes.schedule}
    if changes.data is not None:
        more |= {"data": changes.data, "type": changes.type}
    return attrs.evolve(code, details={**code.details, **changes.details}, **more)


def merged(before: TriggerChanges | None, now: TriggerChanges) -> TriggerChanges:
    """Return what is changed after one more change, whose author and reason it has."""
    if before is None:
        return now
    is_message_new = now.data is not None
    return attrs.evolve(
        now,
        schedule=before.schedule if now.schedule is None else now.schedule,
        data=now.data if is_message_new else before.data,
        type=now.type if is_message_new else before.type,
        details={**before.details, **now.details},
        is_on=before.is_on if now.is_on is None else now.is_on,
    )


def begins_now(before: TriggerRecord | None, definition: TriggerDefinition, changes: TriggerChanges | None) -> bool:
    """Whether times that have passed must not fire: another schedule is in force, or the trigger was off."""
    if before is None:
        return False
    is_on = changes is None or changes.is_on is not False
    return before.definition.schedule != definition.schedule or (is_on and not before.is_on)


def changes_as_json(changes: TriggerChanges) -> str:
    """Return changes as brokers store them, without `at`, which is the broker's."""
    kept: dict[str, Any] = {"by": changes.by, "reason": changes.reason, "details": dict(changes.details)}
    if changes.schedule is not None:
        kept["schedule"] = changes.schedule
    if changes.data is not None:
        kept |= {"data": changes.data.decode(), "type": changes.type}
    if changes.is_on is not None:
        kept["is_on"] = changes.is_on
    return json.dumps(kept)


def record_of(
    stored: TriggerDefinition,
    *,
    registered: int,
    last: int,
    fired: int,
    is_declared: bool,
    changes: str | bytes | None,
    changed: int | None,
    revision: int,
    is_put: bool,
) -> TriggerRecord:
    """Return a record from what a broker has stored: `changes` as JSON, `changed` in milliseconds."""
    made = None if not changes else _changes_from(json.loads(changes), (changed or 0) / 1000)
    return TriggerRecord(
        definition=in_force(stored, made),
        registered=registered,
        last=last,
        fired=fired,
        is_declared=is_declared,
        is_put=is_put,
        changes=made,
        code=None if made is None else stored,
        revision=revision,
    )


def _changes_from(kept: Mapping[str, Any], at: float) -> TriggerChanges:
    data: str | None = kept.get("data")
    return TriggerChanges(
        schedule=kept.get("schedule"),
        data=None if data is None else data.encode(),
        type=kept.get("type"),
        details=kept["details"],
        is_on=kept.get("is_on"),
        by=kept["by"],
        reason=kept["reason"],
        at=at,
    )
