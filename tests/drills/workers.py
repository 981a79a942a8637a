"""The actors of the drills, and the program that runs them: `python workers.py TREE URL LEDGER [lease=…] [grace=…]`.

`producer` instead of a tree sends `count=…` messages, `resharder` divides the source `work` into `shards=…`.

Handlers note what they do in the ledger, which outlives them. With its settlement each publishes a receipt, so there
are as many receipts as settlements that a broker accepted.
"""

import json
import os
import sys
import time
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path

import attrs
import trio
import trio.lowlevel

from actorwork import (
    Actor,
    Child,
    Entity,
    Fail,
    Interval,
    MailboxSettings,
    Message,
    Reject,
    Retry,
    RetryPolicy,
    Settings,
    Trigger,
    migrates,
    receive,
    run,
)
from actorwork.brokers import open_broker
from actorwork.message import RESULT_TTL, Envelope
from actorwork.policy.runs import rules
from actorwork.streams import keys
from actorwork.telemetry.configuring import configure
from actorwork.testing.ledger import Ledger
from actorwork.workflows import group, step

RECEIPTS = "receipts"
TICK = 0.2
"""Seconds between two ticks of the clock."""
ledger: Ledger
"""Opened by the program, or by a test that runs actors in its own process."""


class Noting(Actor):
    """Notes when a handler begins and ends, and publishes a receipt."""

    def begin(self, **facts: object) -> None:
        ledger.note("begun", self.context.delivery.id, **facts)

    def end(self, number: object, **facts: object) -> int:
        self.context.publish(RECEIPTS, {"actor": type(self).__name__, "number": number, "pid": os.getpid()})
        ledger.note("ended", self.context.delivery.id, number=number, **facts)
        return os.getpid()

    async def wait(self, seconds: float) -> None:
        try:
            await trio.sleep(seconds)
        except trio.Cancelled:
            ledger.note("cancelled", self.context.delivery.id)
            raise

    async def pass_gate(self, gate: str) -> None:
        while gate and not await trio.Path(gate).exists():
            await self.wait(0.01)


class Worker(Noting):
    """Waits for `seconds`, or until the file `gate` exists, with four messages at once."""

    settings = Settings(title="worker", sources={"work"}, concurrency=4)

    @receive
    async def work(self, *, number: int, seconds: float = 0.005, gate: str = "") -> int:
        self.begin(number=number)
        await self.wait(seconds)
        await self.pass_gate(gate)
        return self.end(number)


class Single(Noting):
    """Waits for `seconds`, or until the file `gate` exists, with one message at a time.

    How many messages it reads ahead depends on the speed of the machine, but never exceeds its mailbox.
    """

    settings = Settings(title="single", sources={"singles"}, mailbox=MailboxSettings(capacity=250))

    @receive
    async def work(self, *, number: int, seconds: float = 0.0, gate: str = "") -> int:
        self.begin(number=number)
        await self.wait(seconds)
        await self.pass_gate(gate)
        return self.end(number)


class Varied(Noting):
    """Ends its deliveries in each possible way, chosen by the number of the message."""

    settings = Settings(title="varied", sources={"varied"}, concurrency=2, retry=RetryPolicy(attempts=3))

    @receive
    async def work(self, *, number: int) -> int:
        self.begin(number=number)
        await trio.lowlevel.checkpoint()
        match number % 5:
            case 1 if self.context.delivery.attempt == 1:
                raise Retry(delay=0.05)
            case 2:
                raise Fail("as its number says")
            case 3:
                raise Reject("as its number says")
            case _:
                return self.end(number)


class Summing(Noting):
    """Handles messages of two sources together: each batch publishes one receipt, with all its numbers."""

    settings = Settings(title="summing", sources={"left", "right"})

    @receive(batch=8, within=0.3)
    async def sum(self, batch: list[dict[str, int]]) -> list[int]:
        numbers = [one["number"] for one in batch]
        self.context.publish(RECEIPTS, {"actor": "Summing", "number": numbers, "pid": os.getpid()})
        ledger.note("ended", self.context.deliveries[0].id, number=numbers)
        return numbers


class Blocker(Noting):
    """Blocks the event loop, as a handler must not: nothing else of its node runs meanwhile."""

    settings = Settings(title="blocker", sources={"blocks"})

    @receive
    async def block(self, *, number: int, seconds: float = 0.02) -> int:
        self.begin(number=number)
        time.sleep(seconds)  # noqa: ASYNC251 - that is the drill
        return self.end(number)


