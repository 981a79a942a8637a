"""Notices a blocked loop: one handler keeps it, and nothing else can run meanwhile.

    a thread samples, every `threshold` seconds, where the loop's thread is
        it waits for I/O: the loop is idle, and is left asleep
        anything else: the loop is asked to run a callback; if it has not within `threshold`, that is a stall, and the
        stack is taken then

So a stall is noticed once it has lasted between one and two thresholds. The loop itself reports it when it runs again,
with how long it was. It may never run again: a stall that lasts is reported from the thread, every ten seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import FrameType
from typing import Final, TypeAlias

import attrs
import trio

from actorwork import events
from actorwork.stacks import REPORT_EVERY, frame_of_thread, stack_of_frame

During: TypeAlias = Callable[[float], AbstractContextManager[None]]

_END_LIMIT: Final = 0.1
"""Seconds for the thread to end: it ends at once, unless it is just writing a log."""


@attrs.define(eq=False)
class StallCounts:
    """How often the loop has been blocked so far, for how many seconds in all, and the last time."""

    count: int = 0
    seconds: float = 0.0
    last: events.LoopStalled | None = None
    ended: float = 0.0
    """When the last one ended, by Trio's clock."""

    def note(self, event: events.LoopStalled) -> None:
        """Count a stall that has ended; called in the loop."""
        self.count += 1
        self.seconds += event.seconds
        self.last = event
        self.ended = trio.current_time()


async def watch_stalls(
    threshold: float,
    emit: Callable[[events.LoopStalled], None],
    emit_in_thread: Callable[[events.LoopStalled], None],
    during: During | None = None,
) -> None:
    """Watch the loop that this runs in, until cancelled; `emit_in_thread` is called from another thread.

    So is `during`, with the moment of the monotonic clock since which the loop has been blocked; what it returns is
    entered and left around the stall.
    """
    watch = _Watch(threshold, emit, emit_in_thread, during)
    thread = threading.Thread(target=watch.run, name="actorwork stalls", daemon=True)
    thread.start()
    try:
        await trio.sleep_forever()
    finally:
        watch.end()
        thread.join(_END_LIMIT)


class _Watch:
    def __init__(
        self,
        threshold: float,
        emit: Callable[[events.LoopStalled], None],
        emit_in_thread: Callable[[events.LoopStalled], None],
        during: During | None,
    ) -> None:
        self._threshold = threshold
        self._during = during
        self._emit = emit
        self._emit_in_thread = emit_in_thread
        self._token = trio.lowlevel.current_trio_token()
        self._watched = threading.get_ident()
        self._wakeup = threading.Event()
        """Set when the loop has answered, or the watch ends."""
        self._is_ending = False
        self._has_answered = True

    def end(self) -> None:
        self._is_ending = True
        self._wakeup.set()

    def _answer(self) -> None:
        self._has_answered = True
        self._wakeup.set()

    def run(self) -> None:
        """Sample until the end; runs in the thread."""
        try:
            while not self._is_ending:
                self._wakeup.wait(self._threshold)
                self._wakeup.clear()
                frame = self._frame()
                if not self._is_ending and frame is not None and not waits_for_io(frame):
                    del frame  # It would keep alive what its variables hold.
                    self._ask()
        except trio.RunFinishedError:
            pass  # The loop has ended.

    def _ask(self) -> None:
        asked = time.monotonic()
        self._has_answered = False
        self._token.run_sync_soon(self._answer)
        if self._waited(self._threshold):
            return
        frame = self._frame()
        # The whole process may have been suspended, and this thread with it: then the loop is idle by now.
        if frame is None or waits_for_io(frame):
            return
        stack = stack_of_frame(frame)
        del frame
        with nullcontext() if self._during is None else self._during(asked):
            while not self._waited(REPORT_EVERY):
                frame = self._frame()
                if frame is not None:
                    self._emit_in_thread(
                        events.LoopStalled(time.monotonic() - asked, stack_of_frame(frame), lasts=True)
                    )
                del frame
        if not self._is_ending:
            self._token.run_sync_soon(self._emit, events.LoopStalled(time.monotonic() - asked, stack, lasts=False))

    def _waited(self, seconds: float) -> bool:
        """Wait for the answer of the loop, or for the end; return whether it came."""
        until = time.monotonic() + seconds
        while not (self._has_answered or self._is_ending):
            left = until - time.monotonic()
            if left <= 0:
                return False
            self._wakeup.wait(left)
            self._wakeup.clear()
        return True

    def _frame(self) -> FrameType | None:
        return frame_of_thread(self._watched)


def waits_for_io(frame: FrameType) -> bool:
    """Return whether a thread is where Trio waits for the operating system.

    By the name of that function: should it change, an idle loop is woken for the question, and nothing else is lost.
    """
    return frame.f_code.co_name == "get_events" and frame.f_globals.get("__name__", "").startswith("trio.")
