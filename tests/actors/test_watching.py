"""Watching and links: which actors are notified of an end, how often, and what happens to those without a handler.

The cases are those of Akka's death watch and of OTP's monitors and links, written anew.
"""

import gc
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio

from actorwork import (
    ActorCrashed,
    ActorRef,
    Child,
    DeathPact,
    Intensity,
    MaxRestartsExceeded,
    Restarted,
    Terminated,
    events,
    open_system,
    receive,
)
from actorwork.actors.life.cell import Cell
from actorwork.policy.exits import Exit, Kind
from tests.doubles import FakeBroker, Kept
from tests.garbage import living
from tests.scripted_actor import Do, Note, Scripted, do, fail, ref_of, scripted, stop

MANY = Intensity(restarts=100, period=1)


class Watcher(Scripted):
    """Records its messages."""

    @receive
    async def ended(self, message: Terminated) -> None:
        self.said.append((message.ref.title, message.exit.kind))

    @receive
    async def again(self, message: Restarted) -> None:
        self.said.append((message.ref.title, message.incarnation, message.exit.kind))


def watcher(said: list[Any], title: str = "watcher", **options: Any) -> Any:
    return scripted(title, said, base=Watcher, **options)


def mortal(title: str = "mortal", **options: Any) -> Any:
    """A child that is not started again."""
    return scripted(title, restart="temporary", **options)


def watches(ref: ActorRef[Any], **options: Any) -> Callable[[Any], None]:
    return lambda actor: actor.context.watch(ref, **options)


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def crash(ref: ActorRef[Any]) -> None:
    with pytest.raises(ActorCrashed):
        await ref.ask(Do(fail))


# ---- watch ----


@pytest.mark.parametrize(("end", "kind"), [(fail, Kind.CRASHED), (stop, Kind.NORMAL)])
async def test_a_watcher_is_told_of_the_end_once(end: Callable[[Any], None], kind: Kind):
    said: list[Any] = []
    async with open_system([watcher(said), mortal()], broker=FakeBroker()) as system:
        ref = ref_of(system, "mortal")
        await do(system, "watcher", watches(ref))
        ref.tell_nowait(Do(end))
        await settle()
        assert said == [("mortal", kind)]


async def test_a_watcher_is_told_of_an_actor_that_its_supervisor_ends():
    said: list[Any] = []
    async with open_system([watcher(said), scripted("child")], broker=FakeBroker()) as system:
        ref = ref_of(system, "child")
        await do(system, "watcher", watches(ref))
        await system._root.handle.terminate_child("child")
        await settle()
        assert said == [("child", Kind.SHUTDOWN)]


async def test_watching_twice_is_told_once():
    said: list[Any] = []
    async with open_system([watcher(said), mortal()], broker=FakeBroker()) as system:
        ref = ref_of(system, "mortal")
        await do(system, "watcher", watches(ref))
        await do(system, "watcher", watches(ref))
        await crash(ref)
        await settle()
    assert said == [("mortal", Kind.CRASHED)]


@pytest.mark.parametrize("known", [True, False], ids=["with ties", "without ties"])
async def test_watching_the_dead_is_told_at_once(known: bool):
    said: list[Any] = []
    async with open_system([watcher(said), mortal()], broker=FakeBroker()) as system:
        ref = ref_of(system, "mortal")
        if not known:
            await do(system, "mortal", lambda actor: actor.context.unregister("mortal"))
            ref.cell._links = None
        await crash(ref)
        await do(system, "watcher", watches(ref))
        await settle()
        assert said == [("mortal", Kind.CRASHED)]
        await do(system, "watcher", watches(ref))
        await settle()
    assert said == [("mortal", Kind.CRASHED)] * 2, "each watch of an ended actor is notified"


async def test_a_restart_is_no_end():
    said: list[Any] = []
    async with open_system([watcher(said), scripted("lasting")], broker=FakeBroker(), intensity=MANY) as system:
        ref = ref_of(system, "lasting")
        await do(system, "watcher", watches(ref))
        await crash(ref)
        await ref.ask(Do(lambda _: None))
        await settle()
        assert said == []


