"""Which handlers of keys wait for others, at Redis: `lua/waits.lua` has the keys.

Notes are in the slot of the source whose key waits, so a circle is followed from slot to slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from actorwork.message import Delivery
from actorwork.policy.waits import MOST_WAITS, KeyWait
from actorwork.streams import keys, scripts
from actorwork.streams.in_flight import InFlightEntries
from actorwork.streams.transport.commands import Commands
from actorwork.streams.transport.redis_py import cannot


class RedisWaits:
    """Implements `actorwork.abc.KeyWaits`."""

    def __init__(self, client: Commands) -> None:
        self._client = client

    def __repr__(self) -> str:
        return f"<RedisWaits at {self._client!r}>"

    async def note(self, delivery: Delivery, wait: KeyWait, *, ttl: float) -> bool:
        entry, count, held = cast("tuple[Any, Any, object]", (*delivery.token, None, None, None)[:3])
        if not isinstance(held, InFlightEntries):
            return False  # It is of another broker.
        fence = (held.stream, held.group, held.incarnation, entry, count)
        args = (*fence, wait.to_source, wait.to_key, max(1, round(ttl * 1000)), MOST_WAITS, wait.asking)
        return await self._run("note", wait.source, wait.key, wait.message, *args) == 1

    async def forget(self, wait: KeyWait) -> None:
        await self._run("forget", wait.source, wait.key, wait.message)

    async def behind(self, wait: KeyWait) -> Sequence[KeyWait]:
        source, key = wait.to_source, wait.to_key
        found = [one.decode() for one in await self._run("behind", source, key, wait.message)]
        return [
            KeyWait(source=source, key=key, asking=asking, message=message, to_source=to_source, to_key=to_key)
            for asking, message, to_source, to_key in zip(*(found[field::4] for field in range(4)), strict=True)
        ]

    async def _run(self, what: str, source: str, key: str, *args: object) -> Any:
        with cannot(f"{what} the waits of the key {key!r} of {source!r}"):
            return await self._client.run_script(
                scripts.WAITS, (source,), (what, keys.prefix(source), key, *args), idempotent=True
            )
