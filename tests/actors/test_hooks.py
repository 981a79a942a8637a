"""What `startup` opens lives until `shutdown` closes it, however the actor ends."""

from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio

from actorwork import Actor, ActorCrashed, Child, Settings, StartError, events, open_client, open_system, receive
from tests.doubles import FakeBroker, Kept


class Sender(Actor):
    """Has a client and a nursery of its own."""

    settings = Settings(title="sender")
    broker: FakeBroker
    said: list[str]

    async def startup(self) -> None:
        async with AsyncExitStack() as stack:
            self.client = await stack.enter_async_context(open_client(self.broker))
            self.tasks = await stack.enter_async_context(trio.open_nursery())
            self.resources = stack.pop_all()

    async def shutdown(self) -> None:
        await self.client.publish("elsewhere", {"of": "shutdown"})
        self.tasks.cancel_scope.cancel()
        await self.resources.aclose()
        self.said.append("closed")

    @receive
    async def do(self, *, what: str) -> None:
        self.tasks.start_soon(trio.sleep_forever)
        await self.client.publish("elsewhere", {"of": what})
        if what == "raise":
            raise ValueError(what)


def sender(broker: FakeBroker, said: list[str], **settings: Any) -> type[Any]:
    return type("Sender", (Sender,), {"settings": Settings(title="sender", **settings), "broker": broker, "said": said})


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_a_client_opened_in_startup_serves_until_shutdown_closes_it(concurrency: int) -> None:
    broker, said, kept = FakeBroker(), list[str](), Kept()
    actor = sender(broker, said, concurrency=concurrency)
    async with open_system(actor, broker=broker, emit=kept) as system:
        await system.ref(actor).ask({"what": "first"})
        with pytest.raises(ActorCrashed):
            await system.ref(actor).ask({"what": "raise"})
        await system.ref(actor).ask({"what": "second"})
    assert [envelope.data for envelope in broker.sent] == [
        b'{"of":"first"}',
        b'{"of":"raise"}',
        b'{"of":"shutdown"}',
        b'{"of":"second"}',
        b'{"of":"shutdown"}',
    ]
    assert said == ["closed", "closed"]
    assert not kept.of(events.ActorTrouble)


async def test_a_shutdown_that_is_too_slow_leaves_nothing_open(mock_clock: trio.testing.MockClock) -> None:
    ended = list[str]()

    class Slow(Actor):
        settings = Settings(title="slow")

        async def startup(self) -> None:
            self.resources = AsyncExitStack()
            nursery = await self.resources.enter_async_context(trio.open_nursery())
            nursery.start_soon(self.work)

        async def work(self) -> None:
            try:
                await trio.sleep_forever()
            finally:
                ended.append("work")

        async def shutdown(self) -> None:
            await trio.sleep_forever()

        @receive
        async def do(self, *, what: str) -> None: ...

    kept = Kept()
    async with open_system(Child(Slow, shutdown=2), broker=FakeBroker(), emit=kept) as system:
        await system.ref(Slow).ask({"what": ""})
    assert ended == ["work"]
    (trouble,) = kept.of(events.ActorTrouble)
    assert "took longer than 2 s" in str(trouble.error)
    assert trio.current_time() == 2


async def test_what_a_failing_startup_has_opened_is_closed_and_the_start_tried_again() -> None:
    ended = list[int]()
    tries = list[int]()

    class Flaky(Actor):
        settings = Settings(title="flaky")

        async def startup(self) -> None:
            tries.append(len(tries))
            self.resources = AsyncExitStack()
            outer = await self.resources.enter_async_context(trio.open_nursery())
            inner = await self.resources.enter_async_context(trio.open_nursery())
            outer.start_soon(self.work)
            inner.start_soon(self.work)
            if len(tries) in (2, 3):
                await trio.testing.wait_all_tasks_blocked()
                raise OSError("not yet")

        async def work(self) -> None:
            try:
                await trio.sleep_forever()
            finally:
                ended.append(len(tries))

        async def shutdown(self) -> None:
            self.resources, resources = AsyncExitStack(), self.resources
            async with resources:
                raise ValueError("out of the nurseries")

        @receive
        async def do(self, *, what: str) -> int:
            if what:
                raise ValueError(what)
            return len(tries)

    kept = Kept()
    async with open_system(Flaky, broker=FakeBroker(), emit=kept) as system:
        with pytest.raises(ActorCrashed):
            await system.ref(Flaky).ask({"what": "raise"})
        assert await system.ref(Flaky).ask({"what": ""}) == 4
    assert ended == [1, 1, 2, 2, 3, 3, 4, 4]


