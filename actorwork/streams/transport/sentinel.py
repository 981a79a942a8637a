"""A primary that Redis Sentinel may replace by another server: how it is found, and what follows when it moves.

    connect ──▶ ask all sentinels ──▶ connect to the primary ──▶ is it one? ──▶ open
                                                                                 └── the primary has moved: shut down

Finding it is a part of `PrimaryConnection.connect`, so everything that opens a connection by an `Address` finds the
primary anew each time: commands, readers, leases, and the clients for asyncio and for threads.

All sentinels are asked, and the answer with the highest epoch of its configuration counts: a sentinel that was cut off
may not know of a failover yet. An answer that says the primary is down does not count, so nothing connects to a server
that is about to be replaced.

A primary that has been replaced need not know it. After a failover, even a planned one, it goes on accepting writes for
about ten seconds, and each of them is lost when it becomes a replica. A connection to it shows no sign of that. So each
sentinel is followed for as long as there are connections: by subscriptions to `+promoted-slave`, which the sentinel
that leads the failover publishes as soon as it knows the new primary, and to `+switch-master`, which all publish once
the other replicas have been told; and by asking every one to two seconds, since a message may be lost with its
connection. If the answer is another server than a connection leads to, all sentinels are asked, and then the
connections to any other server than the primary are shut down. Their owners see a lost connection, and open the next
one.

Sentinels are followed by threads, and not by tasks: they must notice also while the loop is blocked, and they serve
programs that have no loop.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from random import SystemRandom
from typing import Any, Final, cast

import attrs

from actorwork.errors import BrokerError
from actorwork.streams.transport.redis_py import (
    AuthenticationError,
    ConnectionError,  # noqa: A004
    NoPermissionError,
    RedisError,
    RedisPyConnection,
    ResponseError,
    TimeoutError,  # noqa: A004
)
from actorwork.streams.transport.urls import SENTINEL_ANSWERS_WITHIN
from actorwork.streams.transport.wire import NOT_ENOUGH, Push, new_reader, pack

_chance: Final = SystemRandom()
_ASK_EVERY: Final = (1.0, 2.0)
_SILENT_FOR: Final = 10.0
"""Seconds for which a sentinel that did not answer is asked only if no other one answers."""
_READ_SIZE: Final = 65536
_SWITCHES: Final = (b"+switch-master", b"+promoted-slave")
_LOST: Final = (ConnectionError, TimeoutError, OSError)
_DOWN: Final = frozenset({"s_down", "o_down"})

Place = tuple[str, int]


@attrs.frozen(eq=False)
class SentinelPlace:
    """One sentinel: its `host:port`, and how a connection to it is made."""

    name: str
    connection_class: Callable[..., RedisPyConnection] = attrs.field(repr=False)
    options: Mapping[str, Any] = attrs.field(repr=False)

    def open(self, client_name: str) -> RedisPyConnection:
        """Open a connection. Raises `BrokerError` if trying again cannot help."""
        opened = self.connection_class(**{"client_name": client_name, **self.options})
        try:
            opened.connect()
        except AuthenticationError as error:
            raise BrokerError(
                f"the sentinel {self.name} refuses these credentials ({error}): they are sentinel_username= and "
                "sentinel_password= in the url, and differ from those of the primary"
            ) from error
        return opened


class Sentinels:
    """Finds the primary of one name, and watches where it is. Safe to use from any number of threads."""

    def __init__(self, name: str, places: Sequence[SentinelPlace]) -> None:
        self.name = name
        self.places = tuple(places)
        self._silent_until: dict[str, float] = {}
        self._open: dict[int, weakref.ref[PrimaryConnection]] = {}
        self._lock = threading.Lock()
        self._threads: dict[str, threading.Thread] = {}
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"<Sentinels of {self.name!r}: {', '.join(place.name for place in self.places)}>"

    # ------------------------------------------------------------------------------------------------------- searching

    def find(self) -> Place:
        """Ask the sentinels, and return where the primary is. Blocks.

        Raises `ConnectionError` if that may be known later, and `BrokerError` if it will not: wrong credentials, a name
        that no sentinel knows, hosts that are no sentinels.
        """
        problems: list[str] = []
        refusals: list[BrokerError] = []
        best: tuple[int, Place] | None = None
        now = time.monotonic()
        for place in sorted(self.places, key=lambda place: self._silent_until.get(place.name, 0.0) > now):
            if best is not None and self._silent_until.get(place.name, 0.0) > now:
                break
            try:
                answer = self._ask(place)
            except BrokerError as error:
                refusals.append(error)
            except _LOST as error:
                self._silent_until[place.name] = time.monotonic() + _SILENT_FOR
                problems.append(f"{place.name}: {error}")
            else:
                self._silent_until.pop(place.name, None)
                if isinstance(answer, str):
                    problems.append(f"{place.name}: {answer}")
                elif best is None or answer[0] > best[0]:
                    best = answer
        if best is not None:
            return best[1]
        if refusals and not problems:
            raise refusals[0]
        problems += map(str, refusals)
        raise ConnectionError(f"no sentinel names a primary for {self.name!r} now ({'; '.join(problems)})")

    def _ask(self, place: SentinelPlace) -> tuple[int, Place] | str:
        """Return the epoch of a sentinel's answer and where the primary is, or why it names none."""
        opened = place.open("actorwork-search")
        try:
            opened.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name)
            try:
                address: Any = opened.read_response()
                opened.send_command("SENTINEL", "MASTERS")
                known: Any = opened.read_response()
            except NoPermissionError as error:
                raise BrokerError(f"the sentinel {place.name} refuses to answer ({error})") from error
            except ResponseError as error:
                raise BrokerError(
                    f"{place.name} is no sentinel ({error}): sentinels have ports of their own, usually 26379; "
                    "redis:// names a single server"
                ) from error
        finally:
            opened.disconnect()
        if not isinstance(known, list):
            return f"it answers {known!r:.100}, which is not Sentinel"
        by_name: dict[str, Any] = {_text(one, b"name"): one for one in cast("list[Any]", known)}
        state = by_name.get(self.name)
        if state is None:
            raise BrokerError(
                f"the sentinel {place.name} knows no primary {self.name!r}; it knows "
                f"{', '.join(map(repr, sorted(by_name))) or 'none'}"
            )
        return _answer(state, address)

    # -------------------------------------------------------------------------------------------------------- watching

    def opened(self, connection: PrimaryConnection) -> None:
        """Have a connection shut down as soon as the primary is another server than the one that it leads to."""
        with self._locked():
            self._open[id(connection)] = weakref.ref(connection)
            for place in self.places:
                if place.name not in self._threads:
                    thread = threading.Thread(target=self._watch, args=(place,), name="actorwork-sentinel", daemon=True)
                    self._threads[place.name] = thread
                    thread.start()

    def closed(self, connection: PrimaryConnection) -> None:
        self._open.pop(id(connection), None)

    def _locked(self) -> threading.Lock:
        if self._pid != os.getpid():
            # A child process: its parent may have held the lock when it forked, and the connections are the parent's.
            self._pid, self._lock, self._threads, self._open = os.getpid(), threading.Lock(), {}, {}
        return self._lock

    def _connections(self) -> list[PrimaryConnection]:
        found: list[PrimaryConnection] = []
        for key, reference in list(self._open.items()):
            connection = reference()
            if connection is None:
                self._open.pop(key, None)
            else:
                found.append(connection)
        return found

    def _watch(self, place: SentinelPlace) -> None:
        """Follow one sentinel for as long as there are connections."""
        failures = 0
        while True:
            try:
                with contextlib.closing(_Ear(place, self.name)) as ear:
                    failures = 0
                    while self._connections():
                        answer = ear.ask()
                        if not isinstance(answer, str):
                            self._compare(answer[1])
                        ear.wait_switched(_chance.uniform(*_ASK_EVERY))
            except (BrokerError, RedisError, OSError):
                # Others are followed besides. That none answers is reported by those that connect.
                failures += 1
                time.sleep(min(2.0, 0.1 * 2 ** min(failures, 5)) * _chance.uniform(0.5, 1.0))
            with self._locked():
                if not self._connections():
                    del self._threads[place.name]
                    return

    def _compare(self, primary: Place) -> None:
        """Shut down the connections that lead elsewhere, if all sentinels together say so as well."""
        if all(connection.place in (None, primary) for connection in self._connections()):
            return
        primary = self.find()
        for connection in self._connections():
            if connection.place not in (None, primary):
                connection.shut_down(f"the primary of {self.name!r} is {_shown(primary)} now")


