"""Commands to Redis on asyncio's loop, over one connection that comes back by itself.

A command that is issued while there is no connection waits for one: bound it with `asyncio.timeout`. What was lost with
a connection is sent again if that is harmless (`idempotent`), and else raises `MayHaveExecuted`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from random import SystemRandom
from typing import Any, Final

from actorwork.asynchronous.driver import check_loop
from actorwork.asynchronous.link import Link, Outgoing, Request
from actorwork.errors import BrokerError
from actorwork.events import BrokerBack, BrokerLost
from actorwork.streams.transport.address import Address, open_socket
from actorwork.streams.transport.commands import CommonCommands, MayHaveExecuted
from actorwork.streams.transport.redis_py import (
    ConnectionError,  # noqa: A004
    NoReplicasError,
    RedisPyConnection,
    TimeoutError,  # noqa: A004
    outage_in,
)
from actorwork.streams.transport.wire import pack, pack_transaction

_chance: Final = SystemRandom()
LOST: Final = (ConnectionError, TimeoutError, OSError)
_LONGEST_PAUSE: Final = 1.0
_FEW: Final = 100


class _Queue:
    """Requests that wait for a connection. Those for which no task waits any more are let go, so that they cannot pile
    up while the server is away.
    """

    def __init__(self) -> None:
        self._requests: list[Outgoing] = []
        self._look_at = _FEW

    def __repr__(self) -> str:
        return f"<{len(self._requests)} requests>"

    def append(self, request: Outgoing) -> None:
        self._requests.append(request)
        if len(self._requests) >= self._look_at:
            self._requests = [one for one in self._requests if not one.is_over]
            self._look_at = max(_FEW, 2 * len(self._requests))

    def take(self) -> list[Outgoing]:
        """Return all for which a task still waits, and keep none."""
        requests, self._requests, self._look_at = self._requests, [], _FEW
        return [one for one in requests if not one.is_over]


class AsyncioRedis(CommonCommands):
    """Implements `streams.transport.commands.Commands`. Safe to use from any number of tasks of its loop."""

    def __init__(
        self,
        address: Address,
        on_push: Callable[[list[Any]], None],
        on_back: Callable[[], None],
        emit: Callable[[BrokerLost | BrokerBack], None],
    ) -> None:
        self.generation = 0
        self.address = address
        self._loop = asyncio.get_running_loop()
        self._on_push = on_push
        self._on_back = on_back
        self._emit = emit
        self._link: Link | None = None
        self._queued = _Queue()
        self._channels: set[bytes] = set()
        self._near: set[bytes] = set()
        """Channels of slots."""
        self._connecting: asyncio.Task[None] | None = None
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<AsyncioRedis of {self.address.url}, {'connected' if self._link else 'not connected'}>"

    @property
    def is_connected(self) -> bool:
        return self._link is not None

    async def open(self) -> None:
        """Connect. Raises `BrokerError` if trying again cannot help; waits while the server cannot be reached."""
        failures = 0
        while True:
            try:
                opened = await self._open_socket()
            except LOST as error:
                lost = str(error)
            else:
                if failures:
                    self._emit(BrokerBack(self.address.url))
                self._connected(opened)
                return
            failures += 1
            # Outside `except`: a cancellation here is shown without the error that caused the pause.
            await self._pause(failures, lost)

    # ---- commands ----

    async def call(self, *args: Any, idempotent: bool = False) -> Any:
        (reply,) = await self._request(pack(args), 1, idempotent=idempotent)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def call_many(self, commands: Sequence[Sequence[Any]], *, idempotent: bool = False) -> list[Any]:
        if not commands:
            return []
        data = b"".join([pack(tuple(command)) for command in commands])
        return await self._request(data, len(commands), idempotent=idempotent)

    async def call_in_turn(self, commands: Iterable[Sequence[Any]]) -> list[Any]:
        requests: list[Request] = []
        for command in commands:
            requests.append(self._issue(pack(tuple(command)), 1, idempotent=True))
            await asyncio.sleep(0)
        replies = [(await request.done)[0] for request in requests]
        if outage_in(replies) is None:
            return replies
        return await self._request(b"".join([request.data for request in requests]), len(requests), idempotent=True)

    async def transact(self, *commands: Sequence[Any]) -> list[Any]:
        # It is never sent again, so there is nothing to do with its replies: one coroutine less for each publish.
        return await self._issue(pack_transaction(commands), len(commands) + 2, idempotent=False).done

    async def subscribe(self, channel: str | bytes) -> None:
        name = channel.encode() if isinstance(channel, str) else channel
        self._channels.add(name)
        (reply,) = await self._request(pack(("SUBSCRIBE", name)), 1, idempotent=True)
        if isinstance(reply, Exception):
            self._channels.discard(name)
            raise reply

    async def subscribe_near(self, channel: bytes) -> None:
        """Subscribe to a channel of a slot (SSUBSCRIBE), now and after each reconnect."""
        (reply,) = await self._request(pack(("SSUBSCRIBE", channel)), 1, idempotent=True)
        if isinstance(reply, Exception):
            raise reply
        self._near.add(channel)

    def is_near(self, channel: bytes) -> bool:
        """Return whether this client is subscribed to a channel at the server that has its slot."""
        return channel in self._near

    def forget_near(self, channel: bytes) -> None:
        """Note that the server has ended a subscription to a channel of a slot: the slot has moved."""
        self._near.discard(channel)

    def forget_subscriptions(self) -> None:
        """Subscribe to nothing on further connections."""
        self._channels.clear()

    async def unsubscribe(self, channel: str | bytes) -> None:
        name = channel.encode() if isinstance(channel, str) else channel
        self._channels.discard(name)
        if self._link is not None:  # The next connection does not subscribe to it.
            await self._request(pack(("UNSUBSCRIBE", name)), 1, idempotent=True)

    async def _request(self, data: bytes, count: int, *, idempotent: bool) -> list[Any]:
        refusals = 0
        while True:
            generation = self.generation
            replies = await self._issue(data, count, idempotent=idempotent).done
            outage = outage_in(replies)
            if outage is None or not idempotent:
                if refusals:
                    self._emit(BrokerBack(self.address.url))
                return replies
            refusals += 1
            refused = f"{self.address.url} takes no commands now ({outage})"
            if type(outage) is not NoReplicasError and self._link is not None and generation == self.generation:
                self._link.fail(ConnectionError(refused))  # A replica stays one: the next may lead to the primary.
            await self._pause(refusals + 3, refused)

    def _issue(self, data: bytes, count: int, *, idempotent: bool) -> Request:
        request = Request(data, count, idempotent, self._loop.create_future())
        self.issue(request)
        return request

    def issue(self, request: Outgoing) -> None:
        """Send a request at the end of this turn of the loop; without a connection, as soon as there is one."""
        check_loop(self._loop)
        if self._is_closed:
            raise BrokerError(f"this client of {self.address.url} is closed")
        if self._link is None:
            self._queued.append(request)
        else:
            self._link.send(request)

    def flush(self) -> None:
        """Send now what waits for the end of this turn of the loop."""
        if self._link is not None:
            self._link.flush()

    # ---- connections ----

    async def _open_socket(self) -> RedisPyConnection:
        return await asyncio.to_thread(open_socket, self.address, "actorwork")

    def _connected(self, opened: RedisPyConnection) -> None:
        link = self._link = Link(opened, self._loop, self._on_push, self._lost)
        self.generation += 1
        for verb, channels in (("SUBSCRIBE", self._channels), ("SSUBSCRIBE", self._near)):
            for channel in channels:
                link.send(Request(pack((verb, channel)), 1, True, self._loop.create_future()))  # noqa: FBT003
        for request in self._queued.take():
            request.replies.clear()
            link.send(request)

    def _lost(self, error: Exception, waiting: list[Outgoing]) -> None:
        link, self._link = self._link, None
        client_id = -1 if link is None else link.client_id
        for request in waiting:
            if request.is_over:
                continue
            if request.idempotent or not request.is_sent:
                self._queued.append(request)
            else:
                request.refuse(
                    MayHaveExecuted(
                        f"the connection to {self.address.url} was lost ({error}) while a command waited for its reply:"
                        " it may have executed",
                        client_id=client_id,
                    )
                )
        if not self._is_closed:
            self._connecting = self._loop.create_task(self._reconnect())

    async def _reconnect(self) -> None:
        failures = 0
        while not self._is_closed:
            try:
                opened = await self._open_socket()
            except LOST as error:
                failures += 1
                await self._pause(failures, str(error))
            except BrokerError as error:
                for request in self._queued.take():
                    request.refuse(ConnectionError(str(error)))
                failures += 1
                await self._pause(10, str(error))
            else:
                if failures:
                    self._emit(BrokerBack(self.address.url))
                self._connected(opened)
                self._on_back()
                return

    async def _pause(self, failures: int, lost: str) -> None:
        seconds = _chance.uniform(0.5, 1) * min(_LONGEST_PAUSE, 0.01 * 2 ** min(failures, 10))
        self._emit(BrokerLost(lost, seconds, self.address.url))
        await asyncio.sleep(seconds)

    async def aclose(self) -> None:
        """Close the connection; requests that wait raise `BrokerError`."""
        self._is_closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._connecting
        link, self._link = self._link, None
        if link is not None:
            link.fail(ConnectionError("closed"))
        for request in self._queued.take():
            request.refuse(BrokerError(f"this client of {self.address.url} is closed"))
