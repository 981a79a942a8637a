"""Elixir's `Supervisor`: the cases of `supervisor_test.exs` that the other files here do not have.

Named after the originals. What depends on processes, registries and module callbacks has no counterpart.
"""

import math
from functools import partial
from typing import Any

import attrs
import pytest
import trio

from actorwork import (
    Actor,
    ActorCrashed,
    Child,
    ChildInfo,
    DynamicSupervisor,
    Intensity,
    MaxRestartsExceeded,
    Settings,
    SettingsError,
    StartError,
    Supervisor,
    receive,
)
from tests.supervision.tree_fixture import Boom, Stage, counts, problem, shown


class Stack(Actor):
    """The stack of the original: gives what was pushed last; an empty one fails."""

    settings = Settings(title="stack")

    def __init__(self, *items: str) -> None:
        self.items = list(items)

    @receive
    async def pop(self, message: str) -> str:
        return self.items.pop(0)


# ---- child_spec/2 ----


def test_child_spec_defaults():
    """A class is a permanent worker with five seconds for its end, under its title."""
    (spec,) = Supervisor([Stack]).children
    assert isinstance(spec, Child)
    assert (spec.child_id, spec.factory, spec.restart, spec.shutdown) == ("stack", Stack, "permanent", 5.0)
    assert (spec.significant, spec.is_supervisor) == (False, False)


@pytest.mark.parametrize("spec", [Supervisor([]), DynamicSupervisor()])
def test_child_spec_defaults_of_a_supervisor(spec: Supervisor | DynamicSupervisor):
    """A supervisor is a permanent child with all the time it needs."""
    assert (spec.restart, spec.shutdown, spec.is_supervisor) == ("permanent", math.inf, True)


def test_child_spec_overrides():
    """Each field can be replaced, and the description that was given stays what it was."""
    given = Child(Stack)
    spec = attrs.evolve(given, id="other", restart="temporary", shutdown="brutal_kill")
    assert (spec.child_id, spec.factory, spec.restart, spec.shutdown) == ("other", Stack, "temporary", "brutal_kill")
    assert (given.child_id, given.restart, given.shutdown) == ("stack", "permanent", 5.0)


def test_child_spec_overrides_unknown():
    """An unknown field is refused, and so is a value that a field cannot have."""
    wrong: dict[str, Any] = {"other": True}
    with pytest.raises(TypeError, match="other"):
        attrs.evolve(Child(Stack), **wrong)
    wrong = {"restart": "sometimes"}
    with pytest.raises(SettingsError, match="wants 'permanent', 'transient' or 'temporary'"):
        attrs.evolve(Child(Stack), **wrong)


async def test_supervisor_can_be_supervised_directly(mock_clock: trio.testing.MockClock):
    """A supervisor can be a child as it is, and two of them with ids of their own."""
    stage = Stage()
    inner = Supervisor([Stack], id="one")
    async with stage.tree([inner, attrs.evolve(inner, id="two", children=[stage.child("a")])]) as root:
        assert [(info.id, info.type) for info in await root.which_children()] == [
            ("one", "supervisor"),
            ("two", "supervisor"),
        ]
        assert await counts(root) == (2, 2, 2, 0)


# ---- init/2 and start_link/2 ----


def test_init_strategy():
    """The strategy is `one_for_one`, three restarts in five seconds, unless it is said otherwise.

    Elixir wants the strategy to be given.
    """
    default = Supervisor([])
    assert (default.strategy, default.intensity, default.auto_shutdown) == (
        "one_for_one",
        Intensity(restarts=3, period=5),
        "never",
    )
    given = Supervisor([], strategy="rest_for_one", intensity=Intensity(restarts=1, period=2))
    assert (given.strategy, given.intensity) == ("rest_for_one", Intensity(restarts=1, period=2))


@pytest.mark.parametrize(
    "wrong",
    [{"strategy": "simple_one_for_one"}, {"strategy": None}, {"intensity": 3}, {"auto_shutdown": True}],
)
def test_init_invalid_options(wrong: dict[str, Any]):
    """What is no option's value is refused before anything starts."""
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        Supervisor([Stack], **wrong)


@pytest.mark.parametrize("wrong", [3, "stack", (Stack, 1, "x"), Stack("x"), None])
def test_init_invalid_child(wrong: object):
    """What is no child is refused before anything starts."""
    with pytest.raises(SettingsError):
        Supervisor([wrong])


