"""What a program imports before its first message is handled, since that is most of what a start costs.

A module more costs a start 0.2 to 0.5 ms; some that look small bring dozens (redis-py's connection: 38 ms). The bounds
leave room for a few files, not for a new dependency. An attrs class costs 0.25 ms, a Protocol 0.03: one that only
annotations name is declared for type checkers alone.
"""

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from actorwork.importing import paused_collector

NODE = """
import os, sys
from typing import Any

from actorwork import Actor, Settings, receive, run


class Probe(Actor):
    settings = Settings(title="probe", sources={"probes"})

    @receive
    async def handle(self, message: Any) -> None:
        print("\\n".join(sys.modules), flush=True)
        os._exit(0)


run([Probe], broker=sys.argv[1])
"""

SEND = """
import sys

import trio

from actorwork import open_client


async def main() -> None:
    async with open_client(sys.argv[1]) as client:
        await client.publish("probes", {})


trio.run(main)
"""

NEVER = {
    "asyncio": "Trio runs everything",
    "cattrs": "only what is not plain JSON needs it, see codec/values.py",
    "click": "only the command line needs it",
    "concurrent.futures": "Trio has its own threads",
    "croniter": "only a Cron needs it, when it is created",
    "dataclasses": "only a program that has one needs it",
    "dateutil": "croniter brings it",
    "difflib": "only an error's text needs it",
    "email": "nothing sends mail",
    "getpass": "only a pause needs the user's name",
    "http": "nothing speaks HTTP",
    "importlib.metadata": "no version matters at the start",
    "multiprocessing": "only a tree with a Process needs it",
    "opentelemetry": "only telemetry= of that kind needs it",
    "sentry_sdk": "only telemetry= of that kind needs it",
    "redis.connection": "a plain url is opened without it, see streams/transport/direct.py",
    "rich": "only the command line needs it",
    "shlex": "only a dead letter's line needs it",
    "actorwork.actors.execution.batches": "only handlers of batches need it",
    "actorwork.actors.execution.guarded": "only limits, batches and retries of handlers need it",
    "actorwork.actors.limits.admission": "only limits need it",
    "actorwork.actors.limits.limiters": "only limits need it",
    "actorwork.actors.refs.pool": "only system.pool() needs it",
    "actorwork.actors.tree.selection": "only only= and excluding= need it",
    "actorwork.cli": "a node is not the command line",
    "actorwork.clients": "only an actor that sends by `context.client` needs it",
    "actorwork.events.rare": "no start reports one of these, see events/__init__.py",
    "actorwork.actors.supervision.children": "only looking at a supervisor's children needs it",
    "actorwork.policy.backoffs": "only what is declared with one needs it",
    "actorwork.policy.batches": "only handlers of batches need it",
    "actorwork.policy.scaling": "only a tree with a Process needs it",
    "actorwork.policy.schedule": "only a tree with triggers needs it",
    "actorwork.policy.series": "only charts need it",
    "actorwork.records": "only what lists pauses, dead letters, triggers and the like needs it",
    "actorwork.runtime.instruments": "only telemetry= needs it",
    "actorwork.runtime.reporting": "a node reports a second after its start",
    "actorwork.runtime.outline": "only looking at the tree needs it",
    "actorwork.runtime.processes.config": "only a tree with a Process needs it",
    "actorwork.runtime.processes.event_frames": "only a tree with a Process and a sink needs it",
    "actorwork.runtime.processes.launching": "only a tree with a Process needs it",
    "actorwork.state.lock": "only context.lock() needs it",
    "actorwork.state.shared": "only context.shared() needs it",
    "actorwork.streams.changes": "only watching a message needs it",
    "actorwork.streams.limiter": "only limits over all nodes need it",
    "actorwork.streams.lives": "only tracked messages need it",
    "actorwork.streams.replies": "only waiting for replies needs it",
    "actorwork.streams.states": "only looking at messages needs it",
    "actorwork.testing": "nobody imports it",
    "actorwork.triggers": "only a tree with triggers needs it",
    "actorwork.workflows": "a node without workflows needs none",
}


def modules_of(*command: str) -> set[str]:
    ended = subprocess.run([sys.executable, "-c", *command], capture_output=True, text=True, check=True, timeout=60)
    return set(ended.stdout.split("\n")) - {""}


@pytest.fixture(scope="module")
def trios() -> set[str]:
    return modules_of("import sys, trio; print('\\n'.join(sys.modules))")


