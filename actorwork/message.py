"""The words of the data path: what is sent, what is handled, and what is kept of it.

    Message     the optional base class of users' messages: it names the actor and the reply for type checkers
    Envelope    a message on its way: address, id, JSON, headers
    Delivery    one attempt to handle a message, as a broker hands it to an actor
    Priority    how urgent a message is
    Unique      which of several messages are one and the same
    Failure     an error as text, so that it can travel and be kept
    Outcome     what came of a message whose sender asked
    DeadLetter  a message nobody could handle, kept
    Pause       what is not to be begun
    Trigger…    what sends messages by itself: as it is declared, and as it is kept

Everything here is frozen. Headers carry what is not the message itself; those that begin with
`actorwork-` are the runtime's own, every other one belongs to the users.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Protocol, TypeAlias, TypeVar

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

A_contra = TypeVar("A_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

ATTEMPT: Final = "actorwork-attempt"
"""Header: which attempt this delivery is; absent means the first."""
HISTORY: Final = "actorwork-history"
"""Header: what the attempts so far failed of, oldest first."""
REPLY_TO: Final = "actorwork-reply-to"
"""Header: the address at which somebody waits for the outcome."""
TIME_POINT: Final = "actorwork-time-point"
"""Header: for which moment a trigger has sent it, as ISO 8601 in UTC."""
TRIGGER_ID: Final = "actorwork-trigger-id"
"""Header: the id of the trigger that has sent it."""
RESULT_TTL: Final = "actorwork-result-ttl"
"""Header: keep the outcome for so many seconds; absent means nobody asked for it."""

NO_HEADERS: Final[Mapping[str, Json]] = MappingProxyType({})


class Priority(enum.IntEnum):
    """How urgent a message is; the smaller goes first."""

    CRITICAL = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3


@attrs.frozen
class Unique:
    """Says that of all messages with the same `key` for the same source only one is to be alive.

    The key is taken while that message waits or is in hand, and for `ttl` seconds at most. What becomes of the next one
    meanwhile says `on_conflict`: "reject" raises `NotUnique`, "first" keeps none and stands for the first, "replace"
    takes the place of one that is not in anybody's hand yet (else it is as "first").
    """

    key: str
    ttl: float = 3600.0
    on_conflict: Literal["reject", "replace", "first"] = "reject"

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.key, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"Unique.key wants a text, got {self.key!r}")
        if isinstance(self.ttl, bool) or not isinstance(self.ttl, (int, float)) or not 0 < self.ttl <= 31_536_000:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"Unique.ttl wants seconds, more than 0 and at most 31536000 (a year), got {self.ttl!r}")
        if self.on_conflict not in ("reject", "replace", "first"):
            raise ValueError(f"Unique.on_conflict wants 'reject', 'replace' or 'first', got {self.on_conflict!r}")


class Message(Generic[A_contra, R_co]):
    """Base class of messages that say who takes them and what the reply is.

    `class Greet(Message["Greeter", str])` goes to `Greeter` and is answered by a `str`: a type checker
    then refuses it at any other actor's ref, and knows what `ask` returns. At run time it adds nothing.
    """

    __slots__ = ()

    if TYPE_CHECKING:
        # No type can say "anything but a Message". `Untyped` asks for the `__dir__` that every object has,
        # and a Message claims another one: so the checkers tell the two apart.
        def __dir__(self) -> _Addressed: ...  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride]


if TYPE_CHECKING:

    class _Addressed: ...


class Untyped(Protocol):
    """Any message that does not derive from `Message`: a JSON value, an attrs class, a dataclass."""

    def __dir__(self) -> Iterable[str]: ...


@attrs.frozen
class Envelope:
    """A message on its way, as a broker is given it.

    A broker keeps at most one of all envelopes with the same `source` and `id`. `delay` (seconds) or `at`
    (seconds since the epoch) hold it back, both by the broker's clock. With `group`, only that one of several
    actors that share the source is given it.

    Messages of one source with the same `key` are handled one after another, in the order in which they were kept (a
    delayed one: in which they became due): the next is not given to anybody before every group has settled the one
    before, retries included. What has a higher `priority` is given first. After `expires` (seconds since the epoch) or
    `lifetime` (seconds from when it is kept), by the broker's clock, it is not to be begun any more.
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


