"""The embedded broker in one process: how fast it drains, and how long a message takes.

    python -m benchmarks.embedded [--messages 20000] [--rate 50] [--seconds 10]

    drain      messages that are in the file already, a typed handler that does nothing
    latency    a client in the same process sends at a steady rate; sent to started
    ask        one asked after another

The file is in a fresh temporary directory, as durable as the broker makes it by default. Prints one JSON object.
"""

import argparse
import json
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

from actorwork import Actor, Child, Client, Message, Settings, open_client, open_system, receive
from benchmarks.benchkit.cases import percentile

PAD = "x" * 56


@attrs.frozen
class Mark(Message["Marker", float]):
    i: int
    ts: float
    pad: str = PAD


class Marker(Actor):
    """Records when each message began, and wakes the task that waits for the last one."""

    settings = Settings(title="marker")

    def __init__(self, began: list[float], expected: int, done: trio.Event) -> None:
        self.began, self.expected, self.done = began, expected, done

    @receive
    async def mark(self, message: Mark) -> float:
        self.began.append(time.perf_counter())
        if len(self.began) == self.expected:
            self.done.set()
        return message.ts


@asynccontextmanager
async def open_both(url: str, expected: int) -> AsyncGenerator[tuple[Client, list[float], trio.Event]]:
    """Open a system with a `Marker`, and a client of its broker."""
    began: list[float] = []
    done = trio.Event()
    async with AsyncExitStack() as stack:
        system = await stack.enter_async_context(open_system(Child(partial(Marker, began, expected, done)), broker=url))
        client = await stack.enter_async_context(open_client(system.broker))
        yield client, began, done


async def drain(url: str, messages: int) -> dict[str, Any]:
    async with open_client(url) as client:
        ref = client.ref(Marker)
        begin = time.perf_counter()
        for k in range(0, messages, 1000):
            await ref.tell_many([Mark(i, time.time()) for i in range(k, min(k + 1000, messages))])
        batch = messages / (time.perf_counter() - begin)
    cpu = time.process_time()
    async with open_both(url, messages) as (_, began, done):
        with trio.fail_after(120):
            await done.wait()
    cpu = time.process_time() - cpu
    return {
        "batch_rate": round(batch),
        "drain_rate": round(messages / (began[-1] - began[0])),
        "drain_cpu_s_per_1000": round(cpu / messages * 1000, 4),
    }


async def latency(url: str, rate: float, seconds: float) -> dict[str, Any]:
    expected = int(rate * seconds)
    async with open_both(url, expected) as (client, began, done):
        ref = client.ref(Marker)
        sent: list[float] = []
        start = trio.current_time()
        for i in range(expected):
            await trio.sleep_until(start + i / rate)
            sent.append(time.perf_counter())
            await ref.tell(Mark(i, time.time()))
        with trio.fail_after(10):
            await done.wait()
    ms = [(started - at) * 1e3 for at, started in zip(sent, began, strict=True)]
    return {f"latency_{name}_ms": percentile(ms, q) for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}


async def ask(url: str, times: int) -> dict[str, Any]:
    ms: list[float] = []
    async with open_both(url, times) as (client, _, _):
        ref = client.ref(Marker)
        for i in range(times):
            begin = time.perf_counter()
            await ref.ask(Mark(i, 0.0))
            ms.append((time.perf_counter() - begin) * 1e3)
    return {f"ask_{name}_ms": percentile(ms, q) for name, q in (("p50", 0.5), ("p99", 0.99))}


async def measure(directory: Path, args: argparse.Namespace) -> dict[str, Any]:
    def url(name: str) -> str:
        return f"sqlite:///{directory / name}"

    figures = await drain(url("drain"), args.messages)
    figures |= await latency(url("latency"), args.rate, args.seconds)
    return figures | await ask(url("ask"), 300)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--messages", type=int, default=20000)
    parser.add_argument("--rate", type=float, default=50)
    parser.add_argument("--seconds", type=float, default=10)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-embedded-") as directory:
        print(json.dumps(trio.run(partial(measure, Path(directory), args))))


if __name__ == "__main__":
    main()
