"""The broker's clock decides whether a message has expired; deliveries carry the limit."""

from __future__ import annotations

import time

from actorwork.message import Envelope
from actorwork.policy.settlement import Fail, Retry
from actorwork.testing.conformance.contract import ContractTests
from actorwork.testing.conformance.fake_consumer import (
    FAILURE,
    LATE,
    open_consumer,
)


class ExpiryTests(ContractTests):
    async def test_a_node_knows_the_clock_of_its_broker(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            now = consumer.node.now()
            assert abs(now - time.time()) < 60
            await broker.publish([Envelope("orders", "1", b"1", at=now + 0.2)])
            delivery = await consumer.take_one()
            assert 0.18 <= consumer.node.now() - now <= 0.2 + LATE
            await consumer.settle(delivery)

    async def test_a_message_says_when_it_is_not_to_be_begun_any_more(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            began = consumer.node.now()
            await broker.publish(
                [
                    Envelope("orders", "never", b"1"),
                    Envelope("orders", "moment", b"1", expires=began + 1000.25),
                    Envelope("orders", "lifetime", b"1", lifetime=500),
                    Envelope("orders", "earlier", b"1", lifetime=500, expires=began + 300),
                    Envelope("orders", "past", b"1", expires=began - 300),
                    Envelope("orders", "delayed", b"1", lifetime=700, delay=0.05),
                ]
            )
            wanted = {"never": None, "moment": 1000, "lifetime": 500, "earlier": 300, "past": -300, "delayed": 700}
            for attempt in (1, 2, 3):
                for delivery in await consumer.take(len(wanted)):
                    due = wanted[delivery.id]
                    assert delivery.attempt == attempt
                    assert (delivery.expires is None) == (due is None)
                    assert due is None or abs((delivery.expires or 0.0) - began - due) < 1 + LATE
                    await consumer.settle(delivery, Retry(0.05 * (attempt % 2), FAILURE))

    async def test_a_dead_letter_that_is_replayed_does_not_expire(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await broker.publish([Envelope("orders", "1", b"1", lifetime=60)])
            await consumer.settle(await consumer.take_one(), Fail(FAILURE))
            (letter,) = await broker.dead_letters.list("orders")
            assert await broker.dead_letters.replay("orders", [letter.entry]) == 1
            again = await consumer.take_one()
            assert again.expires is None, "a consumer asks for it now"
