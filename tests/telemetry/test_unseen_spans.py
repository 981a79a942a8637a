"""A span that no handler looks at is recorded once it has ended, and nothing can tell."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from opentelemetry import trace
from opentelemetry.context import Context, attach, detach, get_current, set_value
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, SpanProcessor, Tracer, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode

from actorwork import Actor, Child, Settings, receive
from actorwork.message import Delivery
from actorwork.telemetry.otel import OpenTelemetry, Providers
from actorwork.telemetry.otel.recording import TOGETHER, FlushesPending, Recorder, Start, Unseen
from actorwork.testing import open_test_system
from tests.patience import PATIENCE
from tests.telemetry.traced import Kept

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADERS: list[dict[str, Any]] = [
    {},
    {"traceparent": f"00-{TRACE}-{SPAN}-01"},
    {"traceparent": f"00-{TRACE}-{SPAN}-03", "tracestate": "vendor=1", "baggage": "tenant=blue"},
]


class Quiet(Actor):
    settings = Settings(title="quiet")

    @receive
    async def work(self, message: str) -> None:
        if message == "look":
            assert trace.get_current_span().is_recording()
        if message == "fail":
            raise ValueError("no")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the spans that were made when they began, or when something looked at them."""
    names: list[str] = []
    start = Tracer.start_span

    def noting(self: Tracer, name: str, *args: Any, **more: Any) -> trace.Span:
        names.append(name)
        return start(self, name, *args, **more)

    monkeypatch.setattr(Tracer, "start_span", noting)
    return names


def facts(span: ReadableSpan) -> dict[str, Any]:
    """What is exported of a span, without what differs from one to the next."""
    found = json.loads(span.to_json())
    for name in ("context", "start_time", "end_time"):
        del found[name]
    del found["attributes"]["messaging.message.id"]
    context = span.get_span_context()
    assert context is not None
    return {
        **found,
        "flags": context.trace_flags,
        "state": context.trace_state.to_header(),
        "parent": span.parent,
        "kind": span.kind,
        "scope": span.instrumentation_scope,
        "dropped": (span.dropped_attributes, span.dropped_events, span.dropped_links),
    }


@pytest.mark.parametrize("headers", HEADERS, ids=["no context", "a context", "state and baggage"])
async def test_what_is_recorded_of_a_span_is_the_same_whether_it_was_looked_at_or_not(
    mock_clock: trio.testing.MockClock, made: list[str], headers: dict[str, Any]
):
    kept = Kept()
    async with open_test_system(Quiet, telemetry=kept.telemetry()) as system:
        made.clear()
        await system.client.ref(Quiet).tell("pass", headers=headers)
        await system.drain()
        assert not made
        await system.client.ref(Quiet).tell("look", headers=headers)
        await system.drain()
        assert made == ["process actor:quiet"]
        assert not system.dead_letters
    unseen, seen = kept.named("process actor:quiet")
    assert facts(unseen) == facts(seen)
    assert (unseen.kind, unseen.status.status_code) == (SpanKind.CONSUMER, StatusCode.UNSET)
    assert unseen.end_time is not None
    assert unseen.start_time is not None
    assert unseen.end_time >= unseen.start_time


async def test_a_handler_that_looks_late_sees_the_span_of_its_beginning(mock_clock: trio.testing.MockClock):
    kept, began = Kept(), list[int | None]()

    class Late(Actor):
        settings = Settings(title="late")

        @receive
        async def work(self, message: str) -> None:
            with kept.traces.get_tracer("test").start_as_current_span("before", context=Context()):
                pass
            span = trace.get_current_span()
            assert isinstance(span, Span)
            began.append(span.start_time)
            span.set_attribute("size", 1)
            with kept.traces.get_tracer("test").start_as_current_span("within"):
                pass

    async with open_test_system(Late, telemetry=kept.telemetry()) as system:
        await system.client.ref(Late).tell("x")
        await system.drain()
        assert not system.dead_letters
    span, before, within = kept.one("process actor:late"), kept.one("before"), kept.one("within")
    assert span.start_time == began[0]
    assert span.start_time is not None
    assert before.start_time is not None
    assert span.start_time <= before.start_time
    assert (span.attributes or {})["size"] == 1
    assert within.parent == span.get_span_context()


