"""What one node holds of one stream of a source for one group.

    read, claimed ──▶ in_hand ──settle──▶ plain / others ──flush──▶ gone
                         └─────release_deliveries───────────────────▶ gone

An entry is in hand from the reply that brought it until the reply that says it is settled, so that whatever the pending
list has under our name and is not in hand is known to be lost (`Reader` looks for it after a broken connection).

A custody belongs to one incarnation. When the lease is lost it is over, whatever was in it belongs to others, and the
next incarnation begins with an empty one. Each delivery's token leads back to its custody, so a late settlement
finds the one that is over and not the one that took its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import attrs

from actorwork.abc import Subscription
from actorwork.message import Delivery, Envelope, Priority
from actorwork.policy.settlement import Ack, Fail, Settlement
from actorwork.streams import entries
from actorwork.streams.keys import SourceKeys


@attrs.frozen
class PublishOnly:
    """Publish for a delivery that goes on; `tell` is told whether it was still ours, or what went wrong."""

    tell: Callable[[bool | Exception], None]


Item: TypeAlias = "tuple[Delivery, Settlement | PublishOnly, Sequence[Envelope]]"


@attrs.define(eq=False)
class Counters:
    """What a node has done so far."""

    read: int = 0
    settled: int = 0
    fenced: int = 0
    reclaimed: int = 0
    released: int = 0
    dead_lettered: int = 0


class InFlightEntries:
    """The deliveries of one source that one incarnation has for one subscription."""

    __slots__ = (
        "begun",
        "cursor",
        "done",
        "group",
        "in_hand",
        "incarnation",
        "is_flushing",
        "is_over",
        "keys",
        "level",
        "maintain_within",
        "number",
        "others",
        "plain",
        "short",
        "source",
        "stream",
        "subscription",
        "suspect",
        "tell_unreadable",
    )

    def __init__(
        self,
        subscription: Subscription,
        keys: SourceKeys,
        level: Priority,
        incarnation: str,
        maintain_within: Callable[[float], None],
        tell_unreadable: Callable[[Delivery, Fail], None],
    ) -> None:
        self.subscription = subscription
        self.group = subscription.group
        self.source = keys.stream
        self.level = level
        self.stream = keys.at(level)
        self.keys = keys
        self.incarnation = incarnation
        self.maintain_within = maintain_within
        """Has the source looked after within so many seconds."""
        self.tell_unreadable = tell_unreadable
        """Told of what becomes a dead letter before an actor has seen it."""
        self.in_hand: dict[bytes, Delivery] = {}
        self.suspect: bytes | None = None
        """The one message in hand that was there at several crashes."""
        self.cursor: bytes = b"0"
        """Where to go on looking for keys whose message is gone."""
        self.short = 0
        """How many times in a row the pending list had more under our name than is in hand."""
        self.plain: list[Delivery] = []
        self.others: list[Item] = []
        self.begun = 0
        self.done = 0
        self.number = 0
        self.is_flushing = False
        self.is_over = False

    def __repr__(self) -> str:
        state = "over" if self.is_over else f"{len(self.in_hand)} in hand"
        return f"<Custody of {self.stream} for {self.subscription.actor}, {state}>"

    def take(self, found: Sequence[Any], *, count: int = 1, crashes: int = 0) -> list[Delivery]:
        """Take entries in hand, and return the deliveries; what no actor will see is settled here.

        An entry that is in hand already is left out: a group that was made anew hands out everything once more,
        under the same count, and the first delivery settles both.
        """
        deliveries: list[Delivery] = []
        in_hand = self.in_hand
        source, group = self.source, self.group
        for entry, fields in found:
            if count == 1 and entry in in_hand and in_hand[entry].token[1] == 1:
                continue
            made = entries.delivery_from(source, group, entry, fields, (entry, count, self), crashes)
            if isinstance(made, Delivery):
                in_hand[entry] = made
                deliveries.append(made)
            elif made is None:
                self._pass_over(entry, count, fields)
            else:
                delivery, failure = made
                fail = Fail(failure)
                in_hand[entry] = delivery
                self.others.append((delivery, fail, ()))
                self.begun += 1
                self.tell_unreadable(delivery, fail)
        return deliveries

    def _pass_over(self, entry: bytes, count: int, fields: entries.Fields) -> None:
        """Settle what is meant for another group."""
        message_id, claims = entries.claims_in(fields)
        silent = Delivery(message_id or entry.decode(), self.source, b"", (entry, count, self, *claims))
        self.in_hand[entry] = silent
        if claims:
            self.others.append((silent, Ack(), ()))  # Being the last one to settle it, it lets go of its key.
        else:
            self.plain.append(silent)
        self.begun += 1

    def release(self, delivery: Delivery) -> None:
        """Let go of a delivery that is settled or handed back."""
        entry = delivery.token[0]
        if self.in_hand.get(entry) is delivery:
            del self.in_hand[entry]
            if entry == self.suspect:
                self.suspect = None
                self.maintain_within(0)
