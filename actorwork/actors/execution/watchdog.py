"""Ends handlers that run too long, without a cancel scope for each message.

An executor works in one long cancel scope and notes when the handler in flight began. One task of the node, this one,
looks at the busy executors at the next deadline, at least every quarter second, and cancels the scope of one that is
overdue. A handler that does not end even then (it shields itself, swallows the cancellation, or sits in a thread) is
reported every ten seconds, with its stack; and when it is so late that its process is to be ended (`hang_after`).
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import trio

TICK: Final = 0.25
"""Seconds between two looks, at most."""
UNKNOWN: Final = 0.0
"""When an executor began, where it has not looked at the clock."""
_OUR_FRAMES: Final = f"{Path(__file__).parent}{os.sep}"


def of_handler(stack: str) -> str:
    """Return the part of a stack that is the handler's: without what leads from Trio and from here to it."""
    lines = stack.split("\n")
    ours = [number for number, line in enumerate(lines) if line.startswith(_OUR_FRAMES)]
    return "\n".join(lines[ours[-1] + 1 :] if ours else lines) or stack


if TYPE_CHECKING:

    class Watched(Protocol):
        """An executor, as the watchdog sees it."""

        began: float | None
        timeout: float

        @property
        def title(self) -> str:
            """The actor whose handler it is."""
            ...

        def overdue(self, now: float) -> None:
            """End the handler in flight, or report that it does not end."""
            ...

        def where(self, actor_id: str, message_id: str) -> str | None:
            """Return the stack of the handler if it is at work on this message, else None."""
            ...


class Watchdog:
    """Looks at the executors that have something in flight."""

    def __init__(self, hang_after: float = math.inf) -> None:
        self._hang_after = hang_after
        """Seconds after its deadline at which a handler is to be reported in any case."""
        self._busy: set[Watched] = set()
        self._wake = trio.Event()

    def __repr__(self) -> str:
        return f"<watchdog: {len(self._busy)} busy>"

    def watch(self, executor: Watched) -> None:
        """Look at an executor from now on."""
        if not self._busy:
            self._wake.set()
        self._busy.add(executor)

    def forget(self, executor: Watched) -> None:
        self._busy.discard(executor)

    def late(self, now: float) -> list[str]:
        """Return the actors whose handlers run on past their timeout, one for each; callable from any thread."""
        return [one.title for one in list(self._busy) if one.began and now - one.began > one.timeout]

    def where(self, actor_id: str, message_id: str) -> str | None:
        """Return the stack of the handler that is at work on a message, left behind or not; None if there is none."""
        return next((found for one in self._busy if (found := one.where(actor_id, message_id)) is not None), None)

    def has_hung(self, executor: Watched, reported: float, now: float) -> bool:
        """Whether a handler that was reported last at `reported` has become `hang_after` late since."""
        deadline = (executor.began or now) + executor.timeout
        return reported - deadline < self._hang_after <= now - deadline

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            if not self._busy:
                self._wake = trio.Event()
                await self._wake.wait()
            now = trio.current_time()
            pause = TICK
            for executor in list(self._busy):
                if executor.began is None:
                    continue
                if executor.began == UNKNOWN:
                    executor.overdue(now)
                left = (executor.began or now) + executor.timeout - now
                if left <= 0:
                    executor.overdue(now)
                else:
                    pause = min(pause, left)
            await trio.sleep(pause)
