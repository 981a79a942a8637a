"""Which nodes are dead: asked before sources are maintained on a cluster, where leases are in other slots.

On one server, the script that maintains looks at the leases itself (lua/maintain.lua). On a cluster it cannot: each
lease is in a slot of its own. It need not, since a lease that is lost stays lost: no node takes its name again. So the
reclaimer first asks which nodes own entries, then for their leases, wherever these are, and passes the names of the
dead nodes to the script. That still takes an entry only from an owner that has it.

A node whose lease cannot be looked at, since the primary that has it is away, is not taken for dead; others are, by
leases at other primaries. If a primary does not answer that has not been found to be away yet, none is taken for dead.
Due messages enter, and released ones are taken over, all the same.

On the way it checks whether the outbox of a source holds messages that a node has left there, and whether a node has
died while it held deliveries for a batch over several slots: whether those are settled is decided then (joint.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from random import SystemRandom
from typing import Any, Final, cast

import trio

from actorwork.streams import keys
from actorwork.streams.joint import drop_undecided, nodes_of
from actorwork.streams.keys import RELEASED
from actorwork.streams.outbox import Outbox
from actorwork.streams.transport.client import RedisClient
from actorwork.streams.transport.redis_py import RedisError

_chance: Final = SystemRandom()
_PATIENCE: Final = 1.0
_IDLE_TOO: Final = 0.2
"""How often consumers are looked at that own nothing, so that those of dead nodes are removed."""
NOBODY: Final = "!"


class Survey:
    """Asks for one node."""

    def __init__(self, client: RedisClient, outbox: Outbox) -> None:
        self._client = client
        self._outbox = outbox

    def __repr__(self) -> str:
        return f"<Survey by {self._client!r}>"

    def forward(self, stream: str) -> None:
        """Forward what the script has put into an outbox that maintains this stream, first of all. Never waits."""
        self._outbox.forward_soon((keys.source_and_level(stream) or (stream, ""))[0])

    async def dead(
        self, group: str, incarnation: str, sources: Sequence[str], streams: Sequence[str]
    ) -> bytes | str | None:
        """Return the dead owners of entries, as lua/maintain.lua wants them; None if this node holds no lease."""
        undecided: dict[str, set[bytes]] = {}
        found: bytes | str | None = NOBODY
        with trio.move_on_after(_PATIENCE):
            found = await self._dead(group, incarnation, sources, streams, undecided)
        if undecided:
            with trio.move_on_after(_PATIENCE), suppress(RedisError):
                for source, batches in undecided.items():
                    for noted in batches:
                        await drop_undecided(self._client, source, group, noted)
        return found

    async def _dead(
        self,
        group: str,
        incarnation: str,
        sources: Sequence[str],
        streams: Sequence[str],
        undecided: dict[str, set[bytes]],
    ) -> bytes | str | None:
        commands: list[tuple[str, ...]] = [("XLEN", keys.outbox(source)) for source in sources]
        commands += [("HVALS", keys.held(source, group)) for source in sources]
        commands += [("XPENDING", stream, group) for stream in streams]
        if _chance.random() < _IDLE_TOO:
            commands += [("XINFO", "CONSUMERS", stream, group) for stream in streams]
        is_known = self._client.reaches(keys.lease(incarnation))
        if is_known:
            commands.append(("EXISTS", keys.lease(incarnation)))
        found = await self._client.call_many(commands, idempotent=True)
        if is_known and found.pop() == 0:
            return None
        for source, waiting in zip(sources, found, strict=False):
            if isinstance(waiting, int) and waiting > 0:
                self._outbox.forward_soon(source)
        held = [
            nodes_of(cast("list[bytes]", noted)) if isinstance(noted, list) else {}
            for noted in found[len(sources) : 2 * len(sources)]
        ]
        names = {name for reply in found[2 * len(sources) :] for name in _consumers(reply)}
        names.update(*held)
        others = sorted(names - {incarnation.encode(), RELEASED.encode()})
        asked = [name for name in others if self._client.reaches(keys.LEASES.encode() + name)]
        leases = await self._client.call_many(
            [("EXISTS", keys.LEASES.encode() + name) for name in asked], idempotent=True
        )
        dead = [name for name, lease in zip(asked, leases, strict=True) if lease == 0 and b"\n" not in name]
        for source, by_node in zip(sources, held, strict=True):
            if batches := set[bytes]().union(*(by_node[name] for name in dead if name in by_node)):
                undecided[source] = batches
        return NOBODY.encode() + b"".join(name + b"\n" for name in dead)


def _consumers(reply: Any) -> list[bytes]:
    """Return the consumers in a reply to XPENDING or XINFO CONSUMERS; an error has none (the group is missing)."""
    if not isinstance(reply, list):
        return []
    rows = cast("list[Any]", reply)
    if len(rows) == _SUMMARY and isinstance(rows[0], int):
        return [name for name, _ in rows[3] or ()]
    return [row[b"name"] for row in rows if isinstance(row, dict)]


_SUMMARY: Final = 4
