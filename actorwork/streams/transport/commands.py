"""What the broker's parts ask of a connection to Redis, whatever carries the bytes.

`RedisClient` does it on Trio; the clients for asyncio and for programs without an event loop have one each.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property
from typing import Any, Final, Protocol, TypeAlias, cast

from actorwork.streams.transport.redis_py import (
    ConnectionError,  # noqa: A004
    NoPermissionError,
    NoScriptError,
    RedisError,
    ResponseError,
)

Link: TypeAlias = tuple[object, int]
"""A connection: which primary it leads to, and how many there were to that one. Compares equal as long as it lasts."""

Replies: TypeAlias = "list[Any] | RedisError"

_NO_CONNECTION: Final = 2**62


class MayHaveExecuted(ConnectionError):
    """The connection was lost while a command that is not idempotent waited for its reply."""

    def __init__(self, text: str, *, client_id: int) -> None:
        super().__init__(text)  # pyright: ignore[reportUnknownMemberType] - redis-py has no types here
        self.client_id = client_id
        """The server's number of the connection that was lost."""


class Script:
    """A Lua script, known to the server by its digest. A text that has to be put together is so when it is needed."""

    def __init__(self, name: str, source: str | Callable[[], str]) -> None:
        self.name = name
        self._source = source

    def __repr__(self) -> str:
        return f"<Script {self.name}>"

    @cached_property
    def source(self) -> str:
        return self._source if isinstance(self._source, str) else self._source()

    @cached_property
    def sha(self) -> str:
        return hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


class Commands(Protocol):
    """Commands and scripts: replies as they come, error replies raised, but in `call_many` and `transact` returned."""

    @property
    def generation(self) -> int:
        """Grows with every new connection: the server may have restarted."""
        ...

    is_of_cluster: bool
    """Whether keys are in slots, and a script reaches those of one."""

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

    async def call_each(self, *args: Any) -> Sequence[Any]:
        """Send an idempotent command without a key to each primary, and return all replies. Errors are raised; but of a
        cluster, a primary that does not answer soon has a `ConnectionError` in the place of its reply.
        """
        ...

    def server_of(self, key: Any) -> object:
        """Return what serves a key, as far as that is known: keys with equal ones are away together."""
        ...

    def reaches(self, key: Any) -> bool:
        """Return whether the server that has a key can be reached, as far as that is known."""
        ...

    def at_one_place(self, names: Sequence[str], most: int) -> Sequence[Sequence[str]]:
        """Cut names of keys into groups of at most `most`, each of which one command may have."""
        ...

    async def link_of(self, key: str) -> Link:
        """Return over which connection commands go that concern a key."""
        ...

    async def call_over_links(self, sent: Sequence[tuple[str, Sequence[Sequence[Any]]]]) -> Sequence[Replies]:
        """Send lists of commands, each in one write over the connection for a key, at most once; return the replies to
        each, or why these are not known: `MayHaveExecuted`, or another error.
        """
        ...

    async def run_script(
        self, script: Script, keys: Sequence[Any], args: Sequence[Any], *, idempotent: bool = False
    ) -> Any: ...

    async def run_script_on_each(
        self, script: Script, calls: Sequence[tuple[Sequence[Any], Sequence[Any]]]
    ) -> list[Any]: ...


class Subscriptions(Protocol):
    """Subscribes the connection of the commands to channels, again after each reconnect."""

    async def subscribe(self, channel: str | bytes) -> None: ...

    async def unsubscribe(self, channel: str | bytes) -> None: ...


