"""Closes the nurseries that a task has opened and would leave open at its end.

An actor's `startup` may open nurseries for `shutdown` to close (a client has one within). Where that does not happen
(`startup` fails half-way, there is no `shutdown`, or it takes too long), Trio would raise in the supervisor that runs
the actor, and if a task in the nursery lives on, end the whole process by a `TrioInternalError`.
"""

from __future__ import annotations

from typing import Any, cast

import trio

from actorwork.groups import is_cancellation, leaves
from actorwork.policy.exits import is_fatal


async def close_leftovers() -> RuntimeError | None:
    """Cancel all nurseries that the current task has open, wait for their tasks, and close them.

    Returns an error that says so, its cause the errors of their tasks; None if there were none.
    """
    task = trio.lowlevel.current_task()
    count, errors = 0, list[BaseException]()
    while task.child_nurseries:
        nursery = task.child_nurseries[-1]
        nursery.cancel_scope.cancel(reason="the actor that opened this nursery has ended")
        # Trio has no way to close a nursery without its context manager, which is the user's and may be out of reach.
        # So another one takes its place, by the two attributes that Trio's has.
        block = cast("Any", trio.open_nursery())
        attributes: dict[str, object] = block.__dict__
        attributes.update(_nursery=nursery, _scope=nursery.cancel_scope)
        count += 1
        try:
            await block.__aexit__(None, None, None)
        except BaseException as error:  # noqa: BLE001 - whatever its tasks have raised: all others are closed first
            # Cancellations reach this point where the actor itself was cancelled: it ends by that already.
            if any(not is_cancellation(leaf) for leaf in leaves(error)):
                errors.append(error)
    for error in errors:
        if is_fatal(error):
            raise error
    if not count:
        return None
    what = "a nursery" if count == 1 else f"{count} nurseries"
    left = RuntimeError(f"it left {what} open, of which the tasks were cancelled; close in shutdown what startup opens")
    left.__cause__ = errors[0] if len(errors) == 1 else BaseExceptionGroup("of their tasks", errors) if errors else None
    return left
