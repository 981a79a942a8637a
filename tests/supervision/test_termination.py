"""Termination: cases 68 to 71 of `supervisor_SUITE`, and the limits that are handed down a tree."""

import math
from functools import partial
from typing import Any

import pytest
import trio

from actorwork import (
    Actor,
    ActorStopped,
    Child,
    DynamicSupervisor,
    Settings,
    Supervisor,
    SupervisorRef,
    events,
    open_system,
    receive,
)
from actorwork.policy.restart import STRATEGIES, Strategy
from tests.doubles import FakeBroker
from tests.supervision.tree_fixture import Boom, Stage, counts, problem, quiet, shown


class Slow(Actor):
    """Takes its time, in a handler or at its end."""

    settings = Settings(title="slow", execution_timeout=3600)

    def __init__(self, log: list[str], ending: float = 0, name: str = "slow") -> None:
        self.log = log
        self.ending = ending
        self.name = name

    async def shutdown(self) -> None:
        self.log.append(f"{self.name} ends")
        try:
            await trio.sleep(self.ending)
        finally:
            self.log.append(f"{self.name} ended at {trio.current_time():g}")

    @receive
    async def sleep(self, message: float) -> float:
        try:
            await trio.sleep(message)
        finally:
            self.log.append(f"handler ended at {trio.current_time():g}")
        return message


def slow(log: list[str], ending: float = 0, name: str = "slow", **options: Any) -> Child:
    return Child(partial(Slow, log, ending, name), id=name, **options)


def actor(name: str, log: list[str], ending: float, **options: Any) -> Child:
    cls: Any = type(name, (Slow,), {"settings": Settings(title=name)})
    return Child(partial(cls, log, ending, name), id=name, **options)


async def test_sup_stop_infinity(mock_clock: trio.testing.MockClock):
    """With shutdown=inf a child may take as long as it wants, and ends with `shutdown`."""
    stage = Stage()
    log: list[str] = []
    tree = [Supervisor([slow(log, 1000, shutdown=math.inf)], id="s"), stage.child("a", shutdown=math.inf)]
    async with stage.open(tree):
        pass
    assert log == ["slow ends", "slow ended at 1000"]
    assert [kind for kind, _ in stage.ended] == ["shutdown"] * 3


async def test_sup_stop_timeout(mock_clock: trio.testing.MockClock):
    """A child that does not end in its time is cancelled, then the one before it is asked."""
    stage = Stage()
    log: list[str] = []
    tree = [actor("ok", log, 0, shutdown=1), actor("sleeper", log, 5, shutdown=1)]
    async with stage.open(tree):
        pass
    assert log == ["sleeper ends", "sleeper ended at 1", "ok ends", "ok ended at 1"]
    assert trio.current_time() == 1


async def test_sup_stop_timeout_kills(mock_clock: trio.testing.MockClock):
    """A handler that runs beyond the bound is cancelled: `killed`; nothing may take longer than that bound."""
    stage = Stage()
    log: list[str] = []
    async with stage.tree([slow(log, 100, shutdown=4)]) as root:
        (info,) = await root.which_children()
        info.handle.tell_nowait(60.0)
        await quiet()
        await root.terminate_child("slow")
        assert trio.current_time() == 4, "not twice its bound"
        assert log == ["handler ended at 4", "slow ends", "slow ended at 4"]
        assert await shown(root) == {"slow": None}


async def test_sup_stop_timeout_dynamic(mock_clock: trio.testing.MockClock):
    """The children of a dynamic supervisor end side by side, each within its own bound."""
    stage = Stage()
    log: list[str] = []
    async with stage.open(DynamicSupervisor(name="d")) as system:
        for n in range(1, 5):
            await system.supervisor("d").start_child(slow(log, 100, name=f"s{n}", shutdown=n))
    assert sorted(line for line in log if "ended" in line) == [f"s{n} ended at {n}" for n in range(1, 5)]
    assert trio.current_time() == 4


async def test_sup_stop_brutal_kill(mock_clock: trio.testing.MockClock):
    """A brutally killed child is cancelled at once, without its shutdown hook."""
    stage = Stage()
    log: list[str] = []
    async with stage.open([slow(log, 10, shutdown="brutal_kill"), stage.child("t", shutdown="brutal_kill")]):
        pass
    assert log == []
    assert [kind for kind, _ in stage.ended] == ["killed", "killed"]
    assert trio.current_time() == 0


