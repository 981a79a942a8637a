"""Shared values and locks in the embedded store: a table for each.

A value written under a token leaves its row behind when it is deleted, so that the token is remembered for a day.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actorwork.abc import LockState, VersionedValue
from actorwork.embedded.asking import Asked
from actorwork.embedded.store import Store
from actorwork.errors import LockLost
from actorwork.policy.values import check_fence, number_after, sum_of


class EmbeddedValues:
    """Implements `actorwork.abc.Values`."""

    def __init__(self, writer: Asked) -> None:
        self._writer = writer

    def __repr__(self) -> str:
        return f"<EmbeddedValues of {self._writer.location}>"

    async def get(self, name: str) -> VersionedValue | None:
        def get(store: Store) -> VersionedValue | None:
            data, version, _ = _row(store, name)
            return None if data is None else VersionedValue(data, version)

        return await self._writer.ask(get, writes=False)

    async def set(
        self,
        name: str,
        data: bytes,
        *,
        ttl: float | None = None,
        version: int | None = None,
        fence: int | None = None,
    ) -> int | None:
        def set_(store: Store) -> int | None:
            before, last, newest = _row(store, name)
            newest = check_fence(name, fence, newest)
            if version is not None and version != (0 if before is None else last):
                return None
            return _keep(store, name, data, last, newest, ttl)

        return await self._change(set_)

    async def add(
        self, name: str, by: float, *, start: bytes, ttl: float | None = None, fence: int | None = None
    ) -> bytes | None:
        def add(store: Store) -> bytes | None:
            before, last, newest = _row(store, name)
            newest = check_fence(name, fence, newest)
            total = sum_of(start if before is None else before, by)
            if total is not None:
                _keep(store, name, total, last, newest, ttl)
            return total

        return await self._change(add)

    async def delete(self, name: str, *, fence: int | None = None) -> bool:
        def delete(store: Store) -> bool:
            before, _, newest = _row(store, name)
            newest = check_fence(name, fence, newest)
            if newest:
                store.execute(
                    "update shared set data = null, expires = ?, fence = ? where name = ?", (store.now, newest, name)
                )
            else:
                store.execute("delete from shared where name = ?", (name,))
            return before is not None

        return await self._change(delete)

    async def take_lock(self, name: str, owner: str, ttl: float) -> int | None:
        def take(store: Store) -> int | None:
            row = store.execute("select token, owner, until from locks where name = ?", (name,)).fetchone()
            token, other, until = row or (0, None, 0.0)
            if other is not None and other != owner and until > store.now:
                return None
            if other != owner:
                token = number_after(token, store.now)
            store.execute("insert or replace into locks values (?, ?, ?, ?)", (name, token, owner, store.now + ttl))
            return token

        return await self._change(take)

    async def keep_lock(self, name: str, owner: str, ttl: float) -> bool:
        def keep(store: Store) -> bool:
            done = store.execute(
                "update locks set until = ? where name = ? and owner = ?", (store.now + ttl, name, owner)
            )
            return done.rowcount == 1

        return await self._change(keep)

    async def free_lock(self, name: str, owner: str) -> bool:
        def free(store: Store) -> bool:
            done = store.execute(
                "update locks set owner = null, until = ? where name = ? and owner = ?", (store.now, name, owner)
            )
            return done.rowcount == 1

        return await self._change(free)

    async def held_locks(self, most: int) -> Sequence[LockState]:
        def held(store: Store) -> list[LockState]:
            rows = store.execute(
                "select name, owner, token, until from locks where owner is not null and until > ?"
                " order by until desc limit ?",
                (store.now, most),
            )
            return [LockState(*row) for row in rows.fetchall()]

        return await self._writer.ask(held, writes=False)

    async def _change(self, run: Any) -> Any:
        """Run it in a transaction, and raise `LockLost` here: raised inside, it would roll back the others' orders."""

        def attempt(store: Store) -> tuple[Any, LockLost | None]:
            try:
                return run(store), None
            except LockLost as refusal:
                return None, refusal

        answer, refusal = await self._writer.ask(attempt)
        if refusal is not None:
            raise refusal
        return answer


def _row(store: Store, name: str) -> tuple[bytes | None, int, int]:
    """Return the data (None if there is none, or it has expired), the last version and the newest token."""
    row = store.execute("select data, version, fence, expires from shared where name = ?", (name,)).fetchone()
    if row is None:
        return None, 0, 0
    data, version, fence, expires = row
    return (None if expires is not None and expires <= store.now else data), version, fence


def _keep(store: Store, name: str, data: bytes, last: int, fence: int, ttl: float | None) -> int:
    version = number_after(last, store.now)
    expires = None if ttl is None else store.now + ttl
    store.execute("insert or replace into shared values (?, ?, ?, ?, ?)", (name, data, version, fence, expires))
    return version
