"""Traces: one from the sender of a message to its handler, and on to what the handler sends."""

import asyncio
import itertools
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import trio
from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.context import attach, detach
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import actorwork.aio
import actorwork.sync
from actorwork import (
    Actor,
    Process,
    Reject,
    Retry,
    RetryPolicy,
    Settings,
    SettingsError,
    SystemThread,
    open_client,
    receive,
)
from actorwork.errors import BrokerError
from actorwork.message import Envelope, Failure
from actorwork.telemetry.otel import OpenTelemetry, Providers, sending
from actorwork.telemetry.otel.conventions import attributes_of_broker
from actorwork.telemetry.otel.sampling import Sampling
from actorwork.testing import open_test_system
from actorwork.testing.memory.broker import MemoryBroker
from tests.telemetry.traced import First, Kept, Second, read_spans, telemetry_to

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"


def trace_of(span: ReadableSpan) -> str:
    return f"{_context_of(span).trace_id:032x}"


def _context_of(span: ReadableSpan) -> trace.SpanContext:
    found = span.get_span_context()
    assert found is not None
    return found


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def ids_in(envelope: Envelope) -> tuple[str, int]:
    """The trace and the span in the headers of a message."""
    _, trace_id, span_id, _ = str(envelope.headers["traceparent"]).split("-")
    return trace_id, int(span_id, 16)


def is_child(span: ReadableSpan, of: ReadableSpan) -> bool:
    return trace_of(span) == trace_of(of) and parent_of(span) == _context_of(of).span_id


# ---- from the sender to the handler ----


async def test_one_trace_leads_from_a_message_to_what_its_handler_sends(mock_clock: trio.testing.MockClock):
    kept = Kept()
    async with (
        open_test_system([First, Second], telemetry=kept.telemetry()) as system,
        open_client(system.broker, middleware=[sending(tracer_provider=kept.traces)]) as client,
    ):
        with kept.traces.get_tracer("web").start_as_current_span("POST /orders"):
            assert await client.ref(First).ask("lamp") == "ordered lamp"
        await system.drain()
    request, made, first, published, second = kept.spans
    assert [span.name for span in (request, first, published, second)] == [
        "POST /orders",
        "process actor:first",
        "create orders:packed",
        "process orders:packed",
    ]
    assert made.name == f"send {First.settings.default_source}"
    chain = [request, made, first, published, second]
    assert all(is_child(one, of) for of, one in itertools.pairwise(chain))
    assert [span.kind for span in chain[1:]] == [
        SpanKind.PRODUCER,
        SpanKind.CONSUMER,
        SpanKind.PRODUCER,
        SpanKind.CONSUMER,
    ]


async def test_spans_have_the_attributes_of_the_conventions(mock_clock: trio.testing.MockClock):
    kept = Kept()
    async with open_test_system([First, Second], telemetry=kept.telemetry()) as system:
        await system.client.ref(First).tell("lamp", id="m1")
        await system.drain()
    span = kept.one("process actor:first")
    assert dict(span.attributes or {}) == {
        "messaging.system": "actorwork",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": First.settings.default_source,
        "messaging.destination.template": "actor:first",
        "messaging.consumer.group.name": "first",
        "messaging.client.id": f"{socket.gethostname()}:{os.getpid()}",
        "messaging.message.id": "m1",
        "actorwork.actor": "first",
        "actorwork.attempt": 1,
    }
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.schema_url == "https://opentelemetry.io/schemas/1.44.0"
    published = dict(kept.one("create orders:packed").attributes or {})
    assert published["messaging.operation.type"] == "create"
    assert published["messaging.destination.name"] == "orders:packed"
    assert span.status.status_code is StatusCode.UNSET


def test_spans_at_redis_name_their_server():
    assert attributes_of_broker("redis://:secret@cache:6390/2") == {
        "messaging.system": "redis",
        "server.address": "cache",
        "server.port": 6390,
    }
    assert attributes_of_broker("rediss://cache")["server.port"] == 6379
    assert attributes_of_broker("unix:///run/redis.sock")["server.address"] == "/run/redis.sock"
    assert attributes_of_broker("sqlite:///m.db") == attributes_of_broker("") == {"messaging.system": "actorwork"}


async def test_a_system_begun_within_a_span_does_not_hand_it_to_its_messages(mock_clock: trio.testing.MockClock):
    kept = Kept()
    with kept.traces.get_tracer("main").start_as_current_span("main"):
        async with open_test_system([First, Second], telemetry=kept.telemetry()) as system:
            await system.client.ref(First).tell("lamp")
            await system.drain()
    assert kept.one("process actor:first").parent is None


# ---- the calls of a client that send ----


