"""The work of the harness: a chain of three actors, and producers of three kinds.

    chain:in ──▶ first ──▶ chain:middle ──▶ second ──▶ chain:last ──▶ third ──▶ chain:receipts

    python -m tests.chaos.chain node URL LEDGER TREE            a node; TREE is one of `TREES`
    python -m tests.chaos.chain ROUTE URL LEDGER NUMBER SEED    a producer; ROUTE is one of `ROUTES`

What an actor sends on is published with its settlement. On their way some messages wait, fail, block their node, ask a
pool of local actors, or count under a lock with a fenced value; the first stage has a limit over all nodes.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

import redis
import trio

from actorwork import (
    Actor,
    AlreadyRegistered,
    ConcurrencyLimit,
    Intensity,
    LockLost,
    LockTimeout,
    Pool,
    Process,
    RateLimit,
    Retry,
    RetryPolicy,
    Settings,
    Spool,
    Supervisor,
    open_client,
    receive,
    run,
)
from actorwork.errors import ActorworkError, BrokerError, SpoolError
from actorwork.telemetry.configuring import configure

from .effects import Effects

IN: Final = "chain:in"
MIDDLE: Final = "chain:middle"
LAST: Final = "chain:last"
RECEIPTS: Final = "chain:receipts"
LEDGER: Final = "CHAOS_EFFECTS"
LEASE: Final = 1.5
GRACE: Final = 5.0
EACH: Final = 1_000_000
"""Numbers that belong to one producer."""
MEMBERS: Final = 3
AT_ONCE: Final = 6
AHEAD: Final = 1500
KINDS: Final = {"plain": 64, "slow": 4, "flaky": 6, "bad": 2, "blocking": 2, "locked": 12, "pooled": 10}
POISON_EXIT: Final = 17

# Whatever the broker refuses for a while is tried again for as long as that while lasts.
_PATIENT_RETRY: Final = RetryPolicy(attempts=10_000)


@cache
def effects() -> Effects:
    """Open the ledger once in each process: children of a `Process` inherit nothing but their environment."""
    return Effects(Path(os.environ[LEDGER]))


class Stage(Actor):
    """A link of the chain: notes what it does, and sends on with its settlement."""

    sends_to = ""

    async def handle(self, number: int, kind: str) -> None:
        stage, delivery = self.settings.title, self.context.delivery.id
        effects().note(stage, "begun", number, delivery, os.getpid())
        await self.work(number, kind)
        self.context.publish(self.sends_to, {"number": number, "kind": kind})
        effects().note(stage, "ended", number, delivery, os.getpid())

    async def work(self, number: int, kind: str) -> None:
        raise NotImplementedError


class First(Stage):
    settings = Settings(
        title="first",
        sources={IN},
        concurrency=4,
        execution_timeout=60,
        limits=[ConcurrencyLimit(AT_ONCE, scope="global", name="chain")],
    )
    sends_to = MIDDLE

    @receive
    async def take(self, *, number: int, kind: str) -> None:
        await self.handle(number, kind)

    async def work(self, number: int, kind: str) -> None:
        match kind:
            case "poison":
                os._exit(POISON_EXIT)
            case "bad":
                raise ValueError(f"{number} is bad")
            case "flaky" if self.context.delivery.attempt == 1:
                raise Retry(delay=0.2)
            case "slow":
                await trio.sleep(0.4)
            case "blocking":
                time.sleep(0.1)  # noqa: ASYNC251 - a handler that does what it should not
            case _:
                await trio.sleep(0.002)


class Squarer(Actor):
    """A member of a pool of local actors; each has a name of its own."""

    async def startup(self) -> None:
        for place in range(MEMBERS):
            try:
                self.context.register(f"squarer {place}")
            except AlreadyRegistered:
                continue
            return

    @receive
    async def square(self, number: int) -> int:
        await trio.lowlevel.checkpoint()
        return number * number


class Second(Stage):
    settings = Settings(title="second", sources={MIDDLE}, concurrency=4, execution_timeout=60, retry=_PATIENT_RETRY)
    sends_to = LAST

    @receive
    async def take(self, *, number: int, kind: str) -> None:
        await self.handle(number, kind)

    async def work(self, number: int, kind: str) -> None:
        match kind:
            case "locked":
                await self._count(number)
            case "pooled":
                await self._square(number)
            case _:
                await trio.sleep(0.001)

    async def _count(self, number: int) -> None:
        """Add one to a value under a lock, without the broker's addition: the lock alone keeps the counts apart."""
        value = self.context.shared("chain:count", int, default=0)
        try:
            async with self.context.lock("chain:count", ttl=2).acquire(timeout=5) as held:
                count = await value.get() + 1
                await value.set(count, fence=held)
                effects().note("second", "written", number, self.context.delivery.id, os.getpid(), count)
        except (LockLost, LockTimeout, BrokerError) as error:
            raise Retry(delay=0.3, reason=str(error)) from error

    async def _square(self, number: int) -> None:
        member = self.context.whereis(f"squarer {number % MEMBERS}")
        try:
            found = None if member is None else await member.ask(number, timeout=5)
        except (ActorworkError, TimeoutError) as error:
            raise Retry(delay=0.3, reason=str(error)) from error
        if found is None:
            raise Retry(delay=0.3, reason="no member of the pool")
        if found != number * number:
            raise ValueError(f"the square of {number} is not {found}")


