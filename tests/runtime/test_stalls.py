"""A blocked loop is noticed from outside, with the culprit's stack; one that is idle or busy is left alone.

In real time: a thread has no other.
"""

import threading
import time
from functools import partial

import pytest
import trio

from actorwork import Actor, Settings, events, open_system, receive
from actorwork.events import LoopStalled
from actorwork.runtime import stalls
from actorwork.runtime.stalls import watch_stalls
from actorwork.stacks import stack_of_frame
from actorwork.testing.memory import MemoryBroker


class Told:
    """What was reported, by the loop and by the thread."""

    def __init__(self) -> None:
        self.events: list[LoopStalled] = []
        self.in_thread: list[LoopStalled] = []
        self.was_told = trio.Event()

    def __call__(self, event: LoopStalled) -> None:
        self.events.append(event)
        self.was_told.set()

    async def wait(self) -> LoopStalled:
        with trio.fail_after(15):
            await self.was_told.wait()
        return self.events[0]


def ignore(event: LoopStalled) -> None:
    raise AssertionError(event)


def block_for(seconds: float) -> None:
    time.sleep(seconds)


def block_until(told: list[LoopStalled]) -> None:
    until = time.monotonic() + 15
    while not told and time.monotonic() < until:
        time.sleep(0.01)


async def test_what_blocks_the_loop_is_named():
    class Blocker(Actor):
        settings = Settings(title="blocker")

        @receive
        async def block(self, *, seconds: float) -> None:
            block_for(seconds)

    seen: list[events.Event] = []
    async with open_system(Blocker, broker=MemoryBroker(), emit=seen.append, loop_stall=0.1) as system:
        await system.ref(Blocker).ask({"seconds": 0.5}, timeout=10)
        with trio.fail_after(15):
            while not any(isinstance(event, LoopStalled) for event in seen):  # noqa: ASYNC110 - the loop's own report
                await trio.sleep(0.01)
    stall = next(event for event in seen if isinstance(event, LoopStalled))
    assert not stall.lasts
    assert stall.seconds > 0.1
    lines = stall.stack.splitlines()
    assert lines[-1].endswith("in block_for")
    assert any(line.endswith(" in block") for line in lines)
    assert "trio/_core/_run.py" not in stall.stack


async def test_a_loop_that_does_not_go_on_is_reported_from_the_thread(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stalls, "REPORT_EVERY", 0.1)
    told = Told()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(watch_stalls, 0.1, told, told.in_thread.append))
        await trio.sleep(0.01)
        block_until(told.in_thread)
        stall = await told.wait()
        nursery.cancel_scope.cancel()
    assert told.in_thread
    assert told.in_thread[0].lasts
    assert told.in_thread[0].stack.splitlines()[-1].endswith("in block_until")
    assert stall.seconds >= told.in_thread[0].seconds


async def test_an_idle_loop_is_left_asleep():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_stalls, 0.05, ignore, ignore)
        await trio.sleep(0.02)
        turns = Turns()
        trio.lowlevel.add_instrument(turns)
        await trio.sleep(0.5)
        trio.lowlevel.remove_instrument(turns)
        nursery.cancel_scope.cancel()
    assert turns.count <= 2


class Turns(trio.abc.Instrument):
    def __init__(self) -> None:
        self.count = 0

    def after_io_wait(self, timeout: float) -> None:
        self.count += 1


async def test_a_loop_that_turns_is_no_stall_however_busy():
    told = Told()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_stalls, 1.0, told, told.in_thread.append)
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            block_for(0.005)
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert not told.events
    assert not told.in_thread


async def test_nothing_is_left_behind():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_stalls, 0.05, ignore, ignore)
        await trio.sleep(0.02)
        assert any(thread.name == "actorwork stalls" for thread in threading.enumerate())
        nursery.cancel_scope.cancel()
    with trio.fail_after(15):
        while any(thread.name == "actorwork stalls" for thread in threading.enumerate()):  # noqa: ASYNC110 - a thread sets no event of Trio's
            await trio.sleep(0.01)


async def test_it_can_be_switched_off():
    async with open_system(Idle, broker=MemoryBroker(), loop_stall=float("inf")):
        assert not any(thread.name == "actorwork stalls" for thread in threading.enumerate())


class Idle(Actor):
    pass


def test_the_stack_of_a_thread_that_has_ended_is_empty():
    assert not stack_of_frame(None)
