"""Where limits are kept: who may begin, who is inside, and who has to be told when that changes.

    PaceTurnstile         `RateLimit`, in this process
    RoomTurnstile         `ConcurrencyLimit` and `Bulkhead`, in this process
    CircuitTurnstile      `CircuitBreaker`, always in this process
    SharedPaceTurnstile   `RateLimit` over all nodes: tokens are taken from the broker in small batches, when wanted
    SharedRoomTurnstile   `ConcurrencyLimit` over all nodes: slots are taken from the broker, and renewed while in use

The decisions are in `policy/limits`; the clock is an argument here too. Nothing in here waits but the tasks that speak
to the broker, which belong to the system. A limiter serves several gates where several actors name it: they take
turns, and a gate whose actor has nobody free is passed over.

A slot that is free again goes to whoever waits for it in this node, for a second at most: then the other nodes have
their chance. The slots of a node that died, or whose loop is blocked, run out after `SLOT_TTL` seconds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeAlias

import attrs
import trio

from actorwork import events
from actorwork.abc import EventSink, LimitStore
from actorwork.errors import BrokerError, SettingsError, Shutdown, Verdict
from actorwork.groups import leaves
from actorwork.policy.limits import (
    Bulkhead,
    CircuitBreaker,
    CircuitState,
    Closed,
    ConcurrencyLimit,
    HalfOpen,
    Limit,
    Open,
    RateLimit,
    admitted,
    after_outcome,
    reserved,
)

SLOT_TTL: Final = 10.0
"""Seconds after which a slot is anybody's that its node does not renew."""
SLOT_KEPT: Final = 1.0
"""Seconds for which a slot is passed on within a node."""
FIRST_PAUSE: Final = 0.02
LONGEST_PAUSE: Final = 0.1
"""Seconds between two tries to have a slot of which all are taken."""
TOKENS_KEPT: Final = 1.0
"""Seconds for which tokens that were taken in advance count."""
TROUBLE_PAUSE: Final = 1.0
"""Seconds after which the broker is asked again, after it has failed."""
MOST_PROBES: Final = 100
"""How many messages wait at an open circuit at most that have tried it in vain: they are kept from other nodes."""
_EPSILON: Final = 1e-9
"""Seconds that are no time: sums of floats are not exact, and a clock may stand still."""

Grant: TypeAlias = object
"""What somebody has who went through; given back at the end."""


class Waiter(Protocol):
    """A gate, as a limiter sees it."""

    @property
    def is_full(self) -> bool:
        """Whether it would not let anybody go through now."""
        ...

    def wake(self) -> None:
        """Have it looked, soon, whether somebody may go through now."""
        ...