async def test_a_startup_that_swallows_its_timeout_has_failed(mock_clock: trio.testing.MockClock) -> None:
    class Stubborn(Actor):
        settings = Settings(title="stubborn")

        async def startup(self) -> None:
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                self.late = True

        @receive
        async def do(self, *, what: str) -> None: ...

    with pytest.raises(StartError, match="startup took longer than 3 s"):
        async with open_system(Child(Stubborn, startup_timeout=3), broker=FakeBroker()):
            raise AssertionError("it must not come to this")


async def test_a_nursery_that_shutdown_leaves_open_is_closed_and_reported() -> None:
    class Careless(Actor):
        settings = Settings(title="careless")

        async def startup(self) -> None:
            self.block = trio.open_nursery()
            nursery = await self.block.__aenter__()
            nursery.start_soon(self.work)

        async def work(self) -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise OSError("while it was cancelled")

        @receive
        async def do(self, *, what: str) -> None: ...

    kept = Kept()
    async with open_system(Careless, broker=FakeBroker(), emit=kept) as system:
        await system.ref(Careless).ask({"what": ""})
    (trouble,) = kept.of(events.ActorTrouble)
    assert "left a nursery open" in str(trouble.error)
    assert isinstance(trouble.error.__cause__, ExceptionGroup)


async def test_an_actor_ends_when_a_nursery_that_its_startup_opened_fails(mock_clock: trio.testing.MockClock) -> None:
    class Worker(Actor):
        settings = Settings(title="worker")

        async def startup(self) -> None:
            self.resources = AsyncExitStack()
            self.tasks = await self.resources.enter_async_context(trio.open_nursery())

        async def shutdown(self) -> None:
            await self.resources.aclose()

        async def fail(self) -> None:
            raise OSError("in a task")

        @receive
        async def do(self, *, what: str) -> str:
            if what == "fail":
                self.tasks.start_soon(self.fail)
                await trio.sleep_forever()
            return what

    kept = Kept()
    broker = FakeBroker()
    async with open_system(Worker, broker=broker, emit=kept) as system:
        system.ref(Worker).tell_nowait({"what": "fail"})
        assert await system.ref(Worker).ask({"what": "next"}) == "next"
    (trouble,) = kept.of(events.ActorTrouble)
    assert isinstance(trouble.error, OSError)
    assert len(kept.of(events.ActorStarted)) == 2


async def test_an_actor_that_is_killed_leaves_nothing_open(mock_clock: trio.testing.MockClock) -> None:
    ended = list[str]()

    class Held(Actor):
        settings = Settings(title="held")

        async def startup(self) -> None:
            self.resources = AsyncExitStack()
            for name in ("outer", "inner"):
                nursery = await self.resources.enter_async_context(trio.open_nursery())
                nursery.start_soon(self.work, name)

        async def work(self, name: str) -> None:
            try:
                await trio.sleep_forever()
            finally:
                ended.append(name)

        async def shutdown(self) -> None:
            await trio.sleep_forever()

        @receive
        async def do(self, *, what: str) -> str:
            if what == "sleep":
                await trio.sleep_forever()
            return what

    kept = Kept()
    async with open_system(Child(Held, shutdown=2), broker=FakeBroker(), emit=kept) as system:
        ref = system.ref(Held)
        ref.tell_nowait({"what": "sleep"})
        await trio.testing.wait_all_tasks_blocked()
        await system.supervisor().terminate_child(ref)
        assert sorted(ended) == ["inner", "outer"]
        await system.supervisor().restart_child(ref)
        assert await ref.ask({"what": "again"}) == "again"
    (first, _) = kept.of(events.ChildExited)
    assert first.exit.kind.value == "killed"


