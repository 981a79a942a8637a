"""What watchers, links and senders learn of the end of a child that its supervisor ended, or gave up on."""

import math
from typing import Any

import pytest
import trio

from actorwork import (
    ActorCrashed,
    ActorRef,
    ActorStopped,
    Backoff,
    Child,
    DynamicSupervisor,
    Intensity,
    Supervisor,
    System,
    Terminated,
    events,
    open_system,
    receive,
)
from actorwork.policy.exits import Exit, Kind
from tests.doubles import FakeBroker, Kept
from tests.scripted_actor import Do, Scripted, do, fail, ref_of, scripted, sleeping
from tests.supervision.tree_fixture import quiet

NEVER = Intensity(restarts=0)


class Watcher(Scripted):
    """Records the ends of which it is notified."""

    @receive
    async def ended(self, message: Terminated) -> None:
        self.said.append((message.ref.title, message.exit))


def watcher(said: list[Any]) -> Child:
    return scripted("watcher", said, base=Watcher)


def kinds(said: list[tuple[str, Exit]]) -> dict[str, Kind]:
    assert len({title for title, _ in said}) == len(said), "each end is told once"
    return {title: ended.kind for title, ended in said}


async def watch(system: System, *refs: ActorRef[Any]) -> None:
    for ref in refs:
        await do(system, "watcher", lambda actor, ref=ref: actor.context.watch(ref))


async def crash(ref: ActorRef[Any]) -> None:
    with pytest.raises(ActorCrashed):
        await ref.ask(Do(fail))
    await quiet()


async def test_a_crash_on_which_a_dynamic_supervisor_gives_up_is_told_as_a_crash():
    """Of its siblings, which ended only because their supervisor did, a shutdown is told."""
    said: list[Any] = []
    tree = [watcher(said), DynamicSupervisor(name="kids", intensity=NEVER), scripted("partner", restart="temporary")]
    async with open_system(tree, broker=FakeBroker()) as system:
        kids = system.supervisor("kids")
        culprit, sibling = [await kids.start_child(scripted(title)) for title in ("culprit", "sibling")]
        await watch(system, culprit, sibling, ref_of(system, "partner"))
        await do(system, "partner", lambda actor: actor.context.link(culprit))
        await crash(culprit)
        assert kinds(said) == {"culprit": Kind.CRASHED, "sibling": Kind.SHUTDOWN, "partner": Kind.CRASHED}
        assert str(dict(said)["culprit"]) == "crashed (ValueError: boom)"
        with pytest.raises(ActorStopped, match=r"'culprit' has ended: crashed \(ValueError: boom\)"):
            await culprit.ask(Do(fail))
        with pytest.raises(ActorStopped, match="'sibling' has stopped: its supervisor ended"):
            await sibling.ask(Do(fail))


async def test_a_crash_that_ends_the_parent_of_a_spawned_actor_is_told_as_a_crash():
    said: list[Any] = []
    async with open_system([watcher(said), scripted("parent")], broker=FakeBroker()) as system:
        kid = await do(system, "parent", lambda actor: actor.context.spawn(scripted("kid")))
        await watch(system, kid)
        for _ in range(4):
            await crash(kid)
        assert kinds(said) == {"kid": Kind.CRASHED}
        assert dict(said)["kid"].incarnation == 4
        with pytest.raises(ActorStopped, match=r"'kid' has ended: crashed \(ValueError: boom\)"):
            await kid.ask(Do(fail))


async def test_each_child_of_a_supervisor_that_is_gone_for_good_is_told_by_its_own_end():
    """Also two levels below: `crashed` is what the supervisor did, and only one of its children."""
    said: list[Any] = []
    inner = Supervisor([scripted("first"), scripted("culprit"), scripted("last")], name="inner", intensity=NEVER)
    outer = Supervisor([inner, scripted("beside")], name="outer", intensity=NEVER, restart="temporary")
    async with open_system([watcher(said), outer], broker=FakeBroker()) as system:
        refs = {title: ref_of(system, title) for title in ("first", "culprit", "last", "beside")}
        await watch(system, *refs.values())
        await crash(refs["culprit"])
        shutdown = dict.fromkeys(("first", "last", "beside"), Kind.SHUTDOWN)
        assert kinds(said) == {**shutdown, "culprit": Kind.CRASHED}


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
async def test_a_child_that_is_killed_at_its_bound_is_told_as_killed(dynamic: bool, mock_clock: trio.testing.MockClock):
    """The same that the event says, and abnormal: it travels over links."""
    said: list[Any] = []
    kept = Kept()
    child = scripted("child", shutdown=2)
    kids = DynamicSupervisor(name="kids") if dynamic else Supervisor([child], name="kids")
    tree = [watcher(said), kids, scripted("partner", restart="temporary")]
    async with open_system(tree, broker=FakeBroker(), emit=kept) as system:
        ref = await system.supervisor("kids").start_child(child) if dynamic else ref_of(system, "child")
        await watch(system, ref, ref_of(system, "partner"))
        await do(system, "partner", lambda actor: actor.context.link(ref))
        await ref.tell(Do(sleeping(math.inf)))
        await quiet()
        await system.supervisor("kids").terminate_child(ref)
        await quiet()
        assert trio.current_time() == 2
        assert kinds(said) == {"child": Kind.KILLED, "partner": Kind.CRASHED}
        assert [event.exit.kind for event in kept.of(events.ChildExited)] == [Kind.KILLED, Kind.CRASHED]


async def test_a_child_that_waits_for_its_restart_ends_as_if_it_ran(mock_clock: trio.testing.MockClock):
    """The request to end it, and not the crash before, keeps it from running again."""
    said: list[Any] = []
    child = scripted("child", backoff=Backoff(min=10, max=10))
    async with open_system([watcher(said), child], broker=FakeBroker()) as system:
        ref = ref_of(system, "child")
        await watch(system, ref)
        await crash(ref)
        assert said == []
        await system.supervisor().terminate_child("child")
        await quiet()
        assert said == [("child", Exit(Kind.SHUTDOWN, incarnation=1))]


async def test_a_child_that_crashed_while_its_supervisor_gave_up_on_another_is_told_as_a_crash():
    said: list[Any] = []
    inner = Supervisor([scripted("a"), scripted("b")], name="inner", intensity=NEVER, restart="temporary")
    async with open_system([watcher(said), inner], broker=FakeBroker()) as system:
        refs = [ref_of(system, title) for title in ("a", "b")]
        await watch(system, *refs)
        for ref in refs:
            ref.tell_nowait(Do(fail))
        await quiet()
        assert kinds(said) == {"a": Kind.CRASHED, "b": Kind.CRASHED}


async def test_an_error_after_the_request_to_end_is_no_crash(mock_clock: trio.testing.MockClock):
    """OTP's `shutdown_error`: it is reported with its error, and does not travel over links."""
    said: list[Any] = []
    kept = Kept()

    async def fail_later(actor: Any) -> None:
        await trio.sleep(1)
        fail(actor)

    tree = [watcher(said), scripted("child", shutdown=math.inf), scripted("partner", restart="temporary")]
    async with open_system(tree, broker=FakeBroker(), emit=kept) as system:
        child, partner = ref_of(system, "child"), ref_of(system, "partner")
        await watch(system, child)
        await do(system, "partner", lambda actor: actor.context.link(child))
        await child.tell(Do(fail_later))
        await quiet()
        await system.supervisor().terminate_child("child")
        await quiet()
        (event,) = kept.of(events.ChildExited)
        assert str(event.exit) == "shutdown (ValueError: boom)"
        assert said == [("child", event.exit)]
        assert not partner.cell.over
