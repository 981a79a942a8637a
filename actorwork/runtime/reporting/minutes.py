"""The task that adds what this node has handled to the counts of the minute at the broker, every five seconds.

A node that handles nothing sends nothing. What cannot be added is not tried again, as a part of it may have been: the
charts then miss some seconds, and never count twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from actorwork.errors import BrokerError
from actorwork.events import BrokerTrouble

if TYPE_CHECKING:
    from actorwork.abc import EventSink, Minutes
    from actorwork.policy.minutes import Tally

EVERY: Final = 5.0
LAST: Final = 0.5
"""Seconds for what is left at the end."""


class MinuteWriter:
    """Adds a tally to the minutes at the broker; `now` returns the broker's clock."""

    def __init__(self, tally: Tally, minutes: Minutes, now: Callable[[], float], emit: EventSink) -> None:
        self._tally = tally
        self._minutes = minutes
        self._now = now
        self._emit = emit
        self._is_troubled = False

    def __repr__(self) -> str:
        return f"<MinuteWriter of {self._tally!r}>"

    async def run(self) -> NoReturn:
        """Add every five seconds until cancelled; then what is left is added, within half a second."""
        try:
            while True:
                await trio.sleep(EVERY)
                await self.write()
        finally:
            with trio.move_on_after(LAST, shield=True):
                await self.write()

    async def write(self) -> None:
        """Add what has ended since the last time."""
        counts = self._tally.take()
        if not counts:
            return
        try:
            await self._minutes.add(int(self._now() // 60), counts)
            self._is_troubled = False
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a chart, the actors go on
            if not self._is_troubled:
                self._is_troubled = True
                text = str(error) if isinstance(error, BrokerError) else f"{type(error).__name__}: {error}"
                what_next = "the charts miss what this node handles; its work goes on"
                self._emit(BrokerTrouble("counting what this node has handled", text, what_next))
