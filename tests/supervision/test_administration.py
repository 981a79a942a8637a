"""Administration while the tree runs: cases 23 to 39 of `supervisor_SUITE`, and Elixir's tests.

start_child, terminate_child, restart_child, delete_child, which_children, count_children, get_child_spec, each with its
errors; the same in a dynamic supervisor; and the same from inside an actor.
"""

import gc
import weakref
from functools import partial
from typing import Any, cast

import pytest
import trio

from actorwork import (
    Actor,
    ActorStopped,
    Child,
    ChildError,
    ChildInfo,
    DynamicSupervisor,
    Intensity,
    MaxRestartsExceeded,
    NotRunning,
    Settings,
    SettingsError,
    StartError,
    Supervisor,
    SupervisorRef,
    events,
    receive,
)
from actorwork.errors import AlreadyRegistered
from tests.supervision.tree_fixture import LENIENT, Boom, Stage, counts, problem, quiet, shown


class Echo(Actor):
    """Answers with its name; may administer its siblings."""

    settings = Settings(title="echo")

    def __init__(self, name: str = "") -> None:
        self.name = name

    @receive
    async def say(self, message: str) -> str:
        match message:
            case "raise":
                raise Boom
            case "siblings":
                return ",".join(str(info.id) for info in await self.context.supervisor.which_children())
            case "start":
                ref = await self.context.supervisor.start_child(Child(partial(Echo, "new"), id="new"))
                return await ref.ask("hello")
            case "end me":
                await self.context.supervisor.terminate_child(self.context.ref)
            case _:
                pass
        return f"{self.name} {message}"


async def test_child_adm(mock_clock: trio.testing.MockClock):
    """The life of a child under administration, with each error on the way (child_adm)."""
    stage = Stage()
    async with stage.tree([stage.child("a")]) as root:
        assert await shown(root) == {"a": "up"}
        await root.terminate_child("a")
        assert stage.up == []
        assert await shown(root) == {"a": None}
        assert await counts(root) == (1, 0, 0, 1)
        await root.terminate_child("a")  # once more does nothing
        task = await root.restart_child("a")
        assert [info.handle for info in await root.which_children()] == [task]
        assert await problem(root.restart_child("a")) == "running"
        assert await problem(root.delete_child("a")) == "running"
        assert await problem(root.start_child(stage.child("a"))) == "already_started"
        await root.terminate_child(task)
        assert await problem(root.start_child(stage.child("a"))) == "already_present"
        await root.delete_child("a")
        assert await counts(root) == (0, 0, 0, 0)
        for request in (root.terminate_child, root.restart_child, root.delete_child, root.get_child_spec):
            assert await problem(request("a")) == "not_found"
            assert await problem(request(task)) == "not_found"
        await root.start_child(stage.child("a"))
        assert await counts(root) == (1, 1, 0, 1)
        assert stage.restarts == 0


async def test_child_adm_by_ref(mock_clock: trio.testing.MockClock):
    """A child is named by its id or by its ref."""
    stage = Stage()
    async with stage.open(Supervisor([Echo])) as system:
        root, ref = system.supervisor(), system.ref(Echo)
        spec = await root.get_child_spec(ref)
        assert spec is await root.get_child_spec("echo")
        await root.terminate_child(ref)
        with pytest.raises(ActorStopped, match="'echo' was stopped"):
            await ref.ask("hello")
        assert await root.restart_child(ref) == ref
        assert await ref.ask("hello") == " hello"


async def test_child_adm_simple(mock_clock: trio.testing.MockClock):
    """Dynamic children are started with arguments, and named by their refs alone (child_adm_simple)."""
    stage = Stage()
    async with stage.open(DynamicSupervisor(Echo, name="d")) as system:
        dynamic = system.supervisor("d")
        one, two = await dynamic.start_child("one"), await dynamic.start_child(name="two")
        assert [await one.ask("x"), await two.ask("x")] == ["one x", "two x"]
        assert await dynamic.which_children() == [
            ChildInfo("echo", one, "worker"),
            ChildInfo("echo", two, "worker"),
        ]
        await dynamic.terminate_child(one)
        with pytest.raises(ActorStopped):
            await one.ask("x")
        assert await counts(dynamic) == (1, 1, 0, 1)
        assert await problem(dynamic.terminate_child(one)) == "not_found"
        assert await problem(dynamic.terminate_child("echo")) == "not_found"
        assert await problem(dynamic.restart_child(one)) == "not_found"
        assert await problem(dynamic.restart_child(two)) == "running"
        assert await problem(dynamic.delete_child(two)) == "running"


