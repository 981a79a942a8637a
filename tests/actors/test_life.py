"""The life of an actor: start, crash, restart, end; and its supervisor, who decides."""

import gc
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import attrs
import pytest
import trio

from actorwork import (
    Actor,
    ActorCrashed,
    ActorRef,
    ActorStopped,
    AskTimeout,
    Child,
    Deadlock,
    Fail,
    Intensity,
    MaxRestartsExceeded,
    MessageFailed,
    MessageRefused,
    NotRunning,
    Reject,
    Retry,
    Settings,
    StartError,
    events,
    open_system,
    receive,
)
from actorwork.actors.tree.spec import Restart
from actorwork.policy import settlement as policy
from actorwork.policy.exits import Kind
from tests.doubles import FakeBroker, Kept, failed
from tests.garbage import living

MANY = Intensity(restarts=100, period=1)


class Probe(Actor):
    """Writes down its life, and does as its messages tell it."""

    settings = Settings(title="probe", execution_timeout=10)

    def __init__(self, said: list[str] | None = None) -> None:
        self.said = said if said is not None else []
        self.handled = 0
        self.said.append("made")

    async def startup(self) -> None:
        self.said.append("up")

    async def shutdown(self) -> None:
        self.said.append("down")

    @receive
    async def do(self, *, what: str, n: float = 0) -> object:
        self.handled += 1
        match what:
            case "sleep":
                await trio.sleep(n)
            case "raise":
                raise ValueError("boom")
            case "exit":
                raise SystemExit(4)
            case "reject":
                raise Reject("no")
            case "fail":
                raise Fail("never")
            case "retry":
                raise Retry(5, "later")
            case "helper":
                self.context.nursery.start_soon(self._break, n)
            case "ask myself":
                return await self.context.ref.ask({"what": "count"}, timeout=n)
            case _:
                pass
        self.said.append(f"{what} {n:g}")
        return self.handled

    async def _break(self, after: float) -> None:
        await trio.sleep(after)
        raise OSError("helper")


def probe(said: list[str] | None = None, **options: Any) -> Child:
    return Child(partial(Probe, said), **options)


def titled(title: str, base: type[Actor] = Probe, **settings: Any) -> type[Any]:
    return type(title, (base,), {"settings": Settings(title=title, **settings)})


# ---- a unit test needs no system ----


@attrs.frozen
class Greet:
    name: str


class Greeter(Actor):
    settings = Settings(title="greeter")

    @receive
    async def greet(self, message: Greet) -> str:
        return f"Hello {message.name}"

    @receive
    async def tell_others(self, *, name: str) -> None:
        self.context.publish("others", {"name": name})


async def test_a_handler_can_be_called_without_a_system():
    assert await Greeter().greet(Greet("Ann")) == "Hello Ann"


async def test_the_context_outside_of_a_system_says_what_to_do():
    with pytest.raises(NotRunning, match=r"Greeter.context exists only while .*stand-in"):
        await Greeter().tell_others(name="Ann")


async def test_a_stand_in_can_take_the_contexts_place():
    class StandIn:
        published: ClassVar[list[object]] = []

        def publish(self, target: str, message: object) -> None:
            self.published.append((target, message))

    greeter: Any = Greeter()
    greeter.context = StandIn()
    await greeter.tell_others(name="Ann")
    assert StandIn.published == [("others", {"name": "Ann"})]


# ---- ask and tell ----


async def test_ask_returns_the_reply():
    async with open_system(Greeter, broker=FakeBroker()) as system:
        assert await system.ref(Greeter).ask(Greet("Ann")) == "Hello Ann"


async def test_an_actor_keeps_the_order_of_one_senders_messages():
    said: list[str] = []
    async with open_system(probe(said), broker=FakeBroker()) as system:
        for n in range(200):
            await system.ref(Probe).tell({"what": "note", "n": n})
        assert await system.ref(Probe).ask({"what": "end"}) == 201
    assert said[2:202] == [f"note {n}" for n in range(200)]


async def test_an_actor_handles_one_message_at_a_time(mock_clock: trio.testing.MockClock):
    async with open_system(probe(), broker=FakeBroker()) as system:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(system.ref(Probe).ask, {"what": "sleep", "n": 1})
        assert trio.current_time() - began == 3


