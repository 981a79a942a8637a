"""The mailbox of an entity: as many executors are at work as its handlers want, and none before the states are there.

Any other mailbox wakes an executor for each delivery. Those of an entity would take one each and wait for the same
load, which wakes them together, and all but two of them would wait again, until others have had a turn: a step of the
scheduler for every third message. Handlers that wait for nothing need one executor; so one is at work, and one stands
by:

    an executor takes a delivery ──▶ another one has the next turn ──▶ the first is in its handler still: it goes on
                                                                  └──▶ the first is between two messages: it waits again

So while handlers wait, one executor more is at work with each turn of the scheduler. Those that are one too many, since
a burst was over with a message in their hands (`host`), wait again after that message.

Deliveries that are held back, while their states are loaded, lie in the mailbox like others. An executor that is at
work takes them when their turn comes, and waits for their states itself.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import trio

from actorwork.actors.mailbox.calls import Item
from actorwork.actors.mailbox.mailbox import Mailbox

_take: Final = Mailbox.take_nowait
"""Called as it is: `super()` is looked up anew for each message."""


class Crew(Protocol):
    """The executors of an incarnation."""

    executors: tuple[object, ...]
    stopping: bool

    @property
    def in_flight(self) -> int:
        """How many of them have a message in their hands."""
        ...


class EntityMailbox(Mailbox):
    """A mailbox whose executors are woken one by one, once the states of deliveries are there."""

    __slots__ = ("_held_back", "_is_standing_by", "_too_many")

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._held_back = 0
        """How many deliveries wait for their states, those included that an executor has taken all the same."""
        self._is_standing_by = False
        """An executor has been woken, and has not had its turn yet."""
        self._too_many = 0
        """How many executors are to wait again."""

    def hold_back(self, count: int) -> None:
        """Let this many deliveries, which are offered next, wake no executor until `let_go`."""
        self._held_back += count

    def let_go(self, count: int) -> None:
        """Let executors begin what was held back: the states are there, or cannot be loaded together."""
        self._held_back -= count
        self._came(count)

    def one_too_many(self) -> None:
        """Let an executor wait again: others are at work."""
        self._too_many += 1

    def take_nowait(self) -> Item | None:
        if self._too_many:
            self._too_many -= 1
            if self._stand_by() or self._between_two() > 1:
                return None
        item = _take(self)
        if item is not None and not self._is_standing_by:
            self._stand_by()
        return item

    async def wait_item(self) -> None:
        """Wait until there may be an item that no other executor takes, or until `wake`."""
        while True:
            try:
                await super().wait_item()
            finally:
                self._is_standing_by = False
            if self._is_needed():
                return

    def _is_needed(self) -> bool:
        """Whether an executor that was woken has something to do."""
        crew: Crew | None = getattr(self._owner, "current", None)
        if crew is None or crew.stopping or self._paused or self._is_urgent:
            return True
        return len(self) > self._held_back and self._between_two() <= 1

    def _between_two(self) -> int:
        """Return how many executors are about to take something, this one included."""
        crew: Crew | None = getattr(self._owner, "current", None)
        awake = 0 if crew is None else len(crew.executors) - len(self._parked)
        return awake if crew is None or awake <= 1 else awake - crew.in_flight

    @property
    def _is_urgent(self) -> bool:
        return self._urgent is not None and any(self._urgent)

    def _came(self, count: int) -> None:
        if self._is_urgent or (len(self) > self._held_back and not self._stand_by()):
            super()._came(1)

    def _stand_by(self) -> bool:
        """Wake an executor if there is something to do; return whether one will have a turn."""
        if not self._is_standing_by and self._parked and len(self) > self._held_back:
            self._is_standing_by = True
            trio.lowlevel.reschedule(self._parked.pop())
        return self._is_standing_by