class Limiter:
    """One limit, for all keys that divide it."""

    def __init__(self) -> None:
        self.waiters: list[Waiter] = []
        """The gates that lead here, told when somebody may be let through who was not before."""
        self._demand: dict[str, int] = {}
        self._lines: dict[str, dict[Waiter, None]] = {}
        """Where deliveries wait for a key; who was let through there last stands at the end."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {sum(self._demand.values())} waiting>"

    def take(self, key: str, now: float) -> Grant | None:
        """Let one through, or not."""
        raise NotImplementedError

    def wait(self, key: str, now: float) -> float:
        """Return after how many seconds to try again; infinite: the listeners will be told."""
        raise NotImplementedError

    def undo(self, key: str, grant: Grant) -> None:
        """Take one back who went through, and did not begin."""

    def leave(self, key: str, grant: Grant, now: float, error: BaseException | None, *, done: bool) -> bool:
        """Count one out who has ended: `done`, or of an error, or (neither) in a way that says nothing.

        Return whether he has to wait again, as if he had not begun.
        """
        return False

    def ahead(self) -> float:
        """Return how many may wait here, before the rest had better wait at the broker."""
        return math.inf

    def joined(self, key: str, waiter: Waiter) -> None:
        """Somebody waits here from now on, at this gate."""
        self._demand[key] = self._demand.get(key, 0) + 1
        self._lines.setdefault(key, {})[waiter] = None

    def left(self, key: str, waiter: Waiter, *, last: bool) -> None:
        """Somebody does not wait here any more, who was the last one at this gate or not."""
        count = self._demand[key] - 1
        line = self._lines[key]
        del line[waiter]
        if not last:
            line[waiter] = None
        if count:
            self._demand[key] = count
            self.pass_on(key, waiter)
        else:
            del self._demand[key], self._lines[key]

    def is_turn_of(self, key: str, waiter: Waiter) -> bool:
        """Whether a gate may let somebody through before the others: they take turns. If not, who may is told."""
        for other in self._lines.get(key, ()):
            if other is waiter:
                return True
            if not other.is_full:
                other.wake()
                return False
        return True

    def pass_on(self, key: str, waiter: Waiter) -> None:
        """Tell the next gate that it may be its turn."""
        for other in self._lines.get(key, ()):
            if other is not waiter and not other.is_full:
                other.wake()
                return

    def demand(self, key: str) -> int:
        """Return how many wait."""
        return self._demand.get(key, 0)

    def _tell(self) -> None:
        for waiter in self.waiters:
            waiter.wake()


class RateLimiter(Limiter):
    """So many in a time."""

    def __init__(self, limit: RateLimit) -> None:
        super().__init__()
        self._limit = limit
        self._interval = limit.interval  # by a name of its own, since it is wanted for every message
        self._burst = limit.at_once
        self._tats: dict[str, float] = {}
        self._sweep_at = 64

    def _next(self, key: str, now: float) -> tuple[float, float]:
        return reserved(self._tats.get(key, -math.inf), now, interval=self._interval, burst=self._burst)

    def take_alone(self, now: float) -> bool:
        """Let one through without a key, unless it or somebody else has to wait."""
        return not self._lines and self.take("", now) is not None

    def take(self, key: str, now: float) -> Grant | None:
        # As in `_next`, without the call: it is done for every message.
        tats = self._tats
        moved, wait = reserved(tats.get(key, -math.inf), now, interval=self._interval, burst=self._burst)
        if wait > _EPSILON:
            return None
        tats[key] = moved
        if len(self._tats) > self._sweep_at:  # A moment that is over says no more than none.
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
    """So many at once."""

    def __init__(self, limit: ConcurrencyLimit | Bulkhead) -> None:
        super().__init__()
        self._limit = limit.limit
        self._is_divided = isinstance(limit, ConcurrencyLimit) and limit.by is not None
        self._inside: dict[str, int] = {}

    def take(self, key: str, now: float) -> Grant | None:
        inside = self._inside.get(key, 0)
        if inside >= self._limit:
            return None
        self._inside[key] = inside + 1
        return self

    def wait(self, key: str, now: float) -> float:
        return 0.0 if self._inside.get(key, 0) < self._limit else math.inf

    def undo(self, key: str, grant: Grant) -> None:
        inside = self._inside[key] - 1
        if inside:
            self._inside[key] = inside
        else:
            del self._inside[key]
        self._tell()

    def leave(self, key: str, grant: Grant, now: float, error: BaseException | None, *, done: bool) -> bool:
        self.undo(key, grant)
        return False

    def ahead(self) -> float:
        return math.inf if self._is_divided else self._limit


@attrs.frozen(eq=False)
class _Through:
    """One who went through a circuit."""

    probe: bool


class CircuitBreakerState(Limiter):
    """None for a while, after too many failures."""

    def __init__(self, rule: CircuitBreaker, name: str, emit: EventSink) -> None:
        super().__init__()
        self._rule = rule
        self._name = name
        self._emit = emit
        self._state: CircuitState = Closed()
        self._failed_probes = 0
        """Since it was closed: so many wait that have tried it, and others must come to try it, too."""

    @property
    def state(self) -> CircuitState:
        return self._state

    def take(self, key: str, now: float) -> Grant | None:
        state, may = admitted(self._state, now)
        if not may:
            return None
        self._move(state, None)
        return _Through(probe=isinstance(state, HalfOpen))

    def wait(self, key: str, now: float) -> float:
        match self._state:
            case Open(until=until):
                return max(0.0, until - now)
            case HalfOpen(probing=True):
                return math.inf
            case _:
                return 0.0

    def undo(self, key: str, grant: Grant) -> None:
        self.leave(key, grant, 0.0, None, done=False)

    def leave(self, key: str, grant: Grant, now: float, error: BaseException | None, *, done: bool) -> bool:
        failed: bool | None = False if done else None
        # A verdict is about the message, not about what it depends on.
        if error is not None and not isinstance(error, (Verdict, Shutdown)):
            failed = any(isinstance(leaf, self._rule.on) for leaf in leaves(error)) or None
        probe = isinstance(grant, _Through) and grant.probe
        self._failed_probes += probe and failed is True
        self._move(after_outcome(self._state, self._rule, now, failed=failed, probe=probe), error)
        return failed is True and not isinstance(self._state, Closed)

    def ahead(self) -> float:
        return math.inf if isinstance(self._state, Closed) else 1 + min(self._failed_probes, MOST_PROBES)

    def _move(self, state: CircuitState, error: BaseException | None) -> None:
        before, self._state = self._state, state
        if isinstance(state, Closed):
            self._failed_probes = 0
        if type(before) is not type(state):
            seconds = self._rule.reset if isinstance(state, Open) else 0.0
            now = {Closed: "closed", Open: "open", HalfOpen: "half open"}[type(state)]
            self._emit(events.CircuitChanged(self._name, now, seconds, error))
        if before != state and not isinstance(state, Open):
            self._tell()


class LimiterEnvironment(Protocol):
    """What a shared limit needs of the system."""

    @property
    def emit(self) -> EventSink: ...
    @property
    def limit_store(self) -> Callable[[], LimitStore]: ...
    @property
    def start_soon(self) -> Callable[..., None]: ...


class _GlobalLimiter(Limiter):
    """One that asks the broker, in one task for each key at a time, while somebody waits."""

    def __init__(self, name: str, desk: LimiterEnvironment) -> None:
        super().__init__()
        self._name = name
        self._desk = desk
        self._asking: set[str] = set()

    def joined(self, key: str, waiter: Waiter) -> None:
        super().joined(key, waiter)
        self._ask(key)

    def _has_some(self, key: str) -> bool:
        raise NotImplementedError

    async def _get(self, store: LimitStore, key: str) -> None:
        raise NotImplementedError

    def _called(self, key: str) -> str:
        return f"{self._name}:{key}" if key else self._name

    def _ask(self, key: str) -> None:
        if key not in self._asking and self.demand(key) and not self._has_some(key):
            self._asking.add(key)
            self._desk.start_soon(self._keep_asking, key)

    async def _keep_asking(self, key: str) -> None:
        try:
            while self.demand(key) and not self._has_some(key):
                await self._or_trouble(self._get(self._desk.limit_store(), key))
        finally:
            self._asking.discard(key)
        self._tell()

    async def _or_trouble(self, call: Awaitable[object]) -> None:
        try:
            await call
        except BrokerError as error:
            what_next = f"what it limits waits; trying again in {TROUBLE_PAUSE:g} s"
            self._desk.emit(events.BrokerTrouble(f"asking for the limit {self._name!r}", str(error), what_next))
            await trio.sleep(TROUBLE_PAUSE)


class GlobalRateLimiter(_GlobalLimiter):
    """So many in a time, over all nodes."""

    def __init__(self, limit: RateLimit, name: str, desk: LimiterEnvironment) -> None:
        super().__init__(name, desk)
        self._limit = limit
        self._tokens: dict[str, tuple[int, float]] = {}

    def take(self, key: str, now: float) -> Grant | None:
        count, since = self._tokens.pop(key, (0, now))
        if not count or now - since > TOKENS_KEPT:
            return None
        if count > 1:
            self._tokens[key] = (count - 1, since)
        self._ask(key)
        return self

    def wait(self, key: str, now: float) -> float:
        return 0.0 if self._has_some(key) else math.inf

    def _has_some(self, key: str) -> bool:
        return key in self._tokens

    def undo(self, key: str, grant: Grant) -> None:
        count, since = self._tokens.get(key, (0, trio.current_time()))
        self._tokens[key] = (count + 1, since)

    def ahead(self) -> float:
        return math.inf if self._limit.by is not None else self._limit.ahead

    async def _get(self, store: LimitStore, key: str) -> None:
        limit = self._limit
        cost = min(limit.batch, self.demand(key))
        wait = await store.acquire_rate(self._called(key), limit.rate, limit.per, limit.at_once, cost)
        await trio.sleep(wait)
        self._tokens[key] = (cost, trio.current_time())


@attrs.frozen(eq=False)
class _Slot:
    """A slot of ours at the broker."""

    key: str
    holder: str
    since: float


class GlobalSemaphore(_GlobalLimiter):
    """So many at once, over all nodes."""

    def __init__(self, limit: ConcurrencyLimit, name: str, desk: LimiterEnvironment, publisher: str) -> None:
        super().__init__(name, desk)
        self._limit = limit
        self._publisher = publisher
        self._numbers = itertools.count(1)
        self._slots: set[_Slot] = set()
        self._free: dict[str, list[_Slot]] = {}
        self._pauses: dict[str, float] = {}
        self._renewing = False

    def take(self, key: str, now: float) -> Grant | None:
        free = self._free.get(key)
        if not free:
            return None
        slot = free.pop()
        if not free:
            del self._free[key]
        self._ask(key)
        return slot

    def wait(self, key: str, now: float) -> float:
        return 0.0 if self._has_some(key) else math.inf

    def _has_some(self, key: str) -> bool:
        return key in self._free

    def undo(self, key: str, grant: Grant) -> None:
        assert isinstance(grant, _Slot)  # noqa: S101 - what `take` has given
        if self.demand(key) and trio.current_time() - grant.since < SLOT_KEPT:
            self._free.setdefault(key, []).append(grant)
            self._tell()
        else:
            self._give_back(grant)

    def leave(self, key: str, grant: Grant, now: float, error: BaseException | None, *, done: bool) -> bool:
        self.undo(key, grant)
        return False

    def left(self, key: str, waiter: Waiter, *, last: bool) -> None:
        super().left(key, waiter, last=last)
        if not self.demand(key):
            self._pauses.pop(key, None)

    def forget_unused(self) -> None:
        """Give back the slots that nobody waits for."""
        for key in [key for key in self._free if not self.demand(key)]:
            for slot in self._free.pop(key):
                self._give_back(slot)

    def ahead(self) -> float:
        return math.inf if self._limit.by is not None else self._limit.limit

    async def _get(self, store: LimitStore, key: str) -> None:
        holder = f"{self._publisher}-{next(self._numbers):x}"
        if not await store.acquire_slot(self._called(key), self._limit.limit, holder, SLOT_TTL):
            pause = self._pauses.get(key, FIRST_PAUSE)
            self._pauses[key] = min(LONGEST_PAUSE, pause * 1.5)
            await trio.sleep(pause)
            return
        self._pauses.pop(key, None)
        slot = _Slot(key, holder, trio.current_time())
        self._slots.add(slot)
        self._free.setdefault(key, []).append(slot)
        if not self._renewing:
            self._renewing = True
            self._desk.start_soon(self._renew)

    def _give_back(self, slot: _Slot) -> None:
        self._slots.discard(slot)
        self._desk.start_soon(self._release, slot)

    async def _release(self, slot: _Slot) -> None:
        try:
            await self._desk.limit_store().release_slot(self._called(slot.key), slot.holder)
        except BrokerError as error:
            what_next = f"it is free in {SLOT_TTL:g} s at the latest"
            self._desk.emit(events.BrokerTrouble(f"giving back a slot of {self._name!r}", str(error), what_next))

    async def _renew(self) -> None:
        """Renew what is in use. A slot that was lost while the loop was blocked is taken again, if there is one."""
        try:
            while self._slots:
                await trio.sleep(SLOT_TTL / 3)
                self.forget_unused()
                for slot in list(self._slots):
                    await self._or_trouble(self._renew_one(slot))
        finally:
            self._renewing = False

    async def _renew_one(self, slot: _Slot) -> None:
        if slot in self._slots:
            await self._desk.limit_store().acquire_slot(
                self._called(slot.key), self._limit.limit, slot.holder, SLOT_TTL
            )


class LimiterRegistry:
    """All limits of a node, by what they limit and by their names."""

    def __init__(self, desk: LimiterEnvironment, publisher: str) -> None:
        self._desk = desk
        self._publisher = publisher
        self._found: dict[tuple[type, str], tuple[Limit, Limiter]] = {}

    def __repr__(self) -> str:
        return f"<turnstiles: {', '.join(name for _, name in self._found)}>"

    def of(self, limit: Limit, usual_name: str, whose: str) -> Limiter:
        """Return where a limit is kept, made when it is first named; without a name, people are told `whose` it is.

        Raises `SettingsError` where another limit has its name.
        """
        name = limit.name or usual_name
        other, limiter = self._found.get((type(limit), name), (limit, None))
        if other != limit:
            raise SettingsError(f"two limits of this system are called {name!r}, and differ: {other} and {limit}")
        if limiter is None:
            limiter = self._new(limit, name, whose)
            self._found[type(limit), name] = (limit, limiter)
        return limiter

    def _new(self, limit: Limit, name: str, whose: str) -> Limiter:
        match limit:
            case RateLimit(scope="node"):
                return RateLimiter(limit)
            case RateLimit():
                return GlobalRateLimiter(limit, f"rate:{name}", self._desk)
            case ConcurrencyLimit(scope="global"):
                return GlobalSemaphore(limit, f"room:{name}", self._desk, self._publisher)
            case ConcurrencyLimit() | Bulkhead():
                return Semaphore(limit)
            case CircuitBreaker():
                return CircuitBreakerState(limit, limit.name or whose, self._desk.emit)
