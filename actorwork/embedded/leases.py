"""Which nodes are alive: a row for each, with the time at which it counts as dead unless it renews."""

from __future__ import annotations

from typing import Final

from actorwork.embedded.transaction import Transaction

DAY: Final = 86400.0


class Leases:
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._execute = transaction.execute

    def __repr__(self) -> str:
        return "<Leases>"

    def take(self, incarnation: str, expires: float) -> int:
        """Enter a node; return its number."""
        done = self._execute("insert into nodes (incarnation, expires) values (?, ?)", (incarnation, expires))
        return done.lastrowid or 0

    def renew(self, node: int, expires: float) -> bool:
        """Return whether there was a lease to renew. A late renewal succeeds unless another node ended the lease."""
        done = self._execute("update nodes set expires = ? where node = ? and ended is null", (expires, node))
        return done.rowcount == 1

    def has(self, node: int) -> bool:
        row = self._execute("select 1 from nodes where node = ? and ended is null", (node,)).fetchone()
        return row is not None

    def expired(self, now: float) -> list[int]:
        """Return the nodes that have not renewed their leases. Needs no transaction."""
        rows = self._execute("select node from nodes where ended is null and expires < ?", (now,)).fetchall()
        return [row[0] for row in rows]

    def end(self, node: int, *, unless_later_than: float | None = None) -> bool:
        """Declare a node dead, and what it had in flight orphaned; return whether it was alive."""
        limit = float("inf") if unless_later_than is None else unless_later_than
        done = self._execute(
            "update nodes set ended = ? where node = ? and ended is null and expires <= ?",
            (self._transaction.now, node, limit),
        )
        if done.rowcount:
            self._execute("update pending set node = -node where node = ?", (node,))
            self._transaction.orphaned = True
        return done.rowcount == 1

    def number_of(self, incarnation: str) -> int | None:
        row = self._execute("select node from nodes where incarnation = ?", (incarnation,)).fetchone()
        return row[0] if row else None

    def incarnation(self, node: int) -> str:
        if node == 0:
            return "released"
        row = self._execute("select incarnation from nodes where node = ?", (node,)).fetchone()
        return row[0] if row else "unknown"

    def prune(self) -> None:
        """Delete nodes a day after their end, unless some of their deliveries are still orphaned."""
        self._execute(
            "delete from nodes where ended < ? and not exists (select 1 from pending p where p.node = -nodes.node)",
            (self._transaction.now - DAY,),
        )
