"""Up to 64 sources of one subscription: what a reader and a tender share.

A read over many sources costs the server a little for each (12 µs over one, 69 over a hundred), and a connection costs
the server memory: 64 is where both are small.

The custodies are exchanged as a whole when the node begins a new incarnation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import trio

from actorwork.abc import EventSink, Subscription
from actorwork.events import GroupRestored, Settled
from actorwork.message import Delivery
from actorwork.policy.settlement import Fail
from actorwork.streams.client import Client
from actorwork.streams.custody import Counters, Custody
from actorwork.streams.keys import SourceKeys
from actorwork.streams.redis_py import ResponseError
from actorwork.streams.settler import Settler

SOURCES: Final = 64


class Shard:
    """The custodies of some sources, and how their entries become deliveries in the inlet."""

    def __init__(
        self,
        subscription: Subscription,
        sources: Sequence[str],
        incarnation: str,
        *,
        client: Client,
        settler: Settler,
        emit: EventSink,
        counters: Counters,
    ) -> None:
        self.subscription = subscription
        self.group = subscription.group
        self.inlet = subscription.inlet
        self.sources = tuple(sources)
        self.counters = counters
        self.emit = emit
        self.incarnation = incarnation
        self.custodies: dict[bytes, Custody] = {}
        self.lock = trio.Lock()
        """Held while entries are claimed: what is on its way to us is not to be looked for."""
        self.must_recover = False
        """The pending list may hold entries of ours that we have never seen."""
        self.has_more = False
        """There was no room for all that could have been taken over."""
        self.attend: Callable[[float], None] = _nothing_to_attend
        self._keys = [SourceKeys.of(source) for source in sources]
        self._client = client
        self._settler = settler
        self._room = trio.Event()
        self.begin(incarnation)

    def __repr__(self) -> str:
        return f"<Shard of {len(self.sources)} sources for {self.subscription.actor}>"

    def begin(self, incarnation: str) -> None:
        """Start with nothing in hand, under a new name."""
        self.give_up()
        self.incarnation = incarnation
        self.has_more = self.must_recover = False
        self.custodies = {
            keys.stream.encode(): Custody(self.subscription, keys, incarnation, self._attend, self._unreadable)
            for keys in self._keys
        }

    def give_up(self) -> None:
        """Refuse whatever is still to be settled: the node ends."""
        for custody in self.custodies.values():
            self._settler.give_up(custody)

    def _attend(self, seconds: float) -> None:
        self.attend(seconds)

    def _unreadable(self, delivery: Delivery, fail: Fail) -> None:
        self.emit(Settled(self.group, self.subscription.actor, delivery, fail, 0.0))

    def resume(self) -> None:
        self._room.set()
        if self.has_more:
            self.attend(0)

    async def wait_room(self) -> None:
        """Wait until the inlet may have room."""
        if self.inlet.room() > 0:
            return
        self._room = trio.Event()
        await self._room.wait()

    def offer(self, custody: Custody, found: Sequence[Any], *, count: int = 1, crashes: int = 0) -> list[Delivery]:
        """Take entries in hand and put them into the inlet. There is no checkpoint in here, and must not be one."""
        deliveries = custody.take(found, count=count, crashes=crashes)
        self.counters.read += len(deliveries)
        if deliveries:
            self.inlet.offer(deliveries)
        if custody.plain or custody.others:
            self._settler.start(custody)
        return deliveries

    async def make_groups(self, *, are_restored: bool = True) -> None:
        """Make the groups that are missing, at the beginning of their streams.

        At the beginning and never at `$`: what was written before the first start is wanted too.
        """
        commands = [("XGROUP", "CREATE", source, self.group, "0", "MKSTREAM") for source in self.sources]
        for source, reply in zip(self.sources, await self._client.call_many(commands, idempotent=True), strict=True):
            if isinstance(reply, ResponseError) and "BUSYGROUP" in str(reply):
                continue
            if isinstance(reply, Exception):
                raise reply
            if are_restored:
                self.emit(GroupRestored(source, self.group))


def _nothing_to_attend(_seconds: float) -> None:
    pass
