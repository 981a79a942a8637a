"""The clients of this process: Django makes a backend for each thread, and the backends of all threads share them."""

from __future__ import annotations

import threading
from typing import Final

from actorwork.blocking.client import Client
from actorwork.integrations.lazy import LazyClient

_clients: Final[dict[tuple[str | None, float], LazyClient]] = {}
_lock: Final = threading.Lock()


def client_of(broker: str | None, patience: float) -> Client:
    """Return the client of a broker; raises `BrokerError` if it is not reached within `patience` seconds."""
    with _lock:
        lazy = _clients.setdefault((broker, patience), LazyClient(broker, patience))
    return lazy.reached()


def close_clients() -> None:
    """Close all clients of this process; the next call opens another one."""
    with _lock:
        for lazy in _clients.values():
            lazy.close()
