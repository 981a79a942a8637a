"""Triggers of a running system, in virtual time."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import attrs
import pytest
import trio
from trio.testing import MockClock

from actorwork import AbstractCronSchedule, Actor, Cron, Interval, Settings, SettingsError, Trigger, next_times, receive
from actorwork.embedded.triggers import EmbeddedPauses
from actorwork.events import TriggerFired, TriggerTrouble
from actorwork.testing import MemoryBroker, TestSystem, advance, open_test_system
from actorwork.testing.memory.broker import EPOCH

MINUTE = 60.0
HOUR = 3600.0
BEGIN = datetime.fromtimestamp(EPOCH, UTC)  # 2001-09-09 01:46:40


@attrs.frozen
class Sweep:
    rooms: int = 1


def actor_with(*triggers: Trigger, **more: Any) -> type[Actor]:
    """Return an actor that records its nominal times, and when it ran."""

    class Cleaner(Actor):
        settings = Settings(title="cleaner", triggers=list(triggers), **more)
        seen: ClassVar[list[tuple[str, float, float]]] = []

        @receive
        async def clean(self, *, kind: str = "light", time_point: datetime, trigger_id: str) -> None:
            assert time_point.utcoffset() == timedelta(0)
            assert trigger_id in {trigger.id for trigger in triggers}
            self.seen.append((kind, (time_point - BEGIN).total_seconds(), trio.current_time()))

    return Cleaner


def every(seconds: float, title: str = "regular", **more: Any) -> Trigger:
    return Trigger(title=title, schedule=Interval(seconds=seconds), **more)


def times(actor: Any) -> list[float]:
    return [nominal for _, nominal, _ in actor.seen]


def fired(system: TestSystem) -> list[tuple[int, ...]]:
    return [event.times for event in system.of(TriggerFired)]


async def test_an_interval_fires_at_its_nominal_times(mock_clock: MockClock):
    actor: Any = actor_with(every(MINUTE, kwargs={"kind": "full"}))
    async with open_test_system(actor):
        await advance(10 * MINUTE)
    assert [kind for kind, _, _ in actor.seen] == ["full"] * 10
    assert times(actor) == [n * MINUTE for n in range(1, 11)]
    assert all(0 <= when - nominal < 0.01 for _, nominal, when in actor.seen)


async def test_cron_fires_on_the_clock_of_its_timezone(mock_clock: MockClock):
    actor: Any = actor_with(Trigger(title="nightly", schedule=Cron("30 4 * * *", "Europe/Berlin")))
    async with open_test_system(actor):
        await advance(3 * 24 * HOUR)
    assert [BEGIN + timedelta(seconds=nominal) for nominal in times(actor)] == [
        datetime(2001, 9, day, 2, 30, tzinfo=UTC) for day in (9, 10, 11)
    ]


async def test_typed_messages_are_sent_and_the_handler_receives_the_trigger_id(mock_clock: MockClock):
    seen: list[Any] = []

    class Sweeper(Actor):
        settings = Settings(title="sweeper", triggers=[every(MINUTE, message=Sweep(rooms=3))])

        @receive
        async def sweep(self, message: Sweep, *, time_point: datetime) -> None:
            seen.append((message, time_point))

    async with open_test_system(Sweeper):
        await advance(MINUTE)
    assert seen == [(Sweep(3), BEGIN + timedelta(seconds=60))]


async def test_any_number_of_nodes_fires_each_time_once(mock_clock: MockClock):
    actor: Any = actor_with(every(1.0), every(2.5, "slower"))
    broker = MemoryBroker()
    async with (
        open_test_system(actor, broker=broker) as one,
        open_test_system(actor, broker=broker) as two,
        open_test_system(actor, broker=broker) as three,
    ):
        await advance(30)
    assert sorted(times(actor)) == sorted([n * 1.0 for n in range(1, 31)] + [n * 2.5 for n in range(1, 13)])
    assert sum(len(fired(system)) for system in (one, two, three)) == 42


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, range(1, 11)),
        ({"is_catchup": False}, []),
        ({"catchup": "one"}, [10]),
        ({"catchup_window": 3.5 * MINUTE}, [8, 9, 10]),
        ({"catchup": "one", "catchup_window": 10}, []),
        ({"is_catchup": False, "catchup_window": 10 * HOUR}, []),
    ],
)
async def test_after_a_gap_of_ten_intervals_its_policy_and_window_decide(
    mock_clock: MockClock, more: Any, expected: list[int]
):
    actor: Any = actor_with(every(MINUTE, **more))
    broker = MemoryBroker()
    async with open_test_system(actor, broker=broker):
        await advance(0.01)
    mock_clock.jump(10.5 * MINUTE)
    async with open_test_system(actor, broker=broker):
        await advance(0.1)
        assert times(actor) == [n * MINUTE for n in expected]
        await advance(MINUTE)
    assert times(actor) == [n * MINUTE for n in [*expected, 11]]


async def test_many_missed_times_come_in_several_steps_in_their_order(mock_clock: MockClock):
    actor: Any = actor_with(every(1.0))
    broker = MemoryBroker()
    async with open_test_system(actor, broker=broker):
        await advance(0.01)
    mock_clock.jump(450.5)
    async with open_test_system(actor, broker=broker) as system:
        await advance(0.2)
        await system.drain()
        assert [len(found) for found in fired(system)] == [100, 100, 100, 100, 50]
    assert times(actor) == [float(n) for n in range(1, 451)]


async def test_messages_of_a_trigger_that_may_not_overlap_do_not(mock_clock: MockClock):
    begun: list[float] = []

    class Slow(Actor):
        settings = Settings(title="slow", triggers=[every(10.0, overlap="skip")], concurrency=5)

        @receive
        async def work(self) -> None:
            begun.append(trio.current_time())
            await trio.sleep(24)

    async with open_test_system(Slow) as system:
        await advance(100)
        assert {event.kept for event in system.of(TriggerFired)} == {0, 1}
    assert [round(at) for at in begun] == [10, 40, 70, 100]


async def test_a_trigger_ends_with_its_lifetime_which_restarts_do_not_prolong(mock_clock: MockClock):
    actor: Any = actor_with(every(10.0, lifetime=45.0))
    broker = MemoryBroker()
    for _ in range(4):
        async with open_test_system(actor, broker=broker):
            await advance(20)
    assert times(actor) == [10, 20, 30, 40]


async def test_jitter_spreads_the_times_alike_on_all_nodes(mock_clock: MockClock):
    actor: Any = actor_with(every(MINUTE, jitter=30.0))
    broker = MemoryBroker()
    async with open_test_system(actor, broker=broker), open_test_system(actor, broker=broker):
        await advance(20 * MINUTE + 30)
    assert times(actor) == [n * MINUTE for n in range(1, 21)]
    delays = [when - nominal for _, nominal, when in actor.seen]
    assert all(0 <= delay < 30.1 for delay in delays)
    assert len({round(delay, 2) for delay in delays}) > 15


async def test_a_changed_schedule_begins_with_the_program_that_has_it(mock_clock: MockClock):
    old: Any = actor_with(every(MINUTE))
    new: Any = actor_with(every(20.0))
    broker = MemoryBroker()
    async with open_test_system(old, broker=broker) as before:
        await advance(90)
        async with open_test_system(new, broker=broker):
            await advance(90)
        assert [event.trigger for event in before.of(TriggerTrouble)] == ["regular"]
    # What either of them sent, both have handled: they share the source.
    assert sorted(times(old) + times(new)) == [60, 100, 120, 140, 160, 180]


async def test_a_trigger_that_the_broker_has_forgotten_is_registered_again(mock_clock: MockClock):
    actor: Any = actor_with(every(MINUTE))
    async with open_test_system(actor) as system:
        await advance(MINUTE)
        (record,) = system.broker.triggers.all
        await system.broker.triggers.forget(record.definition.source, record.definition.id)
        await advance(3 * MINUTE)
        assert len(system.broker.triggers.all) == 1
    # It begins anew where it was missed for the first time: at the next time it would have fired.
    assert times(actor) == [60, 180, 240]


async def test_a_trigger_that_is_no_longer_declared_is_marked(mock_clock: MockClock):
    broker = MemoryBroker()
    async with open_test_system(actor_with(every(MINUTE)), broker=broker):
        await advance(0.01)

    class Cleaner(Actor):
        settings = Settings(title="cleaner")

        @receive
        async def clean(self, *, kind: str) -> None: ...

    async with open_test_system(Cleaner, broker=broker):
        await advance(5 * MINUTE)
    assert [record.is_declared for record in broker.triggers.all] == [False]
    assert broker.sent == []


async def test_a_clock_that_is_set_forward_and_back_doubles_nothing_and_loses_nothing(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
):
    # As at brokers whose clock may be set: nodes look again from time to time.
    monkeypatch.setattr(EmbeddedPauses, "is_certain", property(lambda _: False))
    actor: Any = actor_with(every(10 * MINUTE))
    broker = MemoryBroker()
    async with open_test_system(actor, broker=broker), open_test_system(actor, broker=broker):
        await advance(65 * MINUTE)
        broker._writer.epoch += HOUR
        await advance(5 * MINUTE + 1)  # The nodes look at moments of their own, and reckon from there.
        assert sorted(times(actor)) == [n * 10 * MINUTE for n in range(1, 14)]  # two nodes share what comes at once
        broker._writer.epoch -= HOUR
        await advance(55 * MINUTE)
        assert len(actor.seen) == 13
        await advance(30 * MINUTE)
    assert sorted(times(actor)) == [n * 10 * MINUTE for n in range(1, 16)]


async def test_nothing_fires_once_the_system_stops(mock_clock: MockClock):
    class Slow(Actor):
        settings = Settings(title="slow", triggers=[every(1.0)])

        @receive
        async def work(self) -> None:
            await trio.sleep(10)

    broker = MemoryBroker()
    async with open_test_system(Slow, broker=broker) as system:
        await advance(1.5)
        system.system.stop()
        await advance(5)
    assert len(broker.sent) == 1


# ---- a custom reading of cron expressions ----


class Thirds(AbstractCronSchedule):
    """Fires at multiples of twenty seconds and ignores the expression."""

    asked: ClassVar[list[str]] = []
    clock: Callable[[], float] = staticmethod(trio.current_time)

    def next_execution(self, expression: str) -> datetime:
        self.asked.append(expression)
        return BEGIN + timedelta(seconds=(self.clock() // 20 + 1) * 20)


def cron(title: str = "nightly", **more: Any) -> Trigger:
    return Trigger(title=title, schedule=Cron("0 3 * * *"), **more)


@pytest.mark.parametrize("given", [Thirds, Thirds()], ids=["class", "object"])
async def test_a_custom_cron_schedule_gives_the_next_time(mock_clock: MockClock, given: Any):
    actor: Any = actor_with(cron())
    broker = MemoryBroker()
    assert broker.now == EPOCH
    async with (
        open_test_system(actor, broker=broker, cron_schedule=given),
        open_test_system(actor, broker=broker, cron_schedule=given),
    ):
        await advance(100)
    assert times(actor) == [20, 40, 60, 80, 100]
    assert set(Thirds.asked) == {"0 3 * * *"}


class Every(AbstractCronSchedule):
    """Reads `every N seconds`, and notes the timezones."""

    zones: ClassVar[list[tzinfo]] = []

    def next_execution(self, expression: str, timezone: tzinfo = UTC) -> datetime:
        self.zones.append(timezone)
        seconds = int(expression.split()[1])
        return (BEGIN + timedelta(seconds=(trio.current_time() // seconds + 1) * seconds)).astimezone(timezone)


async def test_a_custom_cron_schedule_has_a_syntax_of_its_own_and_is_given_the_timezone(mock_clock: MockClock):
    trigger = Trigger(title="t", schedule=Cron("every 30 seconds", "Asia/Tokyo", custom=True))
    actor: Any = actor_with(trigger)
    async with open_test_system(actor, cron_schedule=Every):
        await advance(100)
    assert times(actor) == [30, 60, 90]
    assert set(Every.zones) == {ZoneInfo("Asia/Tokyo")}


async def test_a_syntax_of_its_own_wants_a_cron_schedule_that_reads_it(mock_clock: MockClock):
    actor = actor_with(Trigger(title="t", schedule=Cron("every 30 seconds", custom=True)))
    with pytest.raises(
        SettingsError, match="the trigger 't' of 'cleaner': 'every 30 seconds' is custom, so the system"
    ):
        async with open_test_system(actor):
            raise AssertionError("it must not come to this")
    with pytest.raises(SettingsError, match=r"write Cron\(…, custom=True\)"):
        Cron("every 30 seconds")
    with pytest.raises(SettingsError, match="only the cron_schedule of its system knows when it fires"):
        next_times(Cron("every 30 seconds", custom=True), BEGIN)


class Wrong(AbstractCronSchedule):
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def next_execution(self, expression: str) -> datetime:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (datetime(2030, 1, 1), "wants to return a time with a timezone"),
        ("tomorrow", "wants to return a datetime, got 'tomorrow'"),
        (ValueError("no moon"), "raised ValueError: no moon"),
    ],
)
async def test_an_invalid_answer_is_an_error_at_the_start(mock_clock: MockClock, answer: Any, text: str):
    with pytest.raises(SettingsError, match=text):
        async with open_test_system(actor_with(cron()), cron_schedule=Wrong(answer)):
            pass


async def test_an_answer_that_is_past_or_goes_back_is_reported_and_asked_again(mock_clock: MockClock):
    calendar = Wrong(BEGIN - timedelta(days=1))
    actor: Any = actor_with(cron())
    async with open_test_system(actor, cron_schedule=calendar) as system:
        await advance(30)
        calendar.answer = BEGIN + timedelta(seconds=90)
        await advance(MINUTE + 30)
        await advance(90)
        troubles = [event.error for event in system.of(TriggerTrouble)]
    assert troubles
    assert "is past" in troubles[0] or "before an earlier" in troubles[0]
    assert times(actor) == [90]


async def test_an_invalid_cron_schedule_is_refused():
    given: Any = 5
    with pytest.raises(SettingsError, match="cron_schedule wants a subclass of AbstractCronSchedule, got 5"):
        async with open_test_system(actor_with(cron()), cron_schedule=given):
            pass


# ---- what is refused at the start ----


@pytest.mark.parametrize(
    ("trigger", "text"),
    [
        (every(1, kwargs={"kind": 5}), "'regular' of 'cleaner' sends a message .* at kind: wants a string, got 5"),
        (every(1, kwargs={"colour": "red"}), "unknown argument 'colour'"),
        (every(1, message=Sweep()), "sends a message that the actor does not take"),
        (every(1, kwargs={"kind": {1, 2}}), "cannot be written as JSON"),  # type: ignore[dict-item]
    ],
)
async def test_a_message_that_its_actor_would_not_take_is_an_error_at_the_start(trigger: Trigger, text: str):
    with pytest.raises(SettingsError, match=text):
        async with open_test_system(actor_with(trigger)):
            pass


async def test_a_handler_that_wants_the_time_point_refuses_a_message_that_no_trigger_sent():
    from actorwork import MessageRefused

    class Sweeper(Actor):
        settings = Settings(title="sweeper")

        @receive
        async def sweep(self, message: Sweep, *, time_point: datetime) -> None: ...

    async with open_test_system(Sweeper) as system:
        with pytest.raises(MessageRefused, match="wants time_point, which only a message that a trigger has sent has"):
            await system.ref(Sweeper).tell(Sweep())
        await system.client.publish(Sweeper.settings.default_source, Sweep())
        await system.drain()
        (letter,) = system.dead_letters
        assert "missing argument 'time_point'" in letter.failure.reason
