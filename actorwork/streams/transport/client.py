"""The client: one multiplexed connection to Redis that comes back by itself.

    call, call_many, run_script      the hot path: raw replies, error replies raised (in `call_many`: returned in place)
    transact                         a transaction that is sent at most once
    subscribe, unsubscribe           pushes on the same connection, to `on_push`, subscribed again after each reconnect
    open_exclusive                   a separate connection, for blocking reads

What a lost connection means for a command that waits:

    its bytes never left             it waits for the next connection and is sent there, unnoticed by its caller
    it is marked idempotent          it waits for the next connection and is sent again
    anything else                    `MayHaveExecuted`, a `ConnectionError`: only the caller knows what that means

A command issued while there is no connection waits for one. A caller that cannot wait bounds it (`trio.fail_after`).
A server that turns read-only has become a replica: its connection counts as lost, and the next one may lead to the
new primary. So does that of a server that loads its data. One that lacks replicas (`min-replicas-to-write`) is asked
again on the same connection, up to once a second. A command that is idempotent waits for the end of all of these.

Reconnecting backs off exponentially with full jitter, up to a second: a node continues within two seconds of the
server's return.
"""

import math
import os
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from random import SystemRandom
from typing import Any, Final

import attrs
import trio

from actorwork.errors import BrokerError, NotRunning
from actorwork.nurseries import open_unwrapping_nursery
from actorwork.shown import Value
from actorwork.streams.transport.address import Address
from actorwork.streams.transport.commands import CommonCommands, MayHaveExecuted, Script
from actorwork.streams.transport.connection import Connection, connect
from actorwork.streams.transport.direct import NO_MORE_FILES
from actorwork.streams.transport.exclusive import Exclusive
from actorwork.streams.transport.multiplexer import Multiplexer, PendingRequest
from actorwork.streams.transport.redis_py import (
    ConnectionError,  # noqa: A004
    NoReplicasError,
    RedisError,
    TimeoutError,  # noqa: A004
)
from actorwork.streams.transport.wire import pack, pack_transaction

_chance: Final = SystemRandom()
_BACKOFF_BASE: Final = 0.01
_BACKOFF_CAP: Final = 1.0
_PROVEN_AFTER: Final = 1.0
"""Seconds for which a connection must have lived before the backoff starts over."""

SPARE_FILES: Final = 48
"""Of the files that this process may open, how many no reader takes for long: while up to 16 connect, 32 are free."""
_LOST: Final = (ConnectionError, TimeoutError, OSError)


class RedisClientClosed(BrokerError, trio.ClosedResourceError):
    """The client was closed: for users the error that every closed client raises, for Trio's own programs theirs."""


class NoFurtherConnection(Exception):
    """The server is there, but no further connection to it can be opened."""


@attrs.frozen(eq=False, repr=False)
class Connected(Value):
    """There is a connection, the `generation`th. Of `servers`, this many are `away`: on a cluster, primaries."""

    url: str
    generation: int
    away: int = 0
    servers: int = 1


@attrs.frozen(eq=False, repr=False)
class ConnectionLost(Value):
    """There is no connection to a server; the next attempt follows in `retry_in` seconds."""

    url: str
    error: Exception
    retry_in: float
    away: int = 1
    servers: int = 1


ConnectionEvent = Connected | ConnectionLost


@attrs.frozen(eq=False, repr=False)
class ClientStatistics(Value):
    is_connected: bool
    generation: int
    in_flight: int
    bytes_sent: int
    bytes_received: int
    subscriptions: int
    last_error: Exception | None


