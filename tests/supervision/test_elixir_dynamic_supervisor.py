"""Elixir's `DynamicSupervisor`: the cases of `dynamic_supervisor_test.exs` that the other files here do not have.

Named after the originals. What depends on processes, registries and module callbacks has no counterpart.
"""

import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

from actorwork import (
    Actor,
    ActorCrashed,
    Backoff,
    Child,
    ChildInfo,
    DynamicSupervisor,
    Intensity,
    MaxRestartsExceeded,
    Settings,
    SettingsError,
    StartError,
    Supervisor,
    SupervisorRef,
    events,
    receive,
)
from tests.supervision.tree_fixture import LENIENT, Boom, Stage, counts, problem, quiet, raising, shown

STEADY = Backoff(min=10, max=10, jitter=0)


@asynccontextmanager
async def dynamic(stage: Stage, template: Any = None, **options: Any) -> AsyncGenerator[SupervisorRef]:
    """Open a dynamic supervisor under a root that forgives nothing."""
    options.setdefault("intensity", LENIENT)
    tree = Supervisor([DynamicSupervisor(template, name="d", **options)], intensity=Intensity(restarts=0))
    async with stage.open(tree) as system:
        yield system.supervisor("d")


class Args(Actor):
    """Tells what it was made with; any other message is too much for it."""

    settings = Settings(title="args")

    def __init__(self, *arguments: str, **named: str) -> None:
        self.arguments = [*arguments, *(f"{key}={value}" for key, value in named.items())]

    @receive
    async def tell(self, message: str) -> str:
        if message == "raise":
            raise Boom
        return " ".join(self.arguments)


class Slow(Actor):
    """Takes its time at its end."""

    settings = Settings(title="slow")

    def __init__(self, log: list[str], name: str, ending: float) -> None:
        self.log = log
        self.name = name
        self.ending = ending

    async def shutdown(self) -> None:
        try:
            await trio.sleep(self.ending)
        except trio.Cancelled:
            self.log.append(f"{self.name} cancelled at {trio.current_time():g}")
            raise
        self.log.append(f"{self.name} ended at {trio.current_time():g}")


def slow(log: list[str], name: str, ending: float, shutdown: Any, **options: Any) -> Child:
    return Child(partial(Slow, log, name, ending), id=name, shutdown=shutdown, **options)


# ---- init/1 ----


def test_init_sets_default_options():
    """No limit for the children, three restarts in five seconds, no template."""
    spec = DynamicSupervisor()
    assert (spec.max_children, spec.intensity, spec.template) == (math.inf, Intensity(restarts=3, period=5), None)


def test_init_sets_options():
    """What is given is taken."""
    spec = DynamicSupervisor(Args, max_children=5, intensity=Intensity(restarts=3, period=1))
    assert (spec.max_children, spec.intensity) == (5, Intensity(restarts=3, period=1))
    assert spec.template is not None
    assert spec.template.factory is Args


@pytest.mark.parametrize(
    "wrong", [{"max_children": -1}, {"max_children": "infinity"}, {"intensity": 3}, {"template": Supervisor([])}]
)
def test_init_invalid_options(wrong: dict[str, Any]):
    """What is no option's value is refused before anything starts."""
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        DynamicSupervisor(**wrong)


async def test_multiple_supervisors_can_be_supervised(mock_clock: trio.testing.MockClock):
    """Two of them stand side by side under ids of their own, and know nothing of each other's children."""
    stage = Stage()
    async with stage.tree([DynamicSupervisor(id="one"), DynamicSupervisor(id="two")]) as root:
        one, two = [info.handle for info in await root.which_children()]
        ref = await one.start_child(stage.child("a"))
        assert await problem(two.terminate_child(ref)) == "not_found"
        assert (await counts(one), await counts(two)) == ((1, 1, 0, 1), (0, 0, 0, 0))
        assert await counts(root) == (2, 2, 2, 0)


# ---- start_child/2 ----


async def test_start_child_supports_child_specs(mock_clock: trio.testing.MockClock):
    """A class, a Child and a supervisor; ids need not be unique."""
    stage = Stage()
    async with dynamic(stage) as d:
        refs = [await d.start_child(spec) for spec in (Args, Child(Args), Supervisor([stage.child("a")], id="s"))]
        assert await d.which_children() == [
            ChildInfo("args", refs[0], "worker"),
            ChildInfo("args", refs[1], "worker"),
            ChildInfo("s", refs[2], "supervisor"),
        ], "with their ids (there: `:undefined`)"
        assert await counts(d) == (3, 3, 1, 2)


