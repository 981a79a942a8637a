"""The sending side, a process in the peer's own environment, started as `… client PEER_MODULE OPERATION [JSON]`.

    describe   what the peer can do and how it is set
    enqueue    one call awaited after another
    batch      the peer's batch API, a thousand a call
    paced      one every 1/rate seconds, whatever the worker does
    submit     one call awaited after another, each result kept at the broker
    rpc        send one and await its result, one after another
    group      start many together and await all their results
    chord      start many together, and one more job that runs when they have ended

Prints one JSON object on its last line. A peer's `Client` may be sync or async; both are driven here.
"""

import asyncio
import importlib
import inspect
import json
import os
import resource
import sys
import time
from typing import Any

PAD = "x" * 56  # {"i": 12345, "ts": 1234567890.1234567, "pad": "..."} is about 100 bytes of JSON


def payload(i: int) -> dict[str, Any]:
    return {"i": i, "ts": time.time(), "pad": PAD}


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def percentile(values: list[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


async def sleep(seconds: float) -> None:
    """Sleep on whichever loop runs us."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        import trio

        await trio.sleep(seconds)
    else:
        await asyncio.sleep(seconds)


async def maybe(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


class Stopwatch:
    """Wall and CPU time of this process since it was made."""

    def __init__(self) -> None:
        self.cpu, self.wall = cpu(), time.perf_counter()

    def read(self, n: int) -> dict[str, float]:
        wall, used = time.perf_counter() - self.wall, cpu() - self.cpu
        return {"n": n, "s": wall, "rate": n / wall, "cpu_ms_per_1000": used / n * 1e6}


async def op_enqueue(client: Any, *, n: int, task: str = "noop", start: int = 0) -> dict[str, Any]:
    ids = range(start, start + n)
    watch = Stopwatch()
    if inspect.iscoroutinefunction(client.enqueue):
        for i in ids:
            await client.enqueue(task, payload(i))
    else:
        for i in ids:
            client.enqueue(task, payload(i))
    return watch.read(n)


async def op_batch(
    client: Any, *, n: int, task: str = "noop", start: int = 0, skip_single: bool = False
) -> dict[str, Any]:
    ids = range(start, start + n)
    watch = Stopwatch()
    if hasattr(client, "enqueue_many"):
        how = "batch API, 1000 a call"
        for k in range(0, n, 1000):
            await maybe(client.enqueue_many(task, [payload(i) for i in ids[k : k + 1000]]))
    elif inspect.iscoroutinefunction(client.enqueue):
        how = "no batch API: 100 calls in flight"
        await in_flight(client, task, ids)
    else:
        how = "no batch API: one by one"
        if skip_single:  # it would only repeat `enqueue`
            return {"n": n, "rate": None, "how": how}
        for i in ids:
            client.enqueue(task, payload(i))
    return watch.read(n) | {"how": how}


async def in_flight(client: Any, task: str, ids: range) -> None:
    for k in range(0, len(ids), 100):
        await asyncio.gather(*[client.enqueue(task, payload(i)) for i in ids[k : k + 100]])


async def op_in_flight(client: Any, *, n: int, task: str = "noop") -> dict[str, Any]:
    """100 calls in flight, also where there is a batch API; for clients on asyncio's loop only."""
    if not (inspect.iscoroutinefunction(client.enqueue) and is_on_asyncio()):
        return {"n": n, "rate": None}
    watch = Stopwatch()
    await in_flight(client, task, range(n))
    return watch.read(n)


def is_on_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def op_paced(client: Any, *, n: int, rate: float) -> dict[str, Any]:
    begin, late = time.perf_counter(), 0.0
    for i in range(n):
        due = begin + i / rate
        left = due - time.perf_counter()
        if left > 0:
            await sleep(left)
        late = max(late, time.perf_counter() - due)
        await maybe(client.enqueue("noop", payload(i)))
    return {"n": n, "max_late_ms": late * 1e3}


async def op_rpc(client: Any, *, n: int) -> dict[str, Any]:
    if not hasattr(client, "rpc"):
        return {"skip": "no result backend"}
    took: list[float] = []
    for i in range(n + 10):
        begin = time.perf_counter()
        reply = await maybe(client.rpc(payload(i)))  # bounded by the peers themselves, at 30 s
        ms = (time.perf_counter() - begin) * 1e3
        if reply != i:
            raise SystemExit(f"wrong result {reply!r} for job {i}")
        if i >= 10:
            took.append(ms)
    return {"n": n, "p50_ms": percentile(took, 0.5), "p99_ms": percentile(took, 0.99), "mean_ms": sum(took) / len(took)}


async def op_submit(client: Any, *, n: int) -> dict[str, Any]:
    watch = Stopwatch()
    for i in range(n):
        await maybe(client.submit(payload(i)))
    return watch.read(n)


async def op_start_group(client: Any, *, n: int) -> dict[str, Any]:
    payloads = [payload(i) for i in range(n)]
    watch = Stopwatch()
    await maybe(client.start_group(payloads))
    return watch.read(n)


async def op_group(client: Any, *, n: int) -> dict[str, Any]:
    payloads = [payload(i) for i in range(n)]
    watch = Stopwatch()
    results = await maybe(client.group(payloads))
    figures = watch.read(n)
    if list(results) != list(range(n)):
        raise SystemExit(f"wrong results of a group of {n}: {str(results)[:200]}")
    return figures


async def op_chord(client: Any, *, n: int, body: int) -> dict[str, Any]:
    payloads = [payload(i) for i in range(n)]
    watch = Stopwatch()
    await maybe(client.chord(payloads, payload(body)))
    return watch.read(n)


OPERATIONS = {
    "enqueue": op_enqueue,
    "batch": op_batch,
    "in_flight": op_in_flight,
    "paced": op_paced,
    "submit": op_submit,
    "rpc": op_rpc,
    "start_group": op_start_group,
    "group": op_group,
    "chord": op_chord,
}


async def drive(module: Any, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
    client = module.Client()
    await maybe(client.open())
    try:
        return await OPERATIONS[operation](client, **arguments)
    finally:
        await maybe(client.close())


def main() -> None:
    name, operation = sys.argv[1], sys.argv[2]
    arguments: dict[str, Any] = json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}
    module: Any = importlib.import_module("benchmarks.peers." + name)
    if operation == "describe":
        print(json.dumps(module.describe()), flush=True)
        return

    async def start() -> dict[str, Any]:
        return await drive(module, operation, arguments)

    figures = module.run_client(start) if hasattr(module, "run_client") else asyncio.run(start())
    print(json.dumps(figures), flush=True)
    os._exit(0)  # some peers leave threads behind that would keep us here


if __name__ == "__main__":
    main()
