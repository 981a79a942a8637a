"""The errors of a supervisor: a child did not start, or could not be kept alive. The child's error is the cause."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actorwork.errors import MaxRestartsExceeded, Shutdown, StartError
from actorwork.policy.exits import Exit, Kind

if TYPE_CHECKING:
    from actorwork.actors.supervision.child_table import ChildRecord
    from actorwork.actors.tree.spec import DynamicSupervisor, Supervisor


def start_error(record: ChildRecord) -> StartError:
    """Return the error about a child that did not start."""
    # Without an error it was asked to end before it was up.
    error = record.last_exit.error or RuntimeError("it was cancelled before it was up")
    failure = StartError(
        f"{record.member.label!r} did not start: {type(error).__name__}: {error}", child_id=record.spec.child_id
    )
    failure.__cause__ = error
    return failure


def gave_up(spec: Supervisor | DynamicSupervisor, record: ChildRecord, why: str) -> MaxRestartsExceeded:
    """Return the error about a child that its supervisor will not start again."""
    error = record.last_exit.error
    failure = MaxRestartsExceeded(
        f"{spec.title!r} gave up on {record.member.label!r}: {why}; the last end: {_shown(record.last_exit)}",
        child_id=record.spec.child_id,
        restarts=spec.intensity.restarts,
        period=spec.intensity.period,
    )
    failure.__cause__ = error
    return failure


def _shown(ended: Exit) -> str:
    if ended.error is not None:
        return f"{type(ended.error).__name__}: {ended.error}"
    match ended.kind:
        case Kind.KILLED:
            return "it was cancelled by other code than its supervisor"
        case Kind.SHUTDOWN:
            return f"it ended by itself, with {Shutdown(ended.reason)!r}"
        case _:
            return "it ended by itself"
