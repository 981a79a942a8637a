"""A child that is no actor: an async function which calls `task_status.started()` once it is up."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import trio

from actorwork.actors.tree.spec import label_of
from actorwork.policy.exits import Exit

if TYPE_CHECKING:
    from actorwork.actors.tree.spec import Child


class TaskMember:
    """A task under a supervisor; its own handle. `stop` cancels it: there is no other way to ask a task to end."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._scope = trio.CancelScope()
        self.value: Any = None
        """The value that the current incarnation passed to `task_status.started`."""

    def __repr__(self) -> str:
        return f"<task {self.label!r}>"

    @property
    def handle(self) -> TaskMember:
        return self

    @property
    def label(self) -> str:
        return label_of(self._child)

    async def live(self, started: Callable[[], None]) -> None:
        timeout = self._child.startup_timeout
        with trio.CancelScope() as self._scope, trio.move_on_after(timeout) as limit:
            status = _Status(self, limit, started)
            try:
                await self._child.factory(task_status=status)
            finally:
                status.end()
        if limit.cancelled_caught:
            raise trio.TooSlowError(f"it took longer than {timeout:g} s to start")

    def stop(self, deadline: float) -> None:
        self._scope.cancel(reason="stopped by its supervisor")

    def kill(self) -> None: ...

    def end(self, exit: Exit, reason: str) -> None: ...

    def reopen(self) -> None: ...


class _Status:
    """As Trio's task status. Our own, since `nursery.start` would run the start in the task that asked for it."""

    def __init__(self, member: TaskMember, limit: trio.CancelScope, started: Callable[[], None]) -> None:
        self._member = member
        self._limit = limit
        self._started = started
        self._has_ended = False

    def end(self) -> None:
        """Ignore what is reported from now on: the value is the next incarnation's."""
        self._has_ended = True

    def started(self, value: Any = None) -> None:
        if self._has_ended:
            return
        self._member.value = value
        self._limit.deadline = math.inf
        self._started()
