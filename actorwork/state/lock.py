"""A lock shared by all nodes: `self.context.lock(name)` in an actor, `client.lock(name)` outside of one.

    async with self.context.lock("ledger", ttl=10) as held:
        await ledger.set(total, fence=held)

The lock is a lease at the broker: taken for `ttl` seconds and renewed every third of that, by a task that lives in the
block. If it cannot be renewed in time, it is lost: the block is cancelled, and raises `LockLost`. By then another owner
may be at work, and a blocked loop or a stopped process notices late. So every owner has a token that is greater than
all before it, and a write that must not come from a former owner passes its token as a fence.

A program without an event loop has no such task: there the block renews the lock itself (`held.extend()`), or ends
within the `ttl`; and it raises `LockLost` at its end if it did not.

A waiter polls: after 10 ms at first, then at growing intervals, up to a quarter second. Waiters have no order.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import attrs

from actorwork.durations import Duration, as_seconds, timeout_of
from actorwork.errors import BrokerError, LockLost, LockTimeout
from actorwork.policy.bounds import check_name, is_number

if TYPE_CHECKING:
    from random import Random
    from types import TracebackType

    from actorwork.abc import Values

FIRST_WAIT: Final = 0.01
LONGEST_WAIT: Final = 0.25
RELEASE_LIMIT: Final = 1.0
"""Seconds that the release may take; after that the lock expires by itself."""


class Waiting(Protocol):
    """What a lock asks of the kind of program it is in: time, waiting, and a task beside a block."""

    def now(self) -> float:
        """Return a monotonic time in seconds."""
        ...

    async def sleep(self, seconds: float) -> None: ...

    async def at_most(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        """Do some work, and give it up after some seconds."""
        ...

    async def finish(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        """Do the same, even in a task that is being cancelled."""
        ...

    def beside(self, work: Callable[[], Awaitable[None]]) -> AbstractAsyncContextManager[object]:
        """Do some work beside the block, until the block ends; if the work ends first, cancel the block, which then
        ends without an error. Where nothing runs beside a block, do nothing.
        """
        ...


@attrs.define(eq=False)
class LockUse:
    """A block of an actor that waits for a lock, or holds it since a moment of its program's clock."""

    name: str
    actor: str
    message: str
    """The id of the message that it handles; "" if there is none."""
    since: float
    is_held: bool = False


@attrs.frozen(eq=False)
class LockUser:
    """Who uses a lock, for those who look at the system; `uses` has what is under way."""

    actor: str
    message: str
    uses: MutableMapping[LockUse, None]


class Held:
    """A lock that was taken: the `token` of this owner, and whether it is `lost` by now."""

    def __init__(self, values: Values, name: str, owner: str, ttl: float, waiting: Waiting) -> None:
        self.name = name
        self.token = 0
        self._values = values
        self._owner = owner
        self._ttl = ttl
        self._waiting = waiting
        self._is_taken_away = False
        self._until = 0.0
        """Until when at least this owner has it, by the clock of the program."""

    def __repr__(self) -> str:
        return f"<Held {self.name!r}, token {self.token}{', lost' if self.lost else ''}>"

    @property
    def lost(self) -> bool:
        """Whether another owner may have it: it was not renewed within its `ttl`."""
        return self._is_taken_away or self._waiting.now() >= self._until

    async def extend(self) -> None:
        """Renew the lock for its `ttl` from now; raise `LockLost` if that is too late.

        Where a task renews it (on Trio and asyncio) this is not needed. Raises `BrokerError`.
        """
        if not self.lost:
            await self._waiting.at_most(self._until - self._waiting.now(), self._renew)
        if self.lost:
            raise self.loss()

    def loss(self) -> LockLost:
        """Return the error of a lock that is lost."""
        return LockLost(
            f"lock {self.name!r} was lost: it was not renewed within its ttl of {self._ttl:g} s, and may have another"
            " owner by now",
            name=self.name,
        )

    async def take(self) -> bool | None:
        """Take it; return whether this owner has it, or None if the reply took so long that little of the ttl is left.

        Taking it again renews it in full.
        """
        # Counted from before the request: the broker starts to count later, so the lock outlasts this moment.
        until = self._waiting.now() + self._ttl
        token = await self._values.take_lock(self.name, self._owner, self._ttl)
        if token is None:
            return False
        self.token, self._until = token, until
        return True if self._waiting.now() < until - self._ttl / 2 else None

    async def _renew(self) -> None:
        until = self._waiting.now() + self._ttl
        if await self._values.keep_lock(self.name, self._owner, self._ttl):
            self._until = until
        else:
            self._is_taken_away = True

    async def keep(self) -> None:
        """Renew the lock every third of its ttl; return when it is lost."""
        next_at = self._until - self._ttl * 2 / 3
        while not self.lost:
            await self._waiting.sleep(max(0.0, next_at - self._waiting.now()))
            asked = self._waiting.now()
            next_at = asked + self._ttl / 3
            try:
                await self._waiting.at_most(max(0.0, self._until - asked), self._renew)
            except BrokerError:
                # Try again while the lock has not expired; the broker's own events report its trouble.
                next_at = min(self._until, asked + min(LONGEST_WAIT, self._ttl / 10))

    async def free(self) -> None:
        with contextlib.suppress(BrokerError):
            await self._values.free_lock(self.name, self._owner)


