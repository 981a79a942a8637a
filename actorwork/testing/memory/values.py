"""Shared values and locks in memory, by the clock of the broker in memory."""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs
import trio

from actorwork.abc import VersionedValue
from actorwork.policy.values import check_fence, number_after, sum_of


@attrs.frozen
class _Value:
    data: bytes | None
    version: int
    fence: int
    until: float


@attrs.frozen
class _Lock:
    token: int = 0
    owner: str = ""
    until: float = 0.0


class MemoryValues:
    """Implements `actorwork.abc.Values`."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._values: dict[str, _Value] = {}
        self._locks: dict[str, _Lock] = {}

    def __repr__(self) -> str:
        return f"<MemoryValues: {len(self._values)} values, {len(self._locks)} locks>"

    async def get(self, name: str) -> VersionedValue | None:
        await trio.lowlevel.checkpoint()
        value = self._value(name)
        return None if value.data is None else VersionedValue(value.data, value.version)

    async def set(
        self,
        name: str,
        data: bytes,
        *,
        ttl: float | None = None,
        version: int | None = None,
        fence: int | None = None,
    ) -> int | None:
        await trio.lowlevel.checkpoint()
        before = self._value(name)
        newest = check_fence(name, fence, before.fence)
        if version is not None and version != (0 if before.data is None else before.version):
            return None
        return self._keep(name, data, before.version, newest, ttl)

    async def add(
        self, name: str, by: float, *, start: bytes, ttl: float | None = None, fence: int | None = None
    ) -> bytes | None:
        await trio.lowlevel.checkpoint()
        before = self._value(name)
        newest = check_fence(name, fence, before.fence)
        total = sum_of(start if before.data is None else before.data, by)
        if total is not None:
            self._keep(name, total, before.version, newest, ttl)
        return total

    async def delete(self, name: str, *, fence: int | None = None) -> bool:
        await trio.lowlevel.checkpoint()
        before = self._value(name)
        newest = check_fence(name, fence, before.fence)
        self._values[name] = _Value(None, before.version, newest, math.inf)
        return before.data is not None

    async def take_lock(self, name: str, owner: str, ttl: float) -> int | None:
        await trio.lowlevel.checkpoint()
        lock, now = self._locks.get(name, _Lock()), self._now()
        if lock.owner not in ("", owner) and lock.until > now:
            return None
        token = lock.token if lock.owner == owner else number_after(lock.token, now)
        self._locks[name] = _Lock(token, owner, now + ttl)
        return token

    async def keep_lock(self, name: str, owner: str, ttl: float) -> bool:
        await trio.lowlevel.checkpoint()
        lock = self._locks.get(name, _Lock())
        if lock.owner != owner:
            return False
        self._locks[name] = attrs.evolve(lock, until=self._now() + ttl)
        return True

    async def free_lock(self, name: str, owner: str) -> bool:
        await trio.lowlevel.checkpoint()
        lock = self._locks.get(name, _Lock())
        if lock.owner != owner:
            return False
        self._locks[name] = _Lock(lock.token)
        return True

    def _value(self, name: str) -> _Value:
        value = self._values.get(name, _Value(None, 0, 0, math.inf))
        return attrs.evolve(value, data=None) if value.until <= self._now() else value

    def _keep(self, name: str, data: bytes, last: int, fence: int, ttl: float | None) -> int:
        version = number_after(last, self._now())
        until = math.inf if ttl is None else self._now() + ttl
        self._values[name] = _Value(data, version, fence, until)
        return version
