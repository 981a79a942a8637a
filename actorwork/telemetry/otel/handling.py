"""A span for each delivery that is handled: `process`, of the kind CONSUMER, current while its handler runs.

    parent    the span in which the message was made, or, with `trace_parent="link"`, none: that one is linked then
    links     of a batch: the span of each message; of a retry: the span of the attempt before

What is known of the sampler decides first (`sampling`): mostly by one character of the message, the flag in its
context. For what is not sampled nothing is made, and nothing of the SDK is called. No span is made for messages that
only wait in a mailbox.

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
    SpanKind,
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
from actorwork.telemetry.otel.propagation import BAGGAGE, TRACEPARENT, InHand, context_with

if TYPE_CHECKING:
    from opentelemetry._logs import Logger
    from opentelemetry.trace import Span, SpanContext, Tracer
    from opentelemetry.util.types import AttributeValue

    from actorwork.message import Delivery, Json
    from actorwork.policy.settlement import Ending
    from actorwork.settings import Settings
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
        self._taken: Delivery | None = None
        """The delivery without a context that is sampled, until its span is made."""
        self._is_child = is_child
        self._links_attempts = links_attempts
        self._of_source: dict[str, tuple[str, dict[str, AttributeValue]]] = {}
        """The name and the attributes of the spans of each source."""
        self.sampled: dict[int, tuple[Delivery, str]] = {}
        """The latest deliveries whose spans are sampled, and their traces, for exemplars; by identity."""
        self._failed: dict[int, tuple[Delivery, SpanContext]] = {}
        """The spans of deliveries whose handlers have raised, until that is settled; by identity."""

    def __repr__(self) -> str:
        return f"<spans of {self._settings.title!r}>"

    def begin(self, in_hand: Callable[[], Delivery | None]) -> None:
        if self._sampling.drops_any:
            self._unsampled = context_with(InHand(in_hand, self._sampling))
            current.attach(self._unsampled)

    def is_unobserved(self, delivery: Delivery) -> bool:
        headers = delivery.headers
        if headers:
            if BAGGAGE in headers:
                return False  # It has a place of its own in a context, and such a context is to be entered and left.
            if self._by_flag and (made := headers.get(TRACEPARENT)) is not None:
                return propagation.is_unsampled(made)
        return self._drops(delivery)

    def _drops(self, delivery: Delivery) -> bool:
        """Whether it is known that a message is not sampled; for one without a context, draw."""
        headers = delivery.headers
        made = headers.get(TRACEPARENT) if headers else None
        if made is not None:
            return propagation.is_unsampled(made) if self._by_flag else self._sampling.drops(made)
        if self._ratio is None or self._taken is delivery:
            return False
        if random.random() < self._ratio:
            self._taken = delivery
            return False
        return True

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
        headers = delivery.headers
        name, attributes = self._known(delivery.source)
        parent = propagation.context_of(headers) if headers else Context()
        links = self._links_to_attempt(delivery)
        if not self._is_child:
            made = get_current_span(parent).get_span_context()
            if made.is_valid:
                links.append(Link(made))
            parent = propagation.without_span(headers)
        return await self._in_span(
            name,
            {**attributes, **conventions.attributes_of_delivery(delivery)},
            parent,
            links,
            (delivery,),
            proceed,
            tracer=self._roots if headers.get(TRACEPARENT) is None else self._tracer,
        )

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
        return await self._in_span(
            name,
            {**attributes, **conventions.attributes_of_batch(deliveries)},
            Context(),
            links,
            deliveries,
            proceed,
            together=True,
        )

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
        name: str,
        attributes: Mapping[str, AttributeValue],
        parent: Context,
        links: Sequence[Link],
        deliveries: Sequence[Delivery],
        proceed: Callable[[], Awaitable[Any]],
        *,
        together: bool = False,
        tracer: Tracer | None = None,
    ) -> Any:
        try:
            span = (tracer or self._tracer).start_span(
                name,
                context=parent,
                kind=SpanKind.CONSUMER,
                attributes=attributes,
                links=links,
                record_exception=False,
                set_status_on_exception=False,
            )
        except Exception:  # a sampler or a processor of the application's may raise anything: the message goes on
            log.exception("no span was made for a message of %r", self._settings.title)
            return await proceed()
        if (made := span.get_span_context()).trace_flags.sampled:
            self._note_sampled(deliveries, format_trace_id(made.trace_id))
        inside = set_span_in_context(span, parent)
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
        except Exception:  # as above
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
