"""No node begins a paused message: it stays at the broker, and is handled once the pause ends."""

import os
import socket
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from actorwork import Actor, Client, Interval, Settings, Trigger, open_client, open_system, receive
from actorwork.brokers import ignore, open_broker
from actorwork.errors import BrokerError, SettingsError
from actorwork.events import BrokerTrouble, Event, PausesChanged, Released
from actorwork.inspection import Inspection
from actorwork.records import Pause, PauseKind
from actorwork.runtime.pausing import Pausing
from actorwork.testing import MemoryBroker, TestSystem, advance, open_test_system
from actorwork.testing.conformance import until
from tests.patience import PATIENCE


class Base(Actor):
    seen: list[tuple[str, int]]

    @receive
    async def work(self, *, n: int, seconds: float = 0.0) -> None:
        await trio.sleep(seconds)
        self.seen.append((type(self).settings.title, n))


@pytest.fixture
def seen() -> list[tuple[str, int]]:
    return []


@pytest.fixture
def shop(seen: list[tuple[str, int]]) -> type[Actor]:
    class Shop(Base):
        settings = Settings(title="shop", sources={"orders", "mail"})

    Shop.seen = seen
    return Shop


@pytest.fixture
def cook(seen: list[tuple[str, int]]) -> type[Actor]:
    class Cook(Base):
        settings = Settings(title="cook", sources={"orders"})

    Cook.seen = seen
    return Cook


async def send(system: TestSystem, source: str, n: int, seconds: float = 0.0) -> None:
    await system.client.publish(source, {"n": n, "seconds": seconds})


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("everything", "", set[tuple[str, int]]()),
        ("actor", "shop", {("cook", 1)}),
        ("source", "orders", {("shop", 2)}),
        ("source", "elsewhere", {("shop", 1), ("shop", 2), ("cook", 1)}),
        ("actor", "nobody", {("shop", 1), ("shop", 2), ("cook", 1)}),
    ],
)
async def test_what_is_paused_waits_and_the_rest_goes_on(
    mock_clock: MockClock,
    shop: type[Actor],
    cook: type[Actor],
    seen: list[Any],
    kind: PauseKind,
    name: str,
    expected: set[Any],
):
    async with open_test_system([shop, cook]) as system:
        await system.broker.pauses.pause(kind, name)
        await advance(0.1)
        await send(system, "orders", 1)
        await send(system, "mail", 2)
        await advance(5)
        assert set(seen) == expected
        await system.broker.pauses.resume(kind, name)
        await system.drain()
    assert sorted(seen) == [("cook", 1), ("shop", 1), ("shop", 2)]


async def test_what_is_in_hand_finishes_and_what_waits_is_handed_back_in_its_place(
    mock_clock: MockClock, shop: type[Actor], seen: list[Any]
):
    async with open_test_system(shop) as system:
        for n in range(6):
            await send(system, "orders" if n % 2 else "mail", n, seconds=1)
        await advance(0.5)
        await system.broker.pauses.pause("source", "orders")
        await advance(0.01)
        assert {event.source for event in system.of(Released)} <= {"orders"}
        await advance(10)
        assert sorted(seen) == [("shop", 0), ("shop", 2), ("shop", 4)]
        assert len(system.broker.waiting("orders")) == 3
        await system.broker.pauses.resume("source", "orders")
        await system.drain()
    assert [n for _, n in seen[3:]] == [1, 3, 5]
    assert all(one.delivery.attempt == 1 for one in system.broker.settled)


async def test_a_node_that_starts_during_a_pause_begins_nothing(
    mock_clock: MockClock, shop: type[Actor], seen: list[Any]
):
    broker = MemoryBroker()
    broker.put("orders", b'{"n": 1}')
    await broker.pauses.pause("actor", "shop", reason="stock-taking", by="ann")
    async with open_test_system(shop, broker=broker) as system:
        await advance(60)
        assert seen == []
        (changed,) = system.of(PausesChanged)
        assert [(str(one), one.reason, one.by) for one in changed.paused] == [("actor 'shop'", "stock-taking", "ann")]
        await broker.pauses.resume("actor", "shop")
        await system.drain()
    assert seen == [("shop", 1)]


async def test_one_of_two_pauses_that_ends_leaves_the_other(mock_clock: MockClock, shop: type[Actor], seen: list[Any]):
    async with open_test_system(shop) as system:
        await system.broker.pauses.pause("everything")
        await system.broker.pauses.pause("source", "orders")
        await advance(0.1)
        await send(system, "orders", 1)
        await send(system, "mail", 2)
        await system.broker.pauses.resume("everything")
        await advance(1)
        assert seen == [("shop", 2)]
        await system.broker.pauses.resume("source", "orders")
        await system.drain()
    assert seen == [("shop", 2), ("shop", 1)]


