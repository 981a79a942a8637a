"""The pytest plugin offers fixtures, and runs async tests only where it was asked to and nobody else does."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from actorwork.testing import pytest_plugin

pytest_plugins = ["pytester"]

TEST = """
    import pytest
    import trio

    {mark}
    async def test_it(actorwork_clock):
        await trio.sleep(3600)
        assert trio.current_time() == 3600
"""


Run: TypeAlias = Callable[..., tuple[int, int, list[str]]]


def test_by_itself_it_runs_nothing(pytester: pytest.Pytester, outcomes: Run):
    pytester.makepyfile(TEST.format(mark=""))
    passed, _, failed = outcomes()
    assert passed == 0
    assert "not natively supported" in failed[0]


def test_a_marked_test_runs_on_the_clock_it_asks_for(pytester: pytest.Pytester, outcomes: Run):
    pytester.makepyfile(TEST.format(mark="@pytest.mark.actorwork"))
    assert outcomes() == (1, 0, [])


def test_all_tests_run_where_the_ini_file_says_so(pytester: pytest.Pytester, outcomes: Run):
    pytester.makeini("[pytest]\nactorwork_async = true\n")
    pytester.makepyfile(TEST.format(mark=""))
    assert outcomes() == (1, 0, [])


def test_another_plugin_that_runs_async_tests_comes_first(pytester: pytest.Pytester, outcomes: Run):
    class Other:
        ran = 0

        @pytest.hookimpl(tryfirst=True)
        def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool:
            self.ran += 1
            return True

    pytester.makeini("[pytest]\nactorwork_async = true\n")
    pytester.makepyfile("async def test_it():\n    raise AssertionError('run by the wrong one')\n")
    other = Other()
    assert outcomes(other) == (1, 0, [])
    assert other.ran == 1


def test_a_test_that_hangs_is_ended(pytester: pytest.Pytester, outcomes: Run):
    pytester.makeini("[pytest]\nactorwork_async = true\nactorwork_timeout = 0.1\n")
    pytester.makepyfile("import trio\n\nasync def test_it():\n    await trio.sleep_forever()\n")
    _, _, failed = outcomes()
    assert "TooSlowError" in failed[0]


def test_a_test_that_blocks_the_loop_is_ended(
    pytester: pytest.Pytester, outcomes: Run, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pytest_plugin, "LAST_RESORT", 0.1)
    pytester.makeini("[pytest]\nactorwork_async = true\nactorwork_timeout = 0.1\n")
    pytester.makepyfile("import time\n\nasync def test_it():\n    time.sleep(20)\n")
    _, _, failed = outcomes()
    assert "ran for more than 0.1 s" in failed[0]


def test_a_test_is_given_a_broker_of_its_own_and_an_empty_redis(pytester: pytest.Pytester, outcomes: Run):
    pytester.makepyfile(
        """
        def test_it(actorwork_broker, actorwork_redis):
            assert actorwork_broker.url == "memory://"
            assert actorwork_redis.startswith("unix://")
        """
    )
    assert outcomes() == (1, 0, [])


def test_pytest_finds_it_by_its_entry_point():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"actorwork": pytest_plugin.__name__}