class CommonCommands(ABC):
    """What every client of Redis does in the same way, on top of how it carries commands."""

    is_of_cluster: bool = False

    @abstractmethod
    async def call(self, *args: Any, idempotent: bool = False) -> Any: ...

    @abstractmethod
    async def call_many(self, commands: Sequence[Sequence[Any]], *, idempotent: bool = False) -> list[Any]: ...

    async def may_transact(self) -> bool:
        """Return whether this user may use `transact` and `disconnect`."""
        commands = [("MULTI",), ("EXEC",), _kill(_NO_CONNECTION)]
        return not any(isinstance(reply, Exception) for reply in await self.call_many(commands, idempotent=True))

    async def disconnect(self, client_id: int) -> None:
        """Make the server close a connection that was lost here.

        What is still on its way over it (through a proxy, or past the end of a partition) cannot be executed after
        this returns.
        """
        # Ids grow within one server. A server that has restarted may have given this one to another client, which then
        # has to connect again.
        await self.call(*_kill(client_id), idempotent=True)

    def at_one_place(self, names: Sequence[str], most: int) -> Sequence[Sequence[str]]:
        """Cut names of keys into groups of at most `most`, each of which one command may have: any, on one server."""
        return [names[start : start + most] for start in range(0, len(names), most)]

    async def call_each(self, *args: Any) -> Sequence[Any]:
        """Send an idempotent command to each primary, and return all replies: on one server, to that."""
        return [await self.call(*args, idempotent=True)]

    def server_of(self, key: Any) -> object:
        """Return what serves a key: the one server there is."""
        return None

    def reaches(self, key: Any) -> bool:
        """Return whether the server that has a key can be reached, as far as that is known."""
        return True

    async def link_of(self, key: str) -> Link:
        """Return over which connection commands go that concern a key."""
        return None, cast("Commands", self).generation

    async def call_over_links(self, sent: Sequence[tuple[str, Sequence[Sequence[Any]]]]) -> Sequence[Replies]:
        """Send lists of commands, each in one write over the connection for a key; see `Commands`."""
        found: list[Replies] = []
        for _, commands in sent:
            try:
                found.append(await self.call_many(commands))
            except RedisError as error:
                found.append(error)
        return found

    async def names(self, pattern: str) -> Collection[bytes]:
        """Return the keys that match a pattern, once each. This scans all keys of the server, in pages."""
        found: set[bytes] = set()
        cursor = b"0"
        while True:
            cursor, page = await self.call("SCAN", cursor, "MATCH", pattern, "COUNT", 1000, idempotent=True)
            found.update(page)
            if cursor == b"0":
                return found

    async def run_script(
        self, script: Script, keys: Sequence[Any], args: Sequence[Any], *, idempotent: bool = False
    ) -> Any:
        """Run a script by its digest. If the server does not know it, nothing was run: load it and run it again.

        Where scripts may not be loaded, it is sent whole.
        """
        call = ("EVALSHA", script.sha, len(keys), *keys, *args)
        try:
            return await self.call(*call, idempotent=idempotent)
        except NoScriptError:
            self._missed(script)
        loaded, reply = await self.call_many([("SCRIPT", "LOAD", script.source), call], idempotent=idempotent)
        if _is_refused(loaded) and isinstance(reply, NoScriptError):
            return await self.call("EVAL", script.source, *call[2:], idempotent=idempotent)
        for answer in (loaded, reply):
            if isinstance(answer, Exception):
                raise answer
        return reply

    async def run_script_on_each(
        self, script: Script, calls: Sequence[tuple[Sequence[Any], Sequence[Any]]]
    ) -> list[Any]:
        """Run an idempotent script for several keys and arguments, in one write to each server; return the replies."""
        sent = [("EVALSHA", script.sha, len(keys), *keys, *args) for keys, args in calls]
        replies = await self.call_many(sent, idempotent=True)
        for which, reply in enumerate(replies):
            if isinstance(reply, NoScriptError):
                replies[which] = await self.run_script(script, *calls[which], idempotent=True)
            elif isinstance(reply, Exception):
                raise reply
        return replies

    def _missed(self, script: Script) -> None:  # noqa: B027 - most clients have nothing to note
        """Note that the server did not know a script; a client that loads scripts with each connection adds it."""


def _is_refused(loaded: object) -> bool:
    """Return whether a reply to SCRIPT LOAD is about the command, not about the script."""
    return isinstance(loaded, NoPermissionError) or (
        isinstance(loaded, ResponseError) and any(word in str(loaded).lower() for word in ("unknown", "not supported"))
    )


def _kill(client_id: int) -> tuple[Any, ...]:
    return ("CLIENT", "KILL", "ID", client_id)
