"""The metrics of a system as instruments of OpenTelemetry."""

import time
from bisect import bisect_left
from collections.abc import Iterable
from typing import Any

import pytest
import trio
from hypothesis import given, strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from actorwork.telemetry.metrics import Registry
from actorwork.telemetry.metrics.table import DURATIONS
from actorwork.telemetry.otel import export_metrics, measuring
from actorwork.telemetry.otel.measuring import values_within
from actorwork.testing import open_test_system
from tests.telemetry.traced import First, Second

DURATION = "actorwork_process_duration_seconds"


def collected(reader: InMemoryMetricReader) -> dict[str, Any]:
    found = reader.get_metrics_data()
    assert found is not None
    return {
        metric.name: metric
        for resource in found.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def by_actor(metric: Any) -> dict[str, float]:
    return {point.attributes["actor"]: point.value for point in metric.data.data_points}


async def test_the_metrics_of_a_system_are_read_when_they_are_collected(mock_clock: trio.testing.MockClock):
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    async with open_test_system([First, Second], metrics=True) as system:
        registry = system.system.metrics
        assert registry is not None
        export_metrics(registry, meter_provider=provider)
        for order in ("lamp", "chair"):
            await system.client.ref(First).tell(order)
        await system.drain()
        metrics = collected(reader)
    assert by_actor(metrics["actorwork.deliveries"]) == {"first": 2, "second": 2}
    assert metrics["actorwork.deliveries"].data.is_monotonic
    assert metrics["messaging.process.duration.sum"].unit == "s"
    counts = {
        point.attributes["actor"]: point.value for point in metrics["messaging.process.duration.count"].data.data_points
    }
    assert counts == {"first": 2, "second": 2}
    actors = {point.attributes["actor"] for point in metrics["actorwork.mailbox_messages"].data.data_points}
    assert actors == {"first", "second"}
    provider.shutdown()


def histogram(metric: Any) -> dict[str, Any]:
    return {point.attributes["actor"]: point for point in metric.data.data_points}


async def test_histograms_have_the_buckets_that_the_conventions_advise(mock_clock: trio.testing.MockClock):
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    async with open_test_system([First, Second], metrics=True) as system:
        registry = system.system.metrics
        assert registry is not None
        export_metrics(registry, meter_provider=provider)
        metric: Any = None
        found: Any = None
        for _ in range(2):
            await system.client.ref(First).tell("lamp")
            await system.drain()
            (first,) = (one for one in registry.read() if one.name == DURATION and one.labels["actor"] == "first")
            # A reading serves for a moment.
            await trio.to_thread.run_sync(time.sleep, 0.51)
            metric = collected(reader)["messaging.process.duration"]
            found = histogram(metric)["first"]
            assert tuple(found.explicit_bounds) == DURATIONS
            assert tuple(found.bucket_counts) == first.buckets
            assert found.sum == pytest.approx(first.sum, abs=1e-6)
    assert found.count == 2
    assert metric.unit == "s"
    provider.shutdown()


def in_order(series: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(series, key=lambda one: sorted((name, str(value)) for name, value in one.items()))


def attributes(metric: Any) -> list[dict[str, Any]]:
    return in_order(dict(point.attributes) for point in metric.data.data_points)


@pytest.mark.parametrize("url", ["redis://cache.shop:6380/2", None])
def test_metrics_under_names_of_the_conventions_have_the_attributes_that_these_require(url: str | None):
    registry, reader = Registry(), InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    registry.family("actorwork_info").replace({("1.0", "valkey", "9.0"): 1})
    for outcome in ("sent", "refused", "spooled"):
        registry.meter.sent("orders", outcome)
        registry.meter.took_to_send(outcome, 0.02)
    registry.meter.read("till", 3)
    for command in ("settle_plain", "XADD"):
        registry.meter.command(command, 0.0003)
    for outcome in ("ack", "fail"):
        registry.family(DURATION).observe(("till", outcome), 0.02)
    export_metrics(registry, broker=url, meter_provider=provider)
    metrics = collected(reader)
    server = {"server.address": "cache.shop", "server.port": 6380} if url else {}
    redis = {"messaging.system": "redis", **server}
    send = {**redis, "messaging.operation.name": "send", "messaging.operation.type": "send"}
    order = {**send, "source": "orders", "messaging.destination.name": "orders"}
    # What waits in a spool was not sent.
    assert attributes(metrics["messaging.client.sent.messages"]) == in_order(
        [
            {**order, "outcome": "sent"},
            {**order, "outcome": "refused", "error.type": "_OTHER"},
        ]
    )
    assert attributes(metrics["messaging.client.operation.duration"]) == in_order(
        [
            {**send, "outcome": "sent"},
            {**send, "outcome": "refused", "error.type": "_OTHER"},
            {**send, "outcome": "spooled"},
        ]
    )
    till = {"actor": "till", "messaging.consumer.group.name": "till"}
    assert attributes(metrics["messaging.client.consumed.messages"]) == in_order(
        [{**redis, **till, "messaging.operation.name": "receive", "messaging.operation.type": "receive"}]
    )
    process = {**redis, **till, "messaging.operation.name": "process", "messaging.operation.type": "process"}
    assert attributes(metrics["messaging.process.duration"]) == in_order(
        [
            {**process, "outcome": "ack"},
            {**process, "outcome": "fail", "error.type": "_OTHER"},
        ]
    )
    database = {"db.system.name": "redis", **server}
    duration = metrics["db.client.operation.duration"]
    assert attributes(duration) == in_order(
        [
            {
                **database,
                "command": "settle_plain",
                "db.operation.name": "EVALSHA",
                "db.stored_procedure.name": "settle_plain",
            },
            {**database, "command": "XADD", "db.operation.name": "XADD"},
        ]
    )
    assert {0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10} < set(duration.data.data_points[0].explicit_bounds)
    assert duration.unit == "s"
    provider.shutdown()


def test_the_commands_of_the_embedded_broker_are_those_of_sqlite():
    registry, reader = Registry(), InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    registry.meter.command("transaction", 0.002)
    export_metrics(registry, meter_provider=provider)
    (found,) = attributes(collected(reader)["db.client.operation.duration"])
    assert found == {"command": "transaction", "db.system.name": "sqlite", "db.operation.name": "transaction"}
    provider.shutdown()


def test_what_the_processes_below_have_counted_is_recorded_once_and_a_fresh_start_again():
    registry, reader = Registry(), InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    recorder = measuring._Recorder()
    meter = provider.get_meter("test")
    recorder.instruments[DURATION] = meter.create_histogram("d", explicit_bucket_boundaries_advisory=DURATIONS)
    family = registry.family(DURATION)
    for seconds in (0.001, 0.02, 0.02, 7.0, 4000.0):
        family.observe(("till", "ack"), seconds)
    for _ in range(3):
        recorder.record(one for one in registry.read() if one.name == DURATION)
    fresh = Registry()
    fresh.family(DURATION).observe(("till", "ack"), 0.2)
    recorder.record(one for one in fresh.read() if one.name == DURATION)
    (point,) = collected(reader)["d"].data.data_points
    assert (point.count, point.sum) == (6, pytest.approx(4007.241, rel=1e-3))
    assert point.bucket_counts[-1] == 1
    provider.shutdown()


def test_of_very_many_values_an_equal_part_is_recorded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measuring, "RECORDED", 100)
    registry, reader = Registry(), InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    recorder = measuring._Recorder()
    meter = provider.get_meter("test")
    recorder.instruments[DURATION] = meter.create_histogram("d", explicit_bucket_boundaries_advisory=DURATIONS)
    family = registry.family(DURATION)
    for number in range(1000):
        family.observe(("till", "ack"), 0.02 if number < 900 else 7.0)
    recorder.record(one for one in registry.read() if one.name == DURATION)
    (point,) = collected(reader)["d"].data.data_points
    assert [count for count in point.bucket_counts if count] == [90, 10]
    provider.shutdown()


@given(st.lists(st.floats(1e-5, 1800), min_size=1))
def test_the_values_that_stand_for_others_are_in_their_buckets_and_have_their_sum(seconds: list[float]):
    counts = [0] * (len(DURATIONS) + 1)
    for one in seconds:
        counts[bisect_left(DURATIONS, one)] += 1
    values = values_within(DURATIONS, counts, sum(seconds))
    for place, (count, value) in enumerate(zip(counts, values, strict=True)):
        if count:
            assert bisect_left(DURATIONS, value) == place
    assert sum(count * value for count, value in zip(counts, values, strict=True)) == pytest.approx(sum(seconds))
