"""The thread that owns the connection to the store.

    Trio ──orders──▶ queue ──▶ [ turn: one transaction for all that wait, then for what can be read ] ──▶ Trio

One turn takes every order that waits (a group commit), and brings all its results back with one call: see
`actorwork.embedded.turns`. A message published in this process is therefore on its way to its reader before the
publisher knows that it was kept.

What other processes write is noticed by a poll that costs microseconds: every 2 ms right after something happened,
less often the longer nothing does, and not at all while this process neither reads nor waits for replies.

Only this thread touches the connection and the state of the turns.
"""

from __future__ import annotations

import contextlib
import math
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

import trio

from actorwork.abc import Meter
from actorwork.embedded.files import PATIENCE, OpenedFile
from actorwork.embedded.location import Location, connect, explained
from actorwork.embedded.orders import Answer, Writer
from actorwork.embedded.own_leases import OwnLeases
from actorwork.embedded.rows import SettleOrder
from actorwork.embedded.store import Store
from actorwork.embedded.turns import FIRST_PRUNE, QUICKEST_POLL, Notification, Order, Turns
from actorwork.errors import BrokerError, NotRunning

MOST_ROWS: Final = 2000
"""About how many rows a turn takes from the queue: leases are renewed between turns."""

_Queued: TypeAlias = "Order | SettleOrder | Callable[[Turns], object] | None"


