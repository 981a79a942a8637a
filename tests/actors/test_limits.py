"""Limits hold deliveries back; in virtual time."""

from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Literal

import pytest
import trio

from actorwork import (
    Actor,
    ActorCrashed,
    BrokerError,
    Priority,
    Reject,
    Retry,
    RetryPolicy,
    Settings,
    SettingsError,
    open_system,
    rate_limit,
    receive,
)
from actorwork.actors.limits.shared import SLOT_TTL
from actorwork.embedded.limiter import EmbeddedLimitStore
from actorwork.events import BrokerTrouble, CircuitChanged
from actorwork.policy.backoffs import Fixed
from actorwork.policy.limits import Bulkhead, CircuitBreaker, ConcurrencyLimit, Limit, RateLimit, Rates
from actorwork.policy.settlement import Ack
from actorwork.testing import MemoryBroker, TestSystem, open_test_system

Body = Callable[[Any], Awaitable[object]]


class Log:
    """When each message began and ended."""

    def __init__(self) -> None:
        self.began: dict[Any, float] = {}
        self.ended: dict[Any, float] = {}
        self.inside: set[Any] = set()
        self.most = 0
        self.tries: Counter[Any] = Counter()

    def actor(self, *limits: Limit, seconds: float = 0.0, body: Body | None = None, **settings: Any) -> type[Actor]:
        log = self

        class Worker(Actor):
            @receive
            async def work(self, *, n: int) -> None:
                log.tries[n] += 1
                log.began[n] = trio.current_time()
                log.inside.add(n)
                log.most = max(log.most, len(log.inside))
                try:
                    await trio.sleep(seconds)
                    if body is not None:
                        await body(n)
                finally:
                    log.inside.discard(n)
                log.ended[n] = trio.current_time()

        Worker.settings = Settings(title=settings.pop("title", "worker"), limits=list(limits), **settings)
        return Worker


async def send(
    system: TestSystem, actor: type[Actor], count: int, tenant_of: Callable[[int], object] | None = None
) -> None:
    ref = system.client.ref(actor)
    for n in range(count):
        await ref.tell({"n": n}, headers=None if tenant_of is None else {"tenant": str(tenant_of(n))})


async def test_a_rate_is_kept_and_reached(mock_clock: trio.testing.MockClock):
    log = Log()
    actor = log.actor(RateLimit(10, burst=2))
    async with open_test_system(actor) as system:
        began = trio.current_time()
        await send(system, actor, 50)
        await system.drain()
    starts = [start - began for start in log.began.values()]
    assert list(log.began) == list(range(50)), "in order"
    assert starts[-1] == pytest.approx(4.8, abs=0.2)
    for position, start in enumerate(starts):
        assert len([one for one in starts[position:] if one < start + 1 - 1e-6]) <= 12


async def test_a_rate_holds_for_each_key_by_itself(mock_clock: trio.testing.MockClock):
    log = Log()
    actor = log.actor(RateLimit(1, by=lambda delivery: str(delivery.headers.get("tenant"))))
    async with open_test_system(actor) as system:
        began = trio.current_time()
        await send(system, actor, 12, lambda n: "greedy" if n < 10 else n)
        await system.drain()
    assert log.began[10] - began < 0.1, "who must not wait does not wait for others"
    assert log.began[11] - began < 0.1
    assert log.began[9] - began == pytest.approx(9, abs=0.2)


async def test_messages_without_a_key_are_not_limited_by_it(mock_clock: trio.testing.MockClock):
    log = Log()
    actor = log.actor(RateLimit(1, per=3600, by="key"))
    async with open_test_system(actor) as system:
        began = trio.current_time()
        await send(system, actor, 5)
        await system.drain()
        assert trio.current_time() - began < 1


async def test_waiting_for_a_limit_is_no_part_of_the_execution_timeout(mock_clock: trio.testing.MockClock):
    log = Log()
    actor = log.actor(RateLimit(1, per=10), execution_timeout=1, seconds=0.5)
    async with open_test_system(actor) as system:
        await send(system, actor, 4)
        await system.drain()
        assert [entry.settlement for entry in system.broker.settled] == [Ack()] * 4