async def test_start_child_appends_at_the_end(mock_clock: trio.testing.MockClock):
    """A child that is added is the last one: started last, ended first, and touched by rest_for_one."""
    stage = Stage()
    async with stage.tree([stage.child("a"), stage.child("b")], strategy="rest_for_one") as root:
        await root.start_child(stage.child("c"))
        assert list(await shown(root)) == ["a", "b", "c"]
        await stage.dies("b")
        assert stage.log[3:] == ["-b", "-c", "+b", "+c"]
        stage.log.clear()
    assert stage.log == ["-c", "-b", "-a"]


async def test_start_child_takes_whatever_stands_in_a_tree(mock_clock: trio.testing.MockClock):
    """A class, a Child, a whole supervisor; what cannot stand in a tree is refused, and the supervisor lives."""
    stage = Stage()
    async with stage.tree([stage.child("a")]) as root:
        assert await (await root.start_child(Echo)).ask("x") == " x"
        nested = await root.start_child(Supervisor([stage.child("n")], id="nested"))
        assert isinstance(nested, SupervisorRef)
        assert await shown(nested) == {"n": "up"}
        assert await counts(root) == (3, 3, 1, 2)
        assert [info.type for info in await root.which_children()] == ["worker", "worker", "supervisor"]
        for wrong in (3, Echo("x"), stage.child("s", restart="transient", significant=True)):
            with pytest.raises(SettingsError):
                await root.start_child(wrong)
        with pytest.raises(SettingsError, match="wants one child here"):
            await root.start_child()
        with pytest.raises(SettingsError):
            await root.start_child(Echo, name="x")
        assert stage.up == ["a", "n"]


async def test_a_failing_build_is_the_askers_problem(mock_clock: trio.testing.MockClock):
    """Whatever goes wrong while a child is made is raised to who asked; the supervisor lives."""
    stage = Stage()
    async with stage.open([stage.child("a")]) as system:
        root = system.supervisor()
        await root.start_child(Child(Echo, id=1, name="taken"))
        with pytest.raises(AlreadyRegistered, match="'taken'") as caught:
            await root.start_child(Child(Echo, id=2, name="taken"))
        assert caught.value.ref == system.whereis("taken")
        assert await shown(root) == {"a": "up", 1: "up"}


async def test_a_name_that_was_taken_meanwhile_is_a_failed_start(mock_clock: trio.testing.MockClock):
    """A group restart of a terminated actor whose name is another one's now fails, and counts, as any start."""
    stage = Stage()
    inner = Supervisor([stage.child("a"), Child(Echo, id="e", name="echo")], id="all", strategy="one_for_all")
    with pytest.raises(MaxRestartsExceeded) as caught:
        async with stage.open(Supervisor([inner], intensity=Intensity(restarts=0))) as system:
            await system.supervisor("all").terminate_child("e")
            taker = await system.supervisor().start_child(Child(Echo, id="taker", name="echo"))
            with pytest.raises(AlreadyRegistered, match="the name 'echo' belongs to"):
                await system.supervisor("all").restart_child("e")
            assert await shown(system.supervisor("all")) == {"a": "up", "e": None}
            assert system.whereis("echo") == taker
            await stage.dies("a")
            await trio.sleep_forever()
    assert isinstance(caught.value.__cause__, MaxRestartsExceeded)
    assert isinstance(caught.value.__cause__.__cause__, AlreadyRegistered)
    assert stage.restarts == 3


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
async def test_the_arguments_of_a_temporary_child_are_kept_while_it_lives(
    dynamic: bool, mock_clock: trio.testing.MockClock
):
    """Its description is whole until its end; after that nothing is left of it (OTP drops them after the start)."""

    class Argument:
        pass

    async def idle(argument: Argument, *, task_status: Any) -> None:
        task_status.started()
        await trio.sleep(1)

    stage = Stage()
    kids = DynamicSupervisor(name="kids") if dynamic else Supervisor([], name="kids")
    async with stage.open([kids]) as system:
        supervisor = system.supervisor("kids")
        argument = Argument()
        kept = weakref.ref(argument)
        child = await supervisor.start_child(Child(partial(idle, argument), id="a", restart="temporary"))
        spec = await supervisor.get_child_spec(child)
        assert isinstance(spec, Child)
        assert cast("partial[Any]", spec.factory).args == (argument,)
        del spec, child, argument
        await trio.sleep(2)
        gc.collect()
        assert kept() is None