async def test_a_message_nobody_handles_is_refused_at_the_sender():
    async with open_system(Greeter, broker=FakeBroker()) as system:
        ref = system.ref(Greeter)
        for send in (ref.tell, ref.ask):
            with pytest.raises(MessageRefused, match=r"Greeter takes Greet, a JSON object \(name\); got set"):
                await send({1, 2})
        with pytest.raises(TypeError, match="takes"):
            ref.tell_nowait(3)
        for wrong in ({"nome": "Ann"}, {}, {1: 2, "name": "Ann"}):
            with pytest.raises(MessageRefused):
                ref.tell_nowait(wrong)


async def test_an_ask_that_takes_too_long_times_out_and_the_message_is_handled(mock_clock: trio.testing.MockClock):
    said: list[str] = []
    async with open_system(probe(said), broker=FakeBroker()) as system:
        ref = system.ref(Probe)
        with pytest.raises(AskTimeout, match="'probe' gave no reply to dict within 2 s"):
            await ref.ask({"what": "sleep", "n": 5}, timeout=2)
        assert trio.current_time() == 2
        assert await ref.ask({"what": "count"}) == 2
    assert "sleep 5" in said


async def test_a_timeout_error_of_ask_is_a_timeout_error(mock_clock: trio.testing.MockClock):
    async with open_system(probe(), broker=FakeBroker()) as system:
        with pytest.raises(TimeoutError):
            await system.ref(Probe).ask({"what": "sleep", "n": 5}, timeout=1)


async def test_an_actor_that_asks_itself_is_told_so_at_once_and_lives(mock_clock: trio.testing.MockClock):
    broker = FakeBroker()
    async with open_system(probe(), broker=broker) as system:
        broker.put(Probe, {"what": "ask myself", "n": 3}, id="it")
        await broker.wait_settled()
        kind, reason = failed(broker.settlement("it"))
        assert kind == "Deadlock"
        assert reason.startswith("a handler of 'probe' asks its own actor and would wait for ever: concurrency=1.")
        assert trio.current_time() == 0
        assert await system.ref(Probe).ask({"what": "count"}) == 2


@pytest.mark.parametrize(("concurrency", "depth", "is_deadlock"), [(1, 2, True), (2, 2, False), (2, 3, True)])
async def test_an_ask_that_comes_back_to_its_actor_is_refused_where_it_can_never_be_answered(
    concurrency: int, depth: int, is_deadlock: bool, mock_clock: trio.testing.MockClock
):
    class Player(Actor):
        other: ActorRef[Any]

        @receive
        async def play(self, *, n: int, how: str) -> int:
            if n == 0:
                return 0
            if how != "helper":
                return 1 + await self.other.ask({"n": n - 1, "how": how}, timeout=5)
            self.context.nursery.start_soon(self.help, n, how)
            return 1

        async def help(self, n: int, how: str) -> None:
            said.append(await self.other.ask({"n": n - 1, "how": how}, timeout=5))

    said = list[int]()
    ping, pong = titled("ping", Player, concurrency=concurrency), titled("pong", Player, concurrency=concurrency)
    async with open_system([ping, pong], broker=FakeBroker(), intensity=MANY) as system:
        ping.other, pong.other = system.ref(pong), system.ref(ping)
        rounds = 2 * depth - 2
        if is_deadlock:
            with pytest.raises(ActorCrashed) as caught:
                await system.ref(ping).ask({"n": rounds, "how": ""})
            cause: BaseException = caught.value
            while cause.__cause__ is not None:
                cause = cause.__cause__
            assert isinstance(cause, Deadlock)
            assert f"in a chain of {rounds} asks" in str(cause)
        else:
            assert await system.ref(ping).ask({"n": rounds, "how": ""}) == rounds
        assert await system.ref(ping).ask({"n": rounds, "how": "helper"}) == 1
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(said) == [0] + [1] * (rounds - 1), "a helper is no handler: its actor goes on"
        assert trio.current_time() == 0


