"""Into how many shards a source is divided, which of them a message goes to, and what they are called. Pure.

    message ──key, else unique key, else id──▶ CRC-32 of its UTF-8, modulo the number ──▶ a shard

So messages with one key meet in one shard, where their order is kept, and so do messages with one unique key, where the
second is found to be a duplicate. All others are spread by their ids: a message that is sent again goes where it was.

At Redis each shard is a source of its own, `<source>.<layout>.<shard>.<tag>`, which no user can name. The number of the
layout grows each time that the source is divided anew, so that a name is never used again: what a sender has read of an
older layout leads to a stream that refuses it (streams/shards.py). The tag is chosen so that each shard has the slots
of a cluster of which it is the share: with as many shards as primaries, or more, each primary has some. Layout 0 is the
source as it was before it was divided, one stream under its own name.
"""

from __future__ import annotations

import json
import re
from binascii import crc32, crc_hqx
from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Any, Final, cast

import attrs

from actorwork.message import Envelope
from actorwork.shown import Value

NAME: Final = "actorwork:shards"
"""The name of the shared value that has the layouts of all sources that are divided."""
_SLOTS: Final = 16_384
_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_of_shard: Final = re.compile(r"([a-zA-Z0-9_\-:]+)\.[0-9]+\.([0-9]+)\.[0-9a-z]+").fullmatch


@attrs.frozen(eq=False, repr=False, slots=False)
class Layout(Value):
    """How a source is divided; `becomes` is the number of shards to which it is being moved, or None."""

    source: str
    shards: int
    number: int = 1
    becomes: int | None = None

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What its shards are called, in their order."""
        if self.number == 0:
            return (self.source,)
        return tuple(_shard_name(self.source, self.number, shard, self.shards) for shard in range(self.shards))

    @property
    def following(self) -> Layout:
        """The layout to which it is being moved."""
        assert self.becomes is not None  # noqa: S101 - asked only of one that is being moved
        return Layout(self.source, self.becomes, self.number + 1)

    def place(self, key: str) -> str:
        """Return what the shard is called to which messages with a key go, or one with this id."""
        return self.names[shard_of(key, len(self.names))]

    def placed(self, envelope: Envelope) -> Envelope:
        """Return an envelope, addressed to its shard."""
        return attrs.evolve(envelope, source=self.place(placing_key(envelope)))


def shard_of(key: str, shards: int) -> int:
    """Return the number of the shard, from 0, to which messages with a key go."""
    return crc32(key.encode(errors="surrogatepass")) % shards


def placing_key(envelope: Envelope) -> str:
    """Return what decides to which shard a message goes."""
    if envelope.key:
        return envelope.key
    return envelope.id if envelope.unique is None else envelope.unique.key


def placing_field(fields: Mapping[bytes, bytes]) -> str:
    """Return the same, from the fields that the message has at the broker."""
    found = fields.get(b"key") or fields.get(b"unique") or fields[b"id"]
    return found.decode(errors="surrogateescape")


def whole_source(name: str) -> str:
    """Return the source of which a name is that of a shard; the name itself if it is none."""
    found = _of_shard(name) if "." in name else None
    return name if found is None else found[1]


def number_of(name: str) -> int:
    """Return the number of the shard that has this name; 0 for the name of a source."""
    found = _of_shard(name) if "." in name else None
    return 0 if found is None else int(found[2])


@lru_cache(maxsize=4096)
def _shard_name(source: str, layout: int, shard: int, shards: int) -> str:
    stem = f"{source}.{layout}.{shard}."
    begun = crc_hqx(stem.encode(), 0)
    tag = 0
    while True:
        written = _in_digits(tag)
        if (crc_hqx(written.encode(), begun) % _SLOTS) * shards // _SLOTS == shard:
            return stem + written
        tag += 1


def _in_digits(number: int) -> str:
    written = ""
    while True:
        number, digit = divmod(number, len(_DIGITS))
        written = _DIGITS[digit] + written
        if number == 0:
            return written


def layouts_in(data: bytes | None) -> Mapping[str, Layout]:
    """Read the shared value; what is none of ours in it is left out."""
    try:
        found: Any = json.loads(data or b"{}")
    except ValueError:
        return {}
    layouts: dict[str, Layout] = {}
    for source, facts in cast("dict[str, Any]", found).items() if isinstance(found, dict) else ():
        try:
            becomes = facts.get("becomes")
            layouts[source] = Layout(
                source, int(facts["shards"]), int(facts["layout"]), None if becomes is None else int(becomes)
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            continue
    return layouts


def encoded(layouts: Mapping[str, Layout]) -> bytes:
    """Write the shared value."""
    return json.dumps(
        {
            one.source: {"shards": one.shards, "layout": one.number}
            | ({} if one.becomes is None else {"becomes": one.becomes})
            for one in layouts.values()
        }
    ).encode()


def differs(source: str, stored: int, given: int) -> str:
    """Say that a program declares another number of shards than the broker has."""
    return (
        f"the source {source!r} has {_many(stored)} at this broker, and Source({source!r}, shards={given}) wants"
        f" {_many(given)}: declare {stored}, or move it while it is paused: actorwork sources reshard {source}"
        f" --shards {given}"
    )


def _many(shards: int) -> str:
    return "1 shard" if shards == 1 else f"{shards} shards"


def not_paused(source: str) -> str:
    """Say that a source must be paused before it is divided into another number of shards."""
    return f"the source {source!r} is not paused: actorwork pause --source {source}, and then reshard it"
