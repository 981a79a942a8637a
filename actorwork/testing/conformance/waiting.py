"""The age of the oldest waiting message is known, by the broker's clock."""

from __future__ import annotations

import trio

from actorwork.message import Envelope
from actorwork.policy.settlement import Retry
from actorwork.testing.conformance.contract import ContractTests
from actorwork.testing.conformance.fake_consumer import FAILURE, LATE, open_consumer, until


class WaitingTests(ContractTests):
    """The age of a source's oldest message."""

    async def test_the_age_of_the_oldest_message_is_that_of_the_first_which_nobody_has_read(self) -> None:
        async with self.open_broker() as broker:
            assert await broker.oldest("orders") is None
            before = trio.current_time()
            await broker.publish(self.envelopes("orders", 1))
            await trio.sleep(0.2)
            await broker.publish(self.envelopes("orders", 1))
            oldest = await broker.oldest("orders")
            assert oldest is not None
            assert 0.19 <= oldest < trio.current_time() - before + LATE
            async with open_consumer(broker, "orders", room=1) as consumer:
                await consumer.take_one()
                await consumer.wait(lambda: consumer.waiting, "the second one")

                async def is_known() -> bool:
                    return await broker.oldest("orders") is None

                # A delivery in flight no longer waits, however long it takes.
                await until(is_known, "nothing to be left")
                before = trio.current_time()
                await broker.publish(self.envelopes("orders", 1))
                late = await broker.oldest("orders")
                assert late is None or late < trio.current_time() - before + 0.1

    async def test_what_comes_later_has_not_waited_before_it_came(self) -> None:
        async with self.open_broker() as broker:
            async with open_consumer(broker, "orders") as consumer:
                await broker.publish(self.envelopes("orders", 1))
                again = await consumer.take_one()
                before = trio.current_time()
                await broker.publish(self.envelopes("orders", 1, delay=1.0))
                await trio.sleep(1.1)
                late = await consumer.take_one()
                await consumer.node.stop_intake()
                await consumer.settle(again, Retry(0, FAILURE))
                await consumer.settle(late, Retry(0, FAILURE))
            oldest = await broker.oldest("orders")
            assert oldest is not None
            assert oldest < trio.current_time() - before - 0.9

    async def test_of_all_priorities_and_groups_the_oldest_one_counts(self) -> None:
        async with self.open_broker() as broker:
            async with open_consumer(broker, "orders", group="first"):
                pass
            async with open_consumer(broker, "orders", group="second") as consumer:
                await broker.publish([Envelope("orders", "1", b"1")])
                await trio.sleep(0.2)
                await broker.publish([Envelope("orders", "2", b"2")])
                await consumer.take(2)
                oldest = await broker.oldest("orders")
                assert oldest is not None
                assert oldest >= 0.19, "the other group has not read it"
