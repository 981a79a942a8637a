"""A node at Redis: a lease, readers and tenders for its subscriptions, and a settler.

    lease ──▶ groups ──▶ tend once ──▶ read, tend, settle ──▶ stop intake ──▶ settle the rest ──▶ release the lease

Two nurseries: the intake (readers, tenders), which ends first, and the settling, which is shielded until the node is
closed, so that what was handled before a cancellation is settled after it.

When the lease is lost, everything in hand belongs to others: the inlets are revoked, and the node goes on under a new
name, with new custodies. Reads that are under way under the old name are interrupted, and what they bring is left
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import attrs
import trio

from actorwork.abc import EventSink, Node, Subscription
from actorwork.errors import BrokerError
from actorwork.events import BrokerTrouble, HandedBack, LeaseLost
from actorwork.failpoints import crash_point
from actorwork.message import Delivery, Envelope
from actorwork.policy.settlement import Settlement
from actorwork.streams import entries, scripts
from actorwork.streams.in_flight import Counters, Custody, Keep
from actorwork.streams.keys import RELEASED
from actorwork.streams.lease import Lease
from actorwork.streams.reader import Reader
from actorwork.streams.reclaimer import Tender
from actorwork.streams.settler import Settler
from actorwork.streams.source_set import SOURCES, Shard
from actorwork.streams.transport.client import Client
from actorwork.streams.transport.connection import Address
from actorwork.streams.transport.redis_py import RedisError

_LAST_READS: Final = 2.0
_LAST_SETTLEMENTS: Final = 1.0
_RELEASED_AT_ONCE: Final = 1000
_BEFORE_HAND_BACK: Final = crash_point("hand_back.before")
_AFTER_HAND_BACK: Final = crash_point("hand_back.after")


class RedisNode(Node):
    """Made and ended by `RedisBroker.open_node`."""

    def __init__(
        self,
        client: Client,
        address: Address,
        subscriptions: Sequence[Subscription],
        *,
        lease: float,
        emit: EventSink,
        begin_settling: trio.Nursery,
    ) -> None:
        self._client = client
        self._subscriptions = tuple(subscriptions)
        self._emit = emit
        self._settling = begin_settling
        self._counters = Counters()
        self._lease = Lease(address, lease, on_lost=self._lease_lost, on_trouble=self._lease_troubled)
        self._incarnation = self._lease.incarnation
        self._intake = trio.CancelScope()
        self._intake_ended = trio.Event()
        self._is_intake_begun = False
        self._settler = Settler(client, self._spawn, emit, self._counters)
        self._shards: dict[Subscription, list[Shard]] = {}
        self._tenders: list[Tender] = []
        self._readers: list[Reader] = []
        for subscription in self._subscriptions:
            sources = subscription.sources
            self._shards[subscription] = [
                self._new_shard(subscription, sources[start : start + SOURCES])
                for start in range(0, len(sources), SOURCES)
            ]

    def __repr__(self) -> str:
        return f"<RedisNode {self._incarnation} for {len(self._subscriptions)} actors>"

    def _new_shard(self, subscription: Subscription, sources: Sequence[str]) -> Shard:
        shard = Shard(
            subscription,
            sources,
            self._incarnation,
            client=self._client,
            settler=self._settler,
            emit=self._emit,
            counters=self._counters,
        )
        tender = Tender(self._client, shard, on_no_lease=self._lease.check)
        reader = Reader(self._client, shard, tender)
        shard.interrupt_reader = reader.interrupt
        self._tenders.append(tender)
        self._readers.append(reader)
        return shard

    @property
    def incarnation(self) -> str:
        return self._incarnation

    def statistics(self) -> Mapping[str, int]:
        return attrs.asdict(self._counters)

    # --------------------------------------------------------------------------------------------------- begin and end

    async def begin(self) -> None:
        """Take the lease and make all groups, before anything is read."""
        await self._lease.take()
        try:
            for shard in self._all_shards():
                await shard.make_groups(are_restored=False)
        except RedisError as error:
            raise BrokerError(f"cannot make the groups at {self._client!r}: {error}") from error

    async def run_intake(self) -> None:
        """Look after all sources once, then read them and go on looking after them, until `stop_intake`."""
        self._is_intake_begun = True
        try:
            with self._intake:
                async with trio.open_nursery() as nursery:
                    for tender, reader in zip(self._tenders, self._readers, strict=True):
                        nursery.start_soon(_read_and_tend, tender, reader, nursery)
        finally:
            self._intake_ended.set()

    async def stop_intake(self) -> None:
        self._intake.cancel()
        if self._is_intake_begun:
            await self._intake_ended.wait()

    async def end(self) -> None:
        """Stop reading, apply what is queued, and release the lease. Shielded, for some seconds at most."""
        with trio.move_on_after(_LAST_READS, shield=True):
            await self.stop_intake()
        with trio.move_on_after(_LAST_SETTLEMENTS, shield=True):
            await self._settler.wait_settled()
        await self._lease.release()
        for shard in self._all_shards():
            shard.give_up()

    # ----------------------------------------------------------------------------------------------------- settlements

    def settle(
        self,
        subscription: Subscription,
        delivery: Delivery,
        settlement: Settlement,
        published: Sequence[Envelope] = (),
    ) -> None:
        self._settler.settle(delivery, settlement, published)

    async def publish_fenced(
        self, subscription: Subscription, delivery: Delivery, published: Sequence[Envelope]
    ) -> bool:
        """Publish in the order of settlements. Cancelled: it may be published."""
        told = trio.Event()
        answers: list[bool | Exception] = []

        def tell(answer: bool | Exception) -> None:  # noqa: FBT001 - it is the answer
            answers.append(answer)
            told.set()

        self._settler.settle(delivery, Keep(tell), published)
        await told.wait()
        answer = answers[0]
        if isinstance(answer, Exception):
            raise BrokerError(f"cannot publish for {delivery.id}: {answer}") from answer
        return answer

    async def wait_settled(self) -> None:
        await self._settler.wait_settled()

    async def hand_back(self, subscription: Subscription, deliveries: Sequence[Delivery]) -> None:
        """Cancelled: any part may have been handed back; the rest is taken over when the lease is released."""
        by_custody: dict[Custody, list[Delivery]] = {}
        for delivery in deliveries:
            custody: Custody = delivery.token[2]
            if not custody.is_over:
                by_custody.setdefault(custody, []).append(delivery)
        for custody, some in by_custody.items():
            for start in range(0, len(some), _RELEASED_AT_ONCE):
                await self._hand_back(custody, some[start : start + _RELEASED_AT_ONCE])

    async def _hand_back(self, custody: Custody, deliveries: Sequence[Delivery]) -> None:
        first, last = entries.bounds(delivery.token[0] for delivery in deliveries)
        args: list[Any] = [custody.group, custody.incarnation, RELEASED, first, last, len(deliveries), custody.source]
        for delivery in deliveries:
            args += delivery.token[:2]
        if _BEFORE_HAND_BACK is not None:
            _BEFORE_HAND_BACK()
        try:
            await self._client.run_script(scripts.HAND_BACK, (custody.stream,), args, idempotent=True)
        except RedisError as error:
            next_step = "they stay pending, and are taken over when this node has ended"
            self._emit(BrokerTrouble(f"handing back {len(deliveries)} of {custody.source}", str(error), next_step))
            return
        if _AFTER_HAND_BACK is not None:
            _AFTER_HAND_BACK()
        for delivery in deliveries:
            custody.release(delivery)
        # What the script found to be others' already is counted as well: it is out of our hands.
        self._counters.handed_back += len(deliveries)
        self._emit(HandedBack(custody.source, custody.group, len(deliveries)))

    def resume(self, subscription: Subscription) -> None:
        for shard in self._shards[subscription]:
            shard.resume()

    def withhold(self, subscription: Subscription, sources: Collection[str]) -> None:
        for shard in self._shards[subscription]:
            shard.withhold(sources)

    def now(self) -> float:
        return self._lease.now()

    def attend(self, source: str | None, seconds: float) -> None:
        """Look after a source, if it is one of ours, within so many seconds: something is held back there.

        None means all of them: a node has died.
        """
        for shard in self._all_shards():
            if source is None or source in shard.sources:
                shard.attend(seconds)

    def learn(self, source: str, level: str) -> None:
        """Read a level of priority of a source, if it is one of ours, from now on."""
        for shard in self._all_shards():
            if source in shard.sources:
                shard.learn({source: (level.encode(),)})

    # ----------------------------------------------------------------------------------------------------------- lease

    def _lease_lost(self, lost: str, successor: str, reason: str) -> None:
        self._incarnation = successor
        for shard in self._all_shards():
            shard.begin(successor)
            shard.must_recover = False
        for subscription in self._subscriptions:
            subscription.inlet.revoke()
        self._emit(LeaseLost(lost, successor, reason))
        for reader in self._readers:
            reader.interrupt()
        for tender in self._tenders:
            tender.attend(0)

    def _lease_troubled(self, error: str, next_step: str) -> None:
        self._emit(BrokerTrouble("renewing the lease", error, next_step))

    def _all_shards(self) -> list[Shard]:
        return [shard for shards in self._shards.values() for shard in shards]

    def _spawn(self, flush: Callable[..., Any], custody: Custody) -> None:
        self._settling.start_soon(flush, custody)


async def _read_and_tend(tender: Tender, reader: Reader, nursery: trio.Nursery) -> None:
    with suppress(RedisError):  # The tender begins with another one, and tells.
        await tender.tend()
    nursery.start_soon(tender.run)
    await reader.run()
