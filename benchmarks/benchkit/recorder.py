"""How a job records that it ran: a byte and a float in a file that every process maps into memory.

No Redis, no system call, no thread. The runner makes one file (BENCH_REC) and every worker maps it shared, so that a
job costs about half a microsecond to record, the runner sees progress without touching the peer, and the marks survive
SIGKILL, since they are in the page cache.

Layout for N slots, N rounded up to a multiple of 8:

    started  N x uint8     how often job i began
    done     N x uint8     how often job i ended
    t_start  N x float64   time.time() when job i first began
    t_done   N x float64   time.time() when job i last ended
    t_ts     N x float64   when its sender sent it (by the same machine's clock)
"""

import mmap
import os
from pathlib import Path
from time import time


class Recorder:
    """The mapped file, as five arrays."""

    def __init__(self, path: str | Path, create: int | None = None) -> None:
        if create is not None:
            slots = (create + 7) // 8 * 8
            with Path(path).open("wb") as file:
                file.truncate(slots * 26)
        with Path(path).open("r+b") as file:
            self.map = mmap.mmap(file.fileno(), 0)
        n = len(self.map) // 26
        view = memoryview(self.map)
        self.started = view[0:n]
        self.done = view[n : 2 * n]
        self.t_start = view[2 * n : 10 * n].cast("d")
        self.t_done = view[10 * n : 18 * n].cast("d")
        self.t_ts = view[18 * n : 26 * n].cast("d")


_recorder: Recorder | None = None


def _open() -> Recorder:
    # Opened on first use, in the process that records: some peers fork after they have imported us.
    global _recorder  # noqa: PLW0603 - one file per process, and a call to it must cost nothing
    _recorder = Recorder(os.environ["BENCH_REC"])
    return _recorder


def hit(i: int, ts: float) -> None:
    """Record a job that begins and ends at once."""
    r = _recorder or _open()
    now = time()
    if not r.started[i]:
        r.t_start[i] = now
        r.t_ts[i] = ts
    r.started[i] += 1
    r.done[i] += 1
    r.t_done[i] = now


def begin(i: int, ts: float) -> None:
    """Record that a job begins."""
    r = _recorder or _open()
    if not r.started[i]:
        r.t_start[i] = time()
        r.t_ts[i] = ts
    r.started[i] += 1


def end(i: int) -> None:
    """Record that a job ended."""
    r = _recorder or _open()
    r.done[i] += 1
    r.t_done[i] = time()
