"""Reaps the orphans that PID 1 of a container inherits.

A process whose parent has ended becomes a child of PID 1; when it ends too, it stays in the table of processes until
PID 1 reads its exit code. To read the codes of all dead children at once would steal those that other code in this
program waits for. So a dead child is left alone for ten seconds, in which the code that started it can read its exit
code. (The processes of a tree are never reaped here, however late their codes are read.)
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import forkserver
from pathlib import Path
from typing import Final, NoReturn

import trio

EVERY: Final = 2.0
"""Seconds between two checks."""
PATIENCE: Final = 10.0
"""Seconds for which a dead child is left alone: the code that started it reads its exit code in that time, or never."""


async def reap_orphans(patience: float = PATIENCE, every: float = EVERY) -> NoReturn:
    """Read the exit codes of dead children that no other code has read, until cancelled."""
    since: dict[int, float] = {}
    while True:
        now = trio.current_time()
        dead = set(_dead_children()) - _ours()
        since = {pid: since.get(pid, now) for pid in dead}
        for pid in [pid for pid, seen in since.items() if now - seen >= patience]:
            _reap(pid)
        await trio.sleep(every)


def _reap(pid: int) -> None:
    with suppress(ChildProcessError):  # Other code was quicker.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)


def _ours() -> set[int]:
    """Return the pids of what multiprocessing has started here: the processes of a tree, and a forkserver."""
    server: int | None = getattr(getattr(forkserver, "_forkserver", None), "_forkserver_pid", None)
    started = {process.pid for process in multiprocessing.active_children()} | {server}
    return {pid for pid in started if pid is not None}


def _dead_children() -> Iterator[int]:
    """Yield the children of this process that have ended, and whose exit codes are still unread."""
    here = str(os.getpid())
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            # The name of the program is in parentheses, and may contain any character, these included.
            state, parent = (directory / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue  # It is gone by now.
        if state == "Z" and parent == here:
            yield int(directory.name)
