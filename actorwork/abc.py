"""The interfaces between the rooms: what the runtime requires of a broker, and a broker of an actor.

    client ──publish──▶ Broker ──Node.reading──▶ DeliverySink (a mailbox) ──▶ handler ──settle──▶ Node

A broker stores messages between sender and handler. A node is one incarnation of one OS process at that broker: it
holds one lease, reads for its subscriptions, and settles its deliveries. `actorwork.testing` ships one conformance
suite that every broker passes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Protocol, TypeAlias, TypeVar, runtime_checkable

import attrs

from actorwork import events
from actorwork.message import NO_HEADERS, Delivery, Envelope, Json, Message, Outcome, Status
from actorwork.policy.settlement import Ack, Ending, Settlement
from actorwork.settings import DeadLetterSettings, Settings
from actorwork.shown import Shown, Value

if TYPE_CHECKING:
    from actorwork.policy.decoding import Decoder
    from actorwork.policy.entities import EntityInfo, FoundState, StateChange, StoredState
    from actorwork.policy.minutes import MinuteCounts
    from actorwork.policy.reports import Counts, Found, Mail, StoredReport
    from actorwork.policy.runs.values import Plan, RunInfo, StepInfo
    from actorwork.policy.waits import KeyWait
    from actorwork.records import (
        AuditEntry,
        DeadLetter,
        Delayed,
        Firing,
        MessageInfo,
        Pause,
        PauseKind,
        Progress,
        Purgeable,
        SeenIds,
        TrackedMessage,
        TriggerChanges,
        TriggerDefinition,
        TriggerRecord,
    )

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class FunctionActor(Protocol[P, R_co]):
    """A function that `@actor` has made an actor, with its parameters and the type that it returns."""

    settings: Settings

    def message(self, *args: P.args, **kwargs: P.kwargs) -> Message[Any, R_co]:
        """Return the message that has the function called with these arguments, for refs, `publish` and `step`.

        Raises `MessageRefused` for arguments that the function does not take.
        """
        ...


class EventSink(Protocol):
    """Receives events; must not wait and must not raise."""

    def __call__(self, event: events.Event, /) -> None: ...


class Meter(Protocol):
    """Takes measurements that are no events; never waits, and must not raise. Times are in seconds.

    A sink of events has one as its attribute `meter` if its system counts metrics; `meter_of` returns it. Each series
    is written by one thread.
    """

    def settled_batch(self, count: int, seconds: float) -> None:
        """The broker has applied `count` settlements in one step, which took so long."""
        ...

    def command(self, name: str, seconds: float) -> None:
        """The broker has answered a command, or a script of this name."""
        ...

    def read(self, actor: str, count: int) -> None:
        """A batch of messages was read for an actor, by its title."""
        ...

    def sent(self, source: str, outcome: str, count: int = 1) -> None:
        """Messages were `sent`, `spooled`, `refused`, or dropped as a `duplicate`."""
        ...

    def took_to_send(self, outcome: str, seconds: float) -> None:
        """A call that sends has ended with this outcome."""
        ...

    def limited(self, limit: str, kind: str) -> None:
        """A delivery has to wait for a limit of the kind `rate`, `concurrency` or `circuit`."""
        ...

    def entity(self, what: str, actor: str) -> None:
        """An entity has made an instance (`activations`), or a commit of a state was made or refused.

        `commits`, `conflicts` (the state has changed meanwhile) or `refused` (it is too large, or no JSON).
        """
        ...

    def trigger_next(self, trigger: str, at: float | None) -> None:
        """A trigger (`actor/title`) is due at this time, in seconds since the epoch, or never."""
        ...

    def loop_late(self, seconds: float) -> None:
        """The event loop has run a task so late."""
        ...

    def lease_renewed(self, margin: float) -> None:
        """The node's lease was renewed when it had `margin` seconds left. May be called from any thread."""
        ...


def meter_of(emit: EventSink) -> Meter | None:
    """Return what takes the measurements of a system; None where it counts no metrics."""
    return getattr(emit, "meter", None)


def acks_of(emit: EventSink) -> Callable[[str, str, Delivery, Settlement, float], None]:
    """Return what is called with the fields of `Settled` when a delivery has ended with an `Ack`.

    It ends nearly every message, so a sink may take it without an event, by a method `acked`, and make the event only
    where it is wanted. For any other sink the event is emitted.
    """
    found = getattr(emit, "acked", None)
    return partial(_emit_ack, emit) if found is None else found


class AckNotes(Protocol):
    """Where the deliveries of one actor are noted that end as nearly all do: with an `Ack`, in their first attempt."""

    noted: list[Any] | None
    """Takes three items for each of them: for how many seconds it was handled, when it ended by Trio's clock, and the
    delivery. None while its event is wanted: then each is passed to what `acks_of` returns.
    """


def ack_notes_of(emit: EventSink, actor_id: str, title: str) -> AckNotes | None:
    """Return where the deliveries of an actor are noted; None for a sink that takes each by itself.

    A sink that only counts them has a method `ack_notes`: to extend a list costs a fraction of a call.
    """
    make = getattr(emit, "ack_notes", None)
    return None if make is None else make(actor_id, title)


def _emit_ack(
    emit: EventSink, actor_id: str, title: str, delivery: Delivery, settlement: Settlement, seconds: float
) -> None:
    emit(events.Settled(actor_id, title, delivery, settlement, seconds))


