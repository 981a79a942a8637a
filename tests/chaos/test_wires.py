"""The network of a cluster that can fail: who does not hear of whom."""

from collections.abc import Callable

import pytest
import trio

from actorwork.streams.transport.client import open_client
from actorwork.streams.transport.cluster import cluster_client
from actorwork.testing.redis_cluster import node_id
from actorwork.testing.redis_sentinel import Member, wait_for

from .wires import open_wired_cluster, shown


def misses(member: Member, other: Member) -> bool:
    """Return whether a member gets no answers from another one."""
    name = node_id(other)
    (line,) = [line for line in member.call("CLUSTER", "NODES").decode().split("\n") if line.startswith(name)]
    return "fail" in line.split()[2].split(",")[-1]


async def until(condition: Callable[[], object], what: str) -> None:
    await trio.to_thread.run_sync(wait_for, condition, what)


async def test_members_that_are_parted_miss_each_other_and_others_miss_neither():
    async with open_wired_cluster({}, 2.0) as (cluster, wires):
        one, other, third = cluster.primaries

        def is_parted() -> bool:
            return misses(one, other) and misses(other, one) and not misses(third, one) and not misses(third, other)

        wires.part(one, other)
        await until(is_parted, "two members to miss each other")
        wires.join(one, other)
        await until(lambda: not misses(one, other) and not misses(other, one), "both to hear of each other")


@pytest.mark.long
async def test_clients_reach_a_cluster_through_its_wires_alone():
    async with (
        open_wired_cluster({}, 5.0) as (cluster, wires),
        open_client(cluster.url, make=cluster_client()) as client,
    ):
        owner = cluster.owner("orders")
        await client.call("SET", "orders", "1")
        assert client.server_of("orders") == (shown(owner), owner.port)
        wires.to[owner].black_hole()
        with trio.move_on_after(0.2) as scope:
            await client.call("GET", "orders", idempotent=True)
        assert scope.cancelled_caught
        wires.heal()
        assert await client.call("GET", "orders", idempotent=True) == b"1"