async def test_local_messages_go_on_while_the_actor_is_paused(
    mock_clock: MockClock, shop: type[Actor], seen: list[Any]
):
    async with open_test_system(shop) as system:
        await system.broker.pauses.pause("everything")
        await advance(0.1)
        await system.ref(shop).tell({"n": 7})
        await system.drain()
    assert seen == [("shop", 7)]


async def test_a_system_stops_while_it_is_paused(mock_clock: MockClock, shop: type[Actor]):
    broker = MemoryBroker()
    async with open_test_system(shop, broker=broker) as system:
        for n in range(5):
            await send(system, "orders", n, seconds=1)
        await advance(0.5)
        await broker.pauses.pause("everything")
        await advance(0.1)
    assert len(broker.waiting("orders")) == 4


# ---- triggers ----


def regular(**more: Any) -> type[Actor]:
    class Clock(Actor):
        settings = Settings(
            title="clock",
            triggers=[
                Trigger(title="fast", schedule=Interval(seconds=10), kwargs={"which": "fast"}, **more),
                Trigger(title="slow", schedule=Interval(seconds=30), kwargs={"which": "slow"}, **more),
            ],
        )
        seen: list[tuple[str, float]]

        @receive
        async def tick(self, *, which: str) -> None:
            self.seen.append((which, trio.current_time()))

    Clock.seen = []
    return Clock


async def test_a_paused_trigger_does_not_fire_and_what_it_passed_over_is_gone(mock_clock: MockClock):
    actor: Any = regular()
    broker = MemoryBroker()
    async with open_test_system(actor, broker=broker), open_test_system(actor, broker=broker):
        await advance(15)
        await broker.pauses.pause("trigger", "clock/fast")
        await advance(50)
        await broker.pauses.resume("trigger", "clock/fast")
        await advance(20)
    assert [round(at) for which, at in actor.seen if which == "fast"] == [10, 70, 80]
    assert [round(at) for which, at in actor.seen if which == "slow"] == [30, 60]


async def test_all_triggers_of_an_actor_can_be_paused_also_while_no_node_runs(mock_clock: MockClock):
    actor: Any = regular()
    broker = MemoryBroker()
    async with open_test_system(actor, broker=broker):
        await advance(15)
        await broker.pauses.pause("triggers", "clock")
        await advance(10)
    mock_clock.jump(100)
    await broker.pauses.resume("triggers", "clock")
    async with open_test_system(actor, broker=broker):
        await advance(12)
    assert [(which, round(at)) for which, at in actor.seen] == [("fast", 10), ("fast", 130)]


async def test_triggers_fire_into_what_is_paused(mock_clock: MockClock):
    actor: Any = regular()
    async with open_test_system(actor) as system:
        await system.broker.pauses.pause("actor", "clock")
        await advance(45)
        assert actor.seen == []
        await system.broker.pauses.resume("actor", "clock")
        await system.drain()
    assert sorted(which for which, _ in actor.seen) == ["fast"] * 4 + ["slow"]


# ---- at the real brokers ----


@pytest.mark.parametrize("kind", ["redis", "embedded"])
async def test_pausing_again_and_again_loses_nothing_and_does_nothing_twice(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
):
    url: str = request.getfixturevalue("redis_url") if kind == "redis" else f"sqlite:///{tmp_path}/messages.db"
    done: Counter[int] = Counter()

    class Worker(Actor):
        settings = Settings(title="worker", sources={"even", "odd"}, concurrency=4)

        @receive
        async def work(self, *, n: int) -> None:
            assert self.context.delivery is not None
            assert (self.context.delivery.attempt, self.context.delivery.crashes) == (1, 0)
            await trio.sleep(0.002)
            done[n] += 1

    async def send(client: Client) -> None:
        for n in range(600):
            await client.publish("odd" if n % 2 else "even", {"n": n})

    whats: list[Any] = [{"source": "odd"}, {"actor": Worker}, {}, {"source": "even"}]

    async def is_done() -> bool:
        return len(done) == 600 and not await one.backlog("odd") + await one.backlog("even")

    async with (
        open_broker(url) as one,
        open_broker(url) as two,
        open_client(one) as client,
        open_system(Worker, broker=one, emit=ignore),
        open_system(Worker, broker=two, emit=ignore),
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, client)
            for what in whats:
                await client.pause(**what)
                await trio.sleep(0.1)
                await client.resume(**what)
                await trio.sleep(0.05)
        await until(is_done, "all of them", within=PATIENCE)
    assert set(done.values()) == {1}


