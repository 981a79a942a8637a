"""The nodes and producers of a chaos run.

    python -m tests.chaos.workers TREE URL LEDGER        a node; TREE is one of `TREES`
    python -m tests.chaos.workers producer URL LEDGER NUMBER SEED

A message has a number and a kind. Handlers note what they do in the ledger; with its settlement each publishes a
receipt. A producer notes what it is about to send, and what the broker has accepted.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

import trio

from actorwork import Actor, Intensity, Process, Retry, RetryPolicy, Settings, Supervisor, receive, run
from actorwork.abc import Broker
from actorwork.brokers import open_broker
from actorwork.message import Envelope
from actorwork.telemetry.configuring import configure
from actorwork.testing.ledger import Ledger

SOURCE: Final = "chaos"
RECEIPTS: Final = "receipts"
LEDGER: Final = "CHAOS_LEDGER"
LEASE: Final = 1.0
GRACE: Final = 5.0
EACH: Final = 100_000
"""Numbers that belong to one producer."""
REPLICAS: Final = 2
KINDS: Final = {"plain": 85, "slow": 3, "flaky": 5, "bad": 2, "blocking": 2, "chain": 3}
POISON_EXIT: Final = 17


@cache
def ledger() -> Ledger:
    """Open the ledger once in each process: children of a `Process` inherit nothing but their environment."""
    return Ledger(Path(os.environ[LEDGER]))


def run_node(tree: Supervisor, url: str, path: str) -> None:
    """Be a node of an act, until it is told to end."""
    os.environ[LEDGER] = path
    configure("INFO", "json")
    run(tree, broker=url, lease=LEASE, grace=GRACE)


def some(items: Iterable[object], most: int = 5) -> str:
    """Return the first of some items in words, and how many more there are."""
    shown = [str(item) for item in items]
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")


class Hand(Actor):
    settings = Settings(
        title="hand", sources={SOURCE}, concurrency=4, retry=RetryPolicy(attempts=2), execution_timeout=60
    )

    @receive
    async def work(self, *, number: int, kind: str) -> None:
        ledger().note("begun", self.context.delivery.id, number=number)
        match kind:
            case "poison":
                os._exit(POISON_EXIT)
            case "bad":
                raise ValueError(f"{number} is bad")
            case "flaky" if self.context.delivery.attempt == 1:
                raise Retry(delay=0.2)
            case "slow":
                await trio.sleep(0.5)
            case "blocking":
                time.sleep(0.1)  # noqa: ASYNC251 - a handler that does what it should not
            case "chain":
                self.context.publish(SOURCE, {"number": number + EACH // 2, "kind": "plain"})
            case _:
                await trio.sleep(0.005)
        self.context.publish(RECEIPTS, {"number": number, "kind": kind})
        ledger().note("ended", self.context.delivery.id, number=number)


# The supervisors never give up here: their intensity is tested elsewhere.
_PATIENT: Final = Intensity(restarts=1000, period=1)

TREES = {
    "single": Supervisor([Hand], intensity=_PATIENT),
    "processes": Supervisor(
        [Process([Hand], replicas=REPLICAS, intensity=_PATIENT, hang_timeout=30)], intensity=_PATIENT
    ),
}


def envelope_of(number: int, kind: str) -> Envelope:
    producer, one = divmod(number, EACH)
    return Envelope(SOURCE, f"{producer:016x}-{one:x}", json.dumps({"number": number, "kind": kind}).encode())


async def send(broker: Broker, messages: dict[int, str]) -> None:
    for number, kind in messages.items():
        ledger().note("sending", number=number, kind=kind)
    await broker.publish([envelope_of(number, kind) for number, kind in messages.items()])
    for number, kind in messages.items():
        ledger().note("sent", number=number, kind=kind)


async def produce(url: str, first: int, seed: str) -> None:
    """Send one message after another until this process is killed."""
    dice = random.Random(seed)
    async with open_broker(url) as broker:
        for number in range(first, first + EACH // 2):
            (kind,) = dice.choices(list(KINDS), list(KINDS.values()))
            await send(broker, {number: kind})
            await trio.sleep(dice.uniform(0.0, 0.05))


def main(role: str, url: str, path: str, *more: str) -> None:
    os.environ[LEDGER] = path
    configure("DEBUG", "json")
    if role == "producer":
        number, seed = more
        trio.run(produce, url, int(number) * EACH, seed)
    else:
        run(TREES[role], broker=url, lease=LEASE, grace=GRACE)


if __name__ == "__main__":
    # Imported under its own name, so that a child process imports the same module.
    from tests.chaos import workers

    workers.main(*sys.argv[1:])
