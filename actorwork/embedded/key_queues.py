"""Messages of one key: the head is an entry, the others wait in a queue behind it.

    entries    the head, once for all groups; and its retries, each for one group
    delayed    the retries of the head that wait: rows with `goes_first`
    behind     all others, in their order

So only heads can be read, and reading need not look at keys. A key has a head as long as it has a row in `entries` or
a `goes_first` row in `delayed`; when the last of these is gone, the first message behind becomes the head, in the same
transaction. A delayed message joins the queue when it is due, not before.
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
        """Put a message (the values of `CARRIED`) at the end of its channel, or of the queue of its key."""
        key = row[7]
        if key is not None and self._has_head(source_of(row[0]), key):
            self._execute(f"insert into behind ({CARRIED}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        else:
            self._stand(row)

    def advance(self, source: int, key: str) -> None:
        """Make the next message the head, if nothing of the last one is left."""
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
