"""What a node notes of the handlers of tracked deliveries: that they have begun, how far they are.

A note waits for one turn of the scheduler; progress is written at most once in `EVERY` seconds for each delivery, the
newest. What is settled meanwhile takes its notes along, so a handler that is quick writes only its end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import attrs
import trio

from actorwork.embedded.rows import Token
from actorwork.message import Delivery

if TYPE_CHECKING:
    from actorwork.records import Progress

EVERY: Final = 0.05
"""Seconds between two writes of the progress of a delivery."""


@attrs.define(eq=False)
class Note:
    """What is noted of one delivery and not written yet; `at`: when it is to be, by Trio's clock."""

    delivery: Delivery
    at: float
    started: float | None = None
    progress: Progress | None = None


class Notes:
    """The notes of one node; `write` passes them on to the writer, and does not wait."""

    def __init__(self, write: Callable[[Sequence[Note]], None]) -> None:
        self._write = write
        self._due: dict[Token, Note] = {}
        self._begun: dict[Token, float] = {}
        """When the progress of a delivery was written last."""
        self._wait = trio.CancelScope()

    def __repr__(self) -> str:
        return f"<Notes, {len(self._due)} to be written>"

    def add(self, delivery: Delivery, now: float, progress: Progress | None) -> None:
        """Note that the handler of a delivery has begun, and how far it is."""
        token: Token = delivery.token
        moment = trio.current_time()
        is_new = token not in self._begun
        if not is_new and progress is None:
            return
        at = moment if is_new else max(moment, self._begun[token] + EVERY)
        note = self._due.get(token)
        if note is None:
            note = self._due[token] = Note(delivery, at)
        if is_new:
            self._begun[token] = -math.inf
            note.started = now
        if progress is not None:
            note.progress = progress
        note.at = min(note.at, at)
        self._wait.deadline = min(self._wait.deadline, note.at)

    def take(self, delivery: Delivery) -> Note | None:
        """Return what is not written yet of a delivery that is settled or released."""
        self._begun.pop(delivery.token, None)
        return self._due.pop(delivery.token, None)

    def clear(self) -> None:
        """Drop all notes: other nodes own the deliveries."""
        self._due.clear()
        self._begun.clear()

    async def run(self) -> None:
        """Write notes, until cancelled."""
        while True:
            with self._wait:
                await trio.sleep_forever()
            now = trio.current_time()
            notes = {token: note for token, note in self._due.items() if note.at <= now}
            for token, note in notes.items():
                del self._due[token]
                if note.progress is not None:
                    self._begun[token] = now
            self._wait = trio.CancelScope(deadline=min((note.at for note in self._due.values()), default=math.inf))
            if notes:
                self._write(list(notes.values()))
