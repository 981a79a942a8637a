"""Triggers and pauses in the embedded store: a table for each."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from actorwork.embedded.asking import Asked
from actorwork.embedded.rows import row_of
from actorwork.embedded.store import Store
from actorwork.message import Envelope
from actorwork.policy.pauses import concerned

if TYPE_CHECKING:
    from actorwork.records import Firing, Pause, PauseKind, TriggerChanges, TriggerDefinition, TriggerRecord

_DEFINITION: Final = "source, id, actor, title, schedule, data, type, details"
_STATE: Final = "registered, last, fired, declared, changes, changed, revision, put"
_FACTS: Final = f"{_DEFINITION}, {_STATE}"


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

    async def amend(
        self,
        definition: TriggerDefinition,
        changes: TriggerChanges | None,
        *,
        revision: int,
        is_put: bool,
        begins_now: bool = False,
    ) -> TriggerRecord | None:
        from actorwork.policy.amending import changes_as_json  # noqa: PLC0415 - most programs never change one

        made = None if changes is None else changes_as_json(changes)

        def amend(store: Store) -> TriggerRecord | None:
            return _amend(store, definition, made, revision, is_put=is_put, begins_now=begins_now)

        record: TriggerRecord | None = await self._writer.ask(amend)
        if record is not None:
            _tell(self._writer)
        return record

    async def changes(self) -> int:
        return await self._writer.ask(
            lambda store: store.execute("select coalesce(sum(number), 0) from trigger_changes").fetchone()[0],
            writes=False,
        )

    async def fire(
        self,
        definition: TriggerDefinition,
        *,
        decided: int,
        last: int,
        messages: Sequence[Envelope],
        revision: int = 0,
    ) -> Firing:
        from actorwork.records import Firing  # noqa: PLC0415 - see records.py

        rows = [row_of(message) for message in messages]
        key = (definition.source, definition.id)

        def fire(store: Store) -> Firing:
            row = store.execute(
                "select schedule, last, revision from triggers where source = ? and id = ?", key
            ).fetchone()
            if row is None:
                return Firing("unknown")
            schedule, stands, newest = row
            if newest != revision:
                return Firing("changed", stands)
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
            _note_change(store)
            return store.execute("delete from triggers where source = ? and id = ?", (source, id)).rowcount == 1

        was_there: bool = await self._writer.ask(forget)
        _tell(self._writer)
        return was_there


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
            return _pause(row)

        found: Pause = await self._writer.ask(pause)
        _tell(self._writer)
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
        _tell(self._writer)
        return done

    async def list(self) -> Sequence[Pause]:
        def look(store: Store) -> Sequence[Pause]:
            return [_pause(row) for row in store.execute("select * from pauses order by at").fetchall()]

        return await self._writer.ask(look, writes=False)

    @asynccontextmanager
    async def watch(self, changed: Callable[[], object]) -> AsyncGenerator[bool]:
        # What other processes pause, the writer notices as it notices their messages.
        self._writer.turns.watched.pauses.append(changed)
        try:
            yield True
        finally:
            self._writer.turns.watched.pauses.remove(changed)


def records_of(store: Store) -> Sequence[TriggerRecord]:
    """Return all triggers, by actor and title. Needs no transaction."""
    rows = store.execute(f"select {_FACTS} from triggers order by actor, title").fetchall()
    return [_record(row) for row in rows]


def _register(store: Store, definition: TriggerDefinition) -> TriggerRecord:
    before = _find(store, definition)
    now = round(store.now * 1000)
    if before is None:
        registered = last = now
    else:
        registered, last = before.registered, before.last
        is_schedule_changed_by_hand = before.changes is not None and before.changes.schedule is not None
        if before.stored.schedule != definition.schedule and not is_schedule_changed_by_hand:
            last = max(last, now)  # What an earlier schedule has missed does not fire.
    _define(store, definition, registered, last, declared=True)
    found = _find(store, definition)
    assert found is not None  # noqa: S101 - for type checkers: it was just stored
    return found


def _amend(
    store: Store, definition: TriggerDefinition, made: str | None, revision: int, *, is_put: bool, begins_now: bool
) -> TriggerRecord | None:
    before = _find(store, definition)
    if revision != (0 if before is None else before.revision):
        return None
    now = round(store.now * 1000)
    if before is None or not before.is_declared:
        registered, last = (now, now) if before is None else (before.registered, before.last)
        _define(store, definition, registered, last, declared=False)
    if begins_now:
        _skip(store, definition.source, definition.id)
    # A revision is used once, even if the trigger is deleted and comes back.
    store.execute(
        "update triggers set changes = ?, changed = ?, revision = ?, put = ? where source = ? and id = ?",
        (made, now, max(now, revision + 1), is_put, definition.source, definition.id),
    )
    _note_change(store)
    return _find(store, definition)


def _define(store: Store, definition: TriggerDefinition, registered: int, last: int, *, declared: bool) -> None:
    """Store what a trigger is, and keep what users have changed of it."""
    store.execute(
        f"insert into triggers ({_DEFINITION}, registered, last, fired, declared)"
        " values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?)"
        " on conflict (source, id) do update set actor = excluded.actor, title = excluded.title,"
        " schedule = excluded.schedule, data = excluded.data, type = excluded.type, details = excluded.details,"
        " last = excluded.last, declared = excluded.declared",
        (
            definition.source,
            definition.id,
            definition.actor,
            definition.title,
            definition.schedule,
            definition.data,
            definition.type,
            json.dumps(dict(definition.details)),
            registered,
            last,
            declared,
        ),
    )


def _find(store: Store, definition: TriggerDefinition) -> TriggerRecord | None:
    row = store.execute(
        f"select {_FACTS} from triggers where source = ? and id = ?", (definition.source, definition.id)
    ).fetchone()
    return None if row is None else _record(row)


def _note_change(store: Store) -> None:
    store.execute("insert into trigger_changes values (1, 1) on conflict (only) do update set number = number + 1")


def _pause(row: Sequence[Any]) -> Pause:
    from actorwork.records import Pause  # noqa: PLC0415 - see records.py

    return Pause(*row)


def _tell(writer: Asked) -> None:
    for changed in writer.turns.watched.pauses:
        changed()


def _skip(store: Store, source: str, id: str) -> bool:
    done = store.execute(
        "update triggers set last = max(last, ?) where source = ? and id = ?", (round(store.now * 1000), source, id)
    )
    return done.rowcount == 1


def _record(row: Any) -> TriggerRecord:
    from actorwork.policy.amending import record_of  # noqa: PLC0415 - most nodes have no triggers
    from actorwork.records import TriggerDefinition  # noqa: PLC0415 - see records.py

    source, name, actor, title, schedule, data, kind, details, *state = row
    registered, last, fired, declared, changes, changed, revision, put = state
    return record_of(
        TriggerDefinition(
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
        changes=changes,
        changed=changed,
        revision=revision,
        is_put=bool(put),
    )
