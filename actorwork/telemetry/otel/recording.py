"""Spans that no handler looks at, recorded after they have ended.

A span is made when it begins, so that what runs in it can add to it, and be its child. Most handlers of short messages
do neither. So a handler begins in a context that makes the span when something looks at it for the first time
(`Unseen`): with the time of its beginning, and from then on as any other. If nothing has looked until the handler
returns, only the time is noted, and the ended span is recorded later, together with others. Where one message in a
hundred has a span, that is a tenth of the time: of code that runs so rarely nothing is left in the caches of the
processor, and a span by itself takes five times as long as one of many.

Nobody can tell the difference where all that takes part is the SDK's own: its processors do nothing when a span begins,
and those that export in batches wait for seconds anyway. A processor of ours stands in front of them: when the provider
is flushed or shut down, it has what waits recorded first (`FlushesPending`). That both ways record the same is tried
once, at the start. Wherever any of this is otherwise, each span is made when it begins, and nothing waits.

Of the SDK this needs names that are not public: `_active_span_processor` of a provider, `_span_processors` and `_lock`
of that, `_instrumentation_scope` and `_span_limits` of a tracer. An SDK without one of them counts as otherwise.
"""

from __future__ import annotations

import copy
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from time import time_ns
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    INVALID_SPAN_CONTEXT,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    TraceFlags,
    TraceState,
    get_current_span,
    set_span_in_context,
)

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer, TracerProvider
    from opentelemetry.util.types import AttributeValue

    from actorwork.message import Delivery

_SDK: Final = "opentelemetry.sdk.trace"
_MOST_ATTRIBUTES: Final = 32
"""More than a span of ours has."""
TOGETHER: Final = 32
"""Spans that are recorded together at most: the loop stands still for less than a millisecond then."""
PATIENCE: Final = 0.5
"""Seconds for which an ended span waits for others."""
_RANDOM: Final = 2
"""The flag of a trace whose id is random."""

log = logging.getLogger("actorwork.telemetry")


class Start(NamedTuple):
    """With what a span begins."""

    tracer: Tracer
    name: str
    attributes: Mapping[str, AttributeValue]
    parent: Context


class Unseen(Context):  # noqa: PLW1641 - a dict has no hash
    """The context of a handler, with a span that is made when the context is read.

    `start` returns with what the span begins; it is called when that is needed.
    """

    def __init__(self, recorder: Recorder, start: Callable[[Delivery], Start], delivery: Delivery) -> None:
        super().__init__()
        self._recorder = recorder
        self._start = start
        self._delivery = delivery
        self._whole: Context | None = None
        self._making: Context | None = None
        """The context of the sender, while the span is made."""
        self.began = time_ns()
        """When the span began, in nanoseconds since the epoch."""
        self.ended: int | None = None
        """When it has ended, if nothing had looked at it by then."""
        self.span: Span | None = None
        """The span, if something has looked at it."""
        self.recorded: SpanContext | None = None
        """What is left of a span that was recorded."""
        self.lock = threading.RLock()
        """Held while the span is made or recorded: a handler's threads may look at it while it ends."""

    @property
    def is_seen(self) -> bool:
        return self._whole is not None

    def begin(self) -> Start:
        """Return with what the span begins."""
        return self._start(self._delivery)

    def look(self) -> Span:
        """Return the span; makes it if it was not seen before."""
        self._read()
        return INVALID_SPAN if self.span is None else self.span

    def _read(self) -> Context:
        """Return what the context consists of."""
        if (found := self._whole) is not None:
            return found
        with self.lock:
            if self._making is not None:
                return self._making  # What makes the span looks at the current context itself.
            if self._whole is None:
                start = self.begin()
                self._making = start.parent
                if self.ended is None:
                    self.span = made_span(*start, start_time=self.began)
                else:
                    self.span = NonRecordingSpan(self._recorder.record(self))
                self._whole = start.parent if self.span is None else set_span_in_context(self.span, start.parent)
                self._making = None
            return self._whole

    # All by which a dict can be read.

    def get(self, key: str, default: Any = None) -> Any:
        return self._read().get(key, default)

    def copy(self) -> Any:
        return self._read().copy()

    def keys(self) -> Any:
        return self._read().keys()

    def values(self) -> Any:
        return self._read().values()

    def items(self) -> Any:
        return self._read().items()

    def __getitem__(self, key: str) -> Any:
        return self._read()[key]

    def __contains__(self, key: object) -> bool:
        return key in self._read()

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __or__(self, other: Any) -> Any:
        return self._read() | other

    def __ror__(self, other: Any) -> Any:
        return other | self._read()

    def __eq__(self, other: object) -> bool:
        return self is other or self._read() == other

    def __repr__(self) -> str:
        return repr(self._read())


