"""What handlers of keys wait for is known as long as they do."""

from __future__ import annotations

from actorwork.message import Delivery, Envelope
from actorwork.policy.waits import MOST_WAITS, KeyWait
from actorwork.testing.conformance.contract import ContractTests
from actorwork.testing.conformance.fake_consumer import FakeConsumer, open_consumer, until

ONE, OTHER = "ü b:{*}", 'a "key"'


async def _begin(consumer: FakeConsumer, *envelopes: Envelope) -> list[Delivery]:
    """Return the deliveries of messages that were published, in this order."""
    found = {delivery.id: delivery for delivery in await consumer.take(len(envelopes))}
    return [found[envelope.id] for envelope in envelopes]


def _message(id: str, key: str, source: str = "orders") -> Envelope:
    return Envelope(source, id, b"1", key=key, headers={})


def _wait(of: Delivery, asked: Envelope) -> KeyWait:
    return KeyWait(of.source, of.key or "", of.id, asked.id, asked.source, asked.key or "")


class KeyWaitTests(ContractTests):
    async def test_of_two_handlers_that_ask_each_other_each_is_found_behind_the_other(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders", "mail") as consumer:
            waits = broker.waits
            begun = [_message("1", ONE), _message("2", OTHER, "mail")]
            await broker.publish(begun)
            one, other = await _begin(consumer, *begun)
            asked = [_message("3", OTHER, "mail"), _message("4", ONE)]
            first, second = _wait(one, asked[0]), _wait(other, asked[1])
            await broker.publish(asked[:1])
            assert await waits.note(one, first, ttl=60)
            assert await waits.behind(first) == [], "the other handler waits for nothing yet"
            assert await waits.note(other, second, ttl=60)
            assert await waits.behind(first) == [second]
            assert await waits.behind(second) == [], "its message was not sent"
            await broker.publish(asked[1:])
            assert await waits.behind(second) == [first]
            await waits.forget(first)
            assert await waits.behind(second) == []
            assert await waits.behind(first) == [second]
            assert await waits.note(one, first, ttl=0.01)

            async def is_over() -> bool:
                return await waits.behind(second) == []

            await until(is_over, "the note to go with its time")

    async def test_a_wait_ends_when_the_message_that_is_asked_has_its_turn(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            begun = [_message("1", ONE), _message("2", OTHER)]
            await broker.publish(begun)
            one, other = await _begin(consumer, *begun)
            asked = [_message("3", OTHER), _message("4", ONE), _message("5", OTHER)]
            await broker.publish(asked)
            first, second = _wait(one, asked[0]), _wait(other, asked[1])
            assert await broker.waits.note(one, first, ttl=60)
            assert await broker.waits.note(other, second, ttl=60)
            await consumer.settle(other)
            (third,) = await _begin(consumer, asked[0])
            assert await broker.waits.behind(first) == []
            assert await broker.waits.behind(_wait(one, asked[2])) == [], "the note was of a delivery before"
            assert not await broker.waits.note(other, second, ttl=60)
            last = KeyWait("orders", OTHER, "3", "4", "orders", ONE)
            assert await broker.waits.note(third, last, ttl=60)
            assert await broker.waits.behind(_wait(one, asked[2])) == [last]
            assert await broker.waits.behind(first) == [last], "the handler of what is asked waits itself"
            assert await broker.delayed.cancel("orders", "5")
            assert await broker.waits.behind(_wait(one, asked[2])) == []

    async def test_a_note_of_a_delivery_that_was_taken_from_its_node_does_not_count(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            begun = [_message("1", ONE), _message("2", OTHER, "mail")]
            asked = [_message("3", OTHER, "mail"), _message("4", ONE)]
            await broker.publish([*begun, *asked])
            async with open_consumer(broker, "mail") as another:
                (one,), (other,) = await _begin(consumer, begun[0]), await _begin(another, begun[1])
                first, second = _wait(one, asked[0]), _wait(other, asked[1])
                assert await broker.waits.note(one, first, ttl=60)
                assert await broker.waits.note(other, second, ttl=60)
                assert await broker.waits.behind(first) == [second]
            async with open_consumer(broker, "mail") as successor:
                (again,) = await _begin(successor, begun[1])
                assert await broker.waits.behind(first) == []
                assert await broker.waits.behind(second) == [first]
                assert not await broker.waits.note(other, second, ttl=60)
                assert await broker.waits.note(again, second, ttl=60)
                assert await broker.waits.behind(first) == [second]

    async def test_no_more_than_a_few_asks_of_a_handler_are_noted(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            begun = [_message("1", ONE), _message("2", OTHER)]
            await broker.publish(begun)
            one, _ = await _begin(consumer, *begun)
            asked = [_message(f"asked {number}", OTHER) for number in range(MOST_WAITS + 1)]
            await broker.publish([*asked, _message("3", ONE)])
            for number, envelope in enumerate(asked):
                assert await broker.waits.note(one, _wait(one, envelope), ttl=60) is (number < MOST_WAITS)
            assert await broker.waits.note(one, _wait(one, asked[0]), ttl=60), "it was noted before"
            behind = KeyWait("orders", OTHER, "2", "3", "orders", ONE)
            found = await broker.waits.behind(behind)
            assert sorted(wait.message for wait in found) == sorted(envelope.id for envelope in asked[:-1])
