"""The values of the data path: what is sent, what is handled, and what a broker stores of it.

    Message     the optional base class of users' messages: it names the actor and the reply for type checkers
    Envelope    a message on its way: address, id, JSON, headers
    Delivery    one attempt to handle a message, as a broker passes it to an actor
    Priority    how urgent a message is
    Unique      which of several messages are one and the same
    Durability  what must have happened to a message before its sender goes on
    Status      where a message is in its life; MessageInfo is all that is known of it, Progress how far its handler is
    Failure     an error as text, so that it can travel and be stored
    Outcome     the result of a message, for a sender that asked for it
    DeadLetter  a message that failed for good, stored
    Pause       an actor, source or trigger that is paused
    Trigger…    a trigger, as it is declared and as a broker stores it

Everything here is frozen. Headers carry what is not part of the message itself; those that begin with `actorwork-`
belong to the runtime, all others to the user.
"""

from __future__ import annotations

import enum
import itertools
import os
import sys
import weakref
from collections.abc import Mapping
from types import MappingProxyType
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Generic,
    Literal,
    Protocol,
    TypeAlias,
    TypeVar,
    cast,
    get_args,
    get_origin,
)

import attrs

from actorwork.durations import as_seconds
from actorwork.shown import Value

if TYPE_CHECKING:
    from collections.abc import Iterable

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

A_contra = TypeVar("A_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

ATTEMPT: Final = "actorwork-attempt"
"""Header: the number of this attempt; absent means the first."""
HISTORY: Final = "actorwork-history"
"""Header: the errors of the attempts so far, oldest first."""
REPLY_TO: Final = "actorwork-reply-to"
"""Header: the address at which the sender waits for the outcome."""
TIME_POINT: Final = "actorwork-time-point"
"""Header: the nominal time for which a trigger sent the message, as ISO 8601 in UTC."""
TRIGGER_ID: Final = "actorwork-trigger-id"
"""Header: the id of the trigger that sent the message."""
RESULT_TTL: Final = "actorwork-result-ttl"
"""Header: how many seconds to keep the outcome; absent means that the sender did not ask for it."""
FAILED: Final = "actorwork-failed"
"""Header: the failure by which the message has become a dead letter; the delivery is for the actor's hook `failed`."""
FLOW: Final = "actorwork-flow"
"""Header: the step of a run that the message is, as `home/run/number`: the settlement ends the step as well."""
PREVIOUS_SPAN: Final = "actorwork-previous-span"
"""Header: the span of the attempt before this one, as a W3C `traceparent`, if that attempt was traced."""
CHAIN: Final = "actorwork-chain"
"""Header: the sources and keys of the messages whose handlers wait for the reply to this one, as `source/key`."""
GROUP: Final = "actorwork-group"
"""Header: the step is a member of a group, to which its handler may add others; the type of their results, as text."""

NO_HEADERS: Final[Mapping[str, Json]] = MappingProxyType({})


class Priority(enum.IntEnum):
    """How urgent a message is; the smaller goes first."""

    CRITICAL = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3


@attrs.frozen(eq=False, repr=False)
class Unique(Value):
    """Of all messages with the same `key` for the same source, at most one is alive.

    The key is taken while that message waits or is in flight, for at most `ttl` seconds. `on_conflict` decides what
    happens to another message meanwhile: "reject" raises `NotUnique`; "first" drops it, and its sender gets the id of
    the first; "replace" replaces the first unless that is in flight already (then it is as "first").
    """

    key: str
    ttl: float = attrs.field(default=3600.0, converter=as_seconds)
    on_conflict: Literal["reject", "replace", "first"] = "reject"

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.key, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"Unique.key wants a str, got {self.key!r}")
        if not self.key:
            raise ValueError("Unique.key wants at least one character, got ''")
        if isinstance(self.ttl, bool) or not isinstance(self.ttl, (int, float)) or not 0 < self.ttl <= 31_536_000:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"Unique.ttl wants seconds, more than 0 and at most 31536000 (a year), got {self.ttl!r}")
        if self.on_conflict not in ("reject", "replace", "first"):
            raise ValueError(f"Unique.on_conflict wants 'reject', 'replace' or 'first', got {self.on_conflict!r}")


