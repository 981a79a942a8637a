"""How many replicas of a process the programs at one broker have together.

A program may run a replica beyond its `Scale.min` only while it holds a seat. Seats are slots of the broker's
`LimitStore`: it counts them in one step, so programs that decide at the same moment never take more than the decision
of either, and the seats of a program that dies are free after `SEAT_TTL` seconds. The replicas up to `Scale.min` have
seats, too, so that they count, but are never refused one.

Programs share a number evenly, in the order of their names: of nine replicas, three programs have three each. Where
programs were started one after another, the later ones take up their share as the others give theirs up.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from actorwork.policy.scaling import share_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from actorwork.abc import Broker

SEAT_TTL: Final = 20.0
"""Seconds after which the seats of a program that does not renew them are free."""
_ALWAYS: Final = 1_000_000
"""A limit that refuses no seat."""


class Seats:
    """The seats of one program's replicas of a process.

    Programs with a process of the same name and the same actors count together. The methods raise what the broker
    raises, and wait for as long as it does.
    """

    def __init__(self, broker: Callable[[], Broker], title: str, groups: Mapping[str, set[str]], least: int) -> None:
        read = json.dumps([[source, sorted(ids)] for source, ids in sorted(groups.items())])
        self._name = f"scale:{title}:{hashlib.sha256(read.encode()).hexdigest()[:16]}"
        self._broker = broker
        self._least = least
        self._program = uuid4().hex
        self.held = 0
        """How many this program has, the first ones by number."""

    def __repr__(self) -> str:
        return f"<{self.held} seats of {self._name!r}>"

    async def keep(self, replicas: int, most: int) -> int:
        """Renew the seats of replicas that run, and give up others; return how many replicas have one.

        Fewer than there are, if seats ran out while the broker could not be reached, and others have taken them.
        """
        for number in range(replicas):
            if not await self._take(number, most):
                await self._give_up(number)
                return number
            self.held = max(self.held, number + 1)
        await self._give_up(replicas)
        return replicas

    async def add(self, count: int, limit: int) -> int:
        """Take further seats, as long as all programs together have fewer than `limit`; return how many."""
        for added in range(count):
            if not await self._take(self.held, limit):
                return added
            self.held += 1
        return count

    async def total(self) -> int:
        """Return how many seats all programs have together."""
        return await self._broker().limit_store.count_slots(self._name)

    async def share(self, total: int) -> int:
        """Return how many of `total` replicas this program should have."""
        holders = await self._broker().limit_store.slot_holders(self._name)
        programs = sorted({self._program, *(holder.partition("/")[0] for holder in holders)})
        return share_of(total, programs.index(self._program), len(programs))

    async def release(self) -> None:
        """Give all seats up, at the end of the program."""
        await self._give_up(0)

    async def _take(self, number: int, limit: int) -> bool:
        holder, limit = f"{self._program}/{number}", _ALWAYS if number < self._least else limit
        return await self._broker().limit_store.acquire_slot(self._name, limit, holder, SEAT_TTL)

    async def _give_up(self, first: int) -> None:
        while self.held > first:
            await self._broker().limit_store.release_slot(self._name, f"{self._program}/{self.held - 1}")
            self.held -= 1
