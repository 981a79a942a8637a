"""Reports of nodes and commands to them in the embedded store: a table for each, and one for the answers."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Literal

from actorwork.embedded.asking import Asked
from actorwork.embedded.schema import SOURCE
from actorwork.embedded.store import Store
from actorwork.policy.reports import Ask, Counts, Found, Mail, StoredReport

ASK_KEPT: Final = 15.0
ANSWER_KEPT: Final = 60.0
MOST_ASKS: Final = 100
"""Commands that wait for a node, at most."""


class EmbeddedReports:
    """Implements `actorwork.abc.Reports`."""

    def __init__(self, writer: Asked) -> None:
        self._writer = writer

    def __repr__(self) -> str:
        return f"<EmbeddedReports of {self._writer.location}>"

    async def write(self, node: str, data: bytes, *, now: float, ttl: float) -> Mail:
        def write(store: Store) -> Mail:
            store.execute("delete from reports where until <= ?", (store.now,))
            store.execute("insert or replace into reports values (?, ?, ?)", (node, data, store.now + ttl))
            return _mail(store, node)

        return await self._writer.ask(write)

    async def drop(self, node: str) -> None:
        def drop(store: Store) -> None:
            store.execute("delete from reports where node = ?", (node,))
            store.execute("delete from asks where node = ?", (node,))

        await self._writer.ask(drop)

    async def nodes(self) -> tuple[float, Sequence[str]]:
        def look(store: Store) -> tuple[float, Sequence[str]]:
            rows = store.execute(
                "select node from reports where until > ? and node <> '' order by node", (store.now,)
            ).fetchall()
            return store.now, [row[0] for row in rows]

        return await self._writer.ask(look, writes=False)

    async def get(self, nodes: Sequence[str]) -> Sequence[StoredReport]:
        wanted = json.dumps(list(nodes))

        def look(store: Store) -> Sequence[StoredReport]:
            rows = store.execute(
                "select r.node, r.data, exists (select 1 from nodes n where n.incarnation = r.node"
                " and n.ended is null and n.expires > ?) from json_each(?) w join reports r on r.node = w.value"
                " where r.until > ? and r.node <> '' order by w.key",
                (store.now, wanted, store.now),
            ).fetchall()
            return [StoredReport(node, bytes(data), bool(has_lease)) for node, data, has_lease in rows]

        return await self._writer.ask(look, writes=False)

    async def watch(self, seconds: float = 5.0) -> None:
        def watch(store: Store) -> bool:
            row = store.execute("select until from reports where node = ''").fetchone()
            store.execute("insert or replace into reports values ('', x'', ?)", (store.now + seconds,))
            return row is None or row[0] <= store.now

        # In a store of this process alone nodes report only when they are called.
        if await self._writer.ask(watch) or not self._writer.turns.is_shared:
            self._writer.turns.watched.tell_asked("")

    async def count(self, sources: Sequence[str]) -> Sequence[Counts]:
        wanted = list(sources)
        return await self._writer.ask(lambda store: _count(store, wanted), writes=False)

    async def find(self, source: str, id: str) -> Found | None:
        return await self._writer.ask(lambda store: _find(store, source, id), writes=False)


class EmbeddedCommands:
    """Implements `actorwork.abc.Commands`."""

    def __init__(self, writer: Asked) -> None:
        self._writer = writer

    def __repr__(self) -> str:
        return f"<EmbeddedCommands of {self._writer.location}>"

    async def ask(self, node: str, data: bytes) -> str | None:
        name = uuid.uuid4().hex

        def ask(store: Store) -> bool:
            now = store.now
            is_there = store.execute(
                "select exists (select 1 from reports where node = ? and until > ?)"
                " or exists (select 1 from nodes where incarnation = ? and ended is null and expires > ?)",
                (node, now, node, now),
            ).fetchone()[0]
            if not is_there:
                return False
            store.execute("delete from asks where until <= ?", (now,))
            store.execute("delete from answers where until <= ?", (now,))
            store.execute(
                "insert into asks (id, node, data, until) values (?, ?, ?, ?)", (name, node, data, now + ASK_KEPT)
            )
            store.execute(
                "delete from asks where node = ? and ask not in"
                " (select ask from asks where node = ? order by ask desc limit ?)",
                (node, node, MOST_ASKS),
            )
            return True

        if not await self._writer.ask(ask):
            return None
        self._writer.turns.watched.tell_asked(node)
        return name

    async def take(self, node: str) -> Mail:
        return await self._writer.ask(lambda store: _mail(store, node))

    async def answer(self, id: str, data: bytes) -> None:
        def answer(store: Store) -> None:
            store.execute("insert or replace into answers values (?, ?, ?)", (id, data, store.now + ANSWER_KEPT))

        await self._writer.ask(answer)

    async def find_answer(self, id: str) -> bytes | None:
        def find(store: Store) -> bytes | None:
            row = store.execute("select data from answers where id = ? and until > ?", (id, store.now)).fetchone()
            return None if row is None else bytes(row[0])

        return await self._writer.ask(find, writes=False)

    @asynccontextmanager
    async def listen(self, node: str, called: Callable[[], object]) -> AsyncGenerator[bool]:
        # What other processes ask, the writer notices as it notices their messages.
        listener = (node, called)
        self._writer.turns.watched.asked.append(listener)
        try:
            yield True
        finally:
            self._writer.turns.watched.asked.remove(listener)


def _mail(store: Store, node: str) -> Mail:
    """Take what waits for a node."""
    rows = store.execute(
        "select id, data from asks where node = ? and until > ? order by ask", (node, store.now)
    ).fetchall()
    if rows:
        store.execute("delete from asks where node = ?", (node,))
    row = store.execute("select until from reports where node = ''").fetchone()
    return Mail([Ask(name, bytes(data)) for name, data in rows], 0.0 if row is None else max(0.0, row[0] - store.now))


def _count(store: Store, sources: list[str]) -> list[Counts]:
    wanted = json.dumps(sources)
    ours = "(select source from sources where name in (select value from json_each(?)))"
    rows: list[tuple[Any, ...]] = store.execute("select name, source from sources").fetchall()
    numbers = dict(rows)

    def grouped(select: str, table: str) -> dict[int, Any]:
        found = store.execute(
            f"select {SOURCE}, {select} from {table} where {SOURCE} in {ours} group by 1", (wanted,)
        ).fetchall()
        return {source: rest for source, *rest in found}

    entries = grouped("count(*), min(coalesce(ready, born))", "entries")
    behind = grouped("count(*)", "behind")
    delayed = grouped("count(*), min(due)", "delayed")
    dead = grouped("count(*)", "dead")
    counted: list[Counts] = []
    for name in sources:
        number = numbers.get(name, -1)
        here, oldest = entries.get(number, (0, None))
        later, due = delayed.get(number, (0, None))
        age = None if oldest is None else max(0.0, store.now - oldest)
        counted.append(Counts(name, here + behind.get(number, (0,))[0], later, dead.get(number, (0,))[0], age, due))
    return counted


def _find(store: Store, source: str, id: str) -> Found | None:
    row = store.execute("select source from sources where name = ?", (source,)).fetchone()
    if row is None:
        return None
    at = (id, row[0])
    places: tuple[tuple[Literal["ready", "delayed", "key"], str, str], ...] = (
        ("key", "behind", "null"),
        ("delayed", "delayed", "due"),
        ("ready", "entries", "null"),
    )
    for where, table, due in places:
        found = store.execute(
            f"select data, headers, key, {due} from {table} where id = ? and {SOURCE} = ? limit 1", at
        ).fetchone()
        if found is not None:
            data, headers, key, due_at = found
            return Found(where, bytes(data), key or "", json.loads(headers) if headers else {}, due_at)
    return None
