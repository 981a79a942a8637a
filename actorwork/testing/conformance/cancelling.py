"""Messages can be cancelled wherever they are; delayed ones can be listed."""

from __future__ import annotations

from actorwork.message import ATTEMPT, REPLY_TO, RESULT_TTL, Envelope, Status
from actorwork.policy.settlement import Ack, Fail, Retry
from actorwork.testing.conformance.contract import ContractTests
from actorwork.testing.conformance.fake_consumer import (
    FAILURE,
    expect_cancelled,
    open_consumer,
)


class CancellingTests(ContractTests):
    async def test_what_is_held_back_is_listed_by_when_it_is_due(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            began = consumer.node.now()
            await broker.publish(
                [
                    Envelope("orders", "third", b"3", delay=300),
                    Envelope("orders", "first", b"1", "Order", {"who": "Ann"}, delay=100),
                    Envelope("mail", "letter", b"4", delay=50),
                    Envelope("orders", "again", b"2"),
                ]
            )
            await consumer.settle(await consumer.take_one(), Retry(200, FAILURE))
            delayed = broker.delayed
            listed = await delayed.list("orders")
            assert [one.id for one in listed] == ["first", "again", "third"]
            assert [round((one.due - began) / 100) for one in listed] == [1, 2, 3]
            assert {one.source for one in listed} == {"orders"}
            assert (listed[0].payload, listed[0].type, dict(listed[0].headers)) == (b"1", "Order", {"who": "Ann"})
            assert listed[1].headers[ATTEMPT] == 2
            assert [one.id for one in await delayed.list("orders", limit=2)] == ["first", "again"]
            assert sorted(one.id for one in await delayed.list()) == ["again", "first", "letter", "third"]
            assert len(await delayed.list(limit=3)) == 3
            assert not await delayed.list("nothing")

    async def test_what_is_held_back_can_be_cancelled_and_who_waits_is_told(self) -> None:
        async with (
            self.open_broker() as broker,
            broker.open_replies() as replies,
            open_consumer(broker, "orders") as consumer,
        ):
            headers = {RESULT_TTL: 60, REPLY_TO: replies.address}
            await broker.publish([Envelope("orders", "1", b"1", headers=headers, delay=0.2)])
            waiting = replies.expect("orders", "1")
            assert not await broker.delayed.cancel("mail", "1")
            assert not await broker.delayed.cancel("orders", "2")
            assert await broker.delayed.cancel("orders", "1")
            assert not await broker.delayed.cancel("orders", "1")
            await expect_cancelled(waiting, broker, "orders", "1")
            assert not await broker.delayed.list("orders")
            await broker.publish([Envelope("orders", "2", b"1", delay=0.3)])
            await consumer.expect_only("2")

    async def test_a_retry_that_waits_can_be_cancelled_and_what_is_ready_or_in_hand_cannot(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await broker.publish([Envelope("orders", "1", b"1", headers={RESULT_TTL: 60})])
            delivery = await consumer.take_one()
            assert not await broker.delayed.cancel("orders", "1")
            await consumer.settle(delivery, Retry(600, FAILURE))
            assert await broker.delayed.cancel("orders", "1")
            outcome = await broker.find_outcome("orders", "1")
            assert outcome is not None
            assert outcome.status == "rejected"
            consumer.capacity = 0
            await broker.publish([Envelope("orders", "2", b"1")])
            assert not await broker.delayed.cancel("orders", "2")
            consumer.capacity = 1
            consumer.node.resume(consumer.subscription)
            await consumer.expect_only("2")

    async def test_a_tracked_message_that_no_node_has_is_cancelled_at_once(self) -> None:
        async with self.open_broker() as broker, broker.open_replies() as replies:
            headers = {RESULT_TTL: 60, REPLY_TO: replies.address}
            sent = [Envelope("orders", name, b"1", headers=headers) for name in "1234"]
            sent += [Envelope("orders", name, b"1", headers=headers, key="k") for name in ("holds the key", "waits")]
            sent += [Envelope("orders", "delayed", b"1", headers=headers, delay=60)]
            await broker.publish(sent)
            for name in ("2", "waits", "delayed"):
                waiting = replies.expect("orders", name)
                assert await broker.cancel_message("orders", name, reason="too late")
                await expect_cancelled(waiting, broker, "orders", name)
                info = await broker.states.find("orders", name)
                assert info is not None
                assert (info.status, info.reason) == (Status.CANCELLED, "too late")
                assert not await broker.cancel_message("orders", name, reason="again")
                assert await broker.states.find("orders", name) == info
            assert not await broker.cancel_message("orders", "never sent")
            async with open_consumer(broker, "orders") as consumer:
                assert [one.id for one in await consumer.take(4)] == ["1", "3", "4", "holds the key"]
                await consumer.expect_nothing()

    async def test_the_node_that_has_a_message_is_told_that_it_is_cancelled_until_it_is_over(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await broker.publish([Envelope("orders", name, b"1", headers={RESULT_TTL: 60}) for name in "12"])
            first, second = await consumer.take(2)
            assert await broker.cancel_message("orders", "1")
            assert not await broker.cancel_message("orders", "1")
            assert await broker.cancel_message("orders", "2", reason="too late")
            assert await broker.cancel_message("orders", "2", reason="too late", force=True), "that is more"
            await consumer.wait(lambda: consumer.cancelled.get(("orders", "2")) == ("too late", True), "to be told")
            assert consumer.cancelled["orders", "1"] == ("it was cancelled", False)
            await consumer.settle(second, Retry(0, FAILURE))
            outcome = await broker.find_outcome("orders", "2")
            assert outcome is not None
            assert outcome.failure is not None
            assert (outcome.failure.type, outcome.failure.reason) == ("Cancelled", "too late")
            await consumer.expect_nothing()
            await consumer.settle(first, Ack(b"5"))
            outcome = await broker.find_outcome("orders", "1")
            assert outcome is not None
            assert (outcome.status, outcome.value) == ("done", b"5"), "it has ended all the same"
            assert not await broker.cancel_message("orders", "1")
            consumer.cancelled.clear()
            await consumer.expect_nothing()
            assert not consumer.cancelled

    async def test_a_message_that_is_over_stays_as_it_is(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await broker.publish([Envelope("orders", "1", b"1", headers={RESULT_TTL: 60})])
            await consumer.settle(await consumer.take_one(), Fail(FAILURE))
            found = await broker.states.find("orders", "1"), await broker.find_outcome("orders", "1")
            assert not await broker.cancel_message("orders", "1", force=True)
            assert (await broker.states.find("orders", "1"), await broker.find_outcome("orders", "1")) == found
            (letter,) = await broker.dead_letters.list()
            assert await broker.dead_letters.replay("orders", [letter.entry]) == 1
            await consumer.expect_only("1")

    async def test_a_message_that_was_cancelled_at_a_node_that_dies_is_not_run_again(self) -> None:
        async with self.open_broker() as broker:
            headers = {RESULT_TTL: 60}
            await broker.publish([Envelope("orders", "1", b"1", headers=headers, key="k")])
            await broker.publish([Envelope("orders", "2", b"1", headers=headers, key="k")])
            async with self.open_remote_consumer("orders", lease=self.short_lease) as remote:
                await remote.take()
                assert await broker.cancel_message("orders", "1", reason="too late")
                await remote.kill()
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await consumer.expect_only("2")
            info = await broker.states.find("orders", "1")
            assert info is not None
            assert (info.status, info.reason) == (Status.CANCELLED, "too late")

    async def test_a_message_that_is_not_tracked_is_cancelled_only_while_it_is_held_back(self) -> None:
        async with self.open_broker() as broker:
            await broker.publish([Envelope("orders", "1", b"1"), Envelope("orders", "2", b"2", delay=60)])
            assert not await broker.cancel_message("orders", "1")
            assert await broker.cancel_message("orders", "2")
            async with open_consumer(broker, "orders") as consumer:
                await consumer.expect_only("1")
                assert not await broker.delayed.list("orders")
