"""Handlers and hooks on asyncio: on a loop of their actor's, with everything that handlers on Trio have."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import attrs
import pytest
import trio
import trio.lowlevel
import trio.testing

from actorwork import (
    Actor,
    Delivery,
    Fail,
    MessageFailed,
    NotRunning,
    Retry,
    Settings,
    SettingsError,
    actor,
    current_context,
    receive,
    timeout,
)
from actorwork.actors.bridge import AsyncioLoop
from actorwork.events import ActorTrouble
from actorwork.testing import TestSystem, open_test_system
from actorwork.workflows import step


class Pool:
    """What a library of asyncio's offers: it belongs to the loop on which it was opened."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.loop = asyncio.get_running_loop()
        log.append("opened")

    async def fetch(self, number: int) -> int:
        assert asyncio.get_running_loop() is self.loop
        await asyncio.sleep(0)
        return number * number

    async def close(self) -> None:
        assert asyncio.get_running_loop() is self.loop
        await asyncio.sleep(0)
        self.log.append("closed")


@asynccontextmanager
async def open_pool(log: list[str]) -> AsyncGenerator[Pool]:
    pool = Pool(log)
    yield pool
    await pool.close()


class Squares(Actor):
    settings = Settings(title="squares", loop="asyncio", concurrency=20)
    log: list[str]

    async def startup(self) -> None:
        self.entered = await self.context.enter(open_pool(self.log))
        self.own = Pool(self.log)

    async def shutdown(self) -> None:
        await self.own.close()
        self.log.append("shut down")

    @receive
    async def square(self, *, number: int) -> list[int]:
        return [await self.entered.fetch(number), await self.own.fetch(number)]


@actor(title="doubles")
async def double(number: int) -> int:
    return 2 * number


async def test_hooks_and_handlers_share_a_loop_and_what_is_opened_there(mock_clock: trio.testing.MockClock):
    Squares.log = []
    async with open_test_system(Squares) as system:
        assert Squares.log == ["opened", "opened"]
        assert await system.client.ref(Squares).ask({"number": 3}) == [9, 9]
        assert await system.ref(Squares).ask({"number": 4}) == [16, 16]
        replies: list[Any] = []

        async def ask(number: int) -> None:
            replies.append(await system.client.ref(Squares).ask({"number": number}))

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(ask, number)
        assert sorted(replies) == [[number**2] * 2 for number in range(20)]
    assert Squares.log == ["opened", "opened", "closed", "shut down", "closed"]


async def asked(system: TestSystem, message: object) -> str:
    """Return what a message fails with."""
    with pytest.raises(MessageFailed) as caught:
        await system.client.ref("worker").ask(message)
    return str(caught.value)


async def test_errors_and_verdicts_are_as_on_trio(mock_clock: trio.testing.MockClock):
    @actor(title="worker", loop="asyncio")
    async def work(how: str) -> int:
        await asyncio.sleep(0)
        match how:
            case "error":
                raise ValueError("broken")
            case "fail":
                raise Fail("given up")
            case "cancel":
                raise asyncio.CancelledError
            case "group":
                async with asyncio.TaskGroup() as group:
                    group.create_task(work("error"))
            case _:
                if current_context().delivery.attempt == 1:
                    raise Retry(60)
        return current_context().delivery.attempt

    async with open_test_system(work) as system:
        assert "ValueError: broken" in await asked(system, {"how": "error"})
        assert "Fail: given up" in await asked(system, {"how": "fail"})
        assert "ValueError: broken" in await asked(system, {"how": "group"})
        assert "cancelled on the asyncio loop by its own code" in await asked(system, {"how": "cancel"})
        assert await system.client.ref(work).ask(work.message("retry"), timeout=100) == 2


async def test_past_its_time_a_handler_is_cancelled_and_cleans_up():
    begun: list[float] = []
    cleaned: list[float] = []

    @actor(title="worker", loop="asyncio", execution_timeout=0.1)
    async def work(seconds: float) -> None:
        begun.append(seconds)
        try:
            await asyncio.sleep(seconds)
        finally:
            await asyncio.sleep(0)
            cleaned.append(seconds)

    async with open_test_system(work) as system:
        assert "ExecutionTimeout" in await asked(system, {"seconds": 60})
    assert cleaned == begun  # On a machine that is busy for so long, it is cancelled before its first step.