async def test_terminating_a_child_that_has_ended_is_nothing_or_not_found(mock_clock: trio.testing.MockClock):
    """The place of a static child stays when it ends; of a dynamic one nothing is left, whatever names it."""
    stage = Stage()
    kids = DynamicSupervisor(name="kids")
    async with stage.open([stage.child("a", restart="transient"), kids]) as system:
        root, dynamic = system.supervisor(), system.supervisor("kids")
        refs = [(await root.which_children())[0].handle]
        refs.append(await dynamic.start_child(stage.child("b", restart="transient")))
        refs.append(await root.start_child(stage.child("c", restart="temporary")))
        for name in ("a", "b", "c"):
            await stage.ends(name, "normal")
        for named in ("a", refs[0]):
            await root.terminate_child(named)
        assert await problem(dynamic.terminate_child(refs[1])) == "not_found"
        assert await problem(root.terminate_child(refs[2])) == "not_found"


async def test_each_dynamic_child_counts_as_a_spec_and_none_is_significant(mock_clock: trio.testing.MockClock):
    stage = Stage()
    async with stage.open([DynamicSupervisor(name="kids")]) as system:
        kids = system.supervisor("kids")
        for name in ("a", "b"):
            await kids.start_child(stage.child(name))
        assert await counts(kids) == (2, 2, 0, 2)
        with pytest.raises(SettingsError, match="'c' is significant, which has no effect"):
            await kids.start_child(stage.child("c", restart="transient", significant=True))
        assert await counts(kids) == (2, 2, 0, 2)


async def test_max_children(mock_clock: trio.testing.MockClock):
    """At most `max_children`; those that wait for a restart count; a place that is free again can be taken."""
    stage = Stage()
    async with stage.open(DynamicSupervisor(name="d", max_children=2, intensity=LENIENT)) as system:
        dynamic = system.supervisor("d")
        await dynamic.start_child(stage.child("a"))
        b = await dynamic.start_child(stage.child("b"))
        assert await problem(dynamic.start_child(stage.child("c"))) == "max_children"
        stage.plan = {"a": ["slow fail"]}
        await stage.dies("a")
        assert await problem(dynamic.start_child(stage.child("c"))) == "max_children"
        await dynamic.terminate_child(b)
        await dynamic.start_child(stage.child("c"))
        assert (await counts(dynamic))[0] == 2


async def test_max_children_zero(mock_clock: trio.testing.MockClock):
    """None at all is a bound, too."""
    stage = Stage()
    async with stage.open(DynamicSupervisor(Echo, name="d", max_children=0)) as system:
        assert await problem(system.supervisor("d").start_child()) == "max_children"


async def test_dynamic_children_start_side_by_side(mock_clock: trio.testing.MockClock):
    """A slow start holds up no other child, and no request."""
    stage = Stage()
    stage.plan = {"slow": ["slow"]}
    async with stage.open(DynamicSupervisor(name="d")) as system:
        dynamic = system.supervisor("d")
        async with trio.open_nursery() as nursery:
            for n in range(5):
                nursery.start_soon(dynamic.start_child, stage.child("slow", id=n))
            await quiet()
            await dynamic.start_child(stage.child("quick"))
            assert trio.current_time() == 0
            assert await counts(dynamic) == (6, 6, 0, 6)
        assert trio.current_time() == 2


async def test_dynamic_children_stop_side_by_side(mock_clock: trio.testing.MockClock):
    """A slow end holds up no other child, and no request, while the supervisor runs as well as at its end."""
    stage = Stage()
    async with stage.open(DynamicSupervisor(name="d")) as system:
        dynamic = system.supervisor("d")
        slow = [await dynamic.start_child(stage.child(f"s{n}", shielded=True, ends_after=3)) for n in range(5)]
        async with trio.open_nursery() as nursery:
            for task in slow[:3]:
                nursery.start_soon(dynamic.terminate_child, task)
            await quiet()
            await dynamic.start_child(stage.child("quick"))
            assert trio.current_time() == 0
        assert trio.current_time() == 3
        assert await counts(dynamic) == (3, 3, 0, 3)
    assert trio.current_time() == 6


async def test_a_dynamic_child_past_its_bound_is_cancelled(mock_clock: trio.testing.MockClock):
    """The supervisor's alarm sees to the bound of a child that one asker wants gone."""
    stage = Stage()

    async def deaf(*, task_status: Any) -> None:
        task_status.started()
        with trio.CancelScope(shield=True):
            await trio.sleep(25)

    async with stage.open(DynamicSupervisor(Child(deaf, shutdown=2), name="d")) as system:
        dynamic = system.supervisor("d")
        task = await dynamic.start_child()
        await dynamic.terminate_child(task)
        assert trio.current_time() == 25
        assert [event.child for event in stage.kept.of(events.StuckChild)] == [
            "test_a_dynamic_child_past_its_bound_is_cancelled.<locals>.deaf"
        ] * 2