@asynccontextmanager
async def open_client(
    url: str,
    *,
    name: str = "actorwork",
    scripts: Sequence[Script] = (),
    on_push: Callable[[list[Any]], None] | None = None,
    on_event: Callable[[ConnectionEvent], None] | None = None,
    silence: float = 10.0,
    make: Callable[..., "RedisClient"] | None = None,
) -> AsyncGenerator["RedisClient"]:
    """Connect, and stay connected until the block ends.

    The first attempt is awaited. If trying again cannot help (credentials, rights, certificate), it raises
    `BrokerError`. A server that cannot be reached is tried again in the background; `wait_connected` waits for it.

    `on_push` and `on_event` are called synchronously and must not raise: a connection whose reader fails cannot match
    replies any more. `scripts` are loaded with each connection. A connection that owes replies and sends nothing for
    `silence` seconds is given up. `make` makes the client: a class that adds something to `RedisClient`; for a cluster,
    `cluster.cluster_client()`.
    """
    client = (make or RedisClient)(Address.parse(url), name, scripts, on_push or _ignore, on_event or _ignore, silence)
    first = await client.attempt()
    async with open_unwrapping_nursery() as nursery:
        nursery.start_soon(client.keep_connected, first)
        try:
            if not isinstance(first, Exception):
                await client.wait_connected()
            yield client
        finally:
            client.close()


def _check_run(home: trio.lowlevel.TrioToken, address: Address) -> None:
    """Raise `NotRunning` in another run than that in which the client was opened."""
    if trio.lowlevel.current_trio_token() is not home:
        raise NotRunning(
            f"this client of {address.url} was opened in another trio.run: open a client in each, or go back to that"
            " run from a thread, by trio.from_thread.run"
        )


