"""actorwork, with everything on: watched deadlines, events sent to the log, a mailbox with all queues, a broker.

    tell            `tell_nowait` until the last one is handled: 100,000 in a mailbox
    tell_waiting    `await ref.tell(…)`, through a mailbox of 1,000
    ask             one asked after another
    ask_timeout     the same with a timeout
    spawn_stop      a child of a dynamic supervisor started and terminated, one after another
    restart         a mailbox full of messages that crash the actor: one restart after another
    restart_seen    a crash that the caller of `ask` gets, and the next incarnation's reply to the next `ask`
    restart_logged  as restart, but every crash is logged with its traceback
    life            many actors start, answer one `ask` each, and stop: seconds for each phase
    memory          many supervised actors that wait for messages: the growth of the process, per actor
    traced          the same by tracemalloc, by place of allocation

Logging is off while measuring, as in the Erlang benchmark: every event goes to the sink, which checks the logger's
level. `restart_logged` uses the default level, and formats three records for each crash.
"""

import logging
import tracemalloc
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio
import trio.testing

from actorwork import Actor, DynamicSupervisor, Intensity, MailboxSettings, Message, Settings, open_system, receive
from actorwork.runtime.system import System
from actorwork.telemetry.formatting import TextFormatter
from actorwork.telemetry.logs import LogSink
from benchmarks.actors.measuring import Cases, Figures, Stopwatch, main, memory, resident

NO_LIMIT = Intensity(restarts=10**9, period=1)


@attrs.frozen
class Ping(Message["Counter", None]):
    i: int


@attrs.frozen
class Get(Message["Counter", int]):
    pass


@attrs.frozen
class Fall(Message["Counter", None]):
    pass


class Fallen(Exception):
    pass


class Counter(Actor):
    settings = Settings(title="counter", mailbox=MailboxSettings(capacity=1_000_000))

    def __init__(self) -> None:
        self.n = 0

    @receive
    async def count(self, message: Ping) -> None:
        self.n += 1

    @receive
    async def get(self, message: Get) -> int:
        return self.n

    @receive
    async def fall(self, message: Fall) -> None:
        raise Fallen


class SmallCounter(Counter):
    """Has the mailbox that an actor has by default."""

    settings = Settings(title="small counter")


@asynccontextmanager
async def open_bench(tree: object, handler: logging.Handler | None = None) -> AsyncGenerator[System]:
    logger = logging.getLogger("actorwork")
    logger.propagate = False
    logger.setLevel(logging.CRITICAL if handler is None else logging.WARNING)
    if handler is not None:
        logger.addHandler(handler)
    async with open_system(tree, broker="sqlite://", intensity=NO_LIMIT, emit=LogSink("bench")) as system:
        yield system


async def tell(n: int) -> Figures:
    async with open_bench(Counter) as system:
        ref = system.ref(Counter)
        messages = [Ping(i) for i in range(n)]
        watch = Stopwatch()
        for message in messages:
            ref.tell_nowait(message)
        assert await ref.ask(Get()) == n
        return watch.rate(n)


async def tell_waiting(n: int) -> Figures:
    async with open_bench(SmallCounter) as system:
        ref = system.ref(SmallCounter)
        messages = [Ping(i) for i in range(n)]
        watch = Stopwatch()
        for message in messages:
            await ref.tell(message)
        assert await ref.ask(Get()) == n
        return watch.rate(n)


async def ask(n: int, timeout: float | None = None) -> Figures:
    async with open_bench(Counter) as system:
        ref = system.ref(Counter)
        message = Get()
        watch = Stopwatch()
        for _ in range(n):
            await ref.ask(message, timeout=timeout)
        return watch.rate(n)


async def spawn_stop(n: int) -> Figures:
    async with open_bench([DynamicSupervisor(Counter, name="counters")]) as system:
        supervisor = system.supervisor("counters")
        watch = Stopwatch()
        for _ in range(n):
            ref = await supervisor.start_child()
            await supervisor.terminate_child(ref)
        return watch.rate(n)


