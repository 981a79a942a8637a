"""Messages for sources in other slots of a cluster: forwarded from the outbox of the source whose delivery sent them.

    settle ──one script──▶ acked, and in the outbox ──▶ published at the other source ──▶ deleted from the outbox

A script reaches the keys of one slot. So what a handler publishes to a source in another slot is put into the outbox of
its delivery's source, a stream, in the script that settles the delivery: both happen, or neither. From there it is
published by its id, as any message is, and then deleted. If a node dies in between, it is published once more, and its
mark says that it is there already: a mark lives for a day.

The node that has settled forwards at once. What it left behind is forwarded by the node that maintains the source
(`survey.py`), within a second. Several may forward at the same time: each publishes in the order of the outbox, so a
message never arrives before those that were sent to the same source before it. A source that cannot be published to (it
is no stream, a right is missing) keeps its messages in the outbox, and does not hold up the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import trio

from actorwork.abc import EventSink
from actorwork.events import BrokerTrouble
from actorwork.failpoints import failpoint
from actorwork.streams import keys, scripts
from actorwork.streams.transport.client import RedisClient
from actorwork.streams.transport.redis_py import RedisError
from actorwork.streams.transport.slots import key_slot

_AT_ONCE: Final = 100
_AGAIN_AFTER: Final = 1.0
_BEFORE: Final = failpoint("outbox.before")
_SENT: Final = failpoint("outbox.sent")
_AFTER: Final = failpoint("outbox.after")

_Entry = tuple[bytes, Sequence[bytes]]


class Outbox:
    """Forwards for one node. `spawn` starts a task in the node's nursery, and does not wait."""

    def __init__(self, client: RedisClient, spawn: Callable[..., object], emit: EventSink) -> None:
        self._client = client
        self._spawn = spawn
        self._emit = emit
        self._wanted: set[str] = set()
        self._running: set[str] = set()
        self._waiters = trio.lowlevel.ParkingLot()
        self._complain_at: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<Outbox, {len(self._running)} being forwarded>"

    def is_elsewhere(self, own: str, source: str) -> bool:
        """Whether a source is in another slot than the one whose delivery is settled."""
        return own != source and key_slot(own) != key_slot(source)

    def forward_soon(self, source: str) -> None:
        """Forward what is in the outbox of a source. Never waits."""
        self._wanted.add(source)
        if source not in self._running:
            self._running.add(source)
            self._spawn(self._forward_all, source)

    async def wait_forwarded(self) -> None:
        """Wait until no forwarding is under way."""
        while self._running:
            await self._waiters.park()

    async def _forward_all(self, source: str) -> None:
        try:
            while source in self._wanted:
                self._wanted.discard(source)
                try:
                    await self._forward(source)
                except RedisError as error:
                    self._trouble(source, source, error)
        finally:
            self._running.discard(source)
            self._waiters.unpark_all()

    async def _forward(self, source: str) -> None:
        box = keys.outbox(source)
        after = "-"
        stuck: set[bytes] = set()
        while True:
            if _BEFORE is not None:
                _BEFORE()
            page: list[_Entry] = await self._client.call("XRANGE", box, after, "+", "COUNT", _AT_ONCE, idempotent=True)
            by_target: dict[bytes, list[_Entry]] = {}
            for entry in page:
                by_target.setdefault(entry[1][1], []).append(entry)
            for target, some in by_target.items():
                if target in stuck:
                    continue  # Those behind one that could not be published would overtake it.
                try:
                    await self._publish(target.decode(), some)
                except RedisError as error:
                    stuck.add(target)
                    self._trouble(source, target.decode(errors="replace"), error)
                    continue
                if _SENT is not None:
                    _SENT()
                await self._client.call("XDEL", box, *(entry for entry, _ in some), idempotent=True)
                if _AFTER is not None:
                    _AFTER()
            if len(page) < _AT_ONCE:
                return
            after = f"({page[-1][0].decode()}"

    async def _publish(self, target: str, some: Sequence[_Entry]) -> None:
        of = keys.SourceKeys.of(target)
        names: list[Any] = [of.stream, of.delayed, of.delayed_messages]
        args: list[Any] = [of.prefix]
        for _, values in some:
            _, _, _, mark, _, bit, _, terms, *fields = values
            names.append(mark)
            args += (len(names), bit, terms, len(fields), *fields)
        await self._client.run_script(scripts.PUBLISH, names, args, idempotent=True)

    def _trouble(self, source: str, target: str, error: RedisError) -> None:
        now = trio.current_time()
        if now >= self._complain_at.get(target, 0.0):
            self._complain_at[target] = now + _AGAIN_AFTER
            doing = f"forwarding what was sent from {source} to {target}"
            self._emit(BrokerTrouble(doing, str(error), "again within a second; it is kept in the outbox"))
