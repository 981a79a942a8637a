"""Which handlers of keys wait for others, in the embedded store: the table `key_waits`."""

from __future__ import annotations

from collections.abc import Sequence

from actorwork.embedded.asking import Asked
from actorwork.embedded.rows import Token, channel_numbers
from actorwork.embedded.store import Store
from actorwork.message import Delivery
from actorwork.policy.waits import MOST_WAITS, KeyWait


class EmbeddedWaits:
    """Implements `actorwork.abc.KeyWaits`."""

    def __init__(self, writer: Asked) -> None:
        self._writer = writer

    def __repr__(self) -> str:
        return f"<EmbeddedWaits of {self._writer.location}>"

    async def note(self, delivery: Delivery, wait: KeyWait, *, ttl: float) -> bool:
        token = delivery.token
        if not isinstance(token, Token):
            return False  # It is of another broker.

        def note(store: Store) -> bool:
            # Tokens are numbers, which in another file may be those of another delivery.
            is_ours = "select 1 from entries where seq = ? and id = ?"
            if store.execute(is_ours, (token.seq, delivery.id)).fetchone() is None:
                return False
            if not store.settlements.owns(token):
                return False
            place = (store.source(wait.source), wait.key)
            others = "select count(*) from key_waits where source = ? and key = ? and message <> ?"
            if store.execute(others, (*place, wait.message)).fetchone()[0] >= MOST_WAITS:
                return False
            store.execute(
                "insert or replace into key_waits"
                " (source, key, message, to_source, to_key, seq, grp, node, count, until)"
                " values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*place, wait.message, wait.to_source, wait.to_key, *token.owned, store.now + ttl),
            )
            return True

        return await self._writer.ask(note)

    async def forget(self, wait: KeyWait) -> None:
        def forget(store: Store) -> None:
            store.execute(
                "delete from key_waits where source = ? and key = ? and message = ?",
                (store.source(wait.source), wait.key, wait.message),
            )

        await self._writer.ask(forget)

    async def behind(self, wait: KeyWait) -> Sequence[KeyWait]:
        def look(store: Store) -> Sequence[KeyWait]:
            number = store.find_source(wait.to_source)
            if number is None:
                return []
            waits = "select 1 from behind where source in (?, ?, ?, ?) and id = ? limit 1"
            is_waiting = store.execute(waits, (*channel_numbers(number), wait.message)).fetchone() is not None
            rows = store.execute(
                "select e.id, w.message, w.to_source, w.to_key from key_waits w join pending p"
                " on p.seq = w.seq and p.grp = w.grp and p.node = w.node and p.count = w.count"
                " join entries e on e.seq = w.seq"
                " where w.source = ? and w.key = ? and w.until > ? and (? or e.id = ?)",
                (number, wait.to_key, store.now, is_waiting, wait.message),
            ).fetchall()
            return [KeyWait(wait.to_source, wait.to_key, *row) for row in rows]

        return await self._writer.ask(look, writes=False)
