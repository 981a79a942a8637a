"""What the embedded broker does inside a transaction, in SQL.

A source has a channel for each priority, and a channel is a list of entries in the order of their `seq`. Each group
has a cursor in each channel, the last entry it was given, and a row in `pending` for every entry that it was given and
has not settled:

    entries ──seq──▶  … | settled: row gone | given: pending (owner, count) | after the cursor: not yet given

    pending.node      > 0   the node that owns it (its number in `nodes`)
                        0   released: the next node that reads gets it, before anything else
                      < 0   orphaned: the node of that number died with it in flight; the next reader gets it, too
    pending.count     how often it was delivered; a release takes one off. So the count of an orphan is the number of
                      processes that died with it.

Every entry may be read. What must wait is in other tables (`delayed` until its time, `behind` for its key) and becomes
an entry when it may be read, so reading knows nothing of delays, keys and priorities.

An entry is deleted when no group has it pending and the cursors of all groups are past it; one with an `addressee`
when that group has settled it. This frees its key and its unique key (`Settlements.end`). `seq` is never used twice
(AUTOINCREMENT), or a message could enter behind a cursor and never be read.

All writing happens under `begin immediate`: one process writes at a time, so a row that was read may be changed
without a second look. Nothing is remembered from one transaction to the next but the numbers of sources, which never
change; these are forgotten when a transaction fails.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from actorwork.embedded.cancellation import Cancellation
from actorwork.embedded.dead_letters import DeadLetterTable
from actorwork.embedded.delay_queue import DelayQueue
from actorwork.embedded.files import OpenedFile, begin_writing
from actorwork.embedded.key_queues import KeyQueues
from actorwork.embedded.leases import DAY, Leases
from actorwork.embedded.outcomes import Outcomes
from actorwork.embedded.reading import Reading
from actorwork.embedded.rows import (
    EnvelopeRow,
    GroupChannel,
    SettleOrder,
    channel_number,
    channel_numbers,
)
from actorwork.embedded.schema import SOURCE
from actorwork.embedded.seen import SeenIds
from actorwork.embedded.settling import Settlements
from actorwork.embedded.sources import SourceNumbers
from actorwork.embedded.states import StateTable
from actorwork.embedded.transaction import Transaction
from actorwork.embedded.uniques import Uniques
from actorwork.message import Delivery, Json, Outcome, Unique
from actorwork.policy.settlement import Ack
from actorwork.policy.values import FENCE_KEPT

if TYPE_CHECKING:
    from actorwork.embedded.entity_table import EntityTable
    from actorwork.embedded.runs import RunTable
    from actorwork.records import Progress

MANY: Final = 1000


class Store:
    """The store's tables, in the words of the broker. Every method needs an open transaction, unless it says not."""

    def __init__(self, connection: sqlite3.Connection, file: OpenedFile | None = None) -> None:
        self._file = file
        transaction = self.transaction = Transaction(connection)
        self._connection = connection
        self._execute = connection.execute
        self.execute = connection.execute
        """For tables that have nothing to do with messages."""
        self._sources = SourceNumbers(transaction)
        self._seen = SeenIds(transaction)
        self.leases = Leases(transaction)
        self.states = StateTable(transaction)
        self.outcomes = Outcomes(transaction, self.states)
        self._key_queues = KeyQueues(transaction)
        self._uniques = Uniques(transaction)
        self.delay_queue = DelayQueue(transaction, self._key_queues)
        self.dead_letters = DeadLetterTable(transaction, self._key_queues, self.states)
        self._cancellation = Cancellation(transaction, self._key_queues, self._uniques, self.outcomes, self.states)
        self.settlements = Settlements(
            transaction, self._sources, self._key_queues, self._uniques, self.outcomes, self.dead_letters, self.states
        )
        self.reading = Reading(transaction, self._sources, self.settlements, self.dead_letters)
        self._runs: RunTable | None = None
        self._entities: EntityTable | None = None

    def __repr__(self) -> str:
        return f"<Store {self._sources!r}>"

    # ------------------------------------------------------------------------------------------- the transaction

    @property
    def now(self) -> float:
        """The wall clock as of this transaction."""
        return self.transaction.now

    def is_there(self, now: float) -> bool:
        """Return whether other processes see what is written: the file, if there is one, is still at its path."""
        return self._file is None or self._file.is_there(now)

    def begin(self, now: float) -> None:
        begin_writing(self._connection)
        self.transaction.now = now
        self.transaction.next_due = None
        self.transaction.room = None

    def commit(self) -> None:
        self._seen.commit()
        self._execute("commit")

    def rollback(self) -> None:
        self._sources.rollback()
        self._seen.rollback()
        self.transaction.replies.clear()
        self.transaction.step_ends.clear()
        self.transaction.starts.clear()
        self.transaction.expansions.clear()
        self.transaction.changed.clear()
        self.transaction.cancelled = False
        if self._connection.in_transaction:
            self._execute("rollback")

    # ------------------------------------------------------------------------------------------------- publishing

    def publish(self, rows: Iterable[EnvelopeRow], *, may_repeat: bool = True) -> int:
        """Keep messages whose ids were not seen before; return how many these are.

        With `may_repeat=False` all of them are new: the caller sends each once, and an id may be that of a former one.
        """
        now, new = self.now, 0
        plain: list[tuple[Any, ...]] = []
        delayed: list[tuple[Any, ...]] = []
        for one in rows:
            source = self._sources.number(one.source)
            optional = one.optional
            if optional is not None and optional.unique is not None:
                # The check looks at the tables, so what was gathered must be in them.
                self._add(plain, delayed)
                if self._is_refused(source, one, optional.unique):
                    continue
            if may_repeat and not self._seen.is_new(source, one.id):
                continue
            new += 1
            if one.keep is not None:
                self.states.begin(source, one.id, one.keep)
            due = one.due if one.due is not None else now + one.delay
            if due > now:
                delayed.append((*_row_of(source, one, now), due))
            elif optional is None:
                plain.append((source, one.id, one.type, one.data, one.headers, now, one.addressee))
                self.transaction.touched.add(source)
            else:
                self._add(plain, delayed)
                self._key_queues.enter(_row_of(source, one, now))
        self._add(plain, delayed)
        return new

    def publish_unique(self, one: EnvelopeRow) -> str:
        """Keep a message that has a unique key; return the id of the one that has it now."""
        source, unique = self.source(one.source), None if one.optional is None else one.optional.unique
        if self.publish((one,)) or unique is None or self._seen.knows(source, one.id):
            return one.id
        return self._uniques.holder(source, unique) or one.id

    def _is_refused(self, source: int, one: EnvelopeRow, unique: Unique) -> bool:
        """Take a unique key for a message; return whether another one keeps it, or this one was kept before."""
        if self._seen.knows(source, one.id):
            return True
        holder = self._uniques.holder(source, unique)
        if holder is not None:
            replaces = unique.on_conflict == "replace"
            if not replaces or not self._cancellation.replace(source, one.source, unique.key, holder):
                return True
        self._uniques.hold(source, unique, one.id)
        return False

    def _add(self, plain: list[tuple[Any, ...]], delayed: list[tuple[Any, ...]]) -> None:
        if plain:
            # Without the last columns of `CARRIED`: binding three nulls for each message costs a quarter of the time.
            self._connection.executemany(
                "insert into entries (source, id, type, data, headers, born, addressee) values (?, ?, ?, ?, ?, ?, ?)",
                plain,
            )
            plain.clear()
        if delayed:
            self.delay_queue.add(delayed)
            delayed.clear()

    def find_source(self, name: str) -> int | None:
        """Return the number of a source, if there is one. Needs no transaction."""
        return self._sources.find(name)

    @property
    def seen(self) -> SeenIds:
        """The ids that were seen."""
        return self._seen

    def source(self, name: str) -> int:
        """Return the number of a source, which is created if it is new."""
        return self._sources.number(name)

    def cancel(self, source: str, id: str) -> bool:
        """Delete a message that is delayed, or waits behind others of its key; return whether there was one."""
        return self._cancellation.cancel(self.source(source), source, id)

    def cancel_anywhere(self, source: str, id: str, reason: str, *, force: bool = False) -> bool:
        """Cancel a message wherever it is; return whether it was open, and not cancelled before."""
        return self._cancellation.cancel_anywhere(self.source(source), source, id, reason, force=force)

    def purge(self, source: str, reason: str, most: int) -> int:
        """Delete messages of a source that no node has been given; return how many there were."""
        number = self._sources.find(source)
        return 0 if number is None else self._cancellation.purge(number, source, reason, most)

    def answer(self, source: str, id: str, headers: Mapping[str, Json], outcome: Outcome) -> None:
        """Store and send the outcome of a message."""
        self.outcomes.answer(self.source(source), source, id, headers, outcome)

    # ------------------------------------------------------------------------------------------------------- runs

    @property
    def runs(self) -> RunTable:
        """The runs of workflows. Made at first use: most programs have none, and start without its imports."""
        if self._runs is None:
            from actorwork.embedded.runs import RunTable  # noqa: PLC0415

            self._runs = RunTable(self.transaction, self)
        return self._runs

    @property
    def entities(self) -> EntityTable:
        """The states of entities; made at first use, as above."""
        if self._entities is None:
            from actorwork.embedded.entity_table import EntityTable  # noqa: PLC0415

            self._entities = EntityTable(self.transaction, self._sources, self.settlements, self.leases)
        return self._entities

    def join(self) -> None:
        """Draw the conclusions from the steps that this transaction has ended, before it is committed."""
        if self.transaction.step_ends or self.transaction.starts or self.transaction.expansions:
            self.runs.join()

    def promote(self) -> None:
        """Make ready what is due: delayed messages, and steps that wait for a time."""
        self.delay_queue.promote()
        if self._has_timers():
            self.runs.promote()

    def first_due(self) -> float | None:
        """Return when `promote` has something to do next. Needs no transaction."""
        first = self.delay_queue.first_due()
        if not self._has_timers():
            return first
        timer = self.runs.first_due()
        return timer if first is None or (timer is not None and timer < first) else first

    def _has_timers(self) -> bool:
        row = self._execute(
            "select exists (select 1 from steps where due is not null)"
            " or exists (select 1 from runs where deadline is not null and finished is null)"
            " or exists (select 1 from runs where more)"
        ).fetchone()
        return bool(row[0])

    # --------------------------------------------------------------------------------------------------- settling

    def settle(self, order: SettleOrder) -> bool:
        """End one delivery with all that belongs to it, if it is still ours; return whether it was.

        Raises `Stale`, and changes nothing, if the state of its key has another version than the settlement names.
        """
        change = order.settlement.state if type(order.settlement) is Ack else None
        if change is not None and not self.entities.settle(order.delivery, order.group, change):
            return False
        if not self.settlements.settle(order):
            return False
        if order.published:
            self.publish(order.published)
        return True

    def settle_together(self, order: SettleOrder) -> Sequence[SettleOrder]:
        """Settle the deliveries of a batch if all of them are still ours; return those that are not.

        If there is one, nothing takes effect, and the others are released: their handler runs again without it. What
        was published comes last, as it may want keys that the deliveries hold.
        """
        lost = [one for one in order.all if not self.settlements.owns(one.delivery.token)]
        for one in order.all:
            if not lost:
                self.settle(one)
            elif one not in lost:
                self.release(one.delivery)
        return lost

    def note_received(self, channel: GroupChannel, node: int, deliveries: Sequence[Delivery]) -> None:
        """Note that a node was given tracked deliveries of a channel."""
        source = self._sources.number(channel.name)
        self.states.received(deliveries, source, channel.actor, self.leases.incarnation(node))

    def note(self, delivery: Delivery, started: float | None, progress: Progress | None) -> None:
        """Note that the handler of a tracked delivery has begun, and how far it is."""
        self.states.note(delivery, self._sources.number(delivery.source), started, progress)

    def release(self, delivery: Delivery) -> bool:
        """Release a delivery to its old place, with its count restored; return whether it was still ours."""
        return self.settlements.release(delivery)

    # ----------------------------------------------------------------------------------------------- housekeeping

    def pragma(self, name: str) -> object:
        """Needs no transaction."""
        return self._execute(f"pragma {name}").fetchone()[0]

    def backlog(self, source: str, group: str | None = None) -> int:
        """Needs no transaction."""
        number = self._sources.find(source)
        if number is None:
            return 0
        places = channel_numbers(number)
        if group is not None:
            row = self._execute(
                "select (select count(*) from entries e left join groups g on g.source = e.source and g.name = ?"
                " where e.source in (?, ?, ?, ?) and coalesce(e.addressee, ?) = ?"
                " and (g.grp is null or e.seq > g.cursor"
                " or exists (select 1 from pending p where p.seq = e.seq and p.grp = g.grp)))"
                " + (select count(*) from behind where source in (?, ?, ?, ?))",
                (group, *places, group, group, *places),
            ).fetchone()
            return row[0]
        row = self._execute(
            "select (select count(*) from entries where source in (?, ?, ?, ?))"
            " + (select count(*) from behind where source in (?, ?, ?, ?))",
            (*places, *places),
        ).fetchone()
        return row[0]

    def oldest(self, source: str, group: str | None = None) -> float | None:
        """Return for how long the oldest entry that some group was not given has been ready. Needs no transaction.

        An entry has been ready since it was born, unless its column `ready` has a later time.
        """
        number = self._sources.find(source)
        found: list[float] = []
        for place in () if number is None else channel_numbers(number):
            row = self._execute(
                "select coalesce(ready, born) from entries where source = ? and seq >"
                " (select coalesce(min(cursor), 0) from groups where source = ? and (? is null or name = ?))"
                " order by seq limit 1",
                (place, place, group, group),
            ).fetchone()
            if row is not None:
                found.append(row[0])
        return max(0.0, self.now - min(found)) if found else None

    def prune(self) -> bool:
        """Delete what has expired: outcomes, replies that were not fetched, ids a day after their messages.

        Return whether there is more: of the states of entities, and of steps of runs, no more than some go at once.
        """
        now = self.now
        self.outcomes.prune()
        self.states.prune()
        self._uniques.prune()
        gone = "select exists (select 1 from runs where expires <= ?) or exists (select 1 from loose where until <= ?)"
        has_more = bool(self._execute(gone, (now, now)).fetchone()[0]) and self.runs.prune()
        self._execute("delete from shared where expires <= ? and (fence = 0 or expires <= ?)", (now, now - FENCE_KEPT))
        expired = "select source, grp, key from entities where expires <= ? limit ?"
        states = self._execute(expired, (now, MANY)).fetchall()
        for state in states:
            self.entities.forget(*state)
        self._execute("delete from key_waits where until <= ?", (now,))
        self._execute("delete from locks where until <= ?", (now - FENCE_KEPT,))
        self.leases.prune()
        # One row of `seen` holds many ids. It is kept as long as its source holds any message that is as old.
        oldest = self._execute(
            f"select {SOURCE}, min(born) from (select source, born from entries union all"
            " select source, born from delayed union all select source, born from behind) group by 1"
        ).fetchall()
        for source, born in oldest:
            self._execute("update seen set alive = ? where source = ? and touched >= ?", (now, source, born))
        self._execute("delete from seen where touched < ? and alive < ?", (now - DAY, now - DAY))
        return has_more or len(states) == MANY


def _row_of(source: int, one: EnvelopeRow, now: float) -> tuple[Any, ...]:
    """Return the values of `CARRIED` of a message."""
    carried, optional = (one.id, one.type, one.data, one.headers, now, one.addressee), one.optional
    if optional is None:
        return (source, *carried, None, None, None)
    unique = None if optional.unique is None else optional.unique.key
    return (channel_number(source, optional.priority), *carried, optional.key, optional.ends(now), unique)
