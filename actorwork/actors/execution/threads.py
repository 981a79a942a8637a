"""Handlers without async, each in a thread of its own while it runs.

A thread cannot be ended. Past its deadline it is left to itself, so that its delivery can end and the next one begin;
the watchdog then looks at it as at any handler that does not end, and it is reported until it does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from actorwork import events
from actorwork.stacks import REPORT_EVERY, stack_of_thread

if TYPE_CHECKING:
    from actorwork.abc import EventSink
    from actorwork.actors.execution.watchdog import Watchdog


class HandlerThread:
    """One call of a handler in a thread."""

    __slots__ = ("_emit", "_function", "_message", "_reported", "_thread", "_watchdog", "_whose", "began", "timeout")

    def __init__(
        self, function: Callable[[], object], whose: tuple[str, str], message_id: str, emit: EventSink
    ) -> None:
        self._function = function
        self._whose = whose
        self._message = message_id
        self._emit = emit
        self._thread: int | None = None
        """The number of the thread, while the handler runs in it."""
        self._watchdog: Watchdog | None = None
        self._reported = 0.0
        self.began: float | None = None
        self.timeout = 0.0

    def __repr__(self) -> str:
        return f"<thread of {self._whose[1]!r} with {self._message}>"

    def __call__(self) -> object:
        self._thread = threading.get_ident()
        try:
            return self._function()
        finally:
            self._thread = None

    def leave(self, watchdog: Watchdog, began: float, timeout: float) -> None:
        """Nobody waits for it any more: report it, if it still runs when its time is over."""
        if self._thread is not None:
            self.began, self.timeout, self._watchdog = began, timeout, watchdog
            watchdog.watch(self)

    def overdue(self, now: float) -> None:
        thread = self._thread
        if thread is None:
            if self._watchdog is not None:
                self._watchdog.forget(self)
        elif self.began is not None and now - self._reported >= REPORT_EVERY:
            self._reported = now
            where = stack_of_thread(thread)
            self._emit(
                events.Overdue(*self._whose, self._message, now - self.began, where, self.timeout, is_settled=True)
            )
