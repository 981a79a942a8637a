"""What a broker stores beside messages on their way, as values for people and tools.

    Delayed         a message that the broker holds back
    MessageInfo     all that is known of a tracked message; Progress how far its handler is
    TrackedMessage  the same in a list of messages, with what it contains
    DeadLetter      a message that failed for good
    Pause           an actor, source or trigger that is paused
    AuditEntry      what a user did to the system
    Trigger…        a trigger, as it is declared and as a broker stores it; Firing what came of an attempt to fire it
    Purgeable       how many messages of a source could be purged
    SeenIds         ids that a source has seen, as a copy takes them along

Everything here is frozen. Few nodes need one of these before their first message, and to create the classes is a
thirtieth of what a start costs beyond Trio's. So the modules that every start imports import this one for type checkers
alone, and otherwise in the functions that make such a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import attrs

from actorwork.message import NO_HEADERS, Failure, Json, Status
from actorwork.shown import Value


@attrs.frozen(eq=False, repr=False)
class Delayed(Value):
    """A message that the broker holds back; `due` is in seconds since the epoch, by the broker's clock."""

    source: str
    id: str
    due: float
    payload: bytes
    type: str | None = None
    headers: Mapping[str, Json] = NO_HEADERS


@attrs.frozen(eq=False, repr=False)
class Progress(Value):
    """How far a handler is: `done` of `total`, in units of its own.

    `state` is a word of its own for what it is doing, and `meta` whatever else it reports.
    """

    done: float = 0
    total: float | None = None
    note: str = ""
    state: str = "PROGRESS"
    meta: Mapping[str, Json] = NO_HEADERS


@attrs.frozen(kw_only=True, eq=False, repr=False)
class MessageInfo(Value):
    """What is known of the life of a tracked message; times in seconds since the epoch, by the broker's clock.

    `attempt` and `deliveries` count from 1, and are 0 until a node has been given the message: deliveries are those of
    the present attempt, more than one after crashes. `node` is the incarnation, and `actor` the title, that it was
    given to last. `received` and `started` are of the present attempt. `failure` is that of the last attempt, if it has
    failed, without its traceback while the message is to be tried again. `version` grows with every change.
    """

    id: str
    source: str = ""
    status: Status = Status.UNKNOWN
    attempt: int = 0
    deliveries: int = 0
    actor: str = ""
    node: str = ""
    sent: float | None = None
    received: float | None = None
    started: float | None = None
    ended: float | None = None
    progress: Progress | None = None
    failure: Failure | None = None
    reason: str = ""
    """Why it has ended without success, or is to be tried again; in words."""
    version: int = 0


MessageState: TypeAlias = Literal[
    "waiting", "delayed", "running", "succeeded", "failed", "rejected", "cancelled", "expired"
]
"""Where a tracked message is, for people: `waiting` also in the mailbox of a node, and between two attempts."""


_STATES: Final[Mapping[Status, MessageState]] = {
    Status.STARTED: "running",
    Status.SUCCESS: "succeeded",
    Status.FAILURE: "failed",
    Status.REJECTED: "rejected",
    Status.CANCELLED: "cancelled",
    Status.EXPIRED: "expired",
}


@attrs.frozen(kw_only=True, eq=False, repr=False)
class TrackedMessage(Value):
    """A tracked message in a list of them.

    `payload` (JSON), `type`, `key` and `headers` are known while the message is open, or a dead letter, and its key of
    uniqueness, `unique`, while it is open; otherwise they are None, or empty.
    """

    info: MessageInfo
    is_delayed: bool = False
    payload: bytes | None = None
    type: str | None = None
    key: str | None = None
    unique: str | None = None
    headers: Mapping[str, Json] = NO_HEADERS

    def __hash__(self) -> int:
        return hash((self.info.source, self.info.id, self.info.version))

    @property
    def state(self) -> MessageState:
        """Where it is."""
        return "delayed" if self.is_delayed else _STATES.get(self.info.status, "waiting")

    @property
    def duration(self) -> float | None:
        """For how many seconds its last attempt has run; None before its end."""
        info = self.info
        if info.started is None or info.ended is None:
            return None
        return max(0.0, info.ended - info.started)


@attrs.frozen(eq=False, repr=False)
class DeadLetter(Value):
    """A message that failed for good, with the reasons.

    `entry` identifies it within the dead letters of its `source`. `group` and `actor` are the id and the title
    of the actor that failed; `at` is in seconds since the epoch, by the broker's clock.
    """

    source: str
    entry: str
    id: str
    group: str
    actor: str
    failure: Failure
    attempt: int
    at: float
    payload: bytes | Mapping[bytes, bytes]
    type: str | None = None
    headers: Mapping[str, Json] = NO_HEADERS


PauseKind: TypeAlias = Literal["everything", "actor", "source", "triggers", "trigger", "node", "process"]


