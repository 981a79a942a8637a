"""Events: what happened, as values. Logs, metrics and tests are derived from them, in one place each.

An event does not contain the node's id and the time: its receiver adds them, since every receiver belongs to one node.
Events that occur for every message are as small as possible. Events are distinguished by their class and never
compared, so they have no `__eq__`, and share one `__repr__`: attrs would generate and compile a method per class, and
for 35 classes that is a tenth of what importing the package costs.

Events of the processes of a tree arrive at the `emit=` of the program too; their `origin` names the process.
"""

from __future__ import annotations

from typing import ClassVar, Literal, TypeAlias

import attrs

from actorwork.message import Delivery, Pause
from actorwork.policy.exits import Exit
from actorwork.policy.settlement import Settlement


@attrs.frozen(repr=False)
class Origin:
    """The process of a tree in which an event happened: its name there, its pid, and its incarnation as a node."""

    process: str
    pid: int
    incarnation: str

    def __repr__(self) -> str:
        return f"<process {self.pid} of {self.process!r}>"


class _Event:
    __slots__ = ("_origin",)
    __match_args__: ClassVar[tuple[str, ...]]

    @property
    def origin(self) -> Origin | None:
        """The process from which the event came; None for one of the node that emits it."""
        return getattr(self, "_origin", None)

    def come_from(self, origin: Origin) -> None:
        """Note where the event happened; for the side that receives it from there."""
        object.__setattr__(self, "_origin", origin)

    def __repr__(self) -> str:
        shown = ", ".join(f"{field}={getattr(self, field)!r}" for field in self.__match_args__)
        return f"{type(self).__name__}({shown})"


@attrs.frozen(eq=False, repr=False)
class NodeStarted(_Event):
    """The node holds its lease and reads."""

    incarnation: str
    broker: str
    actors: tuple[str, ...]


@attrs.frozen(eq=False, repr=False)
class NodeStopped(_Event):
    """Everything has ended."""

    seconds: float
    forced: bool


@attrs.frozen(eq=False, repr=False)
class MonitorStarted(_Event):
    """The monitor of this program listens at `url`, and serves these paths."""

    url: str
    paths: tuple[str, ...]


@attrs.frozen(eq=False, repr=False)
class LeaseLost(_Event):
    """The node's lease expired: its deliveries are cancelled, and it continues as `successor`."""

    incarnation: str
    successor: str
    reason: str


@attrs.frozen(eq=False, repr=False)
class BrokerLost(_Event):
    """There is no connection to the broker; the node tries again in `retry_in` seconds."""

    error: str
    retry_in: float


@attrs.frozen(eq=False, repr=False)
class BrokerBack(_Event):
    """The node is connected to the broker (again)."""

    broker: str


@attrs.frozen(eq=False, repr=False)
class GroupRestored(_Event):
    """A source's group was missing (restart without persistence, FLUSHALL, XGROUP DESTROY) and was created again."""

    source: str
    actor_id: str


@attrs.frozen(eq=False, repr=False)
class Reclaimed(_Event):
    """This node took over deliveries of a dead node, or released ones (`previous` is "released")."""

    source: str
    actor_id: str
    previous: str
    count: int


@attrs.frozen(eq=False, repr=False)
class Released(_Event):
    """This node released deliveries that it will not handle."""

    source: str
    actor_id: str
    count: int


@attrs.frozen(eq=False, repr=False)
class Fenced(_Event):
    """A settlement was refused: this node no longer owned the delivery, so nothing of it took effect."""

    delivery: Delivery
    actor_id: str
    settlement: Settlement


@attrs.frozen(eq=False, repr=False)
class StaleState(_Event):
    """A settlement was refused, since the state of its key has the version `found` and not the one its handler ran on.

    Nothing of it took effect; the delivery is released, and runs again on the state as it is.
    """

    delivery: Delivery
    actor_id: str
    expected: int
    found: int


@attrs.frozen(eq=False, repr=False)
class EntityStalled(_Event):
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
class StateForgotten(_Event):
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
class EntityLarge(_Event):
    """The state of a key has grown to half of what it may have; beyond `limit` bytes its messages fail."""

    actor_id: str
    title: str
    key: str
    size: int
    limit: int


@attrs.frozen(eq=False, repr=False)
class DeadLettered(_Event):
    """The broker itself dead-lettered a message, since it had crashed `crashes` processes."""

    source: str
    actor_id: str
    message_id: str
    crashes: int


@attrs.frozen(eq=False, repr=False)
class MessageLost(_Event):
    """A message has ended, since its entry was deleted by hand while it was in flight.

    A message that its own node wanted to retry is named by its id, and its result is "rejected" with a failure of type
    `Lost`. So is one that was to be taken over from a dead node, if it was submitted or is a step of a run. Of any
    other one only the entry is known, and who waits for a reply is not told.
    """

    source: str
    actor_id: str
    message_id: str


@attrs.frozen(eq=False, repr=False)
class SuspectsInFlight(_Event):
    """Messages that processes died with are in flight at this node (`present`), or none is any more."""

    present: bool


@attrs.frozen(eq=False, repr=False)
class BrokerTrouble(_Event):
    """An operation at the broker failed; `next` says whether it is tried again."""

    doing: str
    error: str
    next: str


