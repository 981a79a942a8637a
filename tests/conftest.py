"""How tests run: `async def` under Trio, against a private Redis, none of them for longer than half a minute (long
ones: three minutes).

The package's own pytest plugin does it. A test that asks for `mock_clock` runs on it: time stands still until every
task waits, then it jumps.
"""

import os
import signal
from collections.abc import Iterator

import hypothesis
import pytest
import trio.testing

from actorwork.testing import pytest_plugin
from actorwork.testing.redis_server import RedisServer

# A machine that is busy is slow: what an example takes says nothing about the code.
hypothesis.settings.register_profile(
    "actorwork", deadline=None, max_examples=50, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("long", hypothesis.settings.get_profile("actorwork"), max_examples=300)
hypothesis.settings.load_profile("actorwork")


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    # In a clone the package is not installed, and pytest does not find the plugin by its entry point.
    if not pluginmanager.is_registered(pytest_plugin):
        pluginmanager.register(pytest_plugin, "actorwork")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return what `-n auto` is: two for each core, since tests of leases and signals wait more than they compute."""
    return 2 * len(os.sched_getaffinity(0))


def pytest_configure() -> None:
    # A shell without job control has what it starts in the background ignore SIGINT, and so would the programs that
    # tests start and interrupt. A handler of Python's is forgotten when they begin.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("long") is not None:
            item.add_marker(pytest.mark.actorwork(timeout=180))


@pytest.fixture(autouse=True, scope="session")
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The default broker's file is the user's own: tests, and the programs that they start, have another one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACTORWORK_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture
def mock_clock(actorwork_clock: trio.testing.MockClock) -> trio.testing.MockClock:
    return actorwork_clock


@pytest.fixture(scope="session")
def redis_server(actorwork_redis_server: RedisServer) -> RedisServer:
    """One server for the whole session (with xdist: for each worker). Who kills one, opens one of their own."""
    return actorwork_redis_server


@pytest.fixture
def redis_url(actorwork_redis: str) -> str:
    """The url of an empty database."""
    return actorwork_redis
