"""asyncio by itself: a queue and a task.

tell           a queue without a bound, `put_nowait`
tell_waiting   a queue of 100, `await put`
ask            a question through a queue, its answer through a future
spawn_stop     a task made, told to end, and waited for
memory         tasks that wait at queues of their own
"""

import asyncio

from benchmarks.actors.measuring import Cases, Figures, Stopwatch, main, memory, resident


async def tell(n: int, size: int = 0) -> Figures:
    queue = asyncio.Queue[int](size)

    async def consume() -> None:
        for _ in range(n):
            await queue.get()

    task = asyncio.create_task(consume())
    await asyncio.sleep(0)
    watch = Stopwatch()
    if size:
        for i in range(n):
            await queue.put(i)
    else:
        for i in range(n):
            queue.put_nowait(i)
    await task
    return watch.rate(n)


async def ask(n: int) -> Figures:
    queue = asyncio.Queue[tuple[int, asyncio.Future[int]]]()
    loop = asyncio.get_running_loop()

    async def serve() -> None:
        while True:
            message, future = await queue.get()
            future.set_result(message)

    task = asyncio.create_task(serve())
    watch = Stopwatch()
    for i in range(n):
        future = loop.create_future()
        queue.put_nowait((i, future))
        await future
    figures = watch.rate(n)
    task.cancel()
    return figures


async def _child(queue: asyncio.Queue[str], started: asyncio.Future[None] | None = None) -> None:
    if started is not None:
        started.set_result(None)
    while await queue.get():
        pass


async def spawn_stop(n: int) -> Figures:
    loop = asyncio.get_running_loop()
    watch = Stopwatch()
    for _ in range(n):
        queue, started = asyncio.Queue[str](), loop.create_future()
        task = asyncio.create_task(_child(queue, started))
        await started
        queue.put_nowait("")
        await task
    return watch.rate(n)


async def idle(n: int) -> Figures:
    before = resident()
    queues = [asyncio.Queue[str]() for _ in range(n)]
    tasks = [asyncio.create_task(_child(queue)) for queue in queues]
    await asyncio.sleep(0.05)
    figures = memory(n, before)
    for task in tasks:
        task.cancel()
    return figures


CASES: Cases = {
    "tell": (100_000, lambda n: asyncio.run(tell(n))),
    "tell_waiting": (50_000, lambda n: asyncio.run(tell(n, 100))),
    "ask": (30_000, lambda n: asyncio.run(ask(n))),
    "spawn_stop": (10_000, lambda n: asyncio.run(spawn_stop(n))),
    "memory": (10_000, lambda n: asyncio.run(idle(n))),
}

if __name__ == "__main__":
    main("raw asyncio", CASES)
