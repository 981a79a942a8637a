"""What was acknowledged is there after `kill -9`."""

import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import trio

from actorwork.embedded.broker import open_broker
from actorwork.events import Event
from actorwork.message import Envelope, MessageIds
from actorwork.testing.conformance import open_consumer


def ignore(_: Event) -> None: ...


def publish_until_killed(url: str, connection: "Connection[Any, Any]") -> None:
    async def publish() -> None:
        ids = MessageIds("0123456789abcdef")
        async with open_broker(url, emit=ignore) as broker:
            while True:
                batch = [Envelope("orders", next(ids), b"1") for _ in range(7)]
                await broker.publish(batch)
                connection.send([one.id for one in batch])

    trio.run(publish)


async def test_nothing_that_was_acknowledged_is_lost_by_a_kill(tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'x.db'}"
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=publish_until_killed, args=(url, there), daemon=True)
    await trio.to_thread.run_sync(process.start)
    there.close()
    acknowledged: list[str] = []
    try:
        while len(acknowledged) < 700:
            acknowledged += await trio.to_thread.run_sync(here.recv, abandon_on_cancel=True)
    finally:
        process.kill()
    try:
        while True:
            acknowledged += here.recv()
    except EOFError:
        pass
    process.join()
    async with open_broker(url, emit=ignore) as broker, open_consumer(broker, "orders", room=10_000) as consumer:
        got = [one.id for one in await consumer.take(len(acknowledged))]
        assert got == acknowledged
        assert {finding.level for finding in await broker.diagnose()} == {"ok"}
