"""Boot and child specifications: cases 1 to 22 of OTP's `supervisor_SUITE`, and Elixir's `init` tests."""

import math
import traceback
from typing import Any, get_args

import pytest
import trio

from actorwork import (
    Actor,
    Backoff,
    Child,
    ChildError,
    DynamicSupervisor,
    Ignore,
    Intensity,
    Settings,
    SettingsError,
    StartError,
    Supervisor,
    check_child_specs,
    events,
    receive,
)
from actorwork.policy.exits import Kind, Restart
from tests.supervision.tree_fixture import LENIENT, Boom, Stage, counts, quiet, shown


async def idle(*, task_status: Any) -> None:
    task_status.started()
    await trio.sleep_forever()


async def test_sup_start_normal(mock_clock: trio.testing.MockClock):
    """A supervisor without children starts, and ends with `shutdown` when it is asked to."""
    stage = Stage()
    async with stage.tree([Supervisor([], name="empty")]) as root:
        assert await counts(root) == (1, 1, 1, 0)
    assert stage.ended == [("shutdown", "NoneType")]


async def test_sup_start_ignore_init(mock_clock: trio.testing.MockClock):
    """A tree in which everything ignores its start starts, with nothing running, and ends without an error."""
    stage = Stage()
    stage.plan = {"a": ["ignore"]}
    async with stage.tree([Supervisor([stage.child("a")], name="inner")]) as root:
        assert await counts(root) == (1, 1, 1, 0)
        assert stage.up == []
    assert stage.ended == [("shutdown", "NoneType")]


async def test_sup_start_ignore_child(mock_clock: trio.testing.MockClock):
    """A permanent child that ignores its start is None, and its specification is kept."""
    stage = Stage()
    stage.plan = {"b": ["ignore"]}
    async with stage.tree([stage.child("a")]) as root:
        assert await root.start_child(stage.child("b")) is None
        assert await shown(root) == {"a": "up", "b": None}
        assert await counts(root) == (2, 1, 0, 2)
        assert stage.restarts == 0


async def test_sup_start_ignore_temporary_child(mock_clock: trio.testing.MockClock):
    """A temporary child of the boot list that ignores its start is not kept."""
    stage = Stage()
    stage.plan = {"b": ["ignore"]}
    async with stage.tree([stage.child("a"), stage.child("b", restart="temporary")]) as root:
        assert await shown(root) == {"a": "up"}
        assert await counts(root) == (1, 1, 0, 1)


async def test_sup_start_ignore_temporary_child_start_child(mock_clock: trio.testing.MockClock):
    """The same through start_child."""
    stage = Stage()
    stage.plan = {"b": ["ignore"]}
    async with stage.tree([stage.child("a")]) as root:
        assert await root.start_child(stage.child("b", restart="temporary")) is None
        assert await counts(root) == (1, 1, 0, 1)


async def test_sup_start_ignore_temporary_child_start_child_simple(mock_clock: trio.testing.MockClock):
    """In a dynamic supervisor only the child that runs is listed."""
    stage = Stage()
    stage.plan = {"x": ["ignore", "ok"]}
    async with stage.open(DynamicSupervisor(stage.child("x", restart="temporary"), name="d")) as system:
        dynamic = system.supervisor("d")
        assert await dynamic.start_child() is None
        task = await dynamic.start_child()
        assert [info.handle for info in await dynamic.which_children()] == [task]
        assert await counts(dynamic) == (1, 1, 0, 1)


async def test_sup_start_ignore_permanent_child_start_child_simple(mock_clock: trio.testing.MockClock):
    """A dynamic supervisor keeps no permanent child that ignores, and ends in order afterwards."""
    stage = Stage()
    stage.plan = {"x": ["ignore"]}
    async with stage.open(DynamicSupervisor(stage.child("x"), name="d")) as system:
        dynamic = system.supervisor("d")
        assert await dynamic.start_child() is None
        assert await counts(dynamic) == (0, 0, 0, 0)