async def test_a_limited_actor_holds_up_no_other_and_handles_local_messages(mock_clock: trio.testing.MockClock):
    log, other = Log(), Log()
    slow, fast = log.actor(RateLimit(1, per=60)), other.actor(title="fast")
    async with open_test_system([slow, fast]) as system:
        began = trio.current_time()
        await send(system, slow, 3)
        await send(system, fast, 20)
        await trio.sleep(1)
        assert len(other.ended) == 20
        await system.ref(slow).ask({"n": 99})
        assert trio.current_time() - began == pytest.approx(1)


async def test_deliveries_that_wait_for_a_limit_are_released_at_a_shutdown(mock_clock: trio.testing.MockClock):
    log = Log()
    actor = log.actor(RateLimit(1, per=60))
    broker = MemoryBroker()
    async with open_test_system(actor, broker=broker) as system:
        await send(system, actor, 5)
        await trio.sleep(1)
    assert len(broker.waiting(actor)) == 4
    assert all(delivery.attempt == 1 for delivery in broker.released)
    async with open_test_system(actor, broker=broker) as system:
        await system.drain()
    assert log.tries == Counter(range(5))


async def test_what_waits_is_not_hoarded(mock_clock: trio.testing.MockClock):
    log = Log()
    actor = log.actor(RateLimit(1, per=60))
    async with open_test_system(actor) as system:
        await trio.sleep(1)
        await send(system, actor, 100)
        await trio.sleep(200)
        assert len(system.broker.waiting(actor)) > 80, "another node may have them"


async def test_an_urgent_message_goes_before_what_waits_for_a_limit(mock_clock: trio.testing.MockClock):
    log = Log()
    actor = log.actor(RateLimit(1, per=10))
    async with open_test_system(actor) as system:
        began = trio.current_time()
        await send(system, actor, 5)
        await trio.sleep(1)
        await system.client.ref(actor).tell({"n": 99}, priority=Priority.CRITICAL)
        await system.drain()
    assert log.began[99] - began == pytest.approx(10, abs=0.5)


async def test_a_concurrency_limit_holds_for_each_key(mock_clock: trio.testing.MockClock):
    log = Log()
    by_tenant = ConcurrencyLimit(2, by=lambda delivery: str(delivery.headers.get("tenant")))
    actor = log.actor(by_tenant, seconds=1, concurrency=10)
    async with open_test_system(actor) as system:
        began = trio.current_time()
        await send(system, actor, 8, lambda n: n % 2)
        await system.drain()
        assert trio.current_time() - began == pytest.approx(2, abs=0.2)
    assert log.most == 4


async def test_a_bulkhead_is_shared_by_the_actors_that_name_it(mock_clock: trio.testing.MockClock):
    log = Log()
    actors = [log.actor(Bulkhead("database", 3), seconds=1, concurrency=5, title=f"worker {n}") for n in range(3)]
    async with open_test_system(actors) as system:
        began = trio.current_time()
        for number, actor in enumerate(actors):
            for n in range(5):
                await system.client.ref(actor).tell({"n": number * 10 + n})
        await system.drain()
        assert trio.current_time() - began == pytest.approx(5, abs=0.2)
    assert (log.most, len(log.ended)) == (3, 15)


async def test_actors_that_share_a_limit_take_turns(mock_clock: trio.testing.MockClock):
    log, other = Log(), Log()
    greedy = log.actor(Bulkhead("database", 2), seconds=1, concurrency=2, title="greedy")
    modest = other.actor(Bulkhead("database", 2), seconds=1, concurrency=2, title="modest")
    async with open_test_system([greedy, modest]) as system:
        await send(system, greedy, 40)
        await trio.sleep(3.5)
        sent = trio.current_time()
        await send(system, modest, 4)
        await trio.sleep(10)
        assert len(other.ended) == 4
        assert other.began[0] - sent < 1.1, "it waits for one handler to end, and no longer"
        assert other.ended[3] - sent < 5
        assert len(log.ended) > 16, "the others go on meanwhile"