class Keeper(Noting):
    """Handles messages with keys: one in four succeeds at its second attempt only, and one in fifty never."""

    settings = Settings(title="keeper", sources={"kept"}, concurrency=8, retry=RetryPolicy(attempts=3))

    @receive
    async def keep(self, *, number: int) -> int:
        self.begin(number=number)
        await self.wait(0.002)
        if number % 50 == 0:
            raise Fail("as its number says")
        if number % 4 == 1 and self.context.delivery.attempt == 1:
            raise Retry(delay=0.02 * (number % 3))
        return self.end(number)


class First(Noting):
    settings = Settings(title="first", sources={"both"}, concurrency=4)

    @receive
    async def work(self, *, number: int) -> None:
        self.begin(number=number)
        self.end(number)


class Second(Noting):
    settings = Settings(title="second", sources={"both"}, concurrency=2)

    @receive
    async def work(self, *, number: int) -> None:
        self.begin(number=number)
        await trio.lowlevel.checkpoint()
        self.end(number)


@attrs.frozen
class Double(Message["Member", int]):
    number: int
    gate: str = ""
    wait: float = 0.0


@attrs.frozen
class Join(Message["Joiner", int]):
    name: str
    values: list[int]


class Member(Noting):
    """A member of a group: returns twice its number, after the file `gate` exists."""

    settings = Settings(title="member", concurrency=4)

    @receive
    async def double(self, message: Double) -> int:
        self.begin(number=message.number)
        await self.wait(message.wait)
        await self.pass_gate(message.gate)
        self.end(message.number)
        return 2 * message.number


class Joiner(Noting):
    """The body of a chord: returns the sum. Its receipt says what it was given."""

    settings = Settings(title="joiner", concurrency=4)

    @receive
    async def join(self, message: Join) -> int:
        self.begin(number=message.name)
        await trio.lowlevel.checkpoint()
        self.end([message.name, *message.values])
        return sum(message.values)


@attrs.frozen
class Spread(Message["Parent", int]):
    name: str
    numbers: list[int]


class Parent(Actor):
    """Continues with a chord, which is kept in pages of three steps before its message is settled."""

    settings = Settings(title="parent")

    @receive
    async def spread(self, message: Spread) -> int:
        keys.SENT_AT_ONCE = rules.AT_ONCE = 3  # type: ignore[misc]  # pyright: ignore[reportConstantRedefinition]
        members = group(step(Member, Double(number)) for number in message.numbers)
        return self.context.continue_with(step(Joiner, Join(message.name, members.results)))


class Clock(Noting):
    """Is fired by a trigger."""

    settings = Settings(
        title="clock", triggers=[Trigger(title="tick", schedule=Interval(seconds=TICK))], concurrency=10
    )

    @receive
    async def tick(self, *, time_point: datetime) -> None:
        ledger.note("ended", self.context.delivery.id, number=round(time_point.timestamp() * 1000))


class Orders(Noting):
    """Takes what a foreign producer writes."""

    settings = Settings(title="orders", sources={"orders"})

    @receive
    async def take(self, *, x: int, message: str) -> None:
        ledger.note("ended", self.context.delivery.id, x=x, message=message)


@attrs.frozen
class Invoice(Message["Clerk", None]):
    number: int
    customer: str


class Clerk(Noting):
    """Takes malformed messages, and misbehaves when asked to."""

    settings = Settings(title="clerk", sources={"desk"}, execution_timeout=5)

    @receive
    async def bill(self, message: Invoice) -> None:
        self.end(message.number)

    @receive
    async def do(self, *, number: int, how: str = "", text: str = "") -> int:
        match how:
            case "exit":
                raise SystemExit(7)
            case "exit in a nursery":
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._exit)
            case "swallow":
                with suppress(trio.Cancelled):
                    await trio.sleep_forever()
            case "swallow twice":
                for _ in range(2):
                    with suppress(trio.Cancelled):
                        await trio.sleep_forever()
            case "own":
                raise _OwnError
            case "fail":
                raise ValueError(text)
            case "echo":
                self.context.publish("echoes", {"text": text})
            case _:
                pass
        return self.end(number, length=len(text))

    async def _exit(self) -> None:
        raise SystemExit(7)


class _OwnError(BaseException):
    pass


class Listing(Entity[list[int]]):
    """Its state lists the numbers of the messages of its key, in the order in which they were accepted."""

    settings = Settings(title="listing", concurrency=4)

    @receive
    async def add(self, *, number: int) -> None:
        ledger.note("begun", self.context.delivery.id, number=number)
        self.state.append(number)
        self.context.publish(RECEIPTS, {"actor": "Listing", "number": number, "pid": os.getpid()})
        ledger.note("ended", self.context.delivery.id, number=number)


