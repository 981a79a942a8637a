"""A node's lease: the one sign of life that other nodes check before they take over its work.

    take ──▶ held ──renewed every third of its length──▶ held
               └── the key is gone ──▶ lost for good: the next incarnation takes a lease of its own

A thread with a connection of its own renews it, so that neither a handler that blocks the loop nor a busy connection
can lose it. A lease is never created again under the same name: a node that saw it missing may own the work by now.

While Redis cannot be reached the thread tries four times a second. The first answer shows whether the lease has
survived.

Each renewal also reads the server's clock; between two renewals this machine's monotonic clock continues from there.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import Callable
from random import SystemRandom
from typing import Final

import trio

from actorwork.abc import LeaseState
from actorwork.failpoints import failpoint
from actorwork.streams import keys
from actorwork.streams.formats import FORMAT
from actorwork.streams.transport.address import Address
from actorwork.streams.transport.redis_py import RedisPyConnection

_chance: Final = SystemRandom()
_RETRY_EVERY: Final = 0.25
_SPREAD: Final = 0.1
"""Part of the time between two renewals by which one may come earlier: nodes that began together drift apart."""
_RELEASE_LIMIT: Final = 1.0
_RENEW: Final = failpoint("lease.renew")


def new_incarnation() -> str:
    return os.urandom(16).hex()


class Lease:
    """Held by one node at a time, from `take` until `release`.

    Trio's thread calls `on_lost(lost, successor, reason)` when the lease was gone and another one has been taken, and
    `on_trouble(error, next step)` when Redis does not answer. The lease's own thread calls `on_renewed` with the
    seconds that were left when it was renewed.
    """

    def __init__(
        self,
        address: Address,
        seconds: float,
        *,
        on_lost: Callable[[str, str, str], None],
        on_trouble: Callable[[str, str], None],
        on_renewed: Callable[[float], None] | None = None,
    ) -> None:
        self.incarnation = new_incarnation()
        self._address = address
        self._seconds = seconds
        self._milliseconds = max(1, round(seconds * 1000))
        self._on_lost = on_lost
        self._on_trouble = on_trouble
        self._on_renewed = on_renewed
        self._owner = f"{socket.gethostname()}:{os.getpid()} {FORMAT}"
        self._wake = threading.Event()
        self._is_ending = False
        self._renewed_at = -math.inf
        """When the renewal began that succeeded last: it holds for at least its length from there."""
        self._trouble = ""
        self._ahead = 0.0
        """By how many seconds the server's clock is ahead of this machine's monotonic one."""
        self._taken = trio.Event()
        self._ended = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.Thread(target=self._hold, name="actorwork-lease", daemon=True)

    def __repr__(self) -> str:
        return f"<Lease {self.incarnation} of {self._seconds:g} s>"

    async def take(self) -> None:
        """Take it; wait while Redis cannot be reached. Cancelled: if it was taken, it runs out by itself."""
        self._thread.start()
        try:
            await self._taken.wait()
        except trio.Cancelled:
            self._end()
            raise

    def check(self) -> None:
        """Make the thread check now whether it is still held."""
        self._wake.set()

    def state(self) -> LeaseState:
        """Return how it stands, by this machine's clock; any thread may ask."""
        return LeaseState(self._renewed_at + self._seconds - time.monotonic(), self._trouble)

    def now(self) -> float:
        """Return the server's clock, exact to half the round trip of the last renewal. The lease must have been
        taken.
        """
        return time.monotonic() + self._ahead

    async def release(self) -> None:
        """Release it, so that other nodes see that at once. Shielded for a second at most; after that it runs out by
        itself.
        """
        self._end()
        with trio.move_on_after(_RELEASE_LIMIT, shield=True):
            await self._ended.wait()

    def _end(self) -> None:
        self._is_ending = True
        self._wake.set()

    # ------------------------------------------------------------------------------------------------------ the thread

    def _hold(self) -> None:
        connection: RedisPyConnection | None = None
        # What the node learns is behind what happens here, as long as the server does not answer to the end.
        incarnation = told = self.incarnation
        is_held = is_taken = is_troubled = False
        while not self._is_ending:
            pause = self._seconds / 3
            try:
                if connection is None:
                    connection = self._connect()
                if _RENEW is not None:
                    _RENEW()
                began = time.monotonic()
                if is_held and not self._set(connection, incarnation, "XX"):
                    incarnation, is_held = new_incarnation(), False
                elif is_held and self._on_renewed is not None:
                    self._on_renewed(self._renewed_at + self._seconds - time.monotonic())
                if not is_held:
                    self._set(connection, incarnation, "NX")
                    is_held = True
                self._renewed_at, self._trouble = began, ""
                self._look_at_clock(connection)
                if incarnation != told:
                    self._tell(self._on_lost, told, incarnation, "the lease ran out or was deleted")
                    told = incarnation
                if not is_taken:
                    self._tell(self._taken.set)
                    is_taken = True
                is_troubled = False
            except Exception as error:  # noqa: BLE001 - without this thread the lease would run out in silence
                if connection is not None:
                    connection.disconnect()
                    connection = None
                pause = min(pause, _RETRY_EVERY)
                self._trouble = str(error) or type(error).__name__
                if not is_troubled:
                    self._tell(self._on_trouble, str(error), f"again every {pause:g} s")
                    is_troubled = True
            self._wake.wait(pause * (1 - _SPREAD * _chance.random()))
            # Cleared before the condition of the loop is checked: the task that sets it changes the condition first.
            self._wake.clear()
        if connection is not None:
            try:
                if is_held:
                    connection.send_command("DEL", keys.lease(incarnation))
                    connection.read_response()
            except Exception:  # noqa: BLE001, S110 - as above: `release` waits for this thread
                pass  # It runs out by itself.
            finally:
                connection.disconnect()
        self._tell(self._ended.set)

    def _connect(self) -> RedisPyConnection:
        # A renewal that hangs would outlast the lease; one that fails can be tried again in time.
        patience = max(0.1, min(5.0, self._seconds / 3))
        options = {"client_name": "actorwork-lease", **self._address.options}
        for limit in ("socket_timeout", "socket_connect_timeout"):
            options[limit] = min(options.get(limit) or patience, patience)
        connection = self._address.connection_class(**options)
        connection.connect()
        return connection

    def _set(self, connection: RedisPyConnection, incarnation: str, condition: str) -> bool:
        connection.send_command("SET", keys.lease(incarnation), self._owner, condition, "PX", self._milliseconds)
        return connection.read_response() is not None

    def _look_at_clock(self, connection: RedisPyConnection) -> None:
        before = time.monotonic()
        connection.send_command("TIME")
        seconds, micros = connection.read_response()
        self._ahead = int(seconds) + int(micros) / 1e6 - (before + time.monotonic()) / 2

    def _tell(self, call: Callable[..., object], *args: object) -> None:
        try:
            self._token.run_sync_soon(call, *args)
        except trio.RunFinishedError:
            self._is_ending = True  # The node has ended meanwhile.
