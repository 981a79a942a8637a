"""Which message holds a unique key: one of all with that key in a source, until it has ended or the key expires."""

from __future__ import annotations

from typing import Final

from actorwork.embedded.schema import SOURCE
from actorwork.embedded.transaction import Transaction
from actorwork.message import Unique


class Uniques:
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._execute = transaction.execute

    def __repr__(self) -> str:
        return "<Uniques>"

    def holder(self, source: int, unique: Unique) -> str | None:
        """Return the id of the message that holds the key."""
        row = self._execute(
            "select id from uniques where source = ? and name = ? and expires > ?",
            (source, unique.key, self._transaction.now),
        ).fetchone()
        return None if row is None else row[0]

    def hold(self, source: int, unique: Unique, id: str) -> None:
        self._execute(
            "insert or replace into uniques (source, name, id, expires) values (?, ?, ?, ?)",
            (source, unique.key, id, self._transaction.now + unique.ttl),
        )

    def release(self, source: int, name: str, id: str) -> None:
        """Free a key, if this message holds it, and nothing of the message is left."""
        self._execute(_RELEASE, {"source": source, "name": name, "id": id})

    def prune(self) -> None:
        self._execute("delete from uniques where expires <= ?", (self._transaction.now,))


_LEFT: Final = f"(select 1 from {{}} where uniq = :name and {SOURCE} = :source and id = :id)"
_RELEASE: Final = (
    "delete from uniques where source = :source and name = :name and id = :id"
    f" and not exists {_LEFT.format('entries')} and not exists {_LEFT.format('delayed')}"
)