class Leaving(Actor):
    """Leaves the context of each message behind."""

    settings = Settings(title="leaving")

    def __init__(self, seen: list[Context]) -> None:
        self.seen = seen

    @receive
    async def work(self, message: str) -> None:
        self.seen.append(get_current())

    @receive
    def work_in_thread(self, message: int) -> None:
        self.seen.append(get_current())


@pytest.mark.parametrize("message", ["on the loop", 1], ids=["async", "thread"])
async def test_what_outlives_its_handler_is_in_the_trace_of_the_span_that_was_recorded(message: object):
    kept = Kept()
    seen: list[Context] = []

    async with open_test_system(Child(partial(Leaving, seen)), telemetry=kept.telemetry()) as system:
        await system.client.ref(Leaving).tell(message)  # pyright: ignore[reportArgumentType] - either handler's
        await system.drain()
        assert not system.dead_letters
    (context,) = seen
    assert isinstance(context, Unseen)
    span = kept.one("process actor:leaving")
    after = kept.traces.get_tracer("test").start_span("after", context=context)
    assert isinstance(after, Span)
    assert after.parent == span.get_span_context()
    assert len(kept.named("process actor:leaving")) == 1


async def test_a_handler_that_fails_has_a_span_that_says_so(mock_clock: trio.testing.MockClock):
    kept = Kept()
    async with open_test_system(Quiet, telemetry=kept.telemetry()) as system:
        await system.client.ref(Quiet).tell("fail")
        await system.drain()
    span = kept.one("process actor:quiet")
    assert (span.status.status_code, (span.attributes or {})["error.type"]) == (StatusCode.ERROR, "ValueError")
    (event,) = kept.logs
    context = span.get_span_context()
    assert context is not None
    assert (event.trace_id, event.span_id) == (context.trace_id, context.span_id)


class Watching(SpanProcessor):
    """A processor of an application's own, which is told of spans that begin."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self.begun.append(span.name)


async def test_a_processor_that_is_told_of_beginnings_is_told_before_the_handler_runs(
    mock_clock: trio.testing.MockClock,
):
    kept, watching = Kept(), Watching()
    known: list[list[str]] = []

    class Counting(Actor):
        settings = Settings(title="counting")

        @receive
        async def work(self, message: str) -> None:
            known.append(list(watching.begun))

    async with open_test_system(Counting, telemetry=kept.telemetry()) as system:
        await system.client.ref(Counting).tell("before")
        await system.drain()
        kept.traces.add_span_processor(watching)
        await system.client.ref(Counting).tell("after")
        await system.drain()
        assert not system.dead_letters
    assert known == [[], ["process actor:counting"]]
    assert len(kept.named("process actor:counting")) == 2


async def test_attributes_are_cut_as_the_limits_say(mock_clock: trio.testing.MockClock):
    found = InMemorySpanExporter()
    provider = TracerProvider(
        sampler=ALWAYS_ON, span_limits=SpanLimits(max_span_attribute_length=3), shutdown_on_exit=False
    )
    provider.add_span_processor(SimpleSpanProcessor(found))
    telemetry = OpenTelemetry(configure=lambda: Providers(traces=provider))
    async with open_test_system(Quiet, telemetry=telemetry) as system:
        await system.client.ref(Quiet).tell("pass")
        await system.drain()
    (span,) = found.get_finished_spans()
    assert (span.attributes or {})["actorwork.actor"] == "qui"


class Batched:
    """A provider that exports in batches, as applications have it."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False)
        self._batches = BatchSpanProcessor(self._exporter)
        self.provider.add_span_processor(self._batches)
        self.telemetry = OpenTelemetry(configure=lambda: Providers(traces=self.provider))

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        """Those that have been recorded, in the order in which they were."""
        self._batches.force_flush()  # Not the provider, which would have those recorded that wait.
        return self._exporter.get_finished_spans()


