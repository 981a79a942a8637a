"""Strategies, intensity and escalation: cases 48 to 67 of `supervisor_SUITE`."""

from typing import Any

import pytest
import trio

from actorwork import (
    Actor,
    ActorCrashed,
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

TWO_AN_HOUR = Intensity(restarts=2, period=3600)


async def test_one_for_one(mock_clock: trio.testing.MockClock):
    """Only the child that died is started again; the third failure of any child is one too many."""
    stage = Stage()
    with pytest.raises(MaxRestartsExceeded) as caught:
        async with stage.tree([stage.child("a"), stage.child("b")], intensity=TWO_AN_HOUR):
            await stage.dies("a")
            assert (stage.starts["a"], stage.starts["b"]) == (2, 1)
            await stage.dies("b")
            assert stage.up == ["a", "b"]
            stage.tell("a", lambda: 1 / 0)
            await trio.sleep_forever()
    assert (caught.value.child_id, caught.value.restarts, caught.value.period) == ("a", 2, 3600)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert stage.log[-2:] == ["-a", "-b"]


@pytest.mark.parametrize(
    ("strategy", "fails"), [("one_for_one", "a"), ("one_for_all", "a"), ("one_for_all", "b"), ("rest_for_one", "b")]
)
async def test_escalation(strategy: Any, fails: str, mock_clock: trio.testing.MockClock):
    """one_for_one_escalation, one_for_all_escalation, rest_for_one_escalation: a start that fails for ever burns the
    window, and the supervisor ends with all its children."""
    stage = Stage()
    with pytest.raises(MaxRestartsExceeded) as caught:
        async with stage.tree(
            [stage.child("a"), stage.child("b")], strategy=strategy, intensity=Intensity(restarts=4, period=3600)
        ):
            stage.plan = {fails: ["fail"]}
            stage.tell("a", lambda: 1 / 0)
            await trio.sleep_forever()
    assert caught.value.child_id == fails
    assert isinstance(caught.value.__cause__, Boom)
    assert stage.starts[fails] == 5, "its boot, and four restarts"
    assert stage.up == []
    assert trio.current_time() == 0


async def test_one_for_all(mock_clock: trio.testing.MockClock):
    """All are ended in reverse order, and started in order; the third failure ends the supervisor."""
    stage = Stage()
    with pytest.raises(MaxRestartsExceeded):
        async with stage.tree(
            [stage.child("a"), stage.child("b"), stage.child("c")], strategy="one_for_all", intensity=TWO_AN_HOUR
        ) as root:
            stage.log.clear()
            await stage.dies("b")
            assert stage.log == ["-b", "-c", "-a", "+a", "+b", "+c"]
            assert await counts(root) == (3, 3, 0, 3)
            await stage.dies("a")
            assert stage.restarts == 2, "however many children it touches"
            stage.tell("c", lambda: 1 / 0)
            await trio.sleep_forever()


async def test_one_for_all_other_child_fails_restart(mock_clock: trio.testing.MockClock):
    """When a sibling fails its start in a group restart, the fresh one is ended, too, and all are started again."""
    stage = Stage()
    async with stage.tree([stage.child("a"), stage.child("b")], strategy="one_for_all") as root:
        stage.plan = {"b": ["fail", "ok"]}
        await stage.dies("a")
        assert (stage.starts["a"], stage.starts["b"]) == (3, 3)
        assert stage.log == ["+a", "+b", "-a", "-b", "+a", "-a", "+a", "+b"]
        assert stage.restarts == 2
        assert await shown(root) == {"a": "up", "b": "up"}


async def test_rest_for_one(mock_clock: trio.testing.MockClock):
    """Those that started after it are restarted with it; those before it are left alone."""
    stage = Stage()
    with pytest.raises(MaxRestartsExceeded):
        async with stage.tree(
            [stage.child("a"), stage.child("b"), stage.child("c")], strategy="rest_for_one", intensity=TWO_AN_HOUR
        ):
            stage.log.clear()
            await stage.dies("b")
            assert stage.log == ["-b", "-c", "+b", "+c"]
            await stage.dies("c")
            assert stage.log[4:] == ["-c", "+c"]
            stage.tell("b", lambda: 1 / 0)
            await trio.sleep_forever()
    assert stage.log[6:] == ["-b", "-c", "-a"]


async def test_rest_for_one_other_child_fails_restart(mock_clock: trio.testing.MockClock):
    """Only the one that failed its start is tried again, and those after it; the fresh one before it is kept."""
    stage = Stage()
    async with stage.tree([stage.child("a"), stage.child("b"), stage.child("c")], strategy="rest_for_one"):
        stage.plan = {"b": ["fail", "ok"]}
        await stage.dies("a")
        assert (stage.starts["a"], stage.starts["b"], stage.starts["c"]) == (2, 3, 2)
        assert stage.log[3:] == ["-a", "-c", "-b", "+a", "+b", "+c"]
        assert stage.restarts == 2


async def test_simple_one_for_one(mock_clock: trio.testing.MockClock):
    """A dynamic child is restarted alone, with its ref; the third failure ends the supervisor."""
    stage = Stage()
    with pytest.raises(MaxRestartsExceeded):
        async with stage.open(
            Supervisor([DynamicSupervisor(name="d", intensity=TWO_AN_HOUR)], intensity=Intensity(restarts=0))
        ) as system:
            dynamic = system.supervisor("d")
            one, two = await dynamic.start_child(stage.child("a")), await dynamic.start_child(stage.child("b"))
            await stage.dies("a")
            await stage.dies("b")
            assert [info.handle for info in await dynamic.which_children()] == [one, two]
            assert (stage.starts["a"], stage.starts["b"]) == (2, 2)
            stage.tell("a", lambda: 1 / 0)
            await trio.sleep_forever()
    assert stage.up == []


async def test_simple_one_for_one_escalation(mock_clock: trio.testing.MockClock):
    """A dynamic child whose restart always fails ends its supervisor, and the other children with it."""
    stage = Stage()
    async with stage.tree([DynamicSupervisor(name="d", intensity=Intensity(restarts=4))]) as root:
        dynamic = (await root.which_children())[0].handle
        await dynamic.start_child(stage.child("a"))
        await dynamic.start_child(stage.child("b"))
        stage.plan = {"a": ["fail"]}
        await stage.dies("a")
        assert stage.starts["a"] == 5
        assert stage.up == []
        assert await counts(dynamic) == (0, 0, 0, 0), "restarted itself; dynamic children are lost"


async def test_multiple_restarts(mock_clock: trio.testing.MockClock):
    """Failures that are further apart than the period are always restarted."""
    stage = Stage()
    async with stage.tree([stage.child("a")], intensity=Intensity(restarts=1, period=1)):
        for _ in range(4):
            await stage.dies("a")
            await trio.sleep(2.1)
        assert stage.starts["a"] == 5


@pytest.mark.parametrize(("pause", "survives"), [(4.999, False), (5.0, False), (5.001, True)])
async def test_add_restart(pause: float, survives: bool, mock_clock: trio.testing.MockClock):
    """A restart exactly `period` seconds ago still counts, an older one does not."""
    stage = Stage()
    caught: list[BaseException] = []
    try:
        async with stage.tree([stage.child("a")], intensity=Intensity(restarts=1, period=5)):
            await stage.dies("a")
            await trio.sleep(pause)
            await stage.dies("a")
            await trio.sleep(1)
    except MaxRestartsExceeded as error:
        caught.append(error)
    assert (not caught) is survives


async def test_add_restart_zero(mock_clock: trio.testing.MockClock):
    """An intensity of zero gives up at the first failure, without another start."""
    stage = Stage()
    with pytest.raises(MaxRestartsExceeded, match="more than 0 restarts within 5 s; the last end: Boom: a"):
        async with stage.tree([stage.child("a")], intensity=Intensity(restarts=0)):
            stage.tell("a", lambda: (_ for _ in ()).throw(Boom("a")).__next__())
            await trio.sleep_forever()
    assert stage.starts["a"] == 1


async def test_what_counts_as_a_restart(mock_clock: trio.testing.MockClock):
    """Administration, normal ends of transient and any ends of temporary children, and ignored starts count nothing."""
    stage = Stage()
    children = [stage.child("t", restart="transient"), stage.child("x", restart="temporary"), stage.child("p")]
    async with stage.tree(children, intensity=Intensity(restarts=0)) as root:
        await stage.ends("t", "normal")
        await stage.dies("x")
        await root.restart_child("t")
        await root.terminate_child("p")
        stage.plan = {"p": ["ignore"]}
        assert await root.restart_child("p") is None
        assert await shown(root) == {"t": "up", "p": None}
    assert stage.restarts == 0


@pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
async def test_start_children(strategy: Any, mock_clock: trio.testing.MockClock):
    """A group restart starts siblings, too, that were terminated, had finished, or had ignored their start."""
    stage = Stage()
    stage.plan = {"i": ["ignore", "ok"]}
    children = [stage.child("a"), stage.child("b"), stage.child("t", restart="transient"), stage.child("i")]
    async with stage.tree(children, strategy=strategy) as root:
        await root.terminate_child("b")
        await stage.ends("t", "normal")
        assert await shown(root) == {"a": "up", "b": None, "t": None, "i": None}
        await stage.dies("a")
        assert await shown(root) == {"a": "up", "b": "up", "t": "up", "i": "up"}
        assert stage.restarts == 1


async def test_tree(mock_clock: trio.testing.MockClock):
    """A leaf's failure restarts the leaf; a leaf that cannot be started ends its supervisor, and the top restarts both:
    children of the boot lists are back, those added at run time are not."""
    stage = Stage()
    one = Supervisor([stage.child("a"), stage.child("b")], id="one", intensity=Intensity(restarts=1))
    two = Supervisor([stage.child("c")], id="two", intensity=LENIENT)
    async with stage.open(Supervisor([one, two], strategy="one_for_all", intensity=LENIENT)) as system:
        first, second = system.supervisor("one"), system.supervisor("two")
        added = await second.start_child(stage.child("added"))
        await first.terminate_child("b")
        await first.delete_child("b")
        await stage.dies("a")
        assert dict(stage.starts) == {"a": 2, "b": 1, "c": 1, "added": 1}
        await trio.sleep(10)
        stage.plan = {"a": ["fail", "fail", "ok"]}
        await stage.dies("a")
        await quiet()
        assert stage.up == ["a", "b", "c"]
        assert await shown(second) == {"c": "up"}
        assert await shown(first) == {"a": "up", "b": "up"}
        with pytest.raises(ChildError):
            await second.get_child_spec(added)
        assert await counts(system.supervisor()) == (2, 2, 2, 0)


async def test_order_of_children(mock_clock: trio.testing.MockClock):
    """Whatever their ids: started in list order, ended in reverse, also in a group restart."""
    stage = Stage()
    names = ["e", "d", "a", "c", "b"]
    async with stage.tree([stage.child(name) for name in names], strategy="rest_for_one"):
        assert stage.log == [f"+{name}" for name in names]
        stage.log.clear()
        await stage.dies("a")
        assert stage.log == ["-a", "-b", "-c", "+a", "+c", "+b"]
        stage.log.clear()
    assert stage.log == [f"-{name}" for name in reversed(names)]


class Named(Actor):
    """Takes a name, and follows the plan."""

    settings = Settings(title="named")

    async def startup(self) -> None:
        self.context.register("the one")

    @receive
    async def act(self, message: str) -> int:
        if message == "raise":
            raise Boom
        if message == "stop":
            self.context.stop()
        return id(self)


async def test_simple_global_supervisor(mock_clock: trio.testing.MockClock):
    """A name leads to the newest incarnation after every kind of restart, and is free when the actor has ended."""
    stage = Stage()
    inner = Supervisor([Named], id="inner", intensity=LENIENT)
    async with stage.open(Supervisor([inner], intensity=LENIENT)) as system:
        seen = set[int]()
        kept: list[Any] = []

        async def newest() -> None:
            await quiet()
            ref = system.whereis("the one")
            assert ref is not None
            seen.add(await ref.ask("hi"))
            kept.append(ref)

        await newest()
        with pytest.raises(ActorCrashed):
            await system.ref(Named).ask("raise")
        await newest()
        system.ref(Named).tell_nowait("stop")
        await newest()
        await system.supervisor("inner").terminate_child("named")
        assert system.whereis("the one") is None
        await system.supervisor("inner").restart_child("named")
        await newest()
        (record,) = system.supervisor().supervision.records
        record.scope.cancel(reason="from elsewhere")
        await newest()
        assert stage.restarts == 3
        assert len(set(kept)) == 1, "one ref all the time"
        await system.supervisor().terminate_child("inner")
        assert system.whereis("the one") is None


async def test_hanging_restart_loop(mock_clock: trio.testing.MockClock):
    """While a restart is tried again and again, the supervisor answers; terminate_child ends the loop."""
    stage = Stage()
    async with stage.tree([stage.child("a")]) as root:
        stage.plan = {"a": ["slow fail"]}
        stage.tell("a", lambda: 1 / 0)
        await trio.sleep(5)
        assert await shown(root) == {"a": "restarting"}
        assert await counts(root) == (1, 0, 0, 1)
        for request, problem in (
            (lambda: root.start_child(stage.child("a")), "already_present"),
            (lambda: root.restart_child("a"), "restarting"),
            (lambda: root.delete_child("a"), "restarting"),
        ):
            with pytest.raises(ChildError) as caught:
                await request()
            assert caught.value.problem == problem
        await root.terminate_child("a")
        starts = stage.starts["a"]
        await trio.sleep(100)
        assert stage.starts["a"] == starts
        assert await shown(root) == {"a": None}
        stage.plan = {}
        await root.restart_child("a")
        stage.plan = {"a": ["slow fail"]}
        stage.tell("a", lambda: 1 / 0)
        await trio.sleep(3)
    assert trio.current_time() < 120, "the end of the system does not wait for the loop"


async def test_hanging_restart_loop_rest_for_one(mock_clock: trio.testing.MockClock):
    """The same in the middle of three: the one before runs, the one after waits."""
    stage = Stage()
    async with stage.tree([stage.child("a"), stage.child("b"), stage.child("c")], strategy="rest_for_one") as root:
        stage.plan = {"b": ["slow fail"]}
        stage.tell("b", lambda: 1 / 0)
        await trio.sleep(5)
        assert await shown(root) == {"a": "up", "b": "restarting", "c": None}
        assert await counts(root) == (3, 1, 0, 3)
        await root.terminate_child("b")
        assert await shown(root) == {"a": "up", "b": None, "c": None}
        assert await counts(root) == (3, 1, 0, 3)


async def test_hanging_restart_loop_simple(mock_clock: trio.testing.MockClock):
    """The same in a dynamic supervisor: the old ref is good to terminate it, and nothing is left."""
    stage = Stage()
    async with stage.open(DynamicSupervisor(stage.child("a"), name="d", intensity=LENIENT)) as system:
        dynamic = system.supervisor("d")
        task = await dynamic.start_child()
        stage.plan = {"a": ["slow fail"]}
        stage.tell("a", lambda: 1 / 0)
        await trio.sleep(5)
        assert await counts(dynamic) in ((1, 0, 0, 1), (1, 1, 0, 1))
        await dynamic.terminate_child(task)
        assert await counts(dynamic) == (0, 0, 0, 0)
        starts = stage.starts["a"]
        await trio.sleep(100)
        assert stage.starts["a"] == starts


async def test_two_failures_at_once_are_two_restarts(mock_clock: trio.testing.MockClock):
    """Ends that come at the same moment are judged one after the other; one that a group restart covers is no news."""
    stage = Stage()
    async with stage.tree([stage.child("a"), stage.child("b")]):
        stage.tell("a", lambda: 1 / 0)
        await stage.dies("b")
        assert stage.restarts == 2
    stage = Stage()
    async with stage.tree([stage.child("a"), stage.child("b")], strategy="one_for_all"):
        stage.tell("a", lambda: 1 / 0)
        await stage.dies("b")
        assert (stage.restarts, stage.starts["a"], stage.starts["b"]) == (1, 2, 2)


async def test_giving_up_is_abnormal_also_for_a_transient_supervisor(mock_clock: trio.testing.MockClock):
    """In OTP a transient supervisor that gives up ends with `shutdown`, and is gone in silence; here it has crashed."""
    stage = Stage()
    inner = Supervisor([stage.child("a")], id="inner", intensity=Intensity(restarts=0), restart="transient")
    async with stage.tree([inner]) as root:
        await stage.dies("a")
        assert await shown(root) == {"inner": "up"}
        assert stage.up == ["a"]
        (gone,) = stage.kept.of(events.GaveUp)
        assert (gone.supervisor, gone.child) == ("inner", "Stage.play (a)")


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("normal", "the last end: it ended by itself"),
        ("shutdown info", r"the last end: it ended by itself, with Shutdown\('info'\)"),
        ("abnormal", "the last end: Boom: a"),
    ],
)
async def test_giving_up_says_how_the_last_end_was(how: str, text: str, mock_clock: trio.testing.MockClock):
    """A permanent child that returns too often was not stopped: it ended by itself."""
    stage = Stage()
    with pytest.raises(MaxRestartsExceeded, match=text):
        async with stage.tree([stage.child("a")], intensity=Intensity(restarts=0)):
            await stage.ends("a", how)
            await trio.sleep_forever()


