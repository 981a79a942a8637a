"""A start that is cancelled, at each step of the scheduler in turn: it ends, as what cancelled it says."""

import os
import signal
import threading
from collections.abc import Callable, Iterator

import outcome
import pytest
import trio

from actorwork import Actor, Settings, Supervisor, events, open_system, receive
from actorwork.abc import Broker
from actorwork.stacks import all_stacks
from actorwork.testing import MemoryBroker
from tests.patience import PATIENCE


class Reading(Actor):
    settings = Settings(title="reading", sources={"in"})

    @receive
    async def take(self, *, n: int = 0) -> None: ...


class Local(Actor):
    settings = Settings(title="local")

    @receive
    async def take(self, *, n: int = 0) -> None: ...


TREE = [Reading, Supervisor([Local], name="below")]


class AtStep(trio.abc.Instrument):
    """Calls a function after the nth step of any task."""

    def __init__(self, number: int, act: Callable[[], object]) -> None:
        self.left = number
        self._act = act

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self._act()


@pytest.fixture(params=["memory", "embedded", "redis"])
def make_broker(request: pytest.FixtureRequest) -> Callable[[], str | Broker]:
    match request.param:
        case "memory":
            return MemoryBroker
        case "embedded":
            return lambda: ":memory:"
        case _:
            url: str = request.getfixturevalue("redis_url")
            return lambda: url


def each_step(start: Callable[[int], int]) -> None:
    """Start systems, each with one step more before it is cancelled, until one is up before its step comes."""
    steps = 1
    while start(steps) <= 0:
        steps += 1
    assert steps > 10


def in_time(run: Callable[[], int]) -> int:
    """Return what a function returns, or raise its error. A hang of it keeps no test: it runs in a thread."""
    ended: list[outcome.Outcome[int]] = []
    thread = threading.Thread(target=lambda: ended.append(outcome.capture(run)), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert ended, f"it hangs:\n{all_stacks()}"
    return ended[0].unwrap()


def test_a_start_that_is_cancelled_at_any_step_ends_cancelled(make_broker: Callable[[], str | Broker]):
    async def start(step: int) -> int:
        scope = trio.CancelScope()
        at_step = AtStep(step, scope.cancel)
        with scope:
            trio.lowlevel.add_instrument(at_step)
            async with open_system(TREE, broker=make_broker(), emit=ignore):
                trio.lowlevel.remove_instrument(at_step)
                return at_step.left
        assert scope.cancelled_caught
        return at_step.left

    each_step(lambda step: in_time(lambda: trio.run(start, step)))


@pytest.fixture
def interruptible() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_start_that_is_interrupted_at_any_step_ends_by_the_interrupt(make_broker: Callable[[], str | Broker]):
    async def start(step: int) -> int:
        at_step = AtStep(step, lambda: os.kill(os.getpid(), signal.SIGINT))
        trio.lowlevel.add_instrument(at_step)
        async with open_system(TREE, broker=make_broker(), emit=ignore):
            trio.lowlevel.remove_instrument(at_step)
            return at_step.left

    def run(step: int) -> int:
        try:
            return trio.run(start, step)
        except KeyboardInterrupt:
            return 0

    each_step(run)


async def test_a_sink_that_cancels_the_start_when_the_node_is_there_ends_it():
    seen: list[str] = []
    with trio.CancelScope() as scope:

        def emit(event: events.Event) -> None:
            seen.append(type(event).__name__)
            if isinstance(event, events.NodeStarted):
                scope.cancel()

        async with open_system(TREE, broker=MemoryBroker(), emit=emit):
            pytest.fail("it has started")
    assert scope.cancelled_caught
    assert "NodeStarted" in seen


def ignore(_: events.Event) -> None: ...
