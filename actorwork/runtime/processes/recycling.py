"""When a process is replaced by a fresh one: it has handled so many messages, or it has grown too large."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actorwork.actors.tree.spec import Process


def reason_to_replace(spec: Process, settled: int, memory: int | None) -> str:
    """Return why a process is due that has settled so many messages and has so many bytes; nothing if it is not."""
    if spec.max_messages is not None and settled >= spec.max_messages:
        return f"it has handled {settled} messages, at most {spec.max_messages} are for one process"
    if spec.max_memory is not None and memory is not None and memory > spec.max_memory:
        return f"it has {memory / 1e6:.0f} MB of memory, at most {spec.max_memory / 1e6:.0f} MB are for one process"
    return ""


def memory_of(pid: int) -> int | None:
    """Return how many bytes a process has in memory, shared ones included; None where the system does not say."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as facts:  # noqa: PTH123 - once a second, for every process
            return int(facts.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # It has just ended, or this system has no such file.
        return None