class Block:
    """Says when it is left, and takes its time over it."""

    def __init__(self, name: str, said: list[str], seconds: float = 0) -> None:
        self.name, self.said, self.seconds = name, said, seconds

    async def __aenter__(self) -> str:
        await trio.lowlevel.checkpoint()
        return self.name

    async def __aexit__(self, *_: object) -> None:
        try:
            await trio.sleep(self.seconds)
            self.said.append(f"left {self.name}")
        except trio.Cancelled:
            self.said.append(f"cancelled {self.name}")
            raise


class Entering(Actor):
    settings = Settings(title="entering")
    said: list[str]
    tries: list[int]
    broker: FakeBroker
    seconds: float = 0

    async def startup(self) -> None:
        self.tries.append(len(self.tries))
        assert await self.context.enter(Block("outer", self.said, self.seconds)) == "outer"
        self.client = await self.context.enter(open_client(self.broker))
        if len(self.tries) == 2:
            raise OSError("half-way")
        self.inner = await self.context.enter(Block("inner", self.said, self.seconds))

    async def shutdown(self) -> None:
        self.said.append("shutdown")
        await self.client.publish("elsewhere", {})

    @receive
    async def do(self, *, what: str) -> str:
        match what:
            case "raise":
                raise ValueError(what)
            case "sleep":
                await trio.sleep_forever()
            case "enter":
                await self.context.enter(Block("late", self.said))
            case _:
                await self.client.publish("elsewhere", {})
        return what


def entering(seconds: float = 0) -> type[Entering]:
    return type("Entering", (Entering,), {"said": [], "tries": [], "seconds": seconds, "broker": FakeBroker()})


LEFT = ["left inner", "left outer"]


async def test_what_startup_enters_is_left_after_shutdown_however_the_actor_ends(
    mock_clock: trio.testing.MockClock,
) -> None:
    actor, kept = entering(), Kept()
    async with open_system(Child(actor, shutdown=2), broker=actor.broker, emit=kept) as system:
        ref = system.ref(actor)
        with pytest.raises(ActorCrashed):
            await ref.ask({"what": "raise"})
        assert await ref.ask({"what": "x"}) == "x"
        assert actor.said == ["shutdown", *LEFT, "left outer"], "the second start failed half-way"
        with pytest.raises(ActorCrashed, match=r"context\.enter belongs into startup"):
            await ref.ask({"what": "enter"})
        assert await ref.ask({"what": "x"}) == "x"
        actor.said.clear()
        ref.tell_nowait({"what": "sleep"})
        await trio.testing.wait_all_tasks_blocked()
        await system.supervisor().terminate_child(ref)
        assert actor.said == ["shutdown", "cancelled inner", "cancelled outer"], "its time was over"
        actor.said.clear()
        await system.supervisor().restart_child(ref)
        assert await ref.ask({"what": "x"}) == "x"
    assert actor.said == ["shutdown", *LEFT]


@pytest.mark.parametrize("shutdown", [2.5, "brutal_kill"])
async def test_what_startup_enters_is_left_within_the_bound_of_shutdown(
    shutdown: Any, mock_clock: trio.testing.MockClock
) -> None:
    actor, kept = entering(seconds=2), Kept()
    async with open_system(Child(actor, shutdown=shutdown), broker=actor.broker, emit=kept) as system:
        await system.ref(actor).ask({"what": "x"})
    if shutdown == "brutal_kill":
        assert actor.said == ["cancelled inner", "cancelled outer"]
        assert trio.current_time() == 0
        assert not kept.of(events.ActorTrouble)
    else:
        assert actor.said == ["shutdown", "left inner", "cancelled outer"]
        assert trio.current_time() == 2.5
