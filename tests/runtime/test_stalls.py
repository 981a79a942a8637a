"""A blocked loop is noticed from outside, with the culprit's stack; one that is idle or busy is left alone.

In real time: a thread has no other.
"""

import threading
import time
from functools import partial
from types import FrameType

import pytest
import trio

from actorwork import Actor, Settings, events, open_system, receive
from actorwork.events import LoopStalled
from actorwork.runtime import stalls
from actorwork.runtime.stalls import waits_for_io, watch_stalls
from actorwork.stacks import stack_of_frame
from actorwork.testing.memory import MemoryBroker
from tests.patience import PATIENCE


class Told:
    """What was reported, by the loop and by the thread.

    A process that is stopped for longer than the threshold in the middle of anything may be reported, too: the tests
    look for the stalls that they make.
    """

    def __init__(self) -> None:
        self.events: list[LoopStalled] = []
        self.in_thread: list[LoopStalled] = []
        self.was_told_in_thread = threading.Lock()
        self.was_told_in_thread.acquire()

    def tell(self, event: LoopStalled) -> None:
        self.events.append(event)

    def tell_in_thread(self, event: LoopStalled) -> None:
        if event.stack.endswith(" in block_until_told"):
            self.in_thread.append(event)
            if self.was_told_in_thread.locked():
                self.was_told_in_thread.release()


def block_for(seconds: float) -> None:
    time.sleep(seconds)


def block_until_told(told: Told) -> None:
    lock = told.was_told_in_thread
    lock.acquire(timeout=PATIENCE)  # It has no frame: this function is the innermost one until it returns.


async def test_what_blocks_the_loop_is_named():
    class Blocker(Actor):
        settings = Settings(title="blocker")

        @receive
        async def block(self, *, seconds: float) -> None:
            block_for(seconds)

    seen: list[events.Event] = []

    def noticed() -> list[LoopStalled]:
        stalls = [event for event in seen if isinstance(event, LoopStalled)]
        return [stall for stall in stalls if stall.stack.endswith("in block_for")]

    async with open_system(Blocker, broker=MemoryBroker(), emit=seen.append, loop_stall=0.1) as system:
        with trio.fail_after(PATIENCE):
            while not noticed():  # The thread that watches may be late: then the next one is noticed.
                await system.ref(Blocker).ask({"seconds": 0.3}, timeout=PATIENCE)
                await trio.sleep(0.01)
    stall = noticed()[0]
    assert not stall.lasts
    assert stall.seconds > 0.09
    lines = stall.stack.splitlines()
    assert any(line.endswith(" in block") for line in lines)
    assert "trio/_core/_run.py" not in stall.stack


async def test_a_loop_that_does_not_go_on_is_reported_from_the_thread(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stalls, "REPORT_EVERY", 0.1)
    told = Told()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(watch_stalls, 0.1, told.tell, told.tell_in_thread))
        await trio.sleep(0.01)
        block_until_told(told)
        lasting = told.in_thread[0]
        with trio.fail_after(PATIENCE):
            while not any(stall.seconds >= lasting.seconds for stall in told.events):  # noqa: ASYNC110 - the loop's report
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert lasting.lasts
    assert not told.events[-1].lasts


async def test_an_idle_loop_is_left_asleep(monkeypatch: pytest.MonkeyPatch):
    samples: list[bool] = []
    is_over = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def sample(frame: FrameType) -> bool:
        samples.append(waits_for_io(frame))
        if samples.count(True) == 6:
            token.run_sync_soon(is_over.set)
        return samples[-1]

    monkeypatch.setattr(stalls, "waits_for_io", sample)
    told = Told()
    turns = Turns()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_stalls, 0.05, told.tell, told.tell_in_thread)
        trio.lowlevel.add_instrument(turns)
        with trio.fail_after(PATIENCE):
            await is_over.wait()
        trio.lowlevel.remove_instrument(turns)
        nursery.cancel_scope.cancel()
    # One as it goes to sleep, one for its end, and those of the samples that found it at work.
    assert turns.count <= 3 + 2 * samples.count(False)


class Turns(trio.abc.Instrument):
    def __init__(self) -> None:
        self.count = 0

    def after_io_wait(self, timeout: float) -> None:
        self.count += 1


async def test_a_loop_that_turns_is_no_stall_however_busy():
    told = Told()
    threshold, longest = 0.3, 0.0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_stalls, threshold, told.tell, told.tell_in_thread)
        now = begun = time.monotonic()
        while now < begun + 4 * threshold:
            block_for(0.005)
            await trio.lowlevel.checkpoint()
            before, now = now, time.monotonic()
            longest = max(longest, now - before)
        nursery.cancel_scope.cancel()
    # An answer takes two turns at most. A machine that let the loop stand still has made a stall.
    assert longest > threshold / 2 or not told.events


async def test_nothing_is_left_behind():
    before = watching()  # A fixture of other tests may host a system until the worker ends.
    async with trio.open_nursery() as nursery:
        told = Told()
        nursery.start_soon(watch_stalls, 0.05, told.tell, told.tell_in_thread)
        await trio.sleep(0.02)
        assert watching() - before
        nursery.cancel_scope.cancel()
    with trio.fail_after(PATIENCE):
        while watching() - before:  # noqa: ASYNC110 - a thread sets no event of Trio's
            await trio.sleep(0.01)


async def test_it_can_be_switched_off():
    before = watching()  # That of another test may just end.
    async with open_system(Idle, broker=MemoryBroker(), loop_stall=float("inf")):
        assert watching() <= before


def watching() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "actorwork stalls"}


class Idle(Actor):
    pass


def test_the_stack_of_a_thread_that_has_ended_is_empty():
    assert not stack_of_frame(None)
