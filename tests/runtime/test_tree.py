"""The tree as it is now: as data, and as text."""

from typing import Any

import pytest
import trio

from actorwork import (
    Actor,
    Backoff,
    Child,
    DynamicSupervisor,
    Ignore,
    Intensity,
    MailboxSettings,
    Settings,
    Supervisor,
    open_system,
    receive,
)
from actorwork.runtime.outline import InFlightItem
from tests.doubles import FakeBroker
from tests.scripted_actor import Do, Note, do, fail, ref_of, scripted, sleeping

MANY = Intensity(restarts=1000, period=1)


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def serve(*, task_status: Any) -> None:
    task_status.started()
    await trio.sleep_forever()


async def test_a_tree_shows_every_child_with_its_kind_and_state():
    group = Supervisor([scripted("b"), Child(serve)], strategy="rest_for_one", name="group")
    tree = [scripted("a"), group, DynamicSupervisor(name="sessions")]
    async with open_system(tree, broker=FakeBroker()) as system:
        root = system.tree()
        assert (root.title, root.kind, root.state) == ("root", "one_for_one", "running")
        assert [(child.title, child.kind, child.state) for child in root.children] == [
            ("a", "actor", "running"),
            ("group", "rest_for_one", "running"),
            ("sessions", "dynamic", "running"),
        ]
        assert [(child.title, child.kind) for child in root.children[1].children] == [("b", "actor"), ("serve", "task")]


async def test_a_restart_shows_and_so_does_the_wait_for_one(mock_clock: trio.testing.MockClock):
    child = scripted("a", backoff=Backoff(min=5, max=5, jitter=0))
    async with open_system([child, scripted("b")], broker=FakeBroker(), intensity=MANY) as system:
        for _ in range(2):
            ref_of(system, "a").tell_nowait(Do(fail))
            await settle()
        (a, _) = system.tree().children
        assert (a.state, a.incarnation, a.restarts, a.waiting) == ("restarting", 1, 1, 1)
        await trio.sleep(20)
        (a, b) = system.tree().children
        assert (a.state, a.incarnation, a.restarts) == ("running", 3, 2)
        assert "a  running, incarnation 3, 2 restarts" in str(system.tree())
        assert (b.state, b.incarnation, b.restarts) == ("running", 1, 0)


async def test_a_busy_actor_shows_what_it_handles_and_for_how_long(mock_clock: trio.testing.MockClock):
    async with open_system(scripted("a"), broker=FakeBroker()) as system:
        await trio.sleep(1000)
        ref = ref_of(system, "a")
        ref.tell_nowait(Do(sleeping(60)))
        ref.tell_nowait(Note("waits"))
        await settle()
        (a,) = system.tree().children
        assert a.in_hand == (InFlightItem("Do", 0),)
        assert a.waiting == 1
        await trio.sleep(30)
        (a,) = system.tree().children
        (in_hand,) = a.in_hand
        assert in_hand.seconds == pytest.approx(30, abs=0.3)
        assert a.line == f"a  running, incarnation 1, 1 waiting, handling Do for {in_hand.seconds:.1f} s"


async def test_deliveries_show_by_their_ids(mock_clock: trio.testing.MockClock):
    class Slow(Actor):
        settings = Settings(title="slow", concurrency=2, mailbox=MailboxSettings(capacity=10))

        @receive
        async def take(self, *, n: int) -> None:
            await trio.sleep(9)

    broker = FakeBroker()
    async with open_system(Slow, broker=broker) as system:
        await trio.sleep(10)
        for n in range(3):
            broker.put(Slow, {"n": n}, id=f"m{n}")
        await trio.sleep(2)
        (slow,) = system.tree().children
        assert set(slow.in_hand) == {InFlightItem("m0", 2), InFlightItem("m1", 2)}


async def test_a_child_that_had_nothing_to_run_is_empty():
    def ignore(_: Any) -> None:
        raise Ignore

    async with open_system([scripted("a", up=ignore), scripted("b")], broker=FakeBroker()) as system:
        assert [child.state for child in system.tree().children] == ["empty", "running"]


async def test_a_child_that_ends_is_stopping(mock_clock: trio.testing.MockClock):
    class Slow(Actor):
        async def shutdown(self) -> None:
            await trio.sleep(3)

    async with open_system([Slow, scripted("b")], broker=FakeBroker()) as system, trio.open_nursery() as nursery:
        nursery.start_soon(system.supervisor().terminate_child, "Slow")
        await settle()
        assert system.tree().children[0].state == "stopping"
        await trio.sleep(5)
        assert system.tree().children[0].state == "empty"


async def test_the_drawing():
    group = Supervisor([scripted("b"), scripted("c")], strategy="one_for_all", name="group")

    async def spawn(actor: Any) -> None:
        await actor.context.spawn(scripted("kid"))

    async with open_system([scripted("a", up=spawn), group, scripted("d")], broker=FakeBroker()) as system:
        await do(system, "d", lambda _: None)
        assert (
            str(system.tree())
            == """\
root  one_for_one, running, incarnation 1
├─ a  running, incarnation 1
│  └─ kid  running, incarnation 1
├─ group  one_for_all, running, incarnation 1
│  ├─ b  running, incarnation 1
│  └─ c  running, incarnation 1
└─ d  running, incarnation 1"""
        )