class Lock:
    """A lock shared by all nodes, by its name. Not reentrant: an owner that acquires it again waits for itself.

    `async with lock as held` waits for it without limit; `async with lock.acquire(timeout=3) as held` at most three
    seconds. If the wait is cancelled, the lock is not taken, or released again.
    """

    def __init__(
        self,
        values: Values,
        name: str,
        *,
        ttl: Duration,
        random: Random,
        waiting: Waiting,
        user: LockUser | None = None,
        who: str = "",
    ) -> None:
        check_name("the name of a lock", name)
        ttl = as_seconds(ttl)
        if not (is_number(ttl) and 0.1 <= ttl <= 86400):
            raise ValueError(f"the ttl of lock {name!r} wants 0.1 to 86400 seconds, got {ttl!r}")
        self._values = values
        self._name = name
        self._ttl = ttl
        self._random = random
        self._waiting = waiting
        self._user = user
        self._who = who
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
        limit = timeout_of(timeout)
        # The broker only compares owners. The rest of the text is for people who look for who has the lock.
        owner = f"{secrets.token_hex(8)} {self._who}".rstrip()
        held = Held(self._values, self._name, owner, self._ttl, self._waiting)
        with self._noted() as use:
            try:
                await self._take(held, limit)
                if use is not None:
                    use.since, use.is_held = self._waiting.now(), True
                async with self._waiting.beside(held.keep):
                    yield held
                is_lost = held.lost
            finally:
                await self._waiting.finish(RELEASE_LIMIT, held.free)
        if is_lost:
            raise held.loss()

    @contextlib.contextmanager
    def _noted(self) -> Generator[LockUse | None]:
        """Note a use of the lock for the time of the block, if this is a lock of an actor, whose node reports it."""
        user = self._user
        if user is None:
            yield None
            return
        use = LockUse(self._name, user.actor, user.message, self._waiting.now())
        user.uses[use] = None
        try:
            yield use
        finally:
            del user.uses[use]

    async def _take(self, held: Held, timeout: float) -> None:
        pause = FIRST_WAIT
        has_owner = False
        give_up = self._waiting.now() + timeout
        while True:
            answers: list[bool | None] = []

            async def take(answers: list[bool | None]) -> None:
                answers.append(await held.take())

            left = give_up - self._waiting.now() if timeout else self._ttl
            await self._waiting.at_most(max(0.0, left), partial(take, answers))
            if True in answers:
                return
            if None in answers:
                continue
            has_owner = has_owner or False in answers
            left = give_up - self._waiting.now()
            if left <= 0 or not answers:
                why = "another owner has it" if has_owner else "the broker does not answer"
                raise LockTimeout(f"lock {self._name!r} was not free within {timeout:g} s: {why}", name=self._name)
            await self._waiting.sleep(min(left, pause * self._random.uniform(0.5, 1)))
            pause = min(LONGEST_WAIT, pause * 2)
