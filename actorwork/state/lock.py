"""A lock shared by all nodes: `self.context.lock(name)` in an actor, `client.lock(name)` outside of one.

    async with self.context.lock("ledger", ttl=10) as held:
        await ledger.set(total, fence=held)

The lock is a lease at the broker: taken for `ttl` seconds and renewed every third of that, by a task that lives in the
block. If it cannot be renewed in time, it is lost: the block is cancelled, and raises `LockLost`. By then another owner
may be at work, and a blocked loop or a stopped process notices late. So every owner has a token that is greater than
all before it, and a write that must not come from a former owner passes its token as a fence.

A waiter polls: after 10 ms at first, then at growing intervals, up to a quarter second. Waiters have no order.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from actorwork.durations import Duration, as_seconds, seconds_of
from actorwork.errors import BrokerError, LockLost, LockTimeout
from actorwork.nurseries import open_unwrapping_nursery
from actorwork.policy.bounds import check_name, is_number

if TYPE_CHECKING:
    from random import Random
    from types import TracebackType

    from actorwork.abc import Values

FIRST_WAIT: Final = 0.01
LONGEST_WAIT: Final = 0.25
RELEASE_LIMIT: Final = 1.0
"""Seconds that the release may take; after that the lock expires by itself."""


class Held:
    """A lock that was taken: the `token` of this owner, and whether it is `lost` by now."""

    def __init__(self, name: str, token: int) -> None:
        self.name = name
        self.token = token
        self.lost = False

    def __repr__(self) -> str:
        return f"<Held {self.name!r}, token {self.token}{', lost' if self.lost else ''}>"


class Lock:
    """A lock shared by all nodes, by its name. Not reentrant: an owner that acquires it again waits for itself.

    `async with lock as held` waits for it without limit; `async with lock.acquire(timeout=3) as held` at most three
    seconds. If the wait is cancelled, the lock is not taken, or released again.
    """

    def __init__(self, values: Values, name: str, *, ttl: Duration, random: Random) -> None:
        check_name("the name of a lock", name)
        ttl = as_seconds(ttl)
        if not (is_number(ttl) and 0.1 <= ttl <= 86400):
            raise ValueError(f"the ttl of lock {name!r} wants 0.1 to 86400 seconds, got {ttl!r}")
        self._values = values
        self._name = name
        self._ttl = ttl
        self._random = random
        self._holding: AbstractAsyncContextManager[Held] | None = None

    def __repr__(self) -> str:
        return f"<Lock {self._name!r} of {self._ttl:g} s{', held' if self._holding else ''}>"

    @property
    def name(self) -> str:
        return self._name

    async def __aenter__(self) -> Held:
        if self._holding is not None:
            raise RuntimeError(
                f"this Lock {self._name!r} is in use already: create one for every use, they cost nothing"
            )
        self._holding = self.acquire()
        try:
            return await self._holding.__aenter__()
        except BaseException:
            self._holding = None
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        holding, self._holding = self._holding, None
        return None if holding is None else await holding.__aexit__(kind, error, traceback)

    @asynccontextmanager
    async def acquire(self, *, timeout: Duration = float("inf")) -> AsyncGenerator[Held]:
        """Take the lock, and release it when the block ends.

        Waits at most `timeout` (0: tries once), then raises `LockTimeout`. If the lock is lost, the block is
        cancelled and raises `LockLost`.
        """
        owner, limit = secrets.token_hex(8), seconds_of("timeout", timeout)
        try:
            held, until = await self._take(owner, limit)
            async with open_unwrapping_nursery() as nursery:
                nursery.start_soon(self._keep, owner, held, until, nursery.cancel_scope)
                yield held
                nursery.cancel_scope.cancel(reason="the block has ended")
        finally:
            with trio.move_on_after(RELEASE_LIMIT, shield=True), contextlib.suppress(BrokerError):
                await self._values.free_lock(self._name, owner)
        if held.lost:
            raise LockLost(
                f"lock {self._name!r} was lost: it could not be renewed within its ttl of {self._ttl:g} s, and may have"
                " another owner by now",
                name=self._name,
            )

    async def _take(self, owner: str, timeout: float) -> tuple[Held, float]:
        """Return the held lock, and until when at least this owner has it, by Trio's clock."""
        pause = FIRST_WAIT
        has_owner = False
        give_up = trio.current_time() + timeout
        while True:
            # Counted from before the request: the broker starts to count later, so the lock outlasts this deadline.
            until = trio.current_time() + self._ttl
            token: int | None = None
            with trio.move_on_at(give_up if timeout else until) as waiting:
                token = await self._values.take_lock(self._name, owner, self._ttl)
            now = trio.current_time()
            if token is not None:
                if now < until - self._ttl / 2:
                    return Held(self._name, token), until
                # The reply took so long that little of the ttl is left. Taking it again renews it in full.
                continue
            left = give_up - now
            has_owner = has_owner or not waiting.cancelled_caught
            if left <= 0 or waiting.cancelled_caught:
                why = "another owner has it" if has_owner else "the broker does not answer"
                raise LockTimeout(f"lock {self._name!r} was not free within {timeout:g} s: {why}", name=self._name)
            await trio.sleep(min(left, pause * self._random.uniform(0.5, 1)))
            pause = min(LONGEST_WAIT, pause * 2)

    async def _keep(self, owner: str, held: Held, until: float, block: trio.CancelScope) -> None:
        """Renew the lock until it is lost; then cancel the block."""
        next_at = until - self._ttl * 2 / 3
        is_ours = True
        while is_ours:
            await trio.sleep_until(next_at)
            asked = trio.current_time()
            with trio.move_on_at(until) as patience:
                try:
                    is_ours = await self._values.keep_lock(self._name, owner, self._ttl)
                    until, next_at = asked + self._ttl, asked + self._ttl / 3
                except BrokerError:
                    # Try again while the lock has not expired; the broker's own events report its trouble.
                    next_at = min(until, asked + min(LONGEST_WAIT, self._ttl / 10))
            if patience.cancelled_caught or trio.current_time() >= until:
                is_ours = False
        held.lost = True
        block.cancel(reason=f"lock {self._name!r} is lost")