async def test_sup_start_error_return(mock_clock: trio.testing.MockClock):
    """A child that returns without having started fails the start, and nothing is left."""
    stage = Stage()
    stage.plan = {"b": ["return"]}
    with pytest.raises(StartError, match="returned before it had started"):
        async with stage.tree([stage.child("a"), stage.child("b")]):
            pass
    assert stage.log == ["+a", "-a"]


async def test_sup_start_fail(mock_clock: trio.testing.MockClock):
    """What a child raises at its start comes out as the cause of one error."""
    stage = Stage()
    stage.plan = {"a": ["fail"]}
    with pytest.raises(StartError, match="Boom: a does not start") as caught:
        async with stage.tree([stage.child("a")]):
            pass
    assert isinstance(caught.value.__cause__, Boom)
    assert caught.value.child_id == "a"


async def test_sup_start_restart_child_returns_error(mock_clock: trio.testing.MockClock):
    """A restart_child that fails raises its error; the record stays empty, and no restart is counted."""
    stage = Stage()
    async with stage.tree([stage.child("a")], intensity=Intensity(restarts=0)) as root:
        await root.terminate_child("a")
        stage.plan = {"a": ["fail"]}
        with pytest.raises(StartError) as caught:
            await root.restart_child("a")
        assert isinstance(caught.value.__cause__, Boom)
        assert await shown(root) == {"a": None}
        assert stage.restarts == 0


@pytest.mark.parametrize("how", ["fail", "return", "slow fail"])
async def test_sup_start_child_returns_error(how: str, mock_clock: trio.testing.MockClock):
    """A start_child that fails raises the child's error, and keeps nothing of it."""
    stage = Stage()
    stage.plan = {"a": [how]}
    async with stage.tree([]) as root:
        with pytest.raises(StartError) as caught:
            await root.start_child(stage.child("a"))
        assert caught.value.child_id == "a"
        assert caught.value.__cause__ is not None
        assert await root.which_children() == []
        assert stage.restarts == 0


@pytest.mark.parametrize("how", ["fail", "return", "slow fail"])
async def test_sup_start_child_returns_error_simple(how: str, mock_clock: trio.testing.MockClock):
    """The same in a dynamic supervisor."""
    stage = Stage()
    stage.plan = {"a": [how]}
    async with stage.open(DynamicSupervisor(stage.child("a"), name="d")) as system:
        with pytest.raises(StartError):
            await system.supervisor("d").start_child()
        assert await system.supervisor("d").which_children() == []
        assert stage.restarts == 0


async def test_sup_start_map():
    """What is not said about a child has OTP's defaults; what is unknown is not found."""
    child = Child(idle)
    assert (child.restart, child.shutdown, child.is_supervisor, child.significant) == ("permanent", 5.0, False, False)
    nested = Supervisor([], id="s")
    assert (nested.restart, nested.shutdown, nested.is_supervisor) == ("permanent", math.inf, True)
    stage = Stage()
    killed = stage.child("b", shutdown="brutal_kill")
    async with stage.tree([stage.child("a"), killed]) as root:
        assert await root.get_child_spec("b") is killed
        with pytest.raises(ChildError, match=r"no child 'c'; it has 'a', 'b'") as caught:
            await root.get_child_spec("c")
        assert (caught.value.problem, caught.value.child_id) == ("not_found", "c")


async def test_sup_start_map_simple(mock_clock: trio.testing.MockClock):
    """In a dynamic supervisor the specification of every child is its template's; others are not found."""
    stage = Stage()
    template = stage.child("x", shutdown=7)
    async with stage.open(DynamicSupervisor(template, name="d")) as system:
        dynamic = system.supervisor("d")
        tasks = [await dynamic.start_child() for _ in range(3)]
        for task in tasks:
            spec: Any = await dynamic.get_child_spec(task)
            assert (spec.id, spec.shutdown, spec.restart) == ("x", 7, "permanent")
        others: list[object] = ["x", None, 3, [], object()]
        for other in others:
            with pytest.raises(ChildError):
                await dynamic.get_child_spec(other)


