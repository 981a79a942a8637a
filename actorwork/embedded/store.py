"""What the embedded broker does inside a transaction, in SQL.

A source is a list of entries in the order of their `seq`. Each group of a source has a cursor, the last entry it
was given, and a row in `pending` for every entry that it was given and has not settled:

    entries ──seq──▶  … | settled: row gone | given: pending (owner, count) | after the cursor: not yet given

    pending.node      > 0   the node that owns it (its number in `nodes`)
                        0   handed back: anybody's, and first in line
                      < 0   orphaned: the node of that number died with it in hand; anybody's too
    pending.count     how often it was given; handing back takes one off. So an orphan's count is the number of
                      processes that died of it.

An entry leaves when no group has it pending and no cursor is before it; one with an `addressee` leaves when that
group has settled it. `seq` is never used twice (AUTOINCREMENT), or a message could be born behind a cursor.

Whatever is written here is written under `begin immediate`, so one process writes at a time, and reading what
one is about to change is safe. Nothing is remembered from one transaction to the next but the numbers of sources,
which never change; and these are forgotten when a transaction fails.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import attrs

from actorwork.message import (
    ATTEMPT,
    NO_HEADERS,
    REPLY_TO,
    RESULT_TTL,
    DeadLetter,
    Delivery,
    Envelope,
    Failure,
    Outcome,
)
from actorwork.policy.attempts import headers_of_first_attempt, headers_of_next_attempt
from actorwork.policy.settlement import Ack, Fail, Reject, Retry, Settlement
from actorwork.policy.values import FENCE_KEPT

SUSPECT: Final = 2
MANY: Final = 1000
DAY: Final = 86400.0
HOUR: Final = 3600.0

_OURS: Final = re.compile(r"([0-9a-f]{16})-(0|[1-9a-f][0-9a-f]{0,11})")
_BLOCK_BITS: Final = 10
_BLOCK_MASK: Final = (1 << _BLOCK_BITS) - 1
_BLOCK_BYTES: Final = (1 << _BLOCK_BITS) // 8


class Token(NamedTuple):
    """What settles a delivery: which entry, for which group, owned by whom, given for the how-many-th time."""

    seq: int
    grp: int
    node: int
    given: int


class Parcel(NamedTuple):
    """An envelope in the columns of a table; `due` is in seconds since the epoch, `delay` is from now."""

    source: str
    id: str
    type: str | None
    data: bytes
    headers: str | None
    addressee: str | None
    delay: float
    due: float | None


Letterhead: TypeAlias = "tuple[str, str, str, Outcome]"
"""A reply to be sent: address, source, message id, outcome."""


@attrs.define(eq=False)
class Lane:
    """One source as one group of one node reads it. `ready`: there may be something to read."""

    name: str
    group: str
    actor: str
    max_crashes: int
    source: int = 0
    grp: int = 0
    ready: bool = True
    suspects: bool = False
    """Whether messages wait until the one that is run alone has ended."""

    @property
    def alone_from(self) -> int:
        """From how many crashes on a message is run beside no other one of that kind."""
        return max(1, min(SUSPECT, self.max_crashes))


@attrs.define(eq=False)
class Taken:
    """What was read from one lane."""

    deliveries: list[Delivery] = attrs.field(factory=list[Delivery])
    reclaimed: list[tuple[int, int]] = attrs.field(factory=list[tuple[int, int]])
    """The previous owner's number (0: it was handed back), and how many were his."""
    buried: list[tuple[str, int]] = attrs.field(factory=list[tuple[str, int]])
    restored: bool = False
    emptied: bool = False
    held: bool = False


@attrs.frozen(eq=False)
class Closing:
    """A settlement on its way to the store."""

    delivery: Delivery
    group: str
    actor: str
    settlement: Settlement
    published: Sequence[Parcel]
    owner: Any = None
    plain: bool = False
    """Whether the only thing it does is to end the delivery: many such go in one statement."""


def parcel(envelope: Envelope) -> Parcel:
    """Put an envelope into columns. Raises TypeError or ValueError for headers that are no JSON."""
    headers = envelope.headers
    return Parcel(
        envelope.source,
        envelope.id,
        envelope.type,
        envelope.data,
        json.dumps(dict(headers)) if headers else None,
        envelope.group,
        envelope.delay,
        envelope.at,
    )


