"""Reports of nodes and commands to them at Redis: a string and a list for each node, and a sorted set of all.

A report costs its node three commands in one write. A reader asks for the names, which is one command and a second
one where some have run out, and then for many reports in one command.

Commands are announced on a channel that names the node. A node that hears nothing, because an ACL forbids it or the
connection is lost, finds them with its next report.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from actorwork.abc import Commands, EventSink, Reports
from actorwork.message import Priority
from actorwork.policy.reports import Ask, Counts, Found, Mail, StoredReport
from actorwork.streams import keys, scripts
from actorwork.streams.entries import delayed_from
from actorwork.streams.transport import commands
from actorwork.streams.transport.redis_py import cannot, checked
from actorwork.streams.watches import subscribed

AT_ONCE: Final = 100
"""Commands that a node takes at once, and that wait for it at most."""
COUNTED_AT_ONCE: Final = 2000
"""Sources that one script counts: some milliseconds of the server's time."""
LOOKED_AT: Final = 1000
"""Entries of each stream among which a message is looked for."""
ASK_KEPT: Final = 15_000
ANSWER_KEPT: Final = 60_000
"""Milliseconds."""


class RedisReports(Reports):
    """Implements `actorwork.abc.Reports`."""

    def __init__(self, client: commands.Commands) -> None:
        self._client = client
        self._entered: set[str] = set()
        """The nodes that write their reports here."""

    def __repr__(self) -> str:
        return f"<RedisReports at {self._client!r}>"

    async def write(self, node: str, data: bytes, *, now: float, ttl: float) -> Mail:
        milliseconds = max(1, round(ttl * 1000))
        wanted: list[tuple[Any, ...]] = [
            ("LPOP", keys.asks(node), AT_ONCE),
            ("PTTL", keys.WATCHED),
            ("SET", keys.report(node), data, "PX", milliseconds),
            ("ZADD", keys.REPORTS, round(now * 1000) + milliseconds, node),
        ]
        if node not in self._entered:
            # Programs that crash again and again, and are never looked at, would fill the set.
            self._entered.add(node)
            wanted.append(("ZREMRANGEBYSCORE", keys.REPORTS, "-inf", _long_over(now)))
        with cannot("write the report of this node"):
            asks, watched, *_ = checked(await self._client.call_many(wanted))
        return _mail(asks, watched)

    async def drop(self, node: str) -> None:
        self._entered.discard(node)
        with cannot("delete the report of this node"):
            checked(
                await self._client.call_many(
                    [("DEL", keys.report(node), keys.asks(node)), ("ZREM", keys.REPORTS, node)], idempotent=True
                )
            )

    async def nodes(self) -> tuple[float, Sequence[str]]:
        with cannot("read which nodes report"):
            time, flat = checked(
                await self._client.call_many(
                    [("TIME",), ("ZRANGE", keys.REPORTS, 0, -1, "WITHSCORES")], idempotent=True
                )
            )
            now = int(time[0]) + int(time[1]) / 1e6
            # The score of a node that reports meanwhile is later than this.
            over = _long_over(now)
            if any(until <= over for _, until in flat):
                await self._client.call("ZREMRANGEBYSCORE", keys.REPORTS, "-inf", over, idempotent=True)
        return now, sorted(name.decode(errors="replace") for name, until in flat if until > over)

    async def get(self, nodes: Sequence[str]) -> Sequence[StoredReport]:
        if not nodes:
            return ()
        wanted = [key for node in nodes for key in (keys.report(node), keys.lease(node))]
        with cannot("read the reports of nodes"):
            found: list[bytes | None] = await self._client.call("MGET", *wanted, idempotent=True)
        return [
            StoredReport(node, data, lease is not None)
            for node, data, lease in zip(nodes, found[::2], found[1::2], strict=True)
            if data is not None
        ]

    async def watch(self, seconds: float = 5.0) -> None:
        milliseconds = max(1, round(seconds * 1000))
        with cannot("ask the nodes to report more often"):
            before = await self._client.call("SET", keys.WATCHED, b"", "PX", milliseconds, "GET", idempotent=True)
            if before is None:
                # Those that are watched already know it, and look again before the time is over.
                await self._client.call("PUBLISH", keys.ASKS, b"", idempotent=True)

    async def count(self, sources: Sequence[str]) -> Sequence[Counts]:
        found: list[Counts] = []
        for some in self._client.at_one_place(sources, COUNTED_AT_ONCE):
            with cannot("count what is in the sources"):
                answer = await self._client.run_script(
                    scripts.COUNT, some, [keys.prefix(source) for source in some], idempotent=True
                )
            now, *counted = answer
            found += [_counts(source, now, *numbers) for source, numbers in zip(some, counted, strict=True)]
        place = {source: index for index, source in enumerate(sources)}
        return sorted(found, key=lambda one: place[one.source])

    async def find(self, source: str, id: str) -> Found | None:
        of = keys.SourceKeys.of(source)
        with cannot(f"look for message {id} of {source!r}"):
            found = await self._client.run_script(
                scripts.FIND, [of.at(level) for level in Priority], (of.prefix, id, LOOKED_AT), idempotent=True
            )
        if found is None:
            return None
        where, fields, *due = found
        shown = delayed_from(source, due[0] if due else b"0", fields)
        key = dict(zip(fields[::2], fields[1::2], strict=False)).get(b"key", b"").decode(errors="replace")
        return Found(where.decode(), shown.payload, key, shown.headers, shown.due if due else None)


