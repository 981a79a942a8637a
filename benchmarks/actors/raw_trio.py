"""Trio by itself: the cost of its own primitives, the floor for any actor on Trio.

tell           a memory channel without a bound, `send_nowait`
tell_waiting   a memory channel of 100, `await send`
ask            a question through one channel, its answer through another one made for it
spawn_stop     a task started with `nursery.start`, told to end, and waited for
restart        a task with a nursery of its own crashes, which is caught, and the next one is started
memory         tasks that wait at channels of their own
"""

import math

import trio
import trio.testing

from benchmarks.actors.measuring import Cases, Figures, Stopwatch, main, memory, resident


async def tell(n: int, size: float = math.inf) -> Figures:
    done = trio.Event()

    async def consume(receiver: trio.MemoryReceiveChannel[int]) -> None:
        count = 0
        async for _ in receiver:
            count += 1
            if count == n:
                done.set()
                return

    async with trio.open_nursery() as nursery:
        sender, receiver = trio.open_memory_channel[int](size)
        nursery.start_soon(consume, receiver)
        await trio.lowlevel.checkpoint()
        watch = Stopwatch()
        if size == math.inf:
            for i in range(n):
                sender.send_nowait(i)
        else:
            for i in range(n):
                await sender.send(i)
        await done.wait()
        return watch.rate(n)


async def ask(n: int) -> Figures:
    async def serve(receiver: trio.MemoryReceiveChannel[tuple[int, trio.MemorySendChannel[int]]]) -> None:
        async for message, reply in receiver:
            reply.send_nowait(message)

    async with trio.open_nursery() as nursery:
        sender, receiver = trio.open_memory_channel[tuple[int, trio.MemorySendChannel[int]]](math.inf)
        nursery.start_soon(serve, receiver)
        watch = Stopwatch()
        for i in range(n):
            to_us, answer = trio.open_memory_channel[int](1)
            sender.send_nowait((i, to_us))
            await answer.receive()
        figures = watch.rate(n)
        nursery.cancel_scope.cancel()
    return figures


async def ask_timeout(n: int) -> Figures:
    async def serve(receiver: trio.MemoryReceiveChannel[tuple[int, trio.MemorySendChannel[int]]]) -> None:
        async for message, reply in receiver:
            reply.send_nowait(message)

    async with trio.open_nursery() as nursery:
        sender, receiver = trio.open_memory_channel[tuple[int, trio.MemorySendChannel[int]]](math.inf)
        nursery.start_soon(serve, receiver)
        watch = Stopwatch()
        for i in range(n):
            to_us, answer = trio.open_memory_channel[int](1)
            with trio.fail_after(5):
                sender.send_nowait((i, to_us))
                await answer.receive()
        figures = watch.rate(n)
        nursery.cancel_scope.cancel()
    return figures


async def spawn_stop(n: int) -> Figures:
    async def child(
        receiver: trio.MemoryReceiveChannel[None], ended: trio.Event, *, task_status: trio.TaskStatus[None]
    ) -> None:
        task_status.started()
        async for _ in receiver:
            break
        ended.set()

    async with trio.open_nursery() as nursery:
        watch = Stopwatch()
        for _ in range(n):
            sender, receiver = trio.open_memory_channel[None](1)
            ended = trio.Event()
            await nursery.start(child, receiver, ended)
            sender.send_nowait(None)
            await ended.wait()
        return watch.rate(n)


class Fallen(Exception):
    pass


async def restart(n: int) -> Figures:
    to_us, exits = trio.open_memory_channel[BaseException](math.inf)

    async def fall(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await trio.lowlevel.checkpoint()
        raise Fallen

    async def child(*, task_status: trio.TaskStatus[None]) -> None:
        try:
            async with trio.open_nursery():
                await fall(task_status=task_status)
        except BaseExceptionGroup as error:
            to_us.send_nowait(error)

    async with trio.open_nursery() as nursery:
        watch = Stopwatch()
        for _ in range(n):
            await nursery.start(child)
            await exits.receive()
        return watch.rate(n)


async def idle(n: int) -> Figures:
    async def child(receiver: trio.MemoryReceiveChannel[None]) -> None:
        async for _ in receiver:
            pass

    before = resident()
    senders: list[trio.MemorySendChannel[None]] = []
    async with trio.open_nursery() as nursery:
        for _ in range(n):
            sender, receiver = trio.open_memory_channel[None](100)
            senders.append(sender)
            nursery.start_soon(child, receiver)
        await trio.testing.wait_all_tasks_blocked()
        figures = memory(n, before)
        nursery.cancel_scope.cancel()
    return figures


CASES: Cases = {
    "tell": (100_000, lambda n: trio.run(tell, n)),
    "tell_waiting": (50_000, lambda n: trio.run(tell, n, 100)),
    "ask": (30_000, lambda n: trio.run(ask, n)),
    "ask_timeout": (30_000, lambda n: trio.run(ask_timeout, n)),
    "spawn_stop": (10_000, lambda n: trio.run(spawn_stop, n)),
    "restart": (10_000, lambda n: trio.run(restart, n)),
    "memory": (10_000, lambda n: trio.run(idle, n)),
}

if __name__ == "__main__":
    main("raw Trio", CASES)
