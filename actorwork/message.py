"""The values of the data path: what is sent, what is handled, and what a broker stores of it.

    Message     the optional base class of users' messages: it names the actor and the reply for type checkers
    Envelope    a message on its way: address, id, JSON, headers
    Delivery    one attempt to handle a message, as a broker passes it to an actor
    Priority    how urgent a message is
    Unique      which of several messages are one and the same
    Durability  what must have happened to a message before its sender goes on
    Status      where a message is in its life
    Failure     an error as text, so that it can travel and be stored
    Outcome     the result of a message, for a sender that asked for it

What a broker stores beside them, for people and tools, is in `records.py`.

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
RUN_SECRET: Final = "actorwork-run-secret"  # noqa: S105 - the name of a header
"""Header: what tells a run from others that have had its id, in the messages of its steps at the embedded broker."""
INPUTS: Final = "actorwork-inputs"
"""Header: the message is a step with many or long inputs; the node that reads it fetches them: home/run/step/proof."""
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
    """Where a message or a run is in its life. It only goes forward; PAUSED and HELD are states of open runs.

    RETRY says that a message waits for its next attempt, and that what has failed in a run is put back.
    """

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