async def test_one_actor_asks_another(mock_clock: trio.testing.MockClock):
    class Front(Actor):
        settings = Settings(title="front")

        def __init__(self, back: Callable[[], ActorRef[Greeter]]) -> None:
            self.back = back

        @receive
        async def ask(self, name: str) -> str:
            return (await self.back().ask(Greet(name))).upper()

    refs: list[ActorRef[Greeter]] = []
    async with open_system([Greeter, Child(partial(Front, lambda: refs[0]))], broker=FakeBroker()) as system:
        refs.append(system.ref(Greeter))
        assert await system.ref(Front).ask("Ann") == "HELLO ANN"


@pytest.mark.parametrize(("what", "reason"), [("reject", "no"), ("fail", "never"), ("retry", "later")])
async def test_a_verdict_answers_the_ask_and_the_actor_lives(what: str, reason: str):
    said: list[str] = []
    async with open_system(probe(said), broker=FakeBroker()) as system:
        with pytest.raises(MessageFailed) as caught:
            await system.ref(Probe).ask({"what": what})
        assert (caught.value.type.lower(), caught.value.reason) == (what, reason)
        assert await system.ref(Probe).ask({"what": "count"}) == 2
    assert said.count("made") == 1


# ---- crashes ----


async def test_a_failing_local_call_crashes_the_actor_and_tells_the_asker_at_once(mock_clock: trio.testing.MockClock):
    said: list[str] = []
    kept = Kept()
    async with open_system(probe(said), broker=FakeBroker(), emit=kept) as system:
        ref = system.ref(Probe)
        with pytest.raises(ActorCrashed, match="'probe' crashed while it handled dict: ValueError") as caught:
            await ref.ask({"what": "raise"})
        assert isinstance(caught.value.__cause__, ValueError)
        assert trio.current_time() == 0
        assert await ref.ask({"what": "count"}) == 1, "a fresh instance"
        assert system.ref(Probe) == ref
    assert said == ["made", "up", "down", "made", "up", "count 0", "down"]
    assert [end.incarnation for end in kept.of(events.ChildExited)] == [1, 2]
    assert isinstance(kept.of(events.ChildExited)[0].exit.error, ValueError)


async def test_the_mailbox_survives_a_crash_in_its_order():
    said: list[str] = []
    async with open_system(probe(said), broker=FakeBroker()) as system:
        ref = system.ref(Probe)
        ref.tell_nowait({"what": "raise"})
        for n in range(5):
            ref.tell_nowait({"what": "note", "n": n})
        await ref.ask({"what": "end"})
    assert [word for word in said if word.startswith("note")] == [f"note {n}" for n in range(5)]


async def test_a_told_message_that_crashed_the_actor_is_reported():
    kept = Kept()
    async with open_system(probe(), broker=FakeBroker(), emit=kept) as system:
        await system.ref(Probe).tell({"what": "raise"})
        await system.ref(Probe).ask({"what": "count"})
    assert [event.message for event in kept.of(events.Undelivered)] == [{"what": "raise"}]


async def test_an_error_in_a_helper_task_is_a_crash_and_the_delivery_in_hand_is_run_again(
    mock_clock: trio.testing.MockClock,
):
    said: list[str] = []
    broker, kept = FakeBroker(), Kept()
    async with open_system(probe(said), broker=broker, emit=kept) as system:
        system.ref(Probe).tell_nowait({"what": "helper", "n": 1})
        await trio.sleep(0.5)
        broker.put(Probe, {"what": "sleep", "n": 2}, id="in hand")
        broker.put(Probe, {"what": "note", "n": 7}, id="waiting")
        await broker.wait_settled(2)
        assert broker.order == ["in hand", "waiting"]
        assert [entry.delivery.attempt for entry in broker.settled] == [1, 1]
    assert [type(end.exit.error) for end in kept.of(events.ChildExited)] == [OSError, type(None)]
    assert said.count("sleep 2") == 1
    assert said.count("up") == said.count("down") == 2


async def test_an_ask_in_hand_when_a_helper_crashes_is_told(mock_clock: trio.testing.MockClock):
    async with open_system(probe(), broker=FakeBroker()) as system:
        ref = system.ref(Probe)
        ref.tell_nowait({"what": "helper", "n": 1})
        with pytest.raises(ActorCrashed, match="in another of its tasks: OSError: helper") as caught:
            await ref.ask({"what": "sleep", "n": 5})
        assert isinstance(caught.value.__cause__, OSError)
        assert trio.current_time() == 1
        assert await ref.ask({"what": "count"}) == 1