@attrs.frozen(eq=False, repr=False)
class Pause(Value):
    r"""What is paused at a broker, since when (`at`, in seconds since the epoch), by which user and why.

        everything    every actor, every source
        actor         all sources of the actor whose title is `name`
        source        the source `name`, for every actor
        triggers      all triggers of the actor whose title is `name`
        node          all actors on the nodes of the host `name`, or on the one whose name (host:pid) it is
        process       all actors in the `Process` whose title is `name`, in all of its replicas or in one
        trigger       one of them: `name` is the actor's title (its slashes as `\/`), a slash, and the trigger's title

    No node starts a paused message; deliveries in flight finish. Triggers fire into paused sources unless they are
    paused themselves.
    """

    kind: PauseKind
    name: str = ""
    reason: str = ""
    by: str = ""
    at: float = 0.0

    def __str__(self) -> str:
        return self.kind if self.kind == "everything" else f"{self.kind} {self.name!r}"


@attrs.frozen(kw_only=True, eq=False, repr=False)
class AuditEntry(Value):
    """One action of a user on a system; `at` is in seconds since the epoch, by the broker's clock.

    `who` did it, in which `role` (if roles are given) and from which address (`ip`, if it came over a network);
    `action` is a word such as "purge", `what` its object. `outcome` is "done", or why it failed; while it is "", the
    action is under way, or whether it took effect is not known. `how_many` objects it changed, if it counts them.
    """

    id: str
    at: float
    who: str
    action: str
    what: str
    role: str = ""
    reason: str = ""
    ip: str = ""
    outcome: str = ""
    how_many: int | None = None


@attrs.frozen(kw_only=True, eq=False, repr=False)
class TriggerDefinition(Value):
    """A trigger as an actor declares it, in the form in which a broker stores it.

    `schedule` is JSON, with the same text for equal schedules; `details` are further values to display. `data` and
    `type` are the message that the trigger sends to `source`.
    """

    source: str
    id: str
    actor: str
    title: str
    schedule: str
    data: bytes
    type: str | None = None
    details: Mapping[str, Json] = NO_HEADERS


@attrs.frozen(kw_only=True, eq=False, repr=False)
class TriggerChanges(Value):
    """What a user has changed of a trigger by hand: the parts that are not None, and those in `details`.

    `data` and `type` are its message, and change together. `by` made the last change, at a time in seconds since the
    epoch, by the broker's clock.
    """

    schedule: str | None = None
    data: bytes | None = None
    type: str | None = None
    details: Mapping[str, Json] = NO_HEADERS
    is_on: bool | None = None
    by: str = ""
    reason: str = ""
    at: float = 0.0

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of what is changed."""
        named = {"schedule": self.schedule, "message": self.data, "is_on": self.is_on}
        return (*(name for name, value in named.items() if value is not None), *self.details)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class TriggerRecord(Value):
    """A trigger as a broker stores it; times in milliseconds since the epoch.

    `definition` is what is in force, `registered` when it was first registered, `last` the last decided nominal time,
    `fired` how often it fired. `is_declared` is false once its actor has started without it. A user may have put it
    there (`is_put`), whether or not code declares it, or may have made `changes` to what the code declares, which then
    is in `code`. `revision` is another one after each of these, and 0 before the first.
    """

    definition: TriggerDefinition
    registered: int
    last: int
    fired: int = 0
    is_declared: bool = True
    is_put: bool = False
    changes: TriggerChanges | None = None
    code: TriggerDefinition | None = None
    revision: int = 0

    @property
    def is_on(self) -> bool:
        """Whether no user has turned it off."""
        return self.changes is None or self.changes.is_on is not False

    @property
    def stored(self) -> TriggerDefinition:
        """What the code declares; of a trigger that no code declares, what is in force."""
        return self.definition if self.code is None else self.code


@attrs.frozen(eq=False, repr=False)
class Firing(Value):
    """The result of an attempt to fire a trigger; `last` is the last decided nominal time now.

    fired         this attempt fired; `kept` of its messages are new
    decided       another node has decided meanwhile
    superseded    the trigger has another schedule by now
    changed       a user has changed it by hand since
    unknown       the broker has no such trigger
    """

    outcome: Literal["fired", "decided", "superseded", "changed", "unknown"]
    last: int = 0
    kept: int = 0


@attrs.frozen(eq=False, repr=False)
class Purgeable(Value):
    """How many messages of a source no node has been given.

    Some are `ready`, some `delayed` (retries that wait included), and some wait `behind` others with their key. `steps`
    of them are steps of runs.
    """

    ready: int
    delayed: int
    behind: int
    steps: int

    @property
    def total(self) -> int:
        return self.ready + self.delayed + self.behind


@attrs.frozen(eq=False, repr=False)
class SeenIds(Value):
    """Ids that a source has seen: `stem`-`number` (hexadecimal) for the numbers of all ranges, each of which is a first
    number and how many; without ranges, `stem` itself.
    """

    stem: str
    ranges: tuple[tuple[int, int], ...] = ()
