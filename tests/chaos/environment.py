"""The environment of a chaos run: a server behind a fault proxy, nodes, producers, and restarts of what has died.

    Act      one server (or file), its nodes and producers, a plan of faults, and the account at its end

Everything is real: processes are started as a user starts them, and end by signals, by failpoints, or by what a handler
does. What an act promises is in `Act.play`; a broken promise raises `ChaosError`, with the facts.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

import attrs
import redis
import trio

from actorwork import Actor, Settings, open_system, receive
from actorwork.abc import Broker
from actorwork.brokers import open_broker
from actorwork.failpoints import VARIABLE
from actorwork.testing.ledger import Account, Ledger
from actorwork.testing.proxy import FaultProxy, open_proxy
from actorwork.testing.redis_server import RedisServer, find_redis_server, open_redis_server

from . import workers
from .plan import Fault, faults

ROOT: Final = Path(__file__).parents[2]
PROGRESS: Final = 30.0
"""Seconds after which nodes that could work, and do not, are stuck: a bound on progress, not on speed."""
LAST: Final = 180.0
"""Seconds in which the remaining messages must be handled after the last fault."""
SOON: Final = 90.0
"""Seconds for what takes milliseconds, such as the end of an orphan."""


class Server(Protocol):
    """What faults of servers need: `RedisServer`, or a primary of a cluster."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def kill(self) -> None: ...
    def stop(self) -> None: ...
    def start(self) -> None: ...


class ChaosError(AssertionError):
    """A promise was broken."""


@attrs.define(eq=False)
class Member:
    """One process of the run, which is replaced when it has died."""

    role: str
    arguments: Sequence[str]
    process: subprocess.Popen[bytes]
    log: Path
    expected: set[int]
    """Exit codes that the process may end with."""
    next_crash: str = ""
    """The failpoint at which its replacement dies."""


@attrs.define
class Tally:
    """Counts of the notes in the ledger, read incrementally."""

    path: Path
    offset: int = 0
    begun: int = 0
    ended: int = 0
    sending: dict[int, tuple[float, str]] = attrs.field(factory=dict[int, "tuple[float, str]"])
    sent: set[int] = attrs.field(factory=set[int])
    given: defaultdict[int, list[list[int]]] = attrs.field(factory=lambda: defaultdict[int, list[list[int]]](list))
    """Of each chord whose body has run, what it was given in each run."""

    def read_on(self) -> None:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self.offset += len(line)
                note = json.loads(line)
                match note["what"]:
                    case "begun":
                        self.begun += 1
                    case "ended":
                        self.ended += 1
                    case "sending":
                        self.sending[note["facts"]["number"]] = (note["at"], note["facts"]["kind"])
                    case "given":
                        self.given[note["facts"]["number"]].append(note["facts"]["values"])
                    case _:
                        self.sent.add(note["facts"]["number"])


@attrs.frozen
class Result:
    """The account of an act."""

    act: str
    seconds: float
    faults: Counter[str]
    processes: int
    sent: int
    unknown: int
    """Messages whose producer died before it knew that they were accepted."""
    handled: int
    again: int
    """Handlers that ran, but whose settlement was refused or never sent."""
    dead: Counter[str]
    forgotten: int
    longest_pause: float
    """The most seconds between two handled messages while a node could have handled one."""
    rest: float
    """Seconds from the last fault until the remaining messages were handled."""

    def __str__(self) -> str:
        dead = ", ".join(f"{count} {kind}" for kind, count in sorted(self.dead.items())) or "none"
        return (
            f"{self.act}: {self.faults.total()} faults in {self.seconds:.0f} s, {self.processes} processes started;"
            f" {self.sent} sent ({self.unknown} unknown to their senders), {self.handled} handled once,"
            f" {self.again} handlers run in vain, dead letters: {dead}; {self.forgotten} forgotten by the server;"
            f" longest pause {self.longest_pause:.1f} s, the rest done in {self.rest:.1f} s"
        )


