"""The half of the broker that programs without actors use, whatever carries their commands.

`broker.RedisBroker` adds what needs Trio: nodes, and replies that arrive while tasks wait.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Final, TypeVar

from actorwork.abc import EventSink, Finding
from actorwork.errors import BrokerError
from actorwork.failpoints import failpoint
from actorwork.message import Envelope, Outcome, Priority
from actorwork.streams import diagnosis, entries, keys, scripts
from actorwork.streams.pauses import RedisPauses
from actorwork.streams.publisher import Publisher
from actorwork.streams.shards import AGAIN_AFTER, Layouts, is_refused_by_shard
from actorwork.streams.transport.address import Address
from actorwork.streams.transport.commands import Commands, Subscriptions
from actorwork.streams.transport.redis_py import cannot, checked
from actorwork.streams.triggers import RedisTriggers
from actorwork.streams.values import RedisValues

if TYPE_CHECKING:
    from actorwork.policy.shards import Layout
    from actorwork.streams.audit import RedisAudit
    from actorwork.streams.copies import RedisCopies
    from actorwork.streams.dead_letters import RedisDeadLetters
    from actorwork.streams.delayed import RedisDelayed
    from actorwork.streams.dividing import RedisShards
    from actorwork.streams.durable import DurablePublisher
    from actorwork.streams.entities import RedisEntities
    from actorwork.streams.limiter import RedisLimitStore
    from actorwork.streams.minutes import RedisMinutes
    from actorwork.streams.purging import RedisPurging
    from actorwork.streams.reports import RedisCommands, RedisReports
    from actorwork.streams.runs import RedisRuns
    from actorwork.streams.states import RedisStates
    from actorwork.streams.waits import RedisWaits

A = TypeVar("A")
R = TypeVar("R")

_ON_ITS_WAY: Final = -1
"""What lua/cancel.lua returns for a message that is in no shard for the moment."""
_BEFORE_PUBLISH: Final = failpoint("publish.before")
_AFTER_PUBLISH: Final = failpoint("publish.after")


class RedisSending:
    """Publishes, finds outcomes, pauses, starts runs, and so on; implements that part of `actorwork.abc.Broker`."""

    def __init__(
        self,
        client: Commands,
        address: Address,
        emit: EventSink,
        *,
        shared_url: str,
        sleep: Callable[[float], Awaitable[object]],
        subscriptions: Subscriptions | None = None,
        publisher: Publisher | None = None,
    ) -> None:
        self._shared_url = shared_url
        self._commands = client
        self._address = address
        self._emit = emit
        self._publisher = publisher or Publisher(client)
        self.durable: Callable[[], DurablePublisher] | None = None
        """Returns what publishes with a durability; its module is imported by the first such message."""
        self._values = RedisValues(client)
        self.layouts = Layouts(client, self._values, sleep)
        self._triggers = RedisTriggers(client, emit)
        self._pauses = RedisPauses(client, self._triggers, emit, subscriptions)
        self._runs: RedisRuns | None = None
        self._reports: RedisReports | None = None
        self._node_commands: RedisCommands | None = None
        self._subscriptions = subscriptions

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self.url}>"

    @property
    def url(self) -> str:
        return self._address.url

    @property
    def shared_url(self) -> str:
        return self._shared_url

    @property
    def dead_letters(self) -> RedisDeadLetters:
        # Imported here, as below: who only sends looks at nothing.
        from actorwork.streams.views import LettersOfShards  # noqa: PLC0415

        return LettersOfShards(self._commands, self.layouts)

    @property
    def runs(self) -> RedisRuns:
        if self._runs is None:
            # Imported here: most programs have no workflows, and a node starts faster without.
            from actorwork.streams.runs import RedisRuns  # noqa: PLC0415

            self._runs = RedisRuns(self._commands)
        return self._runs

    @property
    def states(self) -> RedisStates:
        # Imported here: a node writes the lives of messages, and reads none.
        from actorwork.streams.states import RedisStates  # noqa: PLC0415

        return RedisStates(self._commands, self.layouts)

    @property
    def entities(self) -> RedisEntities:
        # Imported here: most programs have no entities.
        from actorwork.streams.entities import RedisEntities  # noqa: PLC0415

        return RedisEntities(self._commands)

    @property
    def waits(self) -> RedisWaits:
        # Imported here: few handlers ask for long.
        from actorwork.streams.waits import RedisWaits  # noqa: PLC0415

        return RedisWaits(self._commands)

    @property
    def purging(self) -> RedisPurging:
        # Imported here: few programs purge.
        from actorwork.streams.views import PurgingOfShards  # noqa: PLC0415

        return PurgingOfShards(self._commands, self.layouts)

    @property
    def copies(self) -> RedisCopies:
        # Imported here: few programs copy a source.
        from actorwork.streams.views import CopiesOfShards  # noqa: PLC0415

        return CopiesOfShards(self._commands, self.layouts)

    @property
    def shards(self) -> RedisShards:
        # Imported here: most programs divide no source.
        from actorwork.streams.dividing import RedisShards  # noqa: PLC0415

        return RedisShards(self._commands, self.layouts, self._pauses)

    @property
    def audit(self) -> RedisAudit:
        # Imported here: most programs only send.
        from actorwork.streams.audit import RedisAudit  # noqa: PLC0415

        return RedisAudit(self._commands)

    @property
    def minutes(self) -> RedisMinutes:
        # Imported here: most programs only send.
        from actorwork.streams.minutes import RedisMinutes  # noqa: PLC0415

        return RedisMinutes(self._commands)

    @property
    def reports(self) -> RedisReports:
        if self._reports is None:
            # Imported here, as above.
            from actorwork.streams.views import ReportsOfShards  # noqa: PLC0415

            self._reports = ReportsOfShards(self._commands, self.layouts)
        return self._reports

    @property
    def commands(self) -> RedisCommands:
        if self._node_commands is None:
            from actorwork.streams.reports import RedisCommands  # noqa: PLC0415 - as above

            self._node_commands = RedisCommands(self._commands, self._emit, self._subscriptions)
        return self._node_commands

    @property
    def triggers(self) -> RedisTriggers:
        return self._triggers

    @property
    def pauses(self) -> RedisPauses:
        return self._pauses

    @property
    def delayed(self) -> RedisDelayed:
        from actorwork.streams.views import DelayedOfShards  # noqa: PLC0415 - as above

        return DelayedOfShards(self._commands, self.layouts)

    @property
    def values(self) -> RedisValues:
        return self._values

    @property
    def limit_store(self) -> RedisLimitStore:
        # Imported here: most programs have no limits that count over all nodes.
        from actorwork.streams.limiter import RedisLimitStore  # noqa: PLC0415

        return RedisLimitStore(self._commands)

    async def publish(self, envelopes: Sequence[Envelope]) -> int:
        """Keep messages; return how many were new (0, if that became known only by asking again).

        Order is kept within a source. While Redis is away this waits. Cancelled: any part may have been kept.
        """
        publish = self._publisher.publish
        for envelope in envelopes:
            if envelope.durability is not None:
                publish = self._publish_durably
                break
        while True:
            used = self.layouts.known
            try:
                return await self._publish(publish, self.layouts.placed(envelopes))
            except BrokerError as error:
                refusal = error
            await self._look_elsewhere(envelopes, used, refusal)

    async def publish_new(self, envelope: Envelope) -> None:
        used = self.layouts.known
        placed = self.layouts.placed_one(envelope)
        # As `_publish` does, with one coroutine less: this is the way of nearly every message.
        _begin_publish()
        try:
            if envelope.durability is not None:
                await self._publish_durably([placed])
            elif (gathered := self._publisher.gather(placed)) is None:
                await self._publisher.publish_new(placed)
            elif type(answer := await gathered) is not int:
                await self._publisher.conclude(placed, answer)
        except BrokerError as error:
            refusal = error
        else:
            _end_publish()
            return
        await self._look_elsewhere([envelope], used, refusal)
        await self.publish([envelope])

    async def _look_elsewhere(
        self, envelopes: Sequence[Envelope], used: Mapping[str, Layout], refusal: BrokerError
    ) -> None:
        """Learn where messages go by now that a shard has refused; raise the refusal if they go nowhere else."""
        sources = {envelope.source for envelope in envelopes}
        if not is_refused_by_shard(refusal) or not await self.layouts.are_renewed(sources, used):
            raise refusal

    async def _publish_durably(self, envelopes: Sequence[Envelope]) -> int:
        """Publish messages of which some have a durability: in runs with the same one, in their order."""
        new = 0
        for durability, some in groupby(envelopes, key=lambda envelope: envelope.durability):
            run = list(some)
            if durability is None:
                new += await self._publisher.publish(run)
                continue
            ids = tuple(envelope.id for envelope in run)
            publish = partial(_publish_run, run)
            sources = tuple(dict.fromkeys(envelope.source for envelope in run))
            new += await self._durably().publish(publish, sources, ids, durability)
        return new

    def _durably(self) -> DurablePublisher:
        if self.durable is None:
            raise BrokerError("this client has no connection that waits for replicas: send without durability=…")
        return self.durable()

    async def _publish(self, publish: Callable[[A], Awaitable[R]], what: A) -> R:
        _begin_publish()
        result = await publish(what)
        _end_publish()
        return result

    async def publish_unique(self, envelope: Envelope) -> str:
        while True:
            used = self.layouts.known
            try:
                return await self._publish_unique(self.layouts.placed_one(envelope))
            except BrokerError as error:
                refusal = error
            await self._look_elsewhere([envelope], used, refusal)

    async def _publish_unique(self, envelope: Envelope) -> str:
        if envelope.durability is not None:
            publish = partial(_publish_unique, envelope)
            return await self._durably().publish(publish, (envelope.source,), (envelope.id,), envelope.durability)
        return await self._publisher.publish_unique(envelope)

    async def release_lease(self, incarnation: str) -> bool:
        with cannot(f"release the lease of {incarnation}"):
            released = await self._commands.call("DEL", keys.lease(incarnation), idempotent=True)
            # Makes all nodes maintain all sources: only the pending lists know which of them the dead node had entries
            # of.
            await self._commands.call("PUBLISH", keys.ATTEND, b"", idempotent=True)
        return bool(released)

    async def find_outcome(self, source: str, message_id: str) -> Outcome | None:
        names = await self.layouts.names_of_tracked(source)
        with cannot(f"look for the outcome of message {message_id}"):
            asked = [("GET", keys.SourceKeys.of(name).result(message_id)) for name in names]
            records = checked(await self._commands.call_many(asked, idempotent=True))
        record = next((one for one in records if one is not None), None)
        return None if record is None else entries.outcome_from(record)[2]

    async def cancel_message(self, source: str, message_id: str, *, reason: str = "", force: bool = False) -> bool:
        """Cancelled or failed: it may have been cancelled. After a lost reply it is sent again, and returns False
        then. Waits for a message that is on its way to another shard.
        """
        while True:
            is_moving = False
            for name in await self.layouts.names_of_tracked(source):
                answer = await self._cancel_at(name, message_id, reason, force=force)
                if answer == 1:
                    return True
                is_moving = is_moving or answer == _ON_ITS_WAY
            if not is_moving:
                return False
            await self.layouts.sleep(AGAIN_AFTER)

    async def _cancel_at(self, source: str, message_id: str, reason: str, *, force: bool) -> int | None:
        args = (keys.SourceKeys.of(source).prefix, message_id, reason, int(force))
        with cannot(f"cancel message {message_id} of {source!r}"):
            answer: int | None = await self._commands.run_script(scripts.CANCEL, (source,), args, idempotent=True)
            if self._commands.is_of_cluster:
                from actorwork.streams.forwarding import forward_all  # noqa: PLC0415 - only on a cluster

                await forward_all(self._commands, source)
            return answer

    async def backlog(self, source: str, group: str | None = None) -> int:
        """Return how many are in the streams or wait for their key; delayed messages do not count."""
        shards = [keys.SourceKeys.of(name) for name in await self.layouts.names_now(source)]
        calls = [([of.at(level) for level in Priority], (of.prefix, group or "")) for of in shards]
        with cannot(f"count the backlog of {source!r}"):
            counts: list[int] = await self._commands.run_script_on_each(scripts.BACKLOG, calls)
        return sum(counts)

    async def oldest(self, source: str, group: str | None = None) -> float | None:
        shards = [keys.SourceKeys.of(name) for name in await self.layouts.names_now(source)]
        calls = [([of.at(level) for level in Priority], (group or "",)) for of in shards]
        with cannot(f"look at the oldest message of {source!r}"):
            ages: list[int | None] = await self._commands.run_script_on_each(scripts.OLDEST, calls)
        return max((age / 1000 for age in ages if age is not None), default=None)

    async def diagnose(self) -> Sequence[Finding]:
        return await diagnosis.look(self._commands, self._address)


def _begin_publish() -> None:
    if _BEFORE_PUBLISH is not None:
        _BEFORE_PUBLISH()


def _end_publish() -> None:
    if _AFTER_PUBLISH is not None:
        _AFTER_PUBLISH()


async def _publish_run(envelopes: Sequence[Envelope], publisher: Publisher) -> int:
    return await publisher.publish(envelopes)


async def _publish_unique(envelope: Envelope, publisher: Publisher) -> str:
    return await publisher.publish_unique(envelope)
