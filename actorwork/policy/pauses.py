"""What a pause affects: which sources an actor does not read, and which triggers do not fire.

Triggers fire into paused sources: their messages wait there with the others. To stop a trigger from firing, pause
`triggers` (all of an actor) or the `trigger`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from actorwork.policy.identity import default_source, identity

if TYPE_CHECKING:
    from actorwork.records import Pause, PauseKind, TriggerDefinition

OWN = "actor:"
"""How an operator names an actor's own source, before its title."""


def withheld(
    pauses: Iterable[Pause], *, actor: str, sources: Collection[str], node: str = "", process: str = ""
) -> frozenset[str]:
    """Return those of an actor's sources that are paused: no message of them is started.

    `node` is the name of the node that asks, as in its report (host:pid), and `process` the title of the `Process` that
    it runs, if it does.
    """
    found: set[str] = set()
    for pause in pauses:
        match pause.kind:
            case "everything":
                return frozenset(sources)
            case "actor" if pause.name == actor:
                return frozenset(sources)
            case "node" | "process" if is_there(pause, node=node, process=process):
                return frozenset(sources)
            case "source" if pause.name in sources:
                found.add(pause.name)
            case _:
                pass
    return frozenset(found)


def named(names: Collection[str], *, actor: str, sources: Collection[str]) -> frozenset[str]:
    """Return those of an actor's sources that an operator names; `actor:TITLE` is its own."""
    found = {source for source in sources if source in names}
    if OWN + actor in names:
        found |= {default_source(identity(actor))} & {*sources}
    return frozenset(found)


def is_there(pause: Pause, *, node: str, process: str) -> bool:
    """Whether a pause of a node or a process concerns this one.

    Names are those that a restart leaves as they are: a host, and the title of a process. A replica has a number after
    its title.
    """
    match pause.kind:
        case "node":
            return bool(node) and pause.name in (node, node.rpartition(":")[0])
        case "process":
            title, _, number = process.rpartition(" ")
            return bool(process) and (pause.name == process or (number.isdecimal() and pause.name == title))
        case _:
            return False


def is_off(pauses: Iterable[Pause], *, actor: str, trigger: str) -> bool:
    """Whether a trigger is paused."""
    return any(concerns(pause.kind, pause.name, actor=actor, trigger=trigger) for pause in pauses)


def concerns(kind: PauseKind, name: str, *, actor: str, trigger: str) -> bool:
    """Whether a pause affects this trigger."""
    return (kind == "triggers" and name == actor) or (kind == "trigger" and name == trigger_name(actor, trigger))


def concerned(kind: PauseKind, name: str, definitions: Iterable[TriggerDefinition]) -> list[TriggerDefinition]:
    """Return the triggers that a pause affects."""
    return [one for one in definitions if concerns(kind, name, actor=one.actor, trigger=one.title)]


def trigger_name(actor: str, trigger: str) -> str:
    """Return the name of a trigger in a pause: unique for each pair of titles, even if they contain slashes."""
    title = actor.replace("\\", "\\\\").replace("/", "\\/")
    return f"{title}/{trigger}"