def is_plain(delivery: Delivery, settlement: Settlement, published: Sequence[object]) -> bool:
    if published or not isinstance(settlement, (Ack, Reject)):
        return False
    headers = delivery.headers
    return not headers or (RESULT_TTL not in headers and REPLY_TO not in headers)


class Store:
    """The store's tables, in the words of the broker. Every method wants an open transaction, unless it says not."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._execute = connection.execute
        self.execute = connection.execute
        """For tables that have nothing to do with messages."""
        self._sources: dict[str, int] = {}
        self._bits: dict[tuple[int, str, int], int] = {}
        self._news: set[tuple[int, str, int]] = set()
        self.now = 0.0
        """The wall clock as of this transaction."""
        self.touched: set[int] = set()
        """Sources with something new to read; whoever wakes the readers empties it."""
        self.orphaned = False
        """Whether a lease has ended, so that there is something to take over; whoever wakes the readers clears it."""
        self.replies: list[Letterhead] = []
        """Replies to be sent: the writer keeps those to its own process, and stores the others."""
        self.next_due: float | None = None
        """When a delayed message is due, as far as this transaction knows; None: nothing was delayed in it."""

    def __repr__(self) -> str:
        return f"<Store of {len(self._sources)} known sources>"

    # ------------------------------------------------------------------------------------------- the transaction

    def begin(self, now: float) -> None:
        self._execute("begin immediate")
        self.now = now
        self.next_due = None

    def commit(self) -> None:
        self._remember()
        self._execute("commit")

    def rollback(self) -> None:
        self._sources.clear()
        self._bits.clear()
        self._news.clear()
        self.replies.clear()
        if self._connection.in_transaction:
            self._execute("rollback")

    # ------------------------------------------------------------------------------------------------- publishing

    def publish(self, parcels: Iterable[Parcel]) -> int:
        """Keep messages whose ids were not seen before; return how many these are."""
        now = self.now
        entries: list[tuple[object, ...]] = []
        delayed: list[tuple[object, ...]] = []
        for one in parcels:
            source = self._sources.get(one.source) or self.source(one.source)
            if not self._is_new(source, one.id):
                continue
            due = one.due if one.due is not None else now + one.delay
            row = (source, one.id, one.type, one.data, one.headers, now, one.addressee)
            if due > now:
                delayed.append((*row, due))
                if self.next_due is None or due < self.next_due:
                    self.next_due = due
            else:
                entries.append(row)
                self.touched.add(source)
        if entries:
            self._connection.executemany(
                "insert into entries (source, id, type, data, headers, born, addressee) values (?, ?, ?, ?, ?, ?, ?)",
                entries,
            )
        if delayed:
            self._connection.executemany(
                "insert into delayed (source, id, type, data, headers, born, addressee, due)"
                " values (?, ?, ?, ?, ?, ?, ?, ?)",
                delayed,
            )
        return len(entries) + len(delayed)

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

    def _is_new(self, source: int, id: str) -> bool:
        ours = _OURS.fullmatch(id)
        if ours is None:
            done = self._execute(
                "insert or ignore into seen (source, stem, block, touched) values (?, ?, -1, ?)", (source, id, self.now)
            )
            return done.rowcount == 1
        number = int(ours[2], 16)
        key = (source, ours[1], number >> _BLOCK_BITS)
        bits = self._bits.get(key)
        if bits is None:
            row = self._execute("select bits from seen where source = ? and stem = ? and block = ?", key).fetchone()
            bits = int.from_bytes(row[0], "little") if row else 0
        bit = 1 << (number & _BLOCK_MASK)
        self._bits[key] = bits | bit
        if bits & bit:
            return False
        self._news.add(key)
        return True

    def _remember(self) -> None:
        if self._news:
            now = self.now
            self._connection.executemany(
                "insert or replace into seen (source, stem, block, bits, touched) values (?, ?, ?, ?, ?)",
                [(*key, self._bits[key].to_bytes(_BLOCK_BYTES, "little"), now) for key in self._news],
            )
            self._news.clear()
        self._bits.clear()

    def first_due(self) -> float | None:
        """Return when the next delayed message is due. Needs no transaction."""
        return self._execute("select min(due) from delayed").fetchone()[0]

    def promote(self, limit: int = 1000) -> int:
        """Move the delayed messages that are due to the ends of their sources; return how many."""
        due = self._execute(
            "select place, source from delayed where due <= ? order by due, place limit ?", (self.now, limit)
        ).fetchall()
        for place, source in due:
            self._execute(
                "insert into entries (source, id, type, data, headers, born, addressee)"
                " select source, id, type, data, headers, born, addressee from delayed where place = ?",
                (place,),
            )
            self._execute("delete from delayed where place = ?", (place,))
            self.touched.add(source)
        return len(due)

    # ---------------------------------------------------------------------------------------------------- reading

    def open_lane(self, lane: Lane) -> bool:
        """Make the group of a lane if it is new, at the beginning of what is there; return whether it was."""
        lane.source = self.source(lane.name)
        done = self._execute("insert or ignore into groups (source, name) values (?, ?)", (lane.source, lane.group))
        row = self._execute(
            "select grp from groups where source = ? and name = ?", (lane.source, lane.group)
        ).fetchone()
        lane.grp = row[0]
        return done.rowcount == 1

    def take(self, lane: Lane, node: int, limit: int) -> Taken:
        """Give entries of a lane to a node: first what is nobody's any more, then what its group was never given."""
        taken = Taken()
        free = self._execute(
            "select p.seq, p.count, p.node, e.id, e.type, e.data, e.headers from pending p join entries e using (seq)"
            " where p.grp = ? and p.node <= 0 order by p.seq limit ?",
            (lane.grp, limit),
        ).fetchall()
        if lane.suspects or any(count >= lane.alone_from for _, count, *_ in free):
            free = self._one_suspect_of(free, lane, node, taken)
        again: list[int] = []
        owners: dict[int, int] = {}
        for seq, count, owner, message_id, kind, data, headers in free:
            if count > lane.max_crashes:
                self._bury(lane, seq, count, message_id, data, kind, headers)
                taken.buried.append((message_id, count))
                continue
            again.append(seq)
            owners[-owner] = owners.get(-owner, 0) + 1
            token = Token(seq, lane.grp, node, count + 1)
            taken.deliveries.append(_delivery(lane.name, message_id, kind, data, headers, token))
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
            "select seq, id, type, data, headers, addressee from entries where source = ? and seq > ?"
            " order by seq limit ?",
            (lane.source, cursor, room),
        ).fetchall()
        if rows:
            last = rows[-1][0]
            self._execute("update groups set cursor = ? where grp = ?", (last, lane.grp))
            self._execute(
                "insert into pending (seq, grp, node, count) select seq, ?, ?, 1 from entries"
                " where source = ? and seq > ? and seq <= ? and (addressee is null or addressee = ?)",
                (lane.grp, node, lane.source, cursor, last, lane.group),
            )
            mine, grp, name = lane.group, lane.grp, lane.name
            taken.deliveries += [
                _delivery(name, message_id, kind, data, headers, Token(seq, grp, node, 1))
                for seq, message_id, kind, data, headers, addressee in rows
                if addressee is None or addressee == mine
            ]
        taken.emptied = len(rows) < room
        return taken

    def _one_suspect_of(self, free: list[Any], lane: Lane, node: int, taken: Taken) -> list[Any]:
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

    def _bury(
        self, lane: Lane, seq: int, crashes: int, id: str, data: bytes, type: str | None, headers: str | None
    ) -> None:
        failure = Failure("Crashed", f"{crashes} processes died with this message in hand")
        delivery = _delivery(lane.name, id, type, data, headers, Token(seq, lane.grp, 0, crashes))
        self._execute("delete from pending where seq = ? and grp = ?", (seq, lane.grp))
        self._make_dead_letter(delivery, lane.group, lane.actor, failure)
        self._answer(delivery, Outcome("failed", failure=failure))
        self._drop((seq,))

    def news_since(self, seq: int) -> tuple[int, list[int]]:
        """Return the last `seq` and the sources with entries after `seq`. Needs no transaction."""
        last = self._execute("select seq from sqlite_sequence where name = 'entries'").fetchone()
        if not last or last[0] <= seq:
            return seq, []
        # Looking at every entry is for a few; otherwise any source may have news.
        few = last[0] - seq <= MANY
        rows = self._execute(
            "select distinct source from entries where seq > ?"
            if few
            else "select source from sources where ? is not null",
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
            alike.setdefault(token[1:], []).append(token)
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

    def settle(self, closing: Closing) -> bool:
        """End one delivery with all that belongs to it, if it is still ours; return whether it was."""
        delivery = closing.delivery
        if not self._disown(delivery.token):
            return False
        match closing.settlement:
            case Ack(result=result):
                self._answer(delivery, Outcome("done", b"null" if result is None else result))
            case Reject(failure=failure):
                self._answer(delivery, Outcome("rejected", failure=failure))
            case Fail(failure=failure):
                self._make_dead_letter(delivery, closing.group, closing.actor, failure)
                self._answer(delivery, Outcome("failed", failure=failure))
            case Retry(delay=delay, failure=failure):
                self._try_again(delivery, closing.group, failure, delay)
        self._drop((delivery.token.seq,))
        if closing.published:
            self.publish(closing.published)
        return True

    def owns(self, token: Token) -> bool:
        row = self._execute(
            "select 1 from pending where seq = ? and grp = ? and node = ? and count = ?", token
        ).fetchone()
        return row is not None

    def hand_back(self, tokens: Sequence[Token]) -> int:
        """Give up what is still ours of these, each in its place, its count restored; return how many."""
        given = 0
        for token in tokens:
            done = self._execute(
                "update pending set node = 0, count = count - 1 where seq = ? and grp = ? and node = ? and count = ?",
                token,
            )
            given += done.rowcount
        return given

    def _disown(self, token: Token) -> bool:
        done = self._execute("delete from pending where seq = ? and grp = ? and node = ? and count = ?", token)
        return done.rowcount == 1

    def _drop(self, seqs: Sequence[int]) -> None:
        self._drop_all(json.dumps(seqs))

    def _drop_all(self, seqs: str) -> None:
        self._execute(
            "delete from entries where seq in (select value from json_each(?))"
            " and not exists (select 1 from pending p where p.seq = entries.seq)"
            " and (addressee is not null or not exists"
            " (select 1 from groups g where g.source = entries.source and g.cursor < entries.seq))",
            (seqs,),
        )

    def _try_again(self, delivery: Delivery, group: str, failure: Failure, delay: float) -> None:
        headers = headers_of_next_attempt(delivery, failure, self.now)
        seq = delivery.token.seq
        if delay <= 0:
            self._execute(
                "insert into entries (source, id, type, data, headers, born, addressee)"
                " select source, id, type, data, ?, born, ? from entries where seq = ?",
                (json.dumps(headers), group, seq),
            )
            self.touched.add(self.source(delivery.source))
            return
        due = self.now + delay
        self._execute(
            "insert into delayed (source, id, type, data, headers, born, addressee, due)"
            " select source, id, type, data, ?, born, ?, ? from entries where seq = ?",
            (json.dumps(headers), group, due, seq),
        )
        if self.next_due is None or due < self.next_due:
            self.next_due = due

    def _make_dead_letter(self, delivery: Delivery, group: str, actor: str, failure: Failure) -> None:
        self._execute(
            "insert into dead (source, id, type, data, headers, grp, actor, attempt, at, failure)"
            " select source, id, type, data, headers, ?, ?, ?, ?, ? from entries where seq = ?",
            (group, actor, delivery.attempt, self.now, json.dumps(attrs.asdict(failure)), delivery.token.seq),
        )

    # ------------------------------------------------------------------------------------------ outcomes, replies

    def _answer(self, delivery: Delivery, outcome: Outcome) -> None:
        headers = delivery.headers
        if not headers:
            return
        ttl = headers.get(RESULT_TTL)
        if isinstance(ttl, (int, float)) and ttl > 0:
            self._execute(
                "insert or replace into outcomes (source, id, status, value, failure, expires)"
                " values (?, ?, ?, ?, ?, ?)",
                (self.source(delivery.source), delivery.id, *_outcome_columns(outcome), self.now + ttl),
            )
        address = headers.get(REPLY_TO)
        if isinstance(address, str):
            self.replies.append((address, delivery.source, delivery.id, outcome))

    def post(self, replies: Iterable[Letterhead]) -> None:
        """Keep replies for other processes, which fetch them."""
        self._connection.executemany(
            "insert into replies (address, source, id, status, value, failure, at) values (?, ?, ?, ?, ?, ?, ?)",
            [(*letter[:3], *_outcome_columns(letter[3]), self.now) for letter in replies],
        )

    def fetch(self, addresses: Iterable[str]) -> list[Letterhead]:
        """Take the replies that have come to these addresses."""
        wanted = json.dumps(list(addresses))
        rows = self._execute(
            "select address, source, id, status, value, failure from replies"
            " where address in (select value from json_each(?)) order by reply",
            (wanted,),
        ).fetchall()
        if rows:
            self._execute("delete from replies where address in (select value from json_each(?))", (wanted,))
        return [(row[0], row[1], row[2], _outcome(*row[3:])) for row in rows]

    def has_replies(self, addresses: Iterable[str]) -> bool:
        """Whether replies have come to these addresses. Needs no transaction."""
        wanted = json.dumps(list(addresses))
        row = self._execute(
            "select 1 from replies where address in (select value from json_each(?)) limit 1", (wanted,)
        ).fetchone()
        return row is not None

    def find_outcome(self, source: str, id: str, now: float) -> Outcome | None:
        """Needs no transaction."""
        row = self._execute(
            "select o.status, o.value, o.failure from outcomes o join sources s using (source)"
            " where s.name = ? and o.id = ? and o.expires > ?",
            (source, id, now),
        ).fetchone()
        return _outcome(*row) if row else None

    # ----------------------------------------------------------------------------------------------------- leases

    def take_lease(self, incarnation: str, expires: float) -> int:
        """Enter a node; return its number."""
        done = self._execute("insert into nodes (incarnation, expires) values (?, ?)", (incarnation, expires))
        return done.lastrowid or 0

    def renew_lease(self, node: int, expires: float) -> bool:
        """Return whether there was a lease to renew. Late is not too late, as long as nobody has ended it."""
        done = self._execute("update nodes set expires = ? where node = ? and ended is null", (expires, node))
        return done.rowcount == 1

    def has_lease(self, node: int) -> bool:
        row = self._execute("select 1 from nodes where node = ? and ended is null", (node,)).fetchone()
        return row is not None

    def expired_leases(self, now: float) -> list[int]:
        """Return the nodes that have not renewed their leases. Needs no transaction."""
        rows = self._execute("select node from nodes where ended is null and expires < ?", (now,)).fetchall()
        return [row[0] for row in rows]

    def end_lease(self, node: int, *, unless_later_than: float | None = None) -> bool:
        """Declare a node dead, and all it had in hand orphaned; return whether it was alive."""
        limit = float("inf") if unless_later_than is None else unless_later_than
        done = self._execute(
            "update nodes set ended = ? where node = ? and ended is null and expires <= ?", (self.now, node, limit)
        )
        if done.rowcount:
            self._execute("update pending set node = -node where node = ?", (node,))
            self.orphaned = True
        return done.rowcount == 1

    def node_number(self, incarnation: str) -> int | None:
        row = self._execute("select node from nodes where incarnation = ?", (incarnation,)).fetchone()
        return row[0] if row else None

    def incarnation(self, node: int) -> str:
        if node == 0:
            return "released"
        row = self._execute("select incarnation from nodes where node = ?", (node,)).fetchone()
        return row[0] if row else "unknown"

    # ----------------------------------------------------------------------------------------------- dead letters

    def dead_letters(self, source: str | None, limit: int) -> list[DeadLetter]:
        """Needs no transaction."""
        where, arguments = ("", ()) if source is None else (" where s.name = ?", (source,))
        rows = self._execute(f"{_DEAD}{where} order by s.name, d.entry limit ?", (*arguments, limit))
        return [_dead_letter(row) for row in rows]

    def dead_letter(self, source: str, entry: str) -> DeadLetter | None:
        """Needs no transaction."""
        row = self._execute(f"{_DEAD} where s.name = ? and d.entry = ?", (source, entry)).fetchone()
        return _dead_letter(row) if row else None

    def replay(self, source: str, entries: Iterable[str]) -> int:
        number, found = self.source(source), 0
        for entry in entries:
            row = self._execute("select headers from dead where entry = ? and source = ?", (entry, number)).fetchone()
            if row is None:
                continue
            headers = headers_of_first_attempt(_headers(row[0]))
            self._execute(
                "insert into entries (source, id, type, data, headers, born, addressee)"
                " select source, id, type, data, ?, ?, grp from dead where entry = ?",
                (json.dumps(headers) if headers else None, self.now, entry),
            )
            self._execute("delete from dead where entry = ?", (entry,))
            self.touched.add(number)
            found += 1
        return found

    def drop_dead_letters(self, source: str, entries: Iterable[str]) -> int:
        number, found = self.source(source), 0
        for entry in entries:
            found += self._execute("delete from dead where entry = ? and source = ?", (entry, number)).rowcount
        return found

    # ----------------------------------------------------------------------------------------------- housekeeping

    def pragma(self, name: str) -> object:
        """Needs no transaction."""
        return self._execute(f"pragma {name}").fetchone()[0]

    def backlog(self, source: str) -> int:
        """Needs no transaction."""
        row = self._execute(
            "select count(*) from entries where source = (select source from sources where name = ?)", (source,)
        ).fetchone()
        return row[0]

    def prune(self) -> None:
        """Forget what need not be kept any longer: outcomes, replies nobody fetched, ids a day after their messages."""
        now = self.now
        self._execute("delete from outcomes where expires <= ?", (now,))
        self._execute("delete from replies where at < ?", (now - HOUR,))
        self._execute("delete from shared where expires <= ?1 and (fence = 0 or expires <= ?1 - ?2)", (now, FENCE_KEPT))
        self._execute("delete from locks where until <= ?", (now - FENCE_KEPT,))
        self._execute(
            "delete from nodes where ended < ? and not exists (select 1 from pending p where p.node = -nodes.node)",
            (now - DAY,),
        )
        # A row of `seen` may stand for a living message if one as old as that is left in its source.
        oldest = self._execute(
            "select source, min(born) from"
            " (select source, born from entries union all select source, born from delayed) group by source"
        ).fetchall()
        for source, born in oldest:
            self._execute("update seen set alive = ? where source = ? and touched >= ?", (now, source, born))
        self._execute("delete from seen where touched < ? and alive < ?", (now - DAY, now - DAY))


_DEAD: Final = (
    "select s.name, d.entry, d.id, d.grp, d.actor, d.failure, d.attempt, d.at, d.data, d.type, d.headers"
    " from dead d join sources s using (source)"
)


def _dead_letter(row: Any) -> DeadLetter:
    source, entry, message_id, group, actor, failure, attempt, at, data, kind, headers = row
    return DeadLetter(
        source, str(entry), message_id, group, actor, _failure(failure), attempt, at, data, kind, _headers(headers)
    )


def _delivery(source: str, id: str, type: str | None, data: bytes, headers: str | None, token: Token) -> Delivery:
    if headers is None:
        return Delivery(id, source, data, token, type, NO_HEADERS, 1, token.given - 1)
    read = _headers(headers)
    attempt = read.get(ATTEMPT)
    return Delivery(id, source, data, token, type, read, attempt if isinstance(attempt, int) else 1, token.given - 1)


def _headers(text: str | None) -> Any:
    return NO_HEADERS if text is None else json.loads(text)


def _failure(text: str) -> Failure:
    return Failure(**json.loads(text))


def _outcome(status: Any, value: bytes, failure: str | None) -> Outcome:
    return Outcome(status, value, None if failure is None else _failure(failure))


def _outcome_columns(outcome: Outcome) -> tuple[str, bytes, str | None]:
    failure = outcome.failure
    return outcome.status, outcome.value, None if failure is None else json.dumps(attrs.asdict(failure))


def in_chunks(parcels: Sequence[Parcel], size: int) -> Iterator[Sequence[Parcel]]:
    for start in range(0, len(parcels), size):
        yield parcels[start : start + size]
