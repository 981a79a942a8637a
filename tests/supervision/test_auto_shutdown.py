"""Automatic shutdown: cases 75 to 78, the group `significant` of `supervisor_SUITE`."""

from typing import Any

import pytest
import trio

from actorwork import Supervisor
from actorwork.policy.restart import AutoShutdown, auto_shutdown_due
from tests.supervision.tree_fixture import Stage, quiet, shown


def supervisor(stage: Stage, mode: AutoShutdown, *children: Any, **options: Any) -> Supervisor:
    return Supervisor([*children, stage.child("z")], id="s", auto_shutdown=mode, restart="transient", **options)


@pytest.mark.parametrize("mode", ["never", "any_significant", "all_significant"])
@pytest.mark.parametrize("restart", ["temporary", "transient"])
@pytest.mark.parametrize("how", ["normal", "shutdown", "abnormal"])
async def test_nonsignificant(mode: AutoShutdown, restart: Any, how: str, mock_clock: trio.testing.MockClock):
    """nonsignificant_temporary, nonsignificant_transient: their ends never shut the supervisor down."""
    stage = Stage()
    async with stage.tree([supervisor(stage, mode, stage.child("a", restart=restart))]):
        await stage.ends("a", how)
        assert stage.up == (["a", "z"] if (restart, how) == ("transient", "abnormal") else ["z"])


@pytest.mark.parametrize("mode", ["any_significant", "all_significant"])
@pytest.mark.parametrize("restart", ["temporary", "transient"])
async def test_significant_terminated(mode: AutoShutdown, restart: Any, mock_clock: trio.testing.MockClock):
    """An end that was requested is not the child's own: nothing happens."""
    stage = Stage()
    tree = supervisor(stage, mode, stage.child("a", restart=restart, significant=True))
    async with stage.open([tree]) as system:
        await system.supervisor("s").terminate_child("a")
        await quiet()
        assert stage.up == ["z"]


@pytest.mark.parametrize("how", ["normal", "shutdown", "shutdown info", "abnormal"])
async def test_significant_temporary(how: str, mock_clock: trio.testing.MockClock):
    """However a significant temporary child ends by itself, its supervisor ends with `shutdown`."""
    stage = Stage()
    tree = supervisor(stage, "any_significant", stage.child("a", restart="temporary", significant=True))
    async with stage.tree([tree]) as root:
        await stage.ends("a", how)
        assert await shown(root) == {"s": None}
        assert stage.log[2:] == ["-a", "-z"]
        assert stage.restarts == 0
        assert stage.ended[-1] == ("shutdown", "NoneType")


@pytest.mark.parametrize("how", ["normal", "shutdown", "shutdown info", "abnormal"])
async def test_significant_transient(how: str, mock_clock: trio.testing.MockClock):
    """A significant transient child that dies is restarted; when it has finished, its supervisor ends."""
    stage = Stage()
    tree = supervisor(stage, "any_significant", stage.child("a", restart="transient", significant=True))
    async with stage.tree([tree]) as root:
        await stage.ends("a", how)
        assert await shown(root) == {"s": "up" if how == "abnormal" else None}
        assert stage.up == (["a", "z"] if how == "abnormal" else [])


@pytest.mark.parametrize("restart", ["temporary", "transient"])
async def test_significant_all(restart: Any, mock_clock: trio.testing.MockClock):
    """With all_significant the first end changes nothing, the last one ends the supervisor."""
    stage = Stage()
    children = [stage.child(name, restart=restart, significant=True) for name in ("a", "b")]
    async with stage.tree([supervisor(stage, "all_significant", *children)]) as root:
        await stage.ends("b", "normal")
        assert stage.up == ["a", "z"]
        await stage.ends("a", "normal")
        assert await shown(root) == {"s": None}
        assert stage.up == []


async def test_significant_bystander(mock_clock: trio.testing.MockClock):
    """A significant child that its siblings' restart takes along has not ended by itself."""
    stage = Stage()
    tree = supervisor(
        stage,
        "any_significant",
        stage.child("a"),
        stage.child("t", restart="temporary", significant=True),
        strategy="one_for_all",
    )
    async with stage.tree([tree]):
        await stage.dies("a")
        assert stage.up == ["a", "z"]


async def test_significant_upgrades_to_the_supervisor_above(mock_clock: trio.testing.MockClock):
    """A supervisor that ends so may be significant itself, up to the system, which then ends in order."""
    stage = Stage()
    inner = supervisor(
        stage, "any_significant", stage.child("a", restart="transient", significant=True), significant=True
    )
    async with stage.tree([stage.child("first"), inner], auto_shutdown="any_significant"):
        stage.tell("a", lambda: None)
        await trio.sleep_forever()
    assert stage.log == ["+first", "+a", "+z", "-a", "-z", "-first"]


async def test_a_permanent_supervisor_that_shut_down_is_started_again(mock_clock: trio.testing.MockClock):
    """Automatic shutdown is a normal end: the restart type of the supervisor says what follows."""
    stage = Stage()
    inner = Supervisor(
        [stage.child("a", restart="transient", significant=True)], id="s", auto_shutdown="any_significant"
    )
    async with stage.tree([inner]) as root:
        await stage.ends("a", "normal")
        assert await shown(root) == {"s": "up"}
        assert stage.starts["a"] == 2


def test_when_it_is_due():
    """The decision alone."""
    assert not auto_shutdown_due("never", significant_left=0)
    assert auto_shutdown_due("any_significant", significant_left=3)
    assert not auto_shutdown_due("all_significant", significant_left=1)
    assert auto_shutdown_due("all_significant", significant_left=0)
