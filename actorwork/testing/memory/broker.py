"""The broker in memory: what the runtime and tests see of it, and how time passes.

What is due is promoted, and a lease that ran out is ended, by a task of every open node for all of them; with no node
open, by whoever publishes or looks next.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import attrs
import trio

from actorwork.abc import EventSink, Finding, Subscription
from actorwork.actors.actor import Actor
from actorwork.actors.context.publishing import source_of
from actorwork.embedded.cancellation import CANCELLED, REPLACED
from actorwork.embedded.replies import LocalReplies
from actorwork.message import (
    NO_HEADERS,
    REPLY_TO,
    RESULT_TTL,
    DeadLetter,
    Delivery,
    Envelope,
    Failure,
    Json,
    Outcome,
)
from actorwork.policy.attempts import headers_of_next_attempt
from actorwork.policy.settlement import Ack, Fail, Reject, Retry, Settlement
from actorwork.testing.faults import Faults
from actorwork.testing.memory.dead_letters import MemoryDeadLetters
from actorwork.testing.memory.delayed import MemoryDelayed
from actorwork.testing.memory.entries import Claim, Entry, Group, Payload, Place, Source
from actorwork.testing.memory.limiter import MemoryLimitStore
from actorwork.testing.memory.node import MemoryNode
from actorwork.testing.memory.triggers import MemoryPauses, MemoryTriggers
from actorwork.testing.memory.values import MemoryValues

EPOCH: Final = 1_000_000_000.0
"""When the broker's clock begins, in seconds since the epoch: always the same, so that a test run twice sees the
same.
"""


@attrs.frozen
class Settled:
    """A settlement that took effect: of which actor's delivery, and when (Trio's time)."""

    actor: str
    delivery: Delivery
    settlement: Settlement
    published: tuple[Envelope, ...]
    at: float


class MemoryBroker:
    """Implements `actorwork.abc.Broker`, and remembers for tests what was sent and how it ended.

    Open by being made: `open_system(tree, broker=MemoryBroker())`. Its clock begins at `epoch` (seconds since the
    epoch) when it is first asked.
    """

    url = "memory://"
    shared_url: str | None = None

    def __init__(self, *, faults: Faults | None = None, epoch: float = EPOCH) -> None:
        self.faults = faults if faults is not None else Faults()
        self.sent: list[Envelope] = []
        """Every message that was kept, in order: from clients, and published by actors."""
        self.settled: list[Settled] = []
        """Every settlement that took effect, in order."""
        self.released: list[Delivery] = []
        """Every delivery that a node gave back, in order."""
        self.nodes: list[MemoryNode] = []
        """The nodes that are open."""
        self._epoch = epoch
        self._began: float | None = None
        self._sources: dict[str, Source] = {}
        self._numbers = itertools.count(1)
        self._names = itertools.count(1)
        self._delayed = MemoryDelayed(self._wall, self._cancel)
        self._outcomes: dict[tuple[str, str], tuple[Outcome, float]] = {}
        self._addresses: dict[str, LocalReplies] = {}
        self._dead_letters = MemoryDeadLetters(self._sources, self._send)
        self._values = MemoryValues(lambda: self.now)
        self._limiter = MemoryLimitStore(lambda: self.now)
        self._triggers = MemoryTriggers(lambda: self.now, self._keep_and_pump)
        self._pauses = MemoryPauses(lambda: self.now, self._triggers)
        self._news = trio.Event()

    def __repr__(self) -> str:
        held = sum(len(source.entries) for source in self._sources.values())
        return f"<MemoryBroker: {held} messages, {len(self._delayed)} delayed, {len(self.nodes)} nodes>"

    # ---- for tests ----

    @property
    def now(self) -> float:
        """The broker's clock: seconds since the epoch, going on as Trio's clock does."""
        return self._wall(trio.current_time())

    def _wall(self, time: float) -> float:
        if self._began is None:
            self._began = trio.current_time()
        return self._epoch + time - self._began

    @property
    def next_due(self) -> float:
        """When the next delayed message is due, by Trio's clock; infinite if none is."""
        return self._delayed.next_due

    def put(
        self,
        target: str | type[Actor],
        payload: Payload,
        *,
        id: str | None = None,
        type: str | None = None,
        headers: Mapping[str, Json] = NO_HEADERS,
    ) -> str:
        """Add an entry as a foreign producer does, without waiting: its bytes, or its fields; return its id."""
        source = source_of(target)
        name = id if id is not None else f"entry {next(self._names)}"
        self._send(Entry(0, source, name, payload, type, headers))
        return name

    def waiting(self, target: str | type[Actor] | None = None) -> list[str]:
        """Return the ids of what is ready and nobody has taken: of an actor, of a source, or of all, in their order."""
        found: list[str] = []
        for source in self._sources.values():
            for group in source.groups.values():
                if target is None or target == source.name or group.name == _id_of(target):
                    found += [place.entry.id for place in group.waiting()]
        return found

    # ---- for the runtime ----

    @property
    def dead_letters(self) -> MemoryDeadLetters:
        return self._dead_letters

    @property
    def delayed(self) -> MemoryDelayed:
        return self._delayed

    @property
    def values(self) -> MemoryValues:
        return self._values

    @property
    def limit_store(self) -> MemoryLimitStore:
        return self._limiter

    @property
    def triggers(self) -> MemoryTriggers:
        return self._triggers

    @property
    def pauses(self) -> MemoryPauses:
        return self._pauses

    async def publish(self, envelopes: Sequence[Envelope]) -> int:
        await trio.lowlevel.checkpoint()
        return self._keep_and_pump(envelopes)

    def _keep_and_pump(self, envelopes: Sequence[Envelope]) -> int:
        new = self.keep(envelopes)
        self.pump()
        return new

    async def publish_new(self, envelope: Envelope) -> None:
        await self.publish([envelope])

    async def publish_unique(self, envelope: Envelope) -> str:
        await trio.lowlevel.checkpoint()
        _, holder = self._keep(envelope)
        self.pump()
        return holder

    @asynccontextmanager
    async def open_node(
        self, subscriptions: Sequence[Subscription], *, lease: float, emit: EventSink
    ) -> AsyncGenerator[MemoryNode]:
        await trio.lowlevel.checkpoint()
        node = MemoryNode(self, subscriptions, lease, emit, self.new_name("node"))
        async with trio.open_nursery() as nursery:
            self.nodes.append(node)
            nursery.start_soon(self._keep_time)
            self.pump()
            try:
                yield node
            finally:
                node.close()
                if not node.is_dead:
                    self.nodes.remove(node)
                    self.abandon(node.incarnation)
                self.pump()
                nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def open_replies(self) -> AsyncGenerator[LocalReplies]:
        await trio.lowlevel.checkpoint()
        replies = LocalReplies(self.new_name("replies"))
        self._addresses[replies.address] = replies
        try:
            yield replies
        finally:
            del self._addresses[replies.address]

    async def find_outcome(self, source: str, message_id: str) -> Outcome | None:
        await trio.lowlevel.checkpoint()
        outcome, until = self._outcomes.get((source, message_id), (None, -math.inf))
        return outcome if trio.current_time() < until else None

    async def backlog(self, source: str) -> int:
        await trio.lowlevel.checkpoint()
        return self._sources[source].backlog if source in self._sources else 0

    async def oldest(self, source: str) -> float | None:
        await trio.lowlevel.checkpoint()
        since = self._sources[source].oldest if source in self._sources else math.inf
        return None if since == math.inf else trio.current_time() - since

    async def release_lease(self, incarnation: str) -> bool:
        await trio.lowlevel.checkpoint()
        found = [node for node in self.nodes if node.incarnation == incarnation]
        for node in found:
            self.end_lease(node)
        self.pump()
        return bool(found)

    async def diagnose(self) -> Sequence[Finding]:
        await trio.lowlevel.checkpoint()
        return (Finding("store", "ok", "in memory, for tests: everything is gone when the process ends"),)

    # ---- keeping; for nodes ----

    def new_name(self, kind: str) -> str:
        return f"{kind}-{next(self._names)}"

    def source(self, name: str) -> Source:
        found = self._sources.get(name)
        if found is None:
            found = self._sources[name] = Source(name, self.new_number)
        return found

    def new_number(self) -> int:
        return next(self._numbers)

    def keep(self, envelopes: Iterable[Envelope]) -> int:
        """Keep messages whose ids were not seen before; return how many these are."""
        return sum(self._keep(one)[0] for one in envelopes)

    def _keep(self, one: Envelope) -> tuple[bool, str]:
        """Keep a message, if it may be; return whether it was, and the id of the one that stands for it."""
        source, now, unique = self.source(one.source), self.now, one.unique
        if one.id in source.ids:
            return False, one.id
        # As on a real broker's wire: what is no JSON fails here, and nobody shares a dict with the sender.
        headers = json.loads(json.dumps(dict(one.headers))) if one.headers else NO_HEADERS
        holder = source.holder(unique, now)
        if unique is not None:
            if holder is not None and not (unique.on_conflict == "replace" and self._drop(source.name, holder)):
                return False, holder
            source.hold(unique, one.id, now)
        source.ids.add(one.id)
        ends = [] if one.lifetime is None else [now + one.lifetime]
        ends += [] if one.expires is None else [one.expires]
        entry = Entry(
            0,
            one.source,
            one.id,
            one.data,
            one.type,
            headers,
            one.group,
            one.key,
            one.priority,
            min(ends, default=None),
            None if unique is None else unique.key,
        )
        self.append(entry, one.delay if one.at is None else one.at - now)
        self.sent.append(one)
        return True, one.id

    def append(self, entry: Entry, delay: float = 0.0) -> None:
        """Put a message at the end of its source, or behind the others of its key, or hold it back."""
        if delay > 0:
            self._delayed.add(trio.current_time() + delay, attrs.evolve(entry, number=self.new_number()))
            self._wake()
        else:
            self.source(entry.source).enter(entry)

    def _send(self, entry: Entry) -> None:
        self.append(entry)
        self.pump()

    def again(self, entry: Entry, group: str, headers: Mapping[str, Json], delay: float = 0.0) -> None:
        """Send a message that is not over once more, to one group alone, before those that wait for its key."""
        self.source(entry.source).follow(entry)
        self.append(attrs.evolve(entry, group=group, headers=headers, goes_first=True), delay)

    # ---- taking back ----

    def _cancel(self, source: str, id: str) -> bool:
        """Drop what is held back of a message, or waits behind others, and tell whoever waits for its outcome."""
        entry = self._drop_held_back(source, id)
        if entry is not None:
            self.answer(source, id, entry.headers, Outcome("rejected", failure=CANCELLED))
            self.pump()
        return entry is not None

    def _drop_held_back(self, name: str, id: str) -> Entry | None:
        source = self.source(name)
        found = self._delayed.remove(name, id)
        for entry in found:
            if entry.goes_first:
                source.left(entry)
            else:
                source.let_go(entry)
        return found[0] if found else source.remove_behind(id)

    def _drop(self, name: str, id: str) -> bool:
        """Drop a message wherever it is, unless somebody has it in hand; return whether it is gone."""
        source = self.source(name)
        standing = source.standing(id)
        if any(source.is_in_hand(entry) for entry in standing):
            return False
        dropped = self._drop_held_back(name, id)
        for entry in standing:
            source.remove(entry)
            dropped = entry
        if dropped is not None:
            self.answer(name, id, dropped.headers, Outcome("rejected", failure=REPLACED))
        return True

    # ---- time ----

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def _keep_time(self) -> None:
        """Promote what is due, and end the leases that run out; every node does it, for all."""
        while True:
            ends = min((node.lease_ends for node in self.nodes), default=math.inf)
            news = self._news
            with trio.move_on_at(min(self.next_due, ends)):
                await news.wait()
            self._pass_time(trio.current_time())

    def _pass_time(self, now: float) -> None:
        while (entry := self._delayed.take_due(now)) is not None:
            self.source(entry.source).enter(entry)
        for node in [node for node in self.nodes if node.lease_ends <= now]:
            self.end_lease(node)
        self.pump()

    def lease_will_end(self) -> None:
        self._wake()

    def end_lease(self, node: MemoryNode) -> None:
        """Declare a node dead: what it has in hand is for others."""
        node.lease_lost()
        self.abandon(node.incarnation)
        if node.is_dead:
            self.nodes.remove(node)

    def abandon(self, incarnation: str) -> None:
        """Free everything that an incarnation has in hand, as after a crash."""
        for source in self._sources.values():
            for group in source.groups.values():
                for place in group.places.values():
                    if place.claim is not None and place.claim.incarnation == incarnation:
                        place.crashes += 1
                        place.previous = incarnation
                        group.free(place)

    # ---- reading ----

    def pump(self) -> None:
        """Let every node read what there is, as far as there is room."""
        now = trio.current_time()
        if self.next_due <= now:
            self._pass_time(now)
            return
        for node in list(self.nodes):
            node.read()

    def take(self, group: Group, level: int, incarnation: str, max_crashes: int) -> Place:
        """Take the next one of a level, and claim it; unclaimed it is one that is to be buried (`condemn`)."""
        place = group.next(level)
        if place.crashes <= max_crashes:
            if not place.previous and self.faults.next_double(group.name):
                self.again(place.entry, group.name, place.entry.headers)
            place.claim = Claim(place, incarnation)
        return place

    # ---- settling ----

    def owns(self, delivery: Delivery) -> bool:
        """Say whether a delivery is still that of the node which was given it."""
        claim: Claim = delivery.token
        return claim.place.claim is claim

    def lose(self, subscription: Subscription, delivery: Delivery) -> None:
        """Give a delivery again, as if its node had been taken for dead."""
        claim: Claim = delivery.token
        claim.place.crashes += 1
        claim.place.previous = claim.incarnation
        self.source(delivery.source).group(subscription.group).free(claim.place)

    def apply(
        self, subscription: Subscription, delivery: Delivery, settlement: Settlement, published: Sequence[Envelope]
    ) -> None:
        """End a delivery, with all that belongs to it."""
        entry: Entry = delivery.token.place.entry
        match settlement:
            case Ack(result=result):
                self._tell(delivery, Outcome("done", b"null" if result is None else result))
            case Reject(failure=failure):
                self._tell(delivery, Outcome("rejected", failure=failure))
            case Fail(failure=failure):
                self.dead_letter(subscription, entry, delivery, failure)
            case Retry(delay=delay, failure=failure):
                self.again(entry, subscription.group, headers_of_next_attempt(delivery, failure, self.now), delay)
        self._leave(delivery.token.place, subscription.group)
        self.keep(published)
        self.settled.append(Settled(subscription.actor, delivery, settlement, tuple(published), trio.current_time()))
        self.pump()

    def _leave(self, place: Place, group: str) -> None:
        place.claim = None
        source = self.source(place.entry.source)
        del source.group(group).places[place.entry.number]
        source.settled(place.entry)

    def dead_letter(self, subscription: Subscription, entry: Entry, delivery: Delivery, failure: Failure) -> None:
        """Make a dead letter, and answer."""
        name = str(next(self._numbers))
        letter = DeadLetter(
            source=delivery.source,
            entry=name,
            id=delivery.id,
            group=subscription.group,
            actor=subscription.actor,
            failure=failure,
            attempt=delivery.attempt,
            at=self.now,
            payload=delivery.payload,
            type=delivery.type,
            headers=delivery.headers,
        )
        dead = self.source(delivery.source).dead
        dead[name] = letter, entry
        bounds = subscription.dead_letters
        for old in list(dead):
            if len(dead) > bounds.max_count or dead[old][0].at < self.now - bounds.max_age:
                del dead[old]
        self._tell(delivery, Outcome("failed", failure=failure))

    def condemn(self, subscription: Subscription, place: Place) -> None:
        """Bury a message that took down too many processes, before it is run again."""
        reason = f"{place.crashes} processes died with this message in hand"
        self.dead_letter(subscription, place.entry, place.delivery, Failure("Crashed", reason))
        self._leave(place, subscription.group)

    def _tell(self, delivery: Delivery, outcome: Outcome) -> None:
        self.answer(delivery.source, delivery.id, delivery.headers, outcome)

    def answer(self, source: str, id: str, headers: Mapping[str, Json], outcome: Outcome) -> None:
        """Keep the outcome for whoever asked for it, and tell whoever waits."""
        ttl, address = headers.get(RESULT_TTL), headers.get(REPLY_TO)
        if isinstance(ttl, (int, float)) and ttl > 0:
            self._outcomes[source, id] = outcome, trio.current_time() + ttl
        if isinstance(address, str) and address in self._addresses:
            self._addresses[address].arrived((address, source, id, outcome))


def _id_of(target: str | type[Actor]) -> str | None:
    return None if isinstance(target, str) else target.settings.id
