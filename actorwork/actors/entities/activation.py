"""One instance of an entity with its state, as it was committed last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from actorwork.actors.entities.schema import StateSchema
from actorwork.policy.entities import StateChange, with_mark

if TYPE_CHECKING:
    from actorwork.actors.context.in_flight import InFlight
    from actorwork.actors.entities.unknown import Rest
    from actorwork.policy.entities import StoredState
    from actorwork.settings import Entities


_CLOCKS: Final = 1.0
"""Seconds by which a node may know the broker's clock wrongly."""


class Committing(Protocol):
    """Commits in the middle of a handler: the host."""

    async def commit(self, activation: Activation) -> None: ...


class Activation:
    """An instance and its state. It is used by one delivery at a time.

    `version`, `stamp` and `data` are those of the last commit that it knows of. Its settlement may still be refused, so
    they are compared with the store's before the next delivery.
    """

    __slots__ = (
        "_unknown",
        "at",
        "current",
        "data",
        "entity",
        "fate",
        "host",
        "key",
        "known",
        "known_at",
        "mark",
        "marks",
        "schema",
        "stamp",
        "text",
        "used",
        "version",
    )

    def __init__(self, host: Committing, key: str, entity: Any) -> None:
        self.host = host
        self.key = key
        self.entity = entity
        self.version = 0
        self.stamp = ""
        self.known, self.known_at = 0, 0.0
        """The last version that the store is known to have had: its own last commit may have been refused."""
        self.mark = b""
        """That of the message that it handles."""
        self.marks = b""
        """Those of the last messages that have changed it."""
        self.at = 0.0
        """When it was committed, by the broker's clock; of its own commits about when they were sent."""
        self.data = b""
        self.schema = 0
        """The version of the schema in which the state was committed; 0 if it has none."""
        self.text: str | None = None
        """The long text in the state, if there is one, as it was written last (`dumps_object`)."""
        self.used = 0.0
        """When it has handled a message last (Trio's clock)."""
        self.current: InFlight | None = None
        """The delivery that uses it."""
        self.fate: str = ""
        """Why the delivery that uses it cannot end as its handler wants: `fenced`, or `stale`."""
        self._unknown: Rest | None = None

    def __repr__(self) -> str:
        return f"<activation of {self.key!r}, version {self.version}>"

    def load(self, state: StoredState | None, schema: StateSchema) -> Any:
        """Take a state over, and return it as instances have it; raises what its JSON does if it cannot be read."""
        if state is None:
            first = schema.first()
            self.data = schema.write(first)
            return first
        value, self._unknown = schema.read(state.data, state.schema)
        self.version, self.stamp, self.data, self.schema = state.version, state.stamp, state.data, state.schema
        self.at, self.marks = state.at, state.marks
        self.confirm()
        return value

    def knows(self, state: StoredState | None) -> bool:
        """Whether a state is the one that it has committed or loaded last."""
        if state is None:
            return self.version == 0
        return (self.version, self.stamp) == (state.version, state.stamp)

    def change(
        self, schema: StateSchema, settings: Entities, stamp: str, *, is_last: bool = True
    ) -> StateChange | None:
        """Return what the handler has made of the state, or None if it is as it was; raises `Fail`.

        With the last change its message ends. No other commit may have its stamp.
        """
        data = schema.write(self.entity.state, self._unknown, self)
        if data == self.data and self.schema in (0, schema.version):
            return None
        schema.check(self.entity.state)
        return StateChange(
            version=self.version,
            data=data,
            stamp=stamp,
            schema=schema.version,
            ttl=settings.ttl,
            history=settings.history,
            mark=self.mark if is_last else b"",
        )

    def confirm(self) -> None:
        """Note that the store has what was committed last."""
        self.known, self.known_at = self.version, self.at

    def is_ahead_of(self, state: StoredState | None) -> bool:
        """Whether the store has gone back behind what this activation knows to be committed.

        After a state was forgotten by hand its versions begin anew: those are younger than what is known here.
        """
        if state is None:
            return self.known > 0
        return state.version < self.known and state.at <= self.known_at + _CLOCKS

    def committed(self, change: StateChange, at: float) -> None:
        """Note a change that is on its way to the store, at a time by the broker's clock."""
        self.at = at
        if change.mark:
            self.marks = with_mark(self.marks, change.mark)
        self.version, self.stamp = change.version + 1, change.stamp
        self.data, self.schema = change.data or b"", change.schema
