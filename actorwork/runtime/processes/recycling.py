"""When a process is replaced by a fresh one: it has handled `max_messages`, or has grown beyond `max_memory`.

Messages are counted in the process itself, since nothing more may be begun there after the last one: `Quota` limits the
number of deliveries that its actors take. It reports to the parent when all are taken, so that the successor starts
while the last ones are handled, and when all are settled. Memory is looked at from outside, about once a second.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actorwork.actors.tree.spec import Process


class Quota:
    """The deliveries that the actors of a process may take. Implements `actors.life.services.Quota`."""

    def __init__(self, limit: int, report: Callable[..., None]) -> None:
        self.left = limit
        self._unsettled = limit
        self._report = report
        self._is_reported = False

    def __repr__(self) -> str:
        return f"<quota: {self.left} left to take, {self._unsettled} to settle>"

    def take(self, count: int) -> int:
        """Note that deliveries came, and return how many of them are too many: these are to be given back."""
        too_many = max(0, count - max(0, self.left))
        self.left -= count
        if self.left <= 0 and not self._is_reported:
            self._is_reported = True
            self._report(spent=False)
        return too_many

    def give_back(self, count: int) -> None:
        """Note that deliveries will not be handled here."""
        self.left += count

    def ended(self, count: int) -> None:
        """Note that deliveries were settled."""
        self._unsettled -= count
        if self._unsettled <= 0 < self._unsettled + count:
            self._report(spent=True)


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
