"""What nobody could handle, as the broker in memory keeps it: each letter with the entry that it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import attrs
import trio

from actorwork.message import NO_HEADERS, DeadLetter, Json
from actorwork.policy.attempts import headers_of_first_attempt
from actorwork.testing.memory.entries import Entry, Source


class MemoryDeadLetters:
    """Implements `actorwork.abc.DeadLetters`; `all` is the same without waiting."""

    def __init__(self, sources: Mapping[str, Source], send: Callable[[Entry], object]) -> None:
        self._sources = sources
        self._send = send

    def __repr__(self) -> str:
        return f"<MemoryDeadLetters: {len(self.all)}>"

    @property
    def all(self) -> Sequence[DeadLetter]:
        """All of them, by source and age."""
        return [letter for name in sorted(self._sources) for letter, _ in self._sources[name].dead.values()]

    async def sources(self) -> Sequence[str]:
        await trio.lowlevel.checkpoint()
        return sorted(name for name, source in self._sources.items() if source.dead)

    async def list(
        self, source: str | None = None, *, limit: int = 100, after: str | None = None
    ) -> Sequence[DeadLetter]:
        await trio.lowlevel.checkpoint()
        behind = -1 if after is None else int(after) if after.isdecimal() else math.inf
        found = [letter for letter in self.all if source in (None, letter.source) and int(letter.entry) > behind]
        return found[:limit]

    async def get(self, source: str, entry: str) -> DeadLetter | None:
        await trio.lowlevel.checkpoint()
        found = self._sources[source].dead.get(entry) if source in self._sources else None
        return None if found is None else found[0]

    async def replay(self, source: str, entries: Sequence[str]) -> int:
        found = await self._remove(source, entries)
        for letter, entry in found:
            self._send_again(letter, entry, letter.headers)
        return len(found)

    async def replay_as(
        self, source: str, entry: str, data: bytes, *, type: str | None = None, headers: Mapping[str, Json] = NO_HEADERS
    ) -> bool:
        found = await self._remove(source, [entry])
        for letter, kept in found:
            self._send_again(letter, attrs.evolve(kept, payload=data, type=type), headers)
        return bool(found)

    def _send_again(self, letter: DeadLetter, entry: Entry, headers: Mapping[str, Json]) -> None:
        # Somebody wants it to be run now: when it would have been too late is of no account.
        first = headers_of_first_attempt(headers)
        self._send(attrs.evolve(entry, headers=first, group=letter.group, expires=None, unique=None, goes_first=False))

    async def drop(self, source: str, entries: Sequence[str]) -> int:
        return len(await self._remove(source, entries))

    async def _remove(self, source: str, entries: Sequence[str]) -> Sequence[tuple[DeadLetter, Entry]]:
        await trio.lowlevel.checkpoint()
        dead = self._sources[source].dead if source in self._sources else {}
        return [dead.pop(entry) for entry in entries if entry in dead]
