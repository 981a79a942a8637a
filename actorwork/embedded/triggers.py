"""Triggers and pauses in the embedded store: a table for each."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from actorwork.abc import Firing
from actorwork.embedded.asking import Asked
from actorwork.embedded.rows import row_of
from actorwork.embedded.store import Store
from actorwork.message import Envelope, Pause, PauseKind, TriggerDefinition, TriggerRecord
from actorwork.policy.pauses import concerned

_FACTS: Final = "source, id, actor, title, schedule, data, type, details, registered, last, fired, declared"


class EmbeddedTriggers:
    """Implements `actorwork.abc.Triggers`."""

    def __init__(self, writer: Asked) -> None:
        self._writer = writer

    def __repr__(self) -> str:
        return f"<EmbeddedTriggers of {self._writer.location}>"

    async def register(self, source: str, definitions: Sequence[TriggerDefinition]) -> Sequence[TriggerRecord]:
        def register(store: Store) -> Sequence[TriggerRecord]:
            store.execute("update triggers set declared = 0 where source = ?", (source,))
            return [_register(store, definition) for definition in definitions]

        return await self._writer.ask(register)

    async def fire(
        self, definition: TriggerDefinition, *, decided: int, last: int, messages: Sequence[Envelope]
    ) -> Firing:
        rows = [row_of(message) for message in messages]
        key = (definition.source, definition.id)

        def fire(store: Store) -> Firing:
            row = store.execute("select schedule, last from triggers where source = ? and id = ?", key).fetchone()
            if row is None:
                return Firing("unknown")
            schedule, stands = row
            if schedule != definition.schedule:
                return Firing("superseded", stands)
            if stands != decided:
                return Firing("decided", stands)
            kept = store.publish(rows)
            store.execute(
                "update triggers set last = ?, fired = fired + ? where source = ? and id = ?", (last, kept, *key)
            )
            return Firing("fired", last, kept)

        return await self._writer.ask(fire, rows=len(rows))

    async def skip(self, source: str, id: str) -> bool:
        return await self._writer.ask(lambda store: _skip(store, source, id))

    async def list(self) -> Sequence[TriggerRecord]:
        return await self._writer.ask(records_of, writes=False)

    async def forget(self, source: str, id: str) -> bool:
        def forget(store: Store) -> bool:
            return store.execute("delete from triggers where source = ? and id = ?", (source, id)).rowcount == 1

        return await self._writer.ask(forget)


class EmbeddedPauses:
    """Implements `actorwork.abc.Pauses`."""

    def __init__(self, writer: Asked) -> None:
        self._writer = writer

    def __repr__(self) -> str:
        return f"<EmbeddedPauses of {self._writer.location}>"

    @property
    def is_certain(self) -> bool:
        # What other processes pause is missed while the file cannot be read; a store in memory has no others.
        return not self._writer.turns.is_shared

    async def pause(self, kind: PauseKind, name: str = "", *, reason: str = "", by: str = "") -> Pause:
        def pause(store: Store) -> Pause:
            store.execute("insert or ignore into pauses values (?, ?, ?, ?, ?)", (kind, name, reason, by, store.now))
            row = store.execute("select * from pauses where kind = ? and name = ?", (kind, name)).fetchone()
            return Pause(*row)

        found: Pause = await self._writer.ask(pause)
        self._tell()
        return found

    async def resume(self, kind: PauseKind, name: str = "") -> bool:
        def resume(store: Store) -> bool:
            done = store.execute("delete from pauses where kind = ? and name = ?", (kind, name)).rowcount == 1
            if done and kind in ("trigger", "triggers"):
                rows = store.execute(f"select {_FACTS} from triggers").fetchall()
                for definition in concerned(kind, name, [_record(row).definition for row in rows]):
                    _skip(store, definition.source, definition.id)
            return done

        done: bool = await self._writer.ask(resume)
        self._tell()
        return done

    async def list(self) -> Sequence[Pause]:
        def look(store: Store) -> Sequence[Pause]:
            return [Pause(*row) for row in store.execute("select * from pauses order by at").fetchall()]

        return await self._writer.ask(look, writes=False)

    @asynccontextmanager
    async def watch(self, changed: Callable[[], object]) -> AsyncGenerator[bool]:
        # What other processes pause, the writer notices as it notices their messages.
        self._writer.turns.watched.pauses.append(changed)
        try:
            yield True
        finally:
            self._writer.turns.watched.pauses.remove(changed)

    def _tell(self) -> None:
        for changed in self._writer.turns.watched.pauses:
            changed()


def records_of(store: Store) -> Sequence[TriggerRecord]:
    """Return all triggers, by actor and title. Needs no transaction."""
    rows = store.execute(f"select {_FACTS} from triggers order by actor, title").fetchall()
    return [_record(row) for row in rows]


def _register(store: Store, definition: TriggerDefinition) -> TriggerRecord:
    now = round(store.now * 1000)
    key = (definition.source, definition.id)
    row = store.execute(
        "select schedule, registered, last, fired from triggers where source = ? and id = ?", key
    ).fetchone()
    schedule, registered, last, fired = row or (definition.schedule, now, now, 0)
    if schedule != definition.schedule:
        last = max(last, now)  # What an earlier schedule has missed does not fire.
    facts = (definition.actor, definition.title, definition.schedule, definition.data, definition.type)
    store.execute(
        f"insert or replace into triggers ({_FACTS}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1)",
        (*key, *facts, json.dumps(dict(definition.details)), registered, last, fired),
    )
    return TriggerRecord(definition=definition, registered=registered, last=last, fired=fired)


def _skip(store: Store, source: str, id: str) -> bool:
    done = store.execute(
        "update triggers set last = max(last, ?) where source = ? and id = ?", (round(store.now * 1000), source, id)
    )
    return done.rowcount == 1


def _record(row: Any) -> TriggerRecord:
    source, name, actor, title, schedule, data, kind, details, registered, last, fired, declared = row
    return TriggerRecord(
        definition=TriggerDefinition(
            source=source,
            id=name,
            actor=actor,
            title=title,
            schedule=schedule,
            data=data,
            type=kind,
            details=json.loads(details),
        ),
        registered=registered,
        last=last,
        fired=fired,
        is_declared=bool(declared),
    )
