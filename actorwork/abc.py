"""The interfaces between the rooms: what the runtime asks of a broker, and a broker of an actor.

    client ──publish──▶ Broker ──Node.reading──▶ DeliverySink (a mailbox) ──▶ handler ──settle──▶ Node

A broker keeps messages between sender and handler. A node is one incarnation of one OS process at that broker:
it holds one lease, reads for its subscriptions, and settles what it was given. `actorwork.testing` ships one
conformance suite that every broker passes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Literal, Protocol

import attrs

from actorwork.events import Event
from actorwork.message import (
    NO_HEADERS,
    DeadLetter,
    Delayed,
    Delivery,
    Envelope,
    Json,
    Outcome,
    Pause,
    PauseKind,
    TriggerDefinition,
    TriggerRecord,
)
from actorwork.policy.settlement import Settlement
from actorwork.settings import DeadLetterSettings


class EventSink(Protocol):
    """Takes what happened; must not wait and must not raise."""

    def __call__(self, event: Event, /) -> None: ...


class DeliverySink(Protocol):
    """Where a node puts deliveries: an actor's mailbox, as its reader sees it. Nothing here waits."""

    def credit(self, *, urgent: bool = False) -> int:
        """Return how many deliveries may be offered now; 0 means that the reader waits for `Node.resume`.

        With `urgent`, of those with a priority above NORMAL, for which some room is kept when there is none for others.
        """
        ...

    def offer(self, deliveries: Sequence[Delivery]) -> None:
        """Take deliveries. A few more than `room` said are taken too."""
        ...

    def revoke(self) -> None:
        """Drop what is waiting and cancel what is in hand: the lease is lost, and it all belongs to others now."""
        ...


@attrs.frozen(eq=False)
class Subscription:
    """What an actor wants from a broker: every message of these sources that its group has not had.

    `group` is the actor's id. Two actors that share a source have two groups, and each gets every message.
    """

    group: str
    actor: str
    sources: tuple[str, ...]
    sink: DeliverySink
    max_crashes: int = 3
    dead_letters: DeadLetterSettings = attrs.field(factory=DeadLetterSettings)


class Node(Protocol):
    """One incarnation of a process at a broker."""

    @property
    def incarnation(self) -> str:
        """The uuid under which deliveries are owned now; a lost lease brings a new one."""
        ...

    def settle(
        self, subscription: Subscription, delivery: Delivery, settlement: Settlement, published: Sequence[Envelope] = ()
    ) -> None:
        """End a delivery, soon, in the background, atomically with what it published, if it is still ours.

        Never waits. A delivery of an earlier incarnation, or one that was taken over, is refused as `Fenced`.
        An envelope in `published` whose source is longer than one script takes (`max_batch_size`) has been sent
        with `publish_fenced` before.
        """
        ...

    async def publish_fenced(
        self, subscription: Subscription, delivery: Delivery, published: Sequence[Envelope]
    ) -> bool:
        """Publish on behalf of a delivery that goes on, if it is still ours; return whether it was."""
        ...

    async def release_deliveries(self, subscription: Subscription, deliveries: Sequence[Delivery]) -> None:
        """Give deliveries back, each in its place, its attempt not counted; another node takes them at once."""
        ...

    def resume(self, subscription: Subscription) -> None:
        """Say that the sink has room again. Never waits."""
        ...

    def pause_sources(self, subscription: Subscription, sources: Collection[str]) -> None:
        """Take nothing from these sources until it is called again with others. Never waits.

        What was read before is still offered: the sink gives it back.
        """
        ...

    def now(self) -> float:
        """Return the broker's clock in seconds since the epoch, as far as this node knows it: to some milliseconds."""
        ...

    async def stop_intake(self) -> None:
        """Stop reading, reclaiming and promoting. What was read before is offered before this returns."""
        ...

    async def wait_settled(self) -> None:
        """Wait until every settlement so far is applied or refused. Cancelled: they go on."""
        ...

    def statistics(self) -> Mapping[str, int]:
        """Return counters: read, settled, fenced, reclaimed, released, dead_lettered."""
        ...


class Waiting(Protocol):
    """Somebody waits for the outcome of one message."""

    async def outcome(self) -> Outcome:
        """Wait for it, without limit; cancel to give up."""
        ...

    def close(self) -> None:
        """Forget it."""
        ...


class Replies(Protocol):
    """A place where outcomes arrive."""

    address: str
    """What the header `REPLY_TO` says."""

    def expect(self, source: str, message_id: str) -> Waiting:
        """Begin to wait for a message's outcome; call it before the message is published."""
        ...


@attrs.frozen
class Finding:
    """One line of a diagnosis: what was looked at, how it stands, and what to do about it."""

    subject: str
    level: str
    """`ok`, `warning` or `error`."""
    text: str
    advice: str = ""


