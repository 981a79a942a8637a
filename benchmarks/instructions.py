"""What telemetry costs, counted in instructions: the typed drain with it, without it, and with its hooks cut out.

    python -m benchmarks.instructions [--messages 4000] [--variants off,bare,…]

    off         no telemetry
    bare        the same on a copy of the package from which all hooks of telemetry have been cut (`HOOKS`)
    metrics     what `metrics=True` counts
    headers, none, one, contextless, all        as in `benchmarks.tracing`

Valgrind counts what a process executes that drains a broker in its own memory, so that nothing depends on the speed of
a server or a network. What it does for a quarter of the messages is subtracted, and so is what it takes to publish
them: the rest is what a message costs once the node runs. Other load on the machine changes nothing about that.

Instructions are not time: one that waits for memory counts like any other. The code of a span, of which nothing is in
the caches when one message in a hundred has one, takes longer than its instructions suggest.
"""

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Final

import trio

from actorwork import Child, open_client, open_system
from actorwork.testing import MemoryBroker
from benchmarks import tracing
from benchmarks.policies import Counter

HOUSE: Final = Path(__file__).resolve().parents[1]
DELIVERIES: Final = "actorwork/actors/execution/deliveries.py"
SETTLER: Final = "actorwork/streams/settler.py"
HOOKS: Final = (
    (
        DELIVERIES,
        """\
                if self._layers and ((only := self._only) is None or not only.is_unobserved(delivery)):
                    value = await self._through_layers(worker, handler, delivery, args, kwargs)
                elif handler.is_async:
""",
        """\
                if handler.is_async:
""",
    ),
    (
        DELIVERIES,
        """\
            self._acked(actor.settings.id, actor.title, delivery, settlement, seconds)
""",
        "",
    ),
    (
        DELIVERIES,
        """\
        return self._noted(delivery, error, found) if self._instruments else found
""",
        """\
        return found
""",
    ),
    (
        DELIVERIES,
        """\
                    self._count_sent(rest)
""",
        "",
    ),
    (
        SETTLER,
        """\
                began = 0.0 if self._meter is None else trio.current_time()
""",
        "",
    ),
    (
        SETTLER,
        """\
                if self._meter is not None:
                    self._meter.settled_batch(len(plain) + len(others) - len(again), trio.current_time() - began)
""",
        "",
    ),
)
"""Where a message passes telemetry on its way: file, text, and the text without the hook."""
VARIANTS: Final = ("off", "bare", "metrics", "headers", "none", "one", "contextless")


def without_hooks(into: Path) -> None:
    """Copy the package and the benchmarks, and cut the hooks out of the copy; raises `SystemExit` if one is unknown."""
    for part in ("actorwork", "benchmarks"):
        shutil.copytree(HOUSE / part, into / part, ignore=shutil.ignore_patterns("__pycache__", ".venv*", "results"))
    for name, text, rest in HOOKS:
        file = into / name
        found = file.read_text(encoding="utf-8")
        if found.count(text) != 1:
            raise SystemExit(f"{name} has no such hook any more, or has it twice; change HOOKS in {__file__}:\n{text}")
        file.write_text(found.replace(text, rest), encoding="utf-8")


async def drain(variant: str, count: int) -> None:
    """Drain a broker in memory; with `publish-` before its name, a variant only publishes its messages."""
    name = variant.removeprefix("publish-")
    name = "off" if name in ("bare", "metrics") else name
    random.seed(0)
    broker, began, done = MemoryBroker(), list[float](), trio.Event()
    async with open_client(broker) as client:
        await client.broker.publish(tracing.messages_of(name, count))
    if variant.startswith("publish-"):
        return
    telemetry = tracing.telemetry_of(name)
    child = Child(partial(Counter, began, count, done))
    async with open_system(child, broker=broker, telemetry=telemetry, metrics=variant == "metrics"):
        await done.wait()


def run_node(variant: str, count: int, tree: Path, *counted_by: str) -> str:
    """Drain in a process that uses the package in `tree`; return what it wrote to standard error."""
    command = [*counted_by, sys.executable, "-m", "benchmarks.instructions", "--worker", variant, str(count)]
    env = {**os.environ, "PYTHONPATH": str(tree), "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the drain `{variant}` has failed:\n{done.stderr}")
    return done.stderr


def instructions(variant: str, count: int, tree: Path) -> int:
    text = run_node(
        variant, count, tree, "valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"
    )
    found = re.search(r"I\s+refs:\s+([\d,]+)", text)
    if found is None:
        raise SystemExit(f"Valgrind has not said how many instructions there were:\n{text}")
    return int(found[1].replace(",", ""))


def for_each_message(variant: str, count: int, tree: Path) -> float:
    few = count // 4
    run_node(variant, few, tree)  # So that all modules are compiled.
    return (instructions(variant, count, tree) - instructions(variant, few, tree)) / (count - few)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--messages", type=int, default=4000)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--worker", nargs=2, metavar=("VARIANT", "MESSAGES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        variant, count = options.worker
        trio.run(drain, variant, int(count))
        return
    if shutil.which("valgrind") is None:
        raise SystemExit("this benchmark needs Valgrind: apt-get install valgrind")
    variants: list[str] = list(dict.fromkeys(["off", *options.variants.split(",")]))
    if not set(variants).isdisjoint(tracing.WITH_CONTEXTS):
        variants = list(dict.fromkeys(["off", "headers", *variants]))
    found: dict[str, float] = {}
    published: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory)
        without_hooks(copy)
        for variant in variants:
            base = "headers" if variant in tracing.WITH_CONTEXTS else "off"
            sent = "headers" if variant == "headers" else base
            if sent not in published:
                published[sent] = for_each_message(f"publish-{sent}", options.messages, HOUSE)
            whole = for_each_message(variant, options.messages, copy if variant == "bare" else HOUSE)
            found[variant] = whole - published[sent]
            ratio = found[base] / found[variant]
            print(f"{variant:<12} {found[variant]:>9,.0f} instructions a message   {ratio:6.3f} of {base}", flush=True)


if __name__ == "__main__":
    main()