async def test_helper_tasks_end_with_their_incarnation(mock_clock: trio.testing.MockClock):
    ended: list[int] = []

    class Busy(Actor):
        settings = Settings(title="busy")

        async def startup(self) -> None:
            self.context.nursery.start_soon(self.watch)

        async def watch(self) -> None:
            try:
                await trio.sleep_forever()
            finally:
                ended.append(1)

        @receive
        async def crash(self, what: str) -> None:
            raise ValueError(what)

    async with open_system(Busy, broker=FakeBroker()) as system:
        with pytest.raises(ActorCrashed):
            await system.ref(Busy).ask("x")
        await trio.testing.wait_all_tasks_blocked()
        assert len(ended) == 1
    assert len(ended) == 2


async def test_shutdown_is_called_after_a_crash_and_is_bounded(mock_clock: trio.testing.MockClock):
    class Slow(Probe):
        settings = Settings(title="slow")

        async def shutdown(self) -> None:
            self.said.append("going down")
            await trio.sleep_forever()

    said: list[str] = []
    kept = Kept()
    async with open_system(Child(partial(Slow, said), shutdown=2.0), broker=FakeBroker(), emit=kept) as system:
        with pytest.raises(ActorCrashed):
            await system.ref(Slow).ask({"what": "raise"})
        assert await system.ref(Slow).ask({"what": "count"}) == 1
        assert trio.current_time() == 2
    assert trio.current_time() == 4
    assert said.count("going down") == 2
    assert [trouble.doing for trouble in kept.of(events.ActorTrouble)] == ["shutdown", "shutdown"]
    assert "longer than 2 s" in str(kept.of(events.ActorTrouble)[0].error)


async def test_an_error_in_shutdown_is_reported_and_changes_nothing():
    class Clumsy(Probe):
        settings = Settings(title="clumsy")

        async def shutdown(self) -> None:
            raise RuntimeError("oops")

    kept = Kept()
    async with open_system(Clumsy, broker=FakeBroker(), emit=kept) as system:
        with pytest.raises(ActorCrashed, match="boom"):
            await system.ref(Clumsy).ask({"what": "raise"})
        assert await system.ref(Clumsy).ask({"what": "count"}) == 1
    assert len(kept.of(events.ActorTrouble)) == 2


async def test_a_brutal_kill_leaves_shutdown_out(mock_clock: trio.testing.MockClock):
    said: list[str] = []
    async with open_system(probe(said, shutdown="brutal_kill"), broker=FakeBroker()):
        pass
    assert said == ["made", "up"]


# ---- the supervisor ----


@pytest.mark.parametrize(
    ("how", "restart", "again"),
    [
        ("crash", "permanent", True),
        ("crash", "transient", True),
        ("crash", "temporary", False),
    ],
)
async def test_whether_an_actor_is_started_again(how: str, restart: Restart, again: bool):
    said: list[str] = []
    async with open_system(probe(said, restart=restart), broker=FakeBroker()) as system:
        ref = system.ref(Probe)
        with pytest.raises(ActorCrashed):
            await ref.ask({"what": "raise"})
        if again:
            assert await ref.ask({"what": "count"}) == 1
        else:
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(ActorStopped, match="'probe' has ended"):
                await ref.ask({"what": "count"})
    assert said.count("made") == (2 if again else 1)


@pytest.mark.parametrize("what", ["raise", "raise a group"])
async def test_a_crash_leaves_no_cycles_to_the_garbage_collector(what: str):
    """To wait for the collector made restarts a quarter slower."""

    class Brittle(Actor):
        settings = Settings(title="brittle")

        @receive
        async def handle(self, message: str) -> int:
            if message == "raise":
                raise ValueError
            async with trio.open_nursery() as nursery:
                if message == "raise a group":
                    nursery.start_soon(self.handle, "raise")
            return 0

    intensity = Intensity(restarts=100, period=1)
    async with open_system(Brittle, broker=FakeBroker(), intensity=intensity, emit=lambda _: None) as system:
        ref = system.ref(Brittle)
        assert await ref.ask("answer") == 0
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                ref.tell_nowait(what)
            assert await ref.ask("answer") == 0
            assert len(living(Brittle)) <= 2
        finally:
            gc.enable()


