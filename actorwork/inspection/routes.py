"""Routes of a monitor that ask a broker, whatever they ask it for.

What was read counts for `FRESH` seconds, however many ask.
"""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import trio

from actorwork.telemetry.monitor import Answer, Request

if TYPE_CHECKING:
    from actorwork.abc import Broker

FRESH: Final = 5.0
PATIENCE: Final = 5.0
"""Seconds that the broker may take."""
TEXT: Final = "text/plain; charset=utf-8"

T = TypeVar("T")


class FreshRoute(Generic[T]):
    """Answers requests in the threads of a monitor; the loop that made it asks the broker.

    `broker` returns it, and may raise while there is none.
    """

    def __init__(self, broker: Callable[[], Broker], clock: Callable[[], float] = time.monotonic) -> None:
        self._broker = broker
        self._clock = clock
        self._token = trio.lowlevel.current_trio_token()
        self._lock = threading.Lock()
        """Held by the one thread that asks: the loop may be blocked, and more of them would only pile up."""
        self._read_at = 0.0
        self._found: T | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of a broker, {'' if self._found is not None else 'not '}read>"

    def __call__(self, request: Request) -> Answer:
        if self._found is None or self._clock() - self._read_at >= FRESH:
            if not self._lock.acquire(blocking=False):
                return Answer(b"the broker is being asked\n", 503, TEXT)
            try:
                self._found = trio.from_thread.run(self._ask, trio_token=self._token)
                self._read_at = self._clock()
            except Exception as error:  # noqa: BLE001 - whatever it is, the answer is that there is nothing now
                return Answer(f"{type(error).__name__}: {error}\n".encode(errors="replace"), 503, TEXT)
            finally:
                self._lock.release()
        return self.answer(self._found, request)

    async def _ask(self) -> T:
        with trio.fail_after(PATIENCE):
            return await self.read(self._broker())

    @abstractmethod
    async def read(self, broker: Broker) -> T:
        """Ask the broker; runs in the loop, within `PATIENCE`."""
        raise NotImplementedError

    @abstractmethod
    def answer(self, found: T, request: Request) -> Answer:
        """Answer one request from what was read; runs in a thread."""
        raise NotImplementedError
