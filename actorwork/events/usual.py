"""What all events share, and the events of every start and every message."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import attrs

from actorwork.shown import Value

if TYPE_CHECKING:
    from actorwork.message import Delivery
    from actorwork.policy.settlement import Settlement


@attrs.frozen(eq=False, repr=False)
class Origin(Value):
    """The process of a tree in which an event happened: its name there, its pid, and its incarnation as a node."""

    process: str
    pid: int
    incarnation: str

    def __repr__(self) -> str:
        return f"<process {self.pid} of {self.process!r}>"


class BaseEvent:
    __slots__ = ("_origin",)
    __match_args__: ClassVar[tuple[str, ...]]

    @property
    def origin(self) -> Origin | None:
        """The process from which the event came; None for one of the node that emits it."""
        return getattr(self, "_origin", None)

    def come_from(self, origin: Origin) -> None:
        """Note where the event happened; for the side that receives it from there."""
        object.__setattr__(self, "_origin", origin)

    def __repr__(self) -> str:
        shown = ", ".join(f"{field}={getattr(self, field)!r}" for field in self.__match_args__)
        return f"{type(self).__name__}({shown})"


@attrs.frozen(eq=False, repr=False)
class NodeStarted(BaseEvent):
    """The node holds its lease and reads."""

    incarnation: str
    broker: str
    actors: tuple[str, ...]


@attrs.frozen(eq=False, repr=False)
class LeaseLost(BaseEvent):
    """The node's lease expired: its deliveries are cancelled, and it continues as `successor`."""

    incarnation: str
    successor: str
    reason: str


@attrs.frozen(eq=False, repr=False)
class BrokerBack(BaseEvent):
    """The node is connected to the broker (again); of the `servers` of a cluster, this many are `away`."""

    broker: str
    away: int = 0
    servers: int = 1


@attrs.frozen(eq=False, repr=False)
class BrokerTrouble(BaseEvent):
    """An operation at the broker failed; `next` says whether it is tried again.

    `is_cut` says that a connection of its own was lost, beside the one that `BrokerLost` is about.
    """

    doing: str
    error: str
    next: str
    is_cut: bool = False


@attrs.frozen(eq=False, repr=False)
class BrokerAdvice(BaseEvent):
    """The broker works, but may lose messages, or keeps what no actor needs; `advice` says what to do."""

    text: str
    advice: str
    subject: str = ""
    """What it is about: that of a `Finding`."""


@attrs.frozen(eq=False, repr=False)
class ActorStarted(BaseEvent):
    """An incarnation is up: its `startup` has returned."""

    actor_id: str
    title: str
    incarnation: int


@attrs.frozen(eq=False, repr=False)
class Settled(BaseEvent):
    """A delivery has ended; `seconds` is how long it was in flight."""

    actor_id: str
    title: str
    delivery: Delivery
    settlement: Settlement
    seconds: float
