"""A source that is divided, seen as one: what its shards hold is listed, counted and changed under its name.

Each class does what the one does that it extends, for every shard. The layout is read before, since a program that
looks at a source seldom sends to it; while the source is moved, its old shards and its new ones are looked at. A dead
letter of a shard is named `<entry>.<layout>.<shard>`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from actorwork.abc import Where
from actorwork.message import NO_HEADERS, Envelope, Json
from actorwork.policy.reports import Counts, Found
from actorwork.policy.shards import shard_of, whole_source
from actorwork.records import DeadLetter, Delayed, Purgeable, SeenIds
from actorwork.streams.copies import RedisCopies
from actorwork.streams.dead_letters import RedisDeadLetters
from actorwork.streams.delayed import RedisDelayed
from actorwork.streams.purging import RedisPurging
from actorwork.streams.reports import RedisReports
from actorwork.streams.shards import Layouts
from actorwork.streams.transport.commands import Commands

_LAST_OF_MS: Final = 2**64 - 1


class LettersOfShards(RedisDeadLetters):
    def __init__(self, client: Commands, layouts: Layouts) -> None:
        super().__init__(client)
        self._layouts = layouts

    async def sources(self) -> Sequence[str]:
        return sorted(set(map(whole_source, await super().sources())))

    async def list(
        self, source: str | None = None, *, limit: int = 100, after: str | None = None
    ) -> Sequence[DeadLetter]:
        if source is None:
            return await super().list(limit=limit)  # It asks this one for each source.
        names = await self._layouts.names_now(source)
        if names == (source,):
            return await super().list(source, limit=limit, after=after)
        found: list[tuple[tuple[int, int, int], DeadLetter]] = []
        begin = None if after is None else _position(*_taken_apart(after, names), names)
        for name in names:
            for letter in await super().list(name, limit=limit, after=None if begin is None else _before(begin)):
                position = _position(name, letter.entry, names)
                if begin is None or position > begin:
                    entry = _named(letter.entry, name)
                    found.append((position, attrs.evolve(letter, source=source, entry=entry)))
        return [letter for _, letter in sorted(found, key=lambda one: one[0])][:limit]

    async def get(self, source: str, entry: str) -> DeadLetter | None:
        if whole_source(source) != source:
            return await super().get(source, entry)  # Asked by the class that this one extends.
        names = await self._layouts.names_now(source)
        name, own = _taken_apart(entry, names)
        letter = await super().get(name, own)
        return letter if letter is None or name == source else attrs.evolve(letter, source=source, entry=entry)

    async def replay(self, source: str, entries: Sequence[str]) -> int:
        return sum([await super(LettersOfShards, self).replay(*one) for one in await self._by_shard(source, entries)])

    async def replay_as(
        self, source: str, entry: str, data: bytes, *, type: str | None = None, headers: Mapping[str, Json] = NO_HEADERS
    ) -> bool:
        name, own = _taken_apart(entry, await self._layouts.names_now(source))
        return await super().replay_as(name, own, data, type=type, headers=headers)

    async def drop(self, source: str, entries: Sequence[str]) -> int:
        return sum([await super(LettersOfShards, self).drop(*one) for one in await self._by_shard(source, entries)])

    async def _by_shard(self, source: str, entries: Sequence[str]) -> Sequence[tuple[str, Sequence[str]]]:
        names = await self._layouts.names_now(source)
        by_shard: dict[str, list[str]] = {}
        for entry in entries:
            name, own = _taken_apart(entry, names)
            by_shard.setdefault(name, []).append(own)
        return list(by_shard.items())


def _named(entry: str, name: str) -> str:
    """Return how users name an entry of a shard."""
    return entry if whole_source(name) == name else ".".join((entry, *name.split(".")[1:3]))


def _taken_apart(entry: str, names: Sequence[str]) -> tuple[str, str]:
    """Return the shard of an entry, and its name there. One that no shard has is as good as one that does not exist."""
    own, _, shard = entry.partition(".")
    name = next((one for one in names if ".".join(one.split(".")[1:3]) == shard), names[0])
    return (name, own) if _named(own, name) == entry else (name, "")


def _position(name: str, entry: str, names: Sequence[str]) -> tuple[int, int, int]:
    ms, _, seq = entry.partition("-")
    return (int(ms), int(seq), names.index(name)) if ms.isdecimal() and seq.isdecimal() else (_LAST_OF_MS, 0, 0)


def _before(position: tuple[int, int, int]) -> str | None:
    """Return the last entry that is certainly before one of any shard."""
    ms, seq, _ = position
    if seq > 0:
        return f"{ms}-{seq - 1}"
    return f"{ms - 1}-{_LAST_OF_MS}" if ms > 0 else None


class DelayedOfShards(RedisDelayed):
    def __init__(self, client: Commands, layouts: Layouts) -> None:
        super().__init__(client)
        self._layouts = layouts

    async def list(self, source: str | None = None, *, limit: int = 100) -> Sequence[Delayed]:
        if source is None:
            return await super().list(limit=limit)  # It asks this one for each source.
        names = await self._layouts.names_now(source)
        if names == (source,):
            return await super().list(source, limit=limit)
        found: list[Delayed] = []
        for name in names:
            found += [attrs.evolve(one, source=source) for one in await super().list(name, limit=limit)]
        return sorted(found, key=lambda one: one.due)[:limit]

    async def cancel(self, source: str, message_id: str) -> bool:
        for name in await self._layouts.names_now(source):
            if await super().cancel(name, message_id):
                return True
        return False

    async def sources(self) -> Sequence[str]:
        return sorted(set(map(whole_source, await super().sources())))


class PurgingOfShards(RedisPurging):
    def __init__(self, client: Commands, layouts: Layouts) -> None:
        super().__init__(client)
        self._layouts = layouts

    async def count(self, source: str) -> Purgeable:
        found = [await super(PurgingOfShards, self).count(name) for name in await self._layouts.names_now(source)]
        return Purgeable(
            sum(one.ready for one in found),
            sum(one.delayed for one in found),
            sum(one.behind for one in found),
            sum(one.steps for one in found),
        )

    async def drop(self, source: str, *, reason: str, most: int) -> int:
        dropped = 0
        for name in await self._layouts.names_now(source):
            if dropped >= most:
                break
            dropped += await super().drop(name, reason=reason, most=most - dropped)
        return dropped


class CopiesOfShards(RedisCopies):
    def __init__(self, client: Commands, layouts: Layouts) -> None:
        super().__init__(client)
        self._layouts = layouts

    async def messages(self, source: str, where: Where, after: str) -> tuple[Sequence[Envelope], str | None]:
        """Read one shard after the other; `after` begins with the number of the shard."""
        names = await self._layouts.names_now(source)
        if names == (source,):
            return await super().messages(source, where, after)
        number, _, rest = after.partition("/")
        place = int(number or 0)
        if place >= len(names):
            return (), None
        page, more = await super().messages(names[place], where, rest)
        found = [attrs.evolve(one, source=source) for one in page]
        if more is not None:
            return found, f"{place}/{more}"
        return found, f"{place + 1}/" if place + 1 < len(names) else None

    async def seen(self, source: str) -> Sequence[SeenIds]:
        names = await self._layouts.names_now(source)
        return [one for name in names for one in await super(CopiesOfShards, self).seen(name)]

    async def add_seen(self, source: str, seen: Sequence[SeenIds]) -> None:
        """Mark them in each shard: an id does not say which key its message had."""
        for name in await self._layouts.names_now(source):
            await super().add_seen(name, seen)

    async def add_letters(self, source: str, letters: Sequence[DeadLetter]) -> int:
        await self._layouts.refresh()
        names = self._layouts.names(source)
        by_shard: dict[str, list[DeadLetter]] = {}
        for letter in letters:
            by_shard.setdefault(names[shard_of(letter.id, len(names))], []).append(letter)
        return sum([await super(CopiesOfShards, self).add_letters(*one) for one in by_shard.items()])


class ReportsOfShards(RedisReports):
    def __init__(self, client: Commands, layouts: Layouts) -> None:
        super().__init__(client)
        self._layouts = layouts

    async def count(self, sources: Sequence[str]) -> Sequence[Counts]:
        await self._layouts.refresh()
        by_source = {source: await self._layouts.names_known(source) for source in sources}
        names = [name for some in by_source.values() for name in some]
        counted = {one.source: one for one in await super().count(names)}
        return [_summed(source, [counted[name] for name in some]) for source, some in by_source.items()]

    async def find(self, source: str, id: str) -> Found | None:
        for name in await self._layouts.names_now(source):
            if (found := await super().find(name, id)) is not None:
                return found
        return None


def _summed(source: str, counts: Sequence[Counts]) -> Counts:
    if len(counts) == 1:
        return attrs.evolve(counts[0], source=source)
    ages = [one.oldest for one in counts if one.oldest is not None]
    dues = [one.due for one in counts if one.due is not None]
    return Counts(
        source,
        backlog=sum(one.backlog for one in counts),
        delayed=sum(one.delayed for one in counts),
        dead=sum(one.dead for one in counts),
        oldest=max(ages, default=None),
        due=min(dues, default=None),
    )
