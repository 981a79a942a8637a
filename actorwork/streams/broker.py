"""The broker at Redis: messages in streams under the users' own names, settled by scripts.

One server, or a primary with replicas. On Redis Cluster a source and its keys share a slot, but a lease and messages
for other sources do not: that is not supported yet.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

import trio

from actorwork.abc import Broker, EventSink, Finding, Subscription
from actorwork.errors import BrokerError
from actorwork.events import BrokerAdvice, BrokerBack, BrokerLost, BrokerTrouble
from actorwork.failpoints import failpoint
from actorwork.message import Envelope, Outcome, Priority
from actorwork.nurseries import open_unwrapping_nursery
from actorwork.streams import diagnosis, entries, keys, scripts
from actorwork.streams.dead_letters import RedisDeadLetters
from actorwork.streams.delayed import RedisDelayed
from actorwork.streams.limiter import RedisLimitStore
from actorwork.streams.node import RedisNode
from actorwork.streams.pauses import RedisPauses
from actorwork.streams.publisher import Publisher
from actorwork.streams.replies import RedisReplies
from actorwork.streams.transport.address import Address
from actorwork.streams.transport.client import ConnectionEvent, ConnectionLost, RedisClient, open_client
from actorwork.streams.transport.redis_py import RedisError, cannot
from actorwork.streams.triggers import RedisTriggers
from actorwork.streams.values import RedisValues

if TYPE_CHECKING:
    from actorwork.streams.runs import RedisRuns

A = TypeVar("A")
R = TypeVar("R")

_ATTEND = keys.ATTEND.encode()
_PAUSES = keys.PAUSES.encode()
_BEFORE_PUBLISH: Final = failpoint("publish.before")
_AFTER_PUBLISH: Final = failpoint("publish.after")


@asynccontextmanager
async def open_broker(url: str, *, emit: EventSink, allow_eviction: bool = False) -> AsyncGenerator[RedisBroker]:
    """Connect to Redis and check that it keeps messages. Waits for a server that cannot be reached.

    Raises `BrokerError` for a server that is too old, and for one that evicts streams (`allow_eviction`
    makes that a warning).
    """
    replies: dict[bytes, RedisReplies] = {}
    nodes: list[RedisNode] = []
    pauses: list[Callable[[], None]] = []

    def on_push(message: list[Any]) -> None:
        if message[0] != b"message":
            return
        if (place := replies.get(message[1])) is not None:
            place.take(message[2])
        elif message[1] == _PAUSES:
            for tell in pauses:
                tell()
        elif message[1] == _ATTEND:
            name = message[2].decode(errors="replace") or None
            used = None if name is None else keys.source_and_level(name)
            for node in nodes:
                if used is None:
                    node.maintain_within(name, 0)
                else:
                    node.learn(*used)

    def on_event(event: ConnectionEvent) -> None:
        if isinstance(event, ConnectionLost):
            emit(BrokerLost(str(event.error), event.retry_in))
            return
        emit(BrokerBack(event.url))
        for place in replies.values():
            place.look_now()
        for tell in pauses:
            tell()

    async with open_client(url, name="actorwork", scripts=scripts.ALL, on_push=on_push, on_event=on_event) as client:
        await client.wait_connected()
        _refuse_what_loses_messages(await _first_findings(client), emit, allow_eviction=allow_eviction)
        broker = RedisBroker(client, Address.parse(url), replies, nodes, emit, shared_url=url)
        pauses.append(broker.pauses.tell)
        yield broker


class RedisBroker(Broker):
    """Made by `open_broker`."""

    def __init__(
        self,
        client: RedisClient,
        address: Address,
        replies: dict[bytes, RedisReplies],
        nodes: list[RedisNode],
        emit: EventSink,
        *,
        shared_url: str,
    ) -> None:
        self._shared_url = shared_url
        self._client = client
        self._address = address
        self._replies = replies
        self._emit = emit
        self._publisher = Publisher(client)
        self._dead_letters = RedisDeadLetters(client)
        self._delayed = RedisDelayed(client)
        self._values = RedisValues(client)
        self._limiter = RedisLimitStore(client)
        self._triggers = RedisTriggers(client, emit)
        self._pauses = RedisPauses(client, self._triggers, emit)
        self._runs: RedisRuns | None = None
        self._nodes = nodes

    def __repr__(self) -> str:
        return f"<RedisBroker at {self.url}>"

    @property
    def url(self) -> str:
        return self._address.url

    @property
    def shared_url(self) -> str:
        return self._shared_url

    @property
    def client(self) -> RedisClient:
        """The connection, for commands that this class does not offer."""
        return self._client

    @property
    def dead_letters(self) -> RedisDeadLetters:
        return self._dead_letters

    @property
    def runs(self) -> RedisRuns:
        if self._runs is None:
            # Imported here: most programs have no workflows, and a node starts faster without.
            from actorwork.streams.runs import RedisRuns  # noqa: PLC0415

            self._runs = RedisRuns(self._client)
        return self._runs

    @property
    def triggers(self) -> RedisTriggers:
        return self._triggers

    @property
    def pauses(self) -> RedisPauses:
        return self._pauses

    @property
    def delayed(self) -> RedisDelayed:
        return self._delayed

    @property
    def values(self) -> RedisValues:
        return self._values

    @property
    def limit_store(self) -> RedisLimitStore:
        return self._limiter

    def statistics(self) -> dict[str, int]:
        statistics = self._client.statistics()
        return {
            "connections": statistics.generation,
            "in_flight": statistics.in_flight,
            "bytes_sent": statistics.bytes_sent,
            "bytes_received": statistics.bytes_received,
        }

    async def publish(self, envelopes: Sequence[Envelope]) -> int:
        """Keep messages; return how many were new (0, if that became known only by asking again).

        Order is kept within a source. While Redis is away this waits. Cancelled: any part may have been kept.
        """
        return await self._publish(self._publisher.publish, envelopes)

    async def publish_new(self, envelope: Envelope) -> None:
        await self._publish(self._publisher.publish_new, envelope)

    async def _publish(self, publish: Callable[[A], Awaitable[R]], what: A) -> R:
        if _BEFORE_PUBLISH is not None:
            _BEFORE_PUBLISH()
        result = await publish(what)
        if _AFTER_PUBLISH is not None:
            _AFTER_PUBLISH()
        return result

    async def publish_unique(self, envelope: Envelope) -> str:
        return await self._publisher.publish_unique(envelope)

    @asynccontextmanager
    async def open_node(
        self, subscriptions: Sequence[Subscription], *, lease: float, emit: EventSink
    ) -> AsyncGenerator[RedisNode]:
        async with open_unwrapping_nursery() as nursery:
            settling: trio.Nursery = await nursery.start(_keep_settling)
            node = RedisNode(
                self._client, self._address, subscriptions, lease=lease, emit=emit, begin_settling=settling
            )
            try:
                await node.begin()
                await self._listen(emit)
                nursery.start_soon(node.run_intake)
                self._nodes.append(node)
                yield node
            finally:
                if node in self._nodes:
                    self._nodes.remove(node)
                await node.end()
                settling.cancel_scope.cancel()

    async def release_lease(self, incarnation: str) -> bool:
        with cannot(f"release the lease of {incarnation}"):
            released = await self._client.call("DEL", keys.lease(incarnation), idempotent=True)
            # Makes all nodes maintain all sources: only the pending lists know which of them the dead node had entries
            # of.
            await self._client.call("PUBLISH", keys.ATTEND, b"", idempotent=True)
        return bool(released)

    async def _listen(self, emit: EventSink) -> None:
        """Subscribe to requests for maintenance; without them, nodes maintain their sources once a second."""
        try:
            await self._client.subscribe(_ATTEND)
        except RedisError as error:
            next_step = "going on; short delays and released messages may be a second late"
            emit(BrokerTrouble(f"subscribing to {keys.ATTEND}", str(error), next_step))

    @asynccontextmanager
    async def open_replies(self) -> AsyncGenerator[RedisReplies]:
        place = RedisReplies(self._client, self._emit)
        channel = place.address.encode()
        self._replies[channel] = place
        try:
            async with open_unwrapping_nursery() as nursery:
                await self._client.subscribe(channel)
                nursery.start_soon(place.run)
                yield place
                nursery.cancel_scope.cancel()
        finally:
            del self._replies[channel]
            with trio.move_on_after(0.5, shield=True):
                # If this fails, the subscription ends with the connection; nothing is published there any more.
                with suppress(RedisError, trio.ClosedResourceError):
                    await self._client.unsubscribe(channel)

    async def find_outcome(self, source: str, message_id: str) -> Outcome | None:
        key = keys.SourceKeys.of(source).result(message_id)
        with cannot(f"look for the outcome of message {message_id}"):
            record: bytes | None = await self._client.call("GET", key, idempotent=True)
        return None if record is None else entries.outcome_from(record)[2]

    async def backlog(self, source: str, group: str | None = None) -> int:
        """Return how many are in the streams or wait for their key; delayed messages do not count."""
        of = keys.SourceKeys.of(source)
        with cannot(f"count the backlog of {source!r}"):
            return await self._client.run_script(
                scripts.BACKLOG, [of.at(level) for level in Priority], (of.prefix, group or ""), idempotent=True
            )

    async def oldest(self, source: str, group: str | None = None) -> float | None:
        of = keys.SourceKeys.of(source)
        with cannot(f"look at the oldest message of {source!r}"):
            age: int | None = await self._client.run_script(
                scripts.OLDEST, [of.at(level) for level in Priority], (group or "",), idempotent=True
            )
        return None if age is None else age / 1000

    async def diagnose(self) -> Sequence[Finding]:
        return await diagnosis.look(self._client)


async def _keep_settling(task_status: trio.TaskStatus[trio.Nursery]) -> None:
    # Before the shield, and with no checkpoint between this and `started`: under a scope that is cancelled already,
    # `started` does nothing, and `nursery.start` would wait for ever for a task that its cancellation does not reach.
    await trio.lowlevel.checkpoint_if_cancelled()
    # Shielded: deliveries handled before a cancellation are settled after it. `open_node` ends it, after a second at
    # most.
    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as nursery:
            task_status.started(nursery)
            await trio.sleep_forever()


async def _first_findings(client: RedisClient) -> Sequence[Finding]:
    return diagnosis.memory_and_durability(await diagnosis.facts_of(client))


def _refuse_what_loses_messages(findings: Sequence[Finding], emit: EventSink, *, allow_eviction: bool) -> None:
    for finding in findings:
        if finding.level == "ok":
            continue
        if finding.level == "error" and not (allow_eviction and finding.subject == "eviction"):
            hint = ", or open the broker with allow_eviction=True" if finding.subject == "eviction" else ""
            raise BrokerError(f"{finding.text}; {finding.advice}{hint}")
        emit(BrokerAdvice(finding.text, finding.advice, finding.subject))
