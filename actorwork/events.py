"""What happened, as values. Logs, metrics and tests are made from these, in one place each.

An event says what, who and how long; the node's id and the time are added by whoever receives it,
since every receiver belongs to one node. Events that come once for every message are as small as can be.
They are told apart by what they are, not compared: so none of them needs an `__eq__`, which would cost every start a
third of a millisecond.
"""

from __future__ import annotations

from typing import TypeAlias

import attrs

from actorwork.message import Delivery, Pause
from actorwork.policy.exits import Exit
from actorwork.policy.settlement import Settlement


@attrs.frozen(eq=False)
class NodeStarted:
    """The node holds its lease and reads."""

    incarnation: str
    broker: str
    actors: tuple[str, ...]


@attrs.frozen(eq=False)
class NodeStopped:
    """Everything has ended."""

    seconds: float
    forced: bool


@attrs.frozen(eq=False)
class LeaseLost:
    """The node's lease ran out: its deliveries are cancelled, it goes on as `successor`."""

    incarnation: str
    successor: str
    reason: str


@attrs.frozen(eq=False)
class BrokerLost:
    """No connection to the broker; the next try comes in `retry_in` seconds."""

    error: str
    retry_in: float


@attrs.frozen(eq=False)
class BrokerBack:
    """The connection to the broker stands (again)."""

    broker: str


@attrs.frozen(eq=False)
class GroupRestored:
    """A source's group was gone (restart without persistence, FLUSHALL, XGROUP DESTROY) and was made anew."""

    source: str
    actor_id: str


@attrs.frozen(eq=False)
class Reclaimed:
    """Deliveries came over from a node that is dead, or were handed back by one (`previous` is "released")."""

    source: str
    actor_id: str
    previous: str
    count: int


@attrs.frozen(eq=False)
class Released:
    """Deliveries that this node will not handle were given back."""

    source: str
    actor_id: str
    count: int


@attrs.frozen(eq=False)
class Fenced:
    """A settlement was refused: the delivery was no longer ours, so nothing of it took effect."""

    delivery: Delivery
    actor_id: str
    settlement: Settlement


@attrs.frozen(eq=False)
class DeadLettered:
    """The broker itself made a dead letter, since the message had taken down `crashes` processes."""

    source: str
    actor_id: str
    message_id: str
    crashes: int


@attrs.frozen(eq=False)
class BrokerTrouble:
    """Something at the broker failed and is tried again (or given up, as `next` says)."""

    doing: str
    error: str
    next: str


@attrs.frozen(eq=False)
class BrokerAdvice:
    """The broker works, but is set up so that messages may be lost; `advice` says what to do."""

    text: str
    advice: str


@attrs.frozen(eq=False)
class ActorStarted:
    """An incarnation is up: its `startup` has returned."""

    actor_id: str
    title: str
    incarnation: int


@attrs.frozen(eq=False)
class ChildExited:
    """An incarnation of a supervisor's child has ended: how, `exit` says."""

    supervisor: str
    child: str
    incarnation: int
    exit: Exit


@attrs.frozen(eq=False)
class ActorTrouble:
    """Something of an actor failed that neither restarts nor fails anything: its `shutdown`."""

    actor_id: str
    title: str
    doing: str
    error: BaseException


@attrs.frozen(eq=False)
class ChildRestarting:
    """A supervisor starts a child again, `delay` seconds from now."""

    supervisor: str
    child: str
    restarts: int
    error: BaseException | None
    delay: float


@attrs.frozen(eq=False)
class GaveUp:
    """A supervisor gave up on a child, and ends with all its children."""

    supervisor: str
    child: str
    why: str


@attrs.frozen(eq=False)
class StuckChild:
    """A child that was told to end, and cancelled, has not ended; `stack` is where its task is."""

    supervisor: str
    child: str
    stack: str


@attrs.frozen(eq=False)
class ProcessStarted:
    """A process of the tree is up, as the node `incarnation`."""

    process: str
    pid: int
    incarnation: str


