"""What the embedded broker does inside a transaction, in SQL.

A source has a channel for each priority, and a channel is a list of entries in the order of their `seq`. Each group
has a cursor in each channel, the last entry it was given, and a row in `pending` for every entry that it was given and
has not settled:

    entries ──seq──▶  … | settled: row gone | given: pending (owner, count) | after the cursor: not yet given

    pending.node      > 0   the node that owns it (its number in `nodes`)
                        0   handed back: anybody's, and first in line
                      < 0   orphaned: the node of that number died with it in hand; anybody's too
    pending.count     how often it was given; handing back takes one off. So an orphan's count is the number of
                      processes that died of it.

Whatever is among the entries may be read: what must wait is in other tables (`delayed` for its time, `behind` for its
key), and enters when it may. So reading knows nothing of delays, keys and priorities.

An entry leaves when no group has it pending and no cursor is before it; one with an `addressee` leaves when that
group has settled it. Then its key and its unique key are free (`_end`). `seq` is never used twice (AUTOINCREMENT), or a
message could be born behind a cursor.

Whatever is written here is written under `begin immediate`, so one process writes at a time, and reading what
one is about to change is safe. Nothing is remembered from one transaction to the next but the numbers of sources,
which never change; and these are forgotten when a transaction fails.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final

from actorwork.embedded.cancellation import Cancellation
from actorwork.embedded.dead_letters import DeadLetterTable
from actorwork.embedded.delay_queue import DelayQueue
from actorwork.embedded.files import begin_writing
from actorwork.embedded.key_queues import KeyQueues
from actorwork.embedded.leases import Leases
from actorwork.embedded.outcomes import Outcomes
from actorwork.embedded.rows import (
    CARRIED,
    EnvelopeRow,
    GroupChannel,
    SettleOrder,
    Taken,
    Token,
    channel,
    channels,
    delivery_from,
    source_of,
)
from actorwork.embedded.schema import SOURCE
from actorwork.embedded.seen import SeenIds
from actorwork.embedded.transaction import Transaction
from actorwork.embedded.uniques import Uniques
from actorwork.message import NO_HEADERS, Delivery, Failure, Outcome, Unique
from actorwork.policy.attempts import headers_of_next_attempt
from actorwork.policy.settlement import Ack, Fail, Reject, Retry
from actorwork.policy.values import FENCE_KEPT

MANY: Final = 1000
DAY: Final = 86400.0


class Store:
    """The store's tables, in the words of the broker. Every method wants an open transaction, unless it says not."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        transaction = self.transaction = Transaction(connection)
        self._connection = connection
        self._execute = connection.execute
        self.execute = connection.execute
        """For tables that have nothing to do with messages."""
        self._sources: dict[str, int] = {}
        self._seen = SeenIds(transaction)
        self.leases = Leases(transaction)
        self.outcomes = Outcomes(transaction)
        self._lines = KeyQueues(transaction)
        self._uniques = Uniques(transaction)
        self.delay_queue = DelayQueue(transaction, self._lines)
        self.dead_letters = DeadLetterTable(transaction, self._lines)
        self._taking_back = Cancellation(transaction, self._lines, self._uniques, self.outcomes)

    def __repr__(self) -> str:
        return f"<Store of {len(self._sources)} known sources>"

    # ------------------------------------------------------------------------------------------- the transaction

    @property
    def now(self) -> float:
        """The wall clock as of this transaction."""
        return self.transaction.now

    def begin(self, now: float) -> None:
        begin_writing(self._connection)
        self.transaction.now = now
        self.transaction.next_due = None

    def commit(self) -> None:
        self._seen.commit()
        self._execute("commit")

    def rollback(self) -> None:
        self._sources.clear()
        self._seen.rollback()
        self.transaction.replies.clear()
        if self._connection.in_transaction:
            self._execute("rollback")

    # ------------------------------------------------------------------------------------------------- publishing

    def publish(self, rows: Iterable[EnvelopeRow]) -> int:
        """Keep messages whose ids were not seen before; return how many these are."""
        now, new = self.now, 0
        plain: list[tuple[Any, ...]] = []
        delayed: list[tuple[Any, ...]] = []
        for one in rows:
            source = self._sources.get(one.source) or self.source(one.source)
            rare = one.rare
            if rare is not None and rare.unique is not None:
                # It looks at what is there.
                self._add(plain, delayed)
                if self._is_refused(source, one, rare.unique):
                    continue
            if not self._seen.is_new(source, one.id):
                continue
            new += 1
            due = one.due if one.due is not None else now + one.delay
            if due > now:
                delayed.append((*_row_of(source, one, now), due))
            elif rare is None:
                plain.append((source, one.id, one.type, one.data, one.headers, now, one.addressee))
                self.transaction.touched.add(source)
            else:
                self._add(plain, delayed)
                self._lines.enter(_row_of(source, one, now))
        self._add(plain, delayed)
        return new

    def publish_unique(self, one: EnvelopeRow) -> str:
        """Keep a message that has a unique key; return the id of the one that has it now."""
        source, unique = self.source(one.source), None if one.rare is None else one.rare.unique
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
            if not replaces or not self._taking_back.replace(source, one.source, unique.key, holder):
                return True
        self._uniques.hold(source, unique, one.id)
        return False

    def _add(self, plain: list[tuple[Any, ...]], delayed: list[tuple[Any, ...]]) -> None:
        if plain:
            # Without the rest of `CARRIED`: to bind nothing three times for each costs a quarter.
            self._connection.executemany(
                "insert into entries (source, id, type, data, headers, born, addressee) values (?, ?, ?, ?, ?, ?, ?)",
                plain,
            )
            plain.clear()
        if delayed:
            self.delay_queue.add(delayed)
            delayed.clear()

    def source(self, name: str) -> int:
        """Return the number of a source, which is made if it is new."""
        known = self._sources.get(name)
        if known is None:
            known = self.known_source(name)
            if known is None:
                known = self._execute("insert into sources (name) values (?)", (name,)).lastrowid or 0
            self._sources[name] = known
        return known

    def known_source(self, name: str) -> int | None:
        """Return the number of a source, if anything was ever sent to it. Needs no transaction."""
        row = self._execute("select source from sources where name = ?", (name,)).fetchone()
        return row[0] if row else None

    def cancel(self, source: str, id: str) -> bool:
        """Take back a message that is held back, or waits behind others of its key; return whether there was one."""
        return self._taking_back.cancel(self.source(source), source, id)

    # ---------------------------------------------------------------------------------------------------- reading

    def open_lane(self, lane: GroupChannel) -> bool:
        """Make the group of a lane if it is new, at the beginning of what is there; return whether it was."""
        lane.channel = channel(self.source(lane.name), lane.priority)
        done = self._execute("insert or ignore into groups (source, name) values (?, ?)", (lane.channel, lane.group))
        row = self._execute(
            "select grp from groups where source = ? and name = ?", (lane.channel, lane.group)
        ).fetchone()
        lane.grp = row[0]
        return done.rowcount == 1

    def take(self, lane: GroupChannel, node: int, limit: int) -> Taken:
        """Give entries of a lane to a node: first what is nobody's any more, then what its group was never given."""
        taken = Taken()
        free = self._execute(
            "select p.seq, p.count, p.node, e.id, e.type, e.data, e.headers, e.key, e.expires, e.uniq"
            " from pending p join entries e using (seq) where p.grp = ? and p.node <= 0 order by p.seq limit ?",
            (lane.grp, limit),
        ).fetchall()
        if lane.suspects or any(count >= lane.alone_from for _, count, *_ in free):
            free = self._one_suspect_of(free, lane, node, taken)
        again: list[int] = []
        owners: dict[int, int] = {}
        for seq, count, owner, message_id, kind, data, headers, key, expires, unique in free:
            bound = key is not None or unique is not None
            if count > lane.max_crashes:
                token = Token(seq, lane.grp, 0, count, bound)
                self._dead_letter(lane, delivery_from(lane, message_id, kind, data, headers, token, key, expires))
                taken.dead_lettered.append((message_id, count))
                continue
            again.append(seq)
            owners[-owner] = owners.get(-owner, 0) + 1
            token = Token(seq, lane.grp, node, count + 1, bound)
            taken.deliveries.append(delivery_from(lane, message_id, kind, data, headers, token, key, expires))
        if again:
            self._execute(
                "update pending set node = ?, count = count + 1"
                " where grp = ? and seq in (select value from json_each(?))",
                (node, lane.grp, json.dumps(again)),
            )
            taken.reclaimed = list(owners.items())

        room = limit - len(free)
        if room <= 0:
            return taken
        group = self._execute("select cursor from groups where grp = ?", (lane.grp,)).fetchone()
        if group is None:
            taken.restored = self.open_lane(lane)
            group = self._execute("select cursor from groups where grp = ?", (lane.grp,)).fetchone()
        cursor = group[0]
        rows = self._execute(
            "select seq, id, type, data, headers, addressee, coalesce(key, expires, uniq) from entries"
            " where source = ? and seq > ? order by seq limit ?",
            (lane.channel, cursor, room),
        ).fetchall()
        if rows:
            last = rows[-1][0]
            self._execute("update groups set cursor = ? where grp = ?", (last, lane.grp))
            self._execute(
                "insert into pending (seq, grp, node, count) select seq, ?, ?, 1 from entries"
                " where source = ? and seq > ? and seq <= ? and (addressee is null or addressee = ?)",
                (lane.grp, node, lane.channel, cursor, last, lane.group),
            )
            mine, grp, name, priority, append = lane.group, lane.grp, lane.name, lane.priority, taken.deliveries.append
            for seq, message_id, kind, data, headers, addressee, rare in rows:
                if addressee is not None and addressee != mine:
                    continue
                if headers is None and rare is None:
                    # As most are: it costs nothing that others have more.
                    token = Token(seq, grp, node, 1)
                    append(Delivery(message_id, name, data, token, kind, NO_HEADERS, 1, 0, None, priority))
                    continue
                key, expires, unique = (None, None, None) if rare is None else self._rare(seq)
                token = Token(seq, grp, node, 1, key is not None or unique is not None)
                append(delivery_from(lane, message_id, kind, data, headers, token, key, expires))
        taken.emptied = len(rows) < room
        return taken

    def _rare(self, seq: int) -> tuple[str | None, float | None, str | None]:
        """Return the key, the moment and the unique key of an entry."""
        return self._execute("select key, expires, uniq from entries where seq = ?", (seq,)).fetchone()

    def _one_suspect_of(self, free: list[Any], lane: GroupChannel, node: int, taken: Taken) -> list[Any]:
        """Leave out the messages that several processes died with, but for one, if none is in hand.

        A process dies with all it had in hand, and one of these did it. Run one at a time, the others come through.
        """
        in_hand = self._execute(
            "select 1 from pending where grp = ? and node = ? and count > ? limit 1", (lane.grp, node, lane.alone_from)
        ).fetchone()
        chosen: list[Any] = []
        is_taken = in_hand is not None
        for row in free:
            if lane.alone_from <= row[1] <= lane.max_crashes:
                if is_taken:
                    taken.held = True
                    continue
                is_taken = True
            chosen.append(row)
        return chosen

    def _dead_letter(self, lane: GroupChannel, delivery: Delivery) -> None:
        token: Token = delivery.token
        failure = Failure("Crashed", f"{token.given} processes died with this message in hand")
        self._execute("delete from pending where seq = ? and grp = ?", (token.seq, token.grp))
        self.dead_letters.keep(delivery, lane.group, lane.actor, failure, lane.bounds)
        self._answer(delivery, Outcome("failed", failure=failure))
        self._end(token)

    def news_since(self, seq: int) -> tuple[int, list[int]]:
        """Return the last `seq` and the channels with entries after `seq`. Needs no transaction."""
        last = self._execute("select seq from sqlite_sequence where name = 'entries'").fetchone()
        if not last or last[0] <= seq:
            return seq, []
        # Looking at every entry is for a few; otherwise any channel may have news.
        few = last[0] - seq <= MANY
        rows = self._execute(
            "select distinct source from entries where seq > ?"
            if few
            else "select distinct source from groups where ? is not null",
            (seq,),
        ).fetchall()
        return last[0], [row[0] for row in rows]

    def groups_with_free(self) -> set[int]:
        """Return the groups that have something nobody owns. Needs no transaction."""
        return {row[0] for row in self._execute("select distinct grp from pending where node <= 0")}

    # --------------------------------------------------------------------------------------------------- settling

    def settle_plain(self, tokens: Iterable[Token]) -> set[Token]:
        """End deliveries whose settlement does nothing else; return those that were not ours any more."""
        refused: set[Token] = set()
        alike: dict[tuple[int, int, int], list[Token]] = {}
        for token in tokens:
            alike.setdefault(token[1:4], []).append(token)
        for owned, given in alike.items():
            seqs = json.dumps([token.seq for token in given])
            if len(given) > 1:
                self._execute("savepoint plain")
                done = self._execute(
                    "delete from pending where grp = ? and node = ? and count = ?"
                    " and seq in (select value from json_each(?))",
                    (*owned, seqs),
                )
                if done.rowcount == len(given):
                    self._execute("release plain")
                    self._drop_all(seqs)
                    continue
                # Some belong to others by now. Which ones is asked one by one.
                self._execute("rollback to plain")
                self._execute("release plain")
            ours = [token.seq for token in given if self._disown(token)]
            if len(ours) < len(given):
                kept = set(ours)
                refused.update(token for token in given if token.seq not in kept)
            self._drop(ours)
        return refused

    def settle(self, order: SettleOrder) -> bool:
        """End one delivery with all that belongs to it, if it is still ours; return whether it was."""
        delivery = order.delivery
        if not self._disown(delivery.token):
            return False
        match order.settlement:
            case Ack(result=result):
                self._answer(delivery, Outcome("done", b"null" if result is None else result))
            case Reject(failure=failure):
                self._answer(delivery, Outcome("rejected", failure=failure))
            case Fail(failure=failure):
                self.dead_letters.keep(delivery, order.group, order.actor, failure, order.bounds)
                self._answer(delivery, Outcome("failed", failure=failure))
            case Retry(delay=delay, failure=failure):
                self._try_again(delivery, order.group, failure, delay)
        self._end(delivery.token)
        if order.published:
            self.publish(order.published)
        return True

    def _answer(self, delivery: Delivery, outcome: Outcome) -> None:
        if delivery.headers:
            source = self.source(delivery.source)
            self.outcomes.answer(source, delivery.source, delivery.id, delivery.headers, outcome)

    def _end(self, token: Token) -> None:
        """Drop an entry that a group has settled, if it was the last one, and free what it had."""
        if not token.bound:
            self._drop((token.seq,))
            return
        row = self._execute("select source, id, key, uniq from entries where seq = ?", (token.seq,)).fetchone()
        if row is None or not self._drop((token.seq,)):
            return
        number, message_id, key, unique = row
        if unique is not None:
            self._uniques.release(source_of(number), unique, message_id)
        if key is not None:
            self._lines.advance(source_of(number), key)

    def owns(self, token: Token) -> bool:
        row = self._execute(
            "select 1 from pending where seq = ? and grp = ? and node = ? and count = ?", token.owned
        ).fetchone()
        return row is not None

    def release(self, delivery: Delivery) -> bool:
        """Give up a delivery, in its place, its count restored; return whether it was still ours."""
        done = self._execute(
            "update pending set node = 0, count = count - 1 where seq = ? and grp = ? and node = ? and count = ?",
            delivery.token.owned,
        )
        if done.rowcount == 0:
            return False
        self.transaction.touched.add(channel(self.source(delivery.source), delivery.priority))
        return True

    def _disown(self, token: Token) -> bool:
        done = self._execute("delete from pending where seq = ? and grp = ? and node = ? and count = ?", token.owned)
        return done.rowcount == 1

    def _drop(self, seqs: Sequence[int]) -> int:
        return self._drop_all(json.dumps(seqs))

    def _drop_all(self, seqs: str) -> int:
        """Delete those of these entries that every group has settled; return how many."""
        done = self._execute(
            "delete from entries where seq in (select value from json_each(?))"
            " and not exists (select 1 from pending p where p.seq = entries.seq)"
            " and (addressee is not null or not exists"
            " (select 1 from groups g where g.source = entries.source and g.cursor < entries.seq))",
            (seqs,),
        )
        return done.rowcount

    def _try_again(self, delivery: Delivery, group: str, failure: Failure, delay: float) -> None:
        headers = headers_of_next_attempt(delivery, failure, self.now)
        seq = delivery.token.seq
        if delay <= 0:
            self._execute(
                f"insert into entries ({CARRIED}, ready)"
                " select source, id, type, data, ?, born, ?, key, expires, uniq, ? from entries where seq = ?",
                (json.dumps(headers), group, self.now, seq),
            )
            self.transaction.touched.add(channel(self.source(delivery.source), delivery.priority))
            return
        due = self.now + delay
        self._execute(
            f"insert into delayed ({CARRIED}, due, goes_first)"
            " select source, id, type, data, ?, born, ?, key, expires, uniq, ?, key is not null"
            " from entries where seq = ?",
            (json.dumps(headers), group, due, seq),
        )
        self.transaction.is_held_back(due)

    # ----------------------------------------------------------------------------------------------- housekeeping

    def pragma(self, name: str) -> object:
        """Needs no transaction."""
        return self._execute(f"pragma {name}").fetchone()[0]

    def backlog(self, source: str) -> int:
        """Needs no transaction."""
        number = self.known_source(source)
        if number is None:
            return 0
        places = channels(number)
        row = self._execute(
            "select (select count(*) from entries where source in (?, ?, ?, ?))"
            " + (select count(*) from behind where source in (?, ?, ?, ?))",
            (*places, *places),
        ).fetchone()
        return row[0]

    def oldest(self, source: str) -> float | None:
        """Return for how long the first entry of a source has been ready that a group was not given. Needs no
        transaction.

        An entry is ready from its birth on, or it says since when.
        """
        number = self.known_source(source)
        found: list[float] = []
        for place in () if number is None else channels(number):
            row = self._execute(
                "select coalesce(ready, born) from entries where source = ?1 and seq >"
                " (select coalesce(min(cursor), 0) from groups where source = ?1) order by seq limit 1",
                (place,),
            ).fetchone()
            if row is not None:
                found.append(row[0])
        return max(0.0, self.now - min(found)) if found else None

    def prune(self) -> None:
        """Forget what need not be kept any longer: outcomes, replies nobody fetched, ids a day after their messages."""
        now = self.now
        self.outcomes.prune()
        self._uniques.prune()
        self._execute("delete from shared where expires <= ?1 and (fence = 0 or expires <= ?1 - ?2)", (now, FENCE_KEPT))
        self._execute("delete from locks where until <= ?", (now - FENCE_KEPT,))
        self.leases.prune()
        # A row of `seen` may stand for a living message if one as old as that is left in its source.
        oldest = self._execute(
            f"select {SOURCE}, min(born) from (select source, born from entries union all"
            " select source, born from delayed union all select source, born from behind) group by 1"
        ).fetchall()
        for source, born in oldest:
            self._execute("update seen set alive = ? where source = ? and touched >= ?", (now, source, born))
        self._execute("delete from seen where touched < ? and alive < ?", (now - DAY, now - DAY))


def _row_of(source: int, one: EnvelopeRow, now: float) -> tuple[Any, ...]:
    """Return the values of `CARRIED` of a message."""
    carried, rare = (one.id, one.type, one.data, one.headers, now, one.addressee), one.rare
    if rare is None:
        return (source, *carried, None, None, None)
    unique = None if rare.unique is None else rare.unique.key
    return (channel(source, rare.priority), *carried, rare.key, rare.ends(now), unique)
