"""A broker that may not be there yet: it is opened in the background, and used from when it is.

What opening cannot mend by waiting (credentials, a server that would lose messages) is raised as long as the caller
waits, which is `patience` seconds; later it is an event, and tried again, since by then the caller relies on the spool.
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
    """Made by `open_lazy_broker`. `broker` is None until it is there."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.broker: Broker | None = None
        self.error: BrokerError | None = None
        self.changed = trio.Event()
        self._is_there = trio.Event()

    def __repr__(self) -> str:
        return f"<LazyBroker {self.url}, {'there' if self.broker is not None else 'away'}>"

    async def wait(self) -> Broker:
        """Return the broker, once it is there."""
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
    """Begin to open a broker, and wait for it for `patience` seconds; then go on without it, while it is opened.

    A broker that is open already is there at once. Raises `BrokerError` for one that refuses within this time.
    """
    late = LazyBroker(place_of(broker))
    if broker is not None and not isinstance(broker, str):
        late.arrived(broker)
        yield late
        return
    async with open_unwrapping_nursery() as nursery:
        nursery.start_soon(_keep_open, late, broker, emit)
        with trio.move_on_after(patience):
            await late.changed.wait()
        if late.error is not None:
            raise late.error
        yield late
        nursery.cancel_scope.cancel()


async def _keep_open(late: LazyBroker, url: str | None, emit: EventSink) -> None:
    while True:
        try:
            async with open_broker(url, emit=emit) as broker:
                late.arrived(broker)
                await trio.sleep_forever()
        except BrokerError as error:
            if late.broker is not None:
                raise
            late.error = error
            late.changed.set()
            emit(
                BrokerTrouble("opening the broker", str(error), f"again in {TRY_AGAIN:g} s; messages wait in the spool")
            )
        await trio.sleep(TRY_AGAIN)


def place_of(broker: str | Broker | None) -> str:
    """Return where a broker is, without user, password and options: what all clients of it have in common."""
    if broker is None:
        return "the embedded broker"
    parts = urlsplit(broker if isinstance(broker, str) else broker.url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