def check(loaded: set[str], trios: set[str], *, at_most: int, never: dict[str, str]) -> None:
    wrong = [f"{name}: {why}" for name, why in never.items() if name in loaded - trios]
    assert not wrong, (
        "a start imports what its first message does not need; import it inside the function that does"
        f" (`python -X importtime` shows who asks for it): {'; '.join(wrong)}"
    )
    # Without the standard library's: each version of Python divides it in another way, and `never` names what is dear.
    beyond = sorted(name for name in loaded - trios if name.partition(".")[0] not in sys.stdlib_module_names)
    assert len(beyond) <= at_most, (
        f"a start imports {len(beyond)} modules beyond Trio's, {at_most} are allowed. Import later what only some"
        f" programs need, or raise the bound if every program needs it. They are: {', '.join(beyond)}"
    )


def test_importing_the_package_brings_no_runtime_and_no_client(trios: set[str]) -> None:
    loaded = modules_of("import sys, actorwork; print('\\n'.join(sys.modules))")
    neither = dict.fromkeys(("actorwork.runtime", "sqlite3", "redis"), "it is imported at its first use")
    check(loaded, trios, at_most=4, never=NEVER | neither)


def test_no_garbage_is_collected_while_the_first_use_of_a_name_imports_its_module() -> None:
    collecting = "import gc, actorwork; gc.collect(); seen = []; gc.callbacks.append(lambda *_: seen.append(1))"
    shown = "actorwork.run; gc.callbacks.clear(); print(len(seen), gc.isenabled(), gc.get_freeze_count(), sep='\\n')"
    ended = subprocess.run(
        [sys.executable, "-c", f"{collecting}; {shown}"], capture_output=True, text=True, check=True, timeout=60
    )
    assert ended.stdout.split() == ["0", "True", "0"]


def test_a_collector_that_the_program_has_disabled_stays_so() -> None:
    gc.disable()
    try:
        with paused_collector("actorwork.absent"):
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_the_collector_goes_on_after_an_import_that_failed() -> None:
    with pytest.raises(ImportError), paused_collector("actorwork.absent"):
        raise ImportError("no such module")
    assert gc.isenabled()


def test_the_collector_goes_on_when_nothing_is_left_to_import() -> None:
    with paused_collector("actorwork.importing"):
        assert gc.isenabled()


def test_what_the_program_has_frozen_stays_frozen() -> None:
    frozen = "import gc, actorwork; gc.freeze(); actorwork.run; print(gc.get_freeze_count() > 0, gc.isenabled())"
    ended = subprocess.run([sys.executable, "-c", frozen], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout.split() == ["True", "True"]


def test_the_pytest_plugin_brings_nothing_that_its_fixtures_do_not_ask_for() -> None:
    loaded = modules_of("import sys, actorwork.testing.pytest_plugin; print('\\n'.join(sys.modules))")
    assert {name for name in loaded if name.startswith("actorwork")} == {
        "actorwork",
        "actorwork.importing",
        "actorwork.testing",
        "actorwork.testing.pytest_plugin",
    }
    assert not loaded & {"trio", "attrs", "cattrs", "asyncio"}


def test_an_example_without_its_extra_says_which_one_it_needs() -> None:
    census = Path(__file__).parents[2] / "examples" / "census.py"
    without = f"import runpy, sys; sys.modules['rich'] = None; runpy.run_path({str(census)!r})"
    ended = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.endswith("from the extra 'cli' of actorwork: pip install \"actorwork[cli]\"\n")
    assert "Traceback" not in ended.stderr


def test_a_node_on_redis_imports_what_its_first_message_needs(trios: set[str], redis_url: str) -> None:
    modules_of(SEND, redis_url)
    loaded = modules_of(NODE, redis_url)
    elsewhere = {"sqlite3": "only the embedded broker needs it", "actorwork.policy.limits": "only limits need it"}
    check(loaded, trios, at_most=159, never=NEVER | elsewhere)


def test_a_node_on_the_embedded_broker_imports_what_its_first_message_needs(trios: set[str], tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'actorwork.sqlite3'}"
    modules_of(SEND, url)
    loaded = modules_of(NODE, url)
    elsewhere = dict.fromkeys(("redis", "hiredis", "actorwork.streams"), "only Redis needs it")
    check(loaded, trios, at_most=156, never=NEVER | elsewhere)
