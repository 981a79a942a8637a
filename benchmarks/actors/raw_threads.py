"""Threads by themselves: a `SimpleQueue` and a thread."""

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from benchmarks.actors.measuring import Cases, Figures, Stopwatch, main, memory, resident


def _start(target: Callable[..., None], *args: Any) -> threading.Thread:
    thread = threading.Thread(target=target, args=args, daemon=True)
    thread.start()
    return thread


def tell(n: int) -> Figures:
    messages = queue.SimpleQueue[int]()

    def consume() -> None:
        for _ in range(n):
            messages.get()

    thread = _start(consume)
    watch = Stopwatch()
    for i in range(n):
        messages.put(i)
    thread.join()
    return watch.rate(n)


def ask(n: int) -> Figures:
    questions, answers = queue.SimpleQueue[int | None](), queue.SimpleQueue[int]()

    def serve() -> None:
        while (message := questions.get()) is not None:
            answers.put(message)

    thread = _start(serve)
    watch = Stopwatch()
    for i in range(n):
        questions.put(i)
        answers.get()
    figures = watch.rate(n)
    questions.put(None)
    thread.join()
    return figures


def _child(messages: queue.SimpleQueue[str]) -> None:
    while messages.get():
        pass


def spawn_stop(n: int) -> Figures:
    watch = Stopwatch()
    for _ in range(n):
        messages = queue.SimpleQueue[str]()
        thread = _start(_child, messages)
        messages.put("")
        thread.join()
    return watch.rate(n)


def idle(n: int) -> Figures:
    before = resident()
    running: list[tuple[queue.SimpleQueue[str], threading.Thread]] = []
    try:
        for _ in range(n):
            messages = queue.SimpleQueue[str]()
            running.append((messages, _start(_child, messages)))
    except RuntimeError:
        pass  # The system allows no more threads: measure those that exist.
    time.sleep(0.5)
    figures = memory(len(running), before)
    for messages, _ in running:
        messages.put("")
    for _, thread in running:
        thread.join()
    return figures


CASES: Cases = {
    "tell": (100_000, tell),
    "ask": (10_000, ask),
    "spawn_stop": (3_000, spawn_stop),
    "memory": (2_000, idle),
}

if __name__ == "__main__":
    main("raw threads", CASES)
