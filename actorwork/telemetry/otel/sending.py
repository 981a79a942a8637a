"""A span for each message that is made to be sent, `create`, of the kind PRODUCER, and its context in the headers.

That a message is stored at the broker is no part of the span: what an actor publishes is sent with the settlement of
the message that it handles, and a client may send many messages at once, or through its spool.

A message that has a context already keeps it. In a trace that is not sampled only its context goes into the message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, get_current_span, get_tracer_provider, set_span_in_context

from actorwork.telemetry.otel import conventions
from actorwork.telemetry.otel.conventions import SCHEMA_URL, SCOPE, own_version
from actorwork.telemetry.otel.propagation import TRACEPARENT, InHand, headers_with
from actorwork.telemetry.otel.sampling import goes_by_parent

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer, TracerProvider
    from opentelemetry.util.types import AttributeValue

    from actorwork.message import Envelope, Json


def sending(
    broker: str | None = None, *, spans: bool = True, tracer_provider: TracerProvider | None = None
) -> MessageSpans:
    """Return publish middleware for a client, of any kind: `open_client(url, middleware=[sending(url)])`.

    `broker` is the client's URL, for the attributes of the spans. With `spans=False` messages only get the context in
    which they are sent. `tracer_provider` takes the place of the global one.
    """
    return MessageSpans(conventions.attributes_of_broker(broker or ""), spans=spans, provider=tracer_provider)


def tracer_of(provider: TracerProvider | None) -> Tracer:
    return trace.get_tracer(SCOPE, own_version(), provider, SCHEMA_URL)


class MessageSpans:
    """Puts the context in which a message is made into its headers. Implements `abc.HeaderMiddleware`."""

    def __init__(self, shared: Mapping[str, AttributeValue], *, spans: bool, provider: TracerProvider | None) -> None:
        self._shared = shared
        self._spans = spans
        self._provider = provider
        self._tracer: Tracer | None = None
        self._skips_unsampled = True
        self.titles: dict[str, str] = {}
        """Actors whose own sources are known here, by these."""

    def __repr__(self) -> str:
        return f"<spans of messages{'' if self._spans else ', off'}>"

    def __call__(self, envelope: Envelope) -> Envelope:
        if TRACEPARENT in envelope.headers:
            return envelope
        if not self._spans or (self._may_skip() and _is_unsampled(get_current_span())):
            return _with_context(envelope, None)
        attributes = {**self._shared, **conventions.attributes_of_create(envelope)}
        shown = envelope.source
        if envelope.source in self.titles:
            shown = attributes["messaging.destination.template"] = self.titles[envelope.source]
        span = self._traced().start_span(f"create {shown}", kind=SpanKind.PRODUCER, attributes=attributes)
        try:
            return _with_context(envelope, set_span_in_context(span))
        finally:
            span.end()

    def headers(self) -> Mapping[str, Json]:
        """Return the context here and now, for the steps of a workflow: each is handled in the trace of its start."""
        return headers_with({}, None)

    def _traced(self) -> Tracer:
        # At the first message: the application may set its global provider after it has opened its client.
        if self._tracer is None:
            self._tracer = tracer_of(self._provider)
            self._skips_unsampled = goes_by_parent(self._provider or get_tracer_provider())
        return self._tracer

    def _may_skip(self) -> bool:
        self._traced()
        return self._skips_unsampled


def _is_unsampled(span: Span) -> bool:
    if isinstance(span, InHand) and span.unsampled_headers is not None:
        return True
    found = span.get_span_context()
    return found.is_valid and not found.trace_flags.sampled


def _with_context(envelope: Envelope, context: Context | None) -> Envelope:
    headers = headers_with(envelope.headers, context)
    return envelope if headers is envelope.headers else attrs.evolve(envelope, headers=headers)
