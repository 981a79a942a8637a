"""Limiters: the state of one limit in this process, for all actors that name it.

    RateLimiter           `RateLimit`
    Semaphore             `ConcurrencyLimit` and `Bulkhead`
    CircuitBreakerState   `CircuitBreaker`, which is always per process

Those that count over all nodes are in `shared`. The decisions are in `policy/limits`, and the clock is an argument
here too. Nothing here waits.

A limiter serves several admission queues if several actors name it. They take turns, and a queue whose actor could not
begin anything now is skipped: otherwise one busy actor would stop all the others.
"""

from __future__ import annotations

import math
from typing import Final, Protocol, TypeAlias

import attrs

from actorwork import events
from actorwork.abc import EventSink
from actorwork.errors import Shutdown, Verdict
from actorwork.groups import leaves
from actorwork.policy.limits import (
    Bulkhead,
    CircuitBreaker,
    CircuitState,
    Closed,
    ConcurrencyLimit,
    HalfOpen,
    Open,
    RateLimit,
    admitted,
    after_outcome,
    reserved,
)
from actorwork.shown import Shown

MOST_PROBES: Final = 100
"""The most failed probes of an open circuit to hold here, where other nodes cannot have them."""
_EPSILON: Final = 1e-9
"""Seconds below which a wait is none: sums of floats are not exact, and a simulated clock may not move at all."""

Grant: TypeAlias = object
"""What `take` returns to an admitted delivery, and what `undo` or `leave` takes back."""


class Waiter(Protocol):
    """An admission queue, as a limiter sees it."""

    @property
    def is_full(self) -> bool:
        """Whether it would admit nothing now, since its actor could not begin it."""
        ...

    def wake(self) -> None:
        """Have it look, soon, for deliveries that may begin now."""
        ...


