"""A system from its start to its staged stop, in simulated time at a broker in memory."""

import contextlib
import gc
import logging
import math
import threading
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any

import pytest
import trio

from actorwork import (
    Actor,
    ActorCrashed,
    ActorRef,
    ActorStopped,
    BrokerError,
    Child,
    Intensity,
    MaxRestartsExceeded,
    Settings,
    SettingsError,
    System,
    Trigger,
    events,
    open_system,
    receive,
    run,
    serve,
)
from actorwork.policy import settlement as policy
from actorwork.policy.schedule import Interval
from actorwork.testing import open_test_system
from tests.doubles import FakeBroker, Kept
from tests.patience import PATIENCE


class Sleeper(Actor):
    """Sleeps for `n` seconds, and records how that ended."""

    settings = Settings(title="sleeper", execution_timeout=100)

    def __init__(self, said: list[str] | None = None) -> None:
        self.said = said if said is not None else []

    @receive
    async def sleep(self, *, n: float) -> str:
        self.said.append(f"{n:g}…")
        try:
            await trio.sleep(n)
        except trio.Cancelled:
            self.said.append(f"{n:g} cancelled")
            raise
        self.said.append(f"{n:g}")
        return "slept"

    async def shutdown(self) -> None:
        self.said.append("down")


def sleeper(said: list[str] | None = None, **options: Any) -> Child:
    return Child(partial(Sleeper, said), **options)


def stages(kept: Kept) -> list[str]:
    return [event.stage for event in kept.of(events.ShutdownStage)]


async def test_an_idle_system_stops_at_once_and_tells_its_stages(mock_clock: trio.testing.MockClock):
    kept, said = Kept(), list[str]()
    broker = FakeBroker()
    async with open_system(sleeper(said), broker=broker, emit=kept):
        pass
    assert trio.current_time() == 0
    assert stages(kept) == ["intake", "drain", "shutdown"]
    assert said == ["down"]
    assert [type(event).__name__ for event in kept.events] == [
        "ActorStarted",
        "NodeStarted",
        *["ShutdownStage"] * 3,
        "ChildExited",
        "NodeStopped",
    ]
    assert not kept.of(events.NodeStopped)[0].forced
    assert broker.log == ["lease released"]


async def test_what_is_in_hand_finishes_and_what_waits_goes_back_at_once(mock_clock: trio.testing.MockClock):
    kept, said = Kept(), list[str]()
    broker = FakeBroker()
    async with open_system(sleeper(said), broker=broker, emit=kept) as system:
        for n in range(5, 10):
            broker.put(Sleeper, {"n": n}, id=str(n))
        await trio.sleep(1)
        system.stop()
        await trio.sleep(1)
        assert [delivery.id for delivery in broker.released] == ["6", "7"], "two had been read ahead"
        await system.wait_stopped()
    assert trio.current_time() == 5
    assert broker.order == ["5"]
    assert broker.settlement("5") == policy.Ack()
    assert broker.waiting(Sleeper) == ["6", "7", "8", "9"], "each in its place"
    assert said == ["5…", "5", "down"]
    assert not system.forced


async def test_nothing_new_is_begun_while_the_readers_are_stopping(mock_clock: trio.testing.MockClock):
    said: list[str] = []
    broker = FakeBroker()
    async with open_system(sleeper(said), broker=broker) as system:
        node = broker.node
        assert node is not None

        async def stop_slowly() -> None:
            await trio.sleep(4)

        node.stop_intake = stop_slowly  # type: ignore[method-assign]
        for n in (1.5, 0.1, 0.2):
            broker.put(Sleeper, {"n": n}, id=f"{n:g}")
        await trio.sleep(1)
        system.stop()
        await trio.sleep(1)
        broker.put(Sleeper, {"n": 0.3}, id="late")
        await system.wait_stopped()
    assert broker.order == ["1.5"]
    assert broker.waiting(Sleeper) == ["0.1", "0.2", "late"]


