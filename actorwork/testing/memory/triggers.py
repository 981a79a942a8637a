"""Triggers and pauses in memory, by the clock of the broker in memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

import attrs
import trio

from actorwork.abc import Firing
from actorwork.message import Envelope, Pause, PauseKind, TriggerDefinition, TriggerRecord
from actorwork.policy.pauses import concerned


class MemoryTriggers:
    """Implements `actorwork.abc.Triggers`."""

    def __init__(self, now: Callable[[], float], keep: Callable[[Sequence[Envelope]], int]) -> None:
        self._now = now
        self._keep = keep
        self._records: dict[tuple[str, str], TriggerRecord] = {}

    def __repr__(self) -> str:
        return f"<MemoryTriggers: {len(self._records)}>"

    @property
    def all(self) -> list[TriggerRecord]:
        """All of them, by actor and title."""
        return sorted(self._records.values(), key=lambda one: (one.definition.actor, one.definition.title))

    async def register(self, source: str, definitions: Sequence[TriggerDefinition]) -> Sequence[TriggerRecord]:
        await trio.lowlevel.checkpoint()
        now = self._milliseconds()
        for key, record in self._records.items():
            if key[0] == source:
                self._records[key] = attrs.evolve(record, is_declared=False)
        found: list[TriggerRecord] = []
        for definition in definitions:
            key = (source, definition.id)
            before = self._records.get(key)
            if before is None:
                record = TriggerRecord(definition=definition, registered=now, last=now)
            else:
                is_same = before.definition.schedule == definition.schedule
                last = before.last if is_same else max(before.last, now)
                record = attrs.evolve(before, definition=definition, last=last, is_declared=True)
            self._records[key] = record
            found.append(record)
        return found

    async def fire(
        self, definition: TriggerDefinition, *, decided: int, last: int, messages: Sequence[Envelope]
    ) -> Firing:
        await trio.lowlevel.checkpoint()
        key = (definition.source, definition.id)
        record = self._records.get(key)
        if record is None:
            return Firing("unknown")
        if record.definition.schedule != definition.schedule:
            return Firing("superseded", record.last)
        if record.last != decided:
            return Firing("decided", record.last)
        kept = self._keep(messages)
        self._records[key] = attrs.evolve(record, last=last, fired=record.fired + kept)
        return Firing("fired", last, kept)

    async def skip(self, source: str, id: str) -> bool:
        await trio.lowlevel.checkpoint()
        record = self._records.get((source, id))
        if record is not None:
            self._records[source, id] = attrs.evolve(record, last=max(record.last, self._milliseconds()))
        return record is not None

    async def list(self) -> Sequence[TriggerRecord]:
        await trio.lowlevel.checkpoint()
        return self.all

    async def forget(self, source: str, id: str) -> bool:
        await trio.lowlevel.checkpoint()
        return self._records.pop((source, id), None) is not None

    def _milliseconds(self) -> int:
        return round(self._now() * 1000)


class MemoryPauses:
    """Implements `actorwork.abc.Pauses`."""

    def __init__(self, now: Callable[[], float], triggers: MemoryTriggers) -> None:
        self._now = now
        self._triggers = triggers
        self._pauses: dict[tuple[PauseKind, str], Pause] = {}
        self._watchers: list[Callable[[], object]] = []

    def __repr__(self) -> str:
        return f"<MemoryPauses: {len(self._pauses)}>"

    @property
    def is_certain(self) -> bool:
        return True

    async def pause(self, kind: PauseKind, name: str = "", *, reason: str = "", by: str = "") -> Pause:
        await trio.lowlevel.checkpoint()
        found = self._pauses.setdefault((kind, name), Pause(kind, name, reason, by, self._now()))
        self._changed()
        return found

    async def resume(self, kind: PauseKind, name: str = "") -> bool:
        await trio.lowlevel.checkpoint()
        if (kind, name) not in self._pauses:
            return False
        for definition in concerned(kind, name, [record.definition for record in self._triggers.all]):
            await self._triggers.skip(definition.source, definition.id)
        self._pauses.pop((kind, name), None)
        self._changed()
        return True

    async def list(self) -> Sequence[Pause]:
        await trio.lowlevel.checkpoint()
        return list(self._pauses.values())

    @asynccontextmanager
    async def watch(self, changed: Callable[[], object]) -> AsyncGenerator[bool]:
        await trio.lowlevel.checkpoint()
        self._watchers.append(changed)
        try:
            yield True
        finally:
            self._watchers.remove(changed)

    def _changed(self) -> None:
        for changed in self._watchers:
            changed()
