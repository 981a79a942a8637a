"""Whether a loop turns, as another thread sees it.

A thread calls `tick` about once a second, which asks the loop to run a callback. What the loop has not answered yet is
for how long it has been blocked. Time in which the thread itself did not run (the process was suspended, the machine
slept) does not count, or every loop would seem to be blocked when it goes on.
"""

from __future__ import annotations

import threading
import time
from typing import Final

import trio

from actorwork.stacks import frame_of_thread, stack_of_frame

EVERY: Final = 1.0
"""Seconds between two ticks."""


class Heartbeat:
    """Made in the loop that it watches; everything else may be called from any thread."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._watched = threading.get_ident()
        self._ticked = time.monotonic()
        self._asked: float | None = None
        """When the question was put that the loop has not answered."""
        self._waited = 0.0
        """For how long the answer was awaited until the last tick."""
        self.lag = 0.0
        """Seconds that the loop took to answer last."""

    def __repr__(self) -> str:
        return f"<heartbeat of thread {self._watched}, {self.blocked():.1f} s without an answer>"

    def tick(self) -> None:
        """Ask, unless a question is open; for one thread."""
        now = time.monotonic()
        if self._asked is None:
            self._waited, self._asked = 0.0, now
            try:
                self._token.run_sync_soon(self._answer)
            except trio.RunFinishedError:
                self._asked = None
        else:
            self._waited += _counted(now - self._ticked)
        self._ticked = now

    def blocked(self) -> float:
        """Return for how many seconds the loop has not answered; 0 while it does."""
        if self._asked is None:
            return 0.0
        return self._waited + _counted(time.monotonic() - self._ticked)

    def where(self) -> str:
        """Return the innermost frame of the loop's thread: `file:line in name`."""
        return stack_of_frame(frame_of_thread(self._watched)).rpartition("\n")[2]

    def _answer(self) -> None:
        if self._asked is not None:
            self.lag = time.monotonic() - self._asked
        self._asked = None


def _counted(seconds: float) -> float:
    return min(seconds, 2 * EVERY)
