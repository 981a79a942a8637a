"""Shared by all benchmarks of local actors: one process measures one case, and prints it as one JSON line.

    rate       {"library", "case", "n", "seconds", "cpu_s", "per_s", "cpu_us"}
    memory     {"library", "case", "n", "bytes_each"}: by which the resident set has grown, per actor

`seconds` and `per_s` are by wall clock. `cpu_s` is the CPU time of the process, and `cpu_us` the same per operation: on
a machine with other load it is the steadier of the two.
"""

import argparse
import gc
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

Figures: TypeAlias = dict[str, Any]
Cases: TypeAlias = Mapping[str, tuple[int, Callable[[int], Figures]]]
"""For each case how often it is done, and what does it."""

_PAGE = os.sysconf("SC_PAGE_SIZE")


class Stopwatch:
    """Runs from its creation to `rate`."""

    def __init__(self) -> None:
        self._cpu = time.process_time()
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began

    def rate(self, n: int, **more: Any) -> Figures:
        seconds, cpu = self.seconds, time.process_time() - self._cpu
        return {
            "n": n,
            "seconds": round(seconds, 6),
            "cpu_s": round(cpu, 6),
            "per_s": round(n / seconds, 1),
            "cpu_us": round(cpu / n * 1e6, 3),
            **more,
        }


def memory(n: int, before: int, **more: Any) -> Figures:
    """Print the memory of n actors created since `before`, an earlier result of `resident`."""
    return {"n": n, "bytes_each": round((resident() - before) / n, 1), **more}


def resident() -> int:
    """Return the bytes of this process that are in memory, with all garbage collected."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def main(library: str, cases: Cases) -> None:
    """Measure the case that the command line names."""
    parser = argparse.ArgumentParser(description=f"Measure one case of {library}.")
    parser.add_argument("case", choices=list(cases))
    parser.add_argument("--n", type=int, default=0, help="how often; by default as often as is worth it")
    args = parser.parse_args()
    n, measure = cases[args.case]
    print(json.dumps({"library": library, "case": args.case, **measure(args.n or n)}), flush=True)
