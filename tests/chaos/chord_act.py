"""The act with workflows: a number of chords, over nodes that are killed, frozen and restarted while they join them.

A client starts chord after chord, at a pace that leaves time for faults. These end with the last start, and what is
open then is brought to its end without them. Then each body must have run to one accepted end, with the values of its
own members in their places, and each run must be a success.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import ClassVar, Final

import attrs
import trio

from actorwork import Actor, MessageFailed, Settings, open_client, open_system, receive
from actorwork.brokers import open_broker
from actorwork.errors import AskTimeout

from . import chords
from .environment import LAST, ChaosError
from .nodes_act import NodesAct

BROKERS: Final = {"redis": "chords", "sqlite": "embedded chords", "cluster": "cluster chords"}
"""The act, by its broker."""
PACE: Final = 150.0
"""How many chords are started in a second, at most."""
AHEAD: Final = 250
"""The number of open chords at which the client waits: faults are to meet joins, not a queue."""


@attrs.frozen
class ChordResult:
    """The figures of an act with chords."""

    act: str
    seconds: float
    faults: Counter[str]
    processes: int
    chords: int
    audit: chords.Audit
    repeated: int
    """Starts that the broker refused for a moment, and that the client repeated."""
    again: int
    """Handlers that ran, but whose settlement was refused or never sent."""
    longest_pause: float
    rest: float
    """Seconds from the last fault until all runs had ended."""

    def __str__(self) -> str:
        return (
            f"{self.act}: {self.chords} chords of {chords.MEMBERS} in {self.seconds:.0f} s,"
            f" {self.faults.total()} faults, {self.processes} processes started;"
            f" each body accepted once with its own values, each run a success;"
            f" {self.again} handlers run in vain, {self.audit.again} bodies begun again,"
            f" {self.repeated} starts repeated;"
            f" longest pause {self.longest_pause:.1f} s, the rest done in {self.rest:.1f} s"
        )


class ChordAct(NodesAct):
    """Chords over three nodes, one of them with child processes, at a `broker` of `BROKERS`."""

    program: ClassVar = "tests.chaos.chords"

    def __init__(self, broker: str, count: int, seed: int, folder: Path, *, say: Callable[[str], None]) -> None:
        super().__init__(BROKERS[broker], seed, folder, say=say, is_embedded=broker == "sqlite")
        self.numbers = range(1, count + 1)
        self.ends: dict[int, int | str] = {}
        """The result of each run that was a success, and what there is to say about any other."""

    async def _bring_work(self) -> None:
        dice = random.Random(f"{self.dice_seed}/starts")
        async with open_client(self.url) as client:
            for number in self.numbers:
                await self._until_taken(partial(client.start, chords.flow_of(number), id=self.id_of(number)))
                await trio.sleep(dice.uniform(0, 2 / PACE))
                while number - len(self.tally.given) > AHEAD and not self.stuck:  # noqa: ASYNC110 - see above
                    await trio.sleep(0.02)
                if self.stuck:
                    self.numbers = range(1, number + 1)
                    break

    def id_of(self, number: int) -> str:
        return f"chord-{number}"

    # --------------------------------------------------------------------------------------------------------- the end

    async def _bring_to_an_end(self) -> None:
        """Let the nodes end what is open, and note how each run has ended; then stop the nodes."""
        began = time.monotonic()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_filled)
            await self._wait_for_runs()
            self.rest = time.monotonic() - began
            await self._wait_whole()
            if all(isinstance(end, int) for end in self.ends.values()):
                async with open_broker(self.url) as broker:

                    async def is_empty() -> bool:
                        return not any([await broker.backlog(one) for one in chords.SOURCES]) and not (
                            await self._on_the_way()
                        )

                    await self._wait_true(is_empty, "empty sources, once all runs have ended", within=LAST)
            nursery.cancel_scope.cancel()
        await self._end_processes()

    async def _wait_for_runs(self) -> None:
        """Wait for each run; give up when none has ended for `LAST` seconds, and note where the others stand."""
        async with open_client(self.url) as client:
            until = time.monotonic() + LAST
            for number in self.numbers:
                try:
                    self.ends[number] = await client.run(self.id_of(number)).result(
                        timeout=max(0.1, until - time.monotonic())
                    )
                    until = time.monotonic() + LAST
                except (MessageFailed, AskTimeout, LookupError) as error:
                    self.ends[number] = f"{type(error).__name__}: {error}"

    async def _settle_accounts(self, seconds: float) -> str:
        receipts: list[tuple[int, list[int]]] = []

        class Auditor(Actor):
            settings = Settings(title="auditor", sources={chords.RECEIPTS})

            @receive
            async def note(self, *, number: int, values: list[int]) -> None:
                receipts.append((number, values))

        async with open_broker(self.url) as broker:
            async with open_system(Auditor, broker=broker):

                async def is_empty() -> bool:
                    return await broker.backlog(chords.RECEIPTS) == 0

                await self._wait_true(is_empty, "all receipts", within=LAST)
            letters = await broker.dead_letters.list(limit=1_000_000)
        self.tally.read_on()
        found = chords.audit(self.numbers, given=self.tally.given, receipts=receipts, ends=self.ends)
        wrong = [self.stuck, *found.complaints()] if self.stuck else found.complaints()
        if letters:
            wrong.append(f"{len(letters)} messages are dead letters, one of them {letters[0].id}: {letters[0].failure}")
        if wrong:
            raise ChaosError(f"{self.name}: " + "; ".join(wrong))
        result = ChordResult(
            act=self.name,
            seconds=seconds,
            faults=self.counts,
            processes=self.started,
            chords=len(self.numbers),
            audit=found,
            repeated=self.repeated,
            again=self.tally.ended - len(self.numbers) * (chords.MEMBERS + 1),
            longest_pause=self.longest_pause,
            rest=self.rest,
        )
        return str(result)
