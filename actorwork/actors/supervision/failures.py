"""The errors of a supervisor: a child did not start, or could not be kept alive. The child's error is the cause."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actorwork.errors import MaxRestartsExceeded, StartError

if TYPE_CHECKING:
    from actorwork.actors.supervision.child_table import ChildRecord
    from actorwork.actors.tree.spec import DynamicSupervisor, Supervisor


def start_error(record: ChildRecord) -> StartError:
    """Return the error about a child that did not start."""
    error = record.last_exit.error
    failure = StartError(f"{record.spec.title!r} did not start: {_shown(error)}", child_id=record.spec.child_id)
    failure.__cause__ = error
    return failure


def gave_up(spec: Supervisor | DynamicSupervisor, record: ChildRecord, why: str) -> MaxRestartsExceeded:
    """Return the error about a child that its supervisor will not start again."""
    error = record.last_exit.error
    failure = MaxRestartsExceeded(
        f"{spec.title!r} gave up on {record.spec.title!r}: {why}; the last end: {_shown(error)}",
        child_id=record.spec.child_id,
        restarts=spec.intensity.restarts,
        period=spec.intensity.period,
    )
    failure.__cause__ = error
    return failure


def _shown(error: BaseException | None) -> str:
    return "it was stopped" if error is None else f"{type(error).__name__}: {error}"