async def test_a_call_that_sends_many_messages_has_one_span_whose_context_they_carry(
    mock_clock: trio.testing.MockClock,
):
    kept, broker = Kept(), MemoryBroker()
    async with open_client(broker, middleware=[sending("redis://cache", tracer_provider=kept.traces)]) as client:
        await client.ref(Second).tell_many(["a", "b", "c"])
    span = kept.one(f"send {Second.settings.default_source}")
    assert span.kind is SpanKind.PRODUCER
    assert dict(span.attributes or {}) == {
        "messaging.system": "redis",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": Second.settings.default_source,
        "messaging.client.id": f"{socket.gethostname()}:{os.getpid()}",
        "messaging.batch.message_count": 3,
        "server.address": "cache",
        "server.port": 6379,
    }
    assert [ids_in(one) for one in broker.sent] == [(trace_of(span), _context_of(span).span_id)] * 3


async def test_each_message_has_a_span_of_its_own_where_that_is_switched_on(mock_clock: trio.testing.MockClock):
    kept, broker = Kept(), MemoryBroker()
    middleware = [sending(create_spans=True, tracer_provider=kept.traces)]
    async with open_client(broker, middleware=middleware) as client:
        await client.ref(Second).tell_many(["a", "b"])
    sent, made = kept.one(f"send {(source := Second.settings.default_source)}"), kept.named(f"create {source}")
    assert (sent.kind, [one.kind for one in made]) == (SpanKind.CLIENT, [SpanKind.PRODUCER] * 2)
    created = [_context_of(one).span_id for one in made]
    assert [link.context.span_id for link in sent.links] == created
    assert [ids_in(one)[1] for one in broker.sent] == created


async def test_a_call_is_linked_to_the_context_that_its_message_has(mock_clock: trio.testing.MockClock):
    kept, broker = Kept(), MemoryBroker()
    async with open_client(broker, middleware=[sending(tracer_provider=kept.traces)]) as client:
        await client.publish("orders:packed", "lamp", headers={"traceparent": SAMPLED}, id="m1")
    span = kept.one("send orders:packed")
    assert (span.kind, [f"{link.context.trace_id:032x}" for link in span.links]) == (SpanKind.CLIENT, [TRACE])
    assert dict(span.attributes or {})["messaging.message.id"] == "m1"


async def test_a_client_without_spans_gives_its_messages_the_context_in_which_they_are_sent(
    mock_clock: trio.testing.MockClock,
):
    kept, broker = Kept(), MemoryBroker()
    async with open_client(broker, middleware=[sending(spans=False, tracer_provider=kept.traces)]) as client:
        with kept.traces.get_tracer("web").start_as_current_span("request"):
            await client.publish("orders:packed", "lamp")
    request = kept.one("request")
    (envelope,) = broker.sent
    assert ids_in(envelope) == (trace_of(request), _context_of(request).span_id)
    assert len(kept.spans) == 1


async def test_a_call_in_a_trace_that_is_not_sampled_makes_no_span(
    mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
):
    kept, broker = Kept(ParentBased(TraceIdRatioBased(0.01))), MemoryBroker()
    async with open_client(broker, middleware=[sending(tracer_provider=kept.traces)]) as client:
        await client.publish("orders:packed", "first")
        monkeypatch.setattr("opentelemetry.sdk.trace.Tracer.start_span", _no_call)
        parent = TraceContextTextMapPropagator().extract({"traceparent": UNSAMPLED, "tracestate": "vendor=1"})
        token = attach(parent)
        try:
            await client.publish("orders:packed", "second")
        finally:
            detach(token)
    headers = broker.sent[-1].headers
    assert (headers["traceparent"], headers["tracestate"]) == (UNSAMPLED, "vendor=1")


async def test_a_call_that_fails_is_the_error_of_its_span_and_a_log_event(mock_clock: trio.testing.MockClock):
    class Away(MemoryBroker):
        async def publish_new(self, envelope: Envelope) -> None:
            raise BrokerError("the server has no memory left")

    kept = Kept()
    async with open_client(
        Away(), middleware=[sending(tracer_provider=kept.traces, logger_provider=kept().logs)]
    ) as client:
        with pytest.raises(BrokerError):
            await client.publish("orders:packed", "lamp")
    span = kept.one("send orders:packed")
    assert span.status.status_code is StatusCode.ERROR
    assert dict(span.attributes or {})["error.type"] == "actorwork.errors.BrokerError"
    (record,) = kept.logs
    assert (record.event_name, record.severity_text) == ("messaging.send.exception", "WARN")
    assert (record.trace_id, record.span_id) == (_context_of(span).trace_id, _context_of(span).span_id)
    assert dict(record.attributes or {})["exception.message"] == "the server has no memory left"


