"""What processes use, read from /proc: CPU, memory, and who is whose child.

A process that ends while it is being read counts as nothing.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def tree(roots: Iterable[int]) -> list[int]:
    """List the processes and all their descendants."""
    found: dict[int, None] = {}
    todo = list(roots)
    while todo:
        pid = todo.pop()
        found[pid] = None
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                todo += [int(child) for child in (thread / "children").read_text().split()]
    return list(found)


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of live processes, and of the children they have waited for."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError, IndexError), Path(f"/proc/{pid}/stat").open() as file:
            fields = file.read().rsplit(")", 1)[1].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / TICK


def rss_mb(pids: Iterable[int]) -> float:
    """Resident memory, with shared pages counted in every process."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, IndexError), Path(f"/proc/{pid}/statm").open() as file:
            total += int(file.read().split()[1]) * PAGE
    return total / 1e6


def pss_mb(pids: Iterable[int]) -> float:
    """Resident memory, with each shared page divided among those who share it."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError), Path(f"/proc/{pid}/smaps_rollup").open() as file:
            total += sum(int(line.split()[1]) for line in file if line.startswith("Pss:"))
    return total / 1e3


def machine_cpu() -> tuple[float, float]:
    """Seconds that the machine was busy, and seconds that its host took away from it."""
    with Path("/proc/stat").open() as file:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + softirq) / TICK, steal / TICK


def wait_calm(patience: float) -> float:
    """Wait until the machine has been nearly idle for half a second; return how long that took.

    Gives up waiting after `patience` seconds.
    """
    begin = time.time()
    while (waited := time.time() - begin) < patience:
        busy, _ = machine_cpu()
        time.sleep(0.5)
        if machine_cpu()[0] - busy < 0.08:
            break
    return round(waited, 1)


class Sampler(threading.Thread):
    """Cumulative CPU of the worker tree and of Redis every 20 ms; memory every 100 ms."""

    def __init__(self, roots: list[int], redis_pid: int) -> None:
        super().__init__(daemon=True)
        self.roots, self.redis_pid = roots, redis_pid
        self.stopping = threading.Event()
        self.cpu: list[tuple[float, float, float]] = []
        self.rss_peak = 0.0
        self.pids: list[int] = []
        self.sample(look_around=True)

    def sample(self, *, look_around: bool) -> None:
        if look_around:
            self.pids = tree(self.roots)
            self.rss_peak = max(self.rss_peak, rss_mb(self.pids))
        self.cpu.append((time.time(), cpu_seconds(self.pids), cpu_seconds([self.redis_pid])))

    def run(self) -> None:
        rounds = 0
        while not self.stopping.wait(0.02):
            rounds += 1
            self.sample(look_around=rounds % 5 == 0)

    def finish(self) -> None:
        self.stopping.set()
        self.join()
        self.sample(look_around=True)

    def at(self, moment: float) -> tuple[float, float]:
        """Interpolate the CPU seconds of the workers and of Redis at a moment."""
        for (t0, worker0, redis0), (t1, worker1, redis1) in zip(self.cpu, self.cpu[1:], strict=False):
            if t0 <= moment <= t1:
                share = (moment - t0) / ((t1 - t0) or 1)
                return worker0 + share * (worker1 - worker0), redis0 + share * (redis1 - redis0)
        nearest = self.cpu[0] if moment < self.cpu[0][0] else self.cpu[-1]
        return nearest[1], nearest[2]
