"""Workflows in traces: each step is handled in the trace in which its run was started, or its group was expanded."""

import trio.testing
from opentelemetry.sdk.trace import ReadableSpan

from actorwork import Actor, Settings, open_client, receive
from actorwork.telemetry.otel import sending
from actorwork.testing import open_test_system
from actorwork.testing.memory import MemoryBroker
from actorwork.workflows import group, step
from tests.telemetry.traced import Kept


class Doubler(Actor):
    settings = Settings(title="doubler")

    @receive
    async def double(self, *, number: int) -> int:
        if number == 2:
            self.context.expand([step(Doubler, {"number": 5})])
        return 2 * number


class Adder(Actor):
    settings = Settings(title="adder")

    @receive
    async def add(self, *, numbers: list[int]) -> int:
        return sum(numbers)


class Starter(Actor):
    settings = Settings(title="starter")

    @receive
    async def start(self, *, number: int) -> None:
        self.context.start(step(Doubler, {"number": number}))


def trace_of(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.trace_id


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


async def test_the_steps_of_a_workflow_are_in_the_trace_of_its_start(mock_clock: trio.testing.MockClock):
    kept = Kept()
    doubles = group(step(Doubler, {"number": number}) for number in (1, 2))
    async with (
        open_test_system([Doubler, Adder], telemetry=kept.telemetry()) as system,
        open_client(system.broker, middleware=[sending(tracer_provider=kept.traces)]) as client,
    ):
        with kept.traces.get_tracer("web").start_as_current_span("POST /sums"):
            run = await client.start(step(Adder, {"numbers": doubles.results}))
        assert await run.result() == 2 + 4 + 10
        await system.drain()
    request = kept.one("POST /sums")
    doubled = kept.named("process actor:doubler")
    added = kept.one("process actor:adder")
    assert len(doubled) == 3
    assert {trace_of(span) for span in [*doubled, added]} == {trace_of(request)}
    start = request.get_span_context()
    assert start is not None
    assert [parent_of(span) for span in doubled].count(start.span_id) == 2
    assert parent_of(added) == start.span_id
    # The member that a handler added is a child of that handler.
    (expanded,) = [span for span in doubled if parent_of(span) != start.span_id]
    assert parent_of(expanded) in {one.span_id for one in (span.get_span_context() for span in doubled) if one}


async def test_a_workflow_that_a_handler_starts_is_in_its_trace(mock_clock: trio.testing.MockClock):
    kept = Kept()
    async with open_test_system([Starter, Doubler], telemetry=kept.telemetry()) as system:
        await system.client.ref(Starter).tell({"number": 1})
        await system.drain()
    started = kept.one("process actor:starter").get_span_context()
    doubled = kept.one("process actor:doubler")
    assert started is not None
    assert (trace_of(doubled), parent_of(doubled)) == (started.trace_id, started.span_id)


async def test_the_headers_that_a_step_has_of_its_own_stay(mock_clock: trio.testing.MockClock):
    kept = Kept()
    broker = MemoryBroker()
    mine = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with open_client(broker, middleware=[sending(tracer_provider=kept.traces)]) as client:
        with kept.traces.get_tracer("web").start_as_current_span("POST /sums"):
            await client.start(step(Doubler, {"number": 1}, headers={"traceparent": mine}))
    (envelope,) = broker.sent
    assert envelope.headers["traceparent"] == mine
