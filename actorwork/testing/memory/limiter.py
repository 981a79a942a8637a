"""Limits over all nodes in memory, by the clock of the broker in memory."""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

from actorwork.policy.limits import reserved


class MemoryLimitStore:
    """Implements `actorwork.abc.Limiter`."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._tats: dict[str, float] = {}
        self._slots: dict[str, dict[str, float]] = {}

    def __repr__(self) -> str:
        return f"<MemoryLimiter: {len(self._tats)} rates, slots of {len(self._slots)} limits>"

    async def acquire_rate(self, name: str, rate: float, per: float, burst: int, cost: int) -> float:
        await trio.lowlevel.checkpoint()
        before = self._tats.get(name, -math.inf)
        self._tats[name], wait = reserved(before, self._now(), interval=per / rate, burst=burst, cost=cost)
        return wait

    async def acquire_slot(self, name: str, limit: int, holder: str, ttl: float) -> bool:
        await trio.lowlevel.checkpoint()
        slots = self._alive(name)
        if holder not in slots and len(slots) >= limit:
            return False
        slots[holder] = self._now() + ttl
        return True

    async def release_slot(self, name: str, holder: str) -> bool:
        await trio.lowlevel.checkpoint()
        return self._alive(name).pop(holder, None) is not None

    def _alive(self, name: str) -> dict[str, float]:
        now = self._now()
        found = {holder: until for holder, until in self._slots.get(name, {}).items() if until > now}
        self._slots[name] = found
        return found
