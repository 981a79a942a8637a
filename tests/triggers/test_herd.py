"""Many nodes that fire the same triggers: each time fires once, and few of them ask for it at the same moment."""

from collections import Counter
from functools import partial
from random import Random
from typing import Any

import trio
from trio.testing import MockClock

from actorwork import Actor, Interval, Settings, Trigger, receive
from actorwork.events import TriggerFired
from actorwork.testing import MemoryBroker
from actorwork.triggers.declared import Declared, declared_by
from actorwork.triggers.scheduler import Scheduler


class Sweeper(Actor):
    settings = Settings(title="sweeper", triggers=[Trigger(title="often", schedule=Interval(seconds=10))])

    @receive
    async def sweep(self) -> None: ...


class NeverOff:
    age = 0.0
    is_certain = True

    def is_off(self, actor: str, trigger: str) -> bool:
        return False

    async def refresh(self) -> None: ...


class Fleet:
    """Schedulers of many nodes at one broker, and a ledger of what they have asked it for."""

    def __init__(self, nodes: int, seed: int) -> None:
        self.broker = MemoryBroker()
        self.asked: Counter[int] = Counter()
        """Tries to fire, by the millisecond."""
        self.fired: list[int] = []
        self.schedulers = [self._scheduler(Random(f"{seed} {node}")) for node in range(nodes)]

    def _scheduler(self, dice: Random) -> Scheduler:
        declared: list[Declared] = list(declared_by(Sweeper.settings))
        triggers: Any = self.broker.triggers
        plain = triggers.fire

        async def fire(*args: Any, **terms: Any) -> Any:
            self.asked[round(trio.current_time() * 1000)] += 1
            await trio.sleep(0.001 * dice.random())
            return await plain(*args, **terms)

        class Counting:
            def __getattr__(self, name: str) -> Any:
                return fire if name == "fire" else getattr(triggers, name)

        scheduler = Scheduler(
            Counting(),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            [Sweeper.settings],
            declared,
            now=lambda: self.broker.now,
            status=NeverOff(),
            emit=self._note,
        )
        scheduler.dice = dice
        return scheduler

    def _note(self, event: object) -> None:
        if isinstance(event, TriggerFired):
            self.fired += event.times


async def test_each_time_fires_once_and_few_ask_at_the_same_moment(mock_clock: MockClock):
    fleet = Fleet(40, 1)
    async with trio.open_nursery() as nursery:
        for scheduler in fleet.schedulers:
            nursery.start_soon(scheduler.run)
        await trio.sleep(405)
        nursery.cancel_scope.cancel()
    assert len(fleet.fired) == len(set(fleet.fired)) == 40
    moments = sorted(fleet.asked)
    assert max(fleet.asked[one] for one in moments if one < 11_000) == 40, "at first nobody knows of the others"
    assert max(fleet.asked[one] for one in moments if one > 350_000) <= 20


async def test_if_the_nodes_that_ask_first_die_a_time_is_late_once(mock_clock: MockClock):
    fleet = Fleet(20, 3)
    lates: list[float] = []
    async with trio.open_nursery() as nursery:
        scopes: list[trio.CancelScope] = [
            await nursery.start(partial(_run, scheduler)) for scheduler in fleet.schedulers
        ]
        await trio.sleep(305)
        before = len(fleet.fired)
        eager = max(fleet.schedulers, key=lambda one: one._watched[0].odds.odds)
        for scheduler, scope in zip(fleet.schedulers, scopes, strict=True):
            if scheduler is eager:
                scope.cancel()
            else:
                scheduler._watched[0].odds.odds = 1 / 128
        for _ in range(6):
            await trio.sleep(10)
            lates.append(len(fleet.fired) - before)
        nursery.cancel_scope.cancel()
    assert lates == list(range(1, 7)), "each of them has fired within its interval"
    assert len(set(fleet.fired)) == len(fleet.fired)


async def _run(scheduler: Scheduler, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
    with trio.CancelScope() as scope:
        task_status.started(scope)
        await scheduler.run()
