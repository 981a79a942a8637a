"""Which steps of a run are meant: by their names, their numbers, or the ids of their messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from actorwork.policy.runs.values import StepInfo


def to_retry(run: str, steps: Sequence[StepInfo], wanted: Iterable[str | int]) -> set[int]:
    """Return the numbers of the steps that a caller wants to run again.

    Of several steps of one name those that have not succeeded are meant. Raises `LookupError` for a step that there is
    not, `ValueError` for one that cannot be retried, or if none is given, and `TypeError` for what names no step.
    """
    if isinstance(wanted, str):
        wanted = [wanted]
    names = list(wanted)
    if not names:
        raise ValueError(
            "steps= is empty: expected the names of one or more steps; without it, all that failed run again"
        )
    chosen: set[int] = set()
    for name in names:
        found = _named(run, steps, name)
        failed = [step for step in found if can_retry(step)]
        if not failed:
            raise ValueError(f"run {run!r}: {_why_not(found[0], steps)}")
        chosen.update(step.number for step in failed)
    return chosen


def _named(run: str, steps: Sequence[StepInfo], name: object) -> list[StepInfo]:
    if isinstance(name, bool) or not isinstance(name, (str, int)):
        raise TypeError(f"expected the name of a step (str) or its number (int), got {name!r}")
    if isinstance(name, int):
        found = [step for step in steps if step.number == name]
    else:
        found = [step for step in steps if step.name == name] or [step for step in steps if step.message == name != ""]
    if not found:
        known = ", ".join(dict.fromkeys(repr(step.name) for step in steps[:20])) + (", ..." if len(steps) > 20 else "")
        raise LookupError(f"run {run!r} has no step {name!r}; it has {known or 'none'}")
    return found


def can_retry(step: StepInfo) -> bool:
    """Whether a step may be chosen: it has ended without success, and not because of another one."""
    return step.end is not None and step.end.kind != "done" and not step.end.is_caused


def _why_not(step: StepInfo, steps: Sequence[StepInfo]) -> str:
    if step.end is not None and step.end.is_caused:
        needed = [one for one in steps if one.number in step.needs]
        causes = ", ".join(repr(one.name) for one in needed if one.end is not None and one.end.kind != "done")
        reason = step.end.failure.reason if step.end.failure is not None else "cancelled"
        return f"step {step.name!r} was cancelled ({reason}), and runs again with what it needs; name {causes}"
    return f"step {step.name!r} has not failed ({step.status}); only steps that ended without success are retried"
