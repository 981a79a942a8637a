"""For how long messages wait is known, by the broker's clock."""

from __future__ import annotations

import trio

from actorwork.message import Envelope
from actorwork.policy.settlement import Retry
from actorwork.testing.conformance.fake_consumer import FAILURE, LATE, open_desk, until
from actorwork.testing.conformance.questions import Questions


class Waiting(Questions):
    """What is said of a source's oldest message."""

    async def test_the_age_of_the_oldest_message_is_that_of_the_first_which_nobody_has_read(self) -> None:
        async with self.open_broker() as broker:
            assert await broker.oldest("orders") is None
            await broker.publish(self.envelopes("orders", 1))
            await trio.sleep(0.2)
            await broker.publish(self.envelopes("orders", 1))
            oldest = await broker.oldest("orders")
            assert oldest is not None
            assert 0.19 <= oldest < 0.2 + LATE
            async with open_desk(broker, "orders", room=1) as desk:
                await desk.take_one()
                await desk.wait(lambda: desk.waiting, "the second one")

                async def is_known() -> bool:
                    return await broker.oldest("orders") is None

                # What is in hand waits no longer, however long that takes.
                await until(is_known, "nothing to be left")
                await broker.publish(self.envelopes("orders", 1))
                late = await broker.oldest("orders")
                assert late is None or late < 0.2

    async def test_what_comes_later_has_not_waited_before_it_came(self) -> None:
        async with self.open_broker() as broker:
            async with open_desk(broker, "orders") as desk:
                await broker.publish(self.envelopes("orders", 1))
                again = await desk.take_one()
                await broker.publish(self.envelopes("orders", 1, delay=0.4))
                await trio.sleep(0.5)
                late = await desk.take_one()
                await desk.node.stop_intake()
                await desk.settle(again, Retry(0, FAILURE))
                await desk.settle(late, Retry(0, FAILURE))
            oldest = await broker.oldest("orders")
            assert oldest is not None
            assert oldest < 0.4

    async def test_of_all_priorities_and_groups_the_oldest_one_counts(self) -> None:
        async with self.open_broker() as broker:
            async with open_desk(broker, "orders", group="first"):
                pass
            async with open_desk(broker, "orders", group="second") as desk:
                await broker.publish([Envelope("orders", "1", b"1")])
                await trio.sleep(0.2)
                await broker.publish([Envelope("orders", "2", b"2")])
                await desk.take(2)
                oldest = await broker.oldest("orders")
                assert oldest is not None
                assert oldest >= 0.19, "the other group has not had it"
