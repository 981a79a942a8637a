"""The audit in the embedded store: a table, of which the newest rows are kept."""

from __future__ import annotations

from collections.abc import Sequence

from actorwork.embedded.asking import Asked
from actorwork.embedded.store import Store
from actorwork.policy.auditing import MOST_ENTRIES, cut
from actorwork.records import AuditEntry


class EmbeddedAudit:
    """Implements `actorwork.abc.Audit`."""

    def __init__(self, writer: Asked, *, most: int = MOST_ENTRIES) -> None:
        self._writer = writer
        self._most = most

    def __repr__(self) -> str:
        return f"<EmbeddedAudit of {self._writer.location}>"

    async def append(self, action: str, what: str, *, who: str, role: str = "", reason: str = "", ip: str = "") -> str:
        texts = [cut(text) for text in (who, role, action, what, reason, ip)]

        def append(store: Store) -> str:
            entry = store.execute(
                "insert into audit (at, who, role, action, what, reason, ip) values (?, ?, ?, ?, ?, ?, ?)",
                (store.now, *texts),
            ).lastrowid
            assert entry is not None  # noqa: S101 - for type checkers: an insert has one
            store.execute("delete from audit where entry <= ?", (entry - self._most,))
            return str(entry)

        return await self._writer.ask(append)

    async def complete(self, entry: str, outcome: str, how_many: int | None = None) -> None:
        def complete(store: Store) -> None:
            store.execute(
                "update audit set outcome = ?, how_many = ? where entry = ?", (cut(outcome), how_many, int(entry))
            )

        await self._writer.ask(complete)

    async def list(self, *, limit: int = 100) -> Sequence[AuditEntry]:
        def look(store: Store) -> Sequence[AuditEntry]:
            rows = store.execute(
                "select entry, at, who, role, action, what, reason, ip, outcome, how_many from audit"
                " order by entry desc limit ?",
                (limit,),
            ).fetchall()
            return [
                AuditEntry(
                    id=str(entry),
                    at=at,
                    who=who,
                    role=role,
                    action=action,
                    what=what,
                    reason=reason,
                    ip=ip,
                    outcome=outcome,
                    how_many=how_many,
                )
                for entry, at, who, role, action, what, reason, ip, outcome, how_many in rows
            ]

        return await self._writer.ask(look, writes=False)
