"""What the broker's parts ask of a connection to Redis, whatever carries the bytes.

`RedisClient` does it on Trio; the clients for asyncio and for programs without an event loop have one each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from typing import Any, Protocol

import attrs

from actorwork.shown import Shown
from actorwork.streams.transport.redis_py import ConnectionError  # noqa: A004


class MayHaveExecuted(ConnectionError):
    """The connection was lost while a command that is not idempotent waited for its reply."""

    def __init__(self, text: str, *, client_id: int) -> None:
        super().__init__(text)  # pyright: ignore[reportUnknownMemberType] - redis-py has no types here
        self.client_id = client_id
        """The server's number of the connection that was lost."""


@attrs.frozen(repr=False)
class Script(Shown):
    """A Lua script, known to the server by its digest."""

    name: str
    source: str = attrs.field(repr=False)

    @cached_property
    def sha(self) -> str:
        return hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


class Commands(Protocol):
    """Commands and scripts: replies as they come, error replies raised, but in `call_many` and `transact` returned."""

    @property
    def generation(self) -> int:
        """Grows with every new connection: the server may have restarted."""
        ...

    async def call(self, *args: Any, idempotent: bool = False) -> Any: ...

    async def call_many(self, commands: Sequence[Sequence[Any]], *, idempotent: bool = False) -> list[Any]: ...

    async def call_in_turn(self, commands: Iterable[Sequence[Any]]) -> list[Any]:
        """Send idempotent commands one after the other without waiting in between, and return all replies."""
        ...

    async def transact(self, *commands: Sequence[Any]) -> list[Any]:
        """Send a transaction at most once; raises `MayHaveExecuted`."""
        ...

    async def may_transact(self) -> bool: ...

    async def disconnect(self, client_id: int) -> None: ...

    async def names(self, pattern: str) -> Collection[bytes]:
        """Return the keys that match a pattern."""
        ...

    async def run_script(
        self, script: Script, keys: Sequence[Any], args: Sequence[Any], *, idempotent: bool = False
    ) -> Any: ...

    async def subscribe(self, channel: str | bytes) -> None: ...

    async def unsubscribe(self, channel: str | bytes) -> None: ...