class PrimaryConnection:
    """A connection to whichever server is the primary when it connects. Its methods are those of redis-py's."""

    def __init__(self, sentinels: Sentinels, make: Callable[..., RedisPyConnection], **options: Any) -> None:
        self._sentinels = sentinels
        self._make = make
        self._options = options
        self._opened: RedisPyConnection | None = None
        self._lock = threading.Lock()
        self.place: Place | None = None
        """Where it leads, once that is known."""
        self.why_closed: str | None = None
        """Why it was shut down here, if it was."""

    def __repr__(self) -> str:
        return f"<PrimaryConnection to {_shown(self.place) if self.place else self._sentinels.name}>"

    @property
    def handshake_metadata(self) -> Mapping[Any, Any]:
        return {} if self._opened is None else self._opened.handshake_metadata

    @property
    def _sock(self) -> Any:
        return None if self._opened is None else self._opened._sock  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

    def connect(self) -> None:
        """Find the primary, connect to it, and see that it is one."""
        self.place = host, port = self._sentinels.find()
        self._opened = self._make(**{**self._options, "host": host, "port": port})
        # Before it connects: a primary that stands still accepts connections, and answers none.
        self._sentinels.opened(self)
        try:
            self._opened.connect()
            self._opened.send_command("ROLE")
            with contextlib.suppress(NoPermissionError):  # Then its first write shows it.
                role: Any = self._opened.read_response()
                if not isinstance(role, list) or role[0] != b"master":
                    raise ConnectionError(f"{_shown(self.place)}, which the sentinels name, is no primary yet")
        except _LOST as error:
            self.disconnect()
            if self.why_closed is not None:
                raise ConnectionError(self.why_closed) from error
            raise
        except BaseException:
            self.disconnect()
            raise

    def disconnect(self) -> None:
        self._sentinels.closed(self)
        with self._lock:
            if self._opened is not None:
                self._opened.disconnect()

    def shut_down(self, why: str) -> None:
        """End the connection from another thread, so that its owner sees it lost, and closes it."""
        # The lock: once the owner has closed the socket, its number may be that of another file.
        with self._lock:
            opened = self._sock
            if opened is not None:
                self.why_closed = why
                with contextlib.suppress(OSError):
                    # Not the method of a TLS socket: it would first drop its keys, and a send then be in clear text.
                    socket.socket.shutdown(opened, socket.SHUT_RDWR)

    def send_command(self, *args: Any) -> None:
        self._connected().send_command(*args)

    def read_response(self) -> Any:
        return self._connected().read_response()

    def _connected(self) -> RedisPyConnection:
        if self._opened is None:
            raise ConnectionError("the connection is closed")
        return self._opened


