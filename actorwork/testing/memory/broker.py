"""The broker in memory: what the runtime and tests see of it."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager

import attrs
import trio

from actorwork.abc import EventSink, Finding, Subscription
from actorwork.actors.actor import Actor
from actorwork.actors.context.publishing import source_of
from actorwork.embedded.broker import EmbeddedBroker
from actorwork.embedded.location import Location
from actorwork.embedded.rows import row_of
from actorwork.embedded.sending import EmbeddedDeadLetters, EmbeddedDelayed
from actorwork.embedded.triggers import EmbeddedTriggers, records_of
from actorwork.message import NO_HEADERS, Envelope, Json
from actorwork.records import DeadLetter, Delayed, TriggerRecord
from actorwork.testing.faults import Faults
from actorwork.testing.memory.node import MemoryNode
from actorwork.testing.memory.store import MemoryStore, Payload, Records, give_connection, payload_of, take_connection
from actorwork.testing.memory.writer import EPOCH, InlineWriter

ALL = 1 << 40
"""More than there is."""


class MemoryBroker(EmbeddedBroker):
    """Implements `actorwork.abc.Broker`, and remembers for tests what was sent and how it ended.

    Open by being made: `open_system(tree, broker=MemoryBroker())`. Its clock begins at `epoch` (seconds since the
    epoch) when it is first asked.
    """

    _writer: InlineWriter

    def __init__(self, *, faults: Faults | None = None, epoch: float = EPOCH) -> None:
        self.faults = faults if faults is not None else Faults()
        self._records = Records()
        self.sent = self._records.sent
        """Every message that was kept, in order: from clients, and published by actors."""
        self.settled = self._records.settled
        """Every settlement that took effect, in order."""
        self.released = self._records.released
        """Every delivery that a node released, in order."""
        self._nodes: list[MemoryNode] = []
        self._names = itertools.count(1)
        connection = take_connection()
        # A broker that is open by being made is never closed; it ends when nothing refers to it any more.
        weakref.finalize(self, give_connection, connection)
        self._store = MemoryStore(connection, self._records)
        super().__init__(Location(None), InlineWriter(self._store, epoch))
        self._dead_letters = MemoryDeadLetters(self._writer)
        self._delayed = MemoryDelayed(self._writer)
        self._triggers = MemoryTriggers(self._writer)

    def __repr__(self) -> str:
        return f"<MemoryBroker: {len(self.sent)} sent, {len(self.settled)} settled, {len(self.nodes)} nodes>"

    @property
    def url(self) -> str:
        return "memory://"

    # ---- for tests ----

    @property
    def now(self) -> float:
        """The broker's clock: seconds since the epoch, going on as Trio's clock does."""
        return self._writer.wall()

    @property
    def nodes(self) -> list[MemoryNode]:
        """The nodes that are open; a dead one until its lease has run out."""
        ends = self._writer.leases.ends
        return [node for node in self._nodes if not node.is_dead or node.lease in ends]

    @property
    def next_due(self) -> float:
        """When the next delayed message is due, by Trio's clock; infinite if none is."""
        return self.delayed.next_due

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
        self._writer.change(lambda store: store.put(source, name, payload, type, headers))
        return name

    def keep(self, envelopes: Sequence[Envelope]) -> None:
        """Publish without waiting."""
        rows = [row_of(one) for one in envelopes]
        self._writer.change(lambda store: store.publish(rows))

    def waiting(self, target: str | type[Actor] | None = None) -> list[str]:
        """Return the ids of what is ready and not taken: of an actor, of a source, or of all, in their order."""
        if target is None or isinstance(target, str):
            return self._store.waiting(target, None)
        return self._store.waiting(None, target.settings.id)

    # ---- for the runtime ----

    @property
    def dead_letters(self) -> MemoryDeadLetters:
        return self._dead_letters

    @property
    def delayed(self) -> MemoryDelayed:
        return self._delayed

    @property
    def triggers(self) -> MemoryTriggers:
        return self._triggers

    @asynccontextmanager
    async def open_node(
        self, subscriptions: Sequence[Subscription], *, lease: float, emit: EventSink
    ) -> AsyncGenerator[MemoryNode]:
        node = MemoryNode(self._writer, subscriptions, lease, emit, self.faults)
        async with trio.open_nursery() as nursery:
            self._nodes.append(node)
            nursery.start_soon(self._writer.keep_time)
            try:
                await node.open()
                nursery.start_soon(node.keep_notes)
                yield node
            finally:
                await node.close()
                if not node.is_dead:
                    self._nodes.remove(node)
                nursery.cancel_scope.cancel()

    async def release_lease(self, incarnation: str) -> bool:
        found = await super().release_lease(incarnation)
        for node in self.nodes:
            if node.incarnation == incarnation:
                self._writer.leases.ends.pop(node.lease, None)
                node.check_lease()
        return found

    async def diagnose(self) -> Sequence[Finding]:
        await trio.lowlevel.checkpoint()
        return (Finding("store", "ok", "in memory, for tests: everything is gone when the process ends"),)


class MemoryDeadLetters(EmbeddedDeadLetters):
    """Implements `actorwork.abc.DeadLetters`; `all` is the same without waiting."""

    _writer: InlineWriter

    @property
    def all(self) -> Sequence[DeadLetter]:
        """All of them, by source and age."""
        letters = self._writer.store.dead_letters.list(None, ALL)
        return [attrs.evolve(one, payload=payload_of(one.payload)) for one in letters]


class MemoryDelayed(EmbeddedDelayed):
    """Implements `actorwork.abc.DelayedMessages`; `all` is the same without waiting."""

    _writer: InlineWriter

    def __len__(self) -> int:
        return len(self.all)

    @property
    def all(self) -> Sequence[Delayed]:
        """All of them, by source, those due first first."""
        return self._writer.store.delay_queue.list(None, ALL)

    @property
    def next_due(self) -> float:
        """When the first is due, in Trio's time; infinite if there is none."""
        due = self._writer.store.delay_queue.first_due()
        return self._writer.trio_time(float("inf") if due is None else due)


class MemoryTriggers(EmbeddedTriggers):
    """Implements `actorwork.abc.Triggers`; `all` is the same without waiting."""

    _writer: InlineWriter

    @property
    def all(self) -> Sequence[TriggerRecord]:
        """All of them, by actor and title."""
        return records_of(self._writer.store)