async def test_sup_stop_brutal_kill_dynamic(mock_clock: trio.testing.MockClock):
    """All ten at once."""
    stage = Stage()
    async with stage.open(DynamicSupervisor(stage.child("x", shutdown="brutal_kill"), name="d")) as system:
        for _ in range(10):
            await system.supervisor("d").start_child()
    assert [kind for kind, _ in stage.ended[:10]] == ["killed"] * 10


async def test_a_shutdown_of_zero_seconds_is_an_order_to_end_now(mock_clock: trio.testing.MockClock):
    """Zero asks and cancels in the same moment; what needs no time is still done."""
    stage = Stage()
    log: list[str] = []
    async with stage.open(slow(log, 10, shutdown=0)):
        pass
    assert trio.current_time() == 0
    assert log[-1:] in ([], ["slow ended at 0"])


async def test_a_stuck_child_is_reported_with_its_stack(mock_clock: trio.testing.MockClock):
    """A child that shields itself is waited for, and reported every ten seconds; nothing can end it."""

    async def in_a_shield(*, task_status: Any) -> None:
        task_status.started()
        with trio.CancelScope(shield=True):
            await trio.sleep(36)

    stage = Stage()
    async with stage.tree([Child(in_a_shield, id="deaf", shutdown=1), stage.child("a")]) as root:
        await root.terminate_child("deaf")
        assert trio.current_time() == 36
        stuck = stage.kept.of(events.StuckChild)
        assert len(stuck) == 3
        assert "in in_a_shield" in stuck[0].stack
        assert "test_termination" in stuck[0].stack


async def test_a_kill_reaches_what_is_shielded_by_us(mock_clock: trio.testing.MockClock):
    """A bound of a supervisor ends its whole subtree, leaf first, although every level is shielded."""
    stage = Stage()
    log: list[str] = []
    deep = Supervisor([slow(log, 1000, shutdown=math.inf), stage.child("leaf")], id="deep")
    tree = Supervisor([stage.child("x"), deep], id="mid", shutdown=7)
    async with stage.tree([stage.child("first"), tree]):
        pass
    assert trio.current_time() == 7
    assert log == ["slow ends", "slow ended at 7"]
    assert stage.log == ["+x", "+leaf", "+first", "-leaf", "-x", "-first"] or stage.log[-1] == "-first"


@pytest.mark.parametrize(("own", "inherited", "ends"), [(2, 100, 2), (100, 3, 3), (math.inf, 4, 4)])
async def test_a_deadline_is_handed_down(own: float, inherited: float, ends: float, mock_clock: trio.testing.MockClock):
    """Each level takes the earlier of its own bound and the one it was given."""
    stage = Stage()
    log: list[str] = []
    tree = Supervisor([Supervisor([slow(log, 1000, shutdown=own)], id="b")], id="a", shutdown=inherited)
    async with stage.open([tree]):
        pass
    assert log == ["slow ends", f"slow ended at {ends}"]


async def test_a_deadline_is_for_all_children_together(mock_clock: trio.testing.MockClock):
    """What the last child leaves of a supervisor's bound is for those before it."""
    stage = Stage()
    log: list[str] = []
    children = [actor(name, log, 4, shutdown=5) for name in ("a", "b", "c")]
    async with stage.open([Supervisor(children, id="s", shutdown=10)]):
        pass
    assert [line for line in log if "ended" in line] == ["c ended at 4", "b ended at 8", "a ended at 10"]


async def test_a_stop_shortens_an_end_that_is_under_way(mock_clock: trio.testing.MockClock):
    """A deadline from above also holds for a child that is being terminated with more time."""
    stage = Stage()
    log: list[str] = []
    inner = Supervisor([slow(log, 1000, shutdown=500)], id="s", shutdown=3)

    async def terminate(supervisor: SupervisorRef) -> None:
        await supervisor.terminate_child("slow")
        log.append(f"answered at {trio.current_time():g}")

    async with trio.open_nursery() as nursery, stage.open([inner]) as system:
        nursery.start_soon(terminate, system.supervisor("s"))
        await trio.sleep(10)
    assert log == ["slow ends", "slow ended at 13", "answered at 13"]


