"""One instance of an entity with its state, as it was committed last."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from actorwork.actors.entities.schema import StateSchema
from actorwork.policy.entities import StateChange

if TYPE_CHECKING:
    from actorwork.actors.context.in_flight import InFlight
    from actorwork.message import Json
    from actorwork.policy.entities import StoredState
    from actorwork.settings import Entities


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
        "current",
        "data",
        "entity",
        "fate",
        "host",
        "key",
        "schema",
        "stamp",
        "used",
        "version",
    )

    def __init__(self, host: Committing, key: str, entity: Any) -> None:
        self.host = host
        self.key = key
        self.entity = entity
        self.version = 0
        self.stamp = ""
        self.data = b""
        self.schema = 0
        """The version of the schema in which the state was committed; 0 if it has none."""
        self.used = 0.0
        """When it has handled a message last (Trio's clock)."""
        self.current: InFlight | None = None
        """The delivery that uses it."""
        self.fate: str = ""
        """Why the delivery that uses it cannot end as its handler wants: `fenced`, or `stale`."""
        self._unknown: Mapping[str, Json] = {}

    def __repr__(self) -> str:
        return f"<activation of {self.key!r}, version {self.version}>"

    def load(self, state: StoredState | None, schema: StateSchema) -> None:
        """Take a state over; raises what its JSON does if it cannot be read."""
        if state is None:
            self.entity.state = schema.first()
            self.data = schema.write(self.entity.state, {})
            return
        self.entity.state, self._unknown = schema.read(state.data, state.schema)
        self.version, self.stamp, self.data, self.schema = state.version, state.stamp, state.data, state.schema

    def knows(self, state: StoredState | None) -> bool:
        """Whether a state is the one that it has committed or loaded last."""
        if state is None:
            return self.version == 0
        return (self.version, self.stamp) == (state.version, state.stamp)

    def change(self, schema: StateSchema, settings: Entities) -> StateChange | None:
        """Return what the handler has made of the state, or None if it is as it was; raises `Fail`."""
        data = schema.write(self.entity.state, self._unknown)
        if data == self.data and self.schema in (0, schema.version):
            return None
        return StateChange(
            version=self.version,
            data=data,
            stamp=os.urandom(8).hex(),
            schema=schema.version,
            ttl=settings.ttl,
            history=settings.history,
        )

    def committed(self, change: StateChange) -> None:
        """Note a change that is on its way to the store."""
        self.version, self.stamp = change.version + 1, change.stamp
        self.data, self.schema = change.data or b"", change.schema