async def test_who_wants_to_is_told_of_restarts():
    said: list[Any] = []
    async with open_system([watcher(said), scripted("lasting")], broker=FakeBroker(), intensity=MANY) as system:
        ref = ref_of(system, "lasting")
        await do(system, "watcher", watches(ref, restarts=True))
        await crash(ref)
        await ref.ask(Do(lambda _: None))
        ref.tell_nowait(Do(stop))
        await ref.ask(Do(lambda _: None))
        await settle()
        assert said == [("lasting", 2, Kind.CRASHED), ("lasting", 3, Kind.NORMAL)]


async def test_the_exit_of_a_restart_names_the_users_error():
    got: list[Restarted] = []

    class Curious(Scripted):
        @receive
        async def again(self, message: Restarted) -> None:
            got.append(message)

    tree = [scripted("curious", base=Curious), scripted("lasting")]
    async with open_system(tree, broker=FakeBroker(), intensity=MANY) as system:
        ref = ref_of(system, "lasting")
        await do(system, "curious", watches(ref, restarts=True))
        await crash(ref)
        await settle()
    (restarted,) = got
    assert restarted.ref == ref
    assert isinstance(restarted.exit.error, ValueError)


async def test_a_restart_with_siblings_is_told_as_a_shutdown():
    from actorwork import Supervisor

    said: list[Any] = []
    group = Supervisor([scripted("a"), scripted("b")], strategy="one_for_all", intensity=MANY)
    async with open_system([watcher(said), group], broker=FakeBroker()) as system:
        for name in "ab":
            await do(system, "watcher", watches(ref_of(system, name), restarts=True))
        await crash(ref_of(system, "a"))
        await settle()
        assert said == [("a", 2, Kind.CRASHED), ("b", 2, Kind.SHUTDOWN)]


async def test_a_message_of_its_own_comes_instead():
    said: list[Any] = []
    async with open_system([watcher(said), mortal()], broker=FakeBroker()) as system:
        ref = ref_of(system, "mortal")
        await do(system, "watcher", watches(ref, message=Note("it is gone")))
        await crash(ref)
        await settle()
        assert said == ["it is gone"]
        await do(system, "watcher", watches(ref, message=Note("long gone")))
        await settle()
    assert said == ["it is gone", "long gone"]


async def test_a_message_with_wrong_keywords_is_the_watchers_crash_and_nobody_elses():
    kept = Kept()

    class Keywords(Scripted):
        @receive
        async def take(self, *, n: int) -> None: ...

    tree = [scripted("watcher", base=Keywords), mortal(), scripted("other")]
    async with open_system(tree, broker=FakeBroker(), emit=kept, intensity=MANY) as system:
        ref = ref_of(system, "mortal")
        await do(system, "watcher", watches(ref, message={"wrong": 1}))
        await crash(ref)
        await settle()
        assert await do(system, "other", lambda _: "lives") == "lives"
        (ended,) = [event.exit for event in kept.of(events.ChildExited) if event.child == "watcher"]
        assert isinstance(ended.error, DeathPact)


# ---- unwatch ----


async def test_who_does_not_watch_any_more_is_not_told():
    said: list[Any] = []
    async with open_system([watcher(said), mortal()], broker=FakeBroker()) as system:
        ref = ref_of(system, "mortal")
        await do(system, "watcher", watches(ref))
        await do(system, "watcher", lambda actor: actor.context.unwatch(ref))
        await crash(ref)
        await settle()
    assert said == []


@pytest.mark.parametrize("message", [None, Note("gone")])
async def test_unwatch_takes_back_what_waits_already(message: object):
    said: list[Any] = []
    async with open_system([watcher(said), mortal()], broker=FakeBroker()) as system:
        ref = ref_of(system, "mortal")

        async def let_it_end_and_unwatch(actor: Any) -> None:
            actor.context.watch(ref, message=message)
            await crash(ref)
            await settle()
            assert len(actor.context.ref.cell.mailbox) == 1, "it waits"
            actor.context.unwatch(ref)

        await do(system, "watcher", let_it_end_and_unwatch)
        await settle()
    assert said == []


