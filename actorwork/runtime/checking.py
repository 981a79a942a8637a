"""What is checked before anything starts: what cannot work is an error of the start, not of the night in which a
message or a trigger comes first.

    handlers    an actor that the broker feeds has one
    triggers    the actor's broker feeds it, its message has a handler, a `cron_schedule` names a next time
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from actorwork.actors.handlers.table import handlers_of
from actorwork.actors.tree.spec import Child, DynamicSupervisor, Process, Supervisor
from actorwork.actors.tree.walking import actors_of
from actorwork.errors import CodecError, SettingsError
from actorwork.message import Delivery

if TYPE_CHECKING:
    from actorwork.abc import AbstractCronSchedule
    from actorwork.actors.tree.hooks import Hooks
    from actorwork.actors.tree.spec import Spec
    from actorwork.settings import Settings


def check_tree(whole: Supervisor, selected: Supervisor, cron_schedule: AbstractCronSchedule | None) -> None:
    """Raise `SettingsError` for actors in the selected part of a tree that cannot work."""
    for scope in (whole, *_processes_in(whole)):
        children = scope.children if isinstance(scope, Process) else (scope,)
        fed = {child.title for spec in children for child in actors_of(spec, everywhere=scope is whole)}
        for child in (child for spec in children for child in local_actors_of(spec)):
            refuse_idle_triggers(child, fed)
    handling: set[type] = set()
    for child in actors_of(selected, everywhere=True):
        actor = child.actor
        assert actor is not None  # noqa: S101 - for type checkers: `actors_of` yields actors
        if actor not in handling:  # Looked at once for each class: there may be a hundred thousand actors.
            _check_handlers(actor)
            handling.add(actor)
        if child.settings.triggers:
            _check_triggers(actor, child.settings, cron_schedule)


def _check_handlers(actor: type[Hooks]) -> None:
    if not any(handlers_of(actor)):
        raise SettingsError(
            f"{actor.__qualname__} ({actor.settings.title!r}) reads messages from the broker and handles none: mark"
            f" its methods with @receive, or write Child({actor.__qualname__}, reads=False) if it needs no messages"
        )


def refuse_idle_triggers(child: Child, fed: Iterable[str]) -> None:
    """Raise `SettingsError` for a local actor with triggers, unless the broker feeds another one of that title."""
    triggers = child.settings.triggers
    if triggers and child.title not in fed:
        raise SettingsError(
            f"the trigger {triggers[0].title!r} of {child.title!r} would never fire: it sends through the broker,"
            " which does not feed actors that are in a Pool, started while the tree runs, or declared with reads=False;"
            " declare it on an actor that is in the tree from the start and reads"
        )


def local_actors_of(spec: Spec) -> Iterator[Child]:
    """Yield the local actors that a tree declares, those of processes left out."""
    match spec:
        case Child():
            if spec.actor is not None and not spec.reads:
                yield spec
        case Supervisor():
            for child in spec.children:
                yield from local_actors_of(child)
        case DynamicSupervisor(template=Child() as template):
            if template.actor is not None:
                yield template
        case _:
            pass


def _processes_in(spec: Spec) -> Iterator[Process]:
    if isinstance(spec, Process):
        yield spec
    if isinstance(spec, (Supervisor, Process)):
        for child in spec.children:
            yield from _processes_in(child)


def _check_triggers(actor: type, settings: Settings, cron_schedule: AbstractCronSchedule | None) -> None:
    # Imported here: a tree without triggers starts faster without them.
    from actorwork.policy.schedule import Cron  # noqa: PLC0415
    from actorwork.triggers.custom import next_execution  # noqa: PLC0415
    from actorwork.triggers.declared import declared_by, headers_for  # noqa: PLC0415

    table = handlers_of(actor)
    for declared in declared_by(settings, cron_schedule):
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
                next_execution(cron_schedule, schedule)
            except SettingsError as error:
                raise SettingsError(f"{what}: {error}") from error
