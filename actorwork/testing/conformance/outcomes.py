"""The outcome of a message reaches the sender that asked for it."""

from __future__ import annotations

import trio

from actorwork.message import REPLY_TO, RESULT_TTL, Envelope
from actorwork.policy.settlement import Ack, Fail, Reject, Retry
from actorwork.testing.conformance.contract import ContractTests
from actorwork.testing.conformance.fake_consumer import (
    FAILURE,
    PATIENCE,
    open_consumer,
    until,
)


class OutcomeTests(ContractTests):
    async def test_an_outcome_is_kept_for_those_who_asked(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            for number, (settlement, status) in enumerate(
                (
                    (Ack(b'{"x": 1.0}'), "done"),
                    (Ack(), "done"),
                    (Reject(FAILURE), "rejected"),
                    (Fail(FAILURE), "failed"),
                )
            ):
                await broker.publish([Envelope("orders", str(number), b"1", headers={RESULT_TTL: 60})])
                await consumer.settle(await consumer.take_one(), settlement)
                outcome = await broker.find_outcome("orders", str(number))
                assert outcome is not None
                assert outcome.status == status
                if isinstance(settlement, Ack):
                    assert outcome.value == (settlement.result or b"null")
                else:
                    assert outcome.failure == FAILURE
            await broker.publish([Envelope("orders", "silent", b"1")])
            await consumer.settle(await consumer.take_one(), Ack(b"1"))
            assert await broker.find_outcome("orders", "silent") is None
            assert await broker.find_outcome("orders", "unknown") is None
            assert await broker.find_outcome("nowhere", "0") is None

    async def test_a_retry_is_no_outcome(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await broker.publish([Envelope("orders", "1", b"1", headers={RESULT_TTL: 60})])
            await consumer.settle(await consumer.take_one(), Retry(0, FAILURE))
            again = await consumer.take_one()
            assert await broker.find_outcome("orders", "1") is None
            await consumer.settle(again, Ack(b"2"))
            assert await broker.find_outcome("orders", "1") is not None

    async def test_an_outcome_is_forgotten_after_its_time(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await broker.publish([Envelope("orders", "1", b"1", headers={RESULT_TTL: 1.0})])
            await consumer.settle(await consumer.take_one(), Ack(b"1"))

            async def is_gone() -> bool:
                return await broker.find_outcome("orders", "1") is None

            assert not await is_gone()
            await until(is_gone, "the outcome to be forgotten")

    async def test_a_reply_reaches_the_client_that_waits_for_it(self) -> None:
        async with (
            self.open_broker() as broker,
            self.open_broker() as other,
            open_consumer(broker, "orders") as consumer,
            other.open_replies() as far,
            broker.open_replies() as near,
        ):
            assert far.address != near.address
            for replies, sender in ((near, broker), (far, other)):
                for number, settlement in enumerate((Ack(b'"yes"'), Reject(FAILURE), Fail(FAILURE))):
                    message_id = f"{replies.address} {number}"
                    waiting = replies.expect("orders", message_id)
                    unheard = replies.expect("orders", "never sent")
                    await sender.publish([Envelope("orders", message_id, b"1", headers={REPLY_TO: replies.address})])
                    await consumer.settle(await consumer.take_one(), settlement)
                    with trio.fail_after(PATIENCE):
                        outcome = await waiting.outcome()
                    assert outcome.status == ("done", "rejected", "failed")[number]
                    assert outcome.value == b'"yes"' if number == 0 else outcome.failure == FAILURE
                    waiting.close()
                    unheard.close()
            assert await broker.find_outcome("orders", f"{near.address} 0") is None, "no sender asked to keep it"

    async def test_a_reply_to_nobody_harms_nobody(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            async with broker.open_replies() as replies:
                gone = replies.address
            for number, address in enumerate((gone, "made up")):
                await broker.publish([Envelope("orders", str(number), b"1", headers={REPLY_TO: address})])
                await consumer.settle(await consumer.take_one(), Ack(b"1"))
            assert consumer.node.statistics()["settled"] == 2