async def test_what_an_actor_cannot_begin_yet_is_left_for_others(mock_clock: trio.testing.MockClock):
    log, other = Log(), Log()
    slow = log.actor(Bulkhead("database", 2), seconds=100, title="slow")
    quick = other.actor(Bulkhead("database", 2), seconds=1, title="quick")
    async with open_test_system([slow, quick]) as system:
        await send(system, slow, 5)
        await trio.sleep(1)
        await send(system, quick, 5)
        await trio.sleep(10)
        assert (len(log.began), len(other.ended)) == (1, 5)


async def test_messages_without_a_limit_do_not_starve_those_that_waited(mock_clock: trio.testing.MockClock):
    began: list[object] = []

    class Worker(Actor):
        settings = Settings(title="worker")

        @receive
        @rate_limit(1, burst=1)
        async def text(self, message: str) -> None:
            began.append(message)
            await trio.sleep(0.5)

        @receive
        async def number(self, message: int) -> None:
            began.append(message)
            await trio.sleep(0.5)

    async with open_test_system(Worker) as system:
        for n in range(3):
            await system.client.ref(Worker).tell(str(n))
        for n in range(20):
            await system.ref(Worker).tell(n)
        await system.drain()
    assert began.index("2") < 8


async def test_limits_of_one_name_must_be_the_same():
    log = Log()
    actors = [log.actor(RateLimit(rate, name="api"), title=f"worker {rate}") for rate in (1, 2)]
    with pytest.raises(SettingsError, match="two limits of this system are called 'api', and differ"):
        async with open_system(actors, broker=MemoryBroker()):
            raise AssertionError("it must not come to this")


async def test_several_limits_hold_together(mock_clock: trio.testing.MockClock):
    log = Log()
    actor = log.actor(RateLimit(10, burst=1), ConcurrencyLimit(1), seconds=0.05, concurrency=3)
    async with open_test_system(actor) as system:
        began = trio.current_time()
        await send(system, actor, 20)
        await system.drain()
        assert trio.current_time() - began == pytest.approx(1.95, abs=0.2)
    assert (log.most, len(log.ended)) == (1, 20)


async def test_a_handler_that_is_ended_gives_its_grant_back(mock_clock: trio.testing.MockClock):
    log = Log()
    actor = log.actor(ConcurrencyLimit(1), seconds=100, execution_timeout=1)
    async with open_test_system(actor) as system:
        await send(system, actor, 3)
        await system.drain()
    assert len(system.dead_letters) == 3


async def test_a_key_function_that_fails_fails_the_message(mock_clock: trio.testing.MockClock):
    log = Log()

    def tenant_of(delivery: Any) -> str:
        raise LookupError("no tenant")

    actor = log.actor(RateLimit(1, by=tenant_of))
    async with open_test_system(actor) as system:
        await send(system, actor, 1)
        await system.drain()
        (letter,) = system.dead_letters
        assert (letter.failure.type, letter.failure.reason) == ("LookupError", "no tenant")
        assert await system.ref(actor).ask({"n": 1}) is None, "the actor lives"


@pytest.mark.parametrize("tenant", [5, ["a"], "x" * 301, "\ud800"], ids=["number", "list", "long", "half"])
async def test_a_key_of_a_limit_that_is_no_name_fails_the_message_and_not_the_node(
    mock_clock: trio.testing.MockClock, tenant: Any
):
    log = Log()
    actor = log.actor(ConcurrencyLimit(1, by=lambda _: tenant, scope="global"))
    async with open_test_system(actor) as system:
        await send(system, actor, 2)
        await system.drain()
        assert [letter.failure.type for letter in system.dead_letters] == ["TypeError", "TypeError"]
        assert await system.ref(actor).ask({"n": 1}) is None, "the actor lives"


@pytest.mark.parametrize("limits", [[3], ["fast"], RateLimit(1)])
def test_what_is_no_list_of_limits_is_refused(limits: Any):
    with pytest.raises(SettingsError, match=r"Settings.limits wants a list of RateLimit, ConcurrencyLimit"):
        Settings(title="it", limits=limits)


