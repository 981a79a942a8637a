"""A delayed message arrives on time."""

from __future__ import annotations

import time

import trio

from actorwork.message import Envelope
from actorwork.testing.conformance.contract import ContractTests
from actorwork.testing.conformance.fake_consumer import (
    LATE,
    open_consumer,
)


class DelayTests(ContractTests):
    async def test_a_delayed_message_comes_on_time(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            began, wall = trio.current_time(), time.time()
            await broker.publish(
                [
                    Envelope("orders", "third", b"", delay=0.4),
                    Envelope("orders", "second", b"", at=wall + 0.2),
                    Envelope("orders", "first", b"", at=wall - 5),
                ]
            )
            for name, due in (("first", 0.0), ("second", 0.2), ("third", 0.4)):
                assert (await consumer.take_one()).id == name
                assert due - 0.02 <= trio.current_time() - began <= due + LATE

    async def test_a_delayed_message_is_kept_once_too(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            for _ in range(2):
                await broker.publish([Envelope("orders", "1", b"1", delay=0.1)])
            await broker.publish([Envelope("orders", "1", b"1")])
            await broker.publish([Envelope("orders", "2", b"1", delay=0.2)])
            await consumer.expect_only("1")
            await consumer.expect_only("2")

    async def test_a_message_that_came_due_while_nobody_read_is_delivered_at_the_next_start(self) -> None:
        async with self.open_broker() as broker:
            await broker.publish([Envelope("orders", "1", b"1", delay=0.05, group="first")])
            await trio.sleep(0.1)
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await consumer.expect_only("1")
