"""How a delivery ends, with all its effects."""

from __future__ import annotations

import time
from typing import Any

import trio

from actorwork.events import Fenced
from actorwork.message import ATTEMPT, RESULT_TTL, Delivery, Envelope, Priority, Unique
from actorwork.policy.settlement import Ack, Fail, Reject, Retry, Settlement
from actorwork.testing.conformance.contract import ContractTests
from actorwork.testing.conformance.fake_consumer import (
    FAILURE,
    HISTORY,
    LATE,
    open_consumer,
)


class SettlingTests(ContractTests):
    async def test_an_acknowledged_message_is_gone(self) -> None:
        await self._gone_after(Ack())

    async def test_a_rejected_message_is_gone_and_no_dead_letter(self) -> None:
        await self._gone_after(Reject(FAILURE))

    async def _gone_after(self, settlement: Settlement) -> None:
        async with self.open_broker() as broker:
            async with open_consumer(broker, "orders") as consumer:
                await broker.publish([Envelope("orders", "1", b"1")])
                await consumer.settle(await consumer.take_one(), settlement)
                assert await broker.backlog("orders") == 0
                assert consumer.node.statistics()["settled"] == 1
            async with open_consumer(broker, "orders") as consumer:
                await broker.publish([Envelope("orders", "2", b"2")])
                await consumer.expect_only("2")
            assert not await broker.dead_letters.list()

    async def test_a_retried_message_comes_again_as_the_next_attempt(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await broker.publish([Envelope("orders", "1", b"\xff[1]", "Order", {"who": "Ann"})])
            first = await consumer.take_one()
            await consumer.settle(first, Retry(0, FAILURE))
            again = await consumer.take_one()
            assert (again.id, again.source, again.type, again.payload) == ("1", "orders", "Order", b"\xff[1]")
            assert (again.attempt, again.crashes) == (2, 0)
            assert again.headers["who"] == "Ann"
            assert again.headers[ATTEMPT] == 2
            (entry,) = _history(again)
            assert (entry["attempt"], entry["error"], entry["reason"]) == (1, "ValueError", "no such thing")
            assert abs(entry["at"] - time.time()) < 60
            await consumer.settle(again)
            assert await broker.backlog("orders") == 0

    async def test_a_retry_adds_its_headers_to_those_of_the_message(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await broker.publish([Envelope("orders", "1", b"1", headers={"who": "Ann", "span": "none"})])
            await consumer.settle(await consumer.take_one(), Retry(0, FAILURE, {"span": "first"}))
            again = await consumer.take_one()
            assert (again.headers["who"], again.headers["span"], again.attempt) == ("Ann", "first", 2)

    async def test_a_retry_is_held_back_for_its_delay(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await broker.publish([Envelope("orders", "1", b"1")])
            first = await consumer.take_one()
            began = trio.current_time()
            await consumer.settle(first, Retry(0.3, FAILURE))
            again = await consumer.take_one()
            assert 0.29 <= trio.current_time() - began <= 0.3 + LATE
            assert again.attempt == 2

    async def test_a_message_tried_again_remembers_its_last_ten_errors(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await broker.publish([Envelope("orders", "1", b"1")])
            for attempt in range(1, 13):
                delivery = await consumer.take_one()
                assert delivery.attempt == attempt
                await consumer.settle(delivery, Retry(0, FAILURE))
            assert [entry["attempt"] for entry in _history(await consumer.take_one())] == list(range(3, 13))

    async def test_a_retry_goes_back_to_the_group_that_failed_alone(self) -> None:
        async with (
            self.open_broker() as broker,
            open_consumer(broker, "orders", group="first") as first,
            open_consumer(broker, "orders", group="second") as second,
        ):
            await broker.publish([Envelope("orders", "1", b"1")])
            await second.settle(await second.take_one())
            await first.settle(await first.take_one(), Retry(0, FAILURE))
            again = await first.take_one()
            assert again.attempt == 2
            await broker.publish([Envelope("orders", "2", b"2")])
            await second.expect_only("2")
            await first.settle(again)
            await first.expect_only("2")

    async def test_a_failed_message_becomes_a_dead_letter(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await broker.publish([Envelope("orders", "1", b"\x00\xff", "Order", {"who": "Ann"})])
            await consumer.settle(await consumer.take_one(), Retry(0, FAILURE))
            await consumer.settle(await consumer.take_one(), Fail(FAILURE))
            assert await broker.backlog("orders") == 0
            (letter,) = await broker.dead_letters.list()
            assert (letter.source, letter.id, letter.type, letter.payload) == ("orders", "1", "Order", b"\x00\xff")
            assert (letter.group, letter.actor, letter.attempt) == ("first", "actor first", 2)
            assert letter.failure == FAILURE
            assert letter.headers["who"] == "Ann"
            assert abs(letter.at - time.time()) < 60
            assert await broker.dead_letters.get("orders", letter.entry) == letter

    async def test_what_a_delivery_published_is_sent_with_its_settlement(self) -> None:
        sent = [Envelope("orders", str(number), b"1") for number in range(4)]
        settlements = (Ack(), Retry(60, FAILURE), Reject(FAILURE), Fail(FAILURE))
        async with (
            self.open_broker() as broker,
            open_consumer(broker, "orders") as consumer,
            open_consumer(broker, "mail") as mail,
        ):
            await broker.publish(sent)
            for number, settlement in enumerate(settlements):
                delivery = await consumer.take_one()
                letters = [Envelope("mail", f"{number}-{copy}", b"hi", "Mail", {"n": number}) for copy in range(3)]
                await consumer.settle(delivery, settlement, [*letters, letters[0]])
                got = await mail.take(3)
                assert [(one.id, one.type, one.headers["n"]) for one in got] == [
                    (letter.id, "Mail", number) for letter in letters
                ]
            # Also to the delivery's own source, and delayed.
            await broker.publish([Envelope("orders", "5", b"1")])
            await consumer.settle(
                await consumer.take_one(),
                Ack(),
                [Envelope("orders", "7", b"", delay=0.1), Envelope("orders", "6", b""), Envelope("mail", "0-0", b"hi")],
            )
            assert [one.id for one in await consumer.take(2)] == ["6", "7"]
            await mail.expect_nothing(0)

    async def test_a_delivery_may_publish_before_it_ends(self) -> None:
        async with (
            self.open_broker() as broker,
            open_consumer(broker, "orders") as consumer,
            open_consumer(broker, "mail") as mail,
        ):
            await broker.publish([Envelope("orders", "1", b"1")])
            delivery = await consumer.take_one()
            assert await consumer.node.publish_fenced(consumer.subscription, delivery, self.envelopes("mail", 20))
            await mail.take(20)
            await consumer.settle(delivery)
            refused = [Envelope("mail", "late", b"1")]
            assert not await consumer.node.publish_fenced(consumer.subscription, delivery, refused)
            await broker.publish([Envelope("mail", "last", b"1")])
            await mail.expect_only("last")

    async def test_deliveries_handled_together_end_together_with_what_was_published(self) -> None:
        async with (
            self.open_broker() as broker,
            open_consumer(broker, "orders", "bills") as consumer,
            open_consumer(broker, "mail") as mail,
        ):
            unique = Unique("one", 60)
            await broker.publish([Envelope("orders", "1", b"1", headers={RESULT_TTL: 60})])
            await broker.publish([Envelope("orders", "2", b"1", priority=Priority.HIGH)])
            await broker.publish([Envelope("bills", "3", b"1", key="a"), Envelope("bills", "5", b"1", key="a")])
            await broker.publish_unique(Envelope("bills", "4", b"1", unique=unique))
            taken = await consumer.take(4)
            assert sorted(delivery.id for delivery in taken) == ["1", "2", "3", "4"]
            # The batch frees the unique key before its own message wants it.
            letters = [*self.envelopes("mail", 3), Envelope("bills", "6", b"1", unique=unique)]
            consumer.node.settle_together(consumer.subscription, [(one, Ack(b'"x"')) for one in taken], letters)
            await consumer.node.wait_settled()
            assert [one.id for one in await mail.take(3)] == [letter.id for letter in letters[:3]]
            rest = await consumer.take(2)
            assert sorted(delivery.id for delivery in rest) == ["5", "6"], "the keys are free"
            for delivery in rest:
                await consumer.settle(delivery)
            outcome = await broker.find_outcome("orders", "1")
            assert outcome is not None
            assert (outcome.status, outcome.value) == ("done", b'"x"')
            assert [await broker.backlog(source) for source in ("orders", "bills")] == [0, 0]
            assert consumer.node.statistics()["settled"] == 6

    async def test_nothing_of_a_batch_takes_effect_if_one_of_its_deliveries_is_no_longer_ours(self) -> None:
        async with (
            self.open_broker() as broker,
            open_consumer(broker, "orders", "bills") as consumer,
            open_consumer(broker, "mail") as mail,
        ):
            await broker.publish([Envelope("orders", "1", b"1"), Envelope("orders", "2", b"1")])
            await broker.publish([Envelope("bills", "3", b"1")])
            taken = sorted(await consumer.take(3), key=lambda delivery: delivery.id)
            await consumer.settle(taken[1])
            consumer.node.settle_together(
                consumer.subscription, [(one, Ack()) for one in taken], [Envelope("mail", "sum", b"1")]
            )
            await consumer.node.wait_settled()
            assert [event.delivery.id for event in consumer.seen(Fenced)] == ["2"]
            again = await consumer.take(2)
            assert sorted(one.id for one in again) == ["1", "3"], "they were released, and run again"
            consumer.node.settle_together(
                consumer.subscription, [(one, Ack()) for one in again], [Envelope("mail", "sum of two", b"1")]
            )
            await mail.expect_only("sum of two")
            await consumer.node.wait_settled()
            assert [await broker.backlog(source) for source in ("orders", "bills")] == [0, 0]

    async def test_the_backlog_of_a_group_is_what_it_has_not_settled(self) -> None:
        async with (
            self.open_broker() as broker,
            open_consumer(broker, "orders", group="first") as first,
            open_consumer(broker, "orders", group="second") as second,
        ):
            await broker.publish([*self.envelopes("orders", 3), *self.envelopes("orders", 1, priority=Priority.HIGH)])
            for delivery in await first.take(4):
                await first.settle(delivery)
            taken = await second.take(4)
            assert [await broker.backlog("orders", group) for group in ("first", "second", None)] == [0, 4, 4]
            await second.settle(taken[0])
            assert [await broker.backlog("orders", group) for group in ("first", "second", None)] == [0, 3, 3]
            assert [await broker.oldest("orders", group) for group in ("first", "second", None)] == [None] * 3
            for delivery in taken[1:]:
                await second.settle(delivery)
            assert await broker.backlog("orders") == 0

    async def test_a_delivery_is_settled_once(self) -> None:
        async with (
            self.open_broker() as broker,
            open_consumer(broker, "orders") as consumer,
            open_consumer(broker, "mail") as mail,
        ):
            await broker.publish([Envelope("orders", "1", b"1", headers={RESULT_TTL: 60})])
            delivery = await consumer.take_one()
            await consumer.settle(delivery, Ack(b"1"))
            await consumer.settle(delivery, Fail(FAILURE), [Envelope("mail", "1", b"1")])
            assert consumer.node.statistics()["fenced"] == 1
            (fenced,) = consumer.seen(Fenced)
            assert fenced.delivery == delivery
            outcome = await broker.find_outcome("orders", "1")
            assert outcome is not None
            assert outcome.status == "done"
            assert not await broker.dead_letters.list()
            await broker.publish([Envelope("mail", "last", b"1")])
            await mail.expect_only("last")

    async def test_settlements_are_applied_when_the_node_ends(self) -> None:
        async with self.open_broker() as broker:
            await broker.publish(self.envelopes("orders", 50))
            async with open_consumer(broker, "orders") as consumer:
                for delivery in await consumer.take(50):
                    consumer.node.settle(consumer.subscription, delivery, Ack())
            assert await broker.backlog("orders") == 0


def _history(delivery: Delivery) -> list[dict[str, Any]]:
    history: Any = delivery.headers[HISTORY]
    return history
