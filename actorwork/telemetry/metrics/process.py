"""What the process costs, from the standard library and /proc: read with the metrics, and never else.

The names are those that Prometheus' own clients give these, so dashboards that are there already show them.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from actorwork.telemetry.metrics.family import Family

_GC: Final = {
    "cpython_gc_collections_total": "collections",
    "cpython_gc_collected_objects_total": "collected",
    "cpython_gc_uncollectable_objects_total": "uncollectable",
}
_FILES: Final = ("/proc/self/fd", "/dev/fd")


class ProcessCosts:
    """Brings the metrics of the process up to date."""

    def __init__(self, family: Callable[[str], Family]) -> None:
        self._family = family
        began = _began()
        self._began = time.time() if began is None else began

    def __repr__(self) -> str:
        return f"<costs of process {os.getpid()}>"

    def collect(self) -> None:
        """Read everything, in about a tenth of a millisecond; what this system does not tell is left out."""
        costs = {
            "process_resident_memory_bytes": _memory(),
            "process_open_fds": _open_files(),
            "process_max_fds": _most_files(),
            "process_threads": threading.active_count(),
            "process_start_time_seconds": self._began,
        }
        for name, value in costs.items():
            if value is not None:
                self._family(name).set((), value)
        self._family("process_cpu_seconds_total").replace({(): time.process_time()})
        for name, key in _GC.items():
            self._family(name).replace({(str(number),): one[key] for number, one in enumerate(gc.get_stats())})


def _memory() -> int | None:
    """Return the bytes in memory; where the system has no such figure, the most there have been."""
    try:
        with open("/proc/self/statm", encoding="ascii") as facts:  # noqa: PTH123 - a third of what a Path costs
            return int(facts.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        pass
    try:
        import resource  # noqa: PLC0415 - not on every system
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _open_files() -> int | None:
    for directory in _FILES:
        try:
            return len(os.listdir(directory)) - 1  # noqa: PTH208 - as above; one is that of the listing itself
        except OSError:
            continue
    return None


def _most_files() -> float | None:
    try:
        import resource  # noqa: PLC0415 - as above
    except ImportError:
        return None
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return float("inf") if most == resource.RLIM_INFINITY else most


def _began() -> float | None:
    """Return when the process began, in seconds since the epoch."""
    try:
        # The name of the program, in parentheses, may have spaces.
        ticks = int(
            Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[19]
        )
        booted = next(
            int(line.split()[1])
            for line in Path("/proc/stat").read_text(encoding="ascii").splitlines()
            if line.startswith("btime ")
        )
        return booted + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, StopIteration):
        return None
