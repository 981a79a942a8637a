"""The metrics of a broker: what waits, for how long, and who reads; the same at every broker."""

import urllib.request
from pathlib import Path

import pytest
import trio

from actorwork import Actor, Settings, open_client, open_system, receive
from actorwork.abc import Broker
from actorwork.brokers import open_broker
from actorwork.inspection.metrics import BrokerRoute, broker_metrics
from actorwork.inspection.routes import FRESH
from actorwork.message import Envelope
from actorwork.runtime import engine
from actorwork.state.known_actors import enter_actors
from actorwork.telemetry.metrics import Registry
from actorwork.telemetry.monitor import Request
from tests.patience import PATIENCE


class Till(Actor):
    settings = Settings(title="till", sources={"orders"})

    @receive
    async def take(self, *, held: bool = False) -> None:
        if held:
            await trio.sleep_forever()


def read(registry: Registry, name: str) -> dict[tuple[str, ...], float]:
    return {tuple(one.labels.values()): one.value for one in registry.read() if one.name == name}


@pytest.fixture(params=["embedded", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "redis":
        return request.getfixturevalue("redis_url")
    return f"sqlite:///{tmp_path / 'messages.sqlite3'}"


async def test_a_source_that_nobody_reads_has_messages_an_age_and_no_reader(url: str):
    async with open_broker(url) as broker:
        await enter_actors(broker.values, {"till": ["orders"], "clerk": ["letters"], "scribe": ["letters"]}, 0.0)
        await broker.publish([Envelope("orders", f"m{number}", b"{}") for number in range(3)])
        await broker.publish([Envelope("orders", "later", b"{}", delay=1000)])
        await broker.publish([Envelope("letters", "n0", b"{}")])
        registry = await broker_metrics(broker)
    assert read(registry, "actorwork_source_messages") == {
        ("orders", "till", "ready"): 3,
        ("orders", "till", "in_hand"): 0,
        ("orders", "till", "delayed"): 1,
        ("orders", "till", "dead"): 0,
        ("letters", "clerk", "ready"): 1,
        ("letters", "clerk", "in_hand"): 0,
        ("letters", "scribe", "ready"): 1,
        ("letters", "scribe", "in_hand"): 0,
        ("letters", "", "delayed"): 0,
        ("letters", "", "dead"): 0,
    }
    oldest = read(registry, "actorwork_source_oldest_seconds")
    assert 0 <= oldest["orders", "till"] < 60
    assert set(read(registry, "actorwork_source_readers").values()) == {0}
    assert read(registry, "actorwork_nodes") == {(): 0}


async def test_a_node_is_counted_as_a_reader_and_its_message_as_in_hand(url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine, "REPORT_AFTER", 0.0)
    async with open_system(Till, broker=url) as system, open_client(url) as client:
        await client.publish("orders", {"held": True})
        expected = {("orders", "till", "ready"): 0.0, ("orders", "till", "in_hand"): 1.0}
        own = {Till.settings.default_source}
        limit, registry = trio.current_time() + PATIENCE, Registry()
        found: dict[tuple[str, ...], float] = {}
        readers: dict[tuple[str, ...], float] = {}
        while not (expected.items() <= found.items() and readers.get(("orders", "till")) == 1):
            assert trio.current_time() < limit, (found, readers)
            await system.broker.reports.watch(5)
            registry = await broker_metrics(system.broker)
            found, readers = read(registry, "actorwork_source_messages"), read(registry, "actorwork_source_readers")
            await trio.sleep(0.05)
        assert {source for source, _ in readers} == {"orders", *own}
        assert read(registry, "actorwork_nodes") == {(): 1}
        system.stop()
        system.stop()  # Again, so that the handler that never ends is not waited for.


async def test_the_broker_is_asked_once_in_a_while_however_many_look():
    now = [100.0]
    asked: list[int] = []
    request = Request("/metrics/broker", "", {})
    async with open_broker("sqlite://") as broker:

        def reached() -> Broker:
            asked.append(1)
            if len(asked) > 2:
                raise RuntimeError("gone")
            return broker

        route = BrokerRoute(reached, lambda: now[0])
        first = await trio.to_thread.run_sync(route, request)
        assert (first.status, first.body.splitlines()[-1]) == (200, b"actorwork_nodes 0")
        now[0] += FRESH - 0.1
        assert await trio.to_thread.run_sync(route, request) == first
        assert len(asked) == 1
        now[0] += 0.1
        await trio.to_thread.run_sync(route, request)
        assert len(asked) == 2
        now[0] += FRESH
        failed = await trio.to_thread.run_sync(route, request)
        assert (failed.status, failed.body) == (503, b"RuntimeError: gone\n")


async def test_the_monitor_of_a_node_serves_the_metrics_of_its_broker():
    async with open_system(Till, broker="sqlite://", monitor="127.0.0.1:0") as system:
        assert system.monitor is not None
        address = f"{system.monitor.url}/metrics/broker"

        def fetch() -> str:
            with urllib.request.urlopen(address, timeout=PATIENCE) as response:
                return response.read().decode()

        text = await trio.to_thread.run_sync(fetch)
        assert "# TYPE actorwork_nodes gauge\n" in text
        assert "actorwork_deliveries_total" not in text