async def stuck(seconds: float, *, task_status: Any) -> None:
    """Not end before that time, whatever asks it to."""
    task_status.started()
    with trio.CancelScope(shield=True):
        await trio.sleep(seconds)


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_a_child_that_does_not_end_does_not_hold_up_its_supervisor(
    strategy: Strategy, mock_clock: trio.testing.MockClock
):
    """While it is terminated, requests are served, siblings restarted, and bounds kept; it is reported."""
    stage = Stage()
    log: list[str] = []
    # Siblings that a restart takes along come before it: with `one_for_all` it would have to end first.
    children = [stage.child("a"), slow(log, 50, shutdown=3), Child(partial(stuck, 100), id="stuck", shutdown=2)]
    async with trio.open_nursery() as nursery, stage.tree(children, strategy=strategy) as root:
        nursery.start_soon(root.terminate_child, "stuck")
        await trio.sleep(1)
        assert await shown(root) == {"a": "up", "slow": "up", "stuck": "up"}
        assert await problem(root.restart_child("stuck")) == "running"
        assert await problem(root.delete_child("stuck")) == "running"
        await root.terminate_child("slow")
        assert trio.current_time() == 4
        assert await root.start_child(stage.child("b")) is not None
        if strategy == "one_for_one":
            await stage.dies("a")
            assert stage.starts["a"] == 2
        assert trio.current_time() == 4
        await trio.sleep(30)
        assert len(stage.kept.of(events.StuckChild)) == 3
        await trio.sleep(66)
        assert await shown(root) == {"a": "up", "slow": None, "stuck": None, "b": "up"}


async def test_a_group_that_waits_for_a_child_to_end_can_be_looked_at(mock_clock: trio.testing.MockClock):
    """What only reads is answered; what changes something waits for the group."""
    stage = Stage()
    done: list[tuple[str, float]] = []

    async def delete() -> None:
        done.append((await problem(root.delete_child("a")), trio.current_time()))

    children = [stage.child("a"), Child(partial(stuck, 100), id="stuck", shutdown=2)]
    async with trio.open_nursery() as nursery, stage.tree(children, strategy="one_for_all") as root:
        await trio.sleep(1)
        await stage.dies("a")
        assert await shown(root) == {"a": "restarting", "stuck": "up"}
        assert await counts(root) == (2, 1, 0, 2)
        assert (await root.get_child_spec("a")).child_id == "a"
        nursery.start_soon(delete)
        await trio.sleep(100)
        assert await shown(root) == {"a": "up", "stuck": "up"}
        assert done == [("running", 100)]
        await root.terminate_child("stuck")


async def test_a_slow_start_does_not_stretch_the_bound_of_a_child_that_is_terminated(
    mock_clock: trio.testing.MockClock,
):
    """The supervisor waits for the start, and holds the other one to its bound all the same."""
    stage = Stage()
    stage.plan = {"late": ["slow"]}
    log: list[str] = []
    async with trio.open_nursery() as nursery, stage.tree([slow(log, 50, shutdown=1)]) as root:
        nursery.start_soon(root.terminate_child, "slow")
        await quiet()
        await root.start_child(stage.child("late"))
        assert trio.current_time() == 2
        assert log == ["slow ends", "slow ended at 1"]


async def test_the_end_of_the_last_significant_child_counts_while_another_is_terminated(
    mock_clock: trio.testing.MockClock,
):
    """One that is on its way out by request is not waited for."""
    stage = Stage()
    children = [
        stage.child("a", restart="transient", significant=True),
        Child(partial(stuck, 100), id="stuck", restart="transient", significant=True),
    ]
    inner = Supervisor(children, id="s", restart="temporary", auto_shutdown="all_significant")
    async with trio.open_nursery() as nursery, stage.open([inner]) as system:
        nursery.start_soon(system.supervisor("s").terminate_child, "stuck")
        await trio.sleep(50)
        await stage.ends("a", "normal")
        await trio.sleep(51)
        assert await shown(system.supervisor()) == {}


async def test_a_child_that_starts_is_cancelled_by_a_stop(mock_clock: trio.testing.MockClock):
    """A start under way is not waited for."""
    stage = Stage()
    stage.plan = {"late": ["slow"]}
    async with stage.tree([stage.child("a")]) as root, trio.open_nursery() as nursery:
        nursery.start_soon(root.start_child, stage.child("late"))
        await quiet()
        nursery.cancel_scope.cancel()
    assert trio.current_time() == 0
    assert stage.log == ["+a", "-a"]


