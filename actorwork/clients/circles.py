"""Finds handlers that wait for one another, while one of them waits for a reply.

    A (handles x) ──asks──▶ B (handles y) ──asks──▶ A: behind x, which ends when y does, which ends when x does

That an ask closes a circle by its own chain is known before it is sent (`refs.asking_for`). Here two or more handlers
ask at the same time, and neither knows of the other. Each ask that has had no reply for a moment notes at the broker
which key waits for which, and then looks whether the waits lead back to it; the one that comes last sees them all. So
an ask that is answered soon costs nothing, and the others a look now and then.

An error is never raised in vain:

- A note counts only while the delivery that asks is its node's, and while the message that it asks waits behind another
  one of its key, or is what the next handler of the circle handles: else its reply may be on its way. Each look writes
  it anew, and it lasts for some seconds: that of a node that has died is gone before the usual lease is.
- The waits of a circle are read one after another, and may never have been there all at once. So they are read again:
  an ask is made once, so those that were there before and are there after were there in between, all of them.
- Last the message is taken back. If it has begun meanwhile, the circle is no more, and the wait goes on; so after the
  error it is certain that the message was not handled, and will not be.

One ask of a circle gets the error, of those that no handler has begun the one with the greatest message id; the others
then go on.

Not found: circles in which a handler asks more than 16 others at once, and those that pass over an actor without keys.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from actorwork.clients.driver import OutOfTime
from actorwork.errors import ActorworkError, WouldWaitForItself

if TYPE_CHECKING:
    from collections.abc import Sequence

    from actorwork.abc import Broker, KeyWaits, PendingOutcome
    from actorwork.clients.driver import Driver
    from actorwork.message import Delivery, Outcome
    from actorwork.policy.waits import KeyWait

MOST_READ: Final = 64
"""How many keys are looked at, at most, in one look."""
_LONGEST: Final = 2.0
"""Seconds between two looks, once an ask has waited for long."""
_LASTS: Final = 6.0
"""Seconds for which a note counts without being written anew."""
_LOOKS_FOR: Final = 3.0
"""Seconds after which a look is given up: the reply may have come meanwhile."""
_FORGETS_FOR: Final = 1.0


class WaitingKey:
    """A handler of a key that waits for the reply to a message of another key."""

    def __init__(self, broker: Broker, driver: Driver, delivery: Delivery, wait: KeyWait) -> None:
        self._broker = broker
        self._driver = driver
        self._delivery = delivery
        self._wait = wait
        self._is_noted = False
        self._circle: Sequence[KeyWait] = ()
        """The one that was found when the message was to be taken back."""

    def __repr__(self) -> str:
        return f"<WaitingKey {self._wait!r}>"

    async def outcome(self, pending: PendingOutcome, pause: float, timeout: float) -> Outcome:
        """Wait for the outcome of the message, and look for circles every `pause` seconds, and then less often.

        Raises `WouldWaitForItself`, and `OutOfTime` after `timeout` seconds.
        """
        until = self._driver.now() + timeout
        try:
            while True:
                left = until - self._driver.now()
                if left <= 0:
                    raise OutOfTime
                if await self._is_in_a_circle(left):
                    raise self._error()
                try:
                    outcome = await self._driver.within(min(pause, left), pending.outcome)
                except OutOfTime:
                    pause = min(2 * pause, _LONGEST)
                    continue
                if self._circle and outcome.failure is not None and outcome.failure.type == "Cancelled":
                    raise self._error()  # It was taken back; the answer to that was lost.
                return outcome
        finally:
            if self._is_noted:
                await self._driver.waiting.finish(_FORGETS_FOR, self._forget)

    async def _is_in_a_circle(self, left: float) -> bool:
        found = False

        async def look() -> None:
            nonlocal found
            found = await self._look(left)

        with suppress(OutOfTime, ActorworkError):  # The ask does not fail for that; another look follows.
            await self._driver.within(min(left, _LOOKS_FOR), look)
        return found

    async def _look(self, left: float) -> bool:
        """Look for a circle; return whether there was one, and the message was taken back."""
        waits, wait = self._broker.waits, self._wait
        self._is_noted = True
        if not await waits.note(self._delivery, wait, ttl=min(left, _LASTS)):
            return False
        circle = await circle_of(waits, wait)
        if not circle or wait.message != told_in(circle) or not await is_closed(waits, circle):
            return False
        self._circle = circle
        return await self._broker.delayed.cancel(wait.to_source, wait.message)

    async def _forget(self) -> None:
        with suppress(ActorworkError):  # The note counts no more once the delivery has ended, and goes with its time.
            await self._broker.waits.forget(self._wait)

    def _error(self) -> WouldWaitForItself:
        texts = [f"{one.source}/{one.key}" for one in self._circle]
        return WouldWaitForItself(
            f"an ask of the key {self._wait.to_key!r} of {self._wait.to_source!r} waits for the handler that asks:"
            f" messages of one key are handled one after another, and these wait for each other: {' → '.join(texts)} →"
            f" {texts[0]}. The message was taken back. Tell it, and do not wait",
            chain=texts,
        )


async def circle_of(waits: KeyWaits, wait: KeyWait) -> Sequence[KeyWait]:
    """Return the shortest circle of waits that begins with this one; nothing if there is none."""
    paths: list[list[KeyWait]] = [[wait]]
    seen = {(wait.to_source, wait.to_key)}
    for _ in range(MOST_READ):
        if not paths:
            break
        path = paths.pop(0)
        for one in await waits.behind(path[-1]):
            goes_to = (one.to_source, one.to_key)
            if goes_to == (wait.source, wait.key):
                return [*path, one]
            if goes_to not in seen:
                seen.add(goes_to)
                paths.append([*path, one])
    return ()


def told_in(circle: Sequence[KeyWait]) -> str:
    """Return the message of a circle that is to be taken back: the greatest one, of those that no handler has begun."""
    waiting = [one.message for one, behind in pairwise([*circle, circle[0]]) if behind.asking != one.message]
    return max(waiting, default="")


async def is_closed(waits: KeyWaits, circle: Sequence[KeyWait]) -> bool:
    """Return whether each wait of a circle is behind the handler whose wait comes next."""
    for one, behind in pairwise([*circle, circle[0]]):
        if behind not in await waits.behind(one):
            return False
    return True