class DeliverySink(Protocol):
    """Where a node puts deliveries: an actor's mailbox, as its reader sees it. Nothing here waits."""

    def credit(self, *, urgent: bool = False) -> int:
        """Return how many deliveries may be offered now; 0 means that the reader waits for `Node.resume`.

        With `urgent`, how many with a priority above NORMAL, for which some room is reserved.
        """
        ...

    def offer(self, deliveries: Sequence[Delivery]) -> None:
        """Take deliveries, even if there are a few more than `credit` returned."""
        ...

    def cancel(self, source: str, message_id: str, reason: str, *, force: bool = False) -> None:
        """Cancel a delivery of a message that was cancelled, if it waits or is in flight here.

        One that waits is settled as rejected, with a `Failure` of type `Cancelled`; so is one whose handler ends
        because it was cancelled. With `force` a handler that does not end is reported, and ended with its process if
        that is a `Process`. Called again now and then, until the message is over.
        """
        ...

    def revoke(self) -> None:
        """Drop waiting deliveries and cancel those in flight: the lease is lost, and other nodes own them now."""
        ...


@attrs.frozen(eq=False, repr=False)
class Subscription(Shown):
    """What an actor reads from a broker: every message of these sources that its group has not received.

    `group` is the actor's id. Two actors that share a source have two groups, and each gets every message. `decode`
    has, by source, what reads the entries of foreign producers; a broker that has no such entries needs none of it.
    """

    group: str
    actor: str
    sources: tuple[str, ...]
    sink: DeliverySink
    max_crashes: int = 3
    dead_letters: DeadLetterSettings = attrs.field(factory=DeadLetterSettings)
    decode: Mapping[str, Decoder] = attrs.field(factory=dict[str, "Decoder"])
    shards: Mapping[str, int] = attrs.field(factory=dict[str, int])
    """Of sources that the actor declares as divided: into how many shards."""
    is_told_failures: bool = False
    """Whether the actor has a hook `failed`.

    In the step in which a message becomes a dead letter of this group, whichever node finds out, the broker then adds
    one more message to the same source, for this group alone: the same payload under the same id, with the header
    `FAILED` and without those that ask for an outcome. It holds no key, and does not expire. If that one becomes a dead
    letter too, none follows.
    """
    states_known: Callable[[Sequence[Delivery], Sequence[str]], None] | None = None
    """Set by an entity, whose settlements may bring the next deliveries (run-ahead).

    Called right before such deliveries are offered, and others of which the broker has told it, with the stamp of the
    committed state of each key: "" if there is none, "?" if it is not known.
    """


@attrs.frozen(eq=False, repr=False)
class LeaseState(Value):
    """How a node's lease stands, as far as the node knows.

    `left` is for how many seconds it holds without a further renewal: negative once it has run out, infinite for a
    node that needs none. `trouble` is why the last renewal failed, empty if it succeeded.
    """

    left: float
    trouble: str = ""


class Node(Protocol):
    """One incarnation of a process at a broker."""

    @property
    def incarnation(self) -> str:
        """The uuid under which deliveries are owned now; a lost lease brings a new one."""
        ...

    def lease_state(self) -> LeaseState:
        """Return how the lease stands. Any thread may ask, also while the loop is blocked."""
        ...

    def settle(
        self, subscription: Subscription, delivery: Delivery, settlement: Settlement, published: Sequence[Envelope] = ()
    ) -> None:
        """Settle a delivery in the background, atomically with what it published, if this node still owns it.

        Never waits. A delivery of an earlier incarnation, or one that another node has reclaimed, is refused as
        `Fenced`. An `Ack` that changes a state is refused as `StaleState`, and the delivery released, if the state has
        another version than the one that the change names. If a delivery publishes more than one script takes
        (`max_batch_size`), the caller sends the first part with `publish_fenced` beforehand.
        """
        ...

    def settle_together(
        self,
        subscription: Subscription,
        settled: Sequence[tuple[Delivery, Settlement]],
        published: Sequence[Envelope],
    ) -> None:
        """Settle deliveries that one call of a handler has handled, and send what it published: all, or nothing.

        Never waits. They may come from several sources and have several priorities, and each settlement is an `Ack`.
        If this node no longer owns one of them, nothing takes effect: that one is refused as `Fenced`, and the others
        are released. If the messages cannot be published, all of them fail.
        """
        ...

    async def publish_fenced(
        self,
        subscription: Subscription,
        delivery: Delivery,
        published: Sequence[Envelope],
        *,
        state: StateChange | None = None,
    ) -> bool:
        """Publish on behalf of a delivery in flight if this node still owns it; return whether it does.

        With `state` the state of its key is changed in the same step. Raises `StateConflict`, and does nothing, if that
        has another version than the change names.
        """
        ...

    async def keep_ahead(self, delivery: Delivery, ack: Ack) -> Ack | None:
        """Keep of the runs that an ack starts what one transaction should not, before it is settled with.

        Return the ack to settle with; None if this node no longer owns the delivery. Nothing is started before the
        delivery is settled, and what is kept is deleted after a while if it is not. If cancelled, the same.
        """
        ...

    async def load_states(
        self, subscription: Subscription, wanted: Sequence[tuple[Delivery, str]]
    ) -> Sequence[FoundState]:
        """Return the committed states of the keys of deliveries of one source, for their group; None if there is none.

        With each delivery comes the stamp of the state that this node knows, "" for none: if the committed state still
        has it, True is returned instead. All are asked for in one round trip; those that have changed are loaded in a
        second one.
        """
        ...

    async def release_deliveries(
        self, subscription: Subscription, deliveries: Sequence[Delivery], *, aside: float = 0.0
    ) -> None:
        """Release deliveries, each in its place and without counting the attempt; another node takes them at once.

        This node can do nothing with them for about `aside` seconds. A broker at which it could take them again before
        another one hears of them leaves them to the others for that long.
        """
        ...

    def note(
        self, subscription: Subscription, delivery: Delivery, status: Status, progress: Progress | None = None
    ) -> None:
        """Note where a tracked delivery is in its life: STARTED, perhaps with how far its handler is. Never waits.

        Several notes of one delivery become one, and those of a delivery that is settled at once none. What comes from
        a delivery that another node has been given since is dropped.
        """
        ...

    def resume(self, subscription: Subscription) -> None:
        """Notify the node that the sink has room again. Never waits."""
        ...

    def pause_sources(self, subscription: Subscription, sources: Collection[str]) -> None:
        """Stop reading these sources until the next call names others. Never waits.

        Deliveries that were read before are still offered: the sink releases them.
        """
        ...

    def now(self) -> float:
        """Return the broker's clock in seconds since the epoch, as this node knows it: to within some milliseconds."""
        ...

    async def stop_intake(self) -> None:
        """Stop reading, reclaiming and promoting. Deliveries already read are offered before this returns."""
        ...

    async def wait_settled(self) -> None:
        """Wait until every settlement so far is applied or refused. If cancelled, they continue."""
        ...

    def statistics(self) -> Mapping[str, int]:
        """Return counters: read, settled, fenced, reclaimed, released, dead_lettered."""
        ...


