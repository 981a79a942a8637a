"""The states of entities in the embedded store: a table of states, and one of their last changes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

from actorwork.embedded.asking import Asked
from actorwork.embedded.entity_table import ALIVE, FIELDS, state_of
from actorwork.embedded.store import Store
from actorwork.errors import StateConflict
from actorwork.policy.entities import EntityInfo, FoundState, StateChange, StoredState, conflict

T = TypeVar("T")


class EmbeddedEntities:
    """Implements `actorwork.abc.EntityStore`."""

    def __init__(self, writer: Asked) -> None:
        self._writer = writer

    def __repr__(self) -> str:
        return f"<EmbeddedEntities of {self._writer.location}>"

    async def get(self, source: str, group: str, key: str) -> StoredState | None:
        def look(store: Store) -> StoredState | None:
            number = store.find_source(source)
            return None if number is None else store.entities.get(number, group, key, store.now)

        return await self._writer.ask(look, writes=False)

    async def load(self, source: str, group: str, known: Sequence[tuple[str, str]]) -> Sequence[FoundState]:
        """Return the states of keys; True for those that still have the stamp that comes with the key."""

        def look(store: Store) -> Sequence[FoundState]:
            number = store.find_source(source)
            if number is None:
                return [None] * len(known)
            return [store.entities.find(number, group, key, stamp, store.now) for key, stamp in known]

        return await self._writer.ask(look, writes=False)

    async def list(
        self,
        source: str,
        group: str,
        *,
        changed_since: float | None = None,
        limit: int = 100,
        after: tuple[float, str] | None = None,
        newest_first: bool = False,
    ) -> Sequence[EntityInfo]:
        def look(store: Store) -> Sequence[EntityInfo]:
            number = store.find_source(source)
            since = 0.0 if changed_since is None else changed_since
            if newest_first:
                at, key = after or (math.inf, "")
                behind, order, given = "at >= ? and (at, key) < (?, ?)", "at desc, key desc", (since, at, key)
            else:
                at, key = after or (since, "")
                behind, order, given = "at >= ? and (at, key) > (?, ?)", "at, key", (since, at, key)
            rows = store.execute(
                "select key, version, at, author, length(data) from entities"
                f" where source = ? and grp = ? and {behind} and {ALIVE} order by {order} limit ?",
                (number, group, *given, store.now, limit),
            ).fetchall()
            return [
                EntityInfo(key=key, version=version, at=at, by=by, bytes=size) for key, version, at, by, size in rows
            ]

        return await self._writer.ask(look, writes=False)

    async def history(self, source: str, group: str, key: str, *, limit: int = 20) -> Sequence[StoredState]:
        def look(store: Store) -> Sequence[StoredState]:
            number = store.find_source(source)
            if number is None or store.entities.get(number, group, key, store.now) is None:
                return []
            rows = store.execute(
                f"select {FIELDS} from pasts where source = ? and grp = ? and key = ? order by version desc limit ?",
                (number, group, key, limit),
            ).fetchall()
            return [state_of(row) for row in rows]

        return await self._writer.ask(look, writes=False)

    async def put(
        self,
        source: str,
        group: str,
        key: str,
        data: bytes,
        *,
        version: int | None = None,
        schema: int = 0,
        ttl: float | None = None,
        history: int | None = 0,
        by: str = "",
        force: bool = False,
    ) -> int:
        def put(store: Store, number: int, found: int) -> int:
            stamp = os.urandom(8).hex()
            lasts = store.entities.ttl(number, group, key) if ttl is None else None if math.isinf(ttl) else ttl
            change = StateChange(version=found, data=data, stamp=stamp, schema=schema, ttl=lasts, history=history)
            store.entities.change(number, group, key, change, by=by, node="")
            return found + 1

        return await self._change(source, group, key, version, put, force=force)

    async def forget(
        self, source: str, group: str, key: str, *, version: int | None = None, force: bool = False
    ) -> bool:
        def forget(store: Store, number: int, found: int) -> bool:
            store.entities.forget(number, group, key)
            return found > 0

        return await self._change(source, group, key, version, forget, force=force)

    async def _change(
        self,
        source: str,
        group: str,
        key: str,
        version: int | None,
        run: Callable[[Store, int, int], T],
        *,
        force: bool,
    ) -> T:
        """Run it in a transaction, and raise a refusal here: raised inside, it would roll back the others' orders."""

        def attempt(store: Store) -> T | StateConflict:
            number = store.source(source)
            found = store.entities.version(number, group, key)
            if version not in (None, found):
                return conflict(key, version, found)
            if not force and store.entities.is_in_hand(number, key):
                return conflict(key, version, found, is_busy=True)
            return run(store, number, found)

        answer: T | StateConflict = await self._writer.ask(attempt)
        if isinstance(answer, StateConflict):
            raise answer
        return answer
