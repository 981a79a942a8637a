"""Topics: one message to every actor that subscribes, within a system.

Nothing is kept and nobody is waited for: a subscriber whose mailbox is full misses the message, which is reported as
undelivered. For messages that must arrive there are sources at the broker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from actorwork.errors import ActorStopped, MailboxFull, MessageRefused

if TYPE_CHECKING:
    from actorwork.actors.life.cell import Cell


class Topics:
    """Who subscribes to what. A subscription ends with the incarnation that made it."""

    def __init__(self) -> None:
        self._cells: dict[str, dict[Cell, None]] = {}

    def __repr__(self) -> str:
        return f"<topics: {', '.join(f'{topic} ({len(cells)})' for topic, cells in self._cells.items())}>"

    def subscribe(self, topic: str, cell: Cell) -> None:
        """Let an actor have every message of a topic; once, however often it asks."""
        self._cells.setdefault(topic, {})[cell] = None

    def unsubscribe(self, topic: str, cell: Cell) -> None:
        cells = self._cells.get(topic, {})
        cells.pop(cell, None)
        if not cells:
            self._cells.pop(topic, None)

    def publish(self, topic: str, message: object) -> int:
        """Tell every subscriber, without waiting; return how many took it.

        Raises `MessageRefused` if a subscriber has no handler for it; the others have it all the same.
        """
        taken = 0
        refused: MessageRefused | None = None
        for cell in list(self._cells.get(topic, ())):
            try:
                cell.ref.tell_nowait(message)
            except MessageRefused as error:
                refused = error
            except (MailboxFull, ActorStopped):
                cell.undelivered([message])
            else:
                taken += 1
        if refused is not None:
            raise refused
        return taken
