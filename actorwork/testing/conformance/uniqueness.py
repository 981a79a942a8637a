"""Of all messages with the same unique key only one is alive, until it has ended or its ttl has passed."""

from __future__ import annotations

from typing import Literal

from actorwork.message import REPLY_TO, RESULT_TTL, Envelope, Unique
from actorwork.policy.settlement import Ack, Fail, Reject, Retry, Settlement
from actorwork.testing.conformance.contract import ContractTests
from actorwork.testing.conformance.fake_consumer import FAILURE, expect_cancelled, open_consumer, until


def _one(
    id: str, on_conflict: Literal["reject", "replace", "first"] = "reject", *, ttl: float = 60, delay: float = 0.0
) -> Envelope:
    return Envelope("orders", id, b"1", headers={}, delay=delay, unique=Unique("u", ttl=ttl, on_conflict=on_conflict))


class UniquenessTests(ContractTests):
    async def test_a_message_whose_unique_key_is_taken_is_not_kept(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            assert await broker.publish_unique(_one("1")) == "1"
            assert await broker.publish_unique(_one("2")) == "1", "the sender decides what to do about it"
            assert await broker.publish([_one("2"), _one("3", "first")]) == 0
            assert await broker.publish_unique(_one("2", "first")) == "1"
            delivery = await consumer.take_one()
            assert delivery.id == "1"
            assert await broker.publish_unique(_one("2", "first")) == "1", "it is in flight"
            await consumer.settle(delivery)
            # The id of a refused message is not remembered: it may be sent again.
            assert await broker.publish_unique(_one("2")) == "2"
            await consumer.expect_only("2")
            assert await broker.backlog("orders") == 0

    async def test_a_unique_key_is_of_one_source(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "a", "b") as consumer:
            for source in ("a", "b"):
                envelope = Envelope(source, "1", b"1", unique=Unique("u"))
                assert await broker.publish_unique(envelope) == "1"
            assert await broker.publish([Envelope("a", "2", b"1", unique=Unique("U"))]) == 1
            await consumer.take(3)

    async def test_a_message_without_a_unique_key_is_kept_as_any_other(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            for _ in range(2):
                assert await broker.publish_unique(Envelope("orders", "1", b"1")) == "1"
            await broker.publish([Envelope("orders", "2", b"1")])
            await consumer.expect_only("1")
            await consumer.expect_only("2")

    async def test_however_a_delivery_ends_its_unique_key_is_free_but_not_before(self) -> None:
        settlements: tuple[Settlement, ...] = (Ack(b"1"), Ack(), Reject(FAILURE), Fail(FAILURE))
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            for number, settlement in enumerate(settlements):
                name = str(number)
                assert await broker.publish_unique(_one(name)) == name
                await consumer.settle(await consumer.take_one(), Retry(0, FAILURE))
                assert await broker.publish_unique(_one("other", "first")) == name
                await consumer.settle(await consumer.take_one(), Retry(0.1, FAILURE))
                assert await broker.publish_unique(_one("other", "first")) == name
                await consumer.settle(await consumer.take_one(), settlement)
            assert await broker.publish_unique(_one("other")) == "other"

    async def test_a_unique_key_is_held_until_every_group_has_settled_its_message(self) -> None:
        async with (
            self.open_broker() as broker,
            open_consumer(broker, "orders", group="first") as first,
            open_consumer(broker, "orders", group="second") as second,
        ):
            await broker.publish([_one("1")])
            await first.settle(await first.take_one(), Retry(0, FAILURE))
            await second.settle(await second.take_one())
            assert await broker.publish_unique(_one("2", "first")) == "1"
            await first.settle(await first.take_one())
            assert await broker.publish_unique(_one("2", "first")) == "2"

    async def test_a_message_that_waits_for_its_time_or_its_key_has_its_unique_key(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await broker.publish([Envelope("orders", "head", b"1", key="k")])
            await broker.publish([Envelope("orders", "behind", b"1", key="k", unique=Unique("one"))])
            await broker.publish([Envelope("orders", "delayed", b"1", delay=600, unique=Unique("two"))])
            for unique, holder in (("one", "behind"), ("two", "delayed")):
                another = Envelope("orders", f"another {unique}", b"1", unique=Unique(unique, on_conflict="first"))
                assert await broker.publish_unique(another) == holder
                assert await broker.delayed.cancel("orders", holder)
                assert await broker.publish_unique(another) == another.id
            await consumer.take(3)

    async def test_a_message_that_is_not_in_flight_is_replaced(self) -> None:
        async with (
            self.open_broker() as broker,
            broker.open_replies() as replies,
        ):
            headers = {RESULT_TTL: 60, REPLY_TO: replies.address}
            waiting = replies.expect("orders", "1")
            await broker.publish([Envelope("orders", "1", b"old", headers=headers, unique=Unique("u"))])
            assert await broker.publish_unique(_one("2", "replace", delay=600)) == "2"
            await expect_cancelled(waiting, broker, "orders", "1")
            assert await broker.backlog("orders") == 0
            assert await broker.publish([_one("3", "replace")]) == 1
            assert not await broker.delayed.list("orders")
            async with open_consumer(broker, "orders") as consumer:
                delivery = await consumer.take_one()
                assert delivery.id == "3"
                assert await broker.publish_unique(_one("4", "replace")) == "3", "it is in flight"
                assert await broker.publish([_one("4", "replace")]) == 0
                await consumer.settle(delivery)
                assert await broker.publish_unique(_one("4", "replace")) == "4"
                await consumer.expect_only("4")

    async def test_a_message_that_is_replaced_leaves_its_place_among_those_of_its_key(self) -> None:
        async with self.open_broker() as broker:
            for name in ("1", "2", "3"):
                unique = None if name == "2" else Unique(f"u{name}", on_conflict="replace")
                await broker.publish([Envelope("orders", name, b"1", key="k", unique=unique)])
            for name in ("1", "3"):
                envelope = Envelope(
                    "orders", f"new {name}", b"1", key="k", unique=Unique(f"u{name}", on_conflict="replace")
                )
                assert await broker.publish_unique(envelope) == envelope.id
            assert await broker.backlog("orders") == 3
            async with open_consumer(broker, "orders") as consumer:
                for name in ("2", "new 1", "new 3"):
                    await consumer.expect_only(name)

    async def test_a_unique_key_is_held_for_its_time_only(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await broker.publish([_one("1", ttl=1.0)])
            first = await consumer.take_one()

            async def is_free() -> bool:
                return await broker.publish_unique(_one("2", "first")) == "2"

            assert not await is_free()
            await until(is_free, "the unique key to be free")
            await consumer.settle(first)
            assert await broker.publish_unique(_one("3", "first")) == "2", "the first one's end frees nothing"
            await consumer.expect_only("2")
            assert await broker.publish_unique(_one("3", "first")) == "3"

    async def test_a_message_that_is_sent_again_stands_for_itself(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            for _ in range(2):
                assert await broker.publish_unique(_one("1")) == "1"
            await consumer.settle(await consumer.take_one())
            assert await broker.publish_unique(_one("1")) == "1", "its sender did not learn that it was stored"
            assert await broker.publish_unique(_one("2")) == "2", "which does not take the key again"
            assert await broker.publish_unique(_one("1")) == "1"
            await consumer.expect_only("2")
            assert await broker.backlog("orders") == 0

    async def test_what_a_delivery_publishes_is_unique_too(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await broker.publish([Envelope("orders", "start", b"1"), _one("1")])
            start, one = await consumer.take(2)
            assert await consumer.node.publish_fenced(consumer.subscription, start, [_one("2")])
            await consumer.settle(start, Ack(), [_one("3"), Envelope("orders", "4", b"1")])
            await consumer.expect_only("4")
            # The message that ends frees its key for the messages it publishes.
            await consumer.settle(one, Ack(), [_one("5"), _one("6")])
            assert await broker.publish_unique(_one("7", "first")) == "5"
            await consumer.expect_only("5")
            assert await broker.publish_unique(_one("7")) == "7"
