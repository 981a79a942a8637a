"""The soft limit of a handler: how much of its `soft_timeout` is left, and the cancel scope that ends with it.

For a delivery the time counts from when its handler began. Local messages do not read the clock: theirs counts from the
first look at it, which is the watchdog's (after a quarter second at most) or the one made here.
"""

from __future__ import annotations

import math

import trio

from actorwork.actors.context.in_flight import in_flight
from actorwork.actors.wakeups import on_loop, working
from actorwork.errors import NotRunning


def scope(limit: float | None) -> trio.CancelScope:
    """Return a cancel scope that ends `limit` seconds after the handler in flight began; None: never."""
    if on_loop.get() is not None:
        raise NotRunning(
            "context.soft_limit is a cancel scope of Trio's, and this handler runs on asyncio: write"
            " `async with asyncio.timeout(self.context.soft_time_left())`"
        )
    if not trio.lowlevel.in_trio_run():
        raise NotRunning(
            "context.soft_limit is a cancel scope, and a handler without `async` runs in a thread, which cannot be"
            " cancelled: ask context.soft_time_left() now and then, or write the handler as `async def`"
        )
    return trio.CancelScope(deadline=_deadline("soft_limit", limit, trio.current_time()))


def time_left(limit: float | None) -> float:
    """Return how many seconds of the limit are left; also in the thread of a handler."""
    call = on_loop.get()
    if call is not None or trio.lowlevel.in_trio_run():
        now = trio.current_time() if call is None else call.now()
        return _deadline("soft_time_left", limit, now) - now
    # The clock is Trio's, which may be a test's own.
    return trio.from_thread.run_sync(time_left, limit)


def _deadline(name: str, limit: float | None, now: float) -> float:
    current, worker = in_flight.get(), working.get()
    if current is None or worker is None:
        raise NotRunning(f"context.{name} belongs to a message; there is none in flight here")
    if current.ended:
        raise NotRunning(f"context.{name}: the message that this task was started for has ended")
    if limit is None:
        return math.inf
    if not worker.began:
        worker.began = now
    return worker.began + limit
