"""What nodes of several versions know of each other's work at the broker: each lease has the number of a format.

    lease    <host>:<process> <format>        without a number: a version of before there were any, format 1

A node that begins to write what older ones would misread, or not respect, first asks for their leases, and does not
write it as long as one of them is alive. What is written already needs no number: it has names that an older version
does not know, which it leaves alone (forwarding.py).

    1        steps of runs may be joined, or they may not: a node of a version without workflows acknowledges a step as
             any message, and its run waits for ever. So no run begins whose steps older nodes would read
    2        deliveries may be held for a batch over several slots (joint.py), and are not taken over then; a source may
             be divided (dividing.py): a node of format 1 finds a string where its stream was, reads nothing there, and
             what its handlers publish there becomes a dead letter
    3        a run keeps the lives of its open steps, and a step with many or long inputs is sent without them: the node
             that reads it fetches them (inputs.py). A node of format 2 finds no life there, and makes such a step a
             dead letter. What a run does in several scripts (lua/run_rules.lua) it would end after the first. So no run
             begins whose steps such nodes would read
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from typing import Any, Final, cast

from actorwork.streams import keys
from actorwork.streams.keys import RELEASED
from actorwork.streams.transport.commands import Commands
from actorwork.streams.transport.redis_py import NoPermissionError, RedisError, checked

FORMAT: Final = 3
FORMAT_OF_RUNS: Final = 3
"""What the nodes must have that read steps of runs; the others likewise."""
FORMAT_OF_JOINT_BATCHES: Final = 2
FORMAT_OF_SHARDS: Final = 2
_KNOWN_FOR: Final = 5.0
"""Seconds for which a group or a source is known to have no older node: a rollback is not noticed sooner."""


def format_of(lease: bytes) -> int:
    """Return the format of a node, from what its lease holds."""
    number = lease.rpartition(b" ")[2]
    return int(number) if b" " in lease and number.isdigit() else 1


async def older_among(client: Commands, nodes: Iterable[bytes], wanted: int = FORMAT) -> list[str]:
    """Return those nodes that are alive, and of an older format."""
    names = sorted(nodes)
    leases: list[Any] = await client.call_many(
        [("GET", keys.LEASES.encode() + name) for name in names], idempotent=True
    )
    return [
        name.decode(errors="replace")
        for name, lease in zip(names, leases, strict=True)
        if isinstance(lease, bytes) and format_of(lease) < wanted
    ]


async def older_readers(client: Commands, sources: Iterable[str], wanted: int) -> list[str]:
    """Return those nodes of an older format that are alive and read one of these sources, as any group.

    What this user may not read is left out. Raises `RedisError` if the server cannot be asked.
    """
    names = list(sources)
    found: list[Any] = await client.call_many(
        [("SMEMBERS", keys.SourceKeys.of(name).groups) for name in names], idempotent=True
    )
    asked = [
        ("XINFO", "CONSUMERS", name, group)
        for name, groups in zip(names, found, strict=True)
        if not isinstance(groups, NoPermissionError)
        for group in checked([groups])[0]
    ]
    nodes: set[bytes] = set()
    for rows in await client.call_many(asked, idempotent=True) if asked else ():
        if not isinstance(rows, Exception):  # Else there is no such stream, or group.
            nodes.update(row[b"name"] for row in rows)
    nodes.discard(RELEASED.encode())
    return await older_among(client, nodes, wanted) if nodes else []


class Formats:
    """Asks for one node which others are older than the format that it wants."""

    def __init__(self, client: Commands, wanted: int) -> None:
        self._client = client
        self._wanted = wanted
        self._good_until: dict[tuple[str, str], float] = {}
        """For each stream and group, until when it is known to have no older node; the group of a source is ''."""

    def __repr__(self) -> str:
        return f"<Formats at {self._client!r}>"

    async def older(self, streams: Collection[str], group: str) -> list[str]:
        """Return the nodes that are alive, of an older format, and read one of the streams as a group.

        Raises `RedisError` if that cannot be known.
        """
        asked = self._unknown(streams, group)
        if not asked:
            return []
        replies = await self._client.call_many(
            [("XINFO", "CONSUMERS", stream, group) for stream in asked], idempotent=True
        )
        names: set[bytes] = set()
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply if isinstance(reply, RedisError) else RedisError(str(reply))
            names.update(row[b"name"] for row in cast("list[dict[bytes, Any]]", reply))
        older = await older_among(self._client, names - {RELEASED.encode()}, self._wanted)
        return self._noted(asked, group, older)

    async def older_of(self, sources: Collection[str]) -> list[str]:
        """Return the nodes that are alive, of an older format, and read one of the sources, as any group.

        What this user may not read is left out. Raises `RedisError` if the server cannot be asked.
        """
        asked = self._unknown(sources, "")
        return self._noted(asked, "", await older_readers(self._client, asked, self._wanted)) if asked else []

    def _unknown(self, names: Collection[str], group: str) -> list[str]:
        now = time.monotonic()
        return [name for name in names if self._good_until.get((name, group), 0.0) <= now]

    def _noted(self, names: Collection[str], group: str, older: list[str]) -> list[str]:
        """Note that there are no older nodes, if that is so; return those that there are."""
        if not older:
            until = time.monotonic() + _KNOWN_FOR
            self._good_until.update(dict.fromkeys(((name, group) for name in names), until))
        return older
