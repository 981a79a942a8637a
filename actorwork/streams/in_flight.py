"""The entries of one stream that are in flight at one node, for one group.

    read, claimed ──▶ deliveries ──settle──▶ plain / others ──flush──▶ gone
                         └─────release_deliveries──────────────────────▶ gone

An entry is in flight from the reply that brought it until the reply that confirms its settlement. So an entry that the
pending list has under our name, and that is not in flight here, is known to be lost; `Reclaimer.recover` looks for such
entries after a connection broke.

The object belongs to one incarnation. When the lease is lost it is over: its entries belong to other nodes, and the
next incarnation begins with an empty one. The token of a delivery refers to the object it was taken in, so a late
settlement reaches the object that is over, and is refused, instead of the one that replaced it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import attrs

from actorwork.abc import Subscription
from actorwork.message import Delivery, Envelope, Priority
from actorwork.policy.settlement import Ack, Fail, Reject, Settlement
from actorwork.shown import Shown, Value
from actorwork.streams import entries
from actorwork.streams.isolation import Isolation
from actorwork.streams.keys import SourceKeys
from actorwork.streams.transport.redis_py import InvalidResponse

if TYPE_CHECKING:
    from actorwork.policy.entities import StateChange
    from actorwork.streams.lives import Life


_SHORT_TOO_OFTEN: Final = 3


@attrs.frozen(eq=False, repr=False)
class PublishOnly(Value):
    """Publish for a delivery that stays in flight; `report` gets whether it was still ours, or the error.

    With a `change` the state of its key is changed in the same step.
    """

    report: Callable[[bool | Exception], None]
    change: StateChange | None = None


@attrs.frozen(eq=False, repr=False)
class Together(Shown):
    """The settlements of deliveries that were handled together, of any streams: applied together, or not at all."""

    settled: Sequence[tuple[Delivery, Settlement]]


Item: TypeAlias = "tuple[Delivery, Settlement | PublishOnly | Together, Sequence[Envelope]]"
"""`Together` is queued with the first of its deliveries."""


@attrs.define(eq=False, repr=False)
class Counters(Shown):
    """What a node has done since it began."""

    read: int = 0
    settled: int = 0
    fenced: int = 0
    reclaimed: int = 0
    released: int = 0
    dead_lettered: int = 0


def _settled() -> None:
    pass


@attrs.define(eq=False, repr=False)
class Lag(Shown):
    """How far the server is behind with the settlements of a stream that are more than plain acks."""

    settling: int = 0
    """How many it has now; more are queued."""
    is_refused: bool = False
    """What is queued may wait for long: the server refuses some of it, for a reason that may pass."""
    on_settled: Callable[[], None] = _settled
    """Called when the server has answered to a batch of settlements."""


class InFlightEntries:
    """The deliveries of one source that one incarnation has for one subscription."""

    __slots__ = (
        "begun",
        "cursor",
        "deliveries",
        "done",
        "incarnation",
        "is_flushing",
        "is_over",
        "isolation",
        "keys",
        "lag",
        "level",
        "lives",
        "maintain_within",
        "number",
        "on_unreadable",
        "others",
        "plain",
        "short",
        "stream",
        "subscription",
    )

    def __init__(
        self,
        subscription: Subscription,
        keys: SourceKeys,
        level: Priority,
        incarnation: str,
        maintain_within: Callable[[float], None],
        on_unreadable: Callable[[Delivery, Fail | Reject], None],
        isolation: Isolation,
    ) -> None:
        self.subscription = subscription
        self.level = level
        self.stream = keys.at(level)
        self.keys = keys
        self.incarnation = incarnation
        self.maintain_within = maintain_within
        """Requests maintenance of the source within a number of seconds."""
        self.on_unreadable = on_unreadable
        """Called for a delivery that ends before an actor has seen it."""
        self.isolation = isolation
        self.deliveries: dict[bytes, Delivery] = {}
        self.lives: dict[bytes, Life] = {}
        """Of those deliveries that are tracked, by their entries."""
        self.cursor: bytes = b"0"
        """Where the search for keys without a message continues (`heal` in lua/maintain.lua)."""
        self.short = 0
        """How often in a row the pending list had more entries under our name than are in flight here."""
        self.plain: list[Delivery] = []
        self.others: list[Item] = []
        self.lag = Lag()
        self.begun = 0
        self.done = 0
        self.number = 0
        self.is_flushing = False
        self.is_over = False

    def __repr__(self) -> str:
        state = "over" if self.is_over else f"{len(self.deliveries)} in flight"
        return f"<InFlightEntries of {self.stream} for {self.subscription.actor}, {state}>"

    @property
    def group(self) -> str:
        return self.subscription.group

    @property
    def source(self) -> str:
        """The source whose keys these are: one of the shards, if it is divided."""
        return self.keys.stream

    @property
    def name(self) -> str:
        """The source as users know it."""
        return self.keys.name

    @property
    def backlog(self) -> int:
        """How many settlements that are more than plain acks wait for the server, as long as it applies them."""
        return 0 if self.lag.is_refused else len(self.others) + self.lag.settling

    def take(self, found: Sequence[Any], *, count: int = 1, crashes: int = 0) -> list[Delivery]:
        """Record entries as in flight, and return their deliveries. Entries that no actor will see are settled here.

        An entry that is in flight already is skipped: a group that was created again delivers everything once more,
        under the same count, and the first delivery settles both.

        Raises `InvalidResponse` for what are no entries; those before it are not in flight then, but pending.
        """
        deliveries: list[Delivery] = []
        try:
            self._take(found, count, crashes, deliveries)
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            for delivery in deliveries:
                self.deliveries.pop(delivery.token[0], None)
            raise InvalidResponse(f"a read of {self.stream} brought what are no entries: {error!r}") from error
        return deliveries

    def _take(self, found: Sequence[Any], count: int, crashes: int, deliveries: list[Delivery]) -> None:
        in_flight = self.deliveries
        source, group = self.name, self.group
        decode = self.subscription.decode.get(source)
        for entry, fields in found:
            if count == 1 and entry in in_flight and in_flight[entry].token[1] == 1:
                continue
            made = entries.delivery_from(source, group, entry, fields, (entry, count, self), crashes)
            if isinstance(made, Delivery):
                if decode is not None and type(made.payload) is not bytes:
                    read = decode(made)
                    if not isinstance(read, Delivery):
                        self._end_unread(entry, made, read)
                        continue
                    made = read
                in_flight[entry] = made
                deliveries.append(made)
            elif made is None:
                self._pass_over(entry, count, fields)
            else:
                delivery, failure = made
                self._end_unread(entry, delivery, Fail(failure))

    def _end_unread(self, entry: bytes, delivery: Delivery, settlement: Fail | Reject) -> None:
        """Settle an entry that cannot be read."""
        self.deliveries[entry] = delivery
        self.others.append((delivery, settlement, ()))
        self.begun += 1
        self.on_unreadable(delivery, settlement)

    def _pass_over(self, entry: bytes, count: int, fields: entries.Fields) -> None:
        """Settle an entry that is meant for another group."""
        message_id, held_keys = entries.held_keys_in(fields)
        silent = Delivery(message_id or entry.decode(), self.name, b"", (entry, count, self, *held_keys))
        self.deliveries[entry] = silent
        if held_keys:
            self.others.append((silent, Ack(), ()))  # If this group is the last to settle it, its key must be freed.
        else:
            self.plain.append(silent)
        self.begun += 1

    def is_short(self, pending: int) -> bool:
        """Return whether a reply was lost: more entries are pending under our name than in flight, several times in a
        row. Once, a reply may be on its way.
        """
        self.short = self.short + 1 if pending > len(self.deliveries) else 0
        if self.short < _SHORT_TOO_OFTEN:
            return False
        self.short = 0
        return True

    def end(self) -> tuple[list[Delivery], list[Item]]:
        """End with the incarnation; return the settlements that are still queued."""
        self.is_over = True
        plain, others = self.plain, self.others
        self.plain, self.others = [], []
        self.deliveries.clear()
        self.lives.clear()
        return plain, others

    def release_all(self, deliveries: Sequence[Delivery]) -> None:
        """Remove deliveries that were settled, as `release` does with each."""
        held, lives = self.deliveries, self.lives
        for delivery in deliveries:
            entry, count = delivery.token[:2]
            one = held.get(entry)
            if one is delivery or (one is not None and one.token[1] == count):
                del held[entry]
                if lives:
                    lives.pop(entry, None)
        if self.isolation.is_watching:
            self.isolation.ended(self)

    def release(self, delivery: Delivery) -> None:
        """Remove a delivery that was settled or released.

        The server knows a delivery by its entry and its count. After a release, which takes the count back, the same
        entry may come here again under the same count: then either of the two stands for what is in flight.
        """
        entry, count = delivery.token[:2]
        held = self.deliveries.get(entry)
        if held is not None and held.token[1] == count:
            del self.deliveries[entry]
            if self.lives:
                self.lives.pop(entry, None)
            if self.isolation.is_watching:
                self.isolation.ended(self)
