"""The harness: a chain of three actors under producers of three kinds, and faults of processes, network and server.

    python -m tests.chaos.harness --minutes 10 --seed 7 --verbose

Beside the acts of `python -m tests.chaos` it adds what an operator does to a server: rights are taken away, a replica
takes over, clients are paused, memory ends, the server sleeps, actors are paused. The ledger is kept by the handlers
themselves, outside of the broker. At the end everything heals, what remains must be handled, every process must end in
order, and the audit must find no message lost, doubled or out of the order of its key.

The same seed gives the same plan of faults, but not the same timing: repeat a failing run more than once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import attrs
import redis
import trio

from actorwork import Actor, Settings, Spool, open_client, open_system, receive
from actorwork.brokers import open_broker
from actorwork.failpoints import VARIABLE
from actorwork.groups import leaves
from actorwork.message import Envelope
from actorwork.testing.proxy import FaultProxy, open_proxy
from actorwork.testing.redis_server import RedisServer, open_redis_server

from . import chain
from .effects import GUILTY, Audit, Effects, audit
from .environment import ROOT, ChaosError, Member, children_of, major_version, processes, state_of
from .plan import CRASH_AT_REDIS

WEIGHTS: Final[Mapping[str, int]] = {
    "kill a node": 5,
    "kill a child process": 4,
    "freeze a node": 3,
    "freeze a child process": 3,
    "stop a node": 3,
    "crash at a point": 5,
    "send poison": 1,
    "kill a producer": 3,
    "cut": 3,
    "cut in mid reply": 3,
    "cut after a request": 3,
    "black hole": 3,
    "kill the server": 3,
    "fail over": 5,
    "take rights away": 6,
    "make keys read-only": 3,
    "pause the clients": 4,
    "end the memory": 4,
    "let the server sleep": 3,
    "forget scripts": 1,
    "kill all clients": 2,
    "pause an actor": 3,
}
RIGHTS: Final = ("xadd", "xack", "xreadgroup", "xdel", "publish", "set", "hset", "zadd", "evalsha", "xautoclaim")
PROGRESS: Final = 60.0
"""Seconds after which a chain that could work, and does not, is stuck: a bound on progress, not on speed."""
BETWEEN: Final = 10
"""How many messages come to their end between two faults, unless that takes `BETWEEN_AT_MOST` seconds."""
BETWEEN_AT_MOST: Final = 4.0
LAST: Final = 240.0
STARTS: Final = ("single", "processes")
ENDS_WITH: Final = {0, 1, 3, chain.POISON_EXIT, -signal.SIGKILL, -signal.SIGTERM}
"""How a node may end here: 1 is a start that the broker has refused, or a process that died while its tree started."""


@attrs.frozen
class Fault:
    """One fault, `pause` seconds after the one before; it lasts `seconds`, if it lasts."""

    name: str
    pause: float
    victim: int
    seconds: float
    size: int
    point: str

    def __str__(self) -> str:
        return f"+{self.pause:.2f} {self.name} (victim {self.victim}, {self.seconds:g} s, {self.size}, {self.point})"


def faults(seed: int) -> Iterator[Fault]:
    """Yield faults without end: the same seed yields the same ones."""
    dice = random.Random(f"{seed}/harness")
    while True:
        (name,) = dice.choices(list(WEIGHTS), list(WEIGHTS.values()))
        yield Fault(
            name,
            pause=dice.uniform(0.1, 0.9),
            victim=dice.randrange(1000),
            seconds=dice.choice((0.2, 0.5, 1.0, 2.0)),
            size=dice.choice((1, 7, 100, 1000, 10_000)),
            point=f"{dice.choice(CRASH_AT_REDIS)}:{dice.choice((1, 2, 3, 5, 10, 30, 100))}",
        )


@attrs.frozen
class Result:
    """The figures of a run."""

    seed: int
    seconds: float
    faults: Counter[str]
    processes: int
    audit: Audit
    most_at_once: int
    longest_pause: float
    rest: float

    def __str__(self) -> str:
        found = self.audit
        sent = sum(count for count, _ in found.routes.values())
        routes = ", ".join(
            f"{route} {count} ({sure} for certain)" for route, (count, sure) in sorted(found.routes.items())
        )
        dead = ", ".join(f"{found.dead[kind]} {kind}" for kind in sorted(GUILTY))
        others = ", ".join(f"{count} {why}" for why, count in sorted(found.innocent.items())) or "none"
        return (
            f"seed {self.seed}, {self.seconds:.0f} s: {sent} messages sent ({routes}), {found.handled} handled,"
            f" {self.faults.total()} faults, {self.processes} processes started\n"
            f"  lost {len(found.lost)}, doubled {len(found.doubled)}, out of order {len(found.disordered)},"
            f" contradictory {len(found.contradictory)}, overwritten under the lock {len(found.overwritten)}\n"
            f"  dead letters: {dead}, others: {others}; {found.again} runs again;"
            f" at most {self.most_at_once} at once at a limit of {chain.AT_ONCE};"
            f" longest pause {self.longest_pause:.1f} s; the rest done in {self.rest:.1f} s\n"
            f"  faults: {', '.join(f'{count} {name}' for name, count in self.faults.most_common())}"
        )


class Harness:
    """One run: two servers of which one is the primary, a proxy before it, nodes, producers, faults, and the audit."""

    def __init__(self, seed: int, seconds: float, folder: Path, *, say: Callable[[str], None]) -> None:
        self.seed = seed
        self.seconds = seconds
        self.folder = folder
        self.say = say
        self.ledger = folder / "effects.sqlite3"
        os.environ[chain.LEDGER] = str(self.ledger)
        chain.effects.cache_clear()
        self.effects = Effects(self.ledger)
        self.members: list[Member] = []
        self.started = 0
        self.producers = 0
        self.counts: Counter[str] = Counter()
        self.dark = 0
        """The number of current faults that keep all nodes from working."""
        self.longest_pause = self.rest = 0.0
        self.server_lock = trio.Lock()
        self.primary: RedisServer
        self.replica: RedisServer
        self.proxy: FaultProxy

    def __repr__(self) -> str:
        return f"<Harness of seed {self.seed} in {self.folder}>"

    @property
    def direct_url(self) -> str:
        return self.primary.url

    def url_for(self, user: str) -> str:
        return self.proxy.url.replace("unix://", f"unix://{user}:{user}@", 1)

    # ---------------------------------------------------------------------------------------------------------- the run

    async def run(self) -> Result:
        began = time.monotonic()
        async with self._open_place():
            try:
                await self._go_wrong()
                await self._bring_to_an_end()
                return await self._settle_accounts(time.monotonic() - began)
            finally:
                for member in self.members:
                    end_by_force(member)
                for pid in self._left():
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self.effects.close()

    @asynccontextmanager
    async def _open_place(self) -> AsyncGenerator[None]:
        # With `appendfsync always`: by the second, a server that syncs accepts what it has not written, and is killed.
        config = {"repl-diskless-sync-delay": "0"}
        if major_version() >= 7:
            config["enable-debug-command"] = "yes"
        users = [f"{user} on >{user} ~* &* +@all" for user in ("node", "maker")]
        with ExitStack() as stack:
            self.primary, self.replica = (
                stack.enter_context(open_redis_server(tcp=True, append_only=True, users=users, config=config))
                for _ in range(2)
            )
            self._ask(self.replica, "REPLICAOF", "127.0.0.1", self.primary.port)
            async with open_proxy(self.primary.url) as self.proxy:
                yield

    async def _go_wrong(self) -> None:
        for tree in STARTS:
            self.members.append(self._start("node", self.url_for("node"), tree))
        await self._wait(lambda: all(b"is up at" in one.log.read_bytes() for one in self.members), "nodes", within=120)
        for route in ("redis-py", "client", "client", "command"):
            self.members.append(self._new_producer(route))
        await self._wait(lambda: self.effects.count("third", "ended") > 0, "the first handled message", within=120)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_filled)
            nursery.start_soon(self._watch_progress)
            # A fault that has begun is completed: a server is started again, a right is given back.
            async with trio.open_nursery() as under_way:
                with trio.move_on_after(self.seconds):
                    for fault in faults(self.seed):
                        await trio.sleep(fault.pause)
                        await self._wait_for_work()
                        self.say(str(fault))
                        self.counts[fault.name] += 1
                        under_way.start_soon(CARRY_OUT[fault.name], self, fault)
            nursery.cancel_scope.cancel()

    async def _wait_for_work(self) -> None:
        """Let some messages come to their end: on a slow machine, faults would else find nothing but starts."""
        enough = self.effects.count("third", "ended") + BETWEEN
        with trio.move_on_after(BETWEEN_AT_MOST):
            while self.effects.count("third", "ended") < enough:  # noqa: ASYNC110 - no event says so
                await trio.sleep(0.05)

    # -------------------------------------------------------------------------------------------------------- processes

    def _start(self, role: str, url: str, *arguments: str, crash_at: str = "") -> Member:
        self.started += 1
        log = self.folder / f"{self.started:04d}-{role}.log"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ACTORWORK_")}
        environment |= {"PYTHONPATH": str(ROOT), chain.LEDGER: str(self.ledger), VARIABLE: crash_at}
        command = [sys.executable, "-m", "tests.chaos.chain", role, url, str(self.ledger), *arguments]
        with log.open("wb") as file:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stderr=file)
        return Member(role, arguments, process, log, set[int]())

    def _new_producer(self, route: str) -> Member:
        self.producers += 1
        url = self.url_for("maker")
        return self._start(route, url, str(self.producers), f"{self.seed}/{self.producers}")

    async def _keep_filled(self) -> None:
        """Replace processes that have ended, and check that each had a reason to end."""
        while True:
            for index, member in enumerate(self.members):
                code = member.process.poll()
                if code is None:
                    continue
                self._check_code(member, code)
                if member.role == "node":
                    self.members[index] = self._start("node", self.url_for("node"), *member.arguments)
                else:
                    self.members[index] = self._new_producer(member.role)
            await trio.sleep(0.05)

    def _check_code(self, member: Member, code: int) -> None:
        allowed = ENDS_WITH if member.role == "node" else {-signal.SIGKILL}
        log = member.log.read_text(errors="replace")
        # Code 1 has many reasons; a traceback of this package is none that an operator could act on.
        refused = code != 1 or any(part in log for part in ("BrokerError", "did not start", "ProcessLost"))
        if code not in allowed or not refused:
            raise ChaosError(f"{member.role} {member.process.pid} ended with {code}; {member.log} ends: {log[-2000:]}")

    async def _watch_progress(self) -> None:
        """Check that messages are handled whenever a node could handle them."""
        last, ended = time.monotonic(), 0
        while True:
            now, count = time.monotonic(), self.effects.count("third", "ended")
            if count > ended or self.dark:
                if not self.dark:
                    self.longest_pause = max(self.longest_pause, now - last)
                last, ended = now, count
            elif now - last > PROGRESS:
                raise ChaosError(f"no message came to its end for {PROGRESS:g} s, though nodes could have worked")
            await trio.sleep(0.1)

    def nodes(self, tree: str | None = None) -> list[Member]:
        return [one for one in self.members if one.role == "node" and tree in (None, one.arguments[0])]

    def node_of(self, fault: Fault) -> Member:
        nodes = self.nodes()
        return nodes[fault.victim % len(nodes)]

    def child_of(self, fault: Fault) -> int | None:
        children = [pid for node in self.nodes("processes") for pid in children_of(node.process.pid)]
        return children[fault.victim % len(children)] if children else None

    def _left(self) -> list[int]:
        mark = f"{chain.LEDGER}={self.ledger}".encode()
        found: list[int] = []
        for one in processes():
            with suppress(OSError):
                if one != os.getpid() and state_of(one) != "Z" and mark in Path(f"/proc/{one}/environ").read_bytes():
                    found.append(one)
        return found

    # ---------------------------------------------------------------------------------------------------------- server

    def _ask(self, server: RedisServer, *command: object) -> Any:
        connection: Any = redis.Redis(unix_socket_path=str(server.socket_path), protocol=2, socket_timeout=20)
        with connection:
            return connection.execute_command(*command)

    async def ask(self, *command: object) -> Any:
        """Ask the primary, in a thread: it may be asleep."""
        return await trio.to_thread.run_sync(lambda: self._ask(self.primary, *command))

    @asynccontextmanager
    async def darkness(self) -> AsyncGenerator[None]:
        """Suspend the check of progress: nodes cannot work meanwhile."""
        self.dark += 1
        try:
            yield
        finally:
            self.dark -= 1

    async def fail_over(self) -> None:
        """Let the replica take over, as an operator does: coordinated, so that it has everything before it does."""
        old, new = self.primary, self.replica
        linked = await trio.to_thread.run_sync(lambda: self._ask(new, "INFO", "replication"))
        if linked.get("master_link_status") != "up":
            self.counts["fail over, not possible"] += 1
            return
        await self.ask("FAILOVER", "TO", "127.0.0.1", new.port, "TIMEOUT", 4000)
        limit = time.monotonic() + 8
        while time.monotonic() < limit:
            role = await trio.to_thread.run_sync(lambda: self._ask(new, "ROLE"))
            if role[0] in (b"master", "master"):
                self.primary, self.replica = new, old
                self.proxy.redirect(new.url)
                return
            await trio.sleep(0.02)
        with suppress(redis.ResponseError):
            await self.ask("FAILOVER", "ABORT")
        self.counts["fail over, given up"] += 1

    # ---------------------------------------------------------------------------------------------------------- the end

    async def _bring_to_an_end(self) -> None:
        """Stop the faults and the producers, let the remaining messages be handled, and end all processes."""
        self.proxy.heal()
        for member in [one for one in self.members if one.role != "node"]:
            end_by_force(member)
        self.members = self.nodes()
        spools = sorted(self.folder.glob("spool-*.sqlite3"))
        began = time.monotonic()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_filled)
            for spool in spools:
                with trio.fail_after(LAST):
                    async with open_client(self.direct_url, spool=Spool(path=spool)) as client:
                        await client.wait_replayed()
            async with open_broker(self.direct_url) as broker:
                done, until = -1, 0.0
                empty = 0
                while True:
                    waiting = [await broker.backlog(one) for one in (chain.IN, chain.MIDDLE, chain.LAST)]
                    waiting.append(len(await broker.delayed.list()))
                    # Between two questions a message may go on to a place that was asked already, and be seen in
                    # none. It does so once in the 0.2 s by which a retry is delayed: not four times in a row.
                    empty = 0 if any(waiting) else empty + 1
                    if empty > 3:
                        break
                    count = self.effects.count("third", "ended")
                    if count > done:
                        done, until = count, time.monotonic() + PROGRESS
                    elif time.monotonic() > until:
                        raise ChaosError(f"nothing came to its end for {PROGRESS:g} s, though {waiting} still wait")
                    await trio.sleep(0.1)
            self.rest = time.monotonic() - began
            nursery.cancel_scope.cancel()
        for member in self.members:
            member.process.send_signal(signal.SIGTERM)
        for member in self.members:
            await self._wait(lambda member=member: member.process.poll() is not None, f"the end of {member}", within=60)
            self._check_code(member, member.process.returncode)
        await self._wait(lambda: not self._left(), "the end of all processes", within=90)

    async def _settle_accounts(self, seconds: float) -> Result:
        receipts: list[int] = []

        class Auditor(Actor):
            settings = Settings(title="auditor", sources={chain.RECEIPTS}, concurrency=10)

            @receive
            async def note(self, *, number: int, kind: str) -> None:
                receipts.append(number)

        async with open_broker(self.direct_url) as broker:
            async with open_system(Auditor, broker=broker):

                async def is_empty() -> bool:
                    return await broker.backlog(chain.RECEIPTS) == 0

                await self._wait_true(is_empty, "all receipts", within=LAST)
            letters = await broker.dead_letters.list(limit=1_000_000)
        dead = {number_in(letter.payload): letter.failure.type for letter in letters}
        if len(dead) < len(letters):
            raise ChaosError(f"{len(letters) - len(dead)} messages are dead letters twice")
        return Result(
            seed=self.seed,
            seconds=seconds,
            faults=self.counts,
            processes=self.started,
            audit=audit(self.effects, receipts, dead),
            most_at_once=most_at_once(self.effects),
            longest_pause=self.longest_pause,
            rest=self.rest,
        )

    # ---------------------------------------------------------------------------------------------------------- waiting

    async def _wait(self, condition: Callable[[], object], what: str, *, within: float) -> None:
        async def is_true() -> object:
            return condition()

        await self._wait_true(is_true, what, within=within)

    async def _wait_true(self, condition: Callable[[], Awaitable[object]], what: str, *, within: float) -> None:
        limit = time.monotonic() + within
        while not await condition():
            if time.monotonic() > limit:
                raise ChaosError(f"waited {within:g} s for {what}")
            await trio.sleep(0.1)


def number_in(payload: bytes | Mapping[bytes, bytes]) -> int:
    found: Any = json.loads(payload if isinstance(payload, bytes) else payload[b"data"])
    return int(found["number"])


def most_at_once(effects: Effects) -> int:
    """Return how many of the first stage's handlers that came to an end ran at the same time."""
    rows = effects.rows(
        "select b.seq, min(e.seq) from effects b join effects e on e.delivery = b.delivery and e.pid = b.pid"
        " and e.seq > b.seq and e.what = 'ended' and e.stage = 'first'"
        " where b.stage = 'first' and b.what = 'begun' group by b.delivery, b.pid having count(distinct b.seq) = 1"
    )
    now = most = 0
    for _, change in sorted([(begun, 1) for begun, _ in rows] + [(ended, -1) for _, ended in rows]):
        now += change
        most = max(most, now)
    return most