@pytest.mark.parametrize("where", ["start_span", "end"])
async def test_what_the_sdk_raises_keeps_no_message_from_being_sent(
    mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, where: str
):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the SDK is out of order")

    kept, broker = Kept(), MemoryBroker()
    owner = "opentelemetry.sdk.trace.Tracer" if where == "start_span" else "opentelemetry.sdk.trace.Span"
    for creates in (False, True):
        middleware = [sending(create_spans=creates, tracer_provider=kept.traces)]
        async with open_client(broker, middleware=middleware) as client:
            with monkeypatch.context() as patched:
                patched.setattr(f"{owner}.{where}", fail)
                await client.publish("orders:packed", "lamp")
    assert len(broker.sent) == 2
    assert "the SDK is out of order" in caplog.text


# ---- the context in a message ----


class Passing(Actor):
    """Publishes, and sends at once; also from a thread."""

    settings = Settings(title="passing")

    @receive
    async def passed(self, message: str) -> None:
        self.context.publish("published", message)
        await self.context.client.publish("sent", message)

    @receive
    def in_thread(self, message: int) -> None:
        self.context.publish("published", message)


async def test_a_context_in_a_message_is_never_overwritten(mock_clock: trio.testing.MockClock):
    kept = Kept()
    async with (
        open_test_system(Second, telemetry=kept.telemetry()) as system,
        open_client(system.broker, middleware=[sending(tracer_provider=kept.traces)]) as client,
    ):
        with kept.traces.get_tracer("web").start_as_current_span("POST /orders"):
            await client.publish("orders:packed", "lamp", headers={"traceparent": SAMPLED, "tracestate": "a=1"})
        await system.drain()
        (sent,) = system.sent("orders:packed")
    assert (sent.envelope.headers["traceparent"], sent.envelope.headers["tracestate"]) == (SAMPLED, "a=1")
    span = kept.one("process orders:packed")
    assert (trace_of(span), parent_of(span)) == (TRACE, int(SPAN, 16))
    assert _context_of(span).trace_state.to_header() == "a=1"


async def test_baggage_and_state_travel_with_the_trace(mock_clock: trio.testing.MockClock):
    kept = Kept()
    headers = {"traceparent": SAMPLED, "tracestate": "vendor=1", "baggage": "tenant=blue"}
    async with open_test_system(Passing, telemetry=kept.telemetry(create_spans=False)) as system:
        await system.client.ref(Passing).tell("x", headers=headers)
        await system.drain()
        (published,), (sent,) = system.sent("published"), system.sent("sent")
    span = kept.one("process actor:passing")
    here = f"00-{TRACE}-{_context_of(span).span_id:016x}-01"
    wanted = {"traceparent": here, "tracestate": "vendor=1", "baggage": "tenant=blue"}
    assert {name: published.envelope.headers[name] for name in wanted} == wanted
    assert {name: sent.envelope.headers[name] for name in wanted} == wanted


@pytest.mark.parametrize("message", ["on the loop", 1], ids=["async", "thread"])
async def test_what_is_not_sampled_passes_on_its_context_and_makes_no_span(
    mock_clock: trio.testing.MockClock, message: object, monkeypatch: pytest.MonkeyPatch
):
    kept = Kept(ParentBased(TraceIdRatioBased(0.01)))
    headers = {"traceparent": UNSAMPLED, "tracestate": "vendor=1", "baggage": "tenant=blue"}
    async with open_test_system(Passing, telemetry=kept.telemetry()) as system:
        monkeypatch.setattr("opentelemetry.sdk.trace.Tracer.start_span", _no_call)
        await system.client.ref(Passing).tell(cast("Any", message), headers=headers)
        await system.drain()
        assert not system.dead_letters
        (published,) = system.sent("published")
    assert {name: published.envelope.headers[name] for name in headers} == headers
    assert not kept.spans


