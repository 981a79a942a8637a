"""Spawning: actors that an actor starts below itself, and what becomes of them and of it."""

from functools import partial
from typing import Any

import pytest
import trio

from actorwork import (
    ActorCrashed,
    ActorRef,
    ActorStopped,
    Child,
    ChildError,
    Ignore,
    Intensity,
    MaxRestartsExceeded,
    NotRunning,
    Settings,
    SettingsError,
    StartError,
    events,
    open_system,
    receive,
)
from actorwork.actors.actor import Actor
from actorwork.policy.exits import Kind
from tests.doubles import FakeBroker, Kept
from tests.scripted_actor import Do, Note, Scripted, do, fail, ref_of, scripted, sleeping, stop, titled

MANY = Intensity(restarts=1000, period=1)


class Mortal(Scripted):
    """Writes down its end."""

    async def startup(self) -> None:
        await super().startup()
        self.said.append(f"{self.context.ref.title} up")

    async def shutdown(self) -> None:
        self.said.append(f"{self.context.ref.title} down")


def mortal(title: str, said: list[Any], **options: Any) -> Child:
    return scripted(title, said, base=Mortal, **options)


def spawns(*children: Any) -> Any:
    async def spawn(actor: Any) -> list[ActorRef[Any]]:
        return [await actor.context.spawn(child) for child in children]

    return spawn


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def test_a_spawned_actor_is_up_when_its_ref_is_returned():
    said: list[Any] = []
    async with open_system(mortal("parent", said), broker=FakeBroker()) as system:
        (child,) = await do(system, "parent", spawns(mortal("child", said)))
        assert said == ["parent up", "child up"]
        assert await child.ask(Note("hello")) == "hello"


@pytest.mark.parametrize("end", [fail, stop])
async def test_a_spawned_actor_ends_with_its_parents_incarnation_before_its_shutdown(end: Any):
    said: list[Any] = []
    parent = mortal("parent", said)
    async with open_system(parent, broker=FakeBroker(), intensity=MANY) as system:
        (child,) = await do(system, "parent", spawns(mortal("child", said)))
        ref_of(system, "parent").tell_nowait(Do(end))
        await settle()
        assert said == ["parent up", "child up", "child down", "parent down", "parent up"]
        with pytest.raises(ActorStopped):
            child.tell_nowait(Note("?"))
        assert system.whereis("child") is None


async def test_the_end_of_the_system_ends_all_generations_from_below():
    said: list[Any] = []
    grandchild = mortal("grandchild", said)
    child = mortal("child", said, up=spawns(grandchild))
    async with open_system(mortal("parent", said, up=spawns(child)), broker=FakeBroker()) as system:
        assert [branch.title for branch in system.tree().children[0].children] == ["child"]
    assert said == ["grandchild up", "child up", "parent up", "grandchild down", "child down", "parent down"]


async def test_a_child_that_does_not_start_is_the_spawners_error_and_nothing_is_left():
    async with open_system(scripted("parent"), broker=FakeBroker()) as system:

        async def spawn(actor: Any) -> str:
            with pytest.raises(StartError, match="'child' did not start: ValueError: boom") as caught:
                await actor.context.spawn(scripted("child", up=fail))
            assert isinstance(caught.value.__cause__, ValueError)
            return "goes on"

        assert await do(system, "parent", spawn) == "goes on"
        assert len(system._services.cells) == 1
        assert system.tree().children[0].children == ()


async def test_a_child_with_nothing_to_run_is_none():
    def ignore(_: Any) -> None:
        raise Ignore

    async with open_system(scripted("parent"), broker=FakeBroker()) as system:
        assert await do(system, "parent", spawns(scripted("child", up=ignore))) == [None]
        assert len(system._services.cells) == 1


@pytest.mark.parametrize(
    ("restart", "end", "again"),
    [
        ("permanent", fail, True),
        ("permanent", stop, True),
        ("transient", fail, True),
        ("transient", stop, False),
        ("temporary", fail, False),
        ("temporary", stop, False),
    ],
)
async def test_a_child_is_started_again_as_it_says(restart: Any, end: Any, again: bool):
    async with open_system(scripted("parent"), broker=FakeBroker()) as system:
        (child,) = await do(system, "parent", spawns(scripted("child", restart=restart)))
        child.tell_nowait(Do(end))
        await settle()
        assert (not child.cell.over) is again
        assert len(system.tree().children[0].children) == again
        assert child.cell.incarnation == 1 + again
        assert ref_of(system, "parent").cell.incarnation == 1