class RedisClient(CommonCommands):
    """Safe to use from any number of tasks. Made by `open_client`."""

    def __init__(
        self,
        address: Address,
        name: str,
        scripts: Sequence[Script],
        on_push: Callable[[list[Any]], None],
        on_event: Callable[[ConnectionEvent], None],
        silence: float,
    ) -> None:
        self.generation: int = 0
        """Grows with every new connection. A caller that sees another value knows that the server may have
        restarted.
        """
        self._address = address
        self._name = name
        self._scripts = {script.sha: script for script in scripts}
        self._on_push = on_push
        self._on_event = on_event
        self._silence = silence
        self._threads = trio.CapacityLimiter(16)  # Many readers that reconnect must not use up the threads of handlers.
        self._channels: set[bytes] = set()
        self._near: set[bytes] = set()
        """Channels of slots."""
        self._link: Multiplexer | None = None
        self._connected = trio.Event()
        self._scope = trio.CancelScope(shield=True)
        self._home = trio.lowlevel.current_trio_token()
        self._is_closed = False
        self._lacks_replicas = False
        """It has been reported that the server takes no writes, and not yet that it does again."""
        self._last_error: Exception | None = None
        self._bytes: tuple[int, int] = (0, 0)

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "disconnected" if self._link is None else "connected"
        return f"<RedisClient of {self._address.url}, {state}, generation {self.generation}>"

    @property
    def address(self) -> Address:
        return self._address

    @property
    def is_connected(self) -> bool:
        return self._link is not None

    # ------------------------------------------------------------------------------------------------------- commands

    async def call(self, *args: Any, idempotent: bool = False) -> Any:
        """Send one command and return its reply as it came: bytes stay bytes. Error replies are raised.

        Cancelled while waiting: it may have executed.
        """
        request = await self._request(pack(args), idempotent=idempotent)
        reply = request.replies[0]
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def call_many(self, commands: Sequence[Sequence[Any]], *, idempotent: bool = False) -> list[Any]:
        """Send commands in one write, next to each other, and return their replies; error replies are exceptions among
        them.
        """
        if not commands:
            return []
        data = b"".join([pack(tuple(command)) for command in commands])
        return (await self._request(data, idempotent=idempotent, count=len(commands))).replies

    async def transact(self, *commands: Sequence[Any]) -> list[Any]:
        """Send commands as one transaction, and return all replies in their order: that of MULTI, one for each command
        (it was queued), and that of EXEC, a list. Error replies are exceptions among them.

        Raises `MayHaveExecuted` if the connection was lost before the replies had come.
        """
        return (await self._request(pack_transaction(commands), idempotent=False, count=len(commands) + 2)).replies

    async def call_in_turn(self, commands: Iterable[Sequence[Any]]) -> list[Any]:
        """Send idempotent commands one after the other without waiting in between, and return all replies.

        Each leaves as soon as it is made, so the server works on it while the next one is packed. If the connection is
        lost, all are sent again, in their order.
        """
        packed: list[bytes] = []
        making = iter(commands)
        refusals = 0
        while True:
            await trio.lowlevel.checkpoint_if_cancelled()
            link = self._link
            if link is None:
                await self.wait_connected()
                continue
            requests = [link.request_nowait(data) for data in packed]
            for command in making:
                packed.append(pack(tuple(command)))
                requests.append(link.request_nowait(packed[-1]))
                await trio.lowlevel.checkpoint()
            for request in requests:
                await link.wait(request)
            if all(request.error is None and request.outage is None for request in requests):
                if refusals:
                    self._accepted()
                return [request.replies[0] for request in requests]
            outage = next((request.outage for request in requests if request.outage is not None), None)
            if outage is not None and not self._ended_by(outage, link):
                refusals += 1
                await self._wait_out(outage, refusals)

    def _ended_by(self, outage: Exception, link: Multiplexer) -> bool:
        """End a connection over which nothing is accepted any more; return whether it was ended."""
        if type(outage) is NoReplicasError:
            return False
        link.fail(ConnectionError(f"{self._address.url} takes no commands now ({outage})"))
        return True

    async def _wait_out(self, outage: Exception, refusals: int) -> None:
        """Wait before a server that lacks replicas is asked again."""
        pause = _backoff(3 + refusals)
        if not self._lacks_replicas:
            self._lacks_replicas = True
            lost = ConnectionError(f"{self._address.url} takes no writes now ({outage})")
            self._on_event(ConnectionLost(self._address.url, lost, pause))
        await trio.sleep(pause)

    def _accepted(self) -> None:
        if self._lacks_replicas:
            self._lacks_replicas = False
            self._on_event(Connected(self._address.url, self.generation))

    def _missed(self, script: Script) -> None:
        self._scripts.setdefault(script.sha, script)

    async def _request(
        self, data: bytes, *, idempotent: bool, count: int = 1, is_subscription: bool = False
    ) -> PendingRequest:
        _check_run(self._home, self._address)
        await trio.lowlevel.checkpoint_if_cancelled()  # From here on it may have executed.
        refusals = 0
        while True:
            link = self._link
            if link is None:
                await self.wait_connected()
                continue
            request = await link.request(data, count, is_subscription=is_subscription)
            if request.error is None:
                if request.outage is None:
                    if refusals:
                        self._accepted()
                    return request
                is_ended = self._ended_by(request.outage, link)
                if not idempotent:
                    return request
                if not is_ended:
                    refusals += 1
                    await self._wait_out(request.outage, refusals)
            elif not request.unsent and not idempotent:
                raise MayHaveExecuted(
                    f"the connection to {self._address.url} was lost ({request.error}) while a command waited for its "
                    "reply: it may have executed",
                    client_id=link.connection.client_id,
                ) from request.error

    # ----------------------------------------------------------------------------------------------------------- pushes

    async def subscribe(self, channel: str | bytes) -> None:
        """Subscribe to a channel, now and after each reconnect; its messages go to `on_push` as `[b"message",
        channel, data]`.

        Cancelled: it may be subscribed.
        """
        name = channel.encode() if isinstance(channel, str) else channel
        self._channels.add(name)
        await self._confirmed("SUBSCRIBE", name)

    async def unsubscribe(self, channel: str | bytes) -> None:
        name = channel.encode() if isinstance(channel, str) else channel
        self._channels.discard(name)
        await self._confirmed("UNSUBSCRIBE", name)

    async def subscribe_near(self, channel: bytes) -> None:
        """Subscribe to a channel of a slot (SSUBSCRIBE), now and after each reconnect. Cancelled: it may be
        subscribed.
        """
        self._near.add(channel)
        await self._confirmed("SSUBSCRIBE", channel)

    def is_near(self, channel: bytes) -> bool:
        """Return whether this client is subscribed to a channel at the server that has its slot."""
        return channel in self._near

    def forget_near(self, channel: bytes) -> None:
        """Note that the server has ended a subscription to a channel of a slot: the slot has moved."""
        self._near.discard(channel)

    def forget_subscriptions(self) -> None:
        """Subscribe to nothing on further connections."""
        self._channels.clear()

    async def _confirmed(self, command: str, channel: bytes) -> None:
        request = await self._request(pack((command, channel)), idempotent=True, is_subscription=True)
        reply = request.replies[0]
        if isinstance(reply, Exception):
            self._channels.discard(channel)
            self._near.discard(channel)
            raise reply

    # ------------------------------------------------------------------------------------------------------ connections

    async def wait_connected(self) -> None:
        """Wait until there is a connection; return at once if there is one."""
        while self._link is None:
            if self._is_closed:
                raise RedisClientClosed(f"this client of {self._address.url} is closed")
            await self._connected.wait()

    @asynccontextmanager
    async def open_exclusive(
        self, name: str | None = None, *, patience: float = math.inf, key: str = ""
    ) -> AsyncGenerator[Exclusive]:
        """Open a separate connection, for blocking reads. Waits for a server that cannot be reached, as a command
        does. `key` is one of those that are read: it matters on a cluster.

        Raises `NoFurtherConnection` if the server is there, and yet no connection can be opened for `patience` seconds:
        it has as many clients as it takes, or this process as many open files.
        """
        failures, since, generation = 0, trio.current_time(), self.generation
        while True:
            await self.wait_connected()
            if self.generation != generation:
                since, generation = trio.current_time(), self.generation
            try:
                connection = await connect(self._address, name or self._name, self._threads)
                _leave_some_files(connection)
                break
            except _LOST as error:
                if self._link is not None and trio.current_time() - since >= patience:
                    raise NoFurtherConnection(str(error)) from error
                await trio.sleep(_backoff(failures))
                failures += 1
        exclusive = Exclusive(connection, self._unblock)
        try:
            yield exclusive
        finally:
            exclusive.close()

    def has_moved(self, error: RedisError) -> bool:
        """Return whether an error says that what was read is, or may be, at another server now."""
        return False

    def reaches(self, key: Any) -> bool:
        """Return whether there is a connection to the server that has a key."""
        return self.is_connected

    def servers(self) -> tuple[int, int]:
        """Return how many servers there are, and how many of them are away. Any thread may ask."""
        return 1, int(not self.is_connected)

    def statistics(self) -> ClientStatistics:
        link = self._link
        sent, received = self._bytes
        return ClientStatistics(
            is_connected=link is not None,
            generation=self.generation,
            in_flight=0 if link is None else link.in_flight,
            bytes_sent=sent + (0 if link is None else link.connection.bytes_sent),
            bytes_received=received + (0 if link is None else link.connection.bytes_received),
            subscriptions=len(self._channels),
            last_error=self._last_error,
        )

    def _unblock(self, client_id: int) -> PendingRequest | None:
        return None if self._link is None else self._link.request_nowait(pack(("CLIENT", "UNBLOCK", client_id)))

    async def attempt(self) -> Any:
        """Connect, and return what `keep_connected` needs: a connection, or the error that may pass."""
        try:
            return await connect(self._address, self._name, self._threads)
        except _LOST as error:
            self._last_error = error
            return error

    # Protected: a KeyboardInterrupt would end the connection under the tasks that are being cancelled by it.
    @trio.lowlevel.enable_ki_protection
    async def keep_connected(self, first: Any) -> None:
        """Own the connections, one after the other, with a pause in between, until the client is closed.

        Shielded, because tasks that are being cancelled still need it: a blocked read is ended through this connection.
        `close` ends it, when the body of `open_client` has ended.
        """
        failures = 0
        result: Connection | Exception = first
        with self._scope:
            while True:
                if isinstance(result, Connection):
                    began = trio.current_time()
                    error = await self._serve(result)
                    if trio.current_time() - began >= _PROVEN_AFTER:
                        failures = 0
                else:
                    error = result
                retry_in = _backoff(failures)
                failures += 1
                self._last_error = error
                self._on_event(ConnectionLost(self._address.url, error, retry_in))
                await trio.sleep(retry_in)
                try:
                    result = await connect(self._address, self._name, self._threads)
                except Exception as failure:  # noqa: BLE001  (it has worked before, so any error may pass)
                    result = failure

    async def _serve(self, connection: Connection) -> Exception:
        link = Multiplexer(connection, on_push=self._on_push, on_lost=self._lost, silence=self._silence)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._restore, link)
            error = await link.run()
            nursery.cancel_scope.cancel()
        return error

    async def _restore(self, link: Multiplexer) -> None:
        """Give a new connection the subscriptions and scripts of the last one, then let all tasks use it."""
        for channel in tuple(self._channels):
            request = await link.request(pack(("SUBSCRIBE", channel)), is_subscription=True)
            if request.error is None and isinstance(request.replies[0], Exception):
                link.fail(request.replies[0])
        for channel in tuple(self._near):
            request = await link.request(pack(("SSUBSCRIBE", channel)), is_subscription=True)
            if request.error is None and isinstance(request.replies[0], Exception):
                self._near.discard(channel)  # Its slot has moved, or the right to it was taken away.
        if missing := await _missing_scripts(link, self._scripts):
            # Without the right to load scripts, the error appears when one is run.
            await link.request(b"".join([pack(("SCRIPT", "LOAD", script.source)) for script in missing]), len(missing))
        if link.error is None:
            self.generation += 1
            self._link = link
            self._connected.set()
            self._on_event(Connected(self._address.url, self.generation))

    def _lost(self, _error: Exception) -> None:
        link, self._link = self._link, None
        if link is not None:
            self._bytes = (self._bytes[0] + link.connection.bytes_sent, self._bytes[1] + link.connection.bytes_received)
            if not self._is_closed:
                self._connected = trio.Event()

    def close(self) -> None:
        """End the connection; tasks that wait for one get `RedisClientClosed`."""
        self._is_closed = True
        self._connected.set()
        self._scope.cancel()


