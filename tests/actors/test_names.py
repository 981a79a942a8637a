"""Names: one actor each, within a system. The cases are those of Elixir's Registry with unique keys, written anew."""

import gc
from typing import Any

import pytest
import trio

from actorwork import ActorCrashed, ActorRef, AlreadyRegistered, Child, Intensity, StartError, Supervisor, open_system
from tests.doubles import FakeBroker
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
            with pytest.raises(AlreadyRegistered, match=r"the name 'ann' belongs to <ref of 'a'>") as caught:
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
