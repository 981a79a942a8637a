"""Waiting before a restart, and crash storms."""

from itertools import pairwise
from typing import Any

import pytest
import trio

from actorwork import (
    Actor,
    ActorCrashed,
    Backoff,
    Child,
    ChildError,
    DynamicSupervisor,
    Intensity,
    MaxRestartsExceeded,
    Settings,
    Supervisor,
    events,
    receive,
)
from tests.supervision.tree_fixture import LENIENT, Boom, Stage, counts, quiet, shown

STEADY = Backoff(min=1, max=10, jitter=0)


def delays(stage: Stage) -> list[float]:
    return [event.delay for event in stage.kept.of(events.ChildRestarting)]


class Fragile(Actor):
    """Answers, and breaks."""

    settings = Settings(title="fragile")

    @receive
    async def act(self, message: str) -> str:
        if message == "raise":
            raise ValueError
        return message


async def test_delays_double_up_to_their_maximum(mock_clock: trio.testing.MockClock):
    """1, 2, 4, 8, 10, 10: by failures in a row, each told with its report."""
    stage = Stage()
    async with stage.tree([stage.child("a", backoff=STEADY)]):
        stage.plan = {"a": ["fail"]}
        await stage.dies("a")
        await trio.sleep(40)
        assert delays(stage) == [1, 2, 4, 8, 10, 10, 10]
        assert stage.starts["a"] == 7


async def test_a_first_restart_can_be_immediate(mock_clock: trio.testing.MockClock):
    """With min=0 nothing ever waits; that is what no backoff means, too."""
    stage = Stage()
    async with stage.tree([stage.child("a", backoff=Backoff(min=0, max=1))]):
        await stage.dies("a")
        assert trio.current_time() == 0
        assert stage.up == ["a"]


async def test_a_good_time_makes_the_count_begin_anew(mock_clock: trio.testing.MockClock):
    """After `reset_after` seconds without a failure the next one is the first."""
    stage = Stage()
    async with stage.tree([stage.child("a", backoff=Backoff(min=1, max=100, jitter=0, reset_after=20))]):
        for pause in (1 + 20, 2 + 20, 4 + 20.1, 1 + 1, 0):
            await stage.dies("a")
            await trio.sleep(pause)
        assert delays(stage) == [1, 2, 4, 1, 2]


@pytest.mark.parametrize("dynamic", [False, True])
async def test_starts_that_hang_before_they_fail_are_no_good_time(dynamic: bool, mock_clock: trio.testing.MockClock):
    """`reset_after` counts from the moment when the child is up; a database that hangs escalates in the end."""
    starts: list[float] = []

    async def hangs(*, task_status: Any) -> None:
        starts.append(trio.current_time())
        if len(starts) > 1:
            await trio.sleep(12)
            raise Boom("no database")
        task_status.started()
        raise Boom("the first time")

    stage = Stage()
    child = Child(hangs, id="a", backoff=Backoff(min=1, max=20, jitter=0, max_attempts=5))
    kids = DynamicSupervisor(child, name="kids") if dynamic else Supervisor([child], name="kids")
    with pytest.raises(MaxRestartsExceeded) as caught:
        async with stage.open(Supervisor([kids], intensity=Intensity(restarts=0))) as system:
            if dynamic:
                await system.supervisor("kids").start_child()
            await trio.sleep(1000)
    assert "6 failures in a row" in str(caught.value.__cause__)
    assert delays(stage) == [1, 2, 4, 8, 16]
    assert starts == [0, 1, 15, 31, 51, 79]


async def test_a_ref_is_good_while_its_actor_waits(mock_clock: trio.testing.MockClock):
    """The mailbox collects meanwhile; what it holds is handled by the next incarnation."""
    stage = Stage()
    async with stage.open(Supervisor([Child(Fragile, backoff=STEADY)])) as system:
        ref = system.ref(Fragile)
        with pytest.raises(ActorCrashed):
            await ref.ask("raise")
        await quiet()
        assert await shown(system.supervisor()) == {"fragile": "restarting"}
        assert await ref.ask("late") == "late"
        assert trio.current_time() == 1


async def test_terminate_interrupts_the_wait(mock_clock: trio.testing.MockClock):
    """terminate_child takes back a restart that waits."""
    stage = Stage()
    async with stage.tree([stage.child("a", backoff=STEADY)]) as root:
        await stage.dies("a")
        assert await counts(root) == (1, 0, 0, 1)
        for request, problem in ((root.restart_child, "restarting"), (root.delete_child, "restarting")):
            with pytest.raises(ChildError) as caught:
                await request("a")
            assert caught.value.problem == problem
        await root.terminate_child("a")
        assert await shown(root) == {"a": None}
        await trio.sleep(100)
        assert stage.starts["a"] == 1
        await root.restart_child("a")
        assert stage.up == ["a"]


async def test_a_stop_interrupts_the_wait(mock_clock: trio.testing.MockClock):
    """The end of the system does not wait for a restart, and asks no child twice."""
    stage = Stage()
    async with stage.tree([stage.child("a", backoff=STEADY), stage.child("b")]):
        await stage.dies("a")
    assert trio.current_time() == 0
    assert stage.log == ["+a", "+b", "-a", "-b"]


