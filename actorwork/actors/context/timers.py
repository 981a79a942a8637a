"""Timers: messages that an actor sends to itself later; and the timeouts of asks.

One task of the node serves one heap, whatever the number of timers. A timer is known by its key: starting it again
replaces it, and drops the old one's message if that has not been handled yet. All timers of an incarnation end with it.

A repeated timer is due at multiples of its period after its start, so it does not drift. Ticks that a busy loop or a
busy actor has missed are left out: at most one message of a timer waits.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Hashable
from typing import TYPE_CHECKING, Protocol

import trio

from actorwork.actors.mailbox.calls import PENDING, Queue
from actorwork.actors.wakeups import check_thread
from actorwork.durations import IN_WORDS, Duration, as_seconds
from actorwork.errors import SettingsError
from actorwork.policy.bounds import is_number

if TYPE_CHECKING:
    from actorwork.actors.handlers.behaviour import Behaviour
    from actorwork.actors.mailbox.calls import SystemCall
    from actorwork.actors.mailbox.mailbox import Mailbox
    from actorwork.actors.wakeups import Reply


if TYPE_CHECKING:

    class TimerOwner(Protocol):
        """The actor that a timer sends to."""

        title: str
        mailbox: Mailbox
        behaviour: Behaviour

        def timer_fired(self, timer: Timer) -> None: ...


class Timer:
    """One timer; `live` until it has fired for the last time or was cancelled."""

    __slots__ = ("every", "key", "live", "message", "owner", "sent", "when")

    def __init__(self, owner: TimerOwner, key: Hashable, when: float, message: object, every: float | None) -> None:
        self.owner = owner
        self.key = key
        self.when = when
        self.message = message
        self.every = every
        self.live = True
        self.sent: SystemCall | None = None
        """The last message that it has sent."""

    @property
    def is_waiting(self) -> bool:
        """Whether its last message has not been handled yet."""
        return self.sent is not None and self.sent.state is PENDING


class TimerWheel:
    """All timers of a node."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        self._dead = 0
        self._wake = trio.Event()

    def __repr__(self) -> str:
        return f"<timer wheel: {len(self._heap) - self._dead} timers>"

    def start(self, timer: Timer) -> None:
        heapq.heappush(self._heap, (timer.when, next(self._numbers), timer))
        if self._heap[0][2] is timer:
            self._wake.set()

    def cancel(self, timer: Timer) -> None:
        """Cancel a timer."""
        # Its entry stays in the heap, where it would be kept until it is due: now and then all dead ones are removed.
        if timer.live:
            timer.live = False
            self._dead += 1
            if self._dead > 64 + len(self._heap) // 2:
                self._heap[:] = [entry for entry in self._heap if entry[2].live]
                heapq.heapify(self._heap)
                self._dead = 0

    async def run(self) -> None:
        """Fire timers when they are due, until cancelled."""
        heap = self._heap
        while True:
            now = trio.current_time()
            while heap and (heap[0][0] <= now or not heap[0][2].live):
                timer = heapq.heappop(heap)[2]
                if timer.live:
                    self._fire(timer, now)
                else:
                    self._dead -= 1
            self._wake = trio.Event()
            with trio.move_on_at(heap[0][0] if heap else float("inf")):
                await self._wake.wait()

    def _fire(self, timer: Timer, now: float) -> None:
        timer.owner.timer_fired(timer)
        if timer.every is None:
            timer.live = False
        else:
            # From the time it was due, not from now: a busy loop does not make the clock slow.
            timer.when += timer.every * max(1, int((now - timer.when) // timer.every) + 1)
            heapq.heappush(self._heap, (timer.when, next(self._numbers), timer))


class Expiries:
    """When asks time out.

    An ask costs no cancel scope and no timer of its own: those that end at about the same time share a bucket, at
    most a sixty-fourth of the timeout (or five milliseconds) late. Buckets are a power of two wide, so that timeouts of
    about the same length share them, and a moment is never rounded to one before it.
    """

    def __init__(self) -> None:
        self._buckets: dict[float, set[Reply]] = {}
        self._heap: list[float] = []
        self._wake = trio.Event()

    def add(self, reply: Reply, timeout: float, title: str, message: object) -> set[Reply]:
        """Fail a reply with `AskTimeout` after `timeout` seconds; return the set to discard it from once it came."""
        reply.about = (title, message, timeout)
        when = math.inf
        if timeout < math.inf:
            width = math.ldexp(0.5, math.frexp(max(timeout, 0.25) / 64)[1])
            when = math.ceil((trio.current_time() + timeout) / width) * width
        bucket = self._buckets.get(when)
        if bucket is None:
            bucket = self._buckets[when] = set()
            heapq.heappush(self._heap, when)
            if self._heap[0] == when:
                self._wake.set()
        bucket.add(reply)
        return bucket

    async def run(self) -> None:
        """Fail replies when they are due, until cancelled."""
        while True:
            now = trio.current_time()
            while self._heap and self._heap[0] <= now:
                for reply in self._buckets.pop(heapq.heappop(self._heap)):
                    reply.expire()
            self._wake = trio.Event()
            with trio.move_on_at(self._heap[0] if self._heap else math.inf):
                await self._wake.wait()


class Timers:
    """An actor's timers: `self.context.timers`."""

    __slots__ = ("_owner", "_sweep_at", "_timers", "_wheel")

    def __init__(self, owner: TimerOwner, wheel: TimerWheel) -> None:
        self._owner = owner
        self._wheel = wheel
        self._timers: dict[Hashable, Timer] = {}
        self._sweep_at = 64

    def __repr__(self) -> str:
        return (
            f"<timers of {self._owner.title!r}: {', '.join(repr(key) for key in self._timers if self.is_active(key))}>"
        )

    def start(self, key: Hashable, delay: Duration, message: object) -> None:
        """Send a message to the actor itself, once, `delay` from now; replaces the timer with the same key."""
        self._start(key, as_seconds(delay), message, None)

    def start_every(self, key: Hashable, seconds: Duration, message: object) -> None:
        """Send a message to the actor itself every `seconds`; replaces the timer with the same key.

        A tick that finds the one before it still waiting is left out.
        """
        every = as_seconds(seconds)
        if not is_number(every) or not every > 0:
            raise SettingsError(f"start_every wants seconds > 0, or {IN_WORDS}, got {seconds!r}")
        self._start(key, every, message, every)

    def _start(self, key: Hashable, delay: float, message: object, every: float | None) -> None:
        if not is_number(delay) or not 0 <= delay < float("inf"):
            raise SettingsError(f"a timer wants finite seconds >= 0, or {IN_WORDS}, got {delay!r}")
        check_thread("context.timers.start")
        self._owner.behaviour.check(message)
        self.cancel(key)
        timer = Timer(self._owner, key, trio.current_time() + delay, message, every)
        self._timers[key] = timer
        self._wheel.start(timer)
        if len(self._timers) > self._sweep_at:  # those that have fired, and whose messages were handled
            self._timers = {key: timer for key, timer in self._timers.items() if timer.live or timer.is_waiting}
            self._sweep_at = 64 + 2 * len(self._timers)

    def cancel(self, key: Hashable) -> bool:
        """Cancel a timer; return whether there was one. Its message is dropped if it has not been handled yet."""
        timer = self._timers.pop(key, None)
        if timer is None:
            return False
        was_live = timer.live
        self._wheel.cancel(timer)
        return (timer.is_waiting and self._owner.mailbox.drop(Queue.SELF, timer)) or was_live

    def cancel_all(self) -> None:
        for key in list(self._timers):
            self.cancel(key)

    def is_active(self, key: Hashable) -> bool:
        timer = self._timers.get(key)
        return timer is not None and timer.live
