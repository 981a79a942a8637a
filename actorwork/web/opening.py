"""The broker that the pages show: opened when the dashboard begins, and again if that fails; on Trio and on asyncio.

In a program on asyncio, a URL is opened by the client for asyncio, so that no second loop runs. There, a dashboard that
is mounted in an application need not be opened: its first request does that.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, cast

import anyio
import trio
from anyio.abc import TaskStatus

from actorwork.abc import Broker
from actorwork.brokers import is_file, is_redis, open_broker, unknown_kind, url_of
from actorwork.errors import ActorworkError
from actorwork.web.request import Refused

PATIENCE: Final = 10.0
"""Seconds that a request waits for the broker to be opened."""
AGAIN: Final = 2.0
"""Seconds after which a broker that refused is opened again."""

log = logging.getLogger("actorwork.web")


class OpenedBroker:
    """A broker by its URL, an open one, or a client."""

    def __init__(self, given: object) -> None:
        if isinstance(given, str) and not (is_redis(given) or is_file(given)):
            raise unknown_kind(given)
        self._given = given
        self._broker: Broker | None = None if given is None or isinstance(given, str) else _open_already(given)
        self._trouble = ""
        self._is_kept = False
        self._stack: AsyncExitStack | None = None
        self._lock: anyio.Lock | None = None

    def __repr__(self) -> str:
        return f"<OpenedBroker {'open' if self._broker else 'not open'}>"

    async def keep(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Open the broker, and keep it open until this is cancelled."""
        if self._broker is not None:
            task_status.started()
            await anyio.sleep_forever()
        self._is_kept = True
        task_status.started()
        try:
            while True:
                try:
                    async with _opened(cast("str | None", self._given)) as self._broker:
                        self._trouble = ""
                        await anyio.sleep_forever()
                except (ActorworkError, OSError) as error:
                    self._trouble = str(error)
                    log.warning("the dashboard cannot open its broker: %s; again in %g s", error, AGAIN)
                finally:
                    self._broker = None
                await anyio.sleep(AGAIN)
        finally:
            self._is_kept = False

    async def reached(self) -> Broker:
        """Return the broker; refuses the request while it is not open."""
        if self._broker is not None:
            return self._broker
        if not self._is_kept:
            return await self._at_first_use()
        with anyio.move_on_after(PATIENCE):
            # Looked at again and again, since the event of one loop is of no use to another one that mounts this later.
            while self._broker is None and not self._trouble:  # noqa: ASYNC110
                await anyio.sleep(0.02)
        if self._broker is None:
            raise Refused(f"the broker cannot be reached: {self._trouble or 'it does not answer'}", 503)
        return self._broker

    async def _at_first_use(self) -> Broker:
        if trio.lowlevel.in_trio_run():
            raise Refused(
                "this dashboard is not open: in an application on Trio that it is mounted in, wrap its time in"
                " `async with dashboard.open()`, or give it a broker that is open",
                503,
            )
        if self._lock is None:
            self._lock = anyio.Lock()
        async with self._lock:
            if self._broker is None:
                stack = AsyncExitStack()
                try:
                    self._broker = await stack.enter_async_context(_opened(cast("str | None", self._given)))
                except (ActorworkError, OSError) as error:
                    await stack.aclose()
                    raise Refused(f"the broker cannot be reached: {error}", 503) from error
                self._stack = stack
            return self._broker

    async def aclose(self) -> None:
        """Close what the first request opened."""
        stack, self._stack = self._stack, None
        if stack is not None:
            self._broker = None
            await stack.aclose()


def _open_already(given: object) -> Broker:
    broker: Any = getattr(given, "broker", given)
    if not hasattr(broker, "dead_letters"):
        raise TypeError(f"a dashboard wants a broker's URL, an open broker, or a client, got {given!r}")
    return broker


@asynccontextmanager
async def _opened(url: str | None) -> AsyncGenerator[Broker]:
    if trio.lowlevel.in_trio_run():
        async with open_broker(url_of(url)) as broker:
            yield broker
        return
    from actorwork.asynchronous.opening import open_client  # noqa: PLC0415 - only for programs on asyncio

    async with open_client(url) as client:
        yield client.broker