async def _missing_scripts(link: Multiplexer, known_here: Mapping[str, Script]) -> Sequence[Script]:
    """Return the scripts that the server does not know: together they have a megabyte, so they are sent only once.

    A server that does not permit the question gets them all.
    """
    scripts = tuple(known_here.values())
    if not scripts:
        return ()
    request = await link.request(pack(("SCRIPT", "EXISTS", *known_here)), 1)
    known = request.replies[0] if request.replies else ()
    if isinstance(known, Exception):
        return scripts
    return [script for script, is_known in zip(scripts, known, strict=False) if not is_known]


def _leave_some_files(connection: Connection) -> None:
    """Close a connection, and raise `ConnectionError`, if it is among the last files that this process may open.

    A process imports modules, and opens databases and logs, when it first needs them, and most of its own code cannot
    go on if that fails. Readers can: they share connections.
    """
    limit = os.sysconf("SC_OPEN_MAX")
    if 0 < limit - SPARE_FILES <= connection.fileno():
        connection.close()
        raise ConnectionError(f"{NO_MORE_FILES} ({SPARE_FILES} are left for all else)")


def _backoff(failures: int) -> float:
    return _chance.uniform(0, min(_BACKOFF_CAP, _BACKOFF_BASE * 2 ** min(failures, 10)))


def _ignore(_value: object) -> None:
    pass