class Third(Stage):
    settings = Settings(
        title="third", sources={LAST}, concurrency=4, limits=[RateLimit(500, scope="global", name="chain")]
    )
    sends_to = RECEIPTS

    @receive
    async def take(self, *, number: int, kind: str) -> None:
        await self.handle(number, kind)

    async def work(self, number: int, kind: str) -> None:
        await trio.lowlevel.checkpoint()


# The supervisors never give up here: their intensity is tested elsewhere.
_PATIENT = Intensity(restarts=1000, period=1)
_PARTS = [First, Second, Third, Pool(Squarer, MEMBERS)]
TREES: Final = {
    "single": Supervisor(_PARTS, intensity=_PATIENT),
    "processes": Supervisor(
        [Process(_PARTS, replicas=2, intensity=_PATIENT, hang_timeout=30, name="parts")], intensity=_PATIENT
    ),
}


# ------------------------------------------------------------------------------------------------------------ producers


def chosen(dice: random.Random, number: int) -> tuple[str, str | None]:
    """Draw the kind of a message, and its key: one in three has one of a few."""
    (kind,) = dice.choices(list(KINDS), list(KINDS.values()))
    key = f"{number // EACH}:{dice.randrange(4)}" if dice.random() < 0.33 else None
    # A dead letter would free its key in between: `bad` messages have none.
    return kind, None if kind == "bad" else key


def is_far_ahead() -> bool:
    """Whether the chain has much more to do than it has done: then producers wait, to leave something for later."""
    sent = effects().rows("select count(*) from sent")[0][0]
    return sent - effects().count("third", "ended") > AHEAD


def produce_with_redis_py(url: str, first: int, seed: str) -> None:
    """Write entries as a program without actorwork does. It never sends again: it does not know how."""
    dice = random.Random(seed)
    client_class: Any = redis.Redis
    connection: Any = None
    for number in range(first, first + EACH):
        kind, _ = chosen(dice, number)
        effects().sending(number, kind, "redis-py")
        try:
            connection = connection or client_class.from_url(url, socket_timeout=2, retry=None)
            connection.xadd(IN, {"data": json.dumps({"number": number, "kind": kind})})
            effects().accepted(number)
        except (redis.RedisError, OSError):
            connection = None
            time.sleep(0.1)
        time.sleep(dice.uniform(0.0, 0.04))
        while number % 20 == 0 and is_far_ahead():
            time.sleep(0.2)


def produce_by_command(url: str, first: int, seed: str) -> None:
    """Send each message by a command of its own, again under its id until the command says that it is kept."""
    dice = random.Random(seed)
    for number in range(first, first + EACH):
        kind, key = chosen(dice, number)
        command = [sys.executable, "-m", "actorwork", "send", IN, json.dumps({"number": number, "kind": kind})]
        command += ["--source", "--id", f"command-{number}", "--broker", url, "--timeout", "5s"]
        command += ["--key", key] if key else []
        effects().sending(number, kind, "command", key)
        while subprocess.run(command, capture_output=True, check=False).returncode:
            time.sleep(0.1)
        effects().accepted(number)


async def produce_by_client(url: str, first: int, seed: str) -> None:
    """Send by a client; every second producer has a spool, which the harness empties at the end."""
    dice = random.Random(seed)
    producer = first // EACH
    spool = Spool(path=spool_of(effects().path, producer), patience=0.3) if producer % 2 else None
    route = "client" if spool is None else "spool"
    async with open_client(url, spool=spool) as client:
        for number in range(first, first + EACH):
            kind, key = chosen(dice, number)
            effects().sending(number, kind, route, key)
            try:
                await client.publish(IN, {"number": number, "kind": kind}, key=key, id=f"client-{number}")
                effects().accepted(number)
            except (BrokerError, SpoolError):
                # It may have been stored; under its id it could be sent again, but this producer gives up.
                await trio.sleep(0.1)
            await trio.sleep(dice.uniform(0.0, 0.03))
            while number % 20 == 0 and is_far_ahead():  # noqa: ASYNC110 - another process does it, no event says so
                await trio.sleep(0.2)


def spool_of(ledger: Path, producer: int) -> Path:
    return ledger.with_name(f"spool-{producer}.sqlite3")


ROUTES: Final[dict[str, Callable[[str, int, str], object]]] = {
    "redis-py": produce_with_redis_py,
    "client": lambda url, first, seed: trio.run(produce_by_client, url, first, seed),
    "command": produce_by_command,
}


def main(role: str, url: str, path: str, *more: str) -> None:
    os.environ[LEDGER] = path
    configure("INFO", "json")
    if role == "node":
        run(TREES[more[0]], broker=url, lease=LEASE, grace=GRACE)
    else:
        ROUTES[role](url, int(more[0]) * EACH, more[1])


if __name__ == "__main__":
    # Imported under its own name, so that a child process imports the same module.
    from tests.chaos import chain

    chain.main(*sys.argv[1:])