async def test_stop_within_a_nursery_in_startup_is_an_end_in_order():
    """The actor has started, and ends as its handlers could make it end."""

    class Brief(Actor):
        async def startup(self) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                self.context.stop()

    kept = Kept()
    async with open_system(Child(Brief, restart="transient"), broker=FakeBroker(), emit=kept):
        await trio.testing.wait_all_tasks_blocked()
    assert [event.exit.kind for event in kept.of(events.ChildExited)] == [Kind.NORMAL]


async def test_an_actor_that_is_not_started_again_gives_its_deliveries_back(mock_clock: trio.testing.MockClock):
    broker = FakeBroker()
    async with open_system(probe(restart="temporary"), broker=broker) as system:
        broker.put(Probe, {"what": "sleep", "n": 1}, id="first")
        broker.put(Probe, {"what": "note"}, id="second")
        system.ref(Probe).tell_nowait({"what": "raise"})
        broker.put(Probe, {"what": "note"}, id="third")
        await trio.sleep(5)
        broker.put(Probe, {"what": "note"}, id="fourth")
        await trio.sleep(5)
        settled = set(broker.order)
        assert settled | set(broker.waiting(Probe)) == {"first", "second", "third", "fourth"}
        assert "fourth" in broker.waiting(Probe), "who has ended takes nothing"
        assert not settled & set(broker.waiting(Probe))


async def test_giving_up_comes_out_as_one_error_with_its_causes():
    said: list[str] = []
    with pytest.raises(MaxRestartsExceeded) as caught:
        async with open_system(probe(said), broker=FakeBroker(), intensity=Intensity(restarts=2, period=5)) as system:
            ref = system.ref(Probe)
            for _ in range(3):
                ref.tell_nowait({"what": "raise"})
            await trio.sleep_forever()
    error = caught.value
    assert (error.child_id, error.restarts, error.period) == ("probe", 2, 5)
    assert "ValueError: boom" in str(error)
    assert isinstance(error.__cause__, ValueError)
    assert said.count("up") == said.count("down") == 3


async def test_restarts_spread_over_time_are_allowed(mock_clock: trio.testing.MockClock):
    async with open_system(probe(), broker=FakeBroker(), intensity=Intensity(restarts=1, period=5)) as system:
        for _ in range(10):
            with pytest.raises(ActorCrashed):
                await system.ref(Probe).ask({"what": "raise"})
            await trio.sleep(5.01)


async def test_a_start_that_fails_during_a_restart_is_tried_again_and_counts():
    tries: list[int] = []

    class Flaky(Probe):
        settings = Settings(title="flaky")

        async def startup(self) -> None:
            tries.append(1)
            if len(tries) in (2, 3):
                raise OSError("not yet")

    async with open_system(Flaky, broker=FakeBroker()) as system:
        with pytest.raises(ActorCrashed):
            await system.ref(Flaky).ask({"what": "raise"})
        assert await system.ref(Flaky).ask({"what": "count"}) == 1
        assert len(tries) == 4
    assert len(tries) == 4

    tries.clear()
    with pytest.raises(MaxRestartsExceeded) as caught:
        async with open_system(Flaky, broker=FakeBroker(), intensity=Intensity(restarts=1)) as system:
            system.ref(Flaky).tell_nowait({"what": "raise"})
            await trio.sleep_forever()
    assert isinstance(caught.value.__cause__, OSError)


async def test_the_one_that_gives_up_takes_the_others_down_in_order():
    said: list[str] = []

    def named(name: str) -> type[Any]:
        class Named(Probe):
            settings = Settings(title=name)

            async def shutdown(self) -> None:
                said.append(name)

        return Named

    first, second, third = named("first"), named("second"), named("third")
    with pytest.raises(MaxRestartsExceeded, match="gave up on 'second'"):
        async with open_system([first, second, third], broker=FakeBroker(), intensity=Intensity(restarts=0)) as system:
            system.ref(second).tell_nowait({"what": "raise"})
            await trio.sleep_forever()
    assert said == ["second", "third", "first"]


