"""Time and waiting in the thread that calls; a coroutine is run to its end at once."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from actorwork.clients.driver import OutOfTime
from actorwork.errors import NotRunning

if TYPE_CHECKING:
    from actorwork.abc import Changes, Replies

T = TypeVar("T")


class Deadlines(threading.local):
    """Until when this thread may wait."""

    until: float = math.inf

    def left(self) -> float:
        """Return how many seconds are left; raise `OutOfTime` if none are."""
        left = self.until - time.monotonic()
        if left <= 0:
            raise OutOfTime
        return left


class BlockingDriver:
    """Blocks the calling thread.

    `open_replies` makes the place where outcomes arrive for one thread, `open_changes` that where changes are heard of.
    """

    def __init__(
        self, deadlines: Deadlines, open_replies: Callable[[], Replies], open_changes: Callable[[], Changes]
    ) -> None:
        self._deadlines = deadlines
        self._open_replies = open_replies
        self._open_changes = open_changes

    def __repr__(self) -> str:
        return "<BlockingDriver>"

    def now(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        left = self._deadlines.left()
        time.sleep(min(seconds, left))  # noqa: ASYNC251 - to block is what it is for
        if seconds >= left:
            raise OutOfTime

    async def within(self, seconds: float, work: Callable[[], Awaitable[T]]) -> T:
        before = self._deadlines.until
        self._deadlines.until = min(before, time.monotonic() + seconds)
        try:
            return await work()
        finally:
            self._deadlines.until = before

    async def aclose(self, updates: Any) -> None:
        await updates.aclose()

    @property
    def waiting(self) -> BlockingWaiting:
        return BlockingWaiting(self)

    async def replies(self) -> Replies:
        return self._open_replies()

    async def changes(self) -> Changes:
        return self._open_changes()


class BlockingWaiting:
    """Implements `state.lock.Waiting`; nothing runs beside a block here."""

    def __init__(self, driver: BlockingDriver) -> None:
        self.now = driver.now
        self.sleep = driver.sleep
        self._driver = driver

    def __repr__(self) -> str:
        return "<BlockingWaiting>"

    async def at_most(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        with suppress(OutOfTime):
            await self._driver.within(seconds, work)

    async def finish(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        await self.at_most(seconds, work)

    def beside(self, work: Callable[[], Awaitable[None]]) -> AbstractAsyncContextManager[None]:
        return nullcontext()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end. Raises `NotRunning` in a thread in which Trio runs: it would block all its tasks."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        coroutine.close()
        raise NotRunning(
            "a sync client blocks the thread, and Trio runs in this one: use self.context.client in an actor,"
            " actorwork.open_client in a Trio program, or call it in a worker thread (trio.to_thread.run_sync)"
        )
    try:
        coroutine.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    coroutine.close()
    raise RuntimeError("a sync client came upon something that waits for an event loop")
