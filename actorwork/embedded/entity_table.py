"""The tables `entities` and `pasts`: the states of entities, and their last changes."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any, Final

from actorwork.embedded.leases import Leases
from actorwork.embedded.schema import LEVEL
from actorwork.embedded.settling import Settlements
from actorwork.embedded.sources import SourceNumbers
from actorwork.embedded.transaction import Stale, Transaction
from actorwork.errors import CodecError
from actorwork.message import Delivery
from actorwork.policy.entities import LISTED, FoundState, StateChange, StoredState, with_mark

FIELDS: Final = "version, data, at, author, node, schema, stamp"
"""The columns of a state."""
MOST_VERSION: Final = 10**15
ALIVE: Final = "(expires is null or expires > ?)"


class EntityTable:
    """What happens to states within a transaction. `source` is the number of a source."""

    def __init__(
        self, transaction: Transaction, sources: SourceNumbers, settlements: Settlements, leases: Leases
    ) -> None:
        self._transaction = transaction
        self._execute = transaction.execute
        self._sources = sources
        self._settlements = settlements
        self._leases = leases

    def __repr__(self) -> str:
        return "<EntityTable>"

    def get(self, source: int, group: str, key: str, now: float) -> StoredState | None:
        """Needs no transaction."""
        row = self._execute(
            f"select {FIELDS}, marks from entities where source = ? and grp = ? and key = ? and {ALIVE}",
            (source, group, key, now),
        ).fetchone()
        return None if row is None else state_of(row)

    def find(self, source: int, group: str, key: str, stamp: str, now: float) -> FoundState:
        """Return a state; True if it has this stamp. Needs no transaction."""
        if stamp:
            row = self._execute(
                f"select stamp from entities where source = ? and grp = ? and key = ? and {ALIVE}",
                (source, group, key, now),
            ).fetchone()
            if row is None or row[0] == stamp:
                return None if row is None else True
        return self.get(source, group, key, now)

    def version(self, source: int, group: str, key: str) -> int:
        row = self._execute(
            f"select version from entities where source = ? and grp = ? and key = ? and {ALIVE}",
            (source, group, key, self._transaction.now),
        ).fetchone()
        return row[0] if row is not None and _is_version(row[0]) else 0

    def ttl(self, source: int, group: str, key: str) -> float | None:
        """Return how many seconds after its last change a state is kept; None for ever, and for none."""
        row = self._execute(
            f"select expires - at from entities where source = ? and grp = ? and key = ? and {ALIVE}",
            (source, group, key, self._transaction.now),
        ).fetchone()
        return None if row is None else row[0]

    def settle(self, delivery: Delivery, group: str, change: StateChange) -> bool:
        """Change the state of the key of a delivery, if this is still ours; return whether it was.

        Raises `Stale`, and changes nothing, if the state has another version than the change names.
        """
        if not self._settlements.owns(delivery.token):
            return False
        source, key = self._sources.number(delivery.source), delivery.key or ""
        found = self.version(source, group, key)
        if found != change.version:
            raise Stale(found)
        self.change(source, group, key, change, by=delivery.id, node=self._leases.incarnation(delivery.token.node))
        return True

    def change(self, source: int, group: str, key: str, change: StateChange, *, by: str, node: str) -> None:
        """Write a change; the caller has looked at the version."""
        place = (source, group, key)
        self._transaction.changes_state = True
        if change.data is None:
            self.forget(source, group, key)
            return
        now = self._transaction.now
        expires = None if change.ttl is None else now + change.ttl
        state = (change.version + 1, change.data, now, by, node, change.schema, change.stamp)
        marks, has_past = self._marks(place) if change.version else (b"", True)
        if change.mark:
            marks = with_mark(marks, change.mark)
        self._execute(
            f"insert or replace into entities (source, grp, key, {FIELDS}, marks, expires)"
            " values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*place, *state, marks, expires),
        )
        kept = change.history
        if has_past and (kept == 0 or change.version == 0):
            # What is left of a state that has expired, and whose versions began anew; or no change is kept any more.
            self._execute("delete from pasts where source = ? and grp = ? and key = ?", place)
        if kept is None:
            listed = "select count(*) from pasts where source = ? and grp = ? and key = ?"
            kept = max(LISTED, self._execute(listed, place).fetchone()[0])
        if kept:
            self._execute(
                f"insert or replace into pasts (source, grp, key, {FIELDS}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*place, *state),
            )
            self._execute(
                "delete from pasts where source = ? and grp = ? and key = ? and version not in (select version from"
                " pasts where source = ? and grp = ? and key = ? order by version desc limit ?)",
                (*place, *place, kept),
            )

    def _marks(self, place: tuple[int, str, str]) -> tuple[bytes, bool]:
        """Return the marks of a state, and whether changes of it are listed."""
        row = self._execute(
            "select marks, exists (select 1 from pasts p where p.source = e.source and p.grp = e.grp and p.key = e.key)"
            " from entities e where source = ? and grp = ? and key = ?",
            place,
        ).fetchone()
        marks, has_past = row or (b"", False)
        return marks if isinstance(marks, bytes) else b"", bool(has_past)

    def forget(self, source: int, group: str, key: str) -> None:
        for table in ("entities", "pasts"):
            self._execute(f"delete from {table} where source = ? and grp = ? and key = ?", (source, group, key))

    def is_in_hand(self, source: int, key: str) -> bool:
        """Whether a node owns a delivery of a key."""
        row = self._execute(
            "select 1 from entries e join pending p on p.seq = e.seq"
            f" where e.key = ? and e.source & {LEVEL - 1} = ? and p.node <> 0 limit 1",
            (key, source),
        ).fetchone()
        return row is not None


def _is_version(value: object) -> bool:
    return isinstance(value, int) and 0 <= value <= MOST_VERSION


def state_of(row: Sequence[Any]) -> StoredState:
    """Return the state in a row of `FIELDS`, which the marks may follow.

    Raises `CodecError` for one that was written by others than us: columns take values of any type.
    """
    version, data, at, by, node, schema, stamp, *marks = row
    if not _is_version(version) or not isinstance(schema, int) or not isinstance(at, (int, float)):
        raise CodecError(f"its row wants numbers as version, at and schema, got {version!r}, {at!r}, {schema!r}")
    if marks and not isinstance(marks[0], (bytes, types.NoneType)):
        raise CodecError(f"its row wants bytes as marks, got {marks[0]!r:.80}")
    return StoredState(
        version=version,
        data=data.encode() if isinstance(data, str) else data,  # A state that was written by hand.
        at=at,
        by=by,
        node=node,
        schema=schema,
        stamp=stamp,
        marks=(marks[0] or b"") if marks else b"",
    )
