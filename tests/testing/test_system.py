"""A system in virtual time: waiting for it, what was sent, and faults that come when they are told to."""

import json
import time
from collections.abc import Mapping
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from actorwork import Actor, Child, Exponential, Reject, Retry, RetryPolicy, Settings, StartError, receive
from actorwork.events import ChildExited, Fenced, Settled
from actorwork.policy.settlement import Reject as SettledAsReject
from actorwork.testing import Faults, InjectedCrash, MemoryBroker, advance, open_test_system
from tests.patience import BUSY


@attrs.frozen
class Order:
    what: str
    count: int = 1


@attrs.frozen
class Letter:
    to: str
    about: Order


class Mailer(Actor):
    settings = Settings(title="mailer")

    @receive
    async def send(self, message: Letter) -> None:
        await trio.sleep(60)


class Shop(Actor):
    settings = Settings(title="shop", sources={"orders"}, retry=RetryPolicy(attempts=3))

    @receive
    async def sell(self, message: Order) -> str:
        if message.what == "nothing":
            raise Reject("nothing to sell")
        if not message.count:
            raise ValueError("none left")
        self.context.publish(Mailer, Letter("ann", message))
        return f"{message.what} sold"


# ---- waiting for it ----


async def test_drained_means_that_all_that_came_of_a_message_is_done(mock_clock: trio.testing.MockClock):
    began = time.monotonic()
    async with open_test_system([Shop, Mailer]) as system:
        for what in ("tea", "milk"):
            await system.client.ref(Shop).tell(Order(what))
        await system.drain()
        assert [one.actor for one in system.broker.settled] == ["shop", "shop", "mailer", "mailer"]
        assert trio.current_time() == pytest.approx(120, abs=1), "each letter takes its minute"
    assert time.monotonic() - began < 5 + BUSY


async def test_what_is_delayed_is_left_until_it_is_asked_for(mock_clock: trio.testing.MockClock):
    async with open_test_system(Shop) as system:
        await system.client.ref(Shop).tell(Order("tea"), delay=86_400)
        await system.drain()
        assert not system.broker.settled
        await system.drain(scheduled=True)
        assert trio.current_time() == pytest.approx(86_400, abs=1)
        assert len(system.broker.settled) == 1


async def test_retries_are_drained_to_their_end(mock_clock: trio.testing.MockClock):
    class Hopeless(Actor):
        settings = Settings(title="hopeless", retry=RetryPolicy(attempts=4, backoff=Exponential(base=60)))

        @receive
        async def take(self, *, n: int) -> None:
            raise ValueError("no")

    async with open_test_system(Hopeless) as system:
        await system.client.ref(Hopeless).tell({"n": 1})
        await system.drain(scheduled=True)
        (letter,) = system.dead_letters
        assert (letter.attempt, letter.failure.reason) == (4, "no")


async def test_what_will_never_be_done_is_named(mock_clock: trio.testing.MockClock):
    class Stuck(Actor):
        settings = Settings(title="stuck")

        @receive
        async def take(self, *, n: int) -> None:
            await trio.sleep_forever()

    async with open_test_system(Stuck) as system:
        for n in range(3):
            await system.ref(Stuck).tell({"n": n})
        with pytest.raises(AssertionError, match=r"not done within 20 s: stuck \(handling dict, 2 waiting\)"):
            await system.drain(within=20)


async def test_what_schedules_itself_for_ever_is_not_waited_for_for_ever(mock_clock: trio.testing.MockClock):
    class Again(Actor):
        settings = Settings(title="again")

        @receive
        async def take(self, *, n: int) -> None:
            self.context.publish(Again, {"n": n + 1}, delay=10)

    async with open_test_system(Again) as system:
        await system.client.ref(Again).tell({"n": 1})
        with pytest.raises(AssertionError, match="there is still one more"):
            await system.drain(scheduled=True)


async def test_a_thread_is_waited_for_in_real_time():
    class Blocking(Actor):
        settings = Settings(title="blocking")

        @receive
        def take(self, *, n: int) -> None:
            time.sleep(0.05)

    async with open_test_system(Blocking) as system:
        await system.client.ref(Blocking).tell({"n": 1})
        await system.drain()
        assert len(system.broker.settled) == 1


# ---- time ----


async def test_an_hour_is_advanced_and_everything_happens_at_its_time(mock_clock: trio.testing.MockClock):
    times: list[float] = []

    class Clock(Actor):
        settings = Settings(title="clock")

        async def startup(self) -> None:
            self.context.timers.start_every("tick", 600, {"n": 1})

        @receive
        async def tick(self, *, n: int) -> None:
            times.append(trio.current_time())

    async with open_test_system(Clock):
        await advance(3599)
        assert times == pytest.approx([600, 1200, 1800, 2400, 3000], abs=0.01)
        await advance(1)
        assert len(times) == 6