@attrs.frozen
class Delivery:
    """One attempt to handle a message.

    `payload` is the message's JSON or, where a foreign producer wrote an entry without our fields, those
    fields as they stand. `attempt` counts from 1. `crashes` is how often a process died with it in hand.
    `expires` is in seconds since the epoch, by the broker's clock. `token` is the broker's own handle: nobody else
    looks into it.
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


@attrs.frozen
class Delayed:
    """A message that its broker holds back; `due` is in seconds since the epoch, by the broker's clock."""

    source: str
    id: str
    due: float
    payload: bytes
    type: str | None = None
    headers: Mapping[str, Json] = NO_HEADERS


@attrs.frozen
class Failure:
    """An error as text: its type's name, its message, and the traceback."""

    type: str
    reason: str
    traceback: str = ""


@attrs.frozen
class Outcome:
    """What came of a message: `value` (JSON) when it was handled, else `failure`."""

    status: Literal["done", "failed", "rejected"]
    value: bytes = b"null"
    failure: Failure | None = None


@attrs.frozen
class DeadLetter:
    """A message nobody could handle, with the reasons.

    `entry` names it within the dead letters of its `source`. `group` and `actor` are the id and the title
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


PauseKind: TypeAlias = Literal["everything", "actor", "source", "triggers", "trigger"]


@attrs.frozen
class Pause:
    r"""What is paused at a broker, since when (`at`, in seconds since the epoch), by whom and why.

        everything    every actor, every source
        actor         all sources of the actor whose title is `name`
        source        the source `name`, for every actor
        triggers      all triggers of the actor whose title is `name`
        trigger       one of them: `name` is the actor's title (its slashes as `\/`), a slash, and the trigger's title

    What is paused is not begun by any node; what is in hand goes on to its end. Triggers fire into what is paused
    unless they are paused themselves.
    """

    kind: PauseKind
    name: str = ""
    reason: str = ""
    by: str = ""
    at: float = 0.0

    def __str__(self) -> str:
        return self.kind if self.kind == "everything" else f"{self.kind} {self.name!r}"


@attrs.frozen(kw_only=True)
class TriggerDefinition:
    """A trigger as an actor declares it, in the form in which a broker keeps it.

    `schedule` is JSON, and the same text for the same schedule; `details` is what else there is to show. `data` and
    `type` are the message that it sends to `source`.
    """

    source: str
    id: str
    actor: str
    title: str
    schedule: str
    data: bytes
    type: str | None = None
    details: Mapping[str, Json] = NO_HEADERS


@attrs.frozen(kw_only=True)
class TriggerRecord:
    """A trigger at its broker; times in milliseconds since the epoch.

    `registered` is when it was first, `last` the latest nominal time about which it was decided whether it fires,
    `fired` how often it did. `is_declared` is false once its actor has started without it.
    """

    definition: TriggerDefinition
    registered: int
    last: int
    fired: int = 0
    is_declared: bool = True


class MessageIds:
    """Makes the ids of one sender's messages: `<publisher>-<number>`, the number in hexadecimal.

    The publisher is 16 hexadecimal characters, drawn anew by every process. A broker may recognise the form
    and keep one bit for each number instead of one key for each id.
    """

    __slots__ = ("_next", "publisher")

    def __init__(self, publisher: str) -> None:
        self.publisher = publisher
        self._next = 0

    def __next__(self) -> str:
        number = self._next
        self._next = number + 1
        return f"{self.publisher}-{number:x}"
