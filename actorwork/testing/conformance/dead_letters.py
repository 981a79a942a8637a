"""Failed messages are kept, and may be replayed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import attrs
import trio

from actorwork.abc import Broker
from actorwork.message import Envelope, Priority
from actorwork.policy.settlement import Fail, Retry
from actorwork.settings import DeadLetterSettings
from actorwork.testing.conformance.contract import ContractTests
from actorwork.testing.conformance.fake_consumer import (
    FAILURE,
    FakeConsumer,
    open_consumer,
)


@asynccontextmanager
async def _open_consumer(broker: Broker, bounds: DeadLetterSettings, *sources: str) -> AsyncGenerator[FakeConsumer]:
    consumer = FakeConsumer("first", sources, room=100, max_crashes=3)
    consumer.subscription = attrs.evolve(consumer.subscription, dead_letters=bounds)
    async with broker.open_node([consumer.subscription], lease=5, emit=consumer.emit) as node:
        consumer.node = node
        yield consumer


class DeadLetterTests(ContractTests):
    async def test_dead_letters_are_listed_by_source_and_age(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "a", "b") as consumer:
            await self._dead_letter(broker, consumer, "a", "1", "2", "3")
            await self._dead_letter(broker, consumer, "b", "4")
            letters = broker.dead_letters
            assert [one.id for one in await letters.list("a")] == ["1", "2", "3"]
            assert [one.id for one in await letters.list("a", limit=2)] == ["1", "2"]
            assert sorted(one.id for one in await letters.list()) == ["1", "2", "3", "4"]
            assert len(await letters.list(limit=3)) == 3
            assert not await letters.list("c")
            assert list(await letters.sources()) == ["a", "b"]
            for nothing in ("0-0", "no entry at all"):
                assert await letters.get("a", nothing) is None
                assert await letters.drop("a", [nothing]) == 0
                assert await letters.replay("a", [nothing]) == 0
                assert not await letters.replay_as("a", nothing, b"1")

    async def test_a_dead_letter_is_replayed_as_a_first_attempt_to_the_group_that_failed_alone(self) -> None:
        async with (
            self.open_broker() as broker,
            open_consumer(broker, "orders", group="first") as first,
            open_consumer(broker, "orders", group="second") as second,
        ):
            await broker.publish([Envelope("orders", "1", b"\xff", "Order", {"who": "Ann"})])
            await first.settle(await first.take_one(), Retry(0, FAILURE))
            await first.settle(await first.take_one(), Fail(FAILURE))
            await second.settle(await second.take_one())
            (letter,) = await broker.dead_letters.list()
            assert await broker.dead_letters.replay("orders", [letter.entry, "0-0"]) == 1
            assert await broker.dead_letters.replay("orders", [letter.entry]) == 0
            assert not await broker.dead_letters.list()
            again = await first.take_one()
            assert (again.id, again.payload, again.type, again.attempt, again.crashes) == ("1", b"\xff", "Order", 1, 0)
            assert dict(again.headers) == {"who": "Ann"}
            await first.settle(again)
            await broker.publish([Envelope("orders", "2", b"2")])
            await first.expect_only("2")
            await second.expect_only("2")
            assert await broker.backlog("orders") == 0

    async def test_dead_letters_are_listed_page_by_page_also_behind_one_that_has_gone(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await self._dead_letter(broker, consumer, "orders", "1", "2", "3", "4")
            letters = broker.dead_letters
            first, second = await letters.list("orders", limit=2)
            assert await letters.drop("orders", [second.entry]) == 1
            third, fourth = await letters.list("orders", limit=2, after=second.entry)
            assert [one.id for one in (first, third, fourth)] == ["1", "3", "4"]
            assert not await letters.list("orders", after=fourth.entry)

    async def test_a_dead_letter_is_replayed_with_another_payload(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders", group="first") as consumer:
            await broker.publish([Envelope("orders", "1", b"wrong", "Order", {"who": "Ann", "old": 1})])
            await consumer.settle(await consumer.take_one(), Retry(0, FAILURE))
            await consumer.settle(await consumer.take_one(), Fail(FAILURE))
            (letter,) = await broker.dead_letters.list()
            again = {name: value for name, value in letter.headers.items() if name != "old"}
            letters = broker.dead_letters
            assert await letters.replay_as("orders", letter.entry, b"right", type="Refund", headers=again)
            assert not await letters.replay_as("orders", letter.entry, b"right")
            assert not await letters.replay_as("orders", "0-0", b"right")
            assert not await letters.list()
            taken = await consumer.take_one()
            assert (taken.id, taken.payload, taken.type, taken.attempt) == ("1", b"right", "Refund", 1)
            assert dict(taken.headers) == {"who": "Ann"}
            await consumer.settle(taken)
            assert await broker.backlog("orders") == 0

    async def test_a_dead_letter_that_is_replayed_keeps_its_key_and_its_priority(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            for replay_changed in (False, True):
                name = f"changed {replay_changed}"
                await broker.publish([Envelope("orders", name, b"1", key="k", priority=Priority.HIGH, lifetime=60)])
                await consumer.settle(await consumer.take_one(), Fail(FAILURE))
                (letter,) = await broker.dead_letters.list()
                if replay_changed:
                    assert await broker.dead_letters.replay_as("orders", letter.entry, b"2")
                else:
                    assert await broker.dead_letters.replay("orders", [letter.entry]) == 1
                again = await consumer.take_one()
                assert (again.id, again.key, again.priority, again.expires) == (name, "k", Priority.HIGH, None)
                await consumer.settle(again)

    async def test_so_many_dead_letters_of_a_source_are_kept_as_the_actor_says(self) -> None:
        bounds = DeadLetterSettings(max_count=3)
        async with self.open_broker() as broker, _open_consumer(broker, bounds, "orders", "others") as consumer:
            await self._dead_letter(broker, consumer, "others", "a")
            await self._dead_letter(broker, consumer, "orders", "1", "2", "3", "4", "5")
            assert [one.id for one in await broker.dead_letters.list("orders")] == ["3", "4", "5"]
            assert [one.id for one in await broker.dead_letters.list("others")] == ["a"]

    async def test_dead_letters_are_kept_for_so_long_as_the_actor_says(self) -> None:
        bounds = DeadLetterSettings(max_age=1)
        async with self.open_broker() as broker, _open_consumer(broker, bounds, "orders") as consumer:
            await self._dead_letter(broker, consumer, "orders", "1")
            await trio.sleep(1.2)
            await self._dead_letter(broker, consumer, "orders", "2")
            assert [one.id for one in await broker.dead_letters.list("orders")] == ["2"]

    async def test_a_dead_letter_may_be_dropped(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await self._dead_letter(broker, consumer, "orders", "1", "2")
            one, two = await broker.dead_letters.list("orders")
            assert await broker.dead_letters.drop("orders", [one.entry, "0-0"]) == 1
            assert list(await broker.dead_letters.list("orders")) == [two]
            assert await broker.dead_letters.get("orders", one.entry) is None

    async def _dead_letter(self, broker: Broker, consumer: FakeConsumer, source: str, *ids: str) -> None:
        await broker.publish([Envelope(source, name, b"1") for name in ids])
        for delivery in await consumer.take(len(ids)):
            await consumer.settle(delivery, Fail(FAILURE))