async def test_start_link_with_duplicate_ids(mock_clock: trio.testing.MockClock):
    """Two children of one id are refused, and nothing has started; with another id both run."""
    stage = Stage()
    with pytest.raises(SettingsError, match="two children have the id 'a'"):
        async with stage.tree([stage.child("a"), stage.child("b", id="a")]):
            raise AssertionError("it started")
    assert stage.log == []
    async with stage.tree([stage.child("a"), stage.child("a", id="b")]) as root:
        assert await shown(root) == {"a": "up", "b": "up"}


async def test_start_link(mock_clock: trio.testing.MockClock):
    """A child that crashes is there again with its first state, under the same ref (there: a new pid)."""
    stage = Stage()
    async with stage.tree([Child(partial(Stack, "hello", "world"))]) as root:
        (info,) = await root.which_children()
        stack = info.handle
        assert [await stack.ask("pop"), await stack.ask("pop")] == ["hello", "world"]
        with pytest.raises(ActorCrashed, match="IndexError"):
            await stack.ask("pop")
        assert await stack.ask("pop") == "hello"
        assert stage.restarts == 1
        assert await root.which_children() == [info]


async def test_start_link_with_ignore_between(mock_clock: trio.testing.MockClock):
    """A child that ignores its start does not hold up those after it; restart_child asks it again."""
    stage = Stage()
    stage.plan = {"b": ["ignore", "ignore", "ok"]}
    async with stage.tree([stage.child("a"), stage.child("b"), stage.child("c")]) as root:
        assert await shown(root) == {"a": "up", "b": None, "c": "up"}
        assert await root.restart_child("b") is None
        assert await shown(root) == {"a": "up", "b": None, "c": "up"}
        assert await root.restart_child("b") is not None
        assert await shown(root) == {"a": "up", "b": "up", "c": "up"}


async def test_start_link_with_a_failing_child(mock_clock: trio.testing.MockClock):
    """The start fails with the child's error, those before it are stopped, those after it never started."""
    stage = Stage()
    stage.plan = {"b": ["fail"]}
    with pytest.raises(StartError) as caught:
        async with stage.tree([stage.child("a"), stage.child("b"), stage.child("c")]):
            raise AssertionError("it started")
    assert isinstance(caught.value.__cause__, Boom)
    assert stage.log == ["+a", "-a"]
    assert stage.starts["c"] == 0


@pytest.mark.parametrize(
    ("strategy", "log"),
    [
        ("one_for_one", ["-b", "+b"]),
        ("rest_for_one", ["-b", "-c", "+b", "+c"]),
        ("one_for_all", ["-b", "-c", "-a", "+a", "+b", "+c"]),
    ],
)
async def test_start_link_strategies(strategy: Any, log: list[str], mock_clock: trio.testing.MockClock):
    """Who is restarted together with the one in the middle."""
    stage = Stage()
    async with stage.tree([stage.child("a"), stage.child("b"), stage.child("c")], strategy=strategy):
        stage.log.clear()
        await stage.dies("b")
        assert stage.log == log
        assert stage.restarts == 1


async def test_start_link_max_restarts(mock_clock: trio.testing.MockClock):
    """Restarts that lie within the limit are made; one more ends the supervisor.

    It ends abnormally (there with `shutdown`).
    """
    stage = Stage()
    with pytest.raises(MaxRestartsExceeded) as caught:
        async with stage.tree([stage.child("a"), stage.child("b")], intensity=Intensity(restarts=2, period=5)):
            await stage.dies("a")
            await stage.dies("b")
            assert stage.up == ["a", "b"]
            stage.tell("a", lambda: 1 / 0)
            await trio.sleep_forever()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert stage.up == []


# ---- the functions for children ----


