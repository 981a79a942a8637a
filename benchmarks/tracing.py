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
time is the one that other load disturbs least, and the least of all rounds is disturbed least of these.

Messages carry a context because their senders trace, and their reader pays for the headers whether it traces or not. So
`none`, `one` and `all` are compared with `headers`, which handles the same messages, and all others with `off`.
"""

import statistics
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import attrs
import trio

from actorwork import Child, open_system, receive
from actorwork.message import Envelope
from benchmarks.policies import Counter, Mark, envelopes, publish
from benchmarks.variants import Figures, in_turns, options_of, run_drain

VARIANTS = ("off", "headers", "none", "one", "contextless", "all", "sentry")
WITH_CONTEXTS = ("none", "one", "all")
"""What handles the same messages as `headers`."""
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


async def drain(url: str, variant: str, expected: int) -> Figures:
    began: list[float] = []
    done = trio.Event()
    telemetry = telemetry_of(variant)
    async with open_system(Child(partial(Timed, began, expected, done)), broker=url, telemetry=telemetry):
        with trio.fail_after(300):
            await done.wait()
        spent = time.process_time() - Timed.cpu
    return {"rate": expected / (began[-1] - began[0]), "cpu_us": spent / expected * 1e6}


def show(name: str, runs: list[Figures], base: list[Figures], base_name: str = "off") -> None:
    rate, cpu = (statistics.median(run[figure] for run in runs) for figure in ("rate", "cpu_us"))
    ratio = statistics.median(run["rate"] / other["rate"] for run, other in zip(runs, base, strict=True))
    by_cpu = statistics.median(other["cpu_us"] / run["cpu_us"] for run, other in zip(runs, base, strict=True))
    least, least_base = (min(run["cpu_us"] for run in some) for some in (runs, base))
    print(
        f"{name:<12} {rate:>9,.0f}/s   {ratio:5.2f} of {base_name:<7}   {cpu:5.1f} us of CPU a message, {by_cpu:5.2f}"
        f"   at least {least:5.1f} us, {least_base / least:5.2f}",
        flush=True,
    )


def main() -> None:
    if (options := options_of(__doc__ or "", VARIANTS, drain)) is None:
        return

    def run(variant: str) -> Figures:
        return run_drain("benchmarks.tracing", variant, publish, messages_of(variant, options.messages))

    if not set(options.variants).isdisjoint(WITH_CONTEXTS):
        options.variants = list(dict.fromkeys(["off", "headers", *options.variants]))
    results = in_turns(options, run)
    for variant, runs in results.items():
        base = "headers" if variant in WITH_CONTEXTS else "off"
        show(variant, runs, results[base], base)


if __name__ == "__main__":
    main()