async def test_a_restarted_actor_keeps_the_context_of_the_start(mock_clock: trio.testing.MockClock):
    from contextvars import ContextVar

    who: ContextVar[str] = ContextVar("who", default="nobody")
    seen: list[str] = []

    class Curious(Probe):
        settings = Settings(title="curious", concurrency=3)

        async def startup(self) -> None:
            seen.append(who.get())

        @receive
        async def who(self, *, n: float = 0) -> None:
            seen.append(who.get())

        @receive
        async def crash(self, message: str) -> None:
            raise ValueError(message)

        do = None  # type: ignore[assignment]

    async with open_system(Curious, broker=FakeBroker()) as system:
        who.set("a sender")
        for _ in range(3):
            await system.ref(Curious).tell({"n": 1})
        with pytest.raises(ActorCrashed):
            await system.ref(Curious).ask("x")
        await system.ref(Curious).ask({})
    assert set(seen) == {"nobody"}


# ---- the boot ----


class Boom(Exception):
    pass


def failing(how: str) -> Any:
    class Failing(Actor):
        def __init__(self) -> None:
            if how == "constructor":
                raise Boom(how)

        async def startup(self) -> None:
            if how == "startup":
                raise Boom(how)
            if how == "group":
                async with trio.open_nursery():
                    raise Boom(how)
            if how == "own timeout":
                with trio.fail_after(1):
                    await trio.sleep_forever()
            await trio.sleep_forever()

        async def shutdown(self) -> None:
            raise AssertionError("it was never up")

    return Failing


@pytest.mark.parametrize(
    ("how", "cause", "text"),
    [
        ("constructor", Boom, "constructor"),
        ("startup", Boom, "startup"),
        ("group", Boom, "group"),
        ("slow", trio.TooSlowError, "startup took longer than 3 s"),
        ("own timeout", trio.TooSlowError, "TooSlowError"),
    ],
)
async def test_a_failing_start_is_one_error_and_stops_those_before_in_reverse(
    how: str, cause: type[Exception], text: str, mock_clock: trio.testing.MockClock
):
    said: list[str] = []

    def named(name: str) -> type[Any]:
        class Named(Probe):
            settings = Settings(title=name)

            async def startup(self) -> None:
                said.append(f"{name} up")

            async def shutdown(self) -> None:
                said.append(f"{name} down")

        return Named

    tree = [named("a"), named("b"), Child(failing(how), startup_timeout=3), named("c")]
    with pytest.raises(StartError, match=f"'Failing' did not start: .*{text}") as caught:
        async with open_system(tree, broker=FakeBroker()):
            raise AssertionError("it must not come to this")
    assert caught.value.child_id == "Failing"
    assert isinstance(caught.value.__cause__, cause)
    if how == "own timeout":
        assert "longer than" not in str(caught.value), "the timeout was its own"
    assert said == ["a up", "b up", "b down", "a down"]
    assert trio.current_time() == {"slow": 3, "own timeout": 1}.get(how, 0)


async def test_actors_start_one_after_the_other_in_their_order(mock_clock: trio.testing.MockClock):
    said: list[str] = []

    def named(name: str, seconds: float) -> type[Any]:
        class Named(Probe):
            settings = Settings(title=name)

            async def startup(self) -> None:
                said.append(f"{name}…")
                await trio.sleep(seconds)
                said.append(name)

        return Named

    async with open_system([named("a", 3), named("b", 1)], broker=FakeBroker()):
        assert trio.current_time() == 4
    assert said == ["a…", "a", "b…", "b"]


async def test_no_message_is_handled_before_startup_has_returned(mock_clock: trio.testing.MockClock):
    said: list[str] = []

    class Late(Probe):
        settings = Settings(title="late")

        async def startup(self) -> None:
            await trio.sleep(3)
            said.append("up")

        @receive
        async def do(self, *, what: str, n: float = 0) -> object:  # type: ignore[override]
            said.append(what)
            if what == "raise":
                raise ValueError
            return None

    async with open_system(Late, broker=FakeBroker()) as system:
        system.ref(Late).tell_nowait({"what": "raise"})
        await system.ref(Late).ask({"what": "after"})
    assert said == ["up", "raise", "up", "after"]


# ---- on_failure ----


