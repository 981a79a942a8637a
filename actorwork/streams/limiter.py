"""Limits over all nodes at Redis: one moment per rate, a sorted set of holders per semaphore.

Every command may be sent again after a lost connection. A rate then loses some tokens, which makes it slower for a
moment, never faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actorwork.streams import keys, scripts
from actorwork.streams.transport.commands import Commands, Script
from actorwork.streams.transport.redis_py import cannot


class RedisLimitStore:
    """Implements `actorwork.abc.LimitStore`."""

    def __init__(self, client: Commands) -> None:
        self._client = client

    def __repr__(self) -> str:
        return f"<RedisLimitStore of {self._client!r}>"

    async def acquire_rate(self, name: str, rate: float, per: float, burst: int, cost: int) -> float:
        interval = per / rate * 1_000_000
        waits = await self._run(scripts.RATE, keys.rate(name), f"{interval:.3f}", burst, cost)
        return int(waits) / 1_000_000

    async def acquire_slot(self, name: str, limit: int, holder: str, ttl: float) -> bool:
        return bool(await self._run(scripts.SLOT, keys.slots(name), "take", holder, limit, max(1, round(ttl * 1000))))

    async def release_slot(self, name: str, holder: str) -> bool:
        return bool(await self._run(scripts.SLOT, keys.slots(name), "free", holder, 0, 0))

    async def count_slots(self, name: str) -> int:
        return int(await self._run(scripts.SLOT, keys.slots(name), "count", "", 0, 0))

    async def slot_holders(self, name: str) -> Sequence[str]:
        holders = await self._run(scripts.SLOT, keys.slots(name), "list", "", 0, 0)
        return sorted(holder.decode() if isinstance(holder, bytes) else holder for holder in holders)

    async def _run(self, script: Script, key: str, *args: Any) -> Any:
        with cannot(f"ask for the limit at {key!r}"):
            return await self._client.run_script(script, [key], args, idempotent=True)
