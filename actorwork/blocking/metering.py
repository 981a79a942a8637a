"""Counts what the threads of a program send: one at a time, since a series is written by one thread only."""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actorwork.abc import Meter


class SharedMeter:
    """A meter for any number of threads. Counts what a client sends, and nothing else."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._lock = threading.RLock()  # A signal handler may send in the midst of this thread's counting.
        # A thread that counts at the moment of a fork is not there in the child, and would never let go of the lock.
        renew = weakref.WeakMethod(self._renew)
        os.register_at_fork(after_in_child=lambda: method() if (method := renew()) is not None else None)

    def __repr__(self) -> str:
        return f"<shared {self._meter!r}>"

    def sent(self, source: str, outcome: str, count: int = 1) -> None:
        with self._lock:
            self._meter.sent(source, outcome, count)

    def took_to_send(self, outcome: str, seconds: float) -> None:
        with self._lock:
            self._meter.took_to_send(outcome, seconds)

    def _renew(self) -> None:
        self._lock = threading.RLock()
