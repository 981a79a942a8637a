"""Variants of one drain, beside each other: each run in a process of its own, and on a server of its own.

Variants take turns, so that other load affects them alike. The one named `off` is what the others are compared with.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeAlias

import trio

from actorwork.message import Envelope
from actorwork.testing.redis_server import open_redis_server

Figures: TypeAlias = dict[str, float]
Drain: TypeAlias = Callable[[str, str, int], Coroutine[Any, Any, Figures]]
"""Drains a server, by its URL, as a variant does it: a number of messages. Returns figures by name."""


def options_of(description: str, variants: Sequence[str], drain: Drain) -> argparse.Namespace | None:
    """Read the command line: `messages`, `repeat`, and `variants`, a list that begins with `off`.

    Returns None in a process of `run_drain`, whose work is done then.
    """
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--messages", type=int, default=40_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--variants", default=",".join(variants))
    parser.add_argument("--worker", nargs=3, metavar=("VARIANT", "URL", "MESSAGES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        variant, url, messages = options.worker
        print(json.dumps(trio.run(drain, url, variant, int(messages))))
        return None
    options.variants = list(dict.fromkeys(["off", *options.variants.split(",")]))
    return options


def run_drain(module: str, variant: str, publish: Callable[..., Any], messages: list[Envelope]) -> Figures:
    """Publish messages to a new server, drain it in a process that runs `module`, and return the figures."""
    with open_redis_server() as server:
        trio.run(publish, server.url, messages)
        command = [sys.executable, "-m", module, "--worker", variant, server.url, str(len(messages))]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def in_turns(
    options: argparse.Namespace, run: Callable[[str], Figures], *, after_round: Callable[[], object] = lambda: None
) -> dict[str, list[Figures]]:
    """Run each variant once, round after round; return the figures of each."""
    results: dict[str, list[Figures]] = {variant: [] for variant in options.variants}
    for _ in range(options.repeat):
        for variant, figures in results.items():
            figures.append(run(variant))
        after_round()
    return results