class Limiter:
    """One limit, for all keys that partition it."""

    def __init__(self) -> None:
        self.listeners: list[Waiter] = []
        """The admission queues of all actors that name the limit; woken when it admits again."""
        self._demand: dict[str, int] = {}
        self._queues: dict[str, dict[Waiter, None]] = {}
        """By key, the admission queues with deliveries that wait for it; the one that was served last is at the end."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {sum(self._demand.values())} waiting>"

    def take(self, key: str, now: float) -> Grant | None:
        """Admit one delivery, or return None."""
        raise NotImplementedError

    def wait(self, key: str, now: float) -> float:
        """Return the seconds until the next try; infinite: the listeners will be woken."""
        raise NotImplementedError

    def undo(self, key: str, grant: Grant) -> None:
        """Take back the grant of a delivery that did not begin."""

    def leave(self, key: str, grant: Grant, now: float, error: BaseException | None, *, done: bool) -> bool:
        """Take back the grant of a delivery that has ended: `done`, or by an error, or (neither) inconclusively.

        Return whether the delivery has to wait again, as if it had not begun.
        """
        return False

    def ahead(self) -> float:
        """Return how many deliveries may wait here; more are better left at the broker."""
        return math.inf

    # ---- turns of the admission queues ----

    def joined(self, key: str, waiter: Waiter) -> None:
        """Count one more delivery that waits for a key in this queue."""
        self._demand[key] = self._demand.get(key, 0) + 1
        self._queues.setdefault(key, {})[waiter] = None

    def left(self, key: str, waiter: Waiter, *, last: bool) -> None:
        """Count out a delivery that waited; `last`: no other one waits for the key in its queue."""
        count = self._demand[key] - 1
        queues = self._queues[key]
        # To the end, even if it is not admitted after all: it has had its turn.
        del queues[waiter]
        if not last:
            queues[waiter] = None
        if count:
            self._demand[key] = count
            self.pass_on(key, waiter)
        else:
            del self._demand[key], self._queues[key]

    def is_turn_of(self, key: str, waiter: Waiter) -> bool:
        """Return whether a queue may admit before the others; if not, wake the one whose turn it is.

        Without the wake-up the turn would be lost: the queue that asks does not ask again by itself.
        """
        for other in self._queues.get(key, ()):
            if other is waiter:
                return True
            if not other.is_full:
                other.wake()
                return False
        return True

    def pass_on(self, key: str, waiter: Waiter) -> None:
        """Wake the next queue after this one, since it may be its turn."""
        for other in self._queues.get(key, ()):
            if other is not waiter and not other.is_full:
                other.wake()
                return

    def demand(self, key: str) -> int:
        """Return how many deliveries wait for a key."""
        return self._demand.get(key, 0)

    def _wake_listeners(self) -> None:
        for waiter in self.listeners:
            waiter.wake()


class RateLimiter(Limiter):
    """At most `rate` in `per` seconds."""

    def __init__(self, limit: RateLimit) -> None:
        super().__init__()
        self._limit = limit
        # Computed once: properties of the limit, but read for every message.
        self._interval = limit.interval
        self._burst = limit.at_once
        self._tats: dict[str, float] = {}
        """By key, the theoretical arrival time of the next message (GCRA)."""
        self._sweep_at = 64

    def change(self, limit: RateLimit) -> None:
        """Go by another limit from now on. What was admitted already counts as before."""
        self._limit, self._interval, self._burst = limit, limit.interval, limit.at_once
        self._wake_listeners()

    def _next(self, key: str, now: float) -> tuple[float, float]:
        return reserved(self._tats.get(key, -math.inf), now, interval=self._interval, burst=self._burst)

    def take_alone(self, now: float) -> bool:
        """Admit one delivery without a key, unless it or another one has to wait."""
        return not self._queues and self.take("", now) is not None

    def take(self, key: str, now: float) -> Grant | None:
        # As `_next`, without the call: this runs for every message.
        tats = self._tats
        moved, wait = reserved(tats.get(key, -math.inf), now, interval=self._interval, burst=self._burst)
        if wait > _EPSILON:
            return None
        tats[key] = moved
        # A time in the past limits no more than none does. The bound doubles, so that sweeps cost little for each key.
        if len(self._tats) > self._sweep_at:
            self._tats = {key: tat for key, tat in self._tats.items() if tat > now}
            self._sweep_at = 64 + 2 * len(self._tats)
        return self

    def wait(self, key: str, now: float) -> float:
        wait = self._next(key, now)[1]
        return wait if wait > _EPSILON else 0.0

    def undo(self, key: str, grant: Grant) -> None:
        if key in self._tats:
            self._tats[key] -= self._interval

    def ahead(self) -> float:
        return math.inf if self._limit.by is not None else self._limit.ahead


class Semaphore(Limiter):
    """At most `limit` at once."""

    def __init__(self, limit: ConcurrencyLimit | Bulkhead) -> None:
        super().__init__()
        self._limit = limit.limit
        self._is_partitioned = isinstance(limit, ConcurrencyLimit) and limit.by is not None
        self._taken: dict[str, int] = {}

    def take(self, key: str, now: float) -> Grant | None:
        taken = self._taken.get(key, 0)
        if taken >= self._limit:
            return None
        self._taken[key] = taken + 1
        return self

    def wait(self, key: str, now: float) -> float:
        return 0.0 if self._taken.get(key, 0) < self._limit else math.inf

    def undo(self, key: str, grant: Grant) -> None:
        taken = self._taken[key] - 1
        if taken:
            self._taken[key] = taken
        else:
            del self._taken[key]
        self._wake_listeners()

    def leave(self, key: str, grant: Grant, now: float, error: BaseException | None, *, done: bool) -> bool:
        self.undo(key, grant)
        return False

    def ahead(self) -> float:
        return math.inf if self._is_partitioned else self._limit


@attrs.frozen(eq=False, repr=False)
class _CircuitGrant(Shown):
    """A delivery that a circuit admitted."""

    probe: bool


class CircuitBreakerState(Limiter):
    """Admits nothing for a while after too many failures."""

    def __init__(self, rule: CircuitBreaker, name: str, emit: EventSink) -> None:
        super().__init__()
        self._rule = rule
        self._name = name
        self._emit = emit
        self._state: CircuitState = Closed()
        self._failed_probes = 0
        """Since it was closed. These deliveries wait here again, and the next probe must be another one."""

    @property
    def state(self) -> CircuitState:
        return self._state

    @property
    def is_open(self) -> bool:
        """Whether it admits nothing, or probes alone."""
        return not isinstance(self._state, Closed)

    def take(self, key: str, now: float) -> Grant | None:
        state, may = admitted(self._state, now)
        if not may:
            return None
        self._move(state, None)
        return _CircuitGrant(probe=isinstance(state, HalfOpen))

    def wait(self, key: str, now: float) -> float:
        match self._state:
            case Open(until=until):
                return max(0.0, until - now)
            case HalfOpen(probing=True):
                return math.inf
            case _:
                return 0.0

    def undo(self, key: str, grant: Grant) -> None:
        # The time does not matter: an inconclusive outcome is not counted, it only ends the probe.
        self.leave(key, grant, 0.0, None, done=False)

    def leave(self, key: str, grant: Grant, now: float, error: BaseException | None, *, done: bool) -> bool:
        failed: bool | None = False if done else None
        # A verdict is about the message, and a shutdown about this node: neither is about the dependency.
        if error is not None and not isinstance(error, (Verdict, Shutdown)):
            failed = any(isinstance(leaf, self._rule.on) for leaf in leaves(error)) or None
        probe = isinstance(grant, _CircuitGrant) and grant.probe
        self._failed_probes += probe and failed is True
        self._move(after_outcome(self._state, self._rule, now, failed=failed, probe=probe), error)
        return failed is True and not isinstance(self._state, Closed)

    def ahead(self) -> float:
        # While it is open, one delivery waits, to be the next probe; one more for each failed probe that waits again.
        # So the intake pauses, and the other deliveries stay where other nodes can take them.
        return math.inf if isinstance(self._state, Closed) else 1 + min(self._failed_probes, MOST_PROBES)

    def _move(self, state: CircuitState, error: BaseException | None) -> None:
        before, self._state = self._state, state
        if isinstance(state, Closed):
            self._failed_probes = 0
        if type(before) is not type(state):
            seconds = self._rule.reset if isinstance(state, Open) else 0.0
            now = {Closed: "closed", Open: "open", HalfOpen: "half open"}[type(state)]
            self._emit(events.CircuitChanged(self._name, now, seconds, error))
        # Not when it opens: its end is a matter of time, which `wait` tells. All other changes may admit a delivery.
        if before != state and not isinstance(state, Open):
            self._wake_listeners()