async def test_a_pause_stays_though_pauses_cannot_be_read_any_more(mock_clock: MockClock):
    answers: list[Pause | BrokerError] = [
        Pause("triggers", "shop"),
        BrokerError("no hash"),
        BrokerError("away", may_pass=True),
    ]

    class Pauses:
        is_certain = False

        async def list(self) -> list[Pause]:
            await trio.lowlevel.checkpoint()
            answer = answers.pop(0)
            if isinstance(answer, BrokerError):
                raise answer
            return [answer]

    events: list[Event] = []
    pausing = Pausing(cast("Any", Pauses()), (), events.append, 60)
    await pausing.refresh()
    await pausing.refresh()
    assert pausing.is_off("shop", "t")
    assert [type(event) for event in events] == [PausesChanged, BrokerTrouble]
    with pytest.raises(BrokerError, match="away"):
        await pausing.refresh()


@pytest.mark.parametrize("is_pid", [True, False], ids=["program", "host"])
async def test_a_paused_node_begins_nothing_until_it_is_resumed(
    mock_clock: MockClock, shop: type[Actor], seen: list[Any], is_pid: bool
):
    name = f"{socket.gethostname()}:{os.getpid()}" if is_pid else socket.gethostname()
    async with open_test_system(shop) as system:
        await system.broker.pauses.pause("node", name)
        await system.broker.pauses.pause("process", "another")
        await advance(0.01)
        await send(system, "orders", 1)
        await advance(5)
        assert seen == []
        await system.broker.pauses.resume("node", name)
        await system.drain()
    assert seen == [("shop", 1)]


# ---- by the node's own configuration ----


@pytest.mark.parametrize("name", ["orders", "actor:shop"])
async def test_a_program_reads_nothing_from_the_sources_that_its_configuration_pauses(
    mock_clock: MockClock, shop: type[Actor], seen: list[Any], name: str
):
    source = shop.settings.default_source if name == "actor:shop" else name
    async with open_test_system(shop, paused_sources=[name]) as system:
        await send(system, source, 1)
        await send(system, "mail", 2)
        await advance(5)
        assert seen == [("shop", 2)]
        assert not await system.broker.pauses.list()
        assert system.system.change_paused_sources(["oders"]) == ["oders"]
        await system.drain()
        assert seen == [("shop", 2), ("shop", 1)]
        system.system.change_paused_sources(["mail"])
        await send(system, "mail", 3)
        await send(system, source, 4)
        await advance(5)
        assert seen == [("shop", 2), ("shop", 1), ("shop", 4)]
        system.system.change_paused_sources([])
        await system.drain()
    assert seen[-1] == ("shop", 3)


async def test_what_is_paused_at_the_broker_too_stays_paused(mock_clock: MockClock, shop: type[Actor], seen: list[Any]):
    async with open_test_system(shop, paused_sources=["orders"]) as system:
        await system.broker.pauses.pause("source", "orders", by="ann")
        await advance(0.1)
        system.system.change_paused_sources([])
        await send(system, "orders", 1)
        await advance(5)
        assert not seen
        await system.broker.pauses.resume("source", "orders")
        await system.drain()
    assert seen == [("shop", 1)]


async def test_the_reason_why_nothing_is_read_names_the_configuration(mock_clock: MockClock, shop: type[Actor]):
    async with open_test_system(shop, paused_sources=["orders"]) as system:
        await send(system, "orders", 1)
        await advance(60)
        source = await Inspection(system.broker).source("orders")
        actor = await Inspection(system.broker).actor("shop")
        node = (await Inspection(system.broker).nodes()).nodes[0]
        system.system.change_paused_sources([])
        await system.drain()
    name = f"{socket.gethostname()}:{os.getpid()}"
    said = f"source 'orders' is paused by the configuration of {name} (paused_sources)"
    assert (source.why, actor.why) != (None, None)
    assert (str(source.why), str(actor.why)) == (said, said)
    assert node.report is not None
    assert node.report.pauses == ("source 'orders'",)


async def test_a_source_that_no_actor_reads_cannot_be_paused_at_the_start(shop: type[Actor]):
    with pytest.raises(SettingsError, match="no actor of this tree reads 'oders'; did you mean 'orders'"):
        async with open_test_system(shop, paused_sources=["oders"]):
            pass
    with pytest.raises(SettingsError, match="paused_sources wants a list of the names of sources, got 'orders'"):
        async with open_test_system(shop, paused_sources=cast("Any", "orders")):
            pass
