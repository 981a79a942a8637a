"""A private primary with replicas and sentinels, on ports of this machine, for tests of failovers.

    with open_redis_sentinels() as fleet:
        async with open_client(fleet.url) as client:
            fleet.fail_over()

A sentinel finds the others, and the replicas, through the primary's address, so everything here has a TCP port. Ports
are chosen free and then taken; if another process was quicker, the whole fleet starts again with others.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from actorwork.testing.redis_server import find_redis_server, free_port

_START_LIMIT: Final = 60.0
_STARTS: Final = 5
NAME: Final = "mymaster"


class PortTaken(Exception):
    """Another process has taken a port that was free a moment ago."""


class Member:
    """One process: a server or a sentinel."""

    def __init__(
        self,
        directory: Path,
        config: Mapping[str, str],
        *,
        is_sentinel: bool = False,
        port: int | None = None,
        address: str = "127.0.0.1",
        through: Sequence[str] = (),
    ) -> None:
        """Write its configuration. `through` is a command that runs the one after it: on another host, say."""
        self.port = free_port() if port is None else port
        self.place = (address, self.port)
        directory.mkdir()
        self._log = directory / "log"
        lines = [f"port {self.port}", f"bind {address}", f"dir {directory}", f"logfile {self._log}"]
        lines += [f"{name} {value}" for name, value in config.items()]
        path = directory / "redis.conf"
        path.write_text("\n".join(lines) + "\n")
        mode = ["--sentinel"] if is_sentinel else []
        self._command = [*through, find_redis_server(), str(path), *mode]
        self.process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<Member at {self.place[0]}:{self.port}>"

    def start(self) -> None:
        """Start, and return once it answers."""
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        wait_for(self._answers, f"{self!r} to answer")

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            log = self._log.read_text() if self._log.exists() else "no log"
            if "in use" in log:
                raise PortTaken(log)
            raise RuntimeError(f"redis-server did not start: {log}")
        try:
            # With the port of another one in its place, the process has ended by now, or will have in a moment.
            return self.info("server").get("process_id") == str(self.process.pid)
        except OSError:
            return False

    def call(self, *command: str) -> bytes:
        """Send one command on a connection of its own, and return its reply as bytes of RESP2."""
        with socket.create_connection(self.place, 10) as connection:
            packed = [f"*{len(command)}\r\n"] + [f"${len(part.encode())}\r\n{part}\r\n" for part in command]
            connection.sendall("".join(packed).encode())
            reply = b""
            while not _is_whole(reply):
                data = connection.recv(65536)
                if not data:
                    raise ConnectionError(f"{self!r} closed the connection")
                reply += data
            return reply

    def info(self, section: str) -> dict[str, str]:
        text = self.call("INFO", section).decode()
        return dict(line.split(":", 1) for line in text.split("\r\n") if ":" in line)

    def send_signal(self, which: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(which)

    def kill(self) -> None:
        """End it as a power cut does: SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class RedisSentinels:
    """Made by `open_redis_sentinels`."""

    def __init__(
        self, directory: Path, sentinels: int, replicas: int, config: Mapping[str, str], down_after: float
    ) -> None:
        common = {"save": '""', "repl-diskless-sync": "yes", "repl-diskless-sync-delay": "0", **config}
        first = Member(directory / "first", common)
        following = {**common, "replicaof": f"127.0.0.1 {first.port}"}
        self.servers = (first, *(Member(directory / f"replica-{number}", following) for number in range(replicas)))
        quorum = sentinels // 2 + 1
        watching = {
            f"sentinel monitor {NAME}": f"127.0.0.1 {first.port} {quorum}",
            f"sentinel down-after-milliseconds {NAME}": str(round(down_after * 1000)),
            f"sentinel failover-timeout {NAME}": "10000",
        }
        self.sentinels = tuple(
            Member(directory / f"sentinel-{number}", watching, is_sentinel=True) for number in range(sentinels)
        )

    @property
    def url(self) -> str:
        places = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{places}/{NAME}"

    @property
    def members(self) -> tuple[Member, ...]:
        return (*self.servers, *self.sentinels)

    def start(self) -> None:
        """Start everything, and return once a failover would succeed."""
        for member in self.members:
            member.start()
        for replica in self.servers[1:]:
            wait_for(lambda replica=replica: _is_in_sync(replica), f"{replica!r} to be in sync")
        for sentinel in self.sentinels:
            wait_for(lambda sentinel=sentinel: self._knows_all(sentinel), f"{sentinel!r} to know the others")

    def _knows_all(self, sentinel: Member) -> bool:
        line = sentinel.info("sentinel").get("master0", "")
        return "status=ok" in line and f"slaves={len(self.servers) - 1},sentinels={len(self.sentinels)}" in line

    def primary(self) -> Member:
        """Return the server that the first sentinel that lives names as the primary."""
        asked = next(one for one in self.sentinels if one.process is not None)
        reply = asked.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)
        return next(server for server in self.servers if f"\r\n{server.port}\r\n".encode() in reply)

    def order_failover(self) -> None:
        """Have the sentinels make a replica the primary, as an operator does, and do not wait for it."""
        # Refused until the sentinel has heard enough of the replica, which takes up to a few seconds.
        wait_for(
            lambda: self.sentinels[0].call("SENTINEL", "FAILOVER", NAME) == b"+OK\r\n", "a failover to be accepted"
        )

    def fail_over(self) -> Member:
        """Have a replica be made the primary, and wait for it; return the old primary, which lives."""
        old = self.primary()
        self.order_failover()
        self.wait_moved(old)
        return old

    def wait_moved(self, old: Member) -> None:
        """Wait until the sentinels name another primary."""
        wait_for(lambda: self.primary() is not old, "a failover")

    def kill(self) -> None:
        for member in reversed(self.members):  # The sentinels first, or they see a primary die.
            with suppress(ProcessLookupError):
                member.kill()


