"""What a pause concerns: which sources an actor is not to read, and which triggers are not to fire.

Triggers fire into what is paused: their messages wait there with the others. What is not to fire is paused as
`triggers` (all of an actor) or as `trigger`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from actorwork.message import Pause, PauseKind, TriggerDefinition


def withheld(pauses: Iterable[Pause], *, actor: str, sources: Collection[str]) -> frozenset[str]:
    """Return those of an actor's sources from which nothing is to be begun."""
    found: set[str] = set()
    for pause in pauses:
        match pause.kind:
            case "everything":
                return frozenset(sources)
            case "actor" if pause.name == actor:
                return frozenset(sources)
            case "source" if pause.name in sources:
                found.add(pause.name)
            case _:
                pass
    return frozenset(found)


def is_off(pauses: Iterable[Pause], *, actor: str, trigger: str) -> bool:
    """Say whether a trigger is not to fire."""
    return any(concerns(pause.kind, pause.name, actor=actor, trigger=trigger) for pause in pauses)


def concerns(kind: PauseKind, name: str, *, actor: str, trigger: str) -> bool:
    """Say whether a pause is one of this trigger."""
    return (kind == "triggers" and name == actor) or (kind == "trigger" and name == trigger_name(actor, trigger))


def concerned(kind: PauseKind, name: str, definitions: Iterable[TriggerDefinition]) -> list[TriggerDefinition]:
    """Return the triggers that a pause is of."""
    return [one for one in definitions if concerns(kind, name, actor=one.actor, trigger=one.title)]


def trigger_name(actor: str, trigger: str) -> str:
    """Return what a pause calls a trigger: another name for every two titles, whatever slashes are in them."""
    title = actor.replace("\\", "\\\\").replace("/", "\\/")
    return f"{title}/{trigger}"
