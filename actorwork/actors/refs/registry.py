"""Names: one actor each, within a system.

A name belongs to the cell, so a restart keeps it. It is free again when the actor ends for good, before watchers are
told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from actorwork.errors import AlreadyRegistered

if TYPE_CHECKING:
    from actorwork.actors.life.cell import Cell
    from actorwork.actors.refs.ref import ActorRef


class Registry:
    """Which actor has which name."""

    def __init__(self) -> None:
        self._cells: dict[str, Cell] = {}

    def __repr__(self) -> str:
        return f"<registry of {len(self._cells)} names>"

    def register(self, name: str, cell: Cell) -> None:
        """Give an actor a name; raises `AlreadyRegistered` if another one has it."""
        owner = self._cells.setdefault(name, cell)
        if owner is not cell:
            raise AlreadyRegistered(f"the name {name!r} belongs to {owner.ref!r}", ref=owner.ref)

    def unregister(self, name: str, cell: Cell) -> None:
        """Free a name, if it is this actor's."""
        if self._cells.get(name) is cell:
            del self._cells[name]

    def whereis(self, name: str) -> ActorRef[Any] | None:
        """Return the ref of the actor with a name, or None."""
        cell = self._cells.get(name)
        return None if cell is None else cell.ref

    def names(self) -> dict[str, ActorRef[Any]]:
        """Return all names with their refs."""
        return {name: cell.ref for name, cell in self._cells.items()}
