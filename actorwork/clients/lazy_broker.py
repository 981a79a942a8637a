"""A broker that may not be open yet: it is opened in the background, and used as soon as it is open.

Errors that waiting cannot fix (credentials, a server that would lose messages) are raised while the caller waits, which
is `patience` seconds; later they are reported as an event and tried again, since then the caller relies on the spool.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import trio

from actorwork.abc import Broker, EventSink
from actorwork.brokers import open_broker
from actorwork.errors import BrokerError
from actorwork.events import BrokerTrouble
from actorwork.nurseries import open_unwrapping_nursery

TRY_AGAIN: Final = 5.0


class LazyBroker:
    """Made by `open_lazy_broker`. `broker` is None until it is open."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.broker: Broker | None = None
        self.error: BrokerError | None = None
        self.changed = trio.Event()
        self._is_there = trio.Event()

    def __repr__(self) -> str:
        return f"<LazyBroker {self.url}, {'open' if self.broker is not None else 'not open'}>"

    async def wait(self) -> Broker:
        """Wait until the broker is open, and return it."""
        while self.broker is None:
            await self._is_there.wait()
        return self.broker

    def arrived(self, broker: Broker) -> None:
        self.broker = broker
        self.url = broker.url
        self._is_there.set()
        self.changed.set()


@asynccontextmanager
async def open_lazy_broker(
    broker: str | Broker | None, *, patience: float, emit: EventSink
) -> AsyncGenerator[LazyBroker]:
    """Begin to open a broker and wait for it at most `patience` seconds; then run the block while it is being opened.

    A broker that is open already is used at once. Raises `BrokerError` if the broker refuses within this time.
    """
    lazy = LazyBroker(place_of(broker))
    if broker is not None and not isinstance(broker, str):
        lazy.arrived(broker)
        yield lazy
        return
    async with open_unwrapping_nursery() as nursery:
        nursery.start_soon(_keep_open, lazy, broker, emit)
        with trio.move_on_after(patience):
            await lazy.changed.wait()
        if lazy.error is not None:
            raise lazy.error
        yield lazy
        nursery.cancel_scope.cancel()


async def _keep_open(lazy: LazyBroker, url: str | None, emit: EventSink) -> None:
    while True:
        try:
            async with open_broker(url, emit=emit) as broker:
                lazy.arrived(broker)
                await trio.sleep_forever()
        except BrokerError as error:
            if lazy.broker is not None:
                raise
            lazy.error = error
            lazy.changed.set()
            emit(
                BrokerTrouble("opening the broker", str(error), f"again in {TRY_AGAIN:g} s; messages wait in the spool")
            )
        await trio.sleep(TRY_AGAIN)


def place_of(broker: str | Broker | None) -> str:
    """Return the address of a broker without user, password and options: equal for all of its clients."""
    if broker is None:
        return "the embedded broker"
    parts = urlsplit(broker if isinstance(broker, str) else broker.url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
