"""The numbers of sources: rows of messages name their source by it."""

from __future__ import annotations

from actorwork.embedded.transaction import Transaction


class SourceNumbers:
    """Remembers the numbers, which never change, until a transaction fails that may have given one."""

    def __init__(self, transaction: Transaction) -> None:
        self._execute = transaction.execute
        self._known: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<SourceNumbers: {len(self._known)} known>"

    def number(self, name: str) -> int:
        """Return the number of a source, which is created if it is new."""
        known = self._known.get(name)
        if known is None:
            known = self.find(name)
            if known is None:
                known = self._execute("insert into sources (name) values (?)", (name,)).lastrowid or 0
            self._known[name] = known
        return known

    def find(self, name: str) -> int | None:
        """Return the number of a source, if anything was ever sent to it. Needs no transaction."""
        row = self._execute("select source from sources where name = ?", (name,)).fetchone()
        return row[0] if row else None

    def rollback(self) -> None:
        self._known.clear()
