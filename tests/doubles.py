"""A broker in memory that keeps time by Trio's clock, so that it works on a simulated one.

It does what `actorwork.abc` asks of a broker, and remembers what it was told: `settled`, `handed_back`, `ahead`. One
node at a time; no leases. The conformance suite is for brokers that keep messages, this one is for those who use them.
"""

import itertools
import json
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

import attrs
import trio

from actorwork.abc import DeadLetters, EventSink, Finding, Replies, Subscription
from actorwork.actors.actor import Actor
from actorwork.errors import BrokerError
from actorwork.events import Event
from actorwork.message import ATTEMPT, Delivery, Envelope, Json, Outcome
from actorwork.policy.settlement import Fail, Retry, Settlement

E = TypeVar("E")


class Kept:
    """An event sink that keeps what it is given."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]


@attrs.frozen
class Settled:
    """What a node was told of a delivery, and when."""

    delivery: Delivery
    settlement: Settlement
    published: tuple[Envelope, ...]
    at: float


class FakeBroker:
    """One queue for each group. Nothing is lost but by its own process."""

    url = "fake://"

    def __init__(self, *, refuse: str | None = None) -> None:
        self._refuse = refuse
        self._numbers = itertools.count()
        self._queues: dict[str, deque[Delivery]] = {}
        self._groups: dict[str, set[str]] = {}
        self._ids: set[tuple[str, str]] = set()
        self._early: list[Envelope] = []
        self._changed = trio.Event()
        self.nursery: trio.Nursery | None = None
        self.node: FakeNode | None = None
        self.sent: list[Envelope] = []
        self.settled: list[Settled] = []
        self.ahead: list[Envelope] = []
        self.handed_back: list[Delivery] = []
        self.fenced: set[str] = set()
        """Ids of deliveries that others have taken over."""
        self.log: list[str] = []

    # ---- for tests ----

    def put(
        self,
        target: str | type[Actor],
        payload: object = None,
        *,
        id: str | None = None,
        type: str | None = None,
        headers: Mapping[str, Json] | None = None,
        raw: bytes | Mapping[bytes, bytes] | None = None,
    ) -> str:
        """Add a message, as JSON or raw; return its id."""
        source = target if isinstance(target, str) else target.settings.default_source
        message_id = id if id is not None else f"m{next(self._numbers)}"
        data = json.dumps(payload).encode() if raw is None else raw
        self._add(source, message_id, data, type, headers or {}, None)
        return message_id

    def settlement(self, message_id: str) -> Settlement:
        """Return how a message ended; it must have ended once."""
        found = [entry.settlement for entry in self.settled if entry.delivery.id == message_id]
        assert len(found) == 1, f"{message_id} was settled {len(found)} times: {found}"
        return found[0]

    def published(self, message_id: str) -> tuple[Envelope, ...]:
        """Return what travelled with a message's settlement."""
        (found,) = [entry.published for entry in self.settled if entry.delivery.id == message_id]
        return found

    @property
    def order(self) -> list[str]:
        """The ids of what was settled, in that order."""
        return [entry.delivery.id for entry in self.settled]

    async def wait_settled(self, count: int = 1) -> None:
        """Wait until so many deliveries are settled."""
        await self._wait(lambda: len(self.settled) >= count)

    async def _wait(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed = trio.Event()
            await self._changed.wait()

    def _add(
        self,
        source: str,
        message_id: str,
        data: bytes | Mapping[bytes, bytes],
        wire: str | None,
        headers: Mapping[str, Json],
        group: str | None,
    ) -> None:
        attempt = headers.get(ATTEMPT, 1)
        assert isinstance(attempt, int)
        for name in self._groups.get(source, set()) if group is None else {group}:
            token = object()
            self._queues[name].append(Delivery(message_id, source, data, token, wire, headers, attempt))
        self.wake()

    def wake(self) -> None:
        self._changed.set()
        if self.node is not None:
            self.node.pump()

    # ---- for the runtime ----

    @property
    def dead_letters(self) -> DeadLetters:
        raise NotImplementedError

    async def publish(self, envelopes: Sequence[Envelope]) -> int:
        new = 0
        for envelope in envelopes:
            if (envelope.source, envelope.id) not in self._ids:
                self._ids.add((envelope.source, envelope.id))
                self.sent.append(envelope)
                self._add(envelope.source, envelope.id, envelope.data, envelope.type, envelope.headers, envelope.group)
                new += 1
        await trio.lowlevel.checkpoint()
        return new

    def keep(self, envelopes: Iterable[Envelope]) -> None:
        """Take what a settlement publishes."""
        for envelope in envelopes:
            self.sent.append(envelope)
            self._add(envelope.source, envelope.id, envelope.data, envelope.type, envelope.headers, envelope.group)

    def open_node(
        self, subscriptions: Sequence[Subscription], *, lease: float, emit: EventSink
    ) -> AbstractAsyncContextManager["FakeNode"]:
        return self._open_node(subscriptions)

    @asynccontextmanager
    async def _open_node(self, subscriptions: Sequence[Subscription]) -> AsyncGenerator["FakeNode"]:
        await trio.lowlevel.checkpoint()
        if self._refuse is not None:
            raise BrokerError(self._refuse)
        for subscription in subscriptions:
            self._queues.setdefault(subscription.group, deque())
            for source in subscription.sources:
                self._groups.setdefault(source, set()).add(subscription.group)
        async with trio.open_nursery() as nursery:
            node = self.node = FakeNode(self, subscriptions, nursery)
            node.pump()
            yield node
            self.node = None
            self.log.append("lease released")
            nursery.cancel_scope.cancel()

    def queue(self, group: str) -> deque[Delivery]:
        return self._queues[group]

    def waiting(self, actor: type[Actor]) -> list[str]:
        """The ids of what nobody has taken."""
        return [delivery.id for delivery in self._queues[actor.settings.id]]

    def open_replies(self) -> AbstractAsyncContextManager[Replies]:
        raise NotImplementedError

    async def find_outcome(self, source: str, message_id: str) -> Outcome | None:
        raise NotImplementedError

    async def backlog(self, source: str) -> int:
        return 0

    async def diagnose(self) -> Sequence[Finding]:
        return ()


class FakeNode:
    """Reads as far as there is room, at once."""

    incarnation = "fake"

    def __init__(self, broker: FakeBroker, subscriptions: Sequence[Subscription], nursery: trio.Nursery) -> None:
        self._broker = broker
        self._subscriptions = subscriptions
        self._nursery = nursery
        self._reading = True

    def pump(self) -> None:
        for subscription in self._subscriptions:
            self.resume(subscription)

    def resume(self, subscription: Subscription) -> None:
        queue = self._broker.queue(subscription.group)
        while self._reading and queue:
            room = subscription.inlet.room()
            if not room:
                return
            subscription.inlet.offer([queue.popleft() for _ in range(min(room, len(queue)))])

    def revoke(self) -> None:
        """Lose the lease."""
        for subscription in self._subscriptions:
            subscription.inlet.revoke()

    def settle(
        self,
        subscription: Subscription,
        delivery: Delivery,
        settlement: Settlement,
        published: Sequence[Envelope] = (),
    ) -> None:
        self._broker.settled.append(Settled(delivery, settlement, tuple(published), trio.current_time()))
        self._broker.keep(published)
        if isinstance(settlement, Retry):
            self._nursery.start_soon(self._run_again, subscription, delivery, settlement.delay)
        self._broker.wake()

    async def _run_again(self, subscription: Subscription, delivery: Delivery, delay: float) -> None:
        await trio.sleep(delay)
        headers = {**delivery.headers, ATTEMPT: delivery.attempt + 1}
        again = attrs.evolve(delivery, token=object(), headers=headers, attempt=delivery.attempt + 1)
        self._broker.queue(subscription.group).append(again)
        self._broker.wake()

    async def publish_fenced(
        self, subscription: Subscription, delivery: Delivery, published: Sequence[Envelope]
    ) -> bool:
        await trio.lowlevel.checkpoint()
        if delivery.id in self._broker.fenced:
            return False
        self._broker.ahead.extend(published)
        await self._broker.publish(published)
        return True

    async def hand_back(self, subscription: Subscription, deliveries: Sequence[Delivery]) -> None:
        await trio.lowlevel.checkpoint()
        self._broker.handed_back.extend(deliveries)
        self._broker.queue(subscription.group).extendleft(reversed(deliveries))

    async def stop_intake(self) -> None:
        self._reading = False
        await trio.lowlevel.checkpoint()

    async def wait_settled(self) -> None:
        await trio.lowlevel.checkpoint()

    def statistics(self) -> Mapping[str, int]:
        return {"settled": len(self._broker.settled)}


def failed(settlement: Settlement) -> tuple[str, str]:
    """Return the type and the reason of a failure."""
    assert isinstance(settlement, Fail), settlement
    return settlement.failure.type, settlement.failure.reason


def fields(**values: str) -> dict[bytes, bytes]:
    """Return stream fields, as a foreign producer writes them."""
    return {name.encode(): value.encode() for name, value in values.items()}