async def test_time_that_is_not_simulated_cannot_be_advanced():
    with pytest.raises(RuntimeError, match="wants a simulated clock"):
        await advance(1)


def test_on_a_clock_without_autojump_only_the_test_moves_the_time():
    async def run() -> None:
        async with open_test_system([Shop, Mailer]) as system:
            await system.client.ref(Shop).tell(Order("tea"))
            await advance(59)
            assert [one.actor for one in system.broker.settled] == ["shop"]
            await advance(2)
            assert [one.actor for one in system.broker.settled] == ["shop", "mailer"]
            await system.client.ref(Shop).tell(Order("milk"))
            await system.drain()
            assert trio.current_time() == pytest.approx(121, abs=1)

    trio.run(run, clock=trio.testing.MockClock())


# ---- what was sent ----


async def test_what_was_sent_is_found_by_its_target_its_kind_and_its_fields(mock_clock: trio.testing.MockClock):
    async with open_test_system([Shop, Mailer]) as system:
        await system.client.ref(Shop).tell(Order("tea", count=2))
        await system.client.publish("orders", {"what": "milk"})
        await system.drain()
        assert [one.message for one in system.sent("orders")] == [{"what": "milk"}]
        assert len(system.sent(Shop)) == 2, "by its own source and by the one that it shares"
        assert system.assert_sent(Mailer, to="ann").message == {"to": "ann", "about": {"what": "tea", "count": 2}}
        system.assert_sent(Mailer, Letter, about=Order("milk"))
        system.refute_sent(Mailer, to="ben")
        system.refute_sent(Mailer, Order)
        system.refute_sent("letters")


async def test_a_wrong_expectation_shows_what_was_sent_instead(mock_clock: trio.testing.MockClock):
    async with open_test_system([Shop, Mailer]) as system:
        await system.client.ref(Shop).tell(Order("tea"))
        with pytest.raises(AssertionError, match=r"nothing was sent to Shop with what='milk'; sent there: Order{"):
            system.assert_sent(Shop, what="milk")
        with pytest.raises(AssertionError, match="nothing was sent to 'letters'; sent elsewhere: 1 messages"):
            system.assert_sent("letters")
        with pytest.raises(AssertionError, match="1 sent to Shop of Order with what='tea'"):
            system.refute_sent(Shop, Order, what="tea")


async def test_a_message_that_is_rejected_sends_nothing(mock_clock: trio.testing.MockClock):
    async with open_test_system([Shop, Mailer]) as system:
        await system.client.ref(Shop).tell(Order("nothing"))
        await system.drain()
        system.refute_sent(Mailer)
        assert not system.dead_letters


async def test_two_systems_share_a_broker_as_nodes_do(mock_clock: trio.testing.MockClock):
    broker = MemoryBroker()
    async with open_test_system(Shop, broker=broker) as shop, open_test_system(Mailer, broker=broker) as post:
        await shop.client.ref(Shop).tell(Order("tea"))
        await shop.drain()
        await post.drain()
        assert [one.actor for one in broker.settled] == ["shop", "mailer"]


async def test_an_assertion_that_fails_in_the_block_comes_out_as_it_is():
    with pytest.raises(AssertionError, match="mine"):
        async with open_test_system(Shop):
            raise AssertionError("mine")


# ---- faults ----


async def test_a_start_that_is_told_to_crash_is_a_failed_start(mock_clock: trio.testing.MockClock):
    faults = Faults()
    faults.crash_at_start(Shop)
    with pytest.raises(StartError) as caught:
        async with open_test_system(Shop, faults=faults):
            pass
    assert isinstance(caught.value.__cause__, InjectedCrash)
    assert not faults.pending
    async with open_test_system(Shop, faults=faults) as system:
        assert await system.client.ref(Shop).ask(Order("tea")) == "tea sold"


async def test_restarts_crash_as_often_as_they_are_told_to(mock_clock: trio.testing.MockClock):
    class Fragile(Actor):
        settings = Settings(title="fragile")

        @receive
        async def fall(self, *, now: bool) -> None:
            raise ValueError("fallen")

    async with open_test_system(Fragile) as system:
        system.faults.crash_at_start(Fragile, times=2)
        await system.ref(Fragile).tell({"now": True})
        await system.drain()
        await advance(1)
        causes = [type(event.exit.error).__name__ for event in system.of(ChildExited) if event.exit.error is not None]
        assert causes == ["ValueError", "InjectedCrash", "InjectedCrash"]
        assert not system.faults.pending
    assert "startup" not in vars(Fragile), "the class is as it was"


async def test_faults_last_until_the_last_system_that_has_them_is_closed(mock_clock: trio.testing.MockClock):
    faults, broker = Faults(), MemoryBroker()
    async with open_test_system(Shop, broker=broker, faults=faults):
        async with open_test_system(Mailer, broker=broker, faults=faults):
            pass
        faults.crash_at_start(Mailer)
        with pytest.raises(StartError):
            async with open_test_system(Mailer, broker=broker, faults=faults):
                pass
    async with open_test_system(Mailer, faults=faults):
        assert not faults.pending
    assert "startup" not in vars(Mailer)


