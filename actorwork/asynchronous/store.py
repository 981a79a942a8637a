"""The embedded broker's file, in transactions of one thread beside the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from actorwork.asynchronous.driver import check_loop
from actorwork.blocking.driver import Deadlines, run as to_its_end
from actorwork.blocking.store import BlockingStore
from actorwork.embedded.location import Location
from actorwork.embedded.rows import ReplyAddress
from actorwork.embedded.store import Store
from actorwork.embedded.turns import Turns
from actorwork.errors import BrokerError


class AsyncioStore:
    """Implements `embedded.asking.Asked`."""

    def __init__(self, location: Location) -> None:
        self._loop = asyncio.get_running_loop()
        self._store = BlockingStore(location, Deadlines())
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="actorwork-client")
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<AsyncioStore {self.location}>"

    @property
    def location(self) -> Location:
        return self._store.location

    @property
    def turns(self) -> Turns:
        return self._store.turns

    async def open(self) -> None:
        await self._in_thread(self._store.open)

    async def ask(self, run: Callable[[Store], Any], *, rows: int = 1, writes: bool = True) -> Any:
        check_loop(self._loop)
        return await self._in_thread(lambda: to_its_end(self._store.ask(run, rows=rows, writes=writes)))

    async def look(self) -> None:
        """Fetch the replies that have come."""
        await self._in_thread(self._store.look)

    def listen(self, address: str, arrived: Callable[[ReplyAddress], None]) -> None:
        """Have replies to an address passed on, in the loop's thread."""

        def pass_on(reply: ReplyAddress) -> None:
            self._loop.call_soon_threadsafe(arrived, reply)

        self._store.turns.addresses[address] = pass_on

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        if self._is_closed:
            raise BrokerError(f"this client of {self.location} is closed")
        return await self._loop.run_in_executor(self._thread, work)

    async def aclose(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        try:
            await self._loop.run_in_executor(self._thread, self._store.close)
        finally:
            self._thread.shutdown(wait=False)
