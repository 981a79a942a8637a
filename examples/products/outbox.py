"""Hands notifications to the broker, from the table in which they were kept with their products.

While the broker is away the API goes on: products are kept, and their notifications wait in the table. A notification
is sent under the id of its task. If it is sent twice, because a process died between sending it and noting that, or
because several processes serve the API, the broker keeps it once.
"""

import asyncio
import logging
from contextlib import suppress

from actorwork import BrokerError
from actorwork.aio import Client, open_client

from .notifier import Notifier, Notify
from .store import Store

AT_ONCE = 100
LONGEST_PAUSE = 5.0
"""Seconds between two looks: another process may have left notifications behind."""

log = logging.getLogger(__name__)


class Outbox:
    """One asyncio task, `run`; the rest of the API uses its client."""

    def __init__(self, store: Store, broker: str) -> None:
        self._store = store
        self._broker = broker
        self._news = asyncio.Event()
        self._reached = asyncio.Event()
        self._client: Client | None = None

    async def reached(self) -> Client:
        """Return the client, once the broker has been reached for the first time."""
        await self._reached.wait()
        assert self._client is not None
        return self._client

    def wake(self) -> None:
        """There is a new notification."""
        self._news.set()

    async def run(self) -> None:
        while True:
            try:
                async with open_client(self._broker) as self._client:
                    self._reached.set()
                    while True:
                        self._news.clear()
                        await self._hand_over(self._client)
                        await self._pause()
            except BrokerError as error:
                # It was reached, and cannot be used: a wrong URL, a missing right, no memory.
                log.error("notifications wait: %s", error)  # noqa: TRY400 - the sentence has it all
                await asyncio.sleep(LONGEST_PAUSE)

    async def _hand_over(self, client: Client) -> None:
        notifier = client.ref(Notifier)
        while waiting := await asyncio.to_thread(self._store.waiting, AT_ONCE):
            for task, text in waiting:
                await notifier.submit(Notify(text=text), id=task)
                await asyncio.to_thread(self._store.mark_handed_over, task)

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(LONGEST_PAUSE):
                await self._news.wait()
