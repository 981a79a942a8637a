"""What all actors of a system share."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, NoReturn, Protocol

import attrs
import trio

from actorwork.abc import EventSink, Instruments, LimitStore, Middleware, PublishMiddleware, Values
from actorwork.actors.context.timers import Expiries, TimerWheel
from actorwork.actors.limits.registry import LimiterRegistry
from actorwork.actors.refs.registry import Registry
from actorwork.actors.refs.topics import Topics
from actorwork.errors import NotRunning
from actorwork.policy.minutes import Tally
from actorwork.shown import Shown

if TYPE_CHECKING:
    from actorwork.actors.context.sending import SendingClient
    from actorwork.actors.execution.watchdog import Watchdog
    from actorwork.actors.supervision.supervisor import RunningSupervisor
    from actorwork.actors.tree.spec import DynamicSupervisor
    from actorwork.message import MessageIds
    from actorwork.state.lock import LockUse


if TYPE_CHECKING:

    class Resident(Protocol):
        """An actor, as the staged shutdown of its system sees it."""

        title: str

        @property
        def in_flight(self) -> bool:
            """Whether a handler runs."""
            ...

        @property
        def busy(self) -> bool:
            """Whether a handler runs or a local message waits."""
            ...

        def refuse(self, reason: str) -> None:
            """Refuse local messages from outside of actors."""
            ...

        async def wait_quiet(self) -> None:
            """Wait until it is not `busy`."""
            ...

        def end_in_flight(self) -> None:
            """Cancel what is in flight and begin nothing more."""
            ...


def _no_limit_store() -> NoReturn:
    raise NotRunning("limits over all nodes are counted by the broker of a running system")


if TYPE_CHECKING:

    class Quota(Protocol):
        """How many deliveries a process may still take, before it is replaced by a fresh one."""

        @property
        def left(self) -> int: ...
        def take(self, count: int) -> int:
            """Note that deliveries came, and return how many of them are too many: these are to be given back."""
            ...

        def give_back(self, count: int) -> None:
            """Note that deliveries will not be handled here."""
            ...

        def ended(self, count: int) -> None:
            """Note that deliveries were settled."""
            ...


@attrs.frozen(eq=False, repr=False)
class Services(Shown):
    """What all actors of a system share."""

    emit: EventSink
    watchdog: Watchdog
    ids: MessageIds
    random: Random = attrs.field(factory=Random)
    threads: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(math.inf))
    start_soon: Callable[..., None] = lambda *_: None
    """Starts a task of the system's own; does nothing once the system ends."""
    new_supervision: Callable[[DynamicSupervisor], RunningSupervisor] | None = None
    """Makes the supervisor of the actors that an actor spawns."""
    cells: dict[Resident, None] = attrs.field(factory=dict)
    """All actors that have not ended for good."""
    registry: Registry = attrs.field(factory=Registry)
    topics: Topics = attrs.field(factory=Topics)
    timers: TimerWheel = attrs.field(factory=TimerWheel)
    expiries: Expiries = attrs.field(factory=Expiries)
    values: Callable[[], Values] | None = None
    """Returns the broker's shared values and locks."""
    lock_uses: dict[LockUse, None] = attrs.field(factory=dict)
    """The locks that handlers wait for or hold now, for reports."""
    client: Callable[[tuple[PublishMiddleware, ...]], SendingClient] | None = None
    """Returns the system's own client of its broker, with these layers."""
    middleware: tuple[Middleware, ...] = ()
    """Wraps every delivery, outside of the actor's own."""
    publish_middleware: tuple[PublishMiddleware, ...] = ()
    instruments: tuple[Instruments, ...] = ()
    """Observe the deliveries of all actors."""
    shards: dict[str, int] = attrs.field(factory=dict[str, int])
    """Into how many shards sources are divided that these actors declare, and the broker has."""
    quota: Quota | None = None
    tally: Tally = attrs.field(factory=Tally)
    """Counts what ends, for the charts."""
    limit_store: Callable[[], LimitStore] = _no_limit_store
    """Returns what counts limits over all nodes."""
    limiters: LimiterRegistry = attrs.field(
        default=attrs.Factory(lambda self: LimiterRegistry(self, self.ids.publisher), takes_self=True)
    )

    @property
    def dice(self) -> Callable[[], float]:
        return self.random.random
