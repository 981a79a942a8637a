"""What the runtime offers to an actor, on the one attribute `self.context`.

Some of it belongs to the incarnation (`ref`, `nursery`, `log`), some to the delivery in hand (`delivery`,
`publish`). Which delivery that is, is known by the task: a helper task started within a handler speaks for the same
delivery, and once that is settled it is told so instead of being mistaken for the next one.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from actorwork.errors import NotRunning

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import trio

    from actorwork.actors.outgoing import Outgoing
    from actorwork.actors.ref import ActorRef
    from actorwork.message import Delivery, Json


class Handling:
    """One item in hand: a delivery (or None for a local call) and what is published on its behalf."""

    __slots__ = ("delivery", "ended", "outgoing")

    def __init__(self, delivery: Delivery | None) -> None:
        self.delivery = delivery
        self.outgoing: Outgoing | None = None
        self.ended = False

    def end(self) -> None:
        """Let go of what was published; from now on, who speaks for this delivery is told that it is over."""
        self.ended = True
        if self.outgoing is not None:
            self.outgoing.close()


handling: ContextVar[Handling | None] = ContextVar("actorwork_handling", default=None)
"""What the current task has in hand."""
inside: ContextVar[bool] = ContextVar("actorwork_inside", default=False)
"""Whether the current task belongs to an actor: its hooks, its handlers, or a helper task of these."""


class Context:
    """What an actor may use while it runs; made anew for every incarnation."""

    __slots__ = ("_new_outgoing", "log", "nursery", "ref")

    def __init__(
        self,
        ref: ActorRef[Any],
        nursery: trio.Nursery,
        log: logging.LoggerAdapter[logging.Logger],
        new_outgoing: Callable[[], Outgoing],
    ) -> None:
        self.ref = ref
        """The actor's own ref."""
        self.nursery = nursery
        """For helper tasks of this incarnation: they are cancelled when it ends, and an error in one is its crash."""
        self.log = log
        """A logger that names the actor and the message in hand."""
        self._new_outgoing = new_outgoing

    def __repr__(self) -> str:
        return f"<context of {self.ref!r}>"

    @property
    def delivery(self) -> Delivery:
        """The delivery in hand: id, source, attempt, headers.

        Raises `NotRunning` outside of a handler, and in one that handles a local message.
        """
        return self._in_hand("delivery")[1]

    def publish(
        self,
        target: str | object,
        message: object,
        *,
        headers: Mapping[str, Json] | None = None,
        delay: float = 0.0,
    ) -> None:
        """Keep a message to be sent atomically with the settlement of the delivery in hand.

        `target` is the name of a source, an actor class, or a durable ref. Sent only if the delivery ends as handled,
        and only if it is still ours then; `delay` is in seconds. Raises `CodecError` for what is no message.
        """
        current, _ = self._in_hand("publish")
        outgoing = current.outgoing
        if outgoing is None:
            outgoing = current.outgoing = self._new_outgoing()
        outgoing.add(target, message, headers=headers, delay=delay)

    def _in_hand(self, name: str) -> tuple[Handling, Delivery]:
        current = handling.get()
        if current is None:
            raise NotRunning(f"context.{name} belongs to a delivery; there is none in hand here")
        if current.ended:
            raise NotRunning(f"context.{name}: the delivery that this task was started for is settled")
        if current.delivery is None:
            raise NotRunning(
                f"context.{name} belongs to a delivery from a broker; this handler has a local message in hand"
            )
        return current, current.delivery


class ContextLogger(logging.LoggerAdapter[logging.Logger]):
    """Adds the actor and the message in hand to every record."""

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        extra: dict[str, Any] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        current = handling.get()
        if current is not None and current.delivery is not None:
            extra.update(
                message_id=current.delivery.id, attempt=current.delivery.attempt, source=current.delivery.source
            )
        kwargs["extra"] = extra
        return msg, kwargs