async def restart(n: int, handler: logging.Handler | None = None) -> Figures:
    async with open_bench(Counter, handler) as system:
        ref = system.ref(Counter)
        for _ in range(n):
            ref.tell_nowait(Fall())
        watch = Stopwatch()
        assert await ref.ask(Get()) == 0
        return watch.rate(n)


async def restart_logged(n: int) -> Figures:
    with Path("/dev/null").open("w") as nowhere:  # noqa: ASYNC230 - there is no disk behind it
        handler = logging.StreamHandler(nowhere)
        handler.setFormatter(TextFormatter())
        return await restart(n, handler)


async def restart_seen(n: int) -> Figures:
    async with open_bench(Counter) as system:
        ref = system.ref(Counter)
        watch = Stopwatch()
        for _ in range(n):
            ref.tell_nowait(Fall())
            assert await ref.ask(Get()) == 0
        return watch.rate(n)


async def life(n: int) -> Figures:
    watch = Stopwatch()
    async with open_bench([DynamicSupervisor(Counter, name="counters")]) as system:
        supervisor = system.supervisor("counters")
        opened = watch.seconds
        refs = [await supervisor.start_child() for _ in range(n)]
        started = watch.seconds
        for ref in refs:
            assert await ref.ask(Get()) == 0
        asked = watch.seconds
    ended = watch.seconds
    return watch.rate(
        n,
        start_s=round(started - opened, 3),
        ask_s=round(asked - started, 3),
        stop_s=round(ended - asked, 3),
    )


async def idle(n: int) -> Figures:
    async with open_bench([DynamicSupervisor(Counter, name="counters")]) as system:
        supervisor = system.supervisor("counters")
        await supervisor.start_child()
        await trio.testing.wait_all_tasks_blocked()
        before = resident()
        watch = Stopwatch()
        for _ in range(n):
            await supervisor.start_child()
        await trio.testing.wait_all_tasks_blocked()
        return memory(n, before, seconds=round(watch.seconds, 3))


async def traced(n: int) -> Figures:
    async with open_bench([DynamicSupervisor(Counter, name="counters")]) as system:
        supervisor = system.supervisor("counters")
        await supervisor.start_child()
        await trio.testing.wait_all_tasks_blocked()
        tracemalloc.start()
        resident()  # collects what is garbage
        before = tracemalloc.take_snapshot()
        for _ in range(n):
            await supervisor.start_child()
        await trio.testing.wait_all_tasks_blocked()
        resident()
        after = tracemalloc.take_snapshot()
    grown = after.compare_to(before, "lineno")
    where: dict[str, Any] = {}
    for entry in grown[:24]:
        frame = entry.traceback[0]
        where[f"{'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno}"] = round(entry.size_diff / n, 1)
    return {"n": n, "bytes_each": round(sum(entry.size_diff for entry in grown) / n, 1), "where": where}


CASES: Cases = {
    "tell": (100_000, lambda n: trio.run(tell, n)),
    "tell_waiting": (50_000, lambda n: trio.run(tell_waiting, n)),
    "ask": (30_000, lambda n: trio.run(ask, n)),
    "ask_timeout": (30_000, lambda n: trio.run(ask, n, 5.0)),
    "spawn_stop": (10_000, lambda n: trio.run(spawn_stop, n)),
    "restart": (10_000, lambda n: trio.run(restart, n)),
    "restart_seen": (10_000, lambda n: trio.run(restart_seen, n)),
    "restart_logged": (3_000, lambda n: trio.run(restart_logged, n)),
    "life": (10_000, lambda n: trio.run(life, n)),
    "memory": (10_000, lambda n: trio.run(idle, n)),
    "traced": (2_000, lambda n: trio.run(traced, n)),
}

if __name__ == "__main__":
    main("actorwork", CASES)
