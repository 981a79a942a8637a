"""The broker in memory keeps what every broker promises, and what it promises to tests besides."""

import math
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from actorwork import Actor, Settings
from actorwork.events import Fenced, LeaseLost, Reclaimed
from actorwork.message import Delivery, Envelope, Failure
from actorwork.policy.settlement import Ack, Fail, Reject, Retry, Settlement
from actorwork.testing.conformance import BrokerConformance, FakeConsumer, Opener, RemoteConsumer, open_consumer
from actorwork.testing.memory import EPOCH, MemoryBroker, MemoryNode
from tests.patience import BUSY

FAILURE = Failure("ValueError", "no")


class NearConsumer(RemoteConsumer):
    """What stands for another process here: a node that is only taken for dead."""

    def __init__(self, consumer: FakeConsumer) -> None:
        super().__init__(None, None)
        self.consumer = consumer
        self.taken: list[Delivery] = []

    @property
    def node(self) -> MemoryNode:
        node = self.consumer.node
        assert isinstance(node, MemoryNode)
        return node

    async def take(self, count: int = 1) -> list[str]:
        new = await self.consumer.take(count)
        self.taken += new
        return [delivery.id for delivery in new]

    async def settle(self, number: int, settlement: Settlement, published: Sequence[Envelope] = ()) -> None:
        await self.consumer.settle(self.taken[number], settlement, published)

    async def publish_fenced(self, number: int, published: Sequence[Envelope]) -> bool:
        return await self.node.publish_fenced(self.consumer.subscription, self.taken[number], published)

    async def report(self) -> dict[str, Any]:
        return {
            "revoked": self.consumer.revoked,
            "offered": self.consumer.offered,
            "incarnation": self.node.incarnation,
            "fenced": len(self.consumer.seen(Fenced)),
            "counted": self.node.statistics()["fenced"],
            "lost": [(event.incarnation, event.successor) for event in self.consumer.seen(LeaseLost)],
        }

    async def wait_revoked(self) -> None:
        await self.consumer.wait(lambda: self.consumer.revoked, "being revoked")

    def stop(self) -> None:
        self.node.pause()

    def resume(self) -> None:
        self.node.go_on()

    async def kill(self) -> None:
        self.node.die()


@asynccontextmanager
async def open_memory(broker: MemoryBroker) -> AsyncGenerator[MemoryBroker]:
    await trio.lowlevel.checkpoint()
    yield broker


class TestConformance(BrokerConformance):
    @pytest.fixture(autouse=True)
    def _store(self) -> None:
        self.broker = MemoryBroker(epoch=time.time())

    def opener(self) -> Opener:
        return partial(open_memory, self.broker)

    def open_remote_consumer(
        self, *sources: str, group: str = "first", room: int = 100, max_crashes: int = 3, lease: float = 5.0
    ) -> AbstractAsyncContextManager[RemoteConsumer]:
        return self._open_near_consumer(sources, group, room, max_crashes, lease)

    @asynccontextmanager
    async def _open_near_consumer(
        self, sources: Sequence[str], group: str, room: int, max_crashes: int, lease: float
    ) -> AsyncGenerator[RemoteConsumer]:
        async with open_consumer(
            self.broker, *sources, group=group, room=room, max_crashes=max_crashes, lease=lease
        ) as consumer:
            yield NearConsumer(consumer)


async def test_an_hour_passes_in_a_moment(mock_clock: trio.testing.MockClock):
    broker = MemoryBroker()
    began = time.monotonic()
    async with open_consumer(broker, "orders") as consumer:
        await broker.publish([Envelope("orders", "1", b"1", delay=3600)])
        consumer.capacity = 100
        with trio.move_on_after(3599):
            await consumer.node.wait_settled()
            await trio.sleep_forever()
        assert not consumer.waiting
        await trio.sleep(2)
        assert [one.id for one in consumer.waiting] == ["1"]
    assert time.monotonic() - began < 5 + BUSY


async def test_its_clock_begins_at_the_same_time_in_every_run_and_goes_on_as_trios_does(
    mock_clock: trio.testing.MockClock,
):
    await trio.sleep(77)
    broker = MemoryBroker()
    assert broker.now == EPOCH
    await trio.sleep(2.5)
    assert broker.now == EPOCH + 2.5
    await broker.publish([Envelope("orders", "1", b"", at=EPOCH + 10)])
    assert broker.next_due == 77 + 10