async def test_a_child_that_crashes_at_once_has_started_also_if_its_restart_fails(mock_clock: trio.testing.MockClock):
    """The outcome of `start_child` is that of the first start, however far the child has come by then."""
    starts: dict[int, int] = {}

    async def fickle(number: int, *, task_status: Any) -> None:
        starts[number] = starts.get(number, 0) + 1
        if starts[number] == 2:
            raise Boom("no second start")
        task_status.started()
        if starts[number] == 1:
            raise Boom("at once")
        await trio.sleep_forever()

    stage = Stage()
    async with stage.open(DynamicSupervisor(name="d", intensity=LENIENT)) as system:
        dynamic = system.supervisor("d")
        # Trio runs tasks in random order: one in five had come that far.
        for number in range(50):
            assert await dynamic.start_child(Child(partial(fickle, number), id=number)) is not None
        await quiet()
        assert await counts(dynamic) == (50, 50, 0, 50)
    assert set(starts.values()) == {3}


async def test_terminate_while_it_starts(mock_clock: trio.testing.MockClock):
    """A dynamic child that is terminated while it starts is cancelled; the caller that started it gets the error."""
    stage = Stage()
    stage.plan = {"a": ["slow"]}
    async with stage.open(DynamicSupervisor(name="d")) as system:
        dynamic = system.supervisor("d")
        failed: list[BaseException | None] = []

        async def start() -> None:
            with pytest.raises(StartError) as caught:
                await dynamic.start_child(stage.child("a"))
            failed.append(caught.value.__cause__)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(start)
            await quiet()
            (info,) = await dynamic.which_children()
            await dynamic.terminate_child(info.handle)
            assert await counts(dynamic) == (0, 0, 0, 0)
        assert "cancelled before it was up" in str(failed[0])
        assert trio.current_time() == 0


@pytest.mark.parametrize("dynamic", [False, True])
async def test_an_abandoned_request_is_carried_out(dynamic: bool, mock_clock: trio.testing.MockClock):
    """Who is cancelled loses the answer, not the action."""
    stage = Stage()
    stage.plan = {"a": ["slow"]}
    tree: Any = DynamicSupervisor(name="it") if dynamic else Supervisor([], name="it")
    async with stage.open([tree, Echo]) as system:
        it = system.supervisor("it")
        with trio.move_on_after(1):
            await it.start_child(stage.child("a"))
        await trio.sleep(2)
        assert stage.up == ["a"]
        (info,) = await it.which_children()
        with trio.move_on_after(0):
            await it.terminate_child(info.handle)
        await quiet()
        if await counts(it) != (1, 1, 0, 1):  # it was sent before the cancellation struck
            assert stage.up == []


async def test_stopped(mock_clock: trio.testing.MockClock):
    """A supervisor that has ended, or is not up, refuses every request."""
    stage = Stage()
    async with stage.tree([stage.child("a"), Supervisor([stage.child("b")], id="s")]) as root:
        nested = (await root.which_children())[1].handle
        await root.terminate_child("s")
        for request in (nested.which_children, nested.count_children, partial(nested.start_child, Echo)):
            with pytest.raises(ChildError, match="supervisor 's' does not run") as caught:
                await request()
            assert caught.value.problem == "stopped"
        await root.restart_child("s")
        assert await shown(nested) == {"b": "up"}, "the ref of a supervisor survives its restart"
    assert await problem(root.which_children()) == "stopped"


async def test_requests_during_a_shutdown_are_refused(mock_clock: trio.testing.MockClock):
    """One that waits when the shutdown begins is answered, too."""
    stage = Stage()
    stage.plan = {"late": ["slow"]}
    problems: list[str] = []

    async def ask(root: SupervisorRef, request: Any) -> None:
        problems.append(await problem(request()))

    async with trio.open_nursery() as nursery:
        async with stage.tree([stage.child("a", shielded=True, ends_after=3)]) as root:
            nursery.start_soon(ask, root, partial(root.start_child, stage.child("late")))
            await trio.sleep(0.1)
            nursery.start_soon(ask, root, root.which_children)
            await quiet()
        assert problems == ["stopped", "stopped"]


