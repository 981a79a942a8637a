"""Which node owns a delivery: releasing, reclaiming from dead nodes, and the fence."""

from __future__ import annotations

import threading
import time

import trio

from actorwork.abc import Broker
from actorwork.events import DeadLettered, Reclaimed, Released, SuspectsInFlight
from actorwork.message import RESULT_TTL, Envelope, Json
from actorwork.policy.crashes import LEFT_TO_OTHERS
from actorwork.policy.settlement import Ack, Fail, Retry
from actorwork.testing.conformance.contract import ContractTests
from actorwork.testing.conformance.fake_consumer import (
    FAILURE,
    LATE,
    open_consumer,
)


class OwnershipTests(ContractTests):
    async def test_a_node_knows_in_any_thread_that_its_lease_holds(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            states = [consumer.node.lease_state()]
            # Blocking the loop, as the code may that makes others ask.
            thread = threading.Thread(target=lambda: states.append(consumer.node.lease_state()))
            thread.start()
            thread.join()
            assert len(states) == 2, "asked in another thread, it raised"
            for state in states:
                assert state.left > 0
                assert not state.trouble

    async def test_a_message_handed_back_keeps_its_place_and_its_count(self) -> None:
        sent = self.envelopes("orders", 6)
        async with self.open_broker() as broker:
            await broker.publish(sent)
            async with open_consumer(broker, "orders", room=2) as consumer:
                got = await consumer.take(2)
                consumer.capacity = 0
                await consumer.node.stop_intake()
                given = [*reversed(consumer.waiting), *got]
                await consumer.release_deliveries(*given)
                assert sum(event.count for event in consumer.seen(Released)) == len(given)
                assert consumer.node.statistics()["released"] == len(given)
            async with open_consumer(broker, "orders") as consumer:
                again = await consumer.take(6)
                assert [one.id for one in again] == [one.id for one in sent], "those before the ones never read"
                assert {(one.attempt, one.crashes) for one in again} == {(1, 0)}

    async def test_a_message_handed_back_is_taken_by_another_node_within_a_second(self) -> None:
        async with (
            self.open_broker() as broker,
            self.open_broker() as other,
            open_consumer(broker, "orders", room=1) as one,
        ):
            await broker.publish([Envelope("orders", "1", b"1")])
            delivery = await one.take_one()
            async with open_consumer(other, "orders") as two:
                one.capacity = 0
                began = trio.current_time()
                await one.release_deliveries(delivery)
                got = await two.take_one()
                assert trio.current_time() - began < 1 + LATE
                assert (got.id, got.attempt, got.crashes) == ("1", 1, 0)
                # The node that released it cannot settle it.
                await one.settle(delivery)
                assert one.node.statistics()["fenced"] == 1
                await two.settle(got)
                assert two.node.statistics()["settled"] == 1

    async def test_what_a_node_leaves_unsettled_is_run_elsewhere_at_once(self) -> None:
        async with (
            self.open_broker() as broker,
            self.open_broker() as other,
            open_consumer(other, "orders", room=0, lease=60) as two,
        ):
            async with open_consumer(broker, "orders", lease=60) as one:
                await broker.publish([Envelope("orders", "1", b"1")])
                await one.take_one()
                two.capacity = 10
                two.node.resume(two.subscription)
            began = trio.current_time()
            got = await two.take_one()
            assert trio.current_time() - began < 1 + LATE
            assert (got.id, got.attempt) == ("1", 1)

    async def test_the_work_of_a_killed_process_is_taken_over_after_its_lease(self) -> None:
        sent = self.envelopes("orders", 5)
        async with (
            self.open_broker() as broker,
            self.open_remote_consumer("orders", room=5, lease=self.short_lease) as dead,
        ):
            await broker.publish(sent)
            assert len(await dead.take(5)) == 5
            async with open_consumer(broker, "orders") as consumer:
                began = trio.current_time()
                await dead.kill()
                got = await consumer.take(5)
                assert trio.current_time() - began < self.short_lease + 2 + LATE
                assert [one.id for one in got] == [one.id for one in sent]
                assert {(one.attempt, one.crashes) for one in got} == {(1, 1)}
                assert sum(event.count for event in consumer.seen(Reclaimed)) == 5
                assert consumer.node.statistics()["reclaimed"] == 5
                for one in got:
                    consumer.node.settle(consumer.subscription, one, Ack())
                await consumer.node.wait_settled()
                assert await broker.backlog("orders") == 0

    async def test_the_work_of_a_node_that_its_parent_saw_die_is_run_elsewhere_at_once(self) -> None:
        sent = self.envelopes("orders", 3)
        async with self.open_broker() as broker, self.open_remote_consumer("orders", room=3, lease=60) as dead:
            await broker.publish(sent)
            assert len(await dead.take(3)) == 3
            incarnation = (await dead.report())["incarnation"]
            async with open_consumer(broker, "orders") as consumer:
                await dead.kill()
                began = trio.current_time()
                assert await broker.release_lease(incarnation)
                got = await consumer.take(3)
                assert trio.current_time() - began < 1 + LATE
                assert [(one.id, one.attempt, one.crashes) for one in got] == [(one.id, 1, 1) for one in sent]
                assert not await broker.release_lease(incarnation)
                for one in got:
                    await consumer.settle(one)

    async def test_a_message_that_kills_processes_becomes_a_dead_letter_before_it_is_run_again(self) -> None:
        async with self.open_broker() as broker:
            await broker.publish([Envelope("orders", "1", b"1", headers={RESULT_TTL: 60})])
            for _ in range(2):
                async with self.open_remote_consumer("orders", max_crashes=2, lease=self.short_lease) as dead:
                    assert await dead.take() == ["1"]
                    await dead.kill()
            async with open_consumer(broker, "orders", max_crashes=2) as consumer:
                await consumer.wait(lambda: consumer.seen(DeadLettered), "the message to be dead-lettered")
                (dead_lettered,) = consumer.seen(DeadLettered)
                assert (
                    dead_lettered.source,
                    dead_lettered.actor_id,
                    dead_lettered.message_id,
                    dead_lettered.crashes,
                ) == (
                    "orders",
                    "first",
                    "1",
                    2,
                )
                assert consumer.node.statistics()["dead_lettered"] == 1
                (letter,) = await broker.dead_letters.list("orders")
                assert (letter.id, letter.group, letter.actor, letter.payload) == ("1", "first", "actor first", b"1")
                assert letter.failure.reason
                outcome = await broker.find_outcome("orders", "1")
                assert outcome is not None
                assert outcome.status == "failed"
                await broker.publish([Envelope("orders", "2", b"2")])
                await consumer.expect_only("2")
                assert await broker.backlog("orders") == 0

    async def test_a_message_that_kills_processes_runs_max_crashes_times(self) -> None:
        """Once if that is 0: before its first run no message is known to kill."""
        async with self.open_broker() as broker:
            for most in range(4):
                source = f"orders:{most}"
                await broker.publish([Envelope(source, "1", b"1")])
                for run in range(max(1, most)):
                    # A node that ends without settling what it took looks as one that was killed.
                    async with open_consumer(broker, source, max_crashes=most) as dying:
                        assert (await dying.take_one()).crashes == run
                async with open_consumer(broker, source, max_crashes=most) as consumer:
                    await consumer.wait(lambda here=consumer: here.seen(DeadLettered), "the dead letter")
                    assert [event.crashes for event in consumer.seen(DeadLettered)] == [max(1, most)]
                    assert await broker.backlog(source) == 0
                    assert not consumer.offered

    async def test_a_suspect_runs_with_nothing_beside_it_of_any_source(self) -> None:
        async with self.open_broker() as broker:
            await self._make_suspects(broker, "1", "2")
            await broker.publish([Envelope("mail", "fresh", b"1")])
            async with open_consumer(broker, "orders", "mail") as consumer:
                # Sources in several slots are read independently, so the other message might come first.
                consumer.node.pause_sources(consumer.subscription, {"mail"})
                order: list[str] = []
                while len(order) < 3:
                    delivery = await consumer.take_one()
                    order.append(delivery.id)
                    if delivery.id != "fresh":
                        assert delivery.crashes == 2
                        assert [event.present for event in consumer.seen(SuspectsInFlight)][-1]
                        consumer.node.pause_sources(consumer.subscription, ())
                        await consumer.expect_nothing()
                    await consumer.settle(delivery)
                assert [one for one in order if one != "fresh"] == ["1", "2"]
                await consumer.wait(
                    lambda: not consumer.seen(SuspectsInFlight)[-1].present, "the end of the last suspect"
                )

    async def test_a_busy_node_takes_a_suspect_when_all_else_has_ended(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders", "mail") as consumer:
            consumer.node.pause_sources(consumer.subscription, {"orders"})
            await self._make_suspects(broker, "1")
            await broker.publish([Envelope("mail", "long", b"1")])
            long = await consumer.take_one()
            consumer.node.pause_sources(consumer.subscription, ())
            await consumer.expect_nothing(LEFT_TO_OTHERS + 2)
            # From now on it reads nothing, or it might never be free of other messages.
            await broker.publish([Envelope("mail", "later", b"1")])
            await consumer.expect_nothing()
            await consumer.settle(long)
            suspect = await consumer.take_one()
            assert (suspect.id, suspect.crashes) == ("1", 2)
            await consumer.expect_nothing()
            await consumer.settle(suspect)
            await consumer.expect_only("later")

    async def test_a_node_that_clears_itself_goes_on_when_another_one_takes_the_suspect(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders", "mail") as consumer:
            consumer.node.pause_sources(consumer.subscription, {"orders"})
            await self._make_suspects(broker, "1")
            await broker.publish([Envelope("mail", "long", b"1")])
            long = await consumer.take_one()
            consumer.node.pause_sources(consumer.subscription, ())
            # By now it clears itself; if it should be late, the rest holds all the same.
            await consumer.expect_nothing(LEFT_TO_OTHERS + 0.5)
            async with open_consumer(broker, "orders") as free:
                assert (await free.take_one()).id == "1"
                await broker.publish([Envelope("mail", "later", b"1")])
                await consumer.expect_only("later")
                await consumer.settle(long)

    async def _make_suspects(self, broker: Broker, *names: str) -> None:
        """Publish messages, and let two nodes end that have them in flight."""
        await broker.publish([Envelope("orders", name, b"1") for name in names])
        for _ in range(2):
            async with open_consumer(broker, "orders") as dying:
                await dying.take(len(names))

    async def test_a_blocked_loop_keeps_its_lease(self) -> None:
        # Long enough even for a thread that a busy machine delays.
        lease = 4 * self.short_lease
        async with self.open_broker() as broker, open_consumer(broker, "orders", lease=lease) as consumer:
            await broker.publish([Envelope("orders", "1", b"1")])
            held = await consumer.take_one()
            async with self.open_remote_consumer("orders", lease=lease) as other:
                time.sleep(1.5 * lease)  # noqa: ASYNC251 - a handler that blocks the loop
                assert (await other.report())["offered"] == 0
                await consumer.settle(held)
                assert consumer.node.statistics()["fenced"] == 0
                assert await broker.backlog("orders") == 0

    async def test_a_node_that_was_taken_for_dead_changes_nothing_and_begins_anew(self) -> None:
        """The one test of the fence that no broker passes by luck: a real process, stopped beyond its lease."""
        headers: dict[str, Json] = {RESULT_TTL: 60}
        async with (
            self.open_broker() as broker,
            self.open_remote_consumer("orders", room=3, lease=2 * self.short_lease) as zombie,
        ):
            await broker.publish([Envelope("orders", str(number), b"1", headers=headers) for number in range(3)])
            assert await zombie.take(3) == ["0", "1", "2"]
            before = (await zombie.report())["incarnation"]
            await self.stop_outside_of_writing(zombie, broker)
            try:
                async with open_consumer(broker, "orders") as consumer:
                    got = await consumer.take(3)
                    await consumer.settle(got[0], Ack(b'"mine"'))
                    # 1 is settled afterwards, 2 not at all.
                    consumer.capacity = 0
                    zombie.resume()
                    await zombie.settle(0, Ack(b'"zombie"'), [Envelope("mail", "0", b"1", headers={})])
                    await zombie.settle(1, Fail(FAILURE), [Envelope("mail", "1", b"1", headers={})])
                    await zombie.settle(2, Retry(0, FAILURE), [Envelope("mail", "2", b"1", headers={})])
                    assert not await zombie.publish_fenced(2, [Envelope("mail", "3", b"1", headers={})])
                    await zombie.wait_revoked()
                    report = await zombie.report()
                    assert report["fenced"] == report["counted"] == 3
                    assert report["lost"] == [(before, report["incarnation"])]
                    assert before != report["incarnation"]
                    await consumer.settle(got[1], Ack(b'"mine"'))
                    await consumer.settle(got[2], Ack(b'"mine"'))
                    assert consumer.node.statistics()["fenced"] == 0
                    assert await broker.backlog("mail") == 0, "a zombie's messages do not appear"
                    assert not await broker.dead_letters.list()
                    for number in range(3):
                        outcome = await broker.find_outcome("orders", str(number))
                        assert outcome is not None
                        assert outcome.value == b'"mine"'
                    # The new incarnation works.
                    await consumer.node.stop_intake()
                    await broker.publish([Envelope("orders", "new", b"1")])
                    assert await zombie.take() == ["new"]
                    await zombie.settle(3, Ack(b"1"))
                    assert await broker.backlog("orders") == 0
            finally:
                zombie.resume()
