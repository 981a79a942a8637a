"""What a source holds in the embedded store, read to be copied to another broker, and what only a copy writes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

import attrs

from actorwork.abc import Where
from actorwork.embedded.asking import Asked
from actorwork.embedded.rows import channel_numbers, headers_from
from actorwork.embedded.schema import LEVEL
from actorwork.embedded.store import Store
from actorwork.message import Envelope, Priority, Unique
from actorwork.policy.copying import mark_of_letter
from actorwork.records import DeadLetter, SeenIds

PAGE: Final = 500
_LEVELS: Final = (Priority.NORMAL, Priority.CRITICAL, Priority.HIGH, Priority.LOW)
"""By the rank in the number of a channel: see `rows.channel_number`."""
_COLUMNS: Final = "source, id, type, data, headers, addressee, key, expires, uniq"


class EmbeddedCopies:
    """Implements `actorwork.abc.Copies`."""

    def __init__(self, writer: Asked) -> None:
        self._writer = writer

    def __repr__(self) -> str:
        return f"<EmbeddedCopies of {self._writer.location}>"

    async def messages(self, source: str, where: Where, after: str) -> tuple[Sequence[Envelope], str | None]:
        return await self._writer.ask(lambda store: _messages(store, source, where, int(after or 0)), writes=False)

    async def seen(self, source: str) -> Sequence[SeenIds]:
        return await self._writer.ask(lambda store: _seen(store, source), writes=False)

    async def add_seen(self, source: str, seen: Sequence[SeenIds]) -> None:
        def add(store: Store) -> None:
            number = store.source(source)
            for one in seen:
                if not one.ranges:
                    store.seen.is_new(number, one.stem)
                for first, count in one.ranges:
                    for which in range(first, first + count):
                        store.seen.is_new(number, f"{one.stem}-{which:x}")

        await self._writer.ask(add)

    async def add_letters(self, source: str, letters: Sequence[DeadLetter]) -> int:
        def add(store: Store) -> int:
            number, new = store.source(source), 0
            for letter in letters:
                if not store.seen.is_new(number, mark_of_letter(letter)):
                    continue
                new += 1
                store.execute(
                    "insert into dead (source, id, type, data, headers, grp, actor, attempt, at, failure)"
                    " values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        number,
                        letter.id,
                        letter.type,
                        letter.payload if isinstance(letter.payload, bytes) else b"{}",
                        json.dumps(dict(letter.headers)) if letter.headers else None,
                        letter.group,
                        letter.actor,
                        letter.attempt,
                        letter.at,
                        json.dumps(attrs.asdict(letter.failure)),
                    ),
                )
            return new

        return await self._writer.ask(add, rows=len(letters))


def _messages(store: Store, source: str, where: Where, after: int) -> tuple[Sequence[Envelope], str | None]:
    row = store.execute("select source from sources where name = ?", (source,)).fetchone()
    if row is None:
        return (), None
    table, place, due = {
        "ready": ("entries", "seq", "null"),
        "behind": ("behind", "place", "null"),
        "delayed": ("delayed", "place", "due"),
    }[where]
    channels = channel_numbers(row[0])
    rows = store.execute(
        f"select {place}, {due}, {_COLUMNS} from {table} where source in (?, ?, ?, ?) and {place} > ?"
        f" order by {place} limit {PAGE}",
        (*channels, after),
    ).fetchall()
    found = [_message(store, source, row, is_ready=where == "ready") for row in rows]
    return [one for one in found if one is not None], str(rows[-1][0]) if len(rows) == PAGE else None


def _message(store: Store, source: str, row: Any, *, is_ready: bool) -> Envelope | None:
    channel: int = row[2]
    place, due, _, message_id, kind, data, headers, addressee, key, expires, unique = row
    if is_ready and addressee is None:
        groups = store.execute("select grp, name, cursor from groups where source = ?", (channel,)).fetchall()
        left = [name for grp, name, cursor in groups if cursor < place or _is_pending(store, place, grp)]
        if groups and not left:
            return None
        addressee = left[0] if len(left) == 1 < len(groups) else None
    return Envelope(
        source,
        message_id,
        data,
        kind,
        headers_from(headers),
        at=due,
        group=addressee,
        key=key,
        priority=_LEVELS[channel // LEVEL],
        expires=expires,
        unique=None if unique is None else Unique(unique, ttl=_ttl_of(store, channel, unique), on_conflict="first"),
    )


def _is_pending(store: Store, place: int, group: int) -> bool:
    return store.execute("select 1 from pending where seq = ? and grp = ?", (place, group)).fetchone() is not None


def _ttl_of(store: Store, channel: int, unique: str) -> float:
    row = store.execute(
        "select expires from uniques where source = ? and name = ?", (channel % LEVEL, unique)
    ).fetchone()
    return 3600.0 if row is None else max(0.001, row[0] - store.now)


def _seen(store: Store, source: str) -> Sequence[SeenIds]:
    rows = store.execute(
        "select stem, block, bits from seen where source = (select source from sources where name = ?)"
        " order by stem, block",
        (source,),
    ).fetchall()
    return [
        SeenIds(stem, () if block < 0 else tuple(_ranges(int.from_bytes(bits, "little"), block << 10)))
        for stem, block, bits in rows
    ]


def _ranges(bits: int, base: int) -> Iterable[tuple[int, int]]:
    """Yield runs of bits that are set, the lowest first, as the first number and how many."""
    while bits:
        skipped = (bits & -bits).bit_length() - 1
        bits >>= skipped
        count = (~bits & (bits + 1)).bit_length() - 1
        yield base + skipped, count
        bits >>= count
        base += skipped + count
