"""How a node ends: it offers nothing more, and loses nothing."""

from __future__ import annotations

from actorwork.policy.settlement import Ack
from actorwork.testing.conformance.contract import ContractTests
from actorwork.testing.conformance.fake_consumer import (
    open_consumer,
)


class EndingTests(ContractTests):
    async def test_after_stop_intake_nothing_is_offered_and_nothing_is_lost(self) -> None:
        async with self.open_broker() as broker:
            sent = self.envelopes("orders", 300)
            await broker.publish(sent)
            async with open_consumer(broker, "orders", room=20) as consumer:
                got = await consumer.take(40)
                await consumer.node.stop_intake()
                rest = list(consumer.waiting)
                offered = consumer.offered
                consumer.waiting.clear()
                consumer.node.resume(consumer.subscription)
                await broker.publish(self.envelopes("orders", 1))
                await consumer.expect_nothing()
                assert consumer.offered == offered
                for delivery in got:
                    consumer.node.settle(consumer.subscription, delivery, Ack())
                await consumer.release_deliveries(*rest)
                await consumer.node.wait_settled()
            # A delivery that is neither settled nor released would count as left behind.
            async with open_consumer(broker, "orders", room=400) as consumer:
                again = await consumer.take(261)
                assert [one.id for one in again[:-1]] == [one.id for one in sent[40:]]
                assert {one.crashes for one in again} == {0}, "all that was read was offered"

    async def test_waiting_for_settlements_waits_for_all_so_far(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders", room=500) as consumer:
            await broker.publish(self.envelopes("orders", 500))
            for delivery in await consumer.take(500):
                consumer.node.settle(consumer.subscription, delivery, Ack())
            await consumer.node.wait_settled()
            assert consumer.node.statistics()["settled"] == 500
            assert await broker.backlog("orders") == 0
