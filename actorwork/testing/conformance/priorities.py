"""Urgent messages are delivered first, and the others get turns."""

from __future__ import annotations

import trio

from actorwork.events import Reclaimed, Released
from actorwork.message import Delivery, Envelope, Priority
from actorwork.policy.settlement import Fail, Retry
from actorwork.testing.conformance.contract import ContractTests
from actorwork.testing.conformance.fake_consumer import FAILURE, LATE, FakeConsumer, open_consumer

CRITICAL, HIGH, NORMAL, LOW = Priority


def _message(id: str, priority: Priority, source: str = "orders") -> Envelope:
    return Envelope(source, id, b"1", headers={}, priority=priority)


async def _taken_one_by_one(consumer: FakeConsumer, count: int) -> list[Delivery]:
    found: list[Delivery] = []
    for _ in range(count):
        delivery = await consumer.take_one()
        found.append(delivery)
        await consumer.settle(delivery)
    return found


class PriorityTests(ContractTests):
    async def test_what_is_more_urgent_is_given_first(self) -> None:
        sent = [_message(f"{level.name} {number}", level) for number in range(3) for level in reversed(Priority)]
        async with self.open_broker() as broker:
            await broker.publish(sent)
            assert await broker.backlog("orders") == 12
            async with open_consumer(broker, "orders", room=1) as consumer:
                got = await _taken_one_by_one(consumer, 12)
                assert [one.id for one in got] == [
                    f"{level.name} {number}" for level in Priority for number in range(3)
                ]
                assert [one.priority for one in got] == [level for level in Priority for _ in range(3)]
                assert {one.source for one in got} == {"orders"}
            assert await broker.backlog("orders") == 0

    async def test_an_urgent_message_overtakes_what_was_not_read_yet(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders", room=2) as consumer:
            # A reader has to learn that a level is used at all; how soon, depends on the way of the notification.
            await broker.publish([_message("first of its level", HIGH)])
            await consumer.expect_only("first of its level")
            await broker.publish(self.envelopes("orders", 50))
            await consumer.take(4)
            await broker.publish([_message("urgent", HIGH)])
            # Deliveries in the sink, or on their way there, come before it.
            assert "urgent" in [one.id for one in await consumer.take(8)]

    async def test_what_is_less_urgent_has_its_turns(self) -> None:
        async with self.open_broker() as broker:
            await broker.publish([_message(f"h{number}", HIGH) for number in range(60)])
            await broker.publish([_message(f"n{number}", NORMAL) for number in range(3)])
            async with open_consumer(broker, "orders", room=1) as consumer:
                got = [one.id for one in await _taken_one_by_one(consumer, 36)]
            assert got[:8] == [f"h{number}" for number in range(8)], "but not at once"
            assert [name for name in got if name.startswith("n")] == ["n0", "n1", "n2"]

    async def test_nothing_is_read_before_what_is_more_urgent_in_another_source(self) -> None:
        async with self.open_broker() as broker:
            await broker.publish([_message(f"{number}", NORMAL, "a") for number in range(5)])
            await broker.publish([_message("urgent", CRITICAL, "b")])
            async with open_consumer(broker, "a", "b", room=1) as consumer:
                assert (await consumer.take_one()).id == "urgent"

    async def test_a_full_sink_may_have_credit_for_urgent_messages(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders", room=2) as consumer:
            consumer.reserve = 2
            await broker.publish([_message(f"n{number}", NORMAL) for number in range(20)])
            await consumer.wait(lambda: len(consumer.waiting) >= 2, "a full sink")
            await broker.publish([_message("low", LOW), _message("high", HIGH), _message("critical", CRITICAL)])
            names = {"high", "critical"}
            await consumer.wait(lambda: names <= {one.id for one in consumer.waiting}, "the urgent ones in a full sink")
            assert len([one for one in consumer.waiting if one.id not in names]) == 2
            await broker.publish([_message("more", HIGH)])
            await consumer.expect_nothing_more()
            # Make room, of one kind or the other.
            urgent = [one for one in consumer.waiting if one.id in names]
            consumer.waiting = [one for one in consumer.waiting if one.id not in names]
            consumer.node.resume(consumer.subscription)
            await consumer.wait(lambda: "more" in {one.id for one in consumer.waiting}, "the next urgent one")
            assert len([one for one in consumer.waiting if one.priority is NORMAL]) == 2
            for delivery in urgent:
                await consumer.settle(delivery)

    async def test_a_priority_is_kept_over_delays_retries_and_the_dead_letters(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await broker.publish([Envelope("orders", "1", b"1", priority=HIGH, delay=0.05)])
            for delay in (0.0, 0.05):
                delivery = await consumer.take_one()
                assert delivery.priority is HIGH
                await consumer.settle(delivery, Retry(delay, FAILURE))
            delivery = await consumer.take_one()
            assert (delivery.priority, delivery.attempt) == (HIGH, 3)
            await consumer.settle(delivery, Fail(FAILURE))
            (letter,) = await broker.dead_letters.list("orders")
            assert (letter.id, letter.source) == ("1", "orders")
            assert await broker.dead_letters.replay("orders", [letter.entry]) == 1
            delivery = await consumer.take_one()
            assert (delivery.id, delivery.priority, delivery.attempt) == ("1", HIGH, 1)
            await consumer.settle(delivery)
            assert await broker.backlog("orders") == 0

    async def test_an_id_is_kept_once_whatever_its_priority(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            assert await broker.publish([_message("1", LOW)]) == 1
            assert await broker.publish([_message("1", CRITICAL), _message("1", NORMAL), _message("2", NORMAL)]) == 1
            assert sorted(one.id for one in await _taken_one_by_one(consumer, 2)) == ["1", "2"]
            assert await broker.backlog("orders") == 0

    async def test_every_group_is_given_what_is_urgent_also_one_that_does_not_read_now(self) -> None:
        async with self.open_broker() as broker:
            async with open_consumer(broker, "orders", group="away"):
                pass
            async with open_consumer(broker, "orders", group="first") as first:
                await broker.publish([_message(level.name, level) for level in Priority])
                await _taken_one_by_one(first, 4)
                assert await broker.backlog("orders") == 4
                async with open_consumer(broker, "orders", group="late") as late:
                    await _taken_one_by_one(late, 4)
                async with open_consumer(broker, "orders", group="away", room=1) as away:
                    got = await _taken_one_by_one(away, 4)
                assert [one.id for one in got] == [level.name for level in Priority]
            assert await broker.backlog("orders") == 0

    async def test_an_urgent_message_is_handed_back_and_reclaimed_as_others_are(self) -> None:
        async with self.open_broker() as broker:
            async with self.open_remote_consumer("orders", lease=self.short_lease) as dead:
                await broker.publish([_message("1", CRITICAL)])
                assert await dead.take() == ["1"]
                await dead.kill()
            async with open_consumer(broker, "orders") as consumer:
                delivery = await consumer.take_one()
                assert (delivery.id, delivery.crashes, delivery.priority) == ("1", 1, CRITICAL)
                assert [(event.source, event.count) for event in consumer.seen(Reclaimed)] == [("orders", 1)]
                await consumer.release_deliveries(delivery)
                assert [(event.source, event.count) for event in consumer.seen(Released)] == [("orders", 1)]
                delivery = await consumer.take_one()
                assert (delivery.id, delivery.crashes, delivery.priority) == ("1", 1, CRITICAL)
                await consumer.settle(delivery)
            assert await broker.backlog("orders") == 0

    async def test_a_reader_of_another_process_sees_the_first_urgent_message_soon(self) -> None:
        async with self.open_remote_consumer("orders") as consumer, self.open_broker() as broker:
            await broker.publish([_message("normal", NORMAL)])
            assert await consumer.take() == ["normal"]
            await broker.publish([_message("urgent", CRITICAL)])
            began = trio.current_time()
            assert await consumer.take() == ["urgent"]
            assert trio.current_time() - began < 1 + LATE

    async def test_the_order_of_a_key_goes_before_its_priorities(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            levels = (LOW, CRITICAL, NORMAL)
            await broker.publish(
                [Envelope("orders", level.name, b"1", key="k", priority=level, headers={}) for level in levels]
            )
            got = await _taken_one_by_one(consumer, 3)
            assert [(one.id, one.priority) for one in got] == [(level.name, level) for level in levels]
            assert await broker.backlog("orders") == 0
