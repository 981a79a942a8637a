"""How the readers of a node share connections, where the url of the broker limits them: `?reader_connections=3`.

A reader without a connection reads over the one that all commands share, twice a second. When it finds messages there,
it gets the connection of the reader that has found none for the longest time: so messages of busy actors arrive at
once, and the first ones of a calm actor half a second later.
"""

from __future__ import annotations

from typing import Final, Protocol

import trio

CALM_AFTER: Final = 1.0
"""Seconds without messages after which a reader may lose its connection to another one."""


class Interruptible(Protocol):
    """A reader."""

    def interrupt(self) -> None: ...


class ReaderConnections:
    """Which readers have a connection, or may open one: at most so many at a time. Uses Trio's clock."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._holders: dict[Interruptible, float] = {}
        """When each of them has found messages last, or got its connection."""
        self._waiting: dict[Interruptible, None] = {}
        """Those that have found messages without one, in the order in which they did."""

    def __repr__(self) -> str:
        return f"<ReaderConnections: {len(self._holders)} of {self.most}, {len(self._waiting)} wait>"

    def may_take(self, reader: Interruptible) -> bool:
        free = self.most - len(self._holders)
        ahead = len(self._waiting) if reader not in self._waiting else list(self._waiting).index(reader)
        return reader not in self._holders and free > ahead

    def take(self, reader: Interruptible) -> bool:
        """Return whether a reader may open a connection; it has it until it `leaves`."""
        if not self.may_take(reader):
            return False
        self._waiting.pop(reader, None)
        self._holders[reader] = trio.current_time()
        return True

    def note_found(self, reader: Interruptible) -> None:
        """Note that a reader has found messages; one without a connection waits for one from now on."""
        if reader in self._holders:
            self._holders[reader] = trio.current_time()
            return
        self._waiting[reader] = None
        for one in self._calmest():
            one.interrupt()

    def is_wanted(self, reader: Interruptible) -> bool:
        """Return whether a reader is to leave its connection to another one."""
        return reader in self._calmest()

    def leave(self, reader: Interruptible) -> None:
        self._holders.pop(reader, None)

    def forget(self, reader: Interruptible) -> None:
        """Note that a reader has ended."""
        self.leave(reader)
        self._waiting.pop(reader, None)

    def _calmest(self) -> list[Interruptible]:
        """Return those that are to leave their connections: as many as others wait for, unless they are too busy."""
        wanted = len(self._waiting) - (self.most - len(self._holders))
        if wanted <= 0:
            return []
        calm_since = trio.current_time() - CALM_AFTER
        calm = sorted((found, number, one) for number, (one, found) in enumerate(self._holders.items()))
        return [one for found, _, one in calm[:wanted] if found <= calm_since]
