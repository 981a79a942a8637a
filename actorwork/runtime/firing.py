"""Fires the triggers of a node's actors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NoReturn, cast

import trio

from actorwork.abc import AbstractCronSchedule, Broker, EventSink, Node
from actorwork.errors import BrokerError, SettingsError
from actorwork.events import BrokerTrouble
from actorwork.settings import Settings

if TYPE_CHECKING:
    from actorwork.runtime.pausing import Pausing
    from actorwork.triggers.declared import Declared


def cron_schedule_from(given: object) -> AbstractCronSchedule | None:
    """Return the cron schedule for an object or its class; raises `SettingsError`."""
    made = given() if isinstance(given, type) else given
    if made is not None and not callable(getattr(made, "next_execution", None)):
        raise SettingsError(f"cron_schedule wants a subclass of AbstractCronSchedule, got {given!r}")
    return cast("AbstractCronSchedule | None", made)


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
    declared: list[Declared] = []
    if any(settings.triggers for settings in actors):
        # Imported here: a tree without triggers starts faster without them.
        from actorwork.triggers.declared import declared_by  # noqa: PLC0415

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
    from actorwork.triggers.scheduler import Scheduler  # noqa: PLC0415 - as above

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
