"""An actor learns of each of its messages that has become a dead letter, if it has asked for that."""

from __future__ import annotations

import attrs

from actorwork.message import ATTEMPT, FAILED, FLOW, REPLY_TO, RESULT_TTL, Envelope, Json
from actorwork.policy.settlement import Fail, Retry
from actorwork.testing.conformance.contract import ContractTests
from actorwork.testing.conformance.fake_consumer import FAILURE, open_consumer


class FailureTests(ContractTests):
    async def test_an_actor_is_told_once_of_a_message_that_has_failed(self) -> None:
        async with (
            self.open_broker() as broker,
            broker.open_replies() as replies,
            open_consumer(broker, "orders", is_told_failures=True) as consumer,
            open_consumer(broker, "orders", group="second") as other,
        ):
            headers: dict[str, Json] = {"who": "Ann", "n": 2**60, "none": [], RESULT_TTL: 60, REPLY_TO: replies.address}
            waiting = replies.expect("orders", "1")
            await broker.publish([Envelope("orders", "1", b'{"n": 1.0}', "Order", headers, key="k")])
            await consumer.settle(await consumer.take_one(), Retry(0, FAILURE))
            again = await consumer.take_one()
            await consumer.settle(again, Fail(FAILURE))
            outcome = await waiting.outcome()
            assert outcome.status == "failed"
            told = await consumer.take_one()
            assert (told.id, told.payload, told.type, told.key) == ("1", b'{"n": 1.0}', "Order", None)
            assert (told.attempt, told.headers[ATTEMPT]) == (2, 2)
            assert told.headers[FAILED] == {**attrs.asdict(FAILURE), "key": "k"}
            assert (told.headers["who"], told.headers["n"], told.headers["none"]) == ("Ann", 2**60, [])
            assert not {RESULT_TTL, REPLY_TO, FLOW} & set(told.headers), "its outcome is known already"
            await consumer.settle(told)
            await consumer.expect_nothing()
            assert (await other.take_one()).id == "1"
            await other.expect_nothing()  # The broker tells another actor nothing.
            assert await broker.find_outcome("orders", "1") == outcome
            assert [letter.id for letter in await broker.dead_letters.list()] == ["1"]

    async def test_of_a_failure_of_that_delivery_it_is_not_told_again(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders", is_told_failures=True) as consumer:
            await broker.publish([Envelope("orders", "1", b"1")])
            await consumer.settle(await consumer.take_one(), Fail(FAILURE))
            await consumer.settle(await consumer.take_one(), Fail(FAILURE))
            await consumer.expect_nothing()
            assert [letter.id for letter in await broker.dead_letters.list()] == ["1", "1"]

    async def test_an_actor_is_told_of_a_message_that_its_processes_have_died_with(self) -> None:
        async with self.open_broker() as broker:
            headers: dict[str, Json] = {"who": "Ann", RESULT_TTL: 60}
            await broker.publish([Envelope("orders", "1", b"1", headers=headers, key='of "Ann"/é')])
            async with self.open_remote_consumer("orders", max_crashes=1, lease=self.short_lease) as remote:
                await remote.take()
                await remote.kill()
            async with open_consumer(broker, "orders", max_crashes=1, is_told_failures=True) as consumer:
                told = await consumer.take_one()
                assert (told.id, told.payload, told.headers["who"]) == ("1", b"1", "Ann")
                failure = told.headers[FAILED]
                assert isinstance(failure, dict)
                assert (failure["type"], failure["key"]) == ("Crashed", 'of "Ann"/é')
                assert "1 processes died" in str(failure["reason"])
                await consumer.settle(told)
                await consumer.expect_nothing()
                assert [letter.id for letter in await broker.dead_letters.list()] == ["1"]
