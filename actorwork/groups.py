"""Looks through exception groups: a nursery wraps even one error in a group, so every boundary has to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast


def is_group(error: BaseException | None) -> bool:
    return isinstance(error, BaseExceptionGroup)


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors inside (nested) groups; an error that is not a group yields itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[Any]", error).exceptions:
            yield from leaves(inner)
    else:
        yield error


def only_leaf(error: BaseException) -> BaseException:
    """Return the only error in a group; of several, the innermost group that holds them all.

    Cancellations do not count.
    """
    inner: BaseException = error
    while isinstance(inner, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", inner)
        found = [branch for branch in group.exceptions if any(not is_cancellation(leaf) for leaf in leaves(branch))]
        if len(found) != 1:
            return group
        inner = found[0]
    return inner


def is_cancellation(error: BaseException) -> bool:
    """Return whether an error is Trio's `Cancelled`."""
    # By name, since the pure decisions that ask this do not import the loop.
    return type(error).__name__ == "Cancelled" and type(error).__module__.partition(".")[0] == "trio"
