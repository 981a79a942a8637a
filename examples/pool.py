"""What a pool of workers has to be good at: priorities, retries, outages, and as many workers as the work needs.

Four parts, one after the other:

1. **Priorities.** Urgent messages overtake a hundred others that wait already, and none of those starves.
2. **Backoffs.** Four actors fail three times each; what they wait in between is `Fixed`, `Linear`, `Exponential` and
   `Uniform`.
3. **Circuit breaker.** A payment service is away for a second. The circuit opens, the messages wait without losing an
   attempt, and none of them becomes a dead letter.
4. **Autoscaling.** A backlog makes one process become three.

    python examples/pool.py                                     all of them, on the embedded broker
    python examples/pool.py --only backoffs --only priorities   some of them
    python examples/pool.py --broker redis://localhost:6379/0
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import trio

from actorwork import (
    Actor,
    CircuitBreaker,
    Exponential,
    Fixed,
    Linear,
    Priority,
    Process,
    RetryPolicy,
    Scale,
    Settings,
    Uniform,
    actor,
    current_context,
    events,
    open_client,
    open_system,
    receive,
)

logging.getLogger("actorwork").setLevel(logging.ERROR)  # Retries are no news here.


# ---------------------------------------------------------------------------------------------------------- priorities


class Desk(Actor):
    """Handles one message after the other, and notes in which order."""

    settings = Settings(title="pool desk", sources={"pool:letters"})
    opened: list[str] = []  # noqa: RUF012 - one list for the program, which prints it
    wanted = 0
    done = trio.Event()

    @receive
    async def open(self, *, kind: str) -> None:
        await trio.sleep(0.001)
        self.opened.append(kind)
        if len(self.opened) == self.wanted:
            self.done.set()


async def priorities(broker: str) -> None:
    """Send a hundred unimportant letters first, and the urgent ones last."""
    print("Priorities: 100 low letters are sent first, then 20 normal, 10 high and 5 critical ones")
    Desk.wanted = 135
    async with open_client(broker) as client:
        for count, level in (
            (100, Priority.LOW),
            (20, Priority.NORMAL),
            (10, Priority.HIGH),
            (5, Priority.CRITICAL),
        ):
            for _ in range(count):
                await client.publish("pool:letters", {"kind": level.name}, priority=level)
        async with open_system(Desk, broker=broker):
            await Desk.done.wait()
    print("  in which order they were handled, C for critical, H for high, N for normal, l for low:")
    initials = "".join(kind[0].lower() if kind == "LOW" else kind[0] for kind in Desk.opened)
    for start in range(0, len(initials), 100):
        print(f"    {initials[start : start + 100]}")
    print("  after eight of one level, one of a lower level has its turn: nothing starves\n", flush=True)


# ------------------------------------------------------------------------------------------------------------ backoffs

ATTEMPTS = 4
BACKOFFS = {
    "fixed": Fixed(seconds=0.2),
    "linear": Linear(step=0.1),
    "exponential": Exponential(base=0.1, factor=2, jitter=0.2),
    "uniform": Uniform(low=0.05, high=0.4),
}
tried: defaultdict[str, list[float]] = defaultdict(list)


def unlucky(name: str) -> Any:
    """Make an actor that succeeds at its last attempt."""

    @actor(title=f"pool {name}", retry=RetryPolicy(attempts=ATTEMPTS, backoff=BACKOFFS[name]))
    async def attempt(name: str) -> str:
        tried[name].append(trio.current_time())
        if current_context().delivery.attempt < ATTEMPTS:
            raise ConnectionError("not yet")
        return name

    return attempt


async def backoffs(broker: str) -> None:
    """Let one actor for each backoff fail three times, all at the same time."""
    print("Backoffs: four actors fail three times, and wait in between")
    actors = [unlucky(name) for name in BACKOFFS]
    async with open_system(actors, broker=broker) as system, open_client(system.broker) as client:
        receipts = [await client.submit(one, name) for one, name in zip(actors, BACKOFFS, strict=True)]
        for receipt in receipts:
            await receipt.result(timeout=30)
    for name in BACKOFFS:
        waits = [later - earlier for earlier, later in pairwise(tried[name])]
        bars = "  ".join(f"{wait:.2f} s {'▒' * round(wait * 20):<12}" for wait in waits)
        print(f"  {name:<12} {bars}")
    print(flush=True)


# ------------------------------------------------------------------------------------------------------------- circuit


class Till(Actor):
    """Charges by a service that is away for a while."""

    settings = Settings(
        title="pool till",
        concurrency=4,
        retry=RetryPolicy(attempts=5, backoff=Fixed(seconds=0.05)),
        limits=[CircuitBreaker("payments", failures=4, within=10, reset=0.3, on=(ConnectionError,))],
    )
    outage_until = 0.0
    refused = 0

    @receive
    async def charge(self, *, order: int) -> int:
        if trio.current_time() < Till.outage_until:
            Till.refused += 1
            raise ConnectionError("the payment service does not answer")
        await trio.sleep(0.002)
        return order


async def circuit(broker: str) -> None:
    """Send two hundred messages into an outage."""
    print("Circuit breaker: 200 orders, while the payment service is away for a second")
    began = trio.current_time()

    def note(event: events.Event) -> None:
        if isinstance(event, events.CircuitChanged):
            print(f"  {trio.current_time() - began:5.2f} s  the circuit is {event.state}", flush=True)

    async with open_system(Till, broker=broker, emit=note) as system, open_client(system.broker) as client:
        Till.outage_until = trio.current_time() + 1
        receipts = [await client.ref(Till).submit({"order": number}) for number in range(200)]
        charged = [await receipt.result(timeout=60) for receipt in receipts]
        dead = await client.broker.dead_letters.sources()
    assert charged == list(range(200))
    print(
        f"  {trio.current_time() - began:5.2f} s  all {len(charged)} orders are charged; the service was bothered"
        f" {Till.refused} times in vain; {len(dead)} dead letters\n",
        flush=True,
    )


# --------------------------------------------------------------------------------------------------------- autoscaling


class Cruncher(Actor):
    settings = Settings(title="pool cruncher", sources={"pool:numbers"})

    @receive
    async def crunch(self, *, number: int) -> int:
        await trio.sleep(0.1)
        return os.getpid()


async def autoscaling(broker: str) -> None:
    """Send more than one process can do in time, and wait for the help."""
    print("Autoscaling: 80 messages of 0.1 s each, at most 15 for each of up to three processes")
    began = trio.current_time()

    def note(event: events.Event) -> None:
        match event:
            case events.ProcessStarted(process, pid):
                print(f"  {trio.current_time() - began:5.2f} s  {process} runs as process {pid}", flush=True)
            case events.Scaled(_, before, after, why):
                print(f"  {trio.current_time() - began:5.2f} s  from {before} to {after}: {why}", flush=True)
            case _:
                pass

    scale = Scale(min=1, max=3, target_backlog=15, target_wait=None, cooldown=5)
    tree = Process([Cruncher], name="crunchers", replicas=scale)
    async with open_system(tree, broker=broker, emit=note) as system, open_client(system.broker) as client:
        receipts = [await client.ref(Cruncher).submit({"number": number}) for number in range(80)]
        pids: Counter[object] = Counter()
        for receipt in receipts:
            pids[await receipt.result(timeout=60)] += 1
    shares = ", ".join(f"process {pid}: {count}" for pid, count in pids.most_common())
    print(f"  {trio.current_time() - began:5.2f} s  done ({shares})\n", flush=True)


PARTS = {"priorities": priorities, "backoffs": backoffs, "circuit": circuit, "autoscaling": autoscaling}


async def main(broker: str, parts: Sequence[str]) -> None:
    for part in parts:
        await PARTS[part](broker)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--broker", help="such as redis://localhost:6379/0; default: the embedded broker")
    options.add_argument("--only", action="append", choices=PARTS, help="a part to run; default: all")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        trio.run(main, given.broker or f"sqlite:///{directory}/pool.sqlite3", given.only or list(PARTS))
