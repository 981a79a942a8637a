"""Nodes of an older version beside newer ones: they may not know how the step of a run is joined."""

import pytest

from actorwork.errors import BrokerError
from actorwork.events import BrokerTrouble, Event
from actorwork.message import Envelope
from actorwork.policy.runs.values import Need, Plan, StepPlan
from actorwork.policy.settlement import Ack
from actorwork.streams.broker import RedisBroker, open_broker
from actorwork.streams.formats import FORMAT, FORMAT_OF_RUNS, FORMAT_OF_SHARDS, older_readers
from actorwork.streams.keys import lease
from actorwork.testing.conformance import open_consumer

PLAN = Plan(
    id="r",
    home="reports",
    steps=(
        StepPlan(name="one", source="orders", template=("1",)),
        StepPlan(name="asked", kind="signal", seconds=60),
    ),
    result=(Need(0),),
)


def ignore(_event: Event) -> None:
    pass


async def read_as_older(broker: RedisBroker, source: str, name: str = "older", held: str = "a.host:18") -> None:
    """Have a consumer of that name read a source. Its lease comes first: one without is taken for dead, and removed."""
    await broker.client.call("SET", lease(name), held)
    async with open_consumer(broker, source) as consumer:
        await broker.client.call("XGROUP", "CREATECONSUMER", source, consumer.subscription.group, name)


@pytest.mark.parametrize("held", ["a.host:18", f"a.host:18 {FORMAT_OF_RUNS - 1}"])
async def test_a_run_starts_once_no_older_node_would_read_its_steps(url: str, held: str):
    async with open_broker(url, emit=ignore) as broker:
        await read_as_older(broker, "orders", held=held)
        with pytest.raises(
            BrokerError, match=r"'r' was not started: nodes of an older .* read one of orders, .*\(older\)"
        ):
            await broker.runs.start(PLAN)
        assert await broker.runs.info("r") is None
        assert await broker.backlog("orders") == 0
        await broker.client.call("DEL", lease("older"))  # It has ended; its consumer is still there.
        assert await broker.runs.start(PLAN)
        assert await broker.backlog("orders") == 1


async def test_nodes_of_this_version_and_older_ones_of_other_sources_keep_no_run_from_its_start(url: str):
    async with open_broker(url, emit=ignore) as broker:
        await read_as_older(broker, "others")
        await read_as_older(broker, "orders", "new", f"a.host:17 {FORMAT}")
        assert await broker.runs.start(PLAN)


async def test_a_handler_that_starts_a_run_is_settled_once_no_older_node_would_read_its_steps(url: str):
    async with open_broker(url, emit=ignore) as broker, open_consumer(broker, "bills") as consumer:
        await read_as_older(broker, "orders")
        await broker.publish([Envelope("bills", "b", b"1")])
        consumer.node.settle(consumer.subscription, await consumer.take_one(), Ack(starts=(PLAN,)))
        await consumer.wait(lambda: consumer.seen(BrokerTrouble), "the trouble")
        (trouble, *_) = consumer.seen(BrokerTrouble)
        assert "sends steps to orders" in trouble.doing
        assert "may not know how to join these, run: older" in trouble.error
        assert await broker.backlog("bills") == 1
        assert await broker.backlog("orders") == 0
        await broker.client.call("DEL", lease("older"))
        await consumer.node.wait_settled()
        assert await broker.backlog("bills") == 0
        async with open_consumer(broker, "orders") as reader:
            await reader.settle(await reader.take_one())
        assert await broker.runs.info("r") is not None


async def test_nodes_that_know_shards_keep_no_source_from_being_divided_though_they_are_older(url: str):
    async with open_broker(url, emit=ignore) as broker:
        held = f"a.host:18 {FORMAT_OF_SHARDS}"
        await broker.client.call("SET", lease("older"), held)
        assert await older_readers(broker.client, ["orders"], FORMAT_OF_SHARDS) == []
        await read_as_older(broker, "orders", held=held)
        assert await older_readers(broker.client, ["orders"], FORMAT_OF_SHARDS) == []
        assert await older_readers(broker.client, ["orders"], FORMAT) == ["older"]
