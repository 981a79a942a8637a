"""Purging a source at Redis: what no node has been given is dropped, a portion in each script.

    those behind others with their key ──▶ those that are delayed ──▶ those in the streams

In this order, because a message that leaves its stream calls the next one with its key there.
"""

from __future__ import annotations

from typing import Any, Final

from actorwork.message import Priority
from actorwork.records import Purgeable
from actorwork.streams import keys, scripts
from actorwork.streams.transport.commands import Commands
from actorwork.streams.transport.redis_py import cannot

PORTION: Final = 200
"""How many messages one script drops; it counts five times as many."""
BEHIND: Final = "="
DELAYED: Final = "~"
STREAMS: Final = tuple("" if level is Priority.NORMAL else level.name.lower() for level in Priority)


class RedisPurging:
    """Implements `actorwork.abc.Purging`."""

    def __init__(self, client: Commands) -> None:
        self._client = client

    def __repr__(self) -> str:
        return f"<RedisPurging at {self._client!r}>"

    async def count(self, source: str) -> Purgeable:
        behind, steps_behind = await self._count(source, BEHIND)
        delayed, steps_delayed = await self._count(source, DELAYED)
        ready = steps = 0
        for level in STREAMS:
            more, steps_of_level = await self._count(source, level)
            ready, steps = ready + more, steps + steps_of_level
        return Purgeable(ready, delayed, behind, steps + steps_delayed + steps_behind)

    async def drop(self, source: str, *, reason: str, most: int) -> int:
        dropped = 0
        for where in (BEHIND, DELAYED, *STREAMS):
            position = _beginning(where)
            while dropped < most and position is not None:
                at_once = min(PORTION, most - dropped)
                count, _, position = await self._look(source, where, position, at_once, reason or "it was purged")
                dropped += count
        if self._client.is_of_cluster:
            from actorwork.streams.forwarding import forward_all  # noqa: PLC0415 - only on a cluster

            await forward_all(self._client, source)
        return dropped

    async def _count(self, source: str, where: str) -> tuple[int, int]:
        count = steps = 0
        position = _beginning(where)
        while position is not None:
            more, more_steps, position = await self._look(source, where, position, 5 * PORTION, "")
            count, steps = count + more, steps + more_steps
        return count, steps

    async def _look(
        self, source: str, where: str, position: str, most: int, reason: str
    ) -> tuple[int, int, str | None]:
        args = (keys.SourceKeys.of(source).prefix, where, position, most, reason)
        with cannot(f"purge {source!r}" if reason else f"count what may be purged of {source!r}"):
            # After a lost reply it is sent again, and drops the next ones: fewer are reported than have gone.
            found: Any = await self._client.run_script(scripts.PURGE, (source,), args, idempotent=True)
        count, steps, on = found
        return count, steps, on.decode() if on else None


def _beginning(where: str) -> str:
    return "0" if where in (BEHIND, DELAYED) else ""
