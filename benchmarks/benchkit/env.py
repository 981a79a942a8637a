"""What the runner passes to a peer's worker and client, through the environment.

This module and `recorder` are imported by every worker, so they import nothing heavy: it would count as cold start.
"""

import os

PORT = int(os.environ.get("BENCH_PORT", "6399"))
URL = f"redis://127.0.0.1:{PORT}/0"
PEER = os.environ.get("BENCH_PEER", "")
"""The variant to be, such as `streaq-trio`."""
CASE = os.environ.get("BENCH_CASE", "drain")
PROCS = int(os.environ.get("BENCH_PROCS", "1"))
CONC = int(os.environ.get("BENCH_CONC", "0"))
"""A concurrency for every case; 0 leaves the choice to the peer."""

IO_SLEEP = 0.050
CRASH_SLEEP = 0.005


def conc(*, default: int, **by_case: int) -> int:
    """Choose the concurrency for this case: what the command line says, else the peer's choice."""
    return CONC or by_case.get(CASE, default)
