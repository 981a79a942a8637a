"""Commands to Redis that block the thread, over connections that are opened when they are needed.

A connection belongs to one call at a time. A call that loses its connection waits for the server, at most `patience`
seconds, and is sent again if that is harmless (`idempotent`); nearly all calls here are, as messages have ids. A
connection is lost, too, if it owes a reply and is silent for `SILENCE` seconds: a peer behind a dead network sends no
reset.
"""

from __future__ import annotations

import itertools
import os
import socket
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from random import SystemRandom
from typing import Any, Final

from actorwork.blocking.driver import Deadlines
from actorwork.clients.driver import OutOfTime
from actorwork.errors import BrokerError
from actorwork.events import BrokerBack, BrokerLost
from actorwork.streams.transport.address import Address, open_socket, why_closed
from actorwork.streams.transport.commands import CommonCommands, MayHaveExecuted
from actorwork.streams.transport.redis_py import (
    ConnectionError,  # noqa: A004
    TimeoutError,  # noqa: A004
    outage_in,
)
from actorwork.streams.transport.wire import NOT_ENOUGH, Push, new_reader, pack, pack_transaction

_chance: Final = SystemRandom()
LOST: Final = (ConnectionError, TimeoutError, OSError)
_READ_SIZE: Final = 65536
SILENCE: Final = 10.0
"""As on Trio and on asyncio. No command here takes so long."""
_PAGE: Final = 200
"""How many commands of `call_in_turn` are sent before their replies are read."""


