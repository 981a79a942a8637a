"""OpenTelemetry: traces of messages from their sender to their handlers, and what these send. Read top-down:

instrumentation  OpenTelemetry, the option of a system; Providers, which the application's own function makes
handling         a span for each delivery that is handled
recording        spans that nothing has looked at, after their end
measuring        the metrics of a system as observable instruments
sending          a span for each message that is made, and its context in the headers of the message
propagation      the W3C headers, and the parent of what is not sampled
conventions      the names of spans and attributes

Only the API of OpenTelemetry is imported; the SDK, its exporters and its configuration are the application's.
"""

try:
    import opentelemetry.trace  # noqa: F401 # pyright: ignore[reportUnusedImport]
except ImportError as error:
    raise ImportError(
        'actorwork.telemetry.otel needs the API of OpenTelemetry: pip install "actorwork[otel]"'
    ) from error

from actorwork.telemetry.otel.instrumentation import OpenTelemetry as OpenTelemetry, Providers as Providers
from actorwork.telemetry.otel.measuring import export_metrics as export_metrics
from actorwork.telemetry.otel.sending import sending as sending

__all__ = ["OpenTelemetry", "Providers", "export_metrics", "sending"]
