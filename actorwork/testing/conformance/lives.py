"""The life of a tracked message is known: its status only goes forward, and watchers learn of it."""

from __future__ import annotations

from typing import Any

import trio

from actorwork.abc import Broker, Watch
from actorwork.message import RESULT_TTL, Envelope, Priority, Status, Unique
from actorwork.policy.settlement import Ack, Fail, Reject, Retry
from actorwork.records import MessageInfo, Progress
from actorwork.testing.conformance.contract import ContractTests
from actorwork.testing.conformance.fake_consumer import FAILURE, PATIENCE, open_consumer, until


async def life(broker: Broker, message_id: str) -> MessageInfo:
    info = await broker.states.find("orders", message_id)
    assert info is not None, f"message {message_id} is not known"
    return info


async def next_change(broker: Broker, watch: Watch, version: int) -> MessageInfo:
    """Wait until a watch tells of something new about message 1."""
    with trio.fail_after(PATIENCE):
        while (info := await life(broker, "1")).version <= version:
            await watch.changed()
    return info


def tracked(message_id: str, *, ttl: float = 60.0, delay: float = 0.0) -> Envelope:
    return Envelope("orders", message_id, b"1", headers={RESULT_TTL: ttl}, delay=delay)


class LifeTests(ContractTests):
    async def test_a_life_goes_through_its_states_in_order_and_who_watches_is_told(self) -> None:
        async with (
            self.open_broker() as broker,
            self.open_broker() as other,
            other.open_changes() as changes,
        ):
            await broker.publish([tracked("1")])
            watch = await changes.watch("orders", "1")
            seen = [await life(other, "1")]
            async with open_consumer(broker, "orders", room=1) as consumer:
                for settlement in (Retry(0, FAILURE), Ack(b"7")):
                    delivery = await consumer.take_one()
                    seen.append(await next_change(other, watch, seen[-1].version))
                    await broker.publish([Envelope("orders", f"takes the room of {settlement}", b"1")])
                    await consumer.wait(lambda: consumer.waiting, "what takes all the room")
                    consumer.node.note(consumer.subscription, delivery, Status.STARTED, Progress(1, 2))
                    seen.append(await next_change(other, watch, seen[-1].version))
                    assert seen[-1].progress == Progress(1, 2)
                    await consumer.settle(delivery, settlement)
                    seen.append(await next_change(other, watch, seen[-1].version))
                    await consumer.settle(await consumer.take_one())
            await watch.aclose()
            assert [(info.status, info.attempt, info.deliveries) for info in seen] == [
                (Status.PENDING, 0, 0),
                (Status.RECEIVED, 1, 1),
                (Status.STARTED, 1, 1),
                (Status.RETRY, 1, 1),
                (Status.RECEIVED, 2, 1),
                (Status.STARTED, 2, 1),
                (Status.SUCCESS, 2, 1),
            ]
            assert seen[3].failure is not None
            assert (seen[3].failure.type, seen[3].reason) == (FAILURE.type, FAILURE.reason)
            assert seen[4].progress is None
            last = seen[-1]
            assert last.sent is not None
            assert last.received is not None
            assert last.started is not None
            assert last.ended is not None
            assert last.sent <= last.received <= last.started <= last.ended

    async def test_what_is_noted_of_an_earlier_delivery_or_after_the_end_changes_nothing(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await broker.publish([tracked("1")])
            first = await consumer.take_one()
            await consumer.settle(first, Retry(0, FAILURE))
            second = await consumer.take_one()

            async def is_received() -> bool:
                info = await life(broker, "1")
                return (info.status, info.attempt) == (Status.RECEIVED, 2)

            async def is_noted_of_another() -> bool:
                return (await life(broker, other)).status is Status.STARTED

            await until(is_received, "the second attempt to be received")
            for other, late in (("2", first), ("3", second)):
                known = await life(broker, "1")
                consumer.node.note(consumer.subscription, late, Status.STARTED, Progress(9))
                await broker.publish([tracked(other)])
                consumer.node.note(consumer.subscription, await consumer.take_one(), Status.STARTED)
                await until(is_noted_of_another, "a later note")
                assert await life(broker, "1") == known
                if late is first:
                    await consumer.settle(second, Ack(b"7"))
            assert (await life(broker, "1")).status is Status.SUCCESS

    async def test_a_life_ends_as_its_message_does(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            for name, settlement, status in (
                ("1", Ack(b"7"), Status.SUCCESS),
                ("2", Fail(FAILURE), Status.FAILURE),
                ("3", Reject(FAILURE), Status.REJECTED),
            ):
                await broker.publish([tracked(name)])
                await consumer.settle(await consumer.take_one(), settlement)
                info = await life(broker, name)
                assert (info.status, info.failure) == (status, None if status is Status.SUCCESS else FAILURE)
            await broker.publish([Envelope("orders", "silent", b"1")])
            await consumer.settle(await consumer.take_one())
            assert await broker.states.find("orders", "silent") is None

    async def test_a_life_is_found_by_the_id_and_forgotten_once_it_is_over(self) -> None:
        async with self.open_broker() as broker, self.open_broker() as other:
            await broker.publish([tracked("1"), tracked("2", delay=60), tracked("brief", ttl=0.2)])
            for name in ("1", "2"):
                assert await other.states.locate(name) == "orders"
                assert not await other.states.forget("orders", name), "it is open"
            assert await other.states.locate("never sent") is None
            assert await other.states.find("mail", "1") is None
            async with open_consumer(broker, "orders") as consumer:
                for delivery in await consumer.take(2):
                    await consumer.settle(delivery, Ack(b"7"))
            assert await broker.find_outcome("orders", "1") is not None
            assert not await other.states.forget("mail", "1")
            assert await other.states.forget("orders", "1")
            assert not await other.states.forget("orders", "1")
            assert await broker.states.find("orders", "1") is None
            assert await broker.find_outcome("orders", "1") is None

            async def is_kept_no_longer() -> bool:
                return await broker.states.find("orders", "brief") is None

            await until(is_kept_no_longer, "the end of its time")

    async def test_the_newest_tracked_messages_are_listed_with_what_is_left_of_their_payloads(self) -> None:
        async with self.open_broker() as broker, self.open_broker() as other:
            assert await broker.states.newest("orders", limit=10) == []
            kept = {RESULT_TTL: 60.0}
            ids = ("done", "failed", "running", "delayed", "first", "behind", "urgent")
            more: dict[str, dict[str, Any]] = {
                "delayed": {"delay": 600, "unique": Unique("once", 600.0), "headers": {**kept, "tenant": "acme"}},
                "first": {"key": "k"},
                "behind": {"key": "k"},
                "urgent": {"priority": Priority.HIGH, "type": "Order"},
            }
            async with open_consumer(broker, "orders", room=1) as consumer:
                for name in ids[:3]:
                    await broker.publish([Envelope("orders", name, b'"%s"' % name.encode(), headers=kept)])
                    await trio.sleep(0.002)
                await consumer.settle(await consumer.take_one(), Ack(b"7"))
                await consumer.settle(await consumer.take_one(), Fail(FAILURE))
                running = await consumer.take_one()
                # What comes next takes all the room, so that no node has been given the others.
                await broker.publish([Envelope("orders", "untracked", b"1")])
                await consumer.wait(lambda: consumer.waiting, "what takes all the room")
                for name in ids[3:]:
                    facts: dict[str, Any] = {"headers": kept} | more[name]
                    envelope = Envelope("orders", name, b'"%s"' % name.encode(), **facts)
                    await broker.publish([envelope])
                    await trio.sleep(0.002)
                consumer.node.note(consumer.subscription, running, Status.STARTED)

                async def is_running() -> bool:
                    return (await life(broker, "running")).status is Status.STARTED

                await until(is_running, "the note of the handler")
                found = await other.states.newest("orders", limit=100)
                assert [one.info.id for one in found] == list(reversed(ids))
                assert {one.info.id: one.state for one in found} == {
                    "done": "succeeded",
                    "failed": "failed",
                    "running": "running",
                    "delayed": "delayed",
                    "first": "waiting",
                    "behind": "waiting",
                    "urgent": "waiting",
                }
                assert found[-1].info == await life(other, "done")
                assert {one.payload for one in found} == {None}
                shown = await other.states.with_payloads(found)
                payloads = {one.info.id: (one.payload, one.type) for one in shown}
                assert payloads.pop("done") == (None, None)
                assert payloads.pop("urgent") == (b'"urgent"', "Order")
                assert payloads == {name: (b'"%s"' % name.encode(), None) for name in payloads}
                assert [one.info for one in shown] == [one.info for one in found]
                assert {one.info.id: one.key for one in shown if one.key} == {"first": "k", "behind": "k"}
                assert {one.info.id: one.unique for one in shown if one.unique} == {"delayed": "once"}
                headers = {one.info.id: one.headers for one in shown}
                assert headers.pop("done") == {}
                assert headers["delayed"]["tenant"] == "acme"
                assert all(RESULT_TTL in one for one in headers.values())
                assert [one.info.id for one in await other.states.newest("orders", limit=2)] == ["urgent", "behind"]
                assert await other.states.newest("mail", limit=2) == []
