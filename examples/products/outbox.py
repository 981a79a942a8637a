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
        self._client: asyncio.Future[Client] = asyncio.get_running_loop().create_future()

    async def reached(self) -> Client:
        """Return the client, once the broker has been reached for the first time."""
        return await asyncio.shield(self._client)

    def wake(self) -> None:
        """There is a new notification."""
        self._news.set()

    async def run(self) -> None:
        async with open_client(self._broker) as client:
            self._client.set_result(client)
            while True:
                self._news.clear()
                try:
                    await self._hand_over(client)
                except BrokerError:
                    log.exception("the broker refuses notifications: they wait")
                await self._pause()

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