# ---- circuits ----


class Dependency:
    """Fails for a while."""

    def __init__(self, seconds: float) -> None:
        self.well_at = trio.current_time() + seconds
        self.calls: list[float] = []

    async def call(self, n: object = None) -> None:
        self.calls.append(trio.current_time())
        if trio.current_time() < self.well_at:
            raise ConnectionError("down")


def states(system: TestSystem) -> list[str]:
    return [event.state for event in system.of(CircuitChanged)]


async def test_while_a_dependency_fails_messages_wait_and_none_is_dead(mock_clock: trio.testing.MockClock):
    dependency, log = Dependency(5), Log()
    actor = log.actor(
        CircuitBreaker("database", failures=3, reset=1),
        body=dependency.call,
        retry=RetryPolicy(attempts=2, backoff=Fixed(seconds=0.1)),
    )
    async with open_test_system(actor) as system:
        for n in range(100):
            await system.client.ref(actor).tell({"n": n})
            await trio.sleep(0.05)
        await system.drain(scheduled=True)
        assert system.dead_letters == []
        assert sorted(log.ended) == list(range(100))
        assert states(system) == ["open", *["half open", "open"] * 4, "half open", "closed"]
        down = [moment for moment in dependency.calls if moment < dependency.well_at]
        assert len(down) == 3 + 4, "until the circuit opens, and then one probe a second"
        assert all(entry.delivery.attempt <= 2 for entry in system.broker.settled)


async def test_the_attempt_of_a_message_that_finds_the_circuit_open_does_not_count(mock_clock: trio.testing.MockClock):
    dependency, log = Dependency(100), Log()
    actor = log.actor(CircuitBreaker(failures=1, reset=10), body=dependency.call)
    async with open_test_system(actor) as system:
        await send(system, actor, 1)
        await system.drain()
        assert log.tries[0] > 8
        (entry,) = system.broker.settled
        assert (entry.delivery.attempt, entry.settlement) == (1, Ack())


async def test_a_message_that_always_fails_does_not_block_others(mock_clock: trio.testing.MockClock):
    log = Log()

    async def body(n: int) -> None:
        if n == 0:
            raise ConnectionError("always")

    actor = log.actor(CircuitBreaker(failures=1, reset=1, share=0), body=body)
    async with open_test_system(actor) as system:
        await send(system, actor, 10)
        await trio.sleep(30)
        assert sorted(log.ended) == list(range(1, 10))


async def test_a_message_that_always_fails_does_not_keep_from_an_open_circuit_what_comes_later(
    mock_clock: trio.testing.MockClock,
):
    log = Log()

    async def body(n: int) -> None:
        if n < 2:
            raise ConnectionError("always")

    actor = log.actor(CircuitBreaker(failures=1, reset=10), body=body)
    async with open_test_system(actor) as system:
        await send(system, actor, 2)
        await trio.sleep(5)
        for n in range(2, 6):
            await system.client.ref(actor).tell({"n": n})
        await trio.sleep(5 * 10)
        assert sorted(log.ended) != [], "those that have tried it stand behind"
        await trio.sleep(200)
        assert sorted(log.ended) == [2, 3, 4, 5]


async def test_a_circuit_looks_into_groups(mock_clock: trio.testing.MockClock):
    log = Log()

    async def body(n: int) -> None:
        raise ExceptionGroup("both", [ConnectionError("down"), ValueError("mine")])

    actor = log.actor(CircuitBreaker(failures=1, on=(ConnectionError,)), body=body)
    async with open_test_system(actor) as system:
        await send(system, actor, 1)
        await trio.sleep(1)
        assert [(event.name, event.state) for event in system.of(CircuitChanged)] == [(actor.settings.title, "open")]


async def test_errors_that_are_not_the_dependencys_and_verdicts_do_not_open_it(mock_clock: trio.testing.MockClock):
    log = Log()

    async def body(n: int) -> None:
        raise (ValueError("mine"), Reject("not wanted"), Retry(reason="later"))[n % 3]

    actor = log.actor(CircuitBreaker(failures=1, on=(ConnectionError,)), body=body)
    async with open_test_system(actor) as system:
        await send(system, actor, 9)
        await system.drain()
        assert (states(system), len(system.dead_letters)) == ([], 3), (
            "the ValueErrors; a Retry waits for its next attempt"
        )


