"""Lets a suspect, a message that processes died with, run with nothing beside it in its node.

    open ──a suspect waits──▶ closed ──nothing in flight──▶ one suspect runs ──it has ended──▶ the next one, if any
      ▲                          │ CLEARING                      │ ALONE                             │ none
      └──────────────────────────┴───────────────────────────────┴───────────────────────────────────┘

The reasons and the bounds are in `policy/crashes`, which both brokers follow.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

import trio

from actorwork import events
from actorwork.abc import EventSink
from actorwork.message import Delivery
from actorwork.policy.crashes import ALONE, CLEARING, TRY_AGAIN

if TYPE_CHECKING:

    class InFlight(Protocol):
        """The entries of one stream that are in flight."""

        deliveries: dict[bytes, Delivery]

    class Sources(Protocol):
        """A source set, as far as it can be held up."""

        must_recover: bool

        @property
        def by_stream(self) -> Mapping[bytes, InFlight]: ...
        def interrupt(self) -> None:
            """End a read, or the wait for room, so that the reader checks whether it may read."""
            ...

    class Holder(Protocol):
        """A reclaimer for which this node is closed: it takes the suspects, one by one."""

        def maintain_within(self, seconds: float) -> None: ...


class Isolation:
    """Which messages one node may take now."""

    def __init__(self, emit: EventSink) -> None:
        self._emit = emit
        self._source_sets: list[Sources] = []
        self._holder: Holder | None = None
        self._waiting: dict[Holder, None] = {}
        """Reclaimers that have found suspects while the node was closed for another one."""
        self._reading = 0
        """How many requests that may bring entries are under way."""
        self._until = math.inf
        self._not_before = -math.inf
        self.is_running = False
        """Whether a suspect was taken that has not ended."""
        self._suspects: dict[InFlight, set[bytes]] = {}
        """What is in flight that processes died with."""
        self._abandoned: Counter[InFlight] = Counter()
        """How many of the deliveries in flight can never be settled."""
        self._changed = trio.Event()
        self.is_watching = False
        """Whether `ended` is to be called."""

    def __repr__(self) -> str:
        return f"<Isolation, {'open' if self._holder is None else 'closed'}>"

    def add(self, source_set: Sources) -> None:
        self._source_sets.append(source_set)

    def remove(self, source_set: Sources) -> None:
        self._source_sets.remove(source_set)

    # ---- what readers ask ----

    @property
    def is_closed(self) -> bool:
        """Whether nothing may be read."""
        return self._holder is not None

    async def wait_changed(self) -> None:
        """Wait until the node may be open again, or a reader is to look for lost entries."""
        await self._changed.wait()

    def begin_reading(self) -> None:
        self._reading += 1

    def end_reading(self) -> None:
        self._reading -= 1
        if self._holder is not None:
            self._look()

    # ---- what reclaimers ask ----

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in flight here."""
        return not any(
            len(in_flight.deliveries) > self._abandoned[in_flight]
            for source_set in self._source_sets
            for in_flight in source_set.by_stream.values()
        )

    def is_closed_for(self, holder: Holder) -> bool:
        return self._holder is holder

    def may_take(self, holder: Holder) -> bool:
        """Whether a reclaimer may take one suspect now."""
        return (
            self._holder is holder
            and not self._reading
            and not any(source_set.must_recover for source_set in self._source_sets)
            and self.is_idle
        )

    def close(self, holder: Holder) -> None:
        """Close the node for a reclaimer, or let it wait until it is open again."""
        now = trio.current_time()
        if self._holder is not None:
            self._waiting[holder] = None
        elif now >= self._not_before:
            self._holder, self._until, self.is_watching = holder, now + CLEARING, True
            for source_set in self._source_sets:
                source_set.interrupt()
            holder.maintain_within(0)

    def open(self, holder: Holder) -> None:
        """End the isolation for a reclaimer: it has no suspect left, or may not take any. The next one follows."""
        self._waiting.pop(holder, None)
        if self._holder is not holder:
            return
        self._holder = None
        if self._waiting:
            following = next(iter(self._waiting))
            del self._waiting[following]
            self.close(following)
        if self._holder is None:
            self._open()

    def has_taken(self) -> None:
        """Note that a suspect was taken: it runs now."""
        self.is_running = True
        self._until = trio.current_time() + ALONE

    def open_in_time(self) -> None:
        """Open the node if it was closed for too long."""
        if self._holder is not None and trio.current_time() >= self._until:
            self._not_before = trio.current_time() + TRY_AGAIN
            self._open()

    def _open(self) -> None:
        self._holder, self.is_running = None, False
        self._waiting.clear()
        self.is_watching = bool(self._suspects)
        self.wake()

    def wake(self) -> None:
        """Have all readers look again."""
        self._changed.set()
        self._changed = trio.Event()

    # ---- what begins and ends ----

    def begun(self, in_flight: InFlight, entries: Iterable[bytes]) -> None:
        """Note that entries which processes died with are in flight, before their actor gets them."""
        if not self._suspects:
            self._emit(events.SuspectsInFlight(present=True))
        self._suspects.setdefault(in_flight, set()).update(entries)
        self.is_watching = True

    def ended(self, in_flight: InFlight) -> None:
        """Note that something in flight has ended. Called only while `is_watching`."""
        suspects = self._suspects.get(in_flight)
        if suspects is not None:
            suspects.intersection_update(in_flight.deliveries)
            if not suspects:
                del self._suspects[in_flight]
                self._note_no_suspects()
        self._look()

    def abandon(self, in_flight: InFlight, count: int) -> None:
        """Note that deliveries in flight can never be settled: nothing waits for their end."""
        self._abandoned[in_flight] += count

    def _note_no_suspects(self) -> None:
        if not self._suspects:
            self.is_watching = self._holder is not None
            self._emit(events.SuspectsInFlight(present=False))

    def _look(self) -> None:
        """Have the reclaimer for which the node is closed take a suspect, if nothing is in flight any more."""
        holder = self._holder
        if holder is not None and self.may_take(holder):
            self.is_running = False
            self._until = trio.current_time() + CLEARING
            holder.maintain_within(0)

    def reset(self) -> None:
        """Begin anew, with nothing in flight: the lease was lost."""
        self._not_before = -math.inf
        self._abandoned.clear()
        had_suspects = bool(self._suspects)
        self._suspects.clear()
        self._open()
        if had_suspects:
            self._note_no_suspects()