async def test_the_end_of_a_system_cancels_handlers_and_their_calls_on_trio():
    ended: list[str] = []
    begun = {"trio": trio.Event(), "asyncio": trio.Event()}

    @actor(title="worker", loop="asyncio", concurrency=2)
    async def work(where: str) -> None:
        async def wait_on_trio() -> None:
            begun["trio"].set()
            try:
                await trio.sleep_forever()
            finally:
                ended.append("on trio")

        try:
            if where == "trio":
                await current_context().on_trio(wait_on_trio)
            await current_context().on_trio(begun["asyncio"].set)
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("on asyncio")
            raise

    async with open_test_system(work, grace=0) as system:
        for where, event in begun.items():
            await system.client.tell(work, where)
            await event.wait()
    assert sorted(ended) == ["on asyncio", "on asyncio", "on trio"]


async def test_a_call_that_is_cancelled_before_its_first_step_ends():
    loop = AsyncioLoop("worker")
    for _ in range(20):  # The other thread may be faster now and then, and its first step is done.
        with trio.CancelScope() as scope:
            scope.cancel()
            await loop.run(asyncio.sleep, 60)
        assert scope.cancelled_caught
    assert await loop.aclose(20)


tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


async def test_context_variables_come_along_and_stay(mock_clock: trio.testing.MockClock):
    async def for_a_tenant(delivery: Delivery, proceed: Any) -> Any:
        tenant.set(delivery.id)
        return await proceed()

    @actor(title="worker", loop="asyncio", middleware=[for_a_tenant])
    async def work() -> list[str]:
        before = tenant.get()
        tenant.set("changed")
        return [before, current_context().delivery.id]

    async with open_test_system(work) as system:
        for name in ("one", "two"):
            assert await system.client.ref(work).ask(work.message(), id=name) == [name, name]
    assert tenant.get() == "nobody"


async def test_what_the_context_offers_works_on_asyncio(mock_clock: trio.testing.MockClock):
    refs: list[Any] = []

    @actor(title="worker", loop="asyncio", soft_timeout=100)
    async def work() -> list[object]:
        context = current_context()
        context.publish(double, double.message(1))
        assert context.soft_time_left() == 100
        assert await context.on_asyncio(asyncio.sleep, 0, "at once") == "at once"
        assert await context.on_trio(len, "abc") == 3
        with pytest.raises(ZeroDivisionError):
            await context.on_trio(divmod, 1, 0)
        hits = context.shared("hits", int, default=0)
        await context.on_trio(hits.set, 5)
        client = context.client
        receipt = await client.submit(double, 5)
        run = await client.start(step(double, 6))
        return [
            *await asyncio.gather(*(client.call(double, number) for number in (2, 3))),
            await client.ref(double).ask(double.message(4)),
            await receipt.result(),
            await run.result(),
            await context.on_trio(refs[0].ask, double.message(7)),
            await context.on_trio(hits.get),
        ]

    async with open_test_system([work, double]) as system:
        refs.append(system.ref(double))
        assert await system.client.call(work) == [4, 6, 8, 10, 12, 14, 5]
        await system.drain()
        system.assert_sent(double, number=1)


async def test_a_cancelled_wait_for_trio_is_cancelled_there(mock_clock: trio.testing.MockClock):
    @actor(title="worker", loop="asyncio")
    async def work() -> str:
        async def wait() -> None:
            try:
                await trio.sleep_forever()
            finally:
                ended.append("on trio")

        ended: list[str] = []
        waiting = asyncio.create_task(current_context().on_trio(wait))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return ended[0]

    async with open_test_system(work) as system:
        assert await system.client.call(work) == "on trio"


@attrs.frozen
class Row:
    number: int


@attrs.frozen
class Where:
    """Asks in which threads a handler and its call on asyncio run."""


