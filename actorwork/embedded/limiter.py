"""Limits over all processes that share an embedded store: a row for each rate, and one for each slot."""

from __future__ import annotations

from collections.abc import Sequence

from actorwork.embedded.asking import Asked
from actorwork.embedded.store import Store
from actorwork.policy.limits import reserved


class EmbeddedLimitStore:
    """Implements `actorwork.abc.LimitStore`."""

    def __init__(self, writer: Asked) -> None:
        self._writer = writer

    def __repr__(self) -> str:
        return f"<EmbeddedLimitStore of {self._writer.location}>"

    async def acquire_rate(self, name: str, rate: float, per: float, burst: int, cost: int) -> float:
        def acquire(store: Store) -> float:
            row = store.execute("select tat from rates where name = ?", (name,)).fetchone()
            tat, wait = reserved(row[0] if row else 0.0, store.now, interval=per / rate, burst=burst, cost=cost)
            # A time that is past limits no more than no row does.
            store.execute("delete from rates where tat <= ?", (store.now,))
            store.execute("insert or replace into rates values (?, ?)", (name, tat))
            return wait

        return await self._writer.ask(acquire)

    async def acquire_slot(self, name: str, limit: int, holder: str, ttl: float) -> bool:
        def acquire(store: Store) -> bool:
            store.execute("delete from slots where name = ? and until <= ?", (name, store.now))
            others = store.execute(
                "select count(*) from slots where name = ? and holder <> ?", (name, holder)
            ).fetchone()[0]
            has_one = store.execute("select 1 from slots where name = ? and holder = ?", (name, holder)).fetchone()
            if has_one is None and others >= limit:
                return False
            store.execute("insert or replace into slots values (?, ?, ?)", (name, holder, store.now + ttl))
            return True

        return await self._writer.ask(acquire)

    async def release_slot(self, name: str, holder: str) -> bool:
        def release(store: Store) -> bool:
            done = store.execute(
                "delete from slots where name = ? and holder = ? and until > ?", (name, holder, store.now)
            )
            return done.rowcount == 1

        return await self._writer.ask(release)

    async def count_slots(self, name: str) -> int:
        return len(await self.slot_holders(name))

    async def slot_holders(self, name: str) -> Sequence[str]:
        def holders(store: Store) -> Sequence[str]:
            rows = store.execute(
                "select holder from slots where name = ? and until > ? order by holder", (name, store.now)
            ).fetchall()
            return [row[0] for row in rows]

        return await self._writer.ask(holders, writes=False)
