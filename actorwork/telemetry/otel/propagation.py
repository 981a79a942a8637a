"""The W3C trace context in the headers of a message: `traceparent`, `tracestate`, `baggage`.

Once in a message it stays as it is: retries, replays of dead letters and the spool carry the first one. The last
character of `traceparent` says whether the trace is sampled. Where it is not, nothing is made for the message: a task
that handles messages has one parent that is not recorded, `InHand`, and that reads the ids of the running message when
it is asked for them. So what the handler sends, and the clients that are instrumented in it, stay in their trace and
out of the samples.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, Protocol

from opentelemetry import baggage
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    INVALID_SPAN_CONTEXT,
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from actorwork.message import FAILED

if TYPE_CHECKING:
    from actorwork.message import Delivery, Json

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
BAGGAGE: Final = "baggage"

TRACEPARENT_FORMAT: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
_TRACE_CONTEXT: Final = TraceContextTextMapPropagator()
_BAGGAGE: Final = W3CBaggagePropagator()
(_SPAN_KEY,) = set_span_in_context(INVALID_SPAN, Context())
"""Where a context has its span."""


class Decisions(Protocol):
    """What is known of the sampler beforehand."""

    @property
    def ratio(self) -> float | None: ...
    def drops(self, traceparent: object) -> bool: ...


class InHand(NonRecordingSpan):
    """The parent of what is not sampled: the context of the message that the calling task handles.

    A message that came without one, and is not sampled, has the ids that its own id gives it: they are the same at each
    attempt, and nothing has to be kept for a message whose ids are never asked for.
    """

    def __init__(self, delivery: Callable[[], Delivery | None], sampling: Decisions) -> None:
        self._delivery = delivery
        self._sampling = sampling

    def get_span_context(self) -> SpanContext:
        delivery = self._delivery()
        if delivery is None:
            return INVALID_SPAN_CONTEXT
        headers = delivery.headers
        if TRACEPARENT not in headers:
            # Whether a message was sampled is no longer known when `failed` of its actor runs.
            is_decided = self._sampling.ratio is not None and FAILED not in headers
            return unsampled_root(delivery) if is_decided else INVALID_SPAN_CONTEXT
        found = span_context_from(headers)
        if found.trace_flags.sampled and self._sampling.drops(headers[TRACEPARENT]):
            flags = TraceFlags(found.trace_flags & ~TraceFlags.SAMPLED)
            return SpanContext(found.trace_id, found.span_id, found.is_remote, flags, found.trace_state)
        return found

    @property
    def unsampled_headers(self) -> dict[str, Any] | None:
        """The headers of a message whose own ones say that it is not sampled, as they are; None for any other."""
        delivery = self._delivery()
        made = None if delivery is None else delivery.headers.get(TRACEPARENT)
        if delivery is None or not is_unsampled(made) or TRACEPARENT_FORMAT.fullmatch(str(made)) is None:
            return None
        return {name: delivery.headers[name] for name in (TRACEPARENT, TRACESTATE) if name in delivery.headers}


def unsampled_root(delivery: Delivery) -> SpanContext:
    """Return the context of a message that came without one and is not sampled."""
    digest = blake2b(f"{delivery.source}\0{delivery.id}".encode(errors="replace"), digest_size=24).digest()
    trace_id, span_id = int.from_bytes(digest[:16]) or 1, int.from_bytes(digest[16:]) or 1
    return SpanContext(trace_id, span_id, is_remote=False)


def is_unsampled(traceparent: object) -> bool:
    """Whether a header is of the known version, and says that its trace is not sampled; looks at its end alone."""
    # Only bit 0 of the flags is about sampling, and bit 1 says that the ids are random: both are even then.
    return (
        type(traceparent) is str
        and len(traceparent) == 55
        and traceparent[54] in "02468ace"
        and traceparent[:3] == "00-"
    )


def context_with(span: NonRecordingSpan) -> Context:
    """Return a context with nothing but a span."""
    return Context({_SPAN_KEY: span})


def context_of(headers: Mapping[str, Json]) -> Context:
    """Return the context of a message; empty where it carries none, or none that can be read."""
    found = span_context_from(headers)
    context = set_span_in_context(NonRecordingSpan(found), Context()) if found.is_valid else Context()
    return with_baggage(context, headers) if BAGGAGE in headers else context


def without_span(headers: Mapping[str, Json]) -> Context:
    """Return the context of a message without its span: its baggage alone."""
    return with_baggage(Context(), headers) if BAGGAGE in headers else Context()


def with_baggage(context: Context, headers: Mapping[str, Json]) -> Context:
    """Return a context with the baggage of a message, if it has any that can be read."""
    value = headers.get(BAGGAGE)
    return _BAGGAGE.extract({BAGGAGE: value}, context) if isinstance(value, str) else context


def span_context_from(headers: Mapping[str, Json], name: str = TRACEPARENT) -> SpanContext:
    """Return the span that a header names; invalid if there is none."""
    value = headers.get(name)
    if not isinstance(value, str):
        return INVALID_SPAN_CONTEXT
    state = headers.get(TRACESTATE) if name == TRACEPARENT else None
    known = TRACEPARENT_FORMAT.fullmatch(value)
    if known is None or isinstance(state, str):
        found = {TRACEPARENT: value, TRACESTATE: state} if isinstance(state, str) else {TRACEPARENT: value}
        return get_current_span(_TRACE_CONTEXT.extract(found, Context())).get_span_context()
    trace_id, span_id, flags = known.groups()
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))


def traceparent_of(span: SpanContext) -> str:
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"


def headers_with(headers: Mapping[str, Json], context: Context | None) -> Mapping[str, Json]:
    """Return headers with the context in which a message is made; those that a message has stay as they are."""
    span = get_current_span(context)
    found = span.unsampled_headers if isinstance(span, InHand) else None
    if found is None:
        found = {}
        made = span.get_span_context()
        if made.is_valid:
            found[TRACEPARENT] = traceparent_of(made)
            if made.trace_state:
                found[TRACESTATE] = made.trace_state.to_header()
    if baggage.get_all(context):
        _BAGGAGE.inject(found, context)
    return {**found, **headers} if found else headers