def end_by_force(member: Member) -> None:
    if member.process.poll() is None:
        with suppress(ProcessLookupError):
            os.kill(member.process.pid, signal.SIGCONT)
        member.process.kill()
    member.process.wait()


# ------------------------------------------------------------------------------------------------------ faults


async def kill_node(harness: Harness, fault: Fault) -> None:
    harness.node_of(fault).process.kill()


async def kill_child(harness: Harness, fault: Fault) -> None:
    pid = harness.child_of(fault)
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


async def freeze(pid: int | None, seconds: float) -> None:
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        try:
            await trio.sleep(seconds)
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


async def freeze_node(harness: Harness, fault: Fault) -> None:
    # Longer than a lease at times.
    await freeze(harness.node_of(fault).process.pid, fault.seconds * 1.5)


async def freeze_child(harness: Harness, fault: Fault) -> None:
    await freeze(harness.child_of(fault), fault.seconds * 1.5)


async def stop_node(harness: Harness, fault: Fault) -> None:
    harness.node_of(fault).process.send_signal(signal.SIGTERM)


async def crash_at_point(harness: Harness, fault: Fault) -> None:
    """Kill a node, and let its replacement die at a failpoint."""
    nodes = harness.nodes("single")
    member = nodes[fault.victim % len(nodes)]
    index = harness.members.index(member)
    member.process.kill()
    await trio.to_thread.run_sync(member.process.wait)
    if harness.members[index] is member:
        harness.members[index] = harness._start("node", harness.url_for("node"), "single", crash_at=fault.point)