class DeadLetters(Protocol):
    """The messages nobody could handle, of all sources."""

    async def sources(self) -> Sequence[str]:
        """Return the sources that have dead letters, sorted."""
        ...

    async def list(
        self, source: str | None = None, *, limit: int = 100, after: str | None = None
    ) -> Sequence[DeadLetter]:
        """Return dead letters, oldest first within a source, of one source or of all.

        With `after`, those of the source that came after this entry, whether or not it is still there.
        """
        ...

    async def get(self, source: str, entry: str) -> DeadLetter | None: ...

    async def replay(self, source: str, entries: Sequence[str]) -> int:
        """Send them again, as first attempts, each to the actor that failed alone; return how many there were.

        A letter leaves the dead letters in the same step in which its message enters the stream.
        """
        ...

    async def replay_as(
        self, source: str, entry: str, data: bytes, *, type: str | None = None, headers: Mapping[str, Json] = NO_HEADERS
    ) -> bool:
        """Send one again with another payload, type and headers under its id; return whether it was there."""
        ...

    async def drop(self, source: str, entries: Sequence[str]) -> int:
        """Delete them; return how many there were."""
        ...


class DelayedMessages(Protocol):
    """The messages that are held back, of all sources: delayed ones, and retries that wait."""

    async def list(self, source: str | None = None, *, limit: int = 100) -> Sequence[Delayed]:
        """Return messages that are held back, those due first first within a source, of one source or of all."""
        ...

    async def cancel(self, source: str, message_id: str) -> bool:
        """Drop a message that is held back, or waits behind others of its key; return whether there was one.

        Whoever waits for its outcome is told that it was rejected, with a `Failure` of the type `Cancelled`. One that
        is ready or in hand stays.
        """
        ...


@attrs.frozen
class Kept:
    """A shared value: its JSON, and a version that grows with every write, also over a deletion."""

    data: bytes
    version: int


class Values(Protocol):
    """Small values that all nodes see, and locks, by name. All times are by the broker's clock.

    A write under a `fence` (the token of a lock) raises `LockLost`, and changes nothing, where the value has been
    written under a newer one. While the broker is away everything here waits: bound it by a scope. A compare-and-set
    or an addition whose reply was lost raises `BrokerError`: it may have taken effect.
    """

    async def get(self, name: str) -> Kept | None: ...

    async def set(
        self,
        name: str,
        data: bytes,
        *,
        ttl: float | None = None,
        version: int | None = None,
        fence: int | None = None,
    ) -> int | None:
        """Keep a value, for `ttl` seconds or for ever; return its version.

        With `version`, only if that is the present one (0: there is none); else return None.
        """
        ...

    async def add(
        self, name: str, by: float, *, start: bytes, ttl: float | None = None, fence: int | None = None
    ) -> bytes | None:
        """Add to a number, or to `start` where there is none; return the sum's JSON.

        None, and no change, where the value is no number or the sum would reach 2**53.
        """
        ...

    async def delete(self, name: str, *, fence: int | None = None) -> bool:
        """Delete a value; return whether there was one."""
        ...

    async def take_lock(self, name: str, owner: str, ttl: float) -> int | None:
        """Take a lock for `ttl` seconds unless somebody else has it (None); return its token, which grows from owner
        to owner.

        The owner that has it is given the same token again.
        """
        ...

    async def keep_lock(self, name: str, owner: str, ttl: float) -> bool:
        """Have a lock for `ttl` seconds more; return whether it was still the owner's."""
        ...

    async def free_lock(self, name: str, owner: str) -> bool:
        """Give a lock up; return whether it was still the owner's."""
        ...


class LimitStore(Protocol):
    """Counts for all nodes, by name and by the broker's clock. While the broker is away everything here waits."""

    async def acquire_rate(self, name: str, rate: float, per: float, burst: int, cost: int) -> float:
        """Take `cost` tokens of `rate` in `per` seconds, in advance; return how many seconds to wait before they count.

        As `policy.limits.reserved` says. Cancelled, or after a lost connection, some may be taken for nothing.
        """
        ...

    async def acquire_slot(self, name: str, limit: int, holder: str, ttl: float) -> bool:
        """Have one of `limit` slots for `ttl` seconds; return whether there was one.

        A holder that has one is given it for `ttl` seconds from now, whether all are taken or not.
        """
        ...

    async def release_slot(self, name: str, holder: str) -> bool:
        """Give a slot up; return whether the holder had one."""
        ...


@attrs.frozen
class Firing:
    """What came of an attempt to fire a trigger; `last` is the nominal time that was decided last now.

    fired         this was it: `kept` of its messages are new
    decided       somebody else has decided since
    superseded    the trigger has another schedule by now
    unknown       the broker knows of no such trigger
    """

    outcome: Literal["fired", "decided", "superseded", "unknown"]
    last: int = 0
    kept: int = 0


