"""What this process costs, from the standard library and the operating system."""

from __future__ import annotations

import os
import sys
import threading
import time

from actorwork.runtime.processes.recycling import memory_of


class Usage:
    """Measures the time on a core between two looks."""

    def __init__(self) -> None:
        self._cpu, self._at = self.cpu_seconds, time.monotonic()

    def __repr__(self) -> str:
        return f"<usage of process {os.getpid()}>"

    @property
    def cpu_seconds(self) -> float:
        """Seconds of all cores, in the process and in the system for it, since it started."""
        return time.process_time()

    @property
    def memory(self) -> int:
        """Bytes in memory; where the system has no such figure, the most there have been."""
        now = memory_of(os.getpid())
        if now is not None:
            return now
        import resource  # noqa: PLC0415 - only where there is no /proc

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024

    @property
    def threads(self) -> int:
        return threading.active_count()

    def share(self) -> float:
        """Return the share of one core that the process took since the last call."""
        cpu, now = self.cpu_seconds, time.monotonic()
        spent, passed = cpu - self._cpu, now - self._at
        self._cpu, self._at = cpu, now
        return spent / passed if passed > 0 else 0.0
