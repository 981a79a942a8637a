"""Delayed messages: a sorted set for each source, by the time they are due, and a hash of their fields beside it.

Nodes promote them (`lua/maintain.lua`); this module lists and cancels them.
"""

from __future__ import annotations

from collections.abc import Sequence

from actorwork.abc import DelayedMessages
from actorwork.records import Delayed
from actorwork.streams import keys, scripts
from actorwork.streams.entries import delayed_from
from actorwork.streams.transport.commands import Commands
from actorwork.streams.transport.redis_py import cannot


class RedisDelayed(DelayedMessages):
    """Lists and cancels delayed messages."""

    def __init__(self, client: Commands) -> None:
        self._client = client

    def __repr__(self) -> str:
        return f"<RedisDelayed at {self._client!r}>"

    async def list(self, source: str | None = None, *, limit: int = 100) -> Sequence[Delayed]:
        """Without a source this scans all keys of the server, a thousand at a time."""
        with cannot("list what is held back"):
            if source is not None:
                of = keys.SourceKeys.of(source)
                rows = await self._client.run_script(
                    scripts.LIST_DELAYED, (of.delayed, of.delayed_messages), (limit,), idempotent=True
                )
                return [delayed_from(source, due, fields) for due, fields in rows]
            found: list[Delayed] = []
            for name in await self.sources():
                found += await self.list(name, limit=limit - len(found))
                if len(found) >= limit:
                    break
            return found

    async def cancel(self, source: str, message_id: str) -> bool:
        """Cancelled or failed: it may have been dropped. After a lost reply it is sent again, and returns False
        then.
        """
        args = (keys.SourceKeys.of(source).prefix, message_id)
        with cannot(f"cancel message {message_id} of {source!r}"):
            is_cancelled = bool(await self._client.run_script(scripts.CANCEL, (source,), args, idempotent=True))
            if self._client.is_of_cluster:
                from actorwork.streams.forwarding import forward_all  # noqa: PLC0415 - only on a cluster

                await forward_all(self._client, source)
            return is_cancelled

    async def sources(self) -> Sequence[str]:
        """Return the sources that have delayed messages, sorted."""
        names = await self._client.names(keys.ALL_DELAYED)
        return sorted(source for name in names if (source := keys.source_of_delayed(name)) is not None)
