"""A tree in processes of its own, with an actor whose process dies of some messages: `python poisoned.py TREE URL
LEDGER [lease=…]`, as `workers.py`.
"""

import ctypes
import os
import resource
import signal
import sys
from functools import cache
from pathlib import Path

import trio

from actorwork import Actor, Intensity, Process, Settings, Supervisor, receive, run
from actorwork.telemetry.configuring import configure
from actorwork.testing.ledger import Ledger
from tests.drills.workers import RECEIPTS

LEDGER = "DRILL_LEDGER"
MEMORY = 400 * 1024 * 1024
CHUNK = 16 * 1024 * 1024


@cache
def ledger() -> Ledger:
    """Open the ledger once in each process: a child inherits nothing but its environment."""
    return Ledger(Path(os.environ[LEDGER]))


class Taster(Actor):
    settings = Settings(title="taster", sources={"meals"}, concurrency=2, max_crashes=2)

    @receive
    async def taste(self, *, number: int, kind: str = "") -> int:
        ledger().note("begun", self.context.delivery.id, number=number)
        match kind:
            case "exits":
                os._exit(1)
            case "exits well":
                os._exit(0)
            case "is killed":  # as by the kernel when memory runs out
                os.kill(os.getpid(), signal.SIGKILL)
            case "breaks":
                ctypes.string_at(0)
            case "hoards":
                self._hoard()
            case _:
                await trio.sleep(0.002)
        self.context.publish(RECEIPTS, {"actor": "Taster", "number": number, "pid": os.getpid()})
        ledger().note("ended", self.context.delivery.id, number=number)
        return os.getpid()

    def _hoard(self) -> None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        before = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
        hoard: list[bytearray] = []
        try:
            while True:
                hoard.append(bytearray(CHUNK))
        finally:
            hoard.clear()
            resource.setrlimit(resource.RLIMIT_AS, before)


PATIENT = Intensity(restarts=100, period=1)

TREES = {
    "replicas": Supervisor([Process([Taster], name="tasters", replicas=2, intensity=PATIENT)]),
}


def main(tree: str, url: str, path: str, *options: str) -> None:
    os.environ[LEDGER] = path
    configure("DEBUG", "json")
    named = dict(option.split("=") for option in options)
    run(TREES[tree], broker=url, lease=float(named.get("lease", 10)), grace=float(named.get("grace", 25)))


if __name__ == "__main__":
    main(*sys.argv[1:])
