"""Publishes: each message once, in order within its source, one script for each run of messages of one source.

Nothing is collected here. Publishes of several tasks in one tick of the scheduler leave in one write (the
connection's doing), and a lone one is never held up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from actorwork.errors import BrokerError
from actorwork.message import Envelope
from actorwork.streams import entries, scripts
from actorwork.streams.client import Client
from actorwork.streams.keys import SourceKeys
from actorwork.streams.redis_py import NoScriptError, RedisError

_AT_ONCE: Final = 1000
_BYTES_AT_ONCE: Final = 8 * 1024 * 1024


class Publisher:
    """Safe to use from any number of tasks."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._keys: dict[str, SourceKeys] = {}

    def __repr__(self) -> str:
        return f"<Publisher to {self._client!r}>"

    async def publish(self, envelopes: Sequence[Envelope]) -> int:
        """Keep messages; return how many were new. A publish whose reply was lost is sent again, and then counts 0.

        Cancelled: any part of it may have been kept.
        """
        calls = self._calls(envelopes)
        try:
            if len(calls) == 1:
                return await self._run(*calls[0])
            return await self._run_many(calls)
        except RedisError as error:
            sources = sorted({envelope.source for envelope in envelopes})
            raise BrokerError(f"cannot publish to {', '.join(sources[:3])}: {error}") from error

    async def _run(self, keys: Sequence[Any], args: Sequence[Any]) -> int:
        return await self._client.run_script(scripts.PUBLISH, keys, args, idempotent=True)

    async def _run_many(self, calls: Sequence[tuple[Sequence[Any], Sequence[Any]]]) -> int:
        sha = scripts.PUBLISH.sha
        commands = [("EVALSHA", sha, len(keys), *keys, *args) for keys, args in calls]
        new = 0
        # In one write, and in order: the server runs them one after the other.
        for call, reply in zip(calls, await self._client.call_many(commands, idempotent=True), strict=True):
            if isinstance(reply, NoScriptError):
                new += await self._run(*call)
            elif isinstance(reply, Exception):
                raise reply
            else:
                new += reply
        return new

    def _calls(self, envelopes: Sequence[Envelope]) -> list[tuple[list[Any], list[Any]]]:
        """Cut envelopes into calls of the script: keys and arguments."""
        by_source: dict[str, list[Envelope]] = {}
        for envelope in envelopes:
            by_source.setdefault(envelope.source, []).append(envelope)
        return [call for source, some in by_source.items() for call in self._calls_of(source, some)]

    def _calls_of(self, source: str, envelopes: Sequence[Envelope]) -> list[tuple[list[Any], list[Any]]]:
        of = self._keys.get(source)
        if of is None:
            if len(self._keys) >= 10_000:
                self._keys.clear()
            of = self._keys[source] = SourceKeys.of(source)
        calls: list[tuple[list[Any], list[Any]]] = []
        keys: list[Any] = []
        args: list[Any] = []
        marks: dict[str, int] = {}
        count = size = 0
        for envelope in envelopes:
            if not keys:
                keys = [of.stream, of.delayed, of.delayed_messages]
                args = [of.prefix]
                calls.append((keys, args))
            mark, bit = entries.mark_of(of.prefix, envelope.id)
            position = marks.get(mark)
            if position is None:
                keys.append(mark)
                position = marks[mark] = len(keys)
            due = "" if envelope.at is None and not envelope.delay else entries.due_of(envelope)
            fields = entries.fields_of(envelope)
            args += (position, bit, due, len(fields))
            args += fields
            count += 1
            size += len(envelope.data)
            if count >= _AT_ONCE or size >= _BYTES_AT_ONCE:
                keys, marks, count, size = [], {}, 0, 0
        return calls