async def test_on_failure_restart_crashes_the_actor_after_its_delivery_is_settled():
    actor = titled("strict", on_failure="restart")
    broker, kept = FakeBroker(), Kept()
    async with open_system(actor, broker=broker, emit=kept):
        broker.put(actor, {"what": "raise"}, id="it")
        broker.put(actor, {"what": "count"}, id="next")
        await broker.wait_settled(2)
    assert failed(broker.settlement("it")) == ("ValueError", "boom")
    assert isinstance(kept.of(events.ChildExited)[0].exit.error, ValueError)
    assert len(kept.of(events.ActorStarted)) == 2


async def test_on_failure_restart_counts_a_timeout(mock_clock: trio.testing.MockClock):
    actor = titled("strict", on_failure="restart", execution_timeout=1)
    broker, kept = FakeBroker(), Kept()
    async with open_system(actor, broker=broker, emit=kept):
        broker.put(actor, {"what": "sleep", "n": 5}, id="it")
        broker.put(actor, {"what": "count"}, id="next")
        await broker.wait_settled(2)
    assert type(kept.of(events.ChildExited)[0].exit.error).__name__ == "ExecutionTimeout"


@pytest.mark.parametrize("what", ["reject", "fail", "retry"])
async def test_verdicts_never_crash_an_actor(what: str):
    actor = titled("strict", on_failure="restart")
    broker, kept = FakeBroker(), Kept()
    async with open_system(actor, broker=broker, emit=kept):
        broker.put(actor, {"what": what})
        await broker.wait_settled()
    assert len(kept.of(events.ActorStarted)) == 1


async def test_on_failure_resume_lets_a_local_call_fail_alone():
    actor = titled("mild", on_failure="resume")
    kept = Kept()
    async with open_system(actor, broker=FakeBroker(), emit=kept) as system:
        ref = system.ref(actor)
        with pytest.raises(ValueError, match="boom"):
            await ref.ask({"what": "raise"})
        with pytest.raises(ActorCrashed):
            await ref.ask({"what": "exit"})
        assert await ref.ask({"what": "count"}) == 3
    assert len(kept.of(events.ActorStarted)) == 1


@pytest.mark.parametrize("local", [True, False], ids=["local call", "delivery"])
async def test_on_failure_stop_ends_the_actor_and_leaves_the_others(local: bool):
    actor = titled("once", on_failure="stop")
    broker = FakeBroker()
    async with open_system([actor, Greeter], broker=broker) as system:
        if local:
            with pytest.raises(ActorCrashed):
                await system.ref(actor).ask({"what": "raise"})
        else:
            broker.put(actor, {"what": "raise"})
            await broker.wait_settled()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(ActorStopped):
            await system.ref(actor).tell({"what": "count"})
        assert await system.ref(Greeter).ask(Greet("Ann")) == "Hello Ann"


@pytest.mark.parametrize("local", [True, False], ids=["local call", "delivery"])
async def test_on_failure_escalate_makes_the_supervisor_give_up_at_once(local: bool):
    actor = titled("grave", on_failure="escalate")
    broker = FakeBroker()
    with pytest.raises(MaxRestartsExceeded) as caught:
        async with open_system(actor, broker=broker, intensity=MANY) as system:
            if local:
                system.ref(actor).tell_nowait({"what": "raise"})
            else:
                broker.put(actor, {"what": "raise"}, id="it")
            await trio.sleep_forever()
    assert isinstance(caught.value.__cause__, ValueError)
    if not local:
        assert isinstance(broker.settlement("it"), policy.Fail)


async def test_a_local_call_past_its_timeout_crashes_the_actor(mock_clock: trio.testing.MockClock):
    kept = Kept()
    async with open_system(probe(), broker=FakeBroker(), emit=kept) as system:
        with pytest.raises(ActorCrashed, match="ExecutionTimeout"):
            await system.ref(Probe).ask({"what": "sleep", "n": 100})
        assert 10 <= trio.current_time() <= 10.25
        assert await system.ref(Probe).ask({"what": "count"}) == 1


async def test_a_plain_def_handler_runs_in_a_thread():
    class Threaded(Actor):
        settings = Settings(title="threaded")

        @receive
        def where(self, message: str) -> list[object]:
            return [message, threading.current_thread() is threading.main_thread()]

    async with open_system(Threaded, broker=FakeBroker()) as system:
        assert await system.ref(Threaded).ask("hi") == ["hi", False]
