"""The ids that a source has seen.

Those of `MessageIds` share a row by blocks of 1024 numbers, one bit each; any other id has a row of its own, with block
-1. The rows that a transaction changes are kept in memory until its end, so that a batch writes each of them once.
"""

from __future__ import annotations

import re
from typing import Final

from actorwork.embedded.transaction import Transaction

_OURS: Final = re.compile(r"([0-9a-f]{16})-(0|[1-9a-f][0-9a-f]{0,11})")
_BLOCK_BITS: Final = 10
_BLOCK_MASK: Final = (1 << _BLOCK_BITS) - 1
_BLOCK_BYTES: Final = (1 << _BLOCK_BITS) // 8


class SeenIds:
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._execute = transaction.execute
        self._bits: dict[tuple[int, str, int], int] = {}
        self._changed: set[tuple[int, str, int]] = set()

    def __repr__(self) -> str:
        return f"<SeenIds: {len(self._changed)} changed>"

    def rollback(self) -> None:
        self._bits.clear()
        self._changed.clear()

    def is_new(self, source: int, id: str) -> bool:
        """Remember an id; return whether it was new."""
        ours = _OURS.fullmatch(id)
        if ours is None:
            done = self._execute(
                "insert or ignore into seen (source, stem, block, touched) values (?, ?, -1, ?)",
                (source, id, self._transaction.now),
            )
            return done.rowcount == 1
        number = int(ours[2], 16)
        key = (source, ours[1], number >> _BLOCK_BITS)
        bits = self._bits.get(key)
        if bits is None:
            bits = self._block(key)
        bit = 1 << (number & _BLOCK_MASK)
        self._bits[key] = bits | bit
        if bits & bit:
            return False
        self._changed.add(key)
        return True

    def _block(self, key: tuple[int, str, int]) -> int:
        bits = self._bits.get(key)
        if bits is not None:
            return bits
        row = self._execute("select bits from seen where source = ? and stem = ? and block = ?", key).fetchone()
        return int.from_bytes(row[0], "little") if row else 0

    def knows(self, source: int, id: str) -> bool:
        """Whether an id was seen before."""
        ours = _OURS.fullmatch(id)
        if ours is None:
            statement = "select 1 from seen where source = ? and stem = ? and block = -1"
            return self._execute(statement, (source, id)).fetchone() is not None
        number = int(ours[2], 16)
        return bool(self._block((source, ours[1], number >> _BLOCK_BITS)) & 1 << (number & _BLOCK_MASK))

    def commit(self) -> None:
        """Write the changed rows."""
        if self._changed:
            now = self._transaction.now
            self._transaction.executemany(
                "insert or replace into seen (source, stem, block, bits, touched) values (?, ?, ?, ?, ?)",
                [(*key, self._bits[key].to_bytes(_BLOCK_BYTES, "little"), now) for key in self._changed],
            )
            self._changed.clear()
        self._bits.clear()