@runtime_checkable
class KnowsReadiness(Protocol):
    """A node that knows since when messages wait; without it, a system counts no durations of waiting.

    A node that finds this out for several deliveries at a lower price may have a method `ready_of`, which takes a
    sequence of them and returns one of times.
    """

    def ready_at(self, delivery: Delivery) -> float | None:
        """Return since when the message of a delivery was ready, in seconds since the epoch, by the broker's clock.

        That is when the broker accepted it, or when its delay was over. None if it is unknown.
        """
        ...


class PendingOutcome(Protocol):
    """A caller's wait for the outcome of one message."""

    async def outcome(self) -> Outcome:
        """Wait for the outcome, without limit; cancel to give up."""
        ...

    def close(self) -> None:
        """Stop waiting; a later outcome is dropped."""
        ...


class Replies(Protocol):
    """A place where outcomes arrive."""

    address: str
    """The value for the header `REPLY_TO`."""

    def expect(self, source: str, message_id: str, *, look_from: float = 0.0) -> PendingOutcome:
        """Begin to wait for a message's outcome; call it before the message is published.

        Before the Unix time `look_from` an outcome is unlikely, as that of a message which is held back: it arrives if
        it is sent here, but a broker need not look for it again and again.
        """
        ...


@attrs.frozen(eq=False, repr=False)
class Finding(Value):
    """One line of a diagnosis: what was checked, its state, and what to do about it."""

    subject: str
    level: str
    """`ok`, `warning` or `error`."""
    text: str
    advice: str = ""


class DeadLetters(Protocol):
    """The messages that failed for good, of all sources."""

    async def sources(self) -> Sequence[str]:
        """Return the sources that have dead letters, sorted."""
        ...

    async def list(
        self, source: str | None = None, *, limit: int = 100, after: str | None = None
    ) -> Sequence[DeadLetter]:
        """Return dead letters, oldest first within a source, of one source or of all.

        With `after`, those of the source after this entry, whether or not it still exists.
        """
        ...

    async def get(self, source: str, entry: str) -> DeadLetter | None: ...

    async def replay(self, source: str, entries: Sequence[str]) -> int:
        """Send them again as first attempts, each only to the actor that failed; return how many existed.

        A letter is deleted in the same step in which its message enters the stream.
        """
        ...

    async def replay_as(
        self, source: str, entry: str, data: bytes, *, type: str | None = None, headers: Mapping[str, Json] = NO_HEADERS
    ) -> bool:
        """Send one again with another payload, type and headers under its id; return whether it existed."""
        ...

    async def drop(self, source: str, entries: Sequence[str]) -> int:
        """Delete them; return how many existed."""
        ...


class DelayedMessages(Protocol):
    """The delayed messages of all sources, including retries that wait."""

    async def list(self, source: str | None = None, *, limit: int = 100) -> Sequence[Delayed]:
        """Return delayed messages of one source or of all, by due time within a source."""
        ...

    async def cancel(self, source: str, message_id: str) -> bool:
        """Drop a message that is delayed, or waits behind others with its key; return whether there was one.

        A caller that waits for its outcome gets "rejected", with a `Failure` of type `Cancelled`. A message that is
        ready or in flight stays.
        """
        ...


@attrs.frozen(eq=False, repr=False)
class VersionedValue(Value):
    """A shared value: its JSON, and a version that grows with every write, also across a deletion."""

    data: bytes
    version: int


@attrs.frozen(eq=False, repr=False)
class LockState(Value):
    """A lock that is held: by which owner, under which token, and until when, in seconds since the epoch."""

    name: str
    owner: str
    token: int
    until: float