async def test_a_second_stop_cancels_the_handler_and_hands_its_delivery_back(mock_clock: trio.testing.MockClock):
    kept, said = Kept(), list[str]()
    broker = FakeBroker()
    async with open_system(sleeper(said), broker=broker, emit=kept) as system:
        broker.put(Sleeper, {"n": 50}, id="it")
        await trio.sleep(1)
        system.stop("first")
        await trio.sleep(1)
        system.stop("second")
        await system.wait_stopped()
    assert trio.current_time() == pytest.approx(2, abs=0.1)
    assert said == ["50…", "50 cancelled", "down"]
    assert broker.settled == []
    assert broker.waiting(Sleeper) == ["it"]
    assert broker.released[0].attempt == 1
    assert stages(kept) == ["intake", "drain", "cancel", "shutdown"]
    assert {event.reason for event in kept.of(events.ShutdownStage)} == {"first"}
    assert system.forced


@pytest.mark.parametrize(("grace", "drain"), [(25.0, 20.0), (5.0, 4.0), (60.0, 55.0)])
async def test_the_drain_has_its_budget(grace: float, drain: float, mock_clock: trio.testing.MockClock):
    said: list[str] = []
    broker = FakeBroker()
    async with open_system(sleeper(said), broker=broker, grace=grace) as system:
        broker.put(Sleeper, {"n": 99}, id="it")
        await trio.sleep(1)
        system.stop()
        await system.wait_stopped()
    assert trio.current_time() == pytest.approx(1 + drain, abs=0.1)
    assert said == ["99…", "99 cancelled", "down"]
    assert broker.waiting(Sleeper) == ["it"]


async def test_an_infinite_grace_waits_for_the_execution_timeout_alone(mock_clock: trio.testing.MockClock):
    broker = FakeBroker()
    async with open_system(sleeper(), broker=broker, grace=math.inf) as system:
        broker.put(Sleeper, {"n": 1000}, id="it")
        await trio.sleep(1)
        system.stop()
        await system.wait_stopped()
    assert trio.current_time() == pytest.approx(100, abs=0.3)
    assert isinstance(broker.settlement("it"), policy.Fail)


async def test_no_grace_at_all_loses_nothing(mock_clock: trio.testing.MockClock):
    broker, kept = FakeBroker(), Kept()
    async with open_system(sleeper(), broker=broker, grace=0, emit=kept):
        broker.put(Sleeper, {"n": 50}, id="a")
        broker.put(Sleeper, {"n": 50}, id="b")
        await trio.sleep(1)
    assert trio.current_time() < 2.5
    assert broker.settled == []
    assert broker.waiting(Sleeper) == ["a", "b"]


async def test_a_handler_that_will_not_end_is_left_behind_and_its_settlement_is_not_ours(
    mock_clock: trio.testing.MockClock,
):
    class Stubborn(Actor):
        settings = Settings(title="stubborn")

        @receive
        async def stay(self, *, n: float) -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(n)

    broker, kept = FakeBroker(), Kept()
    async with open_system(Stubborn, broker=broker, grace=10, emit=kept) as system:
        broker.put(Stubborn, {"n": 60}, id="it")
        await trio.sleep(1)
        system.stop()
    assert stages(kept) == ["intake", "drain", "cancel", "force", "shutdown"]
    assert broker.settled == []
    assert kept.of(events.NodeStopped)[0].forced
    assert trio.current_time() == 60, "Trio cannot end it; `run` ends the process"


async def test_local_messages_are_drained(mock_clock: trio.testing.MockClock):
    said: list[str] = []
    async with open_system(sleeper(said), broker=FakeBroker()) as system:
        for n in (1, 2, 3):
            system.ref(Sleeper).tell_nowait({"n": n})
    assert [word for word in said if "…" not in word] == ["1", "2", "3", "down"]
    assert trio.current_time() == 6


async def test_senders_from_outside_are_refused_while_actors_still_tell_each_other(
    mock_clock: trio.testing.MockClock,
):
    got: list[str] = []

    class Last(Actor):
        settings = Settings(title="last")

        @receive
        async def take(self, message: str) -> None:
            await trio.sleep(1)
            got.append(message)

    class First(Actor):
        settings = Settings(title="first", execution_timeout=60)

        def __init__(self, last: Callable[[], ActorRef[Last]]) -> None:
            self.last = last

        async def startup(self) -> None:
            self.context.nursery.start_soon(self.tick)

        async def tick(self) -> None:
            await trio.sleep(3)
            await self.last().tell("from a helper")

        @receive
        async def take(self, *, n: float) -> None:
            await trio.sleep(n)
            await self.last().tell("from a handler")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.last().tell, "from its task")

    refs: list[ActorRef[Last]] = []
    broker = FakeBroker()
    async with open_system([Last, Child(partial(First, lambda: refs[0]))], broker=broker) as system:
        refs.append(system.ref(Last))
        broker.put(First, {"n": 5}, id="it")
        await trio.sleep(1)
        system.stop("enough")
        await trio.sleep(1)
        for send in (refs[0].tell, refs[0].ask):
            with pytest.raises(ActorStopped, match=r"'last' takes no new messages: .* shutting down \(enough\)"):
                await send("from outside")
        await system.wait_stopped()
    assert sorted(got) == ["from a handler", "from a helper", "from its task"]
    assert broker.settlement("it") == policy.Ack()