async def test_children_that_crash_too_often_crash_their_parent():
    kept = Kept()
    async with open_system(scripted("parent"), broker=FakeBroker(), emit=kept, intensity=MANY) as system:
        (child,) = await do(system, "parent", spawns(scripted("child")))
        for _ in range(4):
            child.tell_nowait(Do(fail))
        await settle()
        assert ref_of(system, "parent").cell.incarnation == 2
        assert child.cell.over
    (ended,) = [event.exit for event in kept.of(events.ChildExited) if event.child == "parent"][:1]
    assert ended.kind is Kind.CRASHED
    assert isinstance(ended.error, MaxRestartsExceeded)
    assert isinstance(ended.error.__cause__, ValueError)


async def test_a_class_or_a_partial_can_be_spawned():
    said: list[Any] = []
    cls = titled("child")
    async with open_system(scripted("parent"), broker=FakeBroker()) as system:
        children = await do(system, "parent", spawns(cls, partial(cls, said), Child(cls)))
        assert len(set(children)) == 3, "local actors may share a title"
        await children[1].ask(Note("hello"))
    assert said == ["hello"]


@pytest.mark.parametrize("wrong", [3, Scripted(), len, []])
async def test_what_cannot_be_spawned_is_refused(wrong: Any):
    async with open_system(scripted("parent"), broker=FakeBroker()) as system:

        async def spawn(actor: Any) -> None:
            with pytest.raises(SettingsError):
                await actor.context.spawn(wrong)

        await do(system, "parent", spawn)


async def test_helper_tasks_can_spawn_side_by_side(mock_clock: trio.testing.MockClock):
    said: list[Any] = []
    async with open_system(scripted("parent"), broker=FakeBroker()) as system:

        async def spawn(actor: Any) -> None:
            async with trio.open_nursery() as nursery:
                for n in range(5):
                    nursery.start_soon(actor.context.spawn, mortal(f"c{n}", said, up=sleeping(1)))

        await do(system, "parent", spawn)
        assert trio.current_time() == 1, "they start side by side"
        assert len(system.tree().children[0].children) == 5


async def test_spawning_while_the_actor_ends_is_refused():
    got: list[BaseException] = []

    class Late(Scripted):
        async def shutdown(self) -> None:
            try:
                await self.context.spawn(scripted("late child"))
            except ChildError as error:
                got.append(error)

    async with open_system(scripted("parent", base=Late), broker=FakeBroker()) as system:
        await do(system, "parent", spawns(scripted("child")))
    (error,) = got
    assert getattr(error, "problem", None) == "stopped"


async def test_what_is_spawned_in_shutdown_ends_all_the_same():
    said: list[Any] = []

    class Late(Scripted):
        async def shutdown(self) -> None:
            await self.context.spawn(mortal("child", said))

    async with open_system(scripted("parent", base=Late), broker=FakeBroker()):
        pass
    assert said == ["child up", "child down"]


async def test_a_spawned_actor_is_not_fed_by_the_broker():
    broker = FakeBroker()

    class Fed(Scripted):
        @receive
        async def take(self, *, n: int) -> int:
            self.said.append(n)
            return n

    said: list[Any] = []
    async with open_system(scripted("parent"), broker=broker) as system:
        (child,) = await do(system, "parent", spawns(scripted("child", said, base=Fed)))
        broker.put("worker:" + child.cell.settings.id + ":source", {"n": 1})
        await settle()
        assert broker.settled == []
        assert await child.ask({"n": 2}) == 2
    assert said == [2]


async def test_a_child_does_not_speak_for_its_parents_message():
    seen: list[Any] = []

    def look(actor: Any) -> None:
        for what in (lambda: actor.context.delivery, lambda: actor.context.publish("x", {}), actor.context.stash):
            try:
                what()
            except NotRunning as error:
                seen.append("there is none in flight here" in str(error))

    class Parent(Actor):
        settings = Settings(title="parent")

        @receive
        async def take(self, *, n: int) -> None:
            await self.context.spawn(scripted("child", up=look))

    broker = FakeBroker()
    async with open_system(Parent, broker=broker):
        broker.put(Parent, {"n": 1}, id="1")
        await broker.wait_settled(1)
    assert seen == [True, True, True]
    assert broker.published("1") == ()


