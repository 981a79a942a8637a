"""The events that a node does not report at every start or for every message."""

from __future__ import annotations

from typing import Literal, TypeAlias

import attrs

from actorwork.events.usual import (
    ActorStarted,
    BaseEvent,
    BrokerAdvice,
    BrokerBack,
    BrokerTrouble,
    LeaseLost,
    NodeStarted,
    Settled,
)
from actorwork.message import Delivery
from actorwork.policy.exits import Exit
from actorwork.policy.settlement import Settlement
from actorwork.records import Pause


@attrs.frozen(eq=False, repr=False)
class NodeStopped(BaseEvent):
    """Everything has ended."""

    seconds: float
    forced: bool


@attrs.frozen(eq=False, repr=False)
class MonitorStarted(BaseEvent):
    """The monitor of this program listens at `url`, and serves these paths."""

    url: str
    paths: tuple[str, ...]


@attrs.frozen(eq=False, repr=False)
class BrokerLost(BaseEvent):
    """There is no connection to the broker; the node tries again in `retry_in` seconds.

    A cluster has several `servers`, of which `broker` is the URL of one and this many are `away`: what is there waits,
    and what is at the others goes on.
    """

    error: str
    retry_in: float
    broker: str = ""
    away: int = 1
    servers: int = 1


@attrs.frozen(eq=False, repr=False)
class GroupRestored(BaseEvent):
    """A source's group was missing (restart without persistence, FLUSHALL, XGROUP DESTROY) and was created again."""

    source: str
    actor_id: str


@attrs.frozen(eq=False, repr=False)
class Reclaimed(BaseEvent):
    """This node took over deliveries of a dead node, or released ones (`previous` is "released")."""

    source: str
    actor_id: str
    previous: str
    count: int


@attrs.frozen(eq=False, repr=False)
class Released(BaseEvent):
    """This node released deliveries that it will not handle."""

    source: str
    actor_id: str
    count: int


@attrs.frozen(eq=False, repr=False)
class Fenced(BaseEvent):
    """A settlement was refused: this node no longer owned the delivery, so nothing of it took effect."""

    delivery: Delivery
    actor_id: str
    settlement: Settlement


@attrs.frozen(eq=False, repr=False)
class StaleState(BaseEvent):
    """A settlement was refused, since the state of its key has the version `found` and not the one its handler ran on.

    Nothing of it took effect; the delivery is released, and runs again on the state as it is.
    """

    delivery: Delivery
    actor_id: str
    expected: int
    found: int


@attrs.frozen(eq=False, repr=False)
class EntityStalled(BaseEvent):
    """The state of a key cannot be used by this node: it is newer, or cannot be read. Its messages wait.

    They are handed back, uncounted, and taken again every second or so, by this node or another one. Emitted once a
    minute for a key.
    """

    actor_id: str
    title: str
    key: str
    version: int
    error: str


@attrs.frozen(eq=False, repr=False)
class StateForgotten(BaseEvent):
    """The state of a key has an earlier version than this node has seen of it, or is gone: `found` instead of `known`.

    A server without AOF was killed and has lost its last writes, or a user has forgotten the state by hand. The
    instance is made anew from what is there.
    """

    actor_id: str
    title: str
    key: str
    known: int
    found: int


@attrs.frozen(eq=False, repr=False)
class EntityLarge(BaseEvent):
    """The state of a key has grown to half of what it may have; beyond `limit` bytes its messages fail."""

    actor_id: str
    title: str
    key: str
    size: int
    limit: int


@attrs.frozen(eq=False, repr=False)
class DeadLettered(BaseEvent):
    """The broker itself dead-lettered a message, since it had crashed `crashes` processes."""

    source: str
    actor_id: str
    message_id: str
    crashes: int


@attrs.frozen(eq=False, repr=False)
class MessageLost(BaseEvent):
    """A message has ended, since its entry was deleted by hand while it was in flight.

    A message that its own node wanted to retry is named by its id, and its result is "rejected" with a failure of type
    `Lost`. So is one that was to be taken over from a dead node, if it was submitted or is a step of a run. Of any
    other one only the entry is known, and who waits for a reply is not told.
    """

    source: str
    actor_id: str
    message_id: str