class Values(Protocol):
    """Small values and locks shared by all nodes, by name. All times are by the broker's clock.

    A write under a `fence` (the token of a lock) raises `LockLost`, and changes nothing, if the value has been written
    under a newer one. While the broker is unreachable every call here waits: bound it with a cancel scope. A
    compare-and-set or an addition whose reply was lost raises `BrokerError`: it may have taken effect.
    """

    async def get(self, name: str) -> VersionedValue | None: ...

    async def set(
        self,
        name: str,
        data: bytes,
        *,
        ttl: float | None = None,
        version: int | None = None,
        fence: int | None = None,
    ) -> int | None:
        """Store a value, for `ttl` seconds or forever; return its version.

        With `version`, only if that is the current one (0: there is no value); otherwise return None.
        """
        ...

    async def add(
        self, name: str, by: float, *, start: bytes, ttl: float | None = None, fence: int | None = None
    ) -> bytes | None:
        """Add to a number, or to `start` if there is none; return the sum's JSON.

        Returns None, and changes nothing, if the value is not a number or the sum would reach 2**53.
        """
        ...

    async def delete(self, name: str, *, fence: int | None = None) -> bool:
        """Delete a value; return whether there was one."""
        ...

    async def take_lock(self, name: str, owner: str, ttl: float) -> int | None:
        """Take a lock for `ttl` seconds; return its token, or None if another owner has the lock.

        The token grows from owner to owner. The current owner gets the same token again.
        """
        ...

    async def keep_lock(self, name: str, owner: str, ttl: float) -> bool:
        """Renew a lock for `ttl` seconds from now; return whether the owner still had it."""
        ...

    async def free_lock(self, name: str, owner: str) -> bool:
        """Release a lock; return whether the owner still had it."""
        ...


@runtime_checkable
class ListsLocks(Protocol):
    """Values of which the locks can be listed: also those of programs that are no nodes."""

    async def held_locks(self, most: int) -> Sequence[LockState]:
        """Return locks that are held now, `most` at most: those that are held the longest into the future first.

        On a Redis Cluster it returns none, since a list in one slot would be one more that a lock has to wait for.
        """
        ...


class LimitStore(Protocol):
    """Limits over all nodes, by name and by the broker's clock. While the broker is unreachable every call waits."""

    async def acquire_rate(self, name: str, rate: float, per: float, burst: int, cost: int) -> float:
        """Take `cost` tokens of `rate` in `per` seconds, in advance; return how many seconds to wait before using them.

        The rule is `policy.limits.reserved`. If cancelled, or after a lost connection, some tokens may be wasted.
        """
        ...

    async def acquire_slot(self, name: str, limit: int, holder: str, ttl: float) -> bool:
        """Take one of `limit` slots for `ttl` seconds; return whether one was free.

        A holder that already has one renews it for `ttl` seconds from now, even if all are taken.
        """
        ...

    async def release_slot(self, name: str, holder: str) -> bool:
        """Release a slot; return whether the holder had one."""
        ...

    async def count_slots(self, name: str) -> int:
        """Return how many slots are taken."""
        ...

    async def slot_holders(self, name: str) -> Sequence[str]:
        """Return who has slots, sorted."""
        ...


class Triggers(Protocol):
    """The triggers of all actors, and which of their nominal times are decided. Times are in milliseconds."""

    async def register(self, source: str, definitions: Sequence[TriggerDefinition]) -> Sequence[TriggerRecord]:
        """Register all triggers of the actor whose own source this is; return their records.

        The first registration of each is kept. A changed schedule begins now: times that the old one missed do not
        fire. A trigger that the actor no longer declares is kept, marked as not declared. What users have changed by
        hand stays in force.
        """
        ...

    async def fire(
        self,
        definition: TriggerDefinition,
        *,
        decided: int,
        last: int,
        messages: Sequence[Envelope],
        revision: int = 0,
    ) -> Firing:
        """Store messages and mark `last` as decided, in one step, if `decided` still was and the schedule is the same.

        `definition` is the trigger as its code declares it (`TriggerRecord.stored`), and `revision` that of the record
        that the messages were made from. A second call after a lost reply returns "decided".
        """
        ...

    async def amend(
        self,
        definition: TriggerDefinition,
        changes: TriggerChanges | None,
        *,
        revision: int,
        is_put: bool,
        begins_now: bool = False,
    ) -> TriggerRecord | None:
        """Replace what users have changed of a trigger, if its revision is still this one; return its record then.

        A trigger that does not exist has the revision 0, and is stored. `definition` is stored if no code declares the
        trigger. With `begins_now` all times up to now are decided. Nodes obey within a second or two. Cancelled, or
        failed: it may have taken effect, and nodes may not know it before the trigger fires or is amended again.
        """
        ...

    async def changes(self) -> int:
        """Return a number that is another one after each `amend` and `forget`; 0 if there was none so far."""
        ...

    async def skip(self, source: str, id: str) -> bool:
        """Mark all times up to now as decided, so that none of them fires; return whether the trigger exists."""
        ...

    async def list(self) -> Sequence[TriggerRecord]:
        """Return all triggers, by actor and title."""
        ...

    async def forget(self, source: str, id: str) -> bool:
        """Delete a trigger; return whether it existed. A node that declares it registers it again, as a new one."""
        ...


class Pauses(Protocol):
    """What is paused."""

    @property
    def is_certain(self) -> bool:
        """Whether `watch` reports every change; if not, nodes also look at intervals."""
        ...

    async def pause(self, kind: PauseKind, name: str = "", *, reason: str = "", by: str = "") -> Pause:
        """Pause and return the pause; an existing pause keeps its reason."""
        ...

    async def resume(self, kind: PauseKind, name: str = "") -> bool:
        """End a pause; return whether there was one.

        Nominal times that passed while a trigger was paused do not fire.
        """
        ...

    async def list(self) -> Sequence[Pause]:
        """Return what is paused, oldest first."""
        ...

    def watch(self, changed: Callable[[], object]) -> AbstractAsyncContextManager[bool]:
        """Call `changed` within a second whenever any client may have paused or resumed something.

        Yields whether it will do so; if not, the caller must look every second.
        """
        ...


