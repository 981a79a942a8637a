"""A span for each delivery that is handled: `process`, of the kind CONSUMER, current while its handler runs.

    parent    the span in which the message was made, or, with `trace_parent="link"`, none: that one is linked then
    links     of a batch: the span of each message; of a retry: the span of the attempt before

What is known of the sampler decides first (`sampling`): mostly by one character of the message, the flag in its
context. For what is not sampled nothing is made, and nothing of the SDK is called. What is sampled has its span made
when something looks at it, if that can be (`recording`). No span is made for messages that only wait in a mailbox.

An exception becomes the status of the span and a log event, `messaging.process.exception`, since events on spans are
deprecated for exceptions. The span is ended before the settlement is decided, which takes no time.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as current
from opentelemetry._logs import SeverityNumber
from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    Link,
    Status,
    StatusCode,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)

from actorwork.groups import is_cancellation
from actorwork.message import NO_HEADERS, PREVIOUS_SPAN
from actorwork.policy.settlement import Retry
from actorwork.telemetry.otel import conventions, propagation
from actorwork.telemetry.otel.propagation import BAGGAGE, TRACEPARENT, InHand, context_with, is_unsampled
from actorwork.telemetry.otel.recording import Start, Unseen, made_span

if TYPE_CHECKING:
    from opentelemetry._logs import Logger
    from opentelemetry.trace import Span, SpanContext, Tracer
    from opentelemetry.util.types import AttributeValue

    from actorwork.message import Delivery, Json
    from actorwork.policy.settlement import Ending
    from actorwork.settings import Settings
    from actorwork.telemetry.otel.recording import Recorder
    from actorwork.telemetry.otel.sampling import Sampling

_BATCH_LINKS: Final = 128
"""How many messages of a batch are linked: the SDK keeps as many by default, and drops the first of more."""
_REMEMBERED: Final = 1000
"""Of how many deliveries that are sampled the trace is known when they are counted."""


log = logging.getLogger("actorwork.telemetry")


class ActorSpans:
    """The spans of one actor. Implements `abc.ActorInstrument`."""

    def __init__(
        self,
        settings: Settings,
        shared: Mapping[str, AttributeValue],
        tracer: Tracer,
        logger: Logger,
        *,
        sampling: Sampling,
        is_child: bool,
        links_attempts: bool,
    ) -> None:
        self._settings = settings
        self._shared = shared
        self._tracer = tracer
        self._logger = logger
        self._sampling = sampling
        self._by_flag = sampling.skips_unsampled
        self._ratio = sampling.ratio
        self._unsampled = Context()
        """The context of a task that handles messages: what is not sampled is handled in it."""
        self._roots = sampling.roots or tracer
        self.recorder: Recorder | None = None
        """Records the spans that nothing looks at, if that is possible."""
        self._taken: Delivery | None = None
        """The delivery without a context that is sampled, until its span is made."""
        self._is_child = is_child
        self._links_attempts = links_attempts
        self._of_source: dict[str, tuple[str, dict[str, AttributeValue]]] = {}
        """The name and the attributes of the spans of each source."""
        self.sampled: dict[int, tuple[Delivery, str]] = {}
        """The latest deliveries whose spans are sampled, and their traces, for exemplars; by identity."""
        self.has_exemplars = False
        """Whether these are read."""
        self._failed: dict[int, tuple[Delivery, SpanContext]] = {}
        """The spans of deliveries whose handlers have raised, until that is settled; by identity."""

    def __repr__(self) -> str:
        return f"<spans of {self._settings.title!r}>"

    def begin(self, in_hand: Callable[[], Delivery | None]) -> None:
        if self._sampling.drops_any:
            self._unsampled = context_with(InHand(in_hand, self._sampling))
            current.attach(self._unsampled)

    def is_unobserved(self, delivery: Delivery) -> bool:
        # For each message, so all in one place: a call costs as much as what is looked at here.
        headers = delivery.headers
        if headers:
            if BAGGAGE in headers:
                return False  # It has a place of its own in a context, and such a context is to be entered and left.
            if (made := headers.get(TRACEPARENT)) is not None:
                return is_unsampled(made) if self._by_flag else self._sampling.drops(made)
        if (ratio := self._ratio) is None:
            return False
        if random.random() < ratio:
            self._taken = delivery
            return False
        return True

    def _drops(self, delivery: Delivery) -> bool:
        """Whether it is known that a message is not sampled; for one without a context, draw."""
        made = delivery.headers.get(TRACEPARENT)
        if made is not None:
            return is_unsampled(made) if self._by_flag else self._sampling.drops(made)
        return self._ratio is not None and self._taken is not delivery and random.random() >= self._ratio

    async def handling(self, delivery: Delivery, proceed: Callable[[], Awaitable[object]]) -> object:
        if self._drops(delivery):
            if BAGGAGE not in delivery.headers:
                return await proceed()
            token = current.attach(propagation.with_baggage(self._unsampled, delivery.headers))
            try:
                return await proceed()
            finally:
                current.detach(token)
        self._taken = None
        if (recorder := self.recorder) is not None and self._is_child and delivery.attempt == 1 and recorder.is_alone:
            return await self._unseen(recorder, delivery, proceed)
        start = self._start(delivery)
        links = self._links_to_attempt(delivery)
        if not self._is_child:
            made = get_current_span(start.parent).get_span_context()
            if made.is_valid:
                links.append(Link(made))
            start = start._replace(parent=propagation.without_span(delivery.headers))
        return await self._in_span(start, links, (delivery,), proceed)

    def _start(self, delivery: Delivery) -> Start:
        """Return with what the span of a delivery begins."""
        headers = delivery.headers
        name, attributes = self._known(delivery.source)
        return Start(
            self._roots if headers.get(TRACEPARENT) is None else self._tracer,
            name,
            {**attributes, **conventions.attributes_of_delivery(delivery)},
            propagation.context_of(headers) if headers else Context(),
        )

    async def _unseen(self, recorder: Recorder, delivery: Delivery, proceed: Callable[[], Awaitable[object]]) -> object:
        """Handle a delivery whose span is made only when something looks at it."""
        inside = Unseen(recorder, self._start, delivery)
        token = current.attach(inside)
        try:
            return await proceed()
        except BaseException as error:
            self._note(inside.look(), inside, (delivery,), error)
            raise
        finally:
            current.detach(token)
            # An exemplar is noted soon, and may know the trace by the span alone.
            is_read = self.has_exemplars and (TRACEPARENT not in delivery.headers or not self._by_flag)
            if recorder.end(inside, at_once=is_read):
                made = inside.recorded
            else:
                self._end(span := inside.look())
                made = span.get_span_context()
            if made is not None and made.trace_flags.sampled:
                self._note_sampled((delivery,), format_trace_id(made.trace_id))

    async def handling_together(self, deliveries: Sequence[Delivery], proceed: Callable[[], Awaitable[Any]]) -> Any:
        made = [propagation.span_context_from(one.headers) for one in deliveries]
        found = [context for context in made if context.is_valid]
        if self._by_flag and found and not any(context.trace_flags.sampled for context in found):
            # One of them stands for all: what is sent here belongs to each of them.
            one = deliveries[made.index(found[0])]
            own = context_with(InHand(lambda: one, self._sampling))
            token = current.attach(propagation.with_baggage(own, one.headers))
            try:
                return await proceed()
            finally:
                current.detach(token)
        # The sampled ones first: links to spans that were not recorded lead nowhere.
        found.sort(key=lambda context: not context.trace_flags.sampled)
        links = [Link(context) for context in found[:_BATCH_LINKS]]
        for one in deliveries[: _BATCH_LINKS - len(links)]:
            links += self._links_to_attempt(one)
        name, attributes = self._known(deliveries[0].source)
        start = Start(self._tracer, name, {**attributes, **conventions.attributes_of_batch(deliveries)}, Context())
        return await self._in_span(start, links, deliveries, proceed, together=True)

    def failed(self, delivery: Delivery, error: BaseException, ending: Ending) -> Mapping[str, Json]:
        kept, span = self._failed.pop(id(delivery), (None, INVALID_SPAN_CONTEXT))
        if kept is not delivery:
            if self._ratio is not None and TRACEPARENT not in delivery.headers and isinstance(ending.settlement, Retry):
                # Not sampled: so are its other attempts, and not a part of them by chance.
                return {TRACEPARENT: propagation.traceparent_of(propagation.unsampled_root(delivery))}
            return NO_HEADERS
        added: dict[str, Json] = {}
        if self._links_attempts and span.trace_flags.sampled:
            added[PREVIOUS_SPAN] = propagation.traceparent_of(span)
        if TRACEPARENT not in delivery.headers:
            # Else each attempt of a message that came without a context would be a trace of its own.
            added[TRACEPARENT] = propagation.traceparent_of(span)
        return added

    def _known(self, source: str) -> tuple[str, dict[str, AttributeValue]]:
        found = self._of_source.get(source)
        if found is None:
            name = f"process {conventions.destination_of(source, self._settings)}"
            attributes = {**self._shared, **conventions.attributes_of_process(self._settings, source)}
            found = self._of_source[source] = name, attributes
        return found

    def _links_to_attempt(self, delivery: Delivery) -> list[Link]:
        if not self._links_attempts or delivery.attempt == 1 or PREVIOUS_SPAN not in delivery.headers:
            return []
        found = propagation.span_context_from(delivery.headers, PREVIOUS_SPAN)
        return [Link(found, {"actorwork.attempt": delivery.attempt - 1})] if found.is_valid else []

    async def _in_span(
        self,
        start: Start,
        links: Sequence[Link],
        deliveries: Sequence[Delivery],
        proceed: Callable[[], Awaitable[Any]],
        *,
        together: bool = False,
    ) -> Any:
        span = made_span(*start, links=links)
        if span is None:
            return await proceed()
        if (made := span.get_span_context()).trace_flags.sampled:
            self._note_sampled(deliveries, format_trace_id(made.trace_id))
        inside = set_span_in_context(span, start.parent)
        # A coroutine that only awaits, and no generator: both of these run in the context of the one task.
        token = current.attach(inside)
        try:
            answer = await proceed()
            if together:
                self._note_outcomes(span, inside, deliveries, answer)
            return answer
        except BaseException as error:
            self._note(span, inside, deliveries, error)
            raise
        finally:
            current.detach(token)
            self._end(span)

    def _note_sampled(self, deliveries: Sequence[Delivery], trace: str) -> None:
        sampled = self.sampled
        for delivery in deliveries:
            sampled[id(delivery)] = delivery, trace
        while len(sampled) > _REMEMBERED:
            del sampled[next(iter(sampled))]

    def _end(self, span: Span) -> None:
        try:
            span.end()
        except Exception:  # a processor of the application's may raise anything: the message goes on
            log.exception("a span of %r was not ended", self._settings.title)

    def _note(self, span: Span, inside: Context, deliveries: Sequence[Delivery], error: BaseException) -> None:
        """Note on a span what has ended it."""
        context = span.get_span_context()
        if context.is_valid and not is_cancellation(error):
            for delivery in deliveries:
                self._failed[id(delivery)] = delivery, context
        if not span.is_recording():
            return
        span.set_attribute("error.type", conventions.error_type(error))
        if not conventions.is_failure(error):
            return
        span.set_status(Status(StatusCode.ERROR, conventions.text_of(error)))
        if not isinstance(error, Exception):
            return
        try:
            self._logger.emit(
                event_name=conventions.PROCESS_EXCEPTION,
                severity_number=SeverityNumber.ERROR,
                severity_text="ERROR",
                context=inside,
                exception=error,
                attributes={"messaging.message.id": deliveries[0].id, "actorwork.actor": self._settings.title},
            )
        except Exception:  # as above
            log.exception("an exception of %r is missing in its trace", self._settings.title)

    def _note_outcomes(self, span: Span, inside: Context, deliveries: Sequence[Delivery], answer: Any) -> None:
        """Note the errors that the handler of a batch has returned for some of its messages."""
        for delivery, outcome in zip(deliveries, answer, strict=False):
            if isinstance(outcome, BaseException):
                self._note(span, inside, [delivery], outcome)
