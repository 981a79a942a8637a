"""Shared values and locks at Redis: a hash for each, changed by two scripts.

An operation that may run twice without harm is sent again after a lost connection. A compare-and-set and an increment
may not run twice: if their reply is lost, the caller gets an error that says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actorwork.abc import LockState, VersionedValue
from actorwork.errors import BrokerError
from actorwork.policy.values import stale
from actorwork.streams import keys, scripts
from actorwork.streams.transport.commands import Commands
from actorwork.streams.transport.redis_py import ConnectionError, cannot, checked  # noqa: A004


class RedisValues:
    """Implements `actorwork.abc.Values`."""

    def __init__(self, client: Commands) -> None:
        self._client = client

    def __repr__(self) -> str:
        return f"<RedisValues of {self._client!r}>"

    async def get(self, name: str) -> VersionedValue | None:
        key = keys.shared(name)
        with cannot(f"read the shared value {name!r}"):
            commands = [("HMGET", key, "data", "version", "until"), ("TIME",)]
            found, time = checked(await self._client.call_many(commands, idempotent=True))
        data, version, until = found
        # The key of a value that was written under a token outlives the value (lua/value.lua).
        if data is None or (until is not None and int(until) <= int(time[0]) * 1000 + int(time[1]) // 1000):
            return None
        return VersionedValue(data, int(version))

    async def set(
        self,
        name: str,
        data: bytes,
        *,
        ttl: float | None = None,
        version: int | None = None,
        fence: int | None = None,
    ) -> int | None:
        wanted = "" if version is None else version
        kept = await self._change(name, "set", fence, ttl, data, wanted, idempotent=version is None)
        return None if kept is None else int(kept)

    async def add(
        self, name: str, by: float, *, start: bytes, ttl: float | None = None, fence: int | None = None
    ) -> bytes | None:
        return await self._change(name, "add", fence, ttl, repr(by), start, idempotent=False)

    async def delete(self, name: str, *, fence: int | None = None) -> bool:
        return bool(await self._change(name, "delete", fence, None, idempotent=True))

    async def _change(
        self, name: str, operation: str, fence: int | None, ttl: float | None, *more: Any, idempotent: bool
    ) -> Any:
        args = (operation, "" if fence is None else fence, "" if ttl is None else _milliseconds(ttl), *more)
        with cannot(f"change the shared value {name!r}"):
            try:
                answer, *rest = await self._client.run_script(
                    scripts.VALUE, [keys.shared(name)], args, idempotent=idempotent
                )
            except ConnectionError as error:
                raise BrokerError(
                    f"the reply to a change of the shared value {name!r} was lost, and it may have taken effect:"
                    f" read the value before you try again ({error})"
                ) from error
        if answer == b"stale":
            raise stale(name, fence or 0, int(rest[0]))
        return None if answer == b"other" else rest[0]

    async def take_lock(self, name: str, owner: str, ttl: float) -> int | None:
        token = await self._lock("take", name, owner, ttl)
        return None if token is None else int(token)

    async def keep_lock(self, name: str, owner: str, ttl: float) -> bool:
        return bool(await self._lock("keep", name, owner, ttl))

    async def free_lock(self, name: str, owner: str) -> bool:
        return bool(await self._lock("free", name, owner, 0))

    async def held_locks(self, most: int) -> Sequence[LockState]:
        if self._client.is_of_cluster:
            return ()
        with cannot("list the locks that are held"):
            commands = [("ZREVRANGE", keys.LOCKS, 0, most - 1), ("TIME",)]
            names, now_at = checked(await self._client.call_many(commands, idempotent=True))
            asked = [("HMGET", keys.lock("").encode() + name, "owner", "token", "until") for name in names]
            found = checked(await self._client.call_many(asked, idempotent=True)) if asked else []
        now = int(now_at[0]) + int(now_at[1]) / 1_000_000
        return [
            LockState(name.decode(errors="replace"), owner.decode(errors="replace"), int(token), int(until) / 1000)
            for name, (owner, token, until) in zip(names, found, strict=True)
            if owner is not None and int(until) / 1000 > now
        ]

    async def _lock(self, operation: str, name: str, owner: str, ttl: float) -> Any:
        client = self._client
        # On a cluster the list is in another slot, whose primary may be away: no lock may have to wait for it.
        listed = "" if client.is_of_cluster else keys.LOCKS
        with cannot(f"{operation} the lock {name!r}"):
            return await client.run_script(
                scripts.LOCK, [keys.lock(name)], (operation, owner, _milliseconds(ttl), listed), idempotent=True
            )


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
