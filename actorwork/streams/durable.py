"""Publishes that wait until replicas, or disks, have the messages.

WAIT and WAITAOF cover what the connection that asks has written itself, and block it meanwhile. So these publishes have
a connection of their own: the messages of everyone who waits for it, then one WAIT for all of them. The next batch
gathers while it waits.

Before the WAIT, in the same write, the connection sets a key of no meaning for each source. A message that was stored
before, under the same id, is not written again: without the key the connection would have nothing to wait for, and the
server would answer at once. The replication stream is in order, so a replica that has the key has the message.

If the connection was another one at the end than at the beginning, the message may be on a server that is the primary
no more: everything is sent again, each message under its id. So a confirmation always is about one server that took
the messages, in its own term.

On a cluster each primary confirms what was sent to its sources. A slot may move between the publish and the key: then
the key is refused. If it is not, the message was there first, whichever connection has brought it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, TypeAlias

import attrs

from actorwork.errors import BrokerError, Unconfirmed
from actorwork.message import Durability
from actorwork.streams.keys import SourceKeys
from actorwork.streams.publisher import Publisher
from actorwork.streams.transport.commands import Commands, Link, MayHaveExecuted, Replies
from actorwork.streams.transport.redis_py import OUTAGES, MovedError, cannot, is_of_moving_slot

_MARK_MS: Final = 60_000

Publish: TypeAlias = Callable[[Publisher], Awaitable[Any]]


@attrs.define(eq=False)
class _Order:
    """What one caller waits for."""

    publish: Publish
    sources: tuple[str, ...]
    ids: tuple[str, ...]
    durability: Durability
    is_done: bool = False
    result: Any = None
    error: Exception | None = None


class DurablePublisher:
    """Safe to use from any number of tasks. `open` connects once, at the first publish; `lock` is for its tasks."""

    def __init__(self, open: Callable[[], Awaitable[Commands]], lock: AbstractAsyncContextManager[object]) -> None:
        self._open = open
        self._lock = lock
        self._client: Commands | None = None
        self._publisher: Publisher | None = None
        self._waiting: list[_Order] = []

    def __repr__(self) -> str:
        return f"<DurablePublisher to {self._client!r}, {len(self._waiting)} wait>"

    async def publish(
        self, publish: Publish, sources: tuple[str, ...], ids: tuple[str, ...], durability: Durability
    ) -> Any:
        """Publish, and return what that returns once it is confirmed. Raises `Unconfirmed`.

        Cancelled: the messages may have been stored.
        """
        order = _Order(publish, sources, ids, durability)
        self._waiting.append(order)
        try:
            async with self._lock:
                # The task that has the lock publishes for all that wait for it. If it is cancelled meanwhile, their
                # orders are not done, and the next of these tasks publishes again.
                if not order.is_done:
                    await self._run([one for one in self._waiting if one.durability == durability])
        finally:
            if order in self._waiting:
                self._waiting.remove(order)
        if order.error is not None:
            raise order.error
        return order.result

    async def _run(self, orders: list[_Order]) -> None:
        client = self._client
        if client is None:
            client = self._client = await self._open()
        publisher = self._publisher = self._publisher or Publisher(client)
        while orders:
            links: dict[_Order, set[Link]] = {}
            sources: dict[Link, list[str]] = {}
            for order in orders:
                found = [(await client.link_of(source), source) for source in order.sources]
                try:
                    order.result = await order.publish(publisher)
                except BrokerError as error:
                    self._end(order, error)
                    continue
                links[order] = {link for link, _ in found}
                for link, source in found:
                    sources.setdefault(link, []).append(source)
            sent = [(some[0], _waits_for(orders[0].durability, some)) for some in sources.values()]
            replies = dict(zip(sources, await client.call_over_links(sent), strict=True))
            orders = []
            for order, its_links in links.items():
                try:
                    confirmed = [_confirmed(order, replies[link]) for link in its_links]
                except BrokerError as error:
                    self._end(order, error)
                    continue
                known = [count for count in confirmed if count is not None]
                if len(known) < len(confirmed) or {await client.link_of(one) for one in order.sources} != its_links:
                    orders.append(order)
                    continue
                fewest = min(known)
                is_enough = fewest >= _wanted(order.durability)
                self._end(order, None if is_enough else _unconfirmed(order, fewest))

    def _end(self, order: _Order, error: Exception | None) -> None:
        order.error = error
        order.is_done = True
        if order in self._waiting:
            self._waiting.remove(order)


def _waits_for(durability: Durability, sources: Sequence[str]) -> Sequence[Sequence[Any]]:
    """Return the commands that wait for all that was written to some sources of one primary."""
    limit = max(1, round(durability.within * 1000))
    if durability.kind == "fsynced":
        wait: tuple[Any, ...] = ("WAITAOF", 1, durability.replicas, limit)
    else:
        wait = ("WAIT", durability.replicas, limit)
    names = dict.fromkeys(f"{SourceKeys.of(source).prefix}confirm" for source in sources)
    return *(("SET", name, b"", "PX", _MARK_MS) for name in names), wait


def _confirmed(order: _Order, replies: Replies) -> int | None:
    """Return how many servers have all that was written to one; None if it has to be sent again."""
    if isinstance(replies, MayHaveExecuted):
        return None
    if isinstance(replies, Exception):
        raise BrokerError(f"cannot confirm messages of {_named(order)}: {replies}", may_pass=True) from replies
    with cannot(f"confirm messages of {_named(order)}"):
        for reply in replies:
            if type(reply) in OUTAGES or isinstance(reply, MovedError) or is_of_moving_slot(reply):
                return None
            if isinstance(reply, Exception) and "unknown command" in str(reply).lower():
                raise BrokerError(
                    "durability='fsynced' needs WAITAOF, which this server does not have: use Redis 7.2 or Valkey"
                    " 8, or 'replicated'; with `appendfsync always` a message is on the disk before it is answered"
                ) from reply
            if isinstance(reply, Exception):
                raise reply
    answer = replies[-1]
    return sum(map(int, answer)) if order.durability.kind == "fsynced" else int(answer)


def _named(order: _Order) -> str:
    return ", ".join(map(repr, order.sources[:3]))


def _wanted(durability: Durability) -> int:
    return durability.replicas + (durability.kind == "fsynced")


def _unconfirmed(order: _Order, confirmed: int) -> Unconfirmed:
    durability, wanted = order.durability, _wanted(order.durability)
    what = "received it" if durability.kind == "replicated" else "written it to disk"
    many = f"message {', '.join(order.ids)}" if len(order.ids) < 3 else f"{len(order.ids)} messages"
    return Unconfirmed(
        f"{_named(order)} has {many}, but only {confirmed} of {wanted} servers have {what} within"
        f" {durability.within:g} s: a failover may lose it. To send it again with the same id is safe",
        ids=order.ids,
        wanted=wanted,
        confirmed=confirmed,
    )
