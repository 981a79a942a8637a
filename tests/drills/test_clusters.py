"""A cluster whose primaries change in mid work.

Receipts are published with the settlements, to a source of another slot: each message has exactly one, whatever came
between, and those of a key are in the order in which its messages were sent. What the replica of a primary that is
killed had received by then is not lost. Of what it had not received, a receipt may be there without those before it.
"""

import logging
import signal
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack
from functools import partial

import pytest
import trio

from actorwork.streams.transport.slots import key_slot
from actorwork.testing.redis_cluster import RedisCluster, open_redis_cluster
from actorwork.testing.redis_sentinel import Member, wait_for
from tests.forms import forms

from .conftest import MANY, Drill, Node, open_place, until, until_true
from .test_failovers import AT_ONCE, Stream, has_replicated, offset_of
from .workers import RECEIPTS

WORK = "work"
KEYS = 10


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
    acknowledged may be lost, and those that it had settled may be settled again, after others of their keys. Handlers
    have begun in the order of each key, all the same.
    """
    async with open_place(cluster.url) as place:
        for _ in range(2):
            await drill.start_up("worker", cluster.url, lease=3, max_crashes=MANY)
        safe = set(await place.send_numbers(WORK, range(-100, 0), keys=KEYS))
        await place.wait_empty(WORK)
        old = await trio.to_thread.run_sync(cluster.owner, WORK)
        if cluster.replicas:
            offset = offset_of(old)
            await until(lambda: has_replicated(old, offset), "the replica")
        stream = Stream(partial(place.send_numbers, WORK, keys=KEYS))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.run)
            await stream.wait_more(2 * AT_ONCE)
            await trio.to_thread.run_sync(change, old)
            await stream.wait_more(300)
            stream.is_to_end = True
        await place.wait_empty(WORK)
        for node in drill.nodes:
            await node.stop()
        numbers = [receipt["number"] for receipt in await place.receipts()]
    receipts = Counter(numbers)
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
    if old.process is None or is_agreed:
        # Else there were two primaries for a moment, each with messages of a key that the other one did not have.
        check_order(note.facts["number"] for note in drill.ledger.notes("begun") if note.facts["number"] in receipts)
    if is_agreed:
        check_order(numbers)
        assert not lost
        assert not again


def check_order(numbers: Iterable[int]) -> None:
    """See that the numbers of each key came for the first time in the order in which they were sent."""
    first = list(dict.fromkeys(numbers))
    for key in range(KEYS):
        of_key = [number for number in first if number % KEYS == key]
        assert of_key == sorted(of_key)


def other_primary(cluster: RedisCluster, old: Member) -> Member:
    return next(one for one in cluster.primaries if one is not old)


def plainly(cluster: RedisCluster, old: Member) -> None:
    cluster.fail_over(old)


def by_takeover_and_back_by_force(cluster: RedisCluster, old: Member) -> None:
    new = cluster.fail_over(old, "TAKEOVER")
    wait_for(lambda: old.info("replication").get("master_link_status") == "up", f"{old!r} to follow {new!r}")
    assert cluster.fail_over(new, "FORCE") is old


def by_force_when_it_is_dead(cluster: RedisCluster, old: Member) -> None:
    """An operator does not wait until the others have found out: here that would take fifteen seconds."""
    replica = cluster.replica_of(old)
    old.kill()
    assert (
        replica.call("CLUSTER", "FAILOVER") == b"-ERR Master is down or failed, please use CLUSTER FAILOVER FORCE\r\n"
    )
    assert replica.call("CLUSTER", "FAILOVER", "FORCE") == b"+OK\r\n"
    cluster.wait_primary(replica)


def by_a_kill(cluster: RedisCluster, old: Member) -> None:
    replica = cluster.replica_of(old)
    old.kill()
    cluster.wait_primary(replica)


@pytest.mark.parametrize(
    "fail", forms(plainly, more=[by_takeover_and_back_by_force, by_force_when_it_is_dead, by_a_kill])
)
async def test_a_failover_in_a_cluster_loses_nothing_that_both_members_had(
    drill: Drill, stack: ExitStack, fail: Callable[[RedisCluster, Member], None]
):
    cluster = stack.enter_context(
        open_redis_cluster(replicas=1, node_timeout=15.0 if fail is by_force_when_it_is_dead else 2.0)
    )
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


@pytest.mark.long
async def test_nodes_that_slept_while_their_cluster_changed_settle_nothing_twice(drill: Drill, stack: ExitStack):
    """When they wake up, their layout is of before: the primary of what they have in hand has become a replica, the
    slot is at a third one since, and that of the receipts is moving. The sender knows nothing of it, either.

    One still has its lease, and settles what it had in hand. Of the other one another node has done so.
    """
    cluster = stack.enter_context(open_redis_cluster(replicas=1))
    gate = drill.folder / "gate"
    held = range(4)

    def change() -> Member:
        """Return the primary to which the slot of the receipts is moving."""
        old = cluster.owner(WORK)
        cluster.fail_over(old)
        target, other = (one for one in cluster.primaries if one is not old)
        cluster.move(WORK, target)
        target = target if cluster.owner(RECEIPTS) is other else other
        cluster.begin_move(RECEIPTS, target)
        return target

    async with open_place(cluster.url) as place:
        late, dead = [await drill.start_up("worker", cluster.url, lease=600, max_crashes=MANY) for _ in range(2)]
        old = await trio.to_thread.run_sync(cluster.owner, WORK)
        for number in held:  # By turns: a message goes to the read that has been parked for longest.
            await until(lambda: old.info("clients")["blocked_clients"] == "2", "both nodes to read")
            await place.send_numbers(WORK, [number], keys=KEYS, gate=str(gate))
            await drill.wait_notes("begun", number + 1)
        for node in (late, dead):
            await node.freeze(cluster.url)
        of_dead = numbers_begun(drill, dead)
        target = await trio.to_thread.run_sync(change)
        assert await place.broker.release_lease(dead.incarnation)
        heir = await drill.start_up("worker", cluster.url, lease=600, max_crashes=MANY)
        await until(lambda: of_dead <= numbers_begun(drill, heir), "what the dead node had to be taken over")
        gate.touch()
        for node in (late, dead):
            node.signal(signal.SIGCONT)
        await place.send_numbers(WORK, range(len(held), 4 * KEYS), keys=KEYS)
        await place.wait_empty(WORK)
        await trio.to_thread.run_sync(cluster.move, RECEIPTS, target)
        await until_true(lambda: place.is_forwarded(WORK), "an empty outbox")
        for node in drill.nodes:
            await node.stop()
        settled = [receipt["number"] for receipt in await place.receipts()]
    assert sorted(settled) == list(range(4 * KEYS))
    check_order(settled)
    begun = Counter(note.facts["number"] for note in drill.ledger.notes("begun"))
    assert {number for number in held if begun[number] > 1} == of_dead
    assert len(of_dead) == 2


def numbers_begun(drill: Drill, node: Node) -> set[int]:
    return {note.facts["number"] for note in drill.ledger.notes("begun", pid=node.pid)}
