"""Delayed messages can be listed and cancelled."""

from __future__ import annotations

from actorwork.message import ATTEMPT, REPLY_TO, RESULT_TTL, Envelope
from actorwork.policy.settlement import Retry
from actorwork.testing.conformance.contract import ContractTests
from actorwork.testing.conformance.fake_consumer import (
    FAILURE,
    expect_cancelled,
    open_consumer,
)


class CancellingTests(ContractTests):
    async def test_what_is_held_back_is_listed_by_when_it_is_due(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            began = consumer.node.now()
            await broker.publish(
                [
                    Envelope("orders", "third", b"3", delay=300),
                    Envelope("orders", "first", b"1", "Order", {"who": "Ann"}, delay=100),
                    Envelope("mail", "letter", b"4", delay=50),
                    Envelope("orders", "again", b"2"),
                ]
            )
            await consumer.settle(await consumer.take_one(), Retry(200, FAILURE))
            delayed = broker.delayed
            listed = await delayed.list("orders")
            assert [one.id for one in listed] == ["first", "again", "third"]
            assert [round((one.due - began) / 100) for one in listed] == [1, 2, 3]
            assert {one.source for one in listed} == {"orders"}
            assert (listed[0].payload, listed[0].type, dict(listed[0].headers)) == (b"1", "Order", {"who": "Ann"})
            assert listed[1].headers[ATTEMPT] == 2
            assert [one.id for one in await delayed.list("orders", limit=2)] == ["first", "again"]
            assert sorted(one.id for one in await delayed.list()) == ["again", "first", "letter", "third"]
            assert len(await delayed.list(limit=3)) == 3
            assert not await delayed.list("nothing")

    async def test_what_is_held_back_can_be_cancelled_and_who_waits_is_told(self) -> None:
        async with (
            self.open_broker() as broker,
            broker.open_replies() as replies,
            open_consumer(broker, "orders") as consumer,
        ):
            headers = {RESULT_TTL: 60, REPLY_TO: replies.address}
            await broker.publish([Envelope("orders", "1", b"1", headers=headers, delay=0.2)])
            waiting = replies.expect("orders", "1")
            assert not await broker.delayed.cancel("mail", "1")
            assert not await broker.delayed.cancel("orders", "2")
            assert await broker.delayed.cancel("orders", "1")
            assert not await broker.delayed.cancel("orders", "1")
            await expect_cancelled(waiting, broker, "orders", "1")
            assert not await broker.delayed.list("orders")
            await broker.publish([Envelope("orders", "2", b"1", delay=0.3)])
            await consumer.expect_only("2")

    async def test_a_retry_that_waits_can_be_cancelled_and_what_is_ready_or_in_hand_cannot(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await broker.publish([Envelope("orders", "1", b"1", headers={RESULT_TTL: 60})])
            delivery = await consumer.take_one()
            assert not await broker.delayed.cancel("orders", "1")
            await consumer.settle(delivery, Retry(600, FAILURE))
            assert await broker.delayed.cancel("orders", "1")
            outcome = await broker.find_outcome("orders", "1")
            assert outcome is not None
            assert outcome.status == "rejected"
            consumer.capacity = 0
            await broker.publish([Envelope("orders", "2", b"1")])
            assert not await broker.delayed.cancel("orders", "2")
            consumer.capacity = 1
            consumer.node.resume(consumer.subscription)
            await consumer.expect_only("2")
