"""Messages with the same key are handled one after another, in the order in which they were stored."""

from __future__ import annotations

import random
from collections import defaultdict

import trio

from actorwork.abc import Broker
from actorwork.events import DeadLettered
from actorwork.message import REPLY_TO, RESULT_TTL, Envelope
from actorwork.policy.settlement import Ack, Fail, Reject, Retry, Settlement
from actorwork.testing.conformance.contract import ContractTests
from actorwork.testing.conformance.fake_consumer import (
    FAILURE,
    LATE,
    FakeConsumer,
    expect_cancelled,
    open_consumer,
    true_of,
    until,
)


def _keyed(*ids: str, key: str = "k", source: str = "orders") -> list[Envelope]:
    return [Envelope(source, name, b"1", key=key, headers={}) for name in ids]


async def _ids(consumer: FakeConsumer, count: int) -> list[str]:
    """Take and settle `count` deliveries, one after another; return their ids."""
    found: list[str] = []
    for _ in range(count):
        delivery = await consumer.take_one()
        found.append(delivery.id)
        await consumer.settle(delivery)
    return found


class KeyTests(ContractTests):
    async def test_of_each_key_only_the_first_is_given_until_it_is_settled(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await broker.publish([*_keyed("a1", "a2", "a3", key="a"), *_keyed("b1", "b2", key="ü b:{*}")])
            await broker.publish([Envelope("orders", "plain", b"1")])
            a1, b1, plain = await consumer.take(3)
            assert [(one.id, one.key) for one in (a1, b1, plain)] == [("a1", "a"), ("b1", "ü b:{*}"), ("plain", None)]
            await consumer.settle(a1)
            a2 = await consumer.take_one()
            assert (a2.id, a2.key) == ("a2", "a")
            await consumer.settle(b1)
            assert (await consumer.take_one()).id == "b2"
            await broker.publish([Envelope("orders", "last", b"1")])
            await consumer.expect_only("last")

    async def test_however_a_delivery_ends_the_next_one_of_its_key_follows(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            settlements: tuple[Settlement, ...] = (Ack(b"1"), Reject(FAILURE), Fail(FAILURE), Ack())
            await broker.publish(_keyed("0", "1", "2", "3"))
            for number, settlement in enumerate(settlements):
                delivery = await consumer.take_one()
                assert delivery.id == str(number)
                assert not consumer.waiting
                await consumer.settle(delivery, settlement)
            assert await broker.backlog("orders") == 0

    async def test_a_retry_goes_before_those_that_wait_for_its_key(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await broker.publish(_keyed("1", "2"))
            for attempt, delay in ((1, 0.0), (2, 0.1), (3, 0.0)):
                delivery = await consumer.take_one()
                assert (delivery.id, delivery.attempt, delivery.key) == ("1", attempt, "k")
                await consumer.settle(delivery, Retry(delay, FAILURE))
                if delay:
                    await broker.publish([Envelope("orders", "plain", b"1")])
                    await consumer.expect_only("plain")
            assert await _ids(consumer, 2) == ["1", "2"]

    async def test_a_message_in_the_hand_of_a_dead_process_keeps_its_key_until_it_has_ended(self) -> None:
        async with self.open_broker() as broker:
            async with self.open_remote_consumer("orders", lease=self.short_lease) as dead:
                await broker.publish(_keyed("1", "2"))
                assert await dead.take() == ["1"]
                await dead.kill()
            async with open_consumer(broker, "orders") as consumer:
                delivery = await consumer.take_one()
                assert (delivery.id, delivery.crashes) == ("1", 1)
                assert not consumer.waiting
                await consumer.release_deliveries(delivery)
                assert await _ids(consumer, 2) == ["1", "2"]

    async def test_a_dead_lettered_message_frees_its_key(self) -> None:
        async with self.open_broker() as broker:
            async with self.open_remote_consumer("orders", max_crashes=0, lease=self.short_lease) as dead:
                await broker.publish(_keyed("1", "2"))
                assert await dead.take() == ["1"]
                await dead.kill()
            async with open_consumer(broker, "orders", max_crashes=0) as consumer:
                await consumer.expect_only("2")
                assert [event.message_id for event in consumer.seen(DeadLettered)] == ["1"]
                assert await broker.backlog("orders") == 0

    async def test_every_group_has_settled_a_message_before_anybody_is_given_the_next_one(self) -> None:
        async with (
            self.open_broker() as broker,
            open_consumer(broker, "orders", group="first") as first,
            open_consumer(broker, "orders", group="second") as second,
        ):
            await broker.publish(_keyed("1", "2"))
            await first.settle(await first.take_one())
            await broker.publish([Envelope("orders", "plain", b"1")])
            await first.expect_only("plain")
            await second.settle(await second.take_one(), Retry(0.1, FAILURE))
            await second.expect_only("plain")
            again = await second.take_one()
            assert (again.id, again.attempt) == ("1", 2)
            assert not first.waiting
            await second.settle(again)
            await first.expect_only("2")
            await second.expect_only("2")
            assert await broker.backlog("orders") == 0

    async def test_a_message_for_one_group_alone_has_its_place_in_the_order_too(self) -> None:
        async with (
            self.open_broker() as broker,
            open_consumer(broker, "orders", group="first") as first,
            open_consumer(broker, "orders", group="second") as second,
        ):
            await broker.publish([Envelope("orders", "1", b"1", key="k", group="second"), *_keyed("2")])
            await broker.publish([Envelope("orders", "plain", b"1")])
            await first.expect_only("plain")
            await second.expect_only("1")
            assert (await first.take_one()).id == "2"

    async def test_a_group_that_comes_late_is_given_one_after_another_too(self) -> None:
        async with self.open_broker() as broker:
            await broker.publish(_keyed("1", "2", "3"))
            async with open_consumer(broker, "orders", group="first") as first:
                one = await first.take_one()
                async with open_consumer(broker, "orders", group="second") as late:
                    await late.expect_only("1")
                    await first.settle(one)
                    two = await late.take_one()
                    assert two.id == "2"
                    await late.settle(two)
                    assert await _ids(first, 2) == ["2", "3"]
                    await late.expect_only("3")

    async def test_the_same_key_in_another_source_is_another_key(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "a", "b") as consumer:
            await broker.publish([*_keyed("1", "2", source="a"), *_keyed("1", "2", source="b")])
            assert {(one.source, one.id) for one in await consumer.take(2)} == {("a", "1"), ("b", "1")}

    async def test_a_delayed_message_enters_the_order_when_it_is_due(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await broker.publish([Envelope("orders", "late", b"1", key="k", delay=0.15), *_keyed("1")])
            first = await consumer.take_one()
            assert first.id == "1"

            async def is_due() -> bool:
                return not await broker.delayed.list("orders")

            await until(is_due, "the delayed one to be due")
            await broker.publish(_keyed("2"))
            await consumer.settle(first)
            assert await _ids(consumer, 2) == ["late", "2"]

    async def test_what_a_delivery_publishes_has_its_place_in_the_order_too(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await broker.publish(_keyed("1", "2"))
            first = await consumer.take_one()
            assert await consumer.node.publish_fenced(consumer.subscription, first, _keyed("3"))
            await consumer.settle(first, Ack(), [*_keyed("4"), *_keyed("5")])
            assert await _ids(consumer, 4) == ["2", "3", "4", "5"]

    async def test_a_dead_letter_that_is_replayed_goes_behind_those_that_wait(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await broker.publish(_keyed("1", "2", "3"))
            await consumer.settle(await consumer.take_one(), Fail(FAILURE))
            two = await consumer.take_one()
            (letter,) = await broker.dead_letters.list("orders")
            assert await broker.dead_letters.replay("orders", [letter.entry]) == 1
            await broker.publish(_keyed("4"))
            await consumer.settle(two)
            assert await _ids(consumer, 3) == ["3", "1", "4"]

    async def test_what_waits_behind_its_key_is_kept_and_counted_once(self) -> None:
        async with self.open_broker() as broker:
            await broker.publish(_keyed("1", "2", "3"))
            assert await broker.publish([*_keyed("2"), *_keyed("1")]) == 0
            assert await broker.backlog("orders") == 3
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            assert await _ids(consumer, 3) == ["1", "2", "3"]
            assert await broker.backlog("orders") == 0
            await broker.publish(_keyed("4"))
            await consumer.expect_only("4")

    async def test_what_waits_behind_its_key_can_be_cancelled(self) -> None:
        async with (
            self.open_broker() as broker,
            broker.open_replies() as replies,
            open_consumer(broker, "orders") as consumer,
        ):
            headers = {RESULT_TTL: 60, REPLY_TO: replies.address}
            await broker.publish(_keyed("1"))
            await broker.publish([Envelope("orders", "2", b"1", key="k", headers=headers), *_keyed("3")])
            first = await consumer.take_one()
            waiting = replies.expect("orders", "2")
            assert not await broker.delayed.cancel("orders", "1"), "it is in flight"
            assert await broker.delayed.cancel("orders", "2")
            assert not await broker.delayed.cancel("orders", "2")
            await expect_cancelled(waiting, broker, "orders", "2")
            await consumer.settle(first)
            await consumer.expect_only("3")
            assert await broker.backlog("orders") == 0

    async def test_a_retry_that_is_cancelled_frees_its_key(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await broker.publish(_keyed("1", "2"))
            await consumer.settle(await consumer.take_one(), Retry(600, FAILURE))
            assert [one.id for one in await broker.delayed.list("orders")] == ["1"]
            assert await broker.delayed.cancel("orders", "1")
            await consumer.expect_only("2")

    async def test_a_delayed_message_that_is_cancelled_frees_nobodys_key(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await broker.publish([*_keyed("1", "2"), Envelope("orders", "late", b"1", key="k", delay=600)])
            first = await consumer.take_one()
            assert await broker.delayed.cancel("orders", "late")
            await broker.publish([Envelope("orders", "plain", b"1")])
            await consumer.expect_only("plain")
            await consumer.settle(first)
            await consumer.expect_only("2")

    async def test_a_message_of_another_process_lets_the_next_one_here_follow(self) -> None:
        async with (
            self.open_broker() as broker,
            self.open_remote_consumer("orders", group="second") as other,
            open_consumer(broker, "orders", group="first") as consumer,
        ):
            await broker.publish(_keyed("1", "2"))
            await consumer.settle(await consumer.take_one())
            assert await other.take() == ["1"]
            await other.settle(0, Ack())
            began = trio.current_time()
            await consumer.expect_only("2")
            assert trio.current_time() - began < 1 + LATE

    async def test_two_nodes_keep_the_order_of_many_keys_over_failures(self) -> None:
        dice = random.Random(7)
        sent = [
            Envelope("orders", f"{key}-{number}", b"%d" % number, key=f"key {key}")
            for number in range(8)
            for key in range(12)
        ]
        ended: defaultdict[str, list[int]] = defaultdict(list)
        in_flight: set[str] = set()
        async with (
            self.open_broker() as broker,
            self.open_broker() as other,
            open_consumer(broker, "orders", room=6) as one,
            open_consumer(other, "orders", room=6) as two,
        ):

            async def work(consumer: FakeConsumer) -> None:
                while True:
                    delivery = await consumer.take_one()
                    key = delivery.key or ""
                    assert key not in in_flight, "two messages of one key are in flight"
                    in_flight.add(key)
                    await trio.lowlevel.checkpoint()
                    in_flight.remove(key)
                    what = dice.random()
                    if what < 0.1:
                        await consumer.release_deliveries(delivery)
                    elif what < 0.3 and delivery.attempt < 4:
                        consumer.node.settle(consumer.subscription, delivery, Retry(dice.choice([0.0, 0.02]), FAILURE))
                    else:
                        number = int(delivery.payload if isinstance(delivery.payload, bytes) else b"")
                        ended[key].append(number)
                        consumer.node.settle(consumer.subscription, delivery, Fail(FAILURE) if what > 0.9 else Ack())

            async with trio.open_nursery() as nursery:
                nursery.start_soon(work, one)
                nursery.start_soon(work, two)
                await _publish_in_parts(broker, sent)
                await until(true_of(lambda: sum(map(len, ended.values())) >= len(sent)), "all to end")
                nursery.cancel_scope.cancel()
            assert dict(ended) == {f"key {key}": list(range(8)) for key in range(12)}
            assert one.node.statistics()["fenced"] + two.node.statistics()["fenced"] == 0

            async def is_empty() -> bool:
                return await broker.backlog("orders") == 0

            await until(is_empty, "the source to be empty")


async def _publish_in_parts(broker: Broker, sent: list[Envelope]) -> None:
    for start in range(0, len(sent), 10):
        await broker.publish(sent[start : start + 10])