def made_span(
    tracer: Tracer,
    name: str,
    attributes: Mapping[str, AttributeValue],
    parent: Context,
    *,
    links: Any = (),
    start_time: int | None = None,
) -> Span | None:
    """Make the span of a handler; None if that raises: a sampler or a processor of the application's may."""
    try:
        return tracer.start_span(
            name,
            context=parent,
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            links=links,
            start_time=start_time,
            record_exception=False,
            set_status_on_exception=False,
        )
    except Exception:  # the message goes on
        log.exception("no span was made: %s", name)
        return None


class Recorder:
    """Records the spans of one provider that nothing has looked at."""

    def __init__(self, several: Any, readable: Any, own: tuple[type, ...]) -> None:
        self._several = several
        self._readable = readable
        self._own = own
        self._known: object = None
        """The processors that were looked at last."""
        self._is_sure = self._is_patient = False
        self._waiting: deque[Unseen] = deque()
        self._flushing = threading.RLock()
        """Held while spans are recorded: a flush waits for what another thread has taken."""
        self._front: FlushesPending | None = None
        self._thread: threading.Thread | None = None
        self._due = threading.Event()
        """Set while spans wait."""
        self._closed = threading.Event()

    def __repr__(self) -> str:
        return f"<recorder for {self._several!r}>"

    @classmethod
    def of(cls, provider: TracerProvider, tracer: Tracer) -> Recorder | None:
        """Return the recorder of a provider; None if its spans have to be made when they begin."""
        sdk, export = sys.modules.get(_SDK), sys.modules.get(f"{_SDK}.export")
        if sdk is None or export is None:
            return None
        try:
            several: Any = getattr(provider, "_active_span_processor", None)
            if (
                type(provider) is not sdk.TracerProvider
                or type(tracer) is not sdk.Tracer
                or type(several) is not sdk.SynchronousMultiSpanProcessor
                or not _is_known(getattr(tracer, "sampler", None), sdk.sampling.__name__)
                or not _is_unlimited(tracer)
            ):
                return None
            own = (export.BatchSpanProcessor, export.SimpleSpanProcessor)
            found = cls(several, sdk.ReadableSpan, own)
            if not found._does_as(tracer):
                return None
            found._stand_in_front(sdk.SpanProcessor)
            return found
        except Exception:  # noqa: BLE001 - another version of the SDK: then each span is made when it begins
            return None

    @property
    def is_alone(self) -> bool:
        """Whether nothing is told of spans that begin; more processors may be added at any time."""
        found: Any = self._several._span_processors  # noqa: SLF001 - that the SDK has all of this is tried at the start
        if found is not self._known:
            others = [one for one in found if not isinstance(one, FlushesPending)]
            self._is_sure = all(type(one) in self._own for one in others)
            self._is_patient = all(type(one) is self._own[0] for one in others)
            self._known = found
        return self._is_sure

    def end(self, unseen: Unseen, *, at_once: bool) -> bool:
        """End a span; return False if it was seen, and has to be ended as any other.

        It is recorded with the next ones, within a second, or now if `at_once` or if a processor exports it at once.
        """
        with unseen.lock:
            if unseen.is_seen:
                return False
            unseen.ended = time_ns()
        if at_once or not self._is_patient or self._closed.is_set():
            self.record(unseen)
        else:
            self._waiting.append(unseen)
            if len(self._waiting) >= TOGETHER:
                self.flush()
            elif self._thread is None or not self._due.is_set():
                self._wait()
        return True

    def flush(self) -> None:
        """Record all spans that have ended; callable from any thread."""
        with self._flushing:
            while self._waiting:
                self.record(self._waiting.popleft())

    def close(self) -> None:
        """Record all spans that have ended, and end the thread."""
        self._closed.set()
        self._due.set()
        self.flush()
        if self._front is not None:
            self._front.forget(self)

    def _stand_in_front(self, processor: type[Any]) -> None:
        """Have this flushed before the processors of the provider, by one processor for all its recorders."""
        several = self._several
        with several._lock:  # noqa: SLF001 - as above
            found = several._span_processors  # noqa: SLF001 - as above
            front = next((one for one in found if isinstance(one, FlushesPending)), None)
            if front is None:
                front = cast("FlushesPending", type("FlushesPending", (FlushesPending, processor), {})())
                several._span_processors = (front, *found)  # noqa: SLF001 - as above
            front.remember(self)
        self._front = front

    def _wait(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._flush_when_due, name="actorwork spans", daemon=True)
            self._thread.start()
        self._due.set()

    def _flush_when_due(self) -> None:
        # Only while spans wait: an idle program is not woken.
        while not self._closed.is_set():
            self._due.wait()
            self._closed.wait(PATIENCE)
            self._due.clear()
            self.flush()

    def record(self, unseen: Unseen) -> SpanContext:
        """Record a span that has ended unseen, unless that was done; return its context."""
        span = None
        with unseen.lock:
            if unseen.recorded is None:
                try:
                    span, unseen.recorded = self._recorded(unseen.begin(), unseen.began, unseen.ended)
                except Exception:  # a sampler of the application's may raise anything
                    log.exception("a span was not recorded")
                    unseen.recorded = INVALID_SPAN_CONTEXT
        if span is not None:
            try:
                self._several.on_end(span)
            except Exception:  # a processor may, too
                log.exception("a span was not recorded: %s", span.name)
        return unseen.recorded

    def _recorded(self, start: Start, began: int, ended: int | None) -> tuple[Any, SpanContext]:
        """Return what is passed to the processors, if anything is, and the context of the span."""
        # As `Tracer.start_span` and `Span.end` do it.
        tracer: Any = start.tracer
        parent = get_current_span(start.parent).get_span_context()
        is_enabled = getattr(tracer, "_is_enabled", None)
        if is_enabled is not None and not is_enabled():
            return None, parent
        ids = tracer.id_generator
        if not parent.is_valid:
            trace_id = ids.generate_trace_id()
            is_random = getattr(ids, "is_trace_id_random", bool)()
        else:
            trace_id = parent.trace_id
            is_random = parent.trace_flags & _RANDOM
        kind = SpanKind.CONSUMER
        result = tracer.sampler.should_sample(start.parent, trace_id, start.name, kind, start.attributes, ())
        flags = TraceFlags((1 if result.decision.is_sampled() else 0) | (_RANDOM if is_random else 0))
        context = SpanContext(
            trace_id, ids.generate_span_id(), is_remote=False, trace_flags=flags, trace_state=result.trace_state
        )
        if not result.decision.is_recording():
            return None, context
        span = self._readable(
            name=start.name,
            context=context,
            parent=parent if parent.is_valid else None,
            resource=tracer.resource,
            attributes=result.attributes,
            kind=kind,
            start_time=began,
            end_time=ended,
            instrumentation_info=tracer.instrumentation_info,
            instrumentation_scope=tracer._instrumentation_scope,  # noqa: SLF001 - as above
        )
        return span, context

    def _does_as(self, tracer: Any) -> bool:
        """Whether a span that is recorded here is the same as one that the SDK makes."""
        trial = copy.copy(tracer)
        trial.span_processor = kept = _Kept()
        made = SpanContext(1 << 64, 1, is_remote=True, trace_flags=TraceFlags(3), trace_state=TraceState([("a", "b")]))
        start = Start(trial, "process", {"a": "b", "c": 1}, set_span_in_context(NonRecordingSpan(made), Context()))
        span = made_span(*start, start_time=1)
        if span is None:
            return False
        span.end(2)
        own, _ = self._recorded(start, 1, 2)
        return own is not None and [_facts(one) for one in kept.spans] == [_facts(own)]