Where: TypeAlias = Literal["ready", "behind", "delayed"]
"""Where messages of a source are: in its streams (in flight too), behind others with their key, or held back."""


class Copies(Protocol):
    """Reads all that a source holds, to be copied to another broker, and writes what only a copy writes.

    Messages are written by `Broker.publish`, whose marks make each enter once.
    """

    async def messages(self, source: str, where: Where, after: str) -> tuple[Sequence[Envelope], str | None]:
        """Return a page of messages, and after which to go on; None if these are the last. The first is after "".

        Those of one key come in their order. Held back ones have their moment in `at`. One that some of several groups
        have settled, and one has not, is for that group. A foreign producer's comes as the JSON object of its fields.
        """
        ...

    async def seen(self, source: str) -> Sequence[SeenIds]:
        """Return the ids that are marked as seen."""
        ...

    async def add_seen(self, source: str, seen: Sequence[SeenIds]) -> None:
        """Mark ids as seen, for a day."""
        ...

    async def add_letters(self, source: str, letters: Sequence[DeadLetter]) -> int:
        """Add dead letters of another broker; return how many were new: for a day it is remembered which ones came."""
        ...


class Shards(Protocol):
    """Into how many shards sources are divided. A broker on one machine keeps the numbers, and divides nothing."""

    async def declare(self, source: str, shards: int) -> None:
        """Divide a source at its first use; later, check that it has this number of shards.

        Raises `BrokerError`, which says what to do, if it has another number, or holds messages in one stream.
        """
        ...

    async def list(self) -> Mapping[str, int]:
        """Return the sources whose number of shards is known, sorted by name, with the number."""
        ...

    async def reshard(self, source: str, shards: int, *, progress: Callable[[int], object] = int) -> int:
        """Divide a source that is paused into another number of shards; return how many messages were moved.

        All that it holds is moved: ready, delayed, in the order of their keys, and dead letters. `progress` is called
        with the number so far. If it is cancelled, or its process dies, the next call with the same number continues:
        nothing is lost, doubled or overtaken. What is in flight is waited for. Senders may send meanwhile; in the last
        moments, while no shard accepts anything, they wait. Raises `BrokerError` if the source is not paused, or is
        being divided into another number.
        """
        ...


class Purging(Protocol):
    """Drops messages of a source that no node has been given, in portions."""

    async def count(self, source: str) -> Purgeable:
        """Count what may be dropped now. This looks at every message of the source, in portions."""
        ...

    async def drop(self, source: str, *, reason: str, most: int) -> int:
        """Drop at most `most` messages; return how many were dropped. If cancelled, more may have been.

        Each ends as one that is cancelled before it is begun: a caller that waits for its outcome gets "rejected", with
        a `Failure` of type `Cancelled` and this reason, and a run whose step it is draws its conclusions. What a node
        has been given stays, also while no node handles it.
        """
        ...


class EntityStore(Protocol):
    """The states of entities: by the actor's source, its group (the actor's id) and the key. Times are by the broker.

    While the broker is unreachable every call waits.
    """

    async def get(self, source: str, group: str, key: str) -> StoredState | None:
        """Return the committed state of a key, or None."""
        ...

    async def list(
        self,
        source: str,
        group: str,
        *,
        changed_since: float | None = None,
        limit: int = 100,
        after: tuple[float, str] | None = None,
        newest_first: bool = False,
    ) -> Sequence[EntityInfo]:
        """Return entities that have a state, those whose last change is longest ago first, then by key.

        With `changed_since` (seconds since the epoch) those that have changed then or later; with `after`, the `at` and
        the key of one of them, those behind it. One that changes meanwhile may be returned again. With `newest_first`
        the order is reversed; then one that changes meanwhile may be missed by the pages that follow.
        """
        ...

    async def history(self, source: str, group: str, key: str, *, limit: int = 20) -> Sequence[StoredState]:
        """Return the last changes of a state that are kept, newest first; the first of them is the state itself."""
        ...

    async def put(
        self,
        source: str,
        group: str,
        key: str,
        data: bytes,
        *,
        version: int | None = None,
        schema: int = 0,
        ttl: float | None = None,
        history: int | None = 0,
        by: str = "",
        force: bool = False,
    ) -> int:
        """Replace a state, if it has this version (0: if there is none; None: whatever it has); return the new version.

        The state is kept for `ttl` seconds after this change; for ever, if that is infinite; None keeps it for as long
        as its last change did (for ever, if there is none). Where `history` is None, the change is listed with the
        others of the key, of which the oldest goes if there are 20 or more. The list is shortened by the next change
        that says how many are kept.

        Raises `StateConflict`, and changes nothing, for another version, and, without `force`, while a node has a
        delivery of the key in flight: the settlement of that one is refused then, if it changes the state, and it runs
        again. After a lost reply it raises `BrokerError`: it may have taken effect.
        """
        ...

    async def forget(
        self, source: str, group: str, key: str, *, version: int | None = None, force: bool = False
    ) -> bool:
        """Delete a state and its history; return whether there was one. Raises as `put`."""
        ...


