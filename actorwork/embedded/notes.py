"""What a node notes of the handlers of tracked deliveries: that they have begun, how far they are.

A note waits for one turn of the scheduler, and progress for some milliseconds. What is settled meanwhile takes its
notes along, so a handler that is quick writes only its end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import attrs
import trio

from actorwork.embedded.rows import Token
from actorwork.message import Delivery, Progress

EVERY: Final = 0.05
"""Seconds after which progress is written."""


@attrs.define(eq=False)
class Note:
    """What is noted of one delivery and not written yet."""

    delivery: Delivery
    started: float | None = None
    progress: Progress | None = None


class Notes:
    """The notes of one node; `write` passes them on to the writer, and does not wait."""

    def __init__(self, write: Callable[[Sequence[Note]], None]) -> None:
        self._write = write
        self._due: dict[Token, Note] = {}
        self._begun: set[Token] = set()
        self._wait = trio.CancelScope()
        self._written_at = float("-inf")

    def __repr__(self) -> str:
        return f"<Notes, {len(self._due)} to be written>"

    def add(self, delivery: Delivery, now: float, progress: Progress | None) -> None:
        """Note that the handler of a delivery has begun, and how far it is."""
        token: Token = delivery.token
        note = self._due.get(token)
        if note is None:
            note = self._due[token] = Note(delivery)
        if token not in self._begun:
            self._begun.add(token)
            note.started = now
            self._write_at(trio.current_time())
        if progress is not None:
            note.progress = progress
            self._write_at(self._written_at + EVERY)

    def take(self, delivery: Delivery) -> Note | None:
        """Return what is not written yet of a delivery that is settled or released."""
        self._begun.discard(delivery.token)
        return self._due.pop(delivery.token, None)

    def clear(self) -> None:
        """Drop all notes: other nodes own the deliveries."""
        self._due.clear()
        self._begun.clear()

    def _write_at(self, moment: float) -> None:
        self._wait.deadline = min(self._wait.deadline, max(moment, trio.current_time()))

    async def run(self) -> None:
        """Write notes, until cancelled."""
        while True:
            with self._wait:
                await trio.sleep_forever()
            self._wait = trio.CancelScope()
            if self._due:
                notes, self._due = self._due, {}
                self._written_at = trio.current_time()
                self._write(list(notes.values()))