def test_sup_start_map_faulty_specs():
    """A missing start, something that is no specification, and unknown fields are refused, each by its name."""
    with pytest.raises(TypeError, match="factory"):
        Child()  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    with pytest.raises(TypeError, match="pid"):
        Child(idle, pid=3)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    with pytest.raises(SettingsError, match=r"a tree is made of .*got 3"):
        Supervisor([3])
    with pytest.raises(SettingsError, match="wants a list of children, got 'abc'"):
        Supervisor("abc")
    with pytest.raises(SettingsError, match="partial of one, or an async function"):
        Child(print)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"restart": "prmanent"}, "Child.restart wants 'permanent', 'transient' or 'temporary', got 'prmanent'"),
        ({"shutdown": -10}, "Child.shutdown wants seconds >= 0, inf or 'brutal_kill', got -10"),
        ({"shutdown": "brutal"}, "Child.shutdown wants"),
        ({"shutdown": math.nan}, "Child.shutdown wants"),
        ({"shutdown": True}, "Child.shutdown wants"),
        ({"startup_timeout": -1}, "Child.startup_timeout wants seconds >= 0, got -1"),
        ({"startup_timeout": "soon"}, "Child.startup_timeout wants"),
        ({"id": []}, r"Child.id wants something hashable, got \[\]"),
        ({"backoff": 3}, "[bB]ackoff"),
        ({"significant": "yes", "restart": "transient"}, "Child.significant wants True or False, got 'yes'"),
        ({"significant": True}, "a significant child must end for good some day, so it cannot be permanent"),
    ],
)
def test_child_specs_map(wrong: dict[str, Any], text: str):
    """Each defect of a specification is refused with its own sentence."""
    with pytest.raises(SettingsError, match=text):
        Child(idle, **wrong)


@pytest.mark.parametrize("restart", get_args(Restart))
@pytest.mark.parametrize("shutdown", [0, 1, 1.5, math.inf, "brutal_kill"])
def test_child_specs(restart: Restart, shutdown: Any):
    """Every legal combination of restart, shutdown and type is accepted."""
    for spec in (
        Child(idle, restart=restart, shutdown=shutdown),
        Supervisor([], restart=restart, shutdown=shutdown),
        DynamicSupervisor(restart=restart, shutdown=shutdown),
    ):
        assert check_child_specs([spec]) == []


def test_check_child_specs_returns_one_sentence_for_each_defect():
    """The validator is pure, and tells everything at once."""
    problems = check_child_specs(
        [3, Child(idle, id="a"), Child(idle, id="a"), Child(idle, id="b", restart="transient", significant=True)]
    )
    assert len(problems) == 3
    assert "got 3" in problems[0]
    assert problems[1] == "two children have the id 'a'; ids are unique among siblings: give one of them an id=…"
    assert "significant" in problems[2]
    assert check_child_specs([Child(idle)]) == []


def test_duplicate_child_name():
    """Two children of one supervisor may not have one id; two of different supervisors may."""
    with pytest.raises(SettingsError, match="two children have the id 'a'"):
        Supervisor([Child(idle, id="a"), Child(idle, id="a")])
    Supervisor([Supervisor([Child(idle, id="a")], id=1), Supervisor([Child(idle, id="a")], id=2)])


def test_a_dynamic_supervisor_has_one_template_at_most():
    """Several templates are refused, as are one that is no child and one that is significant."""
    with pytest.raises(SettingsError, match="exactly one template, got 2"):
        DynamicSupervisor([Child(idle), Child(idle)])
    with pytest.raises(SettingsError, match="an actor class or a Child as its template"):
        DynamicSupervisor(Supervisor([]))
    with pytest.raises(SettingsError, match="template cannot be significant"):
        DynamicSupervisor(Child(idle, restart="transient", significant=True))