def _no_call(*_: object, **__: object) -> None:
    raise AssertionError("the SDK was called for a span that is not sampled")


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The random numbers by which messages without a context are sampled, in their order."""
    numbers: list[float] = []
    monkeypatch.setattr("actorwork.telemetry.otel.handling.random.random", lambda: numbers.pop(0))
    return numbers


async def test_of_messages_without_a_context_a_ratio_is_sampled(mock_clock: trio.testing.MockClock, draws: list[float]):
    # The sampler is asked as well: what is taken here, it takes.
    kept = Kept(ParentBased(TraceIdRatioBased(0.01)))
    draws += [0.5, 0.009, 0.011, 0.0, 0.99]
    async with open_test_system(Second, telemetry=kept.telemetry()) as system:
        for _ in range(5):
            await system.client.publish("orders:packed", "lamp")
            await system.drain()
    assert not draws
    found = kept.named("process orders:packed")
    assert len(found) == 2
    assert len({trace_of(span) for span in found}) == 2
    assert all(span.parent is None for span in found)


async def test_one_of_several_layers_draws_once_too(mock_clock: trio.testing.MockClock, draws: list[float]):
    async def layer(_: object, proceed: Callable[[], Awaitable[object]]) -> object:
        return await proceed()

    kept = Kept(ParentBased(TraceIdRatioBased(0.01)))
    draws += [0.0, 0.5]
    async with open_test_system(Second, telemetry=kept.telemetry(), middleware=[layer]) as system:
        for _ in range(2):
            await system.client.publish("orders:packed", "lamp")
            await system.drain()
    assert not draws
    kept.one("process orders:packed")


@pytest.mark.parametrize("message", ["on the loop", 1], ids=["async", "thread"])
async def test_what_comes_without_a_context_and_is_not_sampled_is_one_trace_that_is_not(
    message: object, monkeypatch: pytest.MonkeyPatch, draws: list[float]
):
    kept = Kept(ParentBased(TraceIdRatioBased(0.01)))
    draws += [0.5]
    async with open_test_system(Passing, telemetry=kept.telemetry()) as system:
        monkeypatch.setattr("opentelemetry.sdk.trace.Tracer.start_span", _no_call)
        await system.client.ref(Passing).tell(cast("Any", message), headers={"baggage": "tenant=blue"})
        await system.drain()
        assert not system.dead_letters
        (published,) = system.sent("published")
    headers = published.envelope.headers
    assert re.fullmatch(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-00", str(headers["traceparent"]))
    assert headers["baggage"] == "tenant=blue"
    assert not kept.spans


async def test_the_attempts_of_a_message_that_is_not_sampled_are_not_sampled_either(
    mock_clock: trio.testing.MockClock, draws: list[float]
):
    kept = Kept(ParentBased(TraceIdRatioBased(0.01)))
    draws += [0.5, 0.0, 0.0]
    async with open_test_system(Trying, telemetry=kept.telemetry()) as system:
        await system.client.ref(Trying).tell("x")
        await system.drain(scheduled=True)
    assert (len(draws), kept.spans) == (2, [])


@pytest.mark.parametrize("ratio", [1.0, 0.5, 1e-9])
def test_a_trace_that_is_taken_has_an_id_that_its_sampler_takes(ratio: float):
    for sampler in (TraceIdRatioBased(ratio), ParentBased(TraceIdRatioBased(ratio))):
        provider = Kept(sampler).traces
        sampling = Sampling.of(provider, provider.get_tracer("test"))
        assert sampling.ratio == ratio
        for _ in range(50):
            with cast("Any", sampling.roots).start_as_current_span("x") as span:
                assert span.get_span_context().trace_flags.sampled


def header_of(low: int, flag: str) -> dict[str, str]:
    """The context of a trace whose id has this lower half."""
    return {"traceparent": f"00-{TRACE[:16]}{low:016x}-{SPAN}-{flag}"}


@pytest.mark.parametrize("flag", ["00", "01"])
async def test_a_sampler_by_ratio_alone_takes_traces_by_their_ids_whatever_the_flag_says(
    mock_clock: trio.testing.MockClock, flag: str
):
    kept = Kept(TraceIdRatioBased(0.25))
    taken, dropped = 0x3FFFFFFFFFFFFFFF, 0x4000000000000000
    async with open_test_system(Passing, telemetry=kept.telemetry()) as system:
        for low in (taken, dropped):
            await system.client.ref(Passing).tell(f"{low:016x}", headers=header_of(low, flag))
            await system.drain()
        assert not system.dead_letters
        published = [one.envelope.headers["traceparent"] for one in system.sent("published")]
    assert trace_of(kept.one("process actor:passing")) == f"{TRACE[:16]}{taken:016x}"
    # What the handler sends says what has become of the trace here, not what it was before.
    assert [str(one)[3:35] + str(one)[-2:] for one in published] == [
        f"{TRACE[:16]}{taken:016x}01",
        f"{TRACE[:16]}{dropped:016x}00",
    ]


async def test_a_sampler_that_takes_nothing_is_never_asked(
    mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
):
    kept = Kept(ALWAYS_OFF)
    async with open_test_system(Second, telemetry=kept.telemetry()) as system:
        monkeypatch.setattr("opentelemetry.sdk.trace.Tracer.start_span", _no_call)
        for headers in ({}, {"traceparent": SAMPLED}, {"traceparent": UNSAMPLED}):
            await system.client.publish("orders:packed", "lamp", headers=headers)
        await system.drain()
        assert not system.dead_letters
    assert not kept.spans


class Misdescribed(Sampler):
    """Says of itself that it takes a quarter by the ids of traces, and takes everything."""

    def should_sample(self, *_: Any, **__: Any) -> SamplingResult:
        return SamplingResult(Decision.RECORD_AND_SAMPLE)

    def get_description(self) -> str:
        return "TraceIdRatioBased{0.25}"


async def test_a_sampler_that_decides_otherwise_than_it_says_is_asked(mock_clock: trio.testing.MockClock):
    kept = Kept(Misdescribed())
    async with open_test_system(Second, telemetry=kept.telemetry()) as system:
        await system.client.publish("orders:packed", "lamp", headers=header_of(0xFFFFFFFFFFFFFFFF, "00"))
        await system.drain()
    kept.one("process orders:packed")


async def test_messages_handled_at_once_are_each_in_their_own_trace(mock_clock: trio.testing.MockClock):
    both = trio.Event()
    seen = dict[str, str]()

    class Waiting(Actor):
        settings = Settings(title="waiting", concurrency=2)

        @receive
        async def wait(self, message: str) -> None:
            async def look() -> None:
                await both.wait()
                seen[message] = f"{trace.get_current_span().get_span_context().trace_id:032x}"

            async with trio.open_nursery() as nursery:
                nursery.start_soon(look)
                seen[message] = ""
                if len(seen) == 2:
                    both.set()

    kept = Kept(ParentBased(TraceIdRatioBased(0.01)))
    traces = {name: f"{TRACE[:31]}{name}" for name in "ab"}
    async with open_test_system(Waiting, telemetry=kept.telemetry()) as system:
        for name, one in traces.items():
            await system.client.ref(Waiting).tell(name, headers={"traceparent": f"00-{one}-{SPAN}-00"})
        await system.drain()
    assert seen == traces


async def test_a_local_message_after_one_that_is_not_sampled_is_in_no_trace(mock_clock: trio.testing.MockClock):
    kept, seen = Kept(ParentBased(TraceIdRatioBased(0.01))), list[bool]()

    class Looking(Actor):
        settings = Settings(title="looking")

        @receive
        async def look(self, message: str) -> None:
            seen.append(trace.get_current_span().get_span_context().is_valid)

    async with open_test_system(Looking, telemetry=kept.telemetry()) as system:
        await system.client.ref(Looking).tell("x", headers={"traceparent": UNSAMPLED})
        await system.drain()
        await system.ref(Looking).ask("x")
    assert seen == [True, False]


async def test_a_span_that_a_handler_leaves_behind_is_not_the_parent_of_the_next_message(
    mock_clock: trio.testing.MockClock,
):
    kept, seen = Kept(ParentBased(TraceIdRatioBased(0.01))), list[str]()

    class Leaving(Actor):
        settings = Settings(title="leaving")

        @receive
        async def leave(self, message: str) -> None:
            seen.append(f"{trace.get_current_span().get_span_context().trace_id:032x}")
            attach(trace.set_span_in_context(trace.NonRecordingSpan(trace.SpanContext(1, 1, is_remote=False))))

    async with open_test_system(Leaving, telemetry=kept.telemetry()) as system:
        for _ in range(3):
            await system.client.ref(Leaving).tell("x", headers={"traceparent": UNSAMPLED})
        await system.drain()
    assert seen == [TRACE] * 3


async def test_what_is_done_about_a_failure_is_in_the_trace_of_its_message(mock_clock: trio.testing.MockClock):
    class Mourning(Actor):
        settings = Settings(title="mourning")

        @receive
        async def fail(self, message: str) -> None:
            raise ValueError("no")

        async def failed(self, message: object, failure: Failure) -> None:
            self.context.publish("published", "told")

    kept = Kept(ParentBased(TraceIdRatioBased(0.01)))
    async with open_test_system(Mourning, telemetry=kept.telemetry()) as system:
        await system.client.ref(Mourning).tell("x", headers={"traceparent": UNSAMPLED})
        await system.drain()
        (published,) = system.sent("published")
    assert published.envelope.headers["traceparent"] == UNSAMPLED


async def test_a_sampler_of_its_own_mind_is_asked_whatever_the_flag_says(mock_clock: trio.testing.MockClock):
    kept = Kept(ALWAYS_ON)
    async with open_test_system(Second, telemetry=kept.telemetry()) as system:
        await system.client.publish("orders:packed", "lamp", headers={"traceparent": UNSAMPLED})
        await system.drain()
    assert trace_of(kept.one("process orders:packed")) == TRACE


@pytest.mark.parametrize("value", ["", "00-zz-yy-01", f"00-{'0' * 32}-{SPAN}-01", "ff" + SAMPLED[2:], 7, None])
async def test_a_context_that_cannot_be_read_begins_a_new_trace(mock_clock: trio.testing.MockClock, value: Any):
    kept = Kept()
    async with open_test_system(Second, telemetry=kept.telemetry()) as system:
        await system.client.publish("orders:packed", "lamp", headers={"traceparent": value, "baggage": value})
        await system.drain()
        assert not system.dead_letters
    assert kept.one("process orders:packed").parent is None


async def test_a_handler_can_be_linked_instead_of_being_a_child(mock_clock: trio.testing.MockClock):
    kept = Kept()
    async with open_test_system(Second, telemetry=kept.telemetry(trace_parent="link")) as system:
        await system.client.publish("orders:packed", "lamp", headers={"traceparent": SAMPLED})
        await system.drain()
    span = kept.one("process orders:packed")
    assert span.parent is None
    assert trace_of(span) != TRACE
    (link,) = span.links
    assert (f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}") == (TRACE, SPAN)


async def test_a_handler_leaves_no_span_behind(mock_clock: trio.testing.MockClock):
    kept, seen = Kept(), list[bool]()

    class Looking(Actor):
        settings = Settings(title="looking")

        @receive
        async def look(self, message: str) -> None:
            seen.append(trace.get_current_span().get_span_context().is_valid)
            if message == "fail":
                raise ValueError("no")

        @receive
        async def look_locally(self, message: int) -> None:
            seen.append(trace.get_current_span().get_span_context().is_valid)

    async with open_test_system(Looking, telemetry=kept.telemetry()) as system:
        for message in ("fail", "pass"):
            await system.client.ref(Looking).tell(message)
            await system.drain()
            await system.ref(Looking).ask(1)
    assert seen == [True, False, True, False]


# ---- failures and retries ----


class Trying(Actor):
    settings = Settings(title="trying", retry=RetryPolicy(attempts=3))

    @receive
    async def attempt(self, message: str) -> None:
        attempt = self.context.delivery.attempt
        if message == "reject":
            raise Reject("not wanted")
        if attempt == 1:
            raise ValueError("no luck")
        if attempt == 2:
            raise Retry(1, "once more")


@pytest.mark.parametrize("headers", [{}, {"traceparent": SAMPLED}], ids=["without context", "with context"])
async def test_a_retry_is_linked_to_the_attempt_before(mock_clock: trio.testing.MockClock, headers: dict[str, Any]):
    kept = Kept()
    async with open_test_system(Trying, telemetry=kept.telemetry()) as system:
        await system.client.ref(Trying).tell("x", headers=headers)
        await system.drain(scheduled=True)
    first, second, third = kept.named("process actor:trying")
    assert [dict(span.attributes or {})["actorwork.attempt"] for span in (first, second, third)] == [1, 2, 3]
    assert first.links == ()
    for before, span in ((first, second), (second, third)):
        (link,) = span.links
        assert link.context.span_id == _context_of(before).span_id
    # All are in one trace: under the sender's span, or where there is none under the first attempt.
    assert trace_of(first) == trace_of(second) == trace_of(third)
    assert parent_of(third) == parent_of(second) == (int(SPAN, 16) if headers else _context_of(first).span_id)


async def test_retries_are_not_linked_where_that_is_switched_off(mock_clock: trio.testing.MockClock):
    kept = Kept()
    async with open_test_system(Trying, telemetry=kept.telemetry(link_attempts=False)) as system:
        await system.client.ref(Trying).tell("x", headers={"traceparent": SAMPLED})
        await system.drain(scheduled=True)
    assert [span.links for span in kept.named("process actor:trying")] == [(), (), ()]


async def test_an_exception_is_a_log_event_in_its_span(mock_clock: trio.testing.MockClock):
    kept = Kept()
    async with open_test_system(Trying, telemetry=kept.telemetry()) as system:
        await system.client.ref(Trying).tell("x", id="m1")
        await system.drain()
    span = kept.named("process actor:trying")[0]
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "ValueError: no luck")
    assert dict(span.attributes or {})["error.type"] == "ValueError"
    assert not span.events
    record = kept.logs[0]
    assert (record.event_name, record.severity_text) == ("messaging.process.exception", "ERROR")
    assert (record.trace_id, record.span_id) == (_context_of(span).trace_id, _context_of(span).span_id)
    found = dict(record.attributes or {})
    assert (found["exception.type"], found["exception.message"]) == ("ValueError", "no luck")
    assert "in attempt" in str(found["exception.stacktrace"])


async def test_a_rejected_message_is_no_error(mock_clock: trio.testing.MockClock):
    kept = Kept()
    async with open_test_system(Trying, telemetry=kept.telemetry()) as system:
        await system.client.ref(Trying).tell("reject")
        await system.drain()
    assert kept.one("process actor:trying").status.status_code is StatusCode.UNSET
    assert not kept.logs


async def test_a_timeout_is_the_error_of_its_span(mock_clock: trio.testing.MockClock):
    kept = Kept()

    class Slow(Actor):
        settings = Settings(title="slow", execution_timeout=1)

        @receive
        async def sleep(self, message: str) -> None:
            await trio.sleep(60)

    async with open_test_system(Slow, telemetry=kept.telemetry()) as system:
        await system.client.ref(Slow).tell("x")
        await system.drain()
    span = kept.one("process actor:slow")
    assert span.status.status_code is StatusCode.ERROR
    assert dict(span.attributes or {})["error.type"] == "timeout"


# ---- batches ----


class Batching(Actor):
    settings = Settings(title="batching")

    @receive(batch=3, within=1)
    async def handle(self, messages: list[str]) -> list[Any]:
        self.context.publish("published", "sum")
        return [ValueError("bad") if message == "bad" else None for message in messages]


async def test_a_batch_has_one_span_with_a_link_to_each_of_its_messages(mock_clock: trio.testing.MockClock):
    kept = Kept()
    async with (
        open_test_system(Batching, telemetry=kept.telemetry()) as system,
        open_client(system.broker, middleware=[sending(tracer_provider=kept.traces)]) as client,
    ):
        for message in ("a", "bad", "c"):
            await client.ref(Batching).tell(message)
        await system.drain()
    span = kept.one("process actor:batching")
    made = kept.named(f"send {Batching.settings.default_source}")
    assert len(made) == 3
    assert span.parent is None
    assert [link.context.span_id for link in span.links] == [_context_of(one).span_id for one in made]
    assert dict(span.attributes or {})["messaging.batch.message_count"] == 3
    assert is_child(kept.one("create published"), span)
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "ValueError: bad")


# ---- start and end ----


async def test_the_providers_of_a_system_are_flushed_and_shut_down_at_its_end(mock_clock: trio.testing.MockClock):
    said: list[str] = []

    class Provider(trace.NoOpTracerProvider):
        def force_flush(self, timeout_millis: int) -> bool:
            said.append("flushed" if 0 < timeout_millis <= 5000 else f"flushed within {timeout_millis} ms")
            return True

        def shutdown(self) -> None:
            said.append("shut down")

    class Ending(Actor):
        settings = Settings(title="ending")

        @receive
        async def end(self, message: str) -> None: ...

        async def shutdown(self) -> None:
            said.append("actor ended")

    async with open_test_system(Ending, telemetry=OpenTelemetry(configure=lambda: Providers(traces=Provider()))):
        assert not said
    assert said == ["actor ended", "flushed", "shut down"]


async def test_an_exporter_that_hangs_is_left_behind(caplog: pytest.LogCaptureFixture):
    hangs, over = threading.Event(), threading.Event()

    class Provider(trace.NoOpTracerProvider):
        def force_flush(self, timeout_millis: int) -> bool:
            hangs.set()
            return over.wait(60)

    telemetry = OpenTelemetry(configure=lambda: Providers(traces=Provider()))
    try:
        async with open_test_system(Second, telemetry=telemetry, grace=0.5):
            pass
        assert await trio.to_thread.run_sync(hangs.wait, 30)
        assert not over.is_set()
        assert "the telemetry was not exported within 0.5 s" in caplog.text
    finally:
        over.set()


async def test_an_exporter_that_fails_ends_nothing(
    mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
):
    class Provider(trace.NoOpTracerProvider):
        def force_flush(self, timeout_millis: int) -> bool:
            raise OSError("no route to the collector")

    async with open_test_system(Second, telemetry=OpenTelemetry(configure=lambda: Providers(traces=Provider()))):
        pass
    assert "no route to the collector" in caplog.text


@pytest.mark.parametrize("where", ["start_span", "end"])
async def test_what_the_sdk_raises_fails_no_message(
    mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, where: str
):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the SDK is out of order")

    kept = Kept()
    owner = "opentelemetry.sdk.trace.Tracer" if where == "start_span" else "opentelemetry.sdk.trace.Span"
    async with open_test_system([First, Second], telemetry=kept.telemetry(create_spans=False)) as system:
        monkeypatch.setattr(f"{owner}.{where}", fail)
        assert await system.client.ref(First).ask("lamp") == "ordered lamp"
        await system.drain()
        assert not system.dead_letters
    assert "the SDK is out of order" in caplog.text


async def test_a_configuration_that_fails_is_an_error_of_the_start(mock_clock: trio.testing.MockClock):
    def configure() -> Providers:
        raise OSError("no such collector")

    with pytest.raises(SettingsError, match="cannot be opened: no such collector"):
        async with open_test_system(Second, telemetry=OpenTelemetry(configure=configure)):
            pass
    with pytest.raises(SettingsError, match="wants to return Providers or None"):
        async with open_test_system(Second, telemetry=OpenTelemetry(configure=cast("Any", lambda: 7))):
            pass


@pytest.mark.parametrize("telemetry", [7, ["x"], "otel"])
async def test_what_is_no_telemetry_is_refused(telemetry: Any):
    with pytest.raises(SettingsError, match="telemetry wants a telemetry, or a list of these"):
        async with open_test_system(Second, telemetry=telemetry):
            pass


def test_the_options_are_checked():
    with pytest.raises(SettingsError, match="'parent' or 'link'"):
        OpenTelemetry(trace_parent=cast("Any", "child"))


def test_without_the_package_the_extra_is_named():
    code = "import sys; sys.modules['opentelemetry'] = None; import actorwork.telemetry.otel"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'pip install "actorwork[otel]"' in done.stderr


# ---- clients of all kinds, and other processes ----


def _send_sync(url: str, kept: Kept) -> None:
    with (
        actorwork.sync.open_client(url, middleware=[sending(url, tracer_provider=kept.traces)]) as client,
        kept.traces.get_tracer("web").start_as_current_span("request"),
    ):
        assert client.ref(First).ask("lamp") == "ordered lamp"


def _wait_until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit, "waited 30 s"
        time.sleep(0.01)


async def _request(url: str, kept: Kept) -> None:
    """Answer one request of a FastAPI application, whose handler runs in a span of its own."""
    app = FastAPI()

    @app.post("/orders")
    async def order() -> str:  # pyright: ignore[reportUnusedFunction]
        with kept.traces.get_tracer("web").start_as_current_span("request"):
            return await client.ref(First).ask("lamp")

    async with (
        actorwork.aio.open_client(url, middleware=[sending(url, tracer_provider=kept.traces)]) as client,
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as web,
    ):
        answer = await web.post("/orders")
        assert (answer.status_code, answer.json()) == (200, "ordered lamp")


async def _send_trio(url: str, kept: Kept) -> None:
    async with open_client(url, middleware=[sending(url, tracer_provider=kept.traces)]) as client:
        with kept.traces.get_tracer("web").start_as_current_span("request"):
            assert await client.ref(First).ask("lamp") == "ordered lamp"


SENDERS: dict[str, Callable[[str, Kept], object]] = {
    "sync": _send_sync,
    "trio": lambda url, kept: trio.run(_send_trio, url, kept),
    "asyncio": lambda url, kept: asyncio.run(_request(url, kept)),
}


def test_the_clients_of_all_kinds_send_the_context_in_which_they_are_called(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/broker.sqlite3"
    here = Kept()
    with SystemThread([First, Second], broker=url, telemetry=here.telemetry()):
        for send in SENDERS.values():
            kept = Kept()
            send(url, kept)
            request, made = kept.spans
            assert is_child(made, request)
            assert any(is_child(span, made) for span in here.named("process actor:first"))


@pytest.mark.parametrize("broker", ["sqlite", pytest.param("redis", marks=pytest.mark.long)])
def test_one_trace_leads_from_a_web_request_to_an_actor_in_another_process(
    request: pytest.FixtureRequest, tmp_path: Path, broker: str
):
    url = request.getfixturevalue("redis_url") if broker == "redis" else f"sqlite:///{tmp_path}/broker.sqlite3"
    kept, file = Kept(), tmp_path / "spans.jsonl"
    tree = [First, Process([Second])]
    with SystemThread(tree, broker=url, telemetry=telemetry_to(file)):
        asyncio.run(_request(url, kept))
        _wait_until(lambda: any(span["name"] == "process orders:packed" for span in read_spans(file)))
    made = kept.spans[-1]
    spans = {span["name"]: span for span in read_spans(file)}
    parent = f"0x{_context_of(made).span_id:016x}"
    for name in ("process actor:first", "create orders:packed", "process orders:packed"):
        span = spans[name]
        assert (span["context"]["trace_id"], span["parent_id"]) == (f"0x{trace_of(kept.one('request'))}", parent)
        parent = span["context"]["span_id"]
    here, there = (spans[f"process {what}"]["resource"]["attributes"] for what in ("actor:first", "orders:packed"))
    assert here["process.pid"] == os.getpid() != there["process.pid"]
