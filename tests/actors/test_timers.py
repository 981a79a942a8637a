"""Timers: what an actor tells itself later, by key; and when asks time out."""

import gc
import math
import random
from functools import partial
from typing import Any

import pytest
import trio

from actorwork import (
    ActorCrashed,
    AskTimeout,
    Intensity,
    MailboxSettings,
    MessageRefused,
    SettingsError,
    events,
    open_system,
    receive,
)
from actorwork.actors.context.timers import Expiries, Timer, TimerWheel
from actorwork.actors.wakeups import Reply
from tests.doubles import FakeBroker, Kept
from tests.garbage import living
from tests.scripted_actor import Do, Note, Scripted, do, fail, ref_of, scripted, sleeping, stop

MANY = Intensity(restarts=1000, period=1)


class Clocked(Scripted):
    """Writes down when a note came."""

    @receive
    async def note(self, message: Note) -> str:
        self.said.append((message.text, trio.current_time()))
        return message.text


def clocked(said: list[Any] | None = None, **options: Any) -> Any:
    return scripted("it", said, base=Clocked, **options)


async def test_a_timer_fires_once(mock_clock: trio.testing.MockClock):
    said: list[Any] = []
    async with open_system(clocked(said), broker=FakeBroker()) as system:
        await do(system, "it", lambda actor: actor.context.timers.start("t", 2, Note("tick")))
        assert await do(system, "it", lambda actor: actor.context.timers.is_active("t"))
        await trio.sleep(10)
        assert not await do(system, "it", lambda actor: actor.context.timers.is_active("t"))
    assert said == [("tick", 2)]


async def test_a_timer_without_delay_fires_after_the_message_in_hand(mock_clock: trio.testing.MockClock):
    said: list[Any] = []

    def start(actor: Any) -> None:
        actor.context.timers.start("t", 0, Note("tick"))
        actor.said.append("in hand")

    async with open_system(clocked(said), broker=FakeBroker()) as system:
        await do(system, "it", start)
        await trio.sleep(0.1)
    assert said == ["in hand", ("tick", 0)]


async def test_a_repeated_timer_does_not_drift(mock_clock: trio.testing.MockClock):
    said: list[Any] = []
    async with open_system(clocked(said), broker=FakeBroker()) as system:
        await do(system, "it", lambda actor: actor.context.timers.start_every("t", 1.5, Note("tick")))
        for _ in range(4):
            await trio.sleep(1.2)
            await do(system, "it", sleeping(0.2))
        await trio.sleep(0.4)
    assert [when for _, when in said] == pytest.approx([1.5, 3.0, 4.5, 6.0], abs=0.21)
    assert said[-1][1] == 6.0


async def test_ticks_that_a_busy_actor_misses_are_left_out(mock_clock: trio.testing.MockClock):
    said: list[Any] = []
    async with open_system(clocked(said), broker=FakeBroker()) as system:
        await do(system, "it", lambda actor: actor.context.timers.start_every("t", 1, Note("tick")))
        await do(system, "it", sleeping(5.5))
        await trio.sleep(2)
    assert said == [("tick", 5.5), ("tick", 6), ("tick", 7)]


async def test_ticks_that_a_blocked_loop_misses_are_left_out(mock_clock: trio.testing.MockClock):
    said: list[Any] = []
    async with open_system(clocked(said), broker=FakeBroker()) as system:
        await do(system, "it", lambda actor: actor.context.timers.start_every("t", 1, Note("tick")))
        mock_clock.jump(5.5)
        await trio.sleep(2)
    assert said == [("tick", 5.5), ("tick", 6), ("tick", 7)]


async def test_a_tick_may_come_while_the_one_before_is_in_hand(mock_clock: trio.testing.MockClock):
    said: list[Any] = []
    async with open_system(clocked(said), broker=FakeBroker()) as system:
        nap = Do(sleeping(1.5))
        await do(system, "it", lambda actor: actor.context.timers.start_every("t", 1, nap))
        await do(system, "it", lambda actor: actor.context.timers.start_every("u", 2.75, Note("between")))
        await trio.sleep(10)
        ref = ref_of(system, "it")
        assert len(ref.cell.mailbox) <= 2
        ref.tell_nowait(Do(lambda actor: actor.context.timers.cancel("t")))
    assert len(said) >= 2


