"""Keeps the context variables that one message sets from the next.

An executor handles message after message in one task, and a task has one context. What a handler puts into a variable
(a tenant, a trace) would still be there for the next message, from any sender. So after each message the context is
compared with how it was before the first one, and replaced by a copy of that if it differs.

To run each message in a context of its own would cost as much as half of a local message, and would hide the frames of
handlers from the stacks of tasks. The comparison costs 45 ns; a message that did change something costs its executor
one turn of the loop.
"""

from __future__ import annotations

from contextvars import ContextVar, copy_context
from typing import Any

import trio

from actorwork.actors.context.in_flight import in_flight, inside
from actorwork.actors.wakeups import working


class Variables:
    """The context variables of an executor's task before it handles anything."""

    __slots__ = ("_base", "count", "values")

    def __init__(self) -> None:
        # From the first message on it is set, and then there is one variable more.
        in_flight.set(None)
        self._base = copy_context()
        self.count = len(self._base)
        ours: tuple[ContextVar[Any], ...] = (in_flight, inside, working)
        self.values = tuple((variable, value) for variable, value in self._base.items() if variable not in ours)
        """What others have set: by a handler that sets it again, the number of variables does not change."""

    def is_any_replaced(self) -> bool:
        """Return whether a variable that was set before has another value now."""
        # By identity: to compare them is their own code, which may raise.
        # And by a plain loop in a plain method, since a generator or a property would cost more, for each message.
        for variable, value in self.values:  # noqa: SIM110
            if variable.get(None) is not value:
                return True
        return False

    async def restore(self) -> None:
        """Give the current task the variables of the beginning."""
        trio.lowlevel.current_task().context = self._base.copy()
        # Trio enters a task's context with its next turn.
        await trio.lowlevel.cancel_shielded_checkpoint()
