"""The cost of traces: the typed drain with OpenTelemetry and without.

    python -m benchmarks.tracing [--messages 40000] [--repeat 5] [--variants one,all,…]

    off         no telemetry; the messages carry no context
    headers     no telemetry; each message carries a `traceparent`, which nobody reads
    none        telemetry with ParentBased(TraceIdRatioBased(0.01)); no message is sampled
    one         telemetry with ParentBased(TraceIdRatioBased(0.01)); one message in a hundred is sampled by its sender
    contextless the same sampler; the messages carry no context, so that the SDK decides for each of them
    all         every message is sampled
    sentry      Sentry without tracing; the messages carry no context

Spans go through the SDK's batches to an exporter that drops them. Every run has its own node and its own server, on
which the messages are already stored. Variants take turns, so that other load affects them alike; the figure in CPU
time is the one that other load disturbs least.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import attrs
import trio

from actorwork import Child, open_system, receive
from actorwork.message import Envelope
from actorwork.testing.redis_server import open_redis_server
from benchmarks.policies import Counter, Mark, envelopes, publish

VARIANTS = ("off", "headers", "none", "one", "contextless", "all", "sentry")
TRACE = "4bf92f3577b34da6a3ce929d{:08x}"


def messages_of(variant: str, count: int) -> list[Envelope]:
    found = envelopes(count, "off")
    if variant in ("off", "contextless", "sentry"):
        return found
    return [
        attrs.evolve(one, headers={"traceparent": f"00-{TRACE.format(number)}-00f067aa0ba902b7-{flag:02x}"})
        for number, one in enumerate(found)
        for flag in [int(variant == "all" or (variant != "none" and number % 100 == 0))]
    ]


def telemetry_of(variant: str) -> Any:
    if variant in ("off", "headers"):
        return ()
    if variant == "sentry":
        import sentry_sdk

        from actorwork.telemetry.sentry import Sentry

        sentry_sdk.init(dsn="http://key@127.0.0.1:9/1", default_integrations=False)
        return Sentry()
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    from actorwork.telemetry.otel import OpenTelemetry, Providers

    class Dropping(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    traces = TracerProvider(sampler=ParentBased(TraceIdRatioBased(0.01)), shutdown_on_exit=False)
    traces.add_span_processor(BatchSpanProcessor(Dropping()))
    return OpenTelemetry(configure=lambda: Providers(traces=traces))


class Timed(Counter):
    """Counts, and notes the CPU time of the process before the first message."""

    cpu = 0.0

    @receive
    async def mark(self, message: Mark) -> None:
        if not self.began:
            Timed.cpu = time.process_time()
        self.began.append(time.perf_counter())
        if len(self.began) == self.expected:
            self.done.set()


async def drain(url: str, variant: str, expected: int) -> dict[str, float]:
    began: list[float] = []
    done = trio.Event()
    telemetry = telemetry_of(variant)
    async with open_system(Child(partial(Timed, began, expected, done)), broker=url, telemetry=telemetry):
        with trio.fail_after(300):
            await done.wait()
        spent = time.process_time() - Timed.cpu
    return {"rate": expected / (began[-1] - began[0]), "cpu_us": spent / expected * 1e6}


def run_drain(variant: str, messages: int) -> dict[str, float]:
    with open_redis_server() as server:
        trio.run(publish, server.url, messages_of(variant, messages))
        command = [sys.executable, "-m", "benchmarks.tracing", "--worker", variant, server.url, str(messages)]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def show(name: str, runs: list[dict[str, float]], base: list[dict[str, float]]) -> None:
    rate, cpu = (statistics.median(run[figure] for run in runs) for figure in ("rate", "cpu_us"))
    ratio = statistics.median(run["rate"] / other["rate"] for run, other in zip(runs, base, strict=True))
    by_cpu = statistics.median(other["cpu_us"] / run["cpu_us"] for run, other in zip(runs, base, strict=True))
    print(
        f"{name:<12} {rate:>9,.0f}/s   {ratio:5.2f} of off   {cpu:5.1f} us of CPU a message, {by_cpu:5.2f}", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--messages", type=int, default=40_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--worker", nargs=3, metavar=("VARIANT", "URL", "MESSAGES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        variant, url, messages = options.worker
        print(json.dumps(trio.run(drain, url, variant, int(messages))))
        return
    variants = list(dict.fromkeys(["off", *options.variants.split(",")]))
    results: dict[str, list[dict[str, float]]] = {variant: [] for variant in variants}
    for _ in range(options.repeat):
        for variant in variants:
            results[variant].append(run_drain(variant, options.messages))
    for variant, runs in results.items():
        show(variant, runs, results["off"])


if __name__ == "__main__":
    main()