async def test_starting_a_timer_again_replaces_it(mock_clock: trio.testing.MockClock):
    said: list[Any] = []
    async with open_system(clocked(said), broker=FakeBroker()) as system:
        await do(system, "it", lambda actor: actor.context.timers.start("t", 2, Note("old")))
        await trio.sleep(1)
        await do(system, "it", lambda actor: actor.context.timers.start("t", 2, Note("new")))
        await trio.sleep(10)
    assert said == [("new", 3)]


async def test_what_a_replaced_timer_has_sent_already_is_dropped(mock_clock: trio.testing.MockClock):
    said: list[Any] = []

    async def start_late(actor: Any) -> None:
        actor.context.timers.start("t", 1, Note("old"))
        await trio.sleep(2)
        actor.context.timers.start("t", 1, Note("new"))

    async with open_system(clocked(said), broker=FakeBroker()) as system:
        await do(system, "it", start_late)
        await trio.sleep(10)
    assert said == [("new", 3)]


async def test_cancelling_says_whether_there_was_something_to_cancel(mock_clock: trio.testing.MockClock):
    said: list[Any] = []

    async def cancel(actor: Any) -> list[bool]:
        timers = actor.context.timers
        found = [timers.cancel("t")]
        timers.start("t", 1, Note("waits"))
        found.append(timers.cancel("t"))
        timers.start("t", 1, Note("was sent"))
        await trio.sleep(2)
        found += [timers.is_active("t"), timers.cancel("t"), timers.cancel("t")]
        return found

    async with open_system(clocked(said), broker=FakeBroker()) as system:
        assert await do(system, "it", cancel) == [False, True, False, True, False]
        await do(system, "it", lambda actor: actor.context.timers.start("t", 1, Note("handled")))
        await trio.sleep(2)
        assert await do(system, "it", lambda actor: actor.context.timers.cancel("t")) is False
    assert [text for text, _ in said] == ["handled"]


@pytest.mark.parametrize("end", [fail, stop])
async def test_timers_end_with_the_incarnation(end: Any, mock_clock: trio.testing.MockClock):
    said: list[Any] = []
    async with open_system(clocked(said), broker=FakeBroker(), intensity=MANY) as system:

        async def start_and_end(actor: Any) -> None:
            actor.context.timers.start("once", 5, Note("once"))
            actor.context.timers.start_every("often", 1, Note("often"))
            await trio.sleep(2)  # so that a tick waits already
            end(actor)

        ref_of(system, "it").tell_nowait(Do(start_and_end))
        await trio.sleep(20)
        assert said == []
        assert repr(system._services.timers) == "<timer wheel: 0 timers>"
        assert await do(system, "it", lambda actor: actor.context.ref.cell.incarnation) == 2


async def test_an_incarnation_starts_its_timers_anew(mock_clock: trio.testing.MockClock):
    said: list[Any] = []

    def start(actor: Any) -> None:
        actor.context.timers.start_every("t", 2, Note("tick"))

    async with open_system(clocked(said, up=start), broker=FakeBroker(), intensity=MANY) as system:
        await trio.sleep(3)
        with pytest.raises(ActorCrashed):
            await do(system, "it", fail)
        await trio.sleep(3)
    assert said == [("tick", 2), ("tick", 5)]


async def test_timers_are_told_before_what_users_said_earlier(mock_clock: trio.testing.MockClock):
    said: list[Any] = []
    async with open_system(clocked(said), broker=FakeBroker()) as system:

        async def start_and_wait(actor: Any) -> None:
            actor.context.ref.tell_nowait(Note("user"))
            actor.context.timers.start("t", 1, Note("timer"))
            await trio.sleep(2)

        await do(system, "it", start_and_wait)
        await trio.sleep(1)
    assert [text for text, _ in said] == ["timer", "user"]


async def test_many_timers_of_many_actors_fire_in_their_order(mock_clock: trio.testing.MockClock):
    said: list[Any] = []
    dice = random.Random(7)
    delays = [dice.randrange(1, 1000) for _ in range(3000)]
    async with open_system([clocked(said), scripted("other")], broker=FakeBroker()) as system:

        def start(actor: Any) -> None:
            for n, delay in enumerate(delays):
                actor.context.timers.start(n, delay, Note(str(delay)))

        await do(system, "it", start)
        await do(system, "other", start)
        await trio.sleep(1000)
    assert [when for _, when in said] == sorted(delays)