class BlockingConnection:
    """One open connection."""

    def __init__(self, address: Address, deadlines: Deadlines) -> None:
        self._opened = open_socket(address, "actorwork")
        self._socket: Any = self._opened._sock  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - as the transport does
        self._reader = new_reader()
        self._deadlines = deadlines
        self.client_id: int = self._opened.handshake_metadata[b"id"]

    def __repr__(self) -> str:
        return f"<BlockingConnection {self.client_id}>"

    def send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:  # Not `sendall`: the limit is that of a silence, and not for all of a large message.
            self._socket.settimeout(self._limit())
            rest = rest[self._socket.send(rest) :]

    def receive(self, timeout: float | None = None) -> Any:
        """Return the next reply or push; `NOT_ENOUGH` after `timeout` seconds, if that is given."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            reply = self._reader.gets()
            if reply is not NOT_ENOUGH:
                return reply
            limit = self._limit()
            if until is not None:
                left = until - time.monotonic()
                if left <= 0:
                    return NOT_ENOUGH
                limit = min(limit, left)
            self._socket.settimeout(limit)
            try:
                data = self._socket.recv(_READ_SIZE)
            except (TimeoutError, OSError) as error:
                if "timed out" not in str(error):
                    raise
                self._deadlines.left()
                if until is None:
                    raise TimeoutError(f"it owes a reply, and was silent for {limit:g} s") from error
                continue
            if not data:
                raise ConnectionError(why_closed(self._opened))
            self._reader.feed(data)

    def is_ended(self) -> bool:
        """Return whether the connection has ended meanwhile, as far as that is known here without a request."""
        self._socket.settimeout(0)
        try:
            # Below TLS, if there is any: only whether there is an end matters, and nothing is taken.
            return not socket.socket.recv(self._socket, 1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _limit(self) -> float:
        return min(SILENCE, self._deadlines.left())

    def close(self) -> None:
        self._opened.disconnect()


class BlockingRedis(CommonCommands):
    """Implements `streams.transport.commands.Commands`. Safe to use from any number of threads."""

    def __init__(
        self,
        address: Address,
        deadlines: Deadlines,
        patience: float,
        emit: Callable[[BrokerLost | BrokerBack], None],
    ) -> None:
        self.generation = 0
        self.address = address
        self.deadlines = deadlines
        self._patience = patience
        self._emit = emit
        # Used without a lock, in steps that nothing divides: a signal handler, or a `__del__`, may interrupt a call of
        # its own thread and send, and would wait for that call for ever.
        self._idle: list[BlockingConnection] = []
        self._generations = itertools.count(1)
        self._is_closed = False
        self._is_lost = False
        """It has been reported that the server cannot be reached, and not yet that it can."""
        _clients.add(self)

    def __repr__(self) -> str:
        return f"<BlockingRedis of {self.address.url}, {len(self._idle)} idle connections>"

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def is_lost(self) -> bool:
        """Whether the server could not be reached the last time that a connection was opened."""
        return self._is_lost

    # ---- commands ----

    async def call(self, *args: Any, idempotent: bool = False) -> Any:
        (reply,) = self._request(pack(args), 1, idempotent=idempotent)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def call_many(self, commands: Sequence[Sequence[Any]], *, idempotent: bool = False) -> list[Any]:
        data = b"".join([pack(tuple(command)) for command in commands])
        return self._request(data, len(commands), idempotent=idempotent) if commands else []

    async def call_in_turn(self, commands: Iterable[Sequence[Any]]) -> list[Any]:
        replies: list[Any] = []
        page: list[bytes] = []
        for command in commands:
            page.append(pack(tuple(command)))
            if len(page) == _PAGE:
                replies += self._request(b"".join(page), len(page), idempotent=True)
                page.clear()
        if page:
            replies += self._request(b"".join(page), len(page), idempotent=True)
        return replies

    async def transact(self, *commands: Sequence[Any]) -> list[Any]:
        return self._request(pack_transaction(commands), len(commands) + 2, idempotent=False)

    # ---- connections ----

    def _request(self, data: bytes, count: int, *, idempotent: bool) -> list[Any]:
        give_up_at = time.monotonic() + self._patience
        failures, is_sent = 0, False
        while True:
            try:
                connection = self._take() or self.open(give_up_at)
            except BrokerError as error:
                if not is_sent:
                    raise
                text = f"{error}; it was asked before its connection was lost, so it may have been done"
                raise BrokerError(text, may_pass=error.may_pass) from error
            refused = None
            try:
                connection.send(data)
                replies: list[Any] = []
                while len(replies) < count:
                    reply = connection.receive()
                    if type(reply) is not Push:
                        replies.append(reply)
            except LOST as error:
                connection.close()
                if not idempotent:
                    raise MayHaveExecuted(
                        f"the connection to {self.address.url} was lost ({error}) while a command waited for its reply:"
                        " it may have executed",
                        client_id=connection.client_id,
                    ) from error
                is_sent = True
                if time.monotonic() >= give_up_at:
                    text = f"the connection to {self.address.url} was lost ({error}), so it may have been done"
                    raise ConnectionError(text) from error
            except BaseException:
                # Out of time, or interrupted: a reply that is still on its way must not be taken for another's.
                connection.close()
                raise
            else:
                outage = outage_in(replies)
                self._give(connection)
                if outage is None or not idempotent or time.monotonic() >= give_up_at:
                    return replies
                # A replica stays one: the next connection may lead to the primary.
                refused = f"{self.address.url} takes no commands now ({outage})"
            self._drop_idle()
            failures += 1
            self._pause(failures, refused)

    def open(self, give_up_at: float) -> BlockingConnection:
        """Open a connection; wait for the server until then. Raises `BrokerError`."""
        if self._is_closed:
            raise BrokerError(f"this client of {self.address.url} is closed")
        failures = 0
        while True:
            try:
                connection = BlockingConnection(self.address, self.deadlines)
            except LOST as error:
                if time.monotonic() >= give_up_at:
                    raise BrokerError(f"{error}; gave up after {self._patience:g} s", may_pass=True) from error
                lost = str(error)
            else:
                if self._is_lost:
                    self._is_lost = False
                    self._emit(BrokerBack(self.address.url))
                self.generation = next(self._generations)
                return connection
            failures += 1
            self._is_lost = True
            # Reported here only: an idle connection that the server has closed is replaced without a word.
            self._pause(failures, lost)

    def open_subscribed(self, channel: str | bytes, *, near: str | None = None) -> BlockingConnection:
        """Open a connection that is subscribed to a channel; wait for the server at most `patience` seconds.

        There is one server, so all keys are near.
        """
        give_up_at = time.monotonic() + self._patience
        failures = 0
        while True:
            connection = self.open(give_up_at)
            try:
                connection.send(pack(("SUBSCRIBE", channel)))
                while True:
                    reply = connection.receive()
                    if isinstance(reply, Exception):
                        raise reply
                    if type(reply) is Push and reply[0] == b"subscribe":
                        return connection
            except LOST as error:
                connection.close()
                if time.monotonic() >= give_up_at:
                    raise ConnectionError(f"the connection to {self.address.url} was lost: {error}") from error
            except BaseException:
                connection.close()
                raise
            failures += 1
            self._pause(failures)

    def _pause(self, failures: int, lost: str | None = None) -> None:
        # Called outside `except`: an interrupt here is shown without the error that caused the pause.
        seconds = _chance.uniform(0.5, 1) * min(1.0, 0.01 * 2 ** min(failures, 10))
        if lost is not None:
            self._emit(BrokerLost(lost, seconds, self.address.url))
        left = self.deadlines.left()
        time.sleep(min(seconds, left))
        if seconds >= left:
            raise OutOfTime

    def _take(self) -> BlockingConnection | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _give(self, connection: BlockingConnection) -> None:
        self._idle.append(connection)
        if self._is_closed:  # perhaps since it was taken
            self._drop_idle()

    def _drop_idle(self) -> None:
        # The server has restarted, or the network was away: what is idle is lost, too.
        for _ in range(len(self._idle)):
            connection = self._take()
            if connection is not None:
                connection.close()

    def close(self) -> None:
        self._is_closed = True
        self._drop_idle()

    def forked(self) -> None:
        """Begin anew in a child process: the connections are the parent's."""
        keep_for_ever(self._idle)
        self._idle = []
        self.generation = next(self._generations)


_of_parents: list[object] = []


def keep_for_ever(connections: object) -> None:
    """Keep connections of the parent process: a socket that is collected here is shut down, for the parent as well."""
    _of_parents.append(connections)


_clients: weakref.WeakSet[BlockingRedis] = weakref.WeakSet()


def _after_fork() -> None:
    for client in list(_clients):
        client.forked()


os.register_at_fork(after_in_child=_after_fork)