async def test_a_sender_that_waits_for_room_or_reply_is_told_when_the_actor_ends(mock_clock: trio.testing.MockClock):
    told: list[str] = []
    async with trio.open_nursery() as nursery, open_system(sleeper(), broker=FakeBroker(), grace=5) as system:
        ref = system.ref(Sleeper)

        async def asks(n: float) -> None:
            with pytest.raises(ActorStopped):
                await ref.ask({"n": n})
            told.append(f"{n:g}")

        nursery.start_soon(asks, 90)
        await trio.sleep(1)
        nursery.start_soon(asks, 91)
        await trio.sleep(1)
    assert sorted(told) == ["90", "91"]


async def test_what_was_told_and_not_handled_is_reported(mock_clock: trio.testing.MockClock):
    kept = Kept()
    async with open_system(sleeper(), broker=FakeBroker(), grace=5, emit=kept) as system:
        for n in (90, 91):
            system.ref(Sleeper).tell_nowait({"n": n})
        await trio.sleep(1)
    assert [event.message for event in kept.of(events.Undelivered)] == [{"n": 90}, {"n": 91}]


async def test_shutdown_hooks_run_in_reverse_start_order_each_within_its_bound(mock_clock: trio.testing.MockClock):
    said: list[tuple[str, float]] = []

    def named(name: str, seconds: float) -> type[Actor]:
        class Named(Actor):
            settings = Settings(title=name)

            @receive
            async def take(self, message: int) -> None: ...

            async def shutdown(self) -> None:
                said.append((name, trio.current_time()))
                await trio.sleep(seconds)

        return Named

    tree = [
        named("a", 1),
        Child(named("b", 99), shutdown=2.0),
        Child(named("c", 99), shutdown="brutal_kill"),
        named("d", 3),
    ]
    async with open_system(tree, broker=FakeBroker()):
        pass
    assert said == [("d", 0), ("b", 3), ("a", 5)]
    assert trio.current_time() == 6


async def test_other_nodes_get_the_work_before_the_shutdown_hooks_run(mock_clock: trio.testing.MockClock):
    broker = FakeBroker()

    class Slow(Actor):
        async def shutdown(self) -> None:
            broker.log.append("shutdown")

    async with open_system(Slow, broker=broker):
        pass
    assert broker.log == ["lease released", "shutdown"]


# ---- embedding ----


async def test_cancelling_the_app_stops_in_order_and_the_cancellation_goes_on(mock_clock: trio.testing.MockClock):
    kept, said = Kept(), list[str]()
    broker = FakeBroker()
    with trio.move_on_after(1) as scope:
        async with open_system(sleeper(said), broker=broker, emit=kept):
            broker.put(Sleeper, {"n": 5}, id="it")
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() == 5
    assert broker.settlement("it") == policy.Ack()
    assert said == ["5…", "5", "down"]
    assert stages(kept) == ["intake", "drain", "shutdown"]


@pytest.mark.parametrize(
    "error", [ValueError("mine"), KeyboardInterrupt(), SystemExit(5)], ids=lambda e: type(e).__name__
)
async def test_an_error_in_the_block_comes_out_as_itself(error: BaseException):
    said: list[str] = []
    with pytest.raises(type(error)) as caught:
        async with open_system(sleeper(said), broker=FakeBroker()):
            raise error
    assert caught.value is error
    assert said == ["down"]


async def test_a_group_raised_in_the_block_stays_that_group():
    group = ExceptionGroup("mine", [ValueError(), KeyError()])
    with pytest.raises(ExceptionGroup) as caught:
        async with open_system(sleeper(), broker=FakeBroker()):
            raise group
    assert list(caught.value.exceptions) == list(group.exceptions)


async def test_an_error_keeps_the_cause_it_was_raised_from():
    with pytest.raises(ValueError) as caught:
        async with open_system(sleeper(), broker=FakeBroker()):
            raise ValueError from KeyError("why")
    assert isinstance(caught.value.__cause__, KeyError)


