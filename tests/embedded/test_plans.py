"""However many messages wait, are held back or stand in line: none of them is looked at for the sake of another one."""

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from actorwork.embedded.broker import EmbeddedBroker, open_broker
from actorwork.embedded.store import Store
from actorwork.events import Event
from actorwork.message import RESULT_TTL, Envelope, Failure, Priority, Unique
from actorwork.policy.settlement import Ack, Fail, Reject, Retry
from actorwork.testing.conformance import open_consumer

FAILURE = Failure("ValueError", "no")
LARGE = {"entries", "delayed", "behind", "pending", "uniques", "seen", "dead", "outcomes"}


def ignore(_: Event) -> None: ...


async def traced(broker: EmbeddedBroker, trace: Callable[[str], None] | None) -> None:
    def set_trace(store: Store) -> None:
        store._connection.set_trace_callback(trace)

    await broker._writer.ask(set_trace, writes=False)


async def test_nothing_is_scanned_to_publish_read_settle_promote_or_cancel(tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'x.db'}"
    statements: set[str] = set()
    async with open_broker(url, emit=ignore) as broker, open_consumer(broker, "orders", room=4) as consumer:
        await traced(broker, statements.add)
        for number in range(8):
            more: dict[str, Any] = {"key": f"k{number % 2}", "priority": Priority(number % 4), "lifetime": 60}
            unique = Unique(f"u{number % 3}", on_conflict="replace" if number % 2 else "first")
            await broker.publish(
                [Envelope("orders", f"{number}", b"1"), Envelope("orders", f"k{number}", b"1", **more)]
            )
            await broker.publish([Envelope("orders", f"d{number}", b"1", delay=0.01 * number, **more)])
            await broker.publish_unique(Envelope("orders", f"u{number}", b"1", unique=unique, headers={RESULT_TTL: 60}))
        await broker.publish([Envelope("orders", "later", b"1", delay=600)])
        for number in range(20):
            ends = (Ack(), Reject(FAILURE), Retry(0, FAILURE), Retry(0.01, FAILURE), Fail(FAILURE))
            await consumer.settle(await consumer.take_one(), ends[number % 5])
        await consumer.release_deliveries(await consumer.take_one())
        await broker.delayed.cancel("orders", "later")
        await broker.delayed.cancel("orders", "k7")
        await broker.dead_letters.replay("orders", [one.entry for one in await broker.dead_letters.list("orders")])
        await broker.find_outcome("orders", "u0")
        await broker.backlog("orders")
        await traced(broker, None)
    connection = sqlite3.connect(tmp_path / "x.db")
    scans: list[str] = []
    for statement in statements:
        if re.match(r"\s*(select|insert|update|delete)", statement, re.IGNORECASE):
            for *_, step in connection.execute(f"explain query plan {statement}"):
                scanned = re.match(r"SCAN (?:TABLE )?(\w+)", step)
                if scanned and scanned[1] in {*LARGE, "e", "p", "d", "o"}:
                    scans.append(f"{step}: {statement[:200]}")
    connection.close()
    assert len(statements) > 30
    assert not scans, "\n".join(sorted(scans))