class FlushesPending:
    """A processor in front of all others of a provider, which records what waits before these are flushed or shut down.

    It is made with the SDK's own processor as a base, which does nothing when spans begin and end.
    """

    def __init__(self) -> None:
        self._recorders: tuple[Recorder, ...] = ()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<{len(self._recorders)} recorders to flush>"

    def remember(self, recorder: Recorder) -> None:
        with self._lock:
            self._recorders += (recorder,)

    def forget(self, recorder: Recorder) -> None:
        with self._lock:
            self._recorders = tuple(one for one in self._recorders if one is not recorder)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Record all spans that have ended: at most a few dozen, which takes a millisecond."""
        for recorder in self._recorders:
            recorder.flush()
        return True

    def shutdown(self) -> None:
        self.force_flush()


class _Kept:
    """A processor that keeps what has ended."""

    def __init__(self) -> None:
        self.spans: list[Any] = []

    def on_start(self, *_: object, **__: object) -> None: ...

    def _on_ending(self, *_: object) -> None: ...

    def on_end(self, span: object) -> None:
        self.spans.append(span)


def _is_known(sampler: Any, module: str) -> bool:
    """Whether a sampler decides the same at any time and in any context: whether all its parts are the SDK's."""
    parts = cast("dict[str, Any]", vars(sampler))
    return cast("type[Any]", type(sampler)).__module__ == module and all(
        _is_known(one, module) for one in parts.values() if hasattr(one, "should_sample")
    )


def _is_unlimited(tracer: Any) -> bool:
    """Whether a tracer keeps all attributes of a span as they are, and counts nothing of its own."""
    limits, metrics = tracer._span_limits, getattr(tracer, "_tracer_metrics", None)  # noqa: SLF001 - as above
    most = limits.max_span_attributes
    return (
        limits.max_span_attribute_length is None
        and (most is None or most >= _MOST_ATTRIBUTES)
        and (metrics is None or type(metrics).__name__ == "NoOpTracerMetrics")
    )


def _facts(span: Any) -> list[Any]:
    context, status = span.context, span.status
    return [
        type(span),
        {**vars(span), "_context": None, "_attributes": None, "_events": None, "_links": None, "_status": None},
        (context.trace_id, context.is_remote, context.trace_flags, context.trace_state),
        dict(span.attributes),
        (span.events, span.links, status.status_code, status.description),
        (span.dropped_attributes, span.dropped_events, span.dropped_links),
    ]