async def test_a_startup_of_the_actors_own_runs_when_no_crash_is_left(mock_clock: trio.testing.MockClock):
    class Starting(Actor):
        started = 0

        async def startup(self) -> None:
            Starting.started += 1

    own, faults = Starting.startup, Faults()
    faults.crash_at_start(Starting)
    with pytest.raises(StartError):
        async with open_test_system(Starting, faults=faults):
            pass
    async with open_test_system(Starting, faults=faults):
        assert Starting.started == 1
    assert Starting.startup is own


async def test_an_actor_that_is_spawned_is_reached_too(mock_clock: trio.testing.MockClock):
    class Parent(Actor):
        settings = Settings(title="parent")

        @receive
        async def spawn(self, *, now: bool) -> str:
            try:
                await self.context.spawn(Child(Mailer))
            except StartError:
                return "it did not start"
            return "started"

    async with open_test_system(Parent) as system:
        system.faults.crash_at_start(Mailer)
        assert await system.ref(Parent).ask({"now": True}) == "it did not start"
        assert await system.ref(Parent).ask({"now": True}) == "started"


async def test_a_lost_settlement_has_no_effect_and_the_message_comes_again(mock_clock: trio.testing.MockClock):
    async with open_test_system(Shop) as system:
        system.faults.lose_settlement(Shop, times=2)
        assert await system.client.ref(Shop).ask(Order("tea")) == "tea sold"
        await system.drain()
        assert len(system.of(Fenced)) == 2
        assert [one.delivery.crashes for one in system.broker.settled] == [2]
        assert len(system.sent(Mailer)) == 1, "what the refused ones published was not sent"


async def test_a_message_whose_settlements_are_always_lost_becomes_a_dead_letter(mock_clock: trio.testing.MockClock):
    async with open_test_system(Shop) as system:
        system.faults.lose_settlement(Shop, times=10)
        await system.client.ref(Shop).tell(Order("tea"))
        await system.drain()
        (letter,) = system.dead_letters
        assert letter.failure.type == "Crashed"
        assert system.faults.pending == 7


async def test_a_lost_reply_to_a_settlement_changes_nothing(mock_clock: trio.testing.MockClock):
    async with open_test_system(Shop) as system:
        system.faults.lose_settlement(Shop, applied=True)
        await system.client.ref(Shop).tell(Order("tea"))
        await system.drain()
        assert len(system.of(Fenced)) == 1
        assert len(system.broker.settled) == len(system.sent(Mailer)) == 1


async def test_a_message_that_is_delivered_twice_is_handled_twice(mock_clock: trio.testing.MockClock):
    async with open_test_system(Shop) as system:
        system.faults.deliver_twice(Shop)
        await system.client.ref(Shop).tell(Order("tea"))
        await system.client.ref(Shop).tell(Order("milk"))
        await system.drain()
        first, *rest = [one.delivery.id for one in system.broker.settled]
        assert len(rest) == 2
        assert rest.count(first) == 1
        assert not system.faults.pending


def everwork(fields: Mapping[bytes, bytes]) -> Any:
    """Read the entries of another library, whose field `payload` is JSON."""
    event = json.loads(fields[b"payload"])
    if event == "not for us":
        raise Reject
    return event


class Importer(Actor):
    settings = Settings(title="importer", sources={"imports"}, decode=everwork, retry=RetryPolicy(attempts=2))
    seen: list[tuple[str, int]]

    @receive
    async def load(self, *, what: str) -> None:
        self.seen.append((what, self.context.delivery.attempt))
        if self.context.delivery.attempt == 1:
            raise Retry(0)


async def test_a_decode_hook_reads_what_a_foreign_producer_puts(mock_clock: trio.testing.MockClock):
    Importer.seen = []
    async with open_test_system(Importer) as system:
        for payload in (b'{"what": "tea"}', b'"not for us"', b"no JSON"):
            system.broker.put("imports", {b"payload": payload, b"trace": b"t"})
        system.broker.put("imports", b'{"what": "ours"}')
        for _ in range(200):  # More than there is room for at once: what is not taken needs none.
            system.broker.put("imports", {b"payload": b'"not for us"'})
        await system.client.publish("imports", {"what": "milk"})
        await system.drain()
        assert sorted(Importer.seen) == [(what, attempt) for what in ("milk", "ours", "tea") for attempt in (1, 2)]
        (letter,) = system.dead_letters
        assert (letter.failure.type, letter.payload) == ("JSONDecodeError", {b"payload": b"no JSON", b"trace": b"t"})
        rejected = [one for one in system.of(Settled) if isinstance(one.settlement, SettledAsReject)]
        assert len(rejected) == 201
