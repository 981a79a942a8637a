"""How a sync client is opened."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal, cast

from actorwork.blocking.client import Client
from actorwork.blocking.driver import BlockingDriver, Deadlines, run
from actorwork.brokers import is_file, is_redis, unknown_kind, url_of
from actorwork.clients import client as clients
from actorwork.clients.driver import OpenBroker
from actorwork.clients.sender import Sender, checked_layers
from actorwork.durations import Duration, seconds_of
from actorwork.message import Durability, as_durability
from actorwork.telemetry.logs import LogSink

if TYPE_CHECKING:
    from actorwork.abc import Broker, EventSink, PublishMiddleware
    from actorwork.blocking.cluster import BlockingCluster
    from actorwork.blocking.redis import BlockingRedis
    from actorwork.streams.durable import DurablePublisher
    from actorwork.telemetry.metrics.registry import Registry


def open_client(
    broker: str | None = None,
    *,
    middleware: Sequence[PublishMiddleware] = (),
    patience: Duration = 30,
    metrics: Registry | None = None,
    durability: Durability | Literal["replicated", "fsynced"] | None = None,
) -> Client:
    """Open a client of a broker, named by its URL; without one, of the embedded broker of this project.

    One client serves all threads of a process, and child processes that it forks. While the broker is unreachable,
    every call waits for it, at most `patience`, and then raises `BrokerError`. `middleware` processes every message
    before it is sent, in order. What all threads send is counted in `metrics`, a `Registry` of this program's own. With
    a `durability`, every call that sends returns once that is confirmed, and otherwise raises `Unconfirmed`. Raises
    `BrokerError` for a broker that cannot be used.
    """
    layers, wanted = checked_layers(middleware), as_durability(durability)
    seconds = seconds_of("patience", patience)
    url = url_of(broker)
    emit = LogSink("client")
    deadlines = Deadlines()
    opened: Broker
    if is_redis(url):
        opened, driver, close = _open_redis(url, seconds, deadlines, emit)
    elif is_file(url):
        opened, driver, close = _open_file(url, deadlines)
    else:
        raise unknown_kind(url)
    meter = None
    if metrics is not None:
        from actorwork.blocking.metering import SharedMeter  # noqa: PLC0415 - few programs count

        meter = cast("Any", SharedMeter(metrics.meter))
    sender = Sender(OpenBroker(opened), driver, layers=layers, meter=meter, durability=wanted)
    return Client(clients.Client(sender, emit), close)


def _open_redis(
    url: str, patience: float, deadlines: Deadlines, emit: EventSink
) -> tuple[Broker, BlockingDriver, Callable[[], None]]:
    # Imported here, as in `brokers`: the other broker's packages are not needed.
    from actorwork.blocking.changes import ThreadChanges  # noqa: PLC0415
    from actorwork.blocking.redis import BlockingRedis  # noqa: PLC0415
    from actorwork.blocking.replies import ThreadReplies  # noqa: PLC0415
    from actorwork.streams.diagnosis import refuse_what_loses_messages  # noqa: PLC0415
    from actorwork.streams.sending import RedisSending  # noqa: PLC0415
    from actorwork.streams.transport.address import Address  # noqa: PLC0415
    from actorwork.streams.transport.redis_py import cannot  # noqa: PLC0415

    address = Address.parse(url)

    def open_commands() -> BlockingRedis | BlockingCluster:
        if address.cluster is None:
            return BlockingRedis(address, deadlines, patience, emit)
        from actorwork.blocking.cluster import open_cluster  # noqa: PLC0415 - few programs have one

        return open_cluster(address, deadlines, patience, emit)

    commands = open_commands()
    try:
        with cannot(f"open {address.url}"):
            run(refuse_what_loses_messages(commands, address, emit))
    except BaseException:
        commands.close()
        raise
    opened: list[BlockingRedis | BlockingCluster] = []
    of_thread = threading.local()

    async def open_another() -> BlockingRedis | BlockingCluster:
        another = open_commands()
        opened.append(another)
        return another

    def durable() -> DurablePublisher:
        # One for each thread: what is confirmed is what its own connection has written.
        found: DurablePublisher | None = getattr(of_thread, "publisher", None)
        if found is None:
            from actorwork.streams.durable import DurablePublisher  # noqa: PLC0415 - most programs need none

            found = of_thread.publisher = DurablePublisher(open_another, nullcontext())
        return found

    def close() -> None:
        for one in (commands, *opened):
            one.close()

    driver = BlockingDriver(deadlines, ThreadReplies(commands), ThreadChanges(commands))
    sending = RedisSending(commands, address, emit, shared_url=url, sleep=driver.sleep)
    sending.durable = durable
    return cast("Any", sending), driver, close


def _open_file(url: str, deadlines: Deadlines) -> tuple[Broker, BlockingDriver, Callable[[], None]]:
    from actorwork.blocking.changes import StoreChanges  # noqa: PLC0415
    from actorwork.blocking.replies import ProcessReplies  # noqa: PLC0415
    from actorwork.blocking.store import BlockingStore  # noqa: PLC0415
    from actorwork.embedded.location import parse  # noqa: PLC0415
    from actorwork.embedded.sending import EmbeddedSending  # noqa: PLC0415

    location = parse(url)
    store = BlockingStore(location, deadlines)
    store.open()
    sending = EmbeddedSending(location, store)
    return cast("Any", sending), BlockingDriver(deadlines, ProcessReplies(store), StoreChanges(store)), store.close
