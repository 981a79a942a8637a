"""What a source holds at Redis, read to be copied to another broker, and what only a copy writes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, cast

from actorwork.abc import Where
from actorwork.message import NO_HEADERS, Envelope, Priority, Unique
from actorwork.policy.copying import mark_of_letter
from actorwork.records import DeadLetter, SeenIds
from actorwork.streams import keys, scripts
from actorwork.streams.entries import PRIORITIES, Fields, encoded_headers, mark_of
from actorwork.streams.transport.commands import Commands
from actorwork.streams.transport.redis_py import RedisError, cannot, checked

PAGE: Final = 500
MARK_SECONDS: Final = 86_400
"""As in lua/publish.lua."""
_USUAL_TTL: Final = 3600.0
_bitmap: Final = re.compile(r"([0-9a-f]{16}):(0|[1-9][0-9]*)").fullmatch
_ENDED: Final = "0"


class RedisCopies:
    """Implements `actorwork.abc.Copies`."""

    def __init__(self, client: Commands) -> None:
        self._client = client

    def __repr__(self) -> str:
        return f"<RedisCopies of {self._client!r}>"

    async def messages(self, source: str, where: Where, after: str) -> tuple[Sequence[Envelope], str | None]:
        of = keys.SourceKeys.of(source)
        with cannot(f"read {source!r}"):
            if where == "ready":
                return await self._ready(source, of, after)
            if where == "behind":
                args = (of.prefix, "=", after or _ENDED, PAGE)
                cursor, found = await self._client.run_script(scripts.COPY, (source,), args, idempotent=True)
                messages = [await self._message(source, fields) for fields in found]
                on = cursor.decode() if isinstance(cursor, bytes) else str(cursor)
                return messages, None if on == _ENDED else on
            first = int(after or 0)
            args = (of.prefix, "~", first, PAGE)
            found = await self._client.run_script(scripts.COPY, (source,), args, idempotent=True)
            messages = [
                await self._message(source, fields, at=int(float(due)) / 1000) for due, fields in found if fields
            ]
            return messages, str(first + PAGE) if len(found) == PAGE else None

    async def _ready(self, source: str, of: keys.SourceKeys, after: str) -> tuple[Sequence[Envelope], str | None]:
        name, _, entry = after.partition(" ")
        level = Priority[name] if name else Priority.CRITICAL
        stream, start = of.at(level), f"({entry}" if entry else "-"
        entries = await self._client.call("XRANGE", stream, start, "+", "COUNT", PAGE, idempotent=True)
        groups = sorted(group.decode() for group in await self._client.call("SMEMBERS", f"{of.prefix}groups"))
        left = await self._groups_left(of, level, groups, [entry for entry, _ in entries])
        messages = [
            await self._message(source, fields, id=entry, group=left[entry])
            for entry, fields in entries
            if left[entry] is not None
        ]
        if len(entries) == PAGE:
            return messages, f"{level.name} {entries[-1][0].decode()}"
        further = [one for one in Priority if one > level]
        return messages, f"{further[0].name} " if further else None

    async def _groups_left(
        self, of: keys.SourceKeys, level: Priority, groups: Sequence[str], entries: Sequence[bytes]
    ) -> dict[bytes, str | None]:
        """Return for each entry the only group that has not settled it, "" for several, and None if all have."""
        if not entries or not groups:
            return dict.fromkeys(entries, "")
        asked = [("SMISMEMBER", of.acked(level, group), *entries) for group in groups]
        replies = checked(await self._client.call_many(asked, idempotent=True))
        left: dict[bytes, str | None] = {}
        for number, entry in enumerate(entries):
            those = [group for group, settled in zip(groups, replies, strict=True) if not settled[number]]
            left[entry] = None if not those else those[0] if len(those) == 1 < len(groups) else ""
        return left

    async def _message(
        self, source: str, fields: Fields, *, id: bytes = b"", at: float | None = None, group: str | None = ""
    ) -> Envelope:
        named = dict(zip(fields[::2], fields[1::2], strict=False))

        def text(name: bytes) -> str | None:
            return named[name].decode(errors="replace") if name in named else None

        if b"data" not in named:
            # A foreign producer's: it is delivered as the JSON object of its fields, and is sent as that.
            own, headers, only = (text(b"actorwork:" + name) for name in (b"id", b"headers", b"group"))
            rest = {
                name.decode(errors="replace"): value.decode(errors="replace")
                for name, value in named.items()
                if not name.startswith(b"actorwork:")
            }
            return Envelope(
                source,
                own or id.decode(),
                json.dumps(rest).encode(),
                headers=_headers(headers),
                at=at,
                group=only or group or None,
            )
        unique = text(b"unique")
        expires = text(b"expires")
        return Envelope(
            source,
            text(b"id") or id.decode(),
            named[b"data"],
            text(b"type"),
            _headers(text(b"headers")),
            at=at,
            group=text(b"group") or group or None,
            key=text(b"key"),
            priority=PRIORITIES.get(named.get(b"priority", b""), Priority.NORMAL),
            expires=int(expires) / 1000 if expires is not None and expires.isdigit() else None,
            unique=None if not unique else Unique(unique, ttl=await self._ttl_of(source, unique), on_conflict="first"),
        )

    async def _ttl_of(self, source: str, unique: str) -> float:
        left = await self._client.call("PTTL", f"{keys.prefix(source)}unique:{unique}", idempotent=True)
        return left / 1000 if left > 0 else _USUAL_TTL

    async def seen(self, source: str) -> Sequence[SeenIds]:
        start = f"{keys.prefix(source)}seen:"
        found: list[SeenIds] = []
        with cannot(f"read the ids that {source!r} has seen"):
            for name in sorted(await self._client.names(f"{_escaped(start)}*")):
                tail = name.decode(errors="replace").removeprefix(start)
                match = _bitmap(tail)
                try:
                    bits: bytes = (await self._client.call("GET", name, idempotent=True)) or b""
                except RedisError:  # Another kind of key, which is none of ours.
                    continue
                if match is None or not bits:
                    found.append(SeenIds(tail, ()))
                else:
                    found.append(SeenIds(match[1], tuple(_ranges(bits, int(match[2]) << 16))))
        return found

    async def add_seen(self, source: str, seen: Sequence[SeenIds]) -> None:
        prefix = keys.prefix(source)
        commands: list[tuple[Any, ...]] = []
        for one in seen:
            if not one.ranges:
                commands.append(("SET", f"{prefix}seen:{one.stem}", "", "NX", "EX", MARK_SECONDS))
            marks: set[str] = set()
            for first, count in one.ranges:
                for number in range(first, first + count):
                    mark, bit = mark_of(prefix, f"{one.stem}-{number:x}")
                    marks.add(mark)
                    commands.append(("SETBIT", mark, bit, 1))
            commands += [("EXPIRE", mark, MARK_SECONDS) for mark in sorted(marks)]
        with cannot(f"mark ids as seen by {source!r}"):
            for start in range(0, len(commands), 5000):
                checked(await self._client.call_many(commands[start : start + 5000], idempotent=True))

    async def add_letters(self, source: str, letters: Sequence[DeadLetter]) -> int:
        args: list[Any] = [keys.prefix(source), "dead"]
        for letter in letters:
            data = letter.payload if isinstance(letter.payload, bytes) else b"{}"
            fields: list[Any] = ["actor", letter.actor, "group", letter.group, "error", letter.failure.type]
            fields += ["reason", letter.failure.reason, "traceback", letter.failure.traceback]
            fields += ["attempt", letter.attempt, "at", round(letter.at * 1000), "entry", letter.entry]
            fields += ["id", letter.id, "m:id", letter.id, "m:data", data]
            if letter.type is not None:
                fields += ["m:type", letter.type]
            if letter.headers:
                fields += ["m:headers", encoded_headers(letter.headers)]
            args += [mark_of_letter(letter), MARK_SECONDS, len(fields), *fields]
        with cannot(f"add dead letters to {source!r}"):
            return await self._client.run_script(scripts.COPY, (source,), args, idempotent=False)


def _headers(text: str | None) -> Any:
    try:
        found = json.loads(text) if text else NO_HEADERS
    except ValueError:
        return NO_HEADERS
    return cast("Any", found) if isinstance(found, dict) else NO_HEADERS


def _ranges(bits: bytes, base: int) -> Iterable[tuple[int, int]]:
    """Yield runs of bits that are set, as the first number and how many."""
    first, count = -1, 0
    for place, byte in enumerate(bits):
        for bit in range(8):
            if byte & (0x80 >> bit):
                if not count:
                    first = base + 8 * place + bit
                count += 1
            elif count:
                yield first, count
                count = 0
    if count:
        yield first, count


def _escaped(text: str) -> str:
    """Return a text as a pattern that matches nothing else."""
    return re.sub(r"([\\*?\[\]^])", r"\\\1", text)
