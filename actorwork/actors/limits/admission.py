"""The admission queue: holds back deliveries until the actor's limits admit them, between mailbox and handler.

    mailbox ──▶ executor ──enter──▶ all limiters admit it ──▶ handler ──leave──▶ the limiters learn how it ended
                               └──▶ one does not: it waits here ──admitted──▶ the front of the mailbox

An executor never waits: it puts a delivery that may not begin here and takes the next one. So a limit does not use up
`execution_timeout`, and a delivery whose key must wait blocks no other key. Deliveries that wait for the same limiter
and key are admitted in order, the urgent ones first; a later delivery does not overtake them. An admitted delivery
already has all its grants, so no more are admitted than the actor can begin at once: a grant that lies in a mailbox is
missing elsewhere.

The deliveries that wait still belong to this node, by its lease, and are released at a shutdown. They take no room in
the mailbox: here they are bounded by `Limiter.ahead` and `WAITING_ROOM`; beyond that the reader stops.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import trio

from actorwork.actors.limits.limiters import Grant, Limiter, RateLimiter
from actorwork.actors.mailbox.priority_deque import PriorityDeque
from actorwork.errors import CodecError
from actorwork.message import Delivery
from actorwork.policy.bounds import LONGEST_NAME, is_utf8
from actorwork.policy.intake import urgent_room
from actorwork.policy.limits import By, Limit

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from actorwork.actors.handlers.behaviour import Behaviour
    from actorwork.actors.handlers.table import HandlerTable
    from actorwork.actors.limits.registry import LimiterRegistry
    from actorwork.actors.mailbox.mailbox import Mailbox
    from actorwork.message import Priority
    from actorwork.settings import Settings

WAITING_ROOM: Final = 100
"""The most deliveries that wait for partial limits (of a key, or of one handler of several), so that others come."""

Partition: TypeAlias = "tuple[Limiter, str]"
"""A limiter and a key that partitions it; the key is empty if the limit is not partitioned."""


class Permit:
    """A delivery at the admission queue: the partitions that must admit it, and the grants it has from them."""

    __slots__ = ("delivery", "grants", "partitions")

    def __init__(self, delivery: Delivery, partitions: Sequence[Partition]) -> None:
        self.delivery = delivery
        self.partitions = partitions
        self.grants: list[tuple[Limiter, str, Grant]] = []

    @property
    def priority(self) -> Priority:
        return self.delivery.priority


EMPTY_PERMIT: Final = Permit(Delivery("", "", b"", None), ())
"""Shared by all deliveries that have nothing to give back."""


class AdmissionOwner(Protocol):
    """The actor whose deliveries wait."""

    title: str
    settings: Settings
    handlers: HandlerTable
    behaviour: Behaviour
    mailbox: Mailbox

    @property
    def free(self) -> int:
        """How many deliveries it could begin now."""
        ...

    def room_made(self) -> None: ...


class AdmissionQueue:
    """The limits of one actor, and the deliveries that wait for them."""

    __slots__ = (
        "_admitted",
        "_fixed_partitions",
        "_handler_limits",
        "_handlers_differ",
        "_is_serving",
        "_limiters",
        "_limits",
        "_only_rate_limiter",
        "_owner",
        "_start_soon",
        "_starved",
        "_waiting",
        "_woken",
        "queues",
    )

    def __init__(self, owner: AdmissionOwner, limiters: LimiterRegistry, start_soon: Callable[..., None]) -> None:
        self._owner = owner
        self._limiters = limiters
        self._start_soon = start_soon
        handlers = list(owner.handlers)
        self._limits = self._joined(owner.settings.limits, "")
        self._handler_limits: dict[str, Sequence[tuple[Limiter, By]]] = {}
        """The limits of single handlers; those of an only handler are the actor's."""
        self._handlers_differ = len(handlers) > 1 and any(handler.limits for handler in handlers)
        if len(handlers) == 1:
            self._limits += self._joined(handlers[0].limits, handlers[0].name)
        self._fixed_partitions: list[Partition] = []
        """The partitions of every delivery, if they do not depend on the delivery."""
        if not self._handlers_differ and all(by is None for _, by in self._limits):
            self._fixed_partitions = [(limiter, "") for limiter, _ in self._limits]
        rates = [limiter for limiter, _ in self._fixed_partitions if isinstance(limiter, RateLimiter)]
        self._only_rate_limiter = rates[0] if len(rates) == len(self._fixed_partitions) == 1 else None
        """The only limit, if it is a rate: the commonest case, and the quickest, since nothing is given back."""
        self.queues: dict[Partition, PriorityDeque[Permit]] = {}
        """The deliveries that wait for each partition; a partition for which none waits has no entry."""
        self._admitted: dict[int, Permit] = {}
        """By id of the delivery: admitted, and on the way through the mailbox to an executor."""
        self._waiting = [0, 0]
        """How many wait for a limit of all deliveries, and for a partial one."""
        self._woken = trio.Event()
        self._is_serving = False
        self._starved = False

    def __repr__(self) -> str:
        return f"<admission queue of {self._owner.title!r}: {len(self)} waiting, {len(self._admitted)} admitted>"

    def __len__(self) -> int:
        return sum(self._waiting)

    def _joined(self, limits: Sequence[Limit], where: str) -> list[tuple[Limiter, By]]:
        """Return the limiters of some limits, which wake this queue from now on."""
        found: list[tuple[Limiter, By]] = []
        for number, limit in enumerate(limits):
            usual_name = ":".join(filter(None, [self._owner.settings.id, where, str(number)]))
            whose = f"{self._owner.title}.{where}" if where else self._owner.title
            limiter = self._limiters.of(limit, usual_name, whose)
            limiter.listeners.append(self)
            found.append((limiter, getattr(limit, "by", None)))
        return found

    # ---- for those who look at it ----

    @property
    def limiters(self) -> Iterator[Limiter]:
        """The limiters of the actor and of its handlers, as far as these had deliveries."""
        for limits in (self._limits, *self._handler_limits.values()):
            for limiter, _ in limits:
                yield limiter

    def hold_ups(self, now: float) -> Iterator[tuple[Limiter, int, float]]:
        """Yield what holds deliveries back here: a limiter, how many, and the seconds until it may admit the next."""
        for (limiter, key), permits in self.queues.items():
            yield limiter, len(permits), limiter.wait(key, now)

    # ---- entering and leaving ----

    def enter(self, delivery: Delivery) -> Permit | None:
        """Admit a delivery, or put it here to wait and return None. Raises what a user's `by` raises."""
        # A single rate limit, and none waits: no permit is made, since there is nothing to give back.
        if (
            self._only_rate_limiter is not None
            and not self.queues
            and self._only_rate_limiter.take_alone(trio.current_time())
        ):
            return EMPTY_PERMIT
        # By identity: a delivery that was admitted while it waited comes back as the same object.
        permit = self._admitted.pop(id(delivery), None) if self._admitted else None
        if permit is None:
            permit = Permit(delivery, self._fixed_partitions or self._partitions_of(delivery))
            return permit if self._try(permit, None) else None
        return permit

    def leave(self, permit: Permit, error: BaseException | None = None, *, done: bool = False) -> bool:
        """Tell the limiters how a delivery ended; return whether it has to wait again, as if it had not begun.

        Only the first call for a permit counts, so that every way out of a handler may end with one.
        """
        grants, permit.grants = permit.grants, []
        now = trio.current_time()
        waits = False
        for limiter, key, grant in grants:
            waits |= limiter.leave(key, grant, now, error, done=done)
        if waits:
            # A failed probe of a circuit: the next probe must be another delivery, so let the reader bring one.
            self._tell_room()
        return waits

    def _partitions_of(self, delivery: Delivery) -> list[Partition]:
        partitions: list[Partition] = []
        limits = (*self._limits, *self._limits_of_handler(delivery)) if self._handlers_differ else self._limits
        for limiter, by in limits:
            key = "" if by is None else _key_by(by, delivery) if callable(by) else delivery.key
            if key is not None:
                partitions.append((limiter, key))
        return partitions

    def _limits_of_handler(self, delivery: Delivery) -> Sequence[tuple[Limiter, By]]:
        try:
            handler = self._owner.behaviour.for_delivery(delivery)
        except CodecError:
            return ()  # The executor meets the same error, and settles the delivery by it.
        found = self._handler_limits.get(handler.name)
        if found is None:
            found = self._handler_limits[handler.name] = self._joined(handler.limits, handler.name)
        return found

    def _try(self, permit: Permit, first_at: Partition | None) -> bool:
        """Take a grant of every partition, or of none and wait for the first that refuses.

        All or nothing, since a delivery that waits for one limit with the grant of another would block that one, and
        two of them could wait for each other. `first_at` is the partition at whose head the delivery has just been.
        """
        now = trio.current_time()
        for partition in permit.partitions:
            limiter, key = partition
            # Behind those that wait already, of this actor (`queues`) and of others (`is_turn_of`): otherwise a busy
            # stream of new deliveries would take every grant that becomes free, and the old ones would starve.
            # One that comes from the head of a queue is old itself, and passes the others of its actor: if each head
            # went behind the queue of the other, two of them would change places for ever.
            is_behind = first_at is None and partition in self.queues
            may = partition == first_at or (not is_behind and limiter.is_turn_of(key, self))
            grant = limiter.take(key, now) if may else None
            if grant is None:
                self._undo(permit)
                self._wait_at(partition, permit, first=partition == first_at)
                if first_at is None:
                    self._owner.mailbox.delivery_set_aside()
                    self._limiters.note_wait(limiter)
                return False
            permit.grants.append((limiter, key, grant))
        return True

    @staticmethod
    def _undo(permit: Permit) -> None:
        grants, permit.grants = permit.grants, []
        for limiter, key, grant in grants:
            limiter.undo(key, grant)

    # ---- waiting ----

    def _wait_at(self, partition: Partition, permit: Permit, *, first: bool) -> None:
        queue = self.queues.get(partition)
        if queue is None:
            queue = self.queues[partition] = PriorityDeque[Permit]()
        if first:
            queue.appendleft(permit)
        else:
            queue.append(permit)
        self._waiting[self._is_partial(partition)] += 1
        partition[0].joined(partition[1], self)
        # Also if the task runs already: it may sleep until a later time than this partition's.
        self.wake()
        if not self._is_serving:
            self._is_serving = True
            self._start_soon(self._serve_until_empty)

    def wake(self) -> None:
        """Have the serving task look, soon, for deliveries that may begin now.

        Not here and now: limiters call this in the middle of `take`, `undo` and `leave`, where their state and the
        queues of other actors are half-changed.
        """
        self._woken.set()

    async def _serve_until_empty(self) -> None:
        """Admit deliveries when their turn comes, as long as any wait; a task of the system's own."""
        try:
            while self.queues:
                # The event before the look: a wake-up during the look must not be lost.
                self._woken = trio.Event()
                self.admit_waiting()
                with trio.move_on_at(self._next_time()):
                    await self._woken.wait()
        finally:
            self._is_serving = False

    def _next_time(self) -> float:
        if self.is_full:
            return math.inf  # An executor that becomes free wakes this queue.
        now = trio.current_time()
        waits = (limiter.wait(key, now) for limiter, key in self.queues)
        # No wait at all means that it is another queue's turn, which will pass it on: a deadline now would only spin.
        return now + min((wait for wait in waits if wait > 0), default=math.inf)

    @property
    def is_full(self) -> bool:
        """Whether as many deliveries are admitted as can be begun at once."""
        return len(self._admitted) >= self._owner.free

    def admit_waiting(self) -> None:
        """Admit the deliveries that may begin now: one of each partition in turn, so that no key waits for another.

        Called by the serving task, and by an executor at the end of a handler, before it takes its next item.
        """
        admitted: list[Any] = []
        progress = True
        while progress and not self.is_full:
            progress = False
            for partition in list(self.queues):
                # `_pop` and `_try` change the queues: an entry of the copy may be gone.
                if self.is_full or partition not in self.queues:
                    continue
                limiter, key = partition
                if limiter.wait(key, trio.current_time()) > 0 or not limiter.is_turn_of(key, self):
                    continue
                permit = self._pop(partition)
                if self._try(permit, partition):
                    self._admitted[id(permit.delivery)] = permit
                    admitted.append(permit.delivery)
                    progress = True
        if admitted:
            self._owner.mailbox.put_first(admitted)
            self._tell_room()
        if self.is_full:
            # This queue admits no more for now, so it must not keep the turn from the other actors' queues.
            for limiter, key in self.queues:
                limiter.pass_on(key, self)

    def _pop(self, partition: Partition) -> Permit:
        """Take out the first delivery of a partition, and move the partition behind the others."""
        queue = self.queues.pop(partition)
        permit = queue.popleft()
        if queue:
            self.queues[partition] = queue
        partition[0].left(partition[1], self, last=not queue)
        self._waiting[self._is_partial(partition)] -= 1
        return permit

    def _is_partial(self, partition: Partition) -> bool:
        """Return whether other deliveries of the actor may pass: those with another key, or for another handler."""
        return all(partition[0] is not limiter or by is not None for limiter, by in self._limits)

    def __iter__(self) -> Iterator[Delivery]:
        for queue in self.queues.values():
            for permit in queue:
                yield permit.delivery

    def take_deliveries(self, sources: Collection[str] | None = None) -> list[Delivery]:
        """Take out all that wait, and the grants of those admitted, which the caller takes out of the mailbox.

        All of them, whatever `sources`: the caller offers deliveries of other sources again.
        """
        found: list[Delivery] = []
        for partition in list(self.queues):
            while partition in self.queues:
                found.append(self._pop(partition).delivery)
        for permit in self._admitted.values():
            self._undo(permit)
        self._admitted.clear()
        self._tell_room()
        return found

    # ---- the reader's side ----

    def credit(self, room: int, *, urgent: bool) -> int:
        """Return how much of the mailbox's room the reader may use."""
        of_all, partial = self._waiting
        ahead = min((limiter.ahead() for limiter, _ in self._limits), default=math.inf)
        if urgent:
            ahead += urgent_room(self._owner.settings.concurrency)
        if partial >= WAITING_ROOM or of_all >= ahead:
            self._starved = True
            return 0
        return int(min(room, ahead - of_all))

    def _tell_room(self) -> None:
        if self._starved:
            self._starved = False
            self._owner.room_made()


def _key_by(by: Callable[[Delivery], object], delivery: Delivery) -> str | None:
    """Return the key of a delivery by a user's function; the broker may store the key, as part of a name."""
    key = by(delivery)
    if key is None:
        return None
    if not isinstance(key, str) or len(key) > LONGEST_NAME or not is_utf8(key):
        raise TypeError(
            f"a limit's by wants to return None or a str of at most {LONGEST_NAME} characters in UTF-8, got {key!r:.99}"
        )
    return key
