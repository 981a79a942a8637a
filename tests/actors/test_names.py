"""Names: one actor each, within a system. The cases are those of Elixir's Registry with unique keys, written anew."""

import gc
import re
from functools import partial
from typing import Any

import pytest
import trio

from actorwork import (
    ActorCrashed,
    ActorRef,
    ActorStopped,
    AlreadyRegistered,
    Child,
    Intensity,
    StartError,
    Supervisor,
    events,
    open_system,
)
from actorwork.actors.tree.spec import label_of
from tests.doubles import FakeBroker, Kept
from tests.scripted_actor import Do, Scripted, do, fail, ref_of, scripted, stop, titled

MANY = Intensity(restarts=100, period=1)


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def test_a_registered_actor_is_found_from_inside_and_outside():
    async with open_system([scripted("a"), scripted("b")], broker=FakeBroker()) as system:
        await do(system, "a", lambda actor: actor.context.register("ann"))
        assert system.whereis("ann") == ref_of(system, "a")
        assert await do(system, "b", lambda actor: actor.context.whereis("ann")) == ref_of(system, "a")
        assert await do(system, "ann", lambda actor: actor.context.ref) == ref_of(system, "a")


async def test_nobody_has_a_name_that_was_not_registered():
    async with open_system(scripted("a"), broker=FakeBroker()) as system:
        assert system.whereis("bob") is None
        assert await do(system, "a", lambda actor: actor.context.whereis("bob")) is None


async def test_a_second_registration_is_refused_and_names_the_owner():
    async with open_system([scripted("a"), scripted("b")], broker=FakeBroker()) as system:
        await do(system, "a", lambda actor: actor.context.register("ann"))

        def try_it(actor: Any) -> AlreadyRegistered:
            with pytest.raises(AlreadyRegistered, match=r"'ann' belongs to <ref of 'a \(named ann\)'>") as caught:
                actor.context.register("ann")
            return caught.value

        refused = await do(system, "b", try_it)
        assert refused.ref == ref_of(system, "a")
        assert system.whereis("ann") == ref_of(system, "a")


async def test_registering_a_name_again_that_it_has_does_nothing():
    async with open_system(scripted("a"), broker=FakeBroker()) as system:
        for _ in range(2):
            await do(system, "a", lambda actor: actor.context.register("ann"))
        await do(system, "a", lambda actor: actor.context.unregister("ann"))
        assert system.whereis("ann") is None


async def test_an_actor_can_have_several_names():
    async with open_system(scripted("a"), broker=FakeBroker()) as system:
        for name in ("ann", "anna"):
            await do(system, "a", lambda actor, name=name: actor.context.register(name))
        ref = ref_of(system, "a")
        assert system.names() == {"a": ref, "ann": ref, "anna": ref}


async def test_a_name_that_was_given_up_can_be_taken_by_another():
    async with open_system([scripted("a"), scripted("b")], broker=FakeBroker()) as system:
        await do(system, "a", lambda actor: actor.context.register("ann"))
        await do(system, "a", lambda actor: actor.context.unregister("ann"))
        assert system.whereis("ann") is None
        await do(system, "b", lambda actor: actor.context.register("ann"))
        assert system.whereis("ann") == ref_of(system, "b")


async def test_only_its_owner_can_give_up_a_name():
    async with open_system([scripted("a"), scripted("b")], broker=FakeBroker()) as system:
        await do(system, "a", lambda actor: actor.context.register("ann"))
        await do(system, "b", lambda actor: actor.context.unregister("ann"))
        await do(system, "b", lambda actor: actor.context.unregister("nobody's"))
        assert system.whereis("ann") == ref_of(system, "a")


async def test_a_restart_keeps_the_names():
    async with open_system(scripted("a"), broker=FakeBroker(), intensity=MANY) as system:
        await do(system, "a", lambda actor: actor.context.register("ann"))
        with pytest.raises(ActorCrashed):
            await do(system, "a", fail)
        assert await do(system, "ann", lambda actor: actor.context.ref.cell.incarnation) == 2


async def test_an_incarnation_may_register_in_its_startup_again():
    def register(actor: Any) -> None:
        actor.context.register("ann")

    async with open_system(scripted("a", up=register), broker=FakeBroker(), intensity=MANY) as system:
        with pytest.raises(ActorCrashed):
            await do(system, "a", fail)
        assert await do(system, "ann", lambda actor: actor.context.ref.cell.incarnation) == 2