async def send_poison(harness: Harness, fault: Fault) -> None:
    number = -(harness.counts["send poison"])
    data = json.dumps({"number": number, "kind": "poison"}).encode()
    async with harness.server_lock:
        harness.effects.sending(number, "poison", "harness")
        async with open_broker(harness.direct_url) as broker:
            await broker.publish([Envelope(chain.IN, f"poison{number}", data)])
        harness.effects.accepted(number)


async def kill_producer(harness: Harness, fault: Fault) -> None:
    producers = [member for member in harness.members if member.role != "node"]
    producers[fault.victim % len(producers)].process.kill()


async def cut(harness: Harness, fault: Fault) -> None:
    harness.proxy.cut()


async def cut_in_mid_reply(harness: Harness, fault: Fault) -> None:
    harness.proxy.cut_after(fault.size)


async def cut_after_request(harness: Harness, fault: Fault) -> None:
    harness.proxy.cut_after_request(min(fault.size, 100))


async def black_hole(harness: Harness, fault: Fault) -> None:
    async with harness.darkness():
        harness.proxy.black_hole()
        await trio.sleep(fault.seconds)
        harness.proxy.flow()


async def kill_server(harness: Harness, fault: Fault) -> None:
    async with harness.server_lock, harness.darkness():
        server = harness.primary
        await trio.to_thread.run_sync(server.kill)
        await trio.sleep(fault.seconds / 2)
        await trio.to_thread.run_sync(server.start)


