"""A broker in memory, by Trio's clock alone: for tests in virtual time, where hours pass in a moment.

It keeps what every broker promises (the conformance suite runs over it), within one process and as long as the object
lives. Settlements are applied at once, so that what a test sees does not depend on when it looks. No task ticks while
nothing is due, so a clock that jumps, jumps.

    source    entries in their order, and the groups that read them
    place     an entry as one group has it: ready, or claimed by a node
    claim     the token of a delivery; it is ours as long as the place still has this very one

A lease needs no renewing here: a node loses it when a test says so (`die`, `pause`, `lose_lease`).
"""

from __future__ import annotations

import heapq
import itertools
import json
import math
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeAlias

import attrs
import trio

from actorwork import events
from actorwork.abc import EventSink, Finding, Subscription
from actorwork.actors.actor import Actor
from actorwork.actors.outgoing import source_of
from actorwork.message import (
    ATTEMPT,
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
from actorwork.policy.attempts import headers_of_first_attempt, headers_of_next_attempt
from actorwork.policy.settlement import Ack, Fail, Reject, Retry, Settlement
from actorwork.testing.faults import Faults, Loss
from actorwork.testing.values import MemoryValues

EPOCH: Final = 1_000_000_000.0
"""When the broker's clock begins, in seconds since the epoch: always the same, so that a test run twice sees the
same.
"""
RELEASED: Final = "released"

Payload: TypeAlias = bytes | Mapping[bytes, bytes]


@attrs.frozen
class Settled:
    """A settlement that took effect: of which actor's delivery, and when (Trio's time)."""

    actor: str
    delivery: Delivery
    settlement: Settlement
    published: tuple[Envelope, ...]
    at: float


@attrs.frozen(eq=False)
class _Entry:
    """A message in a source; with `group`, it is for that one alone."""

    number: int
    source: str
    id: str
    payload: Payload
    type: str | None
    headers: Mapping[str, Json]
    group: str | None = None


@attrs.define(eq=False)
class _Place:
    entry: _Entry
    claim: _Claim | None = None
    crashes: int = 0
    previous: str = ""
    """Who had it before: an incarnation, or "released"."""


@attrs.frozen(eq=False)
class _Claim:
    place: _Place
    incarnation: str


@attrs.define(eq=False)
class _Group:
    """What one actor has of one source."""

    source: str
    name: str
    places: dict[int, _Place] = attrs.field(factory=dict[int, _Place])
    ready: list[int] = attrs.field(factory=list[int])
    """A heap: what is given back comes before what was never read, in the order of the source."""

    def add(self, entry: _Entry) -> None:
        if entry.group in (None, self.name):
            self.places[entry.number] = _Place(entry)
            heapq.heappush(self.ready, entry.number)

    def free(self, place: _Place) -> None:
        """Take a place away from its owner."""
        place.claim = None
        heapq.heappush(self.ready, place.entry.number)


@attrs.define(eq=False)
class _Source:
    name: str
    entries: dict[int, _Entry] = attrs.field(factory=dict[int, _Entry])
    groups: dict[str, _Group] = attrs.field(factory=dict[str, _Group])
    ids: set[str] = attrs.field(factory=set[str])
    dead: dict[str, DeadLetter] = attrs.field(factory=dict[str, DeadLetter])

    def group(self, name: str) -> _Group:
        found = self.groups.get(name)
        if found is None:
            found = self.groups[name] = _Group(self.name, name)
            for entry in self.entries.values():
                found.add(entry)
        return found

    def left(self, entry: _Entry) -> None:
        """Drop an entry if it was the last group that had it."""
        if not any(entry.number in group.places for group in self.groups.values()):
            self.entries.pop(entry.number, None)


class MemoryBroker:
    """Implements `actorwork.abc.Broker`, and remembers for tests what was sent and how it ended.

    Open by being made: `open_system(tree, broker=MemoryBroker())`. Its clock begins at `epoch` (seconds since the
    epoch) when it is first asked.
    """

    url = "memory://"

    def __init__(self, *, faults: Faults | None = None, epoch: float = EPOCH) -> None:
        self.faults = faults if faults is not None else Faults()
        self.sent: list[Envelope] = []
        """Every message that was kept, in order: from clients, and published by actors."""
        self.settled: list[Settled] = []
        """Every settlement that took effect, in order."""
        self.handed_back: list[Delivery] = []
        """Every delivery that a node gave back, in order."""
        self.nodes: list[MemoryNode] = []
        """The nodes that are open."""
        self._epoch = epoch
        self._began: float | None = None
        self._sources: dict[str, _Source] = {}
        self._numbers = itertools.count(1)
        self._names = itertools.count(1)
        self._delayed: list[tuple[float, int, _Entry]] = []
        self._outcomes: dict[tuple[str, str], tuple[Outcome, float]] = {}
        self._addresses: dict[str, MemoryReplies] = {}
        self._dead_letters = MemoryDeadLetters(self._sources, self)
        self._values = MemoryValues(lambda: self.now)
        self._news = trio.Event()

    def __repr__(self) -> str:
        held = sum(len(source.entries) for source in self._sources.values())
        return f"<MemoryBroker: {held} messages, {len(self._delayed)} delayed, {len(self.nodes)} nodes>"

    # ---- for tests ----

    @property
    def now(self) -> float:
        """The broker's clock: seconds since the epoch, going on as Trio's clock does."""
        if self._began is None:
            self._began = trio.current_time()
        return self._epoch + trio.current_time() - self._began

    @property
    def delayed(self) -> int:
        """How many messages are held back."""
        return len(self._delayed)

    @property
    def next_due(self) -> float:
        """When the next delayed message is due, by Trio's clock; infinite if none is."""
        return self._delayed[0][0] if self._delayed else math.inf

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
        self._append(source, name, payload, type, headers)
        self.pump()
        return name

    def waiting(self, target: str | type[Actor] | None = None) -> list[str]:
        """Return the ids of what nobody has taken: of an actor, of a source, or of all, in their order."""
        found: list[str] = []
        for source in self._sources.values():
            for group in source.groups.values():
                if target is None or target == source.name or group.name == _id_of(target):
                    found += [group.places[number].entry.id for number in sorted(group.ready)]
        return found

    # ---- for the runtime ----

    @property
    def dead_letters(self) -> MemoryDeadLetters:
        return self._dead_letters

    @property
    def values(self) -> MemoryValues:
        return self._values

    async def publish(self, envelopes: Sequence[Envelope]) -> int:
        await trio.lowlevel.checkpoint()
        new = self.keep(envelopes)
        self.pump()
        return new

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
    async def open_replies(self) -> AsyncGenerator[MemoryReplies]:
        await trio.lowlevel.checkpoint()
        replies = MemoryReplies(self.new_name("replies"))
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
        return len(self._sources[source].entries) if source in self._sources else 0

    async def diagnose(self) -> Sequence[Finding]:
        await trio.lowlevel.checkpoint()
        return (Finding("store", "ok", "in memory, for tests: everything is gone when the process ends"),)

    # ---- keeping; for nodes ----

    def new_name(self, kind: str) -> str:
        return f"{kind}-{next(self._names)}"

    def source(self, name: str) -> _Source:
        found = self._sources.get(name)
        if found is None:
            found = self._sources[name] = _Source(name)
        return found

    def keep(self, envelopes: Iterable[Envelope]) -> int:
        """Keep messages whose ids were not seen before; return how many these are."""
        new = 0
        for one in envelopes:
            source = self.source(one.source)
            if one.id in source.ids:
                continue
            # As on a real broker's wire: what is no JSON fails here, and nobody shares a dict with the sender.
            headers = json.loads(json.dumps(dict(one.headers))) if one.headers else NO_HEADERS
            source.ids.add(one.id)
            delay = one.delay if one.at is None else one.at - self.now
            self._append(one.source, one.id, one.data, one.type, headers, one.group, delay)
            self.sent.append(one)
            new += 1
        return new

    def _append(
        self,
        source: str,
        id: str,
        payload: Payload,
        type: str | None,
        headers: Mapping[str, Json],
        group: str | None = None,
        delay: float = 0.0,
    ) -> None:
        """Put a message at the end of its source, or hold it back."""
        entry = _Entry(next(self._numbers), source, id, payload, type, headers, group)
        if delay > 0:
            heapq.heappush(self._delayed, (trio.current_time() + delay, entry.number, entry))
            self._wake()
        else:
            self._enter(entry)

    def _enter(self, entry: _Entry) -> None:
        source = self.source(entry.source)
        source.entries[entry.number] = entry
        for group in source.groups.values():
            group.add(entry)

    def again(self, entry: _Entry, group: str, headers: Mapping[str, Json], delay: float = 0.0) -> None:
        """Send a message once more, to one group alone."""
        self._append(entry.source, entry.id, entry.payload, entry.type, headers, group, delay)

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
        while self._delayed and self._delayed[0][0] <= now:
            entry = heapq.heappop(self._delayed)[2]
            self._enter(attrs.evolve(entry, number=next(self._numbers)))
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
        if self._delayed and self._delayed[0][0] <= now:
            self._pass_time(now)
            return
        for node in list(self.nodes):
            node.read()

    def take(self, group: _Group, incarnation: str, max_crashes: int, limit: int) -> tuple[list[_Place], list[_Place]]:
        """Claim what is ready; return that, and what is to be buried instead."""
        taken: list[_Place] = []
        condemned: list[_Place] = []
        while group.ready and len(taken) < limit:
            place = group.places[heapq.heappop(group.ready)]
            if place.crashes > max_crashes:
                condemned.append(place)
                continue
            if not place.previous and self.faults.next_double(group.name):
                self.again(place.entry, group.name, place.entry.headers)
            place.claim = _Claim(place, incarnation)
            taken.append(place)
        return taken, condemned

    # ---- settling ----

    def owns(self, delivery: Delivery) -> bool:
        """Say whether a delivery is still that of the node which was given it."""
        claim: _Claim = delivery.token
        return claim.place.claim is claim

    def lose(self, subscription: Subscription, delivery: Delivery) -> None:
        """Give a delivery again, as if its node had been taken for dead."""
        claim: _Claim = delivery.token
        claim.place.crashes += 1
        claim.place.previous = claim.incarnation
        self.source(delivery.source).group(subscription.group).free(claim.place)

    def apply(
        self, subscription: Subscription, delivery: Delivery, settlement: Settlement, published: Sequence[Envelope]
    ) -> None:
        """End a delivery, with all that belongs to it."""
        entry: _Entry = delivery.token.place.entry
        match settlement:
            case Ack(result=result):
                self.answer(delivery, Outcome("done", b"null" if result is None else result))
            case Reject(failure=failure):
                self.answer(delivery, Outcome("rejected", failure=failure))
            case Fail(failure=failure):
                self.bury(subscription, delivery, failure)
            case Retry(delay=delay, failure=failure):
                self.again(entry, subscription.group, headers_of_next_attempt(delivery, failure, self.now), delay)
        self._leave(delivery.token.place, subscription.group)
        self.keep(published)
        self.settled.append(Settled(subscription.actor, delivery, settlement, tuple(published), trio.current_time()))
        self.pump()

    def _leave(self, place: _Place, group: str) -> None:
        place.claim = None
        source = self.source(place.entry.source)
        del source.group(group).places[place.entry.number]
        source.left(place.entry)

    def bury(self, subscription: Subscription, delivery: Delivery, failure: Failure) -> None:
        """Make a dead letter, and answer."""
        name = str(next(self._numbers))
        self.source(delivery.source).dead[name] = DeadLetter(
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
        self.answer(delivery, Outcome("failed", failure=failure))

    def condemn(self, subscription: Subscription, place: _Place) -> None:
        """Bury a message that took down too many processes, before it is run again."""
        reason = f"{place.crashes} processes died with this message in hand"
        self.bury(subscription, _delivery(place), Failure("Crashed", reason))
        self._leave(place, subscription.group)

    def answer(self, delivery: Delivery, outcome: Outcome) -> None:
        """Keep the outcome for whoever asked for it, and tell whoever waits."""
        ttl, address = delivery.headers.get(RESULT_TTL), delivery.headers.get(REPLY_TO)
        if isinstance(ttl, (int, float)) and ttl > 0:
            self._outcomes[delivery.source, delivery.id] = outcome, trio.current_time() + ttl
        if isinstance(address, str) and address in self._addresses:
            self._addresses[address].arrived(delivery.source, delivery.id, outcome)


class MemoryNode:
    """Implements `actorwork.abc.Node`."""

    def __init__(
        self,
        broker: MemoryBroker,
        subscriptions: Sequence[Subscription],
        lease: float,
        emit: EventSink,
        incarnation: str,
    ) -> None:
        self._broker = broker
        self._lease = lease
        self._emit = emit
        self._incarnation = incarnation
        self._groups = {
            subscription: [broker.source(name).group(subscription.group) for name in subscription.sources]
            for subscription in subscriptions
        }
        self._reading = True
        self._closed = False
        self._paused = False
        self._lost = False
        self._turn = 0
        self._counts: dict[str, int] = dict.fromkeys(
            ("read", "settled", "fenced", "reclaimed", "handed_back", "buried"), 0
        )
        self.lease_ends = math.inf
        """When the lease runs out (Trio's time); infinite while it is renewed."""
        self.is_dead = False

    def __repr__(self) -> str:
        state = "dead" if self.is_dead else "paused" if self._paused else "reading" if self._reading else "stopped"
        return f"<MemoryNode {self._incarnation} {state}>"

    @property
    def incarnation(self) -> str:
        return self._incarnation

    def statistics(self) -> Mapping[str, int]:
        return dict(self._counts)

    # ---- for tests ----

    def die(self) -> None:
        """Be as a process that was killed: nothing it does from now on counts, and its lease runs out."""
        self.is_dead = True
        self.pause()

    def pause(self) -> None:
        """Be as a process that was stopped: it reads nothing, and its lease runs out."""
        self._paused = True
        self.lease_ends = trio.current_time() + self._lease
        self._broker.lease_will_end()

    def go_on(self) -> None:
        """Be as a process that goes on: if its lease is gone, it begins a new incarnation."""
        self._paused = False
        self.lease_ends = math.inf
        if self._lost:
            self._begin_anew("it was not renewed in time")
        self._broker.pump()

    def lose_lease(self) -> None:
        """Lose the lease now, and begin anew: what is in hand here is for others, its crash counted."""
        self._broker.abandon(self._incarnation)
        self._begin_anew("somebody ended it")
        self._broker.pump()

    def lease_lost(self) -> None:
        """Called by the broker when the lease has run out. A process that is stopped learns of it when it goes on."""
        self._lost = True
        self.lease_ends = math.inf

    def _begin_anew(self, reason: str) -> None:
        before, self._incarnation = self._incarnation, self._broker.new_name("node")
        self._lost = False
        self._emit(events.LeaseLost(before, self._incarnation, reason))
        for subscription in self._groups:
            subscription.inlet.revoke()

    # ---- reading ----

    def read(self) -> None:
        for subscription in self._groups:
            self.resume(subscription)

    def resume(self, subscription: Subscription) -> None:
        groups = self._groups.get(subscription, ())
        while self._reading and not self._paused and any(group.ready for group in groups):
            room = subscription.inlet.room()
            if room <= 0:
                return
            # A share for each source, the first one's turn another time: a busy source does not starve the others.
            self._turn += 1
            start = self._turn % len(groups)
            ready = [group for group in (*groups[start:], *groups[:start]) if group.ready]
            deliveries: list[Delivery] = []
            for number, group in enumerate(ready):
                share = math.ceil((room - len(deliveries)) / (len(ready) - number))
                deliveries += self._take(subscription, group, share)
            self._counts["read"] += len(deliveries)
            if deliveries:
                subscription.inlet.offer(deliveries)

    def _take(self, subscription: Subscription, group: _Group, limit: int) -> list[Delivery]:
        taken, condemned = self._broker.take(group, self._incarnation, subscription.max_crashes, limit)
        for place in condemned:
            self._counts["buried"] += 1
            self._broker.condemn(subscription, place)
            self._emit(events.Buried(group.source, group.name, place.entry.id, place.crashes))
        for previous in dict.fromkeys(place.previous for place in taken if place.previous):
            count = sum(place.previous == previous for place in taken)
            self._counts["reclaimed"] += count
            self._emit(events.Reclaimed(group.source, group.name, previous, count))
        return [_delivery(place) for place in taken]

    # ---- settling ----

    def settle(
        self,
        subscription: Subscription,
        delivery: Delivery,
        settlement: Settlement,
        published: Sequence[Envelope] = (),
    ) -> None:
        broker = self._broker
        loss = None
        if self._is_ours(delivery):
            loss = broker.faults.next_loss(subscription.group)
            if loss is not Loss.ORDER:
                broker.apply(subscription, delivery, settlement, published)
            if loss is None:
                self._counts["settled"] += 1
                return
        self._counts["fenced"] += 1
        self._emit(events.Fenced(delivery, subscription.group, settlement))
        if loss is Loss.ORDER:
            broker.lose(subscription, delivery)
            broker.pump()

    def _is_ours(self, delivery: Delivery) -> bool:
        return not (self._closed or self.is_dead) and self._broker.owns(delivery)

    async def publish_fenced(
        self, subscription: Subscription, delivery: Delivery, published: Sequence[Envelope]
    ) -> bool:
        await trio.lowlevel.checkpoint()
        if not self._is_ours(delivery):
            return False
        await self._broker.publish(published)
        return True

    async def hand_back(self, subscription: Subscription, deliveries: Sequence[Delivery]) -> None:
        await trio.lowlevel.checkpoint()
        given: dict[str, int] = {}
        for delivery in deliveries:
            if self._is_ours(delivery):
                place: _Place = delivery.token.place
                place.previous = RELEASED
                self._broker.handed_back.append(delivery)
                self._broker.source(delivery.source).group(subscription.group).free(place)
                given[delivery.source] = given.get(delivery.source, 0) + 1
        for source, count in given.items():
            self._counts["handed_back"] += count
            self._emit(events.HandedBack(source, subscription.group, count))
        self._broker.pump()

    async def stop_intake(self) -> None:
        self._reading = False
        await trio.lowlevel.checkpoint()

    async def wait_settled(self) -> None:
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Read and settle nothing any more."""
        self._reading = False
        self._closed = True


class MemoryReplies:
    """Implements `actorwork.abc.Replies`."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._waiting: dict[tuple[str, str], set[MemoryWaiting]] = {}

    def __repr__(self) -> str:
        return f"<MemoryReplies {self.address}, {len(self._waiting)} awaited>"

    def expect(self, source: str, message_id: str) -> MemoryWaiting:
        return MemoryWaiting(self._waiting.setdefault((source, message_id), set()))

    def arrived(self, source: str, message_id: str, outcome: Outcome) -> None:
        for waiting in self._waiting.pop((source, message_id), ()):
            waiting.arrived(outcome)


class MemoryWaiting:
    """Implements `actorwork.abc.Waiting`."""

    def __init__(self, others: set[MemoryWaiting]) -> None:
        others.add(self)
        self._others = others
        self._outcome: Outcome | None = None
        self._event = trio.Event()

    def arrived(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._event.set()

    async def outcome(self) -> Outcome:
        await self._event.wait()
        assert self._outcome is not None  # set before the event is
        return self._outcome

    def close(self) -> None:
        self._others.discard(self)


class MemoryDeadLetters:
    """Implements `actorwork.abc.DeadLetters`; `all` is the same without waiting."""

    def __init__(self, sources: Mapping[str, _Source], broker: MemoryBroker) -> None:
        self._sources = sources
        self._broker = broker

    def __repr__(self) -> str:
        return f"<MemoryDeadLetters: {len(self.all)}>"

    @property
    def all(self) -> Sequence[DeadLetter]:
        """All of them, by source and age."""
        return [letter for name in sorted(self._sources) for letter in self._sources[name].dead.values()]

    async def list(self, source: str | None = None, *, limit: int = 100) -> Sequence[DeadLetter]:
        await trio.lowlevel.checkpoint()
        return [letter for letter in self.all if source in (None, letter.source)][:limit]

    async def get(self, source: str, entry: str) -> DeadLetter | None:
        await trio.lowlevel.checkpoint()
        return self._sources[source].dead.get(entry) if source in self._sources else None

    async def replay(self, source: str, entries: Sequence[str]) -> int:
        letters = await self._remove(source, entries)
        for letter in letters:
            headers = headers_of_first_attempt(letter.headers)
            entry = _Entry(0, source, letter.id, letter.payload, letter.type, headers)
            self._broker.again(entry, letter.group, headers)
        self._broker.pump()
        return len(letters)

    async def drop(self, source: str, entries: Sequence[str]) -> int:
        return len(await self._remove(source, entries))

    async def _remove(self, source: str, entries: Sequence[str]) -> Sequence[DeadLetter]:
        await trio.lowlevel.checkpoint()
        dead = self._sources[source].dead if source in self._sources else {}
        return [dead.pop(entry) for entry in entries if entry in dead]


def _delivery(place: _Place) -> Delivery:
    entry = place.entry
    attempt = entry.headers.get(ATTEMPT)
    return Delivery(
        id=entry.id,
        source=entry.source,
        payload=entry.payload,
        token=place.claim,
        type=entry.type,
        headers=entry.headers,
        attempt=attempt if isinstance(attempt, int) else 1,
        crashes=place.crashes,
    )


def _id_of(target: str | type[Actor]) -> str | None:
    return None if isinstance(target, str) else target.settings.id
