"""The clients of this process.

Django makes a backend for each thread. One sync client serves all threads, and the processes that a server forks, so
the backends of all threads share it. It is opened by the first call, and closed when the process ends.
"""

from __future__ import annotations

import atexit
import threading
from typing import Final

from actorwork.blocking.client import Client
from actorwork.blocking.opening import open_client

_clients: Final[dict[tuple[str | None, float], Client]] = {}
_lock: Final = threading.Lock()


def client_of(broker: str | None, patience: float) -> Client:
    """Return the client of a broker; raises `BrokerError` if it is not reached within `patience` seconds."""
    key = broker, patience
    found = _clients.get(key)
    if found is None:
        # Opened without the lock: while the broker is away, threads wait side by side, not one after another.
        opened = open_client(broker, patience=patience)
        with _lock:
            found = _clients.setdefault(key, opened)
        if found is not opened:
            opened.close()
    return found


def close_clients() -> None:
    """Close all clients of this process; the next call opens another one."""
    with _lock:
        for client in _clients.values():
            client.close()
        _clients.clear()


atexit.register(close_clients)
