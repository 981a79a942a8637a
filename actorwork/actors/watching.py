"""Watching: an actor learns that another one has ended.

    watch(ref)                  Terminated(ref, exit), exactly once, when the actor ends for good (not at a restart)
    watch(ref, restarts=True)   besides, Restarted(ref, incarnation, exit) at every restart
    watch(ref, message=m)       m instead of Terminated
    link(ref)                   both end together, if one of them ends abnormally
    unwatch(ref)                takes back the watch, and what it brought that was not handled yet

Watching an actor that has ended already brings `Terminated` at once. An actor that watches and has no handler for
`Terminated` dies of it (`DeathPact`), as in Akka: who watches must care. The names an actor had are free before its
end is told. OTP's monitors fire at every incarnation, since there a process is its incarnation; here a ref outlives
them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from actorwork.policy.exits import Exit

if TYPE_CHECKING:
    from actorwork.actors.cell import Cell
    from actorwork.actors.ref import ActorRef


@attrs.frozen
class Terminated:
    """A watched actor has ended for good."""

    ref: ActorRef[Any]
    exit: Exit


@attrs.frozen
class Restarted:
    """A watched actor has been started again after `exit`; `incarnation` is the new one."""

    ref: ActorRef[Any]
    incarnation: int
    exit: Exit


@attrs.frozen
class Watch:
    """What a watcher wants to be told."""

    restarts: bool = False
    message: object = None
    linked: bool = False


class Watchers:
    """Who watches one actor."""

    __slots__ = ("_by_cell",)

    def __init__(self) -> None:
        self._by_cell: dict[Cell, Watch] = {}

    def add(self, watcher: Cell, watch: Watch) -> None:
        self._by_cell[watcher] = watch

    def remove(self, watcher: Cell) -> None:
        self._by_cell.pop(watcher, None)

    def tell_restart(self, ref: ActorRef[Any], incarnation: int, exit: Exit) -> None:
        """Tell those who want to know that the actor runs again."""
        for watcher, watch in list(self._by_cell.items()):
            if watch.restarts:
                watcher.signal(Restarted(ref, incarnation, exit))

    def tell_end(self, ref: ActorRef[Any], exit: Exit) -> None:
        """Tell everybody that the actor has ended for good, and forget them."""
        watchers, self._by_cell = self._by_cell, {}
        for watcher, watch in watchers.items():
            tell_one(watcher, watch, ref, exit)


def tell_one(watcher: Cell, watch: Watch, ref: ActorRef[Any], exit: Exit) -> None:
    """Tell one watcher of an end: as a message, or as its own end where the two are linked."""
    if watch.linked:
        if exit.abnormal:
            watcher.crash_of_link(ref, exit)
    else:
        watcher.signal(Terminated(ref, exit) if watch.message is None else watch.message)
