"""The half of the broker that programs without actors use, whatever carries out their orders.

`broker.EmbeddedBroker` adds what needs Trio: nodes, and replies that arrive while tasks wait.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from actorwork.embedded.asking import Asked
from actorwork.embedded.limiter import EmbeddedLimitStore
from actorwork.embedded.location import Location
from actorwork.embedded.rows import EnvelopeRow, in_chunks, row_of
from actorwork.embedded.store import Store
from actorwork.embedded.triggers import EmbeddedPauses, EmbeddedTriggers
from actorwork.embedded.values import EmbeddedValues
from actorwork.errors import BrokerError
from actorwork.message import NO_HEADERS, Durability, Envelope, Json, Outcome

if TYPE_CHECKING:
    from actorwork.embedded.audit import EmbeddedAudit
    from actorwork.embedded.copies import EmbeddedCopies
    from actorwork.embedded.entities import EmbeddedEntities
    from actorwork.embedded.minutes import EmbeddedMinutes
    from actorwork.embedded.purging import EmbeddedPurging
    from actorwork.embedded.reports import EmbeddedCommands, EmbeddedReports
    from actorwork.embedded.waits import EmbeddedWaits
    from actorwork.policy.runs.values import Plan, RunInfo, StepInfo
    from actorwork.records import DeadLetter, Delayed, MessageInfo, TrackedMessage
    from actorwork.state.shards import StoredShards

CHUNK: Final = 1000
"""How many messages of one call go into one transaction: leases are renewed between two."""


class EmbeddedSending:
    """Publishes, finds outcomes, pauses, starts runs, and so on; implements that part of `actorwork.abc.Broker`."""

    def __init__(self, location: Location, writer: Asked) -> None:
        self._location = location
        self._asked = writer
        self._dead_letters = EmbeddedDeadLetters(writer)
        self._delayed = EmbeddedDelayed(writer)
        self._values = EmbeddedValues(writer)
        self._triggers = EmbeddedTriggers(writer)
        self._pauses = EmbeddedPauses(writer)
        self._limiter = EmbeddedLimitStore(writer)
        self._runs = EmbeddedRuns(writer)
        self._states = EmbeddedStates(writer)
        self._reports: EmbeddedReports | None = None
        self._commands: EmbeddedCommands | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url}>"

    @property
    def url(self) -> str:
        return self._location.url

    @property
    def shared_url(self) -> str | None:
        return None if self._location.path is None else self.url

    @property
    def dead_letters(self) -> EmbeddedDeadLetters:
        return self._dead_letters

    @property
    def delayed(self) -> EmbeddedDelayed:
        return self._delayed

    @property
    def triggers(self) -> EmbeddedTriggers:
        return self._triggers

    @property
    def pauses(self) -> EmbeddedPauses:
        return self._pauses

    @property
    def runs(self) -> EmbeddedRuns:
        return self._runs

    @property
    def states(self) -> EmbeddedStates:
        return self._states

    @property
    def entities(self) -> EmbeddedEntities:
        # Imported here: most programs have no entities.
        from actorwork.embedded.entities import EmbeddedEntities  # noqa: PLC0415

        return EmbeddedEntities(self._asked)

    @property
    def waits(self) -> EmbeddedWaits:
        # Imported here: few handlers ask for long.
        from actorwork.embedded.waits import EmbeddedWaits  # noqa: PLC0415

        return EmbeddedWaits(self._asked)

    @property
    def purging(self) -> EmbeddedPurging:
        # Imported here: few programs purge.
        from actorwork.embedded.purging import EmbeddedPurging  # noqa: PLC0415

        return EmbeddedPurging(self._asked)

    @property
    def shards(self) -> StoredShards:
        # Imported here: few programs divide a source.
        from actorwork.state.shards import StoredShards  # noqa: PLC0415

        return StoredShards(self._values, self._pauses)

    @property
    def copies(self) -> EmbeddedCopies:
        # Imported here: few programs copy a source.
        from actorwork.embedded.copies import EmbeddedCopies  # noqa: PLC0415

        return EmbeddedCopies(self._asked)

    @property
    def audit(self) -> EmbeddedAudit:
        # Imported here: most programs only send.
        from actorwork.embedded.audit import EmbeddedAudit  # noqa: PLC0415

        return EmbeddedAudit(self._asked)

    @property
    def minutes(self) -> EmbeddedMinutes:
        # Imported here, as above.
        from actorwork.embedded.minutes import EmbeddedMinutes  # noqa: PLC0415

        return EmbeddedMinutes(self._asked)

    @property
    def reports(self) -> EmbeddedReports:
        if self._reports is None:
            # Imported here: a node reports when it has started, and few programs look at reports.
            from actorwork.embedded.reports import EmbeddedReports  # noqa: PLC0415

            self._reports = EmbeddedReports(self._asked)
        return self._reports

    @property
    def commands(self) -> EmbeddedCommands:
        if self._commands is None:
            from actorwork.embedded.reports import EmbeddedCommands  # noqa: PLC0415 - as above

            self._commands = EmbeddedCommands(self._asked)
        return self._commands

    @property
    def values(self) -> EmbeddedValues:
        return self._values

    @property
    def limit_store(self) -> EmbeddedLimitStore:
        return self._limiter

    async def publish(self, envelopes: Sequence[Envelope]) -> int:
        for envelope in envelopes:
            if envelope.durability is not None:
                self._check_durability(envelope.durability)
        rows = [row_of(envelope) for envelope in envelopes]
        if len(rows) <= CHUNK:
            return await self._publish(rows)
        new = 0
        for chunk in in_chunks(rows, CHUNK):
            new += await self._publish(chunk)
        return new

    async def publish_new(self, envelope: Envelope) -> None:
        await self.publish([envelope])

    async def publish_unique(self, envelope: Envelope) -> str:
        if envelope.durability is not None:
            self._check_durability(envelope.durability)
        one = row_of(envelope)
        return await self._asked.ask(lambda store: store.publish_unique(one))

    def _check_durability(self, durability: Durability) -> None:
        """Refuse what a file does not give. A store in memory, which is for tests, gives everything."""
        location = self._asked.location
        if location.path is None:
            return
        if durability.replicas:
            raise BrokerError(f"durability={durability.kind!r} wants replicas, and {location} has none: use Redis")
        if location.synchronous != "full":
            raise BrokerError(f"durability='fsynced' needs {location} to be opened with ?synchronous=full")

    async def _publish(self, rows: Sequence[EnvelopeRow]) -> int:
        return await self._asked.ask(lambda store: store.publish(rows), rows=len(rows))

    async def find_outcome(self, source: str, message_id: str) -> Outcome | None:
        return await self._asked.ask(lambda store: store.outcomes.find(source, message_id, store.now), writes=False)

    async def cancel_message(self, source: str, message_id: str, *, reason: str = "", force: bool = False) -> bool:
        return await self._asked.ask(lambda store: store.cancel_anywhere(source, message_id, reason, force=force))

    async def backlog(self, source: str, group: str | None = None) -> int:
        return await self._asked.ask(lambda store: store.backlog(source, group), writes=False)

    async def oldest(self, source: str, group: str | None = None) -> float | None:
        return await self._asked.ask(lambda store: store.oldest(source, group), writes=False)

    async def release_lease(self, incarnation: str) -> bool:
        def release(store: Store) -> bool:
            number = store.leases.number_of(incarnation)
            return number is not None and store.leases.end(number)

        return await self._asked.ask(release)


class EmbeddedDeadLetters:
    """Implements `actorwork.abc.DeadLetters`."""

    def __init__(self, writer: Asked) -> None:
        self._writer = writer

    def __repr__(self) -> str:
        return f"<EmbeddedDeadLetters of {self._writer.location}>"

    async def sources(self) -> Sequence[str]:
        return await self._writer.ask(lambda store: store.dead_letters.sources(), writes=False)

    async def list(
        self, source: str | None = None, *, limit: int = 100, after: str | None = None
    ) -> Sequence[DeadLetter]:
        return await self._writer.ask(lambda store: store.dead_letters.list(source, limit, after), writes=False)

    async def get(self, source: str, entry: str) -> DeadLetter | None:
        return await self._writer.ask(lambda store: store.dead_letters.get(source, entry), writes=False)

    async def replay(self, source: str, entries: Sequence[str]) -> int:
        return await self._writer.ask(
            lambda store: store.dead_letters.replay(store.source(source), entries), rows=len(entries)
        )

    async def replay_as(
        self, source: str, entry: str, data: bytes, *, type: str | None = None, headers: Mapping[str, Json] = NO_HEADERS
    ) -> bool:
        return await self._writer.ask(
            lambda store: store.dead_letters.replay_as(store.source(source), entry, data, type, headers)
        )

    async def drop(self, source: str, entries: Sequence[str]) -> int:
        return await self._writer.ask(
            lambda store: store.dead_letters.drop(store.source(source), entries), rows=len(entries)
        )


class EmbeddedRuns:
    """Implements `actorwork.abc.Runs`."""

    def __init__(self, writer: Asked) -> None:
        self._writer = writer

    def __repr__(self) -> str:
        return f"<EmbeddedRuns of {self._writer.location}>"

    async def start(self, plan: Plan) -> bool:
        from actorwork.embedded.kept_ahead import kept  # noqa: PLC0415 - most programs have no workflows

        plan = await kept(self._writer, plan) or plan
        is_new = await self._writer.ask(lambda store: store.runs.start(plan), rows=2 * min(len(plan.steps), CHUNK))
        if plan.ahead is not None and not is_new:
            await self._delete(plan.ahead)  # They were kept in vain.
        return is_new if plan.ahead is None else await self._all(plan.id, is_new)

    async def info(self, run: str) -> RunInfo | None:
        return await self._writer.ask(lambda store: store.runs.info(run), writes=False)

    async def steps(self, run: str) -> Sequence[StepInfo]:
        return await self._writer.ask(lambda store: store.runs.steps(run), writes=False)

    async def list(self, *, statuses: Sequence[str] = (), limit: int = 100) -> Sequence[RunInfo]:
        return await self._writer.ask(lambda store: store.runs.list(statuses, limit), writes=False)

    async def cancel(self, run: str, reason: str) -> bool:
        return await self._all(run, await self._writer.ask(lambda store: store.runs.cancel(run, reason)))

    async def pause(self, run: str) -> bool:
        return await self._writer.ask(lambda store: store.runs.pause(run))

    async def resume(self, run: str) -> bool:
        return await self._all(run, await self._writer.ask(lambda store: store.runs.resume(run)))

    async def retry(self, run: str, steps: Collection[int] | None = None) -> bool:
        if steps is None:
            return await self._all(run, bool(await self._writer.ask(lambda store: store.runs.retry(run))))
        while True:
            version, again = await self._writer.ask(lambda store: store.runs.that_run_again(run, steps), writes=False)
            if not again:
                return False
            done = await self._retry(run, again, version)
            if done is not None:
                return await self._all(run, done)

    async def _retry(self, run: str, steps: Collection[int], version: str) -> bool | None:
        return await self._writer.ask(lambda store: store.runs.retry(run, steps, version), rows=len(steps))

    async def _all(self, run: str, is_begun: bool) -> bool:  # noqa: FBT001 - what an order has returned
        """Do what one transaction does not do at once; if this ends in between, the nodes do."""
        while is_begun and await self._writer.ask(lambda store: store.runs.has_more(run), writes=False):
            await self._writer.ask(lambda store: store.runs.more(run))
        return is_begun

    async def shape_of_signal(self, run: str, name: str) -> str | None:
        return await self._writer.ask(lambda store: store.runs.shape_of_signal(run, name), writes=False)

    async def signal(self, run: str, name: str, value: bytes) -> bool:
        return await self._writer.ask(lambda store: store.runs.signal(run, name, value.decode()))

    async def forget(self, run: str) -> bool:
        rows = await self._writer.ask(lambda store: store.runs.forget(run))
        if rows is None:
            return False
        await self._delete(rows)
        return True

    async def _delete(self, rows: str) -> None:
        """Delete the rows of a run page by page; if this ends in between, nodes do so later."""
        while not await self._writer.ask(lambda store: store.runs.loose.delete(rows), rows=CHUNK):
            pass


class EmbeddedStates:
    """Implements `actorwork.abc.States`."""

    def __init__(self, writer: Asked) -> None:
        self._writer = writer

    def __repr__(self) -> str:
        return f"<EmbeddedStates of {self._writer.location}>"

    async def find(self, source: str, id: str) -> MessageInfo | None:
        return await self._writer.ask(lambda store: store.states.find(source, id, store.now), writes=False)

    async def locate(self, id: str) -> str | None:
        return await self._writer.ask(lambda store: store.states.locate(id, store.now), writes=False)

    async def forget(self, source: str, id: str) -> bool:
        return await self._writer.ask(lambda store: store.states.forget(store.source(source), id))

    async def newest(self, source: str, *, limit: int) -> Sequence[TrackedMessage]:
        return await self._writer.ask(
            lambda store: store.states.newest(source, min(limit, 10_000), store.now), writes=False
        )

    async def with_payloads(self, messages: Sequence[TrackedMessage]) -> Sequence[TrackedMessage]:
        return await self._writer.ask(lambda store: store.states.with_payloads(messages), writes=False)


class EmbeddedDelayed:
    """Implements `actorwork.abc.DelayedMessages`."""

    def __init__(self, writer: Asked) -> None:
        self._writer = writer

    def __repr__(self) -> str:
        return f"<EmbeddedDelayed of {self._writer.location}>"

    async def list(self, source: str | None = None, *, limit: int = 100) -> Sequence[Delayed]:
        return await self._writer.ask(lambda store: store.delay_queue.list(source, limit), writes=False)

    async def cancel(self, source: str, message_id: str) -> bool:
        return await self._writer.ask(lambda store: store.cancel(source, message_id))