async def test_an_open_circuit_stops_the_intake(mock_clock: trio.testing.MockClock):
    dependency, log = Dependency(1000), Log()
    actor = log.actor(CircuitBreaker(failures=1, reset=100), body=dependency.call)
    async with open_test_system(actor) as system:
        await send(system, actor, 1)
        await trio.sleep(1)
        await send(system, actor, 50)
        await trio.sleep(1)
        assert len(system.broker.waiting(actor)) >= 45


async def test_a_circuit_of_a_name_is_one_for_all_actors(mock_clock: trio.testing.MockClock):
    dependency, log, other = Dependency(50), Log(), Log()
    breaker = CircuitBreaker("database", failures=1, reset=100)
    first = log.actor(breaker, body=dependency.call, title="first")
    second = other.actor(breaker, title="second")
    async with open_test_system([first, second]) as system:
        await send(system, first, 1)
        await trio.sleep(1)
        await send(system, second, 1)
        await trio.sleep(50)
        assert not other.began, "it waits for what the other one has seen"
        await system.drain()
        assert (len(log.ended), len(other.ended)) == (1, 1)


async def test_those_that_wait_for_a_circuit_and_for_a_rate_do_not_change_places_for_ever(
    mock_clock: trio.testing.MockClock,
):
    log, calls = Log(), iter(["up", "busy", *["down"] * 8])

    async def body(n: int) -> None:
        trouble = next(calls, "up")
        if trouble != "up":
            raise (ConnectionError if trouble == "down" else ValueError)(trouble)

    circuit = CircuitBreaker(failures=3, within=10, reset=10, on=(ConnectionError,))
    retry = RetryPolicy(attempts=8, backoff=Fixed(seconds=0.3))
    actor = log.actor(RateLimit(4, scope="global"), circuit, body=body, retry=retry, concurrency=4)
    async with open_test_system(actor) as system:
        await send(system, actor, 12)
        await system.drain(scheduled=True)  # The clock stands still as long as a task is busy.
        assert len(log.ended) == 12
        assert not system.dead_letters


async def test_a_restart_of_the_actor_loses_no_waiting_delivery(mock_clock: trio.testing.MockClock):
    log = Log()

    async def body(n: int) -> None:
        if n == 99:
            raise ValueError("crash")

    actor = log.actor(RateLimit(1, per=10), body=body)
    async with open_test_system(actor) as system:
        await send(system, actor, 4)
        await trio.sleep(1)
        with pytest.raises(ActorCrashed):
            await system.ref(actor).ask({"n": 99})
        await system.drain()
    assert log.tries == Counter([*range(4), 99])


# ---- over all nodes ----


@asynccontextmanager
async def open_nodes(actor: type[Actor], count: int = 2) -> AsyncGenerator[list[TestSystem]]:
    """Run the same actor in several systems at one broker, as several processes do."""
    broker = MemoryBroker()
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(open_test_system(actor, broker=broker)) for _ in range(count)]


@pytest.mark.parametrize("nodes", [1, 5])
async def test_a_rate_over_all_nodes_is_kept_and_reached(mock_clock: trio.testing.MockClock, nodes: int):
    log = Log()
    actor = log.actor(RateLimit(100, scope="global"), seconds=0.001)
    async with open_nodes(actor, nodes) as systems:
        began = trio.current_time()
        await send(systems[0], actor, 500)
        for system in systems:
            await system.drain()
    starts = sorted(start - began for start in log.began.values())
    assert starts[-1] == pytest.approx(4.9, abs=0.3)
    for second in range(4):
        assert 95 <= len([one for one in starts if second <= one < second + 1]) <= 110
    assert log.tries == Counter(range(500))


