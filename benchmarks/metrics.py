"""The cost of metrics: the typed drain with them and without.

    python -m benchmarks.metrics [--messages 40000] [--repeat 5]

    off         nothing is counted
    metrics     what `metrics=True` counts, read once at the end

Every run has its own node and its own server, on which the messages are already stored. Variants take turns, so that
other load affects them alike; the figure in CPU time is the one that other load disturbs least.
"""

import time
from functools import partial

import trio

from actorwork import Child, open_system
from benchmarks.policies import envelopes, publish
from benchmarks.tracing import Timed, show
from benchmarks.variants import Figures, in_turns, options_of, run_drain

VARIANTS = ("off", "metrics")


async def drain(url: str, variant: str, expected: int) -> Figures:
    began: list[float] = []
    done = trio.Event()
    is_counting = variant == "metrics"
    async with open_system(Child(partial(Timed, began, expected, done)), broker=url, metrics=is_counting) as system:
        with trio.fail_after(300):
            await done.wait()
        spent = time.process_time() - Timed.cpu
        if is_counting:
            await trio.sleep(0.5)
            assert system.metrics is not None
            (counted,) = [one for one in system.metrics.read() if one.name == "actorwork_deliveries_total"]
            assert counted.value == expected, counted
    return {"rate": expected / (began[-1] - began[0]), "cpu_us": spent / expected * 1e6}


def main() -> None:
    if (options := options_of(__doc__ or "", VARIANTS, drain)) is None:
        return

    def run(variant: str) -> Figures:
        return run_drain("benchmarks.metrics", variant, publish, envelopes(options.messages, "off"))

    results = in_turns(options, run)
    for variant, runs in results.items():
        show(variant, runs, results["off"])


if __name__ == "__main__":
    main()
