"""Notices when the loop stands still: something blocks it, and nothing else can run meanwhile.

    a thread looks, every `threshold` seconds, where the loop's thread is
        it waits for I/O: all is well, and nothing was woken
        anything else: the loop is asked for a sign; none within `threshold` is a stall, and the stack is taken now

So a stall is noticed once it has lasted between one and two thresholds, and an idle loop is left asleep. It is reported
by the loop itself when it goes on, with how long it was. It may never go on: so what lasts is reported from the
thread, every ten seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Final

import trio

from actorwork.events import LoopStalled
from actorwork.stacks import REPORT_EVERY, frame_of_thread, stack_of_frame

_END_LIMIT: Final = 0.1
"""Seconds for the thread to end: it takes none, unless it is just writing a log."""


async def watch_stalls(
    threshold: float, emit: Callable[[LoopStalled], None], emit_in_thread: Callable[[LoopStalled], None]
) -> None:
    """Watch the loop that this runs in, until cancelled; `emit_in_thread` is called from another thread."""
    watch = _Watch(threshold, emit, emit_in_thread)
    thread = threading.Thread(target=watch.look, name="actorwork stalls", daemon=True)
    thread.start()
    try:
        await trio.sleep_forever()
    finally:
        watch.end()
        thread.join(_END_LIMIT)


class _Watch:
    def __init__(
        self, threshold: float, emit: Callable[[LoopStalled], None], emit_in_thread: Callable[[LoopStalled], None]
    ) -> None:
        self._threshold = threshold
        self._emit = emit
        self._emit_in_thread = emit_in_thread
        self._token = trio.lowlevel.current_trio_token()
        self._watched = threading.get_ident()
        self._news = threading.Event()
        self._is_ending = False
        self._has_turned = True

    def end(self) -> None:
        self._is_ending = True
        self._news.set()

    def _turned(self) -> None:
        self._has_turned = True
        self._news.set()

    def look(self) -> None:
        """Look again and again; runs in the thread."""
        try:
            while not self._is_ending:
                self._news.wait(self._threshold)
                self._news.clear()
                frame = self._frame()
                if not self._is_ending and frame is not None and not waits_for_io(frame):
                    del frame  # It would keep alive what lies in it.
                    self._ask()
        except trio.RunFinishedError:
            pass  # Nothing is left to look at.

    def _ask(self) -> None:
        asked = time.monotonic()
        self._has_turned = False
        self._token.run_sync_soon(self._turned)
        if self._waited(self._threshold):
            return
        frame = self._frame()
        # The whole process may have stood still, and this thread with it.
        if frame is None or waits_for_io(frame):
            return
        stack = stack_of_frame(frame)
        del frame
        while not self._waited(REPORT_EVERY):
            frame = self._frame()
            if frame is not None:
                self._emit_in_thread(LoopStalled(time.monotonic() - asked, stack_of_frame(frame), lasts=True))
            del frame
        if not self._is_ending:
            self._token.run_sync_soon(self._emit, LoopStalled(time.monotonic() - asked, stack, lasts=False))

    def _waited(self, seconds: float) -> bool:
        """Wait so long for a sign of the loop, or for the end; return whether it came."""
        until = time.monotonic() + seconds
        while not (self._has_turned or self._is_ending):
            left = until - time.monotonic()
            if left <= 0:
                return False
            self._news.wait(left)
            self._news.clear()
        return True

    def _frame(self) -> FrameType | None:
        return frame_of_thread(self._watched)


def waits_for_io(frame: FrameType) -> bool:
    """Say whether a thread is where Trio waits for the operating system. Where that is called otherwise, nothing is
    lost but that an idle loop is asked, too.
    """
    return frame.f_code.co_name == "get_events" and frame.f_globals.get("__name__", "").startswith("trio.")
