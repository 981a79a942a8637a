"""What the reports of an idle node cost: its CPU time and its commands, with reports and without.

    python -m benchmarks.reports [--seconds 60] [--repeat 1]

    off         a node of one actor that nobody sends anything; it neither reports nor counts by the minute
    reports     the same node as it is: nobody looks at it

Each node has a server of its own, runs in a process of its own, and is measured after a pause in which it settles down:
CPU by getrusage, and what the server has executed by INFO commandstats, which counts the commands of scripts as well.
Both variants run at the same time, so that other load affects them alike. A report is four commands outside of any
script (SET, ZADD, LPOP, PTTL); the other differences are chance: each node looks after its source at its own times.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
from typing import Any

import redis
import trio

from actorwork import Actor, Settings, open_system, receive
from actorwork.runtime.engine import Engine
from actorwork.testing.redis_server import open_redis_server

VARIANTS = ("off", "reports")
REST = 15.0
"""Seconds until the first report has been written and what it needs is imported."""
REPORT = ("set", "zadd", "lpop", "pttl")
"""The commands of a report."""


class Idle(Actor):
    settings = Settings(title="idle", sources={"nothing"})

    @receive
    async def do(self) -> None: ...


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def executed(url: str) -> dict[str, int]:
    with redis.Redis.from_url(url) as client:  # pyright: ignore[reportUnknownMemberType]
        found = client.info("commandstats")  # pyright: ignore[reportUnknownMemberType]
    return {name.removeprefix("cmdstat_"): counted["calls"] for name, counted in found.items()}


async def measure(variant: str, url: str, seconds: float) -> dict[str, Any]:
    """Run an idle node, and return its CPU time in seconds, and how many commands of each kind there were."""
    if variant == "off":

        async def report_nothing(*_: object) -> None:
            await trio.sleep_forever()

        setattr(Engine, "_report", report_nothing)  # noqa: B010 - there is no option for it
    async with open_system(Idle, broker=url):
        await trio.sleep(REST)
        before, began = await trio.to_thread.run_sync(executed, url), cpu()
        await trio.sleep(seconds)
        spent = cpu() - began
        after = await trio.to_thread.run_sync(executed, url)
    own = {"info", "client|setinfo", "hello"}
    return {
        "cpu": spent,
        "commands": {name: count - before.get(name, 0) for name, count in after.items() if name not in own},
    }


def run(seconds: float) -> dict[str, dict[str, Any]]:
    with open_redis_server() as one, open_redis_server() as other:
        running = {
            variant: subprocess.Popen(
                [sys.executable, "-m", "benchmarks.reports", "--worker", variant, url, "--seconds", str(seconds)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for variant, url in zip(VARIANTS, (one.url, other.url), strict=True)
        }
        outputs = {variant: process.communicate()[0] for variant, process in running.items()}
        return {variant: json.loads(output) for variant, output in outputs.items()}


def show(runs: list[dict[str, dict[str, Any]]], seconds: float) -> None:
    for variant in VARIANTS:
        share = statistics.median(one[variant]["cpu"] for one in runs) / seconds
        total = statistics.median(sum(one[variant]["commands"].values()) for one in runs) / seconds
        print(f"{variant:<10} {share:8.3%} of a core   {total:6.2f} commands/s with those of scripts", flush=True)
    more = [one["reports"]["cpu"] - one["off"]["cpu"] for one in runs]
    names = sorted({name for one in runs for variant in VARIANTS for name in one[variant]["commands"]})
    by_name = {
        name: statistics.median(
            one["reports"]["commands"].get(name, 0) - one["off"]["commands"].get(name, 0) for one in runs
        )
        / seconds
        for name in names
    }
    own = sum(by_name.get(name, 0.0) for name in REPORT)
    print(f"more       {statistics.median(more) / seconds:8.3%} of a core   {own:6.2f} commands/s of reports")
    for name, rate in sorted(by_name.items(), key=lambda item: -abs(item[1])):
        if abs(rate) >= 0.005:
            print(f"    {name:<20} {rate:6.2f}/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--worker", nargs=2, metavar=("VARIANT", "URL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        variant, url = options.worker
        print(json.dumps(trio.run(measure, variant, url, options.seconds)))
        return
    show([run(options.seconds) for _ in range(options.repeat)], options.seconds)


if __name__ == "__main__":
    main()
