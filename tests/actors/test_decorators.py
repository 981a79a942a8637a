"""`@retry`, `@timeout`, `@rate_limit`, `@circuit_breaker`, on handlers and on other async functions."""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from actorwork import (
    Actor,
    ActorCrashed,
    ExecutionTimeout,
    Reject,
    Retry,
    RetryPolicy,
    Settings,
    SettingsError,
    receive,
)
from actorwork.actors.decorators import circuit_breaker, rate_limit, retry, timeout
from actorwork.actors.handlers import rules
from actorwork.errors import CircuitOpen
from actorwork.policy.backoffs import Fixed
from actorwork.policy.limits import CircuitBreaker, RateLimit
from actorwork.policy.settlement import Fail
from actorwork.testing import open_test_system

QUICK = Fixed(seconds=1)


class Flaky:
    """Raises some errors, then returns."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls: list[float] = []

    async def __call__(self) -> int:
        self.calls.append(trio.current_time())
        if self.errors:
            raise self.errors.pop(0)
        return len(self.calls)


# ---- on any async function ----


async def test_a_function_is_called_again_after_errors(mock_clock: trio.testing.MockClock):
    flaky = Flaky(OSError(), OSError())

    @retry(attempts=3, backoff=QUICK)
    async def fetch(n: int, *, more: int) -> tuple[int, int]:
        await flaky()
        return n, more

    assert await fetch(1, more=2) == (1, 2)
    assert flaky.calls == [0, 1, 2]
    assert fetch.__name__ == "fetch"


async def test_the_last_error_comes_out_when_the_attempts_are_spent(mock_clock: trio.testing.MockClock):
    flaky = Flaky(OSError("1"), OSError("2"), OSError("3"))

    @retry(attempts=2, backoff=QUICK)
    async def fetch() -> None:
        await flaky()

    with pytest.raises(OSError, match="2"):
        await fetch()


async def test_rules_and_verdicts_hold_for_functions_too(mock_clock: trio.testing.MockClock):
    @retry(RetryPolicy(attempts=5, backoff=QUICK, on={ValueError: None}))
    async def fetch(flaky: Flaky) -> int:
        return await flaky()

    assert await fetch(Flaky(Retry(delay=7))) == 2
    assert trio.current_time() == 7
    for error in (ValueError("mine"), Reject("no")):
        with pytest.raises(type(error)):
            await fetch(Flaky(error))


async def test_a_function_that_takes_too_long_is_cancelled(mock_clock: trio.testing.MockClock):
    @timeout(2)
    async def slow(seconds: float) -> float:
        await trio.sleep(seconds)
        return seconds

    assert await slow(1) == 1
    with pytest.raises(ExecutionTimeout, match="slow ran past its timeout of 2 s"):
        await slow(3)


async def test_calls_wait_for_the_rate_in_their_order(mock_clock: trio.testing.MockClock):
    began: list[tuple[int, float]] = []

    @rate_limit(2, burst=1)
    async def call(n: int) -> None:
        began.append((n, trio.current_time()))

    async with trio.open_nursery() as nursery:
        for n in range(5):
            nursery.start_soon(call, n)
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
    assert began == [(n, pytest.approx(n / 2)) for n in range(5)]


async def test_who_gives_up_waiting_took_nothing(mock_clock: trio.testing.MockClock):
    @rate_limit(1, per=10, burst=1)
    async def call() -> float:
        return trio.current_time()

    await call()
    with trio.move_on_after(5):
        await call()
    assert await call() == pytest.approx(10)


async def test_one_decorator_on_several_functions_is_one_limit(mock_clock: trio.testing.MockClock):
    api = rate_limit(1, burst=1)

    @api
    async def first() -> None: ...

    @api
    async def second() -> None: ...

    await first()
    await second()
    assert trio.current_time() == pytest.approx(1)


async def test_an_open_circuit_calls_nothing_until_it_is_tried(mock_clock: trio.testing.MockClock):
    flaky = Flaky(*[ConnectionError()] * 3)

    @circuit_breaker("database", failures=2, reset=10)
    async def fetch() -> int:
        return await flaky()

    for _ in range(2):
        with pytest.raises(ConnectionError):
            await fetch()
    with pytest.raises(CircuitOpen, match="the circuit 'database' is open: the next call may try it in 10 s") as caught:
        await fetch()
    assert (caught.value.name, caught.value.retry_after, len(flaky.calls)) == ("database", 10, 2)
    await trio.sleep(10)
    with pytest.raises(ConnectionError):
        await fetch()
    await trio.sleep(10)
    assert await fetch() == 4
    assert await fetch() == 5


async def test_a_retry_waits_for_an_open_circuit(mock_clock: trio.testing.MockClock):
    flaky = Flaky(*[ConnectionError()] * 2)

    @retry(attempts=4, backoff=Fixed(seconds=0.1))
    @circuit_breaker(failures=2, reset=10)
    async def fetch() -> int:
        return await flaky()

    assert await fetch() == 3
    assert trio.current_time() == pytest.approx(10.1)


async def test_a_call_that_is_cancelled_says_nothing_of_the_dependency(mock_clock: trio.testing.MockClock):
    @circuit_breaker(failures=1)
    async def fetch(seconds: float) -> float:
        await trio.sleep(seconds)
        return seconds

    with trio.move_on_after(1):
        await fetch(2)
    assert await fetch(0) == 0


def test_what_a_decorator_remembers_begins_anew_with_each_run_of_the_loop():
    @rate_limit(1, per=3600, burst=1)
    async def call() -> float:
        return trio.current_time()

    for _ in range(3):
        assert trio.run(call, clock=trio.testing.MockClock(autojump_threshold=0)) == 0


# ---- on handlers ----


def decorated(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Apply decorators, the first one outermost."""

    def decorate(function: Any) -> Any:
        for one in reversed(decorators):
            function = one(function)
        return function

    return decorate


