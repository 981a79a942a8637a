"""A published message arrives, once and in its order."""

from __future__ import annotations

from collections import Counter

import trio

from actorwork.message import Envelope, Json
from actorwork.policy.settlement import Ack
from actorwork.testing.conformance.contract import ContractTests
from actorwork.testing.conformance.fake_consumer import (
    LATE,
    open_consumer,
)


class PublishingTests(ContractTests):
    async def test_a_message_arrives_as_it_was_sent(self) -> None:
        headers: dict[str, Json] = {"who": "Ann", "deep": {"list": [1, 2.5, None, True]}, "umlaut": "ü"}
        sent = Envelope("orders", "any-id", b'{"x": "\xc3\xbc"}', "Order", headers)
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            assert await broker.publish([sent]) == 1
            got = await consumer.take_one()
            assert (got.id, got.source, got.type, got.payload) == ("any-id", "orders", "Order", sent.data)
            assert dict(got.headers) == headers
            assert (got.attempt, got.crashes) == (1, 0)

    async def test_bytes_that_are_no_json_arrive_as_they_are(self) -> None:
        data = [b"\xff\x00{", b"", bytes(range(256)) * 40]
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await broker.publish([Envelope("orders", f"id {number}", one) for number, one in enumerate(data)])
            assert [delivery.payload for delivery in await consumer.take(3)] == data

    async def test_an_id_is_kept_once(self) -> None:
        ours = self.envelopes("orders", 3)
        theirs = [Envelope("orders", text, b"1") for text in ("7", "0123456789abcdef-0a", "0123456789abcdef-a", "ü x")]
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            for one in (*ours[:1], *theirs[:1]):
                assert await broker.publish([one]) == 1
            await broker.publish(ours[:1])
            await broker.publish([*theirs[:1], *ours[:1], *theirs, *theirs, *ours, *ours])
            got = await consumer.take(7)
            assert Counter(one.id for one in got) == Counter(one.id for one in (*ours, *theirs))
            for one in got:
                consumer.node.settle(consumer.subscription, one, Ack())
            await consumer.node.wait_settled()
            # Also after the message has ended.
            await broker.publish([*theirs, *ours])
            last = self.envelopes("orders", 1)
            assert await broker.publish(last) == 1
            await consumer.expect_only(last[0].id)

    async def test_an_id_is_unique_within_its_source_only(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "a", "b") as consumer:
            assert await broker.publish([Envelope("a", "1", b"1"), Envelope("b", "1", b"2")]) == 2
            assert {(one.source, one.payload) for one in await consumer.take(2)} == {("a", b"1"), ("b", b"2")}

    async def test_order_is_kept_within_a_source(self) -> None:
        sent = self.envelopes("orders", 300)
        async with self.open_broker() as broker:
            await broker.publish(sent[:100])
            async with open_consumer(broker, "orders", room=7) as consumer:
                for one in sent[100:120]:
                    await broker.publish([one])
                await broker.publish(sent[120:])
                assert [one.id for one in await consumer.take(300)] == [one.id for one in sent]

    async def test_one_call_may_publish_thousands(self) -> None:
        sent = self.envelopes("orders", 3000)
        async with self.open_broker() as broker:
            assert await broker.publish([]) == 0
            assert await broker.publish(sent) == 3000
            assert await broker.backlog("orders") == 3000
            assert await broker.backlog("nothing") == 0

    async def test_a_reader_of_another_process_sees_a_message_soon(self) -> None:
        async with self.open_remote_consumer("orders") as consumer, self.open_broker() as broker:
            await broker.publish([Envelope("orders", "1", b"1")])
            began = trio.current_time()
            assert await consumer.take() == ["1"]
            assert trio.current_time() - began < 1 + LATE
