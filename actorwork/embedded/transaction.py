"""What all parts of the store share while a transaction is open."""

from __future__ import annotations

import sqlite3

from actorwork.embedded.rows import ReplyAddress


class Transaction:
    """The connection, the time, and what a transaction leaves for others to do."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.execute = connection.execute
        self.executemany = connection.executemany
        self.now = 0.0
        """The wall clock as of this transaction."""
        self.touched: set[int] = set()
        """Sources with something new to read; whoever wakes the readers empties it."""
        self.orphaned = False
        """Whether a lease has ended, so that something may be free; whoever wakes the readers clears it."""
        self.replies: list[ReplyAddress] = []
        """Replies to be sent: the writer keeps those to its own process, and stores the others."""
        self.next_due: float | None = None
        """When a delayed message is due, as far as this transaction knows; None: nothing was delayed in it."""

    def __repr__(self) -> str:
        return f"<Transaction at {self.now}>"

    def is_delayed_until(self, until: float) -> None:
        """Note when something is due."""
        if self.next_due is None or until < self.next_due:
            self.next_due = until