async def test_the_parents_time_to_end_bounds_its_children(mock_clock: trio.testing.MockClock):
    class Slow(Scripted):
        async def shutdown(self) -> None:
            await trio.sleep(60)

    parent = scripted("parent", up=spawns(scripted("child", base=Slow, shutdown=60.0)), shutdown=2.0)
    async with open_system(parent, broker=FakeBroker()):
        pass
    assert trio.current_time() == pytest.approx(2, abs=0.1)


async def test_a_parent_that_is_killed_takes_its_children_along(mock_clock: trio.testing.MockClock):
    class Slow(Scripted):
        async def shutdown(self) -> None:
            await trio.sleep(60)

    parent = scripted("parent", up=spawns(scripted("child", base=Slow, shutdown=60.0)), shutdown="brutal_kill")
    async with open_system(parent, broker=FakeBroker()) as system:
        assert len(system._services.cells) == 2
    assert trio.current_time() == pytest.approx(0, abs=0.1)
    assert system._services.cells == {}


async def test_children_end_side_by_side(mock_clock: trio.testing.MockClock):
    class Slow(Scripted):
        async def shutdown(self) -> None:
            await trio.sleep(3)

    children = [scripted(f"c{n}", base=Slow) for n in range(4)]
    async with open_system(scripted("parent", up=spawns(*children)), broker=FakeBroker()):
        pass
    assert trio.current_time() == 3


async def test_a_startup_that_fails_after_spawning_leaves_no_child():
    said: list[Any] = []

    async def spawn_and_fail(actor: Any) -> None:
        await actor.context.spawn(mortal("child", said))
        raise ValueError("boom")

    with pytest.raises(StartError):
        async with open_system(mortal("parent", said, up=spawn_and_fail), broker=FakeBroker()):
            raise AssertionError("it must not come to this")
    assert said == ["child up", "child down"]


async def test_a_parent_learns_of_its_childs_end_by_watching():
    said: list[Any] = []
    async with open_system(scripted("parent", said), broker=FakeBroker()) as system:

        async def spawn(actor: Any) -> ActorRef[Any]:
            child: ActorRef[Any] = await actor.context.spawn(scripted("child", restart="temporary"))
            actor.context.watch(child, message=Note("it is gone"))
            return child

        child = await do(system, "parent", spawn)
        with pytest.raises(ActorCrashed):
            await child.ask(Do(fail))
        await settle()
        assert said == ["it is gone"]


@pytest.mark.parametrize("end", [fail, stop])
async def test_the_children_of_an_incarnation_are_no_news_to_the_next_one(end: Any):
    """Neither those that end with it, nor those whose end waits in its mailbox; nor does a link to them crash it."""
    said: list[Any] = []
    tree = [scripted("parent", said), scripted("other", restart="temporary")]
    async with open_system(tree, broker=FakeBroker(), intensity=MANY) as system:
        other = ref_of(system, "other")

        async def spawn(actor: Any) -> ActorRef[Any]:
            kids = [await actor.context.spawn(scripted(title, restart="temporary")) for title in ("a", "b")]
            for kid in kids:
                actor.context.watch(kid, message=Note("gone"))
                actor.context.link(kid)
            actor.context.watch(other, message=Note("other gone"))
            return kids[0]

        kid = await do(system, "parent", spawn)

        async def end_after_a_child(actor: Any) -> None:
            for ref in (kid, other):
                ref.tell_nowait(Do(fail))
            await settle()
            end(actor)

        parent = ref_of(system, "parent")
        parent.tell_nowait(Do(end_after_a_child))
        for _ in range(2):  # The handler settles, too.
            await settle()
        assert said == ["other gone"], "what it watches and has not spawned is still its business"
        assert parent.cell.incarnation == 2


async def test_thousands_come_and_go_and_leave_nothing():
    async with open_system(scripted("parent"), broker=FakeBroker()) as system:

        async def spawn_many(actor: Any) -> None:
            for _ in range(2000):
                child = await actor.context.spawn(Child(Scripted, restart="temporary"))
                child.tell_nowait(Do(stop))

        await do(system, "parent", spawn_many)
        await settle()
        assert len(system._services.cells) == 1
        assert system.tree().children[0].children == ()