async def test_from_inside_an_actor(mock_clock: trio.testing.MockClock):
    """`context.supervisor` is the actor's own: it sees its siblings and starts new ones."""
    stage = Stage()
    async with stage.open([Supervisor([Echo, stage.child("a")], id="inner"), stage.child("b")]) as system:
        ref = system.ref(Echo)
        assert await ref.ask("siblings") == "echo,a"
        assert await ref.ask("start") == "new hello"
        assert await ref.ask("siblings") == "echo,a,new"


async def test_who_waits_for_its_own_end_is_ended_by_the_bound(mock_clock: trio.testing.MockClock):
    """An actor that has its supervisor terminate it, and waits for that, is cancelled after its shutdown time."""
    stage = Stage()
    async with stage.open(Supervisor([Child(Echo, shutdown=2)])) as system:
        with pytest.raises(ActorStopped):
            await system.ref(Echo).ask("end me")
        assert trio.current_time() == 2
        await quiet()
        assert await shown(system.supervisor()) == {"echo": None}


async def test_supervisor_finds_them_by_name_id_or_path(mock_clock: trio.testing.MockClock):
    """The root without a name; nested ones by id, name, or the path of ids where that is needed."""
    stage = Stage()
    tree = Supervisor(
        [
            Supervisor([DynamicSupervisor(id="pool")], id="left"),
            Supervisor([DynamicSupervisor(id="pool"), Supervisor([], name="named")], id="right"),
            stage.child("a"),
        ],
        name="top",
    )
    async with stage.open(tree) as system:
        assert system.supervisor().title == "top"
        assert system.supervisor("left").title == "left"
        assert system.supervisor("named").title == "named"
        one, other = system.supervisor(("left", "pool")), system.supervisor(("right", "pool"))
        assert one is not other
        with pytest.raises(LookupError, match="2 supervisors are called 'pool': give a tuple of ids"):
            system.supervisor("pool")
        for unknown in ("middle", "a", ("left", "middle"), ("a", "b"), 3):
            with pytest.raises(LookupError, match=r"no supervisor .* which has 'top', 'left', 'pool'"):
                system.supervisor(unknown)


def test_the_context_of_an_actor_outside_of_a_system_has_no_supervisor():
    """It says so."""
    with pytest.raises(NotRunning):
        _ = Echo().context.supervisor


async def test_nothing_is_kept_of_children_that_are_gone(mock_clock: trio.testing.MockClock):
    """A thousand children that came and went leave the system as it was."""
    stage = Stage()
    async with stage.open(DynamicSupervisor(Child(Echo, restart="temporary"), name="d")) as system:
        dynamic = system.supervisor("d")
        for _ in range(1000):
            await dynamic.terminate_child(await dynamic.start_child())
        supervision = dynamic.supervision
        assert len(supervision.records) == 0
        assert len(supervision.records.alarms._heap) <= 64 + 2
        assert len(system._services.cells) == 0
        with pytest.raises(StartError):
            await dynamic.start_child("too", "many", "arguments")
        assert len(system._services.cells) == 0


async def test_elixir_start_child_with_a_restart_of_its_own(mock_clock: trio.testing.MockClock):
    """In a dynamic supervisor without a template each child brings its own restart type (DynamicSupervisorTest)."""
    stage = Stage()
    async with stage.open(DynamicSupervisor(name="d", intensity=LENIENT)) as system:
        dynamic = system.supervisor("d")
        for restart in ("permanent", "transient", "temporary"):
            await dynamic.start_child(stage.child(restart, restart=restart))
        for name in list(stage.up):
            await stage.ends(name, "normal")
        assert stage.up == ["permanent"]
        await dynamic.start_child(stage.child("transient", restart="transient"))
        await dynamic.start_child(stage.child("temporary", restart="temporary"))
        for name in list(stage.up):
            await stage.dies(name)
        assert stage.up == ["permanent", "transient"]
        assert (await counts(dynamic))[0] == 2


async def test_elixir_nested_dynamic(mock_clock: trio.testing.MockClock):
    """A dynamic supervisor may hold supervisors; one that gives up there is restarted, its children from its list."""
    stage = Stage()
    async with stage.open(DynamicSupervisor(name="d")) as system:
        nested = await system.supervisor("d").start_child(
            Supervisor([stage.child("a"), stage.child("b")], name="s", intensity=Intensity(restarts=0))
        )
        await stage.dies("a")
        assert await shown(nested) == {"a": "up", "b": "up"}
        assert stage.log == ["+a", "+b", "-a", "-b", "+a", "+b"]
        await system.supervisor("d").terminate_child(nested)
        assert stage.up == []
