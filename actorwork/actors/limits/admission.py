"""The gate: where deliveries wait that a limit holds back, between the mailbox and the handler.

    mailbox ──▶ executor ──enter──▶ all turnstiles let it through ──▶ handler ──leave──▶ they are told how it ended
                               └──▶ one does not: it waits here ──called──▶ the front of the mailbox

An executor never waits: it puts what may not begin here, and goes on with the next. So a limit eats nobody's
`execution_timeout`, and a delivery whose key must wait stands in nobody's way. Who waits for the same thing is
called in order, the urgent first; what comes later does not go before. What is called has already gone through, so no
more are called than the actor can begin at once: what it grants would be missing elsewhere.

What waits is still this node's, by its lease, and is handed back at a shutdown. It takes no room in the mailbox: here
it is bounded by what each limit lets wait (`Limiter.ahead`) and by `WAITING_ROOM`; beyond that the reader stops.
An open circuit lets one wait, and one more for each that has tried it in vain: that is how the intake pauses.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import trio

from actorwork.actors.limits.limiters import Grant, Limiter, RateLimiter
from actorwork.actors.mailbox.priority_deque import PriorityDeque
from actorwork.errors import CodecError
from actorwork.message import Delivery
from actorwork.policy.bounds import is_utf8
from actorwork.policy.intake import urgent_room
from actorwork.policy.limits import By, Limit

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from actorwork.actors.handlers.behaviour import Behaviour
    from actorwork.actors.handlers.table import HandlerTable
    from actorwork.actors.limits.limiters import LimiterRegistry
    from actorwork.actors.mailbox.mailbox import Mailbox
    from actorwork.message import Priority
    from actorwork.settings import Settings

LONGEST_KEY: Final = 300
"""Characters, as for all names that are the user's."""
WAITING_ROOM: Final = 100
"""How many deliveries wait at most for limits of some (of a key, of one handler of several), so that others come."""

Place: TypeAlias = "tuple[Limiter, str]"
"""A limit, and the key it is divided by; the empty one, where it is not."""


class Permit:
    """A delivery at the gate: where it has to go through, and what it was granted there."""

    __slots__ = ("delivery", "grants", "places")

    def __init__(self, delivery: Delivery, places: Sequence[Place]) -> None:
        self.delivery = delivery
        self.places = places
        self.grants: list[tuple[Limiter, str, Grant]] = []

    @property
    def priority(self) -> Priority:
        return self.delivery.priority


