"""What a running system counts of itself, at a broker in memory and in simulated time."""

import logging
import threading
import urllib.request
from collections.abc import Mapping

import pytest
import trio
import trio.testing

from actorwork import (
    Actor,
    MailboxSettings,
    Retry,
    RetryPolicy,
    Settings,
    SettingsError,
    events,
    open_client,
    open_system,
    receive,
)
from actorwork.runtime import metering
from actorwork.telemetry.metrics import Registry
from actorwork.telemetry.metrics.counting import TOGETHER
from actorwork.testing import MemoryBroker, open_test_system
from tests.patience import PATIENCE


def values(registry: Registry | None, name: str) -> Mapping[tuple[str, ...], float]:
    assert registry is not None
    return {
        tuple(one.labels.values()): one.count if one.kind == "histogram" else one.value
        for one in registry.read()
        if one.name == name
    }


class Shop(Actor):
    """Sleeps, and fails as often as it is told to."""

    settings = Settings(
        title="shop",
        sources={"orders"},
        mailbox=MailboxSettings(capacity=7),
        retry=RetryPolicy(attempts=3),
        execution_timeout=50,
    )

    @receive
    async def order(self, *, sleep: float = 0.0, fails: int = 0, sends: int = 0, publishes: int = 0) -> None:
        await trio.sleep(sleep)
        for _ in range(publishes):
            self.context.publish("orders", {})
        if self.context.delivery.attempt <= fails:
            raise Retry(delay=5)


async def test_a_system_counts_what_its_actors_handle(mock_clock: trio.testing.MockClock):
    async with open_test_system(Shop, metrics=True) as test:
        metrics = test.system.metrics
        await test.client.publish("orders", {"sleep": 2})
        await test.client.publish("orders", {"fails": 1})
        await test.client.publish("orders", {"publishes": 2})
        await test.drain(scheduled=True)
        assert values(metrics, "actorwork_deliveries_total") == {("shop", "ack"): 5, ("shop", "retry"): 1}
        assert values(metrics, "actorwork_failures_total") == {("shop", "Retry"): 1}
        assert values(metrics, "actorwork_wait_duration_seconds") == {("shop",): 5}
        assert values(metrics, "actorwork_end_to_end_duration_seconds") == {("shop",): 5}
        assert values(metrics, "actorwork_sent_total") == {("orders", "sent"): 2}
        assert values(metrics, "actorwork_read_messages_total") == {("shop",): 6}
        assert 1 <= values(metrics, "actorwork_reads_total")["shop",] <= 6
        assert values(metrics, "actorwork_actors") == {("shop", "running"): 1}
        assert values(metrics, "actorwork_mailbox_capacity") == {("shop",): 7}
        assert values(metrics, "actorwork_broker_up") == {(): 1}
        assert values(metrics, "actorwork_loop_lag_seconds")[()] >= 8


async def test_what_was_handled_is_counted_when_more_is_read(
    mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, logger="actorwork")
    monkeypatch.setattr(metering, "TICK", 1e6)  # So that nothing else counts it.
    async with (
        open_system(Shop, broker=MemoryBroker(), metrics=True) as system,
        open_client(system.broker) as client,
    ):
        counting = system._engine.metering
        assert counting is not None
        notes, most = counting.sink.ack_notes(Shop.settings.id, "shop"), 0
        assert notes.noted is not None
        for _ in range(6 * TOGETHER):
            await client.ref(Shop).ask({})
            most = max(most, len(notes.noted) // 3)
        assert TOGETHER <= most <= TOGETHER + 7
        assert values(counting.registry, "actorwork_deliveries_total") == {("shop", "ack"): 6 * TOGETHER}


async def test_what_is_in_hand_and_what_waits_is_seen_from_another_thread(mock_clock: trio.testing.MockClock):
    async with open_test_system(Shop, metrics=True) as test:
        metrics = test.system.metrics
        shop = test.ref(Shop)
        for _ in range(3):
            await test.client.publish("orders", {"sleep": 40})
        shop.tell_nowait({"sleep": 1})
        await trio.sleep(30)
        read: dict[str, Mapping[tuple[str, ...], float]] = {}

        def look() -> None:
            for name in ("in_hand", "longest_in_hand_seconds", "mailbox_messages", "overdue"):
                read[name] = values(metrics, f"actorwork_{name}")

        # The loop stands still meanwhile: a thread that it waited for would let the time of the test go on.
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        assert read["in_hand"] == {("shop",): 1}
        assert read["longest_in_hand_seconds"]["shop",] == pytest.approx(30, abs=1)
        assert sum(read["mailbox_messages"].values()) == 3
        assert read["overdue"] == {}


async def test_without_metrics_there_is_nothing_that_could_count(mock_clock: trio.testing.MockClock):
    async with open_test_system(Shop) as test:
        assert test.system.metrics is None
        assert test.system._engine.emit is not None
        assert not hasattr(test.system._engine.emit, "registry")


async def test_metrics_are_on_or_off():
    with pytest.raises(SettingsError, match="metrics wants True or False, got 'yes'"):
        async with open_system(Shop, broker="sqlite://", metrics="yes"):  # type: ignore[typeddict-item]
            pass


async def test_the_monitor_serves_the_metrics_in_the_format_that_is_asked_for():
    async with open_system(Shop, broker="sqlite://", monitor="127.0.0.1:0") as system:
        assert system.monitor is not None
        address = f"{system.monitor.url}/metrics"

        def fetch(accept: str) -> tuple[str, str]:
            request = urllib.request.Request(address, headers={"Accept": accept})
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                return response.headers["Content-Type"], response.read().decode()

        kind, text = await trio.to_thread.run_sync(fetch, "text/plain")
        assert kind.startswith("text/plain; version=0.0.4")
        assert 'actorwork_actors{actor="shop",state="running"} 1\n' in text
        kind, text = await trio.to_thread.run_sync(fetch, "application/openmetrics-text; version=1.0.0")
        assert kind.startswith("application/openmetrics-text")
        assert text.endswith("# EOF\n")


async def test_a_monitor_without_metrics_has_no_such_path():
    async with open_system(Shop, broker="sqlite://", monitor="127.0.0.1:0", metrics=False) as system:
        assert system.monitor is not None
        assert "/metrics" not in system.monitor.routes


class Watching:
    """Telemetry that looks at events, and at nothing else. Implements `abc.Telemetry` and `abc.Instruments`."""

    publish_middleware = ()

    def __init__(self) -> None:
        self.seen: list[events.Event] = []
        self.observe = self.seen.append

    def open(self, broker: str) -> "Watching":
        return self

    def of_actor(self, settings: Settings) -> None:
        return None

    def close(self, within: float) -> None: ...


async def test_what_observes_events_sees_every_delivery_also_where_metrics_count_them(
    mock_clock: trio.testing.MockClock,
):
    watching = Watching()
    async with (
        open_system(Shop, broker=MemoryBroker(), telemetry=watching, metrics=True) as system,
        open_client(system.broker) as client,
    ):
        await trio.sleep(2)  # Until the sink was asked several times whether it wants to be told.
        for _ in range(3):
            await client.ref(Shop).ask({})
    settled = [one for one in watching.seen if isinstance(one, events.Settled)]
    assert len(settled) == 3