async def fail_over(harness: Harness, fault: Fault) -> None:
    async with harness.server_lock, harness.darkness():
        await harness.fail_over()


async def take_rights_away(harness: Harness, fault: Fault) -> None:
    right, user = RIGHTS[fault.victim % len(RIGHTS)], "node" if fault.victim % 3 else "maker"
    async with harness.server_lock, harness.darkness():
        await harness.ask("ACL", "SETUSER", user, f"-{right}")
        await trio.sleep(fault.seconds)
        await harness.ask("ACL", "SETUSER", user, f"+{right}")


async def make_keys_read_only(harness: Harness, fault: Fault) -> None:
    """Let nodes write to our own keys and to one stream of the chain only."""
    stream = (chain.IN, chain.MIDDLE, chain.LAST)[fault.victim % 3]
    if major_version() < 7:
        return
    async with harness.server_lock, harness.darkness():
        await harness.ask("ACL", "SETUSER", "node", "resetkeys", "%R~*", "~actorwork:*", f"~{stream}")
        await trio.sleep(fault.seconds)
        await harness.ask("ACL", "SETUSER", "node", "resetkeys", "~*")


async def pause_clients(harness: Harness, fault: Fault) -> None:
    async with harness.server_lock, harness.darkness():
        await harness.ask("CLIENT", "PAUSE", round(fault.seconds * 1000), "ALL" if fault.victim % 2 else "WRITE")
        await trio.sleep(fault.seconds)