async def test_nothing_outlives_the_block():
    before = set(_own_threads())
    statistics = trio.lowlevel.current_statistics()
    async with open_system(sleeper(), broker="sqlite://"):
        pass
    await trio.testing.wait_all_tasks_blocked()
    assert trio.lowlevel.current_statistics().tasks_living == statistics.tasks_living
    with trio.fail_after(PATIENCE):
        while set(_own_threads()) - before:  # noqa: ASYNC110 - threads end by themselves; the system waits for them briefly
            await trio.sleep(0.01)


def _own_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if not thread.name.startswith("Trio thread")]


async def test_serve_is_a_task_of_my_own_nursery(mock_clock: trio.testing.MockClock):
    said: list[str] = []
    broker = FakeBroker()
    async with trio.open_nursery() as nursery:
        system: System = await nursery.start(partial(serve, sleeper(said), broker=broker))
        assert await system.ref(Sleeper).ask({"n": 1}) == "slept"
        system.stop()
    assert said == ["1…", "1", "down"]


async def test_cancelling_serve_stops_in_order(mock_clock: trio.testing.MockClock):
    said: list[str] = []
    broker = FakeBroker()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve, sleeper(said), broker=broker))
        broker.put(Sleeper, {"n": 5}, id="it")
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert said == ["5…", "5", "down"]
    assert broker.settlement("it") == policy.Ack()


async def test_a_tree_that_gives_up_raises_out_of_serve():
    class Weak(Actor):
        settings = Settings(title="weak")

        @receive
        async def crash(self, message: str) -> None:
            raise ValueError(message)

    with pytest.raises(ExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            start = partial(serve, Weak, broker=FakeBroker(), intensity=Intensity(restarts=0))
            system: System = await nursery.start(start)
            system.ref(Weak).tell_nowait("boom")
    (error,) = caught.value.exceptions
    assert isinstance(error, MaxRestartsExceeded)
    assert isinstance(error.__cause__, ValueError)


async def test_a_broker_that_refuses_is_one_error_after_the_actors_have_stopped():
    said: list[str] = []
    with pytest.raises(BrokerError, match="not today"):
        async with open_system(sleeper(said), broker=FakeBroker(refuse="not today")):
            raise AssertionError("it must not come to this")
    assert said == ["down"]


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("kafka://here", "known are redis://"),
        ("sqlite:////proc/none/x.db", "/proc/none"),
    ],
)
async def test_a_broker_that_cannot_be_opened_says_why(url: str, text: str):
    with pytest.raises(BrokerError, match=text):
        async with open_system(sleeper(), broker=url):
            raise AssertionError("it must not come to this")


async def test_a_start_can_be_cancelled(mock_clock: trio.testing.MockClock):
    said: list[str] = []

    class Endless(Actor):
        async def startup(self) -> None:
            await trio.sleep_forever()

    with trio.move_on_after(2) as scope:
        async with open_system([sleeper(said), Endless], broker=FakeBroker()):
            raise AssertionError("it must not come to this")
    assert scope.cancelled_caught
    assert trio.current_time() == 2
    assert said == ["down"]


async def test_a_stop_does_not_wait_for_an_actor_that_is_being_restarted(mock_clock: trio.testing.MockClock):
    starts: list[int] = []

    class Slow(Actor):
        async def startup(self) -> None:
            starts.append(1)
            if len(starts) > 1:
                await trio.sleep(29)

        @receive
        async def crash(self, message: str) -> None:
            raise ValueError(message)

    async with open_system(Slow, broker=FakeBroker()) as system:
        system.ref(Slow).tell_nowait("x")
        await trio.sleep(1)
    assert trio.current_time() == 1
    assert len(starts) == 2


async def test_a_keyboard_interrupt_in_a_handler_is_a_shutdown_and_its_delivery_goes_back(
    mock_clock: trio.testing.MockClock,
):
    said: list[str] = []

    class Interrupted(Actor):
        settings = Settings(title="interrupted")

        @receive
        async def take(self, *, n: int) -> None:
            raise KeyboardInterrupt

    broker, kept = FakeBroker(), Kept()
    with pytest.raises(KeyboardInterrupt):
        async with open_system([sleeper(said), Interrupted], broker=broker, emit=kept):
            broker.put(Interrupted, {"n": 1}, id="it")
            await trio.sleep_forever()
    assert broker.settled == []
    assert broker.waiting(Interrupted) == ["it"]
    assert stages(kept)[:2] == ["intake", "drain"]
    assert said == ["down"]


