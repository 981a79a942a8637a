"""Runs the turns of the embedded store on the Trio loop, by Trio's clock, each as soon as there is something to do."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import attrs
import trio

from actorwork.embedded.location import Location
from actorwork.embedded.orders import Answer, Writer
from actorwork.embedded.own_leases import Lease, OwnLeases
from actorwork.embedded.rows import SettleOrder
from actorwork.embedded.store import Store
from actorwork.embedded.turns import Order, Turns
from actorwork.testing.memory.store import MemoryStore

EPOCH: Final = 1_000_000_000.0
"""When the broker's clock begins, in seconds since the epoch: always the same, so that a test run twice sees the
same.
"""
CLOSE: Final = 1e-6
"""Seconds within which two times are the same: sums of floats of the size of `EPOCH` are exact to about 1e-7."""

DIGITS: Final = 6
"""To how many digits the deadlines of Trio's clock are rounded, so that they are those a test expects."""

_Queued: TypeAlias = "Order | SettleOrder | Callable[[Turns], object]"


class MemoryLeases(OwnLeases):
    """Leases that last until a test ends them: none is renewed by time, so no clock has to stop for them."""

    def __init__(self) -> None:
        super().__init__(0.0, 0.0)
        self.ends: dict[Lease, float] = {}
        """When leases that are not renewed run out, in Trio's time."""
        self.checked: set[Lease] = set()
        """Leases to be renewed in the next turn, which finds out whether they are lost."""

    @property
    def next_at(self) -> float:
        return -math.inf if self.checked else min(self.ends.values(), default=math.inf)

    def late(self, now: float) -> Sequence[Lease]:
        return [*self.checked]

    def renewed(self, late: Sequence[Lease], now: float) -> None:
        self.checked.difference_update(late)

    def expired(self, store: Store, now: float, wall: float) -> Sequence[int]:
        over = [lease for lease, end in self.ends.items() if end <= now + CLOSE]
        for lease in over:
            del self.ends[lease]
        return [lease.number for lease in over]


class InlineWriter(Writer):
    """Carries out each order at once, in the task that gives it.

    What is ordered while a turn runs (its notifications call nodes, which give orders) has a turn of its own right
    after it, before the first order returns.
    """

    def __init__(self, store: MemoryStore, epoch: float) -> None:
        self.leases = MemoryLeases()
        super().__init__(Location(None), Turns(Location(None), self.leases, _ignore, prune_at=math.inf))
        self.store = store
        self.epoch = epoch
        """What the wall clock shows when Trio's clock is at `_began`; a test may set it."""
        self.rooms: list[Callable[[], None]] = []
        """Called before each turn: nodes take over for how many deliveries their actors have room."""
        self._began: float | None = None
        self._queue: deque[_Queued] = deque()
        self._is_running = False
        self._next_at = math.inf
        self._changed: trio.Event | None = None

    def __repr__(self) -> str:
        return f"<InlineWriter {len(self._queue)} orders wait>"

    def statistics(self) -> Mapping[str, int]:
        return dict(self.turns.counts)

    def now(self) -> float:
        return trio.current_time()

    def wall(self) -> float:
        now = trio.current_time()
        if self._began is None:
            self._began = now
        wall = self.epoch + now - self._began
        due = self.turns.next_due
        # What is due at this moment is due, though the sums say that a tenth of a microsecond is missing.
        return due if 0 < due - wall <= CLOSE else wall

    def trio_time(self, wall: float) -> float:
        """Return the moment of the wall clock by Trio's clock."""
        return math.inf if wall == math.inf else round(trio.current_time() + (wall - self.wall()), DIGITS)

    async def ask(self, run: Callable[[Store], Any], *, rows: int = 1, writes: bool = True) -> Any:
        """Do something in a transaction and return its result. If cancelled, it is not done."""
        # First, not last: when the caller continues, no other task has run since, so a test sees what it has just sent
        # before any actor does.
        await trio.lowlevel.checkpoint()
        answer = Answer()
        self.order(Order(run, answer.done, answer.failed, rows, writes))
        return answer.result()

    def order(self, order: Order) -> None:
        self._queue.append(order)
        self.run()

    def settle(self, order: SettleOrder) -> None:
        # Never plain: a statement for many does not say how each of them ended.
        self._queue.append(attrs.evolve(order, plain=False))
        self.run()

    def tell(self, change: Callable[[Turns], object]) -> None:
        self._queue.append(change)
        self.run()

    def change(self, run: Callable[[MemoryStore], object]) -> None:
        """Do something in a transaction, now; raises what it raises."""
        self.order(Order(lambda _: run(self.store), _nothing, _raise))

    def run(self) -> None:
        """Run turns until there is nothing to do."""
        if self._is_running:
            return
        self._is_running = True
        try:
            while True:
                orders = self._take()
                # Asked now, not when there was room last: a local call may have taken it in the meantime.
                for make_room in self.rooms:
                    make_room()
                now, wall = trio.current_time(), self.wall()
                next_at = math.inf if orders else self.turns.next_at(now, wall)
                if not orders and next_at > now:
                    break
                for notify in self.turns.run(self.store, orders, now, wall):
                    notify()
        finally:
            self._is_running = False
        self._keep_up(round(next_at, DIGITS))

    def _take(self) -> list[Order | SettleOrder]:
        orders: list[Order | SettleOrder] = []
        while self._queue:
            one = self._queue.popleft()
            if isinstance(one, (Order, SettleOrder)):
                orders.append(one)
            else:
                one(self.turns)
        return orders

    def _keep_up(self, next_at: float) -> None:
        """Wake the tasks that keep time if something is due sooner or later than they wait for."""
        if next_at != self._next_at:
            self._next_at = next_at
            if self._changed is not None:
                self._changed.set()
                self._changed = None

    async def keep_time(self) -> None:
        """Run a turn whenever one is due; every open node does it, for all of them."""
        while True:
            if self._changed is None:
                self._changed = trio.Event()
            with trio.move_on_at(self._next_at):
                await self._changed.wait()
            if self._next_at <= trio.current_time():
                self.run()


def _ignore(_doing: str, _error: str) -> None:
    pass


def _nothing(_: object) -> None:
    pass


def _raise(error: Exception) -> None:
    raise error