class KeyWaits(Protocol):
    """Which handlers of keys wait for the replies to messages of other keys (`actorwork.policy.waits`).

    While the broker is unreachable every call waits.
    """

    async def note(self, delivery: Delivery, wait: KeyWait, *, ttl: float) -> bool:
        """Note that the handler of a delivery waits, for at most `ttl` seconds; return whether that is noted.

        It is not if the delivery is not its node's any more, or of another broker, or if 16 others of its key are.
        """
        ...

    async def forget(self, wait: KeyWait) -> None:
        """Delete a note. Cancelled or failed: it may be there still, until its time is over."""
        ...

    async def behind(self, wait: KeyWait) -> Sequence[KeyWait]:
        """Return what the handler of a key waits for, for whose end the message of a wait waits.

        That message either waits for its turn, behind the delivery of that handler, or is what this handles; else
        nothing is returned. Of what is returned each delivery is in flight at the node that has noted it.
        """
        ...


class Audit(Protocol):
    """What users did to the system: the newest 10,000 actions.

    An action is appended before it is done, so that none goes unrecorded, and completed after it. Texts are cut after
    1,000 characters.
    """

    async def append(self, action: str, what: str, *, who: str, role: str = "", reason: str = "", ip: str = "") -> str:
        """Record that an action begins; return the id of its entry."""
        ...

    async def complete(self, entry: str, outcome: str, how_many: int | None = None) -> None:
        """Record how an action ended, and how many objects it changed; an entry kept no longer is left out."""
        ...

    async def list(self, *, limit: int = 100) -> Sequence[AuditEntry]:
        """Return actions, newest first."""
        ...


class Reports(Protocol):
    """What the nodes report of themselves. While the broker is unreachable every call waits."""

    async def write(self, node: str, data: bytes, *, now: float, ttl: float) -> Mail:
        """Store a node's report for `ttl` seconds; return the commands that wait for it, which are taken.

        `now` is the broker's clock, as the node knows it. Cancelled or failed: commands may be lost.
        """
        ...

    async def drop(self, node: str) -> None:
        """Delete a node's report, and the commands that wait for it."""
        ...

    async def nodes(self) -> tuple[float, Sequence[str]]:
        """Return the broker's clock and the names of the nodes that report, sorted; some may be gone."""
        ...

    async def get(self, nodes: Sequence[str]) -> Sequence[StoredReport]:
        """Return the reports of those of these nodes that have one, in this order. Costs one command."""
        ...

    async def watch(self, seconds: float = 5.0) -> None:
        """Have all nodes report every two seconds for so long, and at once if they did not."""
        ...

    async def count(self, sources: Sequence[str]) -> Sequence[Counts]:
        """Return what is in each of these sources. Costs one command for 2,000 of them."""
        ...

    async def find(self, source: str, id: str) -> Found | None:
        """Return a message that is delayed, waits for its key, or is among the oldest 1,000 entries of a source."""
        ...


class Minutes(Protocol):
    """What was handled in each minute, counted by all nodes, and kept for two hours after its last change."""

    async def add(self, minute: int, counts: Mapping[str, MinuteCounts]) -> None:
        """Add to the counts of a minute (since the epoch), by source; "" is all sources together.

        Costs one command for 500 sources. Cancelled or failed: any part may have been added.
        """
        ...

    async def read(self, source: str, first: int, last: int) -> Mapping[int, MinuteCounts]:
        """Return the counts of a source, or of all (""), by minute; those without any are missing. One command."""
        ...


class Commands(Protocol):
    """Commands to nodes, and their answers, which are kept for a minute."""

    async def ask(self, node: str, data: bytes) -> str | None:
        """Leave a command for a node; return its id, or None if the node has neither a report nor a lease."""
        ...

    async def take(self, node: str) -> Mail:
        """Take the commands that wait for a node. Cancelled or failed: they may be lost."""
        ...

    async def answer(self, id: str, data: bytes) -> None:
        """Store the answer to a command."""
        ...

    async def find_answer(self, id: str) -> bytes | None:
        """Return the answer to a command, or None."""
        ...

    def listen(self, node: str, called: Callable[[], object]) -> AbstractAsyncContextManager[bool]:
        """Call `called` within a second whenever a command may wait for this node, or reports begin to be watched.

        Yields whether it will do so; if not, the caller must look now and then.
        """
        ...


class States(Protocol):
    """The lives of tracked messages: of those that were submitted, and of the steps of runs."""

    async def find(self, source: str, id: str) -> MessageInfo | None:
        """Return what is known of a message; None if it is not tracked, was never sent, or is kept no longer."""
        ...

    async def locate(self, id: str) -> str | None:
        """Return the source of a tracked message, or None."""
        ...

    async def forget(self, source: str, id: str) -> bool:
        """Delete what is kept of a message that is over, its outcome too; return whether there was one."""
        ...

    async def newest(self, source: str, *, limit: int) -> Sequence[TrackedMessage]:
        """Return the tracked messages of a source that were sent last, latest first, without their payloads.

        Only the newest 10,000 of a source are listed, and of these those that are still known.
        """
        ...

    async def with_payloads(self, messages: Sequence[TrackedMessage]) -> Sequence[TrackedMessage]:
        """Return messages with the payloads that are still there: of open messages, and of dead letters.

        Of the dead letters of a source the newest 1,000 are looked at. Meant for as many messages as a page shows.
        """
        ...


class Watch(Protocol):
    """A caller's wait for changes of one message or run."""

    async def changed(self) -> None:
        """Wait until something may have changed since the watch began, or since this returned last."""
        ...

    async def aclose(self) -> None:
        """Stop to watch."""
        ...


class Changes(Protocol):
    """A place that hears of changes."""

    async def watch(self, source: str, id: str) -> Watch:
        """Begin to watch a tracked message; with the source "", a run. Look at it after this returns, not before."""
        ...