async def test_an_interrupt_in_a_hook_while_the_tree_gives_up_is_raised_with_the_reason_why_it_gave_up():
    class Interrupting(Actor):
        settings = Settings(title="interrupting")

        @receive
        async def do(self, *, n: int = 0) -> None: ...

        async def shutdown(self) -> None:
            raise KeyboardInterrupt

    class Weak(Interrupting):
        settings = Settings(title="weak")

        async def startup(self) -> None:
            self.context.nursery.start_soon(self.boom)

        async def boom(self) -> None:
            raise OSError("disk")

        async def shutdown(self) -> None: ...

    with pytest.raises(KeyboardInterrupt) as caught:
        async with open_system([Interrupting, Weak], broker=FakeBroker(), intensity=Intensity(restarts=0)):
            await trio.sleep_forever()
    assert isinstance(caught.value.__cause__, MaxRestartsExceeded)


async def test_an_actor_that_is_not_in_the_tree_has_no_ref():
    class Other(Actor):
        settings = Settings(title="other")

    async with open_system(sleeper(), broker=FakeBroker()) as system:
        with pytest.raises(LookupError, match=r"no actor '.*Other' in this system, which has 'sleeper'"):
            system.ref(Other)


async def test_the_system_has_no_broker_after_its_end():
    broker = FakeBroker()
    async with open_system(sleeper(), broker=broker) as system:
        assert system.broker is broker
        ref = system.ref(Sleeper)
    with pytest.raises(ActorStopped):
        _ = system.broker
    with pytest.raises(ActorStopped, match="its system ended"):
        await ref.tell({"n": 1})


async def test_a_system_leaves_no_cycle_of_warnings_behind(recwarn: pytest.WarningsRecorder):
    async with open_system(sleeper(), broker=FakeBroker()):
        pass
    gc.collect()
    assert [str(warning.message) for warning in recwarn] == []


# ---- declarations ----


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lease": 0.1}, "lease wants seconds from 0.2 to 3600, got 0.1"),
        ({"lease": math.inf}, "lease wants seconds from 0.2 to 3600, got inf"),
        ({"lease": "10"}, "lease wants seconds"),
        ({"grace": -1}, "grace wants seconds >= 0, got -1"),
        ({"grace": math.nan}, "grace wants seconds"),
    ],
)
async def test_options_out_of_bounds_are_refused(options: dict[str, Any], text: str):
    with pytest.raises(SettingsError, match=text):
        async with open_system(sleeper(), broker=FakeBroker(), **options):
            raise AssertionError("it must not come to this")


@pytest.mark.parametrize("function", [open_system, serve, run, open_test_system])
async def test_an_option_that_does_not_exist_is_a_type_error_that_names_it(function: Callable[..., Any]):
    with pytest.raises(TypeError, match=rf"^{function.__name__}\(\) got .* keyword argument 'leese'; .* lease, "):
        entered = function(sleeper(), leese=1)
        if function is serve:
            await entered
        else:
            await entered.__aenter__()


def with_settings(**settings: Any) -> type[Actor]:
    return type("Made", (Actor,), {"settings": Settings(title="made", **settings), "take": receive(take)})


async def take(self: Actor, message: int) -> None: ...


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        ([], "at least one actor, got an empty list"),
        (Sleeper(), "write the class itself"),
        ([Sleeper, Sleeper], "two actors are titled 'sleeper'"),
        ("sleeper", "a tree is made of actor classes, .* Pool"),
        ([take], r"got <function take .*; write Child\(take\)$"),
        ([partial(take, message=1)], r"got functools.partial.*; write Child\(partial\(take, …\)\)$"),
        (with_settings(triggers=[Trigger(title="t", schedule=Interval(hours=1))]), "trigger 't' of .* does not take"),
    ],
)
async def test_a_tree_that_cannot_be_is_refused_before_anything_starts(tree: object, text: str):
    with pytest.raises(SettingsError, match=text):
        async with open_system(tree, broker=FakeBroker()):
            raise AssertionError("it must not come to this")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"restart": "always"}, r"Child.restart wants 'permanent', .* got 'always'"),
        ({"shutdown": -1}, "Child.shutdown wants seconds >= 0"),
        ({"shutdown": "soon"}, "Child.shutdown wants seconds >= 0"),
        ({"startup_timeout": math.nan}, "Child.startup_timeout wants seconds >= 0"),
    ],
)
def test_a_child_out_of_bounds_is_refused(options: dict[str, Any], text: str):
    with pytest.raises(SettingsError, match=text):
        Child(Sleeper, **options)


