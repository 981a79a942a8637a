"""The act on a cluster: three primaries with a replica each. Slots move, and primaries change, die and come back.

Messages and their receipts are in slots of different primaries. Nothing may be lost, and nothing settled twice, so a
replica takes over only as an operator orders it, once it has all of its primary; a primary that was killed comes back
with its append-only file.
"""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

import attrs
import trio

from actorwork.testing.redis_cluster import RedisCluster, open_redis_cluster
from actorwork.testing.redis_sentinel import Member, wait_for

from . import environment, workers
from .environment import Act
from .plan import PROCESSES, Fault

NODE_TIMEOUT: Final = 5.0
BETWEEN_VOTES: Final = 2 * NODE_TIMEOUT + 2.0
"""Primaries do not vote for the replica of one of them twice within two timeouts."""
CONFIG: Final[Mapping[str, str]] = {
    "appendonly": "yes",
    "appendfsync": "always",
    # On a machine that is busy a primary may seem dead that is not: its replica lacks what it acknowledges meanwhile.
    "cluster-replica-no-failover": "yes",
}


@attrs.frozen
class Primary:
    """A primary of the cluster, as faults of servers see it."""

    cluster: RedisCluster
    member: Member

    def pause(self) -> None:
        self.member.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.member.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        # A replica that has become a primary writes a new file, and has none of use until that is complete.
        wait_for(self._is_on_disk, f"{self.member!r} to have written its append-only file")
        self.member.kill()

    def stop(self) -> None:
        process = self.member.process
        assert process is not None
        process.terminate()
        process.wait()
        self.member.process = None

    def start(self) -> None:
        """Start, and return once the whole cluster serves again."""
        self.member.start()
        wait_for(lambda: self.member.info("persistence")["loading"] == "0", f"{self.member!r} to have read its file")
        for one in self.cluster.members:
            wait_for(lambda one=one: b"cluster_state:ok" in one.call("CLUSTER", "INFO"), f"{one!r} to serve again")

    def _is_on_disk(self) -> bool:
        facts = self.member.info("persistence")
        return facts["aof_rewrite_in_progress"] == facts["aof_rewrite_scheduled"] == "0"


class ClusterAct(Act):
    """`cluster`: as `kept`, at three primaries."""

    cluster: RedisCluster

    @asynccontextmanager
    async def _open_place(self) -> AsyncGenerator[None]:
        self.voted: dict[Member, float] = {}
        """When each member was last replaced as a primary."""
        with open_redis_cluster(replicas=1, config=CONFIG, node_timeout=NODE_TIMEOUT) as self.cluster:
            self.direct_url = self.url = self.cluster.url
            yield

    def _heal(self) -> None:
        """Do nothing: the network works, and each fault of a server ends by itself."""

    def primaries(self) -> list[Member]:
        return [one for one in self.cluster.members if one.info("replication")["role"] == "master"]

    def server_of(self, fault: Fault) -> Primary:
        primaries = self.primaries()
        return Primary(self.cluster, primaries[fault.victim % len(primaries)])

    def ask(self, *command: str) -> object:
        """Send a command to each member; those that have nothing to do with it refuse it."""
        return [member.call(*command) for member in self.cluster.members]

    async def _delayed(self) -> int:
        """Count what is delayed, and what a node that was killed has left in the outbox: it is on its way, too."""
        owner = await trio.to_thread.run_sync(self.cluster.owner, workers.SOURCE)
        prefix = f"actorwork:{{{workers.SOURCE}}}:"
        return int(owner.call("ZCARD", f"{prefix}delayed")[1:]) + int(owner.call("XLEN", f"{prefix}outbox")[1:])

    def _is_possible(self, fault: Fault) -> bool:
        """Leave out faults of servers while there is one: until all members know of it takes seconds."""
        return fault.name in PROCESSES or not self.server_lock.locked()

    def move_slot(self, fault: Fault) -> None:
        key = self._key_of(fault)
        owner = self.cluster.owner(key)
        others = [one for one in self.primaries() if one is not owner]
        self.cluster.move(key, others[fault.victim // 2 % len(others)])

    def fail_over(self, fault: Fault) -> None:
        old = self.cluster.owner(self._key_of(fault))
        replica = self.cluster.replica_of(old)
        is_late = replica.info("replication").get("master_link_status") != "up"
        if is_late or time.monotonic() < self.voted.get(old, -BETWEEN_VOTES) + BETWEEN_VOTES:
            self.counts[fault.name] -= 1
            return
        self.voted[old] = self.voted[replica] = time.monotonic()
        self.cluster.fail_over(old)

    @staticmethod
    def _key_of(fault: Fault) -> str:
        return workers.RECEIPTS if fault.victim % 2 else workers.SOURCE


async def move_slot(act: ClusterAct, fault: Fault) -> None:
    async with act.server_lock:
        await trio.to_thread.run_sync(act.move_slot, fault)


async def fail_over(act: ClusterAct, fault: Fault) -> None:
    async with act.server_lock:
        await trio.to_thread.run_sync(act.fail_over, fault)


CARRY_OUT: Final[Mapping[str, Callable[[ClusterAct, Fault], Awaitable[None]]]] = {
    **environment.CARRY_OUT,
    "move a slot": move_slot,
    "fail over": fail_over,
}
ClusterAct.carries_out = CARRY_OUT
