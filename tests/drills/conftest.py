"""What drills use: brokers seen from outside, and nodes that can be killed."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from datetime import datetime
from itertools import chain, repeat
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import pytest
import redis
import trio

from actorwork import Actor, Settings, open_system, receive
from actorwork.abc import Broker
from actorwork.brokers import open_broker
from actorwork.failpoints import VARIABLE
from actorwork.message import RESULT_TTL, Envelope, MessageIds
from actorwork.streams import keys
from actorwork.streams.broker import RedisBroker
from actorwork.testing.ledger import Account, Ledger
from actorwork.testing.redis_cluster import RedisCluster, open_redis_cluster
from actorwork.testing.redis_server import RedisServer
from tests.fork_server import ROOT, ForkedPopen
from tests.patience import PATIENCE

from . import workers


async def until(condition: Callable[[], object], what: str, *, within: float = PATIENCE) -> None:
    """Poll every ten milliseconds until `condition` is true: files and processes set no Trio events."""
    limit = time.monotonic() + within
    while not condition():
        assert time.monotonic() < limit, f"waited {within:g} s for {what}"
        await trio.sleep(0.01)


async def until_true(condition: Callable[[], Awaitable[object]], what: str, *, within: float = PATIENCE) -> None:
    """As `until`, for a condition that has to ask a broker."""
    limit = time.monotonic() + within
    while not await condition():
        assert time.monotonic() < limit, f"waited {within:g} s for {what}"
        await trio.sleep(0.01)


# --------------------------------------------------------------------------------------------------------------- nodes


@attrs.frozen
class Line:
    """One line of a node's log; `at` is in seconds since the epoch."""

    level: str
    message: str
    at: float
    fields: dict[str, Any]


def is_locked(url: str) -> bool:
    """Return whether a process has locked the file of an embedded broker; a server is never locked."""
    if not url.startswith("sqlite:///"):
        return False
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=0.2, isolation_level=None)) as store:
        try:
            store.execute("begin immediate")
        except sqlite3.OperationalError:
            return True
        store.execute("rollback")
        return False


class Node:
    """A process that runs one of the workers' trees."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.pid = process.pid
        self._log = log
        self._lines: list[Line] = []
        self._read = 0

    def __repr__(self) -> str:
        return f"<node {self.pid}, {self.process.poll()}>"

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def lines(self, part: str = "") -> list[Line]:
        """Return the lines of the log whose message contains `part`."""
        with self._log.open("rb") as file:
            file.seek(self._read)
            for text in file:
                if not text.endswith(b"\n"):
                    break
                self._read += len(text)
                if text.startswith(b"{"):
                    fields = json.loads(text)
                    at = datetime.fromisoformat(fields["time"]).timestamp()
                    self._lines.append(Line(fields["level"], fields["message"], at, fields))
        return [line for line in self._lines if part in line.message]

    async def wait_line(self, part: str, *, count: int = 1, within: float = PATIENCE) -> Line:
        def is_there() -> bool:
            assert self.process.poll() is None or len(self.lines(part)) >= count, f"it ended: {self.output[-3000:]}"
            return len(self.lines(part)) >= count

        await until(is_there, f"{part!r} in the log of {self}", within=within)
        return self.lines(part)[count - 1]

    async def wait_up(self) -> None:
        await self.wait_line("is up at")

    @property
    def incarnation(self) -> str:
        """The id of the node, as the line that says that it is up has it; the first one, if it lost its lease."""
        return self.lines("is up at")[0].message.split()[1]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def kill(self) -> None:
        self.process.kill()
        await self.wait_ended()

    async def wait_ended(self, *, within: float = PATIENCE) -> int:
        """Wait until the process has ended, and return its exit code."""
        await until(lambda: self.process.poll() is not None, f"the end of {self}", within=within)
        code: int = self.process.returncode
        return code

    async def wait_killed(self) -> None:
        """Wait until the node has killed itself at its failpoint: a drill that did not happen must not pass."""
        code = await self.wait_ended()
        assert code == -signal.SIGKILL, f"{code}: {self.output[-3000:]}"

    async def wait_stopped(self) -> None:
        """Wait until the node has stopped itself at its failpoint."""
        await until(lambda: self.state() == "T", f"{self} to stop at its failpoint")

    async def freeze(self, url: str, *, is_good: Callable[[], object] = lambda: True) -> None:
        """Freeze the process while `is_good()`, but not while it holds the lock of the store, which stops writers."""
        while True:
            self.signal(signal.SIGSTOP)
            await self.wait_stopped()
            if is_good() and not is_locked(url):
                return
            self.signal(signal.SIGCONT)
            await trio.sleep(0.003)

    def state(self) -> str:
        """Return the letter of the process's state, as in `ps`: T if it is stopped."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2][0]

    async def stop(self) -> None:
        """Stop the node by a SIGTERM, and check that it stops cleanly."""
        self.signal(signal.SIGTERM)
        code = await self.wait_ended()
        assert code == 0, self.output[-3000:]