async def test_timers_that_are_started_again_and_again_leave_nothing(mock_clock: trio.testing.MockClock):
    async with open_system(clocked(), broker=FakeBroker()) as system:

        def start(actor: Any, first: int) -> None:
            for n in range(first, first + 10):
                actor.context.timers.start("idle", 3600, Note("idle"))
                actor.context.timers.start(n, 0, Note("now"))

        for n in range(0, 5000, 10):
            await do(system, "it", partial(start, first=n))
            await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(1)
        await do(system, "it", lambda actor: actor.context.timers.start("last", 5, Note("last")))
        assert len(system._services.timers._heap) < 200
        assert len(ref_of(system, "it").cell.timers._timers) < 200
        assert repr(ref_of(system, "it").cell.timers) == "<timers of 'it': 'idle', 'last'>"
        await trio.sleep(10)
        assert system._services.timers._heap[0][0] == pytest.approx(3600, abs=1)


async def test_a_wheel_counts_what_was_cancelled_and_not_swept(mock_clock: trio.testing.MockClock):
    wheel = TimerWheel()
    cell: Any = None
    timers = [Timer(cell, n, n, None, None) for n in range(10)]
    for timer in timers:
        wheel.start(timer)
    for timer in timers[:4] * 2:
        wheel.cancel(timer)
    assert repr(wheel) == "<timer wheel: 6 timers>"


@pytest.mark.parametrize("delay", [-1, math.nan, math.inf])
async def test_a_delay_must_be_a_time(delay: float):
    async with open_system(clocked(), broker=FakeBroker()) as system:

        def start(actor: Any) -> None:
            with pytest.raises(SettingsError, match="seconds"):
                actor.context.timers.start("t", delay, Note("tick"))
            with pytest.raises(SettingsError, match="seconds"):
                actor.context.timers.start_every("t", delay, Note("tick"))
            with pytest.raises(SettingsError, match="seconds > 0"):
                actor.context.timers.start_every("t", 0, Note("tick"))

        await do(system, "it", start)


@pytest.mark.parametrize("message", [{1}, {"wrong": 1}])
async def test_what_the_actor_does_not_take_is_refused_at_the_start_of_the_timer(message: object):
    class Keywords(Scripted):
        @receive
        async def take(self, *, n: int) -> None: ...

    async with open_system(scripted("it", base=Keywords), broker=FakeBroker()) as system:

        def start(actor: Any) -> None:
            with pytest.raises(MessageRefused):
                actor.context.timers.start("t", 1, message)

        await do(system, "it", start)


async def test_a_timer_may_say_what_only_the_present_behaviour_takes(mock_clock: trio.testing.MockClock):
    said: list[Any] = []
    kept = Kept()

    class Changing(Scripted):
        async def waiting(self, message: str) -> None:
            self.said.append(message)

        async def start(self, message: Do) -> None:
            message.what(self)

    async with open_system(scripted("it", said, base=Changing), broker=FakeBroker(), emit=kept) as system:

        def become_and_start(actor: Any) -> None:
            actor.context.become(actor.waiting)
            actor.context.timers.start("t", 1, "first")
            actor.context.timers.start("u", 3, "second")

        await do(system, "it", become_and_start)
        await trio.sleep(2)
        cell = ref_of(system, "it").cell
        cell.behaviour = cell.behaviour.unbecome()
        await trio.sleep(2)
        assert said == ["first"]
        assert [event.message for event in kept.of(events.Undelivered)] == ["second"]


async def test_a_shutdown_handles_what_timers_have_said(mock_clock: trio.testing.MockClock):
    said: list[Any] = []
    async with open_system(clocked(said), broker=FakeBroker()) as system:

        async def start_and_wait(actor: Any) -> None:
            actor.context.timers.start("t", 1, Note("tick"))
            await trio.sleep(2)

        ref_of(system, "it").tell_nowait(Do(start_and_wait))
        await trio.sleep(1.5)
    assert said == [("tick", 2)]


# ---- when asks time out ----


@pytest.mark.parametrize("timeout", [0.001, 0.1, 0.32, 1, 7, 60, 600])
async def test_an_ask_never_times_out_early_and_hardly_late(timeout: float, mock_clock: trio.testing.MockClock):
    async with open_system(scripted("it", settings={"execution_timeout": 86400}), broker=FakeBroker()) as system:
        ref = ref_of(system, "it")
        ref.tell_nowait(Do(sleeping(50_000)))
        for pause in (0, 0.3, 1 / 3, 0.77):
            await trio.sleep(pause)
            began = trio.current_time()
            with pytest.raises(AskTimeout, match=f"'it' gave no reply to Note within {timeout:g} s"):
                await ref.ask(Note("?"), timeout=timeout)
            assert timeout <= trio.current_time() - began <= timeout + max(0.005, timeout / 64)
        system.stop()
        system.stop()