@attrs.frozen(eq=False, repr=False)
class BrokerAdvice(_Event):
    """The broker works, but may lose messages, or keeps what no actor needs; `advice` says what to do."""

    text: str
    advice: str
    subject: str = ""
    """What it is about: that of a `Finding`."""


@attrs.frozen(eq=False, repr=False)
class ActorStarted(_Event):
    """An incarnation is up: its `startup` has returned."""

    actor_id: str
    title: str
    incarnation: int


@attrs.frozen(eq=False, repr=False)
class ChildExited(_Event):
    """An incarnation of a supervisor's child has ended; `exit` says how."""

    supervisor: str
    child: str
    incarnation: int
    exit: Exit


@attrs.frozen(eq=False, repr=False)
class ActorTrouble(_Event):
    """A hook of an actor (`shutdown`, `failed`) failed, which neither restarts the actor nor fails a message."""

    actor_id: str
    title: str
    doing: str
    error: BaseException
    goes_on: bool = False
    """Whether the actor handles further messages."""


@attrs.frozen(eq=False, repr=False)
class ChildRestarting(_Event):
    """A supervisor will restart a child in `delay` seconds."""

    supervisor: str
    child: str
    restarts: int
    error: BaseException | None
    delay: float


@attrs.frozen(eq=False, repr=False)
class GaveUp(_Event):
    """A supervisor gave up on a child, and ends with all its children."""

    supervisor: str
    child: str
    why: str


@attrs.frozen(eq=False, repr=False)
class StuckChild(_Event):
    """A child was asked to end, then cancelled, and has not ended; `stack` is that of its task."""

    supervisor: str
    child: str
    stack: str


@attrs.frozen(eq=False, repr=False)
class ProcessStarted(_Event):
    """A process of the tree is up, as the node `incarnation`."""

    process: str
    pid: int
    incarnation: str


@attrs.frozen(eq=False, repr=False)
class ProcessKilled(_Event):
    """A process was asked to end, has not done so in time, and is killed."""

    process: str
    pid: int


@attrs.frozen(eq=False, repr=False)
class ProcessHung(_Event):
    """The loop of a process has stood still for `seconds`, so the process is killed; `stacks` are those of its threads.

    Without stacks the process did not answer: it was stopped, or runs code that holds the GIL.
    """

    process: str
    pid: int
    seconds: float
    stacks: str


@attrs.frozen(eq=False, repr=False)
class HandlerHung(_Event):
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
class ProcessReplaced(_Event):
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
class EventsDropped(_Event):
    """`count` more events of a process did not reach `emit`: it had them faster than they were taken, or too large."""

    process: str
    pid: int
    count: int


@attrs.frozen(eq=False, repr=False)
class Scaled(_Event):
    """The wanted number of replicas of a process has changed."""

    process: str
    before: int
    after: int
    why: str


@attrs.frozen(eq=False, repr=False)
class ReplacementFailed(_Event):
    """A process is to be replaced, but its successor did not start; the process stays until one does.

    For its memory, it goes on to handle messages; one that has handled `max_messages` begins no other.
    """

    process: str
    pid: int
    why: str
    error: BaseException
    retry_in: float


@attrs.frozen(eq=False, repr=False)
class Settled(_Event):
    """A delivery has ended; `seconds` is how long it was in flight."""

    actor_id: str
    title: str
    delivery: Delivery
    settlement: Settlement
    seconds: float


@attrs.frozen(eq=False, repr=False)
class Overdue(_Event):
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
class CancellationIgnored(_Event):
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
class LoopStalled(_Event):
    """The loop of this node stood still for `seconds`, blocked by the code at `stack`; nothing else could run.

    `lasts`: the loop is still blocked; then only the logs receive the event.
    """

    seconds: float
    stack: str
    lasts: bool


@attrs.frozen(eq=False, repr=False)
class ResourceLow(_Event):
    """There is little left of a resource: `free` bytes of `total`.

    `resource` is "memory", with "cgroup" or "machine" as `where`, or "disk", with a path.
    """

    resource: str
    where: str
    free: int
    total: int


@attrs.frozen(eq=False, repr=False)
class CircuitChanged(_Event):
    """A circuit is now `closed`, `open` for `seconds`, or `half open`; `error` is the one that opened it."""

    name: str
    state: str
    seconds: float
    error: BaseException | None


@attrs.frozen(eq=False, repr=False)
class TriggerFired(_Event):
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
class TriggerTrouble(_Event):
    """A trigger cannot fire as it is declared; `next` says what happens instead."""

    actor_id: str
    title: str
    trigger: str
    error: str
    next: str


@attrs.frozen(eq=False, repr=False)
class TriggerChanged(_Event):
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
class PausesChanged(_Event):
    """This node has learnt of changed pauses: those new in `paused`, and those that ended in `resumed`."""

    paused: tuple[Pause, ...]
    resumed: tuple[Pause, ...]


@attrs.frozen(eq=False, repr=False)
class Undelivered(_Event):
    """A local message that will not be handled: its actor ended first.

    `reason`: its actor is `gone`, its mailbox has `dropped` it for want of room, or was too `full` for a broadcast.
    """

    actor_id: str
    title: str
    message: object
    reason: str = "gone"


@attrs.frozen(eq=False, repr=False)
class ShutdownStage(_Event):
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
