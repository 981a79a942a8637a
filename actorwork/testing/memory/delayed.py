"""What the broker in memory holds back: a heap by when it is due, in Trio's time."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence

import trio

from actorwork.message import Delayed
from actorwork.testing.memory.entries import Entry


class MemoryDelayed:
    """Implements `actorwork.abc.DelayedMessages`; `all` is the same without waiting."""

    def __init__(self, wall: Callable[[float], float], cancel: Callable[[str, str], bool]) -> None:
        self._wall = wall
        self._cancel = cancel
        self._heap: list[tuple[float, int, Entry]] = []

    def __repr__(self) -> str:
        return f"<MemoryDelayed: {len(self)}>"

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def all(self) -> Sequence[Delayed]:
        """All of them, by source, those due first first."""
        return [
            Delayed(entry.source, entry.id, self._wall(due), _bytes_of(entry), entry.type, entry.headers)
            for due, _, entry in sorted(self._heap, key=lambda held: (held[2].source, *held[:2]))
        ]

    async def list(self, source: str | None = None, *, limit: int = 100) -> Sequence[Delayed]:
        await trio.lowlevel.checkpoint()
        return [one for one in self.all if source in (None, one.source)][:limit]

    async def cancel(self, source: str, message_id: str) -> bool:
        await trio.lowlevel.checkpoint()
        return self._cancel(source, message_id)

    # ---- for the broker ----

    @property
    def next_due(self) -> float:
        """When the first is due, in Trio's time; infinite if there is none."""
        return self._heap[0][0] if self._heap else math.inf

    def add(self, due: float, entry: Entry) -> None:
        heapq.heappush(self._heap, (due, entry.number, entry))

    def take_due(self, now: float) -> Entry | None:
        return heapq.heappop(self._heap)[2] if self.next_due <= now else None

    def remove(self, source: str, id: str) -> Sequence[Entry]:
        """Take out all that is held back of one message."""
        found = [entry for _, _, entry in self._heap if (entry.source, entry.id) == (source, id)]
        if found:
            self._heap = [held for held in self._heap if held[2] not in found]
            heapq.heapify(self._heap)
        return found


def _bytes_of(entry: Entry) -> bytes:
    return entry.payload if isinstance(entry.payload, bytes) else b""
