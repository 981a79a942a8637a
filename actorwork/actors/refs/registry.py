"""Names: each belongs to one actor of a system.

A name belongs to the cell, so it survives restarts. It is free again when the actor ends for good, before the watchers
are notified.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from actorwork.errors import AlreadyRegistered

if TYPE_CHECKING:
    from actorwork.actors.refs.ref import ActorRef


class Registry:
    """The names of a system."""

    def __init__(self) -> None:
        self._refs: dict[str, ActorRef[Any]] = {}

    def __repr__(self) -> str:
        return f"<registry of {len(self._refs)} names>"

    def register(self, name: str, ref: ActorRef[Any]) -> None:
        """Give an actor a name; raises `AlreadyRegistered` if another one has it."""
        owner = self._refs.setdefault(name, ref)
        if owner != ref:
            raise AlreadyRegistered(f"the name {name!r} belongs to {owner!r}", ref=owner)

    def unregister(self, name: str, ref: ActorRef[Any]) -> None:
        """Free a name, if it is this actor's."""
        if self._refs.get(name) == ref:
            del self._refs[name]

    def whereis(self, name: str) -> ActorRef[Any] | None:
        """Return the ref of the actor with a name, or None."""
        return self._refs.get(name)

    def names(self) -> dict[str, ActorRef[Any]]:
        """Return all names with their refs."""
        return dict(self._refs)
