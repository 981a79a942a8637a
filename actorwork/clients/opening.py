"""How a client is opened in a Trio program."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Literal

import trio

from actorwork.abc import Broker, Meter, PublishMiddleware
from actorwork.actors.wakeups import check_loop
from actorwork.brokers import open_broker
from actorwork.clients.client import Client
from actorwork.clients.driver import OpenBroker, Reached
from actorwork.clients.lazy_broker import open_lazy_broker, place_of
from actorwork.clients.on_trio import TrioDriver
from actorwork.clients.sender import Sender, checked_layers
from actorwork.clients.spool import Spool, Spooler, SpoolMode, file_for, open_spooler, spool_of
from actorwork.message import Durability, as_durability
from actorwork.nurseries import open_unwrapping_nursery
from actorwork.telemetry.logs import LogSink

if TYPE_CHECKING:
    from actorwork.telemetry.metrics.registry import Registry


def client_of(
    broker: Broker, nursery: trio.Nursery, layers: tuple[PublishMiddleware, ...], meter: Meter | None = None
) -> Client:
    """Return a client of a broker that stays open, whose tasks run in a nursery of the caller's."""
    lazy = OpenBroker(broker)
    return Client(Sender(lazy, TrioDriver(lazy, nursery), layers=layers, meter=meter), LogSink("client"))


@asynccontextmanager
async def open_client(
    broker: str | Broker | None = None,
    *,
    spool: Spool | SpoolMode | None = None,
    middleware: Sequence[PublishMiddleware] = (),
    metrics: Registry | None = None,
    durability: Durability | Literal["replicated", "fsynced"] | None = None,
) -> AsyncGenerator[Client]:
    """Open a client of a broker, named by its URL; without one, of the embedded broker.

    A broker that is open already is used, and left open. While the broker is unreachable this waits, and so does every
    call that sends; with a `spool` ("when_down", "always", or a `Spool` with more settings) messages wait in a local
    file instead. `middleware` processes every message before it is sent, in order. What is sent, and the state of the
    spool, is counted in `metrics`: that of a system (`System.metrics`), or a `Registry` of this program's own. With a
    `durability`, every call that sends returns once that is confirmed, and otherwise raises `Unconfirmed`. At the end
    of the block, calls of `ask` that still wait are cancelled.
    """
    check_loop(
        "open_client",
        "On asyncio (uvicorn, Jupyter) use `actorwork.aio.open_client`, and without an event loop"
        " `actorwork.sync.open_client`",
    )
    layers, wanted = checked_layers(middleware), as_durability(durability)
    async with AsyncExitStack() as stack:
        emit = LogSink("client")
        meter = None if metrics is None else metrics.meter
        chosen = spool_of(spool)
        spooler: Spooler | None = None
        if chosen is None:
            lazy: Reached = OpenBroker(await stack.enter_async_context(open_broker(broker, emit=emit)))
        else:
            later = await stack.enter_async_context(open_lazy_broker(broker, patience=chosen.patience, emit=emit))
            path = file_for(chosen, place_of(broker))
            spooler = await stack.enter_async_context(open_spooler(chosen, path, later, emit, meter))
            if metrics is not None:
                stack.enter_context(metrics.collected(partial(spooler.show, metrics)))
            lazy = later
        # Opened last, so that it ends first: its tasks use the broker to their end.
        async with open_unwrapping_nursery() as nursery:
            if spooler is not None:
                nursery.start_soon(spooler.run)
            sender = Sender(lazy, TrioDriver(lazy, nursery), spooler, layers, meter, wanted)
            yield Client(sender, emit)
            if spooler is not None:
                await spooler.linger()
            nursery.cancel_scope.cancel()