async def test_start_child_with_invalid_child_spec(mock_clock: trio.testing.MockClock):
    """What is no child is refused to who asks; the supervisor lives."""
    stage = Stage()
    async with dynamic(stage) as d:
        await d.start_child(stage.child("a"))
        for wrong in (None, 3, (Args, 1), Args("x")):
            with pytest.raises(SettingsError):
                await d.start_child(wrong)
        with pytest.raises(SettingsError, match="wants one child here"):
            await d.start_child()
        assert await shown(d) == {"a": "up"}


async def test_start_child_with_extra_arguments(mock_clock: trio.testing.MockClock):
    """The template's arguments come first, then those of start_child; both are there again after a restart."""
    stage = Stage()
    async with dynamic(stage, Child(partial(Args, "these", key="value"))) as d:
        plain, more = await d.start_child(), await d.start_child("that", other="thing")
        for _ in range(2):
            assert await plain.ask("tell") == "these key=value"
            assert await more.ask("tell") == "these that key=value other=thing"
            for ref in (plain, more):
                with pytest.raises(ActorCrashed, match="Boom"):
                    await ref.ask("raise")
            await quiet()
        assert stage.restarts == 4


async def test_start_child_with_different_returns(mock_clock: trio.testing.MockClock):
    """Ignored, failed and ended starts answer who asked, and are not kept; nothing counts as a restart."""
    stage = Stage()
    stage.plan = {"ignore": ["ignore"], "fail": ["fail"], "return": ["return"]}
    async with dynamic(stage, intensity=Intensity(restarts=0)) as d:
        assert await d.start_child(stage.child("ok")) is not None
        assert await d.start_child(stage.child("ignore")) is None
        with pytest.raises(StartError) as caught:
            await d.start_child(stage.child("fail"))
        assert isinstance(caught.value.__cause__, Boom)
        with pytest.raises(StartError, match="returned before it had started"):
            await d.start_child(stage.child("return"))
        assert await shown(d) == {"ok": "up"}
        assert await counts(d) == (1, 1, 0, 1)
        assert stage.restarts == 0


async def test_start_child_with_max_children_infinity(mock_clock: trio.testing.MockClock):
    """Without a limit any number can be started."""
    stage = Stage()
    async with dynamic(stage, stage.child("a"), max_children=math.inf) as d:
        for _ in range(100):
            await d.start_child()
        assert await counts(d) == (100, 100, 0, 100)


async def test_start_child_ignored_and_failed_do_not_count_for_max_children(mock_clock: trio.testing.MockClock):
    """What is not kept takes no place; what ended for good gives its place back."""
    stage = Stage()
    stage.plan = {"ignore": ["ignore"], "fail": ["fail"]}
    async with dynamic(stage, max_children=1) as d:
        assert await d.start_child(stage.child("ignore")) is None
        with pytest.raises(StartError):
            await d.start_child(stage.child("fail"))
        await d.start_child(stage.child("a", restart="temporary"))
        assert await problem(d.start_child(stage.child("b"))) == "max_children"
        await stage.dies("a")
        await d.start_child(stage.child("b"))
        assert await shown(d) == {"b": "up"}


async def test_restarting_children_are_counted_in_max_children(mock_clock: trio.testing.MockClock):
    """One that waits for its restart keeps its place, until it is terminated."""
    stage = Stage()
    async with dynamic(stage, max_children=1) as d:
        a = await d.start_child(stage.child("a", backoff=STEADY))
        await stage.dies("a")
        assert await shown(d) == {"a": "restarting"}
        assert await problem(d.start_child(stage.child("b"))) == "max_children"
        await d.terminate_child(a)
        await d.start_child(stage.child("b"))


# ---- restarts ----


@pytest.mark.parametrize("how", ["normal", "shutdown", "shutdown info", "abnormal"])
@pytest.mark.parametrize("restart", ["temporary", "transient", "permanent"])
async def test_child_is_restarted_or_not(restart: Any, how: str, mock_clock: trio.testing.MockClock):
    """Temporary never, transient after an abnormal end, permanent always; who is not, is not kept.

    A transient one that ended in order is gone here as there.
    """
    stage = Stage()
    async with dynamic(stage, stage.child("a", restart=restart)) as d:
        ref = await d.start_child()
        await stage.ends("a", how)
        if restart == "permanent" or (restart == "transient" and how == "abnormal"):
            assert stage.starts["a"] == 2
            assert [info.handle for info in await d.which_children()] == [ref], "the same ref (there: a new pid)"
        else:
            assert stage.starts["a"] == 1
            assert await d.which_children() == []
            assert await problem(d.terminate_child(ref)) == "not_found"


async def test_child_is_restarted_with_different_values(mock_clock: trio.testing.MockClock):
    """A restart that is ignored removes the child, without another try."""
    stage = Stage()
    stage.plan = {"a": ["ok", "ok", "ignore"]}
    async with dynamic(stage) as d:
        await d.start_child(stage.child("a"))
        await stage.dies("a")
        assert await shown(d) == {"a": "up"}
        await stage.dies("a")
        assert await d.which_children() == []
        assert (stage.starts["a"], stage.restarts) == (3, 2)


