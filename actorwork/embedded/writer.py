"""The thread that owns the connection to the store.

    Trio ──orders──▶ queue ──▶ [ turn: one transaction for all that wait, then for what can be read ] ──▶ Trio

One turn takes every order that waits (a group commit), renews leases that are due, promotes what is due, reads
for every inlet with room, commits, and brings all results back with one call. A message published in this process
is therefore on its way to its reader before the publisher knows that it was kept.

What others write is noticed by `pragma data_version`, which costs microseconds: asked for every 2 ms right after
something happened, ever less often the longer nothing does, and not at all while nobody reads or waits.

Invariants:

- Only this thread touches the connection, the feeds' `ready` and `sent`, and the leases' numbers.
- What a turn changes in memory it changes after the commit, so that a failed turn can be run again. A turn that
  fails is run again order by order: one bad order does not take the others with it.
- Orders take effect in the order in which they were given, but for plain acks, which are gathered.
- A settlement is never given up: while the store fails it is tried again every second.
- Results arrive in the Trio thread in the order of their turns.
"""

from __future__ import annotations

import contextlib
import math
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import attrs
import trio

from actorwork.embedded.cursors import Batch, Cursor, Cursors
from actorwork.embedded.files import PATIENCE, is_busy
from actorwork.embedded.location import Location, connect, explained
from actorwork.embedded.own_leases import Lease, OwnLeases
from actorwork.embedded.rows import ReplyAddress, SettleOrder
from actorwork.embedded.store import Store
from actorwork.errors import BrokerError
from actorwork.failpoints import failpoint

MOST_ROWS: Final = 2000
"""How many rows a turn takes from the queue, about: leases are renewed between turns."""
QUICKEST_POLL: Final = 0.002
USUAL_POLL: Final = 0.05
IDLE_POLL: Final = 0.25
IDLE_AFTER: Final = 10.0
TRY_AGAIN: Final = 1.0
COMPLAIN_EVERY: Final = 5.0
PRUNE_EVERY: Final = 3600.0
_BEFORE_COMMIT: Final = failpoint("commit.before")
_AFTER_COMMIT: Final = failpoint("commit.after")

Notify: TypeAlias = Callable[[], None]
"""What is to be done in the Trio thread."""


@attrs.define(eq=False)
class Order:
    """Something to be done in a transaction; the answer goes to `done` or `failed`, in the Trio thread."""

    run: Callable[[Store], Any]
    done: Callable[[Any], None]
    failed: Callable[[BrokerError], None]
    rows: int = 1
    writes: bool = True