async def test_to_watch_again_before_the_first_end_was_handled_is_told_once():
    said: list[Any] = []
    async with open_system([watcher(said), mortal()], broker=FakeBroker()) as system:
        ref = ref_of(system, "mortal")

        async def let_it_end_and_watch(actor: Any) -> None:
            actor.context.watch(ref)
            await crash(ref)
            await settle()
            actor.context.watch(ref)

        await do(system, "watcher", let_it_end_and_watch)
        await settle()
    assert said == [("mortal", Kind.CRASHED)]


# ---- who does not care dies ----


async def test_a_watcher_without_a_handler_dies_of_it():
    kept = Kept()
    tree = [scripted("careless"), mortal()]
    async with open_system(tree, broker=FakeBroker(), emit=kept, intensity=MANY) as system:
        await do(system, "careless", watches(ref_of(system, "mortal")))
        await crash(ref_of(system, "mortal"))
        assert await do(system, "careless", lambda actor: actor.context.ref.cell.incarnation) == 2
    (ended,) = [event.exit for event in kept.of(events.ChildExited) if event.child == "careless"][:1]
    assert isinstance(ended.error, DeathPact)
    assert "'careless' watches an actor, and has no handler" in str(ended.error)


async def test_a_death_pact_follows_on_failure():
    tree = [scripted("careless", settings={"on_failure": "stop"}), mortal()]
    async with open_system(tree, broker=FakeBroker()) as system:
        ref = ref_of(system, "careless")
        await do(system, "careless", watches(ref_of(system, "mortal")))
        await crash(ref_of(system, "mortal"))
        await settle()
        assert ref.cell.over


async def test_what_an_actor_has_become_decides_whether_it_cares():
    said: list[Any] = []

    class Changing(Scripted):
        async def mourn(self, message: Terminated) -> None:
            self.said.append(message.ref.title)

    async with open_system([scripted("changing", said, base=Changing), mortal()], broker=FakeBroker()) as system:
        ref = ref_of(system, "mortal")
        await do(system, "changing", watches(ref))
        await do(system, "changing", lambda actor: actor.context.become(actor.mourn))
        await crash(ref)
        await settle()
        assert said == ["mortal"]


# ---- lives of watchers ----


async def test_a_watch_outlives_a_restart_of_the_watcher():
    said: list[Any] = []
    async with open_system([watcher(said), mortal()], broker=FakeBroker(), intensity=MANY) as system:
        ref = ref_of(system, "mortal")
        await do(system, "watcher", watches(ref))
        await crash(ref_of(system, "watcher"))
        await do(system, "watcher", watches(ref))
        await crash(ref)
        await settle()
    assert said == [("mortal", Kind.CRASHED)], "though the new incarnation watched again"


async def test_two_that_watch_each_other_end_without_a_circle():
    said: list[Any] = []
    tree = [watcher(said, "a", restart="temporary"), watcher(said, "b", restart="temporary")]
    async with open_system(tree, broker=FakeBroker()) as system:
        a, b = ref_of(system, "a"), ref_of(system, "b")
        await do(system, "a", watches(b))
        await do(system, "b", watches(a))
        await crash(a)
        await settle()
        assert said == [("a", Kind.CRASHED)]
        await crash(b)
        await settle()
    assert said == [("a", Kind.CRASHED)]


async def test_watching_itself_does_nothing():
    said: list[Any] = []
    async with open_system(watcher(said, restart="temporary"), broker=FakeBroker()) as system:
        await do(system, "watcher", lambda actor: actor.context.watch(actor.context.ref))
        await crash(ref_of(system, "watcher"))
        await settle()
    assert said == []


