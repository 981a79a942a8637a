"""When a process is replaced by a fresh one: it has handled `max_messages`, or has grown beyond `max_memory`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actorwork.actors.tree.spec import Process


def reason_to_replace(spec: Process, settled: int, memory: int | None) -> str:
    """Return why a process is to be replaced, given the messages it has settled and the bytes it has in memory.

    An empty str: it is not.
    """
    if spec.max_messages is not None and settled >= spec.max_messages:
        return f"it has handled {settled} messages; the limit of a process is {spec.max_messages}"
    if spec.max_memory is not None and memory is not None and memory > spec.max_memory:
        return f"it has {memory / 1e6:.0f} MB of memory; the limit of a process is {spec.max_memory / 1e6:.0f} MB"
    return ""


def memory_of(pid: int) -> int | None:
    """Return how many bytes a process has in memory, shared ones included; None where the system has no such figure."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as facts:  # noqa: PTH123 - once a second, for every process
            return int(facts.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # It has just ended, or this system has no such file.
        return None