class RedisCommands(Commands):
    """Implements `actorwork.abc.Commands`; without `subscriptions`, nodes have to look by themselves."""

    def __init__(
        self, client: commands.Commands, emit: EventSink, subscriptions: commands.Subscriptions | None = None
    ) -> None:
        self._client = client
        self._emit = emit
        self._subscriptions = subscriptions
        self._listeners: list[tuple[bytes, Callable[[], object]]] = []

    def __repr__(self) -> str:
        return f"<RedisCommands at {self._client!r}, {len(self._listeners)} listening>"

    async def ask(self, node: str, data: bytes) -> str | None:
        name, waiting = uuid.uuid4().hex, keys.asks(node)
        with cannot(f"ask node {node}"):
            if not await self._client.call("EXISTS", keys.report(node), keys.lease(node), idempotent=True):
                return None
            checked(
                await self._client.call_many(
                    [
                        ("RPUSH", waiting, name.encode() + b" " + data),
                        ("LTRIM", waiting, -AT_ONCE, -1),
                        ("PEXPIRE", waiting, ASK_KEPT),
                    ]
                )
            )
            await self._client.call("PUBLISH", keys.ASKS, node, idempotent=True)
        return name

    async def take(self, node: str) -> Mail:
        with cannot("look for commands to this node"):
            asks, watched = checked(
                await self._client.call_many([("LPOP", keys.asks(node), AT_ONCE), ("PTTL", keys.WATCHED)])
            )
        return _mail(asks, watched)

    async def answer(self, id: str, data: bytes) -> None:
        with cannot("answer a command"):
            await self._client.call("SET", keys.answer(id), data, "PX", ANSWER_KEPT, idempotent=True)

    async def find_answer(self, id: str) -> bytes | None:
        with cannot("look for an answer"):
            return await self._client.call("GET", keys.answer(id), idempotent=True)

    @asynccontextmanager
    async def listen(self, node: str, called: Callable[[], object]) -> AsyncGenerator[bool]:
        listener = (node.encode(), called)
        self._listeners.append(listener)
        try:
            otherwise = "this node looks for commands every few seconds"
            yield self._subscriptions is not None and await subscribed(
                self._subscriptions, keys.ASKS, self._emit, otherwise=otherwise
            )
        finally:
            self._listeners.remove(listener)

    def tell(self, node: bytes = b"") -> None:
        """Have a node look (no name: each that listens here): it was announced, or the connection is new."""
        for name, called in list(self._listeners):
            if node in (b"", name):
                called()


def _mail(asks: list[bytes] | None, watched: int) -> Mail:
    found = [ask.partition(b" ") for ask in asks or ()]
    return Mail([Ask(name.decode(errors="replace"), data) for name, _, data in found], max(0, watched) / 1000)


def _counts(source: str, now: int, backlog: int, delayed: int, dead: int, oldest: int, due: int) -> Counts:
    """Make the value of what `lua/count.lua` has counted; times in milliseconds, or negative."""
    age = None if oldest < 0 else max(0.0, (now - oldest) / 1000)
    return Counts(source, backlog, delayed, dead, age, None if due < 0 else due / 1000)


def _long_over(now: float) -> int:
    """Return the scores of nodes whose reports have run out: nodes know the time of the server to within a moment."""
    return round((now - 5.0) * 1000)