@attrs.frozen(eq=False, repr=False)
class SuspectsInFlight(BaseEvent):
    """Messages that processes died with are in flight at this node (`present`), or none is any more."""

    present: bool


@attrs.frozen(eq=False, repr=False)
class ChildExited(BaseEvent):
    """An incarnation of a supervisor's child has ended; `exit` says how."""

    supervisor: str
    child: str
    incarnation: int
    exit: Exit


@attrs.frozen(eq=False, repr=False)
class ActorTrouble(BaseEvent):
    """A hook of an actor (`shutdown`, `failed`) failed, which neither restarts the actor nor fails a message."""

    actor_id: str
    title: str
    doing: str
    error: BaseException
    goes_on: bool = False
    """Whether the actor handles further messages."""


@attrs.frozen(eq=False, repr=False)
class ChildRestarting(BaseEvent):
    """A supervisor will restart a child in `delay` seconds."""

    supervisor: str
    child: str
    restarts: int
    error: BaseException | None
    delay: float


@attrs.frozen(eq=False, repr=False)
class GaveUp(BaseEvent):
    """A supervisor gave up on a child, and ends with all its children."""

    supervisor: str
    child: str
    why: str


@attrs.frozen(eq=False, repr=False)
class StuckChild(BaseEvent):
    """A child was asked to end, then cancelled, and has not ended; `stack` is that of its task."""

    supervisor: str
    child: str
    stack: str


@attrs.frozen(eq=False, repr=False)
class ProcessStarted(BaseEvent):
    """A process of the tree is up, as the node `incarnation`."""

    process: str
    pid: int
    incarnation: str


@attrs.frozen(eq=False, repr=False)
class ProcessKilled(BaseEvent):
    """A process was asked to end, has not done so in time, and is killed."""

    process: str
    pid: int


@attrs.frozen(eq=False, repr=False)
class ProcessHung(BaseEvent):
    """The loop of a process has stood still for `seconds`, so the process is killed; `stacks` are those of its threads.

    Without stacks the process did not answer: it was stopped, or runs code that holds the GIL.
    """

    process: str
    pid: int
    seconds: float
    stacks: str


@attrs.frozen(eq=False, repr=False)
class HandlerHung(BaseEvent):
    """A handler in a process has not ended `seconds` after its deadline, so the process is killed.

    `stacks` are those of its threads.
    """

    process: str
    pid: int
    title: str
    message_id: str
    seconds: float
    stacks: str


@attrs.frozen(eq=False, repr=False)
class ProcessReplaced(BaseEvent):
    """A process has reached a limit: `successor` is up, and the process `pid` ends.

    `why` says so in words, `reason` in one: `recycled` (after `max_messages`), `memory`, or `hung` (a handler that was
    cancelled by force has not ended).
    """

    process: str
    pid: int
    successor: int
    why: str
    reason: str = "recycled"


@attrs.frozen(eq=False, repr=False)
class EventsDropped(BaseEvent):
    """`count` more events of a process did not reach `emit`: it had them faster than they were taken, or too large."""

    process: str
    pid: int
    count: int


@attrs.frozen(eq=False, repr=False)
class Scaled(BaseEvent):
    """The wanted number of replicas of a process has changed."""

    process: str
    before: int
    after: int
    why: str


@attrs.frozen(eq=False, repr=False)
class ReplacementFailed(BaseEvent):
    """A process is to be replaced, but its successor did not start; the process stays until one does.

    For its memory, it goes on to handle messages; one that has handled `max_messages` begins no other.
    """

    process: str
    pid: int
    why: str
    error: BaseException
    retry_in: float


@attrs.frozen(eq=False, repr=False)
class Overdue(BaseEvent):
    """A handler has exceeded its `execution_timeout` and not ended: it shields itself, or runs in a thread."""

    actor_id: str
    title: str
    message_id: str
    seconds: float
    where: str
    """The stack of the handler, its own frame first."""
    timeout: float = 0.0
    """The `execution_timeout` that it has exceeded."""
    is_settled: bool = False
    """Whether the delivery has ended without the handler: true for a thread, which cannot be ended."""


