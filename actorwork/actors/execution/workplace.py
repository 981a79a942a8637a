"""What executors and their parts use of what is above them.

    ExecutorActor    the actor (its cell): what is the same for all incarnations
    Workplace        the incarnation that an executor works for
    Worker           the executor itself, as those that handle its items see it

Also the two questions that all of them ask of an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from actorwork.groups import leaves
from actorwork.policy.exits import is_plain

if TYPE_CHECKING:
    from actorwork.abc import EventSink, Instruments, Middleware
    from actorwork.actors.execution.batches import Batches
    from actorwork.actors.execution.watchdog import Watchdog
    from actorwork.actors.handlers.behaviour import Behaviour
    from actorwork.actors.handlers.table import HandlerTable
    from actorwork.actors.limits.admission import AdmissionQueue
    from actorwork.actors.mailbox.calls import Item
    from actorwork.actors.mailbox.mailbox import Mailbox
    from actorwork.actors.wakeups import Reply
    from actorwork.message import Delivery, Envelope, MessageIds, Status
    from actorwork.policy.minutes import Tally
    from actorwork.policy.settlement import Ack, EndReason, Reject, Settlement
    from actorwork.records import Progress
    from actorwork.settings import Settings


if TYPE_CHECKING:

    class Settler(Protocol):
        """The way back to the broker."""

        cancelled: dict[tuple[str, str], tuple[Reject, bool]]
        """The messages here that were cancelled, by source and id: how each ends, and whether that is settled."""

        def settle(self, delivery: Delivery, settlement: Settlement, published: Sequence[Envelope] = ()) -> None: ...
        def settle_together(
            self, settled: Sequence[tuple[Delivery, Settlement]], published: Sequence[Envelope]
        ) -> None: ...
        async def publish_fenced(self, delivery: Delivery, published: Sequence[Envelope]) -> bool: ...
        async def keep_ahead(self, delivery: Delivery, ack: Ack) -> Ack | None: ...
        def note(self, delivery: Delivery, status: Status, progress: Progress | None = None) -> None: ...
        def now(self) -> float: ...
        def interrupted(self, delivery: Delivery) -> None: ...
        def hand_back(self, delivery: Delivery, *, after: float) -> None: ...

    class SharedTools(Protocol):
        """What all executors of a system share."""

        @property
        def emit(self) -> EventSink: ...
        @property
        def watchdog(self) -> Watchdog: ...
        @property
        def ids(self) -> MessageIds: ...
        @property
        def dice(self) -> Callable[[], float]: ...
        @property
        def threads(self) -> trio.CapacityLimiter: ...
        @property
        def tally(self) -> Tally: ...
        @property
        def middleware(self) -> tuple[Middleware, ...]: ...
        @property
        def instruments(self) -> tuple[Instruments, ...]: ...

    class Stashing(Protocol):
        """Where stashed items go."""

        def add(self, item: Item) -> None: ...

    class ExecutorActor(Protocol):
        """The actor whose items are handled."""

        title: str
        settings: Settings
        mailbox: Mailbox
        behaviour: Behaviour
        handlers: HandlerTable
        admission: AdmissionQueue | None

        @property
        def label(self) -> str: ...
        @property
        def services(self) -> SharedTools: ...
        @property
        def consumer(self) -> Settler | None: ...
        @property
        def batches(self) -> Batches: ...
        @property
        def stash(self) -> Stashing: ...
        def idle(self) -> None: ...

    class HeldReplies(Protocol):
        """The replies that the incarnation owes at its end."""

        def hold(self, reply: Reply, what: str) -> None:
            """Fail a reply once it is known whether the actor is over or starts again; `what` has happened to it."""
            ...

    class Workplace(Protocol):
        """The incarnation that an executor works for."""

        stopping: bool
        instance: Any
        failure: BaseException | None
        """The crash that ends it, from when an executor has raised it."""

        @property
        def actor(self) -> ExecutorActor: ...
        @property
        def wants_executor(self) -> bool: ...
        def add_executor(self) -> None: ...
        def executor_ended(self) -> None: ...
        def finish(self) -> None: ...
        @property
        def replies(self) -> HeldReplies: ...

    class Worker(Protocol):
        """An executor: what is in flight, and for how long."""

        item: Item | None
        began: float | None
        timeout: float
        ended: EndReason | None

        @property
        def workplace(self) -> Workplace: ...
        def give_up(self) -> None:
            """Let go of the item in flight, since its handler was cancelled."""
            ...


def explained(error: BaseException) -> None:
    """Add to the error of a call on the wrong event loop what to do about it."""
    for leaf in leaves(error):
        if type(leaf) in (RuntimeError, TypeError):
            for beginning, note in _NOTES.items():
                if str(leaf).startswith(beginning):
                    leaf.add_note(note)


_ON_TRIO: Final = (
    "Handlers run on Trio, where asyncio's functions do not work. Use Trio's (trio.sleep, trio.open_nursery …), a"
    " library that works with both (httpx, anyio), or an asyncio loop: Settings(loop='asyncio') for an actor,"
    " @receive(loop='asyncio') for a handler, `await self.context.on_asyncio(function, …)` for a call"
)
_NOT_ON_TRIO: Final = (
    "A function of Trio's was called where Trio does not run. In a handler on asyncio, use asyncio's functions, or"
    " `await self.context.on_trio(function, …)`; in a handler without `async`, `trio.from_thread.run(function, …)`"
)


_NOTES: Final = {
    "no running event loop": _ON_TRIO,
    "trio.run received unrecognized yield message": _ON_TRIO,
    "must be called from async context": _NOT_ON_TRIO,
}
"""How such errors begin."""


def interrupts(error: BaseException) -> bool:
    """Return whether a `KeyboardInterrupt` is in an error."""
    return any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves(error))


def is_from_outside(error: BaseException) -> bool:
    """Return whether an error is no result of the handler: an interrupt, or a cancellation that came from outside."""
    if is_plain(error):
        return False
    if interrupts(error):
        return True
    # A `Cancelled` that was carried here from some other scope cancels nothing: it is an error like any other.
    cancelled = trio.current_effective_deadline() == -math.inf
    return cancelled and all(isinstance(leaf, trio.Cancelled) for leaf in leaves(error))
