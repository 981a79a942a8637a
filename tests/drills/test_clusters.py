"""A cluster whose primaries change in mid work.

Receipts are published with the settlements, to a source of another slot: each message has exactly one, whatever came
between. What the replica of a primary that is killed had received by then is not lost.
"""

import logging
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import ExitStack
from functools import partial

import pytest
import trio

from actorwork.streams.transport.slots import key_slot
from actorwork.testing.redis_cluster import RedisCluster, open_redis_cluster
from actorwork.testing.redis_sentinel import Member
from tests.forms import forms

from .conftest import MANY, Drill, open_place, until
from .test_failovers import AT_ONCE, Stream, has_replicated, offset_of
from .workers import RECEIPTS

WORK = "work"


@pytest.fixture
def stack() -> Generator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_a_receipt_is_in_another_slot_than_its_message():
    assert key_slot(WORK) != key_slot(RECEIPTS)


async def change_under_load(
    drill: Drill, cluster: RedisCluster, change: Callable[[Member], None], *, is_agreed: bool = True
) -> None:
    """Change the primary of the source while nodes work, and check the account.

    If the old primary has not agreed (`is_agreed`), the new one may lack its last writes: messages that it had
    acknowledged may be lost, and those that it had settled may be settled again.
    """
    async with open_place(cluster.url) as place:
        for _ in range(2):
            await drill.start_up("worker", cluster.url, lease=3, max_crashes=MANY)
        safe = set(await place.send_numbers(WORK, range(-100, 0)))
        await place.wait_empty(WORK)
        old = await trio.to_thread.run_sync(cluster.owner, WORK)
        if cluster.replicas:
            offset = offset_of(old)
            await until(lambda: has_replicated(old, offset), "the replica")
        stream = Stream(partial(place.send_numbers, WORK))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.run)
            await stream.wait_more(2 * AT_ONCE)
            await trio.to_thread.run_sync(change, old)
            await stream.wait_more(300)
            stream.is_to_end = True
        await place.wait_empty(WORK)
        for node in drill.nodes:
            await node.stop()
        receipts = Counter(receipt["number"] for receipt in await place.receipts())
    lost = set(stream.acknowledged) - set(receipts)
    again = {number for number, count in receipts.items() if count > 1}
    logging.getLogger(__name__).warning(
        "%d acknowledged, %d of them lost, %d settled again, %.2f s without an answer",
        len(stream.acknowledged),
        len(lost),
        len(again),
        stream.gap(),
    )
    assert safe <= set(receipts)
    assert not safe & again
    if is_agreed:
        assert not lost
        assert not again


def other_primary(cluster: RedisCluster, old: Member) -> Member:
    return next(one for one in cluster.primaries if one is not old)


def plainly(cluster: RedisCluster, old: Member) -> None:
    cluster.fail_over(old)


def by_takeover(cluster: RedisCluster, old: Member) -> None:
    cluster.fail_over(old, "TAKEOVER")


def by_a_kill(cluster: RedisCluster, old: Member) -> None:
    replica = cluster.replica_of(old)
    old.kill()
    cluster.wait_primary(replica)


@pytest.mark.parametrize("fail", forms(plainly, more=[by_takeover, by_a_kill]))
async def test_a_failover_in_a_cluster_loses_nothing_that_both_members_had(
    drill: Drill, stack: ExitStack, fail: Callable[[RedisCluster, Member], None]
):
    cluster = stack.enter_context(open_redis_cluster(replicas=1))
    await change_under_load(drill, cluster, partial(fail, cluster), is_agreed=fail is plainly)


@pytest.mark.parametrize("times", forms(0, more=[3]))
async def test_a_slot_that_moves_under_load_loses_nothing(drill: Drill, stack: ExitStack, times: int):
    cluster = stack.enter_context(open_redis_cluster())

    def move(old: Member) -> None:
        target = next(one for one in cluster.primaries if one is not old)
        for _ in range(times):
            cluster.move(WORK, target)
            cluster.move(WORK, old)
        cluster.move(WORK, target)
        assert cluster.owner(WORK) is target

    await change_under_load(drill, cluster, move)
