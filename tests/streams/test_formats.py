"""Nodes of an older version beside newer ones: they may not know how the step of a run is joined."""

import pytest

from actorwork.errors import BrokerError
from actorwork.events import Event
from actorwork.policy.runs.values import Need, Plan, StepPlan
from actorwork.streams.broker import open_broker
from actorwork.streams.formats import FORMAT
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


async def test_a_run_starts_once_no_older_node_would_read_its_steps(url: str):
    async with open_broker(url, emit=ignore) as broker:
        async with open_consumer(broker, "orders") as consumer:
            await broker.client.call("XGROUP", "CREATECONSUMER", "orders", consumer.subscription.group, "older")
        await broker.client.call("SET", lease("older"), "a.host:17")
        with pytest.raises(BrokerError, match=r"'r' was not started: nodes of an older .* read orders, .*\(older\)"):
            await broker.runs.start(PLAN)
        assert await broker.runs.info("r") is None
        assert await broker.backlog("orders") == 0
        await broker.client.call("DEL", lease("older"))  # It has ended; its consumer is still there.
        assert await broker.runs.start(PLAN)
        assert await broker.backlog("orders") == 1


async def test_nodes_of_this_version_and_older_ones_of_other_sources_keep_no_run_from_its_start(url: str):
    async with open_broker(url, emit=ignore) as broker:
        for source, name, held in (("orders", "new", f"a.host:17 {FORMAT}"), ("others", "older", "a.host:18")):
            async with open_consumer(broker, source) as consumer:
                await broker.client.call("XGROUP", "CREATECONSUMER", source, consumer.subscription.group, name)
            await broker.client.call("SET", lease(name), held)
        assert await broker.runs.start(PLAN)
