"""What one turn does: one transaction for all orders that wait, and for all that can be read now.

    look    has another process written? then wake what may read it, and fetch the replies sent to this process
    run     renew leases, carry out orders, promote, read, commit; if that fails, again, order by order

Nothing here waits or knows a clock: `now` (monotonic, for everything this process does every so often) and `wall`
(seconds since the epoch, for everything that is stored) are arguments. The writer calls the notifications that a turn
returns, in the Trio thread and in their order.

Invariants:

- What a turn changes in memory it changes after the commit, so that a failed turn can be run again. A turn that
  fails is run again order by order: one bad order does not fail the others.
- Orders take effect in the order in which they were given, but for plain acks, which are gathered.
- A settlement is never given up: while the store fails, it is tried again every second.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import attrs

from actorwork.embedded.cursors import Batch, Cursor, Cursors, read_suspect
from actorwork.embedded.location import Location, explained, gone
from actorwork.embedded.own_leases import Lease, LostLease, OwnLeases
from actorwork.embedded.rows import ReplyAddress, SettleOrder
from actorwork.embedded.states import CancelledMessage
from actorwork.embedded.store import Store
from actorwork.embedded.transaction import Stale
from actorwork.embedded.watched import Watched
from actorwork.errors import BrokerError
from actorwork.failpoints import failpoint

QUICKEST_POLL: Final = 0.002
USUAL_POLL: Final = 0.05
IDLE_POLL: Final = 0.25
IDLE_AFTER: Final = 10.0
TRY_AGAIN: Final = 1.0
COMPLAIN_EVERY: Final = 5.0
FIRST_PRUNE: Final = 60.0
PRUNE_EVERY: Final = 3600.0
PRUNE_AGAIN: Final = 1.0
_BEFORE_COMMIT: Final = failpoint("commit.before")
_AFTER_COMMIT: Final = failpoint("commit.after")
_BEFORE_STATE: Final = failpoint("state.before")
_AFTER_STATE: Final = failpoint("state.after")

Notification: TypeAlias = Callable[[], None]
"""What is to be done in the Trio thread."""


@attrs.define(eq=False)
class Order:
    """Something to be done in a transaction; the result goes to `done`, an error to `failed`, in the Trio thread."""

    run: Callable[[Store], Any]
    done: Callable[[Any], None]
    failed: Callable[[BrokerError], None]
    rows: int = 1
    writes: bool = True


@attrs.define(eq=False)
class _Due:
    """What is to be done in this turn besides the orders."""

    late: Sequence[Lease]
    expired: Sequence[int]
    promotes: bool
    prunes: bool
    reads: bool

    def __bool__(self) -> bool:
        return bool(self.late or self.expired or self.promotes or self.prunes or self.reads)


class Turns:
    """What this process knows between two turns. Touched by the thread that runs them, but where it says otherwise."""

    def __init__(
        self, location: Location, leases: OwnLeases, troubled: Callable[[str, str], None], *, prune_at: float
    ) -> None:
        self.addresses: dict[str, Callable[[ReplyAddress], None]] = {}
        """Where replies are awaited in this process. Changed by the Trio thread alone; single operations of a dict are
        atomic, so the turns may look."""
        self.watched = Watched()
        """What tasks of this process want to hear of; called in the Trio thread, and changed there alone."""
        self.cursors = Cursors()
        """What this process reads."""
        self.leases = leases
        self.counts = {"turns": 0, "orders": 0, "settlements": 0, "polls": 0, "failures": 0, "largest_turn": 0}
        self._location = location
        self._troubled = troubled
        self._unsettled: list[SettleOrder] = []
        """Settlements that failed, to be tried again."""
        self._settle_again_at = math.inf
        self._seen_seq = -1
        self._data_version = -1
        self._cancelled: Sequence[CancelledMessage] = ()
        """The messages in flight, anywhere, that were cancelled."""
        self._next_due = math.inf
        self._prune_at = prune_at
        self._complain_at = 0.0
        self._rests_until = 0.0
        self._busy_at = 0.0

    def __repr__(self) -> str:
        return f"<Turns of {self._location}: {self.counts['turns']}, {len(self.cursors)} cursors>"

    @property
    def is_shared(self) -> bool:
        """Whether other processes may write, too."""
        return self._location.path is not None

    @property
    def has_unsettled(self) -> bool:
        return bool(self._unsettled)

    @property
    def next_due(self) -> float:
        """When the next delayed message is due, by the wall clock, as far as a turn has to know it."""
        return self._next_due if self.cursors else math.inf

    def next_at(self, now: float, wall: float) -> float:
        """Return when the next turn is to be run if no order comes, by the monotonic clock."""
        if self.cursors.can_read:
            return max(now, self._rests_until)
        until = min(self._settle_again_at, self.leases.next_at, self.cursors.isolates_at, self.cursors.aside_until)
        if self.cursors:
            # In this order: a sum of both clocks would be rounded, and what is due now would be due a little later.
            until = min(until, now + (self._next_due - wall))
        if self.cursors or self.addresses or self.watched:
            until = min(until, self._prune_at)
            if self.is_shared:
                idle = now - self._busy_at
                until = min(
                    until,
                    now + (IDLE_POLL if idle > IDLE_AFTER else min(USUAL_POLL, max(QUICKEST_POLL, idle / 10))),
                )
        return max(until, self._rests_until)

    # ---- what is read, and under which lease ----

    def add(self, lease: Lease, cursors: Sequence[Cursor], now: float) -> None:
        """Begin to renew a lease, and to read for these cursors."""
        self.leases.add(lease, now)
        self.cursors.add(cursors)
        # What was held back before anyone read is looked for in the next turn.
        self._next_due = 0.0
        self._busy_at = now

    # ---- what others have written ----

    def look(self, store: Store, now: float, wall: float) -> list[Notification]:
        """Ask whether another process has written, and mark the channels that this concerns as ready.

        `pragma data_version` changes with every commit of another connection, and costs microseconds. Everything
        else is asked only when it has changed. No transaction is needed: the answers decide only what the turn that
        follows looks at, and that turn has one.
        """
        notifications: list[Notification] = []
        if not self.is_shared or not (self.cursors or self.addresses or self.watched):
            return notifications
        self.counts["polls"] += 1
        try:
            version = store.execute("pragma data_version").fetchone()[0]
            if version != self._data_version:
                self._data_version = version
                self._seen_seq, sources = store.reading.news_since(self._seen_seq)
                free = store.reading.groups_with_free() if self.cursors else set[int]()
                self._next_due = _or_never(store.first_due())
                store.transaction.touched.update(sources)
                self.cursors.wake_groups(free)
                if sources or free:
                    self._busy_at = now
                notifications += self.watched.look(store)
                cancelled, self._cancelled = self._cancelled, store.states.cancelled()
                if self._cancelled != cancelled:
                    notifications += self._tell_cancelled()
                if self.addresses and store.outcomes.has_replies(tuple(self.addresses)):
                    self._busy_at = now
                    notifications += self.run(store, [Order(self._fetch_replies, _ignore, _ignore)], now, wall)
        except sqlite3.Error:
            # The next order will meet the same error, and report it; until then everything is looked at again.
            self._data_version = -1
            self.counts["failures"] += 1
        self.cursors.wake_channels(store.transaction.touched)
        return notifications

    def _tell_cancelled(self) -> list[Notification]:
        messages = self._cancelled
        return [lambda cursor=cursor: cursor.cancel(cursor, messages) for cursor in self.cursors] if messages else []

    def _fetch_replies(self, store: Store) -> None:
        store.transaction.replies.extend(store.outcomes.fetch(tuple(self.addresses)))

    # ---- one turn ----

    def run(
        self,
        store: Store,
        orders: Sequence[Order | SettleOrder],
        now: float,
        wall: float,
        *,
        stopping: bool = False,
    ) -> list[Notification]:
        """Carry out these orders, and all that is due; return the notifications that follow."""
        if self._unsettled and (now >= self._settle_again_at or stopping):
            orders = [*self._unsettled, *orders]
            self._unsettled, self._settle_again_at = [], math.inf
        if orders:
            self._busy_at = now
            self.counts["orders"] += len(orders)
            self.counts["largest_turn"] = max(self.counts["largest_turn"], len(orders))
        notifications: list[Notification] = []
        try:
            self._try_turn(store, orders, now, wall, notifications)
        except Exception as error:  # noqa: BLE001 - every order that fails has a caller who waits for the answer
            store.rollback()
            # Nothing of the turn has happened, so nothing of it is to be reported.
            notifications.clear()
            self.counts["failures"] += 1
            if len(orders) > 1:
                # One of them may be bad: each has a turn of its own, and the good ones are carried out.
                for order in orders:
                    notifications += self.run(store, [order], now, wall)
            elif orders:
                notifications += self._refuse(orders[0], error, now)
            else:
                notifications += self._bear(error, now)
        for cursor in self.cursors.newly_crowded():
            notifications.append(lambda cursor=cursor: cursor.crowded(cursor))
        return notifications

    def _try_turn(
        self,
        store: Store,
        orders: Sequence[Order | SettleOrder],
        now: float,
        wall: float,
        notifications: list[Notification],
    ) -> None:
        """Do everything in one transaction; what must follow in memory, only once it is committed.

        A crash before the commit leaves the file as it was: what was ordered has not happened, and no sender was
        told otherwise. A crash right after the commit loses the answers: a publisher sends again under the same id,
        which is ignored; what was read stays pending for this node, and is reclaimed when its lease has ended.
        """
        if not store.is_there(now):
            raise gone(self._location)
        due = self._due(store, now, wall)
        if not due:
            if not orders:
                return
            if not any(isinstance(order, SettleOrder) or order.writes for order in orders):
                # Queries alone need no transaction, so no other process has to wait for them to write.
                store.transaction.now = wall
                notifications.extend(
                    _bind(order.done, order.run(store)) for order in orders if isinstance(order, Order)
                )
                return

        store.begin(wall)
        # Leases first, while it is known that the moment is `wall`: what follows may take its time, and a lease that
        # another process ended in the meantime must not be renewed by a turn that reads under it.
        lost = self.leases.renew(store, due.late, wall)
        for node in due.expired:
            store.leases.end(node, unless_later_than=wall)
        # Orders before reading: what is published here is read in the same turn, so a message is on its way to its
        # actor before its publisher knows that it is kept; and a settled message lets the next one of its key in.
        settled, count = _carry_out(store, orders, notifications)
        self.counts["settlements"] += count
        if due.promotes:
            store.promote()
        has_more = due.prunes and store.prune()
        store.join()
        # All of this may have brought something to read. Channels that are not marked as ready now stay unread until
        # another entry comes.
        self.cursors.wake_channels(store.transaction.touched)
        if store.transaction.orphaned:
            store.transaction.orphaned = False
            self.cursors.wake_groups(store.reading.groups_with_free())
        offers = self._read(store, lost, now, wall)
        store.join()  # What was dead-lettered while reading may have ended steps, too.
        here, elsewhere = self._sorted_replies(store)
        if elsewhere:
            # In the transaction of the settlements: an outcome that is applied is also on its way.
            store.outcomes.post(elsewhere)
        cancelled = self._cancelled
        if cancelled or store.transaction.cancelled:
            cancelled = store.states.cancelled()
        next_due = store.transaction.next_due
        if due.promotes:
            self._next_due = _or_never(store.first_due())
        if _BEFORE_COMMIT is not None:
            _BEFORE_COMMIT()
        changes_state, store.transaction.changes_state = store.transaction.changes_state, False
        if changes_state:
            _pass_before_state()
        store.commit()
        if _AFTER_COMMIT is not None:
            _AFTER_COMMIT()
        if changes_state:
            _pass_after_state()

        # From here on it has happened: nothing below may fail, or the turn would be run a second time.
        self.counts["turns"] += 1
        store.transaction.replies.clear()
        if next_due is not None:
            self._next_due = min(self._next_due, next_due)
        self.leases.renewed(due.late, now)
        if due.prunes:
            self._prune_at = now + (PRUNE_AGAIN if has_more else PRUNE_EVERY)
        notifications.extend(settled)
        for reply in here:
            # Again: its client may have left while the transaction was open.
            expected = self.addresses.get(reply[0])
            if expected is not None:
                notifications.append(_bind(expected, reply))
        notifications.extend(self.watched.those_of(store.transaction.changed))
        store.transaction.changed.clear()
        for cursor, batches in offers:
            cursor.has_read(batches)
            if any(taken.deliveries or taken.dead_lettered or taken.restored for _, taken, _ in batches):
                notifications.append(lambda cursor=cursor, batches=batches: cursor.offer(cursor, batches))
        # After the offers: what was read may be cancelled already.
        if cancelled and (store.transaction.cancelled or offers):
            self._cancelled = cancelled
            notifications.extend(self._tell_cancelled())
        self._cancelled, store.transaction.cancelled = cancelled, False
        # After the offers, though nothing was read under a lost lease: what is revoked is what was offered before.
        for one in lost:
            notifications.append(one.succeed(now))
            self.cursors.wake_all_of(one.lease)
        # A message that was dead-lettered while reading has let the next one of its key in.
        self.cursors.wake_channels(store.transaction.touched)

    def _due(self, store: Store, now: float, wall: float) -> _Due:
        self.cursors.end_aside(now)
        return _Due(
            late=self.leases.late(now),
            expired=self.leases.expired(store, now, wall),
            promotes=bool(self.cursors) and self._next_due <= wall,
            prunes=now >= self._prune_at,
            reads=self.cursors.can_read or self.cursors.isolates_at <= now,
        )

    def _read(self, store: Store, lost: list[LostLease], now: float, wall: float) -> list[tuple[Cursor, list[Batch]]]:
        """Read for every cursor that can, under leases that are seen to be alive in this transaction.

        A lease that has ended is replaced first, and its cursors read nothing in this turn: under the old number
        they would claim messages for a node that has ended already, and no process would ever reclaim these.
        """
        if not self.cursors:
            return []
        gone = {id(one.lease) for one in lost}
        taken: list[tuple[Cursor, list[Batch]]] = []
        for cursors in self.cursors.by_lease:
            lease = cursors[0].lease
            isolates = lease.isolation.is_closed or lease.isolation.look_at <= now
            if id(lease) in gone or not (isolates or any(cursor.can_read for cursor in cursors)):
                continue
            if not store.leases.has(lease.number):
                lost.append(self.leases.replace(store, lease, wall, "another process ended it"))
                continue
            if isolates:
                taken += read_suspect(store, cursors, now)
            taken += [(cursor, cursor.read(store)) for cursor in cursors if cursor.can_read]
        return taken

    def _sorted_replies(self, store: Store) -> tuple[list[ReplyAddress], list[ReplyAddress]]:
        """Return the replies that are awaited in this process, and those for other ones."""
        replies = store.transaction.replies
        return (
            [reply for reply in replies if reply[0] in self.addresses],
            [reply for reply in replies if reply[0] not in self.addresses],
        )

    # ---- when it fails ----

    def _refuse(self, order: Order | SettleOrder, error: Exception, now: float) -> list[Notification]:
        """Report an error to the caller of an order; keep a settlement, to be tried again."""
        reason = explained(self._location, error)
        if isinstance(order, Order):
            return [_bind(order.failed, reason)]
        self._unsettled.append(order)
        self._settle_again_at = now + TRY_AGAIN
        if len(self._unsettled) > 1:
            return []
        return [lambda: self._troubled(f"settling {order.delivery.id}", str(reason))]

    def _bear(self, error: Exception, now: float) -> list[Notification]:
        """Put off what failed without an order (renewing, promoting, reading); report it every few seconds."""
        text = str(explained(self._location, error))
        self.leases.put_off(now, TRY_AGAIN, text)
        self._prune_at = max(self._prune_at, now + FIRST_PRUNE)
        self._rests_until = now + USUAL_POLL
        if now < self._complain_at:
            return []
        self._complain_at = now + COMPLAIN_EVERY
        return [lambda: self._troubled("reading, and renewing leases,", text)]


def _carry_out(
    store: Store, orders: Sequence[Order | SettleOrder], notifications: list[Notification]
) -> tuple[list[Notification], int]:
    """Do what was ordered; append the answers to `notifications`, return those to the nodes that settled, and how many
    deliveries they settled.

    Plain settlements are gathered and go last, in one statement for many: this is what makes a busy node fast,
    and no other order depends on them, since each only ends a delivery.
    """
    plain: list[SettleOrder] = []
    counts: dict[Any, int] = {}
    refused: dict[Any, list[SettleOrder]] = {}
    for order in orders:
        if isinstance(order, Order):
            notifications.append(_bind(order.done, order.run(store)))
            continue
        counts[order.owner] = counts.get(order.owner, 0) + len(order.all)
        if order.together:
            lost = store.settle_together(order)
            if lost:
                refused.setdefault(order.owner, []).extend(lost)
        elif order.plain:
            plain.append(order)
        else:
            try:
                is_ours = store.settle(order)
            except Stale as stale:
                store.release(order.delivery)
                refused.setdefault(order.owner, []).append(attrs.evolve(order, found=stale.found))
            else:
                if not is_ours:
                    refused.setdefault(order.owner, []).append(order)
    if plain:
        not_ours = store.settlements.settle_plain([order.delivery.token for order in plain])
        if not_ours:
            for order in plain:
                if order.delivery.token in not_ours:
                    refused.setdefault(order.owner, []).append(order)
    answers: list[Notification] = [
        lambda owner=owner, count=count: owner.applied(count, refused.get(owner, ())) for owner, count in counts.items()
    ]
    return answers, sum(counts.values())


def _pass_before_state() -> None:
    if _BEFORE_STATE is not None:
        _BEFORE_STATE()


def _pass_after_state() -> None:
    if _AFTER_STATE is not None:
        _AFTER_STATE()


def _bind(function: Callable[[Any], None], value: Any) -> Notification:
    return lambda: function(value)


def _ignore(_: object) -> None:
    pass


def _or_never(due: float | None) -> float:
    return math.inf if due is None else due
