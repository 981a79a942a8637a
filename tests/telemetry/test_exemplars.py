"""Exemplars: sampled traces in the buckets of durations, for readers of OpenMetrics."""

from collections.abc import Mapping
from typing import Any

import pytest
import trio.testing
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import format_trace_id
from prometheus_client.openmetrics import parser as open_parser

from actorwork import events
from actorwork.message import Delivery, Failure, Json
from actorwork.policy.settlement import ACK, Fail, Settlement
from actorwork.telemetry.metrics import Registry
from actorwork.telemetry.metrics.counting import MetricsSink
from actorwork.telemetry.metrics.rendering import rendered
from actorwork.telemetry.otel import handling
from actorwork.testing import open_test_system
from tests.telemetry import traced

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
OTHER = "0af7651916cd43dd8448eb211c80319c"
OPEN = "application/openmetrics-text"


def in_trace(trace: str, flag: str = "01") -> Mapping[str, Json]:
    return {"traceparent": f"00-{trace}-00f067aa0ba902b7-{flag}"}


def settle(registry: Registry, headers: Mapping[str, Json], seconds: float, settlement: Settlement = ACK) -> None:
    sink = MetricsSink(registry, lambda _: None)
    sink(events.Settled("ac70", "greeter", Delivery("1", "s", b"{}", None, headers=headers), settlement, seconds))
    sink.count_ended()


def exemplars_in(registry: Registry) -> dict[tuple[str, str], tuple[str, float]]:
    """Return the trace and the value of each, by outcome and bound, as a parser of the format reads them."""
    parser: Any = open_parser
    _, text = rendered(registry.read(), OPEN)
    return {
        (sample.labels["outcome"], sample.labels["le"]): (sample.exemplar.labels["trace_id"], sample.exemplar.value)
        for family in parser.text_string_to_metric_families(text.decode())
        for sample in family.samples
        if sample.exemplar is not None
    }


def test_a_bucket_has_the_trace_of_the_message_that_fell_into_it_last():
    registry = Registry()
    for trace, seconds in ((OTHER, 0.02), (TRACE, 0.021), (OTHER, 3.0)):
        settle(registry, in_trace(trace), seconds)
    settle(registry, in_trace(TRACE), 9999.0, Fail(Failure("ValueError", "no")))
    assert exemplars_in(registry) == {
        ("ack", "0.025"): (TRACE, 0.021),
        ("ack", "5.0"): (OTHER, 3.0),
        ("fail", "+Inf"): (TRACE, 9999.0),
    }


@pytest.mark.parametrize(
    "headers",
    [{}, in_trace(TRACE, "00"), in_trace("0" * 32), {"traceparent": 7}, {"traceparent": f'00-{TRACE}"}} 1-01'}],
)
def test_what_is_in_no_sampled_trace_is_none(headers: Mapping[str, Json]):
    registry = Registry()
    settle(registry, headers, 0.02)
    assert exemplars_in(registry) == {}


def test_the_format_of_prometheus_has_no_place_for_them():
    registry = Registry()
    settle(registry, in_trace(TRACE), 0.02)
    assert TRACE.encode() not in rendered(registry.read(), "text/plain")[1]


def test_those_of_processes_below_are_shown_by_the_root_the_latest_first():
    root, middle, child = Registry(), Registry(), Registry()
    settle(root, in_trace(OTHER), 0.02)
    settle(child, in_trace(TRACE), 0.021)
    settle(child, in_trace(TRACE), 2.0)
    middle.absorb("inner", 2, child.snapshot())
    root.absorb("outer", 1, middle.snapshot())
    assert exemplars_in(root) == {("ack", "0.025"): (TRACE, 0.021), ("ack", "2.5"): (TRACE, 2.0)}
    root.retire("outer", 1)
    assert exemplars_in(root) == {("ack", "0.025"): (OTHER, 0.02)}


async def test_a_trace_that_begins_with_a_message_is_an_exemplar_too(mock_clock: trio.testing.MockClock):
    traces = traced.Kept()
    async with open_test_system([traced.First, traced.Second], metrics=True, telemetry=traces.telemetry()) as system:
        await system.client.ref(traced.First).tell("lamp")
        await system.drain()
        registry = system.system.metrics
        assert registry is not None
        found = exemplars_in(registry)
    first = traces.one("process actor:first")
    assert first.parent is None
    assert first.context is not None
    assert {trace for trace, _ in found.values()} == {format_trace_id(first.context.trace_id)}


async def test_of_what_its_sampler_drops_there_is_none(mock_clock: trio.testing.MockClock):
    traces = traced.Kept(ParentBased(ALWAYS_OFF))
    async with open_test_system([traced.First, traced.Second], metrics=True, telemetry=traces.telemetry()) as system:
        await system.client.ref(traced.First).tell("lamp")
        await system.drain()
        registry = system.system.metrics
        assert registry is not None
        assert exemplars_in(registry) == {}


def test_few_traces_are_remembered(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(handling, "_REMEMBERED", 2)
    traces = traced.Kept()
    opened = traces.telemetry().open("")
    spans = opened.of_actor(traced.First.settings)
    assert spans is not None
    for number in range(3):
        spans._note_sampled([Delivery(str(number), "s", b"1", None)], "trace")
    assert [delivery.id for delivery, _ in opened.sampled.values()] == ["1", "2"]
