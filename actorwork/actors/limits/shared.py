"""Limiters that count over all nodes: what they may admit comes from the broker's `LimitStore`.

    GlobalRateLimiter   `RateLimit`: takes tokens in small batches, when deliveries wait for them
    GlobalSemaphore     `ConcurrencyLimit`: takes slots, and renews them while they are in use

`take` cannot wait for the broker, so it only spends what is here already. A task for each key fetches more while
deliveries wait; these tasks belong to the system.

A free slot goes to the next delivery that waits for it in this node, for `SLOT_KEPT` seconds at most; then the other
nodes get their chance. The slots of a node that died, or whose loop is blocked, expire after `SLOT_TTL` seconds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import attrs
import trio

from actorwork import events
from actorwork.abc import EventSink, LimitStore
from actorwork.actors.limits.limiters import Grant, Limiter, Waiter
from actorwork.errors import BrokerError
from actorwork.policy.limits import ConcurrencyLimit, RateLimit
from actorwork.shown import Shown

SLOT_TTL: Final = 10.0
"""Seconds after which the broker frees a slot that its node does not renew."""
SLOT_KEPT: Final = 1.0
"""Seconds for which a slot is passed on within a node."""
FIRST_PAUSE: Final = 0.02
LONGEST_PAUSE: Final = 0.1
"""Seconds between two tries while all slots are taken."""
TOKENS_KEPT: Final = 1.0
"""Seconds for which tokens that were taken in advance are valid."""
TROUBLE_PAUSE: Final = 1.0
"""Seconds until the next try after the broker has failed."""


class LimiterEnvironment(Protocol):
    """What these limiters use of the system."""

    @property
    def emit(self) -> EventSink: ...
    @property
    def limit_store(self) -> Callable[[], LimitStore]: ...
    @property
    def start_soon(self) -> Callable[..., None]: ...


class _GlobalLimiter(Limiter):
    """Fetches grants from the broker, in at most one task for each key, while deliveries wait."""

    def __init__(self, name: str, environment: LimiterEnvironment) -> None:
        super().__init__()
        self._name = name
        self._environment = environment
        self._fetching: set[str] = set()

    def joined(self, key: str, waiter: Waiter) -> None:
        super().joined(key, waiter)
        self._fetch(key)

    def _has_some(self, key: str) -> bool:
        raise NotImplementedError

    async def _get(self, store: LimitStore, key: str) -> None:
        """Take from the store for a key once, or sleep until the next try."""
        raise NotImplementedError

    def _stored_name(self, key: str) -> str:
        return f"{self._name}:{key}" if key else self._name

    def _fetch(self, key: str) -> None:
        if key not in self._fetching and self.demand(key) and not self._has_some(key):
            self._fetching.add(key)
            self._environment.start_soon(self._fetch_while_wanted, key)

    async def _fetch_while_wanted(self, key: str) -> None:
        try:
            while self.demand(key) and not self._has_some(key):
                await self._or_report(self._get(self._environment.limit_store(), key))
        finally:
            self._fetching.discard(key)
        self._wake_listeners()

    async def _or_report(self, call: Awaitable[object]) -> None:
        try:
            await call
        except BrokerError as error:
            what_next = f"the deliveries that it limits wait; next try in {TROUBLE_PAUSE:g} s"
            self._environment.emit(events.BrokerTrouble(f"asking for the limit {self._name!r}", str(error), what_next))
            await trio.sleep(TROUBLE_PAUSE)


class GlobalRateLimiter(_GlobalLimiter):
    """At most `rate` in `per` seconds, over all nodes."""

    def __init__(self, limit: RateLimit, name: str, environment: LimiterEnvironment) -> None:
        super().__init__(name, environment)
        self._limit = limit
        self._tokens: dict[str, tuple[int, float]] = {}
        """By key, how many tokens are here, and since when."""

    def change(self, limit: RateLimit) -> None:
        """Go by another limit from now on, in what is asked of the broker."""
        self._limit = limit
        self._wake_listeners()

    def take(self, key: str, now: float) -> Grant | None:
        count, since = self._tokens.pop(key, (0, now))
        # Old tokens are dropped: spent after a quiet time, they would come on top of the burst that is due by then.
        if not count or now - since > TOKENS_KEPT:
            return None
        if count > 1:
            self._tokens[key] = (count - 1, since)
        self._fetch(key)
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
        # No more than is wanted here: other nodes could not use the rest.
        cost = min(limit.batch, self.demand(key))
        wait = await store.acquire_rate(self._stored_name(key), limit.rate, limit.per, limit.at_once, cost)
        await trio.sleep(wait)
        self._tokens[key] = (cost, trio.current_time())


@attrs.frozen(eq=False, repr=False)
class _Slot(Shown):
    """A slot at the broker that this node has taken."""

    key: str
    holder: str
    since: float


class GlobalSemaphore(_GlobalLimiter):
    """At most `limit` at once, over all nodes."""

    def __init__(self, limit: ConcurrencyLimit, name: str, environment: LimiterEnvironment, publisher: str) -> None:
        super().__init__(name, environment)
        self._limit = limit
        self._publisher = publisher
        self._numbers = itertools.count(1)
        self._slots: set[_Slot] = set()
        """All that this node has, in use or free."""
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
        self._fetch(key)
        return slot

    def wait(self, key: str, now: float) -> float:
        return 0.0 if self._has_some(key) else math.inf

    def _has_some(self, key: str) -> bool:
        return key in self._free

    def undo(self, key: str, grant: Grant) -> None:
        assert isinstance(grant, _Slot)  # noqa: S101 - what `take` has returned
        if self.demand(key) and trio.current_time() - grant.since < SLOT_KEPT:
            self._free.setdefault(key, []).append(grant)
            self._wake_listeners()
        else:
            self._release_soon(grant)

    def leave(self, key: str, grant: Grant, now: float, error: BaseException | None, *, done: bool) -> bool:
        self.undo(key, grant)
        return False

    def left(self, key: str, waiter: Waiter, *, last: bool) -> None:
        super().left(key, waiter, last=last)
        if not self.demand(key):
            self._pauses.pop(key, None)

    def release_unused(self) -> None:
        """Release the free slots for which no delivery waits any more."""
        for key in [key for key in self._free if not self.demand(key)]:
            for slot in self._free.pop(key):
                self._release_soon(slot)

    def ahead(self) -> float:
        return math.inf if self._limit.by is not None else self._limit.limit

    async def _get(self, store: LimitStore, key: str) -> None:
        # A new holder for each try: a node may have several slots, and to acquire with the same holder renews one.
        holder = f"{self._publisher}-{next(self._numbers):x}"
        if not await store.acquire_slot(self._stored_name(key), self._limit.limit, holder, SLOT_TTL):
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
            self._environment.start_soon(self._renew)

    def _release_soon(self, slot: _Slot) -> None:
        # Out of the set at once, so that the renewing task cannot take it again after the release.
        self._slots.discard(slot)
        self._environment.start_soon(self._release, slot)

    async def _release(self, slot: _Slot) -> None:
        try:
            await self._environment.limit_store().release_slot(self._stored_name(slot.key), slot.holder)
        except BrokerError as error:
            what_next = f"it is free in {SLOT_TTL:g} s at the latest"
            what = f"releasing a slot of {self._name!r}"
            self._environment.emit(events.BrokerTrouble(what, str(error), what_next))

    async def _renew(self) -> None:
        """Renew the slots in use. One that expired while the loop was blocked is taken again, if one is free."""
        try:
            while self._slots:
                await trio.sleep(SLOT_TTL / 3)
                self.release_unused()
                for slot in list(self._slots):
                    await self._or_report(self._renew_one(slot))
        finally:
            self._renewing = False

    async def _renew_one(self, slot: _Slot) -> None:
        if slot in self._slots:
            store = self._environment.limit_store()
            await store.acquire_slot(self._stored_name(slot.key), self._limit.limit, slot.holder, SLOT_TTL)