def actor_with(decorate: Callable[[Any], Any], body: Callable[[int], Awaitable[object]]) -> type[Actor]:
    class Worker(Actor):
        @decorate
        async def work(self, *, n: int) -> None:
            await body(n)

    Worker.settings = Settings(title="worker")
    return Worker


RULES = (retry(attempts=3, backoff=QUICK), rate_limit(1, burst=1))


@pytest.mark.parametrize(
    "decorators",
    [
        (receive, *RULES),
        (*RULES, receive),
        (RULES[0], receive, RULES[1]),
        (RULES[0], timeout(5), RULES[1], receive),
        (RULES[0], RULES[1], receive, timeout(5)),
        (receive, *RULES, timeout(5)),
        # What waits for the rate within half a second would end there.
        (receive, timeout(0.5), *RULES),
        (receive, timeout(0.5), RULES[0], timeout(0.6), RULES[1]),
    ],
    ids=[
        *("outermost", "innermost", "between", "over a timeout", "timeout below", "timeout innermost"),
        *("timeout above", "timeouts between"),
    ],
)
async def test_on_a_handler_the_runtime_carries_it_out(mock_clock: trio.testing.MockClock, decorators: tuple[Any, ...]):
    flaky = Flaky(OSError(), OSError())
    actor = actor_with(decorated(*decorators), lambda _: flaky())
    async with open_test_system(actor) as system:
        await system.client.ref(actor).tell({"n": 1})
        await system.drain(scheduled=True)
        assert [entry.delivery.attempt for entry in system.broker.settled] == [1, 2, 3]
        flaky.calls.clear()
        for n in range(3):
            await system.client.ref(actor).tell({"n": n})
        await system.drain(scheduled=True)
        assert flaky.calls[2] - flaky.calls[0] == pytest.approx(2, abs=0.3)


async def test_a_handler_that_is_decorated_is_called_as_it_is():
    flaky = Flaky(OSError())
    actor = actor_with(decorated(receive, *RULES), lambda _: flaky())
    instance: Any = actor()
    assert inspect.iscoroutinefunction(instance.work)
    with pytest.raises(OSError):
        await instance.work(n=1)


async def test_the_policy_of_a_handler_overrides_that_of_its_actor(mock_clock: trio.testing.MockClock):
    class Worker(Actor):
        settings = Settings(title="worker", retry=RetryPolicy(attempts=4, backoff=QUICK))

        @receive
        @retry(RetryPolicy(attempts=2, backoff=QUICK))
        async def text(self, message: str) -> None:
            raise OSError

        @receive
        async def number(self, message: int) -> None:
            raise OSError

    async with open_test_system(Worker) as system:
        await system.client.ref(Worker).tell("x")
        await system.client.ref(Worker).tell(1)
        await system.drain(scheduled=True)
        assert sorted(letter.attempt for letter in system.dead_letters) == [2, 4]