async def test_whoever_ends_first_is_forgotten_by_the_other():
    async with open_system([scripted("parent"), scripted("lasting")], broker=FakeBroker()) as system:
        lasting = ref_of(system, "lasting")

        async def spawn_watching(actor: Any) -> None:
            await actor.context.spawn(mortal("short", up=watches(lasting)))

        async def spawn_watched(actor: Any) -> None:
            spawned = await actor.context.spawn(mortal("short"))
            actor.context.watch(spawned, message=Note("gone"))
            actor.context.link(spawned)

        for spawn in (spawn_watching, spawn_watched):
            await do(system, "parent", spawn)
            ref_of(system, "short").tell_nowait(Do(stop))
            await settle()
            await do(system, "parent", lambda _: None)  # the message before it is held until then
            gc.collect()
            assert not [cell for cell in living(Cell) if cell.title == "short"]


async def test_a_thousand_watchers_are_all_told():
    said: list[Any] = []
    async with open_system([mortal(), scripted("parent")], broker=FakeBroker()) as system:
        ref = ref_of(system, "mortal")

        async def spawn_many(actor: Any) -> None:
            for _ in range(1000):
                await actor.context.spawn(Child(partial(Watcher, said, watches(ref))))

        await do(system, "parent", spawn_many)
        await crash(ref)
        await settle()
        assert said == [("mortal", Kind.CRASHED)] * 1000


async def test_names_are_free_before_an_end_is_told():
    said: list[Any] = []

    class Heir(Scripted):
        @receive
        async def ended(self, message: Terminated) -> None:
            self.said.append(self.context.whereis("mortal"))
            self.context.register("mortal")
            self.said.append(self.context.whereis("mortal"))

    async with open_system([scripted("heir", said, base=Heir), mortal()], broker=FakeBroker()) as system:
        await do(system, "heir", watches(ref_of(system, "mortal")))
        await crash(ref_of(system, "mortal"))
        await settle()
        assert said == [None, ref_of(system, "heir")]


async def test_an_end_is_told_before_what_users_said_earlier():
    said: list[Any] = []
    async with open_system([watcher(said), mortal()], broker=FakeBroker()) as system:
        ref, own = ref_of(system, "mortal"), ref_of(system, "watcher")

        async def fill_and_wait(actor: Any) -> None:
            actor.context.watch(ref)
            own.tell_nowait(Note("first"))
            await crash(ref)
            await settle()

        await do(system, "watcher", fill_and_wait)
        await settle()
    assert said == [("mortal", Kind.CRASHED), "first"]


# ---- links ----


@pytest.mark.parametrize("first", ["a", "b"], ids=["who linked ends", "who was linked ends"])
async def test_an_abnormal_end_travels_over_a_link_both_ways(first: str):
    kept = Kept()
    async with open_system([mortal("a"), mortal("b")], broker=FakeBroker(), emit=kept) as system:
        a, b = ref_of(system, "a"), ref_of(system, "b")
        await do(system, "a", lambda actor: actor.context.link(b))
        await crash(ref_of(system, first))
        await settle()
        assert a.cell.over
        assert b.cell.over
    last = kept.of(events.ChildExited)[1].exit
    assert isinstance(last.error, DeathPact)
    assert "which has ended: crashed (ValueError: boom)" in str(last.error)


async def test_a_normal_end_does_not_travel():
    async with open_system([mortal("a"), mortal("b")], broker=FakeBroker()) as system:
        b = ref_of(system, "b")
        await do(system, "a", lambda actor: actor.context.link(b))
        ref_of(system, "a").tell_nowait(Do(stop))
        await settle()
        assert not b.cell.over
        await crash(b)


async def test_a_restart_does_not_travel_and_keeps_the_link():
    async with open_system([scripted("a"), mortal("b")], broker=FakeBroker(), intensity=MANY) as system:
        a, b = ref_of(system, "a"), ref_of(system, "b")
        await do(system, "a", lambda actor: actor.context.link(b))
        await crash(a)
        await settle()
        assert not b.cell.over
        await crash(b)
        await settle()
        assert a.cell.incarnation == 3


