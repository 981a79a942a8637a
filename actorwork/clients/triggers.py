"""Triggers that users put, change, reset and delete at the broker, beside those that code declares.

    put      a new trigger, or all of one that exists
    change   some parts of a trigger
    reset    all of it is as the code declares it again
    delete   one that no code declares

The functions change the record of a trigger if no other user has changed it in the meantime, and otherwise begin anew.
`Triggers` offers them to programs, and records each at the broker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack

import attrs

from actorwork import codec
from actorwork.actors.handlers.table import handlers_of
from actorwork.clients.auditing import audited
from actorwork.clients.identity import whoami
from actorwork.clients.titles import title_of
from actorwork.errors import BrokerError, CodecError, SettingsError
from actorwork.message import Delivery, Json, Priority
from actorwork.policy.amending import begins_now, in_force, merged
from actorwork.policy.pauses import trigger_name
from actorwork.policy.schedule import Cron, Interval
from actorwork.policy.trigger import Trigger
from actorwork.records import TriggerChanges, TriggerDefinition, TriggerRecord
from actorwork.settings import Settings, identity
from actorwork.triggers.declared import details_of, find_trigger, headers_for, schedule_text_of, trigger_of

if TYPE_CHECKING:
    from actorwork.abc import Broker
    from actorwork.actors.actor import Actor
    from actorwork.clients.sender import Sender
    from actorwork.durations import Duration
    from actorwork.policy.catchup import CatchUp, Overlap

ATTEMPTS: Final = 20
DETAILS: Final = ("description", "catchup", "catchup_window", "overlap", "jitter", "lifetime")


class TriggerParts(TypedDict, total=False):
    """The parts of a trigger that `client.triggers.change` changes; those that are not given stay as they are.

    They are those of `Trigger`, and `is_on`: whether it fires. `lifetime=None` is without end.
    """

    schedule: Interval | Cron
    kwargs: Mapping[str, Json]
    message: object
    is_on: bool
    description: str
    catchup: CatchUp
    catchup_window: Duration
    overlap: Overlap
    jitter: Duration
    lifetime: Duration | None


class Triggers:
    """The triggers at a broker; `await client.triggers()` lists them."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    def __repr__(self) -> str:
        return f"<Triggers at {self._sender.url}>"

    async def __call__(self) -> Sequence[TriggerRecord]:
        """Return all triggers that the broker knows, by actor and title."""
        return await (await self._sender.reached()).triggers.list()

    async def put(
        self,
        actor: type[Actor] | str,
        trigger: Trigger,
        *,
        is_on: bool = True,
        reason: str = "",
        force: bool = False,
    ) -> TriggerRecord:
        """Put a trigger of an actor at the broker, in the place of one with its title; return its record.

        Every node that hosts the actor fires it, within a second or two, and after restarts. Where code declares a
        trigger of this title, now or later, this one stays in force until it is reset. Raises `SettingsError`
        for a trigger that cannot fire, and `LookupError` for the title of an actor that has not run at this
        broker, unless `force` says that it will. If cancelled, the trigger may be there.
        """
        title = title_of(actor)
        if not isinstance(trigger, Trigger):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"put wants a Trigger(title=…, schedule=…), got {trigger!r:.100}")
        data, wire = _encoded(actor, title, trigger.title, _message_of(trigger))
        definition = definition_of(Settings(title=title), trigger, data, wire, priority=_priority_of(actor))
        broker = await self._sender.reached()
        if not force and isinstance(actor, str):
            await refuse_unknown(broker, title)
        changes = changes_of(definition, is_on=is_on, by=whoami(), reason=reason)
        async with audited(broker.audit, "put_trigger", told(definition, changes), reason=reason):
            return await put(broker, definition, changes)

    async def change(
        self, actor: type[Actor] | str, trigger: str, *, reason: str = "", **parts: Unpack[TriggerParts]
    ) -> TriggerRecord:
        """Change parts of a trigger; return its record. They stay as they are here until the trigger is reset.

        Times that have passed do not fire by a new schedule, or after the trigger was off. Raises `LookupError` for a
        trigger that the broker does not know, and `SettingsError` for one that cannot fire.
        """
        title = title_of(actor)
        unknown = parts.keys() - TriggerParts.__annotations__.keys()
        if unknown or not parts:
            given = ", ".join(sorted(unknown)) or "none"
            raise TypeError(f"change wants parts of a trigger: {', '.join(TriggerParts.__annotations__)}; got {given}")
        if "schedule" in parts and not isinstance(parts["schedule"], (Interval, Cron)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise SettingsError(f"schedule wants an Interval or a Cron, got {parts['schedule']!r:.100}")
        changes = TriggerChanges(
            schedule=schedule_text_of(parts["schedule"]) if "schedule" in parts else None,
            is_on=parts.get("is_on"),
            details={name: value for name, value in parts.items() if name in DETAILS},  # pyright: ignore[reportArgumentType] # checked with the rest of the trigger
            by=whoami(),
            reason=reason,
        )
        if "kwargs" in parts or "message" in parts:
            if "kwargs" in parts and "message" in parts:
                raise SettingsError(f"Trigger {trigger!r} wants kwargs or a message, not both")
            message: object = dict(parts["kwargs"]) if "kwargs" in parts else parts.get("message")
            data, wire = _encoded(actor, title, trigger, message)
            changes = attrs.evolve(changes, data=data, type=wire)
        broker = await self._sender.reached()
        before = find_trigger(await broker.triggers.list(), title, trigger)
        changes = checked(before, changes)
        async with audited(broker.audit, "change_trigger", told(before.definition, changes), reason=reason):
            return await change(broker, title, trigger, changes)

    async def reset(self, actor: type[Actor] | str, trigger: str, *, reason: str = "") -> TriggerRecord:
        """Have a trigger fire as the code declares it; return its record.

        Raises `LookupError` for a trigger that the broker does not know, and `ValueError` for one that no user has
        changed, or that no code declares.
        """
        title = title_of(actor)
        broker = await self._sender.reached()
        before = resettable(find_trigger(await broker.triggers.list(), title, trigger))
        async with audited(broker.audit, "reset_trigger", told(before.definition), reason=reason):
            return await reset(broker, title, trigger)

    async def delete(self, actor: type[Actor] | str, trigger: str, *, reason: str = "") -> None:
        """Delete a trigger that no code declares.

        Raises `LookupError` for a trigger that the broker does not know, and `ValueError` for one that code declares.
        """
        title = title_of(actor)
        broker = await self._sender.reached()
        before = deletable(find_trigger(await broker.triggers.list(), title, trigger))
        async with audited(broker.audit, "delete_trigger", told(before.definition), reason=reason):
            await broker.triggers.forget(before.definition.source, before.definition.id)


# ---- what they do at the broker ----


async def put(broker: Broker, definition: TriggerDefinition, changes: TriggerChanges) -> TriggerRecord:
    """Store a trigger, in the place of one of its title."""
    return await _amend(broker, definition.actor, definition.title, lambda _: (definition, changes, True))


async def change(broker: Broker, actor: str, trigger: str, changes: TriggerChanges) -> TriggerRecord:
    """Change parts of a trigger. Raises `LookupError`, and `SettingsError` for parts that do not fit together."""

    def decide(before: TriggerRecord | None) -> tuple[TriggerDefinition, TriggerChanges, bool]:
        known = _known(before, actor, trigger)
        made = merged(known.changes, checked(known, changes))
        return in_force(known.stored, made), made, known.is_put

    return await _amend(broker, actor, trigger, decide)


async def reset(broker: Broker, actor: str, trigger: str) -> TriggerRecord:
    """Drop what users have changed of a trigger. Raises `LookupError`, and `ValueError` if there is nothing to drop."""

    def decide(before: TriggerRecord | None) -> tuple[TriggerDefinition, None, bool]:
        return resettable(_known(before, actor, trigger)).stored, None, False

    return await _amend(broker, actor, trigger, decide)


async def refuse_unknown(broker: Broker, actor: str) -> None:
    """Raise `LookupError` for an actor that has not run at the broker, as far as this user may read who has."""
    from actorwork.state.known_actors import known_actors, unknown_actor  # noqa: PLC0415 - rare

    try:
        known = await known_actors(broker.values)
    except BrokerError:
        return
    problem = unknown_actor(actor, known)
    if problem is not None:
        raise LookupError(f"{problem}; force=True is for one that is to run later")


# ---- what is to be done ----


def definition_of(
    settings: Settings, trigger: Trigger, data: bytes, wire: str | None, *, priority: Priority = Priority.NORMAL
) -> TriggerDefinition:
    """Return a trigger of an actor in the form in which a broker stores it."""
    if getattr(trigger.schedule, "custom", False):
        raise SettingsError(
            f"the trigger {trigger.title!r} of {settings.title!r}: a custom cron expression is read by the program that"
            " declares it alone, and cannot be put by hand"
        )
    return TriggerDefinition(
        source=settings.default_source,
        id=trigger.id,
        actor=settings.title,
        title=trigger.title,
        schedule=schedule_text_of(trigger.schedule),
        data=data,
        type=wire,
        details=details_of(trigger, priority),
    )


def changes_of(definition: TriggerDefinition, *, is_on: bool, by: str, reason: str) -> TriggerChanges:
    """Return the changes that make any trigger this one."""
    return TriggerChanges(
        schedule=definition.schedule,
        data=definition.data,
        type=definition.type,
        details={name: value for name, value in definition.details.items() if name != "priority"},
        is_on=None if is_on else False,
        by=by,
        reason=reason,
    )


def checked(before: TriggerRecord, changes: TriggerChanges) -> TriggerChanges:
    """Return changes in the form in which a broker stores them; raise `SettingsError` if the trigger could not fire."""
    if changes.is_on is not None and not isinstance(changes.is_on, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SettingsError(f"is_on wants True or False, got {changes.is_on!r}")
    if changes.schedule is None and not changes.details:
        return changes
    made = merged(before.changes, changes)
    is_custom = "by" in codec.decode_value(in_force(before.stored, made).schedule.encode(), dict[str, Any])
    # What only its program reads is not read here; the rest of the trigger is.
    schedule = '{"every": 1.0}' if is_custom else in_force(before.stored, made).schedule
    definition = attrs.evolve(in_force(before.stored, made), schedule=schedule)
    trigger = trigger_of(attrs.evolve(before, definition=definition))
    details = details_of(trigger, Priority.NORMAL)
    return attrs.evolve(changes, details={name: details[name] for name in changes.details})


def resettable(before: TriggerRecord) -> TriggerRecord:
    """Return a trigger that users have changed and code declares; raise `ValueError` for any other."""
    name = f"the trigger {before.definition.title!r} of {before.definition.actor!r}"
    if before.changes is None:
        raise ValueError(f"{name} is as its code declares it: there is nothing to reset")
    if before.is_put and not before.is_declared:
        raise ValueError(f"{name} was put here by hand, and no code declares it: delete it instead")
    return before


def deletable(before: TriggerRecord) -> TriggerRecord:
    """Return a trigger that no code declares; raise `ValueError` for any other."""
    if before.is_declared:
        raise ValueError(
            f"the trigger {before.definition.title!r} of {before.definition.actor!r} is declared by the code of its"
            " actor, and would come back: turn it off, or reset what was changed"
        )
    return before


def told(definition: TriggerDefinition, changes: TriggerChanges | None = None) -> str:
    """Return what an action concerns, and what it changes, for the audit."""
    name = trigger_name(definition.actor, definition.title)
    if changes is None:
        return name
    parts = [] if changes.schedule is None else [f"schedule {changes.schedule}"]
    if changes.is_on is not None:
        parts.append("on" if changes.is_on else "off")
    if changes.data is not None:
        parts.append("message")
    parts += [f"{part} {value!r}" for part, value in changes.details.items()]
    return f"{name}: {', '.join(parts)}"


async def _amend(
    broker: Broker,
    actor: str,
    trigger: str,
    decide: Callable[[TriggerRecord | None], tuple[TriggerDefinition, TriggerChanges | None, bool]],
) -> TriggerRecord:
    for _ in range(ATTEMPTS):
        before = _find(await broker.triggers.list(), actor, trigger)
        definition, changes, is_put = decide(before)
        record = await broker.triggers.amend(
            definition,
            changes,
            revision=0 if before is None else before.revision,
            is_put=is_put,
            begins_now=begins_now(before, definition, changes),
        )
        if record is not None:
            return record
    raise BrokerError(f"other clients keep changing the trigger {trigger!r} of {actor!r}: try again", may_pass=True)


def _find(records: Sequence[TriggerRecord], actor: str, trigger: str) -> TriggerRecord | None:
    found = (one for one in records if (one.definition.actor, one.definition.title) == (actor, trigger))
    return next(found, None)


def _known(before: TriggerRecord | None, actor: str, trigger: str) -> TriggerRecord:
    return find_trigger([] if before is None else [before], actor, trigger)


def _priority_of(actor: type[Actor] | str) -> Priority:
    return Priority.NORMAL if isinstance(actor, str) else actor.settings.priority


def _message_of(trigger: Trigger) -> object:
    if trigger.message is not None:
        return trigger.message
    kwargs: dict[str, Json] = dict(trigger.kwargs or {})
    return kwargs


def _encoded(actor: type[Actor] | str, title: str, trigger: str, message: object) -> tuple[bytes, str | None]:
    """Encode a message; raise `SettingsError` if it is none, or the actor's class has no handler for it."""
    what = f"the trigger {trigger!r} of {title!r}"
    try:
        data, wire = codec.encode(message)
        if not isinstance(actor, str):
            name = identity(trigger)
            delivery = Delivery(name, actor.settings.default_source, data, None, wire, headers_for(name, 0))
            handlers_of(actor).for_delivery(delivery).arguments_of(delivery)
    except CodecError as error:
        raise SettingsError(f"{what} would send a message that the actor does not take: {error}") from error
    return data, wire
