"""The acts on a cluster: three primaries with a replica each. Slots move, and primaries change, die and come back.

    ClusterAct           as `kept`
    ClusterChordAct      workflows
    ClusterEntityAct     states of entities

Messages and their receipts are in slots of different primaries. Nothing may be lost, and nothing settled twice, so a
replica takes over only as an operator orders it, once it has all of its primary; a primary that was killed comes back
with its append-only file. The network fails too (`wires.py`): between all clients and one primary, and between members.
"""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import ClassVar, Final

import attrs
import trio

from actorwork.testing.proxy import FaultProxy
from actorwork.testing.redis_cluster import RedisCluster
from actorwork.testing.redis_sentinel import Member, wait_for

from . import chords, entities, environment, workers
from .chord_act import ChordAct
from .entity_act import EntityAct
from .environment import Act
from .plan import NETWORK, PROCESSES, Fault
from .wires import Wires, open_wired_cluster

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


class ClusterPlace(Act):
    """The place of an act: three primaries, and what can go wrong with them."""

    sources: ClassVar[Sequence[str]]
    """Those whose slots are moved."""
    cluster: RedisCluster
    wires: Wires
    leading: list[Member]
    """The primaries, as they were when they were asked for last."""

    @asynccontextmanager
    async def _open_place(self) -> AsyncGenerator[None]:
        self.voted: dict[Member, float] = {}
        """When each member was last replaced as a primary."""
        async with open_wired_cluster(CONFIG, NODE_TIMEOUT) as (self.cluster, self.wires):
            self.direct_url = self.url = self.cluster.url
            self.leading = list(self.cluster.primaries)
            yield

    def _heal(self) -> None:
        self.wires.heal()

    def primaries(self) -> list[Member]:
        """Ask all members, which must be up; only one fault of them at a time begins so."""
        self.leading = [one for one in self.cluster.members if one.info("replication")["role"] == "master"]
        return self.leading

    def server_of(self, fault: Fault) -> Primary:
        return Primary(self.cluster, self.primary_of(fault))

    def primary_of(self, fault: Fault) -> Member:
        primaries = self.primaries()
        return primaries[fault.victim % len(primaries)]

    def proxy_of(self, fault: Fault) -> FaultProxy:
        return self.wires.to[self.leading[fault.victim % len(self.leading)]]

    def ask(self, *command: str) -> object:
        """Send a command to each member; those that have nothing to do with it refuse it."""
        return [member.call(*command) for member in self.cluster.members]

    async def _on_the_way(self) -> int:
        """Count what is in outboxes: a node that was killed has left it there."""
        return sum([await self._count("XLEN", source, "outbox") for source in self.sources])

    async def _count(self, command: str, source: str, what: str) -> int:
        owner = await trio.to_thread.run_sync(self.cluster.owner, source)
        return int(owner.call(command, f"actorwork:{{{source}}}:{what}")[1:])

    def _is_possible(self, fault: Fault) -> bool:
        """Leave out faults of servers while there is one: until all members know of it takes seconds."""
        return fault.name in PROCESSES or fault.name in NETWORK or not self.server_lock.locked()

    def move_slot(self, fault: Fault) -> None:
        key = self._key_of(fault)
        owner = self.cluster.owner(key)
        others = [one for one in self.primaries() if one is not owner]
        self.cluster.move(key, others[fault.victim // len(self.sources) % len(others)])

    def fail_over(self, fault: Fault) -> None:
        old = self.cluster.owner(self._key_of(fault))
        replica = self.cluster.replica_of(old)
        is_late = replica.info("replication").get("master_link_status") != "up"
        if is_late or time.monotonic() < self.voted.get(old, -BETWEEN_VOTES) + BETWEEN_VOTES:
            self.counts[fault.name] -= 1
            return
        self.voted[old] = self.voted[replica] = time.monotonic()
        self.cluster.fail_over(old)

    def _key_of(self, fault: Fault) -> str:
        return self.sources[fault.victim % len(self.sources)]

    def two_of(self, fault: Fault) -> tuple[Member, Member]:
        """Return two primaries."""
        primaries = self.primaries()
        first = fault.victim % len(primaries)
        return primaries[first], primaries[(first + 1) % len(primaries)]

    def wait_whole_cluster(self) -> None:
        """Wait until all members see a cluster that serves, and take none of them for dead."""

        def is_whole(member: Member) -> bool:
            lines = member.call("CLUSTER", "NODES").decode().split("\n")
            flags = {flag for line in lines if len(line.split()) > 2 for flag in line.split()[2].split(",")}
            return b"cluster_state:ok" in member.call("CLUSTER", "INFO") and flags.isdisjoint(("fail", "fail?"))

        for one in self.cluster.members:
            wait_for(lambda one=one: is_whole(one), f"{one!r} to see all others")


class ClusterAct(ClusterPlace):
    """`cluster`: as `kept`, at three primaries."""

    sources = (workers.SOURCE, workers.RECEIPTS)

    async def _delayed(self) -> int:
        """Count what is delayed, and what is on its way."""
        return await self._count("ZCARD", workers.SOURCE, "delayed") + await self._on_the_way()


class ClusterChordAct(ClusterPlace, ChordAct):
    """Chords, at three primaries."""

    sources = (*chords.SOURCES, chords.RECEIPTS)


class ClusterEntityAct(ClusterPlace, EntityAct):
    """States of entities, at three primaries."""

    sources = (entities.SOURCE, entities.RECEIPTS)


async def move_slot(act: ClusterPlace, fault: Fault) -> None:
    async with act.server_lock:
        await trio.to_thread.run_sync(act.move_slot, fault)


async def fail_over(act: ClusterPlace, fault: Fault) -> None:
    async with act.server_lock:
        await trio.to_thread.run_sync(act.fail_over, fault)


async def part_two(act: ClusterPlace, fault: Fault) -> None:
    """Part two primaries, at times for longer than it takes to be regarded as failing; the third one hears of both."""
    one, other = act.two_of(fault)
    async with act.server_lock:
        act.wires.part(one, other)
        await trio.sleep(3 * fault.seconds)
        act.wires.join(one, other)
        await trio.to_thread.run_sync(act.wait_whole_cluster)


async def slow_gossip(act: ClusterPlace, fault: Fault) -> None:
    one, other = act.two_of(fault)
    async with act.server_lock:
        act.wires.slow(one, other, 0.2)
        await trio.sleep(2 * fault.seconds)
        act.wires.join(one, other)


async def cut_off(act: ClusterPlace, fault: Fault) -> None:
    """Cut a primary off from all other members: it refuses everything in the end, and so do they. Clients reach it."""
    primary = act.primary_of(fault)
    others = [one for one in act.cluster.members if one is not primary]
    async with act.server_lock, act.darkness():
        for one in others:
            act.wires.part(primary, one)
        await trio.sleep(NODE_TIMEOUT + fault.seconds)
        for one in others:
            act.wires.join(primary, one)
        await trio.to_thread.run_sync(act.wait_whole_cluster)


CARRY_OUT: Final[Mapping[str, Callable[[ClusterPlace, Fault], Awaitable[None]]]] = {
    **environment.CARRY_OUT,
    "move a slot": move_slot,
    "fail over": fail_over,
    "part two primaries": part_two,
    "late gossip": slow_gossip,
    "cut a primary off": cut_off,
}
ClusterPlace.carries_out = CARRY_OUT