MANY = 1000


class Drill:
    """A ledger, and the nodes that write to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = Ledger(folder / "ledger")
        self.nodes: list[Node] = []

    def start(
        self,
        tree: str,
        url: str,
        *,
        crash_at: str = "",
        program: ModuleType = workers,
        fresh: bool = False,
        through: Sequence[str] = (),
        **options: float,
    ) -> Node:
        """Start a process that runs `tree`; `crash_at` names the failpoint at which it dies.

        A drill that kills many nodes says `max_crashes=MANY`: otherwise a message that happens to be in flight at three
        of them becomes a dead letter, rightly.

        The process is forked, unless it is to be `fresh`: then it is a new interpreter, as a user would start it. So is
        one that is started `through` a command that runs the one after it, on another host or with another clock.
        """
        log = self.folder / f"node{len(self.nodes)}.log"
        arguments = [tree, url, str(self.ledger.path), *(f"{name}={value}" for name, value in options.items())]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ACTORWORK_")}
        environment |= {"PYTHONPATH": str(ROOT), VARIABLE: crash_at}
        log.touch()
        is_fresh = fresh or bool(through)
        start: type[subprocess.Popen[bytes]] = subprocess.Popen if is_fresh else ForkedPopen[bytes]
        command = [*through, sys.executable, str(program.__file__)] if is_fresh else ["call", program.__name__]
        with log.open("wb") as file:
            process = start([*command, *arguments], env=environment, stdin=subprocess.DEVNULL, stderr=file)
        node = Node(process, log)
        self.nodes.append(node)
        return node

    async def start_up(
        self,
        tree: str,
        url: str,
        *,
        crash_at: str = "",
        fresh: bool = False,
        through: Sequence[str] = (),
        **options: float,
    ) -> Node:
        node = self.start(tree, url, crash_at=crash_at, program=workers, fresh=fresh, through=through, **options)
        await node.wait_up()
        return node

    async def wait_notes(self, what: str, count: int, *, pid: int | None = None, within: float = PATIENCE) -> None:
        await until(lambda: self.ledger.count(what, pid=pid) >= count, f"{count} notes {what!r}", within=within)

    def close(self) -> None:
        for node in self.nodes:
            if node.process.poll() is None:
                node.process.kill()
            node.process.wait()
        self.ledger.close()


@pytest.fixture
def drill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Drill]:
    drill = Drill(tmp_path)
    monkeypatch.setattr(workers, "ledger", drill.ledger, raising=False)
    try:
        yield drill
    finally:
        drill.close()


# -------------------------------------------------------------------------------------------------------------- places


@pytest.fixture(scope="session")
def primaries() -> Generator[RedisCluster]:
    with open_redis_cluster() as cluster:
        yield cluster


@pytest.fixture(params=["redis", "embedded", pytest.param("cluster", marks=pytest.mark.long)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty broker of each kind; of a cluster in the long tests."""
    if request.param == "redis":
        found: str = request.getfixturevalue("redis_url")
        return found
    if request.param == "cluster":
        cluster: RedisCluster = request.getfixturevalue("primaries")
        cluster.flush()
        return cluster.url
    return f"sqlite:///{tmp_path}/messages.db"


