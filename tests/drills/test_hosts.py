"""Three hosts, each with a primary of a cluster, a replica of another one's, and a node: hosts and links fail.

Receipts are published with the settlements, to a source of another slot: each message has exactly one. What is on the
way when a host fails has been replicated before, since replication is asynchronous, and what the failed primary alone
had is lost with any Redis Cluster; docs/cluster.md tells how much that is.
"""

import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from actorwork.testing.redis_cluster import RedisCluster
from actorwork.testing.redis_sentinel import Member, wait_for

from .conftest import MANY, Drill, Node, Place, open_place, until
from .network import Host, Network, open_network, why_not
from .test_clusters import WORK
from .test_failovers import Stream, has_replicated, offset_of

pytestmark = pytest.mark.long
LEASE = 3
HELD = 1_000_000
"""The number of the first message that is in flight when a host fails."""


class Fleet:
    """A cluster over three hosts: the replica of each primary is on the next host."""

    def __init__(self, network: Network, directory: Path) -> None:
        self.network = network
        self._directory = directory
        self.host_of: dict[Member, Host] = {}
        self.cluster = RedisCluster(self._make, 3, 1, {"protected-mode": "no"}, 2.0)

    def _make(self, name: str, config: Mapping[str, str]) -> Member:
        kind, _, number = name.partition("-")
        is_replica = kind == "replica"
        host = self.network.hosts[(int(number) + is_replica) % 3]
        member = Member(
            self._directory / name,
            config,
            port=7001 if is_replica else 7000,
            address=host.address,
            through=host.through,
        )
        self.host_of[member] = host
        return member

    async def wait_replicated(self) -> None:
        for primary in self.cluster.primaries:
            offset = offset_of(primary)
            await until(lambda primary=primary, offset=offset: has_replicated(primary, offset), f"{primary}'s replica")

    def others(self, host: Host) -> list[Host]:
        return [one for one in self.network.hosts if one is not host]


@pytest.fixture
def fleet() -> Generator[Fleet]:
    if reason := why_not():
        pytest.skip(reason)
    directory = Path(tempfile.mkdtemp(prefix="actorwork-hosts-"))
    try:
        with open_network(3) as network:
            fleet = Fleet(network, directory)
            try:
                fleet.cluster.start()
                yield fleet
            finally:
                fleet.cluster.kill()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class Scene:
    def __init__(self, drill: Drill, fleet: Fleet, place: Place) -> None:
        self.drill = drill
        self.fleet = fleet
        self.place = place
        self.nodes: dict[Host, Node] = {}
        self.sent: set[int] = set()
        self._gate = drill.folder / "gate"

    async def start(self) -> None:
        """Start a node on each host, and give each of them messages that it holds until the gate opens."""
        for host in self.fleet.network.hosts:
            self.nodes[host] = await self.drill.start_up(
                "worker", self.fleet.cluster.url, through=host.through, lease=LEASE, max_crashes=MANY
            )
        await self.send(-100, 0)
        await self.place.wait_empty(WORK)
        number = HELD
        while not all(self._holds(node) for node in self.nodes.values()):
            await self.send(number, number + 1, gate=str(self._gate))
            number += 1
            await self.drill.wait_notes("begun", len(self.sent))
        await self.fleet.wait_replicated()

    def _holds(self, node: Node) -> bool:
        ledger = self.drill.ledger
        return ledger.count("begun", pid=node.pid) > ledger.count("ended", pid=node.pid)

    async def send(self, first: int, last: int, *, gate: str = "") -> None:
        self.sent.update(await self.place.send_numbers(WORK, range(first, last), gate=gate))

    async def go_on(self, count: int) -> None:
        """Send that many messages at a steady rate, one lot after the other."""
        stream = Stream(partial(self.place.send_numbers, WORK))
        first = len([number for number in self.sent if 0 <= number < HELD])
        stream.number = first
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.run)
            await stream.wait_more(count)
            stream.is_to_end = True
        self.sent.update(stream.acknowledged)

    def open_gate(self) -> None:
        self._gate.touch()

    async def settle_accounts(self) -> None:
        """Check that each message that was acknowledged has been settled once."""
        await self.place.wait_empty(WORK)
        for node in self.nodes.values():
            await node.stop()
        receipts = Counter(receipt["number"] for receipt in await self.place.receipts())
        begun = self.drill.ledger.count("begun")
        logging.getLogger(__name__).warning("%d messages, %d handlers begun", len(self.sent), begun)
        assert self.sent - set(receipts) == set()
        assert {number for number, count in receipts.items() if count > 1} == set()


@asynccontextmanager
async def open_scene(drill: Drill, fleet: Fleet) -> AsyncGenerator[Scene]:
    async with open_place(fleet.cluster.url) as place:
        scene = Scene(drill, fleet, place)
        await scene.start()
        yield scene


def unplugged(fleet: Fleet, host: Host) -> Callable[[], None]:
    fleet.network.pull_out(host)
    return partial(fleet.network.put_back, host)


def alone(fleet: Fleet, host: Host) -> Callable[[], None]:
    """Part a host from the two others, but not from the sender: its primary does not know that it is none any more."""
    for other in fleet.others(host):
        fleet.network.part(host, other)
    old = next(one for one in fleet.cluster.primaries if fleet.host_of[one] is host)
    # Until then it acknowledges what is lost with it.
    wait_for(lambda: b"cluster_state:fail" in old.call("CLUSTER", "INFO"), f"{old} to refuse writes")

    def mend() -> None:
        for other in fleet.others(host):
            fleet.network.join(host, other)

    return mend


@pytest.mark.parametrize("fail", [unplugged, alone])
async def test_what_a_lost_host_had_in_hand_is_settled_once_by_the_others(
    drill: Drill, fleet: Fleet, fail: Callable[[Fleet, Host], Callable[[], None]]
):
    async with open_scene(drill, fleet) as scene:
        old = await trio.to_thread.run_sync(fleet.cluster.owner, WORK)
        replica = await trio.to_thread.run_sync(fleet.cluster.replica_of, old)
        mend = await trio.to_thread.run_sync(fail, fleet, fleet.host_of[old])
        await trio.to_thread.run_sync(fleet.cluster.wait_primary, replica)
        scene.open_gate()
        await scene.go_on(300)
        mend()
        await scene.go_on(200)
        await until(lambda: b"role:slave" in old.call("INFO", "replication"), f"{old} to follow {replica}")
        await scene.settle_accounts()


async def test_two_hosts_that_do_not_reach_each_other_lose_nothing(drill: Drill, fleet: Fleet):
    async with open_scene(drill, fleet) as scene:
        old = await trio.to_thread.run_sync(fleet.cluster.owner, WORK)
        here = fleet.host_of[old]
        there = fleet.others(here)[0]
        fleet.network.part(here, there)
        # For three leases: the node over there cannot renew its own, if that is in a slot of the primary here.
        await trio.sleep(3 * LEASE)
        scene.open_gate()
        await scene.go_on(200)
        fleet.network.join(here, there)
        await scene.go_on(100)
        await scene.settle_accounts()