@attrs.frozen(eq=False, repr=False)
class Durability(Value):
    """What must have happened to a message before its sender goes on.

    `"replicated"`: `replicas` servers beside the primary have received it (WAIT). `"fsynced"`: the primary has it on
    its disk, and so have `replicas` others (WAITAOF, of Redis 7.2 and Valkey 8). If that takes longer than `within`
    seconds, the sender gets `Unconfirmed`.
    """

    kind: Literal["replicated", "fsynced"]
    replicas: int = attrs.field(default=attrs.Factory(lambda self: _usual_replicas(self.kind), takes_self=True))
    within: float = attrs.field(default=1.0, kw_only=True, converter=as_seconds)

    def __attrs_post_init__(self) -> None:
        if self.kind not in ("replicated", "fsynced"):
            raise ValueError(f"durability wants 'replicated', 'fsynced' or a Durability(…), got {self.kind!r}")
        least = _usual_replicas(self.kind)
        if isinstance(self.replicas, bool) or not isinstance(self.replicas, int) or not least <= self.replicas <= 100:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"Durability.replicas wants a whole number from {least} to 100, got {self.replicas!r}")
        if not isinstance(self.within, (int, float)) or not 0.001 <= self.within <= 5:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"Durability.within wants seconds from 0.001 to 5, got {self.within!r}")


def _usual_replicas(kind: object) -> int:
    return 1 if kind == "replicated" else 0


def as_durability(value: object) -> Durability | None:
    """Return a durability that may be given by its kind alone; raises `ValueError`."""
    if value is None or isinstance(value, Durability):
        return value
    if not isinstance(value, str):
        raise ValueError(f"durability wants 'replicated', 'fsynced' or a Durability(…), got {value!r}")  # noqa: TRY004 - as for other texts
    return Durability(cast("Any", value))


class Message(Generic[A_contra, R_co]):
    """Base class of messages that declare their actor and the type of the reply.

    `class Greet(Message["Greeter", str])` is sent to `Greeter`, which replies with a `str`: a type checker then refuses
    it for any other actor's ref, and knows what `ask` returns. When the class of an actor is made, its handlers are
    compared with it. A Pydantic model names `BaseModel` before it.
    """

    __slots__ = ()

    if TYPE_CHECKING:
        # No type can express "anything but a Message". `Untyped` requires the `__dir__` that every object has, and
        # Message declares a different one: so type checkers can distinguish the two.
        def __dir__(self) -> _Addressed: ...  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride]


if TYPE_CHECKING:

    class _Addressed: ...


def declared_reply(cls: type) -> Any:
    """Return the reply that a `Message[Actor, Reply]` declares, or `Any`."""
    for base in cls.__mro__:
        for declared in vars(base).get("__orig_bases__", ()):
            if get_origin(declared) is Message:
                found = get_args(declared)[1]
                name = getattr(found, "__forward_arg__", None)
                return found if name is None else getattr(sys.modules.get(base.__module__), name, Any)
    return Any


class Untyped(Protocol):
    """Any message that does not derive from `Message`: a JSON value, an attrs class, a dataclass, a model."""

    def __dir__(self) -> Iterable[str]: ...


@attrs.frozen(eq=False, repr=False)
class Envelope(Value):
    """A message on its way to a broker.

    A broker stores at most one of all envelopes with the same `source` and `id`. `delay` (seconds) or `at` (seconds
    since the epoch) hold it back, both by the broker's clock. With `group`, only that one of several actors that share
    the source receives it.

    Messages of one source with the same `key` are handled one after another, in the order in which they were stored
    (delayed ones: in which they became due): the next is not delivered before every group has settled the one before,
    retries included. A higher `priority` is delivered first. After `expires` (seconds since the epoch) or `lifetime`
    (seconds after it is stored), by the broker's clock, the message is no longer started. With a `durability`, the
    broker reports it as stored only once it has been confirmed; a message in a settlement has none of its own.
    """

    source: str
    id: str
    data: bytes
    type: str | None = None
    headers: Mapping[str, Json] = NO_HEADERS
    delay: float = 0.0
    at: float | None = None
    group: str | None = None
    key: str | None = None
    priority: Priority = Priority.NORMAL
    expires: float | None = None
    lifetime: float | None = None
    unique: Unique | None = None
    durability: Durability | None = None


