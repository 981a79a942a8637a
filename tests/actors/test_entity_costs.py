"""What entities cost: round trips for a message, memory for an instance that waits, and no step for idle ones."""

import gc
import sys
import types
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import attrs
import pytest
import trio

from actorwork import Entities, Entity, Settings, receive
from actorwork.abc import Subscription
from actorwork.actors.entities.entity import ACTIVATION
from actorwork.actors.entities.host import BURST
from actorwork.embedded.node import EmbeddedNode
from actorwork.message import Delivery, Envelope
from actorwork.policy.entities import FoundState
from actorwork.testing import TestSystem, open_test_system

pytestmark = pytest.mark.usefixtures("mock_clock")

KEYS = 200


@attrs.define
class Balance:
    amount: int = 0


used: list[Any] = []
"""The activations that messages have used."""


@pytest.fixture(autouse=True)
def _nothing_used() -> None:
    used.clear()


class Account(Entity[Balance]):
    settings = Settings(title="account", concurrency=8, entities=Entities(idle=300))

    @receive
    async def add(self, *, amount: int) -> int:
        used.append(vars(self)[ACTIVATION])
        self.state.amount += amount
        return self.state.amount


async def send(system: TestSystem, keys: Iterable[str], prefix: str = "") -> None:
    """Send a message to each key at once, and wait until all are handled."""
    source = Account.settings.default_source
    await system.broker.publish(
        [
            Envelope(source, f"{prefix}{number}", b'{"amount": 1}', key=key, headers={})
            for number, key in enumerate(keys)
        ]
    )
    await trio.testing.wait_all_tasks_blocked()
    assert await system.broker.backlog(source) == 0


async def test_states_are_asked_for_in_one_round_trip_cold_or_warm_for_one_message_or_many(
    monkeypatch: pytest.MonkeyPatch,
):
    asked: list[list[str]] = []
    right = EmbeddedNode.load_states

    async def load_states(
        self: EmbeddedNode, subscription: Subscription, wanted: Sequence[tuple[Delivery, str]]
    ) -> Sequence[FoundState]:
        asked.append([stamp for _, stamp in wanted])
        return await right(self, subscription, wanted)

    monkeypatch.setattr(EmbeddedNode, "load_states", load_states)
    async with open_test_system(Account) as system:
        await send(system, ["ann"], "cold ")
        assert asked == [[""]], "nothing is known of it"
        await send(system, ["ann"], "warm ")
        assert len(asked) == 2
        assert asked[1][0], "its stamp alone is asked for"
        await send(system, [f"key {number}" for number in range(20)], "many ")
        assert [len(wanted) for wanted in asked[2:]] == [20]


SHARED = (type, types.ModuleType, types.FunctionType, types.MethodType, types.BuiltinFunctionType)


def size_of(thing: object, leaving_out: Iterable[object]) -> int:
    """Return how much memory is reached from a thing alone."""
    seen = {id(one) for one in leaving_out}
    size, left = 0, [thing]
    while left:
        one = left.pop()
        if id(one) in seen or isinstance(one, SHARED):
            continue
        seen.add(id(one))
        size += sys.getsizeof(one)
        left += gc.get_referents(one)
    return size


async def test_an_instance_that_waits_takes_three_kilobytes_at_most_beside_its_state():
    async with open_test_system(Account) as system:
        for number in range(70):  # A state knows the last 64 messages.
            await send(system, ["ann"], f"{number} ")
        activation = used[-1]
        host = activation.host
        assert len(activation.marks) == 512
        size = size_of(activation, [host, host.context, activation.entity.state, activation.data])
        assert 500 < size < 3000, size


class Steps(trio.abc.Instrument):
    """Counts how often the tasks that sweep have run."""

    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += task.name.endswith(" sweep")


@pytest.mark.parametrize("count", [1, KEYS])
async def test_idle_instances_cost_no_step_until_they_are_passivated(count: int):
    async with open_test_system(Account) as system:
        await send(system, [f"key {number}" for number in range(count)])
        host, steps = used[-1].host, Steps()
        await trio.sleep(1)
        trio.lowlevel.add_instrument(steps)
        await trio.sleep(290)
        assert (host.active, steps.count) == (count, 0)
        await trio.sleep(60)
        trio.lowlevel.remove_instrument(steps)
        assert host.active == 0
        assert steps.count <= 3, "those that were used together are passivated together"


async def test_other_tasks_have_a_turn_while_many_messages_are_handled():
    turn = 0
    turns: list[int] = []
    ended = trio.Event()

    class Many(Entity[Balance]):
        settings = Settings(title="many", concurrency=64)

        @receive
        async def add(self, *, amount: int) -> None:
            self.state.amount += amount
            turns.append(turn)
            if len(turns) == 10 * BURST:
                ended.set()

    source = Many.settings.default_source
    async with open_test_system(Many) as system:
        await system.broker.publish(
            [Envelope(source, f"{n}", b'{"amount": 1}', key=f"{n}", headers={}) for n in range(10 * BURST)]
        )
        while not ended.is_set():
            turn += 1
            await trio.lowlevel.checkpoint()
    # Tasks run in random order within a tick of the scheduler: two bursts may be between two turns of this one.
    assert max(Counter(turns).values()) < 3 * BURST