async def test_handlers_of_batches_and_limits_of_handlers_work_on_asyncio(mock_clock: trio.testing.MockClock):
    class Both(Actor):
        settings = Settings(title="worker")

        @receive(batch=2, within=0.1, loop="asyncio")
        async def together(self, batch: list[Row]) -> list[int]:
            await asyncio.sleep(0)
            return [row.number for row in batch]

        @receive(loop="asyncio")
        @timeout(0.02)
        async def slow(self, *, seconds: float) -> None:
            await asyncio.sleep(seconds)

        @receive
        async def here(self, message: Where) -> list[int]:
            await trio.lowlevel.checkpoint()
            return [threading.get_ident(), await self.context.on_asyncio(threading_of)]

    async def threading_of() -> int:
        await asyncio.sleep(0)
        return threading.get_ident()

    async with open_test_system(Both) as system:
        worker = system.client.ref(Both)
        rows: list[int] = []

        async def ask(number: int) -> None:
            rows.append(await worker.ask(Row(number)))

        async with trio.open_nursery() as nursery:
            for number in (1, 2, 3):
                nursery.start_soon(ask, number)
        assert sorted(rows) == [1, 2, 3]
        assert "ran past its timeout of 0.02 s" in await asked(system, {"seconds": 60})
        assert await worker.ask({"seconds": 0}) is None
        ours, theirs = await worker.ask(Where())
        assert ours == threading.get_ident() != theirs


async def test_a_handler_that_blocks_its_loop_holds_up_nobody_else():
    go_on = threading.Event()

    @actor(title="blocker", loop="asyncio")
    async def block() -> bool:
        return go_on.wait(20)

    async with open_test_system([block, double]) as system:
        receipt = await system.client.submit(block)
        assert await system.client.call(double, 2) == 4
        go_on.set()
        assert await receipt.result()


async def test_tasks_left_on_the_loop_end_with_the_incarnation():
    class Leaving(Actor):
        settings = Settings(title="worker", loop="asyncio")
        log: list[str]

        @receive
        async def leave(self, message: str) -> None:
            if message == "crash":
                raise ValueError("crashed")
            self.left = asyncio.create_task(self.stay())
            await asyncio.sleep(0)

        async def stay(self) -> None:
            try:
                await asyncio.sleep(60)
            finally:
                self.log.append("ended")
                with pytest.raises(NotRunning, match="has ended"):
                    await self.context.on_trio(trio.sleep, 0)
                self.log.append("refused")

    Leaving.log = []
    async with open_test_system(Leaving) as system:
        leaving = system.ref(Leaving)
        await leaving.ask("leave")
        await leaving.tell("crash")
        await leaving.ask("leave")  # on a fresh loop
        assert Leaving.log == ["ended", "refused"]
        assert not [one for one in system.of(ActorTrouble) if one.doing == "asyncio"]
    assert Leaving.log == ["ended", "refused"] * 2


async def test_virtual_time_stands_still_while_a_handler_is_on_asyncio(mock_clock: trio.testing.MockClock):
    @actor(title="worker", loop="asyncio", execution_timeout=0.1)
    async def work() -> str:
        await asyncio.to_thread(time.sleep, 0.02)
        return "in time"

    async with open_test_system(work) as system:
        began = trio.current_time()
        assert await system.client.call(work) == "in time"
        assert trio.current_time() == began


async def test_a_call_on_the_wrong_loop_says_what_to_do(mock_clock: trio.testing.MockClock):
    class Wrong(Actor):
        settings = Settings(title="worker")

        @receive
        async def on_trio(self, *, how: str) -> None:
            if how == "future":
                loop = asyncio.new_event_loop()
                future: asyncio.Future[None] = loop.create_future()
                loop.close()
                await future
            await asyncio.sleep(1)

        @receive(loop="asyncio")
        async def on_asyncio(self, *, how: str) -> None:
            match how:
                case "sleep":
                    await trio.sleep(1)
                case "tell":
                    self.context.ref.tell_nowait({"type": "on_trio", "how": ""})
                case _:
                    self.context.soft_limit()

    async with open_test_system(Wrong) as system:

        async def traceback(kind: str, how: str) -> str:
            await asked(system, {"type": kind, "how": how})
            return system.dead_letters[-1].failure.traceback

        assert "Settings(loop='asyncio')" in await traceback("on_trio", "sleep")
        assert "Settings(loop='asyncio')" in await traceback("on_trio", "future")
        assert "`await self.context.on_trio(function, …)`" in await traceback("on_asyncio", "sleep")
        assert "await context.on_trio(ref.tell_nowait, …)" in await traceback("on_asyncio", "tell")
        assert "asyncio.timeout(self.context.soft_time_left())" in await traceback("on_asyncio", "soft")
    with pytest.raises(SettingsError, match="wants 'trio' or 'asyncio', got 'uvloop'"):
        receive(loop="uvloop")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
