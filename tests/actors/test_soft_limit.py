"""A soft limit ends a block within a handler, and leaves the handler time to keep what it has."""

import math

import attrs
import pytest
import trio
import trio.testing

from actorwork import Actor, Message, NotRunning, Settings, open_client, open_system, receive
from actorwork.testing import open_test_system
from actorwork.testing.memory import MemoryBroker
from actorwork.workflows import chord, step


@attrs.frozen
class Collect(Message["Collector", int]):
    seconds: float


@attrs.frozen
class Join(Message["Collector", list[int]]):
    parts: list[int]


class Collector(Actor):
    settings = Settings(title="collector", soft_timeout=1, execution_timeout=5, concurrency=4)

    @receive
    async def collect(self, message: Collect) -> int:
        got = 0
        with self.context.soft_limit() as scope:
            while got * 0.3 < message.seconds:
                await trio.sleep(0.3)
                got += 1
        self.cut_off = scope.cancelled_caught
        await trio.sleep(1)  # Time is left to keep it.
        return got

    @receive
    async def join(self, message: Join) -> list[int]:
        return message.parts


async def test_a_soft_limit_ends_its_block_and_the_handler_returns_what_it_has(mock_clock: trio.testing.MockClock):
    async with open_test_system(Collector) as system:
        assert await system.client.ref(Collector).ask(Collect(0.9)) == 3
        began = trio.current_time()
        assert await system.client.ref(Collector).ask(Collect(100)) == 3
        assert trio.current_time() - began == pytest.approx(2, abs=0.1)
        assert await system.ref(Collector).ask(Collect(100)) == 3, "a local message has the same limit"


async def test_a_member_that_its_soft_limit_has_cut_off_counts_once(mock_clock: trio.testing.MockClock):
    async with open_test_system(Collector) as system:
        flow = chord([step(Collector, Collect(100)), step(Collector, Collect(0.3))], Collector, Join)
        run = await system.client.start(flow)
        assert await run.result(timeout=30) == [3, 1]
        steps = await run.steps()
        assert [one.status for one in steps] == ["SUCCESS"] * 3


async def test_the_limit_counts_from_the_beginning_of_the_handler(mock_clock: trio.testing.MockClock):
    seen: list[float] = []

    class Late(Actor):
        settings = Settings(title="late", soft_timeout=2)

        @receive
        async def run(self, *, word: str) -> None:
            await trio.sleep(1.5)
            seen.append(self.context.soft_time_left())
            began = trio.current_time()
            with self.context.soft_limit():
                await trio.sleep_forever()
            seen.append(trio.current_time() - began)
            seen.append(self.context.soft_time_left())

    await trio.sleep(1)  # The clock of the test begins at 0, which stands for "not looked at yet".
    async with open_test_system(Late) as system:
        await system.client.ref(Late).ask({"word": "go"})
    assert seen == pytest.approx([0.5, 0.5, 0], abs=0.01)


async def test_without_a_soft_timeout_the_block_has_no_limit(mock_clock: trio.testing.MockClock):
    class Free(Actor):
        settings = Settings(title="free")

        @receive
        async def run(self, *, word: str) -> bool:
            with self.context.soft_limit() as scope:
                await trio.sleep(100)
            return self.context.soft_time_left() == scope.deadline == math.inf

    async with open_test_system(Free) as system:
        assert await system.client.ref(Free).ask({"word": "go"}, timeout=200)


async def test_a_thread_asks_how_much_of_its_soft_limit_is_left():
    class Looping(Actor):
        settings = Settings(title="looping", soft_timeout=0.05, execution_timeout=60)

        @receive
        def run(self, *, word: str) -> str:
            with pytest.raises(NotRunning, match=r"ask context\.soft_time_left"):
                self.context.soft_limit()
            while self.context.soft_time_left() > 0:
                pass
            return word

    broker = MemoryBroker()
    async with open_system(Looping, broker=broker), open_client(broker) as client:
        assert await client.ref(Looping).ask({"word": "done"}) == "done"
