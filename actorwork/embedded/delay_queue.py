"""The messages that are not due yet: delayed ones, and retries that wait."""

from __future__ import annotations

import json
from builtins import list as list_of
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from actorwork.embedded.key_queues import KeyQueues
from actorwork.embedded.rows import CARRIED, channel_numbers, headers_from
from actorwork.embedded.transaction import Transaction

if TYPE_CHECKING:
    from actorwork.records import Delayed


class DelayQueue:
    def __init__(self, transaction: Transaction, key_queues: KeyQueues) -> None:
        self._transaction = transaction
        self._execute = transaction.execute
        self._key_queues = key_queues

    def __repr__(self) -> str:
        return "<DelayQueue>"

    def add(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Add messages: the values of `CARRIED`, and when they are due."""
        self._transaction.executemany(
            f"insert into delayed ({CARRIED}, due) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows
        )
        self._transaction.is_delayed_until(min(row[-1] for row in rows))

    def first_due(self) -> float | None:
        """Return when the next one is due. Needs no transaction."""
        return self._execute("select min(due) from delayed").fetchone()[0]

    def promote(self, limit: int = 1000) -> int:
        """Move those that are due to the ends of their channels, or of the queues of their keys; return how many."""
        due = self._execute(
            "select place, source, key is not null and not goes_first from delayed where due <= ?"
            " order by due, place limit ?",
            (self._transaction.now, limit),
        ).fetchall()
        plain = [place for place, _, is_queued in due if not is_queued]
        if plain:
            places = json.dumps(plain)
            self._execute(_MOVE, (places,))
            self._execute("delete from delayed where place in (select value from json_each(?))", (places,))
            self._transaction.touched.update(channel for _, channel, is_queued in due if not is_queued)
        for place, _, is_queued in due:
            if is_queued:
                row = self._execute(f"select {CARRIED} from delayed where place = ?", (place,)).fetchone()
                self._execute("delete from delayed where place = ?", (place,))
                self._key_queues.enter(row)
        return len(due)

    def list(self, source: str | None, limit: int) -> list_of[Delayed]:
        """Return the delayed messages of each source in the order in which they are due. Needs no transaction."""
        from actorwork.records import Delayed  # noqa: PLC0415 - see records.py

        sources: list_of[tuple[int, str]] = self._execute(
            "select source, name from sources where ? is null or name = ? order by name", (source, source)
        ).fetchall()
        found: list_of[Delayed] = []
        for number, name in sources:
            if len(found) >= limit:
                break
            rows: list_of[Any] = self._execute(_LIST, (*channel_numbers(number), limit - len(found))).fetchall()
            found += [Delayed(name, one, due, data, kind, headers_from(text)) for one, due, data, kind, text in rows]
        return found


_MOVE: Final = (
    f"insert into entries ({CARRIED}, ready) select {CARRIED}, due from delayed"
    " where place in (select value from json_each(?)) order by due, place"
)
_LIST: Final = (
    "select id, due, data, type, headers from delayed where source in (?, ?, ?, ?) order by due, place limit ?"
)
