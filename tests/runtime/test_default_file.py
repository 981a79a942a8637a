"""Which file the embedded broker has without a URL: that of the project to which the program belongs."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from actorwork import Actor, BrokerError, Child, Settings, open_system, receive
from actorwork.brokers import default_file, project_directory
from tests.doubles import forget_home
from tests.fork_server import run_forked
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]

SENDER = """
import trio
from actorwork import *

class Mailer(Actor):
    settings = Settings(title="mailer")
    @receive
    async def send(self, *, to: str) -> None: ...

async def main():
    async with open_client() as client:
        await client.ref(Mailer).tell({"to": "ann"})

trio.run(main)
"""

READER = """
import trio
from actorwork import *

class Mailer(Actor):
    settings = Settings(title="mailer")
    @receive
    async def send(self, *, recipient: str) -> None: ...

async def main():
    async with open_system(Mailer) as system, open_client(system.broker) as client:
        await client.ref(Mailer).ask({"recipient": "bob"})
        print(system.statistics()["read"])

trio.run(main)
"""

BACKLOG = """
import trio
from actorwork.brokers import open_broker
from actorwork.settings import Settings

async def main():
    async with open_broker() as broker:
        print(await broker.backlog(Settings(title="mailer").default_source))

trio.run(main)
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ACTORWORK", "XDG"))}
    environment |= {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path / "home")}

    def run(*command: str, cwd: Path) -> str:
        done = run_forked(command, cwd=cwd, env=environment, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_two_projects_do_not_take_each_others_messages_and_a_prompt_finds_them(tmp_path: Path, run: Callable[..., str]):
    for name, program in (("a", SENDER), ("b", READER)):
        (tmp_path / name / "src").mkdir(parents=True)
        (tmp_path / name / "pyproject.toml").touch()
        (tmp_path / name / "src" / "program.py").write_text(program)
    run("a/src/program.py", cwd=tmp_path)
    assert run("b/src/program.py", cwd=tmp_path) == "1\n"
    assert run("-c", BACKLOG, cwd=tmp_path / "a" / "src") == "1\n"
    assert run("-c", BACKLOG, cwd=tmp_path / "b") == "0\n"


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    made = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", made)
    return made


def test_a_project_is_found_from_the_main_module_upwards(tmp_path: Path, main: ModuleType):
    (tmp_path / "shop" / "src" / "shop").mkdir(parents=True)
    main.__file__ = str(tmp_path / "shop" / "src" / "shop" / "workers.py")
    assert project_directory() == tmp_path / "shop" / "src" / "shop"
    (tmp_path / "shop" / ".git").mkdir()
    assert project_directory() == tmp_path / "shop"


@pytest.mark.parametrize("file", [None, f"{sys.prefix}/bin/actorwork", f"{sys.base_prefix}/lib/python3/x.py"])
def test_an_installed_program_and_a_prompt_belong_to_the_project_of_the_current_directory(
    tmp_path: Path, main: ModuleType, monkeypatch: pytest.MonkeyPatch, file: str | None
):
    if file is not None:
        main.__file__ = file
    (tmp_path / "shop" / "below").mkdir(parents=True)
    (tmp_path / "shop" / "setup.cfg").touch()
    monkeypatch.chdir(tmp_path / "shop" / "below")
    assert project_directory() == tmp_path / "shop"


def test_a_home_directory_under_version_control_is_no_project(
    tmp_path: Path, main: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".git").mkdir()
    (tmp_path / "shop").mkdir()
    main.__file__ = str(tmp_path / "shop" / "workers.py")
    assert project_directory() == tmp_path / "shop"


def test_the_variable_names_the_directory_of_one_file_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ACTORWORK_HOME", str(tmp_path))
    assert default_file() == tmp_path / "actorwork.sqlite3"
    monkeypatch.delenv("ACTORWORK_HOME")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_file().parent == tmp_path / "actorwork"
    assert default_file() != tmp_path / "actorwork" / "actorwork.sqlite3"


class Local(Actor):
    settings = Settings(title="local")

    @receive
    async def take(self, *, n: int) -> int:
        if n:
            await self.context.client.publish("orders", {"n": n})
        return n


async def test_a_tree_of_local_actors_makes_the_file_when_one_of_them_uses_the_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ACTORWORK_HOME", str(tmp_path / "home"))
    async with open_system(Child(Local, reads=False)) as system:
        assert await system.ref(Local).ask({"n": 0}) == 0
    assert not (tmp_path / "home").exists()
    async with open_system(Child(Local, reads=False)) as system:
        assert await system.ref(Local).ask({"n": 1}) == 1
        assert await system.broker.backlog("orders") == 1
    assert default_file().exists()


async def test_a_default_file_that_cannot_be_made_is_an_error_of_the_call_that_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "home").touch()
    monkeypatch.setenv("ACTORWORK_HOME", str(tmp_path / "home" / "below"))
    async with open_system(Child(Local, reads=False)) as system:
        with pytest.raises(BrokerError, match="set ACTORWORK_HOME to a directory that can be written"):
            await system.broker.backlog("orders")
    with pytest.raises(BrokerError, match="set ACTORWORK_HOME to a directory that can be written"):
        async with open_system(Local):
            pass


async def test_a_user_without_a_home_directory_is_told_what_to_set_instead(
    tmp_path: Path, main: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    main.__file__ = str(tmp_path / "shop" / "workers.py")
    forget_home(monkeypatch)
    with pytest.raises(BrokerError, match=r"has no home directory .* set ACTORWORK_HOME"):
        default_file()
    with pytest.raises(BrokerError, match=r"has no home directory .* set ACTORWORK_HOME"):
        async with open_system(Local):
            pass
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_file().parent == tmp_path / "actorwork"
    async with open_system(Child(Local, reads=False)) as system:
        assert await system.ref(Local).ask({"n": 0}) == 0
