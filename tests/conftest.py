"""How tests run: `async def` under Trio, against a private Redis, none longer than half a minute (slow ones: three).

A test that asks for `mock_clock` runs on it: time stands still until every task waits, then it jumps.
"""

import inspect
import signal
from collections.abc import Callable, Generator
from typing import Any

import pytest
import trio
import trio.testing

from actorwork.testing.redis_server import RedisServer, open_redis_server

WALL_CLOCK_LIMIT = 30.0
SLOW_LIMIT = 180.0


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    test: Callable[..., Any] = pyfuncitem.obj
    if not inspect.iscoroutinefunction(test):
        return None
    arguments: dict[str, Any] = {name: pyfuncitem.funcargs[name] for name in inspect.signature(test).parameters}
    clock: trio.testing.MockClock | None = arguments.get("mock_clock")
    limit = WALL_CLOCK_LIMIT if pyfuncitem.get_closest_marker("slow") is None else SLOW_LIMIT

    async def run() -> None:
        with trio.fail_after(limit) if clock is None else trio.CancelScope():
            await test(**arguments)

    # What blocks the loop, or waits for what a simulated clock never brings, is ended by a signal.
    def give_up(_signal: int, _frame: object) -> None:
        pytest.fail(f"{pyfuncitem.nodeid} ran for more than {limit} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, limit + 5)
    try:
        trio.run(run, clock=clock)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return True


@pytest.fixture
def mock_clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(autojump_threshold=0)


@pytest.fixture(scope="session")
def redis_server() -> Generator[RedisServer]:
    """One server for the whole session (with xdist: for each worker). Who kills one, opens one of their own."""
    with open_redis_server() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The url of an empty database."""
    redis_server.flush()
    return redis_server.url
