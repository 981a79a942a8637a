"""What the current task handles: the message in flight, known by a context variable.

A task that a handler starts inherits the variable, so it acts for the same message, and once that is settled it gets an
error instead of being mistaken for the next one. For a delivery the variable holds an `InFlight`, for a local message
the `LocalCall` itself, which has the same attributes.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

from actorwork.actors.mailbox.calls import PENDING, CallState, LocalCall

if TYPE_CHECKING:
    import trio

    from actorwork.actors.context.publishing import PublishBuffer
    from actorwork.actors.context.runs import StartedRuns
    from actorwork.message import Delivery, Status
    from actorwork.policy.entities import StateChange
    from actorwork.records import Progress


if TYPE_CHECKING:

    class ReportTaker(Protocol):
        """Where reports of progress go: the consumer."""

        @property
        def token(self) -> trio.lowlevel.TrioToken | None:
            """Trio's loop, if there is a node."""
            ...

        def note(self, delivery: Delivery, status: Status, progress: Progress | None = None) -> None: ...

    class Reporting(Protocol):
        """Takes what a handler reports of how far it is."""

        def give(self, progress: Progress) -> None: ...


class InFlight:
    """A delivery that is being handled, and what is published on its behalf."""

    __slots__ = ("change", "deliveries", "delivery", "outgoing", "reports", "runs", "state")

    call = None

    def __init__(self, delivery: Delivery, deliveries: tuple[Delivery, ...] = ()) -> None:
        self.delivery = delivery
        self.deliveries = deliveries
        """All deliveries of a batch, of which `delivery` is the first; empty outside of batches."""
        self.outgoing: PublishBuffer | None = None
        self.runs: StartedRuns | None = None
        self.reports: Reporting | None = None
        self.change: StateChange | None = None
        """What becomes of the state of an entity with its settlement."""
        self.state = PENDING

    @property
    def ended(self) -> bool:
        return self.state is not PENDING

    def end(self) -> None:
        """Drop what was published; from now on tasks that still act for this delivery get `NotRunning`."""
        self.state = CallState.ENDED
        if self.outgoing is not None:
            self.outgoing.close()


in_flight: ContextVar[InFlight | LocalCall | None] = ContextVar("actorwork_in_flight", default=None)
"""What the current task handles."""
inside: ContextVar[bool] = ContextVar("actorwork_inside", default=False)
"""Whether the current task belongs to an actor: its hooks, its handlers, or a helper task of these."""


class Stop(Exception):
    """Raised by `context.stop`."""
