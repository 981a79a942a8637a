"""What waits in a mailbox: deliveries from the broker, and local calls.

LocalCall     a tell or an ask from within the process
RankedCall    the same, with a priority that its sender has named
SystemCall    from the runtime or from the actor itself, in a queue of its own
Delivery      (of `actorwork.message`) from the broker
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from actorwork.message import Delivery, Priority

if TYPE_CHECKING:
    from actorwork.actors.handlers.table import Handler
    from actorwork.actors.wakeups import Reply


class Queue(enum.IntEnum):
    """Which of a mailbox's queues an item waits in, in the order in which they are served."""

    SYSTEM = 0
    SELF = 1
    USER = 2


class CallState(enum.IntEnum):
    """How far a message has come; decides what the end of its handler means."""

    PENDING = 0
    """The end of the handler is its end."""
    ENDED = 1
    DEFERRED = 2
    """Forwarded, or answered later: the end of the handler is not its end."""
    STASHED = 3
    RELEASED = 4
    """Another node may take it, at once: the end of the handler is not its end, and does not count."""
    STALLED = 5
    """The same, but in a moment: no node may be able to handle it now."""
    LOST = 6
    """It belongs to another node."""


PENDING: Final = CallState.PENDING
"""A name of its own: a global is found faster than a member of an enumeration, and every message pays for it."""


class LocalCall:
    """A message from within the process, with the reply that its asker waits for (None for a tell).

    While it is in flight it stands for itself in the task's context (`in_flight`), so that no second object is made
    for every message; hence the class attributes that a delivery's `InFlight` has too.
    """

    __slots__ = ("handler", "keywords", "message", "reply", "state")

    queue = Queue.USER
    priority: Priority | None = None
    """None: the actor's own."""
    origin: object = None
    delivery = None
    outgoing = None

    def __init__(
        self, message: object, handler: Handler | None, reply: Reply | None, keywords: dict[str, Any] | None = None
    ) -> None:
        self.message = message
        self.handler = handler
        self.reply = reply
        self.keywords = keywords
        self.state = PENDING

    @property
    def call(self) -> LocalCall:
        return self

    @property
    def ended(self) -> bool:
        return self.state is not PENDING


class RankedCall(LocalCall):
    """A local message whose sender has named a priority."""

    __slots__ = ("priority",)

    def __init__(
        self,
        message: object,
        handler: Handler | None,
        reply: Reply | None,
        keywords: dict[str, Any] | None = None,
        *,
        priority: Priority,
    ) -> None:
        super().__init__(message, handler, reply, keywords)
        self.priority: Priority | None = priority


class SystemCall(LocalCall):
    """A message from the runtime, or from the actor itself, in a queue of its own.

    `handler` is None until its turn: then the handler is looked up by what the actor has become. `origin` is the timer
    or the ref that it came from, so that it can be dropped with it.
    """

    __slots__ = ("origin", "queue")

    def __init__(
        self,
        message: object,
        handler: Handler | None,
        keywords: dict[str, Any] | None,
        *,
        queue: Queue,
        origin: object = None,
        reply: Reply | None = None,
    ) -> None:
        super().__init__(message, handler, reply, keywords)
        self.queue = queue
        self.origin = origin


Item: TypeAlias = Delivery | LocalCall
