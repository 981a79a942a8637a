"""Commands to Redis Cluster that block the thread: each at the primary that has its keys.

Each primary has a client of its own (`BlockingRedis`), with a short patience: while one cannot be reached, the layout
is asked for again, since another member may take its place. Together that lasts as long as the `patience` of this
client, and then the call raises. The layout is asked for by the call that needs it, in its own thread.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ClassVar, Final

import attrs

from actorwork.blocking.driver import Deadlines
from actorwork.blocking.redis import LOST, BlockingConnection, BlockingRedis
from actorwork.clients.driver import OutOfTime
from actorwork.errors import BrokerError
from actorwork.events import BrokerBack, BrokerLost
from actorwork.streams.transport.address import Address
from actorwork.streams.transport.cluster_layout import Cluster, Layout, Place
from actorwork.streams.transport.commands import MayHaveExecuted
from actorwork.streams.transport.redis_py import ConnectionError  # noqa: A004
from actorwork.streams.transport.routing import PAUSES, Routing, address_at, pause_before

_PATIENCE: Final = 0.5
"""Seconds for which one primary is waited for before the layout is asked for again."""


class _Closed(Exception):
    """The client of a primary was closed: the primary is one no more."""


class _Primary(BlockingRedis):
    """The client of one primary. Its own patience ends as a lost connection does, and not as the caller's."""

    def open(self, give_up_at: float) -> BlockingConnection:
        if self.is_closed:
            raise _Closed
        try:
            return super().open(give_up_at)
        except BrokerError as error:
            if not error.may_pass:
                raise
            raise ConnectionError(str(error)) from error


def open_cluster(
    address: Address, deadlines: Deadlines, patience: float, emit: Callable[[BrokerLost | BrokerBack], None]
) -> BlockingCluster:
    """Return a client that knows the layout. Raises `BrokerError`; waits at most `patience` seconds."""
    client = BlockingCluster(address, deadlines, patience, emit)
    client.open()
    return client


class BlockingCluster(Routing):
    """Implements `streams.transport.commands.Commands`. Safe to use from any number of threads."""

    GONE: ClassVar[tuple[type[Exception], ...]] = (_Closed,)

    def __init__(
        self,
        address: Address,
        deadlines: Deadlines,
        patience: float,
        emit: Callable[[BrokerLost | BrokerBack], None],
    ) -> None:
        assert address.cluster is not None  # noqa: S101 - it is the address of a cluster
        self.address = address
        self.deadlines = deadlines
        self._cluster: Cluster = address.cluster
        self._patience = patience
        self._emit = emit
        self._guarded = {}
        self._layout = None
        self._home = None
        self._primaries: dict[Place, _Primary] = {}
        self._carriers = self._primaries
        self._ended = 0
        """The connections of clients that were closed."""
        self._is_stale = True
        self._is_closed = False
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._here = threading.local()

    def __repr__(self) -> str:
        return f"<BlockingCluster of {self.address.url}, {len(self._primaries)} nodes>"

    @property
    def generation(self) -> int:
        return self._ended + sum(one.generation for one in self._primaries.values())

    # ---- commands ----

    async def _routed(self, command: Sequence[Any], keys: Sequence[Any], *, idempotent: bool) -> Any:
        self._here.until = time.monotonic() + self._patience
        return await super()._routed(command, keys, idempotent=idempotent)

    async def _all(self, jobs: Sequence[Callable[[], Coroutine[Any, Any, None]]]) -> None:
        for job in jobs:
            await job()

    async def _in_time(self, job: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        await job()  # The client of a primary has a short patience of its own.
        return True

    async def _is_tried_again(self, error: Exception, place: Place) -> bool:
        if isinstance(error, MayHaveExecuted):
            return False
        self._look_now()
        self._leave(place)
        await self._pause(len(PAUSES), str(error))
        return True

    async def _pause(self, times: int, lost: str = "its slots are being moved, or have no primary") -> None:
        self._sleep(times, lost)

    def _sleep(self, times: int, lost: str) -> None:
        seconds = pause_before(times)
        if time.monotonic() + seconds > self._until():
            raise ConnectionError(f"{self.address.url}: {lost}; gave up after {self._patience:g} s")
        left = self.deadlines.left()
        time.sleep(min(seconds, left))
        if seconds >= left:
            raise OutOfTime

    def _until(self) -> float:
        until: float | None = getattr(self._here, "until", None)
        return time.monotonic() + self._patience if until is None else until

    # ---- the layout ----

    async def _wait_layout(self) -> None:
        self._refresh()

    def open(self) -> None:
        """Learn the layout. Raises `BrokerError`; waits for the cluster at most `patience` seconds."""
        self._here.until = time.monotonic() + self._patience
        try:
            self._refresh()
        except ConnectionError as error:
            raise BrokerError(str(error), may_pass=True) from error

    def _refresh(self) -> None:
        """Ask for the layout, if it may be another one."""
        if self._is_closed:
            raise BrokerError(f"this client of {self.address.url} is closed")
        while self._is_stale or self._layout is None:
            self._is_stale = False
            try:
                layout = self._cluster.find(self._layout)
            except LOST as error:
                self._is_stale = True
                self._emit(BrokerLost(str(error), PAUSES[-1]))
                lost = str(error)
            else:
                with self._locked():
                    self._adopt(layout)
                return
            self._sleep(len(PAUSES), lost)

    def _adopt(self, layout: Layout) -> None:
        old, new = self._primaries, dict[Place, _Primary]()
        for place in layout.primaries:
            kept = old.get(place)
            if kept is None:
                address = address_at(self.address, place)
                kept = _Primary(address, self.deadlines, min(self._patience, _PATIENCE), self._tell)
            new[place] = kept
        self._primaries = self._carriers = new
        self._layout = layout
        if self._home not in new:
            self._home = self.choose(layout.primaries)
        for place, one in old.items():
            if place not in new:
                self._ended += one.generation
                one.close()

    def _tell(self, event: BrokerLost | BrokerBack) -> None:
        """Report what happens to the connections to one primary, with how many are away."""
        others = [one for one in self._primaries.values() if one.address.url != event.broker]
        away = sum(one.is_lost for one in others) + isinstance(event, BrokerLost)
        self._emit(attrs.evolve(event, away=away, servers=len(others) + 1))

    def _leave(self, place: Place) -> None:
        """Have another primary for what has no key, if this one had it."""
        if self._home == place:
            there = [other for other, one in self._primaries.items() if not one.is_lost]
            self._home = self.choose(there or [place])

    def _look_now(self) -> None:
        self._is_stale = True

    def _locked(self) -> threading.RLock:
        if self._pid != os.getpid():
            # A child process: its parent may have held the lock when it forked.
            self._pid, self._lock = os.getpid(), threading.RLock()
        return self._lock

    # ---- connections ----

    def open_subscribed(self, channel: str | bytes, *, near: str | None = None) -> BlockingConnection:
        """Open a connection that is subscribed to a channel, at one primary: what is published at any arrives there.

        At the one that has the slot of `near`, if it is there.
        """
        self._here.until = time.monotonic() + self._patience
        while True:
            self._refresh()
            assert self._home is not None  # noqa: S101 - there is a layout
            place = None if near is None else self._place_of((near,))
            home = self._home if place is None or place not in self._primaries else place
            try:
                return self._primaries[home].open_subscribed(channel)
            except (_Closed, *LOST) as error:
                near = None
                self._look_now()
                self._leave(home)
                lost = str(error)
            self._sleep(len(PAUSES), lost)

    def close(self) -> None:
        self._is_closed = True
        for one in self._primaries.values():
            one.close()
