"""Three hosts, 20 ms from each other: takeovers, joins, a slot that moves and a failover, each under load.

A host has a primary of a cluster, a replica of another one's, and nodes, as in `test_hosts.py`. Its cable takes 7 to
13 ms each way, so a frame from one host to another takes 14 to 26, and a command and its answer twice that; the sender
is half as far from all of them. One frame in a thousand is lost.
"""

import shutil
import tempfile
from collections.abc import Generator
from functools import partial
from pathlib import Path

import pytest
import trio

from actorwork import open_client
from actorwork.clients.runs import Run
from actorwork.streams.transport.slots import key_slot
from actorwork.testing.redis_sentinel import Member

from .conftest import MANY, PATIENCE, Drill, open_place, until
from .network import Cables, Network, open_network, why_not
from .test_clusters import WORK
from .test_failovers import has_replicated, offset_of
from .test_hosts import LEASE, Fleet, open_scene
from .test_joins import JOINS, MEMBERS, check_joins, doubles, joined

pytestmark = pytest.mark.long
CABLES = Cables(0.010, jitter=0.003, loss=0.001)


@pytest.fixture
def network() -> Generator[Network]:
    if reason := why_not(are_slow=True):
        pytest.skip(reason)
    with open_network(3, CABLES) as network:
        yield network


@pytest.fixture
def fleet(network: Network) -> Generator[Fleet]:
    directory = Path(tempfile.mkdtemp(prefix="actorwork-latency-"))
    fleet = Fleet(network, directory)
    try:
        fleet.cluster.start()
        yield fleet
    finally:
        fleet.cluster.kill()
        shutil.rmtree(directory, ignore_errors=True)


def another(fleet: Fleet, old: Member) -> Member:
    return next(one for one in fleet.cluster.primaries if one is not old)


async def test_far_hosts_take_over_join_move_a_slot_and_fail_over_and_settle_each_message_once(
    drill: Drill, fleet: Fleet
):
    cluster = fleet.cluster
    async with open_scene(drill, fleet) as scene:
        # A node dies with running messages, which wait for a gate: the others take them over.
        dead, *_ = fleet.network.hosts
        await scene.nodes.pop(dead).kill()
        scene.open_gate()
        await scene.go_on(200)
        # A slot moves to another host, and back.
        old = await trio.to_thread.run_sync(cluster.owner, WORK)
        target = another(fleet, old)
        await trio.to_thread.run_sync(cluster.move, WORK, target)
        await scene.go_on(200)
        await trio.to_thread.run_sync(cluster.move, WORK, old)
        await scene.go_on(200)
        # The replica on the next host takes the place of the primary.
        offset = offset_of(old)
        await until(lambda: has_replicated(old, offset), "the replica")
        await trio.to_thread.run_sync(cluster.fail_over, old)
        await scene.go_on(200)
        assert await trio.to_thread.run_sync(cluster.owner, WORK) is not old
        scene.nodes[dead] = await drill.start_up(
            "worker", cluster.url, through=dead.through, lease=LEASE, max_crashes=MANY
        )
        await scene.go_on(100)
        await scene.settle_accounts()


async def test_workflows_over_far_hosts_join_once_though_nodes_die(drill: Drill, fleet: Fleet):
    """The home of the runs, their bodies and the receipts are in three slots."""
    assert len({key_slot(source) for source in (MEMBERS, JOINS, "receipts")}) == 3
    url = fleet.cluster.url
    start = partial(drill.start_up, "joins", url, lease=LEASE, max_crashes=MANY)
    async with open_place(url) as place, open_client(place.broker) as client:
        bodies: dict[str, list[int]] = {}
        members: list[int] = []
        nodes = [await start(through=host.through) for host in fleet.network.hosts]
        for number, dying in enumerate((*nodes, None)):
            runs: list[Run[int]] = []
            for which in range(5):
                numbers = [100 * number + 10 * which + one for one in range(6)]
                name = f"run {number} {which}"
                bodies[name] = [2 * one for one in numbers]
                members += numbers
                runs.append(await client.start(joined(name, doubles(*numbers))))
            if dying is not None:
                await drill.wait_notes("ended", len(members) - 20)
                await dying.kill()
                nodes[number] = await start(through=fleet.network.hosts[number].through)
            for run, name in zip(runs, [*bodies][-5:], strict=True):
                assert await run.result(timeout=PATIENCE) == sum(bodies[name])
        await place.wait_empty(MEMBERS, JOINS)
        for node in nodes:
            await node.stop()
        await check_joins(place, bodies, members)