class Place:
    """A broker as a sender sees it, who also checks how its messages ended."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self._ids = MessageIds(os.urandom(8).hex())

    async def send(self, source: str, messages: Iterable[object], *, keys: Iterable[str | None] = ()) -> list[str]:
        """Send JSON values, each of which asks for its outcome to be stored; return their ids."""
        headers = {RESULT_TTL: 60}
        envelopes = [
            Envelope(source, next(self._ids), json.dumps(one).encode(), None, headers, key=key)
            for one, key in zip(messages, chain(keys, repeat(None)), strict=False)
        ]
        await self.broker.publish(envelopes)
        return [envelope.id for envelope in envelopes]

    async def send_numbers(
        self, source: str, numbers: Iterable[int], *, keys: int = 0, **more: object
    ) -> dict[int, str]:
        """Send a message for each number, with one of so many keys; return their ids by number."""
        numbers = list(numbers)
        messages = [{"number": one, **more} for one in numbers]
        ids = await self.send(source, messages, keys=[f"key {one % keys}" for one in numbers] if keys else ())
        return dict(zip(numbers, ids, strict=True))

    async def wait_empty(self, *sources: str, within: float = PATIENCE) -> None:
        for source in sources:

            async def is_empty(source: str = source) -> bool:
                return await self.broker.backlog(source) == 0

            await until_true(is_empty, f"an empty source {source!r}", within=within)

    async def is_forwarded(self, source: str) -> bool:
        """Return whether the outbox of a source on a cluster is empty."""
        assert isinstance(self.broker, RedisBroker)
        return await self.broker.client.call("XLEN", keys.outbox(source)) == 0

    async def kill(self, node: Node) -> None:
        """Kill a node, and release its lease, as a parent process does: nothing waits until it has expired."""
        await node.kill()
        await self.broker.release_lease(node.incarnation)  # On a busy machine it may have expired by now.

    async def receipts(self) -> list[dict[str, Any]]:
        """Return the receipts of all settlements accepted since the last call."""
        found: list[dict[str, Any]] = []

        class Auditor(Actor):
            settings = Settings(title="auditor", sources={workers.RECEIPTS})

            @receive
            async def note(self, message: dict[str, Any]) -> None:
                found.append(message)

        async with open_system(Auditor, broker=self.broker):
            await self.wait_empty(workers.RECEIPTS)
        return found

    async def check_account(self, sent: Sequence[int], *, actor: str | None = None) -> list[dict[str, Any]]:
        """Check that each message has exactly one accepted settlement; return the receipts."""
        receipts = await self.receipts()
        Account(sent=sent, handled=(one["number"] for one in receipts if actor in (None, one["actor"]))).check()
        return receipts


@asynccontextmanager
async def open_place(url: str) -> AsyncGenerator[Place]:
    async with open_broker(url) as broker:
        yield Place(broker)


class Redis:
    """A server as an administrator sees it, with a connection for each command."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.url = server.url

    def __call__(self, *command: Any) -> Any:
        """Send one command, and return its reply unconverted."""
        with self._connected() as connection:
            return connection.execute_command(*command)

    def pipeline(self, commands: Iterable[Sequence[Any]]) -> None:
        """Send many commands in one pipeline."""
        with self._connected() as connection:
            pipeline = connection.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            pipeline.execute()

    @contextmanager
    def _connected(self) -> Generator[Any]:
        connection: Any = redis.Redis(unix_socket_path=str(self.server.socket_path), protocol=2, socket_timeout=None)
        connection.response_callbacks.clear()
        with connection:
            yield connection

    def pending(self, source: str) -> int:
        """Return the number of pending entries of all groups of a source."""
        groups: list[list[Any]] = self("XINFO", "GROUPS", source)
        return sum(dict(zip(group[::2], group[1::2], strict=True))[b"pending"] for group in groups)


@pytest.fixture
def here(redis_server: RedisServer, redis_url: str) -> Redis:
    """The session's server, emptied."""
    return Redis(redis_server)


@pytest.fixture
def servers() -> Generator[ExitStack]:
    """A stack on which a drill enters servers of its own."""
    with ExitStack() as stack:
        yield stack
