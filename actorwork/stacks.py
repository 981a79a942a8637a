"""Where code is: the stacks of tasks, of frames and of threads, as text, one frame a line, the innermost last.

Reports about what does not end (a handler, a child, a blocked loop) carry such a stack.
"""

from __future__ import annotations

import sys
import threading
import traceback
from types import FrameType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import trio

REPORT_EVERY: Final = 10.0
"""Seconds between two reports about the same handler, child or loop that does not end."""
DEEPEST: Final = 40
"""Frames of a stack that are reported, the innermost ones."""


def stack_of_task(task: trio.lowlevel.Task | None) -> str:
    """Return where a task waits; empty for one that has ended."""
    if task is None:
        return ""
    return "\n".join(
        f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_name}" for frame, line in task.iter_await_frames()
    )


def stack_of_thread(ident: int) -> str:
    """Return where a thread is; empty for one that has ended."""
    frame = frame_of_thread(ident)
    if frame is None:
        return ""
    lines = [f"{step.filename}:{step.lineno} in {step.name}" for step in traceback.extract_stack(frame)]
    return "\n".join(lines)


def stack_of_frame(frame: FrameType | None) -> str:
    """Return where a thread is within the task that runs there: Trio's own frames, below the task, are left out."""
    lines: list[str] = []
    while frame is not None and frame.f_globals.get("__name__") != "trio._core._run" and len(lines) < DEEPEST:
        lines.append(f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}")
        frame = frame.f_back
    return "\n".join(reversed(lines))


def all_stacks() -> str:
    """Return the stacks of all threads of this process but the one that asks, the main thread first."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    main, here = threading.main_thread().ident, threading.get_ident()
    found: list[str] = []
    for ident, frame in sorted(_frames().items(), key=lambda one: one[0] != main):
        if ident != here:
            stack = "".join(traceback.format_stack(frame)).rstrip()
            found.append(f"thread {names.get(ident, ident)}:\n{stack}")
    return "\n".join(found)


def frame_of_thread(ident: int) -> FrameType | None:
    """Return the innermost frame of a thread. Drop it soon: it keeps alive what its variables hold."""
    return _frames().get(ident)


def _frames() -> dict[int, FrameType]:
    return sys._current_frames()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - the only way to the frames of other threads
