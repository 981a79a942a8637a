"""A primary that Sentinel replaces in mid work: what it had in common with its replica is lost by no failover.

Replication is asynchronous, so the last writes that were acknowledged may be lost with the primary. What the replica
had received by then may not. Receipts are written with the settlements, on the same server: each message that the new
primary knows has exactly one. The states of entities are written with them, too: each goes back as a whole, together
with the receipts of what it lists.
"""

import json
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import ExitStack, suppress
from itertools import pairwise

import pytest
import trio

from actorwork.message import Envelope, MessageIds
from actorwork.testing.redis_sentinel import Member, RedisSentinels, open_redis_sentinels, wait_for

from .conftest import MANY, Drill, Place, open_place, until
from .workers import Listing

pytestmark = pytest.mark.long
AT_ONCE = 20
KEYS = 20
EVERY = 0.02
GUARDED = {"min-replicas-to-write": "1", "min-replicas-max-lag": "2"}


@pytest.fixture
def stack() -> Generator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class Stream:
    """Sends numbers at a steady rate, and knows which of them were acknowledged, and when.

    What was due while it waited for an answer goes with the next ones; of what an outage held up, a fifth of a second.
    """

    def __init__(self, send: Callable[[range], Awaitable[object]], *, at_once: int = AT_ONCE) -> None:
        """Send so many numbers every twenty milliseconds: 20 are a thousand messages a second."""
        self._send = send
        self._at_once = at_once
        self.acknowledged: dict[int, float] = {}
        self.number = 0
        self.is_to_end = False

    async def run(self) -> None:
        due = trio.current_time()
        while not self.is_to_end:
            rounds = min(1 + int((trio.current_time() - due) / EVERY), 10)
            some = range(self.number, self.number + rounds * self._at_once)
            await self._send(some)
            self.acknowledged |= dict.fromkeys(some, time.monotonic())
            self.number = some.stop
            due = max(due + rounds * EVERY, trio.current_time() - 10 * EVERY)
            await trio.sleep_until(due)

    def gap(self) -> float:
        """Return the longest time in seconds between two acknowledgements."""
        times = sorted(set(self.acknowledged.values()))
        return max(later - earlier for earlier, later in pairwise(times))

    def rate(self) -> float:
        """Return how many messages a second were acknowledged so far."""
        times = self.acknowledged.values()
        return len(times) / (max(times) - min(times))

    async def wait_more(self, count: int) -> None:
        goal = len(self.acknowledged) + count
        await until(lambda: len(self.acknowledged) >= goal, f"{count} more messages to be accepted")


def has_replicated(primary: Member, offset: int) -> bool:
    """Whether all replicas have received what the primary has written up to an offset."""
    facts = primary.info("replication")
    replicas = [facts[f"slave{number}"] for number in range(int(facts["connected_slaves"]))]
    return all(int(dict(part.split("=") for part in one.split(","))["offset"]) >= offset for one in replicas)


def offset_of(primary: Member) -> int:
    return int(primary.info("replication")["master_repl_offset"])


def replace_as_planned(fleet: RedisSentinels, primary: Member) -> None:
    """Do what the chapter on Sentinel recommends: writes wait until the replicas have all, and one of them leads."""
    assert primary.call("CLIENT", "PAUSE", "60000", "WRITE") == b"+OK\r\n"
    offset = offset_of(primary)
    wait_for(lambda: has_replicated(primary, offset), "the replicas")
    fleet.order_failover()


def has_none_of_ours(server: Member) -> bool:
    """Whether no program of ours is connected to a server, which may close connections in mid reply."""
    try:
        return b"name=actorwork" not in server.call("CLIENT", "LIST")
    except OSError:
        return False


