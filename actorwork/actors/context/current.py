"""The context of the actor whose handler runs: for functions as actors, and for helpers far below a handler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

from actorwork.actors.wakeups import working
from actorwork.errors import NotRunning

if TYPE_CHECKING:
    from actorwork.actors.context.context import Context


class _Workplace(Protocol):
    instance: Any


class _Executor(Protocol):
    workplace: _Workplace


def current_context() -> Context:
    """Return the context of the actor whose handler runs: what a method of an actor has as `self.context`.

    Also in tasks and threads that the handler has started. Raises `NotRunning` elsewhere, as in a unit test that calls
    the function: `open_test_system` and `run_eagerly` run it as an actor.
    """
    # The executor is there anyway: to set a variable for each message would cost every handler something.
    worker = cast("_Executor | None", working.get())
    if worker is None:
        raise NotRunning(
            "current_context() belongs to a handler that runs in a system; in a test, run the function by `run_eagerly`"
            " or in `open_test_system`"
        )
    context: Context = worker.workplace.instance.context
    return context