async def test_child_is_restarted_when_trying_again(mock_clock: trio.testing.MockClock):
    """Restarts that fail are tried again, each counts, and the child is there in the end, under its ref."""
    stage = Stage()
    async with dynamic(stage, intensity=Intensity(restarts=3)) as d:
        ref = await d.start_child(stage.child("a"))
        stage.plan = {"a": ["fail", "return", "ok"]}
        await stage.dies("a")
        assert (stage.starts["a"], stage.restarts) == (4, 3)
        assert [info.handle for info in await d.which_children()] == [ref]
        assert await counts(d) == (1, 1, 0, 1)


async def test_child_is_shown_as_restarting_between_two_tries(mock_clock: trio.testing.MockClock):
    """While it waits for the next try it is `restarting`, and not active; its sibling is not touched.

    The wait is a backoff, which Elixir does not have.
    """
    stage = Stage()
    async with dynamic(stage) as d:
        await d.start_child(stage.child("a", backoff=STEADY))
        await d.start_child(stage.child("b"))
        stage.plan = {"a": ["fail", "fail", "ok"]}
        await stage.dies("a")
        for starts in (1, 2, 3):
            assert stage.starts["a"] == starts
            assert await shown(d) == {"a": "restarting", "b": "up"}
            assert await counts(d) == (2, 1, 0, 2)
            await trio.sleep(10.5)
        assert trio.current_time() > 30
        assert await shown(d) == {"a": "up", "b": "up"}
        assert stage.starts["b"] == 1


async def test_child_triggers_maximum_restarts(mock_clock: trio.testing.MockClock):
    """One restart too many ends the supervisor, and the other children with it.

    It ends abnormally (there with `shutdown`).
    """
    stage = Stage()
    with pytest.raises(MaxRestartsExceeded) as caught:
        async with dynamic(stage, intensity=Intensity(restarts=1)) as d:
            for name in ("a", "b", "c"):
                await d.start_child(stage.child(name, restart="temporary" if name == "c" else "permanent"))
            await stage.dies("a")
            await stage.dies("c")  # no restart, so nothing that counts
            assert stage.up == ["a", "b"]
            stage.tell("b", raising(Boom("b")))
            await trio.sleep_forever()
    assert isinstance(caught.value.__cause__, MaxRestartsExceeded)
    assert isinstance(caught.value.__cause__.__cause__, Boom)
    assert stage.up == []


async def test_child_triggers_maximum_intensity_when_trying_again(mock_clock: trio.testing.MockClock):
    """Retries count: a restart that keeps failing ends the supervisor, and the other children with it."""
    stage = Stage()
    with pytest.raises(MaxRestartsExceeded):
        async with dynamic(stage, intensity=Intensity(restarts=3)) as d:
            await d.start_child(stage.child("a"))
            await d.start_child(stage.child("b"))
            stage.plan = {"a": ["fail"]}
            stage.tell("a", lambda: None)
            await trio.sleep_forever()
    assert stage.starts == {"a": 4, "b": 1}
    assert stage.up == []


async def test_child_triggers_maximum_seconds(mock_clock: trio.testing.MockClock):
    """Restarts that are older than the period are forgotten."""
    stage = Stage()
    with pytest.raises(MaxRestartsExceeded):
        async with dynamic(stage, intensity=Intensity(restarts=1, period=1)) as d:
            await d.start_child(stage.child("a"))
            for _ in range(5):
                await stage.dies("a")
                assert stage.up == ["a"]
                await trio.sleep(1.5)
            await stage.dies("a")
            await trio.sleep(1)  # exactly so old still counts (there: whole seconds)
            stage.tell("a", lambda: None)
            await trio.sleep_forever()
    assert stage.starts["a"] == 7


# ---- terminate_child/2, count_children/1, which_children/1 ----


@pytest.mark.parametrize("restart", ["temporary", "transient", "permanent"])
async def test_terminate_child(restart: Any, mock_clock: trio.testing.MockClock):
    """A child that is terminated is not started again and not kept, whatever its restart type; the others live."""
    stage = Stage()
    async with dynamic(stage, intensity=Intensity(restarts=0)) as d:
        a = await d.start_child(stage.child("a", restart=restart))
        await d.start_child(stage.child("b"))
        await d.terminate_child(a)
        assert await problem(d.terminate_child(a)) == "not_found"
        assert await shown(d) == {"b": "up"}
        assert (stage.starts["a"], stage.restarts) == (1, 0)


