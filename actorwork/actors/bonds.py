"""What ties an actor to others: watchers, names, topics. Made on demand, since most actors have none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actorwork.actors.watching import Watch, Watchers, tell_one
from actorwork.policy.exits import Exit

if TYPE_CHECKING:
    from actorwork.actors.cell import Cell
    from actorwork.actors.registry import Registry
    from actorwork.actors.topics import Topics


class Bonds:
    """The ties of one cell."""

    __slots__ = ("_cell", "_exit", "_names", "_registry", "_topics", "_topics_of", "_watchers", "_watching")

    def __init__(self, cell: Cell, registry: Registry, topics: Topics) -> None:
        self._cell = cell
        self._registry = registry
        self._topics_of = topics
        self._watchers = Watchers()
        self._watching: set[Cell] = set()
        self._names: set[str] = set()
        self._topics: set[str] = set()
        self._exit: Exit | None = None

    # ---- watching ----

    def add_watcher(self, watcher: Cell, watch: Watch) -> None:
        if self._exit is not None:
            tell_one(watcher, watch, self._cell.ref, self._exit)
        else:
            self._watchers.add(watcher, watch)
            watcher.bonds.watching(self._cell)

    def remove_watcher(self, watcher: Cell) -> None:
        self._watchers.remove(watcher)

    def watching(self, cell: Cell) -> None:
        """Remember whom this cell watches, so that they forget it when it ends."""
        self._watching.add(cell)

    def restarted(self, incarnation: int, exit: Exit) -> None:
        self._watchers.tell_restart(self._cell.ref, incarnation, exit)

    # ---- names and topics ----

    def register(self, name: str) -> None:
        self._registry.register(name, self._cell)
        self._names.add(name)

    def subscribe(self, topic: str) -> None:
        self._topics_of.subscribe(topic, self._cell)
        self._topics.add(topic)

    def unsubscribe(self, topic: str) -> None:
        self._topics_of.unsubscribe(topic, self._cell)
        self._topics.discard(topic)

    # ---- the end ----

    def incarnation_ended(self) -> None:
        """Leave the topics: the next incarnation subscribes anew."""
        for topic in self._topics:
            self._topics_of.unsubscribe(topic, self._cell)
        self._topics.clear()

    def ended(self, exit: Exit) -> None:
        """Free the names first, then tell the watchers."""
        self._exit = exit
        self.incarnation_ended()
        for name in self._names:
            self._registry.unregister(name, self._cell)
        for cell in self._watching:
            cell.bonds.remove_watcher(self._cell)
        self._watching.clear()
        self._watchers.tell_end(self._cell.ref, exit)

    def reopened(self) -> None:
        """Take the names again: the actor lives on after all."""
        self._exit = None
        for name in self._names:
            self._registry.register(name, self._cell)
