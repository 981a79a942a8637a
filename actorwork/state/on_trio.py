"""What a lock asks of a Trio program."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from actorwork.nurseries import open_unwrapping_nursery


class TrioWaiting:
    """Implements `lock.Waiting`."""

    def __repr__(self) -> str:
        return "<TrioWaiting>"

    def now(self) -> float:
        return trio.current_time()

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def at_most(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        with trio.move_on_after(seconds):
            await work()

    async def finish(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        with trio.move_on_after(seconds, shield=True):
            await work()

    @asynccontextmanager
    async def beside(self, work: Callable[[], Awaitable[None]]) -> AsyncGenerator[None]:
        async with open_unwrapping_nursery() as nursery:

            async def run() -> None:
                await work()
                nursery.cancel_scope.cancel(reason="the lock is lost")

            nursery.start_soon(run)
            yield
            nursery.cancel_scope.cancel(reason="the block has ended")
