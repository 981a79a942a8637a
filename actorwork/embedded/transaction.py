"""What all parts of the store share while a transaction is open."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, NamedTuple

from actorwork.embedded.rows import ReplyAddress

if TYPE_CHECKING:
    from actorwork.message import Json, Outcome
    from actorwork.policy.runs.rules import Room
    from actorwork.policy.runs.values import Expansion, Plan


class Stale(Exception):
    """The state of a key has the version `found`, and not the one that a settlement names."""

    def __init__(self, found: int) -> None:
        super().__init__(found)
        self.found = found


class StepEnd(NamedTuple):
    """A message with the header `FLOW` has ended."""

    header: Json
    id: str
    outcome: Outcome


class Transaction:
    """The connection, the time, and what must be done once the transaction is committed."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.execute = connection.execute
        self.executemany = connection.executemany
        self.now = 0.0
        """The wall clock as of this transaction."""
        self.room: Room | None = None
        """What it may still do for runs; None if it has done nothing."""
        self.touched: set[int] = set()
        """Channels with something new to read; emptied by the turn when it has woken their cursors."""
        self.orphaned = False
        """Whether a lease has ended, so that deliveries may be orphaned; cleared in the same way."""
        self.replies: list[ReplyAddress] = []
        """Replies to be sent: the turn calls the addresses of its own process, and stores the others."""
        self.step_ends: list[StepEnd] = []
        """Ends of steps, runs to be started and expanded: `RunTable.join` draws the conclusions before the commit."""
        self.starts: list[Plan] = []
        self.expansions: list[tuple[str, Expansion]] = []
        self.changed: set[tuple[str, str]] = set()
        """The source and id of tracked messages whose lives have changed; with the source "", the id of a run."""
        self.cancelled = False
        """Whether a message in flight was cancelled; cleared by the turn."""
        self.changes_state = False
        """Whether the state of an entity has changed; cleared by the turn."""
        self.next_due: float | None = None
        """When the first message that this transaction has delayed is due; None if it has delayed none."""

    def __repr__(self) -> str:
        return f"<Transaction at {self.now}>"

    def is_delayed_until(self, until: float) -> None:
        """Note when something is due."""
        if self.next_due is None or until < self.next_due:
            self.next_due = until