class Fleet(Protocol):
    """Several servers that are started and ended together."""

    def start(self) -> None:
        """Start everything; raises `PortTaken`."""
        ...

    def kill(self) -> None: ...


F = TypeVar("F", bound=Fleet)


@contextmanager
def open_fleet(kind: str, make: Callable[[Path], F]) -> Generator[F]:
    """Run servers for the duration of a block, each time in an empty directory, until their ports are free."""
    directory = Path(tempfile.mkdtemp(prefix=f"actorwork-{kind}-"))
    try:
        fleet = _started(directory, make)
        try:
            yield fleet
        finally:
            fleet.kill()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _started(directory: Path, make: Callable[[Path], F]) -> F:
    attempt = 0
    while True:
        (place := directory / str(attempt)).mkdir()
        fleet = make(place)
        attempt += 1
        try:
            fleet.start()
        except PortTaken:
            fleet.kill()
            if attempt == _STARTS:
                raise
        except BaseException:
            fleet.kill()
            raise
        else:
            return fleet


@contextmanager
def open_redis_sentinels(
    *, sentinels: int = 1, replicas: int = 1, config: Mapping[str, str] | None = None, down_after: float = 1.0
) -> Generator[RedisSentinels]:
    """Run a primary, its replicas, and some sentinels for the duration of a block.

    `config` is any setting of redis.conf for all servers. The sentinels regard a server as down that does not answer
    for `down_after` seconds.
    """
    with open_fleet(
        "sentinel", lambda place: RedisSentinels(place, sentinels, replicas, config or {}, down_after)
    ) as fleet:
        yield fleet


def wait_for(condition: Callable[[], Any], what: str) -> None:
    """Ask every ten milliseconds until a condition is true; raise `TimeoutError` after a minute. Blocks."""
    limit = time.monotonic() + _START_LIMIT
    while not condition():
        if time.monotonic() > limit:
            raise TimeoutError(f"waited {_START_LIMIT:g} s for {what}")
        time.sleep(0.01)


def _is_in_sync(replica: Member) -> bool:
    return replica.info("replication").get("master_link_status") == "up"


def _is_whole(reply: bytes) -> bool:
    """Return whether a reply of RESP2 has come to its end: a line, a bulk string, or a flat array of these."""
    lines = reply.split(b"\r\n")
    if len(lines) < 2:
        return False
    kind, size = reply[:1], lines[0][1:]
    if kind == b"$":
        return size == b"-1" or len(reply) >= len(lines[0]) + 2 + int(size) + 2
    if kind == b"*":
        return size == b"-1" or len(lines) > 2 * int(size) + 1
    return True
