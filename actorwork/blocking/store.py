"""The embedded broker's file, in transactions of the thread that calls."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from actorwork.blocking.driver import Deadlines
from actorwork.embedded.files import OpenedFile
from actorwork.embedded.location import Location, connect_for_threads, gone
from actorwork.embedded.own_leases import OwnLeases
from actorwork.embedded.store import Store
from actorwork.embedded.turns import FIRST_PRUNE, Order, Turns
from actorwork.errors import BrokerError, NotRunning


class BlockingStore:
    """Implements `embedded.asking.Asked`; one thread at a time."""

    def __init__(self, location: Location, deadlines: Deadlines) -> None:
        self.location = location
        self.deadlines = deadlines
        self.turns = self._new_turns()
        self._store: Store | None = None
        self._close: weakref.finalize[[], BlockingStore] | None = None
        """Closes the file, when it is called or when this store is garbage: a client need not be closed."""
        # The lock does not stop its own thread: a signal handler, or a `__del__`, which interrupts a call and uses this
        # client, would wait for that call for ever. `_in_turn` refuses it instead.
        self._lock = threading.RLock()
        self._is_in_turn = False
        self._is_closed = False
        _stores.add(self)

    def __repr__(self) -> str:
        return f"<BlockingStore {self.location}>"

    def _new_turns(self) -> Turns:
        leases = OwnLeases(time.monotonic(), time.time())
        return Turns(self.location, leases, lambda _doing, _error: None, prune_at=time.monotonic() + FIRST_PRUNE)

    def open(self) -> None:
        """Open the file, and make it if it is new. Raises `BrokerError`."""
        with self._lock:
            self._opened()

    def _opened(self) -> Store:
        if self._is_closed:
            raise BrokerError(f"this client of {self.location} is closed")
        if self._store is None:
            connection = connect_for_threads(self.location)
            path = self.location.path
            try:
                file = None if path is None else OpenedFile(path)
            except OSError as error:
                connection.close()
                raise gone(self.location) from error
            self._store = Store(connection, file)
            # Not `__del__`: of garbage, Python finalizes the connection first or this store, as it happens, and from
            # 3.13 on a connection that is still open then warns. This comes before both.
            self._close = weakref.finalize(self, connection.close)
            self._close.atexit = False  # A function that runs at exit may still send.
        return self._store

    async def ask(self, run: Callable[[Store], Any], *, rows: int = 1, writes: bool = True) -> Any:
        results: list[Any] = []
        errors: list[BrokerError] = []
        order = Order(run, results.append, errors.append, rows, writes)
        self._in_turn(lambda store: self.turns.run(store, [order], time.monotonic(), time.time()))
        if errors:
            raise errors[0]
        return results[0]

    def look(self) -> None:
        """Fetch the replies that have come."""
        self._in_turn(lambda store: self.turns.look(store, time.monotonic(), time.time()))

    def _in_turn(self, work: Callable[[Store], Iterable[Callable[[], object]]]) -> None:
        with self._lock:
            if self._is_in_turn:
                raise NotRunning(
                    f"this thread is in the midst of another call of this client of {self.location}, which a signal"
                    " handler or a __del__ has interrupted: note there what is to be sent, and send it later"
                )
            try:
                self._is_in_turn = True
                for notification in work(self._opened()):
                    notification()
            finally:
                self._is_in_turn = False
                if self._is_closed:  # perhaps by what has interrupted this
                    self._release()

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            if not self._is_in_turn:
                self._release()

    def _release(self) -> None:
        if self._close is not None:
            self._close()
        self._store = self._close = None

    def forked(self) -> None:
        """Begin anew in a child process, which leaves the connection to its parent (`embedded.files.Connection`)."""
        self._lock, self._is_in_turn = threading.RLock(), False
        if self._close is not None:
            self._close.detach()
        self._store = self._close = None
        self.turns = self._new_turns()


_stores: weakref.WeakSet[BlockingStore] = weakref.WeakSet()


def _after_fork() -> None:
    for store in list(_stores):
        store.forked()


os.register_at_fork(after_in_child=_after_fork)
