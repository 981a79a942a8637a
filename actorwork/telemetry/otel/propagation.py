"""The W3C trace context in the headers of a message: `traceparent`, `tracestate`, `baggage`.

Once in a message it stays as it is: retries, replays of dead letters and the spool carry the first one. The last
character of `traceparent` says whether the trace is sampled. Where it is not, no span is made: only a parent that is
not recorded is put in place, which costs less than a microsecond and reads its ids when they are asked for. So what the
handler sends, and the clients that are instrumented in it, stay in their trace and out of the samples.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

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

if TYPE_CHECKING:
    from actorwork.message import Json

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
BAGGAGE: Final = "baggage"

_FORMAT: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
_TRACE_CONTEXT: Final = TraceContextTextMapPropagator()
_BAGGAGE: Final = W3CBaggagePropagator()
(_SPAN_KEY,) = set_span_in_context(INVALID_SPAN, Context())
"""Where a context has its span: to copy a context for it, as `set_span_in_context` does, would double the cost."""


class UnsampledParent(NonRecordingSpan):
    """The parent of what is not sampled: the header of a message, read when it is asked for its ids."""

    def __init__(self, headers: Mapping[str, Json]) -> None:
        self._headers = headers

    def get_span_context(self) -> SpanContext:
        return span_context_from(self._headers)


class UnsampledRoot(NonRecordingSpan):
    """The span of what has no parent and is not sampled; it has ids once it is asked for them."""

    def __init__(self) -> None:
        self._made: SpanContext | None = None

    def get_span_context(self) -> SpanContext:
        if self._made is None:
            trace_id, span_id = random.getrandbits(128) or 1, random.getrandbits(64) or 1
            self._made = SpanContext(trace_id, span_id, is_remote=False)
        return self._made


def is_unsampled(traceparent: object) -> bool:
    """Whether a header is of the known version, and says that its trace is not sampled; looks at its end alone."""
    # Only bit 0 of the flags is about sampling, and bit 1 says that the ids are random: both are even then.
    return (
        type(traceparent) is str
        and len(traceparent) == 55
        and traceparent[54] in "02468ace"
        and traceparent[:3] == "00-"
    )


def unsampled_context(headers: Mapping[str, Json]) -> Context:
    """Return the context of a message that is not sampled, with its baggage."""
    context = Context({_SPAN_KEY: UnsampledParent(headers)})
    return _with_baggage(context, headers) if BAGGAGE in headers else context


def unsampled_root(headers: Mapping[str, Json]) -> Context:
    """Return the context of a message that came without one and is not sampled, with its baggage."""
    context = Context({_SPAN_KEY: UnsampledRoot()})
    return _with_baggage(context, headers) if headers and BAGGAGE in headers else context


def context_of(headers: Mapping[str, Json]) -> Context:
    """Return the context of a message; empty where it carries none, or none that can be read."""
    found = span_context_from(headers)
    context = set_span_in_context(NonRecordingSpan(found), Context()) if found.is_valid else Context()
    return _with_baggage(context, headers) if BAGGAGE in headers else context


def without_span(headers: Mapping[str, Json]) -> Context:
    """Return the context of a message without its span: its baggage alone."""
    return _with_baggage(Context(), headers) if BAGGAGE in headers else Context()


def _with_baggage(context: Context, headers: Mapping[str, Json]) -> Context:
    value = headers.get(BAGGAGE)
    return _BAGGAGE.extract({BAGGAGE: value}, context) if isinstance(value, str) else context


def span_context_from(headers: Mapping[str, Json], name: str = TRACEPARENT) -> SpanContext:
    """Return the span that a header names; invalid if there is none."""
    value = headers.get(name)
    if not isinstance(value, str):
        return INVALID_SPAN_CONTEXT
    state = headers.get(TRACESTATE) if name == TRACEPARENT else None
    known = _FORMAT.fullmatch(value)
    if known is None or isinstance(state, str):
        found = {TRACEPARENT: value, TRACESTATE: state} if isinstance(state, str) else {TRACEPARENT: value}
        return get_current_span(_TRACE_CONTEXT.extract(found, Context())).get_span_context()
    trace_id, span_id, flags = known.groups()
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))


def traceparent_of(span: SpanContext) -> str:
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"


def headers_with(headers: Mapping[str, Json], context: Context | None) -> Mapping[str, Json]:
    """Return headers with the context in which a message is made; those that a message has stay as they are."""
    found: dict[str, Any] = {}
    span = get_current_span(context).get_span_context()
    if span.is_valid:
        found[TRACEPARENT] = traceparent_of(span)
        if span.trace_state:
            found[TRACESTATE] = span.trace_state.to_header()
    if baggage.get_all(context):
        _BAGGAGE.inject(found, context)
    return {**found, **headers} if found else headers