async def test_a_moment_is_never_rounded_to_an_earlier_one(mock_clock: trio.testing.MockClock):
    expiries = Expiries()
    dice = random.Random(3)
    for _ in range(3000):
        mock_clock.jump(dice.expovariate(1))
        timeout = dice.choice([dice.random() * 10 ** dice.randrange(-3, 5), 0])
        expiries._buckets.clear()
        expiries.add(Reply(), timeout, "it", None)
        (when,) = expiries._buckets
        due = trio.current_time() + timeout
        assert due <= when <= due + max(0.005, timeout / 64)


async def test_an_ask_with_a_timeout_that_is_no_number_is_refused():
    async with open_system(clocked(), broker=FakeBroker()) as system:
        with pytest.raises(ValueError, match="timeout wants 0 seconds or more, got nan"):
            await ref_of(system, "it").ask(Note("x"), timeout=math.nan)


async def test_an_ask_without_time_times_out_at_once(mock_clock: trio.testing.MockClock):
    async with open_system(clocked(), broker=FakeBroker()) as system:
        ref = ref_of(system, "it")
        ref.tell_nowait(Do(sleeping(1)))
        with pytest.raises(AskTimeout):
            await ref.ask(Note("?"), timeout=0)
        assert trio.current_time() <= 0.005


async def test_an_ask_with_endless_time_is_answered(mock_clock: trio.testing.MockClock):
    async with open_system(clocked(), broker=FakeBroker()) as system:
        ref = ref_of(system, "it")
        ref.tell_nowait(Do(sleeping(100)))
        assert await ref.ask(Note("?"), timeout=math.inf) == "?"
        assert trio.current_time() == 100


async def test_thousands_of_asks_time_out_together(mock_clock: trio.testing.MockClock):
    late: list[float] = []
    async with open_system(
        scripted("it", settings={"mailbox": MailboxSettings(capacity=10_000)}), broker=FakeBroker()
    ) as system:
        ref = ref_of(system, "it")
        ref.tell_nowait(Do(sleeping(100)))

        async def ask(timeout: float) -> None:
            with pytest.raises(AskTimeout):
                await ref.ask(Note("?"), timeout=timeout)
            late.append(trio.current_time() - timeout)

        async with trio.open_nursery() as nursery:
            for n in range(5000):
                nursery.start_soon(ask, 1 + n / 1000)
        assert len(late) == 5000
        assert min(late) >= 0
        assert max(late) <= 6 / 64


async def test_asks_that_are_answered_leave_no_trace(mock_clock: trio.testing.MockClock):
    dice = random.Random(5)
    async with open_system(clocked(), broker=FakeBroker()) as system:
        ref = ref_of(system, "it")
        for _ in range(1000):
            await ref.ask(Note("?"), timeout=1000 + dice.random() * 1000)
        await do(system, "it", lambda _: None)
        expiries = system._services.expiries
        assert sum(len(bucket) for bucket in expiries._buckets.values()) == 0
        assert len(expiries._heap) <= 130
        gc.collect()
        assert not [reply for reply in living(Reply) if reply._task is not None]
        await trio.sleep(2100)
        assert expiries._heap == []


async def test_a_cancelled_ask_does_not_time_out_any_more(mock_clock: trio.testing.MockClock):
    async with open_system(clocked(), broker=FakeBroker()) as system:
        ref = ref_of(system, "it")
        ref.tell_nowait(Do(sleeping(10)))
        with trio.move_on_after(1) as scope:
            await ref.ask(Note("?"), timeout=2)
        assert scope.cancelled_caught
        await trio.sleep(5)


async def test_an_ask_that_waits_for_room_times_out_as_any_other(mock_clock: trio.testing.MockClock):
    said: list[Any] = []
    settings = {"mailbox": MailboxSettings(capacity=1)}
    async with open_system(scripted("it", said, settings=settings), broker=FakeBroker()) as system:
        ref = ref_of(system, "it")
        ref.tell_nowait(Do(sleeping(10)))
        await trio.testing.wait_all_tasks_blocked()
        ref.tell_nowait(Note("fills it"))
        with pytest.raises(AskTimeout):
            await ref.ask(Note("never taken"), timeout=2)
        assert 2 <= trio.current_time() <= 2 + 2 / 64
        await trio.sleep(20)
    assert said == ["fills it"]
