"""Fires the triggers of a node's actors."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Final, NoReturn, cast

import trio

from actorwork.abc import AbstractCronSchedule, Broker, EventSink, Node
from actorwork.errors import BrokerError, SettingsError
from actorwork.events import BrokerTrouble
from actorwork.settings import Settings

if TYPE_CHECKING:
    from actorwork.runtime.pausing import Pausing
    from actorwork.triggers.declared import Declared

AGAIN: Final = 10.0
"""Seconds until a question that failed is asked again."""


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
        nursery.start_soon(_schedule, broker, node, actors, declared, pausing, emit, cron_schedule)


async def _schedule(
    broker: Broker,
    node: Node,
    actors: Sequence[Settings],
    declared: Sequence[Declared],
    pausing: Pausing,
    emit: EventSink,
    cron_schedule: AbstractCronSchedule | None,
) -> NoReturn:
    if not declared:
        await _wait_put(broker, {settings.default_source for settings in actors}, pausing, emit)
    from actorwork.triggers.scheduler import Scheduler  # noqa: PLC0415 - as above

    scheduler = Scheduler(
        broker.triggers,
        actors,
        declared,
        now=node.now,
        status=pausing,
        emit=emit,
        cron_schedule=cron_schedule,
    )
    pausing.changed = scheduler.wake
    pausing.looked = scheduler.look
    await scheduler.run()


async def _wait_put(broker: Broker, sources: Collection[str], pausing: Pausing, emit: EventSink) -> None:
    """Wait until a user has put a trigger at the broker by hand that sends to one of these sources."""
    known = 0
    while True:
        looked = trio.Event()
        pausing.looked = looked.set
        try:
            number = await broker.triggers.changes()
            if number != known:
                records = await broker.triggers.list()
                if any(one.is_put and one.definition.source in sources for one in records):
                    return
                known = number
        except BrokerError as error:
            emit(BrokerTrouble("looking for triggers that were put by hand", str(error), f"again in {AGAIN:g} s"))
            with trio.move_on_after(AGAIN):
                await looked.wait()
            continue
        await looked.wait()


async def _remove_undeclared(broker: Broker, actors: Iterable[Settings], emit: EventSink) -> None:
    """Remove at the broker the triggers of actors that declare none any more."""
    sources = {settings.default_source for settings in actors if not settings.triggers}
    try:
        records = await broker.triggers.list() if sources else ()
        for source in {one.definition.source for one in records if one.is_declared} & sources:
            await broker.triggers.register(source, [])
    except BrokerError as error:
        emit(BrokerTrouble("removing triggers that are no longer declared", str(error), "left as they are"))
