"""A sync client that a process opens when it is needed: for frameworks that serve by threads and processes.

An application so starts while the broker is away. One client serves all threads, and the processes that a server forks,
before or after it was opened.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from actorwork.blocking.client import Client
from actorwork.blocking.opening import open_client

if TYPE_CHECKING:
    from actorwork.abc import PublishMiddleware


class LazyClient:
    """A client that is opened by the first call, and closed when the process ends."""

    def __init__(self, broker: str | None, patience: float, middleware: Sequence[PublishMiddleware] = ()) -> None:
        self._broker = broker
        self._patience = patience
        self._middleware = middleware
        self._client: Client | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<LazyClient {self._client or 'not open'}>"

    def reached(self) -> Client:
        """Return the client; raises `BrokerError` if the broker is not reached within the patience."""
        found = self._client
        if found is not None:
            return found
        # Opened without the lock: while the broker is away, threads wait side by side, not one after another.
        opened = open_client(self._broker, middleware=self._middleware, patience=self._patience)
        with self._lock:
            if self._client is None:
                self._client = opened
                atexit.register(self.close)
            found = self._client
        if found is not opened:
            opened.close()
        return found

    def close(self) -> None:
        """Close the client; the next call opens another one."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            atexit.unregister(self.close)
            client.close()
