"""Publishes that wait until replicas, or disks, have the messages.

WAIT and WAITAOF cover what the connection that asks has written itself, and block it meanwhile. So these publishes have
a connection of their own: the messages of everyone who waits for it, then one WAIT for all of them. The next batch
gathers while it waits.

Before the WAIT, in the same write, the connection sets a key of no meaning. A message that was stored before, under the
same id, is not written again: without the key the connection would have nothing to wait for, and the server would
answer at once. The replication stream is in order, so a replica that has the key has the message.

If the connection was another one at the end than at the beginning, the message may be on a server that is the primary
no more: everything is sent again, each message under its id. So a confirmation always is about one server that took
the messages, in its own term.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, TypeAlias

import attrs

from actorwork.errors import BrokerError, Unconfirmed
from actorwork.message import Durability
from actorwork.streams.keys import SourceKeys
from actorwork.streams.publisher import Publisher
from actorwork.streams.transport.commands import Commands, MayHaveExecuted
from actorwork.streams.transport.redis_py import OUTAGES, RedisError, cannot

_MARK_MS: Final = 60_000

Publish: TypeAlias = Callable[[Publisher], Awaitable[Any]]


@attrs.define(eq=False)
class _Order:
    """What one caller waits for."""

    publish: Publish
    source: str
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

    async def publish(self, publish: Publish, source: str, ids: tuple[str, ...], durability: Durability) -> Any:
        """Publish, and return what that returns once it is confirmed. Raises `Unconfirmed`.

        Cancelled: the messages may have been stored.
        """
        order = _Order(publish, source, ids, durability)
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
        while True:
            generation = client.generation
            stored: list[_Order] = []
            for order in orders:
                try:
                    order.result = await order.publish(publisher)
                    stored.append(order)
                except BrokerError as error:
                    self._end(order, error)
            if not stored:
                return
            confirmed = await self._confirmed(client, stored[0])
            if confirmed is not None and client.generation == generation:
                break
            orders = stored
        for order in stored:
            self._end(order, _unconfirmed(order, confirmed) if confirmed < _wanted(order.durability) else None)

    def _end(self, order: _Order, error: Exception | None) -> None:
        order.error = error
        order.is_done = True
        if order in self._waiting:
            self._waiting.remove(order)

    async def _confirmed(self, client: Commands, order: _Order) -> int | None:
        """Return how many servers have everything that was written so far; None if the connection was lost."""
        durability, key = order.durability, f"{SourceKeys.of(order.source).prefix}confirm"
        limit = max(1, round(durability.within * 1000))
        if durability.kind == "fsynced":
            wait: tuple[Any, ...] = ("WAITAOF", 1, durability.replicas, limit)
        else:
            wait = ("WAIT", durability.replicas, limit)
        try:
            replies = await client.call_many([("SET", key, b"", "PX", _MARK_MS), wait])
        except MayHaveExecuted:
            return None
        except RedisError as error:
            raise BrokerError(f"cannot confirm messages of {order.source!r}: {error}", may_pass=True) from error
        with cannot(f"confirm messages of {order.source!r}"):
            for reply in replies:
                if type(reply) in OUTAGES:
                    return None
                if isinstance(reply, Exception) and "unknown command" in str(reply).lower():
                    raise BrokerError(
                        "durability='fsynced' needs WAITAOF, which this server does not have: use Redis 7.2 or Valkey"
                        " 8, or 'replicated'; with `appendfsync always` a message is on the disk before it is answered"
                    ) from reply
                if isinstance(reply, Exception):
                    raise reply
        answer = replies[1]
        return sum(map(int, answer)) if durability.kind == "fsynced" else int(answer)


def _wanted(durability: Durability) -> int:
    return durability.replicas + (durability.kind == "fsynced")


def _unconfirmed(order: _Order, confirmed: int) -> Unconfirmed:
    durability, wanted = order.durability, _wanted(order.durability)
    what = "received it" if durability.kind == "replicated" else "written it to disk"
    many = f"message {', '.join(order.ids)}" if len(order.ids) < 3 else f"{len(order.ids)} messages"
    return Unconfirmed(
        f"{order.source!r} has {many}, but only {confirmed} of {wanted} servers have {what} within"
        f" {durability.within:g} s: a failover may lose it. To send it again with the same id is safe",
        ids=order.ids,
        wanted=wanted,
        confirmed=confirmed,
    )