@attrs.frozen(eq=False, repr=False)
class CancellationIgnored(BaseEvent):
    """A handler has not ended `seconds` after its message was cancelled with `force`: it shields itself, or runs in a
    thread. In a `Process`, that is replaced.
    """

    actor_id: str
    title: str
    message_id: str
    seconds: float
    where: str
    """The stack of the handler, its own frame first."""


@attrs.frozen(eq=False, repr=False)
class LoopStalled(BaseEvent):
    """The loop of this node stood still for `seconds`, blocked by the code at `stack`; nothing else could run.

    `lasts`: the loop is still blocked; then only the logs receive the event.
    """

    seconds: float
    stack: str
    lasts: bool


@attrs.frozen(eq=False, repr=False)
class ResourceLow(BaseEvent):
    """There is little left of a resource: `free` bytes of `total`.

    `resource` is "memory", with "cgroup" or "machine" as `where`, or "disk", with a path.
    """

    resource: str
    where: str
    free: int
    total: int


@attrs.frozen(eq=False, repr=False)
class CircuitChanged(BaseEvent):
    """A circuit is now `closed`, `open` for `seconds`, or `half open`; `error` is the one that opened it."""

    name: str
    state: str
    seconds: float
    error: BaseException | None


@attrs.frozen(eq=False, repr=False)
class TriggerFired(BaseEvent):
    """This node fired a trigger for these nominal times (in milliseconds since the epoch).

    `kept` of the messages are new: fewer than there are times if messages may not overlap.
    """

    actor_id: str
    title: str
    trigger_id: str
    trigger: str
    times: tuple[int, ...]
    kept: int


@attrs.frozen(eq=False, repr=False)
class TriggerTrouble(BaseEvent):
    """A trigger cannot fire as it is declared; `next` says what happens instead."""

    actor_id: str
    title: str
    trigger: str
    error: str
    next: str


@attrs.frozen(eq=False, repr=False)
class TriggerChanged(BaseEvent):
    """This node has learnt what users did to a trigger by hand, and fires it accordingly from now on.

    `action` is "put", "changed" (the `parts` say what), "reset" or "deleted"; `by` is the user, if that is known.
    """

    actor_id: str
    title: str
    trigger_id: str
    trigger: str
    action: Literal["put", "changed", "reset", "deleted"]
    parts: tuple[str, ...] = ()
    by: str = ""


@attrs.frozen(eq=False, repr=False)
class PausesChanged(BaseEvent):
    """This node has learnt of changed pauses: those new in `paused`, and those that ended in `resumed`."""

    paused: tuple[Pause, ...]
    resumed: tuple[Pause, ...]


@attrs.frozen(eq=False, repr=False)
class Undelivered(BaseEvent):
    """A local message that will not be handled: its actor ended first.

    `reason`: its actor is `gone`, its mailbox has `dropped` it for want of room, or was too `full` for a broadcast.
    """

    actor_id: str
    title: str
    message: object
    reason: str = "gone"


@attrs.frozen(eq=False, repr=False)
class ShutdownStage(BaseEvent):
    """The shutdown has reached `stage`: intake, drain, cancel, shutdown or force."""

    stage: str
    reason: str


Event: TypeAlias = (
    NodeStarted
    | NodeStopped
    | MonitorStarted
    | LeaseLost
    | BrokerLost
    | BrokerBack
    | GroupRestored
    | Reclaimed
    | Released
    | Fenced
    | StaleState
    | EntityStalled
    | StateForgotten
    | EntityLarge
    | DeadLettered
    | MessageLost
    | BrokerTrouble
    | BrokerAdvice
    | ActorStarted
    | ChildExited
    | ActorTrouble
    | ChildRestarting
    | GaveUp
    | StuckChild
    | ProcessStarted
    | ProcessKilled
    | ProcessHung
    | HandlerHung
    | ProcessReplaced
    | ReplacementFailed
    | EventsDropped
    | Scaled
    | Settled
    | SuspectsInFlight
    | Overdue
    | CancellationIgnored
    | LoopStalled
    | ResourceLow
    | CircuitChanged
    | TriggerFired
    | TriggerTrouble
    | TriggerChanged
    | PausesChanged
    | Undelivered
    | ShutdownStage
)
