"""What was handled in each minute, in the embedded store: a row for each minute, source and bucket of durations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from actorwork.embedded.asking import Asked
from actorwork.embedded.store import Store
from actorwork.policy.minutes import KEPT, MinuteCounts, fields_of, from_fields


class EmbeddedMinutes:
    """Implements `actorwork.abc.Minutes`."""

    def __init__(self, writer: Asked) -> None:
        self._writer = writer

    def __repr__(self) -> str:
        return f"<EmbeddedMinutes of {self._writer.location}>"

    async def add(self, minute: int, counts: Mapping[str, MinuteCounts]) -> None:
        rows = [(source, minute, name, count) for source, one in counts.items() for name, count in fields_of(one)]

        def add(store: Store) -> None:
            store.execute("delete from minutes where minute < ?", (int(store.now // 60) - KEPT,))
            for row in rows:
                store.execute(
                    "insert into minutes values (?, ?, ?, ?)"
                    " on conflict (source, minute, field) do update set count = count + excluded.count",
                    row,
                )

        await self._writer.ask(add, rows=max(1, len(rows)))

    async def read(self, source: str, first: int, last: int) -> Mapping[int, MinuteCounts]:
        def look(store: Store) -> Mapping[int, MinuteCounts]:
            found = defaultdict[int, list[tuple[str, int]]](list)
            for minute, name, count in store.execute(
                "select minute, field, count from minutes where source = ? and minute between ? and ?",
                (source, first, last),
            ):
                found[minute].append((name, count))
            return {minute: from_fields(fields) for minute, fields in found.items()}

        return await self._writer.ask(look, writes=False)
