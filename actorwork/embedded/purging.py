"""Purging a source of the embedded store: what no node has been given is dropped, a portion in each transaction."""

from __future__ import annotations

from typing import Final

from actorwork.embedded.asking import Asked
from actorwork.embedded.cancellation import UNREAD
from actorwork.embedded.rows import channel_numbers
from actorwork.embedded.store import Store
from actorwork.records import Purgeable

PORTION: Final = 500
"""How many messages one transaction drops: leases are renewed between two."""


class EmbeddedPurging:
    """Implements `actorwork.abc.Purging`."""

    def __init__(self, writer: Asked) -> None:
        self._writer = writer

    def __repr__(self) -> str:
        return f"<EmbeddedPurging of {self._writer.location}>"

    async def count(self, source: str) -> Purgeable:
        return await self._writer.ask(lambda store: _count(store, source), writes=False)

    async def drop(self, source: str, *, reason: str, most: int) -> int:
        dropped = 0
        while dropped < most:
            at_once = min(PORTION, most - dropped)
            count = await self._drop(source, reason, at_once)
            dropped += count
            if count < at_once:
                break
        return dropped

    async def _drop(self, source: str, reason: str, most: int) -> int:
        return await self._writer.ask(lambda store: store.purge(source, reason, most), rows=most)


def _count(store: Store, source: str) -> Purgeable:
    row = store.execute("select source from sources where name = ?", (source,)).fetchone()
    if row is None:
        return Purgeable(0, 0, 0, 0)
    counts: list[int] = []
    steps = 0
    for table, condition in (("entries", f" and {UNREAD}"), ("delayed", ""), ("behind", "")):
        count, of_runs = store.execute(
            "select count(*), total(coalesce(headers, '') like '%\"actorwork-flow\":%')"
            f" from {table} e where source in (?, ?, ?, ?){condition}",
            channel_numbers(row[0]),
        ).fetchone()
        counts.append(count)
        steps += round(of_runs)
    ready, delayed, behind = counts
    return Purgeable(ready, delayed, behind, steps)
