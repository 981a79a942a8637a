"""Time, waiting and replies on asyncio's loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from actorwork.asynchronous.blocks import beside
from actorwork.clients.driver import OutOfTime
from actorwork.errors import NotRunning

if TYPE_CHECKING:
    from actorwork.abc import Changes, Replies

T = TypeVar("T")


class AsyncioDriver:
    """Belongs to the loop in which it is made.

    `open_replies` makes the place where outcomes arrive, `open_changes` that where changes are heard of.
    """

    def __init__(
        self, open_replies: Callable[[], Awaitable[Replies]], open_changes: Callable[[], Awaitable[Changes]]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._open_replies = open_replies
        self._open_changes = open_changes
        self._replies: Replies | None = None
        self._changes: Changes | None = None
        self._opening = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<AsyncioDriver of {self._loop!r}>"

    def now(self) -> float:
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def within(self, seconds: float, work: Callable[[], Awaitable[T]]) -> T:
        check_loop(self._loop)
        limit = asyncio.timeout(None if seconds == float("inf") else seconds)
        try:
            async with limit:
                return await work()
        except TimeoutError:
            if limit.expired():
                raise OutOfTime from None
            raise

    async def aclose(self, updates: Any) -> None:
        await updates.aclose()

    @property
    def waiting(self) -> AsyncioWaiting:
        return AsyncioWaiting(self)

    async def replies(self) -> Replies:
        async with self._opening:
            if self._replies is None:
                self._replies = await self._open_replies()
            return self._replies

    async def changes(self) -> Changes:
        async with self._opening:
            if self._changes is None:
                self._changes = await self._open_changes()
            return self._changes


class AsyncioWaiting:
    """Implements `state.lock.Waiting`."""

    def __init__(self, driver: AsyncioDriver) -> None:
        self.now = driver.now
        self.sleep = driver.sleep
        self._driver = driver

    def __repr__(self) -> str:
        return f"<AsyncioWaiting of {self._driver!r}>"

    async def at_most(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        with suppress(OutOfTime):
            await self._driver.within(seconds, work)

    async def finish(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        # A cancellation was delivered before: what is awaited after it runs as ever.
        await self.at_most(seconds, work)

    def beside(self, work: Callable[[], Awaitable[None]]) -> AbstractAsyncContextManager[None]:
        return beside(work)


def check_asyncio() -> None:
    """Raise `NotRunning` where no loop of asyncio's runs: on Trio, or where a coroutine is driven by hand."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise NotRunning(
            "actorwork.aio.open_client runs on asyncio, and no loop of asyncio's runs here: use actorwork.open_client"
            " on Trio, self.context.client in an actor, and actorwork.sync.open_client without an event loop"
        ) from None


def check_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Raise `NotRunning` in another loop than that in which the client was opened."""
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if running is not loop:
        raise NotRunning(
            "this client belongs to another event loop, in which it was opened: open one in each loop"
            " (async with actorwork.aio.open_client(…)), within the asyncio.run that uses it"
        )
