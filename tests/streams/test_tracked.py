"""The list of a source's newest tracked messages stays within its bound, whatever its users may do."""

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import pytest
import redis
import trio

from actorwork.events import Event
from actorwork.message import RESULT_TTL, Delivery, Envelope, MessageIds
from actorwork.policy.runs.values import Plan, StepPlan
from actorwork.policy.settlement import Ack
from actorwork.streams.broker import RedisBroker, open_broker
from actorwork.testing.conformance.fake_consumer import FakeConsumer
from actorwork.testing.redis_server import open_redis_server
from tests.patience import PATIENCE

TRACKED = "actorwork:{orders}:tracked"


def ignore(_: Event) -> None: ...


async def submit(broker: RedisBroker, count: int) -> list[str]:
    ids = MessageIds("0123456789abcdef")
    sent = [Envelope("orders", next(ids), b"1", headers={RESULT_TTL: 60.0}) for _ in range(count)]
    assert await broker.publish(sent) == count
    return [one.id for one in sent]


async def test_only_the_newest_are_listed(redis_url: str):
    async with open_broker(redis_url, emit=ignore) as broker:
        older = [part for number in range(10_050) for part in (number, f"older {number}")]
        await broker.client.call("ZADD", TRACKED, *older)
        ids = await submit(broker, 40)
        assert await broker.client.call("ZCARD", TRACKED) < 10_032
        assert await broker.client.call("TTL", TRACKED) > 86_400
        newest = await broker.states.newest("orders", limit=100)
        assert sorted(one.info.id for one in newest) == sorted(ids)


async def test_who_may_not_shorten_the_list_does_not_let_it_grow_without_end():
    with open_redis_server(users=["ann on >secret ~* &* +@all -zremrangebyrank"]) as server:
        url = server.url.replace("unix://", "unix://ann:secret@")
        async with open_broker(url, emit=ignore) as broker:
            await submit(broker, 64 + 7)
            # It begins anew with each message that would have shortened it.
            assert await broker.client.call("ZCARD", TRACKED) == 6
            keyed = [Envelope("orders", f"k{number}", b"1", headers={RESULT_TTL: 60.0}, key="k") for number in range(9)]
            assert await broker.publish(keyed) == 9
            assert await broker.client.call("ZCARD", TRACKED) <= 6 + 9


class Hasty(FakeConsumer):
    """Settles what it is offered at once, and counts how much of it the server has not settled by the next offer."""

    def __init__(self) -> None:
        super().__init__("hasty", ["orders"], room=100_000, max_crashes=3)
        self.sizes: list[int] = []
        self.behind: list[int] = []

    def offer(self, deliveries: Sequence[Delivery]) -> None:
        in_flight = deliveries[0].token[2]
        self.sizes.append(len(deliveries))
        self.behind.append(in_flight.begun - in_flight.done)
        super().offer(deliveries)
        for delivery in deliveries:
            self.node.settle(self.subscription, delivery, Ack(b"1"))


async def test_a_node_that_is_faster_than_its_server_does_not_read_on_ahead_of_it(redis_url: str):
    async with open_broker(redis_url, emit=ignore) as broker:
        await submit(broker, 2_500)
        hasty = Hasty()
        async with broker.open_node([hasty.subscription], lease=60.0, emit=hasty.emit) as hasty.node:
            await hasty.wait(lambda: hasty.offered == 2_500, "all of them")
            await hasty.node.wait_settled()
        assert max(hasty.behind) <= 400
        assert max(hasty.sizes[1:]) <= 1000, "one read brings no more, however much room there is"
        assert sum(size > 400 for size, behind in zip(hasty.sizes, hasty.behind, strict=True) if behind) == 0


@pytest.mark.parametrize(
    ("command", "channels", "expected"),
    [
        ("subscribe", ["actorwork:{orders}:watch:r/3", "actorwork:{orders}:watch:r/17"], [3, 17]),
        ("psubscribe", ["actorwork:{orders}:watch:r/1*"], [1, *range(10, 20)]),
        ("subscribe", ["actorwork:{orders}:watch:other"], []),
    ],
)
@pytest.mark.parametrize("count", [20, 3])
async def test_of_steps_that_end_in_one_batch_those_are_told_that_are_watched(
    redis_url: str, command: str, channels: list[str], expected: list[int], count: int
) -> None:
    server: Any = cast("Any", redis.Redis).from_url(redis_url, socket_timeout=None)
    listener = server.pubsub(ignore_subscribe_messages=True)
    consumer = FakeConsumer("orders", ["orders"], room=100, max_crashes=3)
    async with open_broker(redis_url, emit=ignore) as broker:
        steps = tuple(StepPlan(name=f"s{number}", source="orders", template=("1",)) for number in range(count))
        await broker.runs.start(Plan(id="r", home="orders", steps=steps, result=("1",)))
        async with broker.open_node([consumer.subscription], lease=60.0, emit=consumer.emit) as consumer.node:
            taken = await consumer.take(count)
            getattr(listener, command)(*channels, "the end")
            for delivery in taken:  # All of them before the node looks.
                consumer.node.settle(consumer.subscription, delivery, Ack(b"1"))
            await consumer.node.wait_settled()
        await broker.client.call("PUBLISH", "the end", "")
    told: list[int] = []
    while (message := await trio.to_thread.run_sync(partial(listener.get_message, timeout=PATIENCE))) is None or (
        message["channel"] != b"the end"
    ):
        if message is not None:
            assert message["data"] == b"SUCCESS"
            told.append(int(message["channel"].rpartition(b"/")[2]))
    assert sorted(told) == [number for number in expected if number < count]
    listener.close()
