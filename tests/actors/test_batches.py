"""Handlers that take several messages at once: what gathers, what comes of each, and what an end does to them."""

from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
import trio

from actorwork import (
    Actor,
    ActorCrashed,
    Child,
    ConcurrencyLimit,
    Delivery,
    EventSettings,
    ExecutionTimeout,
    Fail,
    NotRunning,
    Reject,
    Retry,
    RetryPolicy,
    Settings,
    SettingsError,
    Shutdown,
    circuit_breaker,
    events,
    rate_limit,
    receive,
    retry,
)
from actorwork.actors.context import publishing
from actorwork.policy import settlement as policy
from actorwork.policy.backoffs import Fixed
from actorwork.policy.batches import outcomes_of
from actorwork.policy.exits import Kind
from actorwork.testing import Faults, MemoryBroker, TestSystem, advance, open_test_system

Body = Callable[[Any, list[int]], Awaitable[Any]]


class Log:
    """Which batches there were, and when."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.at: list[float] = []

    def actor(
        self, size: int = 3, within: float = 1.0, body: Body | None = None, decorate: Any = None, **settings: Any
    ) -> type[Actor]:
        log = self

        class Saver(Actor):
            @receive(batch=size, within=within)
            async def save(self, batch: list[int]) -> list[Any] | None:
                log.batches.append(batch)
                log.at.append(trio.current_time())
                return None if body is None else await body(self, batch)

            @receive
            async def other(self, message: str) -> str:
                if message == "crash":
                    raise ValueError(message)
                return message

        if decorate is not None:
            decorate(Saver.save)
        Saver.settings = Settings(title="saver", **settings)
        return Saver


async def send(system: TestSystem, actor: type[Actor], *numbers: int) -> None:
    for n in numbers:
        await system.client.ref(actor).tell(n)


def endings(system: TestSystem) -> list[str]:
    return [type(entry.settlement).__name__ for entry in system.broker.settled]


async def test_a_batch_is_handled_as_soon_as_it_is_full(mock_clock: trio.testing.MockClock):
    log = Log()
    actor = log.actor(size=3, within=60)
    async with open_test_system(actor) as system:
        await send(system, actor, *range(6))
        await trio.sleep(1)
        assert log.batches == [[0, 1, 2], [3, 4, 5]]
        assert [entry.settlement for entry in system.broker.settled] == [policy.Ack()] * 6


async def test_the_first_one_waits_no_longer_than_it_may(mock_clock: trio.testing.MockClock):
    log = Log()
    actor = log.actor(size=10, within=2)
    async with open_test_system(actor) as system:
        began = trio.current_time()
        await send(system, actor, 1)
        await trio.sleep(1.5)
        await send(system, actor, 2)
        await system.drain()
        await send(system, actor, 3)
        await system.drain()
        assert log.batches == [[1, 2], [3]]
        assert [at - began for at in log.at] == [pytest.approx(2, abs=0.1), pytest.approx(4, abs=0.2)]


async def test_large_batches_are_read_though_the_handler_is_slow(mock_clock: trio.testing.MockClock):
    log = Log()

    async def slow(_: Any, batch: list[int]) -> None:
        await trio.sleep(30)

    actor = log.actor(size=50, within=1, body=slow)
    async with open_test_system(actor) as system:
        await send(system, actor, *range(200))
        await system.drain()
    assert [len(batch) for batch in log.batches] == [50] * 4


async def test_other_messages_do_not_wait_for_a_batch(mock_clock: trio.testing.MockClock):
    log = Log()
    actor = log.actor(size=10, within=60)
    async with open_test_system(actor) as system:
        began = trio.current_time()
        await send(system, actor, 1)
        assert await system.client.ref(actor).ask("x") == "x"
        assert trio.current_time() - began < 1


async def test_a_local_message_is_a_batch_of_its_own_at_once(mock_clock: trio.testing.MockClock):
    async def doubled(_: Any, batch: list[int]) -> list[Any]:
        return [Reject("odd") if n % 2 else 2 * n for n in batch]

    log = Log()
    actor = log.actor(size=10, within=60, body=doubled)
    async with open_test_system(actor) as system:
        assert await system.ref(actor).ask(4) == 8
        with pytest.raises(Exception, match="answered Reject: odd"):
            await system.ref(actor).ask(3)
        assert trio.current_time() < 1


async def test_each_message_has_an_outcome_of_its_own(mock_clock: trio.testing.MockClock):
    async def mixed(_: Any, batch: list[int]) -> list[Any]:
        return [None, "reply", Retry(5), Reject("no"), Fail("bad"), ValueError("boom"), object()][: len(batch)]

    log = Log()
    actor = log.actor(size=7, body=mixed, retry=RetryPolicy(attempts=2, backoff=Fixed(seconds=3)))
    async with open_test_system(actor) as system:
        receipts = [await system.client.ref(actor).submit(n) for n in range(7)]
        await trio.sleep(1)
        assert [await receipt.status() for receipt in receipts[:2]] == ["SUCCESS", "SUCCESS"]
        assert await receipts[1].result() == "reply"
        assert endings(system) == ["Ack", "Ack", "Retry", "Reject", "Fail", "Retry", "Retry"]
        delays = [e.settlement.delay for e in system.broker.settled if isinstance(e.settlement, policy.Retry)]
        assert delays == [5, 3, 3]
        await system.drain(scheduled=True)


async def test_an_error_is_that_of_all_of_them(mock_clock: trio.testing.MockClock):
    async def fail(_: Any, batch: list[int]) -> None:
        async with trio.open_nursery():
            raise ValueError("boom")

    log = Log()
    actor = log.actor(body=fail)
    async with open_test_system(actor) as system:
        await send(system, actor, 1, 2, 3)
        await system.drain()
        assert [letter.failure.type for letter in system.dead_letters] == ["ValueError"] * 3
        assert await system.client.ref(actor).ask("x") == "x", "the actor lives"


@pytest.mark.parametrize("answer", [[None], [None] * 4, 3, "abc", (None, None, None)])
async def test_an_answer_that_says_nothing_of_each_fails_all(mock_clock: trio.testing.MockClock, answer: Any):
    async def odd(_: Any, batch: list[int]) -> Any:
        return answer

    actor = Log().actor(body=odd)
    async with open_test_system(actor) as system:
        await send(system, actor, 1, 2, 3)
        await system.drain()
        reasons = [letter.failure.reason for letter in system.dead_letters]
        assert len(reasons) == 3
        assert "a list of outcomes, one for each of 3 messages" in reasons[0]


async def test_a_message_that_cannot_be_read_is_in_no_batch(mock_clock: trio.testing.MockClock):
    log = Log()
    actor = log.actor(size=2)
    async with open_test_system(actor) as system:
        await send(system, actor, 1)
        system.broker.put(actor, b'"no number"', type="int")
        system.broker.put(actor, b"{not json")
        await send(system, actor, 2)
        await system.drain()
        assert log.batches == [[1, 2]]
        assert len(system.dead_letters) + len(system.broker.settled) >= 3


async def test_the_execution_timeout_is_that_of_the_batch(mock_clock: trio.testing.MockClock):
    async def slow(_: Any, batch: list[int]) -> None:
        await trio.sleep(100)

    actor = Log().actor(body=slow, within=30, execution_timeout=5)
    async with open_test_system(actor) as system:
        await send(system, actor, 1, 2)
        await system.drain()
        assert trio.current_time() < 40
        assert [letter.failure.type for letter in system.dead_letters] == [ExecutionTimeout.__name__] * 2
        assert await system.client.ref(actor).ask("x") == "x"


async def test_what_gathers_is_handed_back_at_a_shutdown(mock_clock: trio.testing.MockClock):
    log, broker = Log(), MemoryBroker()
    actor = log.actor(size=10, within=60)
    async with open_test_system(actor, broker=broker) as system:
        await send(system, actor, 1, 2, 3)
        await trio.sleep(1)
    assert (log.batches, len(broker.waiting(actor)), len(broker.released)) == ([], 3, 3)


async def test_what_gathers_from_a_paused_source_is_handed_back_and_the_rest_goes_on_gathering(
    mock_clock: trio.testing.MockClock,
):
    log = Log()
    actor = log.actor(size=10, within=60, sources={"orders", "mail"}, limits=[ConcurrencyLimit(4)])
    async with open_test_system(actor) as system:
        for n in range(4):
            await system.client.publish("mail" if n % 2 else "orders", n)
        await advance(20)
        await system.broker.pauses.pause("source", "orders")
        await advance(1)
        assert [delivery.id for delivery in system.broker.released] == [
            envelope.id for envelope in system.broker.sent if envelope.source == "orders"
        ]
        await advance(50)
        assert log.batches == [[1, 3]], "60 seconds after the first of all"
        await system.broker.pauses.pause("actor", "saver")
        await system.client.publish("mail", 5)
        await advance(100)
        assert len(log.batches) == 1
        await system.broker.pauses.resume("actor", "saver")
        await system.broker.pauses.resume("source", "orders")
        await system.drain()
        assert sorted(log.batches[1]) == [0, 2, 5], "their places at the limit were free again"


async def test_a_batch_in_hand_that_a_shutdown_cancels_is_handed_back(mock_clock: trio.testing.MockClock):
    async def slow(_: Any, batch: list[int]) -> None:
        await trio.sleep(100)

    broker = MemoryBroker()
    actor = Log().actor(body=slow)
    async with open_test_system(actor, broker=broker, grace=1) as system:
        await send(system, actor, 1, 2, 3)
        await trio.sleep(1)
    assert (len(broker.waiting(actor)), broker.settled) == (3, [])


@pytest.mark.parametrize("is_one", [False, True])
async def test_a_shutdown_raised_in_a_batch_fails_it_and_ends_the_actor(
    is_one: bool, mock_clock: trio.testing.MockClock
):
    async def end(_: Any, batch: list[int]) -> list[Any] | None:
        if 1 not in batch:
            return None
        if is_one:
            return [Shutdown("enough") if n == 2 else None for n in batch]
        raise Shutdown("enough")

    log = Log()
    actor = log.actor(body=end)
    async with open_test_system(Child(actor, restart="permanent")) as system:
        await send(system, actor, 1, 2, 3)
        await system.drain()
        assert endings(system) == (["Ack", "Fail", "Ack"] if is_one else ["Fail"] * 3)
        failures = [(letter.failure.type, letter.failure.reason) for letter in system.dead_letters]
        assert failures == [("Shutdown", "enough")] * (1 if is_one else 3)
        (ended,) = system.of(events.ChildExited)
        assert (ended.exit.kind, ended.exit.reason) == (Kind.SHUTDOWN, "enough")
        await send(system, actor, 4, 5, 6)
        await system.drain()
        assert log.batches == [[1, 2, 3], [4, 5, 6]], "the next incarnation takes what comes next"
        assert endings(system)[3:] == ["Ack"] * 3


async def test_a_batch_that_belongs_to_others_by_now_is_let_go(mock_clock: trio.testing.MockClock):
    async def slow(_: Any, batch: list[int]) -> None:
        await trio.sleep(2)

    log = Log()
    actor = log.actor(body=slow)
    async with open_test_system(actor) as system:
        await send(system, actor, 1, 2, 3)
        await trio.sleep(1)
        system.broker.nodes[0].lose_lease()
        await system.drain()
        assert log.batches == [[1, 2, 3]] * 2
        assert len(system.broker.settled) == 3


async def test_a_crash_of_the_actor_loses_nobody_who_gathers(mock_clock: trio.testing.MockClock):
    log = Log()
    actor = log.actor(size=10, within=5)
    async with open_test_system(actor) as system:
        await send(system, actor, 1, 2)
        await trio.sleep(1)
        with pytest.raises(ActorCrashed):
            await system.ref(actor).ask("crash")
        await system.drain()
    assert log.batches == [[1, 2]]


async def test_the_handler_of_a_batch_sees_its_deliveries_and_publishes(mock_clock: trio.testing.MockClock):
    seen: list[Any] = []

    async def publish(actor: Any, batch: list[int]) -> list[Any]:
        seen.extend(delivery.payload for delivery in actor.context.deliveries)
        with pytest.raises(NotRunning, match="sets one message aside"):
            actor.context.stash()
        actor.context.publish("elsewhere", {"sum": sum(batch)})
        return [Reject("no"), None, None]

    actor = Log().actor(body=publish)
    async with open_test_system(actor) as system:
        await send(system, actor, 1, 2, 3)
        await system.drain()
        assert seen == [b"1", b"2", b"3"]
        assert [entry.published for entry in system.broker.settled if entry.published] == [
            (system.assert_sent("elsewhere").envelope,)
        ]


async def test_an_effect_of_a_batch_is_neither_lost_nor_doubled_with_a_settlement_of_one_of_its_messages(
    mock_clock: trio.testing.MockClock,
):
    async def publish(actor: Any, batch: list[int]) -> None:
        for n in batch:
            actor.context.publish("saved", n)

    log, faults = Log(), Faults()
    actor = log.actor(size=4, body=publish, sources={"orders", "mail"})
    faults.lose_settlement(actor)
    async with open_test_system(actor, faults=faults) as system:
        for n in range(4):
            await system.client.publish("mail" if n % 2 else "orders", n)
        await system.drain()
        assert [len(batch) for batch in log.batches] == [4, 4], "the whole batch ran again"
        saved = [envelope.data for envelope in system.broker.sent if envelope.source == "saved"]
        assert sorted(saved) == [b"0", b"1", b"2", b"3"]


async def test_a_batch_that_publishes_more_than_one_step_takes_fails(
    mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
):
    async def publish(actor: Any, batch: list[int]) -> None:
        for n in batch:
            actor.context.publish("saved", n)

    monkeypatch.setattr(publishing, "MOST_OF_BATCH", 2)
    actor = Log().actor(size=3, body=publish)
    async with open_test_system(actor) as system:
        await send(system, actor, 1, 2, 3)
        await system.drain()
        reasons = [letter.failure.reason for letter in system.dead_letters]
        assert len(reasons) == 3
        assert "take smaller batches" in reasons[0]


async def test_all_that_a_batch_publishes_is_sent_in_one_step(mock_clock: trio.testing.MockClock):
    async def publish(actor: Any, batch: list[int]) -> None:
        for n in batch:
            actor.context.publish("saved", n)

    actor = Log().actor(size=3, body=publish, event_settings=EventSettings(max_events_in_memory=1, max_batch_size=1))
    async with open_test_system(actor) as system:
        await send(system, actor, 1, 2, 3)
        await system.drain()
        assert [len(entry.published) for entry in system.broker.settled] == [0, 0, 3]


async def test_a_retried_message_joins_another_batch_as_its_next_attempt(mock_clock: trio.testing.MockClock):
    async def second_time(actor: Any, batch: list[int]) -> list[Any]:
        return [OSError() if delivery.attempt == 1 else None for delivery in actor.context.deliveries]

    log = Log()
    actor = log.actor(body=second_time, decorate=retry(attempts=2, backoff=Fixed(seconds=1)))
    async with open_test_system(actor) as system:
        await send(system, actor, 1, 2, 3)
        await system.drain(scheduled=True)
        assert log.batches == [[1, 2, 3]] * 2
        assert system.dead_letters == []


async def test_limits_hold_for_each_message_of_a_batch(mock_clock: trio.testing.MockClock):
    log = Log()
    actor = log.actor(size=5, within=1, decorate=rate_limit(2, burst=2))
    async with open_test_system(actor) as system:
        began = trio.current_time()
        await send(system, actor, *range(10))
        await system.drain()
        assert sorted(n for batch in log.batches for n in batch) == list(range(10))
        assert trio.current_time() - began >= 4


async def test_messages_of_a_batch_wait_for_an_open_circuit(mock_clock: trio.testing.MockClock):
    well_at = 20.0

    async def down(_: Any, batch: list[int]) -> None:
        if trio.current_time() < well_at:
            raise ConnectionError

    log = Log()
    actor = log.actor(size=3, within=1, body=down, decorate=circuit_breaker(failures=1, reset=5))
    async with open_test_system(actor) as system:
        await send(system, actor, *range(6))
        await system.drain()
        assert system.dead_letters == []
        assert len(system.broker.settled) == 6


async def test_each_message_of_a_batch_goes_through_the_middleware(mock_clock: trio.testing.MockClock):
    seen: list[str] = []

    async def note(delivery: Delivery, proceed: Callable[[], Awaitable[object]]) -> object:
        seen.append(f"> {delivery.payload!r}")
        if delivery.payload == b"2":
            raise Reject("not this one")
        if delivery.payload == b"3":
            return "short cut"
        try:
            value = await proceed()
        except ValueError:
            return "mended"
        seen.append(f"< {delivery.payload!r}")
        return value

    async def answers(_: Any, batch: list[int]) -> list[Any]:
        return [ValueError() if n == 4 else n for n in batch]

    log = Log()
    actor = log.actor(size=4, body=answers, middleware=[note])
    async with open_test_system(actor) as system:
        receipts = [await system.client.ref(actor).submit(n) for n in (1, 2, 3, 4)]
        await system.drain()
        assert log.batches == [[1, 4]]
        assert [await receipts[n].result() for n in (0, 2, 3)] == [1, "short cut", "mended"]
        assert await receipts[1].status() == "REJECTED"
        assert sorted(seen) == ["< b'1'", "> b'1'", "> b'2'", "> b'3'", "> b'4'"]


async def test_the_whole_call_fails_through_the_middleware(mock_clock: trio.testing.MockClock):
    async def note(delivery: Delivery, proceed: Callable[[], Awaitable[object]]) -> object:
        return await proceed()

    async def fail(_: Any, batch: list[int]) -> None:
        raise ValueError("boom")

    actor = Log().actor(body=fail, middleware=[note])
    async with open_test_system(actor) as system:
        await send(system, actor, 1, 2, 3)
        await system.drain()
        assert [letter.failure.type for letter in system.dead_letters] == ["ValueError"] * 3


async def test_a_handler_in_a_thread_may_take_batches():
    # In real time: a clock that jumps goes past every timeout while the thread is at work.
    got: list[list[int]] = []

    class Saver(Actor):
        settings = Settings(title="saver")

        @receive(batch=2, within=20)
        def save(self, batch: list[int]) -> list[int]:
            got.append(batch)
            return [n + 1 for n in batch]

    async with open_test_system(Saver) as system:
        receipts = [await system.client.ref(Saver).submit(n) for n in (1, 2)]
        await system.drain()
        assert [await receipt.result() for receipt in receipts] == [2, 3]
        assert got == [[1, 2]]
        assert await system.ref(Saver).ask(7) == 8


async def test_several_executors_share_the_batches(mock_clock: trio.testing.MockClock):
    async def slow(_: Any, batch: list[int]) -> None:
        await trio.sleep(1)

    log = Log()
    actor = log.actor(size=5, within=1, body=slow, concurrency=4)
    async with open_test_system(actor) as system:
        began = trio.current_time()
        await send(system, actor, *range(40))
        await system.drain()
        assert trio.current_time() - began < 6
        assert sorted(n for batch in log.batches for n in batch) == list(range(40))


async def test_a_batch_may_hold_records(mock_clock: trio.testing.MockClock):
    @attrs.frozen
    class Row:
        name: str

    got: list[Any] = []

    class Saver(Actor):
        settings = Settings(title="saver")

        async def save(self, batch: Any) -> None:
            got.append(batch)

        save.__annotations__["batch"] = list[Row]
        save = receive(batch=2)(save)

    async with open_test_system(Saver) as system:
        await system.client.ref(Saver).tell_many([Row("a"), Row("b")])
        await system.drain()
    assert got == [[Row("a"), Row("b")]]


def refused(make: Callable[[], object]) -> str:
    with pytest.raises(SettingsError) as caught:
        make()
    return str(caught.value)


def test_what_cannot_be_a_batch_is_refused():
    def single() -> None:
        class One(Actor):
            settings = Settings(title="one")

            @receive(batch=2)
            async def save(self, batch: int) -> None: ...

        from actorwork.actors.handlers.table import handlers_of

        handlers_of(One)

    def keywords() -> None:
        class One(Actor):
            settings = Settings(title="one")

            @receive(batch=2)
            async def save(self, *, n: int) -> None: ...

        from actorwork.actors.handlers.table import handlers_of

        handlers_of(One)

    anything: Any = receive
    assert "a batch, so its annotation is a list" in refused(single)
    assert "wants one parameter" in refused(keywords)
    assert "@receive(batch=…) wants a whole number" in refused(lambda: receive(batch=0))
    assert "@receive(within=…) wants seconds" in refused(lambda: receive(batch=1, within=-1))
    assert "write @receive or @receive(batch=…)" in refused(anything)


def test_outcomes_are_one_for_each_message():
    assert outcomes_of(None, 2) == [None, None]
    assert outcomes_of([1, 2], 2) == [1, 2]
    answers: list[Any] = [[1], [1, 2, 3], (1, 2), {}, 5]
    for answer in answers:
        with pytest.raises(ValueError, match="one for each of 2 messages"):
            outcomes_of(answer, 2)


async def test_faults_lose_nothing(mock_clock: trio.testing.MockClock):
    log = Log()
    actor = log.actor(size=4, within=1)
    async with open_test_system(actor, faults=Faults()) as system:
        await send(system, actor, *range(9))
        await trio.sleep(0.1)
        system.broker.nodes[0].lose_lease()
        await system.drain()
        assert len(system.broker.settled) == 9
