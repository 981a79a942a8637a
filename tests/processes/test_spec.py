"""The checks of a `Process`, before any process is started."""

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import attrs
import pytest

from actorwork import (
    Actor,
    BrokerError,
    Child,
    Intensity,
    Process,
    Settings,
    SettingsError,
    Supervisor,
    open_system,
    receive,
)
from actorwork.actors.tree.spec import Replicas
from actorwork.actors.tree.walking import actors_of, processes_of, root_of
from actorwork.runtime.processes.launching import refuse_what_cannot_travel
from actorwork.testing.memory import MemoryBroker
from tests.patience import PATIENCE

from .conftest import ROOT


class Worker(Actor):
    settings = Settings(title="worker")

    def __init__(self, tool: object = None) -> None:
        self.tool = tool

    @receive
    async def work(self, *, x: int) -> None: ...


class Namesake(Worker):
    settings = Settings(title="worker")


class Clerk(Actor):
    settings = Settings(title="clerk")

    @receive
    async def work(self, *, x: int) -> None: ...


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"replicas": 0}, "Process.replicas wants a whole number >= 1, or Scale(…) to follow the load, got 0"),
        ({"replicas": True}, "Process.replicas wants a whole number >= 1, or Scale(…) to follow the load, got True"),
        ({"shutdown_timeout": -1}, "Process.shutdown_timeout wants seconds from 0 to 180, got -1"),
        ({"shutdown_timeout": 181}, "Process.shutdown_timeout wants seconds from 0 to 180, got 181"),
        ({"hang_timeout": 0}, "Process.hang_timeout wants finite seconds > 0, or None"),
        ({"max_messages": 0}, "Process.max_messages wants a whole number >= 1, or None, got 0"),
        ({"max_memory": "much"}, 'Process.max_memory wants a whole number >= 1, or a size such as "512MB"'),
        ({"max_memory": "1 PB"}, "Process.max_memory wants"),
        ({"start_method": "fork"}, "Process.start_method wants 'spawn' or 'forkserver', got 'fork'"),
        ({"intensity": 3}, "Process.intensity wants Intensity"),
        ({"restart": "never"}, "Process.restart wants"),
        ({"significant": True}, "cannot be permanent"),
    ],
)
def test_what_is_out_of_bounds_is_refused_with_the_bound(options: dict[str, Any], text: str):
    with pytest.raises(SettingsError) as caught:
        Process([Worker], **options)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("children", "text"),
    [
        ([], "Process wants at least one child"),
        (Worker, "Process wants a list of children"),
        ([Worker, Worker], "two actors are titled 'worker'"),
    ],
)
def test_its_children_are_those_of_a_supervisor(children: Any, text: str):
    with pytest.raises(SettingsError, match=text):
        Process(children)


@pytest.mark.parametrize(
    ("text", "amount"),
    [("512MB", 512_000_000), ("1.5 GiB", 1_610_612_736), ("100", 100), ("7kb", 7000), (2048, 2048), (None, None)],
)
def test_memory_is_said_in_bytes_or_in_words(text: Any, amount: int | None):
    assert Process([Worker], max_memory=text).max_memory == amount


@pytest.mark.parametrize(
    "tree",
    [
        [Process([Worker], name="a"), Process([Worker, Clerk], name="b"), Clerk],
        [Worker, Process([Process([Worker], name="a"), Clerk], name="b")],
    ],
)
def test_one_class_may_be_in_several_processes(tree: list[Any]):
    assert root_of(tree)


@pytest.mark.parametrize(
    "tree",
    [
        [Process([Worker], name="a"), Process([Namesake], name="b")],
        [Worker, Supervisor([Process([Namesake], name="b")])],
        [Worker, Supervisor([Worker])],
        [Process([Worker, Supervisor([Worker])], name="a")],
    ],
)
def test_two_classes_of_one_title_or_one_class_twice_in_a_process_are_refused(tree: list[Any]):
    with pytest.raises(SettingsError, match="two actors are titled 'worker'"):
        root_of(tree)


def test_it_is_called_by_its_name_its_id_or_what_is_in_it():
    assert Process([Worker], name="crunchers", id=7).title == "crunchers"
    assert Process([Worker], id=7).title == "7"
    assert Process([Worker, Clerk]).title == "process of worker, clerk"