class ThreadWriter(Writer):
    """Runs the turns in a thread of its own, by the clocks of the system."""

    def __init__(
        self,
        location: Location,
        token: trio.lowlevel.TrioToken,
        troubled: Callable[[str, str], None],
        prepare: Callable[[], None],
        meter: Meter | None = None,
    ) -> None:
        leases = OwnLeases(time.monotonic(), time.time())
        super().__init__(location, Turns(location, leases, troubled, prune_at=time.monotonic() + FIRST_PRUNE))
        self._token = token
        self._prepare = prepare
        self._meter = meter
        self._queue: queue.SimpleQueue[_Queued] = queue.SimpleQueue()
        self._put: Callable[[_Queued], object] = self._put_first
        self._thread = threading.Thread(target=self._live, name="actorwork-writer", daemon=True)
        self._broken: BrokerError | None = None

    def __repr__(self) -> str:
        state = "broken" if self._broken else "running" if self._thread.is_alive() else "ended"
        return f"<ThreadWriter {self.location} {state} {len(self.turns.cursors)} cursors>"

    def statistics(self) -> Mapping[str, int]:
        return {**self.turns.counts, "waiting": self._queue.qsize(), "leases": len(self.turns.leases)}

    # ---- called from the Trio thread ----

    def wall(self) -> float:
        return time.time()

    def now(self) -> float:
        return time.monotonic()

    def order(self, order: Order) -> None:
        if trio.lowlevel.current_trio_token() is not self._token:
            # The answer would be given in the run of this broker, where no task of another one can be woken.
            raise NotRunning(
                f"the broker at {self.location} was opened in another trio.run: open a client in each, or go back to"
                " that run from a thread, by trio.from_thread.run"
            )
        if self._broken is not None:
            order.failed(self._broken)
        else:
            self._put(order)

    def settle(self, order: SettleOrder) -> None:
        self._put(order)

    def tell(self, change: Callable[[Turns], object]) -> None:
        self._put(change)

    def _put_first(self, one: _Queued) -> None:
        """Start the thread, which opens the store; from now on it takes everything."""
        self._put = self._queue.put
        self._put(one)
        self._thread.start()

    async def start(self) -> None:
        """Open the store. Raises BrokerError."""
        answer = Answer()
        self.order(Order(_nothing, answer.done, answer.failed, writes=False))
        await answer.wait()

    async def stop(self) -> None:
        """Do all that was ordered, then close the store. A store that was not used is not opened for that."""
        is_open = self._put != self._put_first
        self._queue.put(None)
        if self._broken is None:
            self._broken = BrokerError(f"the broker at {self.location} is closed")
        if not is_open:
            return
        with trio.move_on_after(PATIENCE + 1, shield=True):
            await trio.to_thread.run_sync(self._thread.join, abandon_on_cancel=True)

    # ---- the thread ----

    def _live(self) -> None:
        try:
            self._prepare()
            connection = connect(self.location)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the caller of `start` waits for an answer
            self._break(explained(self.location, error if isinstance(error, Exception) else RuntimeError(repr(error))))
            return
        try:
            path = self.location.path
            self._work(Store(connection, None if path is None else OpenedFile(path)))
        except BaseException as error:  # noqa: BLE001 - as above: orders of a thread that is gone would wait for ever
            self._break(BrokerError(f"{self.location}: the writer ended: {type(error).__name__}: {error}"))
        finally:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _break(self, error: BrokerError) -> None:
        """Refuse all that waits, and everything that will be ordered."""
        self._broken = error
        notifications: list[Notification] = []
        with contextlib.suppress(queue.Empty):
            while True:
                order = self._queue.get_nowait()
                if isinstance(order, Order):
                    notifications.append(lambda order=order: order.failed(error))
        self._bring(notifications)

    def _work(self, store: Store) -> None:
        turns = self.turns
        stopping, give_up_at = False, math.inf
        while True:
            orders, stops = self._collect(0.0 if stopping else self._pause())
            now, wall = time.monotonic(), time.time()
            if stops:
                stopping, give_up_at = True, now + PATIENCE
            if not stopping or orders:
                self._bring(turns.look(store, now, wall))
            if self._meter is None:
                self._bring(turns.run(store, orders, now, wall, stopping=stopping))
            else:
                self._bring(self._measured_turn(self._meter, store, orders, now, wall, stopping=stopping))
            if stopping and self._queue.empty():
                # Settlements that failed are tried until the patience ends; then they are left to the next node.
                if not turns.has_unsettled or now > give_up_at or not store.is_there(now):
                    return
                time.sleep(QUICKEST_POLL)

    def _measured_turn(
        self,
        meter: Meter,
        store: Store,
        orders: Sequence[Order | SettleOrder],
        now: float,
        wall: float,
        *,
        stopping: bool,
    ) -> Sequence[Notification]:
        turns, began = self.turns, time.perf_counter()
        done, settled = turns.counts["turns"], turns.counts["settlements"]
        notifications = turns.run(store, orders, now, wall, stopping=stopping)
        seconds = time.perf_counter() - began
        if turns.counts["turns"] > done:
            meter.command("transaction", seconds)
        if turns.counts["settlements"] > settled:
            meter.settled_batch(turns.counts["settlements"] - settled, seconds)
        return notifications

    def _pause(self) -> float:
        """Return for how long nothing needs to be done, unless an order comes."""
        now = time.monotonic()
        return max(0.0, self.turns.next_at(now, time.time()) - now)

    def _collect(self, pause: float) -> tuple[list[Order | SettleOrder], bool]:
        """Wait for orders, and take those that are there; return whether one of them is to stop."""
        orders: list[Order | SettleOrder] = []
        rows, stops = 0, False
        try:
            if pause > 0:
                one = self._queue.get(timeout=None if pause == math.inf else pause)
            else:
                one = self._queue.get_nowait()
            while True:
                if one is None:
                    stops = True
                elif isinstance(one, Order):
                    orders.append(one)
                    rows += one.rows
                elif isinstance(one, SettleOrder):
                    orders.append(one)
                    rows += 1
                else:
                    one(self.turns)
                if rows >= MOST_ROWS:
                    break
                one = self._queue.get_nowait()
        except queue.Empty:
            pass
        return orders, stops

    def _bring(self, notifications: Sequence[Notification]) -> None:
        if notifications:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(_call_all, notifications)


def _call_all(notifications: Sequence[Notification]) -> None:
    for one in notifications:
        one()


def _nothing(_: object) -> None:
    pass
