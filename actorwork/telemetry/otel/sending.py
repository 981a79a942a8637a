"""The spans of what is sent, and their contexts in the headers of the messages.

    send     a call of a client that sends, one message or many, until the broker (or the spool) has them
    create   a message that an actor publishes: it is sent later, with the settlement of the message that it handles

The context of the span `create`, or else that of `send`, is in the message, and that span is of the kind PRODUCER. A
`send` whose messages have contexts already, as they always keep them, is of the kind CLIENT, with a link to each. An
error of the call is the status of its span and a log event, `messaging.send.exception`.

In a trace that is not sampled only its context goes into the messages.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import attrs
from opentelemetry import trace
from opentelemetry._logs import SeverityNumber, get_logger
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanKind,
    Status,
    StatusCode,
    get_current_span,
    get_tracer_provider,
    set_span_in_context,
)

from actorwork.telemetry.otel import conventions
from actorwork.telemetry.otel.conventions import SCHEMA_URL, SCOPE, own_version
from actorwork.telemetry.otel.propagation import TRACEPARENT, InHand, headers_with, span_context_from
from actorwork.telemetry.otel.sampling import goes_by_parent

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.trace import Span, Tracer, TracerProvider
    from opentelemetry.util.types import AttributeValue

    from actorwork.message import Envelope, Json


log = logging.getLogger("actorwork.telemetry")

LINKS: Final = 128
"""How many messages are linked: the SDK keeps as many by default."""


def sending(
    broker: str | None = None,
    *,
    spans: bool = True,
    create_spans: bool = False,
    tracer_provider: TracerProvider | None = None,
    logger_provider: LoggerProvider | None = None,
) -> MessageSpans:
    """Return publish middleware for a client, of any kind: `open_client(url, middleware=[sending(url)])`.

    `broker` is the client's URL, for the attributes of the spans. With `create_spans=True` each message has a span of
    its own beside that of the call; with `spans=False` messages only get the context in which they are sent. The
    providers take the places of the global ones.
    """
    shared = conventions.attributes_of_broker(broker or "")
    return MessageSpans(
        shared, creates=spans and create_spans, sends=spans, provider=tracer_provider, logs=logger_provider
    )


def tracer_of(provider: TracerProvider | None) -> Tracer:
    return trace.get_tracer(SCOPE, own_version(), provider, SCHEMA_URL)


class MessageSpans:
    """Puts the context in which a message is made into its headers.

    Implements `abc.HeaderMiddleware` and `abc.SendMiddleware`.
    """

    def __init__(
        self,
        shared: Mapping[str, AttributeValue],
        *,
        creates: bool,
        sends: bool,
        provider: TracerProvider | None,
        logs: LoggerProvider | None = None,
    ) -> None:
        self._shared = shared
        self._creates = creates
        self._sends = sends
        self._provider = provider
        self._logs = logs
        self._tracer: Tracer | None = None
        self._skips_unsampled = True
        self.titles: dict[str, str] = {}
        """Actors whose own sources are known here, by these."""

    def __repr__(self) -> str:
        kinds = [name for name, has in (("create", self._creates), ("send", self._sends)) if has]
        return f"<spans of messages: {', '.join(kinds) or 'none'}>"

    def __call__(self, envelope: Envelope) -> Envelope:
        if TRACEPARENT in envelope.headers:
            return envelope
        if not self._creates:
            # Else the context is that of the span `send`, which comes later.
            return envelope if self._sends else _with_context(envelope, None)
        if self._is_skipped():
            return _with_context(envelope, None)
        attributes = {**self._shared, **conventions.attributes_of_create(envelope)}
        span = self._begun(f"create {self._shown(envelope.source, attributes)}", SpanKind.PRODUCER, attributes)
        try:
            return _with_context(envelope, set_span_in_context(span))
        finally:
            _end(span)

    @contextmanager
    def sending(self, envelopes: Sequence[Envelope]) -> Generator[Sequence[Envelope]]:
        if not self._sends:
            yield envelopes
            return
        if self._is_skipped():
            yield [_with_context(one, None) for one in envelopes]
            return
        attributes = {**self._shared, **conventions.attributes_of_send(envelopes)}
        sources = {one.source for one in envelopes}
        name = f"send {self._shown(sources.pop(), attributes)}" if len(sources) == 1 else "send"
        links = [Link(found) for one in envelopes[:LINKS] if (found := span_context_from(one.headers)).is_valid]
        is_origin = any(TRACEPARENT not in one.headers for one in envelopes)
        span = self._begun(name, SpanKind.PRODUCER if is_origin else SpanKind.CLIENT, attributes, links)
        inside = set_span_in_context(span)
        try:
            # The span is not current meanwhile: a generator may be closed in another context.
            yield [one if TRACEPARENT in one.headers else _with_context(one, inside) for one in envelopes]
        except Exception as error:
            self._note(span, inside, error)
            raise
        finally:
            _end(span)

    def headers(self) -> Mapping[str, Json]:
        """Return the context here and now, for the steps of a workflow: each is handled in the trace of its start."""
        return headers_with({}, None)

    def _traced(self) -> Tracer:
        # At the first message: the application may set its global provider after it has opened its client.
        if self._tracer is None:
            self._tracer = tracer_of(self._provider)
            self._skips_unsampled = goes_by_parent(self._provider or get_tracer_provider())
        return self._tracer

    def _begun(
        self, name: str, kind: SpanKind, attributes: Mapping[str, AttributeValue], links: Sequence[Link] = ()
    ) -> Span:
        try:
            return self._traced().start_span(name, kind=kind, attributes=attributes, links=links)
        except Exception:  # a sampler or a processor of the application's may raise anything: the message goes on
            log.exception("no span was made: %s", name)
            return NonRecordingSpan(get_current_span().get_span_context())

    def _is_skipped(self) -> bool:
        """Whether nothing is sampled that is sent here and now."""
        self._traced()
        return self._skips_unsampled and _is_unsampled(get_current_span())

    def _shown(self, source: str, attributes: dict[str, AttributeValue]) -> str:
        """Return the name of a source in the name of a span."""
        title = self.titles.get(source)
        if title is None:
            return source
        attributes["messaging.destination.template"] = title
        return title

    def _note(self, span: Span, inside: Context, error: Exception) -> None:
        if not span.is_recording():
            return
        span.set_attribute("error.type", conventions.error_type(error))
        span.set_status(Status(StatusCode.ERROR, conventions.text_of(error)))
        get_logger(SCOPE, own_version(), self._logs, SCHEMA_URL).emit(
            event_name=conventions.SEND_EXCEPTION,
            severity_number=SeverityNumber.WARN,
            severity_text="WARN",
            context=inside,
            exception=error,
        )


def _end(span: Span) -> None:
    try:
        span.end()
    except Exception:  # as above
        log.exception("a span was not ended")


def _is_unsampled(span: Span) -> bool:
    if isinstance(span, InHand) and span.unsampled_headers is not None:
        return True
    found = span.get_span_context()
    return found.is_valid and not found.trace_flags.sampled


def _with_context(envelope: Envelope, context: Context | None) -> Envelope:
    headers = headers_with(envelope.headers, context)
    return envelope if headers is envelope.headers else attrs.evolve(envelope, headers=headers)
