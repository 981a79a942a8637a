"""A supervised system inside of a Trio app: cancellation, errors, and nothing that outlives it."""

import gc
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio

from actorwork import (
    Actor,
    Child,
    DynamicSupervisor,
    Intensity,
    MaxRestartsExceeded,
    Settings,
    Supervisor,
    events,
    open_system,
    receive,
    serve,
)
from tests.doubles import FakeBroker, Kept
from tests.supervision.tree_fixture import LENIENT, Boom, Stage, quiet


async def test_cancelling_the_apps_scope_stops_the_tree_in_order(mock_clock: trio.testing.MockClock):
    """Reverse start order, also where each end takes its time; the scope catches its own cancellation."""
    stage = Stage()
    log: list[str] = []

    class Careful(Actor):
        settings = Settings(title="careful")

        def __init__(self, name: str) -> None:
            self.name = name

        @receive
        async def take(self, message: int) -> None: ...

        async def shutdown(self) -> None:
            await trio.sleep(1)
            log.append(f"{self.name} at {trio.current_time():g}")

    def careful(name: str) -> Child:
        cls: Any = type(name, (Careful,), {"settings": Settings(title=name)})
        return Child(partial(cls, name))

    with trio.move_on_after(10) as scope:
        async with stage.open([careful("a"), Supervisor([careful("b"), careful("c")], id="s"), careful("d")]):
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert log == ["d at 11", "c at 12", "b at 13", "a at 14"]


async def test_one_error_with_its_causes_and_no_groups(mock_clock: trio.testing.MockClock):
    """What escapes the root is one exception; the app's own nursery wraps it once, and nothing else does."""
    stage = Stage()
    zero = Intensity(restarts=0)
    tree = Supervisor(
        [Supervisor([Supervisor([stage.child("x")], id="c", intensity=zero)], id="b", intensity=zero)],
        id="a",
        intensity=zero,
    )
    with pytest.raises(ExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve, tree, broker=FakeBroker()))
            stage.tell("x", lambda: 1 / 0)
    (error,) = caught.value.exceptions
    kinds: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        kinds.append(type(cause).__name__)
        cause = cause.__cause__
    assert kinds == ["MaxRestartsExceeded"] * 3 + ["ZeroDivisionError"]


async def test_the_app_goes_on_after_a_system_that_gave_up(mock_clock: trio.testing.MockClock):
    """Another system in the same app does not notice."""
    one, other = Stage(), Stage()
    async with other.tree([other.child("b")]):
        with pytest.raises(MaxRestartsExceeded):
            async with one.tree([one.child("a")], intensity=Intensity(restarts=0)):
                one.tell("a", lambda: 1 / 0)
                await trio.sleep_forever()
        await other.dies("b")
        assert other.up == ["b"]


class Restless(Actor):
    """Has helper tasks, spawned actors and a timer; counts who lives."""

    settings = Settings(title="restless")
    alive: set[str] = set()  # noqa: RUF012 - shared on purpose, also with those it spawns

    def __init__(self, name: str = "parent") -> None:
        self.name = name

    async def startup(self) -> None:
        self.context.nursery.start_soon(self.help)

    async def help(self) -> None:
        self.alive.add(self.name)
        try:
            await trio.sleep_forever()
        finally:
            with trio.move_on_after(1, shield=True):
                await trio.sleep(0.5)
            self.alive.discard(self.name)

    @receive
    async def act(self, message: str) -> None:
        if message == "raise":
            raise Boom
        await self.context.spawn(Child(partial(Restless, message)))