@pytest.mark.parametrize("end", [fail, stop])
async def test_the_end_of_an_actor_frees_its_names(end: Any):
    async with open_system([scripted("a", restart="temporary"), scripted("b")], broker=FakeBroker()) as system:
        await do(system, "a", lambda actor: actor.context.register("ann"))
        ref_of(system, "a").tell_nowait(Do(end))
        await settle()
        assert list(system.names()) == ["b"]
        await do(system, "b", lambda actor: actor.context.register("ann"))
        assert system.whereis("ann") == ref_of(system, "b")


async def test_the_end_of_a_former_owner_does_not_free_the_name():
    async with open_system([scripted("a", restart="temporary"), scripted("b")], broker=FakeBroker()) as system:
        await do(system, "a", lambda actor: actor.context.register("ann"))
        await do(system, "a", lambda actor: actor.context.unregister("ann"))
        await do(system, "b", lambda actor: actor.context.register("ann"))
        ref_of(system, "a").tell_nowait(Do(stop))
        await settle()
        assert system.whereis("ann") == ref_of(system, "b")


# ---- how actors are shown ----


@pytest.mark.parametrize(
    ("id", "names", "label"),
    [
        (None, [], "account"),
        (None, ["account"], "account"),
        ("account", [], "account"),
        ("ann", [], "account (ann)"),
        ("ann", ["ann"], "account (ann)"),
        ("ann", ["b", "a"], "account (ann, named a, named b)"),
        (None, ["ann"], "account (named ann)"),
        ("account 3", [], "account 3"),
        (("eu", 7), [], "account (('eu', 7))"),
        ("two\nlines", ["two\nlines"], r"account ('two\nlines')"),
        ("x" * 100, [], f"account ({'x' * 80}…)"),
    ],
)
def test_a_child_is_shown_with_its_id_and_its_names(id: Any, names: list[str], label: str):
    assert label_of(Child(titled("account"), id=id), names) == label


async def test_children_of_one_title_can_be_told_apart():
    """In the tree, in refs, in what is logged, and in errors."""
    kept = Kept()

    async def spawn(bank: Any) -> None:
        for owner in ("ann", "bob"):
            account = await bank.context.spawn(Child(titled("account"), id=owner, restart="temporary"))
            await account.ask(Do(lambda actor, owner=owner: actor.context.register(f"account of {owner}")))

    async with open_system(scripted("bank"), broker=FakeBroker(), emit=kept) as system:
        await do(system, "bank", spawn)
        tree = str(system.tree())
        assert "account (ann, named account of ann)  running" in tree
        assert "account (bob, named account of bob)  running" in tree
        ref = ref_of(system, "account of bob")
        assert repr(ref) == "<ref of 'account (bob, named account of bob)'>"
        with pytest.raises(ActorCrashed, match=r"^'account \(bob, named account of bob\)' crashed"):
            await ref.ask(Do(fail))
        await settle()
        assert repr(ref) == "<ref of 'account (bob)'>"
        with pytest.raises(ActorStopped, match=r"^'account \(bob, named account of bob\)' has ended: crashed"):
            await ref.ask(Do(fail))
    assert kept.of(events.ChildExited)[0].child == "account (bob, named account of bob)"
    started = [event.title for event in kept.of(events.ActorStarted)]
    assert started == ["bank", "account (ann)", "account (bob)"]


async def test_the_supervisor_of_spawned_actors_is_named_after_the_one_that_spawned_them():
    kept = Kept()

    async def spawn(actor: Any) -> None:
        kid = await actor.context.spawn(titled("kid"))
        kid.tell_nowait(Do(fail))

    tree = [Child(titled("parent"), id=number, name=f"number {number}", reads=False) for number in (1, 2)]
    async with open_system(tree, broker=FakeBroker(), emit=kept) as system:
        await do(system, "number 2", spawn)
        await settle()
    crashed = next(event for event in kept.of(events.ChildExited) if event.exit.abnormal)
    assert crashed.supervisor == "children of parent (2, named number 2)"