@pytest.mark.parametrize("factory", [int, lambda: None, Sleeper(), "Sleeper"])
def test_a_child_is_made_of_an_actor_class(factory: Any):
    with pytest.raises(
        SettingsError, match=r"Child wants an actor class, a functools.partial of one, or an async function"
    ):
        Child(factory)


async def test_a_block_that_meets_an_actor_of_a_dying_tree_ends_with_what_the_tree_died_of(
    mock_clock: trio.testing.MockClock,
):
    class Weak(Actor):
        settings = Settings(title="weak")

        @receive
        async def fail(self, *, n: int) -> None:
            raise OSError(f"disk {n}")

    with pytest.raises(MaxRestartsExceeded) as caught:
        async with open_system(Weak, broker=FakeBroker(), intensity=Intensity(restarts=1, period=5)) as system:
            for n in range(100):
                with contextlib.suppress(ActorCrashed):
                    await system.ref(Weak).ask({"n": n})
    assert isinstance(caught.value.__cause__, OSError)


async def test_an_error_in_the_block_goes_before_what_the_tree_died_of(mock_clock: trio.testing.MockClock):
    class Weak(Actor):
        settings = Settings(title="weak")

        @receive
        async def fail(self, *, n: int) -> None:
            raise OSError(f"disk {n}")

    kept = Kept()
    with pytest.raises(KeyError) as caught:
        async with open_system(
            Weak, broker=FakeBroker(), emit=kept, intensity=Intensity(restarts=0, period=5)
        ) as system:
            system.ref(Weak).tell_nowait({"n": 1})
            try:
                await trio.sleep_forever()
            finally:
                raise KeyError("mine")
    assert caught.value.args == ("mine",)
    assert kept.of(events.ChildExited)


async def test_events_become_logs_unless_another_sink_is_given(
    mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level("INFO", logger="actorwork"):
        async with open_system(sleeper(), broker=FakeBroker()):
            pass
    assert any("sleeper is up" in record.getMessage() for record in caplog.records)
    with pytest.raises(SettingsError, match="emit wants a callable"):
        async with open_system(sleeper(), broker=FakeBroker(), emit=3):  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
            pass


async def test_a_cancellation_in_the_very_moment_in_which_the_node_is_up_ends_the_start():
    scope = trio.CancelScope()

    class Broker(FakeBroker):
        @contextlib.asynccontextmanager
        async def open_node(self, *args: Any, **options: Any) -> AsyncGenerator[Any]:
            async with super().open_node(*args, **options) as node:
                scope.cancel()
                yield node

    said: list[str] = []
    with scope:
        async with open_system(sleeper(said), broker=Broker()):
            pytest.fail("it started")
    assert scope.cancelled_caught
    assert said == ["down"]


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_a_sink_that_raises_is_reported_and_ends_nothing(
    concurrency: int, caplog: pytest.LogCaptureFixture, mock_clock: trio.testing.MockClock
):
    class Echo(Actor):
        settings = Settings(title="echo", concurrency=concurrency)

        @receive
        async def echo(self, message: str) -> str:
            if message == "crash":
                raise ValueError(message)
            return message

    seen: list[str] = []

    def broken(event: events.Event) -> None:
        seen.append(type(event).__name__)
        raise OSError("the collector is away")

    broker = FakeBroker()
    with caplog.at_level(logging.ERROR, "actorwork"):
        async with open_system(Echo, broker=broker, emit=broken) as system:
            for n in range(3):
                broker.put(Echo, f"{n}")
            await broker.wait_settled(3)
            with pytest.raises(ActorCrashed):
                await system.ref(Echo).ask("crash")
            assert await system.ref(Echo).ask("hello") == "hello"
    assert {"NodeStarted", "Settled", "ChildExited", "NodeStopped"} <= set(seen)
    (first,) = [record for record in caplog.records if "raised for an event of type" in record.getMessage()]
    assert first.exc_info is not None
    assert isinstance(first.exc_info[1], OSError)
