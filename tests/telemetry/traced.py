"""What the tests of traces observe: actors that pass messages on, and their spans, here and in other processes."""

import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler

from actorwork import Actor, Settings, receive
from actorwork.telemetry.otel import OpenTelemetry, Providers

FOREVER = ParentBased(ALWAYS_ON)


class Kept:
    """Providers that keep spans and logs in memory."""

    def __init__(self, sampler: Sampler = FOREVER) -> None:
        self._spans = InMemorySpanExporter()
        self._logs = InMemoryLogRecordExporter()
        self.traces = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.traces.add_span_processor(SimpleSpanProcessor(self._spans))
        self._logger = LoggerProvider(shutdown_on_exit=False)
        self._logger.add_log_record_processor(SimpleLogRecordProcessor(self._logs))

    def __call__(self) -> Providers:
        return Providers(traces=self.traces, logs=self._logger)

    def telemetry(self, **options: Any) -> OpenTelemetry:
        return OpenTelemetry(configure=self, **options)

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        """Those that have ended, in the order in which they began."""
        return sorted(self._spans.get_finished_spans(), key=lambda span: span.start_time or 0)

    @property
    def logs(self) -> Sequence[LogRecord]:
        return [one.log_record for one in self._logs.get_finished_logs()]

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        found = self.named(name)
        assert len(found) == 1, f"{len(found)} spans are named {name!r}; there are {[span.name for span in self.spans]}"
        return found[0]


# ---- in another process ----


class FileExporter(SpanExporter):
    """Writes each span to a file, as a line of JSON."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._file.open("a") as out:  # One write for each span: two processes share the file.
            for span in spans:
                out.write(json.dumps(json.loads(span.to_json())) + "\n")
                out.flush()
        return SpanExportResult.SUCCESS


def written_to(file: Path) -> Providers:
    resource = Resource.create({"process.pid": os.getpid()})
    provider = TracerProvider(sampler=FOREVER, resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(FileExporter(file)))
    return Providers(traces=provider)


def telemetry_to(file: Path) -> OpenTelemetry:
    return OpenTelemetry(configure=partial(written_to, file))


def read_spans(file: Path) -> list[dict[str, Any]]:
    # Its last line may be half written.
    return [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]


# ---- actors ----


class Second(Actor):
    settings = Settings(title="second", sources={"orders:packed"})

    @receive
    async def pack(self, order: str) -> None: ...


class First(Actor):
    settings = Settings(title="first")

    @receive
    async def order(self, order: str) -> str:
        self.context.publish("orders:packed", order)
        return f"ordered {order}"
