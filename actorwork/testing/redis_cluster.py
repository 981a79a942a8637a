"""A private Redis Cluster on ports of this machine: primaries, each with some replicas, that share all slots.

    with open_redis_cluster(replicas=1) as cluster:
        async with open_client(cluster.url) as client:
            cluster.fail_over(cluster.owner("orders"))

Members talk to each other on a second port, 10,000 above their own, so both are chosen free. If another process was
quicker, the whole cluster starts again with others.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from actorwork.streams.transport.slots import SLOTS, key_slot
from actorwork.testing.redis_sentinel import Member, open_fleet, wait_for
from actorwork.testing.redis_server import free_port

BUS: Final = 10_000
_HIGHEST: Final = 65_535 - BUS
_MOVED_AT_ONCE: Final = 100
_SOON: Final = 0.2
_ATTEMPT: Final = 6.0


class RedisCluster:
    """Made by `open_redis_cluster`."""

    def __init__(
        self,
        make: Callable[[str, Mapping[str, str]], Member],
        primaries: int,
        replicas: int,
        config: Mapping[str, str],
        node_timeout: float,
    ) -> None:
        """Make the members: `make` returns one of that name with that configuration; none is started."""
        common = {
            "cluster-enabled": "yes",
            "cluster-node-timeout": str(round(node_timeout * 1000)),
            "save": '""',
            "repl-diskless-sync": "yes",
            "repl-diskless-sync-delay": "0",
            **config,
        }
        self.primaries = tuple(make(f"primary-{n}", common) for n in range(primaries))
        self.replicas = tuple(make(f"replica-{n}", common) for n in range(primaries * replicas))
        """Those of the first primary, the second one, and so on, and again, as the cluster started."""

    @property
    def members(self) -> tuple[Member, ...]:
        return (*self.primaries, *self.replicas)

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"{member.place[0]}:{member.port}" for member in self.primaries)

    def start(self) -> None:
        """Start everything, and return once all members agree, and a failover would succeed."""
        for member in self.members:
            member.start()
        first, *others = self.members
        for number, member in enumerate(self.members, 1):
            member.call("CLUSTER", "SET-CONFIG-EPOCH", str(number))
        size = len(self.primaries)
        for number, member in enumerate(self.primaries):
            slots = range(number * SLOTS // size, (number + 1) * SLOTS // size)
            member.call("CLUSTER", "ADDSLOTS", *map(str, slots))
        for member in others:
            member.call("CLUSTER", "MEET", first.place[0], str(first.port))
        for member in self.members:
            wait_for(lambda member=member: self._knows_all(member), f"{member!r} to know the others")
        for number, replica in enumerate(self.replicas):
            replica.call("CLUSTER", "REPLICATE", node_id(self.primaries[number % size]))
        for replica in self.replicas:
            wait_for(
                lambda replica=replica: replica.info("replication").get("master_link_status") == "up",
                f"{replica!r} to be in sync",
            )
        for member in self.members:
            wait_for(lambda member=member: self._is_ready(member), f"{member!r} to see a cluster that serves")

    def _knows_all(self, member: Member) -> bool:
        return f"cluster_known_nodes:{len(self.members)}\r\n".encode() in member.call("CLUSTER", "INFO")

    def _is_ready(self, member: Member) -> bool:
        known = member.call("CLUSTER", "NODES")
        return (
            b"cluster_state:ok" in member.call("CLUSTER", "INFO")
            and known.count(b"slave") == len(self.replicas)
            and b"handshake" not in known
            # What is published before a member has a connection to another one does not arrive there.
            and b"disconnected" not in known
        )

    def owner(self, key: str) -> Member:
        """Return the primary that has the slot of a key, as it sees that itself."""
        return next(member for member in self.members if member.process is not None and _has(member, key_slot(key)))

    def replica_of(self, primary: Member) -> Member:
        """Return a living replica of a primary."""
        wanted = node_id(primary).encode()
        for member in self.members:
            if member.process is not None and member is not primary:
                mine = next(line for line in member.call("CLUSTER", "NODES").split(b"\n") if b"myself" in line)
                if b"slave" in mine and wanted in mine:
                    return member
        raise LookupError(f"{primary!r} has no replica: open_redis_cluster(replicas=1)")

    def fail_over(self, primary: Member, how: str = "") -> Member:
        """Make a replica of a primary take its place, wait until all members know, and return it.

        `how` is FORCE or TAKEOVER. A primary that members still take for one could not replace its successor in turn:
        they would not vote for it.
        """
        replica = self.replica_of(primary)

        def takes_over() -> bool:
            replica.call("CLUSTER", "FAILOVER", *([how] if how else []))
            return _soon(lambda: b"role:master" in replica.call("INFO", "replication"), seconds=_ATTEMPT)

        # What is not agreed upon within five seconds, on a machine that is busy, is given up.
        wait_for(takes_over, f"{replica!r} to be a primary")
        self._tell(primary, lambda line: "slave" in line[2])
        return replica

    def wait_primary(self, member: Member) -> None:
        """Wait until a member has become a primary."""
        wait_for(lambda: b"role:master" in member.call("INFO", "replication"), f"{member!r} to be a primary")

    def move(self, key: str, target: Member) -> None:
        """Move the slot of a key, with all that is in it, as `redis-cli --cluster reshard` does: key by key.

        Returns once all members know of it. So a slot may be moved again at once: a member that had not heard of the
        last move could believe an earlier owner, and then no member has the slot.
        """
        source = self.begin_move(key, target)
        number, target_id = str(key_slot(key)), node_id(target)
        while moved := _texts(source.call("CLUSTER", "GETKEYSINSLOT", number, str(_MOVED_AT_ONCE))):
            source.call("MIGRATE", target.place[0], str(target.port), "", "0", "10000", "KEYS", *moved)
        for member in (target, source, *self.primaries):
            if member.process is not None:
                member.call("CLUSTER", "SETSLOT", number, "NODE", target_id)
        epoch = _epoch(_line_of(target, target_id))
        self._tell(target, lambda line: _epoch(line) >= epoch)

    def _tell(self, changed: Member, is_known: Callable[[Sequence[str]], object]) -> None:
        """Wait until all members know what has changed about one of them, by its line among their nodes."""
        name = node_id(changed)
        living = [member for member in self.members if member.process is not None]
        for member in living:
            if member is not changed and not _soon(lambda member=member: is_known(_line_of(member, name))):
                # It hears of it from the answer, and else from what the two say to each other next.
                member.call("CLUSTER", "MEET", changed.place[0], str(changed.port))
            wait_for(lambda member=member: is_known(_line_of(member, name)), f"{member!r} to know of {changed!r}")
        # A member that is met again drops the connection that it had, and what is published meanwhile does not arrive.
        # It may do so just after it was asked, so all are asked twice.
        ports = {str(member.port) for member in living}
        for member in living * 2:
            wait_for(lambda member=member: _is_linked(member, ports), f"{member!r} to have its connections")

    def begin_move(self, key: str, target: Member) -> Member:
        """Begin to move the slot of a key, and return its primary; `move` goes on, and ends it.

        In between, the primary answers what concerns a key that it does not have with ASK, and no script runs.
        """
        if b"role:master" not in target.call("INFO", "replication"):
            raise ValueError(f"{target!r} is a replica: slots are moved to primaries")
        number, source = str(key_slot(key)), self.owner(key)
        target.call("CLUSTER", "SETSLOT", number, "IMPORTING", node_id(source))
        source.call("CLUSTER", "SETSLOT", number, "MIGRATING", node_id(target))
        return source

    def flush(self) -> None:
        """Forget all data; the slots stay where they are."""
        for member in self.primaries:
            member.call("FLUSHALL")

    def kill(self) -> None:
        for member in self.members:
            with suppress(ProcessLookupError):
                member.kill()


def node_id(member: Member) -> str:
    return _texts(member.call("CLUSTER", "MYID"))[0]


def _line_of(member: Member, node: str) -> Sequence[str]:
    """Return what a member knows of one of them, as CLUSTER NODES writes it."""
    lines = [line.split(" ") for line in member.call("CLUSTER", "NODES").decode().split("\n")]
    return next(line for line in lines if line[0] == node)


def _is_linked(member: Member, ports: Collection[str]) -> bool:
    """Return whether a member has a connection to each other one that listens at one of some ports."""
    for line in member.call("CLUSTER", "NODES").decode().split("\n"):
        name, _, rest = line.partition(" ")
        if not name or "myself" in rest or _port(rest) not in ports:
            continue
        if "handshake" in rest or " connected" not in rest:
            return False
    return True


def _port(rest: str) -> str:
    """Return the port of a member, in what follows its name: HOST:PORT@BUS and more."""
    return rest.partition("@")[0].rpartition(":")[2]


def _soon(condition: Callable[[], object], *, seconds: float = _SOON) -> bool:
    """Ask for some seconds whether a condition is true."""
    limit = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < limit:
        time.sleep(0.01)
    return bool(found)


def _epoch(line: Sequence[str]) -> int:
    """Return the epoch of the slots of a member: of two that claim a slot the one with the later epoch has it."""
    return int(line[6])


def _has(member: Member, slot: int) -> bool:
    mine = next(line for line in member.call("CLUSTER", "NODES").decode().split("\n") if "myself" in line)
    for part in mine.split()[8:]:
        first, _, last = part.partition("-")
        if first.isdecimal() and int(first) <= slot <= int(last or first):
            return True
    return False


def _texts(reply: bytes) -> list[str]:
    """Return the strings of a reply of RESP2, a bulk string or an array of them."""
    lines = reply.decode().split("\r\n")
    return lines[2::2][: int(lines[0][1:])] if reply[:1] == b"*" else lines[1:2]


def free_pair() -> int:
    """Return a port that is free, as is the one of the bus that belongs to it."""
    while True:
        port = free_port()
        if port <= _HIGHEST:
            with socket.socket() as probe, suppress(OSError):
                probe.bind(("127.0.0.1", port + BUS))
                return port


@contextmanager
def open_redis_cluster(
    *,
    primaries: int = 3,
    replicas: int = 0,
    config: Mapping[str, str] | None = None,
    node_timeout: float = 2.0,
) -> Generator[RedisCluster]:
    """Run a cluster for the duration of a block, each primary with `replicas` replicas.

    `config` is any setting of redis.conf for all members. A member that does not answer for `node_timeout` seconds is
    regarded as failing.
    """

    def make(directory: Path) -> RedisCluster:
        taken: set[int] = set()

        def member(name: str, settings: Mapping[str, str]) -> Member:
            # A port that is free now may be the one that the bus of another member, which has not begun, is to have.
            while not taken.isdisjoint((port := free_pair(), port + BUS)):
                pass
            taken.update((port, port + BUS))
            return Member(directory / name, settings, port=port)

        return RedisCluster(member, primaries, replicas, config or {}, node_timeout)

    with open_fleet("cluster", make) as cluster:
        yield cluster