async def fail_over_under_load(
    drill: Drill,
    fleet: RedisSentinels,
    fail: Callable[[Member], None],
    *,
    has_states: bool = False,
    at_once: int = AT_ONCE,
) -> tuple[Member, set[int]]:
    """Replace the primary while two nodes work, and check the account.

    Return the old primary, and the numbers that it has acknowledged and the new one does not know.
    """
    tree, source = ("listing", Listing.settings.default_source) if has_states else ("worker", "work")
    async with open_place(fleet.url) as place:
        for _ in range(2):
            await drill.start_up(tree, fleet.url, lease=2, max_crashes=MANY)
        ids = MessageIds(os.urandom(8).hex())

        async def send(numbers: range) -> None:
            if not has_states:
                await place.send_numbers(source, numbers, seconds=0)
                return
            await place.broker.publish(
                [
                    Envelope(source, next(ids), json.dumps({"number": n}).encode(), headers={}, key=f"key {n % KEYS}")
                    for n in numbers
                ]
            )

        stream = Stream(send, at_once=at_once)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.run)
            await stream.wait_more(25 * at_once)
            old = await trio.to_thread.run_sync(fleet.primary)
            safe = set(stream.acknowledged)
            offset = offset_of(old)
            await until(lambda: has_replicated(old, offset), "the replicas")
            await stream.wait_more(at_once)
            rate = stream.rate()
            await trio.to_thread.run_sync(fail, old)
            await trio.to_thread.run_sync(fleet.wait_moved, old)
            await stream.wait_more(25 * at_once)
            stream.is_to_end = True
        await place.wait_empty(source)
        for node in drill.nodes:
            await node.stop()
        numbers = [receipt["number"] for receipt in await place.receipts()]
        if has_states:
            await check_states(place, numbers)
    assert len(numbers) == len(set(numbers)), "a message was settled twice"
    lost = set(stream.acknowledged) - set(numbers)
    logging.getLogger(__name__).warning(
        "%.0f messages a second; %d acknowledged, %d of them lost, %.2f s without an answer",
        rate,
        len(stream.acknowledged),
        len(lost),
        stream.gap(),
    )
    assert not lost & safe
    return old, lost


async def check_states(place: Place, accepted: list[int]) -> None:
    """See that the states list what has a receipt, once and in order, and that their versions count it."""
    for key in range(KEYS):
        state = await place.broker.entities.get(Listing.settings.default_source, Listing.settings.id, f"key {key}")
        assert state is not None
        listed: list[int] = json.loads(state.data)
        assert listed == sorted(number for number in accepted if number % KEYS == key)
        assert state.version == len(listed)


async def test_states_on_a_primary_that_is_killed_under_load_go_back_with_their_messages(
    drill: Drill, stack: ExitStack
):
    fleet = stack.enter_context(open_redis_sentinels(sentinels=3, down_after=2))
    await fail_over_under_load(drill, fleet, lambda primary: primary.send_signal(signal.SIGKILL), has_states=True)


async def test_a_primary_that_is_killed_under_load_loses_nothing_that_its_replica_had(drill: Drill, stack: ExitStack):
    """Under two thousand messages a second, which two nodes handle."""
    fleet = stack.enter_context(open_redis_sentinels(sentinels=3, down_after=2))
    await fail_over_under_load(drill, fleet, lambda primary: primary.send_signal(signal.SIGKILL), at_once=40)


async def test_a_primary_whose_writes_wait_is_replaced_without_a_loss(drill: Drill, stack: ExitStack):
    """The old primary goes on accepting for ten seconds whatever is sent to it; nothing is sent to it."""
    fleet = stack.enter_context(open_redis_sentinels(sentinels=3, replicas=2, down_after=30))
    old, lost = await fail_over_under_load(drill, fleet, lambda primary: replace_as_planned(fleet, primary))
    assert not lost
    await until(lambda: has_none_of_ours(old), "the connections to the old primary to end")


async def test_a_primary_that_stood_still_and_takes_itself_for_one_accepts_nothing(drill: Drill, stack: ExitStack):
    fleet = stack.enter_context(open_redis_sentinels(sentinels=3, replicas=2, down_after=2, config=GUARDED))
    old, _ = await fail_over_under_load(drill, fleet, lambda primary: primary.send_signal(signal.SIGSTOP))
    # The new primary has accepted writes, so it has the other replica, and the old one has none.
    old.send_signal(signal.SIGCONT)
    replies: list[bytes] = []

    def write() -> bool:
        with suppress(OSError):  # It closes all connections as it becomes a replica.
            replies.append(old.call("XADD", "work", "*", "data", "{}"))
        return bool(replies)

    await until(write, "an answer of the old primary")
    # Whether it still takes itself for a primary, or has heard of the new one: it accepts no write.
    assert replies[0].startswith((b"-NOREPLICAS", b"-READONLY", b"-LOADING", b"-MASTERDOWN")), replies
    await until(lambda: has_none_of_ours(old), "the connections to the old primary to end")
    async with open_place(fleet.url) as place:
        await place.send_numbers("work", range(10))
        node = await drill.start_up("worker", fleet.url)
        await place.wait_empty("work")
        await node.stop()
        await place.check_account(range(10))