class Runs(Protocol):
    """The runs of workflows."""

    async def start(self, plan: Plan) -> bool:
        """Store a run and send its first steps; return False, and change nothing, if there is a run with its id."""
        ...

    async def info(self, run: str) -> RunInfo | None:
        """Return a run as it is now, or None if there is none with this id."""
        ...

    async def steps(self, run: str) -> Sequence[StepInfo]:
        """Return the steps of a run, by number."""
        ...

    async def list(self, *, statuses: Sequence[str] = (), limit: int = 100) -> Sequence[RunInfo]:
        """Return runs of these statuses, or of all, latest first. A large result may be left out: `info` has it."""
        ...

    async def cancel(self, run: str, reason: str) -> bool:
        """End an open run; return whether there was one.

        Messages that no node has been given are dropped. What is in flight ends too late to count.
        """
        ...

    async def pause(self, run: str) -> bool:
        """Send no further steps of a run; return whether this changed anything."""
        ...

    async def resume(self, run: str) -> bool:
        """Continue a paused run; return whether it was paused."""
        ...

    async def retry(self, run: str, steps: Collection[int] | None = None) -> bool:
        """Run again what has not succeeded; return whether the run was held or had failed.

        With the numbers of `steps`, only these, and what was cancelled because of them. Nothing is done, and False
        returned, if one of them has not ended without success, or needs the result of another one that stays without.
        """
        ...

    async def shape_of_signal(self, run: str, name: str) -> str | None:
        """Return the shape that the value of a signal wants, as JSON; None if any value will do, or if there is none.

        The JSON is that of `actorwork.codec.shapes`. None, too, if the run is over, or has the value.
        """
        ...

    async def signal(self, run: str, name: str, value: bytes) -> bool:
        """Give an open run the JSON of a signal; return False if it waits for no such signal, or has its value."""
        ...

    async def forget(self, run: str) -> bool:
        """Delete a run that is over; return whether there was one."""
        ...


class Broker(Protocol):
    """Stores messages between sender and handler."""

    @property
    def url(self) -> str:
        """Where it is, without a password."""
        ...

    @property
    def shared_url(self) -> str | None:
        """The URL for other processes of this machine, with its password; None if it exists in this process only."""
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

    @property
    def runs(self) -> Runs: ...

    @property
    def states(self) -> States: ...

    @property
    def entities(self) -> EntityStore: ...

    @property
    def waits(self) -> KeyWaits: ...

    @property
    def reports(self) -> Reports: ...

    @property
    def minutes(self) -> Minutes: ...

    @property
    def commands(self) -> Commands: ...

    @property
    def audit(self) -> Audit: ...

    @property
    def purging(self) -> Purging: ...

    @property
    def copies(self) -> Copies: ...

    @property
    def shards(self) -> Shards: ...

    async def publish(self, envelopes: Sequence[Envelope]) -> int:
        """Store messages; return how many were new (a message whose id was seen before is dropped).

        Order is kept within a source, for messages of one priority that are not delayed. While the broker is
        unreachable this waits: bound it with a cancel scope. If it is cancelled or fails, any part may have been
        stored; publishing the same envelopes again stores none twice. A message with a `unique` whose key is taken is
        dropped, or replaces the holder of the key.
        """
        ...

    async def publish_new(self, envelope: Envelope) -> None:
        """Keep one message whose id was drawn for it and has never been sent before; otherwise as `publish`.

        A broker may then skip the search for an earlier copy. A message whose reply is lost is still kept only once.
        """
        await self.publish([envelope])

    async def publish_unique(self, envelope: Envelope) -> str:
        """Store a message that has a `unique`; return the id of the message that has the key now: its own, or that
        of the first.
        """
        ...

    def open_node(
        self,
        subscriptions: Sequence[Subscription],
        *,
        lease: float,
        emit: EventSink,
    ) -> AbstractAsyncContextManager[Node]:
        """Take a lease, create the groups of all subscriptions, then begin to read for them.

        At the end of the block reading stops, settlements still queued are applied within a second, and the lease is
        released, so that other nodes run at once what was neither settled nor released.
        """
        ...

    async def release_lease(self, incarnation: str) -> bool:
        """Declare a node dead, as its parent process does when it dies; return whether it had a lease.

        Other nodes run the deliveries that it had in flight at once, and count a crash for each.
        """
        ...

    def open_replies(self) -> AbstractAsyncContextManager[Replies]:
        """Open a place where outcomes arrive."""
        ...

    def open_changes(self) -> AbstractAsyncContextManager[Changes]:
        """Open a place that hears of changes of messages and runs."""
        ...

    async def find_outcome(self, source: str, message_id: str) -> Outcome | None:
        """Return the stored outcome of a message, or None."""
        ...

    async def cancel_message(self, source: str, message_id: str, *, reason: str = "", force: bool = False) -> bool:
        """Cancel a message wherever it is; return whether it was open, and not cancelled before.

        If no node has been given it, it is dropped, and a caller that waits for its outcome gets "rejected", with a
        `Failure` of type `Cancelled`. If a tracked message is in flight, this is stored until it is over: its handler
        is cancelled within a second, and it is neither tried again nor run again after a crash. A message that is not
        tracked is dropped while it is delayed, or waits behind others with its key.
        """
        ...

    async def backlog(self, source: str, group: str | None = None) -> int:
        """Return how many messages of a source are ready or in flight, or wait behind others with their key.

        With a group (an actor's id) those that this group has not settled, else those that any actor's has not.
        """
        ...

    async def oldest(self, source: str, group: str | None = None) -> float | None:
        """Return how many seconds the oldest message that a group has not read has been ready, or None.

        Without a group, that of any actor counts.
        """
        ...

    async def diagnose(self) -> Sequence[Finding]:
        """Check the broker as an operator would."""
        ...