@pytest.mark.parametrize("how", ["leaves", "cancelled", "gives up", "error", "crash"])
async def test_none_outlives_open_system(how: str, mock_clock: trio.testing.MockClock):
    """Helper tasks, spawned actors, waiting restarts: when the block is left, nothing of it is there any more."""
    Restless.alive.clear()
    before = trio.lowlevel.current_statistics().tasks_living
    stage = Stage()
    stage.plan = {"slow": ["slow"]}
    intensity = Intensity(restarts=0) if how == "gives up" else LENIENT
    with trio.CancelScope() as scope:
        try:
            async with stage.open(Supervisor([Restless, DynamicSupervisor(id="d")], intensity=intensity)) as system:
                ref = system.ref(Restless)
                for n in range(3):
                    await ref.ask(f"child {n}")
                for n in range(3):
                    await system.supervisor("d").start_child(stage.child(f"task {n}"))
                await quiet()
                assert len(Restless.alive) == 4
                if how == "cancelled":
                    scope.cancel()
                if how in ("gives up", "crash"):
                    ref.tell_nowait("raise")
                if how == "crash":
                    await trio.sleep(5)
                    assert Restless.alive == {"parent"}, "what it had spawned ended with the incarnation"
                if how == "error":
                    raise Boom
                if how != "leaves":
                    await trio.sleep(30 if how == "crash" else 1e9)
        except (Boom, MaxRestartsExceeded):
            pass
    assert Restless.alive == set()
    assert stage.up == []
    assert trio.lowlevel.current_statistics().tasks_living == before


class Counter(Actor):
    """Answers one ask."""

    settings = Settings(title="counter")

    def __init__(self, number: int = 0) -> None:
        self.number = number

    @receive
    async def give(self, message: str) -> int:
        return self.number


COUNTS = [2000, pytest.param(10_000, marks=pytest.mark.long)]


async def is_linear(measure: Callable[[int], Awaitable[float]], count: int) -> bool:
    """Whether `count` cost about ten times as much as a tenth of them, and not a hundred times, in one of three tries.

    Whatever else the machine does makes a try dearer, and none cheaper. A collection of garbage looks at what all tests
    have left, so there is none meanwhile.
    """
    gc.disable()
    try:
        for _ in range(3):
            few = await measure(count // 10)
            if await measure(count) < 40 * max(few, 0.02):
                return True
        return False
    finally:
        gc.enable()


async def many(count: int) -> float:
    """Start `count` actors, ask each, and stop them; return the seconds of computing."""
    kept = Kept()
    began = time.thread_time()
    async with open_system(DynamicSupervisor(Counter, name="d"), broker=FakeBroker(), emit=kept) as system:
        dynamic = system.supervisor("d")
        refs = [await dynamic.start_child(number) for number in range(count)]
        answers = [await ref.ask("number") for ref in refs]
        assert answers == list(range(count))
        assert len(await dynamic.which_children()) == count
    assert len(kept.of(events.ChildExited)) == count + 1
    return time.thread_time() - began


@pytest.mark.parametrize("count", COUNTS)
async def test_thousands_of_actors_start_answer_and_stop(count: int):
    assert await is_linear(many, count)


@pytest.mark.parametrize("count", COUNTS)
async def test_thousands_of_static_children_start_and_stop(count: int):
    """A static supervisor starts and stops them one after the other, at the cost of each alone."""

    async def static(count: int) -> float:
        stage = Stage()
        began = time.thread_time()
        async with stage.tree([stage.child(f"c{n}") for n in range(count)]) as root:
            for n in range(50):
                await root.terminate_child(f"c{n}")
        assert stage.log[:2] == ["+c0", "+c1"]
        assert stage.log[-1] == "-c50"
        return time.thread_time() - began

    assert await is_linear(static, count)


@pytest.mark.parametrize("count", COUNTS)
async def test_many_restarts_in_a_wide_window_are_linear(count: int):
    """What a supervisor remembers of its restarts costs nothing, however many the window allows."""

    async def storm(count: int) -> float:
        stage = Stage()
        left = count
        done = trio.Event()

        async def hopeless(*, task_status: Any) -> None:
            nonlocal left
            task_status.started()
            left -= 1
            if left < 0:
                done.set()
                await trio.sleep_forever()

        began = time.thread_time()
        wide = Intensity(restarts=1_000_000, period=3600)
        async with stage.tree([Child(hopeless)], intensity=wide):
            await done.wait()
        return time.thread_time() - began

    assert await is_linear(storm, count)
