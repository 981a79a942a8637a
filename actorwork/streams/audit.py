"""The audit at Redis: one stream, with one entry when an action begins and another one when it ends.

A stream's entries do not change, so the second names the first. A reader who begins at the newest finds each end before
its beginning.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

from actorwork.policy.auditing import MOST_ENTRIES, cut
from actorwork.records import AuditEntry
from actorwork.streams import keys
from actorwork.streams.transport.commands import Commands
from actorwork.streams.transport.redis_py import cannot

PAGE: Final = 1000
"""How many entries of the stream are read at once."""


class RedisAudit:
    """Implements `actorwork.abc.Audit`."""

    def __init__(self, client: Commands, *, most: int = MOST_ENTRIES) -> None:
        self._client = client
        self._most = most

    def __repr__(self) -> str:
        return f"<RedisAudit at {self._client!r}>"

    async def append(self, action: str, what: str, *, who: str, role: str = "", reason: str = "", ip: str = "") -> str:
        texts = {"who": who, "role": role, "action": action, "what": what, "reason": reason, "ip": ip}
        # After a lost reply it is sent again. `once` tells a reader that both are one: the later one, which has an end.
        return await self._add("once", os.urandom(8).hex(), *(part for one in texts.items() for part in one))

    async def complete(self, entry: str, outcome: str, how_many: int | None = None) -> None:
        await self._add("ends", entry, "outcome", outcome, "how_many", "" if how_many is None else str(how_many))

    async def list(self, *, limit: int = 100) -> Sequence[AuditEntry]:
        found: list[AuditEntry] = []
        ends: dict[str, tuple[str, int | None]] = {}
        seen: set[str] = set()
        until = b"+"
        while len(found) < limit:
            with cannot("read the audit"):
                page: list[Any] = await self._client.call(
                    "XREVRANGE", keys.AUDIT, until, "-", "COUNT", PAGE, idempotent=True
                )
            for entry, pairs in page:
                fields = {pairs[i].decode(): pairs[i + 1].decode() for i in range(0, len(pairs), 2)}
                if "ends" in fields:
                    how_many = fields["how_many"]
                    ends.setdefault(fields["ends"], (fields["outcome"], int(how_many) if how_many else None))
                elif fields["once"] not in seen and len(found) < limit:
                    seen.add(fields.pop("once"))
                    found.append(_entry(entry.decode(), fields, *ends.get(entry.decode(), ("", None))))
            if len(page) < PAGE:
                break
            until = b"(" + page[-1][0]
        return found

    async def _add(self, *fields: str) -> str:
        with cannot("write to the audit"):
            entry: bytes = await self._client.call(
                "XADD", keys.AUDIT, "MAXLEN", 2 * self._most, "*", *map(cut, fields), idempotent=True
            )
        return entry.decode()


def _entry(id: str, fields: dict[str, str], outcome: str, how_many: int | None) -> AuditEntry:
    at = int(id.partition("-")[0]) / 1000
    return AuditEntry(id=id, at=at, outcome=outcome, how_many=how_many, **fields)