async def test_who_asks_is_told_when_it_ends(mock_clock: trio.testing.MockClock):
    """Messages that wait when a child is terminated are answered: they will not be handled."""
    stage = Stage()
    log: list[str] = []
    told: list[str] = []

    async def ask(ref: Any, seconds: float) -> None:
        try:
            told.append(f"{await ref.ask(seconds)}")
        except ActorStopped as error:
            told.append(str(error))

    async with stage.tree([slow(log)]) as root:
        (info,) = await root.which_children()
        async with trio.open_nursery() as nursery:
            for seconds in (1.0, 2.0):
                nursery.start_soon(ask, info.handle, seconds)
                await quiet()
            await root.terminate_child("slow")
    assert told == ["1.0", "'slow' was stopped"]


async def test_a_child_that_raises_while_it_ends_stops_nobody_else_from_ending(mock_clock: trio.testing.MockClock):
    """The order is kept, whatever happens on the way."""

    class Clumsy(Slow):
        settings = Settings(title="clumsy")

        async def shutdown(self) -> None:
            raise Boom

    stage = Stage()
    log: list[str] = []
    async with stage.open([slow(log), Child(partial(Clumsy, log)), stage.child("a")]):
        pass
    assert log == ["slow ends", "slow ended at 0"]
    assert [event.doing for event in stage.kept.of(events.ActorTrouble)] == ["shutdown"]


async def test_what_an_actor_has_spawned_ends_within_its_bound(mock_clock: trio.testing.MockClock):
    """The deadline of an actor holds for its spawned actors, too; a kill reaches them, leaf first."""
    log: list[str] = []

    class Parent(Slow):
        settings = Settings(title="parent")

        @receive
        async def spawn(self, message: str) -> str:
            await self.context.spawn(slow(self.log, 1000, message, shutdown=math.inf))
            return message

    stage = Stage()
    async with stage.open(Supervisor([Child(partial(Parent, log), shutdown=3)])) as system:
        assert await system.ref(Parent).ask("grandchild") == "grandchild"
    assert trio.current_time() == 3
    assert log[:2] == ["grandchild ends", "grandchild ended at 3"]


async def test_the_grace_of_a_system_is_for_all_of_its_actors_together(mock_clock: trio.testing.MockClock):
    """Ten actors that need four seconds each, one after the other, get the grace and no more; the order is kept."""
    log: list[str] = []
    names = [f"a{n}" for n in range(10)]
    async with open_system([actor(name, log, 4) for name in names], broker=FakeBroker(), grace=10):
        pass
    assert trio.current_time() == 10
    assert [line.partition(" ")[0] for line in log if "ended" in line] == list(reversed(names))
    assert [line.rpartition(" ")[2] for line in log if "ended" in line] == ["4", "8", *["10"] * 8]


async def test_a_bound_is_kept_that_ends_before_one_that_is_waited_for_already(mock_clock: trio.testing.MockClock):
    mock_clock.autojump_threshold = 0
    log: list[str] = []
    async with (
        open_system([DynamicSupervisor(name="all")], broker=FakeBroker()) as system,
        trio.open_nursery() as nursery,
    ):
        supervisor = system.supervisor("all")
        patient = await supervisor.start_child(slow(log, ending=100, name="patient", shutdown=50))
        hasty = await supervisor.start_child(slow(log, ending=100, name="hasty", shutdown=1))
        began = trio.current_time()
        nursery.start_soon(supervisor.terminate_child, patient)
        await trio.sleep(10)
        await supervisor.terminate_child(hasty)
        assert trio.current_time() - began == 11
    assert trio.current_time() - began == 50


async def test_who_is_cancelled_while_asking_has_asked(mock_clock: trio.testing.MockClock):
    log: list[str] = []
    async with open_system([DynamicSupervisor(name="all")], broker=FakeBroker()) as system:
        supervisor = system.supervisor("all")
        with trio.CancelScope() as scope:
            scope.cancel()
            await supervisor.start_child(slow(log))
        assert scope.cancelled_caught
        await quiet()
        assert (await supervisor.count_children()).active == 1