class Triggers(Protocol):
    """The triggers of all actors, and which of their nominal times have been decided. Times are in milliseconds."""

    async def register(self, source: str, definitions: Sequence[TriggerDefinition]) -> Sequence[TriggerRecord]:
        """Enter all triggers of the actor whose own source this is; return their records.

        The first registration of each stays. A schedule that has changed begins now: what the one before has missed
        does not fire. What the actor declared before and does not any more is kept, as not declared.
        """
        ...

    async def fire(
        self, definition: TriggerDefinition, *, decided: int, last: int, messages: Sequence[Envelope]
    ) -> Firing:
        """Keep messages, and note `last` as decided, in one step: if `decided` is what was, and the schedule the same.

        Whoever asks again after a lost reply is told "decided".
        """
        ...

    async def skip(self, source: str, id: str) -> bool:
        """Take everything up to now as decided, so that none of it fires; return whether there is such a trigger."""
        ...

    async def list(self) -> Sequence[TriggerRecord]:
        """Return all triggers, by actor and title."""
        ...

    async def forget(self, source: str, id: str) -> bool:
        """Delete a trigger; return whether there was one. A node that declares it enters it again, as a new one."""
        ...


class Pauses(Protocol):
    """What is paused."""

    @property
    def is_certain(self) -> bool:
        """Whether `watch` tells of every change: else whoever obeys looks again now and then."""
        ...

    async def pause(self, kind: PauseKind, name: str = "", *, reason: str = "", by: str = "") -> Pause:
        """Pause something; what is paused already stays so, with the reason it has. Return the pause."""
        ...

    async def resume(self, kind: PauseKind, name: str = "") -> bool:
        """End a pause; return whether there was one.

        The nominal times of triggers that have passed during their pause do not fire.
        """
        ...

    async def list(self) -> Sequence[Pause]:
        """Return what is paused, oldest first."""
        ...

    def watch(self, changed: Callable[[], object]) -> AbstractAsyncContextManager[bool]:
        """Have `changed` called whenever something may have been paused or resumed, by anybody, within a second.

        Yields whether it will be: else whoever obeys looks every second.
        """
        ...


class Broker(Protocol):
    """Keeps messages between sender and handler."""

    @property
    def url(self) -> str:
        """Where it is, without a password."""
        ...

    @property
    def shared_url(self) -> str | None:
        """What another process of this machine opens it by, with its password; None if it lives in this one alone."""
        ...

    @property
    def dead_letters(self) -> DeadLetters: ...

    @property
    def values(self) -> Values: ...

    @property
    def limit_store(self) -> LimitStore: ...

    @property
    def delayed(self) -> DelayedMessages: ...

    @property
    def triggers(self) -> Triggers: ...

    @property
    def pauses(self) -> Pauses: ...

    async def publish(self, envelopes: Sequence[Envelope]) -> int:
        """Keep messages; return how many were new (an id seen before is dropped).

        Order is kept within a source, for messages of one priority that are not delayed. While the broker is away this
        waits: bound it by a scope. Cancelled or failed, any part of it may have been kept; publishing the same
        envelopes again keeps none twice. One that has a `unique` whose key is taken is dropped, or replaces what has
        it.
        """
        ...

    async def publish_unique(self, envelope: Envelope) -> str:
        """Keep a message that has a `unique`; return the id of the message that has the key now: its own, or the
        first's.
        """
        ...

    def open_node(
        self,
        subscriptions: Sequence[Subscription],
        *,
        lease: float,
        emit: EventSink,
    ) -> AbstractAsyncContextManager[Node]:
        """Take a lease, make the groups of all subscriptions, then begin to read for them.

        On the way out: reading stops, settlements still queued are applied within a second, and the lease is
        released, so that whatever was neither settled nor handed back is run elsewhere at once.
        """
        ...

    async def release_lease(self, incarnation: str) -> bool:
        """Declare a node dead, as its parent may that saw it die; return whether it had a lease.

        What it had in hand is run by the others at once, and counts as crashed.
        """
        ...

    def open_replies(self) -> AbstractAsyncContextManager[Replies]:
        """Open a place where outcomes arrive."""
        ...

    async def find_outcome(self, source: str, message_id: str) -> Outcome | None:
        """Return what is kept of a message's outcome, or None."""
        ...

    async def backlog(self, source: str) -> int:
        """Return how many messages of a source are ready or in hand, or wait behind others of their key."""
        ...

    async def oldest(self, source: str) -> float | None:
        """Return for how many seconds the oldest message that a group has not read has been ready; None without one."""
        ...

    async def diagnose(self) -> Sequence[Finding]:
        """Look at the broker as an operator would."""
        ...


class Middleware(Protocol):
    """Wraps the handling of a delivery; awaits `proceed` at most once and returns its result, or raises."""

    async def __call__(self, delivery: Delivery, proceed: Callable[[], Awaitable[object]], /) -> object: ...


class PublishMiddleware(Protocol):
    """Looks at what is published, before it is kept: returns the envelope, or another one with the same id, or raises.

    It does not wait, since `Context.publish` does not. What actors publish has no id yet.
    """

    def __call__(self, envelope: Envelope, /) -> Envelope: ...


class AbstractCronSchedule(Protocol):
    """Somebody's own reading of cron expressions, as a base class; a system takes it as `cron_schedule=`."""

    @abstractmethod
    def next_execution(self, expression: str) -> datetime:
        """Return the next moment the expression names: after now, with a timezone, never before an earlier answer."""
        ...
