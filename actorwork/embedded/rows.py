"""What the store's rows hold, and how messages get in and out of them.

    EnvelopeRow     an envelope in the columns of a table; what few envelopes have is in its `optional`
    Token           what settles a delivery
    GroupChannel    one channel of a source as one group of one node reads it
    Taken           what was read from a channel
    SettleOrder     a settlement on its way to the store

A source has one channel for each priority, and each is read by itself. In the tables `entries`, `delayed`, `behind`
and `groups` the column `source` holds the number of a channel; that of normal messages is the number of the source.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import attrs

from actorwork.embedded.schema import LEVEL
from actorwork.message import (
    ATTEMPT,
    NO_HEADERS,
    RESULT_TTL,
    Delivery,
    Envelope,
    Failure,
    Outcome,
    Priority,
    Unique,
    is_result_wanted,
    is_tracked,
)
from actorwork.policy.crashes import alone_from, limit_of
from actorwork.policy.settlement import Ack, Reject, Settlement
from actorwork.settings import DeadLetterSettings

if TYPE_CHECKING:
    from actorwork.records import Progress

CARRIED: Final = "source, id, type, data, headers, born, addressee, key, expires, uniq"
"""The columns that a message keeps when it moves from table to table."""

_optional_of: Final[Callable[[Envelope], tuple[Any, ...]]] = attrgetter(
    "key", "priority", "expires", "lifetime", "unique"
)
# Most envelopes have none of these, and one comparison finds that out.
_NO_OPTIONS: Final = (None, Priority.NORMAL, None, None, None)

_RANKS: Final = {Priority.NORMAL: 0, Priority.CRITICAL: 1, Priority.HIGH: 2, Priority.LOW: 3}
"""Normal messages come first: their channels are the ones that a file of the first version has."""


def channel_number(source: int, priority: Priority) -> int:
    return source + LEVEL * _RANKS[priority]


def channel_numbers(source: int) -> tuple[int, ...]:
    """Return all channels of a source."""
    return tuple(source + LEVEL * rank for rank in _RANKS.values())


def source_of(channel: int) -> int:
    return channel % LEVEL


class Token(NamedTuple):
    """What settles a delivery: the entry, the group, the node that owns it, and its delivery count."""

    seq: int
    grp: int
    node: int
    given: int
    bound: bool = False
    """Whether its end frees a key or a unique key."""
    ready: float = 0.0
    """When the entry became ready, in seconds since the epoch; 0 if it was given to a node before."""

    @property
    def owned(self) -> tuple[int, int, int, int]:
        """The row of `pending` that exists as long as the delivery is still ours."""
        return self[:4]


class OptionalFields(NamedTuple):
    """What few envelopes have."""

    key: str | None
    priority: Priority
    expires: float | None
    lifetime: float | None
    unique: Unique | None

    def ends(self, now: float) -> float | None:
        if self.lifetime is None:
            return self.expires
        end = now + self.lifetime
        return end if self.expires is None else min(end, self.expires)


class EnvelopeRow(NamedTuple):
    """An envelope in the columns of a table; `due` is in seconds since the epoch, `delay` is from now."""

    source: str
    id: str
    type: str | None
    data: bytes
    headers: str | None
    addressee: str | None
    delay: float
    due: float | None
    optional: OptionalFields | None = None
    keep: float | None = None
    """For how many seconds after its end it is known what became of it, if it is tracked."""


ReplyAddress: TypeAlias = "tuple[str, str, str, Outcome]"
"""A reply to be sent: address, source, message id, outcome."""


@attrs.define(eq=False)
class GroupChannel:
    """One channel of a source as one group of one node reads it. `ready`: there may be something to read."""

    name: str
    group: str
    actor: str
    max_crashes: int
    priority: Priority = Priority.NORMAL
    number: int = 0
    grp: int = 0
    ready: bool = True
    is_paused: bool = False
    """Whether nothing may be read from it, ready or not."""
    suspects: bool = False
    """Whether messages wait that may only be run with nothing beside them."""
    aside: dict[int, float] = attrs.field(factory=dict[int, float])
    """Entries that are left to other nodes, and until when, by the monotonic clock."""
    bounds: DeadLetterSettings = attrs.field(factory=DeadLetterSettings)
    is_told_failures: bool = False

    @property
    def dead_from(self) -> int:
        """The crash count from which on a message is a dead letter."""
        return limit_of(self.max_crashes)

    @property
    def alone_from(self) -> int:
        """The crash count from which on a message is a suspect, and runs with nothing beside it."""
        return alone_from(self.max_crashes)

    @property
    def readable(self) -> bool:
        return self.ready and not self.is_paused


@attrs.define(eq=False)
class Taken:
    """What was read from one channel."""

    grp: int
    """The group that it was read for: another one than before if that had been deleted, and was made again."""
    deliveries: list[Delivery] = attrs.field(factory=list[Delivery])
    reclaimed: list[tuple[int, int]] = attrs.field(factory=list[tuple[int, int]])
    """For each previous owner its number (0: it released them), and how many it had."""
    tracked: list[Delivery] = attrs.field(factory=list[Delivery])
    """Those of the deliveries whose lives are kept."""
    dead_lettered: list[tuple[str, int]] = attrs.field(factory=list[tuple[str, int]])
    restored: bool = False
    emptied: bool = False
    held: bool = False

    def add(self, delivery: Delivery) -> None:
        """Add a delivery that may be tracked."""
        self.deliveries.append(delivery)
        if is_tracked(delivery.headers):
            self.tracked.append(delivery)


@attrs.frozen(eq=False)
class SettleOrder:
    """A settlement on its way to the store."""

    delivery: Delivery
    group: str
    actor: str
    settlement: Settlement
    published: Sequence[EnvelopeRow]
    owner: Any = None
    plain: bool = False
    """Whether it does nothing but end the delivery: one statement ends many of these."""
    bounds: DeadLetterSettings = attrs.field(factory=DeadLetterSettings)
    started: float | None = None
    """When the handler of a tracked delivery began, if that is not noted yet."""
    progress: Progress | None = None
    is_told_failures: bool = False
    found: int | None = None
    """The version that the state of its key has, where that is not the one that the settlement names."""
    together: Sequence[SettleOrder] = ()
    """The settlements of the other deliveries of a batch: applied before this one, or none of them."""

    @property
    def all(self) -> Sequence[SettleOrder]:
        return (*self.together, self)


def row_of(envelope: Envelope) -> EnvelopeRow:
    """Put an envelope into columns. Raises TypeError or ValueError for headers that are no JSON."""
    headers = envelope.headers
    keep = headers.get(RESULT_TTL) if headers else None
    return EnvelopeRow(
        envelope.source,
        envelope.id,
        envelope.type,
        envelope.data,
        json.dumps(dict(headers)) if headers else None,
        envelope.group,
        envelope.delay,
        envelope.at,
        None
        if _optional_of(envelope) == _NO_OPTIONS
        else OptionalFields(*_optional_of(envelope))._replace(key=envelope.key or None),
        keep if isinstance(keep, (int, float)) else None,
    )


def is_plain(delivery: Delivery, settlement: Settlement, published: Sequence[object]) -> bool:
    if published or not isinstance(settlement, (Ack, Reject)) or delivery.token.bound:
        return False
    if type(settlement) is Ack and (settlement.starts or settlement.continues is not None):
        return False
    return not delivery.headers or not is_result_wanted(delivery.headers)


def delivery_from(
    channel: GroupChannel,
    id: str,
    type: str | None,
    data: bytes,
    headers: str | None,
    token: Token,
    key: str | None,
    expires: float | None,
) -> Delivery:
    name, priority, crashes = channel.name, channel.priority, token.given - 1
    if headers is None:
        return Delivery(id, name, data, token, type, NO_HEADERS, 1, crashes, key, priority, expires)
    read = headers_from(headers)
    number = read.get(ATTEMPT)
    attempt = number if isinstance(number, int) else 1
    return Delivery(id, name, data, token, type, read, attempt, crashes, key, priority, expires)


def headers_from(text: str | None) -> Any:
    return NO_HEADERS if text is None else json.loads(text)


def failure_from(text: str) -> Failure:
    return Failure(**json.loads(text))


def outcome_from(status: Any, value: bytes, failure: str | None) -> Outcome:
    return Outcome(status, value, None if failure is None else failure_from(failure))


def outcome_columns(outcome: Outcome) -> tuple[str, bytes, str | None]:
    failure = outcome.failure
    return outcome.status, outcome.value, None if failure is None else json.dumps(attrs.asdict(failure))


def in_chunks(rows: Sequence[EnvelopeRow], size: int) -> Iterator[Sequence[EnvelopeRow]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