@runtime_checkable
class HasServers(Protocol):
    """A broker of several servers: some may be away while the others go on. Any other broker counts as one."""

    def servers_of(self, source: str) -> frozenset[object]:
        """Return what serves a source, as far as that is known. Sources without a server in common fail apart."""
        ...

    def servers(self) -> tuple[int, int]:
        """Return how many servers there are, and how many of them have no connection. Any thread may ask."""
        ...


@runtime_checkable
class DescribesServer(Protocol):
    """A broker that can say what it is."""

    async def describe_server(self) -> tuple[str, str]:
        """Return its kind (`redis`, `valkey`, `embedded`), and the version of its server; empty if it is unknown."""
        ...


class Middleware(Protocol):
    """Wraps the handling of a delivery; awaits `proceed` at most once and returns its result, or raises.

    Past the actor's `execution_timeout`, `proceed` raises `ExecutionTimeout`; at a shutdown, `trio.Cancelled`.
    """

    async def __call__(self, delivery: Delivery, proceed: Callable[[], Awaitable[object]], /) -> object: ...


class PublishMiddleware(Protocol):
    """Processes what is published before it is stored: returns the envelope or another one with the same id, or raises.

    It is synchronous because `Context.publish` is. Messages that actors publish have no id yet.
    """

    def __call__(self, envelope: Envelope, /) -> Envelope: ...


@runtime_checkable
class HeaderMiddleware(PublishMiddleware, Protocol):
    """Middleware that adds the same headers to whatever is sent at one place, such as the trace of the sender.

    Steps of a workflow are no envelopes when it is started, and pass through no middleware: they get these headers.
    """

    def headers(self) -> Mapping[str, Json]:
        """Return what a message gets that is made here and now."""
        ...


@runtime_checkable
class SendMiddleware(PublishMiddleware, Protocol):
    """Middleware that also sees the calls by which a client sends, once all middleware has processed the messages."""

    def sending(self, envelopes: Sequence[Envelope], /) -> AbstractContextManager[Sequence[Envelope]]:
        """Wrap a call that sends; the block has the envelopes that are to be sent, with the same ids.

        The call ends when the broker has the messages, or the spool. It may raise, and may be cancelled.
        """
        ...


class ActorInstrument(Protocol):
    """Observes the deliveries of one actor; it must not raise anything of its own."""

    def begin(self, in_hand: Callable[[], Delivery | None], /) -> None:
        """Prepare a task that will handle deliveries; called in it, once, before the first one.

        What it sets in context variables stays there. `in_hand` returns the delivery that the calling task handles, in
        tasks that handlers start and in worker threads too; None for a message from within the process.
        """
        ...

    def is_unobserved(self, delivery: Delivery, /) -> bool:
        """Return whether a delivery need not be observed by `handling`.

        Called only where an actor has one instrument and no middleware: a wrapper around the handler would cost more
        than all else there.
        """
        ...

    async def handling(self, delivery: Delivery, proceed: Callable[[], Awaitable[object]], /) -> object:
        """Wrap the handling of a delivery as `Middleware` does, outside of all middleware."""
        ...

    async def handling_together(self, deliveries: Sequence[Delivery], proceed: Callable[[], Awaitable[Any]], /) -> Any:
        """Wrap the call of a handler for a batch, inside of all middleware; return what `proceed` returns."""
        ...

    def failed(self, delivery: Delivery, error: BaseException, ending: Ending, /) -> Mapping[str, Json]:
        """Take note of how a delivery ends whose handler has raised, or whose message cannot be read.

        Returns headers for the next attempt if the ending is a `Retry`: added to the message, under their names.
        """
        ...


class Instruments(Protocol):
    """What observes the system of one process, from before its start until after its end."""

    @property
    def publish_middleware(self) -> tuple[PublishMiddleware, ...]:
        """Processes what the actors publish, before any other publish middleware."""
        ...

    def of_actor(self, settings: Settings) -> ActorInstrument | None:
        """Return what observes an actor's deliveries, if anything does; called when the actor starts."""
        ...

    @property
    def observe(self) -> EventSink | None:
        """Takes the events of this process, if anything does: for each message there is one."""
        ...

    def close(self, within: float) -> None:
        """Export what is left and end, in about `within` seconds; runs in a thread, once, when the system has ended."""
        ...


@runtime_checkable
class KnowsTraces(Protocol):
    """Instruments that know in which sampled trace a delivery was handled, for the exemplars of metrics."""

    @property
    def sampled(self) -> Mapping[int, tuple[Delivery, str]]:
        """The latest deliveries that were handled in a sampled trace, with its id; by identity of the delivery."""
        ...


class Telemetry(Protocol):
    """How a system is observed: an option of it, pickled on its way to the processes of a tree."""

    def open(self, broker: str) -> Instruments:
        """Open what observes the system of this process at a broker (its URL; empty for the default file)."""
        ...


class AbstractCronSchedule(Protocol):
    """Base class of a cron reader of the user's own; a system takes it as `cron_schedule=`."""

    @abstractmethod
    def next_execution(self, expression: str) -> datetime:
        """Return the next moment of the expression: after now, with a timezone, never before an earlier answer.

        A reader that declares a parameter `timezone: tzinfo = UTC` is given that of the `Cron`.
        """
        ...