async def test_terminate_child_restarting(mock_clock: trio.testing.MockClock):
    """A child that waits for another try is gone with its ref, and is not tried again."""
    stage = Stage()
    async with dynamic(stage) as d:
        a = await d.start_child(stage.child("a", backoff=STEADY))
        stage.plan = {"a": ["fail"]}
        await stage.dies("a")
        await trio.sleep(10.5)
        assert stage.starts["a"] == 2
        assert await shown(d) == {"a": "restarting"}
        await d.terminate_child(a)
        assert await counts(d) == (0, 0, 0, 0)
        await trio.sleep(100)
        assert stage.starts["a"] == 2
        assert await problem(d.terminate_child(a)) == "not_found"


async def test_terminate_child_unknown(mock_clock: trio.testing.MockClock):
    """What is no ref of a child here is not found: an id neither."""
    stage = Stage()
    async with dynamic(stage) as d:
        a = await d.start_child(stage.child("a"))
        await stage.ends("a", "normal")
        for unknown in ("a", None, 3, d, object()):
            assert await problem(d.terminate_child(unknown)) == "not_found"
        await d.terminate_child(a)


@pytest.mark.parametrize(
    ("ending", "shutdown", "log", "kind"),
    [
        (50, "brutal_kill", [], "killed"),
        (1, 2, ["a ended at 1"], "shutdown"),
        (50, 2, ["a cancelled at 2"], "shutdown"),
        (5000, math.inf, ["a ended at 5000"], "shutdown"),
    ],
)
async def test_terminate_child_shutdown(
    ending: float, shutdown: Any, log: list[str], kind: str, mock_clock: trio.testing.MockClock
):
    """Brutal kill, an end within its time, one beyond it, and one that has all the time it needs.

    A `shutdown` hook that is cut short is reported as trouble, and the exit is `shutdown` (there: `killed`).
    """
    stage = Stage()
    told: list[str] = []
    async with dynamic(stage) as d:
        await d.terminate_child(await d.start_child(slow(told, "a", ending, shutdown)))
        assert told == log
        assert [exited.exit.kind.value for exited in stage.kept.of(events.ChildExited)] == [kind]
        troubles = [type(trouble.error) for trouble in stage.kept.of(events.ActorTrouble)]
        assert troubles == ([trio.TooSlowError] if "cancelled" in "".join(log) else [])
        assert await counts(d) == (0, 0, 0, 0)


async def test_count_and_which_children(mock_clock: trio.testing.MockClock):
    """Running, restarting, and supervisors: in start order (there in none)."""
    stage = Stage()
    async with dynamic(stage) as d:
        assert await d.which_children() == []
        assert await counts(d) == (0, 0, 0, 0)
        await d.start_child(stage.child("a"))
        await d.start_child(stage.child("b", backoff=STEADY))
        await d.start_child(DynamicSupervisor(id="s"))
        await stage.dies("b")
        assert [(info.id, info.type) for info in await d.which_children()] == [
            ("a", "worker"),
            ("b", "worker"),
            ("s", "supervisor"),
        ]
        assert await shown(d) == {"a": "up", "b": "restarting", "s": "up"}
        assert await counts(d) == (3, 2, 1, 2)


# ---- terminate/2: the supervisor ends ----


async def test_terminates_children_with_different_shutdowns_in_parallel(mock_clock: trio.testing.MockClock):
    """Each within its own bound, all at once: it takes as long as the slowest."""
    stage = Stage()
    log: list[str] = []
    async with dynamic(stage) as d:
        await d.start_child(slow(log, "killed", 50, "brutal_kill"))
        await d.start_child(slow(log, "forever", 30, math.inf))
        await d.start_child(slow(log, "late", 50, 3))
        await d.start_child(slow(log, "temporary", 2, 3, restart="temporary"))
        await d.start_child(slow(log, "quick", 1, 3, restart="transient"))
    assert log == ["quick ended at 1", "temporary ended at 2", "late cancelled at 3", "forever ended at 30"]
    assert trio.current_time() == 30


async def test_terminates_children_that_restart(mock_clock: trio.testing.MockClock):
    """One that waits for its restart holds up nothing, and is not started again."""
    stage = Stage()
    async with dynamic(stage) as d:
        await d.start_child(stage.child("a", backoff=STEADY))
        await d.start_child(stage.child("b"))
        await stage.dies("a")
    assert trio.current_time() == 0
    assert stage.starts == {"a": 1, "b": 1}


async def test_terminates_children_that_fail_to_end(mock_clock: trio.testing.MockClock):
    """What a child raises while it ends is reported; it ends neither the others nor the system otherwise."""
    stage = Stage()

    async def sore(*, task_status: Any) -> None:
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            raise Boom("at its end")

    log: list[str] = []
    async with dynamic(stage) as d:
        await d.start_child(Child(sore))
        await d.start_child(slow(log, "a", 2, 3))
    assert log == ["a ended at 2"]
    assert stage.ended[0] == ("shutdown", "Boom")