async def test_a_concurrency_limit_holds_over_all_nodes(mock_clock: trio.testing.MockClock):
    log = Log()
    actor = log.actor(ConcurrencyLimit(3, scope="global"), seconds=0.5, concurrency=4)
    async with open_nodes(actor, 3) as systems:
        began = trio.current_time()
        await send(systems[0], actor, 60)
        for system in systems:
            await system.drain()
        assert 10 <= trio.current_time() - began < 12
    assert (log.most, log.tries) == (3, Counter(range(60)))


async def test_the_slots_of_long_handlers_are_renewed(mock_clock: trio.testing.MockClock):
    log = Log()
    actor = log.actor(ConcurrencyLimit(1, scope="global"), seconds=5 * SLOT_TTL)
    async with open_nodes(actor) as systems:
        await send(systems[0], actor, 4)
        for system in systems:
            await system.drain()
    assert (log.most, len(log.ended)) == (1, 4)


async def test_the_slots_of_a_node_that_died_are_free_after_their_time(mock_clock: trio.testing.MockClock):
    log = Log()
    broker = MemoryBroker()
    assert await broker.limit_store.acquire_slot("room:db", 1, "dead", SLOT_TTL)
    actor = log.actor(ConcurrencyLimit(1, scope="global", name="db"))
    async with open_test_system(actor, broker=broker) as system:
        began = trio.current_time()
        await send(system, actor, 3)
        await system.drain()
        assert log.began[0] - began == pytest.approx(SLOT_TTL, abs=1)


async def test_slots_are_released_when_no_delivery_waits(mock_clock: trio.testing.MockClock):
    log = Log()
    actor = log.actor(ConcurrencyLimit(1, scope="global", name="db"))
    async with open_test_system(actor) as system:
        await send(system, actor, 3)
        await system.drain()
        await trio.sleep(0.1)
        assert await system.broker.limit_store.acquire_slot("room:db", 1, "other", 1)


class Away(EmbeddedLimitStore):
    """Fails for a while."""

    failures = 3

    async def acquire_rate(self, name: str, rate: float, per: float, burst: int, cost: int) -> float:
        if self.failures:
            self.failures -= 1
            raise BrokerError("not now")
        return await super().acquire_rate(name, rate, per, burst, cost)


async def test_while_the_broker_cannot_count_messages_wait(mock_clock: trio.testing.MockClock):
    log = Log()
    actor = log.actor(RateLimit(100, scope="global"))
    broker = MemoryBroker()
    broker._limiter = Away(broker._writer)
    async with open_test_system(actor, broker=broker) as system:
        await send(system, actor, 3)
        await system.drain()
        assert len(system.of(BrokerTrouble)) == 3
    assert log.tries == Counter(range(3))


@pytest.mark.parametrize("scope", ["node", "global"])
async def test_a_rate_changes_while_messages_wait_for_it(
    mock_clock: trio.testing.MockClock, scope: Literal["node", "global"]
):
    log = Log()
    slow = RateLimit(1, per=600, burst=1, scope=scope, name="slow")
    async with open_test_system(log.actor(slow, title="worker")) as system:
        worker = system.client.ref("worker")
        for n in range(4):
            await worker.tell({"n": n})
        await trio.sleep(30)
        assert len(log.began) == 1
        assert system.system.change_rates(Rates({"other": {"rate": 9}})) == set()
        assert system.system.change_rates(Rates({"slow": {"rate": 600}})) == {("limits", "slow")}
        # What is reserved already stays so; at the broker, that is one message ahead.
        await trio.sleep(605 if scope == "node" else 1205)
        assert len(log.began) == 4
        assert log.began[3] - log.began[2] == pytest.approx(1, abs=0.1)


async def test_the_rate_of_an_actor_without_a_name_changes_also_before_its_first_message(
    mock_clock: trio.testing.MockClock,
):
    log = Log()
    async with open_test_system(log.actor(RateLimit(1, per=600, burst=1), title="worker")) as system:
        assert system.system.change_rates(Rates({}, {"worker": {"rate": 600}})) == {("actors", "worker")}
        for n in range(4):
            await system.client.ref("worker").tell({"n": n})
        await trio.sleep(10)
        assert len(log.began) == 4
