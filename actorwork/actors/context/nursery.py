"""An incarnation's helper tasks: `self.context.nursery`.

Most actors have none, so the nursery is opened when the first helper is started, in a task of the system's own. It has
the face of a Trio nursery (`start_soon`, `start`, `cancel_scope`, `child_tasks`). The tasks end with the incarnation,
which waits for them; an error in one is the actor's crash. A task that a handler starts acts for the message in flight.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Any

import trio

from actorwork.actors.wakeups import check_thread
from actorwork.errors import NotRunning
from actorwork.groups import leaves
from actorwork.policy.settlement import decisive


class ActorNursery:
    """A nursery that is opened on demand and belongs to an incarnation."""

    def __init__(self, title: str, start_soon: Callable[..., None], failed: Callable[[BaseException], None]) -> None:
        self._title = title
        self._start_soon = start_soon
        self._failed = failed
        self._nursery: trio.Nursery | None = None
        self._waiting: list[Callable[[trio.Nursery], None]] = []
        self._opened: trio.Event | None = None
        self._ended = trio.Event()
        self._over = False
        self.cancel_scope = trio.CancelScope()
        """Cancelled when the incarnation ends; cancelling it ends the helpers, not the actor."""

    def __repr__(self) -> str:
        return f"<helpers of {self._title!r}: {len(self.child_tasks)} tasks>"

    @property
    def child_tasks(self) -> frozenset[trio.lowlevel.Task]:
        return self._nursery.child_tasks if self._nursery is not None else frozenset()

    def start_soon(self, function: Callable[..., Awaitable[object]], *args: Any, name: object = None) -> None:
        """Start a helper task; raises `NotRunning` once the incarnation has ended."""
        check_thread("context.nursery.start_soon")
        if self._over:
            raise NotRunning(f"{self._title!r}: the incarnation of this nursery has ended")
        context = copy_context()

        def start(nursery: trio.Nursery) -> None:
            context.run(nursery.start_soon, function, *args, name=name)

        if self._nursery is not None:
            start(self._nursery)
        else:
            self._waiting.append(start)
            self._open()

    async def start(self, function: Callable[..., Awaitable[object]], *args: Any, name: object = None) -> Any:
        """Start a helper task and wait for its `task_status.started`; as a nursery's `start`."""
        if self._over:
            raise NotRunning(f"{self._title!r}: the incarnation of this nursery has ended")
        self._open()
        if self._nursery is None and self._opened is not None:
            await self._opened.wait()
        if self._nursery is None:
            raise NotRunning(f"{self._title!r}: the incarnation of this nursery has ended")
        return await self._nursery.start(function, *args, name=name)

    def _open(self) -> None:
        if self._opened is None:
            self._opened = trio.Event()
            self._start_soon(self._host)

    async def _host(self) -> None:
        """Hold the nursery open until the incarnation ends."""
        try:
            with self.cancel_scope:
                async with trio.open_nursery() as self._nursery:
                    for start in self._waiting:
                        start(self._nursery)
                    self._waiting.clear()
                    if self._opened is not None:
                        self._opened.set()
                    await trio.sleep_forever()
        except BaseException as error:
            # A cancellation from outside ends this task, as it should; everything else is a crash of the actor.
            if all(isinstance(leaf, trio.Cancelled) for leaf in leaves(error)):
                raise
            self._failed(decisive(error))
        finally:
            self._nursery = None
            if self._opened is not None:
                self._opened.set()
            self._ended.set()

    async def end(self) -> None:
        """Cancel the helpers and wait for their end; a helper that shields itself is waited for."""
        self._over = True
        if self._opened is not None:
            self.cancel_scope.cancel(reason="the actor has ended")
            with trio.CancelScope(shield=True):  # a nursery would wait for its tasks, too
                await self._ended.wait()