class Writer:
    """Use as `async with open_writer(location)`."""

    def __init__(
        self, location: Location, token: trio.lowlevel.TrioToken, troubled: Callable[[str, str], None]
    ) -> None:
        self.location = location
        self._troubled = troubled
        self.addresses: dict[str, Callable[[ReplyAddress], None]] = {}
        """Where replies are awaited in this process; changed by the Trio thread alone."""
        self._token = token
        self._queue: queue.SimpleQueue[Order | SettleOrder | Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._live, name="actorwork-writer", daemon=True)
        self._broken: BrokerError | None = None
        self._leases = OwnLeases()
        self.cursors = Cursors()
        """What this process reads; touched by this thread alone."""
        self._again: list[SettleOrder] = []
        self._again_at = math.inf
        self._seen_seq = -1
        self._data_version = -1
        self.watchers: list[Callable[[], object]] = []
        """Told, in the Trio thread, when another process has paused or resumed something; changed there alone."""
        self._pauses: object = None
        self._next_due = math.inf
        self._prune_at = time.monotonic() + 60
        self._complain_at = 0.0
        self._busy_at = time.monotonic()
        self._counts = {"turns": 0, "orders": 0, "settlements": 0, "polls": 0, "failures": 0, "largest_turn": 0}

    def __repr__(self) -> str:
        state = "broken" if self._broken else "running" if self._thread.is_alive() else "ended"
        return f"<Writer {self.location} {state} {len(self.cursors)} feeds>"

    def statistics(self) -> Mapping[str, int]:
        return {**self._counts, "waiting": self._queue.qsize(), "leases": len(self._leases)}

    # ------------------------------------------------------------------------------- called from the Trio thread

    async def ask(self, run: Callable[[Store], Any], *, rows: int = 1, writes: bool = True) -> Any:
        """Do something in a transaction and return what it returns. Cancelled: it may be done all the same."""
        await trio.lowlevel.checkpoint_if_cancelled()
        answer = _Answer()
        self.order(Order(run, answer.done, answer.failed, rows, writes))
        return await answer.wait()

    async def pass_through(self) -> None:
        """Wait until all that was brought or ordered before has happened."""
        await self.ask(_nothing, writes=False)

    def order(self, order: Order) -> None:
        if self._broken is not None:
            order.failed(self._broken)
        else:
            self._queue.put(order)

    def settle(self, closing: SettleOrder) -> None:
        self._queue.put(closing)

    def tell(self, change: Callable[[], None]) -> None:
        """Have something changed in the writer's thread that needs no transaction."""
        self._queue.put(change)

    async def start(self) -> None:
        """Open the store. Raises BrokerError."""
        answer = _Answer()
        self._queue.put(Order(_nothing, answer.done, answer.failed, writes=False))
        self._thread.start()
        await answer.wait()

    async def stop(self) -> None:
        """Do all that was ordered, then close the store."""
        self._queue.put(None)
        if self._broken is None:
            self._broken = BrokerError(f"the broker at {self.location} is closed")
        with trio.move_on_after(PATIENCE + 1, shield=True):
            await trio.to_thread.run_sync(self._thread.join, abandon_on_cancel=True)

    # --------------------------------------------------------- called in this thread, by orders after their commit

    def add(self, lease: Lease, cursors: Sequence[Cursor]) -> None:
        """Begin to renew a lease and to read for these feeds."""
        self._leases.add(lease)
        self.cursors.add(cursors)
        self._next_due = 0.0
        self._busy_at = time.monotonic()

    def remove_lease(self, lease: Lease) -> None:
        self._leases.remove(lease)

    # --------------------------------------------------------------------------------------------- the thread's life

    def _live(self) -> None:
        try:
            connection = connect(self.location)
        except BaseException as error:  # noqa: BLE001 - whatever it is, somebody waits to be told
            self._break(explained(self.location, error if isinstance(error, Exception) else RuntimeError(repr(error))))
            return
        try:
            self._work(connection, Store(connection))
        except BaseException as error:  # noqa: BLE001 - as above: nobody waits for a thread that is gone
            self._break(BrokerError(f"{self.location}: the writer ended: {type(error).__name__}: {error}"))
        finally:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _break(self, error: BrokerError) -> None:
        self._broken = error
        news: list[Notify] = []
        with contextlib.suppress(queue.Empty):
            while True:
                order = self._queue.get_nowait()
                if isinstance(order, Order):
                    news.append(lambda order=order: order.failed(error))
        self._bring(news)

    def _work(self, connection: sqlite3.Connection, store: Store) -> None:
        asks_version = connection.execute
        stopping, give_up_at = False, math.inf
        while True:
            orders, stops = self._collect(0.0 if stopping else self._pause())
            now = time.monotonic()
            if stops:
                stopping, give_up_at = True, now + PATIENCE
            if not stopping or orders:
                self._look(store, asks_version, now)
            self._turn(store, orders, now, stopping=stopping)
            if stopping and self._queue.empty():
                if not self._again or now > give_up_at:
                    return
                time.sleep(QUICKEST_POLL)

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
                    one()
                if rows >= MOST_ROWS:
                    break
                one = self._queue.get_nowait()
        except queue.Empty:
            pass
        return orders, stops

    def _pause(self) -> float:
        """Return how long nothing needs to be done, unless an order comes."""
        now = time.monotonic()
        if self.cursors.can_read:
            return 0.0
        until = min(self._again_at, self._leases.next_at)
        if self.cursors:
            until = min(until, now + self._next_due - time.time())
        if self.cursors or self.addresses:
            until = min(until, self._prune_at)
        if self._is_shared() and (self.cursors or self.addresses):
            idle = now - self._busy_at
            poll = IDLE_POLL if idle > IDLE_AFTER else min(USUAL_POLL, max(QUICKEST_POLL, idle / 10))
            until = min(until, now + poll)
        return max(0.0, until - now)

    def _is_shared(self) -> bool:
        """Whether other processes may write, too."""
        return self.location.path is not None

    # -------------------------------------------------------------------------------------------------- one turn

    def _look(self, store: Store, execute: Callable[[str], sqlite3.Cursor], now: float) -> None:
        """See whether other processes have written, and what of it is for us."""
        if not self._is_shared() or not (self.cursors or self.addresses):
            return
        self._counts["polls"] += 1
        try:
            version = execute("pragma data_version").fetchone()[0]
            if version != self._data_version:
                self._data_version = version
                last, sources = store.news_since(self._seen_seq)
                self._seen_seq = last
                free = store.groups_with_free() if self.cursors else set[int]()
                self._next_due = _or_never(store.held_back.first_due())
                store.transaction.touched.update(sources)
                self.cursors.wake_groups(free)
                if sources or free:
                    self._busy_at = now
                if self.watchers:
                    self._look_for_pauses(execute)
                if self.addresses and store.outcomes.has_replies(tuple(self.addresses)):
                    self._busy_at = now
                    self._turn(store, [Order(self._fetch_replies, _nothing, _nothing)], now)
        except sqlite3.Error:
            # Whoever orders something now will be told.
            self._data_version = -1
            self._counts["failures"] += 1
        self.cursors.wake_channels(store.transaction.touched)

    def _look_for_pauses(self, execute: Callable[[str], sqlite3.Cursor]) -> None:
        pauses = execute("select count(*), total(at) from pauses").fetchone()
        if pauses != self._pauses:
            self._pauses = pauses
            self._bring([_telling(self.watchers)])

    def _fetch_replies(self, store: Store) -> None:
        store.transaction.replies.extend(store.outcomes.fetch(tuple(self.addresses)))

    def _turn(self, store: Store, orders: Sequence[Order | SettleOrder], now: float, *, stopping: bool = False) -> None:
        if self._again and (now >= self._again_at or stopping):
            orders = [*self._again, *orders]
            self._again, self._again_at = [], math.inf
        if orders:
            self._busy_at = now
            self._counts["orders"] += len(orders)
            self._counts["largest_turn"] = max(self._counts["largest_turn"], len(orders))
        news: list[Notify] = []
        try:
            self._try_turn(store, orders, now, news)
        except Exception as error:  # noqa: BLE001 - every failure has somebody who waits for the answer
            store.rollback()
            news.clear()
            self._counts["failures"] += 1
            if len(orders) > 1:
                for order in orders:
                    self._turn(store, [order], now)
            elif orders:
                self._refuse(orders[0], error, now, news)
            else:
                self._bear(error, now)
        self._bring(news)
        for cursor in self.cursors.newly_crowded():
            self._bring([lambda cursor=cursor: cursor.crowded(cursor)])

    def _try_turn(self, store: Store, orders: Sequence[Order | SettleOrder], now: float, news: list[Notify]) -> None:
        wall = time.time()
        late = self._leases.late(now)
        expired = self._leases.expired(store, now, wall)
        promotes = bool(self.cursors) and self._next_due <= wall
        prunes = now >= self._prune_at
        reads = self.cursors.can_read
        if not (late or expired or promotes or prunes or reads):
            if not orders:
                return
            if not any(isinstance(order, SettleOrder) or order.writes for order in orders):
                store.transaction.now = wall
                news.extend(_bind(order.done, order.run(store)) for order in orders if isinstance(order, Order))
                return

        self._begin(store, wall)
        lost = self._leases.renew(store, late, wall)
        for node in expired:
            store.leases.end(node, unless_later_than=wall)
        settled = self._carry_out(store, orders, news)
        if promotes:
            store.held_back.promote()
        if prunes:
            store.prune()
        self.cursors.wake_channels(store.transaction.touched)
        if store.transaction.orphaned:
            store.transaction.orphaned = False
            self.cursors.wake_groups(store.groups_with_free())

        gone = {id(one.lease) for one in lost}
        offers: list[tuple[Cursor, list[Batch]]] = []
        if self.cursors:
            for lease in {id(cursor.lease): cursor.lease for cursor in self.cursors if cursor.can_read}.values():
                if id(lease) not in gone and not store.leases.has(lease.number):
                    lost.append(self._leases.replace(store, lease, wall, "somebody ended it"))
                    gone.add(id(lease))
            offers.extend(
                (cursor, cursor.read(store))
                for cursor in self.cursors
                if id(cursor.lease) not in gone and cursor.can_read
            )
        here = [letter for letter in store.transaction.replies if letter[0] in self.addresses]
        elsewhere = [letter for letter in store.transaction.replies if letter[0] not in self.addresses]
        if elsewhere:
            store.outcomes.post(elsewhere)
        next_due = store.transaction.next_due
        if promotes:
            self._next_due = _or_never(store.held_back.first_due())
        if _BEFORE_COMMIT is not None:
            _BEFORE_COMMIT()
        store.commit()
        if _AFTER_COMMIT is not None:
            _AFTER_COMMIT()

        # From here on it has happened: nothing below may fail.
        self._counts["turns"] += 1
        store.transaction.replies.clear()
        if next_due is not None:
            self._next_due = min(self._next_due, next_due)
        self._leases.renewed(late, now)
        if prunes:
            self._prune_at = now + PRUNE_EVERY
        news.extend(settled)
        for letter in here:
            expected = self.addresses.get(letter[0])
            if expected is not None:
                news.append(_bind(expected, letter))
        for cursor, taken in offers:
            cursor.has_read(taken)
            if any(batch.deliveries or batch.dead_lettered or batch.restored for _, batch, _ in taken):
                news.append(lambda cursor=cursor, taken=taken: cursor.offer(cursor, taken))
        for one in lost:
            news.append(one.succeed(now))
            self.cursors.wake_all_of(one.lease)
        # What was buried in reading has let others follow it.
        self.cursors.wake_channels(store.transaction.touched)

    def _begin(self, store: Store, wall: float) -> None:
        """Begin to write. SQLite's own waiting is in steps of up to 100 ms, which starves one of two busy processes."""
        deadline = time.monotonic() + PATIENCE
        pause = 0.0002
        while True:
            try:
                store.begin(wall)
                return
            except sqlite3.OperationalError as error:
                if not is_busy(error) or time.monotonic() > deadline:
                    raise
            time.sleep(pause)
            pause = min(pause * 1.5, 0.005)

    def _carry_out(self, store: Store, orders: Sequence[Order | SettleOrder], news: list[Notify]) -> list[Notify]:
        """Do what was ordered; put the answers into `news`, return those of the settlements."""
        plain: list[SettleOrder] = []
        counts: dict[Any, int] = {}
        refused: dict[Any, list[SettleOrder]] = {}
        for order in orders:
            if isinstance(order, Order):
                news.append(_bind(order.done, order.run(store)))
                continue
            counts[order.owner] = counts.get(order.owner, 0) + 1
            if order.plain:
                plain.append(order)
            elif not store.settle(order):
                refused.setdefault(order.owner, []).append(order)
        if plain:
            tokens = [closing.delivery.token for closing in plain]
            taken = store.settle_plain(tokens)
            if taken:
                for closing in plain:
                    if closing.delivery.token in taken:
                        refused.setdefault(closing.owner, []).append(closing)
        if self.cursors.has_suspects:
            # The one that was run alone may be settled by now.
            self.cursors.wake_groups({order.delivery.token.grp for order in orders if isinstance(order, SettleOrder)})
        self._counts["settlements"] += sum(counts.values())
        return [
            lambda owner=owner, count=count: owner.applied(count, refused.get(owner, ()))
            for owner, count in counts.items()
        ]

    # ------------------------------------------------------------------------------------------------ when it fails

    def _refuse(self, order: Order | SettleOrder, error: Exception, now: float, news: list[Notify]) -> None:
        reason = explained(self.location, error)
        if isinstance(order, Order):
            news.append(_bind(order.failed, reason))
            return
        self._again.append(order)
        self._again_at = now + TRY_AGAIN
        if len(self._again) == 1:
            news.append(lambda: self._troubled(f"settling {order.delivery.id}", str(reason)))

    def _bear(self, error: Exception, now: float) -> None:
        """Nobody ordered what failed (renewing, promoting, reading): it is done again, a little later."""
        self._leases.put_off(now, TRY_AGAIN)
        self._prune_at = max(self._prune_at, now + 60)
        if now >= self._complain_at:
            self._complain_at = now + COMPLAIN_EVERY
            text = str(explained(self.location, error))
            self._bring([lambda: self._troubled("reading, and renewing leases,", text)])
        time.sleep(USUAL_POLL)

    def _bring(self, news: Iterable[Notify]) -> None:
        waiting = list(news)
        if not waiting:
            return
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(_tell_all, waiting)


class _Answer:
    """What one task waits for."""

    __slots__ = ("_error", "_event", "_value")

    def __init__(self) -> None:
        self._event = trio.Event()
        self._value: Any = None
        self._error: BrokerError | None = None

    def done(self, value: Any) -> None:
        self._value = value
        self._event.set()

    def failed(self, error: BrokerError) -> None:
        self._error = error
        self._event.set()

    async def wait(self) -> Any:
        await self._event.wait()
        if self._error is not None:
            raise self._error
        return self._value


def _tell_all(news: Sequence[Notify]) -> None:
    for one in news:
        one()


def _bind(function: Callable[[Any], None], value: Any) -> Notify:
    return lambda: function(value)


def _telling(watchers: list[Callable[[], object]]) -> Notify:
    def tell() -> None:
        for changed in watchers:
            changed()

    return tell


def _nothing(_: object) -> None:
    pass


def _or_never(due: float | None) -> float:
    return math.inf if due is None else due