async def test_the_limit_of_a_handler_holds_up_no_other_handler(mock_clock: trio.testing.MockClock):
    began: dict[object, float] = {}

    class Worker(Actor):
        settings = Settings(title="worker")

        @receive
        @rate_limit(1, per=60)
        async def text(self, message: str) -> None:
            began[message] = trio.current_time()

        @receive
        async def number(self, message: int) -> None:
            began[message] = trio.current_time()

    async with open_test_system(Worker) as system:
        for n in range(5):
            await system.client.ref(Worker).tell(str(n))
        for n in range(5):
            await system.client.ref(Worker).tell(n)
        await trio.sleep(1)
        assert set(began) == {"0", 0, 1, 2, 3, 4}
        await system.drain()
        assert len(began) == 10


async def test_messages_wait_for_the_circuit_of_a_handler(mock_clock: trio.testing.MockClock):
    flaky = Flaky(*[ConnectionError()] * 3)
    actor = actor_with(decorated(receive, circuit_breaker(failures=1, reset=5)), lambda _: flaky())
    async with open_test_system(actor) as system:
        for n in range(4):
            await system.client.ref(actor).tell({"n": n})
        await system.drain()
        assert system.dead_letters == []
        assert len(flaky.calls) == 3 + 4


async def test_a_handler_that_takes_too_long_fails_its_message(mock_clock: trio.testing.MockClock):
    actor = actor_with(decorated(receive, timeout(1)), trio.sleep)
    async with open_test_system(actor) as system:
        await system.client.ref(actor).tell({"n": 5})
        await system.drain()
        (entry,) = system.broker.settled
        assert isinstance(entry.settlement, Fail)
        assert entry.settlement.failure.type == "ExecutionTimeout"
        with pytest.raises(Exception, match="ran past its timeout of 1 s"):
            await system.ref(actor).ask({"n": 5})


async def test_to_become_what_has_a_limit_wants_it_to_be_a_handler():
    class Worker(Actor):
        settings = Settings(title="worker")

        @receive
        async def turn(self, message: str) -> None:
            self.context.become(self.limited)

        async def limited(self, message: str) -> None: ...

    rules.note(Worker.limited, RateLimit(1))
    async with open_test_system(Worker) as system:
        with pytest.raises(ActorCrashed, match="limited has a limit or a retry policy of its own: mark it with"):
            await system.ref(Worker).ask("x")


# ---- what cannot be ----


def plain() -> None: ...


async def other() -> None: ...


def any_of(value: Any) -> Any:
    return value


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: retry(any_of(plain)), "@retry wants brackets"),
        (lambda: retry(any_of(3)), "@retry wants a RetryPolicy, or its parts by name, got 3"),
        (lambda: retry(attempts=0), "RetryPolicy.attempts wants"),
        (lambda: retry()(plain), "@retry goes on an async function"),
        (lambda: rate_limit(0), "RateLimit.rate wants"),
        (lambda: rate_limit(any_of(other)), "@rate_limit wants a rate: @rate_limit(10)"),
        (lambda: receive(any_of(None), **any_of({"within": 1})), "without a batch it takes nothing, and no within=…"),
        (lambda: rate_limit(1)(plain), "@rate_limit goes on an async function"),
        (lambda: rate_limit(RateLimit(1, by="key"))(other), "goes on a handler: only messages have that"),
        (lambda: rate_limit(RateLimit(1, scope="global"))(other), "goes on a handler: only messages have that"),
        (lambda: circuit_breaker(any_of(plain)), "@circuit_breaker wants brackets"),
        (lambda: circuit_breaker(failures=0), "CircuitBreaker.failures wants"),
        (lambda: circuit_breaker(CircuitBreaker())(plain), "@circuit_breaker goes on an async function"),
        (lambda: timeout(0), "@timeout wants seconds > 0, or text"),
        (lambda: timeout(any_of(other)), "@timeout wants seconds > 0"),
        (lambda: timeout(1)(any_of(plain)), "what runs in a thread cannot be cancelled"),
    ],
)
def test_a_decorator_that_cannot_be_is_refused(make: Callable[[], Any], said: str):
    with pytest.raises(SettingsError) as caught:
        make()
    assert said in str(caught.value)
