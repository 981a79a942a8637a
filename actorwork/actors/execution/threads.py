"""Handlers without async, each in a thread of its own while it runs.

A thread cannot be cancelled. Past its deadline it is abandoned, so that its delivery can end and the next one begin.
The watchdog then looks at it as at any handler that does not end, and it is reported until it does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from actorwork import events
from actorwork.actors.execution.watchdog import of_handler
from actorwork.message import Delivery
from actorwork.stacks import REPORT_EVERY, stack_of_thread

if TYPE_CHECKING:
    from actorwork.abc import EventSink
    from actorwork.actors.execution.watchdog import Watchdog
    from actorwork.actors.execution.workplace import ExecutorActor, Worker


async def run_in_thread(
    worker: Worker,
    actor: ExecutorActor,
    function: Callable[..., object],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> object:
    """Call a handler in a thread; if cancelled, the thread is abandoned, and reported while it runs on."""
    item, services = worker.item, actor.services
    what = item.id if isinstance(item, Delivery) else "several" if item is None else type(item.message).__name__
    thread = HandlerThread(partial(function, *args, **kwargs), (actor.settings.id, actor.label), what, services.emit)
    began = trio.current_time()
    try:
        return await trio.to_thread.run_sync(thread, abandon_on_cancel=True, limiter=services.threads)
    except trio.Cancelled:
        thread.abandon(services.watchdog, began, worker.timeout)
        raise


class HandlerThread:
    """One call of a handler in a thread."""

    __slots__ = ("_actor", "_emit", "_function", "_message", "_reported", "_thread", "_watchdog", "began", "timeout")

    def __init__(
        self, function: Callable[[], object], actor: tuple[str, str], message_id: str, emit: EventSink
    ) -> None:
        self._function = function
        self._actor = actor
        """Id and label."""
        self._message = message_id
        self._emit = emit
        self._thread: int | None = None
        """The number of the thread, while the handler runs in it."""
        self._watchdog: Watchdog | None = None
        self._reported = 0.0
        self.began: float | None = None
        self.timeout = 0.0

    def __repr__(self) -> str:
        return f"<thread of {self._actor[1]!r} with {self._message}>"

    @property
    def title(self) -> str:
        return self._actor[1]

    def __call__(self) -> object:
        self._thread = threading.get_ident()
        try:
            return self._function()
        finally:
            self._thread = None

    def abandon(self, watchdog: Watchdog, began: float, timeout: float) -> None:
        """Have the watchdog report it while it runs, from when its time is over."""
        if self._thread is not None:
            self.began, self.timeout, self._watchdog = began, timeout, watchdog
            watchdog.watch(self)

    def where(self, actor_id: str, message_id: str) -> str | None:
        thread = self._thread
        if thread is None or (self._actor[0], self._message) != (actor_id, message_id):
            return None
        return of_handler(stack_of_thread(thread))

    def overdue(self, now: float) -> None:
        thread, watchdog = self._thread, self._watchdog
        if watchdog is None or self.began is None:
            return
        if thread is None:
            watchdog.forget(self)
        elif now - self._reported >= REPORT_EVERY or watchdog.has_hung(self, self._reported, now):
            self._reported = now
            where = of_handler(stack_of_thread(thread))
            self._emit(
                events.Overdue(*self._actor, self._message, now - self.began, where, self.timeout, is_settled=True)
            )
