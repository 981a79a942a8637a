"""What no node has been given can be dropped, and ends as if it had been cancelled."""

from __future__ import annotations

from actorwork.message import REPLY_TO, RESULT_TTL, Envelope, Failure, Outcome, Priority, Status, Unique
from actorwork.policy.settlement import Ack, Retry
from actorwork.records import Purgeable
from actorwork.testing.conformance.contract import ContractTests
from actorwork.testing.conformance.fake_consumer import FAILURE, open_consumer

PURGED = Failure("Cancelled", "a test")


class PurgeTests(ContractTests):
    async def test_whatever_is_ready_delayed_or_behind_a_key_is_counted_and_dropped_in_portions(self) -> None:
        async with self.open_broker() as broker, broker.open_replies() as replies:
            assert await broker.purging.count("orders") == Purgeable(0, 0, 0, 0)
            assert await broker.purging.drop("orders", reason="a test", most=10) == 0
            tracked = {RESULT_TTL: 60.0, REPLY_TO: replies.address}
            sent = [
                Envelope("orders", "plain", b"1", headers=tracked),
                Envelope("orders", "urgent", b"1", headers=tracked, priority=Priority.CRITICAL),
                Envelope("orders", "first", b"1", headers=tracked, key="k"),
                Envelope("orders", "second", b"1", headers=tracked, key="k"),
                Envelope("orders", "third", b"1", headers=tracked, key="k", priority=Priority.LOW),
                Envelope("orders", "later", b"1", headers=tracked, delay=600),
                Envelope("orders", "one of its kind", b"1", headers=tracked, unique=Unique("u")),
                Envelope("orders", "untracked", b"1"),
            ]
            waiting = {one.id: replies.expect("orders", one.id) for one in sent}
            await broker.publish([*sent, Envelope("mail", "letter", b"1")])
            assert await broker.purging.count("orders") == Purgeable(ready=5, delayed=1, behind=2, steps=0)
            assert await broker.purging.drop("orders", reason="a test", most=3) == 3
            assert (await broker.purging.count("orders")).total == 5
            assert await broker.purging.drop("orders", reason="a test", most=100) == 5
            assert await broker.purging.count("orders") == Purgeable(0, 0, 0, 0)
            assert await broker.backlog("orders") == 0
            for one in sent[:-1]:
                outcome = await waiting[one.id].outcome()
                assert outcome == Outcome("rejected", failure=PURGED)
                assert await broker.find_outcome("orders", one.id) == outcome
                info = await broker.states.find("orders", one.id)
                assert info is not None
                assert (info.status, info.reason) == (Status.CANCELLED, "a test")
            async with open_consumer(broker, "orders", "mail") as consumer:
                assert (await consumer.take_one()).id == "letter"
                # Neither the key nor the unique key is held any more.
                await broker.publish([Envelope("orders", "after", b"1", key="k", unique=Unique("u"))])
                await consumer.expect_only("after")

    async def test_what_a_node_has_been_given_stays_and_so_does_its_key(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await broker.publish([Envelope("orders", "in hand", b"1", key="k", headers={RESULT_TTL: 60.0})])
            in_hand = await consumer.take_one()
            await broker.publish([Envelope("orders", "again", b"1", headers={RESULT_TTL: 60.0})])
            await consumer.settle(await consumer.take_one(), Retry(600, FAILURE))
            await broker.publish([Envelope("orders", "behind", b"1", key="k")])
            assert await broker.purging.count("orders") == Purgeable(ready=0, delayed=1, behind=1, steps=0)
            assert await broker.purging.drop("orders", reason="a test", most=100) == 2
            info = await broker.states.find("orders", "again")
            assert info is not None
            assert info.status is Status.CANCELLED
            assert await broker.backlog("orders") == 1
            await consumer.settle(in_hand, Ack(b"7"))
            assert await broker.find_outcome("orders", "in hand") == Outcome("done", b"7")
            await broker.publish([Envelope("orders", "after", b"1", key="k")])
            await consumer.expect_only("after")

    async def test_what_one_of_several_actors_has_been_given_stays_for_the_others(self) -> None:
        async with self.open_broker() as broker:
            async with open_consumer(broker, "orders", group="first") as consumer:
                await broker.publish([Envelope("orders", "1", b"1")])
                async with open_consumer(broker, "orders", group="second", room=0):
                    await consumer.settle(await consumer.take_one())
                    assert await broker.purging.count("orders") == Purgeable(0, 0, 0, 0)
                    assert await broker.purging.drop("orders", reason="", most=100) == 0
            async with open_consumer(broker, "orders", group="second") as consumer:
                await consumer.expect_only("1")

    async def test_many_are_dropped_at_once_and_each_ends(self) -> None:
        async with self.open_broker() as broker:
            ready = self.envelopes("orders", 450, headers={RESULT_TTL: 60.0})
            delayed = self.envelopes("orders", 450, headers={RESULT_TTL: 60.0}, delay=600)
            behind = self.envelopes("orders", 301, headers={RESULT_TTL: 60.0}, key="k")
            await broker.publish([*ready, *delayed, *behind])
            assert await broker.purging.count("orders") == Purgeable(451, 450, 300, 0)
            assert await broker.purging.drop("orders", reason="a test", most=10_000) == 1201
            assert await broker.purging.count("orders") == Purgeable(0, 0, 0, 0)
            for one in (ready[-1], delayed[-1], behind[0], behind[-1]):
                info = await broker.states.find("orders", one.id)
                assert info is not None
                assert info.status is Status.CANCELLED
