"""A fork of a process that runs a system must not run it a second time.

A handler may call `os.fork()` for a program of its own, which ends by `os._exit` or becomes another one by `exec`. A
child that instead returns into the loop would share the sockets and the lease of its parent: two nodes in one. It is
ended at the first step that it takes there. (A fork in a worker thread has no loop to return into.)
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Final

import trio

from actorwork.runtime.processes.exit_codes import EXIT_FAILED

_running: Final[list[object]] = []
"""The systems of this process."""
_registered: Final[list[bool]] = []
"""Whether the interpreter calls `_in_child`: that cannot be undone, so it is asked for once."""


@contextmanager
def forks_ended() -> Generator[None]:
    """End children that return into this loop, while the block runs."""
    if not _registered and hasattr(os, "register_at_fork"):
        _registered.append(True)
        os.register_at_fork(after_in_child=_in_child)
    system = object()
    _running.append(system)
    try:
        yield
    finally:
        _running.remove(system)


def _in_child() -> None:
    # Not ended here: it has not done anything wrong yet.
    if _running:
        with suppress(RuntimeError):  # It was forked in a thread: no loop is here.
            trio.lowlevel.add_instrument(_EndsReturned())


class _EndsReturned(trio.abc.Instrument):
    """Ends the process when the step of the task that has forked it is over."""

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        text = (
            f"actorwork: process {os.getpid()} was forked in the task {task.name!r} of process {os.getppid()}, and has"
            " returned into its event loop: it ends now, since it would act as a second node; end a fork by os._exit,"
            " or use a Process or a subprocess\n"
        )
        with suppress(OSError):
            os.write(2, text.encode())
        os._exit(EXIT_FAILED)
