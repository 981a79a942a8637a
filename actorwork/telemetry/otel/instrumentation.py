"""OpenTelemetry for a system: `run(tree, telemetry=OpenTelemetry(configure=…))`.

Each process of a tree is spawned, and has no providers of its parent's: so `configure` is pickled by its name and
called in each of them, before anything else of the system starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import attrs
from opentelemetry._logs import get_logger, get_logger_provider
from opentelemetry.metrics import get_meter_provider
from opentelemetry.trace import get_tracer_provider

from actorwork.errors import SettingsError
from actorwork.shown import Shown
from actorwork.telemetry.otel import conventions
from actorwork.telemetry.otel.conventions import SCHEMA_URL, SCOPE, own_version
from actorwork.telemetry.otel.handling import ActorSpans
from actorwork.telemetry.otel.recording import Recorder
from actorwork.telemetry.otel.sampling import Sampling
from actorwork.telemetry.otel.sending import MessageSpans, tracer_of

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from actorwork.abc import EventSink, PublishMiddleware
    from actorwork.message import Delivery
    from actorwork.settings import Settings


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Providers(Shown):
    """What `configure` makes; the system uses these, and shuts them down at its end. None: the global one is used."""

    traces: TracerProvider | None = None
    metrics: MeterProvider | None = None
    logs: LoggerProvider | None = None


@attrs.frozen(kw_only=True, repr=False)
class OpenTelemetry(Shown):
    """Traces what the actors of a system handle and send. Implements `abc.Telemetry`.

    `configure` makes the providers of a process; in a tree with a `Process` it is a function at the top of a module.
    What it sets as global providers instead, and returns as None, is flushed at the end but not shut down: it belongs
    to the application. `trace_parent` says whether the span of a handler is a child of the span in which its message
    was made ("parent"), or begins a trace of its own that is linked to it ("link"); that of a batch is always linked.
    `link_attempts` links the span of a retry to that of the attempt before. `create_spans` makes a span for each
    message that an actor publishes, since it is sent only with the settlement, and for each call of `context.client`
    that sends; without, messages carry the context of their handler.
    """

    configure: Callable[[], Providers | None] | None = None
    trace_parent: Literal["parent", "link"] = "parent"
    link_attempts: bool = True
    create_spans: bool = True

    def __attrs_post_init__(self) -> None:
        if self.trace_parent not in ("parent", "link"):
            raise SettingsError(f"OpenTelemetry.trace_parent wants 'parent' or 'link', got {self.trace_parent!r}")
        if self.configure is not None and not callable(self.configure):  # pyright: ignore[reportUnnecessaryComparison]
            raise SettingsError(
                f"OpenTelemetry.configure wants a function that makes Providers, got {self.configure!r}"
            )

    def open(self, broker: str) -> OpenedTelemetry:
        """Configure this process. Raises what `configure` raises, and `SettingsError` for what it must not return."""
        made = None if self.configure is None else self.configure()
        if made is not None and not isinstance(made, Providers):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise SettingsError(f"OpenTelemetry.configure wants to return Providers or None, returned {made!r}")
        return OpenedTelemetry(self, made or Providers(), broker)


class OpenedTelemetry:
    """The spans of one process. Implements `abc.Instruments`."""

    def __init__(self, options: OpenTelemetry, own: Providers, broker: str) -> None:
        self._options = options
        self._own = own
        self._shared = conventions.attributes_of_broker(broker)
        self._sending = MessageSpans(
            self._shared, creates=options.create_spans, sends=options.create_spans, provider=own.traces, logs=own.logs
        )
        self._tracer = tracer_of(own.traces)
        self._logger = get_logger(SCOPE, own_version(), own.logs, SCHEMA_URL)
        self._sampled: dict[int, tuple[Delivery, str]] = {}
        self._has_exemplars = False
        self._recorder: Recorder | None = None

    def __repr__(self) -> str:
        return f"<opened {self._options!r}>"

    @property
    def publish_middleware(self) -> tuple[PublishMiddleware, ...]:
        return (self._sending,)

    def of_actor(self, settings: Settings) -> ActorSpans | None:
        provider = self._own.traces
        self._sending.titles[settings.default_source] = conventions.destination_of(settings.default_source, settings)
        is_child = self._options.trace_parent == "parent"
        used = provider or get_tracer_provider()
        spans = ActorSpans(
            settings,
            self._shared,
            self._tracer,
            self._logger,
            # Where spans have no parent, the flag of the message decides nothing: the sampler is asked.
            sampling=Sampling.of(used, self._tracer) if is_child else Sampling(),
            is_child=is_child,
            links_attempts=self._options.link_attempts,
        )
        spans.sampled = self._sampled
        spans.has_exemplars = self._has_exemplars
        if self._recorder is None:
            self._recorder = Recorder.of(used, self._tracer)
        spans.recorder = self._recorder
        return spans

    @property
    def sampled(self) -> Mapping[int, tuple[Delivery, str]]:
        """See `abc.KnowsTraces`; read before any actor starts, if at all."""
        self._has_exemplars = True
        return self._sampled

    @property
    def observe(self) -> EventSink | None:
        return None  # Spans are made of deliveries, not of events.

    def close(self, within: float) -> None:
        """Flush all providers, and shut down those that `configure` has made."""
        milliseconds = max(1, int(within * 1000))
        own = self._own
        if self._recorder is not None:
            self._recorder.close()
        for mine, shared in (
            (own.traces, get_tracer_provider),
            (own.logs, get_logger_provider),
            (own.metrics, get_meter_provider),
        ):
            provider: Any = shared() if mine is None else mine
            # The API has neither; its own providers, where no SDK is set up, have nothing to flush.
            flush = getattr(provider, "force_flush", None)
            if flush is not None:
                flush(milliseconds)
            if mine is not None:
                end = getattr(provider, "shutdown", None)
                if end is not None:
                    end()