def test_several_are_a_supervisor_over_replicas_that_are_told_apart():
    process = Process([Worker], name="crunchers", replicas=3, hang_timeout=5, restart="transient", significant=True)
    group = Replicas.of(process)
    assert [member.child_id for member in group.members] == ["crunchers 1", "crunchers 2", "crunchers 3"]
    assert {member.hang_timeout for member in group.members} == {5}
    assert {member.replicas for member in group.members} == {1}
    assert group.intensity == Intensity(restarts=9, period=5)
    assert not Process([Worker]).is_group
    assert Process([Worker], intensity=Intensity(restarts=0, period=1)).is_group


def test_what_lives_in_a_process_is_not_fed_here_but_its_title_counts():
    root = root_of([Clerk, Supervisor([Process([Worker], replicas=2)])])
    assert [child.title for child in actors_of(root)] == ["clerk"]
    assert [child.title for child in actors_of(root, everywhere=True)] == ["clerk", "worker"]
    assert [process.title for process in processes_of(root)] == ["process of worker"]
    with pytest.raises(SettingsError, match="two actors are titled 'worker'"):
        root_of([Worker, Process([Namesake])])


SESSION = """
import trio
from functools import partial
from actorwork import Actor, Child, Process, Settings, open_system, receive
from tests.processes.workers import Worker

class Typed(Actor):
    settings = Settings(title="typed")

    @receive
    async def do(self, message: int) -> None: ...

def tool(): ...

async def main():
    async with open_system(Process([WHAT], name="far"), broker=BROKER) as system:
        print(system.tree().children[0].state)

trio.run(main)
"""


def session(what: str, broker: str) -> subprocess.CompletedProcess[str]:
    """Type a program into an interpreter, and return what came of it."""
    typed = SESSION.replace("WHAT", what).replace("BROKER", repr(broker))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", typed], capture_output=True, text=True, timeout=PATIENCE, env=environment, check=False
    )


@pytest.mark.parametrize(("what", "name"), [("Typed", "Typed"), ("Child(partial(Worker, tool))", "tool")])
def test_what_is_typed_into_a_session_is_refused_in_a_process_in_one_sentence(what: str, name: str, file_url: str):
    *_, last = session(what, file_url).stderr.strip().splitlines()
    assert last == (
        f"actorwork.errors.SettingsError: {name!r} is defined in a session that is no file (a REPL, a notebook,"
        " standard input), so the process 'far' cannot import it: write it into a module, and import it from there"
    )


@pytest.mark.parametrize("name", ["shop.__main__", "__main__"], ids=["package", "archive"])
def test_what_the_main_file_of_a_package_defines_is_refused_in_a_process(name: str, monkeypatch: pytest.MonkeyPatch):
    main = ModuleType("__main__")
    main.__spec__ = ModuleSpec(name, None)
    typed = type("Typed", (Actor,), {"__module__": "__main__"})
    vars(main)["Typed"] = typed
    monkeypatch.setitem(sys.modules, "__main__", main)
    with pytest.raises(SettingsError, match=r"^'Typed' is defined in a __main__\.py, .* 'far' cannot import it"):
        refuse_what_cannot_travel(Process([typed], name="far"), None)


def test_what_a_session_imports_from_a_module_runs_in_a_process(file_url: str):
    assert session("Worker", file_url).stdout == "running\n"


@attrs.frozen
class Unsendable:
    def __reduce__(self) -> str:
        raise TypeError("cannot pickle a socket")


async def test_a_factory_that_cannot_travel_is_refused_before_anything_starts():
    class Local(Worker):
        settings = Settings(title="local")

    for child, title in ((Local, "local"), (Child(partial(Worker, Unsendable())), "worker")):
        with pytest.raises(
            SettingsError, match=f"'{title}' cannot be sent to the process 'far' .*top level of a module"
        ):
            async with open_system(Process([child], name="far"), broker="sqlite:////nowhere/at/all"):
                pass


async def test_options_that_cannot_travel_are_refused_too():
    async def layer(delivery: object, proceed: Callable[[], Awaitable[object]]) -> object:
        return await proceed()

    with pytest.raises(SettingsError, match="an option of the system cannot be sent to the process 'far'"):
        async with open_system(Process([Worker], name="far"), broker="sqlite:////nowhere/at/all", middleware=[layer]):
            pass


async def test_a_broker_of_this_process_alone_is_refused():
    brokers: list[tuple[Any, str]] = [(MemoryBroker(), "memory://"), (":memory:", "sqlite://")]
    for broker, url in brokers:
        with pytest.raises(
            BrokerError, match=f"'far' is to run in another process, and the broker '{url}' lives in this"
        ):
            async with open_system([Clerk, Process([Worker], name="far")], broker=broker):
                pass
