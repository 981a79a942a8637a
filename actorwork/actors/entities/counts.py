"""What an entity has done in this process: for the report of its node, and for the meter of its system.

The counts belong to the actor, not to an incarnation of it, so that they do not begin anew when it is restarted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from actorwork.abc import meter_of
from actorwork.events import StaleState
from actorwork.policy.hot_keys import HotKeys

if TYPE_CHECKING:
    from actorwork.abc import EventSink
    from actorwork.events import Event

STALLED_FOR: Final = 60.0
"""Seconds for which a key counts as stalled after a message of it was handed back: it comes again within two."""
_MOST_STALLED: Final = 1000


class EntityCounts:
    """Counts of one actor."""

    __slots__ = ("_meter", "_stalled", "_title", "activations", "commits", "conflicts", "hot", "refused", "schema")

    def __init__(self, title: str, emit: EventSink) -> None:
        self._title = title
        self._meter = meter_of(emit)
        self._stalled: dict[str, float] = {}
        """When a message of a key was handed back last, since its state cannot be used here."""
        self.activations = 0
        self.commits = 0
        self.conflicts = 0
        self.refused = 0
        self.schema = 0
        """The version of the schema of its states."""
        self.hot = HotKeys()

    def __repr__(self) -> str:
        return f"<counts of {self._title!r}: {self.activations} activations, {self.commits} commits>"

    def activated(self, key: str) -> None:
        """Note that an instance was made, with a state that could be read."""
        self.activations += 1
        if self._stalled:
            self._stalled.pop(key, None)
        if self._meter is not None:
            self._meter.entity("activations", self._title)

    def committed(self) -> None:
        """Note that a changed state goes with a settlement, or was committed by the handler."""
        self.commits += 1
        if self._meter is not None:
            self._meter.entity("commits", self._title)

    def conflicted(self) -> None:
        """Note that the broker has refused a commit, since the state has changed meanwhile."""
        self.conflicts += 1
        if self._meter is not None:
            self._meter.entity("conflicts", self._title)

    def was_refused(self) -> None:
        """Note that a state cannot be committed: it is too large, or no JSON."""
        self.refused += 1
        if self._meter is not None:
            self._meter.entity("refused", self._title)

    def stalled(self, key: str, now: float) -> None:
        """Note that the state of a key cannot be used here, and its message was handed back."""
        if len(self._stalled) >= _MOST_STALLED and key not in self._stalled:
            del self._stalled[next(iter(self._stalled))]
        self._stalled.pop(key, None)
        self._stalled[key] = now

    def stalled_keys(self, now: float) -> Sequence[str]:
        """Return the keys whose state cannot be used here."""
        return [key for key, at in list(self._stalled.items()) if now - at < STALLED_FOR]


class CountedEntity(Protocol):
    """An entity (its consumer) whose conflicts are counted."""

    @property
    def entity_counts(self) -> EntityCounts | None: ...


class ConflictSink:
    """The sink of a node that has entities: counts which commits it reports as refused. In all else it is its sink."""

    def __init__(self, emit: EventSink, entities: Mapping[str, CountedEntity]) -> None:
        self._emit = emit
        self._entities = entities

    def __call__(self, event: Event) -> None:
        if type(event) is StaleState:
            found = self._entities.get(event.actor_id)
            if found is not None and found.entity_counts is not None:
                found.entity_counts.conflicted()
        self._emit(event)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._emit, name)