EMPTY_PERMIT: Final = Permit(Delivery("", "", b"", None), ())
"""Held by everybody who has nothing to give back."""


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
        "_called",
        "_differ",
        "_handlers",
        "_is_served",
        "_limiters",
        "_limits",
        "_news",
        "_owner",
        "_pace",
        "_same_places",
        "_start_soon",
        "_starved",
        "_waiting",
        "queues",
    )

    def __init__(self, owner: AdmissionOwner, limiters: LimiterRegistry, start_soon: Callable[..., None]) -> None:
        self._owner = owner
        self._limiters = limiters
        self._start_soon = start_soon
        handlers = list(owner.handlers)
        self._limits = self._entered(owner.settings.limits, "")
        self._handlers: dict[str, Sequence[tuple[Limiter, By]]] = {}
        """The limits of single handlers. Those of the only handler are the actor's."""
        self._differ = len(handlers) > 1 and any(handler.limits for handler in handlers)
        if len(handlers) == 1:
            self._limits += self._entered(handlers[0].limits, handlers[0].name)
        self._same_places: list[Place] = []
        """Where every delivery has to go through, if that is not a matter of the delivery."""
        if not self._differ and all(by is None for _, by in self._limits):
            self._same_places = [(turnstile, "") for turnstile, _ in self._limits]
        paces = [turnstile for turnstile, _ in self._same_places if isinstance(turnstile, RateLimiter)]
        self._pace = paces[0] if len(paces) == len(self._same_places) == 1 else None
        """The only limit, where it is one that nobody has to leave again: the commonest case, and the quickest."""
        self.queues: dict[Place, PriorityDeque[Permit]] = {}
        """Who waits where; nobody, where it is empty."""
        self._called: dict[int, Permit] = {}
        self._waiting = [0, 0]
        """How many wait for a limit of all, and for a limit of some."""
        self._news = trio.Event()
        self._is_served = False
        self._starved = False

    def __repr__(self) -> str:
        return f"<gate of {self._owner.title!r}: {len(self)} waiting, {len(self._called)} called>"

    def __len__(self) -> int:
        return sum(self._waiting)

    def _entered(self, limits: Sequence[Limit], where: str) -> list[tuple[Limiter, By]]:
        found: list[tuple[Limiter, By]] = []
        for number, limit in enumerate(limits):
            usual_name = ":".join(filter(None, [self._owner.settings.id, where, str(number)]))
            whose = f"{self._owner.title}.{where}" if where else self._owner.title
            turnstile = self._limiters.of(limit, usual_name, whose)
            turnstile.waiters.append(self)
            found.append((turnstile, getattr(limit, "by", None)))
        return found

    # ---- going through ----

    def enter(self, delivery: Delivery) -> Permit | None:
        """Let a delivery through, or let it wait (None). Raises what a user's `by` raises."""
        if self._pace is not None and not self.queues and self._pace.take_alone(trio.current_time()):
            return EMPTY_PERMIT
        permit = self._called.pop(id(delivery), None) if self._called else None
        if permit is None:
            permit = Permit(delivery, self._same_places or self._places_of(delivery))
            return permit if self._try(permit, None) else None
        return permit

    def leave(self, permit: Permit, error: BaseException | None = None, *, done: bool = False) -> bool:
        """Say how it ended, once; return whether it has to wait again, as if it had not begun."""
        grants, permit.grants = permit.grants, []
        now = trio.current_time()
        waits = False
        for turnstile, key, grant in grants:
            waits |= turnstile.leave(key, grant, now, error, done=done)
        if waits:
            self._tell_room()  # Another one is to try it the next time, if there is any.
        return waits

    def _places_of(self, delivery: Delivery) -> list[Place]:
        places: list[Place] = []
        limits = (*self._limits, *self._limits_of_handler(delivery)) if self._differ else self._limits
        for turnstile, by in limits:
            key = "" if by is None else _divided(by, delivery) if callable(by) else delivery.key
            if key is not None:
                places.append((turnstile, key))
        return places

    def _limits_of_handler(self, delivery: Delivery) -> Sequence[tuple[Limiter, By]]:
        try:
            handler = self._owner.behaviour.for_delivery(delivery)
        except CodecError:
            return ()  # The executor finds out, too, and settles it.
        found = self._handlers.get(handler.name)
        if found is None:
            found = self._handlers[handler.name] = self._entered(handler.limits, handler.name)
        return found

    def _try(self, permit: Permit, called_at: Place | None) -> bool:
        """Go through everywhere, or nowhere: then wait at the place that did not let it."""
        now = trio.current_time()
        for place in permit.places:
            turnstile, key = place
            # Nobody goes before those who wait already.
            may = place == called_at or (place not in self.queues and turnstile.is_turn_of(key, self))
            grant = turnstile.take(key, now) if may else None
            if grant is None:
                self._undo(permit)
                self._join(place, permit, first=place == called_at)
                if called_at is None:
                    self._owner.mailbox.delivery_set_aside()
                return False
            permit.grants.append((turnstile, key, grant))
        return True

    @staticmethod
    def _undo(permit: Permit) -> None:
        grants, permit.grants = permit.grants, []
        for turnstile, key, grant in grants:
            turnstile.undo(key, grant)

    # ---- waiting ----

    def _join(self, place: Place, permit: Permit, *, first: bool) -> None:
        queue = self.queues.get(place)
        if queue is None:
            queue = self.queues[place] = PriorityDeque[Permit]()
        if first:
            queue.appendleft(permit)
        else:
            queue.append(permit)
        self._waiting[self._is_for_some(place)] += 1
        place[0].joined(place[1], self)
        self.wake()
        if not self._is_served:
            self._is_served = True
            self._start_soon(self._serve_until_empty)

    def wake(self) -> None:
        """Have it looked, soon, whether somebody may go through now."""
        self._news.set()

    async def _serve_until_empty(self) -> None:
        """Call those whose turn it is, while somebody waits; a task of the system's own."""
        try:
            while self.queues:
                self._news = trio.Event()
                self.admit_waiting()
                with trio.move_on_at(self._next_time()):
                    await self._news.wait()
        finally:
            self._is_served = False

    def _next_time(self) -> float:
        if self.is_full:
            return math.inf
        now = trio.current_time()
        waits = (turnstile.wait(key, now) for turnstile, key in self.queues)
        # Where it is another gate's turn, that one tells.
        return now + min((wait for wait in waits if wait > 0), default=math.inf)

    @property
    def is_full(self) -> bool:
        """Whether as many are called as can be begun at once."""
        return len(self._called) >= self._owner.free

    def admit_waiting(self) -> None:
        """Call those who may go through now: of each place one after the other, so that no key waits for another's.

        By the task that waits for news of the limits, and by an executor that has come to the end of something.
        """
        called: list[Any] = []
        served = True
        while served and not self.is_full:
            served = False
            for place in list(self.queues):
                if self.is_full or place not in self.queues:
                    continue
                turnstile, key = place
                if turnstile.wait(key, trio.current_time()) > 0 or not turnstile.is_turn_of(key, self):
                    continue
                permit = self._pop(place)
                if self._try(permit, place):
                    self._called[id(permit.delivery)] = permit
                    called.append(permit.delivery)
                    served = True
        if called:
            self._owner.mailbox.put_first(called)
            self._tell_room()
        if self.is_full:
            for turnstile, key in self.queues:
                turnstile.pass_on(key, self)

    def _pop(self, place: Place) -> Permit:
        """Take out the one whose turn it is; who else waits there comes after the other places."""
        queue = self.queues.pop(place)
        permit = queue.popleft()
        if queue:
            self.queues[place] = queue
        place[0].left(place[1], self, last=not queue)
        self._waiting[self._is_for_some(place)] -= 1
        return permit

    def _is_for_some(self, place: Place) -> bool:
        """Whether others of this actor need not wait there: those of another key, or for another handler."""
        return all(place[0] is not turnstile or by is not None for turnstile, by in self._limits)

    def take_deliveries(self, sources: Collection[str] | None = None) -> list[Delivery]:
        """Take out all that wait; what was called, and is taken from the mailbox too, has not gone through."""
        found: list[Delivery] = []
        for place in list(self.queues):
            while place in self.queues:
                found.append(self._pop(place).delivery)
        for permit in self._called.values():
            self._undo(permit)
        self._called.clear()
        self._tell_room()
        return found

    # ---- the reader's side ----

    def credit(self, room: int, *, urgent: bool) -> int:
        """Return how much of the mailbox's room is to be used."""
        of_all, of_some = self._waiting
        ahead = min((turnstile.ahead() for turnstile, _ in self._limits), default=math.inf)
        if urgent:
            ahead += urgent_room(self._owner.settings.concurrency)
        if of_some >= WAITING_ROOM or of_all >= ahead:
            self._starved = True
            return 0
        return int(min(room, ahead - of_all))

    def _tell_room(self) -> None:
        if self._starved:
            self._starved = False
            self._owner.room_made()


def _divided(by: Callable[[Delivery], object], delivery: Delivery) -> str | None:
    """Ask a user's function for which key a limit holds; what it answers may go to the broker as a name."""
    key = by(delivery)
    if key is None:
        return None
    if not isinstance(key, str) or len(key) > LONGEST_KEY or not is_utf8(key):
        raise TypeError(
            f"a limit's by wants to return None or a text of at most {LONGEST_KEY} characters in UTF-8, got {key!r:.99}"
        )
    return key