async def test_the_cause_chain_reaches_the_leaf(mock_clock: trio.testing.MockClock):
    """Through three supervisors that give up, one error comes out, and its causes lead down to the child's."""
    stage = Stage()
    zero = Intensity(restarts=0)
    deep = Supervisor([stage.child("leaf")], id="deep", intensity=zero)
    with pytest.raises(MaxRestartsExceeded) as caught:
        async with stage.tree([Supervisor([deep], id="mid", intensity=zero)], intensity=zero):
            stage.tell("leaf", lambda: 1 / 0)
            await trio.sleep_forever()
    chain: list[BaseException] = []
    error: BaseException | None = caught.value
    while error is not None:
        chain.append(error)
        error = error.__cause__
    assert [type(error).__name__ for error in chain] == [*["MaxRestartsExceeded"] * 3, "ZeroDivisionError"]
    assert [getattr(error, "child_id", None) for error in chain] == ["mid", "deep", "leaf", None]


async def test_on_exceeded_waits_and_goes_on(mock_clock: trio.testing.MockClock):
    """With `on_exceeded` a supervisor does not give up: it waits that long, counts from zero again, and restarts."""
    stage = Stage()
    stage.plan = {"a": ["ok"]}
    async with stage.tree(
        [stage.child("a"), stage.child("b")], intensity=Intensity(restarts=2, period=60), on_exceeded=30.0
    ) as root:
        for _ in range(2):
            await stage.dies("a")
        await stage.dies("a")
        assert await shown(root) == {"a": "restarting", "b": "up"}
        await trio.sleep(29.9)
        assert stage.starts["a"] == 3
        await trio.sleep(0.2)
        assert stage.starts["a"] == 4
        for _ in range(2):
            await stage.dies("a")
        assert stage.starts["a"] == 6, "the window begins anew"
        assert [event.delay for event in stage.kept.of(events.ChildRestarting)] == [0, 0, 30, 0, 0]


async def test_a_deleted_actor_of_the_boot_list_is_back_with_its_ref(mock_clock: trio.testing.MockClock):
    """A restart of the supervisor brings back what was deleted, as it stood in the tree, reachable by its ref."""
    stage = Stage()
    inner = Supervisor([Named, stage.child("a")], id="inner", intensity=Intensity(restarts=0))
    async with stage.tree([inner]) as root:
        ((_, nested),) = [(info.id, info.handle) for info in await root.which_children()]
        ref = (await nested.which_children())[0].handle
        await nested.terminate_child(ref)
        await nested.delete_child("named")
        assert await shown(nested) == {"a": "up"}
        await stage.dies("a")
        assert await shown(nested) == {"named": "up", "a": "up"}
        assert isinstance(await ref.ask("hi"), int)


async def test_a_child_is_a_task_or_an_actor(mock_clock: trio.testing.MockClock):
    """Both stand side by side in a tree, with one window for both."""
    stage = Stage()
    async with stage.open(Supervisor([Child(Named), stage.child("a")], strategy="one_for_all")) as system:
        with pytest.raises(ActorCrashed):
            await system.ref(Named).ask("raise")
        await quiet()
        assert stage.starts["a"] == 2