@attrs.define
class Older:
    """The state of a program before it is upgraded."""

    numbers: list[int] = attrs.field(factory=list[int])


@attrs.define
class Newer:
    """The same, with a field that has come since."""

    numbers: list[int] = attrs.field(factory=list[int])
    newer: int = 0


@attrs.define
class Migrated:
    """The same, of another shape."""

    last: int = -1
    earlier: list[int] = attrs.field(factory=list[int])


@migrates(Migrated, since=1)
def in_another_shape(old: dict[str, list[int]]) -> dict[str, int | list[int]]:
    *earlier, last = [-1, *old["numbers"]]
    return {"last": last, "earlier": earlier}


# With room for a part of the keys, so that nodes which run side by side share them.
AGING = Settings(title="aging", concurrency=2, mailbox=MailboxSettings(capacity=4))


class OlderAging(Entity[Older]):
    settings = AGING

    @receive
    async def add(self, *, number: int) -> None:
        self.state.numbers.append(number)
        ledger.note("ended", self.context.delivery.id, number=number)


class NewerAging(Entity[Newer]):
    settings = AGING

    @receive
    async def add(self, *, number: int) -> None:
        self.state.numbers.append(number)
        self.state.newer += 1
        ledger.note("ended", self.context.delivery.id, number=number)


class MigratedAging(Entity[Migrated]):
    settings = AGING

    @receive
    async def add(self, *, number: int) -> None:
        self.state.earlier.append(self.state.last)
        self.state.last = number
        ledger.note("ended", self.context.delivery.id, number=number)


class Broken(Actor):
    settings = Settings(title="broken", sources={"breakages"})

    def __init__(self, reason: str = "no constructor of mine ever worked") -> None:
        raise OSError(reason)

    @receive
    async def take(self, message: int) -> None: ...


class Crashing(Noting):
    """Crashes with every message."""

    settings = Settings(title="crashing", sources={"crashes"}, on_failure="restart")

    @receive
    async def crash(self, *, number: int) -> None:
        raise ValueError(f"crashed of {number}")


class Stubborn(Noting):
    """Cannot be cancelled."""

    settings = Settings(title="stubborn", sources={"stubborn"})

    @receive
    async def stay(self, *, number: int) -> None:
        self.begin(number=number)
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()


TREES = {
    "worker": [Worker],
    "single": [Single],
    "varied": [Varied],
    "summing": [Summing],
    "blocker": [Blocker],
    "both": [First, Second],
    "keeper": [Keeper],
    "first": [First],
    "second": [Second],
    "joins": [Member, Joiner],
    "spreading": [Parent, Member, Joiner],
    "clock": [Clock],
    "orders": [Orders],
    "clerk": [Clerk, Worker],
    "listing": [Listing],
    "older": [OlderAging],
    "newer": [NewerAging],
    "migrated": [MigratedAging],
    "broken": [Worker, Child(partial(Broken, "the shop is closed"))],
    "crashing": [Crashing, Worker],
    "stubborn": [Stubborn],
}


async def produce(url: str, count: int) -> None:
    """Send numbered messages one by one, with the same ids each time; note those that the broker has accepted."""
    async with open_broker(url) as broker:
        for number in range(count):
            data = json.dumps({"number": number}).encode()
            envelope = Envelope("work", f"00000000000000ff-{number:x}", data, None, {RESULT_TTL: 60})
            new = await broker.publish([envelope])
            ledger.note("sent", envelope.id, number=number, new=new)


async def reshard(url: str, shards: int) -> None:
    async with open_broker(url) as broker:
        await broker.shards.reshard("work", shards)


def main(tree: str, url: str, path: str, *options: str) -> None:
    global ledger  # noqa: PLW0603 - one program, one ledger
    ledger = Ledger(Path(path))
    configure("DEBUG", "json")
    named = dict(option.split("=") for option in options)
    if tree == "resharder":
        trio.run(reshard, url, int(named["shards"]))
        return
    if tree == "producer":
        trio.run(produce, url, int(named["count"]))
        return
    if "max_crashes" in named:
        for one in TREES[tree]:
            assert isinstance(one, type)
            one.settings = attrs.evolve(one.settings, max_crashes=int(named["max_crashes"]))
    run(TREES[tree], broker=url, lease=float(named.get("lease", 10)), grace=float(named.get("grace", 25)))


if __name__ == "__main__":
    main(*sys.argv[1:])
