"""Messages of one key: the head is an entry, the others wait in line behind it.

    entries    the head, once for all groups; and its retries, each for one group
    delayed    the head's retries that wait: rows that `goes_first`
    behind     all others, in their order

So nothing but heads can be read, and reading costs nothing. A key has a head as long as one of its rows is among the
first two; when the last of them is gone, the first one behind takes its place, in the same transaction. A message that
is held back has no place in the line before it is due.
"""

from __future__ import annotations

from typing import Any, Final

from actorwork.embedded.rows import CARRIED, source_of
from actorwork.embedded.schema import SOURCE
from actorwork.embedded.transaction import Transaction


class KeyQueues:
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._execute = transaction.execute

    def __repr__(self) -> str:
        return "<KeyQueues>"

    def enter(self, row: tuple[Any, ...]) -> None:
        """Put a message (the values of `CARRIED`) at the end of its channel, or of the line of its key."""
        key = row[7]
        if key is not None and self._has_head(source_of(row[0]), key):
            self._execute(f"insert into behind ({CARRIED}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        else:
            self._stand(row)

    def advance(self, source: int, key: str) -> None:
        """Let the next one follow, if nothing of the head is left."""
        if self._has_head(source, key):
            return
        row = self._execute(_NEXT, (key, source)).fetchone()
        if row is not None:
            self._execute("delete from behind where place = ?", row[:1])
            self._stand(row[1:])

    def _has_head(self, source: int, key: str) -> bool:
        return self._execute(_HEAD, (key, source, key, source)).fetchone()[0] == 1

    def _stand(self, row: tuple[Any, ...]) -> None:
        self._execute(
            f"insert into entries ({CARRIED}, ready) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*row, self._transaction.now),
        )
        self._transaction.touched.add(row[0])


_HEAD: Final = (
    f"select exists (select 1 from entries where key = ? and {SOURCE} = ?)"
    f" or exists (select 1 from delayed where goes_first and key = ? and {SOURCE} = ?)"
)
_NEXT: Final = f"select place, {CARRIED} from behind where key = ? and {SOURCE} = ? order by place limit 1"
