"""The act with entities: numbers are appended to the states of keys, on nodes that are killed, frozen and restarted.

A client sends number after number to two hundred keys, some of them hot, for a number of seconds; faults end with the
last one, and what is open then is brought to its end without them. Then the state of each key must list its numbers,
each once and in the order in which they were sent, and its version must count its commits.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import ClassVar, Final

import attrs
import trio

from actorwork import Actor, Settings, open_system, receive
from actorwork.brokers import open_broker
from actorwork.codec import structure
from actorwork.message import Envelope

from . import entities
from .environment import LAST, ChaosError
from .nodes_act import NodesAct

BROKERS: Final = {"redis": "entities", "sqlite": "embedded entities", "cluster": "cluster entities"}
"""The act, by its broker."""
KEYS: Final = 200
HOT: Final = 5
"""How many keys get a third of the messages."""
PACE: Final = 400.0
"""How many messages are sent in a second, at most."""
AHEAD: Final = 300
"""The number of open messages at which the client waits."""


@attrs.frozen
class EntityResult:
    """The figures of an act with entities."""

    act: str
    seconds: float
    faults: Counter[str]
    processes: int
    keys: int
    numbers: int
    commits: int
    dead: int
    repeated: int
    again: int
    longest_pause: float
    rest: float

    def __str__(self) -> str:
        return (
            f"{self.act}: {self.numbers} numbers for {self.keys} keys in {self.seconds:.0f} s,"
            f" {self.faults.total()} faults, {self.processes} processes started; each state lists its own, once and in"
            f" order, in {self.commits} commits; {self.dead} dead letters, {self.again} handlers run in vain,"
            f" {self.repeated} sent again; longest pause {self.longest_pause:.1f} s,"
            f" the rest done in {self.rest:.1f} s"
        )


class EntityAct(NodesAct):
    """Entities over three nodes, for `seconds`, at a `broker` of `BROKERS`."""

    program: ClassVar = "tests.chaos.entities"

    def __init__(self, broker: str, seconds: float, seed: int, folder: Path, *, say: Callable[[str], None]) -> None:
        super().__init__(BROKERS[broker], seed, folder, say=say, is_embedded=broker == "sqlite")
        self.seconds = seconds
        self.sent: defaultdict[str, list[int]] = defaultdict(list[int])
        self.count = 0

    async def _bring_work(self) -> None:
        dice = random.Random(f"{self.dice_seed}/numbers")
        until = time.monotonic() + self.seconds
        async with open_broker(self.url) as broker:
            while time.monotonic() < until and not self.stuck:
                some: list[Envelope] = []
                for _ in range(dice.choice((1, 1, 1, 10))):
                    self.count += 1
                    key = f"key {dice.randrange(KEYS if dice.random() < 2 / 3 else HOT)}"
                    self.sent[key].append(self.count)
                    data = json.dumps({"number": self.count}).encode()
                    some.append(Envelope(entities.SOURCE, f"{0xE47:016x}-{self.count:x}", data, key=key))
                await self._until_taken(partial(broker.publish, some))
                await trio.sleep(dice.uniform(0, 2 * len(some) / PACE))
                while self.count - self.tally.ended > AHEAD and not self.stuck:  # noqa: ASYNC110 - no event says so
                    await trio.sleep(0.02)

    async def _bring_to_an_end(self) -> None:
        began = time.monotonic()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_filled)
            async with open_broker(self.url) as broker:

                async def delayed() -> object:
                    return await broker.delayed.list(entities.SOURCE, limit=1) or await self._on_the_way()

                await self._wait_drained(broker, entities.SOURCE, delayed)
            self.rest = time.monotonic() - began
            await self._wait_whole()
            nursery.cancel_scope.cancel()
        await self._end_processes()

    async def _settle_accounts(self, seconds: float) -> str:
        receipts: list[int] = []

        class Auditor(Actor):
            settings = Settings(title="auditor", sources={entities.RECEIPTS})

            @receive
            async def note(self, *, number: int) -> None:
                receipts.append(number)

        states: dict[str, tuple[int, entities.Listed]] = {}
        group = entities.Listing.settings.id
        async with open_broker(self.url) as broker:
            async with open_system(Auditor, broker=broker):

                async def is_empty() -> bool:
                    return await broker.backlog(entities.RECEIPTS) == 0

                await self._wait_true(is_empty, "all receipts", within=LAST)
            letters = await broker.dead_letters.list(limit=1_000_000)
            for found in await broker.entities.list(entities.SOURCE, group, limit=10 * KEYS):
                state = await broker.entities.get(entities.SOURCE, group, found.key)
                if state is not None:
                    states[found.key] = state.version, structure(json.loads(state.data), entities.Listed)
        self.tally.read_on()
        wrong = entities.audit(self.sent, states, receipts).complaints()
        dead = Counter(json.loads(one.payload)["number"] for one in letters if isinstance(one.payload, bytes))
        bad = Counter(number for own in self.sent.values() for number in own if entities.kind_of(number) == "bad")
        if dead != bad:
            wrong.append(f"dead letters too many: {[*(dead - bad).elements()]}; missing: {[*(bad - dead).elements()]}")
        back = [
            log.name for log in sorted(self.folder.glob("*.log")) if b"has gone back from version" in log.read_bytes()
        ]
        if back:
            wrong.append(f"nodes took states for lost that were not: {', '.join(back)}")
        if self.stuck:
            wrong.insert(0, self.stuck)
        if wrong:
            raise ChaosError(f"{self.name}: " + "; ".join(wrong))
        result = EntityResult(
            act=self.name,
            seconds=seconds,
            faults=self.counts,
            processes=self.started,
            keys=len(self.sent),
            numbers=self.count,
            commits=sum(version for version, _ in states.values()),
            dead=dead.total(),
            repeated=self.repeated,
            again=self.tally.ended - self.count,
            longest_pause=self.longest_pause,
            rest=self.rest,
        )
        return str(result)
