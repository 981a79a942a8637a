"""What telemetry costs, counted in instructions: a node that handles messages with it, without it, and without hooks.

    python -m benchmarks.instructions [--messages 4000] [--variants off,bare,…]

    off         no telemetry
    bare        the same on a copy of the package from which all hooks of telemetry have been cut (`HOOKS`)
    metrics     what `metrics=True` counts
    headers, none, one, contextless, all        as in `benchmarks.tracing`

Valgrind counts what a process executes that handles the messages of the typed drain, from the mailbox to the
settlement. What it does for a quarter of them is subtracted, and what it takes to make the messages. Reading and
settling at a broker are left out: how much a message costs there depends on the speed of the server and of the network,
and thus on other load. So a part in a hundred here is less than that of a drain.

Instructions are not time: one that waits for memory counts like any other. The code of a span, of which nothing is in
the caches when one message in a hundred has one, takes longer than its instructions suggest.
"""

import argparse
import gc
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import trio

from actorwork import Child, open_system
from actorwork.message import Delivery
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
            noted = None if (notes := self._ack_notes) is None else notes.noted
            if noted is None or delivery.attempt != 1:
                self._acked(actor.settings.id, actor.title, delivery, settlement, seconds)
            else:
                # One by one: a tuple of all three would have to be made, and taken apart.
                noted.append(seconds)
                noted.append(worker.began)
                noted.append(delivery)
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
                    _count_sent(self._meter, rest)
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
BATCH: Final = 64
MADE: Final = "made-"
"""Before the name of a variant: its messages are made, and not handled."""
READY: Final = SimpleNamespace(ready=time.time())
"""In the place of a token, for the metrics of how long messages have waited."""
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


class Absorbing:
    """In the place of a broker's node: takes settlements, and does nothing about them."""

    now = staticmethod(time.time)

    def settle(self, *_: object) -> None: ...

    def resume(self, *_: object) -> None: ...

    async def release_deliveries(self, *_: object, **__: object) -> None: ...


async def handle(variant: str, count: int) -> None:
    """Let an actor handle messages that no broker has; each batch is handled before the next one comes."""
    name = variant.removeprefix(MADE)
    name = "off" if name in ("bare", "metrics") else name
    random.seed(0)
    gc.disable()  # How much there is to look at depends on what else the process keeps.
    began, done = list[float](), trio.Event()
    deliveries = [
        Delivery(one.id, one.source, one.data, READY, one.type, one.headers) for one in tracing.messages_of(name, count)
    ]
    if variant.startswith(MADE):
        return
    telemetry = tracing.telemetry_of(name)
    child = Child(partial(Counter, began, count, done))
    async with open_system(child, broker=MemoryBroker(), telemetry=telemetry, metrics=variant == "metrics") as system:
        # What no program of a user's does: to give an actor another node.
        (consumer,) = cast("Any", system)._engine.members.consumers  # noqa: SLF001
        consumer.attach(cast("Any", Absorbing()))
        for start in range(0, count, BATCH):
            consumer.subscription.sink.offer(deliveries[start : start + BATCH])
            while len(began) < min(count, start + BATCH):
                await trio.lowlevel.checkpoint()


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
        trio.run(handle, variant, int(count))
        return
    if shutil.which("valgrind") is None:
        raise SystemExit("this benchmark needs Valgrind: apt-get install valgrind")
    variants: list[str] = list(dict.fromkeys(["off", *options.variants.split(",")]))
    if not set(variants).isdisjoint(tracing.WITH_CONTEXTS):
        variants = list(dict.fromkeys(["off", "headers", *variants]))
    found: dict[str, float] = {}
    made: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory)
        without_hooks(copy)
        for variant in variants:
            base = "headers" if variant in tracing.WITH_CONTEXTS else "off"
            alike = "headers" if variant == "headers" else base
            if alike not in made:
                made[alike] = for_each_message(f"{MADE}{alike}", options.messages, HOUSE)
            whole = for_each_message(variant, options.messages, copy if variant == "bare" else HOUSE)
            found[variant] = whole - made[alike]
            ratio = found[base] / found[variant]
            print(f"{variant:<12} {found[variant]:>9,.0f} instructions a message   {ratio:6.3f} of {base}", flush=True)


if __name__ == "__main__":
    main()