async def test_the_others_go_on_meanwhile(mock_clock: trio.testing.MockClock):
    """A wait does not block the loop: siblings are restarted, requests are served."""
    stage = Stage()
    async with stage.tree([stage.child("a", backoff=STEADY), stage.child("b")]) as root:
        await stage.dies("a")
        await stage.dies("b")
        await root.start_child(stage.child("c"))
        assert stage.up == ["b", "c"]
        assert trio.current_time() == 0
        await trio.sleep(1)
        await quiet()
        assert stage.up == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("strategy", "waiting", "log"),
    [
        ("one_for_all", [], ["-b", "-c", "-a", "+a", "+b", "+c"]),
        ("rest_for_one", ["a"], ["-b", "-c", "+b", "+c"]),
    ],
)
async def test_a_group_waits_for_the_member_that_failed(
    strategy: Any, waiting: list[str], log: list[str], mock_clock: trio.testing.MockClock
):
    """Siblings are ended first; then the delay of the failing member holds for the whole group."""
    stage = Stage()
    children = [stage.child("a"), stage.child("b", backoff=STEADY), stage.child("c")]
    async with stage.tree(children, strategy=strategy) as root:
        stage.log.clear()
        await stage.dies("b")
        assert stage.up == waiting
        assert (await shown(root))["c"] is None
        await trio.sleep(1)
        await quiet()
        assert stage.log == log


async def test_max_attempts_escalates(mock_clock: trio.testing.MockClock):
    """`max_attempts` failures in a row are waited for, one more ends the supervisor: the intensity would never trip."""
    stage = Stage()
    with pytest.raises(MaxRestartsExceeded, match="4 failures in a row"):
        async with stage.tree([stage.child("a", backoff=Backoff(min=10, max=10, jitter=0, max_attempts=3))]):
            stage.plan = {"a": ["fail"]}
            stage.tell("a", lambda: 1 / 0)
            await trio.sleep_forever()
    assert trio.current_time() == 30
    assert stage.starts["a"] == 4


async def test_a_dynamic_child_waits_for_itself(mock_clock: trio.testing.MockClock):
    """The same in a dynamic supervisor, each for itself; terminate_child ends the wait."""
    stage = Stage()
    async with stage.open(DynamicSupervisor(name="d", intensity=LENIENT)) as system:
        dynamic = system.supervisor("d")
        a = await dynamic.start_child(stage.child("a", backoff=STEADY))
        await dynamic.start_child(stage.child("b", backoff=Backoff(min=2, max=2, jitter=0)))
        await stage.dies("a")
        await stage.dies("b")
        assert [info.handle for info in await dynamic.which_children()] == ["restarting"] * 2
        await dynamic.terminate_child(a)
        assert await counts(dynamic) == (1, 0, 0, 1)
        await trio.sleep(3)
        assert stage.up == ["b"]


# ---- storms ----


@pytest.mark.parametrize("intensity", [Intensity(restarts=n, period=period) for n in (0, 1, 7) for period in (1, 60)])
async def test_a_storm_escalates_exactly_as_the_window_says(intensity: Intensity, mock_clock: trio.testing.MockClock):
    """A child that always fails at once: all restarts at one moment, then up through every supervisor."""

    async def hopeless(*, task_status: Any) -> None:
        starts.append(trio.current_time())
        task_status.started()
        raise ValueError

    starts: list[float] = []
    stage = Stage()
    outer = Intensity(restarts=2, period=100)
    with pytest.raises(MaxRestartsExceeded):
        async with stage.tree(
            [Supervisor([Child(hopeless, id="h")], id="inner", intensity=intensity), stage.child("a")], intensity=outer
        ):
            await trio.sleep_forever()
    each = intensity.restarts + 1
    assert len(starts) == each * 3
    assert set(starts) == {0.0}
    assert len(stage.kept.of(events.GaveUp)) == 4


async def test_with_a_backoff_a_storm_never_burns_a_core(mock_clock: trio.testing.MockClock):
    """An hour of failures costs some hundred starts, and the rest of the tree runs meanwhile."""
    starts: list[float] = []

    async def hopeless(*, task_status: Any) -> None:
        starts.append(trio.current_time())
        task_status.started()
        raise ValueError

    stage = Stage()
    backoff = Backoff(min=0.1, max=30, jitter=0)
    async with stage.open(Supervisor([Child(hopeless, backoff=backoff), Fragile], intensity=LENIENT)) as system:
        for n in range(60):
            await trio.sleep(60)
            assert await system.ref(Fragile).ask(f"{n}") == f"{n}"
    assert 100 < len(starts) < 140
    assert max(later - earlier for earlier, later in pairwise(starts)) == pytest.approx(30)


async def test_a_hundred_that_wait_ring_in_their_order(mock_clock: trio.testing.MockClock):
    """Alarms of many children at many moments are all kept."""
    stage = Stage()
    names = [f"{n:03}" for n in range(100)]
    children = [
        stage.child(name, backoff=Backoff(min=(n * 37) % 100 + 1, max=100, jitter=0)) for n, name in enumerate(names)
    ]
    async with stage.tree(children):
        for name in names:
            stage.tell(name, lambda: 1 / 0)
        await quiet()
        assert stage.up == []
        stage.log.clear()
        for second in range(1, 101):
            await trio.sleep(1)
            await quiet()
            assert len(stage.up) == second
        assert stage.log == [f"+{name}" for name in sorted(names, key=lambda name: int(name) * 37 % 100)]
