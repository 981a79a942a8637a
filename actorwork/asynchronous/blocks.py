"""Blocks of asyncio programs that something outside of them ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any


class Block:
    """A block of the current task that `cancel` ends: the block alone, as `asyncio.timeout` does, not the task."""

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a block is opened in a coroutine
        self._task: asyncio.Task[Any] = task
        self._cancelling = task.cancelling()
        self._is_cancelled = False
        self._is_over = False

    def __repr__(self) -> str:
        return f"<Block of {self._task!r}>"

    def cancel(self, why: str) -> None:
        """Cancel the block, unless it is over."""
        if not self._is_over:
            self._is_cancelled = self._task.cancel(why)

    async def end(self, error: BaseException | None) -> bool:
        """Mark the end of the block; return whether this is all that ended it: it was cancelled, and no other error
        came, and no other cancellation.
        """
        self._is_over = True
        if not self._is_cancelled:
            return False
        if not isinstance(error, asyncio.CancelledError):
            # The block ended before it noticed: the cancellation is still to come, and must not reach what follows.
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
        if self._task.uncancel() > self._cancelling:
            if error is None:
                raise asyncio.CancelledError
            return False
        return error is None or isinstance(error, asyncio.CancelledError)


@asynccontextmanager
async def beside(work: Callable[[], Awaitable[None]]) -> AsyncGenerator[None]:
    """Do some work in a task that ends with the block; if it ends first, the block is cancelled, and ends."""
    block = Block()

    async def run() -> None:
        try:
            await work()
        finally:
            block.cancel("what ran beside this block has ended")

    task = asyncio.create_task(run())
    try:
        yield
    except BaseException as error:
        if not await block.end(error):
            raise
    else:
        await block.end(None)
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
