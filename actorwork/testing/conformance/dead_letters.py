"""What nobody could handle is kept, and may be sent again."""

from __future__ import annotations

from actorwork.abc import Broker
from actorwork.message import Envelope
from actorwork.policy.settlement import Fail, Retry
from actorwork.testing.conformance.desks import (
    FAILURE,
    Desk,
    open_desk,
)
from actorwork.testing.conformance.questions import Questions


class DeadLetters(Questions):
    async def test_dead_letters_are_listed_by_source_and_age(self) -> None:
        async with self.open_broker() as broker, open_desk(broker, "a", "b") as desk:
            await self._bury(broker, desk, "a", "1", "2", "3")
            await self._bury(broker, desk, "b", "4")
            letters = broker.dead_letters
            assert [one.id for one in await letters.list("a")] == ["1", "2", "3"]
            assert [one.id for one in await letters.list("a", limit=2)] == ["1", "2"]
            assert sorted(one.id for one in await letters.list()) == ["1", "2", "3", "4"]
            assert len(await letters.list(limit=3)) == 3
            assert not await letters.list("c")
            assert await letters.get("a", "0-0") is None

    async def test_a_dead_letter_is_replayed_as_a_first_attempt_to_the_group_that_failed_alone(self) -> None:
        async with (
            self.open_broker() as broker,
            open_desk(broker, "orders", group="first") as first,
            open_desk(broker, "orders", group="second") as second,
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

    async def test_a_dead_letter_may_be_dropped(self) -> None:
        async with self.open_broker() as broker, open_desk(broker, "orders") as desk:
            await self._bury(broker, desk, "orders", "1", "2")
            one, two = await broker.dead_letters.list("orders")
            assert await broker.dead_letters.drop("orders", [one.entry, "0-0"]) == 1
            assert list(await broker.dead_letters.list("orders")) == [two]
            assert await broker.dead_letters.get("orders", one.entry) is None

    async def _bury(self, broker: Broker, desk: Desk, source: str, *ids: str) -> None:
        await broker.publish([Envelope(source, name, b"1") for name in ids])
        for delivery in await desk.take(len(ids)):
            await desk.settle(delivery, Fail(FAILURE))
