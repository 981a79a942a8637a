"""The client that a web application keeps open from its start to its end, on asyncio or on Trio.

    the start                  the broker is away          the broker refuses (rights, configuration)
    required (the default)     waits, then raises          raises at once
    not required               starts all the same, and the client is opened as soon as that is possible

It is opened and closed in one task of its own, so that the start can give up, and need not wait. Once the client was
open, it finds a broker that was away again by itself, and its calls wait for that.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio

from actorwork.brokers import is_file, is_redis, unknown_kind
from actorwork.durations import Duration, seconds_of
from actorwork.errors import ActorworkError, BrokerError

if TYPE_CHECKING:
    from actorwork.abc import PublishMiddleware
    from actorwork.clients.client import Client

AGAIN: Final = 2.0
"""Seconds after which a broker that has refused is opened again."""

log = logging.getLogger("actorwork.integrations")


class OpenedClient:
    """A client that is open, or will be; belongs to one run of an application, and to its loop."""

    def __init__(
        self, broker: str | None, middleware: Sequence[PublishMiddleware], patience: float, *, required: bool
    ) -> None:
        self._broker = broker
        self._middleware = middleware
        self._patience = patience
        self._required = required
        self._client: Client | None = None
        self._refused: Exception | None = None
        self._settled = anyio.Event()
        """Set when the client is open, or when the start has failed."""

    def __repr__(self) -> str:
        return f"<OpenedClient {'open' if self._client is not None else 'not open'}>"

    async def reached(self) -> Client:
        """Return the client; raises `BrokerError` if the broker is not reached within the application's patience."""
        if self._client is None:
            with anyio.move_on_after(self._patience):
                await self._settled.wait()
        if self._client is None:
            raise BrokerError(
                f"the broker was not reached within {self._patience:g} s: {self._refused or 'it does not answer'}"
            )
        return self._client

    async def keep(self) -> None:
        """Keep the client open until this is cancelled; return only if the start has failed."""
        while True:
            try:
                async with open_client(self._broker, self._middleware) as self._client:
                    self._refused = None
                    self._settled.set()
                    await anyio.sleep_forever()
            except (ActorworkError, OSError) as error:
                self._refused = error
                if self._required and not self._settled.is_set():
                    self._settled.set()
                    return
                log.warning("the client of this application cannot be opened: %s; again in %g s", error, AGAIN)
            finally:
                self._client = None
            await anyio.sleep(AGAIN)

    async def start_failed(self) -> Exception | None:
        """Wait for the start, if it is required; return why it has failed."""
        if not self._required:
            return None
        try:
            await self.reached()
        except BrokerError as error:
            return self._refused or error
        return None


@asynccontextmanager
async def open_kept_client(
    broker: str | None, *, middleware: Sequence[PublishMiddleware] = (), patience: Duration = 10, required: bool = True
) -> AsyncGenerator[OpenedClient]:
    """Keep a client open for the time of the block.

    Raises `BrokerError` for a URL that names no kind of broker; and if it is `required`, also if the broker refuses, or
    is not reached within `patience` seconds.
    """
    if broker is not None and not (is_redis(broker) or is_file(broker)):
        raise unknown_kind(broker)
    opened = OpenedClient(broker, middleware, seconds_of("patience", patience), required=required)
    failure: Exception | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(opened.keep)
        failure = await opened.start_failed()
        if failure is None:
            try:
                yield opened
            except Exception as error:  # noqa: BLE001 - it is raised below, where no group wraps it
                failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure


def open_client(broker: str | None, middleware: Sequence[PublishMiddleware]) -> AbstractAsyncContextManager[Client]:
    """Open the client of the loop that runs."""
    trio: Any = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        from actorwork.clients.opening import open_client as open_on_trio  # noqa: PLC0415 - asyncio has the other

        return open_on_trio(broker, middleware=middleware)
    from actorwork.asynchronous.opening import open_client as open_on_asyncio  # noqa: PLC0415 - Trio has the other

    return open_on_asyncio(broker, middleware=middleware)