class _Ear:
    """A connection to one sentinel that hears of failovers, and asks."""

    def __init__(self, place: SentinelPlace, name: str) -> None:
        self._name = name.encode()
        self._opened = place.open("actorwork-watch")
        self._socket: Any = self._opened._sock  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - as the transport does
        self._limit: float = self._socket.gettimeout() or SENTINEL_ANSWERS_WITHIN
        self._reader = new_reader()
        self._has_switched = False
        self._socket.sendall(pack(("SUBSCRIBE", *_SWITCHES)))

    def close(self) -> None:
        self._opened.disconnect()

    def ask(self) -> tuple[int, Place] | str:
        """Return the epoch of the sentinel's answer and where the primary is, or why it names none."""
        self._has_switched = False
        self._socket.settimeout(self._limit)
        commands = (("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name), ("SENTINEL", "MASTER", self._name))
        self._socket.sendall(b"".join(map(pack, commands)))
        until = time.monotonic() + self._limit
        replies: list[Any] = []
        while len(replies) < len(commands):
            if (reply := self._next()) is not NOT_ENOUGH:
                replies.append(reply)
                continue
            if (left := until - time.monotonic()) <= 0:
                raise TimeoutError("a sentinel does not answer")
            self._receive(left)
        if isinstance(replies[1], Exception):
            raise replies[1]
        return _answer(replies[1], replies[0])

    def wait_switched(self, seconds: float) -> None:
        """Wait until the primary has moved, for at most `seconds`."""
        until = time.monotonic() + seconds
        while self._next() is NOT_ENOUGH:
            left = until - time.monotonic()
            if self._has_switched or left <= 0:
                return
            self._receive(left)
        raise ConnectionError("a sentinel answers what it was not asked")

    def _receive(self, seconds: float) -> None:
        """Feed the parser what arrives within `seconds`, if anything does."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            if not selector.select(max(0.0, seconds)):
                return
        data = self._socket.recv(_READ_SIZE)
        while (pending := getattr(self._socket, "pending", None)) is not None and pending():
            data += self._socket.recv(pending())
        if not data:
            raise ConnectionError("a sentinel closed the connection")
        self._reader.feed(data)

    def _next(self) -> Any:
        """Return the next reply that is no push, or `NOT_ENOUGH`."""
        while type(reply := self._reader.gets()) is Push:
            if reply[0] == b"message" and self._name in reply[2].split(b" "):
                self._has_switched = True
        return reply


def _answer(state: Any, address: Any) -> tuple[int, Place] | str:
    """Return the epoch of a sentinel's answer and where the primary is, or why that does not count.

    `address` is the reply to GET-MASTER-ADDR-BY-NAME. A sentinel that leads a failover names there what it has made the
    primary; the state is that of the old one until all replicas follow the new one.
    """
    if not isinstance(state, dict) or not isinstance(address, list) or len(cast("list[Any]", address)) != 2:
        return f"it answers {state!r:.100}, which is not Sentinel"
    host, port = (part.decode(errors="replace") for part in cast("list[bytes]", address))
    flags = _text(state, b"flags")
    if (host, port) == (_text(state, b"ip"), _text(state, b"port")) and (
        "master" not in flags.split(",") or not _DOWN.isdisjoint(flags.split(","))
    ):
        return f"the primary is down ({flags})"
    try:
        return int(_text(state, b"config-epoch") or 0), (host, int(port))
    except ValueError:
        return f"it answers {state!r:.100}, which is not Sentinel"


def _text(state: Any, key: bytes) -> str:
    value: Any = cast("dict[Any, Any]", state).get(key, b"") if isinstance(state, dict) else b""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _shown(place: Place) -> str:
    return f"[{place[0]}]:{place[1]}" if ":" in place[0] else f"{place[0]}:{place[1]}"