def test_significant_needs_auto_shutdown():
    """A significant child under a supervisor that never shuts down by itself is refused."""
    significant = Child(idle, restart="transient", significant=True)
    with pytest.raises(SettingsError, match="no effect without auto_shutdown"):
        Supervisor([significant])
    Supervisor([significant], auto_shutdown="any_significant")


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"strategy": "none_for_one"}, "Supervisor.strategy wants 'one_for_one', .*got 'none_for_one'"),
        ({"auto_shutdown": "tomorrow"}, "Supervisor.auto_shutdown wants 'never', .*got 'tomorrow'"),
        ({"intensity": 3}, "Supervisor.intensity wants Intensity"),
        ({"on_exceeded": -1}, "Supervisor.on_exceeded wants finite seconds"),
        ({"on_exceeded": math.inf}, "Supervisor.on_exceeded wants finite seconds"),
        ({"shutdown": -1}, "Supervisor.shutdown wants"),
    ],
)
def test_sup_flags(wrong: dict[str, Any], text: str):
    """Each wrong flag of a supervisor is refused with its own sentence."""
    with pytest.raises(SettingsError, match=text):
        Supervisor([], **wrong)


@pytest.mark.parametrize(
    "wrong", [{"restarts": -1}, {"restarts": math.inf}, {"restarts": 1.5}, {"period": 0}, {"period": math.inf}]
)
def test_sup_flags_intensity(wrong: dict[str, Any]):
    """An intensity below zero or without end, and a period of nothing or for ever, are refused."""
    with pytest.raises(SettingsError, match="Intensity"):
        Intensity(**wrong)


@pytest.mark.parametrize("wrong", [-1, math.nan, "many", True])
def test_sup_flags_max_children(wrong: Any):
    """max_children is a number that is not negative."""
    with pytest.raises(SettingsError, match=r"DynamicSupervisor.max_children wants a number >= 0, got"):
        DynamicSupervisor(max_children=wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"min": 3, "max": 2},
        {"min": -1},
        {"max": math.inf},
        {"jitter": -0.1},
        {"reset_after": -1},
        {"max_attempts": 0},
        {"max_attempts": 1.5},
    ],
)
def test_a_backoff_out_of_bounds_is_refused(wrong: dict[str, Any]):
    """Each bound of a Backoff is checked."""
    with pytest.raises(SettingsError, match="Backoff"):
        Backoff(**wrong)


async def test_faulty_application_shutdown(mock_clock: trio.testing.MockClock):
    """The error that reaches the start of the system names the child, and carries its error with its traceback."""
    stage = Stage()
    stage.plan = {"deep": ["fail"]}
    with pytest.raises(StartError, match="'inner' did not start") as caught:
        async with stage.tree([stage.child("a"), Supervisor([stage.child("deep")], id="inner")]):
            pass
    inner = caught.value.__cause__
    assert isinstance(inner, StartError)
    assert (caught.value.child_id, inner.child_id) == ("inner", "deep")
    assert isinstance(inner.__cause__, Boom)
    assert "in play" in "".join(traceback.format_exception(caught.value))
    assert stage.log == ["+a", "-a"]


async def test_init_children(mock_clock: trio.testing.MockClock):
    """When one of the boot list fails, those after it never start, and those before it end in reverse order."""
    stage = Stage()
    stage.plan = {"bad": ["fail"]}
    with pytest.raises(StartError):
        async with stage.tree([stage.child(name) for name in ("a", "b", "bad", "d")]):
            pass
    assert stage.log == ["+a", "+b", "-b", "-a"]
    assert stage.starts["bad"] == 1, "not tried again"
    assert stage.starts["d"] == 0


async def test_a_start_that_takes_too_long_fails(mock_clock: trio.testing.MockClock):
    """A start beyond its timeout is a failed start; the child has been cancelled, and waited for."""
    stage = Stage()
    stage.plan = {"a": ["slow"]}
    with pytest.raises(StartError, match="longer than 1 s to start") as caught:
        async with stage.tree([stage.child("a", startup_timeout=1)]):
            pass
    assert isinstance(caught.value.__cause__, trio.TooSlowError)
    assert trio.current_time() == 1


