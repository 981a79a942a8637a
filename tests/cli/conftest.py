"""A command line with its own embedded broker, in its own directory."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from click.testing import CliRunner, Result

from actorwork.abc import Broker
from actorwork.brokers import open_broker
from actorwork.cli.commands import actorwork
from actorwork.state.known_actors import enter_actors
from tests.fork_server import ForkedPopen

HOUSE = Path(__file__).parents[2]

SHOP = """
import trio
import attrs
from actorwork.actors.actor import Actor
from actorwork.actors.entities.entity import Entity
from actorwork.actors.handlers.table import receive
from actorwork.message import Message
from actorwork.settings import Settings


@attrs.frozen
class Order(Message["Till", None]):
    number: int


class Till(Actor):
    settings = Settings(title="till", sources={"orders"})

    @receive
    async def take(self, message: Order) -> None:
        if message.number < 0:
            raise ValueError(f"no order has the number {message.number}")
        print("took", message.number, flush=True)

    @receive
    async def wait(self, *, seconds: float) -> None:
        print("waiting", flush=True)
        try:
            await trio.sleep(seconds)
        finally:
            print("waited", flush=True)


class Broken(Actor):
    settings = Settings(title="broken")

    async def startup(self) -> None:
        raise OSError("no till")

    @receive
    async def take(self, message: int) -> None: ...


def shop():
    return [Till]


def both():
    return [Till, Broken]


def takes_something(what):
    return [Till]


nothing = []
number = 7
"""


@attrs.frozen
class Shell:
    """Runs commands as a user would: in this process, or (where signals matter) in one of their own."""

    folder: Path
    url: str

    def __call__(self, *arguments: str, input: str | bytes | None = None, code: int = 0) -> Result:
        runner = CliRunner(env={"ACTORWORK_BROKER": self.url})
        result = runner.invoke(actorwork, arguments, input=input, auto_envvar_prefix="ACTORWORK")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    def recorded(self) -> list[tuple[str, str, int | None, str]]:
        """Return the record of actions, the oldest first: action, what, how many, the first word of the outcome."""
        return [
            (one["action"], one["what"], one["how_many"], one["outcome"].partition(":")[0])
            for one in reversed(self.json("audit"))
        ]

    def json(self, *arguments: str, code: int = 0, input: str | None = None) -> Any:
        return json.loads(self(*arguments, "--json", code=code, input=input).stdout)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return ForkedPopen(
            [sys.executable, "-m", "actorwork", *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(HOUSE), "ACTORWORK_BROKER": self.url, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def at_broker(self, act: Callable[[Broker], Any]) -> Any:
        async def run() -> Any:
            async with open_broker(self.url) as broker:
                return await act(broker)

        return trio.run(run)

    def enter(self, actors: Mapping[str, Sequence[str]]) -> None:
        """Have these actors run, as far as the broker knows."""
        self.at_broker(lambda broker: enter_actors(broker.values, actors, time.time()))

    def backlog(self, source: str) -> int:
        found: int = self.at_broker(lambda broker: broker.backlog(source))
        return found


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    (tmp_path / "shop.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    # Every test has modules of its own, such as `shop`, which no other test may find.
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    before = set(sys.modules)
    for name in [name for name in os.environ if name.startswith("ACTORWORK_")]:
        monkeypatch.delenv(name)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):  # With one of them, what is no terminal is taken for one.
        monkeypatch.delenv(name, raising=False)
    yield Shell(tmp_path, f"sqlite:///{tmp_path}/messages.db")
    own = {tmp_path, HOUSE / "examples" / "config"}
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent in own:
            del sys.modules[name]
