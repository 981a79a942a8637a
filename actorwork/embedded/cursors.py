"""What the nodes of this process read: the counterpart of their sinks on the writer's side.

    GroupChannel    (in rows) one channel of a source: `ready` if it may hold something for this group
    Cursor          what one subscription reads, channel by channel, and how much of it
    Cursors         all of them, by the events that make them ready

A turn reads only channels that are ready, for cursors that have credit left: an idle source costs nothing. A channel
becomes ready when an entry enters it, or when a delivery of its group is released or orphaned. When something urgent
comes and a cursor has no credit left, its sink is asked for the credit that it reserves for urgent messages; a sink
that never gets any is never asked.

What a node has released because it can do nothing with it is left to other nodes for a while: they hear of it later.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Final, TypeAlias

import attrs

from actorwork.embedded.isolation import LOOK_EVERY
from actorwork.embedded.own_leases import Lease
from actorwork.embedded.rows import GroupChannel, Taken
from actorwork.embedded.states import CancelledMessage
from actorwork.embedded.store import Store
from actorwork.message import Delivery, Priority
from actorwork.policy.turns import FairPriority

MOST_READ: Final = 1000


Batch: TypeAlias = tuple[GroupChannel, Taken, Sequence[tuple[str, int]]]
"""A channel, what was read from it, and how much of that was reclaimed from which incarnation."""


@attrs.define(eq=False)
class Cursor:
    """What one subscription reads, and how much of it. `allowed` and `sent` count deliveries from the beginning."""

    channels: Sequence[GroupChannel]
    lease: Lease
    offer: Callable[[Cursor, Sequence[Batch]], None]
    crowded: Callable[[Cursor], None]
    """Called in the Trio thread when something urgent waits and there is no credit left."""
    cancel: Callable[[Cursor, Sequence[CancelledMessage]], None]
    """Called in the Trio thread with messages that were cancelled in flight, here or elsewhere."""
    allowed: int = 0
    allowed_urgent: int = 0
    """The same for urgent deliveries; 0 until the sink was asked for its reserve."""
    asks_urgent: bool = False
    sent: int = 0
    turn: int = 0
    turns: FairPriority = attrs.field(factory=lambda: FairPriority(len(Priority)))
    urgent: Sequence[GroupChannel] = ()

    def __attrs_post_init__(self) -> None:
        self.urgent = [channel for channel in self.channels if channel.priority < Priority.NORMAL]

    @property
    def can_read(self) -> bool:
        """Whether there is credit left for a channel that may hold something."""
        if self.lease.isolation.is_closed:
            return False
        if self.allowed > self.sent:
            return any(channel.readable for channel in self.channels)
        return self.allowed_urgent > self.sent and any(channel.readable for channel in self.urgent)

    @property
    def held(self) -> list[GroupChannel]:
        """The channels whose suspects, if they have any, this cursor could take."""
        if self.allowed <= self.sent:
            return []
        return [channel for channel in self.channels if channel.suspects and not channel.is_paused]

    def read_suspect(self, store: Store) -> list[Batch]:
        """Read one suspect, if there still is one."""
        taken: list[Batch] = []
        for channel in self.held:
            batch = store.reading.take_suspect(channel, self.lease.number)
            taken.append(_completed(store, channel, batch, self.lease.number))
            if batch.deliveries:
                break
        return taken

    def read(self, store: Store) -> list[Batch]:
        """Read the most urgent first, as far as fairness to the other priorities allows."""
        room, channels = self.allowed - self.sent, self.channels
        if room <= 0:
            room, channels = self.allowed_urgent - self.sent, self.urgent
        room = min(room, MOST_READ)
        ready = [channel for channel in channels if channel.readable]
        levels = sorted({channel.priority for channel in ready})
        if len(levels) == 1:
            return self._read_level(store, ready, room)
        # Counted before the commit: a turn that fails costs a priority one place in the order, which does no harm.
        shares = Counter(self.turns.next(levels) for _ in range(room))
        taken: list[Batch] = []
        left = 0
        for level in levels:
            share = shares[level] + left
            read = self._read_level(store, [channel for channel in ready if channel.priority == level], share)
            left = share - sum(len(batch.deliveries) for _, batch, _ in read)
            taken += read
        return taken

    def _read_level(self, store: Store, ready: Sequence[GroupChannel], room: int) -> list[Batch]:
        """Divide the credit among channels that may hold something, beginning with another one each time."""
        start = self.turn % len(ready)
        taken: list[Batch] = []
        for position, channel in enumerate([*ready[start:], *ready[:start]]):
            if room <= 0:
                break
            share = math.ceil(room / (len(ready) - position))
            batch = store.reading.take(channel, self.lease.number, share)
            room -= len(batch.deliveries)
            taken.append(_completed(store, channel, batch, self.lease.number))
        return taken

    def has_read(self, taken: Sequence[Batch]) -> None:
        """Count what was read, once it is committed."""
        for channel, batch, _ in taken:
            channel.ready = not batch.emptied
            channel.suspects = batch.held
            if batch.held:
                self.lease.isolation.look_at = -math.inf
            channel.grp = batch.grp
            self.sent += len(batch.deliveries)
        self.turn += 1


def _completed(store: Store, channel: GroupChannel, batch: Taken, node: int) -> Batch:
    if batch.tracked:
        store.note_received(channel, node, batch.tracked)
    return channel, batch, [(store.leases.incarnation(node), count) for node, count in batch.reclaimed]


def read_suspect(store: Store, cursors: Sequence[Cursor], now: float) -> list[tuple[Cursor, list[Batch]]]:
    """Decide whether the node of these cursors may read; if it may take a suspect, read one."""
    for cursor in cursors:
        for channel in cursor.channels:
            channel.suspects = channel.suspects and store.reading.has_suspects(channel, channel.grp)
    lease = cursors[0].lease
    isolation = lease.isolation
    wait = any(channel.suspects for cursor in cursors for channel in cursor.channels)
    if not (wait or isolation.is_closed):
        isolation.look_at = math.inf
        return []
    has_room = any(cursor.held for cursor in cursors)
    are_held = any(channel.suspects and not channel.is_paused for cursor in cursors for channel in cursor.channels)
    # It looks through what all nodes have in flight, and is asked only while suspects wait.
    may_take = isolation.decide(now, is_idle=store.reading.is_idle(lease.number), are_held=are_held, has_room=has_room)
    isolation.look_at = now + LOOK_EVERY if wait or isolation.is_closed else math.inf
    if may_take:
        for cursor in cursors:
            batches = cursor.read_suspect(store)
            if any(taken.deliveries for _, taken, _ in batches):
                isolation.has_taken(now)
                return [(cursor, batches)]
    return []


class Cursors:
    """All cursors of a writer, by what may make them ready."""

    def __init__(self) -> None:
        self._cursors: list[Cursor] = []
        self.by_lease: list[list[Cursor]] = []
        """The cursors of each node."""
        self._by_channel: dict[int, list[GroupChannel]] = {}
        self._urgent_came = False
        self.aside_until = math.inf
        """When the first entry that is left to other nodes may be read again, by the monotonic clock."""

    def __repr__(self) -> str:
        return f"<Cursors: {len(self._cursors)}>"

    def __len__(self) -> int:
        return len(self._cursors)

    def __iter__(self) -> Iterator[Cursor]:
        return iter(self._cursors)

    @property
    def can_read(self) -> bool:
        return any(cursor.can_read for cursor in self._cursors)

    @property
    def isolates_at(self) -> float:
        """When to decide for a node again whether it may take a suspect, by the monotonic clock."""
        return min((cursors[0].lease.isolation.look_at for cursors in self.by_lease), default=math.inf)

    def add(self, cursors: Iterable[Cursor]) -> None:
        for cursor in cursors:
            self._cursors.append(cursor)
            for others in self.by_lease:
                if others[0].lease is cursor.lease:
                    others.append(cursor)
                    break
            else:
                self.by_lease.append([cursor])
            for channel in cursor.channels:
                channel.suspects = True  # It may have some. Whether it has is looked up before anything is read.
                self._by_channel.setdefault(channel.number, []).append(channel)
        self._urgent_came = True

    def remove(self, cursors: Iterable[Cursor]) -> None:
        for cursor in cursors:
            if cursor in self._cursors:
                self._cursors.remove(cursor)
                self.by_lease = [
                    left for others in self.by_lease if (left := [other for other in others if other is not cursor])
                ]
                for channel in cursor.channels:
                    self._by_channel[channel.number].remove(channel)

    def set_aside(self, cursor: Cursor, deliveries: Iterable[Delivery], until: float) -> None:
        """Leave deliveries, which a cursor's node is about to release, to other nodes until then."""
        channels = {(channel.name, channel.priority): channel for channel in cursor.channels}
        for delivery in deliveries:
            channels[delivery.source, delivery.priority].aside[delivery.token.seq] = until
            self.aside_until = min(self.aside_until, until)

    def end_aside(self, now: float) -> None:
        """Let the entries be read again that were left to other nodes for long enough."""
        if now < self.aside_until:
            return
        self.aside_until = math.inf
        for cursor in self._cursors:
            for channel in cursor.channels:
                for seq, until in list(channel.aside.items()):
                    if until <= now:
                        del channel.aside[seq]
                        self._wake([channel])
                    else:
                        self.aside_until = min(self.aside_until, until)

    def wake_channels(self, channels: set[int]) -> None:
        """Mark these channels as ready, and empty the set."""
        if channels:
            for channel in channels:
                self._wake(self._by_channel.get(channel, ()))
            channels.clear()

    def wake_groups(self, groups: Collection[int]) -> None:
        """Mark the channels of groups that have deliveries without an owner as ready."""
        # Without an index: a group that was deleted by hand is made again under another number.
        if groups:
            for cursor in self._cursors:
                found = [channel for channel in cursor.channels if channel.grp in groups]
                if found:
                    self._wake(found)
                    # Suspects may be among them, which a cursor without credit would not find by reading.
                    for channel in found:
                        channel.suspects = True
                    cursor.lease.isolation.look_at = -math.inf

    def wake_all_of(self, lease: Lease) -> None:
        for cursor in self._cursors:
            if cursor.lease is lease:
                self._wake(cursor.channels)

    def _wake(self, channels: Iterable[GroupChannel]) -> None:
        for channel in channels:
            channel.ready = True
            if channel.priority < Priority.NORMAL:
                self._urgent_came = True

    def newly_crowded(self) -> list[Cursor]:
        """Return cursors without credit for which something urgent waits, and whose sinks were not asked yet."""
        if not self._urgent_came:
            return []
        waiting = [
            cursor
            for cursor in self._cursors
            if not cursor.asks_urgent and any(channel.readable for channel in cursor.urgent)
        ]
        self._urgent_came = bool(waiting)
        crowded = [cursor for cursor in waiting if cursor.allowed <= cursor.sent]
        for cursor in crowded:
            cursor.asks_urgent = True
        return crowded
