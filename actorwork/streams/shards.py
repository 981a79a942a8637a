"""Where the shards of sources are: what this program knows of the layouts at its server.

    publish ──▶ the shard of the layout that is known ──▶ kept
                    └── WRONGTYPE: it is a shard no more ──▶ read the layouts anew ──▶ publish to the new shard

Nothing is read before a source turns out to be divided. The stream of a source that is divided, and the streams of each
shard of an earlier layout, are replaced by strings (lua/drain.lua), in the script that finds them empty. Every script
that publishes refuses to write to what is no stream, so it does not matter how long a sender goes on with a layout that
it has read: what it sends is refused, and nothing is left behind where no node reads. While a source is being moved,
senders that are refused wait.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final

from actorwork.abc import Values
from actorwork.errors import BrokerError
from actorwork.message import Envelope
from actorwork.policy.shards import NAME, Layout, layouts_in
from actorwork.settings import is_own_source
from actorwork.streams import keys
from actorwork.streams.transport.commands import Commands
from actorwork.streams.transport.redis_py import NoPermissionError, RedisError, is_wrong_type

AGAIN_AFTER: Final = 0.1
"""Seconds between two checks whether a source, or a message, has been moved."""


class Layouts:
    """The layouts of the sources that are divided, by name, as they were read last."""

    def __init__(self, client: Commands, values: Values, sleep: Callable[[float], Awaitable[object]]) -> None:
        self._client = client
        self.values = values
        self.sleep = sleep
        self.known: Mapping[str, Layout] = {}

    def __repr__(self) -> str:
        return f"<Layouts of {', '.join(self.known) or 'no source'}>"

    async def refresh(self) -> None:
        """Read the layouts; raises `BrokerError`. A user without the right to read them goes on with what is known."""
        try:
            kept = await self.values.get(NAME)
        except BrokerError as error:
            if isinstance(error.__cause__, NoPermissionError):
                return
            raise
        self.known = {} if kept is None else layouts_in(kept.data)

    def names(self, source: str) -> tuple[str, ...]:
        """Return the names of a source's shards; its own if it is not divided."""
        layout = self.known.get(source)
        return (source,) if layout is None else layout.names

    async def names_now(self, source: str) -> tuple[str, ...]:
        """Return the same, as it is at the server.

        While the source is being moved, these are the new shards, and the old ones that are not replaced yet.
        """
        await self.refresh()
        return await self.names_known(source)

    async def names_known(self, source: str) -> tuple[str, ...]:
        """Return the same, by the layouts that were read last."""
        layout = self.known.get(source)
        if layout is None or layout.becomes is None:
            return self.names(source)
        types = await self._client.call_many([("TYPE", name) for name in layout.names], idempotent=True)
        old = [name for name, kind in zip(layout.names, types, strict=True) if kind not in (b"string", "string")]
        return (*old, *layout.following.names)

    async def names_of_tracked(self, source: str) -> tuple[str, ...]:
        """Return the names of the shards that may know of a tracked message, as it is at the server.

        While the source is being moved, these are the old shards, also those that are replaced, and then the new ones.
        Of an actor's own source, whose messages are looked at most often, without asking.
        """
        if is_own_source(source):
            return (source,)
        await self.refresh()
        layout = self.known.get(source)
        return self.names(source) + (() if layout is None or layout.becomes is None else layout.following.names)

    def is_moved(self, source: str) -> bool:
        """Return whether a source is being moved, by the layouts that were read last."""
        return source in self.known and self.known[source].becomes is not None

    def placed(self, envelopes: Sequence[Envelope]) -> Sequence[Envelope]:
        """Return envelopes, each addressed to its shard."""
        return [self.placed_one(one) for one in envelopes] if self.known else envelopes

    def placed_one(self, envelope: Envelope) -> Envelope:
        """Return an envelope, addressed to its shard."""
        layout = self.known.get(envelope.source) if self.known else None
        return envelope if layout is None or layout.number == 0 else layout.placed(envelope)

    async def are_renewed(self, sources: Collection[str], used: Mapping[str, Layout], *, waits: bool = True) -> bool:
        """Read the layouts after a shard has refused a message; return whether any of these sources has another one.

        `used` is what `known` was when the messages were addressed. While a source is being moved, this waits for the
        end of that, or, unless it `waits`, returns True. Raises `BrokerError`.
        """
        while True:
            await self.refresh()
            if any(_number(self.known, name) != _number(used, name) for name in sources):
                return True
            if not any(map(self.is_moved, sources)):
                return False
            if not waits:
                return True
            await self.sleep(AGAIN_AFTER)


async def layouts_now(client: Commands) -> Mapping[str, Layout]:
    """Return the layouts of all sources, as they are at the server; raises `RedisError`."""
    return layouts_in(await client.call("HGET", keys.shared(NAME), "data", idempotent=True))


def _number(layouts: Mapping[str, Layout], source: str) -> int:
    return layouts[source].number if source in layouts else 0


def is_refused_by_shard(error: BrokerError) -> bool:
    """Return whether nothing could be published because a source, or a shard, is no stream."""
    return isinstance(error.__cause__, RedisError) and is_wrong_type(error.__cause__)