@attrs.frozen(eq=False)
class ProcessKilled:
    """A process that was told to end has not done so in its time, and is killed."""

    process: str
    pid: int


@attrs.frozen(eq=False)
class ProcessHung:
    """The loop of a process has not turned for so long that it is killed; `stacks` is where its threads stand.

    Without stacks it did not answer: it was stopped, or is in code that keeps Python's own lock.
    """

    process: str
    pid: int
    seconds: float
    stacks: str


@attrs.frozen(eq=False)
class HandlerHung:
    """A handler in a process has not ended `seconds` after its deadline, so the process is killed.

    `stacks` is where its threads stand.
    """

    process: str
    pid: int
    title: str
    message_id: str
    seconds: float
    stacks: str


@attrs.frozen(eq=False)
class ProcessReplaced:
    """A process has done its share: `successor` is up, and the process `pid` ends beside it."""

    process: str
    pid: int
    successor: int
    why: str


@attrs.frozen(eq=False)
class Scaled:
    """There were so many replicas of a process, and there are to be so many."""

    process: str
    before: int
    after: int
    why: str


@attrs.frozen(eq=False)
class ReplacementFailed:
    """A process is to be replaced, and its successor did not start; it goes on until one does."""

    process: str
    pid: int
    why: str
    error: BaseException
    retry_in: float


@attrs.frozen(eq=False)
class Settled:
    """A delivery has ended; `seconds` is how long it was in hand."""

    actor_id: str
    title: str
    delivery: Delivery
    settlement: Settlement
    seconds: float


@attrs.frozen(eq=False)
class Overdue:
    """A handler is past its `execution_timeout` and has not ended: it shields itself, or sits in a thread."""

    actor_id: str
    title: str
    message_id: str
    seconds: float
    where: str
    timeout: float = 0.0
    """The `execution_timeout` that it is past."""
    is_settled: bool = False
    """Whether the delivery has ended without it: so it is with a thread, which nobody can end."""


@attrs.frozen(eq=False)
class LoopStalled:
    """The loop of this node stood still for `seconds`, at `stack`: something blocked it, and nothing else could run.

    It `lasts` where the loop has not gone on yet; then no receiver but the logs is told.
    """

    seconds: float
    stack: str
    lasts: bool


@attrs.frozen(eq=False)
class CircuitChanged:
    """A circuit is `closed`, `open` for so many `seconds`, or `half open` from now on; `error` is what opened it."""

    name: str
    state: str
    seconds: float
    error: BaseException | None


@attrs.frozen(eq=False)
class TriggerFired:
    """This node fired a trigger: for these moments (in milliseconds since the epoch), of whose messages `kept` are new.

    Fewer are new where messages may not overlap.
    """

    actor_id: str
    title: str
    trigger_id: str
    trigger: str
    times: tuple[int, ...]
    kept: int


@attrs.frozen(eq=False)
class TriggerTrouble:
    """A trigger cannot fire as it is declared; `next` says what becomes of it."""

    actor_id: str
    title: str
    trigger: str
    error: str
    next: str


@attrs.frozen(eq=False)
class PausesChanged:
    """This node has learnt what is paused now; `paused` and `resumed` are what is new in that."""

    paused: tuple[Pause, ...]
    resumed: tuple[Pause, ...]


@attrs.frozen(eq=False)
class Undelivered:
    """A local message that nobody will handle: its actor ended before."""

    actor_id: str
    title: str
    message: object


@attrs.frozen(eq=False)
class ShutdownStage:
    """The shutdown has come to `stage`: intake, drain, cancel, shutdown or force."""

    stage: str
    reason: str


Event: TypeAlias = (
    NodeStarted
    | NodeStopped
    | LeaseLost
    | BrokerLost
    | BrokerBack
    | GroupRestored
    | Reclaimed
    | Released
    | Fenced
    | DeadLettered
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
    | Scaled
    | Settled
    | Overdue
    | LoopStalled
    | CircuitChanged
    | TriggerFired
    | TriggerTrouble
    | PausesChanged
    | Undelivered
    | ShutdownStage
)