async def test_a_supervisors_start_that_takes_too_long_fails(mock_clock: trio.testing.MockClock):
    """The bound of a supervisor's start holds for all of its children together."""
    stage = Stage()
    stage.plan = {"a": ["slow"], "b": ["slow"]}
    inner = Supervisor([stage.child("a"), stage.child("b")], id="inner", startup_timeout=3)
    with pytest.raises(StartError, match="'inner' took longer than 3 s"):
        async with stage.tree([inner]):
            pass
    assert trio.current_time() == 3
    assert stage.log == ["+a", "-a"]


async def test_children_start_one_after_the_other(mock_clock: trio.testing.MockClock):
    """A child starts when the one before it is up; the tree is up when all are."""
    stage = Stage()
    stage.plan = {"a": ["slow"], "c": ["slow"]}
    children = [stage.child("a"), Supervisor([stage.child("b"), stage.child("c")], id="s"), stage.child("d")]
    async with stage.tree(children):
        assert trio.current_time() == 4
        assert stage.log == ["+a", "+b", "+c", "+d"]


async def test_a_child_that_ends_right_after_its_start_has_started(mock_clock: trio.testing.MockClock):
    """An end directly after the acknowledgement is an end like any other, and no failed start."""

    async def brief(*, task_status: Any) -> None:
        task_status.started()

    async def broken(*, task_status: Any) -> None:
        task_status.started()
        raise Boom

    stage = Stage()
    children = [Child(brief, restart="transient"), Child(broken, restart="temporary"), stage.child("a")]
    async with stage.tree(children) as root:
        await quiet()
        assert await shown(root) == {children[0].child_id: None, "a": "up"}
        assert await root.start_child(Child(broken, id="again", restart="temporary")) is not None
        await quiet()
        assert await counts(root) == (2, 1, 0, 2)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
async def test_a_leaked_status_says_nothing_about_the_next_incarnation(
    dynamic: bool, mock_clock: trio.testing.MockClock
):
    """A start that fails has failed, whatever a task of the incarnation before reports meanwhile."""
    statuses: list[Any] = []

    async def leaky(*, task_status: Any) -> None:
        statuses.append(task_status)
        if len(statuses) == 1:
            task_status.started("first")
            raise Boom("first")
        await trio.sleep(1)
        if len(statuses) == 2:
            raise Boom("second")
        task_status.started("third")
        await trio.sleep_forever()

    stage = Stage()
    child = Child(leaky, id="a")
    kids = DynamicSupervisor(child, name="kids", intensity=LENIENT) if dynamic else Supervisor([child], name="kids")
    async with stage.open(kids if isinstance(kids, Supervisor) else Supervisor([kids])) as system:
        if dynamic:
            await system.supervisor("kids").start_child()
        await trio.sleep(0.5)
        assert len(statuses) == 2
        statuses[0].started("leaked")
        await trio.sleep(10)
        assert stage.ended == [("crashed", "Boom"), ("init_failed", "Boom")]
        assert len(statuses) == 3
        statuses[0].started("leaked")
        statuses[1].started("leaked")
        supervisor = system.supervisor("kids") if dynamic else system.supervisor()
        (info,) = await supervisor.which_children()
        assert info.handle.value == "third"


async def test_an_actor_that_ignores_its_start_can_be_started_later(mock_clock: trio.testing.MockClock):
    """`Ignore` in startup leaves the record empty; restart_child tries again."""
    ready: list[int] = []

    class Maybe(Actor):
        settings = Settings(title="maybe")

        async def startup(self) -> None:
            if not ready:
                raise Ignore

        @receive
        async def answer(self, message: str) -> str:
            return message.upper()

    stage = Stage()
    async with stage.open(Maybe) as system:
        root = system.supervisor()
        assert await shown(root) == {"maybe": None}
        ready.append(1)
        assert await root.restart_child("maybe") == system.ref(Maybe)
        assert await system.ref(Maybe).ask("hi") == "HI"
    assert [event.exit.kind for event in stage.kept.of(events.ChildExited)] == [Kind.SHUTDOWN]
