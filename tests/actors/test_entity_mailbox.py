"""The executors of an entity: no more at work than its handlers want, and none before the states are there."""

from collections.abc import Awaitable, Callable, Sequence

import attrs
import pytest
import trio

from actorwork import Entity, Settings, receive
from actorwork.abc import Subscription
from actorwork.embedded.node import EmbeddedNode
from actorwork.errors import BrokerError
from actorwork.message import Delivery, Envelope
from actorwork.policy.entities import FoundState
from actorwork.testing import TestSystem, open_test_system

pytestmark = pytest.mark.usefixtures("mock_clock")

CONCURRENCY = 16
MANY = 800


@attrs.define
class Total:
    amount: int = 0


class Counter(Entity[Total]):
    settings = Settings(title="counter", concurrency=4 * CONCURRENCY)

    @receive
    async def add(self, *, amount: int) -> None:
        self.state.amount += amount


begun: list[str] = []
gate: list[trio.Event] = []


class Waiter(Entity[Total]):
    settings = Settings(title="waiter", concurrency=CONCURRENCY)

    @receive
    async def wait(self, *, amount: int) -> None:
        begun.append(self.key)
        await gate[-1].wait()
        self.state.amount += amount


@pytest.fixture(autouse=True)
def _none_begun() -> None:
    begun.clear()
    gate[:] = [trio.Event()]


def envelopes(actor: type[Entity[Total]], count: int, prefix: str = "") -> list[Envelope]:
    source = actor.settings.default_source
    return [
        Envelope(source, f"{prefix}{number}", b'{"amount": 1}', key=f"{prefix}{number}", headers={})
        for number in range(count)
    ]


async def settled(system: TestSystem, actor: type[Entity[Total]]) -> None:
    await trio.testing.wait_all_tasks_blocked()
    assert await system.broker.backlog(actor.settings.default_source) == 0


class Steps(trio.abc.Instrument):
    """Counts how often executors have run."""

    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += " executor " in task.name


async def test_handlers_that_wait_for_nothing_need_few_turns_of_executors():
    async with open_test_system(Counter) as system:
        await system.broker.publish(envelopes(Counter, MANY, "first "))
        await settled(system, Counter)
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        await system.broker.publish(envelopes(Counter, MANY, "second "))
        await settled(system, Counter)
        trio.lowlevel.remove_instrument(steps)
    assert steps.count < MANY / 10


async def test_as_many_handlers_wait_at_once_as_the_concurrency_says():
    async with open_test_system(Waiter) as system:
        for attempt in ("first ", "second "):
            begun.clear()
            gate.append(trio.Event())
            await system.broker.publish(envelopes(Waiter, 3 * CONCURRENCY, attempt))
            await trio.testing.wait_all_tasks_blocked()
            assert len(begun) == CONCURRENCY
            gate[-1].set()
            await settled(system, Waiter)
            assert len(begun) == 3 * CONCURRENCY


async def test_as_many_handlers_wait_at_once_after_many_that_waited_for_nothing():
    """What made executors wait again does not keep them from the next messages."""

    class Mixed(Entity[Total]):
        settings = Settings(title="mixed", concurrency=CONCURRENCY)

        @receive
        async def add(self, *, amount: int) -> None:
            self.state.amount += amount
            if self.key.startswith("slow"):
                begun.append(self.key)
                await gate[-1].wait()

    async with open_test_system(Mixed) as system:
        await system.broker.publish([*envelopes(Mixed, MANY, "quick "), *envelopes(Mixed, CONCURRENCY, "slow ")])
        await trio.testing.wait_all_tasks_blocked()
        assert len(begun) == CONCURRENCY
        gate[-1].set()
        await settled(system, Mixed)


async def test_middleware_that_waits_holds_up_no_other_message():
    arrived: list[str] = []

    async def slow(delivery: Delivery, proceed: Callable[[], Awaitable[object]]) -> object:
        arrived.append(delivery.id)
        await gate[-1].wait()
        return await proceed()

    async with open_test_system(Counter, middleware=[slow]) as system:
        await system.broker.publish(envelopes(Counter, 5 * CONCURRENCY))
        await trio.testing.wait_all_tasks_blocked()
        assert len(arrived) == 4 * CONCURRENCY
        gate[-1].set()
        await settled(system, Counter)


async def test_no_executor_begins_before_the_states_are_there(monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []
    answered = trio.Event()
    right = EmbeddedNode.load_states

    async def load_states(
        self: EmbeddedNode, subscription: Subscription, wanted: Sequence[tuple[Delivery, str]]
    ) -> Sequence[FoundState]:
        asked.append(len(wanted))
        await answered.wait()
        return await right(self, subscription, wanted)

    async with open_test_system(Waiter) as system:
        gate[-1].set()
        await system.broker.publish(envelopes(Waiter, CONCURRENCY, "first "))
        await settled(system, Waiter)
        begun.clear()
        monkeypatch.setattr(EmbeddedNode, "load_states", load_states)
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        await system.broker.publish(envelopes(Waiter, CONCURRENCY, "second "))
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.remove_instrument(steps)
        assert (asked, steps.count, begun) == ([CONCURRENCY], 0, [])
        answered.set()
        await settled(system, Waiter)
        assert len(begun) == CONCURRENCY


async def test_what_cannot_be_loaded_together_is_begun_all_the_same(monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []
    right = EmbeddedNode.load_states

    async def load_states(
        self: EmbeddedNode, subscription: Subscription, wanted: Sequence[tuple[Delivery, str]]
    ) -> Sequence[FoundState]:
        asked.append(len(wanted))
        if len(wanted) > 1:
            raise BrokerError("away")
        return await right(self, subscription, wanted)

    monkeypatch.setattr(EmbeddedNode, "load_states", load_states)
    async with open_test_system(Counter) as system:
        await system.broker.publish(envelopes(Counter, CONCURRENCY))
        await settled(system, Counter)
    assert asked == [CONCURRENCY, *[1] * CONCURRENCY]


async def test_an_entity_that_is_stopped_ends_while_executors_wait():
    async with open_test_system(Waiter) as system:
        await system.broker.publish(envelopes(Waiter, 3))
        await trio.testing.wait_all_tasks_blocked()
        assert len(begun) == 3
        gate[-1].set()
    assert len(begun) == 3