async def end_memory(harness: Harness, fault: Fault) -> None:
    async with harness.server_lock, harness.darkness():
        await harness.ask("CONFIG", "SET", "maxmemory", 1)
        await trio.sleep(fault.seconds)
        await harness.ask("CONFIG", "SET", "maxmemory", 0)


async def let_server_sleep(harness: Harness, fault: Fault) -> None:
    async with harness.server_lock, harness.darkness():
        await harness.ask("DEBUG", "SLEEP", fault.seconds)


async def forget_scripts(harness: Harness, fault: Fault) -> None:
    async with harness.server_lock:
        await harness.ask("SCRIPT", "FLUSH")


async def kill_clients(harness: Harness, fault: Fault) -> None:
    async with harness.server_lock:
        with suppress(redis.ConnectionError):
            await harness.ask("CLIENT", "KILL", "TYPE", "normal")


async def pause_actor(harness: Harness, fault: Fault) -> None:
    title = ("first", "second", "third")[fault.victim % 3]
    async with harness.darkness():
        for is_paused in (True, False):
            async with harness.server_lock, open_client(harness.direct_url) as client:
                if is_paused:
                    await client.pause(actor=title, reason="chaos")
                else:
                    await client.resume(actor=title)
            await trio.sleep(fault.seconds)