def ids_of(spans: Sequence[ReadableSpan]) -> list[object]:
    return [(span.attributes or {})["messaging.message.id"] for span in spans]


@pytest.fixture
def forever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans that have ended wait for others however long it takes."""
    monkeypatch.setattr("actorwork.telemetry.otel.recording.PATIENCE", 3600.0)


@pytest.mark.usefixtures("forever")
async def test_spans_that_were_not_looked_at_are_recorded_together_and_the_last_ones_at_the_end(
    mock_clock: trio.testing.MockClock,
):
    batched = Batched()
    async with open_test_system(Quiet, telemetry=batched.telemetry) as system:
        for number in range(TOGETHER + 3):
            await system.client.ref(Quiet).tell("pass", id=f"m{number}")
        await system.drain()
        assert len(batched.spans) == TOGETHER
        await system.client.ref(Quiet).tell("look", id="seen")
        await system.drain()
        assert len(batched.spans) == TOGETHER + 1
    assert ids_of(batched.spans) == [
        *(f"m{number}" for number in range(TOGETHER)),
        "seen",
        *(f"m{number}" for number in range(TOGETHER, TOGETHER + 3)),
    ]
    assert len({span.context.span_id for span in batched.spans if span.context}) == TOGETHER + 4


@pytest.mark.usefixtures("forever")
@pytest.mark.parametrize("end", ["force_flush", "shutdown"])
async def test_a_provider_that_is_flushed_or_shut_down_exports_what_has_ended_so_far(
    mock_clock: trio.testing.MockClock, end: str
):
    batched = Batched()
    async with (
        open_test_system(Quiet, telemetry=batched.telemetry) as system,
        open_test_system(Child(partial(Leaving, [])), telemetry=batched.telemetry) as another,
    ):
        await system.client.ref(Quiet).tell("pass", id="m1")
        await another.client.ref(Leaving).tell("x", id="m2")
        await system.drain()
        await another.drain()
        assert not batched.spans
        getattr(batched.provider, end)()
        assert ids_of(batched.spans) == ["m1", "m2"]
    assert len(batched.spans) == 2
    (front,) = [one for one in processors_of(batched.provider) if isinstance(one, FlushesPending)]
    assert repr(front) == "<0 recorders to flush>"


@pytest.mark.usefixtures("forever")
async def test_a_processor_that_is_added_later_does_not_keep_spans_from_being_flushed(
    mock_clock: trio.testing.MockClock,
):
    batched, later = Batched(), InMemorySpanExporter()
    async with open_test_system(Quiet, telemetry=batched.telemetry) as system:
        batched.provider.add_span_processor(BatchSpanProcessor(later))
        await system.client.ref(Quiet).tell("pass", id="m1")
        await system.drain()
        assert not batched.spans
        assert batched.provider.force_flush()
        assert ids_of(batched.spans) == ids_of(later.get_finished_spans()) == ["m1"]
        batched.provider.shutdown()


def test_a_flush_waits_for_a_span_that_another_thread_is_recording():
    provider = TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False)
    batches = BatchSpanProcessor(exporter := InMemorySpanExporter())
    provider.add_span_processor(batches)
    recorder = recorder_of(provider)
    assert recorder is not None
    assert recorder.is_alone
    has_begun, may_end = threading.Event(), threading.Event()
    start = Start(provider.get_tracer("test"), "process", {}, Context())

    def slowly(_: Delivery) -> Start:
        has_begun.set()
        assert may_end.wait(PATIENCE)
        return start

    recorder.end(Unseen(recorder, slowly, Delivery("m1", "orders", b"{}", None)), at_once=False)
    flushes = [threading.Thread(target=provider.force_flush) for _ in range(2)]
    flushes[0].start()
    assert has_begun.wait(PATIENCE)
    flushes[1].start()
    may_end.set()
    flushes[1].join(PATIENCE)
    assert len(exporter.get_finished_spans()) == 1
    flushes[0].join(PATIENCE)
    provider.shutdown()


async def test_a_span_that_is_alone_is_recorded_soon():
    batched = Batched()
    async with open_test_system(Quiet, telemetry=batched.telemetry) as system:
        for number in range(2):
            await system.client.ref(Quiet).tell("pass", id=f"m{number}")
            await system.drain()
            with trio.fail_after(PATIENCE):
                while len(batched.spans) <= number:  # noqa: ASYNC110 - a thread records it, and tells nobody
                    await trio.sleep(0.05)
    assert ids_of(batched.spans) == ["m0", "m1"]


@pytest.mark.usefixtures("forever")
async def test_what_looks_at_a_span_before_it_is_recorded_sees_the_one_that_will_be(
    mock_clock: trio.testing.MockClock,
):
    batched = Batched()
    seen: list[Context] = []

    async with open_test_system(Child(partial(Leaving, seen)), telemetry=batched.telemetry) as system:
        await system.client.ref(Leaving).tell("x")
        await system.drain()
        assert not batched.spans
        found = trace.get_current_span(seen[0])
        assert not found.is_recording()
        assert len(batched.spans) == 1
    (span,) = batched.spans
    assert span.get_span_context() == found.get_span_context()


@pytest.mark.usefixtures("forever")
async def test_an_exemplar_names_the_trace_of_a_span_that_began_it(mock_clock: trio.testing.MockClock):
    batched = Batched()
    async with open_test_system(Quiet, telemetry=batched.telemetry, metrics=True) as system:
        await system.client.ref(Quiet).tell("pass")
        await system.drain()
        metrics = system.system.metrics
        assert metrics is not None
        (found,) = [one for one in metrics.read() if one.name == "actorwork_process_duration_seconds"]
        (exemplar,) = found.exemplars.values()
    (span,) = batched.spans
    context = span.get_span_context()
    assert context is not None
    assert exemplar.trace_id == f"{context.trace_id:032x}"


def recorder_of(provider: TracerProvider) -> Recorder | None:
    return Recorder.of(provider, provider.get_tracer("test"))


class Looking(Sampler):
    """Looks at the current span, as a sampler of an application may; takes all."""

    def should_sample(self, *args: Any, **more: Any) -> Any:
        trace.get_current_span().is_recording()
        return ALWAYS_ON.should_sample(*args, **more)

    def get_description(self) -> str:
        return "Looking"


class Another(TracerProvider):
    """A provider that may do anything."""


@pytest.mark.parametrize(
    ("provider", "is_possible"),
    [
        (TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False), True),
        (TracerProvider(sampler=ParentBased(TraceIdRatioBased(0.01)), shutdown_on_exit=False), True),
        (TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False), False),
        (TracerProvider(sampler=Looking(), shutdown_on_exit=False), False),
        (TracerProvider(sampler=ParentBased(Looking()), shutdown_on_exit=False), False),
        (Another(sampler=ALWAYS_ON, shutdown_on_exit=False), False),
        (TracerProvider(span_limits=SpanLimits(max_span_attributes=4), shutdown_on_exit=False), False),
    ],
    ids=["all", "one percent", "none", "a sampler", "a part of one", "a subclass", "limits"],
)
def test_spans_are_recorded_at_their_end_only_where_the_sdk_is_known(provider: TracerProvider, *, is_possible: bool):
    assert (recorder_of(provider) is not None) is is_possible


class LookingIds(RandomIdGenerator):
    """Looks at the current span while it makes an id."""

    def generate_span_id(self) -> int:
        trace.get_current_span().is_recording()
        return super().generate_span_id()


def test_what_makes_a_span_may_look_at_the_current_one():
    provider = TracerProvider(sampler=ALWAYS_ON, id_generator=LookingIds(), shutdown_on_exit=False)
    recorder = recorder_of(provider)
    assert recorder is not None
    start = Start(provider.get_tracer("test"), "process", {}, Context())
    token = attach(context := Unseen(recorder, lambda _: start, Delivery("m1", "orders", b"{}", None)))
    try:
        assert trace.get_current_span() is context.look()
        assert context.look().is_recording()
    finally:
        detach(token)


def _renamed(span: Span) -> ReadableSpan:
    return ReadableSpan("another name", span.get_span_context(), resource=span.resource, start_time=1, end_time=2)


def processor_of(provider: TracerProvider) -> Any:
    return provider._active_span_processor  # pyright: ignore[reportPrivateUsage]


def processors_of(provider: TracerProvider) -> Sequence[object]:
    """The processors of a provider, in their order."""
    found: Sequence[object] = processor_of(provider)._span_processors
    return found


def _without_limits(tracer: Tracer) -> None:
    del tracer._span_limits  # pyright: ignore[reportPrivateUsage]


def test_an_sdk_that_records_something_else_makes_its_spans_itself(monkeypatch: pytest.MonkeyPatch):
    provider = TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False)
    assert recorder_of(provider) is not None
    monkeypatch.setattr(Span, "_readable_span", _renamed)
    assert recorder_of(provider) is None


def test_an_sdk_whose_processors_are_kept_differently_makes_its_spans_itself():
    provider = TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False)
    tracer = provider.get_tracer("test")
    assert isinstance(tracer, Tracer)
    del processor_of(provider)._lock
    assert Recorder.of(provider, tracer) is None
    assert not processors_of(provider)


def test_an_sdk_that_is_built_differently_makes_its_spans_itself():
    provider = TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False)
    tracer = provider.get_tracer("test")
    assert isinstance(tracer, Tracer)
    _without_limits(tracer)
    assert Recorder.of(provider, tracer) is None


@pytest.mark.parametrize("message", ["pass", "look"])
async def test_a_sampler_may_look_at_the_current_span(mock_clock: trio.testing.MockClock, message: str):
    kept = Kept(Looking())
    async with open_test_system(Quiet, telemetry=kept.telemetry()) as system:
        await system.client.ref(Quiet).tell(message)
        await system.drain()
        assert not system.dead_letters
    kept.one("process actor:quiet")


READINGS: dict[str, Callable[[Any], object]] = {
    "get": trace.get_current_span,
    "copy": lambda context: context.copy(),
    "dict": dict,
    "unpacked": lambda context: {**context},
    "keys": lambda context: list(context.keys()),
    "values": lambda context: list(context.values()),
    "items": lambda context: list(context.items()),
    "iter": list,
    "reversed": lambda context: list(reversed(context)),
    "in": lambda context: "x" in context,
    "len": len,
    "bool": bool,
    "or": lambda context: context | {},
    "ror": lambda context: {} | context,
    "==": lambda context: context == {},
    "repr": repr,
    "set_value": lambda context: set_value("x", 1, context),
}


@pytest.fixture
def unseen() -> Iterator[Unseen]:
    provider = TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False)
    start = Start(provider.get_tracer("test"), "process", {}, Context({"x": 1}))
    recorder = recorder_of(provider)
    assert recorder is not None
    token = attach(context := Unseen(recorder, lambda _: start, Delivery("m1", "orders", b"{}", None)))
    yield context
    detach(token)


@pytest.mark.parametrize("way", READINGS)
def test_every_way_to_read_the_context_finds_the_span(unseen: Unseen, way: str):
    assert not unseen.is_seen
    READINGS[way](unseen)
    assert unseen.is_seen
    assert trace.get_current_span() is unseen.look()
    assert unseen.look().is_recording()
    assert unseen["x"] == 1
    assert dict(unseen) == {"x": 1, **trace.set_span_in_context(unseen.look(), Context())}