@attrs.frozen(eq=False, repr=False)
class Delivery(Value):
    """One attempt to handle a message.

    `payload` is the message's JSON or, if a foreign producer wrote the entry, its fields unchanged. `attempt` counts
    from 1. `crashes` is how often a process died while the message was in flight. `expires` is in seconds since the
    epoch, by the broker's clock. `token` is the broker's own handle and opaque to all other code.
    """

    id: str
    source: str
    payload: bytes | Mapping[bytes, bytes]
    token: Any = attrs.field(repr=False)
    type: str | None = None
    headers: Mapping[str, Json] = NO_HEADERS
    attempt: int = 1
    crashes: int = 0
    key: str | None = None
    priority: Priority = Priority.NORMAL
    expires: float | None = None


class Status(enum.StrEnum):
    """Where a message or a run is in its life. It only goes forward; PAUSED and HELD are states of open runs."""

    UNKNOWN = "UNKNOWN"
    PENDING = "PENDING"
    RECEIVED = "RECEIVED"
    STARTED = "STARTED"
    RETRY = "RETRY"
    PAUSED = "PAUSED"
    HELD = "HELD"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    REJECTED = "REJECTED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"

    @property
    def is_final(self) -> bool:
        return self in _FINAL


_FINAL: Final = frozenset({Status.SUCCESS, Status.FAILURE, Status.REJECTED, Status.CANCELLED, Status.EXPIRED})


MARKS: Final = frozenset({FAILED, REPLY_TO, RESULT_TTL, FLOW})
"""The headers by which a message is more than itself: `MARKS.isdisjoint(headers)` answers three questions at once."""


def is_tracked(headers: Mapping[str, Json]) -> bool:
    """Whether the broker keeps the life of a message: it was submitted, or is a step of a run."""
    return RESULT_TTL in headers or FLOW in headers


def is_result_wanted(headers: Mapping[str, Json]) -> bool:
    """Whether the result of a message is wanted: as a reply, stored at the broker, or by the steps after it."""
    return REPLY_TO in headers or RESULT_TTL in headers or FLOW in headers


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
class Failure(Value):
    """An error as text: its type's name, its message, and the traceback."""

    type: str
    reason: str
    traceback: str = ""


@attrs.frozen(eq=False, repr=False)
class Outcome(Value):
    """The result of a message: `value` (JSON) if it was handled, otherwise `failure`."""

    status: Literal["done", "failed", "rejected"]
    value: bytes = b"null"
    failure: Failure | None = None


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


class MessageIds:
    """Makes the ids of one sender's messages: `<publisher>-<number>`, the number in hexadecimal.

    The publisher is 16 random hexadecimal characters for each process. A broker may recognise this form and store one
    bit for each number instead of one key for each id. A fork of the process goes on under a publisher of its own.
    """

    __slots__ = ("__weakref__", "_numbers", "publisher")

    def __init__(self, publisher: str) -> None:
        self.publisher = publisher
        # Threads of a sync client share it, and `next` of a count is one step to them.
        self._numbers = itertools.count()
        _MADE.add(self)

    def __next__(self) -> str:
        return f"{self.publisher}-{next(self._numbers):x}"

    def begin_anew(self) -> None:
        """Take another publisher: the numbers of this one are another process's."""
        self.publisher = os.urandom(8).hex()
        self._numbers = itertools.count()


_MADE: Final[weakref.WeakSet[MessageIds]] = weakref.WeakSet()


def _begin_anew_in_child() -> None:
    # Both would give the same ids to different messages, and the broker keeps one message for each id.
    for ids in list(_MADE):
        ids.begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew_in_child)