CARRY_OUT: Final[dict[str, Callable[[Harness, Fault], Awaitable[None]]]] = {
    "kill a node": kill_node,
    "kill a child process": kill_child,
    "freeze a node": freeze_node,
    "freeze a child process": freeze_child,
    "stop a node": stop_node,
    "crash at a point": crash_at_point,
    "send poison": send_poison,
    "kill a producer": kill_producer,
    "cut": cut,
    "cut in mid reply": cut_in_mid_reply,
    "cut after a request": cut_after_request,
    "black hole": black_hole,
    "kill the server": kill_server,
    "fail over": fail_over,
    "take rights away": take_rights_away,
    "make keys read-only": make_keys_read_only,
    "pause the clients": pause_clients,
    "end the memory": end_memory,
    "let the server sleep": let_server_sleep,
    "forget scripts": forget_scripts,
    "kill all clients": kill_clients,
    "pause an actor": pause_actor,
}


# ------------------------------------------------------------------------------------------------------ the program


def tell(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - this is a program, and printing is what it does


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.harness", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--minutes", type=float, default=1, help="minutes of faults (default: 1)")
    parser.add_argument("--seed", type=int, default=None, help="the seed of the plan (default: random)")
    parser.add_argument("--verbose", action="store_true", help="print each fault")
    chosen = parser.parse_args(arguments)
    seed = random.randrange(1_000_000) if chosen.seed is None else chosen.seed
    tell(
        f"chaos for {chosen.minutes:g} min; to repeat it: just chaos-harness --minutes {chosen.minutes:g} --seed {seed}"
    )
    folder = Path(tempfile.mkdtemp(prefix="actorwork-harness-"))
    began = time.monotonic()
    told: list[str] = []

    def say(text: str) -> None:
        told.append(f"{time.monotonic() - began:7.2f} {text}")
        if chosen.verbose:
            tell(told[-1])

    harness = Harness(seed, chosen.minutes * 60, folder, say=say)
    try:
        result = trio.run(harness.run, strict_exception_groups=True)
    except Exception as error:  # noqa: BLE001 - every failure is reported with its seed
        tell("\n".join(told[-40:]))
        for leaf in leaves(error):
            tell("".join(traceback.format_exception(leaf)))
        tell(f"failed with seed {seed}; logs and the ledger are in {folder}")
        return 1
    tell(str(result))
    if not result.audit.is_clean:
        found = result.audit
        tell(f"lost {found.lost[:20]}, doubled {found.doubled[:20]}, out of order {found.disordered[:20]},")
        tell(f"contradictory {found.contradictory[:20]}, overwritten {found.overwritten[:20]}")
        tell(f"failed with seed {seed}; logs and the ledger are in {folder}")
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
