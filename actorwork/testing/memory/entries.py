"""What lies in a source, who reads it, and what waits for what.

    source    entries, the groups that read them, the lines of its keys, and what holds its unique keys
    place     an entry as one group has it: ready, or claimed by a node
    claim     the token of a delivery; it is ours as long as the place still has this very one
    line      the messages of one key: the head is an entry (or a retry that is held back), the others wait behind it

An entry leaves its source when the last group has settled it. A retry is an entry of its own: it is made before the one
that it follows leaves, so that a key is free when the last entry of a message is gone, and not before.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias

import attrs
import trio

from actorwork.message import ATTEMPT, NO_HEADERS, DeadLetter, Delivery, Json, Priority, Unique

Payload: TypeAlias = bytes | Mapping[bytes, bytes]


@attrs.frozen(eq=False)
class Entry:
    """A message in a source; with `group`, it is for that one alone.

    `goes_first` says that it is a retry: it has its key already. `since` is when it became ready, by Trio's clock.
    """

    number: int
    source: str
    id: str
    payload: Payload
    type: str | None = None
    headers: Mapping[str, Json] = NO_HEADERS
    group: str | None = None
    key: str | None = None
    priority: Priority = Priority.NORMAL
    expires: float | None = None
    unique: str | None = None
    goes_first: bool = False
    since: float = 0.0


@attrs.define(eq=False)
class Place:
    entry: Entry
    claim: Claim | None = None
    crashes: int = 0
    previous: str = ""
    """Who had it before: an incarnation, or "released"."""

    @property
    def delivery(self) -> Delivery:
        entry = self.entry
        attempt = entry.headers.get(ATTEMPT)
        return Delivery(
            id=entry.id,
            source=entry.source,
            payload=entry.payload,
            token=self.claim,
            type=entry.type,
            headers=entry.headers,
            attempt=attempt if isinstance(attempt, int) else 1,
            crashes=self.crashes,
            key=entry.key,
            priority=entry.priority,
            expires=entry.expires,
        )


@attrs.frozen(eq=False)
class Claim:
    place: Place
    incarnation: str


@attrs.define(eq=False)
class Group:
    """What one actor has of one source."""

    source: str
    name: str
    places: dict[int, Place] = attrs.field(factory=dict[int, Place])
    ready: tuple[list[int], ...] = attrs.field(factory=lambda: tuple(list[int]() for _ in Priority))
    """A heap for each priority: what is given back comes before what was never read, in the order of the source."""

    def add(self, entry: Entry) -> None:
        if entry.group in (None, self.name):
            self._is_ready(Place(entry))

    def free(self, place: Place) -> None:
        """Take a place away from its owner."""
        place.claim = None
        self._is_ready(place)

    def _is_ready(self, place: Place) -> None:
        self.places[place.entry.number] = place
        heapq.heappush(self.ready[place.entry.priority], place.entry.number)

    def next(self, level: int) -> Place:
        """Take out the next place of a priority that has one."""
        return self.places[heapq.heappop(self.ready[level])]

    def drop(self, entry: Entry) -> None:
        """Forget an entry that is ready here, if it is."""
        if self.places.pop(entry.number, None) is not None:
            heap = self.ready[entry.priority]
            heap.remove(entry.number)
            heapq.heapify(heap)

    def waiting(self) -> Iterator[Place]:
        for heap in self.ready:
            for number in sorted(heap):
                yield self.places[number]


@attrs.define(eq=False)
class _Line:
    """The messages of one key: how many entries its head has, and who waits behind it."""

    entries: int = 1
    behind: deque[Entry] = attrs.field(factory=deque[Entry])


@attrs.define(eq=False)
class _Holder:
    """Which message has a unique key, in how many entries, and until when at most."""

    id: str
    until: float
    entries: int = 1


@attrs.define(eq=False)
class Source:
    name: str
    new_number: Callable[[], int]
    entries: dict[int, Entry] = attrs.field(factory=dict[int, Entry])
    groups: dict[str, Group] = attrs.field(factory=dict[str, Group])
    ids: set[str] = attrs.field(factory=set[str])
    dead: dict[str, tuple[DeadLetter, Entry]] = attrs.field(factory=dict[str, tuple[DeadLetter, Entry]])
    _lines: dict[str, _Line] = attrs.field(factory=dict[str, _Line])
    _holders: dict[str, _Holder] = attrs.field(factory=dict[str, _Holder])

    def group(self, name: str) -> Group:
        found = self.groups.get(name)
        if found is None:
            found = self.groups[name] = Group(self.name, name)
            for entry in self.entries.values():
                found.add(entry)
        return found

    @property
    def backlog(self) -> int:
        return len(self.entries) + sum(len(line.behind) for line in self._lines.values())

    @property
    def oldest(self) -> float:
        """Since when the first entry has been ready that a group has not had; infinite if there is none."""
        if not self.groups:
            return min((entry.since for entry in self.entries.values()), default=math.inf)
        unread = (place for group in self.groups.values() for place in group.waiting() if not place.previous)
        return min((place.entry.since for place in unread), default=math.inf)

    # ---- coming and going ----

    def enter(self, entry: Entry) -> None:
        """Put a message at the end, or behind the others of its key."""
        if entry.key is not None and not entry.goes_first:
            line = self._lines.get(entry.key)
            if line is not None:
                line.behind.append(entry)
                return
            self._lines[entry.key] = _Line()
        self._stand(entry)

    def _stand(self, entry: Entry) -> None:
        entry = attrs.evolve(entry, number=self.new_number(), since=trio.current_time())
        self.entries[entry.number] = entry
        for group in self.groups.values():
            group.add(entry)

    def follow(self, entry: Entry) -> None:
        """Count a retry in, which is about to come where its message has keys."""
        if entry.key is not None:
            self._lines[entry.key].entries += 1
        if self._holds(entry):
            self._holders[entry.unique or ""].entries += 1

    def settled(self, entry: Entry) -> None:
        """Drop an entry if it was the last group that had it."""
        if not any(entry.number in group.places for group in self.groups.values()):
            self.entries.pop(entry.number, None)
            self.left(entry)

    def left(self, entry: Entry) -> None:
        """Free what an entry had that is gone: its unique key, and its key for the next one behind it."""
        self.let_go(entry)
        line = None if entry.key is None else self._lines.get(entry.key)
        if entry.key is None or line is None:
            return
        line.entries -= 1
        if line.entries:
            return
        if line.behind:
            line.entries = 1
            self._stand(line.behind.popleft())
        else:
            del self._lines[entry.key]

    # ---- unique keys ----

    def holder(self, unique: Unique | None, now: float) -> str | None:
        """Return the id of the message that has a unique key."""
        found = None if unique is None else self._holders.get(unique.key)
        return None if found is None or found.until <= now else found.id

    def hold(self, unique: Unique, id: str, now: float) -> None:
        self._holders[unique.key] = _Holder(id, now + unique.ttl)

    def let_go(self, entry: Entry) -> None:
        """Count out an entry that held its unique key."""
        if self._holds(entry):
            holder = self._holders[entry.unique or ""]
            holder.entries -= 1
            if not holder.entries:
                del self._holders[entry.unique or ""]

    def _holds(self, entry: Entry) -> bool:
        # The key may be another message's by now: it is held for so long only.
        holder = None if entry.unique is None else self._holders.get(entry.unique)
        return holder is not None and holder.id == entry.id

    # ---- taking out ----

    def standing(self, id: str) -> Iterable[Entry]:
        """Return the entries of a message that are ready or in hand."""
        return [entry for entry in self.entries.values() if entry.id == id]

    def is_in_hand(self, entry: Entry) -> bool:
        places = (group.places.get(entry.number) for group in self.groups.values())
        return any(place is not None and place.claim is not None for place in places)

    def remove(self, entry: Entry) -> None:
        """Take out an entry that nobody has in hand."""
        for group in self.groups.values():
            group.drop(entry)
        del self.entries[entry.number]
        self.left(entry)

    def remove_behind(self, id: str) -> Entry | None:
        """Take out the message of this id that waits behind others of its key, if there is one."""
        for line in self._lines.values():
            for entry in line.behind:
                if entry.id == id:
                    line.behind.remove(entry)
                    self.let_go(entry)
                    return entry
        return None