async def test_a_link_to_one_that_has_crashed_is_a_crash_at_once():
    async with open_system([mortal("a"), mortal("b")], broker=FakeBroker()) as system:
        a, b = ref_of(system, "a"), ref_of(system, "b")
        await crash(b)
        assert await do(system, "a", lambda actor: actor.context.link(b)) is None, "after the message in flight"
        await settle()
        assert a.cell.over


async def test_a_link_to_one_that_has_ended_in_order_does_nothing():
    async with open_system([mortal("a"), mortal("b")], broker=FakeBroker()) as system:
        a, b = ref_of(system, "a"), ref_of(system, "b")
        b.tell_nowait(Do(stop))
        await settle()
        await do(system, "a", lambda actor: actor.context.link(b))
        await settle()
        assert not a.cell.over


@pytest.mark.parametrize("who", ["a", "b"])
async def test_unlink_by_either_ends_it_for_both(who: str):
    async with open_system([mortal("a"), mortal("b")], broker=FakeBroker()) as system:
        a, b = ref_of(system, "a"), ref_of(system, "b")
        await do(system, "a", lambda actor: actor.context.link(b))
        await do(system, who, lambda actor: actor.context.unlink(b if who == "a" else a))
        await crash(b)
        await settle()
        assert not a.cell.over


async def test_unlink_takes_back_a_crash_that_waits():
    async with open_system([mortal("a"), mortal("b")], broker=FakeBroker()) as system:
        a, b = ref_of(system, "a"), ref_of(system, "b")

        async def let_it_end_and_unlink(actor: Any) -> None:
            actor.context.link(b)
            await crash(b)
            await settle()
            actor.context.unlink(b)

        await do(system, "a", let_it_end_and_unlink)
        await settle()
        assert not a.cell.over


async def test_a_handler_of_everything_does_not_stop_a_link():
    class Greedy(Scripted):
        @receive
        async def anything(self, message: object) -> None: ...

    async with open_system([mortal("a", base=Greedy), mortal("b")], broker=FakeBroker()) as system:
        a, b = ref_of(system, "a"), ref_of(system, "b")
        await do(system, "a", lambda actor: actor.context.link(b))
        await crash(b)
        await settle()
        assert a.cell.over


async def test_a_link_and_a_watch_of_the_same_actor_are_two_things():
    said: list[Any] = []
    async with open_system([watcher(said), mortal()], broker=FakeBroker(), intensity=MANY) as system:
        ref = ref_of(system, "mortal")

        def tie(actor: Any) -> None:
            actor.context.link(ref)
            actor.context.watch(ref)
            actor.context.unwatch(ref)
            actor.context.watch(ref)

        await do(system, "watcher", tie)
        await crash(ref)
        await settle()
        assert said == [("mortal", Kind.CRASHED)], "told after the crash, to the next incarnation"
        assert ref_of(system, "watcher").cell.incarnation == 2


async def test_a_circle_of_links_ends_as_a_whole():
    titles = [f"n{n}" for n in range(10)]
    async with open_system([mortal(title) for title in titles], broker=FakeBroker()) as system:
        refs = [ref_of(system, title) for title in titles]
        for n, title in enumerate(titles):
            await do(system, title, lambda actor, other=refs[n - 1]: actor.context.link(other))
        await crash(refs[4])
        await settle()
        assert all(ref.cell.over for ref in refs)


async def test_a_broken_link_counts_as_a_crash_for_the_supervisor():
    said: list[Any] = []
    with pytest.raises(MaxRestartsExceeded) as caught:
        async with open_system(
            [scripted("a", said), mortal("b")], broker=FakeBroker(), intensity=Intensity(restarts=0)
        ) as system:
            b = ref_of(system, "b")
            await do(system, "a", lambda actor: actor.context.link(b))
            await crash(b)
            await trio.sleep_forever()
    assert isinstance(caught.value.__cause__, DeathPact)


def test_an_exit_says_how_it_was():
    assert str(Exit(Kind.NORMAL)) == "normal"
    assert str(Exit(Kind.CRASHED, ValueError("boom"))) == "crashed (ValueError: boom)"
