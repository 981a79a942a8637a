"""The states of entities at Redis, as `lua/entities.lua` describes their keys."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from operator import gt, lt
from typing import Any, Final

from actorwork.codec.text import shown
from actorwork.errors import BrokerError, CodecError
from actorwork.policy.entities import EntityInfo, FoundState, StoredState, conflict
from actorwork.streams import keys, scripts
from actorwork.streams.transport.commands import Commands
from actorwork.streams.transport.redis_py import ConnectionError, cannot, checked  # noqa: A004

_FIELDS: Final = ("v", "data", "at", "by", "node", "s", "n", "m")
_INFO: Final = ("v", "at", "by")
MOST_DIGITS: Final = 15
"""Of numbers that this module has written; a script counts with no more."""


class RedisEntities:
    """Implements `actorwork.abc.EntityStore`."""

    def __init__(self, client: Commands) -> None:
        self._client = client

    def __repr__(self) -> str:
        return f"<RedisEntities of {self._client!r}>"

    async def get(self, source: str, group: str, key: str) -> StoredState | None:
        with cannot(f"read the state of {key!r}"):
            found = await self._client.call("HMGET", keys.entity(source, group, key), *_FIELDS, idempotent=True)
        return _state(found)

    async def load(self, source: str, group: str, known: Sequence[tuple[str, str]]) -> Sequence[FoundState]:
        """Return the states of keys; True for those that still have the stamp that comes with the key."""
        near = keys.entity(source, group, "")
        if len(known) == 1:
            ((key, stamp),) = known
            with cannot(f"read the state of {key!r}"):
                return [await self._load_one(near + key, stamp)]
        args: list[Any] = [near]
        for key_and_stamp in known:
            args += key_and_stamp
        with cannot(f"read {len(known)} states"):
            found = await self._client.run_script(scripts.LOAD_STATES, (source,), args, idempotent=True)
        return [True if one == 1 else None if one is None else _state(one) for one in found]

    async def _load_one(self, name: str, stamp: str) -> FoundState:
        # Its stamp alone: most states are as the node has committed them, and need not travel.
        if stamp and await self._client.call("HGET", name, "n", idempotent=True) == stamp.encode():
            return True
        return _state(await self._client.call("HMGET", name, *_FIELDS, idempotent=True))

    async def list(
        self,
        source: str,
        group: str,
        *,
        changed_since: float | None = None,
        limit: int = 100,
        after: tuple[float, str] | None = None,
        newest_first: bool = False,
    ) -> Sequence[EntityInfo]:
        since: float | str = "-inf" if changed_since is None else round(changed_since * 1000)
        command, first, last = ("ZREVRANGEBYSCORE", "+inf", since) if newest_first else ("ZRANGEBYSCORE", since, "+inf")
        if after is not None:
            first = round(after[0] * 1000)
        names = keys.entities(source, group)
        found: list[EntityInfo] = []
        skipped = 0
        while len(found) < limit:
            page_of = (command, names, first, last, "WITHSCORES", "LIMIT", skipped, limit)
            with cannot(f"list the entities of {source!r}"):
                page = _pairs(await self._client.call(*page_of, idempotent=True))
            skipped += len(page)
            # Of those that have changed in the same millisecond, the ones before the last one that was seen.
            new = page
            if after is not None:
                behind = lt if newest_first else gt
                new = [(name, at) for name, at in page if behind((at / 1000, name), after)]
            commands: list[tuple[Any, ...]] = []
            for name, _ in new:
                key = keys.entity(source, group, name)
                commands += [("HMGET", key, *_INFO), ("HSTRLEN", key, "data")]
            with cannot(f"list the entities of {source!r}"):
                replies = await self._client.call_many(commands, idempotent=True) if commands else []
                for (name, changed), info, length in zip(new, replies[::2], replies[1::2], strict=True):
                    if isinstance(info, Exception) and str(info).startswith("WRONGTYPE"):
                        # Others have put something else there: it is seen, and the list goes on.
                        found.append(EntityInfo(key=name, version=0, at=changed / 1000, by="", bytes=0))
                        continue
                    (version, at, by), size = checked([info, length])
                    if version is not None:  # Otherwise it has expired.
                        found.append(_info(name, version, at, by, size))
            if len(page) < limit:
                break
        return found[:limit]

    async def history(self, source: str, group: str, key: str, *, limit: int = 20) -> Sequence[StoredState]:
        with cannot(f"read the history of {key!r}"):
            past = keys.past(source, group, key)
            page: list[Any] = await self._client.call("XREVRANGE", past, "+", "-", "COUNT", limit, idempotent=True)
        found: list[StoredState] = []
        for _, pairs in page:
            named = dict(zip(pairs[::2], pairs[1::2], strict=True))
            state = _state([named.get(name.encode()) for name in _FIELDS])
            if state is not None:
                found.append(state)
        return found

    async def put(
        self,
        source: str,
        group: str,
        key: str,
        data: bytes,
        *,
        version: int | None = None,
        schema: int = 0,
        ttl: float | None = None,
        history: int | None = 0,
        by: str = "",
        force: bool = False,
    ) -> int:
        milliseconds: int | str = "="
        if ttl is not None:
            milliseconds = "" if math.isinf(ttl) else max(1, round(ttl * 1000))
        kept = "" if history is None else history
        change = ("", os.urandom(8).hex(), schema, milliseconds, kept, "", data)
        return await self._change(source, group, key, "put", version, (by, *change, int(force)))

    async def forget(
        self, source: str, group: str, key: str, *, version: int | None = None, force: bool = False
    ) -> bool:
        return await self._change(source, group, key, "forget", version, ("",) * 8 + (int(force),)) > 0

    async def _change(
        self, source: str, group: str, key: str, doing: str, version: int | None, change: tuple[Any, ...]
    ) -> int:
        args = (keys.prefix(source), group, key, "" if version is None else version, *change)
        with cannot(f"{doing} the state of {key!r}"):
            try:
                how, number = await self._client.run_script(scripts.ENTITY, [source], args)
            except ConnectionError as error:
                raise BrokerError(
                    f"the reply to a change of the state of {key!r} was lost, and it may have taken effect:"
                    f" read the state before you try again ({error})"
                ) from error
        if how != b"done":
            raise conflict(key, version, int(number), is_busy=how == b"busy")
        return int(number)


def _pairs(reply: Sequence[Any]) -> list[tuple[str, float]]:
    """Return members with their scores: RESP3 nests them, RESP2 does not."""
    pairs = reply if reply and isinstance(reply[0], list) else zip(reply[::2], reply[1::2], strict=True)
    return [(_text(name), float(score)) for name, score in pairs]


def _state(found: Sequence[Any]) -> StoredState | None:
    """Return a state; raises `CodecError` for a hash that was written by others than us."""
    version, data, at, by, node, schema, stamp, marks = found
    if version is None or data is None:
        return None
    return StoredState(
        version=_whole("v", version),
        data=data,
        at=_whole("at", at or b"0") / 1000,
        by=_text(by or b""),
        node=_text(node or b""),
        schema=_whole("s", schema or b"0"),
        stamp=_text(stamp or b""),
        marks=marks or b"",
    )


def _info(key: str, version: bytes, at: bytes | None, by: bytes | None, size: int) -> EntityInfo:
    """Return what is known of an entity; what is no number, though it should be, is 0."""
    numbers: list[int] = []
    for value in (version, at):
        try:
            numbers.append(_whole("", value or b"0"))
        except CodecError:
            numbers.append(0)
    return EntityInfo(key=key, version=numbers[0], at=numbers[1] / 1000, by=_text(by or b""), bytes=size)


def _whole(field: str, value: bytes) -> int:
    if not value.isdigit() or len(value) > MOST_DIGITS:
        raise CodecError(f"the field {field!r} of its hash wants a whole number, got {shown(_text(value))}")
    return int(value)


def _text(value: bytes) -> str:
    return value.decode(errors="replace")
