"""The state of an entity changes with the settlement of a message, once, and on the version that its handler saw."""

from __future__ import annotations

from typing import Any

import pytest

from actorwork.abc import Broker
from actorwork.errors import StateConflict
from actorwork.events import Fenced, StaleState
from actorwork.message import REPLY_TO, RESULT_TTL, Envelope, Outcome, Priority, Unique
from actorwork.policy.entities import LISTED, MARKS, EntityInfo, StateChange, mark_of
from actorwork.policy.settlement import Ack, Fail, Reject, Retry, Settlement
from actorwork.testing.conformance.contract import ContractTests
from actorwork.testing.conformance.fake_consumer import FAILURE, open_consumer, until

KEY = "ü b:{*}"


def _keyed(*ids: str, key: str = KEY, **more: Any) -> list[Envelope]:
    return [Envelope("orders", one, b"1", key=key, headers={}, **more) for one in ids]


def _change(version: int, data: bytes | None, **more: Any) -> StateChange:
    return StateChange(version=version, data=data, stamp=f"stamp {version}", **more)


async def _state(broker: Broker, key: str = KEY, group: str = "first") -> tuple[int, bytes] | None:
    found = await broker.entities.get("orders", group, key)
    return None if found is None else (found.version, found.data)


class PastTests(ContractTests):
    async def test_the_last_changes_are_kept_newest_first(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await broker.publish(_keyed("1", "2", "3", "4"))
            for number in range(4):
                change = _change(number, b"%d" % number, history=3)
                await consumer.settle(await consumer.take_one(), Ack(state=change))
            past = await broker.entities.history("orders", "first", KEY)
            assert [(one.version, one.data, one.by) for one in past] == [(4, b"3", "4"), (3, b"2", "3"), (2, b"1", "2")]
            assert past[0] == await broker.entities.get("orders", "first", KEY)
            assert [one.version for one in await broker.entities.history("orders", "first", KEY, limit=2)] == [4, 3]

    async def test_a_state_with_a_ttl_is_gone_after_it(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await broker.publish([*_keyed("1"), *_keyed("2", key="stays")])
            one, other = sorted(await consumer.take(2), key=lambda delivery: delivery.id)
            await consumer.settle(one, Ack(state=_change(0, b"1", ttl=0.05, history=5)))
            await consumer.settle(other, Ack(state=_change(0, b"2", ttl=3600)))

            async def is_gone() -> bool:
                return await _state(broker) is None

            await until(is_gone, "the state to expire")
            assert await broker.entities.history("orders", "first", KEY) == []
            assert [found.key for found in await broker.entities.list("orders", "first")] == ["stays"]
            await broker.publish(_keyed("3"))
            # A ttl that was there before is gone with a change without one.
            await consumer.settle(await consumer.take_one(), Ack(state=_change(0, b"3")))
            assert await _state(broker) == (1, b"3")

    async def test_the_past_of_a_state_goes_when_none_is_kept_any_more(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            entities = broker.entities

            async def versions() -> list[int]:
                return [one.version for one in await entities.history("orders", "first", KEY)]

            await broker.publish(_keyed("1", "2", "3", "4"))
            await consumer.settle(await consumer.take_one(), Ack(state=_change(0, b"1", history=3)))
            await consumer.settle(await consumer.take_one(), Ack(state=_change(1, b"2", history=3)))
            assert await versions() == [2, 1]
            await consumer.settle(await consumer.take_one(), Ack(state=_change(2, b"3")))
            assert await versions() == []
            await consumer.settle(await consumer.take_one(), Ack(state=_change(3, b"4", history=3)))
            assert await versions() == [4]

    async def test_the_past_of_a_state_does_not_outlive_it_if_it_is_given_a_ttl_later(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await broker.publish([*_keyed("1", "2"), *_keyed("3", "4", key="another")])
            ttl = {"1": None, "2": 0.05, "3": None, "4": 0.05}
            history = {"1": 3, "2": 3, "3": 3, "4": 0}
            for _ in range(4):
                delivery = await consumer.take_one()
                version = 0 if ttl[delivery.id] is None else 1
                change = _change(version, b"1", ttl=ttl[delivery.id], history=history[delivery.id])
                await consumer.settle(delivery, Ack(state=change))
            for key in (KEY, "another"):

                async def is_gone(key: str = key) -> bool:
                    return await _state(broker, key) is None

                await until(is_gone, "the state to expire")
                assert await broker.entities.history("orders", "first", key) == []
                assert await broker.entities.put("orders", "first", key, b"2", history=3) == 1
                assert [one.version for one in await broker.entities.history("orders", "first", key)] == [1]

    async def test_what_a_user_puts_is_listed_with_the_changes_of_the_key(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            entities = broker.entities

            async def versions() -> list[int]:
                return [one.version for one in await entities.history("orders", "first", KEY)]

            await entities.put("orders", "first", KEY, b"1", history=None)
            assert await versions() == [1], "also where no change was kept"
            await broker.publish(_keyed("1", "2"))
            await consumer.settle(await consumer.take_one(), Ack(state=_change(1, b"2", history=2)))
            for data in (b"3", b"4"):
                await entities.put("orders", "first", KEY, data, history=None, force=True)
            assert await versions() == [4, 3, 2, 1]
            await consumer.settle(await consumer.take_one(), Ack(state=_change(4, b"5", history=2)))
            assert await versions() == [5, 4], "a settlement knows how many are kept"
            for _ in range(LISTED + 2):
                await entities.put("orders", "first", "another", b"1", history=None)
            assert len(await entities.history("orders", "first", "another", limit=100)) == LISTED


class EntityTests(PastTests):
    async def test_a_state_is_committed_with_the_settlement_and_seen_by_the_next_delivery(self) -> None:
        async with (
            self.open_broker() as broker,
            broker.open_replies() as replies,
            open_consumer(broker, "orders") as consumer,
        ):
            asked = {RESULT_TTL: 60, REPLY_TO: replies.address}
            waiting = replies.expect("orders", "1")
            await broker.publish([Envelope("orders", "1", b"1", key=KEY, headers=asked), *_keyed("2")])
            first = await consumer.take_one()
            for stamp in ("", "stamp 0"):
                assert await consumer.node.load_states(consumer.subscription, [(first, stamp)]) == [None]
            sent = [Envelope("mail", "sent", b"1"), *_keyed("3")]
            await consumer.settle(first, Ack(b"5", state=_change(0, b'{"n":1}', schema=3)), sent)
            second = await consumer.take_one()
            found = await consumer.node.load_states(
                consumer.subscription, [(second, ""), (second, "stamp 0"), (second, "stamp 1")]
            )
            state = found[0]
            assert state is not None
            assert state is not True
            assert (state.version, state.data, state.schema) == (1, b'{"n":1}', 3)
            assert (state.by, state.node, state.stamp) == ("1", consumer.node.incarnation, "stamp 0")
            assert found[1] is True
            assert getattr(found[2], "data", None) == state.data
            assert abs(state.at - consumer.node.now()) < 60
            assert await waiting.outcome() == Outcome("done", b"5")
            assert await broker.backlog("mail") == 1
            await consumer.settle(second, Ack(state=_change(1, b'{"n":2}')))
            assert (await consumer.take_one()).id == "3"
            assert await _state(broker) == (2, b'{"n":2}')
            assert consumer.node.statistics()["settled"] == 2

    async def test_a_settlement_on_another_version_has_no_effect_and_is_handed_back_uncounted(self) -> None:
        async with (
            self.open_broker() as broker,
            open_consumer(broker, "orders") as consumer,
        ):
            await broker.entities.put("orders", "first", KEY, b"10")
            await broker.publish(_keyed("1", "2"))
            stale = await consumer.take_one()
            effects = [Envelope("mail", "never", b"1")]
            await consumer.settle(stale, Ack(b"1", state=_change(0, b"1")), effects)
            again = await consumer.take_one()
            assert (again.id, again.attempt, again.crashes) == ("1", 1, 0)
            assert await _state(broker) == (1, b"10")
            assert await broker.backlog("mail") == 0
            (event,) = consumer.seen(StaleState)
            assert (event.delivery, event.expected, event.found) == (stale, 0, 1)
            assert consumer.seen(Fenced) == []
            await consumer.settle(again, Ack(state=_change(1, b"11")))
            await consumer.expect_only("2")
            assert await _state(broker) == (2, b"11")
            assert consumer.node.statistics()["released"] == 1

    async def test_a_settlement_that_is_fenced_changes_no_state(self) -> None:
        async with (
            self.open_broker() as broker,
            open_consumer(broker, "orders", room=1) as consumer,
            open_consumer(broker, "orders", room=0) as other,
        ):
            await broker.publish(_keyed("1"))
            (early,) = await consumer.take()
            consumer.capacity, other.capacity = 0, 1
            other.node.resume(other.subscription)
            await consumer.release_deliveries(early)
            late = await other.take_one()
            await consumer.settle(early, Ack(state=_change(0, b"wrong")))
            assert [event.delivery for event in consumer.seen(Fenced)] == [early]
            assert await _state(broker) is None
            await other.settle(late, Ack(state=_change(0, b"1")))
            await other.settle(late, Ack(state=_change(1, b"twice")))
            assert await _state(broker) == (1, b"1")

    async def test_a_state_is_committed_for_a_delivery_that_goes_on(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            node, subscription = consumer.node, consumer.subscription
            await broker.publish(_keyed("1", "2"))
            delivery = await consumer.take_one()
            sent = [Envelope("mail", "sent", b"1", headers={})]
            assert await node.publish_fenced(subscription, delivery, sent, state=_change(0, b"1"))
            assert await _state(broker) == (1, b"1")
            never = [Envelope("mail", "never", b"1", headers={})]
            with pytest.raises(StateConflict) as caught:
                await node.publish_fenced(subscription, delivery, never, state=_change(0, b"2"))
            assert caught.value.version == 1
            assert await node.publish_fenced(subscription, delivery, [], state=_change(1, b"2"))
            assert await broker.backlog("mail") == 1
            await consumer.settle(delivery, Ack(state=_change(2, b"3")))
            await consumer.expect_only("2")
            assert await _state(broker) == (3, b"3")
            assert not await node.publish_fenced(subscription, delivery, [], state=_change(3, b"4"))
            assert await _state(broker) == (3, b"3")

    async def test_a_message_that_replaces_takes_over_the_unique_key_of_the_delivery_that_sends_it(
        self,
    ) -> None:
        unique = Unique("u", on_conflict="replace")
        first = Unique("u", on_conflict="first")

        def sent(id: str, of: Unique = unique, **more: Any) -> Envelope:
            return Envelope("orders", id, b"1", key=KEY, unique=of, headers={}, **more)

        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            node, subscription = consumer.node, consumer.subscription
            await broker.publish([sent("1")])
            delivery = await consumer.take_one()
            assert await node.publish_fenced(subscription, delivery, [sent("refused", first)])
            assert await node.publish_fenced(subscription, delivery, [sent("2", delay=3600)], state=_change(0, b"1"))
            assert await node.publish_fenced(subscription, delivery, [sent("3", delay=3600)], state=_change(1, b"2"))
            assert [one.id for one in await broker.delayed.list("orders")] == ["3"], "one has replaced the other"
            assert await broker.publish([sent("later", first)]) == 0
            await consumer.settle(delivery, Retry(0, FAILURE))
            await consumer.settle(await consumer.take_one(), Ack(state=_change(2, b"3")))
            assert await broker.publish([sent("later still", first)]) == 0, "what has the key now is still there"
            assert await broker.delayed.cancel("orders", "3")
            assert await broker.publish([sent("4")]) == 1
            await consumer.expect_only("4")
            assert await broker.backlog("orders") == 0

    async def test_no_other_end_changes_a_state(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await broker.entities.put("orders", "first", KEY, b"1")
            settlements: tuple[Settlement, ...] = (Reject(FAILURE), Fail(FAILURE), Retry(0, FAILURE), Ack())
            await broker.publish(_keyed("0", "1", "2"))
            for settlement in settlements:
                await consumer.settle(await consumer.take_one(), settlement)
            assert await _state(broker) == (1, b"1")
            assert await broker.backlog("orders") == 0

    async def test_urgent_messages_share_the_state_of_their_key_and_groups_do_not(self) -> None:
        async with (
            self.open_broker() as broker,
            open_consumer(broker, "orders", group="first") as first,
            open_consumer(broker, "orders", group="second") as second,
        ):
            await broker.publish(_keyed("1", priority=Priority.HIGH))
            await first.settle(await first.take_one(), Ack(state=_change(0, b"1")))
            await second.settle(await second.take_one(), Ack(state=_change(0, b"2")))
            await broker.publish(_keyed("2"))
            await first.settle(await first.take_one(), Ack(state=_change(1, b"3")))
            assert await _state(broker) == (2, b"3")
            assert await _state(broker, group="second") == (1, b"2")
            assert await broker.entities.get("orders", "third", KEY) is None
            assert await broker.entities.get("mail", "first", KEY) is None

    async def test_a_settlement_may_forget_a_state_whose_versions_begin_anew(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await broker.publish(_keyed("1", "2", "3"))
            await consumer.settle(await consumer.take_one(), Ack(state=_change(0, b"1", history=5)))
            await consumer.settle(await consumer.take_one(), Ack(state=_change(1, None)))
            assert await _state(broker) is None
            assert await broker.entities.history("orders", "first", KEY) == []
            assert await broker.entities.list("orders", "first") == []
            await consumer.settle(await consumer.take_one(), Ack(state=_change(0, b"3", history=5)))
            assert await _state(broker) == (1, b"3")
            assert [one.version for one in await broker.entities.history("orders", "first", KEY)] == [1]

    async def test_a_state_knows_the_last_messages_that_have_changed_it(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            entities = broker.entities
            marks: list[bytes] = []
            for number in range(MARKS + 3):
                await broker.publish(_keyed(str(number)))
                delivery = await consumer.take_one()
                mark = mark_of(delivery.id)
                if number == 5:  # A commit in the middle, which does not end the message, and a state that is put.
                    change = StateChange(version=number, data=b"1", stamp="in the middle")
                    assert await consumer.node.publish_fenced(consumer.subscription, delivery, (), state=change)
                    await entities.put("orders", "first", KEY, b"2", force=True, history=1)
                version = number if number < 5 else number + 2
                await consumer.settle(delivery, Ack(state=_change(version, b"3", mark=mark)))
                marks.append(mark)
            state = await entities.get("orders", "first", KEY)
            assert state is not None
            assert state.version == MARKS + 5
            assert state.marks == b"".join(marks[-MARKS:])
            await entities.forget("orders", "first", KEY)
            await entities.put("orders", "first", KEY, b"4")
            state = await entities.get("orders", "first", KEY)
            assert state is not None
            assert state.marks == b""

    async def test_a_state_is_put_on_the_version_that_its_user_has_seen(self) -> None:
        async with self.open_broker() as broker:
            entities = broker.entities
            with pytest.raises(StateConflict) as caught:
                await entities.put("orders", "first", KEY, b"1", version=3)
            assert caught.value.version == 0
            assert await entities.put("orders", "first", KEY, b"1", version=0, schema=2, by="ann") == 1
            with pytest.raises(StateConflict):
                await entities.put("orders", "first", KEY, b"2", version=0)
            assert await entities.put("orders", "first", KEY, b"2", version=1, history=1) == 2
            assert await entities.put("orders", "first", KEY, b"3", history=1) == 3
            found = await entities.get("orders", "first", KEY)
            assert found is not None
            assert (found.version, found.data, found.by, found.schema) == (3, b"3", "", 0)
            assert await entities.history("orders", "first", KEY) == [found]
            with pytest.raises(StateConflict):
                await entities.forget("orders", "first", KEY, version=1)
            assert await entities.forget("orders", "first", KEY, version=3)
            assert not await entities.forget("orders", "first", KEY)
            assert await entities.history("orders", "first", KEY) == []

    async def test_no_user_changes_a_state_while_a_delivery_of_its_key_is_in_flight(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await broker.publish(_keyed("1", "2", priority=Priority.HIGH))
            delivery = await consumer.take_one()
            with pytest.raises(StateConflict, match="a node is handling a message of this key"):
                await broker.entities.put("orders", "first", KEY, b"1")
            with pytest.raises(StateConflict, match="a node is handling a message of this key"):
                await broker.entities.forget("orders", "first", KEY)
            await broker.entities.put("orders", "first", "another", b"1")
            assert await _state(broker) is None
            assert await broker.entities.put("orders", "first", KEY, b"1", force=True) == 1
            await consumer.settle(delivery, Ack(state=_change(0, b"2")))
            again = await consumer.take_one()
            assert again.id == "1", "it was handled on another state"

    async def test_a_state_that_is_forgotten_by_force_ends_what_a_delivery_in_flight_has_made_of_it(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            await broker.entities.put("orders", "first", KEY, b"1", history=5)
            await broker.publish(_keyed("1"))
            delivery = await consumer.take_one()
            with pytest.raises(StateConflict):
                await broker.entities.forget("orders", "first", KEY, version=2, force=True)
            assert await broker.entities.forget("orders", "first", KEY, version=1, force=True)
            assert await _state(broker) is None
            assert await broker.entities.history("orders", "first", KEY) == []
            await consumer.settle(delivery, Ack(state=_change(1, b"2")))
            assert await _state(broker) is None, "it was handled on a state that is not there any more"
            again = await consumer.take_one()
            assert (again.id, again.attempt) == ("1", 1)
            await consumer.settle(again, Ack(state=_change(0, b"3")))
            assert await _state(broker) == (1, b"3")
            assert not await broker.entities.forget("orders", "first", "another", force=True)
            await consumer.settle(again, Retry(600, FAILURE))
            assert await broker.entities.put("orders", "first", KEY, b"3") == 2

    async def test_entities_are_listed_by_their_last_change(self) -> None:
        async with self.open_broker() as broker:
            entities = broker.entities
            names = [f"key {number}" for number in range(7)]
            for name in names:
                await entities.put("orders", "first", name, b"12345", by="ann")
            await entities.put("orders", "second", "of another actor", b"1")
            await entities.put("orders", "first", names[0], b"1")
            found = await entities.list("orders", "first")
            assert sorted(one.key for one in found) == names
            assert list(found) == sorted(found, key=lambda one: (one.at, one.key))
            by_key = {one.key: one for one in found}
            assert (by_key["key 0"].version, by_key["key 0"].bytes, by_key["key 0"].by) == (2, 1, "")
            assert (by_key["key 1"].version, by_key["key 1"].bytes, by_key["key 1"].by) == (1, 5, "ann")
            paged: list[EntityInfo] = []
            while page := await entities.list(
                "orders", "first", limit=2, after=(paged[-1].at, paged[-1].key) if paged else None
            ):
                assert len(page) <= 2
                paged += page
            assert paged == list(found)
            newest = found[-1]
            recent = await entities.list("orders", "first", changed_since=newest.at)
            assert newest in recent
            assert all(one.at >= newest.at for one in recent)
            assert await entities.list("orders", "first", changed_since=newest.at + 60) == []
            backwards: list[EntityInfo] = []
            while page := await entities.list(
                "orders",
                "first",
                limit=2,
                after=(backwards[-1].at, backwards[-1].key) if backwards else None,
                newest_first=True,
            ):
                backwards += page
            assert backwards == list(reversed(found))
            last = await entities.list("orders", "first", changed_since=newest.at, newest_first=True)
            assert list(last) == list(reversed(recent))
