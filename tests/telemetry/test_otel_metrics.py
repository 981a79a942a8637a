"""The metrics of a system as observable instruments of OpenTelemetry."""

from typing import Any

import trio
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from actorwork.telemetry.otel import export_metrics
from actorwork.testing import open_test_system
from tests.telemetry.traced import First, Second


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
