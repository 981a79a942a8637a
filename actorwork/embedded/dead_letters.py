"""The messages that could not be handled."""

from __future__ import annotations

import json
from builtins import list as list_of
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs

from actorwork.embedded.key_queues import KeyQueues
from actorwork.embedded.rows import failure_from, headers_from
from actorwork.embedded.schema import SOURCE
from actorwork.embedded.states import StateTable
from actorwork.embedded.transaction import Transaction
from actorwork.message import RESULT_TTL, Delivery, Failure, Json, is_tracked
from actorwork.policy.attempts import headers_of_first_attempt
from actorwork.settings import DeadLetterSettings

if TYPE_CHECKING:
    from actorwork.records import DeadLetter


class DeadLetterTable:
    def __init__(self, transaction: Transaction, key_queues: KeyQueues, states: StateTable) -> None:
        self._states = states
        self._transaction = transaction
        self._execute = transaction.execute
        self._key_queues = key_queues

    def __repr__(self) -> str:
        return "<DeadLetterTable>"

    def keep(self, delivery: Delivery, group: str, actor: str, failure: Failure, bounds: DeadLetterSettings) -> None:
        """Store an entry as a dead letter, and delete the oldest letters beyond the bounds."""
        done = self._execute(
            "insert into dead (source, channel, id, type, data, headers, key, grp, actor, attempt, at, failure)"
            f" select {SOURCE}, source, id, type, data, headers, key, ?, ?, ?, ?, ? from entries where seq = ?",
            (
                group,
                actor,
                delivery.attempt,
                self._transaction.now,
                json.dumps(attrs.asdict(failure)),
                delivery.token.seq,
            ),
        )
        if done.rowcount:
            self._drop_the_oldest(done.lastrowid or 0, bounds)

    def _drop_the_oldest(self, last: int, bounds: DeadLetterSettings) -> None:
        """Keep within the bounds of the source to which the last letter belongs."""
        source = self._execute("select source from dead where entry = ?", (last,)).fetchone()[0]
        until = self._transaction.now - bounds.max_age
        oldest = self._execute("select at from dead where source = ? order by entry limit 1", (source,)).fetchone()
        if oldest[0] < until:
            self._execute("delete from dead where source = ? and at < ?", (source, until))
        # Counting reads all letters of the source, so with a large bound only every hundredth of it is counted.
        if last % max(1, bounds.max_count // 100) == 0:
            self._execute(
                "delete from dead where source = ? and entry <="
                " (select entry from dead where source = ? order by entry desc limit 1 offset ?)",
                (source, source, bounds.max_count),
            )

    def sources(self) -> list_of[str]:
        """Needs no transaction."""
        rows = self._execute(
            "select name from sources s where exists (select 1 from dead d where d.source = s.source) order by name"
        )
        return [row[0] for row in rows]

    def list(self, source: str | None, limit: int, after: str | None = None) -> list_of[DeadLetter]:
        """Needs no transaction."""
        behind = 0 if after is None else int(after) if after.isdecimal() else -1
        if behind < 0:
            return []
        where, arguments = ("", ()) if source is None else (" where s.name = ? and d.entry > ?", (source, behind))
        rows = self._execute(f"{_DEAD}{where} order by s.name, d.entry limit ?", (*arguments, limit))
        return [_letter(row) for row in rows]

    def get(self, source: str, entry: str) -> DeadLetter | None:
        """Needs no transaction."""
        row = self._execute(f"{_DEAD} where s.name = ? and d.entry = ?", (source, entry)).fetchone()
        return _letter(row) if row else None

    def replay(self, source: int, entries: Iterable[str]) -> int:
        """Send letters again, each only to the group that failed; return how many there were.

        They no longer expire: the replay asks for them now.
        """
        found = 0
        for entry in entries:
            row = self._execute(
                "select coalesce(channel, source), id, type, data, headers, grp, key from dead"
                " where entry = ? and source = ?",
                (entry, source),
            ).fetchone()
            if row is None:
                continue
            channel, message_id, kind, data, text, group, key = row
            headers = headers_of_first_attempt(headers_from(text))
            self._execute("delete from dead where entry = ?", (entry,))
            if is_tracked(headers):
                name = self._execute("select name from sources where source = ?", (source,)).fetchone()[0]
                self._states.revive(source, name, message_id, headers.get(RESULT_TTL))
            new = json.dumps(headers) if headers else None
            self._key_queues.enter(
                (channel, message_id, kind, data, new, self._transaction.now, group, key, None, None)
            )
            found += 1
        return found

    def replay_as(self, source: int, entry: str, data: bytes, type: str | None, headers: Mapping[str, Json]) -> bool:
        """Send a letter again with another message under its id; return whether it was there."""
        text = json.dumps(headers_of_first_attempt(headers)) if headers else None
        done = self._execute(
            "update dead set data = ?, type = ?, headers = ? where entry = ? and source = ?",
            (data, type, text, entry, source),
        )
        return done.rowcount == 1 and self.replay(source, (entry,)) == 1

    def drop(self, source: int, entries: Iterable[str]) -> int:
        found = 0
        for entry in entries:
            found += self._execute("delete from dead where entry = ? and source = ?", (entry, source)).rowcount
        return found


_DEAD: Final = (
    "select s.name, d.entry, d.id, d.grp, d.actor, d.failure, d.attempt, d.at, d.data, d.type, d.headers"
    " from dead d join sources s using (source)"
)


def _letter(row: Any) -> DeadLetter:
    from actorwork.records import DeadLetter  # noqa: PLC0415 - see records.py

    source, entry, message_id, group, actor, failure, attempt, at, data, kind, headers = row
    return DeadLetter(
        source,
        str(entry),
        message_id,
        group,
        actor,
        failure_from(failure),
        attempt,
        at,
        data,
        kind,
        headers_from(headers),
    )
