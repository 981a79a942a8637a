"""Several processes: the gain and the cost of a second one, and how long a dead one is missing.

    python -m benchmarks.processes [--messages 4000] [--repeat 5] [--seconds 20]

    share        messages that need a millisecond of CPU each, on one process and on two, taking turns; the ratio
    missed       an idle process is killed with -9: until its replacement handles a message that was sent right after
    memory       PSS of the whole tree of processes: alone, with one node, with two
    idle         CPU of all that tree beside the same actor without a process, including heartbeats and statistics

On a private Redis, with `Process` and its defaults. Prints one JSON object.
"""

import argparse
import json
import os
import signal
import statistics
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from actorwork import Actor, Client, Message, Process, Settings, open_client, open_system, receive
from actorwork.testing.redis_server import open_redis_server
from benchmarks.benchkit import procfs


@attrs.frozen
class Burn(Message["Burner", int]):
    """Use the CPU for a number of loop turns."""

    turns: int


class Burner(Actor):
    """Uses the CPU, and replies with the pid of its process."""

    settings = Settings(title="burner")

    @receive
    async def burn(self, message: Burn) -> int:
        total = 0
        for number in range(message.turns):
            total += number
        return os.getpid()


def turns_of(seconds: float) -> int:
    """Return how many loop turns take about that long here."""
    turns, best = 200_000, float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        total = 0
        for number in range(turns):
            total += number
        best = min(best, time.perf_counter() - begin)
    return max(1, round(turns * seconds / best))


@asynccontextmanager
async def open_nodes(url: str, replicas: int) -> AsyncGenerator[Client]:
    """Open a client and the given number of processes; with none, the actor runs in this process."""
    tree = Process([Burner], name="burners", replicas=replicas) if replicas else Burner
    async with open_system(tree, broker=url), open_client(url) as client:
        yield client


async def share(url: str, replicas: int, messages: int, turns: int) -> float:
    """Return the messages handled per second."""
    async with open_nodes(url, replicas) as client:
        ref = client.ref(Burner)
        while len({await ref.ask(Burn(1)) for _ in range(20 * replicas)}) < replicas:
            pass
        begin = time.perf_counter()
        await ref.tell_many([Burn(turns)] * messages)
        while await client.broker.backlog(ref.source):  # noqa: ASYNC110 - the broker sends no notification when it is empty
            await trio.sleep(0.01)
        return messages / (time.perf_counter() - begin)


async def missed(url: str, repeat: int) -> list[float]:
    """Return seconds from the kill to the first reply of the replacement."""
    found: list[float] = []
    async with open_nodes(url, 1) as client:
        ref = client.ref(Burner)
        for _ in range(repeat):
            pid = await ref.ask(Burn(1))
            await trio.sleep(6)  # or the supervisor's intensity would end this
            begin = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            assert await ref.ask(Burn(1)) != pid
            found.append(time.perf_counter() - begin)
    return found


async def footprint(url: str, replicas: int, seconds: float) -> tuple[float, float]:
    """Return the PSS in MB, and the part of one core that everything together uses while there is nothing to do."""
    async with open_nodes(url, replicas):
        await trio.sleep(2)
        pids = procfs.tree([os.getpid()])
        before = procfs.cpu_seconds(pids)
        begin = time.perf_counter()
        await trio.sleep(seconds)
        used = (procfs.cpu_seconds(pids) - before) / (time.perf_counter() - begin)
        return procfs.pss_mb(pids), used


async def measure(messages: int, repeat: int, seconds: float) -> dict[str, Any]:
    turns = turns_of(0.001)
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(repeat):
        for replicas, found in rates.items():
            with open_redis_server() as server:
                found.append(await share(server.url, replicas, messages, turns))
    with open_redis_server() as server:
        gaps = await missed(server.url, repeat)
    memory: list[float] = []
    idle: list[float] = []
    for replicas in (0, 1, 2):
        with open_redis_server() as server:
            pss, used = await footprint(server.url, replicas, seconds)
        memory.append(pss)
        idle.append(used)
    return {
        "share": {
            "one_per_s": round(statistics.median(rates[1])),
            "two_per_s": round(statistics.median(rates[2])),
            "ratio": round(statistics.median(b / a for a, b in zip(rates[1], rates[2], strict=True)), 2),
        },
        "missed_s": {"median": round(statistics.median(gaps), 3), "longest": round(max(gaps), 3)},
        "memory_mb": {"alone": round(memory[0], 1), "one": round(memory[1], 1), "two": round(memory[2], 1)},
        "idle_percent_of_a_core": [round(100 * used, 2) for used in idle],
        "load": [round(load, 1) for load in os.getloadavg()],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--messages", type=int, default=4000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    print(json.dumps(trio.run(measure, options.messages, options.repeat, options.seconds), indent=2))


if __name__ == "__main__":
    main()