async def test_an_error_of_a_supervisor_names_the_child_by_its_id(mock_clock: trio.testing.MockClock):
    """Also of a task, whose title is that of its function."""

    async def task(number: int, *, task_status: Any) -> None:
        raise ValueError(number)

    title = task.__qualname__
    with pytest.raises(StartError, match=rf"^'{re.escape(title)} \(a\)' did not start: ValueError: 1"):
        async with open_system(Child(partial(task, 1), id="a"), broker=FakeBroker()):
            raise AssertionError("it must not come to this")


# ---- names of children ----


async def test_two_children_of_one_name_cannot_stand_in_a_tree():
    with pytest.raises(AlreadyRegistered, match="'ann'"):
        async with open_system([scripted("a", name="ann"), scripted("b", name="ann")], broker=FakeBroker()):
            raise AssertionError("it must not come to this")


async def test_a_child_whose_name_is_taken_is_refused_and_nobody_else_is_touched():
    async with open_system([scripted("a"), scripted("b")], broker=FakeBroker()) as system:
        for child, options in ((scripted("c", name="b"), {}), (titled("c"), {"name": "b"})):

            async def spawn(actor: Any, child: Any = child, options: Any = options) -> object:
                with pytest.raises(AlreadyRegistered) as caught:
                    await actor.context.spawn(child, **options)
                return caught.value.ref

            assert await do(system, "a", spawn) == ref_of(system, "b")
        assert await do(system, "a", lambda actor: actor.context.ref.cell.incarnation) == 1
        assert len(system._services.cells) == 2, "what was refused has left nothing"


async def test_a_spawned_actor_has_the_name_from_before_its_startup():
    async with open_system(scripted("a"), broker=FakeBroker()) as system:

        async def spawn(actor: Any) -> ActorRef[Any]:
            def look(child: Any) -> None:
                assert child.context.whereis("kid") == child.context.ref

            return await actor.context.spawn(scripted("c", up=look), name="kid")

        assert await do(system, "a", spawn) == system.whereis("kid")


async def test_a_child_that_does_not_start_leaves_its_name_free():
    async with open_system(scripted("a"), broker=FakeBroker()) as system:

        async def spawn(actor: Any) -> ActorRef[Any]:
            with pytest.raises(StartError):
                await actor.context.spawn(scripted("c", up=fail), name="kid")
            return await actor.context.spawn(scripted("c"), name="kid")

        assert await do(system, "a", spawn) == system.whereis("kid")
        assert len(system._services.cells) == 2


async def test_an_actor_that_is_started_again_after_its_end_has_its_childs_name_again():
    async with open_system(scripted("a"), broker=FakeBroker()) as system:
        ref, supervisor = ref_of(system, "a"), system._root.handle
        await do(system, "a", lambda actor: actor.context.register("more"))
        await supervisor.terminate_child("a")
        assert system.names() == {}
        await supervisor.restart_child("a")
        assert system.names() == {"a": ref}, "what it registered itself is its own business"


async def test_who_took_the_name_meanwhile_keeps_it_and_the_supervisor_lives():
    async with open_system([scripted("a"), scripted("b")], broker=FakeBroker()) as system:
        supervisor = system._root.handle
        await supervisor.terminate_child("a")
        await do(system, "b", lambda actor: actor.context.register("a"))
        for _ in range(2):
            with pytest.raises(AlreadyRegistered):
                await supervisor.restart_child("a")
        await do(system, "b", lambda actor: actor.context.unregister("a"))
        await supervisor.restart_child("a")
        assert await do(system, "a", lambda actor: actor.context.ref.title) == "a"


async def test_a_group_that_is_restarted_keeps_the_names_of_its_children():
    group = Supervisor([scripted("a"), scripted("b")], strategy="one_for_all", intensity=Intensity(restarts=0))
    async with open_system([scripted("c"), group], broker=FakeBroker(), intensity=MANY) as system:
        names = system.names()
        with pytest.raises(ActorCrashed):
            await do(system, "a", fail)
        await settle()
        assert system.names() == names


async def test_thousands_of_names_leave_nothing_behind():
    async with open_system(scripted("a"), broker=FakeBroker()) as system:

        async def spawn_many(actor: Any) -> None:
            for n in range(2000):
                await actor.context.spawn(Child(Scripted), name=f"n{n}")

        await do(system, "a", spawn_many)
        assert len(system.names()) == 2001
        with pytest.raises(ActorCrashed):
            await do(system, "a", fail)
        await settle()
        gc.collect()
        assert list(system.names()) == ["a"]
