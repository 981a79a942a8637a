"""Fires the triggers of a node's actors.

Before anything starts it is checked that each trigger's message has a handler, and that a `cron_schedule` names a next
time: what cannot work is an error at the start of the program, not of the night in which the trigger fires first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NoReturn, cast

import trio

from actorwork.abc import AbstractCronSchedule, Broker, EventSink, Node
from actorwork.actors.handlers.table import handlers_of
from actorwork.errors import BrokerError, CodecError, SettingsError
from actorwork.events import BrokerTrouble
from actorwork.message import Delivery
from actorwork.policy.schedule import Cron
from actorwork.settings import Settings
from actorwork.triggers.declared import Declared, declared_by, headers_for
from actorwork.triggers.scheduler import Scheduler, next_execution

if TYPE_CHECKING:
    from actorwork.actors.tree.spec import Child
    from actorwork.runtime.pausing import Pausing


def cron_schedule_from(given: object) -> AbstractCronSchedule | None:
    """Return the cron schedule for an object or its class; raises `SettingsError`."""
    made = given() if isinstance(given, type) else given
    if made is not None and not callable(getattr(made, "next_execution", None)):
        raise SettingsError(f"cron_schedule wants a subclass of AbstractCronSchedule, got {given!r}")
    return cast("AbstractCronSchedule | None", made)


def check_triggers(children: Iterable[Child], cron_schedule: AbstractCronSchedule | None) -> None:
    """Raise `SettingsError` for a trigger that could never fire, or whose message its actor does not accept."""
    for child in children:
        if child.actor is None or not child.actor.settings.triggers:
            continue
        table = handlers_of(child.actor)
        for declared in declared_by(child.actor.settings, cron_schedule):
            kept = declared.definition
            what = f"the trigger {kept.title!r} of {kept.actor!r}"
            delivery = Delivery(kept.id, kept.source, kept.data, None, kept.type, headers_for(kept.id, 0))
            try:
                table.for_delivery(delivery).arguments_of(delivery)
            except CodecError as error:
                raise SettingsError(f"{what} sends a message that the actor does not take: {error}") from error
            schedule = declared.trigger.schedule
            if cron_schedule is not None and isinstance(schedule, Cron):
                try:
                    next_execution(cron_schedule, schedule.expression)
                except SettingsError as error:
                    raise SettingsError(f"{what}: {error}") from error


async def fire_triggers(
    broker: Broker,
    node: Node,
    actors: Iterable[Settings],
    *,
    pausing: Pausing,
    emit: EventSink,
    cron_schedule: AbstractCronSchedule | None,
) -> None:
    """Fire the triggers of these actors until cancelled; returns at once where they have none."""
    actors = list(actors)
    declared = [one for settings in actors for one in declared_by(settings, cron_schedule)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_remove_undeclared, broker, actors, emit)
        if declared:
            nursery.start_soon(_schedule, broker, node, declared, pausing, emit, cron_schedule)


async def _schedule(
    broker: Broker,
    node: Node,
    declared: list[Declared],
    pausing: Pausing,
    emit: EventSink,
    cron_schedule: AbstractCronSchedule | None,
) -> NoReturn:
    scheduler = Scheduler(
        broker.triggers,
        declared,
        now=node.now,
        status=pausing,
        emit=emit,
        cron_schedule=cron_schedule,
        looks_again=not broker.pauses.is_certain,
    )
    pausing.changed = scheduler.wake
    await scheduler.run()


async def _remove_undeclared(broker: Broker, actors: Iterable[Settings], emit: EventSink) -> None:
    """Remove at the broker the triggers of actors that declare none any more."""
    sources = {settings.default_source for settings in actors if not settings.triggers}
    try:
        records = await broker.triggers.list() if sources else ()
        for source in {one.definition.source for one in records if one.is_declared} & sources:
            await broker.triggers.register(source, [])
    except BrokerError as error:
        emit(BrokerTrouble("removing triggers that are no longer declared", str(error), "left as they are"))
