"""The pytest plugin: fixtures for virtual time and brokers, and a runner for async tests that no other plugin runs.

    actorwork_clock     a clock that jumps as soon as all tasks wait
    actorwork_broker    a new `MemoryBroker` for each test
    actorwork_redis     the URL of an empty database of a private Redis, shared by the tests of one process

The plugin runs async tests, for projects without pytest-trio or anyio, only on request: all with the ini option
`actorwork_async = true`, one with `@pytest.mark.actorwork`. A test runs on the Trio clock among its fixtures, if there
is one. `actorwork_timeout` (seconds of real time) ends tests that hang, also those that block the loop.
"""

from __future__ import annotations

import inspect
import math
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from trio.testing import MockClock

    from actorwork.testing.memory import MemoryBroker
    from actorwork.testing.redis_server import RedisServer

LAST_RESORT = 5.0
"""Seconds after the timeout at which a signal ends a test that Trio's cancellation did not."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("actorwork_async", "run async tests under Trio if no other plugin does", type="bool")
    parser.addini("actorwork_timeout", "seconds after which an async test is ended (0: never)", default="0")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "actorwork(timeout=None): run this async test under Trio, unless another plugin does; `timeout` (seconds)"
        " overrides `actorwork_timeout`.",
    )


@pytest.hookimpl
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an async test if requested and no other plugin has: other plugins come first."""
    config = pyfuncitem.config
    # Trio and what follows it are imported by tests that need them: pytest loads this plugin in every run.
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    marker = pyfuncitem.get_closest_marker("actorwork")
    if not config.getini("actorwork_async") and marker is None:
        return None
    import trio

    test: Callable[..., Any] = pyfuncitem.obj
    arguments: dict[str, Any] = {name: pyfuncitem.funcargs[name] for name in inspect.signature(test).parameters}
    clock = next((value for value in pyfuncitem.funcargs.values() if isinstance(value, trio.abc.Clock)), None)
    own = None if marker is None else marker.kwargs.get("timeout")
    timeout = float(config.getini("actorwork_timeout") if own is None else own) or math.inf

    async def run() -> None:
        with trio.fail_after(timeout) if clock is None else trio.CancelScope():
            await test(**arguments)

    with _ended_by_signal(pyfuncitem.nodeid, timeout):
        trio.run(run, clock=clock)
    return True


@contextmanager
def _ended_by_signal(name: str, timeout: float) -> Generator[None]:
    """End a test that blocks the loop, or waits for a time that a simulated clock never reaches."""
    if timeout == math.inf or threading.current_thread() is not threading.main_thread():
        yield
        return

    def give_up(_signal: int, _frame: object) -> None:
        pytest.fail(f"{name} ran for more than {timeout:g} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, timeout + LAST_RESORT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def actorwork_clock() -> MockClock:
    """A simulated clock: time stands still until every task waits, then it jumps."""
    from trio.testing import MockClock

    return MockClock(autojump_threshold=0)


@pytest.fixture
def actorwork_broker() -> MemoryBroker:
    """A broker in memory, with nothing in it."""
    from actorwork.testing.memory import MemoryBroker

    return MemoryBroker()


@pytest.fixture(scope="session")
def actorwork_redis_server() -> Generator[RedisServer]:
    """A private Redis server, for the whole session (with xdist: for each worker)."""
    from actorwork.testing.redis_server import open_redis_server

    with open_redis_server() as server:
        yield server


@pytest.fixture
def actorwork_redis(actorwork_redis_server: RedisServer) -> str:
    """The URL of an empty database."""
    actorwork_redis_server.flush()
    return actorwork_redis_server.url
