"""What tests of the runtime look at: the events, and a broker in memory that they can question."""

import itertools
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self, TypeVar

import pytest
import trio

from actorwork.abc import EventSink, Subscription
from actorwork.actors.actor import Actor
from actorwork.errors import BrokerError
from actorwork.events import Event
from actorwork.message import Envelope, Json
from actorwork.policy.settlement import Fail, Settlement
from actorwork.testing.memory import MemoryBroker, MemoryNode

E = TypeVar("E")


class Kept:
    """An event sink that keeps what it is given."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]


class FakeBroker(MemoryBroker):
    """A broker in memory with one node, which can refuse to open and to own."""

    def __init__(self, *, refuse: str | None = None) -> None:
        super().__init__()
        self._refuse = refuse
        self._ids = itertools.count()
        self.log: list[str] = []

    def put(  # type: ignore[override]
        self,
        target: str | type[Actor],
        payload: object = None,
        *,
        id: str | None = None,
        type: str | None = None,
        headers: Mapping[str, Json] | None = None,
        raw: bytes | Mapping[bytes, bytes] | None = None,
    ) -> str:
        """Add a message, as JSON or raw; return its id."""
        message_id = id if id is not None else f"m{next(self._ids)}"
        data = json.dumps(payload).encode() if raw is None else raw
        return super().put(target, data, id=message_id, type=type, headers=headers or {})

    @property
    def node(self) -> MemoryNode | None:
        return self.nodes[0] if self.nodes else None

    def settlement(self, message_id: str) -> Settlement:
        """Return how a message ended; it must have ended once."""
        found = [entry.settlement for entry in self.settled if entry.delivery.id == message_id]
        assert len(found) == 1, f"{message_id} was settled {len(found)} times: {found}"
        return found[0]

    def published(self, message_id: str) -> tuple[Envelope, ...]:
        """Return what travelled with a message's settlement."""
        (found,) = [entry.published for entry in self.settled if entry.delivery.id == message_id]
        return found

    @property
    def ahead(self) -> list[Envelope]:
        """What was sent otherwise than with a settlement."""
        settled = [envelope for entry in self.settled for envelope in entry.published]
        return [envelope for envelope in self.sent if envelope not in settled]

    @property
    def order(self) -> list[str]:
        """The ids of what was settled, in that order."""
        return [entry.delivery.id for entry in self.settled]

    async def wait_settled(self, count: int = 1) -> None:
        """Wait until so many deliveries are settled."""
        while len(self.settled) < count:
            await self._records.has_settled.wait()

    def revoke(self) -> None:
        """Take everything away from the actors, for others."""
        for subscription in self._subscriptions:
            subscription.sink.revoke()

    # ---- for the runtime ----

    @asynccontextmanager
    async def open_node(
        self, subscriptions: Sequence[Subscription], *, lease: float, emit: EventSink
    ) -> AsyncGenerator[MemoryNode]:
        await trio.lowlevel.checkpoint()
        if self._refuse is not None:
            raise BrokerError(self._refuse)
        self._subscriptions = subscriptions
        async with super().open_node(subscriptions, lease=lease, emit=emit) as node:
            yield node
        self.log.append("lease released")

    def fence(self, message_id: str) -> None:
        """Give a message that is in flight to another node, which never settles it."""
        statement = "update pending set node = 1000000 where seq in (select seq from entries where id = ?)"
        self._writer.change(lambda store: store.execute(statement, (message_id,)))


def failed(settlement: Settlement) -> tuple[str, str]:
    """Return the type and the reason of a failure."""
    assert isinstance(settlement, Fail), settlement
    return settlement.failure.type, settlement.failure.reason


def fields(**values: str) -> dict[bytes, bytes]:
    """Return stream fields, as a foreign producer writes them."""
    return {name.encode(): value.encode() for name, value in values.items()}


class _Homeless(type(Path())):
    @classmethod
    def home(cls) -> Self:
        raise RuntimeError("Could not determine home directory.")


def forget_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this program be that of a user who has no home directory, as in a container with any user id."""
    monkeypatch.delenv("ACTORWORK_HOME", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr("actorwork.brokers.Path", _Homeless)
