"""Messages that are deleted before they are begun: cancelled, or replaced by another one."""

from __future__ import annotations

from typing import Any, Final

from actorwork.embedded.key_queues import KeyQueues
from actorwork.embedded.outcomes import Outcomes
from actorwork.embedded.rows import channel_numbers, headers_from
from actorwork.embedded.schema import SOURCE
from actorwork.embedded.states import StateTable
from actorwork.embedded.transaction import Transaction
from actorwork.embedded.uniques import Uniques
from actorwork.message import Failure, Outcome

CANCELLED: Final = Failure("Cancelled", "it was cancelled before it was begun")
REPLACED: Final = Failure("Cancelled", "another message with its unique key has replaced it")


class Cancellation:
    def __init__(
        self,
        transaction: Transaction,
        key_queues: KeyQueues,
        uniques: Uniques,
        outcomes: Outcomes,
        states: StateTable,
    ) -> None:
        self._states = states
        self._execute = transaction.execute
        self._key_queues = key_queues
        self._uniques = uniques
        self._outcomes = outcomes

    def __repr__(self) -> str:
        return "<Cancellation>"

    def cancel(self, source: int, name: str, id: str) -> bool:
        """Delete a message that is delayed, or waits behind others of its key; return whether there was one."""
        rows = self._not_begun(source, id)
        self._take(source, name, id, rows, CANCELLED)
        return bool(rows)

    def cancel_anywhere(self, source: int, name: str, id: str, reason: str, *, force: bool = False) -> bool:
        """Cancel a message wherever it is; return whether it was open, and not cancelled before.

        One that is not tracked is only looked for where it is held back.
        """
        is_open = self._states.is_open(source, id)
        if is_open is False:
            return False
        failure = Failure("Cancelled", reason or CANCELLED.reason)
        rows = self._not_begun(source, id)
        if is_open:
            rows += self._take_waiting(source, id)
        self._take(source, name, id, rows, failure)
        return bool(rows) or (
            is_open is True and self._states.cancel(source, id, reason or "it was cancelled", force=force)
        )

    def _take_waiting(self, source: int, id: str) -> list[Any]:
        """Delete the entries of a message that no node has been given."""
        waiting = self._execute(_WAITING, (id, source)).fetchall()
        for seq, *_ in waiting:
            self._execute("delete from pending where seq = ?", (seq,))
            self._execute("delete from entries where seq = ?", (seq,))
        return [("", *row) for row in waiting]

    def replace(self, source: int, name: str, unique: str, id: str) -> bool:
        """Delete the message that has a unique key, unless it is in flight; return whether it is gone."""
        entries = self._execute(_ENTRIES, (unique, source, id)).fetchall()
        if any(row[-1] for row in entries):
            return False
        rows = self._not_begun(source, id)
        for seq, *_ in entries:
            self._execute("delete from pending where seq = ?", (seq,))
            self._execute("delete from entries where seq = ?", (seq,))
        self._take(source, name, id, [*(("", row[0], row[1], row[2], row[3]) for row in entries), *rows], REPLACED)
        return True

    def purge(self, source: int, name: str, reason: str, most: int) -> int:
        """Delete messages that no node has been given; return how many there were."""
        failure = Failure("Cancelled", reason)
        count = 0
        # In this order, because a message that leaves calls the next one with its key.
        for table, place, key, condition in (
            ("behind", "place", "null", ""),
            ("delayed", "place", "case when goes_first then key end", ""),
            ("entries", "seq", "key", f" and {UNREAD}"),
        ):
            rows = self._execute(
                f"select {place}, {key}, uniq, headers, id from {table} e where source in (?, ?, ?, ?){condition}"
                f" order by {place} limit ?",
                (*channel_numbers(source), most - count),
            ).fetchall()
            for number, *rest, message in rows:
                self._execute(f"delete from {table} where {place} = ?", (number,))
                self._take(source, name, message, [("", number, *rest)], failure)
            count += len(rows)
        return count

    def _not_begun(self, source: int, id: str) -> list[Any]:
        found: list[Any] = []
        for table, has_key in (("delayed", "goes_first"), ("behind", "0")):
            found += self._execute(
                f"select '{table}', place, case when {has_key} then key end, uniq, headers from {table}"
                " where source in (?, ?, ?, ?) and id = ?",
                (*channel_numbers(source), id),
            ).fetchall()
        return found

    def _take(self, source: int, name: str, id: str, rows: list[Any], failure: Failure) -> None:
        for table, place, *_ in rows:
            if table:
                self._execute(f"delete from {table} where place = ?", (place,))
        for _, _, key, unique, _ in rows:
            if unique is not None:
                self._uniques.release(source, unique, id)
            if key is not None:
                self._key_queues.advance(source, key)
        if rows:
            self._outcomes.answer(source, name, id, headers_from(rows[0][-1]), Outcome("rejected", failure=failure))


UNREAD: Final = "seq > (select coalesce(max(cursor), 0) from groups g where g.source = e.source)"
"""Whether an entry `e` was given to no node of any group."""
_WAITING: Final = (
    "select seq, key, uniq, headers from entries e where headers is not null and id = ?"
    f" and {SOURCE} = ? and not exists (select 1 from pending p where p.seq = e.seq and p.node > 0)"
)
_ENTRIES: Final = (
    "select seq, key, uniq, headers, exists (select 1 from pending p where p.seq = e.seq and p.node > 0)"
    f" from entries e where uniq = ? and {SOURCE} = ? and id = ?"
)
