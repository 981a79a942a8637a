# pyright: basic, reportMissingImports=false, reportMissingTypeStubs=false
"""pykka: an actor is a thread with a queue."""

import os
import sys
import time
from typing import Any

import pykka

from benchmarks.actors.measuring import Cases, Figures, Stopwatch, main, memory, resident


class Counter(pykka.ThreadingActor):
    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def on_receive(self, message: Any) -> int | None:
        if message == "get":
            return self.n
        self.n += 1
        return None


def tell(n: int) -> Figures:
    ref = Counter.start()
    watch = Stopwatch()
    for i in range(n):
        ref.tell(i)
    assert ref.ask("get") == n
    figures = watch.rate(n)
    ref.stop()
    return figures


def ask(n: int, timeout: float | None = None) -> Figures:
    ref = Counter.start()
    watch = Stopwatch()
    for _ in range(n):
        ref.ask("get", timeout=timeout)
    figures = watch.rate(n)
    ref.stop()
    return figures


def spawn_stop(n: int) -> Figures:
    watch = Stopwatch()
    for _ in range(n):
        Counter.start().stop()
    return watch.rate(n)


def idle(n: int) -> Figures:
    before = resident()
    running: list[Any] = []
    try:
        for _ in range(n):
            running.append(Counter.start())  # noqa: PERF401 - those that started before one that did not count too
    except RuntimeError:
        pass
    time.sleep(0.5)
    return memory(len(running), before)


CASES: Cases = {
    "tell": (50_000, tell),
    "ask": (5_000, ask),
    "ask_timeout": (5_000, lambda n: ask(n, 5.0)),
    "spawn_stop": (2_000, spawn_stop),
    "memory": (2_000, idle),
}

if __name__ == "__main__":
    main("pykka", CASES)
    sys.stdout.flush()
    os._exit(0)  # The threads of idle actors would be waited for.