async def test_child_functions(mock_clock: trio.testing.MockClock):
    """The whole life of a child, its counts and its refusals (`*_child functions`)."""
    stage = Stage()
    async with stage.tree([]) as root:
        assert await root.which_children() == []
        assert await counts(root) == (0, 0, 0, 0)
        stack = await root.start_child(Child(partial(Stack, "hello"), id=Stack))
        assert await stack.ask("pop") == "hello"
        assert await root.which_children() == [ChildInfo(Stack, stack, "worker")]
        assert await counts(root) == (1, 1, 0, 1)
        assert await problem(root.delete_child(Stack)) == "running"
        assert await problem(root.restart_child(Stack)) == "running"
        assert await problem(root.start_child(Child(Stack, id=Stack))) == "already_started"
        await root.terminate_child(Stack)
        assert await problem(root.start_child(Child(Stack, id=Stack))) == "already_present"
        assert await root.which_children() == [ChildInfo(Stack, None, "worker")]
        assert await counts(root) == (1, 0, 0, 1)
        again = await root.restart_child(Stack)
        assert again == stack, "a ref is good after a restart (there: a new pid)"
        assert await again.ask("pop") == "hello"
        await root.terminate_child(Stack)
        await root.delete_child(Stack)
        for request in (root.terminate_child, root.restart_child, root.delete_child):
            assert await problem(request(Stack)) == "not_found"
        assert await counts(root) == (0, 0, 0, 0)


async def test_start_child_with_invalid_child(mock_clock: trio.testing.MockClock):
    """What is no child is refused to who asks; the supervisor lives."""
    stage = Stage()
    async with stage.tree([stage.child("a")]) as root:
        for wrong in (None, "stack", (Stack, 1)):
            with pytest.raises(SettingsError):
                await root.start_child(wrong)
        assert await shown(root) == {"a": "up"}
        assert stage.log == ["+a"]


async def test_start_child_after_a_failed_one(mock_clock: trio.testing.MockClock):
    """Of a child that did not start nothing is kept: its id is free at once."""
    stage = Stage()
    stage.plan = {"a": ["fail", "ok"]}
    async with stage.tree([]) as root:
        with pytest.raises(StartError):
            await root.start_child(stage.child("a"))
        assert await problem(root.restart_child("a")) == "not_found"
        await root.start_child(stage.child("a"))
        assert await shown(root) == {"a": "up"}


@pytest.mark.parametrize("how", ["terminated", "normal"])
async def test_terminate_child_temporary(how: str, mock_clock: trio.testing.MockClock):
    """The place of a temporary child goes with it."""
    stage = Stage()
    async with stage.tree([stage.child("a", restart="temporary"), stage.child("b")]) as root:
        if how == "terminated":
            await root.terminate_child("a")
        else:
            await stage.ends("a", how)
        assert await shown(root) == {"b": "up"}
        for request in (root.terminate_child, root.restart_child, root.delete_child):
            assert await problem(request("a")) == "not_found"


async def test_restart_child_keeps_its_place(mock_clock: trio.testing.MockClock):
    """A child that is terminated and started again keeps its place; one that is deleted comes back last."""
    stage = Stage()
    async with stage.tree([stage.child("a"), stage.child("b"), stage.child("c")]) as root:
        await root.terminate_child("a")
        await root.restart_child("a")
        assert list(await shown(root)) == ["a", "b", "c"]
        await root.terminate_child("a")
        await root.delete_child("a")
        await root.start_child(stage.child("a"))
        assert list(await shown(root)) == ["b", "c", "a"], "in start order (there: in reverse)"


async def test_restart_child_that_finished(mock_clock: trio.testing.MockClock):
    """A transient child that finished leaves its place, and can be started again; that counts as no restart."""
    stage = Stage()
    async with stage.tree([stage.child("a", restart="transient")], intensity=Intensity(restarts=0)) as root:
        for _ in range(3):
            await stage.ends("a", "normal")
            assert await counts(root) == (1, 0, 0, 1)
            await root.restart_child("a")
            assert await counts(root) == (1, 1, 0, 1)
        assert stage.restarts == 0


async def test_count_children(mock_clock: trio.testing.MockClock):
    """Defined and running ones, supervisors and workers; what runs is no matter for the kind."""
    stage = Stage()
    stage.plan = {"c": ["ignore"]}
    tree = [
        stage.child("a"),
        stage.child("b"),
        stage.child("c"),
        Supervisor([Stack], id="s"),
        DynamicSupervisor(id="d"),
    ]
    async with stage.tree(tree) as root:
        assert await counts(root) == (5, 4, 2, 3)
        await root.terminate_child("a")
        await root.terminate_child("s")
        assert await counts(root) == (5, 2, 2, 3)
        assert [(info.id, info.type) for info in await root.which_children() if info.handle is None] == [
            ("a", "worker"),
            ("c", "worker"),
            ("s", "supervisor"),
        ]