class Act:
    """`kept`: behind a server with an append-only file. `forgetful`: without one. `embedded`: on a file."""

    program: ClassVar = "tests.chaos.workers"
    """The module that a node or producer runs."""
    carries_out: ClassVar[Mapping[str, Callable[[Any, Fault], Awaitable[None]]]]
    """How each fault is brought about, by an act of this class."""

    def __init__(self, name: str, seed: int, seconds: float, folder: Path, *, say: Callable[[str], None]) -> None:
        self.name = name
        self.seed = seed
        self.seconds = seconds
        self.folder = folder
        self.say = say
        folder.mkdir(parents=True)
        self.ledger = Ledger(folder / "ledger")
        os.environ[workers.LEDGER] = str(self.ledger.path)
        workers.ledger.cache_clear()
        self.tally = Tally(self.ledger.path)
        self.members: list[Member] = []
        self.started = 0
        self.counts: Counter[str] = Counter()
        self.dark = 0
        """Number of current faults that keep all nodes from working."""
        self.wiped_at = 0.0
        self.longest_pause = self.rest = 0.0
        self.producers = 0
        self.burst = 0
        self.server_lock = trio.Lock()
        self.server: RedisServer
        self.proxy: FaultProxy
        self.url = self.direct_url = f"sqlite:///{folder}/messages.db"
        self.dice_seed = f"{seed}/{name}"

    # ------------------------------------------------------------------------------------------------------- the play

    async def play(self) -> str:
        """Play the act and return its account, or raise what was wrong."""
        began = time.monotonic()
        async with self._open_place():
            try:
                await self._go_wrong()
                await self._bring_to_an_end()
                return await self._settle_accounts(time.monotonic() - began)
            finally:
                for member in self.members:
                    self._end_by_force(member)
                for pid in marked(self.ledger.path):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self.ledger.close()

    @asynccontextmanager
    async def _open_place(self) -> AsyncGenerator[None]:
        if self.name == "embedded":
            yield
            return
        # With `appendfsync always`: by the second, a server that syncs accepts what it has not written, and is killed.
        with open_redis_server(append_only=self.name == "kept") as self.server:
            async with open_proxy(self.server.url) as self.proxy:
                self.direct_url, self.url = self.server.url, self.proxy.url
                yield

    async def _go_wrong(self) -> None:
        for role in ("single", "single", "processes"):
            self.members.append(self._fill(role, self.url))
        for _ in range(2):
            self.members.append(self._new_producer())
        await self._wait(lambda: self.tally.ended > 0, "the first handled message", within=120)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_filled)
            nursery.start_soon(self._watch_progress)
            # A fault that has begun is completed: a server is started again, a frozen process resumes.
            async with trio.open_nursery() as under_way:
                with trio.move_on_after(self.seconds):
                    for fault in faults(self.seed, act=self.name):
                        await trio.sleep(fault.pause)
                        if not self._is_possible(fault):
                            continue
                        self.say(f"{self.name} {fault}")
                        self.counts[fault.name] += 1
                        under_way.start_soon(self.carries_out[fault.name], self, fault)
            nursery.cancel_scope.cancel()

    def _is_possible(self, fault: Fault) -> bool:
        """Return whether a fault can be brought about now; else it is left out."""
        return True

    # ------------------------------------------------------------------------------------------------------- processes

    def _fill(self, role: str, *arguments: str, crash_at: str = "") -> Member:
        self.started += 1
        log = self.folder / f"{self.started:04d}-{role}.log"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ACTORWORK_")}
        environment |= {"PYTHONPATH": str(ROOT), workers.LEDGER: str(self.ledger.path), VARIABLE: crash_at}
        command = [
            sys.executable,
            "-m",
            self.program,
            role,
            arguments[0],
            str(self.ledger.path),
            *arguments[1:],
        ]
        with log.open("wb") as file:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stderr=file)
        expected = {workers.POISON_EXIT} if role == "single" else set[int]()
        if crash_at:
            expected.add(-signal.SIGKILL)
        return Member(role, arguments, process, log, expected)

    def _new_producer(self) -> Member:
        self.producers += 1
        return self._fill("producer", self.url, str(self.producers), f"{self.dice_seed}/{self.producers}")

    async def _keep_filled(self) -> None:
        """Replace processes that have ended, and check that each had a reason to end."""
        while True:
            for index, member in enumerate(self.members):
                code = member.process.poll()
                if code is None:
                    continue
                self._check_code(member, code)
                if member.role == "producer":
                    self.members[index] = self._new_producer()
                else:
                    self.members[index] = self._fill(member.role, self.url, crash_at=member.next_crash)
            await trio.sleep(0.02)

    def _check_code(self, member: Member, code: int) -> None:
        log = member.log.read_text(errors="replace")
        # If a process of a tree dies while the tree starts, that is a failed start; the orchestrator starts it again.
        failed_start = code == 1 and "did not start: ProcessLost" in log
        if code not in member.expected and not failed_start:
            raise ChaosError(
                f"{member.role} {member.process.pid} ended with {code}, expected one of {sorted(member.expected)};"
                f" its log, {member.log}, ends: {log[-1500:]}"
            )

    async def _watch_progress(self) -> None:
        """Check that messages are handled whenever a node could handle them."""
        last, ended = time.monotonic(), 0
        while True:
            self.tally.read_on()
            now = time.monotonic()
            if self.tally.ended > ended or self.dark:
                if not self.dark:
                    self.longest_pause = max(self.longest_pause, now - last)
                last, ended = now, self.tally.ended
            elif now - last > PROGRESS:
                raise ChaosError(f"no message was handled for {PROGRESS:g} s, though nodes could have worked")
            await trio.sleep(0.05)

    def nodes(self, role: str | None = None) -> list[Member]:
        return [member for member in self.members if member.role != "producer" and role in (None, member.role)]

    def node_of(self, fault: Fault, role: str | None = None) -> Member:
        nodes = self.nodes(role)
        return nodes[fault.victim % len(nodes)]

    def child_of(self, fault: Fault) -> int | None:
        children = children_of(self.node_of(fault, "processes").process.pid)
        return children[fault.victim % len(children)] if children else None

    @staticmethod
    def _end_by_force(member: Member) -> None:
        if member.process.poll() is None:
            member.process.kill()
        member.process.wait()

    async def kill(self, member: Member) -> None:
        """Kill a process, and check that no child outlives it."""
        children = [pid for pid in children_of(member.process.pid) if state_of(pid) != "T"]
        member.expected.add(-signal.SIGKILL)
        member.process.kill()
        await self._wait(
            lambda: all(state_of(pid) in ("", "Z", "T") for pid in children), f"the end of the children {children}"
        )

    async def freeze(self, pid: int, seconds: float) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            await trio.sleep(seconds)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    async def stop(self, member: Member, *, signals: int) -> None:
        """Stop a node as an orchestrator does, and check that it ends in time."""
        member.expected |= {0, 3, -signal.SIGTERM}  # Until the handler is installed, SIGTERM kills it.
        for _ in range(signals):
            member.process.send_signal(signal.SIGTERM)
            await trio.sleep(0.1)
        await self._wait(lambda: member.process.poll() is not None, f"the end of {member}", within=workers.GRACE + 25)

    async def send(self, messages: dict[int, str]) -> None:
        async with open_broker(self.direct_url) as broker:
            await workers.send(broker, messages)

    def new_numbers(self, count: int) -> range:
        """Return numbers that belong to no producer."""
        first = self.burst
        self.burst += count
        return range(first, first + count)

    # ---------------------------------------------------------------------------------------------------------- server

    def server_of(self, fault: Fault) -> Server:
        """Return the server that a fault concerns."""
        return self.server

    def proxy_of(self, fault: Fault) -> FaultProxy:
        """Return what carries the bytes that a fault of the network concerns."""
        return self.proxy

    def ask(self, *command: str) -> object:
        connection: Any = redis.Redis(unix_socket_path=str(self.server.socket_path), protocol=2, socket_timeout=None)
        with connection:
            return connection.execute_command(*command)

    @asynccontextmanager
    async def darkness(self) -> AsyncGenerator[None]:
        """Suspend the check of progress: nodes cannot work meanwhile."""
        self.dark += 1
        try:
            yield
        finally:
            self.dark -= 1

    async def restart_server(self, fault: Fault, end: Callable[[Server], None]) -> None:
        async with self.server_lock, self.darkness():
            server = self.server_of(fault)
            await trio.to_thread.run_sync(end, server)
            await trio.sleep(fault.seconds)
            await trio.to_thread.run_sync(server.start)
            if self.name == "forgetful":
                self.wiped_at = time.monotonic()

    async def wipe(self, *command: str) -> None:
        async with self.server_lock:
            await trio.to_thread.run_sync(lambda: self.ask(*command))
            self.wiped_at = time.monotonic()

    # --------------------------------------------------------------------------------------------------------- the end

    async def _bring_to_an_end(self) -> None:
        """Stop the faults, let the remaining messages be handled, stop all processes, and check that none is left."""
        self._heal()
        for member in self.members:
            if member.role == "producer":
                self._end_by_force(member)
        self.members = [member for member in self.members if member.role != "producer"]
        began = time.monotonic()
        # From now on the server forgets nothing.
        await self.send(dict.fromkeys(self.new_numbers(100), "plain"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_filled)
            async with open_broker(self.direct_url) as broker:
                await self._wait_drained(broker, workers.SOURCE, self._delayed)
            self.rest = time.monotonic() - began
            await self._wait_whole()
            nursery.cancel_scope.cancel()
        await self._end_processes()

    def _heal(self) -> None:
        """End what a fault of the network has left."""
        if self.name != "embedded":
            self.proxy.heal()

    async def _wait_drained(self, broker: Broker, source: str, delayed: Callable[[], Awaitable[object]]) -> None:
        """Wait until nothing is left of a source: neither in its streams nor `delayed`."""

        async def is_empty() -> bool:
            # Between the two questions a message may go from one place to the other, and be seen in neither. It does
            # so once in the 0.2 s by which a retry is delayed: not three times in a row.
            for _ in range(3):
                if await broker.backlog(source) or await delayed():
                    return False
                await trio.sleep(0.07)
            return True

        await self._wait_true(is_empty, "an empty source", within=LAST)

    async def _wait_whole(self) -> None:
        """Wait until all nodes are up, with their child processes: one that is told to end while it starts has to force
        what has not started."""
        await self._wait(lambda: all(map(is_whole, self.members)), "all nodes to be up again", within=LAST)

    async def _end_processes(self) -> None:
        """Stop all nodes, and check that each ends in order, and that no process is left."""
        for member in self.members:
            member.expected.add(0)
            member.process.send_signal(signal.SIGTERM)
        for member in self.members:
            await self._wait(lambda member=member: member.process.poll() is not None, f"the end of {member}", within=40)
            self._check_code(member, member.process.returncode)
        await self._wait(lambda: not marked(self.ledger.path), "the end of all processes", within=SOON)

    async def _delayed(self) -> int:
        if self.name != "embedded":
            count = self.ask("ZCARD", f"actorwork:{{{workers.SOURCE}}}:delayed")
            assert isinstance(count, int)
            return count
        import sqlite3

        with closing(sqlite3.connect(f"{self.folder}/messages.db")) as connection:
            return int(connection.execute("select count(*) from delayed").fetchone()[0])

    async def _settle_accounts(self, seconds: float) -> str:
        receipts: list[tuple[int, str]] = []

        class Auditor(Actor):
            settings = Settings(title="auditor", sources={workers.RECEIPTS})

            @receive
            async def note(self, *, number: int, kind: str) -> None:
                receipts.append((number, kind))

        async with open_broker(self.direct_url) as broker:
            async with open_system(Auditor, broker=broker):

                async def is_empty() -> bool:
                    return await broker.backlog(workers.RECEIPTS) == 0

                await self._wait_true(is_empty, "all receipts", within=LAST)
            letters = await broker.dead_letters.list(limit=1_000_000)
        self.tally.read_on()
        dead: dict[int, str] = {}
        for letter in letters:
            assert isinstance(letter.payload, bytes)
            number = json.loads(letter.payload)["number"]
            if number in dead:
                raise ChaosError(f"{number} is dead twice")
            dead[number] = letter.failure.type
        handled = [number for number, _ in receipts]
        seen = {*handled, *dead}
        followers = {number + workers.EACH // 2 for number, kind in receipts if kind == "chain"}
        unknown = self.tally.sending.keys() - self.tally.sent
        sent = self.tally.sent | (unknown & seen) | followers
        # What was sent before the server was wiped counts as forgotten, if it is in no other column.
        forgotten = {
            number
            for number in sent - seen
            if self.wiped_at and (number not in self.tally.sending or self.tally.sending[number][0] < self.wiped_at)
        }
        # The server may have forgotten the settlement of a message, but not the message that it published.
        orphans = {number for number in seen - sent if self.wiped_at and number % workers.EACH >= workers.EACH // 2}
        Account(sent=(sent - forgotten) | orphans, handled=handled, dead=dead).check()
        kinds = {number: kind for number, (_, kind) in self.tally.sending.items()}
        for number in (sent & self.tally.sending.keys()) - forgotten:
            if kinds[number] in ("poison", "bad") and number not in dead:
                raise ChaosError(f"{number} is {kinds[number]} and was handled")
        for number, why in dead.items():
            if why != "Crashed" and kinds.get(number) != "bad":
                raise ChaosError(f"{number} ({kinds.get(number)}) is a dead letter for {why}")
        innocent = sum(1 for number, why in dead.items() if why == "Crashed" and kinds.get(number) != "poison")
        result = Result(
            act=self.name,
            seconds=seconds,
            faults=self.counts,
            processes=self.started,
            sent=len(sent),
            unknown=len(unknown),
            handled=len(handled),
            again=self.tally.ended - len(handled) if not self.wiped_at else 0,
            dead=Counter(kinds.get(number, "plain") for number in dead)
            + Counter({"of these at several crashes by chance": innocent}),
            forgotten=len(forgotten),
            longest_pause=self.longest_pause,
            rest=self.rest,
        )
        return str(result)

    # --------------------------------------------------------------------------------------------------------- waiting

    async def _wait(self, condition: Callable[[], object], what: str, *, within: float = SOON) -> None:
        limit = time.monotonic() + within
        while not condition():
            if time.monotonic() > limit:
                raise ChaosError(f"{self.name}: waited {within:g} s for {what}")
            await trio.sleep(0.02)
            self.tally.read_on()

    async def _wait_true(self, condition: Callable[[], Awaitable[object]], what: str, *, within: float) -> None:
        limit = time.monotonic() + within
        while not await condition():
            if time.monotonic() > limit:
                raise ChaosError(f"{self.name}: waited {within:g} s for {what}")
            await trio.sleep(0.05)


# ------------------------------------------------------------------------------------------------------ faults


async def kill_node(act: Act, fault: Fault) -> None:
    await act.kill(act.node_of(fault))


async def kill_child(act: Act, fault: Fault) -> None:
    pid = act.child_of(fault)
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


async def freeze_node(act: Act, fault: Fault) -> None:
    await act.freeze(act.node_of(fault).process.pid, fault.seconds)


async def freeze_child(act: Act, fault: Fault) -> None:
    pid = act.child_of(fault)
    if pid is not None:
        await act.freeze(pid, fault.seconds)


async def stop_node(act: Act, fault: Fault) -> None:
    await act.stop(act.node_of(fault), signals=1)


async def stop_node_by_force(act: Act, fault: Fault) -> None:
    await act.stop(act.node_of(fault), signals=2)


async def crash_at_point(act: Act, fault: Fault) -> None:
    """Kill a node, and let its replacement die at a failpoint."""
    member = act.node_of(fault, "single")
    member.next_crash = fault.point
    await act.kill(member)


async def send_poison(act: Act, fault: Fault) -> None:
    await act.send(dict.fromkeys(act.new_numbers(1), "poison"))


async def send_many(act: Act, fault: Fault) -> None:
    await act.send(dict.fromkeys(act.new_numbers(200), "plain"))


async def kill_producer(act: Act, fault: Fault) -> None:
    producers = [member for member in act.members if member.role == "producer"]
    await act.kill(producers[fault.victim % len(producers)])


async def cut(act: Act, fault: Fault) -> None:
    act.proxy_of(fault).cut()


async def cut_in_mid_reply(act: Act, fault: Fault) -> None:
    act.proxy_of(fault).cut_after(fault.size)


async def cut_after_request(act: Act, fault: Fault) -> None:
    # No client sends more to a server that does not answer.
    act.proxy_of(fault).cut_after_request(min(fault.size, 100))


async def half_close(act: Act, fault: Fault) -> None:
    act.proxy_of(fault).half_close()


async def black_hole(act: Act, fault: Fault) -> None:
    proxy = act.proxy_of(fault)
    async with act.darkness():
        proxy.black_hole()
        await trio.sleep(fault.seconds)
        proxy.flow()


async def late_replies(act: Act, fault: Fault) -> None:
    proxy = act.proxy_of(fault)
    proxy.delay(0.05)
    await trio.sleep(fault.seconds)
    proxy.delay(0)


async def replies_in_pieces(act: Act, fault: Fault) -> None:
    proxy = act.proxy_of(fault)
    proxy.split(fault.size % 100 + 1)
    await trio.sleep(fault.seconds)
    proxy.split(65536)


async def refuse_connections(act: Act, fault: Fault) -> None:
    proxy = act.proxy_of(fault)
    async with act.darkness():
        proxy.refuse()
        proxy.cut()
        await trio.sleep(fault.seconds)
        proxy.accept()


async def pause_server(act: Act, fault: Fault) -> None:
    async with act.server_lock, act.darkness():
        server = act.server_of(fault)
        server.pause()
        await trio.sleep(fault.seconds)
        server.resume()


async def kill_server(act: Act, fault: Fault) -> None:
    await act.restart_server(fault, lambda server: server.kill())


async def stop_server(act: Act, fault: Fault) -> None:
    await act.restart_server(fault, lambda server: server.stop())


async def forget_scripts(act: Act, fault: Fault) -> None:
    async with act.server_lock:
        act.ask("SCRIPT", "FLUSH")


async def kill_clients(act: Act, fault: Fault) -> None:
    async with act.server_lock:
        act.ask("CLIENT", "KILL", "TYPE", "normal")


async def destroy_group(act: Act, fault: Fault) -> None:
    async with act.server_lock:
        with suppress(redis.ResponseError):
            act.ask("XGROUP", "DESTROY", workers.SOURCE, workers.Hand.settings.id)


async def flush_everything(act: Act, fault: Fault) -> None:
    await act.wipe("FLUSHALL")


async def delete_source(act: Act, fault: Fault) -> None:
    await act.wipe("DEL", workers.SOURCE)


CARRY_OUT: Final[dict[str, Callable[[Act, Fault], Awaitable[None]]]] = {
    "kill a node": kill_node,
    "kill a child process": kill_child,
    "freeze a node": freeze_node,
    "freeze a child process": freeze_child,
    "stop a node": stop_node,
    "stop a node by force": stop_node_by_force,
    "crash at a point": crash_at_point,
    "send poison": send_poison,
    "kill a producer": kill_producer,
    "send many at once": send_many,
    "cut": cut,
    "cut in mid reply": cut_in_mid_reply,
    "cut after a request": cut_after_request,
    "half-close": half_close,
    "black hole": black_hole,
    "late replies": late_replies,
    "replies in pieces": replies_in_pieces,
    "refuse connections": refuse_connections,
    "pause the server": pause_server,
    "kill the server": kill_server,
    "restart the server": stop_server,
    "forget scripts": forget_scripts,
    "kill all clients": kill_clients,
    "destroy the group": destroy_group,
    "flush everything": flush_everything,
    "delete the source": delete_source,
}
Act.carries_out = CARRY_OUT


# ------------------------------------------------------------------------------------------------------------ processes


def major_version() -> int:
    """Return that of the server that is started here."""
    found = subprocess.run([find_redis_server(), "--version"], capture_output=True, text=True, check=True).stdout
    return int(found.partition("v=")[2].partition(".")[0])


def processes() -> Iterator[int]:
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            yield int(path.name)


def state_of(pid: int) -> str:
    """Return the letter of a process's state, as in `ps`; an empty string if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return ""


def children_of(pid: int) -> list[int]:
    """Return the child processes that are nodes themselves."""
    found: list[int] = []
    for one in processes():
        with suppress(OSError):
            parent = int(Path(f"/proc/{one}/stat").read_text().rpartition(") ")[2].split()[1])
            if parent == pid and b"resource_tracker" not in Path(f"/proc/{one}/cmdline").read_bytes():
                found.append(one)
    return sorted(found)


def is_whole(node: Member) -> bool:
    """Tell whether a node is up, and with it the child processes that it runs."""
    log = node.log.read_text(errors="replace")
    if node.role == "single":
        return "is up at" in log
    # Its children write to the same log, but each of them reads for an actor.
    children = [pid for pid in children_of(node.process.pid) if state_of(pid) != "Z"]
    is_up = [f"is up: process {pid}," in log for pid in children]
    return "reads for no actor" in log and len(is_up) == workers.REPLICAS and all(is_up)


def marked(ledger: Path) -> list[int]:
    """Return the processes of an act: those that were started with its ledger, and their descendants."""
    mark = f"{workers.LEDGER}={ledger}".encode()
    found: list[int] = []
    for one in processes():
        with suppress(OSError):
            if one != os.getpid() and state_of(one) != "Z" and mark in Path(f"/proc/{one}/environ").read_bytes():
                found.append(one)
    return found
