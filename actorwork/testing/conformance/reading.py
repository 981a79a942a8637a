"""Which consumer receives a message, and how many at a time."""

from __future__ import annotations

from collections import Counter

import trio

from actorwork.message import Envelope
from actorwork.policy.settlement import Ack
from actorwork.testing.conformance.contract import ContractTests
from actorwork.testing.conformance.fake_consumer import (
    QUIET,
    FakeConsumer,
    open_consumer,
    true_of,
    until,
)


class ReadingTests(ContractTests):
    # Groups.

    async def test_each_group_is_given_every_message_and_the_last_one_to_settle_removes_it(self) -> None:
        sent = self.envelopes("orders", 20)
        async with (
            self.open_broker() as broker,
            open_consumer(broker, "orders", group="first") as first,
            open_consumer(broker, "orders", group="second") as second,
        ):
            await broker.publish(sent)
            for consumer, left in ((first, 20), (second, 0)):
                got = await consumer.take(20)
                assert [one.id for one in got] == [one.id for one in sent]
                for one in got:
                    consumer.node.settle(consumer.subscription, one, Ack())
                await consumer.node.wait_settled()
                assert await broker.backlog("orders") == left, "an entry leaves with the last group, and not before"

    async def test_a_group_that_comes_late_is_given_what_is_still_there(self) -> None:
        sent = self.envelopes("orders", 3)
        async with self.open_broker() as broker:
            await broker.publish(sent)
            async with open_consumer(broker, "orders", group="first") as first:
                gone, *_ = await first.take(3)
                await first.settle(gone)
                async with open_consumer(broker, "orders", group="second") as late:
                    assert [one.id for one in await late.take(2)] == [one.id for one in sent[1:]]

    async def test_an_addressed_message_goes_to_its_group_alone(self) -> None:
        async with (
            self.open_broker() as broker,
            open_consumer(broker, "orders", group="first") as first,
            open_consumer(broker, "orders", group="second") as second,
        ):
            await broker.publish([Envelope("orders", "1", b"1", group="second"), Envelope("orders", "2", b"2")])
            await first.expect_only("2")
            await second.expect_only("1")
            await second.expect_only("2")

            async def is_empty() -> bool:
                return await broker.backlog("orders") == 0

            await until(is_empty, "the source to be empty")

    async def test_nodes_of_one_group_share_the_messages(self) -> None:
        sent = self.envelopes("orders", 60)
        async with (
            self.open_broker() as broker,
            self.open_broker() as other,
            open_consumer(broker, "orders", room=5) as one,
            open_consumer(other, "orders", room=5) as two,
        ):
            await broker.publish(sent)
            got: list[str] = []

            async def work(consumer: FakeConsumer) -> None:
                while True:
                    delivery = await consumer.take_one()
                    await consumer.settle(delivery)
                    got.append(delivery.id)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(work, one)
                nursery.start_soon(work, two)
                await until(true_of(lambda: len(got) >= 60), "sixty to be handled")
                nursery.cancel_scope.cancel()
            assert Counter(got) == Counter(one.id for one in sent), "each message is handled once"
            assert await broker.backlog("orders") == 0

    async def test_a_busy_source_does_not_starve_another(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "busy", "calm", room=10) as consumer:
            # Sources in several slots have a reader each: both are there before the one has much to read.
            await broker.publish([*self.envelopes("busy", 1), *self.envelopes("calm", 1)])
            for delivery in await consumer.take(2):
                await consumer.settle(delivery)
            await broker.publish(self.envelopes("busy", 1000))
            await broker.publish(self.envelopes("calm", 1))
            for _ in range(100):
                got = await consumer.take_one()
                consumer.node.settle(consumer.subscription, got, Ack())
                if got.source == "calm":
                    break
            else:
                raise AssertionError("the calm source had no turn among a hundred")

    # Backpressure.

    async def test_a_sink_is_not_offered_much_more_than_its_credit(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders", room=10) as consumer:
            await broker.publish(self.envelopes("orders", 200))
            await consumer.wait(lambda: len(consumer.waiting) >= 10, "ten deliveries")
            await trio.sleep(QUIET)
            assert consumer.most <= 20
            await consumer.take(200)
            assert consumer.most <= 20

    async def test_a_full_sink_is_offered_nothing_until_resume(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders", room=0) as consumer:
            await broker.publish(self.envelopes("orders", 3))
            await consumer.expect_nothing()
            consumer.capacity = 2
            consumer.node.resume(consumer.subscription)
            await consumer.wait(lambda: len(consumer.waiting) >= 2, "two deliveries")
            consumer.capacity = 5
            consumer.node.resume(consumer.subscription)
            await consumer.wait(lambda: len(consumer.waiting) == 3, "the third")

    async def test_one_full_sink_does_not_hold_up_another(self) -> None:
        full = FakeConsumer("first", ["orders"], room=0, max_crashes=3)
        free = FakeConsumer("second", ["orders"], room=10, max_crashes=3)
        async with (
            self.open_broker() as broker,
            broker.open_node([full.subscription, free.subscription], lease=5, emit=free.emit) as node,
        ):
            free.node = node
            await broker.publish([Envelope("orders", "1", b"1")])
            await free.expect_only("1")
            assert not full.waiting