async def test_it_remembers_what_was_sent_and_how_it_ended(mock_clock: trio.testing.MockClock):
    broker = MemoryBroker()
    ends: list[Settlement] = [Ack(), Retry(1, FAILURE), Reject(FAILURE), Fail(FAILURE)]
    async with open_consumer(broker, "orders") as consumer:
        for number, end in enumerate(ends):
            await broker.publish([Envelope("orders", str(number), b"1")])
            await consumer.settle(await consumer.take_one(), end, [Envelope("mail", str(number), b"")])
        assert [one.settlement for one in broker.settled] == ends
        assert [one.delivery.id for one in broker.settled] == ["0", "1", "2", "3"]
        assert {one.actor for one in broker.settled} == {"actor first"}
        assert [(one.source, one.id) for one in broker.sent[:2]] == [("orders", "0"), ("mail", "0")]
        assert [letter.id for letter in broker.dead_letters.all] == ["3"]


async def test_what_a_foreign_producer_writes_arrives_as_its_fields():
    broker = MemoryBroker()
    async with open_consumer(broker, "orders") as consumer:
        broker.put("orders", {b"x": b"1"})
        assert (await consumer.take_one()).payload == {b"x": b"1"}


async def test_what_waits_is_known_by_actor_and_by_source():
    class Greeter(Actor):
        settings = Settings(title="greeter")

    broker = MemoryBroker()
    async with open_consumer(broker, Greeter.settings.default_source, "orders", group=Greeter.settings.id, room=0):
        broker.put(Greeter, b"1", id="one")
        broker.put("orders", b"1", id="two")
        assert broker.waiting(Greeter) == ["one", "two"]
        assert broker.waiting("orders") == ["two"]


async def test_what_stands_behind_its_key_does_not_wait_for_anybody_to_take_it(mock_clock: trio.testing.MockClock):
    broker = MemoryBroker()
    async with open_consumer(broker, "orders", room=0) as consumer:
        await broker.publish([Envelope("orders", name, b"1", key="k") for name in ("1", "2")])
        assert broker.waiting("orders") == ["1"]
        consumer.capacity = 1
        consumer.node.resume(consumer.subscription)
        await consumer.settle(await consumer.take_one(), Retry(60, FAILURE))
        assert broker.waiting("orders") == []
        assert [(one.id, one.due) for one in broker.delayed.all] == [("1", EPOCH + 60)]
        assert consumer.node.now() == EPOCH
        await trio.sleep(59)
        assert not consumer.waiting
        await trio.sleep(1)
        await consumer.expect_only("1")
        await consumer.expect_only("2")


async def test_a_lost_lease_gives_everything_in_hand_to_others_and_a_new_incarnation(
    mock_clock: trio.testing.MockClock,
):
    broker = MemoryBroker()
    async with open_consumer(broker, "orders", room=1) as consumer:
        broker.put("orders", b"1", id="it")
        held = await consumer.take_one()
        (node,) = broker.nodes
        before = node.incarnation
        node.lose_lease()
        again = await consumer.take_one()
        assert (again.id, again.crashes) == ("it", 1)
        assert consumer.seen(LeaseLost)[0].incarnation == before != node.incarnation
        assert consumer.seen(Reclaimed)[0].previous == before
        await consumer.settle(held)
        assert [event.delivery for event in consumer.seen(Fenced)] == [held]
        await consumer.settle(again)
        assert [one.delivery for one in broker.settled] == [again]


async def test_a_dead_node_keeps_what_it_had_until_its_lease_is_over(mock_clock: trio.testing.MockClock):
    broker = MemoryBroker()
    async with AsyncExitStack() as stack:
        dead = await stack.enter_async_context(open_consumer(broker, "orders", lease=10))
        broker.put("orders", b"1", id="it")
        held = await dead.take_one()
        broker.nodes[0].die()
        consumer = await stack.enter_async_context(open_consumer(broker, "orders"))
        await dead.settle(held)
        await consumer.expect_nothing(9.9)
        assert not broker.settled
        await trio.sleep(0.2)
        assert (await consumer.take_one()).crashes == 1
        assert len(broker.nodes) == 1


async def test_headers_that_are_no_json_are_refused_as_by_any_broker():
    broker = MemoryBroker()
    headers: Any = {"when": object()}
    with pytest.raises(TypeError):
        await broker.publish([Envelope("orders", "1", b"", headers=headers)])
    assert await broker.publish([Envelope("orders", "1", b"")]) == 1, "the id was not used up"


async def test_nothing_ticks_while_nothing_is_due(mock_clock: trio.testing.MockClock):
    broker = MemoryBroker()
    async with open_consumer(broker, "orders", lease=10):
        await trio.testing.wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().seconds_to_next_deadline == math.inf
        assert broker.next_due == math.inf
